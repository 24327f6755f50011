"""What the pages say of methods and runs, worked out from code and files as HTML: no number is typed into prose.

No Sphinx in here: the directives and roles that put it on a page are in `facts.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

import editunlearn_lib as eu
from editunlearn_lib import attacks, hparams, show, study
from editunlearn_lib.adapter import Adapter
from editunlearn_lib.errors import EditUnlearnError, check_name
from editunlearn_lib.evaluation import METRICS
from editunlearn_lib.show.page import Css, Raw, el, raw

MODELS = tuple(hparams.ALIASES)  # those that have presets
VIEWS = {"factual": 40, "contracts": 20}  # of RQ1, as in the paper's Table 1
MEASURED = {  # in the manifest of the results: how it is called and written
    "seconds": ("seconds to make the patch", "{:.1f}"),
    "MB": ("size of the patch, MB", "{:.2f}"),
    "edits that took": ("share of the edits that took", "{:.0%}"),
}
RATIOS = {  # in the benchmarks: what they mean
    "ratio": "times as fast",
    "error": "computed against measured: share too little (−) or too much",
    "share": "share of the arithmetic's own time",
}
ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.json"))
MEMORY = ROOT / "benchmarks" / "memory.json"
STATUS = ROOT / "book" / "executed" / "status.json"
RESULTS = ROOT / study.results.RESULTS / "pocket.parquet"
MANIFEST = RESULTS.with_suffix(".json")
# each is read once a build
committed = functools.cache(lambda: (study.load_results(RESULTS), study.manifest_commits(RESULTS)))
costs = functools.cache(lambda: study.results.costs(RESULTS, VIEWS).set_index(["dataset", "method"]))


def read_json(path: Path) -> Any:
    """A JSON file, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


@functools.cache
def runs(protocol: str = "questions") -> pd.DataFrame:
    """The records of all methods at the sizes of `VIEWS`, each method as it is by default."""
    return study.select_sizes(committed()[0], VIEWS, protocol=protocol)


@functools.cache
def summary() -> pd.DataFrame:
    """ROUGE-1 recall of all methods by data set and set, with intervals: drawn once for all pages."""
    by = ["dataset", "method", "set"]
    return eu.summarise(runs()[[*by, "seed", "id", "rouge1_recall"]], by=by)


def questions(method: str, dataset: str, which: str) -> pd.DataFrame:
    """The committed questions of a set, or of an attack."""
    check_name("method", method, (*eu.METHODS, *study.REFERENCES))
    check_name("data set", dataset, VIEWS)
    check_name("set or attack", which, ("forget", "rephrased", "retain", "unseen", "factual", *attacks.ATTACKS))
    records, column = (runs("attacks"), "attack") if which in attacks.ATTACKS else (runs(), "set")
    rows = records[(records["method"] == method) & (records["dataset"] == dataset) & (records[column] == which)]
    if not len(rows):
        raise EditUnlearnError(f"there are no committed results of {method} on {which} of {dataset}.")
    return rows


def value(method: str, dataset: str, which: str, metric: str = "rouge1_recall") -> float:
    """The mean of a metric over the committed questions of a set, or over those of an attack."""
    check_name("metric", metric, METRICS)
    return float(questions(method, dataset, which)[metric].astype(float).mean())


def sets(method: str, dataset: str, which: str) -> str:
    """How many forget sets stand behind such a value, in words."""
    n = questions(method, dataset, which)["seed"].nunique()
    return f"{('no', 'one', 'two', 'three', 'four', 'five')[n] if n < 6 else n} forget set{'s' * (n != 1)}"


def text(value: Any) -> str:
    """A value of a table: 0.5, 1e-05, 15000, "4, 5, 6", yes, none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value))
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def duration(seconds: float) -> str:
    """Seconds for people: 40 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def table_html(
    caption: str, rows: list[dict], note: str = "", *, folded: Sequence[dict] = (), words: bool = False
) -> str:
    """Rows of values whose keys are the heads, as a `show.Table`; a ``group`` stands over its rows.

    ``words``: not numbers, so the cells begin at the left and the first of them is wide.
    """
    lines = [{k: one if isinstance(one, Raw) else text(one) for k, one in row.items()} for row in [*rows, *folded]]
    columns = [show.Column(head, head) for head in lines[0] if head != "group"]
    look = {
        "group": "group" if "group" in lines[0] else None,
        "css": f"{Css.facts} {Css.words}" if words else Css.facts,
    }
    if folded:
        look["folded"] = (f"{len(folded)} further fields, which no preset sets", lines[len(rows) :])
    return show.Table(caption, columns, lines[: len(rows)], Raw(note), **look).html


