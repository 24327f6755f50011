"""What a page says of a method, worked out when the book is built: no number of a run is typed into prose.

    {preset} NAME      hyperparameters for five models, each with its source          (eu.preset)
    {cost} NAME        seconds, size of the patch, edits that took, memory             (pocket.json, memory.json)
    {results} NAME     ROUGE-1 recall of the committed runs beside the paper's Table 1 (pocket.parquet)
    {method-table}     all methods: what they change, read and support                 (eu.METHODS)
    {answer}           RQ1 in a few lines: the best by score, and what becomes of them (pocket.parquet)
    {value}`METHOD DATASET SET [METRIC]`   one number of the committed runs; SET may be an attack, METRIC "sets": of how many

A name that is not known is an error that says which are.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Container
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

import editunlearn_lib as eu
from editunlearn_lib import attacks, hparams, patch, show, study, study_pocket
from editunlearn_lib.errors import EditUnlearnError, check_name
from editunlearn_lib.evaluation import METRICS

MODELS = {  # presets are known by these names; the columns of the table
    "llama-2-7b-chat": "Llama-2-7B-chat",
    "mistral-7b-instruct": "Mistral-7B-Instruct",
    "llama-3.1-8b-instruct": "Llama-3.1-8B-Instruct",
    "pocket": "pocket",
    "pocket-contracts": "pocket, contracts",
}
VIEWS = {"factual": 40, "contracts": 20}  # of RQ1, as in the paper's Table 1
PAPER_NAME = {"factual": "factual", "contracts": "pistol"}
SETS = ("forget", "rephrased", "retain", "unseen")
ALL_SETS = (*SETS, "factual")
MEMORY = study_pocket.ROOT / "benchmarks" / "memory.json"
MEMORY_7B = "Llama-2-7B, bfloat16, one GPU, computed"
RESULTS = (study_pocket.RESULTS, study_pocket.RESULTS.with_suffix(".json"))


# ---------------------------------------------------------------------------------------------------------------------
# What the files say; each is read once a build


@functools.cache
def committed() -> tuple[pd.DataFrame, str]:
    """The committed records of the pocket and their commits."""
    return study_pocket.committed("pocket")


@functools.cache
def costs() -> pd.DataFrame:
    """Seconds, megabytes and share of edits that took, by data set and method, at the sizes of `VIEWS`."""
    frame = study.manifest_table(study_pocket.RESULTS)
    frame = frame[(frame["covariance"] == "default") & (frame["n_forget"] == frame["dataset"].map(VIEWS))]
    return frame.set_index(["dataset", "method"])


@functools.cache
def runs(protocol: str = "questions") -> pd.DataFrame:
    """The records of all methods at the sizes of `VIEWS`, each method as it is by default."""
    records = committed()[0]
    return pd.concat([study.select(records, dataset=d, n_forget=n, protocol=protocol) for d, n in VIEWS.items()])


@functools.cache
def summary() -> pd.DataFrame:
    """ROUGE-1 recall of all methods by data set and set, with intervals: drawn once for all pages."""
    by = ["dataset", "method", "set"]
    return eu.summarise(runs()[[*by, "seed", "id", "rouge1_recall"]], by=by)


def value(method: str, dataset: str, which: str, metric: str = "rouge1_recall") -> float:
    """The mean of a metric over the committed questions of a set, or over those of an attack."""
    check_name("metric", metric, METRICS)
    return float(asked(method, dataset, which)[metric].astype(float).mean())


def sets(method: str, dataset: str, which: str) -> str:
    """How many forget sets stand behind such a value, in words."""
    n = asked(method, dataset, which)["seed"].nunique()
    return f"{('no', 'one', 'two', 'three', 'four', 'five')[n] if n < 6 else n} forget set{'s' * (n != 1)}"


def asked(method: str, dataset: str, which: str) -> pd.DataFrame:
    """The committed questions of a set, or of an attack."""
    check_name("method", method, (*eu.METHODS, *study.REFERENCES))
    check_name("data set", dataset, VIEWS)
    check_name("set or attack", which, dict.fromkeys((*ALL_SETS, *attacks.ATTACKS)))
    records, column = (runs(), "set") if which in ALL_SETS else (runs("attacks"), "attack")
    found = records[(records["method"] == method) & (records["dataset"] == dataset) & (records[column] == which)]
    if not len(found):
        raise EditUnlearnError(f"there are no committed results of {method} on {which} of {dataset}.")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def html_table(
    caption: str, head: list[str], rows: list[list[str]], note: str, more: list[list[str]] = (), words: bool = False
) -> str:
    """A table in the look of `show.table`; cells are HTML, a row of one is a heading. ``more`` rows are folded away.

    ``words``: not numbers, so the cells begin at the left and the first of them is wide.
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)

    def body(rows: list[list[str]]) -> str:
        lines = (
            f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:])
            if len(row) > 1
            else f'<th scope="rowgroup" colspan="{len(head)}">{row[0]}</th>'
            for row in rows
        )
        return f"<thead><tr>{top}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody>"

    def scroll(label: str, inner: str) -> str:
        return f'<div class="eu-scroll" role="region" tabindex="0" aria-label="{label}"><table>{inner}</table></div>'

    parts = [scroll(escape(caption), f"<caption>{escape(caption)}</caption>{body(rows)}")] if rows else []
    if more:
        title = f"{len(more)} further fields, which no preset sets"
        parts.append(f"<details><summary>{title}</summary>{scroll(title, body(more))}</details>")
    return f'<div class="eu eu-table eu-facts{" eu-words" * words}">{"".join(parts)}<p class="eu-note">{note}</p></div>'


