"""What the paper's text says in numbers, worked out again from the paper's own tables.

A claim is a quotation, a check in code (checks_performance.py, checks_analysis.py) that gives a verdict and the values
that enter, and a wording of the arithmetic that these values fill. Nothing is typed: numbers in quotation marks are the
paper's words, all others are computed. Where a claim uses a word without a number ("robust", "close to"), our rule for
it stands in the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from editunlearn_lib.paper import paper_tables, paper_text
from editunlearn_lib.show import Column, Html, Table, page
from editunlearn_lib.show.page import Css, Raw, el, num, raw
from editunlearn_lib.show.tables import columns_of

from . import checks_analysis, checks_performance
from .lookup import FAILS, HOLDS, IN_PART, UNCHECKED, Numbers
from .words import CLAIMS, WORDINGS, Claim, fill

VERDICTS = {  # the bar beside the word: colour and line, as the outcomes of outputs have them
    HOLDS: "#009e73 solid",
    IN_PART: "#e69f00 double",
    FAILS: "#cc79a7 dotted",
    UNCHECKED: "#808080 dashed",
}


@dataclass(frozen=True)
class Result:
    """What came out: one of `VERDICTS`, the arithmetic in words, and the values that entered."""

    verdict: str
    arithmetic: str
    values: pd.DataFrame


def check_of(claim: Claim) -> Callable | None:
    """The function that checks a claim, from `Numbers` to a `result`; None where no table has what it speaks of."""
    name = claim.id.replace("-", "_")
    return getattr(checks_performance, name, None) or getattr(checks_analysis, name, None)


def check_claim(claim: Claim, paper: Numbers) -> Result:
    """The verdict on one claim, by these numbers."""
    check = check_of(claim)
    verdict, values, words = check(paper) if check else (UNCHECKED, pd.DataFrame(), {})
    truths = {name: values[name].map({True: "yes", False: "no"}) for name in values.select_dtypes(bool)}
    return Result(verdict, fill(WORDINGS[claim.id], words), values.assign(**truths))


def check_all(tables: pd.DataFrame | None = None, text: pd.DataFrame | None = None) -> list[tuple[Claim, Result]]:
    """Every claim with its result, in the paper's order; other tables than the paper's may be given."""
    paper = Numbers(paper_tables() if tables is None else tables, paper_text() if text is None else text)
    return [(claim, check_claim(claim, paper)) for claim in CLAIMS]


def overview(results: Sequence[tuple[Claim, Result]], *, provenance: str, name: str = "claims") -> Table:
    """One row per claim: where it stands, what it says, and the verdict, which leads to its arithmetic."""
    rows = [
        {
            "verdict": el("a", _badge(r.verdict), href=f"#claim-{c.id}", aria_label=f"{r.verdict}: the arithmetic"),
            "claim": raw(f"“{c.quote}” ", el("small", c.section)),
        }
        for c, r in results
    ]
    columns = [Column("verdict", "By its tables"), Column("claim", "The paper says", kind="words")]
    texts = [{**vars(c), "verdict": r.verdict, "arithmetic": r.arithmetic} for c, r in results]
    caption = f"{len(results)} claims of the text against the tables"
    return Table(caption, columns, rows, provenance, name, csv=pd.DataFrame(texts), css=Css.claims)


def details(results: Sequence[tuple[Claim, Result]], *, provenance: str) -> Html:
    """One fold-out per claim: the quotation and its verdict; inside, the arithmetic and the values that enter."""
    folds = []
    for c, r in results:
        head = el("summary", f"“{c.quote}” ", el("small", f"({c.section})"), " ", _badge(r.verdict))
        arithmetic = el("p", r.arithmetic, css=Css.answer, id=f"claim-{c.id}")
        values = Table(
            "The values that enter", columns_of(r.values, number=num), r.values.to_dict("records"), ""
        ).bare()
        folds.append(el("details", head, arithmetic, values, css=Css.case))
    return Html(el("div", *folds, page.note(provenance, "", "claims"), css=Css.eu))


def _badge(word: str) -> Raw:
    colour, line = VERDICTS[word].split()
    return el("span", word, css=Css.outcome, style=f"border-left: 0.35rem {line} {colour}")
