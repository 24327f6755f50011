"""Figures and tables from records and summaries: what the book shows and what a live notebook shows.

Nothing here touches a model. Plotly figures (`radar`, `trade_off`, …) and HTML objects (`side_by_side`, `table`, …)
take data frames and return something that a notebook displays. Each carries a provenance line, alt text and a link to
its data as CSV. `use_book_renderer()` makes Plotly figures appear in JupyterLab and in the offline book alike; in the
book, `book/_static/book.js` turns menus into native controls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from . import page
from .page import (  # noqa: F401 (some are only offered here: `charts` is what a notebook imports)
    DATASET_LABELS,
    GONE,
    OUTCOMES,
    STYLES,
    WANTED,
    BookRenderer,
    Html,
    Style,
    style,
    use_book_renderer,
)

# ---------------------------------------------------------------------------------------------------------------------
# A summary, looked up


class _Summary:
    """Look-up of a summary by data set, method and set; ROUGE-1 recall and its interval."""

    def __init__(self, summary: pd.DataFrame, methods: Sequence[str] | None):
        page.need(summary, ("dataset", "method", "set", "rouge1_recall", "score"), "summary")
        if methods is not None:
            summary = summary[summary["method"].isin(list(methods))]
            page.need(summary, (), f"summary, for the methods {', '.join(methods)},")
        page.one_per(summary, ("dataset", "method", "set"), "summary")
        self.frame = summary
        self.datasets = list(dict.fromkeys(summary["dataset"]))
        self.methods = list(methods) if methods is not None else page.ordered(summary["method"])
        self._rows = {(r["dataset"], r["method"], r["set"]): r for r in summary.to_dict("records")}

    def get(self, dataset: str, method: str, which: str, column: str = "rouge1_recall") -> float | None:
        return page.number(self._rows.get((dataset, method, which), {}).get(column))

    def interval(self, dataset: str, method: str, which: str, metric: str = "rouge1_recall") -> tuple:
        """Value, low, high; without an interval both ends are the value."""
        value = self.get(dataset, method, which, metric)
        low, high = (self.get(dataset, method, which, f"{metric}_{end}") for end in ("low", "high"))
        return value, value if low is None else low, value if high is None else high

    def score(self, dataset: str, method: str) -> float | None:
        scores = (self.get(dataset, method, s, "score") for s in ("forget", "retain"))
        return next((s for s in scores if s is not None), None)

    def in_words(self, dataset: str) -> str:
        """The scores of one data set, best first: the part of the alt text that carries the finding."""
        scores = {m: s for m in self.methods if (s := self.score(dataset, m)) is not None}
        ranked = sorted(scores, key=lambda m: -scores[m])
        return f"{page.dataset_label(dataset)}, score: " + ", ".join(
            f"{style(m).label} {scores[m]:.2f}" for m in ranked
        )


def _flip(value: float | None) -> float | None:
    """1 - ROUGE: high is good, as on the other axes."""
    return None if value is None else round(1 - value, 4)


def _span(value: float | None, low: float | None, high: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} ({low:.2f}–{high:.2f})"


# ---------------------------------------------------------------------------------------------------------------------
# Radar: three aims at once

_AXES = (("forget", "Forget", True), ("retain", "Retain", False), ("rephrased", "Generalize", True))


def radar(
    summary: pd.DataFrame,
    *,
    provenance: str,
    paper: pd.DataFrame | None = None,
    methods: Sequence[str] | None = None,
    title: str = "Forgetting, retaining, generalizing",
    alt: str | None = None,
    name: str = "radar",
) -> go.Figure:
    """Three axes: 1 - ROUGE-1 on the forget set, ROUGE-1 on the retain set, 1 - ROUGE-1 on the rephrased questions.

    `summary` has one row per data set, method and set; each data set is an entry of the menu. A method that was not
    measured on an axis has a gap there, never a zero. `paper` (the columns of `paper_tables()`) is a second layer of thin
    dotted outlines, off at first; the book's page offers a box to tick.
    """
    table = _Summary(summary, methods)
    theirs = paper_values(paper, "rouge1_recall")
    values = [_radar_values(table, dataset, theirs) for dataset in table.datasets]
    fig = go.Figure()
    for i, method in enumerate(table.methods):
        look = style(method)
        fig.add_scatterpolar(
            name=look.label,
            mode="lines+markers",
            line={"color": look.colour, "width": 2, "dash": look.dash},
            marker=page.marker(look, 9),
            hovertemplate="<b>%{fullData.name}</b><br>%{theta}: %{customdata}<extra></extra>",
            connectgaps=False,
            meta=method,
            **page.initial(values[0], i),
        )
    for i, method in enumerate(table.methods if theirs else (), len(table.methods)):
        look = style(method)
        fig.add_scatterpolar(
            name=f"{look.label} (paper)",
            mode="lines+markers",
            line={"color": look.colour, "width": 1.5, "dash": "dot"},
            marker={"symbol": "x-thin-open", "size": 8, "color": look.colour, "line": {"width": 2}},
            hovertemplate="<b>%{fullData.name}</b><br>%{theta}: %{customdata}<extra></extra>",
            connectgaps=False,
            visible=False,
            showlegend=False,
            meta=f"paper {method}",
            **page.initial(values[0], i),
        )
    fig.update_layout(
        polar={
            "gridshape": "linear",
            "sector": [-31, 211],  # the triangle without the empty lower half of its circle; a mark on the edge is cut
            "radialaxis": {"range": [0, 1], "tickvals": [0.25, 0.5, 0.75, 1], "tickangle": 90, "angle": 90},
            "angularaxis": {"rotation": 90, "direction": "clockwise"},
        },
        updatemenus=page.menu(table.datasets, values),
    )
    about = "Radar chart; on each of three axes (forget, retain, generalize) further out is better."
    return page.finish(
        fig,
        title=title,
        reading="Further out is better on every axis.",
        alt=alt or f"{about} {'. '.join(map(table.in_words, table.datasets))}.",
        provenance=provenance,
        csv=page.csv(table.frame),
        name=name,
        height=480,
    )


def _radar_values(table: _Summary, dataset: str, theirs: dict[tuple[str, str, str], float]) -> dict[str, list]:
    labels = [label for _, label, _ in _AXES]
    r, text = [], []
    for is_paper in (False, True) if theirs else (False,):
        for method in table.methods:
            points, words = [], []
            for which, _, flip in _AXES:
                if is_paper:
                    value = low = high = theirs.get((dataset, method, which))
                else:
                    value, low, high = table.interval(dataset, method, which)
                if flip:
                    value, low, high = _flip(value), _flip(high), _flip(low)
                points.append(value)
                words.append(page.plain(value) if is_paper else _span(value, low, high))
            r.append([*points, points[0]])  # back to the first axis: the outline closes
            text.append([*words, words[0]])
    return {"r": r, "theta": [[*labels, labels[0]]] * len(r), "customdata": text}


# ---------------------------------------------------------------------------------------------------------------------
# Trade-off: the two aims that pull against each other


def trade_off(
    summary: pd.DataFrame,
    *,
    provenance: str,
    methods: Sequence[str] | None = None,
    title: str = "What forgetting costs",
    alt: str | None = None,
    name: str = "trade-off",
) -> go.Figure:
    """Forgotten (1 - ROUGE-1 on the forget set) against retained (ROUGE-1 on the retain set), with intervals.

    Dotted lines join points of equal score = forgotten + retained; the score of 2 in the upper right corner is ideal.
    """
    table = _Summary(summary, methods)
    values = [_trade_off_values(table, dataset) for dataset in table.datasets]
    fig = go.Figure()
    for i, method in enumerate(table.methods):
        look = style(method)
        bars = {"type": "data", "symmetric": False, "color": look.colour, "thickness": 1, "width": 0}
        mine = {key: value for key, value in page.initial(values[0], i).items() if not key.startswith("error")}
        fig.add_scatter(
            name=look.label,
            mode="markers",
            marker=page.marker(look, 12),
            error_x=bars | {"array": values[0]["error_x.array"][i], "arrayminus": values[0]["error_x.arrayminus"][i]},
            error_y=bars | {"array": values[0]["error_y.array"][i], "arrayminus": values[0]["error_y.arrayminus"][i]},
            hovertemplate="<b>%{fullData.name}</b><br>%{customdata}<extra></extra>",
            cliponaxis=False,
            **mine,
        )
    axis = {"range": [-0.02, 1.04], "tickvals": [0, 0.25, 0.5, 0.75, 1], "zeroline": False, "showgrid": False}
    fig.update_layout(
        xaxis=axis | {"title": {"text": "Forgotten: 1 − ROUGE-1, forget set →"}, "showline": True},
        yaxis=axis | {"title": {"text": "Retained: ROUGE-1, retain set →"}, "showline": True},
        shapes=[_iso_line(score) for score in _ISO_SCORES],
        annotations=[_iso_label(score) for score in _ISO_SCORES],
        updatemenus=page.menu(table.datasets, values),
    )
    about = "Scatter plot of how much was forgotten against how much was retained; the upper right corner is ideal."
    return page.finish(
        fig,
        title=title,
        reading="Up and to the right is better; dotted lines join equal scores; bars are intervals.",
        alt=alt or f"{about} {'. '.join(map(table.in_words, table.datasets))}.",
        provenance=provenance,
        csv=page.csv(table.frame),
        name=name,
        height=520,
    )


_ISO_SCORES = (0.5, 1.0, 1.5, 1.75)


def _iso_line(score: float) -> dict:
    """forgotten + retained = score, cut off at the unit square."""
    left, right = max(0.0, score - 1), min(1.0, score)
    ends = {"x0": left, "y0": score - left, "x1": right, "y1": score - right}
    return {"type": "line", "layer": "below", **ends, "line": {"width": 1, "dash": "dot", "color": "#808080"}}


def _iso_label(score: float) -> dict:
    """The score, at the upper end of its line."""
    x = max(0.0, score - 1)
    text = f"score {score:g}"
    return {"x": x, "y": score - x, "text": text, "showarrow": False, "xanchor": "left", "yanchor": "bottom"}


def _trade_off_values(table: _Summary, dataset: str) -> dict[str, list]:
    keys = ("x", "y", "customdata", "error_x.array", "error_x.arrayminus", "error_y.array", "error_y.arrayminus")
    values: dict[str, list] = {key: [] for key in keys}
    for method in table.methods:
        forget, retain = table.interval(dataset, method, "forget"), table.interval(dataset, method, "retain")
        x, x_low, x_high = _flip(forget[0]), _flip(forget[2]), _flip(forget[1])
        y, y_low, y_high = retain
        score = table.score(dataset, method)
        words = f"forgotten {_span(x, x_low, x_high)}<br>retained {_span(y, y_low, y_high)}"
        words += "" if score is None else f"<br>score {score:.2f}"
        row = (x, y, words, _less(x_high, x), _less(x, x_low), _less(y_high, y), _less(y, y_low))
        for key, value in zip(keys, row, strict=True):
            values[key].append([value])
    return values


def _less(a: float | None, b: float | None) -> float | None:
    """The length of an interval's arm; rounding never makes it negative."""
    return None if a is None or b is None else max(0.0, round(a - b, 4))


