"""What the paper's text says in numbers, worked out again from the paper's own tables.

A claim is a quotation and a function of `paper_tables()` and `paper_text()` that gives a verdict, the arithmetic in
words and the values that enter. Nothing is typed: numbers in quotation marks are the paper's words, all others are
computed. Where a claim uses a word without a number ("robust", "close to"), our rule for it stands in the arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd
import plotly.graph_objects as go

from .paper import paper_tables, paper_text
from .show import Html, Table, page, style
from .show.page import num
from .show.tables import columns_of

HOLDS, IN_PART, FAILS, UNCHECKED = "holds", "holds in part", "does not hold", "cannot be checked"
VERDICTS = {  # the bar beside the word: colour and line, as the outcomes of outputs have them
    HOLDS: "#009e73 solid",
    IN_PART: "#e69f00 double",
    FAILS: "#cc79a7 dotted",
    UNCHECKED: "#808080 dashed",
}
TRAINING, EDITING = ("ga", "gd", "kl", "dpo"), ("rome", "memit", "grace", "wise", "alphaedit")
USABLE = 0.1  # our rule: below this ROUGE-1 recall on the retain set a model is of no use
CLOSE = 0.1  # our rule for "close", "similar" and "near"
SETTINGS = (("factual", "Llama2-7B"), ("factual", "Mistral-7B"), ("pistol", "Llama2-7B"), ("pistol", "Mistral-7B"))
KNOWLEDGE = {"factual": "facts", "pistol": "PISTOL"}


@dataclass(frozen=True)
class Checked:
    """What came out: one of `VERDICTS`, the arithmetic in words, and the values that entered."""

    verdict: str
    arithmetic: str
    values: pd.DataFrame


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper (`quote`, … where words are left out), its section, and how it is checked."""

    id: str
    section: str
    quote: str
    check: Callable[[pd.DataFrame, pd.DataFrame], Checked]


def claim(section: str, quote: str) -> Callable[[Callable], Claim]:
    """Make a claim of the function that checks it; its id is the function's name."""
    return lambda check: Claim(check.__name__.replace("_", "-"), section, quote, check)


def check_all(
    tables: pd.DataFrame | None = None, text: pd.DataFrame | None = None, claims: Sequence[Claim] | None = None
) -> list[tuple[Claim, Checked]]:
    """Every claim (or these) with its result, in the paper's order; other tables than the paper's may be given."""
    tables = paper_tables() if tables is None else tables
    text = paper_text() if text is None else text
    return [(c, c.check(tables, text)) for c in (CLAIMS if claims is None else claims)]


# ---------------------------------------------------------------------------------------------------------------------
# Looking things up


def rouge(
    tables: pd.DataFrame,
    table: str,
    model: str = "Llama2-7B",
    dataset: str = "factual",
    *,
    n: int | None = None,
    merge: int = 1,
    stage: str = "vanilla",
) -> pd.DataFrame:
    """ROUGE-1 recall: one row per method, one column per set, and ``score`` where forget and retain are there."""
    rows = tables[
        (tables["table"] == table)
        & (tables["model"] == model)
        & (tables["dataset"] == dataset)
        & (tables["merge"] == merge)
        & (tables["stage"] == stage)
        & (tables["metric"] == "rouge1_recall")
    ]
    rows = rows if n is None else rows[rows["n_forget"] == n]
    wide = rows.pivot(index="method", columns="set", values="value")
    wide = wide.reindex([m for m in (*TRAINING, *EDITING) if m in wide.index])
    if {"forget", "retain"} <= set(wide):
        wide["score"] = (1 - wide["forget"] + wide["retain"]).round(4)
    return wide


def before(text: pd.DataFrame, dataset: str, model: str) -> float:
    """ROUGE-1 recall before unlearning, as the text has it."""
    rows = text[(text["what"] == "before unlearning") & (text["dataset"] == dataset) & (text["model"] == model)]
    return float(rows["value"].item())


def stated(text: pd.DataFrame, method: str) -> float:
    """A score that stands in Obs6."""
    return float(text[(text["metric"] == "score") & (text["method"] == method)]["value"].item())


def label(methods: str | Sequence[str]) -> str:
    """Names of methods as people write them."""
    names = [style(m).label for m in ([methods] if isinstance(methods, str) else methods)]
    return ", ".join(names) if names else "none"


def where(dataset: str, model: str) -> str:
    return f"{KNOWLEDGE[dataset]}, {model}"


def verdict(parts: Sequence[bool]) -> str:
    """All, some or none of the parts of a claim are true."""
    return HOLDS if all(parts) else IN_PART if any(parts) else FAILS


def spearman(a: pd.Series, b: pd.Series) -> float:
    """Spearman's rank correlation; ties share their mean rank."""
    return float(a.rank().corr(b.rank()))


def listed(series: pd.Series) -> str:
    """``GA 0.00, GD 0.30``"""
    return ", ".join(f"{style(m).label} {num(v)}" for m, v in series.items())


def yes(truth: bool) -> str:
    return "yes" if truth else "no"


def named(frame: pd.DataFrame, first: str = "method") -> pd.DataFrame:
    """The index as a column of names, for a table that is shown."""
    return frame.rename(index=label).rename_axis(first).rename_axis(columns=None).reset_index()