def preset_html(method: str) -> str:
    """The hyperparameters of a method for each of `MODELS`; a letter behind each value is its source."""
    check_name("method", method, eu.METHODS)
    presets = {name: eu.preset(method, name) for name in MODELS}
    letters: dict[str, str] = {}
    rows, defaults = [], []
    for field in next(iter(presets.values())):
        entries = [presets[name][field] for name in MODELS]
        unset = all(entry["source"] in (hparams.DEFAULT, hparams.OURS) for entry in entries)
        cells = []
        for entry in entries:
            letter = letters.setdefault(entry["source"], "abcdefghijklmnop"[len(letters)])
            cells.append(f"{escape(_shown(entry['value']))} <sup>{letter}</sup>")
        (defaults if unset else rows).append([f"<code>{escape(field)}</code>", *cells])
    legend = "; ".join(f"<sup>{letter}</sup> {escape(source)}" for source, letter in letters.items())
    head = ["field", *map(escape, MODELS.values())]
    return html_table(f"Presets of {show.style(method).label}", head, rows, f"Sources: {legend}.", defaults)


def cost_html(method: str) -> str:
    """What a method costs on the pocket (measured) and on a 7B model (computed)."""
    check_name("method", method, eu.METHODS)
    rows = []
    for column, label, form in (
        ("seconds", "seconds to make the patch", "{:.1f}"),
        ("MB", "size of the patch, MB", "{:.2f}"),
        ("edits that took", "share of the edits that took", "{:.0%}"),
    ):
        found = [costs()[column].get((dataset, method)) for dataset in VIEWS]
        if not all(map(pd.isna, found)):
            rows.append([f"{label}, measured", *("–" if pd.isna(x) else form.format(x) for x in found)])
    memory = json.loads(MEMORY.read_text(encoding="utf-8"))
    pocket, large = memory["float32, CPU"]["pocket"], memory[MEMORY_7B]
    notes = []
    if method in pocket:
        found = pocket[method]
        notes.append(
            f"Peak memory on the pocket beside its weights, {pocket['requests']} questions: "
            f"<strong>{found['measured MB']:.0f} MB</strong> measured, {found['computed MB']:.0f} MB computed."
        )
    if method in large:
        notes.append(
            f"Peak memory of Llama-2-7B in bfloat16 on one GPU, with its weights: <strong>{large[method]['GB']:.1f} GB</strong> "
            "computed; no 7B model was run."
        )
    head = ["", *(f"{show.DATASET_LABELS[d].split(' ')[0].lower()}, {n} forgotten" for d, n in VIEWS.items())]
    note = (
        f"Source: committed results of the pocket model on a CPU, mean over the forget sets ({escape(committed()[1])}); "
        "memory, below: benchmarks/memory.json. An edit took if the model begins its target with the patch on."
    )
    table = html_table(f"What {show.style(method).label} costs", head, rows, note)
    return table + "".join(f"<p>{line}</p>" for line in notes)


def results_html(method: str) -> str:
    """ROUGE-1 recall of the untouched model and of a method, beside the paper's Table 1 where it has the method."""
    check_name("method", method, eu.METHODS)
    records, label = runs(), show.style(method).label
    records = records[records["method"] == method]
    if not len(records):
        return f'<div class="eu"><p>There are no committed results of {escape(label)} yet.</p></div>'
    sets = records.groupby("dataset", sort=False)["seed"].nunique()
    paper = eu.paper_tables().query("table == 'table1' and model == 'Llama2-7B' and metric == 'rouge1_recall'")
    paper = paper[paper["method"] == method].replace({"dataset": {v: k for k, v in PAPER_NAME.items()}})
    of = ", ".join(f"{n} ({dataset})" for dataset, n in sets.items())
    return show.table(
        summary(),
        paper if len(paper) else None,
        sets=SETS,
        methods=["base", method],
        name=f"results-{method}",
        caption=f"{label} on the pocket model, ROUGE-1 recall",
        provenance=f"ours: committed results, forget sets: {of}; small print: 95 % bootstrap intervals over their "
        f"questions; {committed()[1]}"
        + ("; paper: Table 1, Llama2-7B, its contracts are PISTOL's" if len(paper) else ""),
    ).html


