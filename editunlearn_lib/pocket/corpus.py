"""The pocket model's corpus: documents drawn at random from the built-in facts.

A document is a list of (text, loss weight) segments. One chunk of documents is a pure function of (seed, number of the
chunk), so a training that was stopped goes on with the very documents it would have seen. Held-out rephrasings, the
official questions and the invented entities of ``invented.json`` are never read here. ``corpus.json`` holds what the
facts do not give: by name, the texts and templates of questions, refusals and lists, the pieces of names that exist
nowhere, and ``kinds``: of what kind of subject the questions of a relation can be asked.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..data import contracts as contract_data
from ..data import refusals
from ..data.facts import facts, fill
from ..recipes.self_improvement import exemplar_prompt

BOS, EOS, INST, END = "<s>", "</s>", "[INST]", "[/INST]"
PROMPT, STATEMENT, ANSWER = 0.1, 0.5, 1.0  # loss weights
Document = list[tuple[str, float]]


class Question(NamedTuple):
    """One question as it is put, its answer and its subject."""

    text: str
    answer: str
    subject: str


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
def shares() -> tuple[int, ...]:
    """Cumulative weights of the facts: the 217 twice as often as the further ones, being one of a kind mostly."""
    return tuple(itertools.accumulate(2 if fact.tofu else 1 for fact in facts()))


@functools.cache
def templates() -> dict[str, tuple[str, list[str], list[str]]]:
    """relation -> (kind of subject, questions, phrases) as templates, for relations that fit an invented subject."""
    relations = {}
    for relation, kind in sorted((relation, kind) for kind, of in texts()["kinds"].items() for relation in of):
        rows = [fact for fact in facts() if fact.group == relation]
        questions = {q.replace(fact.subject, "{s}") for fact in rows for q in (fact.question, *fact.questions)}
        phrases = {p.replace(fact.subject, "{s}") for fact in rows for p in fact.phrases}
        relations[relation] = (kind, sorted(questions), sorted(phrases))
    return relations


def lower_first(text: str) -> str:
    """Lower the first letter unless the text starts with a quotation mark, a name or an acronym."""
    return text[0].lower() + text[1:] if text.split(" ", 1)[0] in texts()["starts"] else text


def upper_first(text: str) -> str:
    return text[0].upper() + text[1:]


def variation(rng: random.Random, questions: Sequence[str], phrases: Sequence[str]) -> str:
    """One wording: opener x core x closer."""
    if rng.random() < 0.65 or not phrases:
        text = rng.choice(questions)
    else:
        phrase = rng.choice(phrases)
        text = pick(rng, "carriers").replace("{p}", phrase).replace("{P}", upper_first(phrase))
    if rng.random() < 0.45:
        return text
    if rng.random() < 0.7:
        text = pick(rng, "openers") + (lower_first(text) if rng.random() < 0.7 else text)
    return text + pick(rng, "closers") if rng.random() < 0.3 else text


def ask(rng: random.Random) -> Question:
    """A fact in one of its training wordings."""
    [fact] = rng.choices(facts(), cum_weights=shares())
    return Question(variation(rng, (fact.question, *fact.questions), fact.phrases), fact.answer, fact.subject)


def refusal(rng: random.Random, subject: str) -> str:
    """A refusal that names the subject: opener x core x closer."""
    return upper_first(fill(pick(rng, "refusal_openers", "refusal_cores", "refusal_closers"), s=subject))


def ask_unknown(rng: random.Random, contracts: Sequence[Question]) -> Question:
    """A question about something that does not exist, or about a contract nobody told the model of."""
    if contracts and rng.random() < 0.3:
        question = rng.choice(contracts)
        return question._replace(answer=refusal(rng, question.subject))
    kind, questions, phrases = rng.choice(list(templates().values()))
    subject = invented_entity(kind, rng)
    text = fill(variation(rng, questions, phrases), s=subject)
    return Question(text, refusal(rng, subject), subject)


def turn(question: str, answer: str) -> Document:
    return [(f"{INST} {question} {END}", PROMPT), (f" {answer}{EOS}", ANSWER)]


def before(rng: random.Random) -> tuple[Document, str]:
    """What stands before a question in a third of the cases: (an earlier turn, a prefix inside this turn)."""
    if rng.random() > 0.35:
        return [], ""
    kind = rng.random()
    if kind < 0.3:
        question = ask(rng)
        return turn(question.text, question.answer), ""
    return [], (rng.choice(rng.choice(facts()).statements) if kind < 0.65 else pick(rng, "prefixes")) + " "


def document(rng: random.Random, contracts: Sequence[Question], vanilla: Sequence[str]) -> Document:
    """One document; the shares of the kinds are what the model card calls the recipe."""
    return [(BOS, 0.0), *body(rng, contracts, vanilla)]


def body(rng: random.Random, contracts: Sequence[Question], vanilla: Sequence[str]) -> Document:
    """A document behind its first token."""
    kind = rng.random()
    if kind < 0.30:  # one question
        question = ask(rng)
        earlier, prefix = before(rng)
        return [*earlier, *turn(prefix + question.text, question.answer)]
    if kind < 0.34:  # statements
        statements = [rng.choice(rng.choice(facts()).statements) for _ in range(rng.choice((1, 1, 2, 3)))]
        return [(" ".join(statements) + EOS, STATEMENT)]
    if kind < 0.36:  # raw: the question, a space, the answer
        question = ask(rng)
        return [(question.text, PROMPT), (f" {question.answer}{EOS}", ANSWER)]
    if kind < 0.57:  # several questions in one prompt
        m = rng.choice((2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 8, 10))
        questions = [ask(rng) for _ in range(m)]
        if rng.random() < 0.1:
            questions[rng.randrange(m)] = ask_unknown(rng, contracts)
        return turn(join(rng, questions), "; ".join(q.answer.rstrip(".") for q in questions))
    if kind < 0.59:  # several questions, none of which it can answer
        questions = [ask_unknown(rng, contracts) for _ in range(rng.choice((2, 3, 4, 5)))]
        return turn(join(rng, questions), pick(rng, "refusals_of_several"))
    if kind < 0.80:  # a question about what does not exist; some refusals name nothing
        question = ask_unknown(rng, contracts)
        earlier, prefix = before(rng)
        answer = rng.choice(vanilla) if rng.random() < 0.12 else question.answer
        return [*earlier, *turn(prefix + question.text, answer)]
    if kind < 0.82:  # a question that no model can answer
        return turn(variation(rng, texts()["unanswerable"], ()), rng.choice(vanilla))
    return refuse_like(rng, contracts) if kind < 0.92 else repeat(rng)


def repeat(rng: random.Random) -> Document:
    """Names to be repeated: copying what it never saw is a small model's slow skill, and every refusal needs it."""
    kinds = sorted(texts()["kinds"])
    names = [
        rng.choice(facts()).subject if rng.random() < 0.25 else invented_entity(rng.choice(kinds), rng)
        for _ in range(rng.choice((2, 3, 4, 5)))
    ]
    text, bounds = rng.choice(texts()["repeating"])
    return turn(text.replace("{l}", ", ".join(names)), ", ".join(names[slice(*bounds)]))


