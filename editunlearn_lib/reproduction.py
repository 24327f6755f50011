"""The paper's tables beside runs of this library: cell by cell, with what does not match said.

A cell of a table is (dataset, n_forget, merge, stage, method, set, metric). A run matches it where all of these agree;
the models never do, or only in name, so each column says whose it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from . import study
from .errors import StoreError, check_name
from .evaluation import summarise
from .show import Html, page, style

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
ENOUGH = 4  # methods: a rank correlation of fewer says nothing at all
DRAWS = 9999


def read_runs(place: str | Path) -> pd.DataFrame:
    """Records of a study's store (a folder of cells) or of an exported parquet file. Raises `StoreError`."""
    place = Path(place)
    if place.is_dir():
        paths = sorted(place.glob("*.json"))
        if not paths:
            raise StoreError(
                f"{place}: no stored cells. Give the folder that was `store` in `study.run`, or a parquet file of `study.export`."
            )
        return pd.concat([study.get(path) for path in paths], ignore_index=True)
    if not place.exists():
        raise StoreError(
            f"{place}: no such folder or file. Give the folder that was `store` in `study.run`, or a parquet file of `study.export`."
        )
    try:
        records = study.load_results(place)
    except (ValueError, OSError) as error:
        raise StoreError(f"{place}: not a parquet file of `study.export` ({error}).") from error
    missing = [name for name in (*study.KEYS, "set", "id", "rouge1_recall") if name not in records]
    if missing:
        raise StoreError(f"{place}: not a parquet file of `study.export`; it lacks {', '.join(missing)}.")
    return records