def module(method: str) -> ModuleType:
    """The module that a method is written in, one of the package or of a plugin."""
    check_name("method", method, eu.METHODS)
    return sys.modules[eu.METHODS[method].run.__module__]


def head(method: str) -> str:
    """What stands at the head of a method's file: equation and source among it."""
    return inspect.getdoc(module(method)) or method


def one_line(method: str) -> str:
    """The first sentence of a method's file, without the name before its colon."""
    return head(method).splitlines()[0].split(". ")[0].split(": ", 1)[-1].rstrip(".")


def head_html(method: str) -> str:
    block = el("div", el("pre", head(method)), css="highlight")
    return str(el("div", block, css=f"{Css.head} highlight-text notranslate"))


def changes(method: str) -> str:
    """What a method changes, in words: the tables are grouped by it."""
    own = vars(module(method)).values()
    if any(isinstance(one, type) and issubclass(one, Adapter) and one is not Adapter for one in own):
        return "no weight, acts in one layer"
    return "weights of a few matrices" if eu.METHODS[method].edits else "weights, by training"


def method_table_html(pages: Mapping[str, str], *methods: str) -> str:
    """The methods by what they change, from the registry; ``pages`` has the address of a method's page."""
    methods = methods or tuple(eu.METHODS)
    rows = []
    for name in methods:
        method = eu.METHODS[name]
        reads = ["forget set"] + ["retain set"] * ("retain" in method.reads)
        reads += ["covariance of keys"] * method.covariance
        row = {
            "group": f"Changes {changes(name)}",
            "method": el("a", method.label, href=pages[name]) if name in pages else raw(method.label),
            "in one line": one_line(name),
            "reads": reads,
            "moves towards": "a refusal" if method.refuses else "away from the answer",
            "edits": " or ".join(method.modes) if method.edits else "–",
            "merges queries": "yes" if method.merges else "–",
            "continues a patch": "yes" if method.continues else "–",
        }
        rows.append(row)
    caption = f"{len(methods)} methods" if len(methods) > 1 else eu.METHODS[methods[0]].label
    caption += ": what is changed, read and supported"
    return table_html(caption, rows, "Source: editunlearn_lib.METHODS.", words=True)


def preset_html(method: str) -> str:
    """Every field of a method's config: its default, its value for each of `MODELS`, and what its comment says.

    A letter behind each value is its source; what no preset sets is folded away.
    """
    check_name("method", method, eu.METHODS)
    config = eu.METHODS[method].config
    source = "\n".join(inspect.getsource(kind) for kind in config.__mro__ if dataclasses.is_dataclass(kind))
    meanings = dict(re.findall(r"^    (\w+):[^#\n]*#\s*(.+)$", source, flags=re.MULTILINE))
    presets = {name: eu.preset(method, name) for name in MODELS}
    letters: dict[str, str] = {}
    rows, defaults = [], []
    for field in dataclasses.fields(config):
        row, unset = {"field": el("code", field.name), "default": field.default}, True
        for name, preset in presets.items():
            entry = preset[field.name]
            letter = letters.setdefault(entry["source"], "abcdefghijklmnop"[len(letters)])
            row[name] = raw(text(entry["value"]), Raw("&nbsp;"), el("sup", letter))
            unset &= entry["source"] in (hparams.DEFAULT, hparams.OURS)
        row["meaning"] = el("div", meanings.get(field.name, ""), css=Css.text)
        (defaults if unset else rows).append(row)
    legend = "; ".join(raw(el("sup", letter), " ", source) for source, letter in letters.items())
    note = f"The fields of {config.__name__}. Sources: {legend}."
    return table_html(f"Presets of {eu.METHODS[method].label}", rows, note, folded=defaults)


