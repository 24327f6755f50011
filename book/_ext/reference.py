"""What the reference pages compute while they are built: errors by raising them, tables from files, names as links.

Nothing on these pages is copied by hand from a run: a message is what its example raises now, a time is what
`book/executed/status.json` or the results' manifest says, a default is what the config class has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import logging
import os
import re
import statistics
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

ROOT = Path(__file__).resolve().parents[2]
STATUS = ROOT / "book" / "executed" / "status.json"
MANIFEST = ROOT / "book" / "results" / "pocket.json"
HIDDEN = "# hide"  # behind a line of an example: it runs and is not shown


# ---------------------------------------------------------------------------------------------------------------------
# Examples that raise


class Raised(Exception):
    """An example that did not do what its page says."""


@contextlib.contextmanager
def _aside() -> Iterator[list[str]]:
    """An empty folder to work in, no network, and the library's warnings in a list instead of on the screen.

    One thread: the model is small, and where others compute too, threads that wait for one another take minutes.
    """
    import torch

    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger, here = logging.getLogger("editunlearn_lib"), Path.cwd()
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"EDITUNLEARN_QUIET": "1"}))
        for switch in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
            stack.enter_context(mock.patch(switch, True))
        os.chdir(folder)
        try:
            yield heard
        finally:
            os.chdir(here)
            torch.set_num_threads(threads)
            logger.removeHandler(handler)
            logger.propagate = before


_pocket: list = []  # the embedded model, read once a build


def _names(code: str) -> dict[str, Any]:
    """What an example can name: the library, and the model with a forget set where it asks for them."""
    import editunlearn_lib as eu
    from editunlearn_lib import attacks, covariance, rating, show, stats, study

    names: dict[str, Any] = {
        "eu": eu,
        "Path": Path,
        "attacks": attacks,
        "show": show,
        "rating": rating,
        "stats": stats,
        "study": study,
        "covariance": covariance,
    }
    if "model" in code:
        if not _pocket:
            _pocket.extend(eu.load_model("pocket"))
        names |= {"model": _pocket[0], "tokenizer": _pocket[1]}
    if "split" in code:
        names["split"] = eu.load_split("factual", n_forget=4, seed=0)
    return names


def raised(code: str, expected: str) -> str:
    """The message of the error that the code raises, or of its warnings where ``expected`` is ``warning``.

    Raises `Raised` if it ends otherwise: without an error, or with one of another class.
    """
    with _aside() as heard:
        try:
            exec(compile(code, "<example>", "exec"), _names(code))  # noqa: S102 (an example of our own pages)
        except Exception as error:
            name = type(error).__name__
            if name != expected:
                raise Raised(f"{name} instead of {expected}: {error}") from error
            return str(error)
    if expected == "warning" and heard:
        return "\n".join(heard)
    raise Raised(f"no {expected} from this example:\n{code}")


def shown(code: str) -> str:
    """An example without its hidden lines."""
    lines = [line for line in code.splitlines() if not line.rstrip().endswith(HIDDEN)]
    return textwrap.dedent("\n".join(lines)).strip()


class Raises(SphinxDirective):
    """An example and the message that it ends with: ```` ```{raises} DatasetError ````."""

    has_content = True
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        code, expected = "\n".join(self.content), self.arguments[0]
        for path in (ROOT / "editunlearn_lib").rglob("*.py"):  # another library may say something else
            self.env.note_dependency(str(path))
        try:
            message = raised(code, expected)
        except Raised as problem:
            raise self.error(f"raises: {problem}") from problem
        example = nodes.literal_block(shown(code), shown(code), language="python")
        said = message if expected == "warning" else f"{expected}: {message}"
        output = nodes.literal_block(said, said, language="text", classes=["eu-said"])
        self.set_source_info(example)
        self.set_source_info(output)
        return [nodes.container("", example, output, classes=["eu-raises"])]


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def duration(seconds: float) -> str:
    """Seconds for people: 40 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def number(value: Any) -> str:
    """A value of a table as text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(number, value)) or "–"
    return str(value)


def read(path: Path) -> Any:
    """A JSON file, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class FromFile(SphinxDirective):
    """A directive whose Markdown is made from files; the page is built again when one of them changes."""

    optional_arguments = 1
    files: Sequence[Path] = ()

    def lines(self) -> Iterable[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        for path in self.files:
            self.env.note_dependency(str(path))
        box = nodes.container(classes=["eu-made"])
        self.state.nested_parse(StringList(list(self.lines()), self.get_source_info()[0]), 0, box)
        return box.children


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> list[str]:
    """A Markdown table; cells are escaped, so that a value is never read as markup."""

    def cell(value: Any) -> str:
        return re.sub(r"([\\`*_{}\[\]<>|#$~])", r"\\\1", number(value)).replace("\n", " ")

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    body = [line(list(head)), line(["---"] * len(head)), *(line([cell(v) for v in row]) for row in rows)]
    return ["", *([f"```{{table}} {caption}", *body, "```"] if caption else body), ""]


