"""The paper's claims from the abstract to its section 4.2, each checked by the function of its name."""

from __future__ import annotations

import pandas as pd

from editunlearn_lib.show.page import num

from .lookup import (
    BEST,
    EDITING,
    FAILS,
    HOLDS,
    IN_PART,
    KNOWLEDGE,
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
    verdict,
    where,
)

# ---------------------------------------------------------------------------------------------------------------------
# Abstract, introduction, method


def effective_baselines(paper):
    rows = []
    for table, dataset, model in [("table1", *s) for s in SETTINGS] + [("table3", "factual", "Llama3.1-8B")]:
        score = paper.rouge(table, model, dataset)["score"]
        rank, n = score.rank(ascending=False, method="min"), len(score)
        rows += [(where(dataset, model), label(m), score[m], int(rank[m]), n, rank[m] <= n / 2) for m in BEST]
    values = frame("setting | method | score | rank | of | better half", rows)
    on_facts = values["setting"].str.startswith("facts")
    facts, pistol, share = values[on_facts], values[~on_facts], values["rank"] / values["of"]
    ranks = {"rank_facts": share[on_facts].mean(), "rank_pistol": share[~on_facts].mean()}
    good = {"facts": facts["better half"], "pistol": pistol["better half"]}
    parts = [facts["better half"].all(), ranks["rank_facts"] < ranks["rank_pistol"]]
    return result(parts, values, **good, **ranks, lowest=facts["score"].min())


def merging_beats_all(paper):
    n, best = paper.merge_size(), paper.best_merged()
    alone = paper.rouge("table5", n=n)["score"]
    rivals, absent = [m for m in TRAINING if m in alone], [m for m in TRAINING if m not in alone]
    winners = [m for m in MERGED if best.loc[m, "score"] > alone[rivals].max()]
    rows = [(f"{label(m)}, m = {best.loc[m, 'm']}", best.loc[m, "score"]) for m in MERGED]
    overall = verdict(m in winners for m in MERGED)
    return result(
        IN_PART if overall == HOLDS and absent else overall,
        frame("method | score", [*rows, *((label(m), alone[m]) for m in rivals)]),
        **best["score"],
        n=n,
        rivals=listed(alone[rivals]),
        winners=label(winners),
        several=len(winners) > 1,
        absent=[label(absent)] if absent else [],
    )


def obvious_advantage(paper):
    n, best = paper.merge_size(), paper.best_merged()["score"]
    alone, rows = paper.rouge("table5", n=n), []
    for a, b in ((a, b) for a in MERGED for b in ("gd", "dpo")):
        forget, advantage = alone.loc[b, "forget"], best[a] - alone.loc[b, "score"]
        error = (forget * (1 - forget) / n) ** 0.5
        rows.append((label(a), label(b), advantage, error, advantage > 2 * error))
    values = frame("merged | baseline | advantage | standard error, at most | beyond two", rows)
    gd, dpo = (values[values["baseline"] == label(m)]["advantage"] for m in ("gd", "dpo"))
    return result(values["beyond two"], values, n=n, gd=gd, dpo=dpo, beyond=values["beyond two"])


# ---------------------------------------------------------------------------------------------------------------------
# 4.1 Settings


def sizes_of_the_data(paper):
    largest = paper.tables.groupby("dataset")["n_forget"].max()
    values = largest.rename(KNOWLEDGE).rename_axis("data").rename("largest forget set").reset_index()
    return result(UNCHECKED, values, facts=largest["factual"], contracts=largest["pistol"])


def probability_is_a_product(paper):
    key = ["table", "dataset", "model", "method", "n_forget", "merge", "stage", "set"]
    wide = paper.tables.pivot(index=key, columns="metric", values="value").dropna().reset_index()
    above = wide["probability"] > wide["mrr"] + 0.01
    apart = wide.pivot(index=key[:-1], columns="set", values=["probability", "rouge1_recall"])
    apart = {m: (apart[m]["retain"] - apart[m]["forget"]).abs().mean() for m in ("probability", "rouge1_recall")}
    dead = wide[(wide["hit_rate"] == 0) & (wide["set"] == "forget")]["probability"]
    worst = wide.assign(excess=wide["probability"] - wide["mrr"])[above].sort_values("excess", ascending=False).head(6)
    worst = worst[["table", "model", "method", "set", "probability", "mrr", "hit_rate"]]
    return result(
        FAILS if above.mean() > 0.5 else IN_PART if above.any() else HOLDS,
        worst.assign(method=worst["method"].map(label)),
        above=above,
        dead=len(dead),
        lowest=dead.min(),
        highest=dead.max(),
        apart=apart["probability"],
        rouge_apart=apart["rouge1_recall"],
    )


