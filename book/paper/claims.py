"""What the paper's text says in numbers, worked out again from the paper's own tables.

A claim is a quotation, a check in code (checks_performance.py, checks_analysis.py) that gives a verdict and the values
that enter, and a wording of the arithmetic that these values fill. Nothing is typed: numbers in quotation marks are the
paper's words, all others are computed. Where a claim uses a word without a number ("robust", "close to"), our rule for
it stands in the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from editunlearn_lib.paper import paper_tables, paper_text
from editunlearn_lib.show import Html, Table, page
from editunlearn_lib.show.page import num
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


# ---------------------------------------------------------------------------------------------------------------------
# How they look on the page


def overview(results: Sequence[tuple[Claim, Result]], *, provenance: str, name: str = "claims") -> Html:
    """One row per claim: where it stands, what it says, and the verdict, which leads to its arithmetic."""
    caption = f"{len(results)} claims of the text against the tables"
    body = "".join(
        f'<tr><th scope="row"><a href="#claim-{c.id}" aria-label="{escape(r.verdict)}: the arithmetic">{_badge(r.verdict)}</a></th>'
        f'<td style="text-align: left; white-space: normal; min-width: 12rem">“{escape(c.quote)}” <small>{escape(c.section)}</small></td></tr>'
        for c, r in results
    )
    columns = ["id", "section", "quote", "verdict", "arithmetic"]
    frame = pd.DataFrame([(c.id, c.section, c.quote, r.verdict, r.arithmetic) for c, r in results], columns=columns)
    return Html(
        html=(
            '<div class="eu eu-table"><div class="eu-scroll" role="region" tabindex="0" '
            f'aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption><thead><tr><th scope="col">By its tables</th>'
            '<th scope="col" style="text-align: left">The paper says</th></tr></thead>'
            f"<tbody>{body}</tbody></table></div>{page.note(provenance, page.csv(frame), name)}</div>"
        ),
        text="\n".join(
            [caption, *(f"{c.section}: “{c.quote}”: {r.verdict}" for c, r in results), f"Source: {provenance}"]
        ),
    )


def details(results: Sequence[tuple[Claim, Result]], *, provenance: str) -> Html:
    """One fold-out per claim: the quotation and its verdict; inside, the arithmetic and the values that enter."""
    folds = "".join(
        f'<details class="eu-case"><summary>“{escape(c.quote)}” <small>({escape(c.section)})</small> {_badge(r.verdict)}</summary>'
        f'<p class="eu-answer" id="claim-{c.id}">{escape(r.arithmetic)}</p>{_values(r.values)}</details>'
        for c, r in results
    )
    text = "\n\n".join(f"“{c.quote}” ({c.section})\n  {r.verdict}: {r.arithmetic}" for c, r in results)
    return Html(html=f'<div class="eu">{folds}{page.note(provenance, "", "claims")}</div>', text=text)


def _badge(word: str) -> str:
    colour, line = VERDICTS[word].split()
    return f'<span class="eu-outcome" style="border-left: 0.35rem {line} {colour}">{escape(word)}</span>'


def _values(values: pd.DataFrame) -> str:
    columns = columns_of(values, number=num)
    return Table("The values that enter", columns, values.to_dict("records"), "").bare()