# ---------------------------------------------------------------------------------------------------------------------
# Sweeps, pairs and attacks: one value of many cells

_SET_LOOKS = {  # one line a set; the paper's are the same, dashed and open
    "forget": ("#D55E00", "circle"),
    "rephrased": ("#CC79A7", "diamond"),
    "retain": ("#0072B2", "square"),
    "unseen": ("#009E73", "triangle-up"),
    "score": ("#808080", "star"),
}


def sweep(
    summary: pd.DataFrame,
    x: str,
    *,
    provenance: str,
    paper: pd.DataFrame | None = None,
    sets: Sequence[str] = ("forget", "rephrased", "retain"),
    title: str,
    x_title: str,
    reading: str = "Forget and rephrased: lower is better. Retain: higher is better.",
    alt: str | None = None,
    name: str = "sweep",
) -> go.Figure:
    """ROUGE-1 recall over a swept column (``n_forget``, ``merge``), one line per set, one entry of the menu per method.

    `summary` has one row per method, set and value of `x`; `paper` (the columns of `paper_tables()`) joins as dashed
    lines with open marks. Bars are 95 % intervals.
    """
    page.need(summary, ("method", "set", x, "rouge1_recall"), "summary")
    page.one_per(summary, ("method", "set", x), "summary")
    theirs = paper[paper["metric"] == "rouge1_recall"] if paper is not None else None
    methods = sorted(page.ordered(summary["method"]), key=("base", "retrained").__contains__)  # flat lines come last
    sets = [s for s in sets if s in set(summary["set"])]
    layers = [(which, False) for which in sets] + (
        [(which, True) for which in sets if which in set(theirs["set"])] if theirs is not None else []
    )
    values = []
    for method in methods:
        update: dict[str, list] = {"x": [], "y": [], "customdata": [], "error_y.array": [], "error_y.arrayminus": []}
        for which, is_paper in layers:
            source = theirs if is_paper else summary
            rows = source[(source["method"] == method) & (source["set"] == which)].sort_values(x).to_dict("records")
            column = "value" if is_paper else "rouge1_recall"
            y = [page.number(row[column]) for row in rows]
            low, high = (
                [page.number(row.get(f"rouge1_recall_{end}", row[column])) for row in rows] for end in ("low", "high")
            )
            update["x"].append([int(row[x]) for row in rows])
            update["y"].append(y)
            update["customdata"].append(
                [f"{v:.2f}" if is_paper else _span(v, lo, hi) for v, lo, hi in zip(y, low, high, strict=True)]
            )
            update["error_y.array"].append([_less(hi, v) for hi, v in zip(high, y, strict=True)])
            update["error_y.arrayminus"].append([_less(v, lo) for v, lo in zip(y, low, strict=True)])
        values.append(update)
    fig = go.Figure()
    for i, (which, is_paper) in enumerate(layers):
        colour, symbol = _SET_LOOKS.get(which, ("#808080", "hexagon"))
        mine = {key: column[i] for key, column in values[0].items() if not key.startswith("error")}
        bars = {"type": "data", "symmetric": False, "color": colour, "thickness": 1, "width": 0}
        fig.add_scatter(
            name=f"{which} (paper)" if is_paper else which,
            mode="lines+markers",
            line={"color": colour, "width": 1.5 if is_paper else 2.5, "dash": "dot" if is_paper else "solid"},
            marker={"symbol": f"{symbol}-open" if is_paper else symbol, "size": 9, "color": colour},
            error_y=bars | {"array": values[0]["error_y.array"][i], "arrayminus": values[0]["error_y.arrayminus"][i]},
            hovertemplate="<b>%{fullData.name}</b>, %{x}: %{customdata}<extra></extra>",
            cliponaxis=False,
            **mine,
        )
    ticks = sorted(set(summary[x]))
    fig.update_layout(
        xaxis={"title": {"text": x_title}, "tickvals": [int(t) for t in ticks], "zeroline": False, "showgrid": False},
        yaxis={
            "title": {"text": "ROUGE-1 recall"},
            "range": [-0.02, 1.04],
            "tickvals": [0, 0.25, 0.5, 0.75, 1],
            "zeroline": False,
        },
        updatemenus=page.menu([style(m).label for m in methods], values, "Method"),
    )
    ends = []
    for method in methods:
        rows = summary[(summary["method"] == method) & (summary["set"].isin(sets))]
        said = (
            f"{which} {', '.join(f'{v:.2f}' for v in rows[rows['set'] == which].sort_values(x)['rouge1_recall'])}"
            for which in sets
        )
        ends.append(f"{style(method).label}: {'; '.join(said)}")
    return page.finish(
        fig,
        title=title,
        reading=reading,
        provenance=provenance,
        csv=page.csv(summary),
        name=name,
        height=480,
        alt=alt or f"Line chart of ROUGE-1 recall over {x_title} ({', '.join(map(str, ticks))}). {'. '.join(ends)}.",
    )