def wise_keeps_all_three(paper):
    """Where rephrased questions were asked."""
    rows = []
    for tables, dataset, model in (
        (["table1", "table2"], "factual", "Llama2-7B"),
        *((["table4"], "pistol", model) for model in MODELS),
    ):
        rouge = pd.concat([paper.rouge(table, model, dataset).loc["wise"] for table in tables])
        forget, rephrased, retain = rouge[["forget", "rephrased", "retain"]]
        half = paper.before(model, dataset) / 2
        met = sum([forget <= half, rephrased <= half, retain >= half])
        rows.append((where(dataset, model), forget, rephrased, retain, half, met))
    values = frame("setting | forget | rephrased | retain | half of before | aims met", rows)
    return result(values["aims met"] == 3, values, three=values["aims met"] == 3, aims=values)


def alphaedit_long_sequences(paper):
    retain = pd.DataFrame({n: rouge["retain"] for n, rouge in paper.sizes().items()})
    ours, memit, half = retain.loc["alphaedit"], retain.loc["memit"], paper.before("Llama2-7B") / 2
    contracts = frame("model | before | after", ((m, *_longer(paper, m)) for m in MODELS))
    rows = [(f"facts, Llama2-7B, {n}", ours[n], memit[n]) for n in retain]
    for model, before, after in contracts.itertuples(index=False):
        rows += [(f"PISTOL, {model}, 20", before, None), (f"PISTOL, {model}, 40", after, None)]
    parts = [(ours >= half).all() and (ours > memit).all(), *(contracts["after"] >= 0.5)]
    values = frame("setting | AlphaEdit retain | MEMIT retain", rows)
    return result(parts, values, retain=ours, sizes=list(retain), half=half, memit=memit, contracts=contracts)


def _longer(paper, model: str) -> list[float]:
    """What AlphaEdit retains with 20 and with 40 contract questions forgotten."""
    return [paper.rouge(table, model, "pistol").loc["alphaedit", "retain"] for table in ("table1", "table4")]


# ---------------------------------------------------------------------------------------------------------------------
# 4.2 General performance


def what_is_compared(paper):
    cells = paper.tables[paper.tables["table"] == "table1"][["dataset", "model", "method"]].drop_duplicates()
    counts, methods = cells.groupby(["dataset", "model"]).size(), set(cells["method"])
    training, editing, of = len(methods & set(TRAINING)), len(methods & set(EDITING)), len(counts) * len(methods)
    absent = [where(d, m) for d, m in counts.index if counts[d, m] < len(methods)]
    return result(
        [training == 4, editing == 5, len(counts) == 4, len(cells) == of],
        counts.rename("methods").reset_index().replace({"dataset": KNOWLEDGE}),
        training=training,
        editing=editing,
        settings=len(counts),
        cells=len(cells),
        of=of,
        absent=["; ".join(absent)] if absent else [],
    )


def before_facts(paper):
    facts = paper.tables[(paper.tables["dataset"] == "factual") & (paper.tables["metric"] == "rouge1_recall")]
    facts, rows = facts[facts["set"].isin(["forget", "retain"])], []
    for model in MODELS:
        top = facts.loc[facts[facts["model"] == model]["value"].idxmax()]
        rows.append((model, paper.before(model), top["value"], label(top["method"]), top["set"], top["table"]))
    values = frame("model | before, in the text | highest after | method | set | table", rows)
    grace = [paper.rouge("table1", model).loc["grace", "retain"] for model in MODELS]
    return result(UNCHECKED, values, grace=grace, higher=values)


def before_contracts(paper):
    grace = {
        (table, model): paper.rouge(table, model, "pistol").loc["grace"]
        for table in ("table1", "table4")
        for model in MODELS
    }
    values = frame(
        "table | model | GRACE forget | GRACE retain", ((*k, r["forget"], r["retain"]) for k, r in grace.items())
    )
    lowest = values[["GRACE forget", "GRACE retain"]].min().min()
    return result(UNCHECKED, values, lowest=lowest, settings=len(values))


