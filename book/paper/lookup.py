"""The paper's numbers as the checks of its claims look them up, and the rules and names that the checks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from editunlearn_lib.paper import paper_text
from editunlearn_lib.show.page import num, style

HOLDS, IN_PART, FAILS, UNCHECKED = "holds", "holds in part", "does not hold", "cannot be checked"
TRAINING, EDITING = ("ga", "gd", "kl", "dpo"), ("rome", "memit", "grace", "wise", "alphaedit")
BEST, MERGED = ("wise", "alphaedit"), ("rome", "memit")  # the two that the paper praises, the two that it merges
MODELS = ("Llama2-7B", "Mistral-7B")
SETTINGS = tuple((dataset, model) for dataset in ("factual", "pistol") for model in MODELS)
KNOWLEDGE = {"factual": "facts", "pistol": "PISTOL"}
USABLE = 0.1  # our rule: below this ROUGE-1 recall on the retain set a model is of no use
CLOSE = 0.1  # our rule for "close", "similar" and "near"


@dataclass(frozen=True)
class Numbers:
    """`paper_tables()` and `paper_text()`, or others in their place."""

    tables: pd.DataFrame
    text: pd.DataFrame = field(default_factory=paper_text)

    def rouge(
        self,
        table: str,
        model: str = "Llama2-7B",
        dataset: str = "factual",
        *,
        n: int | None = None,
        merge: int = 1,
        stage: str = "vanilla",
    ) -> pd.DataFrame:
        """ROUGE-1 recall: one row per method, one column per set, and ``score`` where forget and retain are there."""
        key = {"table": table, "model": model, "dataset": dataset, "merge": merge, "stage": stage}
        rows = self.tables[self.tables["metric"] == "rouge1_recall"]
        for column, value in (key if n is None else {**key, "n_forget": n}).items():
            rows = rows[rows[column] == value]
        wide = rows.pivot(index="method", columns="set", values="value")
        wide = wide.reindex([m for m in (*TRAINING, *EDITING) if m in wide.index])
        if {"forget", "retain"} <= set(wide):
            wide["score"] = (1 - wide["forget"] + wide["retain"]).round(4)
        return wide

    def before(self, model: str, dataset: str = "factual") -> float:
        """ROUGE-1 recall before unlearning, as the text has it."""
        rows = self.text[self.text["what"] == "before unlearning"]
        return float(rows[(rows["dataset"] == dataset) & (rows["model"] == model)]["value"].item())

    def score_in_text(self, method: str) -> float:
        """A score that stands in Obs6."""
        return float(self.text[(self.text["metric"] == "score") & (self.text["method"] == method)]["value"].item())

    def sizes(self) -> dict[int, pd.DataFrame]:
        """Table 5: ROUGE-1 by the number of facts forgotten."""
        sizes = sorted(self.tables[self.tables["table"] == "table5"]["n_forget"].unique())
        return {int(n): self.rouge("table5", n=n) for n in sizes}

    def score_by_size(self, methods: Sequence[str]) -> pd.DataFrame:
        """Scores of Table 5: one row per size of the forget set, one column per method."""
        rows = pd.DataFrame({n: table["score"] for n, table in self.sizes().items()}).T
        return rows.reindex(columns=list(methods)).rename_axis("n_forget")

    def merge_size(self) -> int:
        """How many facts were forgotten where queries were merged (Table 7)."""
        return int(self.tables[self.tables["table"] == "table7"]["n_forget"].iloc[0])

    def merging(self) -> pd.DataFrame:
        """ROUGE-1 and score by method and m, one size of the forget set; m = 1 is Table 5, the others are Table 7."""
        merges = sorted(self.tables[self.tables["table"] == "table7"]["merge"].unique())
        parts = {1: self.rouge("table5", n=self.merge_size()).loc[list(MERGED)]}
        parts |= {int(m): self.rouge("table7", merge=m) for m in merges}
        return pd.concat(parts, names=["m"]).reset_index().sort_values(["method", "m"], ascending=[False, True])

    def best_merged(self) -> pd.DataFrame:
        """Of `merging`, the row with the highest score of each method where m > 1; the index is the method."""
        rows = self.merging().query("m > 1").sort_values("score", ascending=False)
        return rows.drop_duplicates("method").set_index("method")

    def rephrased(self) -> pd.DataFrame:
        """Table 2 beside forget and retain of the same run (Table 5 at 40: three decimals), and what changes."""
        rows = self.rouge("table5", n=40)[["forget", "retain"]].join(self.rouge("table2")["rephrased"])
        return rows.assign(change=(rows["rephrased"] - rows["forget"]).round(4))


def result(parts: str | Iterable[bool], values: pd.DataFrame, /, **words) -> tuple[str, pd.DataFrame, dict]:
    """What a check gives: a verdict, the values that enter, and what stands in the places of the claim's wording."""
    return parts if isinstance(parts, str) else verdict(parts), values, words


def verdict(parts: Iterable[bool]) -> str:
    """All, some or none of the parts of a claim are true."""
    parts = list(parts)
    return HOLDS if all(parts) else IN_PART if any(parts) else FAILS


def frame(columns: str, rows: Iterable[Sequence]) -> pd.DataFrame:
    """Rows with the columns that this line names, parted by bars."""
    return pd.DataFrame(rows, columns=columns.split(" | "))


def label(methods: str | Iterable[str]) -> str:
    """Names of methods as people write them."""
    names = [style(m).label for m in ([methods] if isinstance(methods, str) else methods)]
    return ", ".join(names) if names else "none"


def where(dataset: str, model: str) -> str:
    """``facts, Llama2-7B``"""
    return f"{KNOWLEDGE[dataset]}, {model}"


def listed(series: pd.Series) -> str:
    """``GA 0.00, GD 0.30``"""
    return ", ".join(f"{style(m).label} {num(v)}" for m, v in series.items())


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The index, methods, as a column of names, for a table that is shown."""
    return frame.rename(index=label).rename_axis("method").rename_axis(columns=None).reset_index()


def spearman(a: pd.Series, b: pd.Series) -> float:
    """Spearman's rank correlation; ties share their mean rank."""
    return float(a.rank().corr(b.rank()))
