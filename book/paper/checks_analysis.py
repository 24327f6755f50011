"""The paper's claims from its section 4.3 to the appendix, each checked by the function of its name."""

from __future__ import annotations

import re

import pandas as pd

from editunlearn_lib.show.page import num

from .lookup import (
    BEST,
    CLOSE,
    EDITING,
    FAILS,
    IN_PART,
    MERGED,
    MODELS,
    SETTINGS,
    TRAINING,
    UNCHECKED,
    USABLE,
    frame,
    label,
    listed,
    named,
    result,
    spearman,
    where,
)
from .words import QUOTES

FOUR = ("gd", "dpo", "wise", "alphaedit")  # the methods of Figures 3 and 4

# ---------------------------------------------------------------------------------------------------------------------
# 4.3 Comprehensive analysis


def brackets(paper):
    forgotten, rephrased = paper.rouge("table5", n=40)["forget"], paper.rouge("table2")["rephrased"]
    rows = []
    for name, bracket in re.findall(r"(\w+) [\d.]+ \(([\d.]+)\)", QUOTES["brackets"]):
        after, before, bracket = rephrased[name.lower()], forgotten[name.lower()], float(bracket)
        rows.append((name, after, before, after - before, bracket, abs(after - before - bracket) <= 0.01 + 1e-9))
    values = frame("method | rephrased | forget | difference | bracket | agree", rows)
    distance = (values["difference"] - values["bracket"]).abs().max()
    return result(values["agree"], values, agree=values["agree"], distance=distance)


def all_lose(paper):
    rows, fell = paper.rephrased(), []
    lose = rows["change"] > 0.005  # Table 2 has two decimals
    for model in MODELS:
        rouge = paper.rouge("table4", model, "pistol")
        fell += [f"{label(m)} ({model})" for m, r in rouge.iterrows() if r["rephrased"] - r["forget"] < -0.05]
    changes, others = listed(rows.loc[lose, "change"]), label(rows.index[~lose])
    return result(lose, named(rows), lose=lose, changes=changes, others=others, fell=fell)


def most_robust(paper):
    rows = paper.rephrased()
    usable, lower = rows[rows["retain"] >= USABLE], rows[rows["rephrased"] < rows.loc["alphaedit", "rephrased"]]
    firsts = {"lowest": usable["rephrased"].idxmin() == "alphaedit", "least": usable["change"].idxmin() == "alphaedit"}
    return result(
        [lower.empty, *firsts.values()],
        named(rows),
        **rows.loc["alphaedit", ["rephrased", "change"]],
        **firsts,
        bound=USABLE,
        usable=label(usable.index),
        lower=[] if lower.empty else [listed(lower["rephrased"])],
    )


def four_best(paper):
    score = paper.rouge("table1")["score"]
    each = pd.concat([score[score.index.isin(group)].nlargest(2) for group in (TRAINING, EDITING)])
    score = score.sort_values(ascending=False)
    overall, two_each = (set(best.index) == set(FOUR) for best in (score.iloc[:4], each))
    words = {"four": listed(score.iloc[:4]), "each": listed(each)}
    return result([overall, two_each], named(score.to_frame()), **words, two_each=two_each, overall=overall)


def larger_is_better(paper):
    scores = paper.score_by_size(["gd", "dpo", *EDITING])
    change, sizes = scores.iloc[-1] - scores.iloc[0], pd.Series(scores.index)
    falls = {f"{m}_falls": int((scores[m].diff() < 0).sum()) for m in BEST}
    trend = {f"{m}_trend": spearman(sizes, scores[m].reset_index(drop=True)) for m in BEST}
    return result(
        [*(change[m] > 0 for m in BEST), *(n == 0 for n in falls.values())],
        named(scores.T),
        **falls,
        **trend,
        largest=scores.index[-1],
        smallest=scores.index[0],
        changes=listed(change),
        steps=len(scores) - 1,
        most=label(change.idxmax()),
        lose=label(m for m in EDITING if change[m] < 0),
    )


def order_of_four(paper):
    scores = paper.score_by_size(["alphaedit", "gd", "wise", "dpo"])
    mean, first = scores.mean().sort_values(ascending=False), scores.idxmax(axis=1)
    others = ", ".join(f"{n}: {label(m)}" for n, m in first.items() if m != "alphaedit")
    parts = [mean.index[0] == "alphaedit", list(mean.index[1:3]) == ["gd", "wise"], mean.index[-1] == "dpo"]
    words = {"sizes": len(scores), "means": listed(mean), "first": first == "alphaedit"}
    return result(parts, named(scores.T), **words, others=[others] if others else [])