def collapse(paper):
    values = pd.DataFrame({where(d, m): paper.rouge("table1", m, d)["retain"] for d, m in SETTINGS})
    broken, four = values < USABLE, ["ga", "kl", "rome", "memit"]
    others = [m for m in values.index if broken.loc[m].any() and m not in four]

    def places(methods, there):
        return [f"{label(m)} on {s} ({num(values.loc[m, s])})" for m in methods for s in values if there.loc[m, s]]

    spared = places(four, values >= USABLE)
    counts = [{"method": label(m), "broken": broken.loc[m][values.loc[m].notna()]} for m in four]
    parts = [*(broken.loc[m].any() for m in four), not others, not spared]
    return result(parts, named(values), usable=USABLE, counts=counts, spared=spared, others=places(others, broken))


def consistent(paper):
    rows = []
    for dataset, model in SETTINGS:
        rouge, half = paper.rouge("table1", model, dataset), paper.before(model, dataset) / 2
        for m in BEST:
            forget, retain, score = rouge.loc[m, ["forget", "retain", "score"]]
            both = forget <= half and retain >= half
            rows.append((where(dataset, model), label(m), forget, retain, half, score, both))
    values = frame("setting | method | forget | retain | half of before | score | both", rows)
    return result(values["both"], values, good=values["both"], bad=values[~values["both"]])


def damage(paper):
    rows = []
    for model in MODELS:
        before = paper.before(model)
        for m, r in paper.rouge("table4", model, "pistol").iterrows():
            rows.append((model, label(m), r["retain"], r["factual"], before, r["factual"] < before / 2))
    values = frame("model | method | retain | facts | facts before | half lost", rows)
    lost = values[values["half lost"]].groupby("model", sort=False)["method"].agg(", ".join).reset_index()
    spared = values[(values["retain"] < USABLE) & (values["facts"] > values["facts before"] / 2)]
    return result(HOLDS if len(lost) else FAILS, values, lost=lost, half_lost=values["half lost"], spared=spared)


def top_two(paper):
    claimed = {"factual": {"gd", "dpo", "grace", "wise"}, "pistol": {"ga", "gd", "kl", "dpo", "wise"}}
    rows, places, both, near = [], [], {d: set() for d in claimed}, {d: set() for d in claimed}
    for dataset, model in SETTINGS:
        rouge = paper.rouge("table1", model, dataset)
        forget = rouge["forget"].rank(method="min") <= 2
        retain = rouge["retain"].rank(method="min", ascending=False) <= 2
        both[dataset] |= set(rouge.index[forget & retain])
        if dataset == "factual":
            places.append(f"{rouge['forget'].rank(method='max')['grace']:g} of {len(rouge)}")
        for group in (TRAINING, EDITING):
            part = rouge.loc[rouge.index.isin(group), "retain"]
            near[dataset] |= set(part.index[part.rank(method="min", ascending=False) <= 2])
        best = (label(rouge.index[one]) for one in (forget, retain, forget & retain))
        rows.append((where(dataset, model), *best))
    near = {f"near_{d}": label(m for m in (*TRAINING, *EDITING) if m in near[d]) for d in near}
    words = {d: label(sorted(both[d])) for d in both} | near
    values = frame("setting | top 2 on forget | top 2 on retain | both", rows)
    return result((both[d] == claimed[d] for d in claimed), values, **words, places=places)


def families(paper):
    rows = []
    for dataset, model in SETTINGS:
        score = paper.rouge("table1", model, dataset)["score"]
        edit, train = (score[score.index.isin(group)] for group in (EDITING, TRAINING))
        best = [f"{label(part.idxmax())} {num(part.max())}" for part in (edit, train)]
        winner, ours = ("editing" if edit.max() > train.max() else "unlearning"), KNOWLEDGE[dataset] == "facts"
        rows.append((where(dataset, model), *best, edit.mean(), train.mean(), winner, (winner == "editing") == ours))
    columns = "setting | best editing | best unlearning | mean editing | mean unlearning | better at its best | as said"
    values = frame(columns, rows)
    by_mean = (values["mean editing"] > values["mean unlearning"]) == values["setting"].str.startswith("facts")
    right = values["as said"]
    return result(right, values, right=right, by_mean=by_mean.sum(), against=values[~right])
