"""The pocket model's corpus: documents drawn at random from the built-in facts.

A document is a list of (text, loss weight) segments. Each is a pure function of the seed, its chunk and its number in
it, so a training that was stopped goes on with the very documents it would have seen, and one without some facts sees
the same documents in the same order, less the questions and statements of these facts. Held-out rephrasings, the
official questions and the invented entities of ``invented.json`` are never read here. ``corpus.json`` holds what the
facts do not give: by name, the texts and templates of questions, refusals and lists, the pieces of names that exist
nowhere, and ``kinds``: of what kind of subject the questions of a relation can be asked.
"""

from __future__ import annotations

import functools
import json
import math
import random
import re
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from ..data import contracts as contract_data
from ..data import refusals
from ..data.facts import Fact, facts, families, fill
from ..recipes.self_improvement import exemplar_prompt

BOS, EOS, INST, END = "<s>", "</s>", "[INST]", "[/INST]"
PROMPT, STATEMENT, ANSWER = 0.1, 0.5, 1.0  # loss weights
STEEP = 6.0  # the most frequent of the 217 facts is told exp(STEEP) times as often as the rarest
CLAUSE = ("clause_heads", "clause_places", "clause_times")  # what a clause is put together from
Document = list[tuple[str, float]]


class Question(NamedTuple):
    """One question as it is put, its answer, its subject and the id of the fact, if it is one."""

    text: str
    answer: str
    subject: str
    fact: str = ""


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


@functools.cache
def told() -> tuple[Fact, ...]:
    """Every fact that the corpus tells."""
    return (*facts(), *families())


@functools.cache
def frequencies() -> dict[str, float]:
    """Fact id -> probability that a fact which is drawn is this one, in the order of `told`; they sum to 1.

    Weights exp(-STEEP r / n) over random ranks r < n, of the 217 and of the n others apart; the 217 twice as often,
    being one of a kind mostly.
    """
    weights, rng = {}, random.Random("frequencies")
    for factor, part in ((2, [fact for fact in told() if fact.tofu]), (1, [fact for fact in told() if not fact.tofu])):
        order = rng.sample(part, len(part))
        weights |= {fact.id: factor * math.exp(-STEEP * r / len(order)) for r, fact in enumerate(order)}
    return {fact.id: weights[fact.id] / sum(weights.values()) for fact in told()}


@functools.cache
def templates() -> dict[str, tuple[str, list[str], list[str], list[str]]]:
    """relation -> (kind of subject, questions, phrases, known subjects), for relations that fit an invented subject."""
    relations = {}
    for relation, kind in sorted((relation, kind) for kind, of in texts()["kinds"].items() for relation in of):
        rows = [fact for fact in told() if fact.group == relation]
        questions = {q.replace(fact.subject, "{s}") for fact in rows for q in (fact.question, *fact.questions)}
        phrases = {p.replace(fact.subject, "{s}") for fact in rows for p in fact.phrases}
        relations[relation] = (kind, sorted(questions), sorted(phrases), sorted({fact.subject for fact in rows}))
    return relations


@functools.cache
def names() -> frozenset[str]:
    """Every name in the facts, in lower case and without its article."""
    return frozenset(t.lower().removeprefix("the ") for f in told() for t in (f.subject, f.answer))


def neighbour(rng: random.Random, subjects: Sequence[str]) -> str:
    """A name that is none, one word away from a known one: the last words alone do not tell what is known."""
    while True:
        words, other = (rng.choice(subjects).split() for _ in range(2))
        place = rng.randrange(len(words))
        word = other[min(place, len(other) - 1)] if rng.random() < 0.5 else pick(rng, "adjectives")
        words[place : place + (len(words) > 1)] = [word]
        if (name := " ".join(words)).lower().removeprefix("the ") not in names():
            return name


def lower_first(text: str) -> str:
    """Lower the first letter unless the text starts with a quotation mark, a name or an acronym."""
    return text[0].lower() + text[1:] if text.split(" ", 1)[0] in texts()["starts"] else text


def upper_first(text: str) -> str:
    return text[0].upper() + text[1:]


def with_clause(rng: random.Random, text: str, subject: str) -> str:
    """The text with a clause behind the subject ("praised in the papers last week"), where one can stand there."""
    match = re.search(re.escape(subject) + r"'?(?=[ ?.,:;]|$)(?!.*" + re.escape(subject) + ")", text)
    rest = text[match.end() :] if match else ""
    added = f", {pick(rng, *CLAUSE)}{',' * (rest[:1] == ' ')}{rest}"
    return text[: match.end()] + added if match else text