_GROWTH = {
    "n_forget": "the questions to forget",
    "model": "the weights of the model",
    "cells": "the cells of the store",
}
_GROWTH_MEASURES = {"cpu_seconds": ("time (s)", 1.0), "peak_bytes": ("memory (MB)", 1e-6)}
_WORKS = {
    "evaluate": Style("asking", "#0072B2", "square"),
    "start": Style("finding stored cells", "#0072B2", "square"),
    "load": Style("reading them", "#009E73", "diamond"),
    "export": Style("writing one file", "#D55E00", "circle"),
    None: Style("in proportion", "#808080", "x", "dot"),
}


def growth(rows: pd.DataFrame, exponents: pd.DataFrame, sweep: str, *, provenance: str) -> go.Figure:
    """Time and memory of one sweep over size on logarithmic axes, one line per work; the menu has the two measures.

    `rows` has sweep, work, size, cpu_seconds and peak_bytes; `exponents` has sweep, work, measure and exponent
    (``benchmarks/growth.py``). The dotted line grows in proportion to size.
    """
    page.need(rows, ("sweep", "work", "size", *_GROWTH_MEASURES), "rows")
    rows, what = rows[rows["sweep"] == sweep].sort_values("size", kind="stable"), _GROWTH[sweep]
    works, values = list(dict.fromkeys(rows["work"])), []
    ends = [int(rows["size"].min()), int(rows["size"].max())]
    for measure, (_, unit) in _GROWTH_MEASURES.items():
        lines = [rows[rows["work"] == work] for work in works]
        y = [[float(f"{value * unit:.4g}") if value > 0 else None for value in line[measure]] for line in lines]
        # Of the smallest size: there the dotted line begins.
        least = min((line[0] for line in y if line[0]), default=None)
        y.append([least and float(f"{least * end / ends[0]:.4g}") for end in ends])
        values.append({"x": [*([int(size) for size in line["size"]] for line in lines), ends], "y": y})
    fig = go.Figure()
    for i, work in enumerate([*works, None]):
        look = _WORKS[work] if work in _WORKS else style(work)
        fig.add_scatter(
            name=look.label,
            mode="lines+markers" if work else "lines",
            marker=page.marker(look, 9),
            line={"color": look.colour, "width": 2 if work else 1, "dash": look.dash},
            cliponaxis=False,
            hovertemplate="<b>%{fullData.name}</b>, %{x}: %{y}<extra></extra>",
            **page.initial(values[0], i),
        )
    axis = {"type": "log", "dtick": 1, "zeroline": False}
    fig.update_layout(
        xaxis=axis | {"title": {"text": what}},
        yaxis=axis | {"title": {"text": "seconds of one core, or MB"}},
        updatemenus=page.menu([label for label, _ in _GROWTH_MEASURES.values()], values, "Shown"),
    )
    said = ", ".join(
        f"{_GROWTH_MEASURES[row.measure][0]} of {row.work} {row.exponent:.2f}"
        for row in exponents[exponents["sweep"] == sweep].itertuples()
    )
    return page.finish(
        fig,
        title=f"Growth with {what}",
        provenance=provenance,
        csv=page.csv(rows),
        name=f"growth-{sweep}",
        height=460,
        reading="As steep as the dotted line: twice as much costs twice as much. Flatter is better.",
        alt=f"Line chart on logarithmic axes over {what}. Exponents (1: in proportion): {said}.",
    )