def cost_html(*methods: str) -> str:
    """What methods cost, a column each: measured on the pocket, computed for large models; or all methods."""
    for method in methods:
        check_name("method", method, eu.METHODS)
    methods = methods or tuple(eu.METHODS)
    rows = []

    def add(title: str, parts: dict[str, Mapping[str, Any]], form: str) -> None:
        for name, part in parts.items():
            if any(m in part for m in methods):
                values = {eu.METHODS[m].label: form.format(part[m]) if m in part else "–" for m in methods}
                rows.append({"group": title, "": name, **values})

    for column, (title, form) in MEASURED.items():
        add(title, {f"{d}, {n} forgotten": costs()[column].dropna().get(d, {}) for d, n in VIEWS.items()}, form)
    memory = read_json(MEMORY)
    pocket = {m: memory["float32, CPU"]["pocket"][m] for m in methods if m in memory["float32, CPU"]["pocket"]}
    requests = memory["float32, CPU"]["pocket"]["requests"]
    parts = {kind: {m: row[f"{kind} MB"] for m, row in pocket.items()} for kind in ("measured", "computed")}
    add(f"peak memory on the pocket beside its weights, MB, {requests} questions", parts, "{:.0f}")
    large = {name.removesuffix(", computed"): part for name, part in memory.items() if name.endswith("computed")}
    add("peak memory with the weights, GB, computed", large, "{0[GB]:.1f}, {0[phase]}")
    if not rows:
        return str(el("div", el("p", "What it costs has not been measured yet."), css=Css.eu))
    note = (
        "Source: committed results of the pocket model on a CPU, "
        f"mean over the forget sets ({escape(committed()[1])}); "
        "memory: benchmarks/memory.json, with the part of the work at which it peaks; no large model was run. An edit "
        "took if the model begins its target with the patch on."
    )
    title = "What each method costs" if len(methods) > 1 else f"What {eu.METHODS[methods[0]].label} costs"
    return table_html(title, rows, note)


def results_html(method: str) -> str:
    """ROUGE-1 recall of the untouched model and of a method, beside the paper's Table 1 where it has the method."""
    check_name("method", method, eu.METHODS)
    records = runs()[runs()["method"] == method]
    if not len(records):
        return str(el("div", el("p", "There are no committed results yet."), css=Css.eu))
    seeds = records.groupby("dataset", sort=False)["seed"].nunique()
    of = ", ".join(f"{n} ({dataset})" for dataset, n in seeds.items())
    source = f"ours: committed results, forget sets: {of}; small print: 95 % bootstrap intervals over their questions; "
    source += committed()[1]
    paper = eu.paper_tables().query("table == 'table1' and model == 'Llama2-7B' and metric == 'rouge1_recall'")
    paper = paper[paper["method"] == method].replace({"dataset": {"pistol": "contracts"}})
    source += "; paper: Table 1, Llama2-7B, its contracts are PISTOL's" * bool(len(paper))
    caption = f"{eu.METHODS[method].label} on the pocket model, ROUGE-1 recall"
    look = {"methods": ["base", method], "name": f"results-{method}"}
    return show.table(summary(), paper if len(paper) else None, caption=caption, provenance=source, **look).html


def answer_html(dataset: str = "factual") -> str:
    """The three best by score on facts, in other words and under prefill, and the best that trains."""
    names = [m for m in eu.METHODS if ((summary()["dataset"] == dataset) & (summary()["method"] == m)).any()]
    score = {m: 1 - value(m, dataset, "forget") + value(m, dataset, "retain") for m in names}
    order = sorted(score, key=score.get, reverse=True)
    trained = next(m for m in order if not eu.METHODS[m].edits)
    sets = {"forget": "forget", "retain": "retain", "in other words": "rephrased", "half an answer given": "prefill"}
    rows = []
    for m in dict.fromkeys([*order[:3], trained]):
        values = {head: f"{value(m, dataset, which):.2f}" for head, which in sets.items()}
        rows.append({"method": m, "score": f"{score[m]:.2f}", **values})
    seeds = runs()[runs()["dataset"] == dataset]["seed"].nunique()
    note = (
        f"Source: committed results, {committed()[1]}; {seeds} forget sets. ROUGE-1 recall; low is good but for score "
        f"and retain. Shown: the three best by score of {len(names)}, and the best that trains."
    )
    return table_html("The best by score, and what becomes of them", rows, note)


