"""The book's extension for what is worked out while it is built; the HTML is made in `factsheet.py` and `house.py`.

    {preset} NAME, {results} NAME, {head} NAME    of one method: hyperparameters, committed runs, the head of its file
    {cost} [NAME], {methods} [NAME]               of one method or of all: what it costs; what it changes and reads
    {method-reference}                            a section for each method: its head and its presets
    {answer}                                      RQ1 in a few lines
    {execution-status}, {results-status}, {benchmarks}, {growth}    where numbers come from, and how long they took
    {map}                                         the rooms of the library in layers
    {raises} ERROR                                an example and the message that it ends with
    {value}`METHOD DATASET SET [METRIC]`          one number of the committed runs; SET may be an attack, METRIC "sets"

A name that is not known is an error that says which are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
import textwrap
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import factsheet
import house
import pandas as pd
import torch
from docutils import nodes
from factsheet import ROOT
from growth import growth
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

import editunlearn_lib as eu
from editunlearn_lib import covariance, hparams, rating, study
from editunlearn_lib.errors import EditUnlearnError
from editunlearn_lib.show import BookRenderer
from editunlearn_lib.show.page import Css

LIBRARY = ROOT / "editunlearn_lib"
HIDDEN = "# hide"  # behind a line of an example: it runs and is not shown


def growth_html() -> str:
    """The figures of ``benchmarks/growth.json``, one a sweep; nothing where it was not measured."""
    document = factsheet.read_json(ROOT / "benchmarks" / "growth.json")
    if document is None:
        return ""
    rows, exponents = pd.DataFrame(document["rows"]), pd.DataFrame(document["exponents"])
    sweeps = [sweep for sweep in ("n_forget", "model", "cells") if sweep in set(rows.sweep)]
    figures = [growth(rows, exponents, sweep, provenance="benchmarks/growth.json") for sweep in sweeps]
    return "".join(BookRenderer().to_mimebundle(figure.to_dict())["text/html"] for figure in figures)


FACTS = {
    "preset": factsheet.preset_html,
    "results": factsheet.results_html,
    "head": factsheet.head_html,
    "cost": factsheet.cost_html,
    "methods": factsheet.method_table_html,
    "answer": factsheet.answer_html,
    "execution-status": factsheet.status_html,
    "results-status": factsheet.stored_html,
    "benchmarks": factsheet.benchmarks_html,
    "growth": growth_html,
    "map": lambda: house.map_html(LIBRARY),
}
FILES = (  # what the facts of one method are made from, besides its own file; for all methods there is more
    *(factsheet.__file__, hparams.__file__, factsheet.RESULTS, factsheet.MANIFEST, factsheet.MEMORY),
    *(LIBRARY / "pocket" / "presets.json", LIBRARY / "data" / "paper_tables.csv"),
)
MORE = (factsheet.STATUS, *factsheet.BENCHMARKS, ROOT / "_build" / "toc.yml", *LIBRARY.rglob("*.py"))


class Fact(SphinxDirective):
    """A directive of `FACTS`, of one method or of all there is."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        make, names = FACTS[self.name], self.arguments
        try:
            for file in (*FILES, *(factsheet.module(name).__file__ for name in names), *(() if names else MORE)):
                self.env.note_dependency(str(file))
            pages = [self.pages()] if self.name == "methods" else []
            return [nodes.raw("", make(*pages, *names), format="html")]
        except (EditUnlearnError, TypeError) as error:
            raise self.error(f"{{{self.name}}}: {error}") from error

    def pages(self) -> dict[str, str]:
        """The address of each method's page: one that somebody wrote, or else that of the template."""
        pages = {}
        for name in eu.METHODS:
            for page in (f"book/executed/methods/{name}", f"book/methods/{name}"):
                if page in self.env.found_docs:
                    pages[name] = self.env.app.builder.get_relative_uri(self.env.docname, page)
        return pages


