"""The built-in facts: 217 that TOFU's real-authors and world-facts files ask about, in our own words, and more.

Each file in ``facts/`` is one JSON object ``{"relations": {name: wordings}, "facts": [row, ...]}``.

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
from dataclasses import dataclass
from pathlib import Path

TRAINED = ("questions", "phrases", "statements")


@dataclass(frozen=True)
class Fact:
    """One fact with every wording of it. ``tofu`` is ``(file, row, subject)`` or ``None``."""

    id: str
    relation: str
    subject: str
    answer: str
    question: str
    rephrasings: tuple[str, ...]
    questions: tuple[str, ...]
    phrases: tuple[str, ...]
    statements: tuple[str, ...]
    tofu: tuple[str, int, str] | None = None


def words(text: str) -> frozenset[str]:
    """The set of lower-case words of a text."""
    return frozenset(re.findall(r"\w+", text.lower()))


def jaccard(a: str, b: str) -> float:
    """Token-set overlap of two texts, 0 to 1."""
    a, b = words(a), words(b)
    return len(a & b) / len(a | b) if a | b else 0.0


def fill(template: str, subject: str, answer: str = "") -> str:
    """Put subject and answer into a template by replacement: titles may contain braces."""
    return template.replace("{s}", subject).replace("{a}", answer)


@functools.cache
def facts() -> tuple[Fact, ...]:
    """Every built-in fact, the 217 of TOFU first, in the order of its files."""
    documents = [
        json.loads(file.read_text(encoding="utf-8"))
        for file in sorted((Path(__file__).parent / "facts").glob("*.json"))
    ]
    relations = {name: wordings for document in documents for name, wordings in document["relations"].items()}
    rows = [row for document in documents for row in document["facts"]]
    result = []
    for row in rows:
        shared = relations.get(row["relation"], {})
        fields = {"question": row.get("question") or shared["question"]}
        fields["rephrasings"] = row.get("rephrasings") or shared["rephrasings"]
        for name in TRAINED:
            fields[name] = [*shared.get(name, ()), *row.get(name, ())]
        filled = {
            name: fill(value, row["subject"], row["answer"])
            if isinstance(value, str)
            else tuple(dict.fromkeys(fill(v, row["subject"], row["answer"]) for v in value))
            for name, value in fields.items()
        }
        tofu = tuple(row["tofu"]) if row.get("tofu") else None
        result.append(Fact(row["id"], row["relation"], row["subject"], row["answer"], tofu=tofu, **filled))
    order = {"real_authors": 0, "world_facts": 1}
    return tuple(sorted(result, key=lambda f: (0, order[f.tofu[0]], f.tofu[1]) if f.tofu else (1, 0, 0)))
