"""A table of the paper beside runs, as the page shows it: the table itself and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from editunlearn_lib.show import Column, Html, Table, page
from editunlearn_lib.show.page import Css, Raw, el, raw

from .reproduction import CELL, PAPER, TABLES, VIEWS, beside, group_name, quality, rankings


def table_beside_runs(paper: pd.DataFrame, columns: Mapping[str, pd.DataFrame], name: str, *, provenance: str) -> Html:
    """A table of the paper with ours beside it, one row per method and set; a selector changes the measure.

    The selector needs no script: the style shows the table of the option that is chosen.
    """
    options, views, frames, rules = [], [], [], []
    for view, (label, _, _) in VIEWS.items():
        frame = beside(paper, columns, name, view)
        if frame.empty or (view == "confidence" and not any("pistol_confidence" in s for s in columns.values())):
            continue
        options.append(el("option", label, value=view))
        table = _table(frame, list(columns), f"Table {name[-1]}: {TABLES[name]}. {label}")
        views.append(el("div", table, css=Css.view, data_view=view))
        frames.append(frame.assign(measure=label))
        chosen = f'.{Css.repro}:has(option[value="{view}"]:checked) > .{Css.view}[data-view="{view}"]'
        rules.append(f"{chosen} {{ display: block }}")
    # without :has() (browsers before 2023) the first view stays, which is the one that counts
    hide = f".{Css.repro} > .{Css.view} {{ display: none }} "
    hide += f".{Css.repro}:not(:has(option:checked)) > .{Css.view}:first-of-type {{ display: block }}"
    style = el("style", Raw(f"@supports selector(:has(*)) {{ {hide} {' '.join(rules)} }}"))
    choose = el("div", el("label", "Measure ", el("select", *options)), css=Css.controls)
    below = page.note(provenance, page.csv(pd.concat(frames)), name)
    return Html(raw(style, el("div", choose, *views, below, css=f"{Css.eu} {Css.table} {Css.repro}")))


def _table(frame: pd.DataFrame, runs: Sequence[str], caption: str) -> Raw:
    columns = [Column("method", "Method"), Column("set", "Set", kind="words")]
    for c in (c for c in frame if c.startswith(PAPER)):
        columns.append(Column(c, raw(c.removeprefix(PAPER), el("small", "paper")), kind="paper", number=page.num))
    for run in runs:
        name, _, more = run.partition(": ")
        columns.append(Column(run, raw(name, el("small", more) if more else ""), kind="ours"))
    rows = frame.to_dict("records")
    for row in rows:
        row["group"] = group_name(*(row[key] for key in CELL[:-1]))
        for run in runs:
            row |= {f"{run}_low": row.get(f"{run} low"), f"{run}_high": row.get(f"{run} high")}
            row[run], sets = page.number(row[run]), page.number(row.get(f"{run} forget sets"))
            if row[run] is not None and sets:
                row[f"{run}_more"] = Raw(f"; <wbr>{sets:.0f} set{'s' if sets > 1 else ''}")
    return Table(caption, columns, rows, "", group="group", join=True).bare(caption)


PAPER_LOOKS = (("#D55E00", "circle-open"), ("#0072B2", "square-open"), ("#CC79A7", "diamond-open"))
RUN_LOOKS = (("#808080", "x"), ("#009E73", "triangle-up"), ("#E69F00", "star"), ("#56B4E9", "diamond"))


def dots_beside_runs(
    paper: pd.DataFrame, columns: Mapping[str, pd.DataFrame], name: str, *, provenance: str
) -> go.Figure:
    """One row per method, one mark per source; the groups of rows of the table are entries of the menu."""
    values, word = quality(paper, columns, name)
    models = [c for c in values if c.startswith(PAPER)]
    sources = [*models, *columns]
    updates, titles, in_words = [], [], []
    for title, part in rankings(values, name):
        if name == "table7":
            part = part.sort_values(["method", "merge"], ascending=[False, True])
        x = {source: [page.number(v) for v in part[source]] for source in sources}
        updates.append({"x": list(x.values()), "y": [part["name"].tolist()] * len(sources)})
        titles.append(title)
        for source in sources:
            row = (f"{m} {page.plain(v)}" for m, v in zip(part["name"], x[source], strict=True))
            in_words.append(f"{title}, {source}: {', '.join(row)}")
    looks = [PAPER_LOOKS[i % len(PAPER_LOOKS)] for i in range(len(models))]
    looks += [RUN_LOOKS[i % len(RUN_LOOKS)] for i in range(len(columns))]
    fig = go.Figure()
    for i, (source, (colour, symbol)) in enumerate(zip(sources, looks, strict=True)):
        fig.add_scatter(
            name=source,
            mode="markers",
            x=updates[0]["x"][i],
            y=updates[0]["y"][i],
            cliponaxis=False,
            marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
            hovertemplate="<b>%{fullData.name}</b>, %{y}: %{x:.2f}<extra></extra>",
        )
    low, high, reading = 0.0, 1.04, "Further right is better."
    if word == "score":
        numbers = values[sources].to_numpy(dtype=float)
        low, high = min(0.9, np.nanmin(numbers)) - 0.05, max(1.7, np.nanmax(numbers)) + 0.05
        reading += " A score of 2 is ideal, 1 is nothing or everything forgotten."
    fig.update_layout(
        xaxis={"title": {"text": word}, "range": [float(low), float(high)], "zeroline": False},
        yaxis={"autorange": "reversed"},
        updatemenus=page.menu(titles, updates, "Rows"),
    )
    return page.finish(
        fig,
        title=f"Table {name[-1]}: the paper against ours",
        reading=reading,
        provenance=provenance,
        csv=page.csv(values),
        name=f"{name}-dots",
        height=200 + 32 * max(len(u["y"][0]) for u in updates),
        left=118,
        alt=f"Dot plot of {word}. {'. '.join(in_words)}.",
    )