class MethodReference(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        for file in (*FILES, *MORE):
            self.env.note_dependency(str(file))
        sections = []
        for name in eu.METHODS:
            title = nodes.title("", eu.METHODS[name].label)
            html = nodes.raw("", factsheet.head_html(name) + factsheet.preset_html(name), format="html")
            sections.append(nodes.section("", title, html, names=[nodes.fully_normalize_name(title.astext())]))
            self.state.document.note_implicit_target(sections[-1])
        return sections


class Value(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list]:
        for file in FILES:
            self.env.note_dependency(str(file))
        words = self.text.split()
        try:
            number = factsheet.sets(*words[:-1]) if words[-1] == "sets" else f"{factsheet.value(*words):.2f}"
            return [nodes.Text(number)], []
        except (EditUnlearnError, TypeError) as error:
            message = self.inliner.reporter.error(f"{{value}}`{self.text}`: {error}", line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]


class Raised(Exception):
    """An example that did not do what its page says."""


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """An empty folder to work in, no network and no progress bars.

    One thread: the model is small, and where others compute too, threads that wait for one another take minutes.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        stack.enter_context(mock.patch.dict(os.environ, {"EDITUNLEARN_QUIET": "1"}))
        for switch in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
            stack.enter_context(mock.patch(switch, True))
        stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory())))
        yield


pocket = functools.cache(lambda: eu.load_model("pocket"))  # read once a build


def names_for(code: str) -> dict[str, Any]:
    """What an example can name: the library, and the model with a forget set where it asks for them."""
    names = {"eu": eu, "Path": Path, "covariance": covariance, "rating": rating, "study": study}
    if "model" in code:
        names |= zip(("model", "tokenizer"), pocket(), strict=True)
    if "split" in code:
        names["split"] = eu.load_split("factual", n_forget=4, seed=0)
    return names


def raised(code: str, expected: str) -> str:
    """The message of the error that the code raises, or of its warnings where ``expected`` is ``warning``.

    Raises `Raised` if it ends otherwise: without an error, or with one of another class.
    """
    warned = unittest.TestCase().assertLogs("editunlearn_lib", "WARNING")  # fails where there are none
    try:
        with aside(), warned:
            exec(compile(code, "<example>", "exec"), names_for(code))  # noqa: S102 (an example of our own pages)
    except Exception as error:
        if type(error).__name__ == expected:
            return str(error)
        if not isinstance(error, unittest.TestCase.failureException):
            raise Raised(f"{type(error).__name__} instead of {expected}: {error}") from error
    else:
        if expected == "warning":
            return "\n".join(record.getMessage() for record in warned.watcher.records)
    raise Raised(f"no {expected} from this example:\n{code}")


def visible(code: str) -> str:
    """An example without its hidden lines."""
    return textwrap.dedent("\n".join(x for x in code.splitlines() if not x.rstrip().endswith(HIDDEN))).strip()


class Raises(SphinxDirective):
    has_content = True
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        code, expected = "\n".join(self.content), self.arguments[0]
        for path in LIBRARY.rglob("*.py"):  # another library may say something else
            self.env.note_dependency(str(path))
        try:
            message = raised(code, expected)
        except Raised as problem:
            raise self.error(f"raises: {problem}") from problem
        output = message if expected == "warning" else f"{expected}: {message}"
        blocks = [
            nodes.literal_block(visible(code), visible(code), language="python"),
            nodes.literal_block(output, output, language="text", classes=[Css.said]),
        ]
        return [nodes.container("", *blocks, classes=[Css.raises])]


def resolve_short_name(app: Sphinx, env: Any, node: nodes.Element, contnode: nodes.Element) -> nodes.Node | None:
    """`Patch` in a docstring is a link to the one documented object of that name, or else plain code."""
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    domain, target = env.get_domain("py"), node["reftarget"].rstrip("()")
    ends = [name for name in domain.objects if name == target or name.endswith("." + target)]
    if len(ends) != 1:
        return contnode  # code that is no documented name
    entry = domain.objects[ends[0]]
    where = app.builder.get_relative_uri(node.get("refdoc", env.docname), entry.docname)
    return nodes.reference("", "", contnode, refuri=f"{where}#{entry.node_id}", internal=True)


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


def setup(app: Sphinx) -> dict:
    app.setup_extension("sphinx.ext.autodoc")
    for name in FACTS:
        app.add_directive(name, Fact)
    app.add_directive("method-reference", MethodReference)
    app.add_directive("raises", Raises)
    app.add_role("value", Value())
    app.connect("missing-reference", resolve_short_name)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("doctree-read", name_anchors)
    app.add_css_file("reference.css")
    app.add_css_file("print.css", media="print")
    app.add_js_file("print.js", loading_method="defer")
    return {"parallel_read_safe": False, "parallel_write_safe": True}  # examples change the folder
