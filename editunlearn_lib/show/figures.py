"""Plotly figures from summaries. Each holds what its menu offers, carries alt text, source and data, and touches no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    measured on an axis has a gap there, never a zero. `paper` (the columns of `paper_tables()`) is a second layer of thin
    dotted outlines, off at first; the book's page offers a box to tick.
    """
    table, theirs = page.Summary(summary), page.paper_values(paper)

    def outline(dataset: str, method: str, of_paper: bool) -> dict[str, list]:
        spans = []
        for which in ("forget", "retain", "rephrased", "forget"):  # back to the first axis: the outline closes
            value = theirs.get((dataset, method, which))
            span = (value, value, value) if of_paper else table.span(dataset, method, which)
            spans.append(_flip(span) if which in page.GONE else span)
        said = [page.plain(span[0]) if of_paper else _words(span) for span in spans]
        axes = ["Forget", "Retain", "Generalize", "Forget"]
        return {"r": [span[0] for span in spans], "theta": axes, "customdata": said}

    def look(method: str, of_paper: bool) -> dict[str, Any]:
        mark = style(method)
        if of_paper:
            own = {"name": f"{mark.label} (paper)", "meta": f"paper {method}", "visible": False, "showlegend": False}
            own |= {"line": {"color": mark.colour, "width": 1.5, "dash": "dot"}, "marker": _cross(mark.colour, 8)}
        else:
            own = {"name": mark.label, "meta": method, "marker": page.marker(mark, 9)}
            own |= {"line": {"color": mark.colour, "width": 2, "dash": mark.dash}}
        hover = "<b>%{fullData.name}</b><br>%{theta}: %{customdata}<extra></extra>"
        return own | {"type": "scatterpolar", "mode": "lines+markers", "hovertemplate": hover, "connectgaps": False}

    traces = [(method, of_paper) for of_paper in ([False, True] if theirs else [False]) for method in table.methods]
    looks = [look(*trace) for trace in traces]
    values = {dataset: [outline(dataset, *trace) for trace in traces] for dataset in table.datasets}
    polar = {
        "gridshape": "linear",
        "sector": [-31, 211],  # the triangle without the empty lower half of its circle; a mark on the edge is cut
        "radialaxis": {"range": [0, 1], "tickvals": [0.25, 0.5, 0.75, 1], "tickangle": 90, "angle": 90},
        "angularaxis": {"rotation": 90, "direction": "clockwise"},
    }
    labels = {"title": "Forgetting, retaining, generalizing", "reading": "Further out is better on every axis."}
    labels |= {"provenance": provenance, "name": name}
    about = "Radar chart; on each of three axes (forget, retain, generalize) further out is better."
    alt = f"{about} {table.in_words()}."
    return _figure(looks, values, {"polar": polar}, table.frame, alt=alt, height=480, **labels)


