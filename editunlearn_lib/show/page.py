"""What all that is seen shares: the look of a method, class names, what a notebook displays, checks, numbers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape, unescape
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.graph_objects import Figure
from plotly.io.base_renderers import MimetypeRenderer

from ..methods import METHODS
from ..metrics import score


@dataclass(frozen=True)
class Style:
    """How one method is drawn: Okabe-Ito colour, marker symbol, line dash."""

    label: str
    colour: str
    symbol: str
    dash: str = "solid"


GREY = "#808080"
REFERENCES = {"base": Style("Base model", GREY, "x", "dot"), "retrained": Style("Retrained", GREY, "star", "dot")}


def style(method: str) -> Style:
    """The label, colour, symbol and dash of a method; one that is not registered gets a neutral mark under its name."""
    if method in METHODS:
        about = METHODS[method]
        return Style(about.label, about.colour, about.symbol, about.dash)
    return REFERENCES.get(method) or Style(method, GREY, "hexagon")


def ordered(methods: Iterable[str]) -> list[str]:
    """References first, then training, then editing methods; unknown ones last, by name."""
    order = [*REFERENCES, *sorted(METHODS, key=lambda name: METHODS[name].edits)]
    return sorted(set(methods), key=lambda name: (order.index(name) if name in order else len(order), name))


DATASET_LABELS = {
    "factual": "Factual (pretrained knowledge)",
    "contracts": "Contracts (finetuned knowledge)",
    "pistol": "PISTOL (finetuned knowledge)",
    "tofu-facts": "TOFU facts (pretrained knowledge)",
}
GONE = ("forget", "rephrased")  # the sets whose answers should be gone; everywhere else they should stay


def label(name: str) -> str:
    """A data set or a method as people call it; any other name as it is."""
    return DATASET_LABELS.get(name) or style(name).label


def better(which: str) -> str:
    """The direction that is good, of the recall on a set or of the score."""
    return "lower is better" if which in GONE else "higher is better"


# Every class name that Python writes and that scripts and style sheets read: those of figures; tables; outputs;
# explorers; other boxes; the interactive figures (the frame, then what their script makes).
CLASSES = """
figure plot title reading note provenance controls keys tickbox question
table scroll many text paper ours edits miss facts words claims repro view
sbs count case answer outcome output
linked pair chosen stops stop shown bars bar track score gone kept span tick cost asked
rating said ask small raises head house
explore drawing static stack box lane flow arrow hidden
status tools panes pane pane-title wide chart strong grid axis mark marks handle grip area chips result metrics
tokens shares share share-track value line thick curve ink out open null ellipse ball side threshold
vermillion green blue orange
"""
Css = SimpleNamespace(
    eu="eu", **{name.replace("-", "_"): f"eu-{name}" for name in CLASSES.split()}
)  # pane_title: eu-pane-title


class Raw(str):
    """Text that is HTML already; every other text is escaped where it enters a page."""


def el(tag: str, *inner: Any, **attributes: Any) -> Raw:
    """An element: ``css`` is its class, ``data_method`` its ``data-method``; None and False are not written."""
    written = ""
    for key, value in attributes.items():
        if value is not None and value is not False:
            name = "class" if key == "css" else key.replace("_", "-")
            written += f" {name}" if value is True else f' {name}="{escape(str(value))}"'
    return Raw(f"<{tag}{written}>{raw(*inner)}</{tag}>")


def raw(*parts: Any) -> Raw:
    """The parts one behind the other: `Raw` as it is, everything else escaped."""
    return Raw("".join(part if isinstance(part, Raw) else escape(str(part)) for part in parts))


def words(html: str) -> str:
    """What a piece of HTML says, a line for each row, item and paragraph: for a terminal."""
    text = re.sub(r"<(script|style)\b.*?</\1>|( · )?<a [^>]*download=.*?</a>", "", html, flags=re.DOTALL)
    text = re.sub(r"</(tr|li|p|caption|summary|label)>", "\n", text.replace("</th><td", ":</th><td"))
    lines = unescape(re.sub(r"(<[^>]*>)+", " ", text)).replace("\u2060", "").replace(" :", ":").splitlines()
    return "\n".join(" ".join(line.split()) for line in lines if line.strip())


class Html:
    """What a notebook displays: `html`, and its words for terminals and screen logs."""

    def __init__(self, html: str):
        self.html = str(html)

    @property
    def text(self) -> str:
        return words(self.html)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __repr__(self) -> str:
        return self.text


def note(provenance: str | Raw, csv: str, name: str) -> Raw:
    """The line under a figure or table: where the numbers come from (a `Raw` as it is), and the numbers themselves."""
    source = provenance if isinstance(provenance, Raw) else el("span", f"Source: {provenance}", css=Css.provenance)
    parts = [source] if provenance else []
    if csv:
        address = "data:text/csv;charset=utf-8," + quote(csv)
        parts.append(el("a", "Download CSV", href=address, download=f"{name}.csv"))
    return el("p", Raw(" · ".join(parts)), css=Css.note) if parts else Raw()


def data_script(value: Any) -> Raw:
    """Data for the page's script, as JSON that cannot end the <script> element it lies in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return el("script", Raw(text), type="application/json")


