"""Views that link several figures: what the book calls its explorers.

`linked` joins radar, dot plot, table and outputs by one choice of data set and method; `stops` shows numbers, cost and
outputs at each stop of a slider. Both hold everything they show, so that a page needs no kernel; without a script they
are figures, tables and fold-outs one below the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pandas as pd

from . import page
from .figures import pairs, radar
from .outputs import judged_html, side_by_side
from .page import GONE, BookRenderer, Css, Html, Raw, el, raw, style
from .tables import table

SETS = ("forget", "rephrased", "retain")


def linked(
    summary: pd.DataFrame,
    records: pd.DataFrame,
    paper: pd.DataFrame | None = None,
    *,
    provenance: str,
    caption: str,
    questions: int = 4,
    name: str = "explorer",
) -> Html:
    """Radar, dot plot with intervals, table and outputs of the same cells, joined by one choice of data set and method.

    ``summary`` has one row per data set, method and set; ``records`` are the rows behind it, of one seed: one output
    per question and method. ``paper`` has the columns of `paper_tables()` and is a second layer of each.
    """
    both = {"provenance": provenance, "paper": paper}
    reading = "Forget and rephrased: left is better. Retain: right is better. Crosses: the paper."
    labels = {"title": "Each measure with its interval", "reading": reading, "name": f"{name}-dots"}
    drawn = [radar(summary, name=f"{name}-radar", **both), pairs(summary, SETS, **labels, **both)]
    figures = [Raw(BookRenderer().to_mimebundle(figure.to_dict())["text/html"]) for figure in drawn]
    numbers = table(summary, caption=caption, name=f"{name}-table", **both)
    labels = {"title": "What it said", "name": f"{name}-outputs", "provenance": provenance}
    outputs = side_by_side(records, questions=questions, **labels)
    methods = [[method, style(method).label] for method in page.ordered(summary["method"])]
    data = page.data_script({"datasets": list(dict.fromkeys(summary["dataset"])), "methods": methods})
    parts = [el("p", css=Css.chosen, role="status"), el("div", *figures, css=Css.pair)]
    parts += [Raw(numbers.html), Raw(outputs.html), data]
    reading = "Choose above, or click a mark or a row; everything below follows."
    return page.section(Css.linked, name, "Choose a method and see it everywhere", reading, *parts)


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
    name: str = "stops",
) -> Html:
    """A slider over the column ``x`` (``merge``, ``n_forget``): at each stop score, sets, cost and outputs of a method.

    ``summary`` has one row per method, set and value of ``x``, ``records`` the outputs of one seed, the same questions
    at each stop (a column ``note`` is shown beside an output). ``cost`` is a sentence for each (method, value);
    ``paper`` sets a tick on each bar.
    """
    page.need(summary, ("method", "set", x, "rouge1_recall", "score"), "summary")
    page.need(records, ("method", "set", x, "id", "question", "answer", "output", "outcome"), "records")
    methods, values = page.ordered(summary["method"]), sorted({int(v) for v in summary[x]})
    rows = {(r["method"], int(r[x]), r["set"]): r for r in summary.to_dict("records")}
    theirs = {
        (int(at), method, which): value
        for at, part in ([] if paper is None else paper.groupby(x))
        for (_, method, which), value in page.paper_values(part).items()
    }
    place = ["set", "id", "variant"]
    first = records[records["method"].isin(methods)].drop_duplicates(place)
    questions = [key for s in SETS for key in first[first["set"] == s][place].head(3).itertuples(index=False)]
    outputs = {(r["method"], int(r[x]), *(r[k] for k in place)): r for r in records.to_dict("records")}

    parts, flat = [], []
    for method, at in product(methods, values):
        measures = {which: rows[method, at, which] for which in SETS if (method, at, which) in rows}
        if not measures:
            continue
        line = {"method": method, x: at, "score": page.number(next(iter(measures.values()))["score"])}
        for which, row in measures.items():
            line |= {f"{which}{end}": page.number(row.get(f"rouge1_recall{end}")) for end in ("", "_low", "_high")}
        line["cost"] = (cost or {}).get((method, at), "")
        flat.append(line)
        inner = [
            el("summary", f"{style(method).label}, {label} = {at}"),
            el("div", *(_bar(m, line, theirs.get((at, method, m))) for m in ["score", *measures]), css=Css.bars),
            el("p", line["cost"], css=Css.cost) if line["cost"] else "",
            el(
                "ul", *(_output(outputs[method, at, *q]) for q in questions if (method, at, *q) in outputs), role="list"
            ),
        ]
        css = f"{Css.case} {Css.stop}"
        parts.append(el("details", *inner, css=css, data_group=method, data_stop=at, open=not parts))
    labels = [[method, style(method).label] for method in methods]
    data = page.data_script({"groups": labels, "stops": values, "label": label})
    box = el("div", *parts, css=Css.shown, aria_live="polite")
    below = page.note(provenance, page.csv(pd.DataFrame(flat)), name)
    return page.section(Css.stops, name, title, reading, box, data, below)


def _bar(name: str, line: Mapping[str, Any], paper: float | None) -> Raw:
    """A measure as a bar, its interval as a line on it, the paper's value as a tick."""
    value, low, high = (line.get(f"{name}{end}") for end in ("", "_low", "_high"))
    full = 2 if name == "score" else 1
    share = {"v": value, "lo": low, "hi": high, "paper": paper}
    place = ";".join(f"--{key}:{100 * v / full:.1f}%" for key, v in share.items() if v is not None)
    words, marks = page.plain(value), []
    if low is not None and high is not None:
        words += f" ({low:.2f}–{high:.2f})"
        marks.append(el("i", css=Css.span))
    if paper is not None:
        words += f", paper {paper:.2f}"
        marks.append(el("i", css=Css.tick))
    kind = Css.score if name == "score" else Css.gone if name in GONE else Css.kept
    head = el("span", name, el("small", f" {page.better(name)}"))
    track = el("span", el("b"), *marks, css=Css.track, style=place, aria_hidden="true")
    return el("div", head, track, el("span", words), css=f"{Css.bar} {kind}")


def _output(row: Mapping[str, Any]) -> Raw:
    note = row.get("note")
    small = raw(" ", el("small", note)) if isinstance(note, str) and note else ""
    question = el("span", el("small", row["set"]), " ", row["question"], small, css=Css.asked)
    return el("li", question, judged_html(row), data_outcome=row["outcome"])