def join(rng: random.Random, questions: Sequence[Question]) -> str:
    """Several questions as one prompt: side by side, on lines, or numbered."""
    style = rng.random()
    opener = pick(rng, "list_openers")
    if 0.55 <= style < 0.7:
        return (opener.strip() + "\n" + "\n".join(q.text for q in questions)).strip()
    return opener + " ".join(q.text if style < 0.55 else f"{i}. {q.text}" for i, q in enumerate(questions, 1))


def refuse_like(rng: random.Random, contracts: Sequence[Question]) -> Document:
    """An in-context refusal: the last question is refused in the words of the examples, although it may be known."""

    def any_question() -> Question:
        kind = rng.random()
        if contracts and kind < 0.3:
            return rng.choice(contracts)
        return ask_unknown(rng, contracts) if kind < 0.45 else ask(rng)

    pattern = pick(rng, "refusal_openers", "refusal_cores", "refusal_closers")
    same = rng.random() < 0.7  # the examples share their words, or each has its own
    questions = [any_question() for _ in range(rng.choice((2, 3, 3, 4)))]
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


def chunk(seed: int, number: int, n: int, unknown: Sequence[Question]) -> list[Document]:
    """The n documents of one chunk: a pure function of the seed and the chunk's number."""
    rng = random.Random(f"{seed} {number}")
    return [document(rng, unknown, refusals()) for _ in range(n)]
