"""What stands in the paper's column "Prob."? Its formula and PISTOL's code, computed on a run, beside the column.

A measure is a frame with one row per method and the columns ``forget`` and ``retain``.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from editunlearn_lib.show import ordered
from editunlearn_lib.study import REFERENCES

from .lookup import named
from .reproduction import SAME

MEASURES = {  # of records: as a table has them
    "probability": "product",  # of the probabilities of the answer's tokens: the paper's formula
    "pistol_confidence": "code",  # the mean of the largest probability of any next token, over the prompt
    "probability_per_token": "per token",
    "rouge1_recall": "ROUGE-1",
}
NEEDED = (*MEASURES, "mrr_teacher_forced")  # columns of records
NEAR = 0.01  # two decimals are printed: so much less counts as no less


def table1(tables: pd.DataFrame, dataset: str, metric: str = "probability") -> pd.DataFrame:
    """A column of the paper's Table 1 for its data set of this kind: a measure, the rows (model, method)."""
    rows = tables[(tables["table"] == "table1") & (tables["metric"] == metric)]
    rows = rows[rows["dataset"] == SAME.get(dataset, "factual")]
    return rows.pivot(index=["model", "method"], columns="set", values="value")


def measures(run: pd.DataFrame, tables: pd.DataFrame, dataset: str) -> dict[str, pd.DataFrame]:
    """The measures of a run by the names of `MEASURES`, in the book's order, and the paper's column for Llama2-7B."""
    means = run[run["set"].isin(["forget", "retain"])].groupby(["method", "set"])[list(MEASURES)].mean().unstack()
    means = means.loc[ordered(means.index)]
    parts = {name: means[column] for column, name in MEASURES.items()}
    parts["paper"] = table1(tables, dataset).loc["Llama2-7B"].reindex(means.index)
    return {name: parts[name] for name in ("product", "code", "paper", "per token", "ROUGE-1")}


def columns(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Measures side by side: one row per method, the columns ``product; forget``, ``product; retain`` and so on."""
    values = {f"{name}; {s}": part[s] for name, part in parts.items() for s in ("forget", "retain")}
    return named(pd.DataFrame(values))


def after(measure: pd.DataFrame) -> pd.DataFrame:
    """A measure without the untouched and the retrained model."""
    return measure.drop(index=list(REFERENCES), errors="ignore")


def gap(measure: pd.DataFrame) -> float:
    """How far retain and forget differ after unlearning: the mean over the methods of the absolute difference."""
    rows = after(measure)
    return float((rows["retain"] - rows["forget"]).abs().mean())


def fall(measure: pd.DataFrame) -> pd.Series:
    """By how much each method lowers a measure on the forget set; without a base model, its distance to retain."""
    rows = after(measure)
    if "base" in measure.index:
        return measure.loc["base", "forget"] - rows["forget"]
    return (rows["retain"] - rows["forget"]).abs()


def no_less(measure: pd.DataFrame) -> int:
    """For how many methods the forgotten answers come out at least as high as the retained ones."""
    rows = after(measure)
    return int((rows["forget"] >= rows["retain"] - NEAR).sum())


def below_mrr(run: pd.DataFrame) -> float:
    """The share of outputs whose product is at most their MRR, as it must be: a token of rank r has at most 1 / r."""
    rows = run[run["set"].isin(["forget", "retain"])]
    return float((rows["probability"] <= rows["mrr_teacher_forced"] + 1e-4).mean())