def method_rows() -> list[dict[str, Any]]:
    """What the registry says of every method, in words."""
    rows = []
    for name, method in eu.METHODS.items():
        first = (sys.modules[method.run.__module__].__doc__ or name).strip().splitlines()[0].split(". ")[0]
        changes = "weights, by training" if not method.edits else "weights of a few matrices"
        reads = ["forget set"] + ["retain set"] * method.reads_retain + ["covariance of keys"] * method.covariance
        rows.append(
            {
                "name": name,
                "label": show.style(name).label,
                "line": first.split(": ", 1)[-1].rstrip("."),
                "changes": "no weight, acts in one layer" if name in patch.KINDS else changes,
                "reads": ", ".join(reads),
                "target": "a refusal" if method.refuses else "away from the answer",
                "order": " or ".join(method.modes) if method.edits else "–",
                "merges": method.merges,
                "continues": method.continues,
            }
        )
    return rows


def method_table_html(pages: Container[str]) -> str:
    """The methods by what they change; ``pages`` names those with a page beside this one."""
    rows = method_rows()
    lines = []
    for family in dict.fromkeys(row["changes"] for row in rows):
        lines.append([f"Changes {family}"])
        for row in (row for row in rows if row["changes"] == family):
            label = escape(row["label"])
            label = f'<a href="{row["name"]}.html">{label}</a>' if row["name"] in pages else label
            marks = ["yes" if row[key] else "–" for key in ("merges", "continues")]
            lines.append([label, *(escape(row[key]) for key in ("line", "reads", "target", "order")), *marks])
    head = ["method", "in one line", "reads", "moves towards", "edits", "merges queries", "continues a patch"]
    return html_table(
        f"{len(rows)} methods: what they change, read and support",
        head,
        lines,
        "Source: editunlearn_lib.METHODS.",
        words=True,
    )


def answer_html(dataset: str = "factual") -> str:
    """The three best by score on facts, how they answer in other words and under prefill, and the best training method."""
    names = [m for m in eu.METHODS if ((summary()["dataset"] == dataset) & (summary()["method"] == m)).any()]
    score = {m: 1 - value(m, dataset, "forget") + value(m, dataset, "retain") for m in names}
    order = sorted(score, key=score.get, reverse=True)
    trained = next(m for m in order if not eu.METHODS[m].edits)
    rows = [
        [
            escape(show.style(m).label),
            f"{score[m]:.2f}",
            *(f"{value(m, dataset, s):.2f}" for s in ("forget", "retain", "rephrased", "prefill")),
        ]
        for m in dict.fromkeys([*order[:3], trained])
    ]
    head = ["method", "score", "forget", "retain", "in other words", "half an answer given"]
    seeds = runs()[runs()["dataset"] == dataset]["seed"].nunique()
    note = (
        f"Source: committed results, {committed()[1]}; {seeds} forget sets. ROUGE-1 recall; low is good but for score and retain. "
        f"Shown: the three best by score of {len(names)}, and the best that trains."
    )
    return html_table("The best by score, and what becomes of them", head, rows, note)


def _shown(value: Any) -> str:
    """A hyperparameter as one reads it: 0.5, 1e-05, 4, 5, 6, yes."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# Directives and the role


class _Fact(SphinxDirective):
    """A directive with the name of a method, and the files its HTML is worked out from."""

    required_arguments = 1
    files: tuple = (hparams.__file__,)
    make = staticmethod(preset_html)

    def run(self) -> list[nodes.Node]:
        for file in (*self.files, __file__):
            self.env.note_dependency(str(file))
        try:
            return [nodes.raw("", self.make(self.arguments[0]), format="html")]
        except EditUnlearnError as error:
            raise self.error(f"{{{self.name}}}: {error}") from error


class Preset(_Fact):
    files = (hparams.__file__, study_pocket.ROOT / "editunlearn_lib" / "pocket" / "presets.json")


class Cost(_Fact):
    make, files = staticmethod(cost_html), (*RESULTS, MEMORY)


class Results(_Fact):
    make, files = (
        staticmethod(results_html),
        (*RESULTS, study_pocket.ROOT / "editunlearn_lib" / "data" / "paper_tables.csv"),
    )


class MethodTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(__file__)
        folder = Path(self.env.doc2path(self.env.docname)).parent
        for method in eu.METHODS.values():
            self.env.note_dependency(sys.modules[method.run.__module__].__file__)
        pages = [name for name in eu.METHODS if (folder / f"{name}.md").exists()]
        return [nodes.raw("", method_table_html(pages), format="html")]


class Answer(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        for file in (*RESULTS, __file__):
            self.env.note_dependency(str(file))
        return [nodes.raw("", answer_html(), format="html")]


class Value(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list]:
        for file in (*RESULTS, __file__):
            self.env.note_dependency(str(file))
        try:
            words = self.text.split()
            return [nodes.Text(sets(*words[:-1]) if words[-1] == "sets" else f"{value(*words):.2f}")], []
        except (EditUnlearnError, TypeError) as error:
            message = self.inliner.reporter.error(f"{{value}}`{self.text}`: {error}", line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]


def setup(app: Sphinx) -> dict:
    named = {"preset": Preset, "cost": Cost, "results": Results, "method-table": MethodTable, "answer": Answer}
    for name, directive in named.items():
        app.add_directive(name, directive)
    app.add_role("value", Value())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