def trade_off(
    summary: pd.DataFrame, *, provenance: str, title: str = "What forgetting costs", name: str = "trade-off"
) -> go.Figure:
    """Forgotten (1 - ROUGE-1 on the forget set) against retained (ROUGE-1 on the retain set), with intervals.

    Dotted lines join points of equal score = forgotten + retained; the score of 2 in the upper right corner is ideal.
    """
    table = page.Summary(summary)

    def point(dataset: str, method: str) -> dict[str, list]:
        x, y = _flip(table.span(dataset, method, "forget")), table.span(dataset, method, "retain")
        score = table.score(dataset, method)
        said = f"forgotten {_words(x)}<br>retained {_words(y)}" + ("" if score is None else f"<br>score {score:.2f}")
        return {"x": [x[0]], "y": [y[0]], "customdata": [said], **_arms("x", [x]), **_arms("y", [y])}

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
    looks = [look(method) for method in table.methods]
    values = {dataset: [point(dataset, method) for method in table.methods] for dataset in table.datasets}
    reading = "Up and to the right is better; dotted lines join equal scores; bars are intervals."
    labels = {"title": title, "reading": reading, "provenance": provenance, "name": name}
    about = "Scatter plot of how much was forgotten against how much was retained; the upper right corner is ideal."
    return _figure(looks, values, layout, table.frame, alt=f"{about} {table.in_words()}.", height=520, **labels)


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
    page.need(summary, ("method", "set", x, "rouge1_recall"), "summary")
    page.one_per(summary, ("method", "set", x), "summary")
    sources = [summary]
    if paper is not None:
        sources.append(paper[paper["metric"] == "rouge1_recall"].rename(columns={"value": "rouge1_recall"}))
    methods = sorted(page.ordered(summary["method"]), key=page.REFERENCES.__contains__)  # flat lines come last
    sets = [which for which in ("forget", "rephrased", "retain") if which in set(summary["set"])]
    traces = [(which, source) for source in sources for which in sets if which in set(source["set"])]

    def line(method: str, which: str, source: pd.DataFrame) -> dict[str, list]:
        rows = source[(source["method"] == method) & (source["set"] == which)].sort_values(x).to_dict("records")
        spans = [page.span(row) for row in rows]
        said = [_words(span) if source is summary else page.plain(span[0]) for span in spans]
        ends = {"x": [int(row[x]) for row in rows], "y": [span[0] for span in spans]}
        return {**ends, "customdata": said, **_arms("y", spans)}

    def look(which: str, source: pd.DataFrame) -> dict[str, Any]:
        (colour, symbol), ours = _SET_LOOKS[which], source is summary
        return {
            "name": which if ours else f"{which} (paper)",
            "mode": "lines+markers",
            "line": {"color": colour, "width": 2.5 if ours else 1.5, "dash": "solid" if ours else "dot"},
            "marker": {"symbol": symbol if ours else f"{symbol}-open", "size": 9, "color": colour},
            "error_y": _bars(colour),
            "hovertemplate": "<b>%{fullData.name}</b>, %{x}: %{customdata}<extra></extra>",
        }

    looks = [look(*trace) for trace in traces]
    values = {style(method).label: [line(method, *trace) for trace in traces] for method in methods}
    ticks = sorted(map(int, set(summary[x])))
    xaxis = {"title": {"text": x_title}, "tickvals": ticks, "zeroline": False, "showgrid": False}
    layout = {"xaxis": xaxis, "yaxis": {"title": {"text": "ROUGE-1 recall"}, **_RECALL}}
    said = []
    for method in methods:
        lines = (f"{which} {', '.join(map(page.plain, line(method, which, summary)['y']))}" for which in sets)
        said.append(f"{style(method).label}: {'; '.join(lines)}")
    alt = f"Line chart of ROUGE-1 recall over {x_title} ({', '.join(map(str, ticks))}). {'. '.join(said)}."
    reading = "Forget and rephrased: lower is better. Retain: higher is better."
    labels = {"title": title, "reading": reading, "provenance": provenance, "name": name}
    return _figure(looks, values, layout, summary, alt=alt, height=480, menu="Method", **labels)


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
        ends = [(table.span(dataset, m, which)[0], style(m).label) for m in table.methods for which in [*sets, ""]]
        xs, ys = map(list, zip(*ends, strict=True))  # behind each method a gap
        return {"x": xs, "y": ys, "customdata": [""] * len(ends), **_arms("x", [])}

    def marks(dataset: str, which: str, of_paper: bool) -> dict[str, list]:
        spans = [table.span(dataset, m, which) for m in table.methods]
        values, said = [span[0] for span in spans], [f"{which} {_words(span)}" for span in spans]
        if of_paper:
            spans, values = [], [theirs.get((dataset, m, which)) for m in table.methods]
            said = [f"{which} {page.plain(value)} in the paper" for value in values]
        return {"x": values, "y": labels, "customdata": said, **_arms("x", spans)}

    def look(which: str, of_paper: bool) -> dict[str, Any]:
        colour, symbol = _SET_LOOKS[which]
        marker = _cross(colour, 9) if of_paper else {"symbol": symbol, "size": 11, "color": colour}
        name = f"{which} (paper)" if of_paper else which
        hover = "<b>%{y}</b>: %{customdata}<extra></extra>"
        return {"name": name, "mode": "markers", "marker": marker, "hovertemplate": hover, "error_x": _bars(colour)}

    traces = [(which, of_paper) for of_paper in (False, True) for which in sets]
    line = {"mode": "lines", "line": {"color": GREY, "width": 2}, "hoverinfo": "skip", "showlegend": False}
    looks = [line, *(look(*trace) for trace in traces)]
    values = {d: [joined(d), *(marks(d, *trace) for trace in traces)] for d in table.datasets}
    yaxis = {"autorange": "reversed", "showgrid": False, "categoryorder": "array", "categoryarray": labels}
    layout = {"xaxis": {"title": {"text": "ROUGE-1 recall"}, **_RECALL}, "yaxis": yaxis}
    said = []
    for dataset in table.datasets:
        each = ([page.plain(table.span(dataset, m, which)[0]) for which in sets] for m in table.methods)
        lines = (f"{label} {' and '.join(both)}" for label, both in zip(labels, each, strict=True))
        said.append(f"{page.dataset_label(dataset)}: {', '.join(lines)}")
    alt = f"Dot plot of ROUGE-1 recall, {', '.join(sets)} of each method. {'. '.join(said)}."
    about = {"title": title, "reading": reading, "alt": alt, "provenance": provenance, "name": name}
    return _figure(looks, values, layout, table.frame, height=540, left=118, **about)


