"""Contracts as a knowledge graph after PISTOL (Qiu et al. 2024): a built-in generator, and rules for the official rows.

The built-in data (``generate``) follow the design of PISTOL's sample data set 1: 10 sales contracts between companies
and 10 employment contracts of a company with a person, 20 questions each, the same graph. Names, values and wordings
are ours; nothing is copied from the official samples. ``annotate`` gives an official row its subject and rephrasings.

``contracts.json`` holds

pools     values that are drawn, and the pieces of invented names
edges     by kind: [edge, role a, role b]. In PISTOL's sample 1 the numbered nodes C, C2, C3 (D.., m, n.., p..) are
          different parties of one hub, A or B; the E contracts are apart. The seller is not always the first node.
roles     by kind: the relations of the two parties and of the date
answers   by kind and relation, in the order in which they are drawn: how, see `_answer`
wordings  `Wording`s, whose ``official`` tells an official question of this type from all others (two of these forms
          stand for two types each, and our rephrasings fit both: the address of either company, the law of either kind)

Placeholders of the templates in ``wordings``:

{a} {b}  the parties by role: seller and customer, or employer and employee
{x} {y}  the same two where the role does not matter; {y} is the one with fewer contracts, so that it tells the edge
{date}   the day from which the contract applies, written like "14 March 1998" (official rows: "14-03-1998")
"""

from __future__ import annotations

import datetime
import functools
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .facts import fill
from .qa import QA

FIRST_DAY, LAST_DAY = datetime.date(1980, 1, 1), datetime.date(2019, 12, 31)
KINDS = ("sales", "employment")
_A, _B = r"(?P<a>[^?]+?)", r"(?P<b>[^?]+?)"
_DAY = r"(?: as of|, which started from) (?P<date>\d{2}-\d{2}-\d{4})"
OFFICIAL = {  # how an official question names its parties: both, or one party and the day
    "between": rf"contract between {_A} and {_B}\?",
    "address": rf"address of {_A} in the contract with {_B}\?",
    "with_a": rf"contract with {_A}{_DAY}\?",
    "with_b": rf"contract with {_B}{_DAY}\?",
}


@dataclass(frozen=True)
class Wording:
    """The templates of one question type: the question, >= 3 held-out rephrasings and >= 20 for training only."""

    relation: str
    kind: str
    question: str
    rephrasings: Sequence[str]
    trained: Sequence[str]
    official: str | None = None

    def __post_init__(self):
        for text in (self.question, *self.rephrasings, *self.trained):
            if not text or not set(re.findall(r"\{(.*?)\}", text)) <= {"a", "b", "x", "y", "date"}:
                raise ValueError(f"contracts.json, {self.relation}: {text!r} is empty or has an unknown placeholder.")


@dataclass(frozen=True, repr=False)
class ContractRow(QA):
    """One question on one contract, the edge as ``group``.

    ``parties`` is (seller, customer) or (employer, employee). ``subject`` is the last party named in the question:
    there a causal model has read the whole relation and, where it is named, the other party. ``rephrasings`` are
    held out (the rephrase attack); ``trained`` are more wordings to train on. No wording contains the answer.
    """

    kind: str = ""
    relation: str = ""
    trained: tuple[str, ...] = ()


@functools.cache
def wordings() -> dict[str, Wording]:
    """The 40 question types by relation."""
    return {row["relation"]: Wording(**row) for row in _document()["wordings"]}


def pool(name: str) -> list[str]:
    """The values of this name; KeyError for an unknown one."""
    return _document()["pools"][name]


@functools.cache
def generate(seed: int = 0) -> tuple[ContractRow, ...]:
    """The 400 rows of the built-in contracts: 20 edges (10 sales, then 10 employment) of 20 questions each."""
    edges = [(kind, *edge) for kind in KINDS for edge in _document()["edges"][kind]]
    return _rows(random.Random(seed), edges, used=set())


def invented_contracts(rng: random.Random, n_edges: int) -> tuple[ContractRow, ...]:
    """``20 * n_edges`` rows of contracts apart from each other, sales and employment in turn.

    No name or street word occurs in ``generate(0)``: these are the contracts that a model does not know. Contract
    dates differ within one call, so ``n_edges`` is at most the number of days in 1980-2019 (14610; else ValueError).
    """
    edges = [(KINDS[i % 2], f"U{i}_V{i}", f"U{i}", f"V{i}") for i in range(n_edges)]
    used = {word for row in generate(0) for text in (*row.parties, row.answer) for word in text.split()}
    return _rows(rng, edges, used)


