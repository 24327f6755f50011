"""The texts of the claims: the paper's own words (quotes.yaml) and the wording of the arithmetic (arithmetic.yaml).

A wording has places, `{name}` or `{name:form}`, which `fill` fills with what a check has worked out:

- a number or a text: the form is that of `format`; a fraction without one has two or three decimals (`page.num`);
- a truth: the form is what stands there if it is so, a bar, and what stands there if not; a column of truths: "3 of 4";
- several values: the form is what stands between them (else a comma), and after a bar what stands there without any.

Where the claim has a wording of the place's name beside its `text`, each value of several goes through that: the row of
a table by its columns, anything else as `{it}`. So an empty list leaves a sentence out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from editunlearn_lib.show.page import num

PLACE = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper (`quote`, … where words are left out) and its section."""

    id: str
    section: str
    quote: str


def _load(name: str) -> dict:
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))


CLAIMS = tuple(Claim(name, **texts) for name, texts in _load("quotes.yaml").items())  # in the paper's order
QUOTES = {claim.id: claim.quote for claim in CLAIMS}
WORDINGS = {  # by claim: {"text": …} and the wordings of what is several in it
    name: {"text": entry} if isinstance(entry, str) else entry for name, entry in _load("arithmetic.yaml").items()
}


def fill(wordings: Mapping[str, str], values: Mapping, of: str = "text") -> str:
    """The wording of this name, each place filled, in one pass.

    Raises KeyError for a place without a value, and in a claim's text for a value without a place.
    """
    places = {place[1] for place in PLACE.finditer(wordings[of])}
    if places - set(values) or (of == "text" and set(values) - places):
        raise KeyError(f"no value for {sorted(places - set(values))}, no place for {sorted(set(values) - places)}")
    return PLACE.sub(lambda place: _in_words(values[place[1]], place[2] or "", wordings, place[1]), wordings[of])


def _in_words(value: object, form: str, wordings: Mapping[str, str], name: str) -> str:
    first, _, second = form.partition("|")
    if isinstance(value, (bool, np.bool_)):
        return first if value else second
    if isinstance(value, pd.Series) and value.dtype == bool:
        return f"{value.sum()} of {value.size}"
    if isinstance(value, (list, pd.Series, pd.DataFrame)):
        several = value.to_dict("records") if isinstance(value, pd.DataFrame) else list(value)
        if name in wordings:
            several = [fill(wordings, v if isinstance(v, Mapping) else {"it": v}, name) for v in several]
        return (first or ", ").join(_in_words(v, "", {}, "") for v in several) or second
    return num(value) if isinstance(value, float) and not form else format(value, form)