def matrix(
    frame: pd.DataFrame, rows: str, columns: str, *, provenance: str, title: str, reading: str, name: str = "matrix"
) -> go.Figure:
    """A value with its interval (``rouge1_recall``, ``_low``, ``_high``) by two columns, as shaded and numbered cells.

    Each data set is an entry of the menu. The order of rows and columns is that of the frame; what was not measured is
    empty.
    """
    page.need(frame, ("dataset", rows, columns, "rouge1_recall"), "frame")
    page.one_per(frame, ("dataset", rows, columns), "frame")
    datasets, down, across = (list(dict.fromkeys(frame[c])) for c in ("dataset", rows, columns))
    spans = {(r["dataset"], r[rows], r[columns]): page.span(r) for r in frame.to_dict("records")}
    labels = [style(str(row)).label for row in down]

    def grid(dataset: str, show: Callable[[Span], Any]) -> list[list]:
        return [[show(spans.get((dataset, a, b), (None, None, None))) for b in across] for a in down]

    def short(span: Span) -> str:  # nine fit a phone
        return "" if span[0] is None else "1.0" if span[0] >= 0.995 else f"{span[0]:.2f}"[1:]

    def shades(dataset: str) -> dict[str, list]:
        z = grid(dataset, lambda span: span[0])
        return {"z": z, "text": grid(dataset, short), "customdata": grid(dataset, _words)}

    look = {
        **{"type": "heatmap", "x": across, "y": labels, "zmin": 0, "zmax": 1, "xgap": 2, "ygap": 2, "showscale": False},
        **{"texttemplate": "%{text}", "textfont": {"size": 11}, "hoverongaps": False},
        "colorscale": [[0, "rgba(213,94,0,0.04)"], [1, "rgba(213,94,0,0.6)"]],  # a tint: text stays legible on it
        "hovertemplate": "<b>%{y}</b>, %{x}: %{customdata}<extra></extra>",
    }
    values = {dataset: [shades(dataset)] for dataset in datasets}
    axis = {"showgrid": False, "fixedrange": True}
    layout = {"xaxis": {"side": "top", "tickangle": -45, **axis}, "yaxis": {"autorange": "reversed", **axis}}
    said = []
    for dataset in datasets:
        each = grid(dataset, lambda span: page.plain(span[0]))
        pairs = ([f"{b} {value}" for b, value in zip(across, line, strict=True)] for line in each)
        lines = (f"{label} {', '.join(line)}" for label, line in zip(labels, pairs, strict=True))
        said.append(f"{page.dataset_label(dataset)}: {'; '.join(lines)}")
    about = {"title": title, "reading": reading, "provenance": provenance, "name": name}
    about["alt"] = f"Matrix of ROUGE-1 recall. {'. '.join(said)}."
    return _figure([look], values, layout, frame, height=180 + 30 * len(down), left=118, **about)


# ---------------------------------------------------------------------------------------------------------------------
# Parts


def _figure(
    looks: list[dict],
    values: dict[str, list[dict]],
    layout: dict,
    frame: pd.DataFrame,
    menu: str = "Data set",
    **about: Any,
) -> go.Figure:
    """`values` has what each entry of the menu puts into each trace; the first is there to begin with."""
    updates = [{key: [trace[key] for trace in traces] for key in traces[0]} for traces in values.values()]
    drawn = []
    for look, first in zip(looks, next(iter(values.values())), strict=True):
        trace = {"type": "scatter", **look}
        for key, value in first.items():
            outer, _, inner = key.partition(".")  # "error_x.array", where the trace has bars
            if not inner:
                trace[outer] = value
            elif outer in trace:
                trace[outer] = {**trace[outer], inner: value}
        if trace["type"] == "scatter" and trace["mode"] != "lines":
            trace["cliponaxis"] = False
        drawn.append(trace)
    fig = go.Figure(drawn).update_layout(**layout, updatemenus=page.menu(list(values), updates, menu))
    return page.finish(fig, csv=page.csv(frame), **about)


def _arms(axis: str, spans: Sequence[Span]) -> dict[str, list]:
    """The arms of each interval; rounding never makes one negative."""

    def less(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else max(0.0, round(a - b, 4))

    upper, lower = [less(high, value) for value, _, high in spans], [less(value, low) for value, low, _ in spans]
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
