"""The one table of the book: a caption, columns, rows, and where they come from, as HTML that a page's style knows.

`Table` shows any frame or records; `table`, `plain_table` and `edit_report` are the three that a notebook asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from . import page
from .page import Displayed, Raw


@dataclass(frozen=True)
class Column:
    """One column: which value of a row it shows, its head and how its cells look.

    A value is a number (written by `number`; None and NaN are a dash), a text (escaped), or a `Raw` (HTML as it is).
    The first column heads its rows. Where a row has ``key_low`` and ``key_high``, the interval stands small under the
    value, and ``key_more``, a text, behind it.
    """

    key: str
    head: str = ""
    small: str = ""  # a second line in the head, such as `page.better(set)`; of `over`, where there is one
    over: str = ""  # a head above this one, shared by neighbours of the same `over`
    kind: str = "number"  # or "words" (on the left, in several lines), "ours", "paper" (muted)
    number: Callable[[float], str] = page.plain


@dataclass(frozen=True, repr=False)
class Table(Displayed):
    """Rows under heads, as `html`, and as `text` for a terminal.

    Values of a column ``method`` or ``dataset`` show by their labels. `group` names a value of the rows that stands over
    each run of rows that share it. `folded` are further rows in a closed fold-out of their own below, under its title.
    `join` gives consecutive rows that begin alike one head. `mark` puts ``data-dataset`` and ``data-method`` of the
    rows into the HTML, where a page's script finds them. `css` are further classes from `Css`, for a look of its own.
    `provenance` stands below after "Source:", a `Raw` as it is. `csv` is what "Download CSV" gives (the rows, unless
    told); without a `name` for the file there is no download.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    provenance: str | Raw
    name: str = ""
    group: str | None = None
    folded: tuple[str, Sequence[Mapping[str, Any]]] | None = None
    csv: pd.DataFrame | None = None
    css: str = ""
    join: bool = False
    mark: bool = False

    @property
    def html(self) -> str:
        """The whole: table, fold-out and note."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        raise NotImplementedError

    def bare(self, *, captioned: bool = False) -> Raw:
        """The table alone, in a box that scrolls, without the note: to stand in other HTML. Empty without rows."""
        raise NotImplementedError
