"""What all figures and tables of a page share: how a method looks, what a notebook displays, checks, numbers, downloads."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer

# ---------------------------------------------------------------------------------------------------------------------
# How each method looks, everywhere


@dataclass(frozen=True)
class Style:
    """How one method is drawn: Okabe-Ito colour, marker symbol, line dash."""

    label: str
    colour: str
    symbol: str
    dash: str = "solid"


# Seven legible Okabe-Ito hues cannot tell twelve methods apart, so the shape does: editing methods are filled and
# solid, training methods open and dashed, references grey. Colour is a help, never the only cue. Yellow and black
# are left out: one vanishes on white, the other on a dark page.
STYLES: dict[str, Style] = {
    "base": Style("Base model", "#808080", "x", "dot"),
    "retrained": Style("Retrained", "#808080", "star", "dot"),
    "ga": Style("GA", "#D55E00", "circle-open", "dash"),
    "gd": Style("GD", "#56B4E9", "square-open", "dash"),
    "kl": Style("KL", "#009E73", "diamond-open", "dash"),
    "dpo": Style("DPO", "#CC79A7", "triangle-up-open", "dash"),
    "idk": Style("IDK fine-tuning", "#E69F00", "triangle-down-open", "dash"),
    "rome": Style("ROME", "#E69F00", "triangle-up"),
    "memit": Style("MEMIT", "#56B4E9", "triangle-down"),
    "grace": Style("GRACE", "#CC79A7", "diamond"),
    "wise": Style("WISE", "#0072B2", "square"),
    "alphaedit": Style("AlphaEdit", "#D55E00", "circle"),
}

DATASET_LABELS = {
    "factual": "Factual (pretrained knowledge)",
    "contracts": "Contracts (finetuned knowledge)",
    "pistol": "PISTOL (finetuned knowledge)",
    "tofu-facts": "TOFU facts (pretrained knowledge)",
}

WANTED = {
    "forget": "to be forgotten: the answer should be gone",
    "rephrased": "a forgotten fact asked in other words: the answer should be gone",
    "retain": "to be kept: the answer should still come",
    "unseen": "kept, and never shown to any method: the answer should still come",
}
GONE = ("forget", "rephrased")  # the sets whose answers should be gone; everywhere else they should stay
OUTCOMES = ("correct", "refusal", "other answer", "garbled")


def style(method: str) -> Style:
    """The style of a method; one that is not built in gets a neutral one under its own name."""
    return STYLES.get(method, Style(method, "#808080", "hexagon"))


def ordered(methods: Iterable[str]) -> list[str]:
    """References first, then training, then editing methods; unknown ones last, by name."""
    rank = {name: i for i, name in enumerate(STYLES)}
    return sorted(set(methods), key=lambda m: (rank.get(m, len(rank)), m))


def dataset_label(name: str) -> str:
    return DATASET_LABELS.get(name, name)


# ---------------------------------------------------------------------------------------------------------------------
# Objects that a notebook displays


@dataclass(frozen=True)
class Html:
    """A piece of HTML with a plain-text fallback for terminals and screen logs."""

    html: str
    text: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __repr__(self) -> str:
        return self.text


class BookRenderer(MimetypeRenderer):
    """Plotly figures for JupyterLab (its own MIME type), for the offline book (HTML) and for terminals (alt text).

    The HTML holds the figure as JSON and no script: the book's page script finds it and draws it with the one copy
    of plotly.js that all pages share.
    """

    def to_mimebundle(self, fig_dict: dict) -> dict[str, Any]:
        figure = json.loads(pio.to_json(fig_dict, validate=False, remove_uids=False))
        meta = figure["layout"].get("meta") or {}
        title = (figure["layout"].get("title") or {}).get("text", "")
        alt = meta.get("alt") or title or "Figure"
        html = _figure_html(figure, meta, alt)
        return {"application/vnd.plotly.v1+json": figure, "text/html": html, "text/plain": alt}


def use_book_renderer() -> None:
    """Make `BookRenderer` the default renderer of Plotly; on Colab, which has no JupyterLab, leave Plotly's own."""
    pio.renderers["book"] = BookRenderer()
    if "google.colab" not in sys.modules:
        pio.renderers.default = "book"