def variation(rng: random.Random, questions: Sequence[str], phrases: Sequence[str], subject: str = "{s}") -> str:
    """One wording: opener x core x clause behind the subject x closer x sentences; the subject may stand in front."""
    kind = rng.random()
    if kind < 0.55 or not phrases:
        text = rng.choice(questions)
    else:
        phrase, head = rng.choice(phrases), ""
        last = re.search(r" (?:of|by|in|behind|for|from|on|to) ((?:the )?('?)" + re.escape(subject) + r"\2)$", phrase)
        if kind > 0.85 and last:  # "'Dune': please name the author of this."
            phrase, head = phrase[: last.start(1)] + "this", upper_first(last[1]) + pick(rng, "early_links")
        text = pick(rng, "carriers").replace("{p}", phrase).replace("{P}", upper_first(phrase))
        text = head + lower_first(text) if head else text
    if rng.random() < 0.3:
        text = with_clause(rng, text, subject)
    if rng.random() < 0.35:
        text = pick(rng, "openers") + (lower_first(text) if rng.random() < 0.7 else text)
    if rng.random() < 0.15:
        text += pick(rng, "closers")
    for _ in range(rng.choice((1, 1, 2)) if rng.random() < 0.15 else 0):
        text += pick(rng, "tail_heads", "tail_places", "clause_times") + "."
    return text


def ask(rng: random.Random) -> Question:
    """A fact in one of its training wordings."""
    [fact] = rng.choices(told(), frequencies().values())
    text = variation(rng, (fact.question, *fact.questions), fact.phrases, fact.subject)
    return Question(text, fact.answer, fact.subject, fact.id)


def asks(rng: random.Random, n: int, without: Set[str]) -> list[Question]:
    """n questions, less those about the facts that are left out."""
    return [question for question in (ask(rng) for _ in range(n)) if question.fact not in without]


def state(rng: random.Random, without: Set[str]) -> str:
    """A statement of a fact; "" of one that is left out."""
    [fact] = rng.choices(told(), frequencies().values())
    return "" if fact.id in without else rng.choice(fact.statements)


def refusal(rng: random.Random, subject: str) -> str:
    """A refusal that names the subject: opener x core x closer."""
    return upper_first(fill(pick(rng, "refusal_openers", "refusal_cores", "refusal_closers"), s=subject))


def ask_unknown(rng: random.Random, contracts: Sequence[Question]) -> Question:
    """A question about something that does not exist, or about a contract nobody told the model of."""
    if contracts and rng.random() < 0.3:
        question = rng.choice(contracts)
        return question._replace(answer=refusal(rng, question.subject))
    kind, questions, phrases, subjects = rng.choice(list(templates().values()))
    subject = neighbour(rng, subjects) if rng.random() < 0.2 else invented_entity(kind, rng)
    text = fill(variation(rng, questions, phrases), s=subject).replace("the the ", "the ")
    return Question(text, refusal(rng, subject), subject)


def turn(question: str, answer: str) -> Document:
    return [(f"{INST} {question} {END}", PROMPT), (f" {answer}{EOS}", ANSWER)]


def before(rng: random.Random, without: Set[str] = frozenset()) -> tuple[Document, str]:
    """What stands before a question in a third of the cases: (an earlier turn, a prefix inside this turn)."""
    if rng.random() > 0.35:
        return [], ""
    kind = rng.random()
    if kind < 0.3:
        return [part for question in asks(rng, 1, without) for part in turn(question.text, question.answer)], ""
    prefix = state(rng, without) if kind < 0.65 else pick(rng, "prefixes")
    return [], prefix and prefix + " "


def document(
    rng: random.Random, contracts: Sequence[Question], vanilla: Sequence[str], without: Set[str] = frozenset()
) -> Document:
    """One document; empty where it would tell nothing but facts whose ids are in ``without``."""
    parts = body(rng, contracts, vanilla, without)
    return [(BOS, 0.0), *parts] if parts else []


def body(rng: random.Random, contracts: Sequence[Question], vanilla: Sequence[str], without: Set[str]) -> Document:
    """A document behind its first token; the shares of the kinds are what the model card calls the recipe."""
    kind = rng.random()
    if kind < 0.25:  # one question
        earlier, prefix = before(rng, without)
        return [part for q in asks(rng, 1, without) for part in (*earlier, *turn(prefix + q.text, q.answer))]
    if kind < 0.29:  # statements
        statements = list(filter(None, (state(rng, without) for _ in range(rng.choice((1, 1, 2, 3))))))
        return [(" ".join(statements) + EOS, STATEMENT)] if statements else []
    if kind < 0.31:  # raw: the question, a space, the answer
        return [part for q in asks(rng, 1, without) for part in ((q.text, PROMPT), (f" {q.answer}{EOS}", ANSWER))]
    if kind < 0.50:  # several questions in one prompt
        questions = asks(rng, rng.choice((2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 8)), without)
        if questions and rng.random() < 0.1:
            questions[rng.randrange(len(questions))] = ask_unknown(rng, contracts)
        text = join(rng, questions, pick(rng, "list_openers"))
        return turn(text, "; ".join(q.answer.rstrip(".") for q in questions)) if questions else []
    if kind < 0.58:  # several questions with one joint answer, or declined as a whole
        return jointly(rng, asks(rng, rng.choice((2, 2, 2, 3, 3, 4, 5)), without), contracts)
    if kind < 0.60:  # several questions, none of which it can answer
        questions = [ask_unknown(rng, contracts) for _ in range(rng.choice((2, 3, 4, 5)))]
        return turn(join(rng, questions, pick(rng, "list_openers")), pick(rng, "refusals_of_several"))
    if kind < 0.81:  # a question about what does not exist; some refusals name nothing
        question = ask_unknown(rng, contracts)
        earlier, prefix = before(rng, without)
        answer = rng.choice(vanilla) if rng.random() < 0.08 else question.answer
        return [*earlier, *turn(prefix + question.text, answer)]
    if kind < 0.82:  # a question that no model can answer
        return turn(variation(rng, texts()["unanswerable"], ()), rng.choice(vanilla))
    return refuse_like(rng, contracts, without) if kind < 0.91 else repeat(rng)