def close_to_one(paper):
    rows, key = [], ["table", "dataset", "model", "n_forget", "merge", "stage"]
    for table, dataset, model, n, merge, stage in paper.tables[key].drop_duplicates().itertuples(index=False):
        rouge = paper.rouge(table, model, dataset, n=n, merge=merge, stage=stage)
        twice = (table == "table5" and n == 40) or (table == "table6" and stage == "vanilla")  # runs of other tables
        if "score" not in rouge or model not in MODELS or twice:
            continue
        little = paper.before(model, dataset) - CLOSE
        for m, r in rouge[(rouge["score"] - 1).abs() <= CLOSE + 1e-9].iterrows():
            kind = "forgot next to nothing" if r["forget"] >= little else "neither"
            kind = "non-usable" if r["retain"] < USABLE else kind
            rows.append((table, f"{where(dataset, model)}, {n}", label(m), r["forget"], r["retain"], r["score"], kind))
    values = frame("table | setting | method | forget | retain | score | what it is", rows)
    kinds, neither = values["what it is"].value_counts(), values[values["what it is"] == "neither"]
    return result(
        [neither.empty, len(neither) < len(values)],
        (neither if len(neither) else values).reset_index(drop=True),
        close=CLOSE,
        n=len(values),
        kinds=[f"{kind}: {n}" for kind, n in kinds.items()],
        usable=USABLE,
    )


def best_editing(paper):
    rows = []
    for dataset, model in SETTINGS:
        score = paper.rouge("table1", model, dataset)["score"]
        score = score[score.index.isin(EDITING)].sort_values(ascending=False)
        two = score.index[:2]
        rows.append((where(dataset, model), listed(score), label(two), set(two) == set(BEST)))
    values = frame("setting | editing methods by score | first two | as said", rows)
    return result(values["as said"], values, right=values["as said"])


def beat_all_on_facts(paper):
    rows = []
    for table, model in (("table1", "Llama2-7B"), ("table1", "Mistral-7B"), ("table3", "Llama3.1-8B")):
        score = paper.rouge(table, model)["score"]
        train = score[score.index.isin(TRAINING)].sort_values(ascending=False)
        best = f"{label(train.idxmax())} {num(train.max())}"
        for m in BEST:
            better = train.index[train >= score[m]]
            rows.append((model, label(m), score[m], best, label(better), better.empty))
    values = frame("model | method | score | best unlearning | unlearning methods not beaten | as said", rows)
    right = values["as said"].groupby(values["model"], sort=False).all()
    models = {"right": right.index[right].tolist(), "wrong": right.index[~right].tolist()}
    return result(values["as said"], values, **models, against=values[~values["as said"]])


def finetuned(paper):
    rows = []
    for table, n, model in [("table1", 20, m) for m in MODELS] + [("table4", 40, m) for m in MODELS]:
        score = paper.rouge(table, model, "pistol")["score"]
        for a, b in (("wise", "dpo"), ("wise", "kl"), ("alphaedit", "dpo")):
            setting, pair = f"{model}, {n}", f"{label(a)} over {label(b)}"
            rows.append((table, setting, pair, score[a], score[b], score[a] > score[b]))
    values = frame("table | setting | claim | first | second | as said", rows)
    one, four = values[values["table"] == "table1"], values[values["table"] == "table4"]
    words = {"right": one["as said"], "right_four": four["as said"]}
    return result(one["as said"], values, **words, against=one[~one["as said"]])


def radar_lead(paper):
    rows = paper.rephrased().loc[list(FOUR)].drop(columns="change")
    best = {
        "forget": rows["forget"].idxmin(),
        "retain": rows["retain"].idxmax(),
        "rephrased": rows["rephrased"].idxmin(),
    }
    leads = frame("set | method | value", ((s, label(m), rows.loc[m, s]) for s, m in best.items()))
    leads["behind"] = [[] if m == "alphaedit" else [rows.loc["alphaedit", s]] for s, m in best.items()]
    ours = pd.Series(best) == "alphaedit"
    return result(ours, named(rows), leads=leads, ours=ours)


def wise_like_gd(paper):
    rows = paper.rephrased()
    pairs = [
        (s, b, rows.loc["wise", s], rows.loc[b, s]) for s in ("forget", "rephrased", "retain") for b in ("gd", "dpo")
    ]
    values = frame("beside | set | WISE | other | difference", ((label(b), s, v, w, v - w) for s, b, v, w in pairs))
    stays = values["set"] == "retain"
    distances, more = values[~stays]["difference"].abs(), values[stays]["difference"]
    parts = [*(distances <= CLOSE + 1e-9), *(more > CLOSE)]
    return result(parts, values, close=CLOSE, distances=distances, more=more)


# ---------------------------------------------------------------------------------------------------------------------
# 4.4 Improving


def participants(paper):
    people, *shares = (int(v) for v in re.findall(r"\d+", QUOTES["participants"]))
    each = [people * share / 100 for share in shares]
    whole = all(v == int(v) for v in each) and sum(shares) == 100
    words = {"women": shares[0], "men": shares[1], "people": people, "n_women": each[0], "n_men": each[1]}
    return result(UNCHECKED, pd.DataFrame({"share, %": shares, "people": each}), **words, whole=whole)