def section(css: str, name: str, title: str, reading: str | Raw, *inner: Any) -> Html:
    """A view with a script of its own, found by its id: title, how to read it, a place for controls, and the rest."""
    head = raw(el("p", title, css=Css.title), el("p", reading, css=Css.reading), el("div", css=Css.controls))
    return Html(el("section", head, *inner, css=f"{Css.eu} {css}", id=name, aria_label=title))


class BookRenderer(MimetypeRenderer):
    """Plotly figures for JupyterLab (its own MIME type), for the offline book (HTML) and for terminals (alt text).

    The HTML holds the figure as JSON; the book's script draws it with the one copy of plotly.js that all pages share.
    """

    def to_mimebundle(self, fig_dict: dict) -> dict[str, Any]:
        figure = json.loads(pio.to_json(fig_dict, validate=False, remove_uids=False))
        layout, meta = dict(figure["layout"]), figure["layout"].get("meta") or {}
        alt = meta.get("alt") or (layout.get("title") or {}).get("text") or "Figure"
        head = Raw()
        if meta.get("title"):  # the title moves out of the drawing: HTML wraps on a phone, SVG text does not
            head = raw(el("p", meta["title"], css=Css.title), el("p", meta["reading"], css=Css.reading))
            del layout["title"]
        layout.pop("meta", None)
        plot = raw(el("div", css=Css.controls), el("div", el("p", alt), css=Css.plot))
        data = data_script({"data": figure["data"], "layout": layout})
        below = note(meta.get("provenance", ""), meta.get("csv", ""), meta.get("name", "figure"))
        html = el("div", head, plot, data, below, css=f"{Css.eu} {Css.figure}", role="group", aria_label=alt)
        return {"application/vnd.plotly.v1+json": figure, "text/html": str(html), "text/plain": alt}


def use_book_renderer() -> None:
    """Make `BookRenderer` the default renderer of Plotly; on Colab, which has no JupyterLab, leave Plotly's own."""
    pio.renderers["book"] = BookRenderer()
    if "google.colab" not in sys.modules:
        pio.renderers.default = "book"


def finish(
    fig: Figure, title: str, reading: str, alt: str, provenance: str, csv: str, name: str, height: int, left: int = 60
) -> Figure:
    """What all figures share. `reading` says which direction is good; it stands under the title."""
    fig.update_layout(
        template=go.layout.Template(),  # an empty template: the default one alone is 7 kB a figure
        title={"text": title, "x": 0, "xref": "paper", "subtitle": {"text": f"{reading}<br>Source: {provenance}"}},
        meta={"title": title, "reading": reading, "alt": alt, "provenance": provenance, "csv": csv, "name": name},
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#222832"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        height=height,
        margin={"l": left, "r": 30, "t": 110, "b": 60},
        dragmode=False,  # a finger on the figure scrolls the page
        hoverlabel={"align": "left"},
    )
    return fig