def pairs(
    summary: pd.DataFrame,
    sets: Sequence[str] = ("forget", "rephrased"),
    *,
    provenance: str,
    paper: pd.DataFrame | None = None,
    title: str,
    reading: str,
    alt: str | None = None,
    name: str = "pairs",
) -> go.Figure:
    """The values of every method on some sets, joined by a line, with intervals; each data set is an entry of the menu.

    The paper's values, where `paper` has them, are small crosses above ours.
    """
    table = _Summary(summary, None)
    theirs = paper_values(paper, "rouge1_recall")
    labels = [style(m).label for m in table.methods]
    values = []
    for dataset in table.datasets:
        update: dict[str, list] = {"x": [], "y": [], "customdata": [], "error_x.array": [], "error_x.arrayminus": []}
        both = [[table.get(dataset, m, s) for s in sets] for m in table.methods]
        joined = [(x, label) for two, label in zip(both, labels, strict=True) for x in (*two, None)]
        rows = [([x for x, _ in joined], [y for _, y in joined], [""] * len(joined), [], [])]
        for which in sets:
            spans = [table.interval(dataset, m, which) for m in table.methods]
            rows.append(
                (
                    [v for v, _, _ in spans],
                    labels,
                    [f"{which} {_span(*span)}" for span in spans],
                    [_less(high, v) for v, _, high in spans],
                    [_less(v, low) for v, low, _ in spans],
                )
            )
        for which in sets:
            found = [theirs.get((dataset, m, which)) for m in table.methods]
            rows.append((found, labels, [f"{which} {page.plain(v)} in the paper" for v in found], [], []))
        for row in rows:
            for key, value in zip(update, row, strict=True):
                update[key].append(value)
        values.append(update)
    looks = [_SET_LOOKS.get(which, ("#808080", "hexagon")) for which in sets]
    fig = go.Figure()
    names = ["", *sets, *(f"{which} (paper)" for which in sets)]
    for i, label in enumerate(names):
        mine = {key: column[i] for key, column in values[0].items() if not key.startswith("error")}
        if i == 0:
            fig.add_scatter(
                mode="lines", line={"color": "#808080", "width": 2}, hoverinfo="skip", showlegend=False, **mine
            )
            continue
        colour, symbol = looks[(i - 1) % len(sets)]
        bars = {"type": "data", "symmetric": False, "color": colour, "thickness": 1, "width": 0}
        marker = (
            {"symbol": symbol, "size": 11, "color": colour}
            if i <= len(sets)
            else {"symbol": "x-thin-open", "size": 9, "color": colour, "line": {"width": 2}}
        )
        fig.add_scatter(
            name=label,
            mode="markers",
            marker=marker,
            cliponaxis=False,
            error_x=bars | {"array": values[0]["error_x.array"][i], "arrayminus": values[0]["error_x.arrayminus"][i]},
            hovertemplate="<b>%{y}</b>: %{customdata}<extra></extra>",
            **mine,
        )
    fig.update_layout(
        xaxis={
            "title": {"text": "ROUGE-1 recall"},
            "range": [-0.02, 1.04],
            "tickvals": [0, 0.25, 0.5, 0.75, 1],
            "zeroline": False,
        },
        yaxis={"autorange": "reversed", "showgrid": False, "categoryorder": "array", "categoryarray": labels},
        updatemenus=page.menu([page.dataset_label(d) for d in table.datasets], values),
    )
    said = []
    for dataset in table.datasets:
        each = (
            f"{style(m).label} {' and '.join(page.plain(table.get(dataset, m, which)) for which in sets)}"
            for m in table.methods
        )
        said.append(f"{page.dataset_label(dataset)}: {', '.join(each)}")
    return page.finish(
        fig,
        title=title,
        reading=reading,
        provenance=provenance,
        csv=page.csv(table.frame),
        name=name,
        height=540,
        left=118,
        alt=alt or f"Dot plot of ROUGE-1 recall, {', '.join(sets)} of each method. {'. '.join(said)}.",
    )


