"""The one table of the book: a caption, columns, rows, and where they come from, as HTML that a page's style knows.

`Table` shows any records; `table`, `plain_table` and `edit_report` are the three that a notebook asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any

import pandas as pd

from . import page
from .page import Css, Html, Raw, el, raw

Row = Mapping[str, Any]
_KINDS = {"number": None, "words": Css.text, "ours": Css.ours, "paper": Css.paper}


@dataclass(frozen=True)
class Column:
    """One column: which value of a row it shows, its head, and how its cells look.

    A value is a float (written by `number`; None and NaN are a dash), a `Raw` (HTML as it is) or anything else (its
    text). The first column heads the rows. Where a row has ``key_low`` and ``key_high``, the interval stands small
    under the value; then ``key_more``, a text or `Raw`, where a row has one.
    """

    key: str
    head: str | Raw = ""
    over: str | Raw = ""  # a head above this one, shared by neighbours with the same
    kind: str = "number"  # or "words" (on the left, in several lines), "ours", "paper" (muted)
    number: Callable[[float], str] = page.plain

    def cell(self, row: Row) -> Raw:
        value = raw(self.value(row.get(self.key)))
        low, high = (page.number(row.get(f"{self.key}_{end}")) for end in ("low", "high"))
        span = raw() if low is None or high is None else raw(f"{page.plain(low)}–{page.plain(high)}")
        small = raw(span, row.get(f"{self.key}_more") or "")
        return raw(value, el("small", small)) if small else value

    def value(self, value: Any) -> str | Raw:
        """Methods and data sets by their labels, numbers with their decimals, an interval in one line."""
        if isinstance(value, Raw):
            return value
        if self.key in ("method", "dataset"):
            return page.label(value)
        if value is None or isinstance(value, float):
            return "–" if pd.isna(value) else self.number(value)
        return Raw(re.sub(r"(?<=\d)–(?=[\d.−])", "–&NoBreak;", raw(value)))


@dataclass(frozen=True, repr=False)
class Table(Html):
    """Rows under heads.

    Values of a column ``method`` or ``dataset`` show by their labels. `group` names a value of the rows that stands
    over all that share it. `folded` are further rows in a closed fold-out below, under its title. `join` gives
    consecutive rows that begin alike one head. `mark` puts ``data-dataset`` and ``data-method`` of the rows into the
    HTML, where a script finds them. `css` are further names from `Css`. `provenance` stands below after "Source:", a
    `Raw` as it is. `csv` is what "Download CSV" gives (else the rows); without a `name` there is no download.
    """

    caption: str | Raw
    columns: Sequence[Column]
    rows: Sequence[Row]
    provenance: str | Raw
    name: str = ""
    group: str | None = None
    folded: tuple[str, Sequence[Row]] | None = None
    csv: pd.DataFrame | None = None
    css: str = ""
    join: bool = False
    mark: bool = False

    @property
    def html(self) -> str:
        parts = [self.bare(self.caption)]
        if self.folded:
            title, rows = self.folded
            parts.append(el("details", el("summary", title), replace(self, caption=title, rows=rows).bare()))
        csv = page.csv(pd.DataFrame(self.rows) if self.csv is None else self.csv) if self.name else ""
        css = f"{Css.eu} {Css.table} {self.css}".strip()
        return str(el("div", *parts, page.note(self.provenance, csv, self.name), css=css))

    def bare(self, caption: str | Raw = "") -> Raw:
        """The table alone, in a box that scrolls, without the note: to stand in other HTML. Empty without rows."""
        if not self.rows:
            return Raw()
        groups: dict[Any, list[Row]] = {}  # in the order of the rows
        for row in self.rows:
            groups.setdefault(row[self.group] if self.group else "", []).append(row)
        head, width = self._head()
        inner = el("table", el("caption", caption) if caption else "", head, *map(self._body, groups, groups.values()))
        css = f"{Css.scroll} {Css.many}" if width > 8 else Css.scroll
        label = page.words(self.caption) if isinstance(self.caption, Raw) else self.caption
        return el("div", inner, css=css, role="region", tabindex=0, aria_label=label)

    def _head(self) -> tuple[Raw, int]:
        """One row of heads, or two, the upper of them shared; and how many the first has."""
        upper, lower = [], []
        rows = 2 if any(c.over and c.head for c in self.columns) else None
        for over, group in groupby(self.columns, lambda c: c.over):
            columns = list(group)
            span = None if over else rows
            heads = [el("th", c.head, scope="col", rowspan=span, css=_KINDS[c.kind]) for c in columns]
            upper += [el("th", over, scope="colgroup", colspan=len(columns))] if over else heads
            lower += heads if over else []
        second = el("tr", *lower) if rows else ""
        heads = any(c.head or c.over for c in self.columns)
        return el("thead", el("tr", *upper), second) if heads else raw(), len(upper)

    def _body(self, group: Any, rows: list[Row]) -> Raw:
        first, others = self.columns[0], self.columns[1:]
        lines = []
        if self.group:
            title = Column(self.group).value(group)
            lines.append(el("tr", el("th", title, scope="rowgroup", colspan=len(self.columns))))
        for _, neighbours in groupby(rows, lambda row: str(row[first.key]) if self.join else id(row)):
            alike = list(neighbours)
            for i, row in enumerate(alike):
                rowspan = len(alike) if self.join else None
                head = "" if i else el("th", first.cell(row), scope="row", rowspan=rowspan)
                cells = (el("td", c.cell(row), css=_KINDS[c.kind]) for c in others)
                lines.append(el("tr", head, *cells, data_method=row["method"] if self.mark else None))
        return el("tbody", *lines, data_dataset=rows[0]["dataset"] if self.mark else None)


def table(
    summary: pd.DataFrame,
    paper: pd.DataFrame | None = None,
    *,
    provenance: str,
    caption: str,
    methods: Sequence[str] | None = None,
    sets: Sequence[str] = ("forget", "rephrased", "retain", "unseen"),
    name: str = "table",
) -> Table:
    """ROUGE-1 recall: one row per method, one column per set; the paper's value beside ours where there is one.

    `paper` has the columns of `paper_tables()`, cut down to one value per data set, method and set; to set PISTOL
    beside our contracts, rename its data set first. The paper's score is worked out from its values.
    """
    ours, theirs = page.Summary(summary, methods), page.paper_values(paper)
    sets = [which for which in sets if which in set(ours.frame["set"])]
    shared = {which for _, _, which in theirs} & {*sets, "score"}
    columns, rows = [Column("method", "Method")], []
    for which in [*sets, "score"]:
        over = raw(which, el("small", page.better(which)))
        kinds = ["ours", "paper"] if which in shared else ["ours"]
        columns += [Column(f"{which}_{kind}", kind if shared else "", over, kind) for kind in kinds]
    for dataset, method in product(ours.datasets, ours.methods):
        row: dict[str, Any] = {"dataset": dataset, "method": method}
        for which in sets:
            value, low, high = ours[dataset, method, which]
            row |= {f"{which}_ours_low": low, f"{which}_ours_high": high, f"{which}_ours": value}
            if which in shared:
                row[f"{which}_paper"] = theirs.get((dataset, method, which))
        if any(row[f"{which}_ours"] is not None for which in sets):
            score = {"score_ours": ours.score(dataset, method)}
            score |= {"score_paper": theirs.get((dataset, method, "score"))} if "score" in shared else {}
            rows.append(row | score)
    frame = pd.DataFrame(rows).rename(columns=lambda name: name.replace("_ours_", "_"))
    return Table(caption, columns, rows, provenance, name, group="dataset", csv=frame, mark=True)


def plain_table(values: pd.DataFrame, caption: str, *, provenance: str, name: str, group: str | None = None) -> Table:
    """Any table of a few columns: numbers with two decimals, methods and data sets by their labels.

    The column "method" (else the first) names the rows; each value of `group`, in the order of the rows, stands over
    its own. Columns "x_low" and "x_high" are the interval of "x" and stand small under it. A column "product; forget"
    has its name in two lines. Raises ValueError if there are no rows, or no such `group`.
    """
    page.need(values, () if group is None else (group,), f"the table {name!r}")
    rows = values.to_dict("records")
    return Table(caption, columns_of(values, group), rows, provenance, name, group=group, csv=values)


def columns_of(
    values: pd.DataFrame, group: str | None = None, number: Callable[[float], str] = page.plain
) -> list[Column]:
    """The columns of `plain_table`: for a `Table` of a frame as it is."""
    ends = {f"{c}{end}" for c in values for end in ("_low", "_high") if {f"{c}_low", f"{c}_high"} <= set(values)}
    names = sorted((c for c in values if c != group and c not in ends), key=lambda c: c != "method")
    columns = []
    for name in names:
        above, _, below = str(name).rpartition("; ")
        text = name != names[0] and any(isinstance(v, str) and v[:1].isalpha() for v in values[name])
        kind = "words" if text else "number"
        columns.append(Column(name, raw(above, el("small", below)) if above else below, kind=kind, number=number))
    return columns


def edit_report(log: Sequence[dict], *, provenance: str, caption: str = "The edits", name: str = "edits") -> Table:
    """One row per edit of `patch.info["log"]`: all that did not take, in red, then others until there are twelve.

    Said before and after: greedy answers to the request itself. Took: with the patch on, the first token is the
    target's. Loss: that of the value optimisation at its end. ‖δ‖: how far the value was moved.
    """
    frame = pd.DataFrame(list(log))
    page.need(frame, ("question", "target", "before", "after", "took", "loss"), "log")
    frame = frame.assign(delta_norm=frame.get("delta_norm"))
    frame = frame[["question", "target", "before", "after", "took", "loss", "delta_norm"]]
    took = int(frame["took"].sum())
    first = frame.sort_values("took", kind="stable").head(max(12, len(frame) - took)).to_dict("records")
    miss = el("strong", "did not take", css=Css.miss)
    rows = [row | {"took": "took" if row["took"] else miss} for row in first]
    caption = f"{caption}: {took} of {len(frame)} took" + (f", {len(rows)} shown" if len(rows) < len(frame) else "")
    texts = {"question": "Request", "target": "Target", "before": "Said before", "after": "Says now"}
    columns = [Column(key, head, kind="words") for key, head in texts.items()]
    columns += [Column("took", "First token"), Column("loss", "Loss"), Column("delta_norm", "‖δ‖")]
    return Table(caption, columns, rows, provenance, name, csv=frame, css=Css.edits)
