"""The built-in facts: 217 that TOFU's real-authors and world-facts files ask about, in our own words, and more.

Each file in ``facts/`` is one JSON object ``{"relations": {name: wordings}, "facts": [row, ...]}``; so is
``families.json``.

wordings  ``question`` (the built-in question), ``rephrasings`` (held out: the rephrase attack, in no training),
          and what the pocket model is trained on: ``questions`` (direct questions), ``phrases`` (noun phrases that
          fit "Name ___."), ``statements``. Templates contain ``{s}`` (the subject) and, in statements, ``{a}``.
row       ``id, relation, subject, answer`` and, where the fact stands in an official TOFU file,
          ``tofu: [file, row, subject as it is spelled there]``. A row may carry wordings of its own: its
          ``question`` and ``rephrasings`` replace the relation's, its training wordings are added to them.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .qa import QA

TRAINED = ("questions", "phrases", "statements")


@dataclass(frozen=True, repr=False)
class Fact(QA):
    """One fact with every wording of it; ``group`` is its relation, ``tofu`` ``(file, row, subject)`` or ``None``."""

    questions: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    tofu: tuple[str, int, str] | None = None


def fill(template: str, **values: str) -> str:
    """Put the values into the places of their names, ``{s}`` for one, in one pass: titles may contain braces."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


@functools.cache
def facts() -> tuple[Fact, ...]:
    """Every built-in fact, the 217 of TOFU first, in the order of its files."""
    order = {"real_authors": 0, "world_facts": 1}
    rows = _read(sorted((Path(__file__).parent / "facts").glob("*.json")))
    return tuple(sorted(rows, key=lambda f: (0, order[f.tofu[0]], f.tofu[1]) if f.tofu else (1, 0, 0)))


@functools.cache
def families() -> tuple[Fact, ...]:
    """96 facts about 48 invented people that share 8 first and 8 last names: only both names together tell who it is.

    The other 16 pairs of these names name nobody.
    """
    return tuple(_read([Path(__file__).parent / "families.json"]))


def _read(files: Sequence[Path]) -> list[Fact]:
    documents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    relations = {name: wordings for document in documents for name, wordings in document["relations"].items()}
    result = []
    for row in (row for document in documents for row in document["facts"]):
        shared = relations.get(row["relation"], {})

        def own(texts, row=row):  # without doubles
            return tuple(dict.fromkeys(fill(text, s=row["subject"], a=row["answer"]) for text in texts))

        trained = {name: own([*shared.get(name, ()), *row.get(name, ())]) for name in TRAINED}
        rephrasings = own(row.get("rephrasings") or shared["rephrasings"])
        [question] = own([row.get("question") or shared["question"]])
        tofu = tuple(row["tofu"]) if row.get("tofu") else None
        qa = (row["id"], question, row["answer"], row["subject"], rephrasings, row["relation"])
        result.append(Fact(*qa, **trained, tofu=tofu))
    return result
