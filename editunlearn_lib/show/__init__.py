# ruff: noqa: F401 (what is offered here stands in __all__)
"""Figures and tables from records and summaries: what the book shows and what a live notebook shows.

Nothing here touches a model. Plotly figures (`radar`, `trade_off`, …) and HTML objects (`side_by_side`, `table`, …)
take data frames and return something that a notebook displays. Each carries a provenance line, alt text and a link to
its data as CSV. `use_book_renderer()` makes Plotly figures appear in JupyterLab and in the offline book alike; in the
book, `book/_static/book.js` turns menus into native controls.
"""

from .explorer import linked, stops
from .figures import matrix, pairs, radar, sweep, trade_off
from .outputs import answer_words, output_html, side_by_side
from .page import DATASET_LABELS, BookRenderer, Html, Style, ordered, style, use_book_renderer
from .tables import Column, Table, edit_report, plain_table, table

__all__ = """
    DATASET_LABELS BookRenderer Column Html Style Table answer_words edit_report linked matrix ordered output_html pairs
    plain_table radar side_by_side stops style sweep table trade_off use_book_renderer
""".split()
