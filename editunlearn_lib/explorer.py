"""Views that link several figures: what the book calls its explorers. Nothing here touches a model.

`linked` joins radar, dot plot, table and outputs by one choice of data set and method; `stops` shows numbers, cost and
outputs at each stop of a slider. Both hold everything they show, so that a page needs no kernel; without a script they
are figures, tables and fold-outs one below the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from . import page
from .charts import output_html, pairs, paper_values, radar, side_by_side, table
from .page import GONE, BookRenderer, Html, style


def linked(
    summary: pd.DataFrame,
    records: pd.DataFrame,
    paper: pd.DataFrame | None = None,
    *,
    provenance: str,
    caption: str,
    questions: int = 4,
    title: str = "Choose a method and see it everywhere",
    name: str = "explorer",
) -> Html:
    """Radar, dot plot with intervals, table and outputs of the same cells, joined by one choice of data set and method.

    ``summary`` has one row per data set, method and set; ``records`` are the rows behind it (of one seed: one output per
    question and method); ``paper`` has the columns of `paper_tables()` and is a second layer of each.
    """
    shown = {"provenance": provenance, "paper": paper}
    drawn = [
        radar(summary, name=f"{name}-radar", **shown),
        pairs(
            summary,
            ("forget", "rephrased", "retain"),
            title="Each measure with its interval",
            reading="Forget and rephrased: left is better. Retain: right is better. Crosses: the paper.",
            name=f"{name}-dots",
            **shown,
        ),
    ]
    figures = [BookRenderer().to_mimebundle(figure.to_dict()) for figure in drawn]
    numbers = table(summary, paper, provenance=provenance, caption=caption, name=f"{name}-table")
    outputs = side_by_side(
        records, provenance=provenance, questions=questions, name=f"{name}-outputs", title="What it said"
    )
    methods = [[m, style(m).label] for m in page.ordered(summary["method"])]
    about = {"datasets": list(dict.fromkeys(summary["dataset"])), "methods": methods}
    return Html(
        html=(
            f'<section class="eu eu-linked" id="{escape(name)}" aria-label="{escape(title)}">'
            f'<p class="eu-title">{escape(title)}</p>'
            '<p class="eu-reading">Choose above, or click a mark or a row; everything below follows.</p>'
            '<div class="eu-controls"></div><p class="eu-chosen" role="status"></p>'
            f'<div class="eu-pair">{figures[0]["text/html"]}{figures[1]["text/html"]}</div>{numbers.html}{outputs.html}'
            f'<script type="application/json">{page.json_for_script(about)}</script></section>'
        ),
        text="\n\n".join([title, *(bundle["text/plain"] for bundle in figures), numbers.text, outputs.text]),
    )


def stops(
    summary: pd.DataFrame,
    records: pd.DataFrame,
    x: str,
    *,
    provenance: str,
    title: str,
    reading: str,
    label: str,
    cost: Mapping[tuple[str, Any], str] | None = None,
    paper: pd.DataFrame | None = None,
    questions: int = 3,
    sets: Sequence[str] = ("forget", "rephrased", "retain"),
    name: str = "stops",
) -> Html:
    """A slider over the column ``x`` (``merge``, ``n_forget``): at each stop score, sets, cost and outputs of a method.

    ``summary`` has one row per method, set and value of ``x``; ``records`` the outputs of one seed, the same questions at
    each stop (a column ``note`` is shown beside an output); ``cost`` is a sentence for each (method, value); ``paper``
    sets a tick on each bar. Intervals are those of the summary.
    """
    page.need(summary, ("method", "set", x, "rouge1_recall", "score"), "summary")
    page.need(records, ("method", "set", x, "id", "question", "answer", "output", "outcome"), "records")
    methods, values = page.ordered(summary["method"]), sorted({int(v) for v in summary[x]})
    rows = {(r["method"], int(r[x]), r["set"]): r for r in summary.to_dict("records")}
    theirs: dict[int, dict] = {}
    if paper is not None:
        for value, part in paper.groupby(x):
            theirs[int(value)] = paper_values(part, "rouge1_recall")
    first = records[records["method"].isin(methods)].drop_duplicates(["set", "id", "variant"])
    asked = [
        (r.set, r.id, r.variant) for which in sets for r in first[first["set"] == which].head(questions).itertuples()
    ]
    outputs = {(r["method"], int(r[x]), r["set"], r["id"], r["variant"]): r for r in records.to_dict("records")}

    body, text, flat = [], [], []
    for method in methods:
        for value in values:
            found = {which: rows[method, value, which] for which in sets if (method, value, which) in rows}
            if not found:
                continue
            of_paper = next(
                ({s: v for (_, m, s), v in part.items() if m == method} for at, part in theirs.items() if at == value),
                {},
            )
            score = next(iter(found.values()))["score"]
            bars = [_bar("score", score, None, None, of_paper.get("score"), 2)]
            bars += [
                _bar(w, r["rouge1_recall"], r.get("rouge1_recall_low"), r.get("rouge1_recall_high"), of_paper.get(w), 1)
                for w, r in found.items()
            ]
            shown = [outputs[key] for q in asked if (key := (method, value, *q)) in outputs]
            price = (cost or {}).get((method, value), "")
            head = f"{style(method).label}, {label} = {value}"
            body.append(
                f'<details class="eu-case eu-stop" data-group="{escape(method)}" data-stop="{value}"{"" if body else " open"}>'
                f"<summary>{escape(head)}</summary>"
                f'<div class="eu-bars">{"".join(bars)}</div>'
                f"{f'<p class=eu-cost>{escape(price)}</p>' if price else ''}"
                f'<ul role="list">{"".join(map(_output, shown))}</ul></details>'
            )
            numbers = ", ".join(f"{w} {page.plain(page.number(r['rouge1_recall']))}" for w, r in found.items())
            text.append(f"{head}: score {page.plain(page.number(score))}, {numbers}. {price}".strip())
            flat.append(
                {
                    "method": method,
                    x: value,
                    "score": page.number(score),
                    **{
                        f"{w}{end}": page.number(r.get(f"rouge1_recall{end}"))
                        for w, r in found.items()
                        for end in ("", "_low", "_high")
                    },
                    "cost": price,
                }
            )
    about = {"groups": [[m, style(m).label] for m in methods], "stops": values, "label": label}
    return Html(
        html=(
            f'<section class="eu eu-stops" id="{escape(name)}" aria-label="{escape(title)}">'
            f'<p class="eu-title">{escape(title)}</p><p class="eu-reading">{escape(reading)}</p>'
            f'<div class="eu-controls"></div><div class="eu-shown" aria-live="polite">{"".join(body)}</div>'
            f'<script type="application/json">{page.json_for_script(about)}</script>'
            f"{page.note(provenance, page.csv(pd.DataFrame(flat)), name)}</section>"
        ),
        text="\n".join([title, *text, f"Source: {provenance}"]),
    )


def _bar(name: str, value: Any, low: Any, high: Any, paper: float | None, full: float) -> str:
    """A measure as a bar, its interval as a line on it, the paper's value as a tick."""
    value, low, high = (page.number(v) for v in (value, low, high))
    share = {"v": value, "lo": low, "hi": high, "paper": paper}
    place = ";".join(f"--{key}:{100 * v / full:.1f}%" for key, v in share.items() if v is not None)
    good = "lower is better" if name in GONE else "higher is better"
    marks = '<i class="eu-span"></i>' if low is not None and high is not None else ""
    marks += '<i class="eu-tick"></i>' if paper is not None else ""
    words = page.plain(value) + (f" ({low:.2f}–{high:.2f})" if marks.startswith('<i class="eu-span') else "")
    words += f", paper {paper:.2f}" if paper is not None else ""
    kind = "score" if name == "score" else "gone" if name in GONE else "kept"
    return (
        f'<div class="eu-bar eu-{kind}"><span>{escape(name)}<small> {good}</small></span>'
        f'<span class="eu-track" style="{place}" aria-hidden="true"><b></b>{marks}</span><span>{words}</span></div>'
    )


def _output(row: dict) -> str:
    """One output: the question, what was said, with words of the answer marked."""
    question, answer, output = (str(row[k]) for k in ("question", "answer", "output"))
    note = f" <small>{escape(str(row['note']))}</small>" if isinstance(row.get("note"), str) and row["note"] else ""
    return (
        f'<li data-outcome="{escape(str(row["outcome"]))}"><span class="eu-asked"><small>{escape(str(row["set"]))}</small> '
        f"{escape(question)}{note}</span>"
        f'<span class="eu-outcome">{escape(str(row["outcome"]))}</span> <span class="eu-output">{output_html(output, answer, question)}</span></li>'
    )