def fig3(tables: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Scores over the size of the forget set (Table 5): one row per size, one column per method."""
    sizes = sorted(tables[tables["table"] == "table5"]["n_forget"].unique())
    found = pd.DataFrame({int(n): rouge(tables, "table5", n=n)["score"] for n in sizes}).T
    return found.reindex(columns=list(methods)).rename_axis("n_forget")


def merging(tables: pd.DataFrame) -> pd.DataFrame:
    """ROUGE-1 and score by method and m, eighty facts; m = 1 is Table 5, the others are Table 7."""
    n = int(tables[tables["table"] == "table7"]["n_forget"].iloc[0])
    merges = sorted(tables[tables["table"] == "table7"]["merge"].unique())
    parts = {1: rouge(tables, "table5", n=n).loc[["rome", "memit"]]}
    parts |= {int(m): rouge(tables, "table7", merge=m) for m in merges}
    return pd.concat(parts, names=["m"]).reset_index().sort_values(["method", "m"], ascending=[False, True])


# ---------------------------------------------------------------------------------------------------------------------
# Abstract, introduction, method


@claim(
    "Abstract",
    "certain editing methods, notably WISE and AlphaEdit, are effective unlearning baselines, especially for pretrained knowledge",
)
def effective_baselines(tables, text):
    rows = []
    for table, dataset, model in [("table1", *s) for s in SETTINGS] + [("table3", "factual", "Llama3.1-8B")]:
        score = rouge(tables, table, model, dataset)["score"]
        rank = score.rank(ascending=False, method="min")
        rows += [
            {
                "setting": where(dataset, model),
                "method": label(m),
                "score": score[m],
                "rank": int(rank[m]),
                "of": len(score),
                "better half": yes(rank[m] <= len(score) / 2),
                "dataset": dataset,
            }
            for m in ("wise", "alphaedit")
        ]
    values = pd.DataFrame(rows)
    share = (values["rank"] / values["of"]).groupby(values["dataset"]).mean()
    good = values["better half"].eq("yes").groupby(values["dataset"]).agg(["sum", "size"])
    return Checked(
        verdict([bool(good.loc["factual"].eq(good.loc["factual", "size"]).all()), share["factual"] < share["pistol"]]),
        f"Our rule for effective: in the better half of all methods by score. On facts this is so in {good.loc['factual', 'sum']} "
        f"of {good.loc['factual', 'size']} cases (two methods, three models), on PISTOL in {good.loc['pistol', 'sum']} of "
        f"{good.loc['pistol', 'size']}. Rank ÷ number of methods, averaged (small is good): {num(share['factual'])} on facts, "
        f"{num(share['pistol'])} on PISTOL. Effective may still be little: the lowest of these scores on facts is "
        f"{num(values[values['dataset'] == 'factual']['score'].min())}, where 1 is nothing or everything forgotten.",
        values.drop(columns="dataset"),
    )


@claim("1, takeaways", "some editing methods (i.e., WISE) have a dominant advantage on human value alignment")
def human_alignment(tables, text):
    return Checked(
        UNCHECKED,
        "The ratings are shown in Figure 6 only; no table and no sentence prints one of them, and a picture has no numbers to "
        "work with. ROUGE-1 recall, which the tables do print, cannot tell a polite refusal from noise.",
        pd.DataFrame(),
    )


@claim(
    "1, takeaways",
    "enable ROME and MEMIT to do unlearning well under long sequences, surpassing all the unlearning baselines",
)
def merging_beats_all(tables, text):
    n = int(tables[tables["table"] == "table7"]["n_forget"].iloc[0])
    alone = rouge(tables, "table5", n=n)["score"]
    there = [m for m in TRAINING if m in alone]
    absent = [m for m in TRAINING if m not in alone]
    best = merging(tables).query("m > 1").sort_values("score", ascending=False).drop_duplicates("method")
    best = best.set_index("method")
    wins = {m: all(best.loc[m, "score"] > alone[b] for b in there) for m in ("rome", "memit")}
    rows = [{"method": f"{label(m)}, m = {best.loc[m, 'm']}", "score": best.loc[m, "score"]} for m in ("rome", "memit")]
    rows += [{"method": label(m), "score": alone[m]} for m in there]
    won = verdict(list(wins.values()))
    return Checked(
        IN_PART if won == HOLDS and absent else won,
        f"{n} facts forgotten. The best of the merged scores is {num(best.loc['rome', 'score'])} for ROME and "
        f"{num(best.loc['memit', 'score'])} for MEMIT; the unlearning methods that Table 5 has at this size: {listed(alone[there])}. "
        f"{label([m for m in wins if wins[m]])} surpass{'' if sum(wins.values()) > 1 else 'es'} them. "
        + (f"Not printed at this size, so not compared: {label(absent)}. " if absent else "")
        + "The best m was chosen on the scores that are compared.",
        pd.DataFrame(rows),
    )


@claim("3.2", "achieving obvious performance advantages over the unlearning baselines (Figure 6)")
def obvious_advantage(tables, text):
    n = int(tables[tables["table"] == "table7"]["n_forget"].iloc[0])
    alone = rouge(tables, "table5", n=n)
    best = merging(tables).query("m > 1").sort_values("score", ascending=False).drop_duplicates("method")
    best = best.set_index("method")["score"]
    error = {m: (alone.loc[m, "forget"] * (1 - alone.loc[m, "forget"]) / n) ** 0.5 for m in ("gd", "dpo")}
    rows = [
        {
            "merged": label(a),
            "baseline": label(b),
            "advantage": best[a] - alone.loc[b, "score"],
            "standard error, at most": error[b],
            "beyond two": yes(best[a] - alone.loc[b, "score"] > 2 * error[b]),
        }
        for a in ("rome", "memit")
        for b in ("gd", "dpo")
    ]
    values = pd.DataFrame(rows)
    return Checked(
        verdict((values["beyond two"] == "yes").tolist()),
        "Our rule for obvious: larger than two standard errors. The tables print none, but a mean f of n values between 0 and "
        f"1 has one of at most √(f(1 − f)/n); here that of the baseline's forget half alone, with n = {n}. Advantages over GD: "
        + " and ".join(num(v) for v in values[values["baseline"] == "GD"]["advantage"])
        + "; over DPO: "
        + " and ".join(num(v) for v in values[values["baseline"] == "DPO"]["advantage"])
        + f". Beyond two errors: {(values['beyond two'] == 'yes').sum()} of {len(values)}.",
        values,
    )


# ---------------------------------------------------------------------------------------------------------------------
# 4.1 Settings


@claim("4.1", "400 QA pairs across two contract types … 217 factual QA pairs about real-world knowledge")
def sizes_of_the_data(tables, text):
    largest = tables.groupby("dataset")["n_forget"].max()
    return Checked(
        UNCHECKED,
        "The tables print sizes of forget sets, not of data sets. They are possible: the largest forget set has "
        f"{largest['factual']} facts and {largest['pistol']} contract questions. The official files, if you have them, can "
        "be counted: load_split reads them as ‘pistol’ and ‘tofu-facts’.",
        largest.rename(KNOWLEDGE).rename_axis("data").rename("largest forget set").reset_index(),
    )


@claim(
    "4.1",
    "Probability measures the model’s likelihood of generating a correct answer by multiplying its token probabilities.",
)
def probability_is_a_product(tables, text):
    key = ["table", "dataset", "model", "method", "n_forget", "merge", "stage", "set"]
    wide = tables.pivot(index=key, columns="metric", values="value").dropna().reset_index()
    above = wide[wide["probability"] > wide["mrr"] + 0.01]
    gap = wide[wide["set"].isin(["forget", "retain"])].pivot(
        index=[k for k in key if k != "set"], columns="set", values=["probability", "rouge1_recall"]
    )
    apart = {m: (gap[m]["retain"] - gap[m]["forget"]).abs().mean() for m in ("probability", "rouge1_recall")}
    dead = wide[(wide["hit_rate"] == 0) & (wide["set"] == "forget")]
    examples = above.assign(excess=above["probability"] - above["mrr"]).sort_values("excess", ascending=False)
    shown = examples.head(6)[["table", "model", "method", "set", "probability", "mrr", "hit_rate"]]
    return Checked(
        FAILS if len(above) > len(wide) / 2 else IN_PART if len(above) else HOLDS,
        "A token whose rank is r has a probability of at most 1/r, so a product of token probabilities is at most the smallest "
        "of the 1/r and never more than their mean, which is MRR as the appendix defines it (nor is any mean of the token probabilities): Prob. ≤ MRR, in every row. The "
        f"tables have Prob. > MRR (by more than rounding) in {len(above)} of {len(wide)} rows. In {len(dead)} forget rows no true "
        f"token is among the top ones (hit rate 0), and yet Prob. is {num(dead['probability'].min())} to "
        f"{num(dead['probability'].max())}. Prob. hardly sees what was forgotten: forget and retain differ by "
        f"{num(apart['probability'])} on average, ROUGE-1 by {num(apart['rouge1_recall'])}. So the column holds something else "
        "than the formula, or MRR does; below this page looks at both on a run.",
        shown.assign(method=shown["method"].map(label)),
    )


def _three_aims(tables: pd.DataFrame, text: pd.DataFrame) -> pd.DataFrame:
    """WISE where rephrased questions were asked: ROUGE-1 and whether each aim is met."""
    rows = []
    for dataset, model, parts in (
        ("factual", "Llama2-7B", ("table1", "table2")),
        ("pistol", "Llama2-7B", ("table4",)),
        ("pistol", "Mistral-7B", ("table4",)),
    ):
        found = {k: v for t in parts for k, v in rouge(tables, t, model, dataset).loc["wise"].items()}
        half = before(text, dataset, model) / 2
        met = [found["forget"] <= half, found["rephrased"] <= half, found["retain"] >= half]
        rows.append(
            {
                "setting": where(dataset, model),
                "forget": found["forget"],
                "rephrased": found["rephrased"],
                "retain": found["retain"],
                "half of before": half,
                "aims met": sum(met),
            }
        )
    return pd.DataFrame(rows)


@claim("4.1", "WISE … supports long sequences and keeps reliability, locality, and generalization at the same time")
def wise_keeps_all_three(tables, text):
    values = _three_aims(tables, text)
    three = values["aims met"] == 3
    return Checked(
        verdict(three.tolist()),
        "The sentence describes WISE as its authors published it, for editing. In the tables on unlearning, with our rule (at "
        "most half of what was known before on forget and rephrased, at least half on retain), all three aims are met in "
        f"{three.sum()} of {len(values)} settings in which rephrased questions were asked; aims met: "
        + "; ".join(f"{r.setting}: {r['aims met']} of 3" for _, r in values.iterrows())
        + ".",
        values,
    )


@claim("4.1", "AlphaEdit … is an improved and SOTA version of MEMIT, solving long sequences of editing")
def alphaedit_long_sequences(tables, text):
    sizes = sorted(tables[tables["table"] == "table5"]["n_forget"].unique())
    retain = pd.Series({int(n): rouge(tables, "table5", n=n).loc["alphaedit", "retain"] for n in sizes})
    memit = pd.Series({int(n): rouge(tables, "table5", n=n).loc["memit", "retain"] for n in sizes})
    rows = [
        {"setting": f"facts, Llama2-7B, {n}", "AlphaEdit retain": retain[n], "MEMIT retain": memit[n]}
        for n in retain.index
    ]
    contracts = {}
    for model in ("Llama2-7B", "Mistral-7B"):
        contracts[model] = [rouge(tables, t, model, "pistol").loc["alphaedit", "retain"] for t in ("table1", "table4")]
        for n, value in zip((20, 40), contracts[model], strict=True):
            rows.append({"setting": f"PISTOL, {model}, {n}", "AlphaEdit retain": value, "MEMIT retain": None})
    half = before(text, "factual", "Llama2-7B") / 2
    return Checked(
        verdict([bool((retain >= half).all() and (retain > memit).all()), *(b >= 0.5 for _, b in contracts.values())]),
        f"On facts AlphaEdit retains {', '.join(num(v) for v in retain)} with {', '.join(map(str, retain.index))} forgotten: always "
        f"more than half of what was known ({num(half)}), and more than MEMIT ({', '.join(num(v) for v in memit)}). On PISTOL the "
        "longer sequence is where it breaks: from 20 to 40 forgotten, retain goes "
        + " and ".join(f"from {num(a)} to {num(b)} ({m})" for m, (a, b) in contracts.items())
        + ".",
        pd.DataFrame(rows),
    )


# ---------------------------------------------------------------------------------------------------------------------
# 4.2 General performance


@claim("4.2", "We compare 4 unlearning methods and 5 editing methods under 4 settings and the results are in Table 1.")
def what_is_compared(tables, text):
    one = tables[tables["table"] == "table1"]
    there = one[["dataset", "model", "method"]].drop_duplicates()
    counted = there.groupby(["dataset", "model"]).size()
    methods = set(there["method"])
    wanted = len(counted) * len(methods)
    absent = [where(d, m) for d, m in counted.index if counted[d, m] < len(methods)]
    numbers = [len(methods & set(TRAINING)) == 4, len(methods & set(EDITING)) == 5, len(counted) == 4]
    return Checked(
        verdict([*numbers, len(there) == wanted]),
        f"Table 1 has {len(methods & set(TRAINING))} unlearning and {len(methods & set(EDITING))} editing methods under "
        f"{len(counted)} settings; {len(there)} of {wanted} cells are filled. "
        + (f"MEMIT is a dash under: {'; '.join(absent)}." if absent else ""),
        counted.rename("methods").reset_index().replace({"dataset": KNOWLEDGE}),
    )


@claim("4.2", "we test Rouge1 before unlearning: 0.82 for Llama2-7B and 0.86 for Mistral-7B")
def before_facts(tables, text):
    rows = []
    facts = tables[(tables["dataset"] == "factual") & (tables["metric"] == "rouge1_recall")]
    facts = facts[facts["set"].isin(["forget", "retain"])]
    for model in ("Llama2-7B", "Mistral-7B"):
        mine, was = facts[facts["model"] == model], before(text, "factual", model)
        top = mine.loc[mine["value"].idxmax()]
        rows.append(
            {
                "model": model,
                "before, in the text": was,
                "highest after": top["value"],
                "method": label(top["method"]),
                "set": top["set"],
                "table": top["table"],
            }
        )
    values = pd.DataFrame(rows)
    return Checked(
        UNCHECKED,
        "No table has a row for the model before unlearning, and the text does not say on which questions it was tested. The "
        "values are plausible: GRACE, which changes little, retains "
        + " and ".join(num(rouge(tables, "table1", m).loc["grace", "retain"]) for m in values["model"])
        + " in Table 1. After unlearning some sets score higher: "
        + "; ".join(f"{r.model}: {r.method} {num(r['highest after'])} on {r.set}" for _, r in values.iterrows())
        + ". Either other questions were asked, or this is what chance can do.",
        values,
    )


@claim("4.2", "we finetune the base models on the whole PISTOL dataset to reach 1.0 Rouge1")
def before_contracts(tables, text):
    rows = []
    for table, model in ((t, m) for t in ("table1", "table4") for m in ("Llama2-7B", "Mistral-7B")):
        grace = rouge(tables, table, model, "pistol").loc["grace"]
        rows.append({"table": table, "model": model, "GRACE forget": grace["forget"], "GRACE retain": grace["retain"]})
    values = pd.DataFrame(rows)
    lowest = values[["GRACE forget", "GRACE retain"]].min().min()
    return Checked(
        UNCHECKED,
        "No table has a row for the finetuned model. What speaks for it: GRACE, whose edits are not met on PISTOL, leaves "
        f"ROUGE-1 of both sets at {num(lowest)} at least, in all {len(values)} settings.",
        values,
    )


@claim(
    "4.2, Ob1",
    "some methods will result in the retain model non-usable post unlearning. This happens to unlearning methods GA and KL, as "
    "well as editing methods ROME and MEMIT.",
)
def collapse(tables, text):
    rows = {where(d, m): rouge(tables, "table1", m, d)["retain"] for d, m in SETTINGS}
    values = pd.DataFrame(rows)
    broken = values < USABLE
    said = ["ga", "kl", "rome", "memit"]
    others = [m for m in values.index if broken.loc[m].any() and m not in said]
    spared = [
        f"{label(m)} on {s} ({num(values.loc[m, s])})" for m in said for s in values if values.loc[m, s] >= USABLE
    ]
    return Checked(
        verdict([*(bool(broken.loc[m].any()) for m in said), not others, not spared]),
        f"Our rule for non-usable: ROUGE-1 below {num(USABLE)} on the retain set. Settings in which that is so: "
        + ", ".join(f"{label(m)} {broken.loc[m].sum()} of {values.loc[m].notna().sum()}" for m in said)
        + f". So each of the four breaks somewhere. Not everywhere: {'; '.join(spared) or 'they do'}. And one that is not named "
        f"breaks as well: {'; '.join(f'{label(m)} on {s} ({num(values.loc[m, s])})' for m in others for s in values if broken.loc[m, s]) or 'none'}.",
        named(values),
    )


@claim("4.2, Ob1", "Notably, WISE and AlphaEdit consistently perform well across all settings.")
def consistent(tables, text):
    rows = []
    for dataset, model in SETTINGS:
        found, half = rouge(tables, "table1", model, dataset), before(text, dataset, model) / 2
        for m in ("wise", "alphaedit"):
            forget, retain, score = found.loc[m, ["forget", "retain", "score"]]
            rows.append(
                {
                    "setting": where(dataset, model),
                    "method": label(m),
                    "forget": forget,
                    "retain": retain,
                    "half of before": half,
                    "score": score,
                    "both": yes(forget <= half and retain >= half),
                }
            )
    values = pd.DataFrame(rows)
    good = values["both"] == "yes"
    bad = values[~good]
    return Checked(
        verdict(good.tolist()),
        "Our rule for well: forget at most, and retain at least, half of what was known before. Both are met in "
        f"{good.sum()} of {len(values)} cases. Not met: "
        + "; ".join(
            f"{r.method} on {r.setting} (forget {num(r.forget)}, retain {num(r.retain)})" for r in bad.itertuples()
        )
        + ".",
        values,
    )


@claim("4.2, Ob2", "some methods may unlearn too much, causing damage to general or retain knowledge")
def damage(tables, text):
    rows = []
    for model in ("Llama2-7B", "Mistral-7B"):
        found, was = rouge(tables, "table4", model, "pistol"), before(text, "factual", model)
        rows += [
            {
                "model": model,
                "method": label(m),
                "retain": found.loc[m, "retain"],
                "facts": found.loc[m, "factual"],
                "facts before": was,
                "half lost": yes(found.loc[m, "factual"] < was / 2),
            }
            for m in found.index
        ]
    values = pd.DataFrame(rows)
    lost = values[values["half lost"] == "yes"]
    return Checked(
        HOLDS if len(lost) else FAILS,
        "Table 4 asks about facts after 40 contract questions were forgotten. More than half of them is lost by "
        + "; ".join(f"{m}: {', '.join(g['method'])}" for m, g in lost.groupby("model", sort=False))
        + f" ({len(lost)} of {len(values)} rows), and both editing and unlearning methods are among them."
        + " Retain can be gone while facts stay: "
        + ", ".join(f"{r.method} on {r.model}" for r in values.itertuples() if r.retain < USABLE and r.facts > r[5] / 2)
        + ".",
        values,
    )


@claim(
    "4.2, Ob2",
    "we count the methods that get the Top-2 ranking for both forget and retain sets within the same setting, and they are GD, "
    "DPO, GRACE, and WISE for factual dataset and GA, GD, KL, DPO, and WISE for PISTOL.",
)
def top_two(tables, text):
    said = {"factual": {"gd", "dpo", "grace", "wise"}, "pistol": {"ga", "gd", "kl", "dpo", "wise"}}
    rows, places, both, family = [], [], {"factual": set(), "pistol": set()}, {"factual": set(), "pistol": set()}
    for dataset, model in SETTINGS:
        found = rouge(tables, "table1", model, dataset)
        forget = found["forget"].rank(method="min") <= 2
        retain = found["retain"].rank(method="min", ascending=False) <= 2
        both[dataset] |= set(found.index[forget & retain])
        if dataset == "factual":
            places.append(f"{found['forget'].rank(method='max')['grace']:g} of {len(found)}")
        for group in (TRAINING, EDITING):
            part = found.loc[[m for m in group if m in found.index], "retain"]
            family[dataset] |= set(part.index[part.rank(method="min", ascending=False) <= 2])
        rows.append(
            {
                "setting": where(dataset, model),
                "top 2 on forget": label(list(found.index[forget])),
                "top 2 on retain": label(list(found.index[retain])),
                "both": label(list(found.index[forget & retain])),
            }
        )
    order = (*TRAINING, *EDITING)
    near = {d: label([m for m in order if m in family[d]]) for d in family}
    return Checked(
        verdict([both[d] == said[d] for d in said]),
        "Read as it stands, by ROUGE-1 and with ties sharing a place, the methods among the two best on forget and on retain "
        f"of the same setting are: facts, {label(sorted(both['factual']))}; PISTOL, {label(sorted(both['pistol']))}. The best "
        "forgetters are mostly those that broke the model, the best at retaining those that forgot little; GRACE, named for facts, has "
        f"the places {' and '.join(places)} on forget. The marks of Table 1 are lost in the text that we have, and another rule may have been meant: the two best on "
        f"retain within each family, for instance, come near: {near['factual']} on facts and {near['pistol']} on PISTOL.",
        pd.DataFrame(rows),
    )


@claim(
    "4.2, Ob2",
    "It seems that editing performs better on pretrained knowledge and basic unlearning methods perform better on finetuned knowledge.",
)
def families(tables, text):
    rows = []
    for dataset, model in SETTINGS:
        score = rouge(tables, "table1", model, dataset)["score"]
        train, edit = (score[[m for m in group if m in score]] for group in (TRAINING, EDITING))
        winner = "editing" if edit.max() > train.max() else "unlearning"
        rows.append(
            {
                "setting": where(dataset, model),
                "best editing": f"{label(edit.idxmax())} {num(edit.max())}",
                "best unlearning": f"{label(train.idxmax())} {num(train.max())}",
                "mean editing": edit.mean(),
                "mean unlearning": train.mean(),
                "better at its best": winner,
                "as said": yes(winner == ("editing" if dataset == "factual" else "unlearning")),
            }
        )
    values = pd.DataFrame(rows)
    means = (values["mean editing"] > values["mean unlearning"]) == (values["setting"].str.startswith("facts"))
    return Checked(
        verdict((values["as said"] == "yes").tolist()),
        f"By the best method of each family the sentence is right in {(values['as said'] == 'yes').sum()} of {len(values)} settings, "
        f"by the mean over the family in {means.sum()}. Against it by the best: "
        + ("; ".join(f"{r.setting} ({r[2]} against {r[3]})" for r in values.itertuples() if r[-1] == "no") or "none")
        + ".",
        values,
    )


# ---------------------------------------------------------------------------------------------------------------------
# 4.3 Comprehensive analysis


@claim("Table 2", "GD 0.42 (0.12) … DPO 0.52 (0.15) … GRACE 0.80 (0.15) … WISE 0.46 (0.19) … AlphaEdit 0.14 (0.06)")
def brackets(tables, text):
    quoted = re.findall(r"(\w+) ([\d.]+) \(([\d.]+)\)", brackets.quote)
    forget, rephrased = rouge(tables, "table5", n=40)["forget"], rouge(tables, "table2")["rephrased"]
    rows = []
    for name, _, bracket in quoted:
        difference = rephrased[name.lower()] - forget[name.lower()]
        rows.append(
            {
                "method": name,
                "rephrased": rephrased[name.lower()],
                "forget": forget[name.lower()],
                "difference": difference,
                "bracket": float(bracket),
                "agree": yes(abs(difference - float(bracket)) <= 0.01 + 1e-9),
            }
        )
    values = pd.DataFrame(rows)
    return Checked(
        verdict((values["agree"] == "yes").tolist()),
        f"Rephrased (Table 2) minus forget (Table 5, 40 facts). Within the two roundings (0.005 each) {(values['agree'] == 'yes').sum()} "
        f"of {len(values)} brackets follow; the largest distance is {num((values['difference'] - values['bracket']).abs().max())}.",
        values,
    )


def _rephrased(tables: pd.DataFrame) -> pd.DataFrame:
    """Table 2 beside the forget column of the same run (Table 5 at 40: three decimals)."""
    found = rouge(tables, "table5", n=40)[["forget", "retain"]].join(rouge(tables, "table2")["rephrased"])
    return found.assign(change=(found["rephrased"] - found["forget"]).round(4))


@claim("4.3, Obs3", "In Table 2, all methods lose some forget performances when the queries are rephrased")
def all_lose(tables, text):
    found = _rephrased(tables)
    lose = found["change"] > 0.005  # Table 2 has two decimals
    other = {
        m: rouge(tables, "table4", m, "pistol").pipe(lambda t: t["rephrased"] - t["forget"])
        for m in ("Llama2-7B", "Mistral-7B")
    }
    fell = [f"{label(m)} ({model})" for model, change in other.items() for m in change.index if change[m] < -0.05]
    return Checked(
        verdict(lose.tolist()),
        f"{lose.sum()} of {len(found)} methods give more of the answer when asked in other words: {listed(found.loc[lose, 'change'])}. "
        f"The others ({label(list(found.index[~lose]))}) have nothing left to lose: their ROUGE-1 is near 0 either way. On PISTOL "
        f"(Table 4) it often goes the other way, rephrased questions get less of the answer: {', '.join(fell) or 'none'}.",
        named(found),
    )


@claim("4.3, Obs3", "AlphaEdit is the most robust and generalized method among all")
def most_robust(tables, text):
    found = _rephrased(tables)
    usable = found[found["retain"] >= USABLE]
    lower = [m for m in found.index if found.loc[m, "rephrased"] < found.loc["alphaedit", "rephrased"]]
    first = usable["rephrased"].idxmin() == "alphaedit"
    least = usable["change"].idxmin() == "alphaedit"
    return Checked(
        verdict([not lower, first, least]),
        f"AlphaEdit: {num(found.loc['alphaedit', 'rephrased'])} on rephrased questions, {num(found.loc['alphaedit', 'change'])} more "
        f"than on the forget set. Among methods whose model is usable (retain at least {num(USABLE)}: {label(list(usable.index))}) this "
        f"is {'the lowest value' if first else 'not the lowest value'} and {'the least loss' if least else 'not the least loss'}. "
        + (
            f"Among all it is not: {listed(found.loc[lower, 'rephrased'])} are lower, because these models say nothing useful any more."
            if lower
            else "No method is lower."
        ),
        named(found),
    )


@claim("4.3", "selected 4 best unlearning and editing methods to present")
def four_best(tables, text):
    score = rouge(tables, "table1")["score"]
    overall = list(score.sort_values(ascending=False).index[:4])
    two_each = [m for g in (TRAINING, EDITING) for m in score[[m for m in g if m in score]].nlargest(2).index]
    shown = {"gd", "dpo", "wise", "alphaedit"}
    return Checked(
        verdict([set(overall) == shown, set(two_each) == shown]),
        "Figure 3 shows GD, DPO, WISE and AlphaEdit. By score (Table 1, facts, Llama2-7B) the four best of all are "
        f"{listed(score[overall])}; the two best of each family are {listed(score[two_each])}. As two of each family the choice "
        f"{'follows' if set(two_each) == shown else 'does not follow'}; as the four best of all it {'follows' if set(overall) == shown else 'does not'}.",
        named(score.sort_values(ascending=False).to_frame()),
    )


@claim("4.3, Obs3", "when the size of forget set increases, the editing methods even have better performances")
def larger_is_better(tables, text):
    found = fig3(tables, ["gd", "dpo", *EDITING])
    change = found.iloc[-1] - found.iloc[0]
    trend = {m: spearman(pd.Series(found.index), found[m].reset_index(drop=True)) for m in found}
    falls = {m: int((found[m].diff() < 0).sum()) for m in found}
    two = ["wise", "alphaedit"]
    return Checked(
        verdict([*(change[m] > 0 for m in two), *(falls[m] == 0 for m in two)]),
        f"Score with {found.index[-1]} facts forgotten minus that with {found.index[0]}: {listed(change)}. So the two of Figure 3 end "
        f"higher, but not step by step: of the {len(found) - 1} steps from size to size {falls['wise']} goes down for WISE and {falls['alphaedit']} for AlphaEdit "
        f"(rank correlation with the size: {num(trend['wise'])} and {num(trend['alphaedit'])}). It is no mark of editing either: "
        f"{label(change.idxmax())} gains most, and {label([m for m in EDITING if change[m] < 0])} lose.",
        named(found.T),
    )


@claim(
    "4.3, Obs3",
    "among the four competitive algorithms, AlphaEdit is the best, followed by GD and WISE, and DPO is relatively weak",
)
def order_of_four(tables, text):
    found = fig3(tables, ["alphaedit", "gd", "wise", "dpo"])
    mean = found.mean().sort_values(ascending=False)
    first = found.idxmax(axis=1)
    return Checked(
        verdict([mean.index[0] == "alphaedit", list(mean.index[1:3]) == ["gd", "wise"], mean.index[-1] == "dpo"]),
        f"Mean score over the {len(found)} sizes of Table 5: {listed(mean)}. “Generally”, says the paper; size by size AlphaEdit is first in "
        f"{(first == 'alphaedit').sum()} of {len(found)}"
        + (
            " (not with " + ", ".join(f"{n}: {label(first[n])}" for n in found.index if first[n] != "alphaedit") + ")."
            if (first != "alphaedit").any()
            else "."
        ),
        named(found.T),
    )


@claim("4.3, Obs4", "if it is close to 1, it means the model is non-usable or doesn’t forget at all")
def close_to_one(tables, text):
    rows = []
    for (table, dataset, model, n, merge, stage), _ in tables.groupby(
        ["table", "dataset", "model", "n_forget", "merge", "stage"], sort=False
    ):
        found = rouge(tables, table, model, dataset, n=n, merge=merge, stage=stage)
        twice = (table == "table5" and n == 40) or (table == "table6" and stage == "vanilla")  # runs of other tables
        if "score" not in found or model == "Llama3.1-8B" or twice:
            continue
        was = before(text, dataset, model)
        for m, r in found[(found["score"] - 1).abs() <= CLOSE + 1e-9].iterrows():
            kind = (
                "non-usable"
                if r["retain"] < USABLE
                else "forgot next to nothing"
                if r["forget"] >= was - CLOSE
                else "neither"
            )
            rows.append(
                {
                    "table": table,
                    "setting": f"{where(dataset, model)}, {n}",
                    "method": label(m),
                    "forget": r["forget"],
                    "retain": r["retain"],
                    "score": r["score"],
                    "what it is": kind,
                }
            )
    values = pd.DataFrame(rows)
    kinds = values["what it is"].value_counts()
    neither = values[values["what it is"] == "neither"]
    return Checked(
        verdict(
            [kinds.get("neither", 0) == 0, kinds.get("non-usable", 0) + kinds.get("forgot next to nothing", 0) > 0]
        ),
        f"Rows with a score within {num(CLOSE)} of 1 (Llama3.1 left out, for no value before unlearning is given): {len(values)}. "
        + "; ".join(f"{k}: {v}" for k, v in kinds.items())
        + f" (retain below {num(USABLE)}; forget within {num(CLOSE)} of the value before). A score of 1 says that forget equals retain, "
        "at any height: a model that has lost a half of both has it too. Hence always read the two parts.",
        (neither if len(neither) else values).reset_index(drop=True),
    )


@claim("4.3, Obs4", "AlphaEdit and WISE are the best editing methods for unlearning under comprehensive analysis")
def best_editing(tables, text):
    rows = []
    for dataset, model in SETTINGS:
        score = rouge(tables, "table1", model, dataset)["score"]
        score = score[[m for m in EDITING if m in score]].sort_values(ascending=False)
        rows.append(
            {
                "setting": where(dataset, model),
                "editing methods by score": listed(score),
                "first two": label(list(score.index[:2])),
                "as said": yes(set(score.index[:2]) == {"wise", "alphaedit"}),
            }
        )
    values = pd.DataFrame(rows)
    return Checked(
        verdict((values["as said"] == "yes").tolist()),
        f"Of the editing methods, the two with the highest score are WISE and AlphaEdit in {(values['as said'] == 'yes').sum()} of "
        f"{len(values)} settings of Table 1.",
        values,
    )


@claim("4.3, Obs4", "They outperform all the unlearning baselines for pretrained knowledge.")
def beat_all_on_facts(tables, text):
    rows = []
    for table, model in (("table1", "Llama2-7B"), ("table1", "Mistral-7B"), ("table3", "Llama3.1-8B")):
        score = rouge(tables, table, model)["score"]
        train = score[[m for m in TRAINING if m in score]]
        for m in ("wise", "alphaedit"):
            better = train[train >= score[m]].sort_values(ascending=False)
            rows.append(
                {
                    "model": model,
                    "method": label(m),
                    "score": score[m],
                    "best unlearning": f"{label(train.idxmax())} {num(train.max())}",
                    "unlearning methods not beaten": label(list(better.index)),
                    "as said": yes(better.empty),
                }
            )
    values = pd.DataFrame(rows)
    by_model = values.groupby("model", sort=False)["as said"].apply(lambda s: (s == "yes").all())
    not_so = values[values["as said"] == "no"]
    return Checked(
        verdict((values["as said"] == "yes").tolist()),
        f"Both beat every unlearning method that is printed on {', '.join(by_model.index[by_model]) or 'no model'}; not on "
        f"{', '.join(by_model.index[~by_model]) or 'none'}: "
        + "; ".join(f"{r.method} {num(r.score)}, not above {r[5]}; the best is {r[4]}" for r in not_so.itertuples())
        + ". (Llama3.1-8B has four methods in Table 3.)",
        values,
    )


@claim("4.3, Obs4", "While for finetuned knowledge, WISE beats DPO and KL and AlphaEdit surpasses DPO.")
def finetuned(tables, text):
    rows = []
    for table, n in (("table1", 20), ("table4", 40)):
        for model in ("Llama2-7B", "Mistral-7B"):
            score = rouge(tables, table, model, "pistol")["score"]
            for a, b in (("wise", "dpo"), ("wise", "kl"), ("alphaedit", "dpo")):
                rows.append(
                    {
                        "table": table,
                        "setting": f"{model}, {n}",
                        "claim": f"{label(a)} over {label(b)}",
                        "first": score[a],
                        "second": score[b],
                        "as said": yes(score[a] > score[b]),
                    }
                )
    values = pd.DataFrame(rows)
    main = values[values["table"] == "table1"]
    no = main[main["as said"] == "no"]
    more = values[values["table"] == "table4"]
    return Checked(
        verdict((main["as said"] == "yes").tolist()),
        f"In Table 1 {(main['as said'] == 'yes').sum()} of {len(main)} comparisons are as said. Not so: "
        + (
            "; ".join(f"{r.claim} on {r.setting} ({num(r.first)} against {num(r.second)})" for r in no.itertuples())
            or "none"
        )
        + f". In Table 4, with 40 questions forgotten, {(more['as said'] == 'yes').sum()} of {len(more)} are. Which of them Figure 4 "
        "draws, its text does not say.",
        values,
    )


@claim("4.3, Obs4", "It clearly presents that AlphaEdit is leading across 3 dimensions.")
def radar_lead(tables, text):
    found = _rephrased(tables).loc[["gd", "dpo", "wise", "alphaedit"]]
    leads = {
        "forget": found["forget"].idxmin(),
        "retain": found["retain"].idxmax(),
        "rephrased": found["rephrased"].idxmin(),
    }
    said = [leads[s] == "alphaedit" for s in leads]
    return Checked(
        verdict(said),
        "Among the four methods of Figures 3 and 4 (facts, Llama2-7B, 40 forgotten) the best are: "
        + "; ".join(
            f"on {s} {label(m)} ({num(found.loc[m, s])}"
            + (")" if m == "alphaedit" else f", AlphaEdit {num(found.loc['alphaedit', s])})")
            for s, m in leads.items()
        )
        + f". AlphaEdit leads in {sum(said)} of 3.",
        named(found.drop(columns="change")),
    )


@claim(
    "4.3, Obs4", 'WISE has similar results with DPO and GD for "Forget" and "Rephrase" but excels better for "Retain".'
)
def wise_like_gd(tables, text):
    found = _rephrased(tables).loc[["wise", "gd", "dpo"]]
    rows = [
        {
            "beside": label(b),
            "set": s,
            "WISE": found.loc["wise", s],
            "other": found.loc[b, s],
            "difference": found.loc["wise", s] - found.loc[b, s],
        }
        for s in ("forget", "rephrased", "retain")
        for b in ("gd", "dpo")
    ]
    values = pd.DataFrame(rows)
    similar = values[values["set"] != "retain"]["difference"].abs() <= CLOSE + 1e-9
    better = values[values["set"] == "retain"]["difference"] > CLOSE
    return Checked(
        verdict([*similar, *better]),
        f"Our rule for similar: a distance of at most {num(CLOSE)}. Distances on forget and rephrased: "
        + ", ".join(num(abs(v)) for v in values[values["set"] != "retain"]["difference"])
        + "; on retain WISE has "
        + " and ".join(f"{num(v)} more" for v in values[values["set"] == "retain"]["difference"])
        + " than GD and DPO.",
        values,
    )


# ---------------------------------------------------------------------------------------------------------------------
# 4.4 Improving


@claim("4.4, D", "a study with 20 participants … including 25% female and 75% male")
def participants(tables, text):
    people, *shares = (int(v) for v in re.findall(r"\d+", participants.quote))
    each = [people * s / 100 for s in shares]
    whole = all(v == int(v) for v in each) and sum(shares) == 100
    return Checked(
        UNCHECKED,
        f"No list of participants is printed. The shares are possible: {shares[0]} % and {shares[1]} % of {people} people are "
        f"{each[0]:g} and {each[1]:g}{', whole people, and together all of them' if whole else ', which are no whole people'}.",
        pd.DataFrame({"share, %": shares, "people": each}),
    )


@claim(
    "4.4, Obs5",
    "Trustworthiness improves for AlphaEdit but slightly declines for WISE, which still ranks Top-1 … DPO aligns better with human values than GD",
)
def ratings(tables, text):
    return Checked(
        UNCHECKED,
        "The mean ratings are bars in Figure 6; neither they nor the single ratings are printed, nor how many answers were "
        "rated. (This project has a rating tool, and RQ3 shows what rules can and cannot say in place of people.)",
        pd.DataFrame(),
    )


@claim("4.4, Obs5", "The pipeline also boosts rephrased generalization.")
def self_improved(tables, text):
    a, b = (rouge(tables, "table6", stage=s) for s in ("vanilla", "self-improved"))
    change = (b - a).round(4)
    better = {m: change.loc[m, "rephrased"] < 0 for m in change.index}
    same = [m for m in change.index if change.loc[m, "rephrased"] == 0]
    fewer = [m for m in change.index if change.loc[m, "score"] < 0]
    wide = pd.concat({"before": a, "after": b, "change": change}, axis=1).swaplevel(axis=1)
    flat = {
        f"{s}; {w}": wide[s, w]
        for s in ("forget", "retain", "rephrased", "score")
        for w in ("before", "after", "change")
    }
    return Checked(
        verdict([better["wise"], better["alphaedit"]]),
        "Change on rephrased questions (below 0 is better): "
        + listed(change["rephrased"])
        + f". Better for the two methods that the paper speaks of; the same for {label(same)}; worse for "
        f"{label([m for m in change.index if change.loc[m, 'rephrased'] > 0])}. The text does not say what else changes in Table 6: the score of "
        f"forget and retain falls for {len(fewer)} of {len(change)} methods ({listed(change['score'])}), and WISE forgets less "
        f"(forget from {num(a.loc['wise', 'forget'])} to {num(b.loc['wise', 'forget'])}).",
        named(pd.DataFrame(flat)),
    )


@claim("4.4", "In Table 1, ROME and MEMIT underperform in unlearning due to limitations in editing length")
def editing_length(tables, text):
    sizes = sorted(tables[tables["table"] == "table5"]["n_forget"].unique())
    found = {int(n): rouge(tables, "table5", n=n) for n in sizes}
    retain = pd.DataFrame({n: f.loc[["rome", "memit"], "retain"] for n, f in found.items()})
    rank = rouge(tables, "table1")["score"].rank(ascending=False)
    falls = [
        retain.loc[m].iloc[0] > retain.loc[m].iloc[-1] and retain.loc[m].iloc[1:].max() < USABLE for m in retain.index
    ]
    was = before(text, "factual", "Llama2-7B")
    return Checked(
        IN_PART if all(falls) else FAILS,
        f"They do underperform: places {rank['rome']:g} and {rank['memit']:g} of {len(rank)} by score (ties share). And retain falls with the "
        f"length: ROME {', '.join(num(v) for v in retain.loc['rome'])}, MEMIT {', '.join(num(v) for v in retain.loc['memit'])} with "
        f"{', '.join(map(str, retain.columns))} facts. But at {retain.columns[0]}, the shortest, both have lost most of the {num(was)} already, "
        "and no table separates length from another cause (edits one after another or at once, the covariance, the layers): "
        "MEMIT was published for thousands of edits.",
        named(retain),
    )


@claim("4.4, Obs6", "ROME and MEMIT peak when merging 5 queries into 1 (16 samples after merging)")
def peak(tables, text):
    found = merging(tables)
    best = found.loc[found.groupby("method", sort=False)["score"].idxmax()].set_index("method")["m"]
    n = int(tables[tables["table"] == "table7"]["n_forget"].iloc[0])
    m, samples = (int(v) for v in re.findall(r"\d+", peak.quote)[::2])
    return Checked(
        verdict([*(best == m), n / m == samples]),
        f"The highest score is at m = {best['rome']} for ROME and at m = {best['memit']} for MEMIT; {n} ÷ {m} = {n / m:g} edits.",
        found.pivot(index="method", columns="m", values="score").pipe(named).rename(columns=str),
    )


@claim("4.4, Obs6", "with scores of 1.622 and 1.632")
def peak_scores(tables, text):
    found = merging(tables).set_index(["method", "m"])["score"]
    rows = []
    for m in ("rome", "memit"):
        said = stated(text, m)
        equal = [int(k) for k, v in found[m].items() if abs(v - said) < 5e-4]
        rows.append(
            {
                "method": label(m),
                "in the text": said,
                "at m = 5, from Table 7": found[m, 5],
                "text equals the score at m =": ", ".join(map(str, equal)) or "none",
                "agree": yes(5 in equal),
            }
        )
    values = pd.DataFrame(rows)
    return Checked(
        verdict((values["agree"] == "yes").tolist()),
        "1 − forget + retain at m = 5: "
        + "; ".join(
            f"{r.method} {num(r[3])}, the text has {num(r[2])}, which is the score at m = {r[4]}"
            for r in values.itertuples()
        )
        + ". For MEMIT the text is a row off; its best score is a little higher than the text says.",
        values,
    )


@claim("4.4, Obs6", "close to AlphaEdit’s 1.636 and surpassing DPO (1.123) and GD (1.596)")
def peak_beside_others(tables, text):
    n = int(tables[tables["table"] == "table7"]["n_forget"].iloc[0])
    score = rouge(tables, "table5", n=n)["score"]
    best = merging(tables).groupby("method")["score"].max()
    rows = [
        {
            "method": label(m),
            "in the text": stated(text, m),
            "from Table 5": score[m],
            "agree": yes(abs(score[m] - stated(text, m)) < 5e-4),
        }
        for m in ("alphaedit", "dpo", "gd")
    ]
    values = pd.DataFrame(rows)
    close = [abs(best[m] - score["alphaedit"]) <= CLOSE for m in ("rome", "memit")]
    above = [best[m] > score[b] for m in ("rome", "memit") for b in ("dpo", "gd")]
    return Checked(
        verdict([*(values["agree"] == "yes"), *close, *above]),
        f"{n} facts forgotten, unmerged: {listed(score[['alphaedit', 'dpo', 'gd']])}, as in the text. From AlphaEdit ROME is "
        f"{num(abs(best['rome'] - score['alphaedit']))} away and MEMIT {num(abs(best['memit'] - score['alphaedit']))} "
        f"(by Table 7 MEMIT is {'above' if best['memit'] > score['alphaedit'] else 'below'} it); over GD the two have "
        f"{num(best['rome'] - score['gd'])} and {num(best['memit'] - score['gd'])} more.",
        values,
    )


@claim("4.4, Obs6", "Query merging greatly boosts ROME and MEMIT in unlearning, achieving strong results.")
def merging_boosts(tables, text):
    found = merging(tables)
    alone = found[found["m"] == 1].set_index("method")["score"]
    rest = found[found["m"] > 1].set_index(["method", "m"])["score"]
    gain = {m: rest[m].max() - alone[m] for m in ("rome", "memit")}
    none = [f"{label(m)} at m = {k}" for (m, k), v in rest.items() if v - alone[m] <= CLOSE]
    return Checked(
        verdict([v > CLOSE for v in gain.values()]),
        f"Unmerged (Table 5, 80 facts) {listed(alone[['rome', 'memit']])}; best merged {num(rest['rome'].max())} and "
        f"{num(rest['memit'].max())}: {num(gain['rome'])} and {num(gain['memit'])} more. It depends on m: no gain above "
        f"{num(CLOSE)} for {', '.join(none) or 'none'}.",
        found.assign(method=found["method"].map(label)).reset_index(drop=True),
    )


@claim(
    "4.4, Obs6",
    "A tradeoff exists between merged query count … and samples per query … longer context becomes harder to retain",
)
def merging_trade_off(tables, text):
    found = merging(tables).query("m > 1")
    rows = []
    for method, part in found.groupby("method", sort=False):
        part = part.sort_values("m").reset_index(drop=True)
        rows.append(
            {
                "method": label(method),
                "forget with m": spearman(part["m"], part["forget"]),
                "rephrased with m": spearman(part["m"], part["rephrased"]),
                "retain with m": spearman(part["m"], part["retain"]),
            }
        )
    values = pd.DataFrame(rows)
    return Checked(
        verdict([*(values["forget with m"] > 0), *(values["retain with m"] > 0)]),
        f"Rank correlation over the {found['m'].nunique()} values of m in Table 7. With m the model keeps more ("
        + " and ".join(num(v) for v in values["retain with m"])
        + ") and forgets less: forget rises ("
        + " and ".join(num(v) for v in values["forget with m"])
        + "). So there is a trade-off. What gets harder with a longer text is to forget; the retain set gains.",
        values,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Appendix


@claim("B.4", "While not losing overall performance, we reduce the mom2_n_samples parameter")
def fewer_samples(tables, text):
    return Checked(
        UNCHECKED,
        "No table has a run with another number of texts for the covariance, so nothing can be compared. (The page on the "
        "covariance does this on the pocket model.)",
        pd.DataFrame(),
    )


@claim("C", "some extended results in the main paper")
def tables_agree(tables, text):
    key = ["method", "set", "metric"]
    one = tables[(tables["table"] == "table1") & (tables["dataset"] == "factual") & (tables["model"] == "Llama2-7B")]
    five = tables[tables["table"] == "table5"]
    six = tables[(tables["table"] == "table6") & (tables["stage"] == "vanilla")]
    rows = []
    for name, left, right, tolerance in (
        ("Table 5 at 40 rounds to Table 1 (facts, Llama2-7B)", one, five[five["n_forget"] == 40], 0.005),
        ("Table 6 before self-improvement is Table 5 at 20", six, five[five["n_forget"] == 20], 0),
    ):
        both = left.merge(right, on=key)
        distance = (both["value_x"] - both["value_y"]).abs().max()
        rows.append(
            {
                "what": name,
                "values": len(both),
                "largest distance": distance,
                "agree": yes(distance <= tolerance + 1e-9),
            }
        )
    values = pd.DataFrame(rows)
    return Checked(
        verdict((values["agree"] == "yes").tolist()),
        "Where two tables print the same run, do they print the same? "
        + "; ".join(f"{r.what}: {r.values} values, at most {r[3]:.4f} apart" for r in values.itertuples(name="Row"))
        + ".",
        values,
    )


CLAIMS: tuple[Claim, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Claim))


# ---------------------------------------------------------------------------------------------------------------------
# How it is shown


def _badge(word: str) -> str:
    colour, line = VERDICTS[word].split()
    return f'<span class="eu-outcome" style="border-left: 0.35rem {line} {colour}">{escape(word)}</span>'


def overview(checked: Sequence[tuple[Claim, Checked]], *, provenance: str, name: str = "claims") -> Html:
    """One row per claim: where it stands, what it says, and the verdict, which leads to its arithmetic."""
    caption = f"{len(checked)} claims of the text against the tables"
    body = "".join(
        f'<tr><th scope="row"><a href="#claim-{c.id}" aria-label="{escape(r.verdict)}: the arithmetic">{_badge(r.verdict)}</a></th>'
        f'<td style="text-align: left; white-space: normal; min-width: 12rem">“{escape(c.quote)}” <small>{escape(c.section)}</small></td></tr>'
        for c, r in checked
    )
    frame = pd.DataFrame(
        [
            {"id": c.id, "section": c.section, "quote": c.quote, "verdict": r.verdict, "arithmetic": r.arithmetic}
            for c, r in checked
        ]
    )
    return Html(
        html=(
            '<div class="eu eu-table"><div class="eu-scroll" role="region" tabindex="0" '
            f'aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption><thead><tr><th scope="col">By its tables</th>'
            '<th scope="col" style="text-align: left">The paper says</th></tr></thead>'
            f"<tbody>{body}</tbody></table></div>{page.note(provenance, page.csv(frame), name)}</div>"
        ),
        text="\n".join(
            [caption, *(f"{c.section}: “{c.quote}”: {r.verdict}" for c, r in checked), f"Source: {provenance}"]
        ),
    )


def _values(values: pd.DataFrame) -> str:
    columns = columns_of(values, number=num)
    return Table("The values that enter", columns, values.to_dict("records"), "").bare()


def details(checked: Sequence[tuple[Claim, Checked]], *, provenance: str) -> Html:
    """One fold-out per claim: the quotation and its verdict; inside, the arithmetic and the values that enter."""
    folds = "".join(
        f'<details class="eu-case"><summary>“{escape(c.quote)}” <small>({escape(c.section)})</small> {_badge(r.verdict)}</summary>'
        f'<p class="eu-answer" id="claim-{c.id}">{escape(r.arithmetic)}</p>{_values(r.values)}</details>'
        for c, r in checked
    )
    text = "\n\n".join(f"“{c.quote}” ({c.section})\n  {r.verdict}: {r.arithmetic}" for c, r in checked)
    return Html(html=f'<div class="eu">{folds}{page.note(provenance, "", "claims")}</div>', text=text)


def scores(tables: pd.DataFrame) -> pd.DataFrame:
    """ROUGE-1 and score of Tables 1, 3 and 4, as the figures take a summary: one row per setting, method and set."""
    rows = []
    for table, dataset, model, n in [
        ("table1", "factual", "Llama2-7B", 40),
        ("table1", "factual", "Mistral-7B", 40),
        ("table3", "factual", "Llama3.1-8B", 40),
        ("table1", "pistol", "Llama2-7B", 20),
        ("table1", "pistol", "Mistral-7B", 20),
        ("table4", "pistol", "Llama2-7B", 40),
        ("table4", "pistol", "Mistral-7B", 40),
    ]:
        found = rouge(tables, table, model, dataset)
        rows += [
            {
                "dataset": f"{where(dataset, model)}, {n}",
                "method": m,
                "set": s,
                "rouge1_recall": found.loc[m, s],
                "score": found.loc[m, "score"],
            }
            for m in found.index
            for s in ("forget", "retain")
        ]
    return pd.DataFrame(rows)


def score_dots(summary: pd.DataFrame, *, provenance: str, title: str, reading: str, name: str = "scores") -> go.Figure:
    """The score of each method in each setting: one row per setting, one mark per method, a line at 1."""
    one = summary.drop_duplicates(["dataset", "method"])
    settings, methods = (
        list(dict.fromkeys(one["dataset"])),
        [m for m in (*TRAINING, *EDITING) if m in set(one["method"])],
    )
    fig = go.Figure()
    for m in methods:
        mine = one[one["method"] == m]
        fig.add_scatter(
            name=label(m),
            mode="markers",
            marker=page.marker(style(m), 12),
            x=[page.number(v) for v in mine["score"]],
            y=mine["dataset"].tolist(),
            hovertemplate="<b>%{fullData.name}</b>, %{y}: %{x:.2f}<extra></extra>",
            cliponaxis=False,
        )
    fig.update_layout(
        xaxis={
            "title": {"text": "score: 1 − ROUGE-1 forget + ROUGE-1 retain"},
            "zeroline": False,
            "range": [0.8, 1.85],
        },
        yaxis={"categoryorder": "array", "categoryarray": settings[::-1], "automargin": True},
        shapes=[
            {
                "type": "line",
                "x0": 1,
                "x1": 1,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "layer": "below",
                "line": {"width": 1, "dash": "dot", "color": "#808080"},
            }
        ],
    )
    said = []
    for s in settings:
        ranked = one[one["dataset"] == s].sort_values("score", ascending=False)
        said.append(
            f"{s}: {', '.join(f'{label(m)} {v:.2f}' for m, v in zip(ranked['method'], ranked['score'], strict=True))}"
        )
    return page.finish(
        fig,
        title=title,
        reading=reading,
        provenance=provenance,
        csv=page.csv(one),
        name=name,
        height=180 + 46 * len(settings),
        left=150,
        alt=f"Dot plot of scores. {'. '.join(said)}.",
    )


def _lines(frame: pd.DataFrame, across: pd.Series, *, x_title: str, title: str, what: str, **shown) -> go.Figure:
    """The score over a column ``x``, one line per method; ``across`` are single values, drawn as lines across."""
    fig, places = go.Figure(), sorted(int(v) for v in frame["x"].unique())
    traces = [
        (label(m), style(m), p["x"].tolist(), p["score"].tolist(), style(m).dash)
        for m, p in frame.groupby("method", sort=False)
    ]
    traces += [(f"{label(m)}, unmerged", style(m), [places[0], places[-1]], [v, v], "dot") for m, v in across.items()]
    for name, look, x, y, dash in traces:
        fig.add_scatter(
            name=name,
            mode="lines+markers",
            x=[int(v) for v in x],
            y=[page.number(v) for v in y],
            cliponaxis=False,
            line={"color": look.colour, "width": 1.5 if dash == "dot" else 2.5, "dash": dash},
            marker=page.marker(look, 10),
            hovertemplate="<b>%{fullData.name}</b>, %{x}: %{y:.3f}<extra></extra>",
        )
    fig.update_layout(
        xaxis={"title": {"text": x_title}, "tickvals": places, "zeroline": False, "showgrid": False},
        yaxis={"title": {"text": "score"}, "zeroline": False},
    )
    said = (f"{name}: " + ", ".join(f"{a} {b:.3f}" for a, b in zip(x, y, strict=True)) for name, _, x, y, _ in traces)
    reading = "Higher is better; 2 is ideal, 1 is nothing or everything forgotten."
    return page.finish(
        fig,
        title=title,
        reading=reading,
        alt=f"Line chart of the score over {what}. {'. '.join(said)}.",
        csv=page.csv(frame),
        height=460,
        **shown,
    )


def size_lines(tables: pd.DataFrame, *, provenance: str, name: str = "size-scores") -> go.Figure:
    """Table 5: the score over the size of the forget set, every method that has more than one size."""
    long = fig3(tables, [*TRAINING, *EDITING]).rename_axis(columns="method").stack().rename("score").reset_index()
    long = long.rename(columns={"n_forget": "x"}).dropna()
    long["method"] = pd.Categorical(long["method"], [*TRAINING, *EDITING])
    long = long.sort_values(["method", "x"]).astype({"method": str})
    return _lines(
        long,
        pd.Series(dtype=float),
        x_title="facts forgotten",
        title="Over the size of the forget set, Llama2-7B",
        what="the number of facts forgotten",
        provenance=provenance,
        name=name,
    )


def merge_lines(tables: pd.DataFrame, *, provenance: str, name: str = "merge-scores") -> go.Figure:
    """Figure 6, right, drawn again: the score over m, with the unmerged methods of the same size as lines across."""
    n = int(tables[tables["table"] == "table7"]["n_forget"].iloc[0])
    return _lines(
        merging(tables).rename(columns={"m": "x"}),
        rouge(tables, "table5", n=n)["score"][["alphaedit", "gd", "dpo"]],
        x_title="questions in one edit (m); 1: unmerged",
        title=f"Merging, {n} facts, Llama2-7B",
        what="m",
        provenance=provenance,
        name=name,
    )