def status_html() -> str:
    """When each notebook was run, by what, and how long it took."""
    status = read_json(STATUS)
    if not status:
        return str(el("div", el("p", "No notebook has been executed in this copy of the book."), css=Css.eu))
    rows, made = [], {}
    for name, one in status.items():
        row = {"notebook": name, "run time": duration(one["seconds"])}
        row["parameters changed"] = ", ".join(f"{k} = {v}" for k, v in one["parameters"].items()) or "none"
        row["device"] = one["device"]
        row["finished"] = one["finished"].replace("T", " ").split("+")[0] + " UTC"
        rows.append(row)
        made.setdefault(", ".join(map(" ".join, one["versions"].items())), []).append(name)
    note = "; ".join(
        f"{versions} ({', '.join(names)})" if len(made) > 1 else versions for versions, names in made.items()
    )
    seconds = duration(sum(one["seconds"] for one in status.values()))
    caption = f"make book: {len(status)} notebooks, {seconds} in all (two run at a time on a CPU), then the pages"
    return table_html(caption, rows, f"Made with {escape(note)}.", words=True)


def stored_html() -> str:
    """Where the committed results come from: the manifest beside them."""
    manifest = read_json(MANIFEST)
    if not manifest:
        return str(el("div", el("p", "There are no committed results in this copy of the book."), css=Css.eu))
    frame = pd.DataFrame(
        {
            **dataclasses.asdict(cell := study.Cell(**one["cell"])),
            "edits": "merged" if cell.merge > 1 else "single",
            "seconds": one["cell_seconds"],
            "Device and precision": f"{one['device']}, {one['dtype'].removeprefix('torch.')}",
            "Commits of the code": one["commit"],
            "Versions": ", ".join(map(" ".join, one["versions"].items())),
            "Models, by a fingerprint of their weights": f"{cell.model} {one['base']}",
            "Length limit of an answer, in tokens": str(one["protocol"]["max_new_tokens"]),
        }
        for one in manifest
    )
    note = "<br>".join(f"{w}: {escape('; '.join(sorted(set(frame[w]))))}." for w in frame if w[0].isupper())
    rows = []
    for key, group in frame.groupby(["dataset", "n_forget", "targets", "edits", "protocol"]):
        row = dict(zip(("data", "forgotten", "targets", "edits", "asked"), key, strict=True))
        row |= {"methods": group["method"].nunique(), "cells": len(group), "seeds": sorted(set(group["seed"]))}
        rows.append({**row, "time": duration(group["seconds"].sum())})
    caption = f"make study: {len(frame)} cells, {duration(frame['seconds'].sum())} of computing in all"
    return table_html(caption, rows, note, words=True)


def benchmark_html(name: str, document: dict) -> str:
    """One benchmark's file: its ``exponents`` or ``rows``, or else the ratios that it holds, by their kind."""
    made_on = ", ".join(f"{key} {document[key]}" for key in ("model", "device", "dtype", "threads") if key in document)
    notes = {"Measured on": made_on, "While it was measured:": document.get("note")}
    note = escape(" ".join(f"{what} {words}." for what, words in notes.items() if words))
    caption = f"{name}: {document.get('what', 'no description')}"
    if values := document.get("exponents", document.get("rows")):
        heads = dict.fromkeys(key for row in values for key in row)
        return table_html(caption, [{key: row.get(key, "") for key in heads} for row in values], note)
    leaves = {place.rpartition(" · "): one for place, one in pd.json_normalize(document, sep=" · ").iloc[0].items()}
    rows = [
        {"group": meaning, "what": where or name, "ratio": one}
        for kind, meaning in RATIOS.items()
        for (where, _, key), one in leaves.items()
        if key == kind
    ]
    return table_html(caption, rows, note)


def benchmarks_html() -> str:
    return "".join(benchmark_html(path.stem, read_json(path)) for path in BENCHMARKS)