def _figure_html(figure: dict, meta: dict, alt: str) -> str:
    layout = {key: value for key, value in figure["layout"].items() if key != "meta"}
    head = ""
    if meta.get("title"):  # the title moves out of the drawing: HTML wraps on a phone, SVG text does not
        head = f'<p class="eu-title">{escape(meta["title"])}</p><p class="eu-reading">{escape(meta["reading"])}</p>'
        layout.pop("title", None)
    data = json_for_script({"data": figure["data"], "layout": layout})
    return (
        f'<div class="eu eu-figure" role="group" aria-label="{escape(alt)}">{head}<div class="eu-controls"></div>'
        f'<div class="eu-plot"><p>{escape(alt)}</p></div><script type="application/json">{data}</script>'
        f"{note(meta.get('provenance', ''), meta.get('csv', ''), meta.get('name', 'figure'))}</div>"
    )


def json_for_script(value: Any) -> str:
    """JSON that cannot end the <script> element it lies in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def note(provenance: str, csv: str, name: str) -> str:
    """The line under a figure: where the numbers come from, and the numbers themselves."""
    parts = [f'<span class="eu-provenance">Source: {escape(provenance)}</span>'] if provenance else []
    if csv:
        address = "data:text/csv;charset=utf-8," + quote(csv)
        parts.append(f'<a href="{address}" download="{escape(name)}.csv">Download CSV</a>')
    return f'<p class="eu-note">{" · ".join(parts)}</p>' if parts else ""


def finish(
    fig: go.Figure,
    *,
    title: str,
    reading: str,
    alt: str,
    provenance: str,
    csv: str,
    name: str,
    height: int,
    left: int = 60,
) -> go.Figure:
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


# ---------------------------------------------------------------------------------------------------------------------
# Checks on what comes in


def need(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}; its columns are {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise ValueError(f"{what} has no rows")


def one_per(frame: pd.DataFrame, keys: Sequence[str], what: str) -> None:
    """Refuse to draw two values for one mark: the caller has to say which of them is meant."""
    double = frame[frame.duplicated(list(keys), keep=False)]
    if double.empty:
        return
    first = double.iloc[0]
    same = double[(double[list(keys)] == first[list(keys)]).all(axis=1)]
    cell = ("model", "n_forget", "targets", "merge", "mode", "seed", "table", "stage", "metric")
    vary = [f"{c} ({', '.join(map(str, same[c].unique()))})" for c in cell if c in same and same[c].nunique() > 1]
    where = ", ".join(f"{k}={first[k]!r}" for k in keys)
    raise ValueError(f"{what} has {len(same)} rows for {where}. Select one value of: {'; '.join(vary) or 'the row'}.")


def number(value: Any) -> float | None:
    """A float for JSON, None where there is none."""
    return None if value is None or pd.isna(value) else round(float(value), 4)


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
    cell = cell.replace("\r\n", "\n").replace(
        "\r", "\n"
    )  # the csv module does not quote a lone \r: it would end the row
    formula = cell.lstrip().startswith(("=", "+", "-", "@")) and not _SIGNED.fullmatch(cell)
    return "'" + cell if formula else cell


_SIGNED = re.compile(r"[+-][0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?")  # a number with its sign stays one


def marker(look: Style, size: int) -> dict[str, Any]:
    """A filled mark has a thin grey edge, seen on white and on black; an open one is all edge, in its own colour."""
    edge = {"width": 2 if "open" in look.symbol else 1, "color": "#808080"}
    return {"symbol": look.symbol, "size": size, "color": look.colour, "line": edge}


def menu(labels: Sequence[str], values: Sequence[dict[str, list]], name: str = "Data set") -> list[dict]:
    """A menu that puts each entry's values into the same traces, so that the legend's choices stay."""
    if len(labels) < 2:
        return []
    buttons = [
        {"label": dataset_label(label), "method": "restyle", "args": [update]}
        for label, update in zip(labels, values, strict=True)
    ]
    return [{"name": name, "buttons": buttons, "x": 1, "xanchor": "right", "y": 1.16, "yanchor": "bottom"}]


def initial(values: dict[str, list], i: int) -> dict[str, Any]:
    """The i-th trace's share of a restyle update; `error_x.array` becomes `error_x_array`."""
    return {key.replace(".", "_"): column[i] for key, column in values.items()}


def plain(value: float | None) -> str:
    return "–" if value is None else _signed(f"{value:.2f}")