def _when(stamp: str) -> str:
    return stamp.replace("T", " ").split("+")[0] + " UTC"


def status_lines(status: dict | None) -> Iterator[str]:
    """`book/executed/status.json` as Markdown."""
    if not status:
        yield "No notebook has been executed in this copy of the book."
        return
    head = ["Notebook", "Run time", "Parameters changed", "Device", "Finished"]
    yield from table(
        head,
        [
            [
                name,
                duration(one["seconds"]),
                ", ".join(f"{k} = {v}" for k, v in one["parameters"].items()) or "none",
                one["device"],
                _when(one["finished"]),
            ]
            for name, one in status.items()
        ],
    )
    together: dict[str, list[str]] = {}
    for name, one in status.items():
        text = ", ".join(f"{package} {version}" for package, version in one["versions"].items())
        together.setdefault(text, []).append(name)
    for versions, names in together.items():
        yield f"Made with {versions}" + (f" ({', '.join(names)})" if len(together) > 1 else "") + "."
        yield ""


class ExecutionStatus(FromFile):
    files = (STATUS,)

    def lines(self) -> Iterable[str]:
        return status_lines(read(STATUS))


def results_lines(cells: list[dict] | None) -> Iterator[str]:
    """Where the committed results come from: the manifest beside them, as Markdown."""
    if not cells:
        yield "There are no committed results in this copy of the book."
        return
    groups: dict[tuple, list[dict]] = {}
    for one in cells:
        cell = one["cell"]
        what = "attacks" if cell.get("protocol") == "attacks" else "questions"
        key = (cell["dataset"], cell["n_forget"], cell["targets"], "merged" if cell["merge"] > 1 else "single", what)
        groups.setdefault(key, []).append(one)
    rows = []
    for (dataset, n, targets, merged, asked), found in sorted(groups.items()):
        rows.append(
            [
                dataset,
                n,
                targets,
                merged,
                asked,
                len({one["cell"]["method"] for one in found}),
                len(found),
                sorted({one["cell"]["seed"] for one in found}),
                duration(sum(one["cell_seconds"] for one in found)),
            ]
        )
    total = sum(one["cell_seconds"] for one in cells)
    yield f"**{len(cells)}** cells, {duration(total)} of computing in all."
    head = ["Data", "Forgotten", "Targets", "Edits", "Asked", "Methods", "Cells", "Seeds", "Time"]
    yield from table(head, rows)
    for label, values in (
        ("Commits of the code", {one["commit"] for one in cells}),
        ("Versions", {", ".join(f"{k} {v}" for k, v in one["versions"].items()) for one in cells}),
        ("Device and precision", {f"{one['device']}, {one['dtype'].removeprefix('torch.')}" for one in cells}),
        ("Models, by a fingerprint of their weights", {f"{one['cell']['model']} {one['base']}" for one in cells}),
        ("Length limit of an answer, in tokens", {str(one["protocol"]["max_new_tokens"]) for one in cells}),
    ):
        yield f"- {label}: {'; '.join(sorted(values))}"