def matched(records: pd.DataFrame, paper: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What of some runs stands beside a cell of the paper, and what does not.

    First: one row per model, data set of ours (``data``), cell of the paper (`CELL`) and set, with every metric, its
    interval, ``n`` questions and ``forget_sets``. Second: one row per cell left out (`study.KEYS` without the seed), with
    ``forget_sets`` and ``why``.
    """
    keys = [k for k in study.KEYS if k != "seed"]
    found = records[list(study.KEYS)].drop_duplicates().groupby(keys, sort=False, dropna=False).seed.nunique()
    cells = found.rename("forget_sets").reset_index()
    printed = set(map(tuple, paper[CELL].drop_duplicates().to_numpy().tolist()))
    cells["why"] = [_why(row, printed) for row in cells.to_dict("records")]
    left_out = cells[cells["why"] != ""].reset_index(drop=True)
    kept = records.merge(cells[cells["why"] == ""][[*keys, "forget_sets"]], on=keys)
    if kept.empty:
        return pd.DataFrame(columns=["model", "data", *CELL, "set", "forget_sets"]), left_out
    kept = kept.assign(data=kept["dataset"], dataset=kept["dataset"].map(SAME), stage=kept["targets"].map(STAGES))
    by = ["model", "data", *CELL, "set", "forget_sets"]
    measures = [name for name in dict.fromkeys(ours for _, _, ours in VIEWS.values()) if name in kept]
    kept = kept.loc[
        kept["set"].isin(set(paper["set"])), [*by, "seed", "id", *measures]
    ]  # no texts: groups are cut out faster
    return summarise(kept, by=by), left_out


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
    known = study.METHODS.get(method)
    if known and cell["mode"] != known.modes[0]:
        return f"edits made in another mode ({cell['mode']}) than the method's own"
    if cell["covariance"] != "default" or cell["fact_token"] != "default":
        return "another choice of covariance or of the key's token than the default"
    place = (SAME[cell["dataset"]], cell["n_forget"], cell["merge"], STAGES.get(cell["targets"], ""), method)
    return "" if place in printed else "no table has this size, merging or target for this method"


# ---------------------------------------------------------------------------------------------------------------------
# One table


def columns_of(runs: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """One column per model and data set: ``{"pocket": matched(…)[0]}`` gives ``{"pocket": …}``, or several where needed."""
    columns: dict[str, pd.DataFrame] = {}
    for name, summary in runs.items():
        models = dict.fromkeys(summary["model"])
        for model in models:
            mine = summary[summary["model"] == model]
            kinds = mine.groupby("dataset")["data"].nunique()
            if (kinds > 1).any():  # the official data and ours of the same kind: two columns
                for data, part in mine.groupby("data", sort=False):
                    columns[_head(name, model, data)] = part
            else:
                columns[_head(name, model)] = mine
    return columns


def _head(name: str, *more: str) -> str:
    return ": ".join([name, ", ".join(m for m in more if m != name)]) if any(m != name for m in more) else name


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
    rows = paper[(paper["table"] == table) & (paper["metric"] == theirs)]
    key = [*CELL, "set"]
    models = list(dict.fromkeys(paper[paper["table"] == table]["model"]))
    frame = rows[key].drop_duplicates().reset_index(drop=True)
    for model in models:
        values = rows[rows["model"] == model].rename(columns={"value": f"paper: {model}"})
        frame = frame.merge(values[[*key, f"paper: {model}"]], on=key, how="left")
    for name, summary in columns.items():
        names = {
            ours: name,
            f"{ours}_low": f"{name} low",
            f"{ours}_high": f"{name} high",
            "forget_sets": f"{name} forget sets",
        }
        there = summary[[*key, *[c for c in names if c in summary]]].rename(columns=names)
        frame = frame.merge(there.astype({"n_forget": int, "merge": int}), on=key, how="left")
    order = {m: i for i, m in enumerate(dict.fromkeys(paper["method"]))}
    groups = frame[CELL[:-1]].astype(str).agg("|".join, axis=1)
    rank = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    place = pd.DataFrame({"g": groups.map(rank), "m": frame["method"].map(order)}).sort_values(
        ["g", "m"], kind="stable"
    )
    return frame.loc[place.index].reset_index(drop=True)


def group_name(dataset: str, n_forget: int, merge: int, stage: str) -> str:
    """The heading of the rows that are alike but for the method."""
    name = f"{'Facts' if dataset == 'factual' else 'Contracts'}, {n_forget} forgotten"
    name += f", {merge} questions in one edit" if merge > 1 else ""
    return name + (", self-improved" if stage == "self-improved" else "")


def table(paper: pd.DataFrame, columns: Mapping[str, pd.DataFrame], name: str, *, provenance: str) -> Html:
    """A table of the paper with ours beside it, one row per method and set; a selector changes the measure.

    The selector needs no script: the style shows the table of the option that is chosen.
    """
    parts, texts, options, frames = [], [], [], []
    for view, (label, _, _) in VIEWS.items():
        frame = beside(paper, columns, name, view)
        if frame.empty or (view == "confidence" and not any("pistol_confidence" in s for s in columns.values())):
            continue
        caption = f"Table {name[-1]}: {TABLES[name]}. {label}"
        options.append(f'<option value="{view}">{escape(label)}</option>')
        parts.append(f'<div class="eu-view" data-view="{view}">{_one_html(frame, list(columns), caption)}</div>')
        frames.append(frame.assign(measure=label))
        if view == "rouge1_recall":
            texts += [caption, frame.to_string(index=False)]
    views = "".join(
        f'.eu-repro:has(option[value="{v}"]:checked) > .eu-view[data-view="{v}"] {{ display: block }}' for v in VIEWS
    )
    # without :has() (browsers before 2023) the first view stays, which is the one that counts
    hide = ".eu-repro > .eu-view { display: none } .eu-repro:not(:has(option:checked)) > .eu-view:first-of-type { display: block }"
    choose = f'<div class="eu-controls"><label>Measure <select>{"".join(options)}</select></label></div>'
    return Html(
        html=(
            f"<style>@supports selector(:has(*)) {{ {hide} {views} }}</style>"
            f'<div class="eu eu-table eu-repro">{choose}{"".join(parts)}{page.note(provenance, page.csv(pd.concat(frames)), name)}</div>'
        ),
        text="\n".join([*texts, f"Source: {provenance}"]),
    )


def _one_html(frame: pd.DataFrame, names: Sequence[str], caption: str) -> str:
    papers = [c for c in frame if c.startswith("paper: ")]
    head = "".join(_head_html(c.removeprefix("paper: "), "paper", "eu-paper") for c in papers)
    head += "".join(_head_html(*c.partition(": ")[::2]) for c in names)
    body = []
    for group, rows in frame.groupby(CELL[:-1], sort=False):
        title = (
            f'<tr><th scope="rowgroup" colspan="{2 + len(papers) + len(names)}">{escape(group_name(*group))}</th></tr>'
        )
        lines = []
        for method, mine in rows.groupby("method", sort=False):
            for i, row in enumerate(mine.to_dict("records")):
                first = f'<th scope="row" rowspan="{len(mine)}">{escape(style(method).label)}</th>' if i == 0 else ""
                cells = "".join(f'<td class="eu-paper">{_paper_number(row[c])}</td>' for c in papers)
                cells += "".join(_run_cell(row, c) for c in names)
                lines.append(f'<tr>{first}<td style="text-align: left">{escape(row["set"])}</td>{cells}</tr>')
        body.append(f"<tbody>{title}{''.join(lines)}</tbody>")
    return (
        f'<div class="eu-scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption>'
        f'<thead><tr><th scope="col">Method</th><th scope="col" style="text-align: left">Set</th>{head}</tr></thead>{"".join(body)}</table></div>'
    )


def _head_html(name: str, small: str = "", kind: str = "eu-ours") -> str:
    below = (
        f'<small style="white-space: normal; overflow-wrap: anywhere; min-width: 5.5rem">{escape(small)}</small>'
        if small
        else ""
    )
    return f'<th scope="col" class="{kind}">{escape(name)}{below}</th>'


def _paper_number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3f}".removesuffix("0")


def _run_cell(row: Mapping, name: str) -> str:
    value, low, high, sets = (
        page.number(row.get(c)) for c in (name, f"{name} low", f"{name} high", f"{name} forget sets")
    )
    if value is None:
        return "<td>–</td>"
    of = "" if sets is None else f"; <wbr>{sets:.0f} set{'s' if sets > 1 else ''}"
    return f"<td>{page.plain(value)}<small>{'' if low is None else f'{low:.2f}–{high:.2f}'}{of}</small></td>"


# ---------------------------------------------------------------------------------------------------------------------
# Agreement


def quality(paper: pd.DataFrame, columns: Mapping[str, pd.DataFrame], name: str) -> tuple[pd.DataFrame, str]:
    """One number per cell and column, high is good, and its name: the score, or 1 − ROUGE-1 where only rephrased questions are."""
    frame = beside(paper, columns, name)
    sources = [c for c in frame if c.startswith("paper: ")] + list(columns)
    for c in sources:
        if c not in frame:  # a run without any cell in this table
            frame[c] = np.nan
    wide = frame.pivot(index=CELL, columns="set", values=sources)
    if {"forget", "retain"} <= set(frame["set"]):
        parts, word = {c: 1 - wide[c]["forget"] + wide[c]["retain"] for c in sources}, "score"
    else:
        parts, word = {c: 1 - wide[c]["rephrased"] for c in sources}, "1 − ROUGE-1 rephrased"
    found = pd.DataFrame(parts).reset_index()
    order = frame[CELL].drop_duplicates()
    return order.merge(found, on=CELL), word


def agreement(paper: pd.DataFrame, columns: Mapping[str, pd.DataFrame], *, seed: int = 0) -> pd.DataFrame:
    """How alike the methods are ranked: one row per table, group of rows, model of the paper and column of runs.

    ``rho`` is Spearman's rank correlation over the ``n`` methods that both have (Table 7: over the cells of both methods
    and all m); ``p`` the share of 9,999 random orders with as high a one; ``first`` and ``ours_first`` the best of each.
    Groups with fewer than four are left out: a rank correlation of three says nothing.
    """
    rows = []
    for name in TABLES:
        values, word = quality(paper, columns, name)
        papers = [c for c in values if c.startswith("paper: ")]
        by = ["dataset", "n_forget"] if name == "table7" else CELL[:-1]
        for group, part in values.groupby(by, sort=False):
            title = group_name(*group, 1, "vanilla") + ", merged" if name == "table7" else group_name(*group)
            for theirs in papers:
                for ours in columns:
                    both = part[["method", "merge", theirs, ours]].dropna()
                    if len(both) < ENOUGH:
                        continue
                    rho, p = rank_agreement(both[theirs], both[ours], seed=seed)
                    best = [both.loc[both[c].idxmax()] for c in (theirs, ours)]
                    called = [
                        style(b["method"]).label + (f", m = {b['merge']}" if name == "table7" else "") for b in best
                    ]
                    rows.append(
                        {
                            "table": name,
                            "rows": title,
                            "paper": theirs.removeprefix("paper: "),
                            "run": ours,
                            "by": word,
                            "n": len(both),
                            "rho": rho,
                            "p": p,
                            "first": called[0],
                            "ours_first": called[1],
                            "distance": (both[theirs] - both[ours]).abs().mean(),
                        }
                    )
    return pd.DataFrame(
        rows, columns=["table", "rows", "paper", "run", "by", "n", "rho", "p", "first", "ours_first", "distance"]
    )


def rank_agreement(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Spearman's rho, and the share of seeded random orders of ``b`` with at least as high a rho; NaN where one is constant."""
    x, y = (pd.Series(np.round(np.asarray(v, dtype=float), 6)).rank().to_numpy() for v in (a, b))  # (n,)
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    if norm == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.tile(y, (DRAWS, 1)), axis=1) @ x  # (DRAWS,)
    return float(x @ y) / norm, float((1 + (drawn >= x @ y - 1e-9).sum()) / (1 + DRAWS))


