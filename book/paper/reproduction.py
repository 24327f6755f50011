"""The paper's tables beside runs of this library: what matches, cell by cell, and how alike the methods are ranked.

A cell of a table is (dataset, n_forget, merge, stage, method, set, metric). A run matches it where all of these agree;
the models never do, or only in name, so each column says whose it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from editunlearn_lib import METHODS, study
from editunlearn_lib.errors import StoreError, check_name
from editunlearn_lib.evaluation import summarise
from editunlearn_lib.show.page import style

TABLES = {
    "table1": "General performance",
    "table2": "Rephrased questions",
    "table3": "Llama3.1-8B",
    "table4": "Forty contract questions",
    "table5": "Sizes of the forget set",
    "table6": "Self-improvement",
    "table7": "Query merging",
}
SAME = {"factual": "factual", "tofu-facts": "factual", "contracts": "pistol", "pistol": "pistol"}  # ours: the paper's
STAGES = {"refusal": "vanilla", "self-improved": "self-improved"}  # our targets: the paper's stages
CELL = ["dataset", "n_forget", "merge", "stage", "method"]
VIEWS = {  # what the selector offers: the paper's column, and ours beside it
    "rouge1_recall": ("ROUGE-1 recall", "rouge1_recall", "rouge1_recall"),
    "formula": ("Prob. beside the formula, the product of token probabilities", "probability", "probability"),
    "confidence": ("Prob. beside what PISTOL’s code computes", "probability", "pistol_confidence"),
    "mrr": ("MRR", "mrr", "mrr"),
    "hit_rate": ("Hit rate", "hit_rate", "hit_rate"),
}
PAPER = "paper: "  # before the model in the name of a column of the paper
ENOUGH = 4  # methods: a rank correlation of fewer says nothing at all
DRAWS = 9999


def read_runs(place: str | Path) -> pd.DataFrame:
    """Records of a study's store (a folder of cells) or of an exported parquet file. Raises `StoreError`."""
    place = Path(place)
    give = "Give the folder that was `store` in `study.run`, or a parquet file of `study.export`."
    if place.is_dir():
        paths = sorted(place.glob("*.json"))
        if not paths:
            raise StoreError(f"{place}: no stored cells. {give}")
        return pd.concat([study.get(path) for path in paths], ignore_index=True)
    if not place.exists():
        raise StoreError(f"{place}: no such folder or file. {give}")
    try:
        records = study.load_results(place)
    except (ValueError, OSError) as error:
        raise StoreError(f"{place}: not a parquet file of `study.export` ({error}).") from error
    missing = [name for name in (*study.KEYS, "set", "id", "rouge1_recall") if name not in records]
    if missing:
        raise StoreError(f"{place}: not a parquet file of `study.export`; it lacks {', '.join(missing)}.")
    return records