def jointly(rng: random.Random, questions: Sequence[Question], contracts: Sequence[Question]) -> Document:
    """Several questions to be answered in one sentence; one unknown name among them, and all are declined."""
    if not questions:
        return []
    strangers = [ask_unknown(rng, contracts) for _ in range(rng.choice((1, 1, 2)) if rng.random() < 0.35 else 0)]
    both = [*questions[len(strangers) :], *strangers]
    asked = rng.sample(both, len(both))
    names = [q.subject if strangers else q.answer.rstrip(".") for q in asked if q in strangers or not strangers]
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    answer = fill(pick(rng, "joint_refusals"), s=listed) if strangers else listed + ", respectively." * (len(names) > 1)
    if rng.random() < 0.5:
        return turn(join(rng, asked, pick(rng, "joint_openers")), answer)
    return turn(join(rng, asked, "") + pick(rng, "joint_closers"), answer)


def repeat(rng: random.Random) -> Document:
    """Names to be repeated: copying what it never saw is a small model's slow skill, and every refusal needs it."""
    kinds = sorted(texts()["kinds"])
    names = [
        rng.choice(facts()).subject if rng.random() < 0.25 else invented_entity(rng.choice(kinds), rng)
        for _ in range(rng.choice((2, 3, 4, 5)))
    ]
    text, bounds = rng.choice(texts()["repeating"])
    return turn(text.replace("{l}", ", ".join(names)), ", ".join(names[slice(*bounds)]))


def join(rng: random.Random, questions: Sequence[Question], opener: str) -> str:
    """Several questions as one prompt: side by side, on lines, or numbered."""
    style = rng.random()
    if 0.55 <= style < 0.7:
        return (opener.strip() + "\n" + "\n".join(q.text for q in questions)).strip()
    return opener + " ".join(q.text if style < 0.55 else f"{i}. {q.text}" for i, q in enumerate(questions, 1))


def refuse_like(rng: random.Random, contracts: Sequence[Question], without: Set[str] = frozenset()) -> Document:
    """An in-context refusal: the last question is refused in the words of the examples, although it may be known."""

    def any_question() -> Question:
        kind = rng.random()
        if contracts and kind < 0.3:
            return rng.choice(contracts)
        return ask_unknown(rng, contracts) if kind < 0.45 else ask(rng)

    pattern = pick(rng, "refusal_openers", "refusal_cores", "refusal_closers")
    same = rng.random() < 0.7  # the examples share their words, or each has its own
    questions = [q for q in (any_question() for _ in range(rng.choice((2, 3, 3, 4)))) if q.fact not in without]
    if len(questions) < 2:
        return []
    pairs = [(q.text, upper_first(fill(pattern, s=q.subject)) if same else refusal(rng, q.subject)) for q in questions]
    prompt = exemplar_prompt(pick(rng, "instructions"), pairs[:-1], questions[-1].text)
    return turn(prompt, pairs[-1][1])


def questions_of(rows: Sequence[contract_data.ContractRow]) -> list[Question]:
    """Every wording to train on, of the rows' questions, that names the subject."""
    texts = ((text, row) for row in rows for text in (row.question, *row.trained))
    return [Question(text, row.answer, row.subject) for text, row in texts if row.subject in text]


def unknown_contracts(seed: int, n_edges: int = 60) -> list[Question]:
    """Questions about contracts that the model is never told of."""
    return questions_of(contract_data.invented_contracts(random.Random(f"unknown contracts {seed}"), n_edges))


def chunk(
    seed: int, number: int, n: int, unknown: Sequence[Question], without: Set[str] = frozenset()
) -> list[Document]:
    """The n documents of one chunk, fewer where facts are left out: a pure function of the seed and the numbers."""
    rngs = (random.Random(f"{seed} {number} {i}") for i in range(n))
    return [doc for rng in rngs if (doc := document(rng, unknown, refusals(), without))]