def self_improved(paper):
    a, b = (paper.rouge("table6", stage=stage) for stage in ("vanilla", "self-improved"))
    change = (b - a).round(4)
    when = {"before": a, "after": b, "change": change}
    values = {f"{s}; {w}": when[w][s] for s in ("forget", "retain", "rephrased", "score") for w in when}
    rephrased, score = change["rephrased"], change["score"]
    return result(
        (rephrased[m] < 0 for m in BEST),
        named(pd.DataFrame(values)),
        changes=listed(rephrased),
        same=label(change.index[rephrased == 0]),
        worse=label(change.index[rephrased > 0]),
        fewer=score < 0,
        scores=listed(score),
        before=a.loc["wise", "forget"],
        after=b.loc["wise", "forget"],
    )


def editing_length(paper):
    retain = pd.DataFrame({n: rouge.loc[list(MERGED), "retain"] for n, rouge in paper.sizes().items()})
    rank = paper.rouge("table1")["score"].rank(ascending=False)
    falls = [r.iloc[0] > r.iloc[-1] and r.iloc[1:].max() < USABLE for _, r in retain.iterrows()]
    return result(
        IN_PART if all(falls) else FAILS,
        named(retain),
        **{f"rank_{m}": rank[m] for m in MERGED},
        **{m: retain.loc[m] for m in MERGED},
        of=len(rank),
        sizes=list(retain),
        shortest=retain.columns[0],
        before=paper.before("Llama2-7B"),
    )


def peak(paper):
    rows, n = paper.merging(), paper.merge_size()
    best = rows.loc[rows.groupby("method", sort=False)["score"].idxmax()].set_index("method")["m"]
    m, samples = (int(v) for v in re.findall(r"\d+", QUOTES["peak"])[::2])
    values = named(rows.pivot(index="method", columns="m", values="score")).rename(columns=str)
    return result([*(best == m), n / m == samples], values, **best, n=n, m=m, edits=n / m)


def peak_scores(paper):
    score, rows = paper.merging().set_index(["method", "m"])["score"], []
    for m in MERGED:
        text = paper.score_in_text(m)
        equal = [int(k) for k, v in score[m].items() if abs(v - text) < 5e-4]
        rows.append((label(m), text, score[m, 5], ", ".join(map(str, equal)) or "none", 5 in equal))
    values = frame("method | in the text | at m = 5, from Table 7 | text equals the score at m = | agree", rows)
    return result(values["agree"], values, scores=values)


def peak_beside_others(paper):
    n, best = paper.merge_size(), paper.merging().groupby("method")["score"].max()
    score = paper.rouge("table5", n=n)["score"][["alphaedit", "dpo", "gd"]]
    text = {m: paper.score_in_text(m) for m in score.index}
    values = frame(
        "method | in the text | from Table 5 | agree",
        ((label(m), text[m], v, abs(v - text[m]) < 5e-4) for m, v in score.items()),
    )
    away = (best - score["alphaedit"]).abs()
    return result(
        [*values["agree"], *(away <= CLOSE), *(best > score["dpo"]), *(best > score["gd"])],
        values,
        **away,
        **{f"{m}_more": v for m, v in (best - score["gd"]).items()},
        n=n,
        others=listed(score),
        above=best["memit"] > score["alphaedit"],
    )


def merging_boosts(paper):
    rows = paper.merging()
    alone = rows[rows["m"] == 1].set_index("method")["score"]
    rest = rows[rows["m"] > 1].set_index(["method", "m"])["score"]
    best = rest.groupby("method").max()
    more = best - alone
    return result(
        more > CLOSE,
        rows.assign(method=rows["method"].map(label)).reset_index(drop=True),
        **best,
        **{f"{m}_more": v for m, v in more.items()},
        alone=listed(alone[list(MERGED)]),
        close=CLOSE,
        none=[f"{label(m)} at m = {k}" for (m, k), v in rest.items() if v - alone[m] <= CLOSE],
    )


def merging_trade_off(paper):
    merged, sets = paper.merging().query("m > 1"), ("forget", "rephrased", "retain")
    by_method = merged.groupby("method", sort=False)
    rows = ((label(m), *(spearman(part["m"], part[s]) for s in sets)) for m, part in by_method)
    values = frame("method | forget with m | rephrased with m | retain with m", rows)
    forget, retain = values["forget with m"], values["retain with m"]
    return result([*(forget > 0), *(retain > 0)], values, n=merged["m"].nunique(), retain=retain, forget=forget)


# ---------------------------------------------------------------------------------------------------------------------
# Appendix


def tables_agree(paper):
    one, five, six = (paper.tables[paper.tables["table"] == table] for table in ("table1", "table5", "table6"))
    one, six = one[(one["dataset"] == "factual") & (one["model"] == "Llama2-7B")], six[six["stage"] == "vanilla"]
    rows = []
    for name, left, n, tolerance in (
        ("Table 5 at 40 rounds to Table 1 (facts, Llama2-7B)", one, 40, 0.005),
        ("Table 6 before self-improvement is Table 5 at 20", six, 20, 0),
    ):
        both = left.merge(five[five["n_forget"] == n], on=["method", "set", "metric"])
        distance = (both["value_x"] - both["value_y"]).abs().max()
        rows.append((name, len(both), distance, distance <= tolerance + 1e-9))
    values = frame("what | values | largest distance | agree", rows)
    return result(values["agree"], values, pairs=values)
