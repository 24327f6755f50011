"""A table of the paper beside runs, as the page shows it: the table itself and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from editunlearn_lib.show import Html, page, style

from .reproduction import CELL, PAPER, TABLES, VIEWS, beside, group_name, quality, rankings


def table_beside_runs(paper: pd.DataFrame, columns: Mapping[str, pd.DataFrame], name: str, *, provenance: str) -> Html:
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
    models = [c for c in frame if c.startswith(PAPER)]
    head = "".join(_head_html(c.removeprefix(PAPER), "paper", "eu-paper") for c in models)
    head += "".join(_head_html(*c.partition(": ")[::2]) for c in names)
    body = []
    for group, rows in frame.groupby(CELL[:-1], sort=False):
        width = 2 + len(models) + len(names)
        lines = [f'<tr><th scope="rowgroup" colspan="{width}">{escape(group_name(*group))}</th></tr>']
        for method, part in rows.groupby("method", sort=False):
            first = f'<th scope="row" rowspan="{len(part)}">{escape(style(method).label)}</th>'
            for row in part.to_dict("records"):
                cells = "".join(f'<td class="eu-paper">{_paper_number(row[c])}</td>' for c in models)
                cells += "".join(_run_cell(row, c) for c in names)
                lines.append(f'<tr>{first}<td style="text-align: left">{escape(row["set"])}</td>{cells}</tr>')
                first = ""
        body.append(f"<tbody>{''.join(lines)}</tbody>")
    return (
        f'<div class="eu-scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption>'
        f'<thead><tr><th scope="col">Method</th><th scope="col" style="text-align: left">Set</th>{head}</tr></thead>{"".join(body)}</table></div>'
    )


def _head_html(name: str, small: str = "", kind: str = "eu-ours") -> str:
    look = "white-space: normal; overflow-wrap: anywhere; min-width: 5.5rem"
    below = f'<small style="{look}">{escape(small)}</small>' if small else ""
    return f'<th scope="col" class="{kind}">{escape(name)}{below}</th>'


def _paper_number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3f}".removesuffix("0")


def _run_cell(row: Mapping, name: str) -> str:
    columns = (name, f"{name} low", f"{name} high", f"{name} forget sets")
    value, low, high, sets = (page.number(row.get(c)) for c in columns)
    if value is None:
        return "<td>–</td>"
    of = "" if sets is None else f"; <wbr>{sets:.0f} set{'s' if sets > 1 else ''}"
    return f"<td>{page.plain(value)}<small>{'' if low is None else f'{low:.2f}–{high:.2f}'}{of}</small></td>"


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
