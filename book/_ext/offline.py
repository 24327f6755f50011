"""Keep the book offline and light, its links into the repository right, and the theme's roles such as screen readers
know."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

ROOT = Path(__file__).resolve().parents[2]
EXECUTED, SOURCE = "book/executed/", "notebooks/"
# Scripts that the theme puts on every page, and what a page must hold to need one; the icons come from the theme's
# fonts without a script, and the index is for the page of results (the field on others only leads there).
NEEDED_BY = {"tex-svg": 'class="math', "explore": "data-explore", "fontawesome": None}
NEEDED_BY |= dict.fromkeys(("searchtools", "language_data", "searchindex"), "pagename = 'search'")


def drop_thebe(app: Sphinx, config: Any) -> None:
    """Disconnect sphinx-thebe: Jupyter Book always loads it, and its script comes from a CDN (and runs twice)."""
    for listeners in app.events.listeners.values():
        listeners[:] = [entry for entry in listeners if entry.handler.__module__ != "sphinx_thebe"]
    app.registry.css_files[:] = [entry for entry in app.registry.css_files if "thebe" not in entry[0]]


def point_at_source(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Launch the notebook's source: the executed copy that a page shows is not in the repository."""
    if page.startswith(EXECUTED):
        for button in context.get("header_buttons", []):
            for link in (button, *button.get("buttons", [])):
                if "/" + EXECUTED in str(link.get("url", "")) and "://" in link["url"]:
                    link["url"] = link["url"].replace(EXECUTED, SOURCE)


class SourceRole(SphinxRole):
    """{source}`CONTRIBUTING.md`: a file of the repository, whose address stands in _config.yml only."""

    def run(self) -> tuple[list[nodes.Node], list]:
        path = self.text.strip()
        if not (ROOT / path).exists():
            return [], [self.inliner.reporter.warning(f"source: the repository has no {path}", line=self.lineno)]
        options = self.config.html_theme_options
        address = f"{options['repository_url'].rstrip('/')}/blob/{options.get('repository_branch') or 'main'}/{path}"
        return [nodes.reference("", "", nodes.literal(path, path), refuri=address)], []


def mend_roles(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """A bibliography is a list whose children are no list items, of a withdrawn role: plain elements instead."""
    body = context.get("body", "")
    if "citation-list" in body:
        body = body.replace(' role="list" class="citation-list"', ' class="citation-list"')
        context["body"] = body.replace(' role="doc-biblioentry"', "")


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Take the scripts from pages that do not need them."""
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        names = "|".join(name for name, mark in NEEDED_BY.items() if mark is None or mark not in page)
        light = re.sub(rf'\s*<script[^>]* src="[^"]*?\b({names})\.js[^"]*"></script>', "", page)
        if light != page:
            path.write_text(light, encoding="utf-8")


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", lighten)
    app.connect("config-inited", drop_thebe)
    app.connect("html-page-context", mend_roles)
    app.add_role("source", SourceRole())
    app.connect("html-page-context", point_at_source, priority=900)  # after the theme has made its buttons
    return {"parallel_read_safe": True, "parallel_write_safe": True}