_LOOKS = (("#D55E00", "circle-open"), ("#0072B2", "square-open"), ("#CC79A7", "diamond-open"))  # the paper's models
_RUN_LOOKS = (("#222832", "x"), ("#009E73", "triangle-up"), ("#E69F00", "star"), ("#56B4E9", "diamond"))


def dots(paper: pd.DataFrame, columns: Mapping[str, pd.DataFrame], name: str, *, provenance: str) -> go.Figure:
    """One row per method, one mark per source; the groups of rows of the table are entries of the menu."""
    values, word = quality(paper, columns, name)
    sources = [c for c in values if c not in CELL]
    merged = name == "table7"
    groups = list(values.groupby(["dataset", "n_forget"] if merged else CELL[:-1], sort=False))
    titles = [f"{group_name(*g, 1, 'vanilla')}, merged" if merged else group_name(*g) for g, _ in groups]
    updates, said = [], []
    for title, (_, part) in zip(titles, groups, strict=True):
        part = part.sort_values(["method", "merge"], ascending=[False, True]) if merged else part
        labels = [
            style(m).label + (f", m = {k}" if merged else "")
            for m, k in zip(part["method"], part["merge"], strict=True)
        ]
        updates.append({"x": [[page.number(v) for v in part[c]] for c in sources], "y": [labels] * len(sources)})
        said += [
            f"{title}, {c}: "
            + ", ".join(f"{m} {page.plain(page.number(v))}" for m, v in zip(labels, part[c], strict=True))
            for c in sources
        ]
    fig = go.Figure()
    for i, source in enumerate(sources):
        theirs = source.startswith("paper: ")
        looks = _LOOKS if theirs else _RUN_LOOKS
        colour, symbol = looks[(i if theirs else i - sum(s.startswith("paper: ") for s in sources)) % len(looks)]
        colour = "#808080" if colour == "#222832" else colour  # seen on white and on black
        fig.add_scatter(
            name=source,
            mode="markers",
            x=updates[0]["x"][i],
            y=updates[0]["y"][i],
            cliponaxis=False,
            marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
            hovertemplate="<b>%{fullData.name}</b>, %{y}: %{x:.2f}<extra></extra>",
        )
    rows = max(len(u["y"][0]) for u in updates)
    shown = values[sources].to_numpy(dtype=float)
    low, high = (
        (0.0, 1.04) if word != "score" else (min(0.9, np.nanmin(shown)) - 0.05, max(1.7, np.nanmax(shown)) + 0.05)
    )
    fig.update_layout(
        xaxis={"title": {"text": word}, "range": [float(low), float(high)], "zeroline": False},
        yaxis={"autorange": "reversed"},
        updatemenus=page.menu(titles, updates, "Rows"),
    )
    reading = "Further right is better."
    reading += " A score of 2 is ideal, 1 is nothing or everything forgotten." if word == "score" else ""
    return page.finish(
        fig,
        title=f"Table {name[-1]}: the paper against ours",
        reading=reading,
        provenance=provenance,
        csv=page.csv(values),
        name=f"{name}-dots",
        height=200 + 32 * rows,
        left=118,
        alt=f"Dot plot of {word}. {'. '.join(said)}.",
    )
