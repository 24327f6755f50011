"""Keep the book offline, and its launch links right."""

from typing import Any

from sphinx.application import Sphinx

EXECUTED, SOURCE = "book/executed/", "notebooks/"


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


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", drop_thebe)
    app.connect("html-page-context", point_at_source, priority=900)  # after the theme has made its buttons
    return {"parallel_read_safe": True, "parallel_write_safe": True}