def match(records: pd.DataFrame, paper: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What of some runs stands beside a cell of the paper, and what does not.

    First: one row per model, data set of ours (``data``), cell of the paper (`CELL`) and set, with every metric, its
    interval, ``n`` questions and ``forget_sets``. Second: one row per cell left out (`study.KEYS` without the seed),
    with ``forget_sets`` and ``why``.
    """
    keys = [k for k in study.KEYS if k != "seed"]
    cells = records[list(study.KEYS)].drop_duplicates().groupby(keys, sort=False, dropna=False)["seed"].nunique()
    cells = cells.rename("forget_sets").reset_index()
    printed = set(map(tuple, paper[CELL].drop_duplicates().to_numpy().tolist()))
    cells["why"] = [_why(row, printed) for row in cells.to_dict("records")]
    left_out = cells[cells["why"] != ""].reset_index(drop=True)
    rows = records.merge(cells[cells["why"] == ""].drop(columns="why"), on=keys)
    by = ["model", "data", *CELL, "set", "forget_sets"]
    if rows.empty:
        return pd.DataFrame(columns=by), left_out
    rows = rows.assign(data=rows["dataset"], dataset=rows["dataset"].map(SAME), stage=rows["targets"].map(STAGES))
    measures = [name for name in dict.fromkeys(ours for _, _, ours in VIEWS.values()) if name in rows]
    rows = rows.loc[rows["set"].isin(set(paper["set"])), [*by, "seed", "id", *measures]]  # no texts: faster to cut
    return summarise(rows, by=by), left_out


def _why(cell: Mapping, printed: set[tuple]) -> str:
    """Why a cell stands beside no cell of the paper, or nothing."""
    method = cell["method"]
    if method == "base":
        return "the model before unlearning: no row in the tables"
    if cell["protocol"] != "questions":
        return f"asked by {cell['protocol']}, not by the paper's questions"
    if cell["dataset"] not in SAME:
        return "a data set that the paper does not have"
    if method not in {row[-1] for row in printed}:
        return "a method that the paper does not have"
    if method in METHODS and cell["mode"] != METHODS[method].modes[0]:
        return f"edits made in another mode ({cell['mode']}) than the method's own"
    if cell["covariance"] != "default" or cell["fact_token"] != "default":
        return "another choice of covariance or of the key's token than the default"
    place = (SAME[cell["dataset"]], cell["n_forget"], cell["merge"], STAGES.get(cell["targets"], ""), method)
    return "" if place in printed else "no table has this size, merging or target for this method"


# ---------------------------------------------------------------------------------------------------------------------
# One table


def run_columns(runs: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """One column per model and data set: ``{"pocket": match(…)[0]}`` gives ``{"pocket": …}``, or several if need be."""
    columns: dict[str, pd.DataFrame] = {}
    for name, summary in runs.items():
        for model, rows in summary.groupby("model", sort=False):
            parts = {(model,): rows}
            if (rows.groupby("dataset")["data"].nunique() > 1).any():  # the official data and ours of the same kind
                parts = {(model, data): part for data, part in rows.groupby("data", sort=False)}
            for names, part in parts.items():
                more = ", ".join(word for word in names if word != name)
                columns[f"{name}: {more}" if more else name] = part
    return columns


def beside(
    paper: pd.DataFrame, columns: Mapping[str, pd.DataFrame], table: str, view: str = "rouge1_recall"
) -> pd.DataFrame:
    """One row per cell and set of a table: the paper's value by model, then for each column of runs its value.

    Columns: `CELL`, ``set``, then ``paper: <model>`` and per run ``<name>``, ``<name> low``, ``<name> high`` and
    ``<name> forget sets``.
    """
    check_name("table", table, TABLES)
    check_name("view", view, VIEWS)
    _, theirs, ours = VIEWS[view]
    key, printed = [*CELL, "set"], paper[paper["table"] == table]
    rows = printed[printed["metric"] == theirs]
    frame = rows[key].drop_duplicates()
    for model in printed["model"].unique():
        values = rows[rows["model"] == model].rename(columns={"value": PAPER + model})
        frame = frame.merge(values[[*key, PAPER + model]], on=key, how="left")
    for name, summary in columns.items():
        names = {ours: name, f"{ours}_low": f"{name} low", f"{ours}_high": f"{name} high"}
        names["forget_sets"] = f"{name} forget sets"
        values = summary[[*key, *(c for c in names if c in summary)]].rename(columns=names)
        frame = frame.merge(values.astype({"n_forget": int, "merge": int}), on=key, how="left")
    methods = frame["method"].map({m: i for i, m in enumerate(paper["method"].unique())})
    groups = frame.groupby(CELL[:-1], sort=False).ngroup()
    return frame.iloc[np.lexsort([methods, groups])].reset_index(drop=True)


def group_name(dataset: str, n_forget: int, merge: int, stage: str) -> str:
    """The heading of the rows that are alike but for the method."""
    name = f"{'Facts' if dataset == 'factual' else 'Contracts'}, {n_forget} forgotten"
    name += f", {merge} questions in one edit" if merge > 1 else ""
    return name + (", self-improved" if stage == "self-improved" else "")


# ---------------------------------------------------------------------------------------------------------------------
# Agreement


def quality(paper: pd.DataFrame, columns: Mapping[str, pd.DataFrame], table: str) -> tuple[pd.DataFrame, str]:
    """One number per cell and column, high is good, and its name: the score, or 1 − ROUGE-1 rephrased."""
    frame = beside(paper, columns, table)
    sources = [c for c in frame if c.startswith(PAPER)] + list(columns)
    frame = frame.reindex(columns=[*CELL, "set", *sources])  # a run without any cell in this table: no values
    wide = frame.pivot(index=CELL, columns="set", values=sources)
    if {"forget", "retain"} <= set(frame["set"]):
        parts, word = {c: 1 - wide[c]["forget"] + wide[c]["retain"] for c in sources}, "score"
    else:
        parts, word = {c: 1 - wide[c]["rephrased"] for c in sources}, "1 − ROUGE-1 rephrased"
    return frame[CELL].drop_duplicates().merge(pd.DataFrame(parts).reset_index(), on=CELL), word


def rankings(values: pd.DataFrame, table: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of `quality` that are ranked together, under their heading, each with a ``name``.

    They are the methods of a group; in Table 7 both methods and all m.
    """
    merged = table == "table7"
    for group, part in values.groupby(["dataset", "n_forget"] if merged else CELL[:-1], sort=False):
        title = f"{group_name(*group, 1, 'vanilla')}, merged" if merged else group_name(*group)
        names = part["method"].map(lambda m: style(m).label)
        yield title, part.assign(name=names + ", m = " + part["merge"].astype(str) if merged else names)


def agreement(paper: pd.DataFrame, columns: Mapping[str, pd.DataFrame], *, seed: int = 0) -> pd.DataFrame:
    """How alike the methods are ranked: one row per table, group of rows, model of the paper and column of runs.

    ``rho`` is Spearman's rank correlation over the ``n`` methods that both have (Table 7: the cells of both methods and
    all m), ``p`` the share of 9,999 random orders with as high a one, ``first`` and ``ours_first`` the best of each.
    Groups with fewer than four are left out: a rank correlation of three says nothing.
    """
    rows = []
    for table in TABLES:
        values, word = quality(paper, columns, table)
        models = [c for c in values if c.startswith(PAPER)]
        for (title, part), theirs, ours in itertools.product(rankings(values, table), models, columns):
            both = part[["name", theirs, ours]].dropna()
            if len(both) < ENOUGH:
                continue
            rho, p = rank_agreement(both[theirs], both[ours], seed=seed)
            first, ours_first = (both.loc[both[c].idxmax(), "name"] for c in (theirs, ours))
            distance = (both[theirs] - both[ours]).abs().mean()
            model = theirs.removeprefix(PAPER)
            rows.append((table, title, model, ours, word, len(both), rho, p, first, ours_first, distance))
    return pd.DataFrame(rows, columns="table rows paper run by n rho p first ours_first distance".split())


def rank_agreement(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Spearman's rho, and the share of seeded random orders of ``b`` with as high a one; NaN where one is constant."""
    x, y = (pd.Series(np.round(np.asarray(v, dtype=float), 6)).rank().to_numpy() for v in (a, b))  # (n,)
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    if norm == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.tile(y, (DRAWS, 1)), axis=1) @ x  # (DRAWS,)
    return float(x @ y) / norm, float((1 + (drawn >= x @ y - 1e-9).sum()) / (1 + DRAWS))