class ResultsStatus(FromFile):
    files = (MANIFEST,)

    def lines(self) -> Iterable[str]:
        return results_lines(read(MANIFEST))


RATIOS = {
    "ratio": "times as fast",
    "error": "computed against measured: share too little (−) or too much",
    "share": "share of the arithmetic's own time",
}


def _ratios(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, float]]:
    """Every ratio in a benchmark's file: where it stands, of what kind it is, its value."""
    for key, value in document.items() if isinstance(document, dict) else ():
        if key in RATIOS and isinstance(value, (int, float)):
            yield " · ".join(path), key, value
        yield from _ratios(value, (*path, key))


def benchmark_lines(name: str, document: dict) -> Iterator[str]:
    """One benchmark's file as Markdown: its ``exponents`` or ``rows``, or else the ratios that it holds."""
    yield f"**{name}**: {document.get('what', 'no description')}."
    made_on = [f"{key} {document[key]}" for key in ("model", "device", "dtype", "threads") if key in document]
    if made_on:
        yield f"Measured on {', '.join(made_on)}."
    if document.get("note"):
        yield f"While it was measured: {document['note']}."
    if rows := document.get("exponents", document.get("rows")):
        head = list(dict.fromkeys(key for row in rows for key in row))
        yield from table(head, [[row.get(key, "") for key in head] for row in rows])
        return
    found = list(_ratios(document))
    for kind in dict.fromkeys(kind for _, kind, _ in found):
        yield from table(["What", RATIOS[kind]], [[where or name, value] for where, k, value in found if k == kind])


class Benchmarks(FromFile):
    files = tuple(sorted((ROOT / "benchmarks").glob("*.json")))

    def lines(self) -> Iterable[str]:
        for path in self.files:
            yield from benchmark_lines(path.stem, read(path))
            yield ""


class Growth(SphinxDirective):
    """The figures of ``benchmarks/growth.json``, one a sweep; nothing where it was not measured."""

    def run(self) -> list[nodes.Node]:
        file = ROOT / "benchmarks" / "growth.json"
        self.env.note_dependency(str(file))
        document = read(file)
        if document is None:
            return []
        import pandas as pd
        from growth import growth

        from editunlearn_lib import show

        rows, exponents = pd.DataFrame(document["rows"]), pd.DataFrame(document["exponents"])
        figures = [
            growth(rows, exponents, sweep, provenance="benchmarks/growth.json")
            for sweep in ("n_forget", "model", "cells")
            if sweep in set(rows.sweep)
        ]
        bundle = show.BookRenderer().to_mimebundle
        return [nodes.raw("", bundle(figure.to_dict())["text/html"], format="html") for figure in figures]


def times_lines(status: dict | None, cells: list[dict] | None) -> Iterator[str]:
    """What the commands of the pocket take, as a table."""
    rows = []
    if status:
        devices = sorted({one["device"] for one in status.values()})
        took = sum(one["seconds"] for one in status.values())
        rows.append(
            [
                "make book",
                f"{len(status)} notebooks (added up; two run at a time on a CPU), then the pages",
                duration(took),
                "; ".join(devices),
            ]
        )
    if cells:
        devices = sorted({one["device"] for one in cells})
        took = sum(one["cell_seconds"] for one in cells)
        rows.append(["make study", f"{len(cells)} cells that are stored so far", duration(took), "; ".join(devices)])
    if not rows:
        yield "Nothing has been run in this copy of the book."
    else:
        yield from table(["Command", "What it runs", "Took", "On"], rows)


class RunTimes(FromFile):
    files = (STATUS, MANIFEST)

    def lines(self) -> Iterable[str]:
        return times_lines(read(STATUS), read(MANIFEST))


