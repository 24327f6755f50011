"""Plotly figures from summaries. Each holds what its menu offers and carries alt text, source and data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from . import page
from .page import GREY, Span, style

_SET_LOOKS = {  # one line a set; the paper's are the same, dashed and open
    "forget": ("#D55E00", "circle"),
    "rephrased": ("#CC79A7", "diamond"),
    "retain": ("#0072B2", "square"),
    "unseen": ("#009E73", "triangle-up"),
}
_RECALL = {"range": [-0.02, 1.04], "tickvals": [0, 0.25, 0.5, 0.75, 1], "zeroline": False}


def radar(
    summary: pd.DataFrame, *, provenance: str, paper: pd.DataFrame | None = None, name: str = "radar"
) -> go.Figure:
    """Three axes: 1 - ROUGE-1 on the forget set, ROUGE-1 on the retain set, 1 - ROUGE-1 on the rephrased questions.

    `summary` has one row per data set, method and set; each data set is an entry of the menu. A method that was not
    measured on an axis has a gap there, never a zero. `paper` (the columns of `paper_tables()`) is a second layer of
    thin dotted outlines, off at first; the book's page offers a box to tick.
    """
    table, theirs = page.Summary(summary), page.paper_values(paper)
    axes = {"Forget": "forget", "Retain": "retain", "Generalize": "rephrased"}

    def outline(method: str, of_paper: bool, dataset: str) -> dict[str, list]:
        spans = []
        for which in [*axes.values(), "forget"]:  # back to the first axis: the outline closes
            value = theirs.get((dataset, method, which))
            span = (value, value, value) if of_paper else table[dataset, method, which]
            spans.append(_flip(span) if which in page.GONE else span)
        texts = [page.plain(span[0]) if of_paper else _words(span) for span in spans]
        return {"r": [span[0] for span in spans], "theta": [*axes, "Forget"], "customdata": texts}

    def look(method: str, of_paper: bool) -> dict[str, Any]:
        mark = style(method)
        own = {"name": mark.label, "meta": method, "marker": page.marker(mark, 9)}
        own["line"] = {"color": mark.colour, "width": 2, "dash": mark.dash}
        if of_paper:
            own = {"name": f"{mark.label} (paper)", "meta": f"paper {method}", "visible": False, "showlegend": False}
            own |= {"line": {"color": mark.colour, "width": 1.5, "dash": "dot"}, "marker": _cross(mark.colour, 8)}
        hover = "<b>%{fullData.name}</b><br>%{theta}: %{customdata}<extra></extra>"
        return own | {"type": "scatterpolar", "mode": "lines+markers", "hovertemplate": hover, "connectgaps": False}

    layers = [(method, of_paper) for of_paper in ([False, True] if theirs else [False]) for method in table.methods]
    traces = [(look(*layer), partial(outline, *layer)) for layer in layers]
    polar = {
        "gridshape": "linear",
        "sector": [-31, 211],  # the triangle without the empty lower half of its circle; a mark on the edge is cut
        "radialaxis": {"range": [0, 1], "tickvals": [0.25, 0.5, 0.75, 1], "tickangle": 90, "angle": 90},
        "angularaxis": {"rotation": 90, "direction": "clockwise"},
    }
    about = {"title": "Forgetting, retaining, generalizing", "reading": "Further out is better on every axis."}
    alt = "Radar chart; on each of three axes (forget, retain, generalize) further out is better."
    about |= {"alt": f"{alt} {table.in_words()}.", "provenance": provenance, "name": name}
    return _figure(table.frame, table.datasets, traces, {"polar": polar}, height=480, **about)


def trade_off(
    summary: pd.DataFrame, *, provenance: str, title: str = "What forgetting costs", name: str = "trade-off"
) -> go.Figure:
    """Forgotten (1 - ROUGE-1 on the forget set) against retained (ROUGE-1 on the retain set), with intervals.

    Dotted lines join points of equal score = forgotten + retained; the score of 2 in the upper right corner is ideal.
    """
    table = page.Summary(summary)

    def point(method: str, dataset: str) -> dict[str, list]:
        x, y = _flip(table[dataset, method, "forget"]), table[dataset, method, "retain"]
        score = table.score(dataset, method)
        text = f"forgotten {_words(x)}<br>retained {_words(y)}" + ("" if score is None else f"<br>score {score:.2f}")
        return {"x": [x[0]], "y": [y[0]], "customdata": [text], **_arms("x", [x]), **_arms("y", [y])}

    def look(method: str) -> dict[str, Any]:
        mark, hover = style(method), "<b>%{fullData.name}</b><br>%{customdata}<extra></extra>"
        bars = {"error_x": _bars(mark.colour), "error_y": _bars(mark.colour)}
        return {"name": mark.label, "mode": "markers", "marker": page.marker(mark, 12), "hovertemplate": hover, **bars}

    lines, scores = [], []
    for score in (0.5, 1.0, 1.5, 1.75):  # forgotten + retained = score, cut off at the unit square
        left, right = max(0.0, score - 1), min(1.0, score)
        ends = {"x0": left, "y0": score - left, "x1": right, "y1": score - right}
        lines.append({"type": "line", "layer": "below", **ends, "line": {"width": 1, "dash": "dot", "color": GREY}})
        place = {"x": left, "y": score - left, "xanchor": "left", "yanchor": "bottom"}
        scores.append({"text": f"score {score:g}", "showarrow": False, **place})
    axis = _RECALL | {"showgrid": False, "showline": True}
    xaxis = axis | {"title": {"text": "Forgotten: 1 − ROUGE-1, forget set →"}}
    yaxis = axis | {"title": {"text": "Retained: ROUGE-1, retain set →"}}
    layout = {"xaxis": xaxis, "yaxis": yaxis, "shapes": lines, "annotations": scores}
    traces = [(look(method), partial(point, method)) for method in table.methods]
    reading = "Up and to the right is better; dotted lines join equal scores; bars are intervals."
    alt = "Scatter plot of how much was forgotten against how much was retained; the upper right corner is ideal."
    about = {"title": title, "reading": reading, "alt": f"{alt} {table.in_words()}.", "provenance": provenance}
    return _figure(table.frame, table.datasets, traces, layout, height=520, name=name, **about)


def sweep(
    summary: pd.DataFrame,
    x: str,
    *,
    provenance: str,
    paper: pd.DataFrame | None = None,
    title: str,
    x_title: str,
    name: str = "sweep",
) -> go.Figure:
    """ROUGE-1 recall over a swept column (``n_forget``, ``merge``), one line per set, one entry of the menu per method.

    `summary` has one row per method, set and value of `x`; `paper` (the columns of `paper_tables()`) joins as dashed
    lines with open marks. Bars are 95 % intervals.
    """
    ours, theirs = page.Spans(summary, ("method", "set", x)), {}
    if paper is not None:
        paper = paper[paper["metric"] == "rouge1_recall"].rename(columns={"value": "rouge1_recall"})
        theirs = page.Spans(paper, ("method", "set", x), "paper")
    methods = sorted(page.ordered(summary["method"]), key=page.REFERENCES.__contains__)  # flat lines come last
    sets = [which for which in ("forget", "rephrased", "retain") if which in set(summary["set"])]

    def line(which: str, of: dict[tuple, Span], method: str) -> dict[str, list]:
        places = sorted(key for key in of if key[:2] == (method, which))
        spans = [of[key] for key in places]
        texts = [_words(span) if of is ours else page.plain(span[0]) for span in spans]
        ends = {"x": [int(at) for _, _, at in places], "y": [span[0] for span in spans]}
        return {**ends, "customdata": texts, **_arms("y", spans)}

    def look(which: str, of: dict[tuple, Span]) -> dict[str, Any]:
        colour, symbol = _SET_LOOKS[which]
        whose, width, dash, hollow = ("", 2.5, "solid", "") if of is ours else (" (paper)", 1.5, "dot", "-open")
        own = {"name": which + whose, "mode": "lines+markers", "error_y": _bars(colour)}
        own["line"] = {"color": colour, "width": width, "dash": dash}
        own["marker"] = {"symbol": symbol + hollow, "size": 9, "color": colour}
        return own | {"hovertemplate": "<b>%{fullData.name}</b>, %{x}: %{customdata}<extra></extra>"}

    layers = [(which, of) for of in (ours, theirs) for which in sets if which in {key[1] for key in of}]
    traces = [(look(*layer), partial(line, *layer)) for layer in layers]
    ticks = sorted(map(int, set(summary[x])))
    xaxis = {"title": {"text": x_title}, "tickvals": ticks, "zeroline": False, "showgrid": False}
    layout = {"xaxis": xaxis, "yaxis": {"title": {"text": "ROUGE-1 recall"}, **_RECALL}}
    texts = _texts(methods, sets, lambda m, which: ", ".join(map(page.plain, line(which, ours, m)["y"])), "; ")
    alt = f"Line chart of ROUGE-1 recall over {x_title} ({', '.join(map(str, ticks))}). {texts}."
    reading = "Forget and rephrased: lower is better. Retain: higher is better."
    about = {"title": title, "reading": reading, "alt": alt, "provenance": provenance, "name": name}
    return _figure(summary, methods, traces, layout, height=480, menu="Method", **about)


def pairs(
    summary: pd.DataFrame,
    sets: Sequence[str] = ("forget", "rephrased"),
    *,
    provenance: str,
    paper: pd.DataFrame | None = None,
    title: str,
    reading: str,
    name: str = "pairs",
) -> go.Figure:
    """The values of every method on some sets, joined by a line, with intervals; each data set is an entry of the menu.

    The paper's values, where `paper` has them, are small crosses above ours.
    """
    table, theirs = page.Summary(summary), page.paper_values(paper)
    labels = [style(m).label for m in table.methods]

    def joined(dataset: str) -> dict[str, list]:
        x = [table[dataset, m, which][0] for m in table.methods for which in [*sets, ""]]  # behind each method a gap
        y = [label for label in labels for _ in [*sets, ""]]
        return {"x": x, "y": y, "customdata": [""] * len(x), **_arms("x", [])}

    def marks(which: str, of_paper: bool, dataset: str) -> dict[str, list]:
        spans = [table[dataset, m, which] for m in table.methods]
        values, texts = [span[0] for span in spans], [f"{which} {_words(span)}" for span in spans]
        if of_paper:
            spans, values = [], [theirs.get((dataset, m, which)) for m in table.methods]
            texts = [f"{which} {page.plain(value)} in the paper" for value in values]
        return {"x": values, "y": labels, "customdata": texts, **_arms("x", spans)}

    def look(which: str, of_paper: bool) -> dict[str, Any]:
        colour, symbol = _SET_LOOKS[which]
        marker = _cross(colour, 9) if of_paper else {"symbol": symbol, "size": 11, "color": colour}
        name, hover = which + " (paper)" * of_paper, "<b>%{y}</b>: %{customdata}<extra></extra>"
        return {"name": name, "mode": "markers", "marker": marker, "hovertemplate": hover, "error_x": _bars(colour)}

    line = {"mode": "lines", "line": {"color": GREY, "width": 2}, "hoverinfo": "skip", "showlegend": False}
    layers = [(which, of_paper) for of_paper in (False, True) for which in sets]
    traces = [(line, joined), *((look(*layer), partial(marks, *layer)) for layer in layers)]
    yaxis = {"autorange": "reversed", "showgrid": False, "categoryorder": "array", "categoryarray": labels}
    layout = {"xaxis": {"title": {"text": "ROUGE-1 recall"}, **_RECALL}, "yaxis": yaxis}
    texts = _texts(
        table.datasets, table.methods, lambda d, m: " and ".join(page.plain(table[d, m, s][0]) for s in sets)
    )
    alt = f"Dot plot of ROUGE-1 recall, {', '.join(sets)} of each method. {texts}."
    about = {"title": title, "reading": reading, "alt": alt, "provenance": provenance, "name": name}
    return _figure(table.frame, table.datasets, traces, layout, height=540, left=118, **about)


def matrix(
    frame: pd.DataFrame, rows: str, columns: str, *, provenance: str, title: str, reading: str, name: str = "matrix"
) -> go.Figure:
    """A value with its interval (``rouge1_recall``, ``_low``, ``_high``) by two columns, as shaded and numbered cells.

    Each data set is an entry of the menu. The order of rows and columns is that of the frame; what was not measured is
    empty.
    """
    spans = page.Spans(frame, ("dataset", rows, columns), "frame")
    datasets, down, across = (list(dict.fromkeys(frame[c])) for c in ("dataset", rows, columns))

    def grid(dataset: str, show: Callable[[Span], Any]) -> list[list]:
        return [[show(spans[dataset, a, b]) for b in across] for a in down]

    def short(span: Span) -> str:  # nine fit a phone
        return "" if span[0] is None else "1.0" if span[0] >= 0.995 else f"{span[0]:.2f}"[1:]

    def shades(dataset: str) -> dict[str, list]:
        z = grid(dataset, lambda span: span[0])
        return {"z": z, "text": grid(dataset, short), "customdata": grid(dataset, _words)}

    def text(dataset: str, row: str) -> str:
        return ", ".join(f"{b} {page.plain(spans[dataset, row, b][0])}" for b in across)

    look = {"type": "heatmap", "x": across, "y": [style(str(a)).label for a in down], "xgap": 2, "ygap": 2}
    look |= {"texttemplate": "%{text}", "textfont": {"size": 11}, "hoverongaps": False, "showscale": False}
    look["colorscale"] = [[0, "rgba(213,94,0,0.04)"], [1, "rgba(213,94,0,0.6)"]]  # a tint: text stays legible on it
    look |= {"zmin": 0, "zmax": 1, "hovertemplate": "<b>%{y}</b>, %{x}: %{customdata}<extra></extra>"}
    axis = {"showgrid": False, "fixedrange": True}
    layout = {"xaxis": {"side": "top", "tickangle": -45, **axis}, "yaxis": {"autorange": "reversed", **axis}}
    alt = f"Matrix of ROUGE-1 recall. {_texts(datasets, down, text, '; ')}."
    about = {"title": title, "reading": reading, "alt": alt, "provenance": provenance, "name": name}
    return _figure(frame, datasets, [(look, shades)], layout, height=180 + 30 * len(down), left=118, **about)


def _figure(
    frame: pd.DataFrame,
    entries: Sequence[str],
    traces: list[tuple[dict, Callable]],
    layout: dict,
    menu: str = "Data set",
    **about: Any,
) -> go.Figure:
    """Each of `traces` is its look, and a function that has its values for an entry of the menu; the first is drawn."""
    values = [[of(entry) for _, of in traces] for entry in entries]
    fig = go.Figure()
    for (look, _), first in zip(traces, values[0], strict=True):
        trace = {"type": "scatter", **look}
        for key, value in first.items():
            outer, _, inner = key.partition(".")  # "error_x.array", where the trace has bars
            if not inner:
                trace[outer] = value
            elif outer in trace:
                trace[outer] = {**trace[outer], inner: value}
        if trace["type"] == "scatter" and trace["mode"] != "lines":
            trace["cliponaxis"] = False
        fig.add_trace(trace)
    updates = [{key: [trace[key] for trace in each] for key in each[0]} for each in values]
    fig.update_layout(**layout, updatemenus=page.menu(entries, updates, menu))
    return page.finish(fig, csv=page.csv(frame), **about)


def _texts(entries: Sequence[str], names: Sequence[str], text: Callable[[str, str], str], between: str = ", ") -> str:
    """What the alt text says of each name for each entry of the menu."""
    lines = (between.join(f"{page.label(name)} {text(entry, name)}" for name in names) for entry in entries)
    return ". ".join(f"{page.label(entry)}: {line}" for entry, line in zip(entries, lines, strict=True))


def _arms(axis: str, spans: Sequence[Span]) -> dict[str, list]:
    """The arms of each interval; rounding never makes one negative."""
    upper = [None if value is None else max(0.0, round(high - value, 4)) for value, _, high in spans]
    lower = [None if value is None else max(0.0, round(value - low, 4)) for value, low, _ in spans]
    return {f"error_{axis}.array": upper, f"error_{axis}.arrayminus": lower}


def _bars(colour: str) -> dict[str, Any]:
    return {"type": "data", "symmetric": False, "color": colour, "thickness": 1, "width": 0}


def _cross(colour: str, size: int) -> dict[str, Any]:
    """The paper's mark."""
    return {"symbol": "x-thin-open", "size": size, "color": colour, "line": {"width": 2}}


def _flip(span: Span) -> Span:
    """1 - ROUGE with its interval: high is good, as on the other axes."""
    value, low, high = (None if end is None else round(1 - end, 4) for end in span)
    return value, high, low


def _words(span: Span) -> str:
    value, low, high = span
    return "not measured" if value is None else f"{value:.2f} ({low:.2f}–{high:.2f})"