def need(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}; its columns are {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise ValueError(f"{what} has no rows")


def one_per(frame: pd.DataFrame, keys: Sequence[str], what: str) -> None:
    """Refuse to draw two values for one mark: the caller has to say which of them is meant."""
    double = frame[frame.duplicated(list(keys))]
    if double.empty:
        return
    first = double.iloc[0]
    same = frame[(frame[list(keys)] == first[list(keys)]).all(axis=1)]
    cell = ("model", "n_forget", "targets", "merge", "mode", "seed", "table", "stage", "metric")
    vary = [f"{c} ({', '.join(map(str, same[c].unique()))})" for c in cell if c in same and same[c].nunique() > 1]
    where = ", ".join(f"{k}={first[k]!r}" for k in keys)
    raise ValueError(f"{what} has {len(same)} rows for {where}. Select one value of: {'; '.join(vary) or 'the row'}.")


def number(value: Any) -> float | None:
    """A float for JSON, None where there is none."""
    return None if value is None or pd.isna(value) else round(float(value), 4)


def plain(value: float | None) -> str:
    return "–" if value is None else _signed(f"{value:.2f}")


def num(value: float) -> str:
    """Three decimals, the last dropped where it is 0: 0.3 gives 0.30, 1.636 gives 1.636."""
    short = _signed(f"{value:.3f}")
    return short[:-1] if short.endswith("0") else short


def _signed(number: str) -> str:
    """With a minus sign, which zero has not."""
    return number.replace("-", "−") if float(number) else number.lstrip("-")


def csv(frame: pd.DataFrame) -> str:
    """The download of a figure. Texts that a spreadsheet would run as a formula get an apostrophe in front."""
    return frame.map(_no_formula).to_csv(index=False, lineterminator="\n")


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    cell = re.sub("\r\n?", "\n", cell)  # the csv module does not quote a lone \r: it would end the row
    signed = re.fullmatch(r"[+-][0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?", cell)  # a number with its sign stays one
    return "'" + cell if cell.lstrip().startswith(("=", "+", "-", "@")) and not signed else cell


def marker(look: Style, size: int) -> dict[str, Any]:
    """A filled mark has a thin grey edge, seen on white and on black; an open one is all edge, in its own colour."""
    edge = {"width": 2 if "open" in look.symbol else 1, "color": "#808080"}
    return {"symbol": look.symbol, "size": size, "color": look.colour, "line": edge}


def menu(entries: Sequence[str], values: Sequence[dict[str, list]], name: str) -> list[dict]:
    """A menu that puts each entry's values into the same traces, so that the legend's choices stay."""
    if len(entries) < 2:
        return []
    both = zip(map(label, entries), values, strict=True)
    buttons = [{"label": entry, "method": "restyle", "args": [update]} for entry, update in both]
    return [{"name": name, "buttons": buttons, "x": 1, "xanchor": "right", "y": 1.16, "yanchor": "bottom"}]


Span = tuple[float | None, float | None, float | None]  # a value, the lower and the upper end of its interval


def span(row: Mapping[str, Any]) -> Span:
    """ROUGE-1 recall of a row with its interval; without one both ends are the value."""
    value, low, high = (number(row.get(f"rouge1_recall{end}")) for end in ("", "_low", "_high"))
    return value, value if low is None else low, value if high is None else high


class Spans(dict):
    """The `span` of each row by its values of `keys`; of what was not measured, three times None.

    Raises ValueError if a column is not there, or if there are no rows or several for one key.
    """

    def __init__(self, frame: pd.DataFrame, keys: Sequence[str], what: str = "summary"):
        need(frame, (*keys, "rouge1_recall"), what)
        one_per(frame, keys, what)
        super().__init__((tuple(row[key] for key in keys), span(row)) for row in frame.to_dict("records"))

    def __missing__(self, key: tuple) -> Span:
        return None, None, None


class Summary(Spans):
    """Spans by data set, method and set, and the scores; `methods` selects and orders."""

    def __init__(self, frame: pd.DataFrame, methods: Sequence[str] | None = None):
        keys = ("dataset", "method", "set")
        need(frame, (*keys, "rouge1_recall", "score"), "summary")
        self.methods = ordered(frame["method"]) if methods is None else list(methods)
        self.frame = frame[frame["method"].isin(self.methods)]
        super().__init__(self.frame, keys, f"summary, for the methods {', '.join(methods)}," if methods else "summary")
        self.datasets = list(dict.fromkeys(self.frame["dataset"]))
        self.scores = self.frame.groupby(["dataset", "method"])["score"].first()

    def score(self, dataset: str, method: str) -> float | None:
        return number(self.scores.get((dataset, method)))

    def in_words(self) -> str:
        """The scores of each data set, best first: the part of the alt text that carries the finding."""
        lines = []
        for dataset in self.datasets:
            scores = {m: s for m in self.methods if (s := self.score(dataset, m)) is not None}
            ranked = (f"{style(m).label} {scores[m]:.2f}" for m in sorted(scores, key=lambda m: -scores[m]))
            lines.append(f"{label(dataset)}, score: {', '.join(ranked)}")
        return ". ".join(lines)


def paper_values(paper: pd.DataFrame | None) -> dict[tuple[str, str, str], float]:
    """ROUGE-1 recall by data set, method and set in the columns of `paper_tables()`, and the score that follows."""
    if paper is None:
        return {}
    need(paper, ("dataset", "method", "set", "metric", "value"), "paper")
    paper = paper[paper["metric"] == "rouge1_recall"].dropna(subset="value")
    one_per(paper, ("dataset", "method", "set"), "paper")
    values = {(r["dataset"], r["method"], r["set"]): number(r["value"]) for r in paper.to_dict("records")}
    for (dataset, method, which), value in list(values.items()):
        if which == "forget" and (retain := values.get((dataset, method, "retain"))) is not None:
            values[dataset, method, "score"] = round(score(value, retain), 4)
    return values