def method_times_lines(cells: list[dict] | None) -> Iterator[str]:
    """Per method of the pocket's RQ1 cells on 40 facts: seconds and size of the patch."""
    found: dict[str, list[dict]] = {}
    usual = {"dataset": "factual", "n_forget": 40, "merge": 1, "targets": "refusal", "covariance": "default"}
    for one in cells or []:
        cell = one["cell"]
        plain = cell.get("protocol", "questions") == "questions" and not cell.get("fact_token") and not cell["mode"]
        if plain and one["patch"].get("seconds") is not None and usual.items() <= cell.items():
            found.setdefault(cell["method"], []).append(one["patch"])
    yield from table(
        ["Method", "Making the patch", "Its size", "Runs"],
        [
            [
                name,
                duration(statistics.median(p["seconds"] for p in patches)),
                f"{statistics.median(p['nbytes'] for p in patches) / 1e6:.2g} MB",
                len(patches),
            ]
            for name, patches in found.items()
        ],
    )


class MethodTimes(FromFile):
    files = (MANIFEST,)

    def lines(self) -> Iterable[str]:
        return method_times_lines(read(MANIFEST))


def memory_lines(document: dict | None) -> Iterator[str]:
    """The part of benchmarks/memory.json that is computed for a large model, as a table."""
    for label, part in (document or {}).items():
        if "computed" in label and isinstance(part, dict):
            yield from table(
                ["Method", "Peak memory, GB (computed)", "Where it peaks"],
                [[name, one["GB"], one["phase"]] for name, one in part.items()],
                caption=label[:1].upper() + label[1:],
            )


class ComputedMemory(FromFile):
    files = (ROOT / "benchmarks" / "memory.json",)

    def lines(self) -> Iterable[str]:
        return memory_lines(read(self.files[0]))


def methods_lines() -> Iterator[str]:
    """The registry of methods as a table."""
    import editunlearn_lib as eu

    head = ["Method", "Config", "Modes, the first by default", "Merges", "Reads the retain set", "Reads a covariance"]
    yield from table(
        head,
        [
            [name, method.config.__name__, method.modes, method.merges, method.reads_retain, method.covariance]
            for name, method in eu.METHODS.items()
        ],
    )


class Methods(FromFile):
    def lines(self) -> Iterable[str]:
        return methods_lines()


PRESETS = {
    "Llama-2-7B-chat": "meta-llama/Llama-2-7b-chat-hf",
    "Mistral-7B-Instruct": "mistralai/Mistral-7B-Instruct-v0.3",
    "Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "pocket": "pocket",
}


def config_lines(method: str) -> Iterator[str]:
    """The fields of a method's config, what its comments say of them, and their value in each preset."""
    import editunlearn_lib as eu

    config = eu.METHODS[method].config
    source = "\n".join(inspect.getsource(kind) for kind in config.__mro__ if dataclasses.is_dataclass(kind))
    said = dict(re.findall(r"^    (\w+):[^#\n]*#\s*(.+)$", source, flags=re.MULTILINE))
    presets = {name: eu.preset(method, model) for name, model in PRESETS.items()}
    names = [f.name for f in dataclasses.fields(config)]
    head = ["Field", "Default", *presets, *(["Meaning"] if set(names) & set(said) else [])]
    rows = [
        [f.name, f.default, *(preset[f.name]["value"] for preset in presets.values()), said.get(f.name, "")]
        for f in dataclasses.fields(config)
    ]
    yield from table(head, [row[: len(head)] for row in rows])
    for name, preset in presets.items():
        sources: dict[str, list[str]] = {}
        for field, value in preset.items():
            sources.setdefault(value["source"], []).append(field)
        yield f"- {name}: " + "; ".join(
            f"{source} ({'all' if len(sources) == 1 else ', '.join(f'`{f}`' for f in fields)})"
            for source, fields in sources.items()
        )


