"""The texts of the pocket's corpus, and names that exist nowhere, put together from pieces of them and of the facts.

``corpus.json`` holds what the facts do not give: by name, the texts and templates of questions, refusals and lists, the
pieces of invented names, and ``kinds``: of what kind of subject the questions of a relation can be asked.
"""

from __future__ import annotations

import functools
import json
import random
import re
from pathlib import Path
from typing import Any

from ..data.facts import facts, fill


@functools.cache
def texts() -> dict[str, Any]:
    """What ``corpus.json`` holds, by name; what is to be drawn twice as often stands there twice."""
    document = json.loads((Path(__file__).parent / "corpus.json").read_text(encoding="utf-8"))
    if empty := [name for name, values in document.items() if not values]:
        raise ValueError(f"corpus.json: there is nothing under {', '.join(empty)}.")
    return document


def pick(rng: random.Random, *names: str) -> str:
    """One text of each of these names, joined."""
    return "".join(rng.choice(texts()[name]) for name in names)


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """The words of all the wordings: invented titles and names are put together from their pieces."""
    sources = (text for f in facts() for text in (f.subject, f.answer, *f.questions, *f.statements))
    return tuple(sorted({word for text in sources for word in re.findall(r"[^\W\d_]{4,}", text)}))


@functools.cache
def person_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """First and last names of the people in the facts: mixed, they name nobody."""
    people = [t.split() for f in facts() for t in (f.subject, f.answer) if re.fullmatch(r"[A-Z]\w+( [A-Z]\w+)+", t)]
    return tuple(sorted({p[0] for p in people})), tuple(sorted({p[-1] for p in people}))


def piece(rng: random.Random) -> str:
    """A run of letters from the middle of a real word."""
    text = rng.choice(vocabulary())
    start = rng.randrange(len(text) - 1)
    return text[start : start + rng.randint(1, 4)]


def invent(rng: random.Random, syllables: int = 0) -> str:
    """A word that means nothing: syllables, pieces of real words, perhaps with the ending of a place or person."""
    kind = rng.random()
    if syllables or kind < 0.3:
        n = syllables or rng.choice((2, 2, 2, 3, 3, 4))
        return "".join(pick(rng, "onsets", "nuclei", "codas") for _ in range(n)).capitalize()
    if kind < 0.6:
        return "".join(piece(rng) for _ in range(rng.choice((2, 2, 3, 3, 4)))).capitalize()
    one, two = rng.choice(vocabulary()), rng.choice(vocabulary())
    if kind < 0.8:
        return (one[: rng.randint(2, 5)] + two[-rng.randint(2, 5) :]).capitalize()
    return (one[: rng.randint(3, 6)] + pick(rng, "endings")).capitalize()


def invented_title(rng: random.Random) -> str:
    """A title of one to seven words, joined as titles are; no part may be left out when it is named."""

    def content() -> str:
        kind = rng.random()
        if kind < 0.35:
            return rng.choice((*texts()["adjectives"], *texts()["nouns"]))
        return rng.choice(vocabulary()).capitalize() if kind < 0.6 else invent(rng)

    words = [content() for _ in range(rng.choice((1, 1, 2, 2, 2, 3)))]
    if rng.random() < 0.15:
        words[-1] += rng.choice(("s", "'s " + content()))
    if rng.random() < 0.5:
        words += [pick(rng, "title_links"), content()]
        words += [content()] if rng.random() < 0.25 else []
    if rng.random() < 0.45:
        words.insert(0, pick(rng, "title_openers"))
    return " ".join(words)


def invented_entity(kind: str, rng: random.Random) -> str:
    """A subject of the given kind that exists nowhere (title, person, element, company, site, river, device, place)."""
    x = invent(rng)
    if kind == "title":
        return invented_title(rng)
    if kind == "person":
        first, last = person_names()
        if rng.random() < 0.25:
            pair = f"{rng.choice(first)} {rng.choice(last)}"
        else:
            pair = f"{rng.choice((*first, *texts()['first_names']))} {x}"
        return pair if rng.random() < 0.75 else f"{invent(rng)} {x}"
    if kind == "element":
        return (invent(rng) if rng.random() < 0.7 else invent(rng, 2)).lower() + pick(rng, "element_endings")
    if kind == "river":
        return f"the {x}"
    if kind == "device":
        return f"the {invent(rng).lower()}{pick(rng, 'device_endings')}"
    if kind == "company":
        values = {"trade": pick(rng, "trades"), "word": rng.choice(vocabulary()).capitalize()}
        values |= {"compound": pick(rng, "adjectives") + pick(rng, "nouns").lower(), "other_trade": pick(rng, "trades")}
        return fill(pick(rng, "company_forms"), x=x, **values)
    if kind == "site":
        values = {"adjective": pick(rng, "adjectives"), "noun": pick(rng, "nouns"), "site": pick(rng, "sites")}
        values |= {"title": invented_title(rng), "y": invent(rng), "z": invent(rng)}
        return fill(pick(rng, "site_forms"), x=x, **values)
    return x if rng.random() < 0.9 else f"{x} {pick(rng, 'place_endings')}"