def matrix(
    frame: pd.DataFrame,
    rows: str,
    columns: str,
    *,
    provenance: str,
    title: str,
    reading: str,
    alt: str | None = None,
    name: str = "matrix",
) -> go.Figure:
    """A value with its interval (``rouge1_recall``, ``_low``, ``_high``) by two columns, as shaded and numbered cells.

    Each data set is an entry of the menu. The order of rows and columns is that of the frame; what was not measured is
    empty.
    """
    page.need(frame, ("dataset", rows, columns, "rouge1_recall"), "frame")
    page.one_per(frame, ("dataset", rows, columns), "frame")
    datasets = list(dict.fromkeys(frame["dataset"]))
    down, across = list(dict.fromkeys(frame[rows])), list(dict.fromkeys(frame[columns]))
    found = {(r["dataset"], r[rows], r[columns]): r for r in frame.to_dict("records")}
    values = []
    for dataset in datasets:
        cells = [[found.get((dataset, a, b), {}) for b in across] for a in down]
        z = [[page.number(c.get("rouge1_recall")) for c in line] for line in cells]
        spans = [
            [
                _span(v, *(page.number(c.get(f"rouge1_recall_{end}", v)) for end in ("low", "high")))
                for v, c in zip(vs, line, strict=True)
            ]
            for vs, line in zip(z, cells, strict=True)
        ]
        text = [
            ["" if v is None else "1.0" if v >= 0.995 else f"{v:.2f}"[1:] for v in line] for line in z
        ]  # nine fit a phone
        values.append({"z": [z], "text": [text], "customdata": [spans]})
    labels = [style(str(r)).label for r in down]
    fig = go.Figure()
    fig.add_heatmap(
        x=across,
        y=labels,
        zmin=0,
        zmax=1,
        xgap=2,
        ygap=2,
        texttemplate="%{text}",
        textfont={"size": 11},
        colorscale=[
            [0, "rgba(213,94,0,0.04)"],
            [1, "rgba(213,94,0,0.6)"],
        ],  # a tint: the theme's text stays legible on it
        showscale=False,
        hoverongaps=False,
        hovertemplate="<b>%{y}</b>, %{x}: %{customdata}<extra></extra>",
        **page.initial(values[0], 0),
    )
    fig.update_layout(
        xaxis={"side": "top", "tickangle": -45, "showgrid": False, "fixedrange": True},
        yaxis={"autorange": "reversed", "showgrid": False, "fixedrange": True},
        updatemenus=page.menu([page.dataset_label(d) for d in datasets], values),
    )
    said = []
    for dataset in datasets:
        lines = (
            f"{style(str(a)).label} "
            + ", ".join(
                f"{b} {page.plain(page.number(found.get((dataset, a, b), {}).get('rouge1_recall')))}" for b in across
            )
            for a in down
        )
        said.append(f"{page.dataset_label(dataset)}: {'; '.join(lines)}")
    return page.finish(
        fig,
        title=title,
        reading=reading,
        provenance=provenance,
        csv=page.csv(frame),
        name=name,
        height=180 + 30 * len(down),
        left=118,
        alt=alt or f"Matrix of ROUGE-1 recall. {'. '.join(said)}.",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Side by side: what the models actually said

_WORD = re.compile(r"[^\W_]+")
# Words too common to give anything away: an answer's "the" in an output is no leak.
_COMMON = frozenset(_WORD.findall("a an and are as at by for from in is it its of on or that the this to was with"))


def answer_words(text: str, answer: str, question: str = "") -> list[tuple[int, int]]:
    """Where `text` says words of the answer: (start, end) of each.

    Case does not matter; words of the question and very common words do not count, for they give nothing away.
    """
    known = {w.lower() for w in _WORD.findall(question)} | _COMMON
    wanted = {w.lower() for w in _WORD.findall(answer)} - known
    return [m.span() for m in _WORD.finditer(text) if m.group().lower() in wanted]


def side_by_side(
    records: pd.DataFrame,
    methods: Sequence[str] | None = None,
    *,
    provenance: str,
    questions: int | Sequence[tuple[str, Any, int]] = 6,
    sets: Sequence[str] = ("forget", "rephrased", "retain"),
    title: str = "The same question, put to every model",
    name: str = "side-by-side",
) -> Html:
    """For each of some questions: the answer, the base model's output and every method's, beside its outcome.

    `questions` is the number taken from the head of each set (no picking of telling ones), or a list of
    (set, id, variant). Without a page script each question is a fold-out; in the book the page script puts a question
    selector and filters by method, outcome and word in front, whose state lies in the address (`#<name>?q=…&outcome=…`).
    """
    page.need(records, ("method", "set", "id", "question", "answer", "output", "outcome"), "records")
    records = records.assign(
        dataset=records.get("dataset", ""),
        variant=records["variant"].fillna(0).astype(int) if "variant" in records else 0,
    )
    methods = list(methods) if methods is not None else page.ordered(records["method"])
    if "base" in set(records["method"]):
        methods = ["base", *(m for m in methods if m != "base")]  # the output before unlearning is always there
    records = records[records["method"].isin(methods)]
    page.need(records, (), f"records, for the methods {', '.join(methods)},")
    keys = ["dataset", "set", "id", "variant"]
    page.one_per(records, [*keys, "method"], "records")

    chosen = _choose(records, keys, questions, sets)
    rank = {method: i for i, method in enumerate(methods)}
    # One pass over the table, not one per question: a study's records are many.
    rows_of: dict[tuple, list[dict]] = {key: [] for key in chosen}
    for row in records.to_dict("records"):
        key = tuple(row[k] for k in keys)
        if key in rows_of:
            rows_of[key].append(row)
    for rows in rows_of.values():
        rows.sort(key=lambda row: rank[row["method"]])

    many = records["dataset"].nunique() > 1
    index = [
        {
            "key": "/".join(map(str, key[1:] if not many else key)),
            "dataset": str(key[0]),
            "group": (f"{page.dataset_label(key[0])}: " if many else "") + str(key[1]),
            "question": str(rows[0]["question"]),
            "outcomes": sorted({row["outcome"] for row in rows}),
        }
        for key, rows in rows_of.items()
    ]
    cases = "".join(_case_html(rows, first=i == 0) for i, rows in enumerate(rows_of.values()))
    flat = [row for rows in rows_of.values() for row in rows]
    shown = [m for m in methods if m in {row["method"] for row in flat}]
    about = {"cases": index, "outcomes": list(OUTCOMES), "methods": [[m, style(m).label] for m in shown]}
    columns = [*keys, "question", "answer", "method", "outcome", "output"]
    text = "\n\n".join(_case_text(rows) for rows in rows_of.values())
    marked = "Marked: <mark>words of the answer</mark>, where the question does not already say them."
    return Html(
        html=(
            f'<section class="eu eu-sbs" id="{escape(name)}" aria-label="{escape(title)}">'
            f'<p class="eu-title">{escape(title)}</p><p class="eu-reading">{marked}</p>'
            f'<div class="eu-controls"></div><p class="eu-count" role="status"></p>{cases}'
            f'<script type="application/json">{page.json_for_script(about)}</script>'
            f"{page.note(provenance, page.csv(pd.DataFrame(flat)[columns]), name)}</section>"
        ),
        text=f"{title}\n\n{text}\n\nSource: {provenance}",
    )


def _choose(
    records: pd.DataFrame, keys: list[str], questions: int | Sequence[tuple[str, Any, int]], sets: Sequence[str]
) -> list[tuple]:
    asked = [tuple(row) for row in records[keys].drop_duplicates().itertuples(index=False)]
    if isinstance(questions, int):
        chosen: list[tuple] = []
        for dataset in dict.fromkeys(key[0] for key in asked):
            for which in sets:
                chosen += [key for key in asked if key[:2] == (dataset, which)][:questions]
    else:
        wanted = [tuple(q) for q in questions]
        absent = [q for q in wanted if q not in {key[1:] for key in asked}]
        if absent:
            raise ValueError(f"records have no question (set, id, variant) = {absent[0]!r}")
        chosen = [key for q in wanted for key in asked if key[1:] == q]
    if not chosen:
        raise ValueError(f"records have no questions in the sets {', '.join(sets)}; they have {set(records['set'])}")
    return chosen


def _marked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Escaped text with the spans in <mark>."""
    out, at = [], 0
    for start, end in spans:
        out += [escape(text[at:start]), "<mark>", escape(text[start:end]), "</mark>"]
        at = end
    return "".join(out) + escape(text[at:])


def output_html(output: str, answer: str | None, question: str) -> str:
    """An output as HTML, escaped, with words of the answer marked (none where the answer is not known)."""
    if not output.strip():
        return "<em>(nothing)</em>"
    return _marked(output, answer_words(output, answer, question) if answer else [])


def _case_html(rows: list[dict], *, first: bool) -> str:
    question, answer, which = str(rows[0]["question"]), str(rows[0]["answer"]), str(rows[0]["set"])
    wanted = WANTED.get(which, f"{which}: nothing about it should change")
    items = []
    for row in rows:
        output, outcome = str(row["output"]), str(row["outcome"])
        items.append(
            f'<li data-outcome="{escape(outcome)}" data-method="{escape(str(row["method"]))}">'
            f"<strong>{escape(style(row['method']).label)}</strong> "
            f'<span class="eu-outcome">{escape(outcome)}</span> <span class="eu-output">{output_html(output, answer, question)}</span></li>'
        )
    return (
        f'<details class="eu-case"{" open" if first else ""}><summary>{escape(question)}</summary>'
        f'<p class="eu-answer">Answer: <strong>{escape(answer)}</strong> <span>({escape(wanted)})</span></p>'
        f'<ul role="list">{"".join(items)}</ul></details>'
    )


def _case_text(rows: list[dict]) -> str:
    lines = [f"[{rows[0]['set']}] {rows[0]['question']}", f"  answer: {rows[0]['answer']}"]
    return "\n".join(lines + [f"  {style(r['method']).label} ({r['outcome']}): {r['output']}" for r in rows])


# ---------------------------------------------------------------------------------------------------------------------
# Table: ours beside the paper's


def table(
    summary: pd.DataFrame,
    paper: pd.DataFrame | None = None,
    *,
    provenance: str,
    caption: str,
    methods: Sequence[str] | None = None,
    metric: str = "rouge1_recall",
    sets: Sequence[str] = ("forget", "rephrased", "retain", "unseen"),
    name: str = "table",
) -> Html:
    """One row per method, one column per set; the paper's value beside ours where there is one.

    `paper` has the columns of `paper_tables()`, cut down to one value per data set, method and set of this `metric`;
    to set PISTOL beside our contracts, rename its data set first. The paper's score is worked out from its values.
    """
    ours = _Summary(summary, methods)
    sets = [s for s in sets if s in set(ours.frame["set"])]
    theirs = paper_values(paper, metric)
    spoken = {s for _, _, s in theirs}
    columns: list[tuple[str, str]] = []  # (set or "score", "ours" or "paper")
    for which in [*sets, "score"]:
        columns += [(which, "ours")] + ([(which, "paper")] if which in spoken else [])

    rows, body, text = [], [], []
    for dataset in ours.datasets:
        lines = []
        for method in [m for m in ours.methods if any(ours.get(dataset, m, s, metric) is not None for s in sets)]:
            row: dict[str, Any] = {"dataset": dataset, "method": method}
            cells = []
            for which, whose in columns:
                if whose == "paper":
                    value, low, high = theirs.get((dataset, method, which)), None, None
                elif which == "score":
                    value, low, high = ours.score(dataset, method), None, None
                else:
                    value, low, high = ours.interval(dataset, method, which, metric)
                    row |= {f"{which}_low": low, f"{which}_high": high}
                row[f"{which}_{whose}"] = value
                cells.append(_cell(value, low, high, whose))
            rows.append(row)
            lines.append(
                f'<tr data-method="{escape(method)}"><th scope="row">{escape(style(method).label)}</th>{"".join(cells)}</tr>'
            )
            shown = (f"{w} {o} {page.plain(row[f'{w}_{o}'])}" for w, o in columns)
            text.append(f"{page.dataset_label(dataset)}, {style(method).label}: {', '.join(shown)}")
        group = f'<tr><th scope="rowgroup" colspan="{len(columns) + 1}">{escape(page.dataset_label(dataset))}</th></tr>'
        body.append(f'<tbody data-dataset="{escape(dataset)}">{group}{"".join(lines)}</tbody>')

    head = _table_head(columns, [*sets, "score"])
    frame = pd.DataFrame(rows)
    return Html(
        html=(
            '<div class="eu eu-table">'
            f'<div class="eu-scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
            f"<table><caption>{escape(caption)}</caption>{head}{''.join(body)}</table></div>"
            f"{page.note(provenance, page.csv(frame), name)}</div>"
        ),
        text="\n".join([caption, *text, f"Source: {provenance}"]),
    )


def plain_table(values: pd.DataFrame, caption: str, *, provenance: str, name: str, group: str | None = None) -> Html:
    """Any table of a few columns: numbers with two decimals, methods and data sets by their labels.

    The column "method" (else the first) names the rows; each value of `group`, in the order of the rows, stands over
    its own. Columns "x_low" and "x_high" are the interval of "x" and stand small under it. The download holds `values`
    as they are. Raises ValueError if there are no rows, or no such `group`.
    """
    page.need(values, () if group is None else (group,), f"the table {name!r}")
    return Html(
        html=f'<div class="eu eu-table">{values_html(values, caption, group, captioned=True)}{page.note(provenance, page.csv(values), name)}</div>',
        text="\n".join([caption, values.to_string(index=False), f"Source: {provenance}"]),
    )


def values_html(
    values: pd.DataFrame,
    caption: str,
    group: str | None = None,
    *,
    captioned: bool = False,
    number: Callable[[float], str] = page.plain,
) -> str:
    """The table itself. A column "product; forget" has its name in two lines; empty without rows."""
    if values.empty:
        return ""
    ends = {c: (f"{c}_low", f"{c}_high") for c in values if f"{c}_low" in values and f"{c}_high" in values}
    columns = [c for c in values if c != group and c not in {end for pair in ends.values() for end in pair}]
    first = "method" if "method" in columns else columns[0]
    columns = [first, *(c for c in columns if c != first)]
    words = {c: _WORDS for c in columns[1:] if any(isinstance(v, str) and v[:1].isalpha() for v in values[c])}
    names = ""
    for c in columns:
        above, _, below = str(c).rpartition("; ")
        small = f"<small>{escape(below)}</small>" if above else ""
        names += f'<th scope="col"{words.get(c, "")}>{escape(above or below)}{small}</th>'
    body = []
    for title, rows in [("", values)] if group is None else values.groupby(group, sort=False):
        body.append("<tbody>")
        if group is not None:
            body.append(f'<tr><th scope="rowgroup" colspan="{len(columns)}">{_value(title, group, number)}</th></tr>')
        for row in rows.to_dict("records"):
            cells = (
                f"<td{words.get(c, '')}>{_value(row[c], c, number)}{_interval(row, *ends.get(c, ()))}</td>"
                for c in columns[1:]
            )
            body.append(f'<tr><th scope="row">{_value(row[first], first, number)}</th>{"".join(cells)}</tr>')
        body.append("</tbody>")
    return (
        f'<div class="eu-scroll{" eu-many" if len(columns) > 8 else ""}" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        + (f"<caption>{escape(caption)}</caption>" if captioned else "")
        + f"<thead><tr>{names}</tr></thead>{''.join(body)}</table></div>"
    )


_WORDS = ' class="eu-text"'  # stands on the left, in several lines where there is no room for one


def _interval(row: dict, *ends: str) -> str:
    low_high = [page.number(row[end]) for end in ends]
    return f"<small>{'–'.join(map(page.plain, low_high))}</small>" if low_high and None not in low_high else ""


def _value(value: object, column: str, number: Callable[[float], str]) -> str:
    if column in ("method", "dataset"):
        return escape(style(value).label if column == "method" else page.dataset_label(value))
    if isinstance(value, float):
        return "–" if pd.isna(value) else number(value)
    return "–" if value is None else escape(str(value)).replace("–", "–&NoBreak;")  # an interval stays in one line


def edit_report(
    log: Sequence[dict], *, provenance: str, caption: str = "The edits", limit: int = 12, name: str = "edits"
) -> Html:
    """One row per edit of `patch.info["log"]`: what did not take comes first, in red, then the others up to `limit`.

    Said before and after: greedy answers to the request itself. Took: with the patch on, the first token is the
    target's. Loss: that of the value optimisation at its end. ‖δ‖: how far the value was moved.
    """
    frame = pd.DataFrame(list(log))
    page.need(frame, ("question", "target", "before", "after", "took", "loss"), "log")
    frame = frame.assign(delta_norm=frame.get("delta_norm"))[
        ["question", "target", "before", "after", "took", "loss", "delta_norm"]
    ]
    took = int(frame["took"].sum())
    chosen = frame.sort_values("took", kind="stable")
    shown = chosen.head(max(limit, len(frame) - took))
    body, text = [], []
    for row in shown.to_dict("records"):
        verdict = "took" if row["took"] else '<strong class="eu-miss">did not take</strong>'
        numbers = [page.plain(page.number(row["loss"])), page.plain(page.number(row["delta_norm"]))]
        said = [escape(str(row[k])) for k in ("target", "before", "after")]
        body.append(
            f'<tr><th scope="row">{escape(str(row["question"]))}</th>'
            f"{''.join(f'<td{_WORDS}>{x}</td>' for x in said)}<td>{verdict}</td>"
            f"{''.join(f'<td>{x}</td>' for x in numbers)}</tr>"
        )
        text.append(f"{'took' if row['took'] else 'DID NOT TAKE'}: {row['question']} -> {row['after']}")
    caption = f"{caption}: {took} of {len(frame)} took" + (f", {len(shown)} shown" if len(shown) < len(frame) else "")
    words, numbers = ("Request", "Target", "Said before", "Says now"), ("First token", "Loss", "‖δ‖")
    heads = [f'<th scope="col"{_WORDS}>{h}</th>' for h in words] + [f'<th scope="col">{h}</th>' for h in numbers]
    head = f"<thead><tr>{''.join(heads)}</tr></thead>"
    return Html(
        html=(
            f'<div class="eu eu-table eu-edits"><div class="eu-scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
            f"<table><caption>{escape(caption)}</caption>{head}<tbody>{''.join(body)}</tbody></table></div>"
            f"{page.note(provenance, page.csv(frame), name)}</div>"
        ),
        text="\n".join([caption, *text, f"Source: {provenance}"]),
    )


def paper_values(paper: pd.DataFrame | None, metric: str) -> dict[tuple[str, str, str], float]:
    if paper is None:
        return {}
    page.need(paper, ("dataset", "method", "set", "metric", "value"), "paper")
    paper = paper[paper["metric"] == metric]
    page.one_per(paper, ("dataset", "method", "set"), "paper")
    values = {(r["dataset"], r["method"], r["set"]): page.number(r["value"]) for r in paper.to_dict("records")}
    values = {key: value for key, value in values.items() if value is not None}
    if metric == "rouge1_recall":  # the score is defined on ROUGE-1 only
        for dataset, method in {key[:2] for key in values}:
            forget, retain = values.get((dataset, method, "forget")), values.get((dataset, method, "retain"))
            if forget is not None and retain is not None:
                values[dataset, method, "score"] = round(1 - forget + retain, 4)
    return values


def _table_head(columns: list[tuple[str, str]], groups: Sequence[str]) -> str:
    """Two rows: the sets with the direction that is good, then whose value it is (only where the paper has any)."""
    two = any(whose == "paper" for _, whose in columns)
    top, below = [f'<th scope="col"{" rowspan=2" if two else ""}>Method</th>'], []
    for group in groups:
        width = sum(which == group for which, _ in columns)
        good = "lower is better" if group in GONE else "higher is better"
        top.append(f'<th scope="colgroup" colspan="{width}">{escape(group)}<small>{good}</small></th>')
    for _, whose in columns:
        below.append(f'<th scope="col" class="eu-{whose}">{whose}</th>')
    second = f"<tr>{''.join(below)}</tr>" if two else ""
    return f"<thead><tr>{''.join(top)}</tr>{second}</thead>"


def _cell(value: float | None, low: float | None, high: float | None, whose: str) -> str:
    small = "" if low is None or high is None else f"<small>{low:.2f}–{high:.2f}</small>"
    return f'<td class="eu-{whose}">{page.plain(value)}{small}</td>'
