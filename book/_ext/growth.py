"""The figures of ``benchmarks/growth.json`` for the page on what costs what: time and memory over size."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from editunlearn_lib.show import page
from editunlearn_lib.show.page import Style

SIZES = {"n_forget": "the questions to forget", "model": "the weights of the model", "cells": "the cells of the store"}
MEASURES = {"cpu_seconds": ("time (s)", 1.0), "peak_bytes": ("memory (MB)", 1e-6)}
WORKS = {
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
    page.need(rows, ("sweep", "work", "size", *MEASURES), "rows")
    rows, what = rows[rows["sweep"] == sweep].sort_values("size", kind="stable"), SIZES[sweep]
    works, values = list(dict.fromkeys(rows["work"])), []
    ends = [int(rows["size"].min()), int(rows["size"].max())]
    for measure, (_, unit) in MEASURES.items():
        lines = [rows[rows["work"] == work] for work in works]
        y = [[float(f"{value * unit:.4g}") if value > 0 else None for value in line[measure]] for line in lines]
        # Of the smallest size: there the dotted line begins.
        least = min((line[0] for line in y if line[0]), default=None)
        y.append([least and float(f"{least * end / ends[0]:.4g}") for end in ends])
        values.append({"x": [*([int(size) for size in line["size"]] for line in lines), ends], "y": y})
    fig = go.Figure()
    for i, work in enumerate([*works, None]):
        look = WORKS[work] if work in WORKS else page.style(work)
        fig.add_scatter(
            name=look.label,
            mode="lines+markers" if work else "lines",
            marker=page.marker(look, 9),
            line={"color": look.colour, "width": 2 if work else 1, "dash": look.dash},
            cliponaxis=False,
            hovertemplate="<b>%{fullData.name}</b>, %{x}: %{y}<extra></extra>",
            x=values[0]["x"][i],
            y=values[0]["y"][i],
        )
    axis = {"type": "log", "dtick": 1, "zeroline": False}
    fig.update_layout(
        xaxis=axis | {"title": {"text": what}},
        yaxis=axis | {"title": {"text": "seconds of one core, or MB"}},
        updatemenus=page.menu([label for label, _ in MEASURES.values()], values, "Shown"),
    )
    said = ", ".join(
        f"{MEASURES[row.measure][0]} of {row.work} {row.exponent:.2f}"
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