def annotate(question: str, answer: str, edge: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Subject, rephrasings and parties of one official PISTOL row (sample data 1 and 2).

    ``parties`` holds the two names in the order of the question's contract, or the single one that a question for
    the other party's name states. The subject is the last of them in the question. ValueError for an unknown form
    and where a rephrasing would hold the answer.
    """
    matches = {}
    for item in wordings().values():
        if item.official and (match := re.fullmatch(fill(item.official, **OFFICIAL), question)):
            matches[item.relation] = match.groupdict()
    if len(matches) != 1:
        raise ValueError(f"edge {edge}: the form of this question is unknown: {question!r}")
    [(relation, values)] = matches.items()
    parties = tuple(values[role] for role in "ab" if role in values)
    values |= {"x": parties[0], "y": parties[-1]}
    rephrasings = tuple(fill(template, **values) for template in wordings()[relation].rephrasings)
    plain = answer.removesuffix(".").lower()
    if not plain or any(plain in rephrasing.lower() for rephrasing in rephrasings):
        raise ValueError(f"edge {edge}: the answer {answer!r} is empty or stands in a rephrasing of {question!r}")
    return _last_party(question, parties), rephrasings, parties


@functools.cache
def _document() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "contracts.json").read_text(encoding="utf-8"))


def _last_party(question: str, parties: tuple[str, ...]) -> str:
    """The party whose last occurrence in the question comes last."""
    return max(parties, key=question.rfind)


def _in_turn(rng: random.Random, values: Sequence[str]) -> Iterator[str]:
    """The values in random order, again and again."""
    while True:
        yield from rng.sample(values, len(values))


def _word(rng: random.Random, used: set[str]) -> str:
    """A pronounceable capitalised word of 2 or 3 syllables that is not in ``used``; adds it there."""
    while True:
        syllables = [rng.choice(pool("onsets")) + rng.choice(pool("vowels")) for _ in range(rng.choice((2, 3)))]
        word = ("".join(syllables) + rng.choice(pool("codas"))).capitalize()
        if word not in used:
            used.add(word)
            return word


def _address(rng: random.Random, used: set[str]) -> str:
    """A house number and an invented street."""
    return f"{rng.randint(1, 999)} {_word(rng, used)} {rng.choice(pool('street_types'))}"


def _answer(rng: random.Random, rule: list, answers: dict[str, str], turns: dict[str, Iterator], used: set[str]) -> str:
    """An answer that parties and date do not fix; days, years and dollars as numbers, hours on the 24-hour clock."""
    how, *values = rule
    rules = {
        "address": lambda: _address(rng, used),
        "pool": lambda name: rng.choice(pool(name)),
        "next": lambda name: next(turns[name]),  # of a pool, none twice before all have come
        "number": lambda lowest, highest: str(rng.randint(lowest, highest)),
        "percent": lambda lowest, highest: f"{rng.randint(lowest, highest)}%",
        "after": lambda earlier, lowest, highest: str(int(answers[earlier]) + rng.randint(lowest, highest)),
        "product": lambda one, two: str(int(answers[one]) * int(answers[two])),
    }
    return rules[how](*values)


def _rows(rng: random.Random, edges: list[tuple[str, str, str, str]], used: set[str]) -> tuple[ContractRow, ...]:
    """The rows of a graph given as (kind, edge, node of role a, node of role b); ``used`` words name nothing."""
    degree = Counter(node for _, _, *nodes in edges for node in nodes)
    people = {b for kind, _, _, b in edges if kind == "employment"}
    turns = {name: _in_turn(rng, pool(name)) for name in ("legal_forms", "goods", "positions")}
    # every word is used once, so no name is a part of another name
    names = {n: f"{_word(rng, used)} {_word(rng, used) if n in people else next(turns['legal_forms'])}" for n in degree}
    addresses = {node: _address(rng, used) for node in degree}  # one per party, the same in all its contracts
    days = rng.sample(range(FIRST_DAY.toordinal(), LAST_DAY.toordinal() + 1), len(edges))  # a day tells a contract
    rows = []
    for (kind, edge, a, b), ordinal in zip(edges, days, strict=True):
        day = datetime.date.fromordinal(ordinal)
        date = f"{day.day} {pool('months')[day.month - 1]} {day.year}"  # strftime would follow the locale
        x, y = (b, a) if degree[a] < degree[b] else (a, b)
        values = {"a": names[a], "b": names[b], "x": names[x], "y": names[y], "date": date}
        role_a, role_b, of_date = _document()["roles"][kind]
        answers = {of_date: date, role_a: names[a], role_b: names[b]}
        answers |= {f"{role_a}_address": addresses[a], f"{role_b}_address": addresses[b]}
        for relation, rule in _document()["answers"][kind].items():
            answers[relation] = _answer(rng, rule, answers, turns, used)
        parties = (names[a], names[b])
        for i, item in enumerate(item for item in wordings().values() if item.kind == kind):
            question, answer = fill(item.question, **values), answers[item.relation]
            rephrasings, trained = (tuple(fill(t, **values) for t in ts) for ts in (item.rephrasings, item.trained))
            qa = (f"{edge}-{i:02d}", question, answer, _last_party(question, parties), rephrasings, edge, 0, parties)
            rows.append(ContractRow(*qa, kind, item.relation, trained))
    return tuple(rows)