class ConfigTable(FromFile):
    """What stands at the head of a method's file, equation and source among it, and the table of its config."""

    required_arguments = 1
    optional_arguments = 0

    def lines(self) -> Iterable[str]:
        return config_lines(self.arguments[0])

    def run(self) -> list[nodes.Node]:
        import editunlearn_lib as eu

        text = inspect.getdoc(inspect.getmodule(eu.METHODS[self.arguments[0]].run)) or ""
        head = nodes.literal_block(text, text, language="text", classes=["eu-head"])
        self.set_source_info(head)
        return [head, *super().run()]


# ---------------------------------------------------------------------------------------------------------------------
# Names as links, the repository's files, and roles of the theme that screen readers do not know


def resolve_short_name(app: Sphinx, env: Any, node: nodes.Element, contnode: nodes.Element) -> nodes.Node | None:
    """`Patch` in a docstring is a link to the one documented object of that name, or else plain code."""
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    domain, wanted = env.get_domain("py"), node["reftarget"].rstrip("()")
    ends = [name for name in domain.objects if name == wanted or name.endswith("." + wanted)]
    if len(ends) != 1:
        return contnode  # code that is no documented name
    found = domain.objects[ends[0]]
    where = app.builder.get_relative_uri(node.get("refdoc", env.docname), found.docname)
    return nodes.reference("", "", contnode, refuri=f"{where}#{found.node_id}", internal=True)


class SourceRole(SphinxRole):
    """{source}`CONTRIBUTING.md`: a file of the repository, whose address stands in _config.yml only."""

    def run(self) -> tuple[list[nodes.Node], list]:
        path = self.text.strip()
        if not (ROOT / path).exists():
            return [], [self.inliner.reporter.warning(f"source: the repository has no {path}", line=self.lineno)]
        options = self.config.html_theme_options
        address = f"{options['repository_url'].rstrip('/')}/blob/{options.get('repository_branch') or 'main'}/{path}"
        return [nodes.reference("", "", nodes.literal(path, path), refuri=address)], []


def plain_signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, args: str | None, back: str | None):
    """Where a default is no expression (a factory), Sphinx shows the marks it shortens types by: take them away."""
    if args and "~" in args:
        return re.sub(r"~(?:\w+\.)+", "", args).replace("<factory>", "{}"), back
    return None


def name_anchors(app: Sphinx, doctree: nodes.document) -> None:
    """On the page of errors a section can be linked to by the name of its class, as it is written."""
    if app.env.docname.endswith("reference/errors"):
        for section in doctree.findall(nodes.section):
            name = section[0].astext()
            if name.isidentifier() and name not in section["ids"]:
                section["ids"].append(name)


def mend_roles(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """A bibliography is a list whose children are no list items, of a role that was withdrawn: plain elements instead."""
    body = context.get("body", "")
    if "citation-list" in body:
        body = body.replace(' role="list" class="citation-list"', ' class="citation-list"')
        context["body"] = body.replace(' role="doc-biblioentry"', "")


def setup(app: Sphinx) -> dict:
    if (ROOT / "editunlearn_lib").is_dir():
        sys.path.insert(0, str(ROOT))  # this repository's library, not another that is installed
    app.add_directive("raises", Raises)
    app.add_directive("execution-status", ExecutionStatus)
    app.add_directive("results-status", ResultsStatus)
    app.add_directive("benchmarks", Benchmarks)
    app.add_directive("growth", Growth)
    app.add_directive("run-times", RunTimes)
    app.add_directive("method-times", MethodTimes)
    app.add_directive("computed-memory", ComputedMemory)
    app.add_directive("methods-table", Methods)
    app.add_directive("config-table", ConfigTable)
    app.add_role("source", SourceRole())
    app.connect("missing-reference", resolve_short_name)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("doctree-read", name_anchors)
    app.connect("html-page-context", mend_roles)
    app.add_css_file("reference.css")
    app.add_css_file("print.css", media="print")
    app.add_js_file("print.js", loading_method="defer")
    return {"parallel_read_safe": False, "parallel_write_safe": True}  # examples change the folder
