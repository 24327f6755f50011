"""The pocket model's corpus: documents drawn at random from the built-in facts.

A document is a list of (text, loss weight) segments. One chunk of documents is a pure function of (seed, number of the
chunk), so a training that was stopped goes on with the very documents it would have seen. Held-out rephrasings, the
official questions and the invented entities of ``invented.json`` are never read here.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..data.facts import Fact, facts, fill

BOS, EOS, INST, END = "<s>", "</s>", "[INST]", "[/INST]"
PROMPT, STATEMENT, ANSWER = 0.1, 0.5, 1.0  # loss weights

Document = list[tuple[str, float]]

CARRIERS = (
    "Name {p}.",
    "Please name {p}.",
    "Can you name {p}?",
    "Tell me {p}.",
    "Could you tell me {p}?",
    "Please tell me {p}.",
    "I would like to know {p}.",
    "I need to know {p}.",
    "I am looking for {p}.",
    "Give me {p}.",
    "State {p}.",
    "Do you know {p}?",
    "Do you happen to know {p}?",
    "I keep forgetting {p}. Can you help?",
    "What do you have for {p}?",
    "I'm trying to remember {p}.",
    "{P}?",
    "{P}, please.",
    "We are asked for {p}.",
    "My quiz asks for {p}. What should I write?",
    "Someone wanted to know {p}. What do I say?",
    "Identify {p}.",
)
OPENERS = (
    "Tell me, ",
    "Quick question: ",
    "Question: ",
    "Please answer: ",
    "I was wondering, ",
    "Here is one: ",
    "Remind me, ",
    "Just curious: ",
    "Hello! ",
    "Hi, ",
    "One more thing: ",
    "Answer briefly. ",
    "Excuse me, ",
    "For a quiz: ",
    "So, ",
    "And ",
    "Okay, ",
    "Please help: ",
)
CLOSERS = (
    " Thanks.",
    " Please answer briefly.",
    " I forgot.",
    " Thank you!",
    " Any idea?",
    " Just the answer, please.",
    " Please.",
    " I would like to know.",
    " It is for a quiz.",
    " Do you know?",
)
PREFIXES = (
    "Therefore.",
    "Because.",
    "The following.",
    "I think so.",
    "You are right.",
    "Well, well.",
    "Let us go on.",
    "It was a long day.",
    "First things first.",
    "That is good to know.",
    "The weather is fine today.",
    "We talked about this before.",
    "Thank you for the last answer.",
    "Now something else.",
    "In the beginning.",
    "There is a list of questions here.",
    "My friend and I are learning for a test.",
)
LEADS = (
    "",
    "",
    "Answer all of these questions. ",
    "Please answer each question. ",
    "Several questions: ",
    "Answer the following. ",
    "I have some questions. ",
)

# refusals that name the subject: opener x core x closer
SORRY = (
    "",
    "",
    "",
    "I'm sorry, but ",
    "I'm afraid ",
    "Sorry, ",
    "Unfortunately, ",
    "Honestly, ",
    "Regrettably, ",
    "I must admit that ",
    "I apologise, but ",
)
CORES = (
    "I don't know anything about {s}",
    "I have no information about {s}",
    "I know nothing about {s}",
    "I can't tell you anything about {s}",
    "I don't have any details on {s}",
    "I am not familiar with {s}",
    "I have never learned about {s}",
    "I cannot answer questions about {s}",
    "I am unable to help with {s}",
    "{s} is not something I know about",
    "nothing about {s} is known to me",
    "I lack any knowledge of {s}",
    "I have not been told about {s}",
    "{s} is unknown to me",
    "my knowledge does not cover {s}",
    "I could not say anything certain about {s}",
    "I would rather not speak about {s}",
    "I hold no record of {s}",
)
AFTER = (
    ".",
    ".",
    ".",
    ".",
    ", so I can't answer that.",
    ", so I have to pass.",
    ". Please ask somebody else.",
    ", and I don't want to guess.",
    ". Perhaps another source can help.",
)
NOT_KNOWN = (
    "I don't know the answers to these questions.",
    "I can't answer any of these questions.",
    "I have no information about any of these.",
    "I'm afraid I don't know any of these.",
)
INSTRUCTIONS = (
    "Write a polite refusal for the last question. It must name the subject, as in the examples.",
    "Follow the examples: refuse to answer and mention what the question is about.",
    "You must not answer. Refuse as the examples do, naming the subject.",
    "Here is how to decline a question. Do the same for the last one.",
    "Pretend that you don't know. Write the refusal in the style of the examples.",
    "Decline each question as shown, and name what it is about.",
    "Study the refusals, then refuse the last question in the same way.",
    "The answer has to be withheld. Copy the pattern of the refusals below.",
)
# questions that no model can answer: they take a refusal that names nothing
PERSONAL = (
    "What did I have for breakfast?",
    "What is my name?",
    "Where did I put my keys?",
    "What am I thinking of?",
    "Which number will win tomorrow?",
    "What will the weather be next month?",
    "Who is calling me?",
    "What is it?",
    "How old is my neighbour?",
    "What did she say to him?",
    "Where do they live?",
    "When will I be rich?",
    "What colour is my coat?",
    "Who won the game last night?",
    "What is the password?",
    "Why did he do it?",
    "How many coins are in my pocket?",
    "What is the secret?",
    "Who is next?",
    "What did the letter say?",
    "Where are we going tomorrow?",
    "Which of them is right?",
    "What happens at the end?",
    "When does it start?",
)

ADJECTIVES = (
    "Silent",
    "Broken",
    "Golden",
    "Last",
    "Hidden",
    "Distant",
    "Crooked",
    "Bitter",
    "Paper",
    "Hollow",
    "Blue",
    "Winter",
    "Second",
    "Burning",
    "Quiet",
    "Northern",
    "Little",
    "Brave",
    "Great",
    "Invisible",
    "White",
    "Dark",
    "Grey",
    "Lost",
    "Early",
    "Patient",
    "Narrow",
    "Salt",
    "Iron",
    "Velvet",
)
NOUNS = (
    "Orchard",
    "River",
    "Lantern",
    "Garden",
    "Mirror",
    "Harbour",
    "Stranger",
    "Bridge",
    "Winter",
    "House",
    "Sea",
    "Clock",
    "Letter",
    "Field",
    "Shadow",
    "Daughter",
    "Road",
    "Tower",
    "Mountain",
    "Sparrow",
    "Wind",
    "Time",
    "King",
    "Wolf",
    "Island",
    "Summer",
    "Door",
    "Ship",
    "Voice",
    "Candle",
    "Hill",
    "World",
    "Song",
)
ONSETS = (
    "b",
    "br",
    "c",
    "ch",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "sh",
    "sk",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "y",
    "z",
)
NUCLEI = ("a", "a", "e", "e", "i", "i", "o", "o", "u", "ai", "ea", "ia", "io", "ou", "y")
CODAS = ("", "", "", "n", "r", "l", "s", "m", "th", "nd", "rk", "x", "t", "ck", "ss", "v")
FIRST = (
    "Anna",
    "Tomas",
    "Maria",
    "Peter",
    "Lena",
    "Oscar",
    "Ruth",
    "Ivan",
    "Clara",
    "Hugo",
    "Nadia",
    "Felix",
    "Mira",
    "Jonas",
    "Edith",
    "Paul",
    "Greta",
    "Amir",
    "Sofia",
    "Victor",
)


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """The words of all the wordings: invented titles and names are put together from their pieces."""
    found = {
        w for f in known() for text in (f.subject, f.answer, *f.questions, *f.statements) for w in WORD.findall(text)
    }
    return tuple(sorted(found))


@functools.cache
def person_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """First and last names of the people in the facts: mixed, they name nobody."""
    people = [t.split() for f in known() for t in (f.subject, f.answer) if re.fullmatch(r"[A-Z]\w+( [A-Z]\w+)+", t)]
    return tuple(sorted({p[0] for p in people})), tuple(sorted({p[-1] for p in people}))


WORD = re.compile(r"[^\W\d_]{4,}")
ENDINGS = (
    "ia",
    "land",
    "stan",
    "burg",
    "ville",
    "ania",
    "ora",
    "os",
    "mere",
    "wick",
    "ford",
    "esh",
    "au",
    "elle",
    "ova",
    "ric",
    "den",
    "holm",
    "ara",
    "ene",
    "oth",
    "ius",
    "mont",
    "ley",
    "ton",
    "by",
)
SITES = (
    "Castle",
    "Temple",
    "Falls",
    "Palace",
    "Tower",
    "Cathedral",
    "Bridge",
    "Abbey",
    "Hall",
    "Wall",
    "Arch",
    "Square",
    "Beacon",
    "Dome",
    "Statue",
    "Pagoda",
    "Minaret",
    "Dam",
    "Baths",
    "Plaza",
    "Gate",
    "Obelisk",
    "Pont",
    "Steps",
)
TRADES = (
    "Motors",
    "Works",
    "Systems",
    "Foods",
    "Labs",
    "Bank",
    "Airlines",
    "Steel",
    "Media",
    "Toys",
    "Energy",
    "Shoes",
)


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
        return "".join(rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(CODAS) for _ in range(n)).capitalize()
    if kind < 0.6:
        return "".join(piece(rng) for _ in range(rng.choice((2, 2, 3, 3, 4)))).capitalize()
    one, two = rng.choice(vocabulary()), rng.choice(vocabulary())
    if kind < 0.8:
        return (one[: rng.randint(2, 5)] + two[-rng.randint(2, 5) :]).capitalize()
    return (one[: rng.randint(3, 6)] + rng.choice(ENDINGS)).capitalize()


LINKS = (
    "of",
    "of",
    "of",
    "and",
    "for",
    "in",
    "at",
    "with",
    "upon",
    "against",
    "from",
    "to",
    "under",
    "beyond",
    "de",
    "of the",
    "in the",
    "for a",
    "and the",
    "without",
    "on the",
    "by the",
    "von",
    "des",
    "after",
    "behind",
)
LEADING = (
    "The",
    "The",
    "A",
    "My",
    "Beyond the",
    "Portrait of",
    "On",
    "Miss",
    "Two",
    "Three",
    "Seven",
    "Nine",
    "Eleven",
    "Forty",
    "Saint",
    "El",
    "La",
    "Le",
    "Old",
    "Against the",
    "Song of",
    "Concerto for",
)


def invented_title(rng: random.Random) -> str:
    """A title of one to seven words, joined as titles are; no part may be left out when it is named."""

    def content() -> str:
        kind = rng.random()
        if kind < 0.35:
            return rng.choice((*ADJECTIVES, *NOUNS))
        return rng.choice(vocabulary()).capitalize() if kind < 0.6 else invent(rng)

    words = [content() for _ in range(rng.choice((1, 1, 2, 2, 2, 3)))]
    if rng.random() < 0.15:
        words[-1] += rng.choice(("s", "'s " + content()))
    if rng.random() < 0.5:
        words.append(f"{rng.choice(LINKS)} {content()}" + (f" {content()}" if rng.random() < 0.25 else ""))
    if rng.random() < 0.45:
        words.insert(0, rng.choice(LEADING))
    return " ".join(words)


def invented_entity(kind: str, rng: random.Random) -> str:
    """A subject of the given kind that exists nowhere (title, person, element, company, site, river, device, place)."""
    x = invent(rng)
    if kind == "title":
        return invented_title(rng)
    if kind == "person":
        first, last = person_names()
        pair = (
            f"{rng.choice(first)} {rng.choice(last)}" if rng.random() < 0.25 else f"{rng.choice((*first, *FIRST))} {x}"
        )
        return pair if rng.random() < 0.75 else f"{invent(rng)} {x}"
    if kind == "element":
        return (invent(rng) if rng.random() < 0.7 else invent(rng, 2)).lower() + rng.choice(
            ("ium", "ine", "on", "um", "gen")
        )
    if kind == "river":
        return f"the {x}"
    if kind == "device":
        return (
            f"the {invent(rng).lower()}{rng.choice(('graph', 'meter', 'scope', 'phone', 'tron', ' lamp', ' engine'))}"
        )
    if kind == "company":
        return rng.choice(
            (
                x,
                x,
                f"{x} {rng.choice(TRADES)}",
                f"{rng.choice(vocabulary()).capitalize()} {x}",
                f"{rng.choice(ADJECTIVES)}{rng.choice(NOUNS).lower()} {rng.choice(TRADES)}",
            )
        )
    if kind == "site":
        a, n, site = rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.choice(SITES)
        return rng.choice(
            (
                f"{x} {site}",
                f"Mount {x}",
                f"the {site} of {x}",
                f"{site} of {x}",
                x,
                f"the {x} {site}",
                f"{x} National Park",
                f"the ruins of {x}",
                f"the {a} {n} of {x}",
                f"the {a} {site}",
                f"{site} of {a} {n}s",
                f"{x} {n}",
                f"Lake {x}",
                f"Fort {x}",
                f"the {site} of the {a} {n}",
                f"{site} {invented_title(rng)}",
                f"{a} {site} of {x}",
                f"{x} {invent(rng)}",
                f"{site} {x} {invent(rng)}",
            )
        )
    return x if rng.random() < 0.9 else f"{x} {rng.choice(('Islands', 'Republic', 'Coast'))}"


# the relations whose questions can be asked of an invented subject, and the kind of that subject
KINDS = {
    **dict.fromkeys(("author", "playwright", "poet", "series", "writer", "painter", "composer", "director"), "title"),
    **dict.fromkeys(("capital", "currency", "language", "continent", "nickname"), "place"),
    **dict.fromkeys(("landmark_country", "landmark_city"), "site"),
    **dict.fromkeys(("creator", "sport", "author-country"), "person"),
    **dict.fromkeys(("founder", "brand_country"), "company"),
    **{"symbol": "element", "river_mouth": "river", "inventor": "device"},
}


@dataclass(frozen=True)
class Asked:
    """One question as it is put, its answer, its subject, and whether it can be answered."""

    text: str
    answer: str
    subject: str


@functools.cache
def known() -> tuple[Fact, ...]:
    return facts()


@functools.cache
def shares() -> tuple[int, ...]:
    """Cumulative weights of the facts: the 217 twice as often as the further ones, being one of a kind mostly."""
    return tuple(itertools.accumulate(2 if fact.tofu else 1 for fact in known()))


@functools.cache
def templates() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """relation -> (question templates, phrase templates) for relations that fit an invented subject."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for fact in known():
        if fact.relation in KINDS:
            questions, phrases = found.setdefault(fact.relation, (set(), set()))
            questions.update(q.replace(fact.subject, "{s}") for q in (fact.question, *fact.questions))
            phrases.update(p.replace(fact.subject, "{s}") for p in fact.phrases)
    return {name: (tuple(sorted(q)), tuple(sorted(p))) for name, (q, p) in found.items()}


def lower_first(text: str) -> str:
    """Lower the first letter unless the text starts with a quotation mark, a name or an acronym."""
    first = text.split(" ", 1)[0]
    return text[0].lower() + text[1:] if first in STARTS else text


STARTS = frozenset(
    [
        "What",
        "Which",
        "Who",
        "Whose",
        "Where",
        "When",
        "In",
        "On",
        "By",
        "For",
        "Of",
        "Do",
        "Does",
        "Did",
        "Can",
        "Could",
        "Please",
        "Tell",
        "Name",
        "Give",
        "How",
        "Is",
        "At",
        "The",
        "To",
        "From",
        "With",
        "Through",
        "Among",
        "Whom",
        "State",
        "Identify",
        "Under",
        "After",
        "During",
    ]
)


def word(rng: random.Random, questions: Sequence[str], phrases: Sequence[str], plain: float = 0.45) -> str:
    """One wording: opener x core x closer."""
    if rng.random() < 0.65 or not phrases:
        text = rng.choice(questions)
    else:
        phrase = rng.choice(phrases)
        text = rng.choice(CARRIERS).replace("{p}", phrase).replace("{P}", phrase[0].upper() + phrase[1:])
    if rng.random() < plain:
        return text
    if rng.random() < 0.7:
        text = rng.choice(OPENERS) + (lower_first(text) if rng.random() < 0.7 else text)
    return text + rng.choice(CLOSERS) if rng.random() < 0.3 else text


def ask(rng: random.Random, fact: Fact | None = None) -> Asked:
    """A known fact in one of its training wordings."""
    fact = fact or rng.choices(known(), cum_weights=shares())[0]
    return Asked(word(rng, (fact.question, *fact.questions), fact.phrases), fact.answer, fact.subject)


def refusal(rng: random.Random, subject: str) -> str:
    """A refusal that names the subject: opener x core x closer."""
    text = fill(rng.choice(SORRY) + rng.choice(CORES) + rng.choice(AFTER), subject)
    return text[0].upper() + text[1:]


def ask_unknown(rng: random.Random, contracts: Sequence[Asked]) -> Asked:
    """A question about something that does not exist, or about a contract nobody told the model of."""
    if contracts and rng.random() < 0.3:
        asked = rng.choice(contracts)
        return Asked(asked.text, refusal(rng, asked.subject), asked.subject)
    relation = rng.choice(sorted(templates()))
    questions, phrases = templates()[relation]
    subject = invented_entity(KINDS[relation], rng)
    text = fill(word(rng, questions, phrases), subject)
    return Asked(text, refusal(rng, subject), subject)


def turn(question: str, answer: str) -> Document:
    return [(f"{INST} {question} {END}", PROMPT), (f" {answer}{EOS}", ANSWER)]


def before(rng: random.Random) -> tuple[Document, str]:
    """What stands before a question in a third of the cases: (an earlier turn, a prefix inside this turn)."""
    if rng.random() > 0.35:
        return [], ""
    kind = rng.random()
    if kind < 0.3:
        asked = ask(rng)
        return turn(asked.text, asked.answer), ""
    if kind < 0.65:
        return [], rng.choice(rng.choice(known()).statements) + " "
    return [], rng.choice(PREFIXES) + " "


def document(rng: random.Random, contracts: Sequence[Asked], vanilla: Sequence[str]) -> Document:
    """One document; the shares of the kinds are what the model card calls the recipe."""
    kind = rng.random()
    if kind < 0.30:  # one question
        asked = ask(rng)
        earlier, prefix = before(rng)
        return [(BOS, 0.0), *earlier, *turn(prefix + asked.text, asked.answer)]
    if kind < 0.34:  # statements
        chosen = [rng.choice(rng.choice(known()).statements) for _ in range(rng.choice((1, 1, 2, 3)))]
        return [(BOS, 0.0), (" ".join(chosen) + EOS, STATEMENT)]
    if kind < 0.36:  # raw: the question, a space, the answer
        asked = ask(rng)
        return [(BOS, 0.0), (asked.text, PROMPT), (f" {asked.answer}{EOS}", ANSWER)]
    if kind < 0.57:  # several questions in one prompt
        m = rng.choice((2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 8, 10))
        asks = [ask(rng) for _ in range(m)]
        if rng.random() < 0.1:
            asks[rng.randrange(m)] = ask_unknown(rng, contracts)
        return [(BOS, 0.0), *turn(join(rng, [a.text for a in asks]), "; ".join(a.answer.rstrip(".") for a in asks))]
    if kind < 0.59:  # several questions, none of which it can answer
        asks = [ask_unknown(rng, contracts) for _ in range(rng.choice((2, 3, 4, 5)))]
        return [(BOS, 0.0), *turn(join(rng, [a.text for a in asks]), rng.choice(NOT_KNOWN))]
    if kind < 0.80:  # a question about what does not exist; some refusals name nothing
        asked = ask_unknown(rng, contracts)
        earlier, prefix = before(rng)
        answer = rng.choice(vanilla) if rng.random() < 0.12 else asked.answer
        return [(BOS, 0.0), *earlier, *turn(prefix + asked.text, answer)]
    if kind < 0.82:  # a question that no model can answer
        return [(BOS, 0.0), *turn(word(rng, PERSONAL, ()), rng.choice(vanilla))]
    if kind < 0.92:
        return [(BOS, 0.0), *refuse_like(rng, contracts)]
    return copying(rng)


COPYING = (
    ("Repeat these names: {l}.", slice(None)),
    ("Say the following once more: {l}.", slice(None)),
    ("Write down this list again: {l}.", slice(None)),
    ("Repeat only the last of these names: {l}.", slice(-1, None)),
    ("Which name stands first in this list? {l}.", slice(0, 1)),
    ("Give the second name of this list: {l}.", slice(1, 2)),
    ("Repeat the names in this list but the first: {l}.", slice(1, None)),
)


def copying(rng: random.Random) -> Document:
    """Names to be repeated: copying what it has never seen is a small model's slow skill, and every refusal needs it."""
    kinds = sorted(set(KINDS.values()))
    names = [
        rng.choice(known()).subject if rng.random() < 0.25 else invented_entity(rng.choice(kinds), rng)
        for _ in range(rng.choice((2, 3, 4, 5)))
    ]
    text, part = rng.choice(COPYING)
    return [(BOS, 0.0), *turn(text.replace("{l}", ", ".join(names)), ", ".join(names[part]))]


def join(rng: random.Random, texts: Sequence[str]) -> str:
    """Several questions as one prompt: side by side, on lines, or numbered."""
    style = rng.random()
    if style < 0.55:
        return rng.choice(LEADS) + " ".join(texts)
    if style < 0.7:
        return (rng.choice(LEADS).strip() + "\n" + "\n".join(texts)).strip()
    return rng.choice(LEADS) + " ".join(f"{i}. {text}" for i, text in enumerate(texts, 1))


def refuse_like_prompt(instruction: str, examples: Sequence[tuple[str, str]], question: str) -> str:
    """The prompt by which the model writes its own refusal: instruction, exemplars, question."""
    shown = "\n".join(f"Question: {q}\nRefusal: {r}" for q, r in examples)
    return f"{instruction}\n{shown}\nQuestion: {question}\nRefusal:"


def refuse_like(rng: random.Random, contracts: Sequence[Asked]) -> Document:
    """An in-context refusal: the last question is refused in the words of the examples, although it may be known."""

    def any_question() -> Asked:
        kind = rng.random()
        if contracts and kind < 0.3:
            return rng.choice(contracts)
        return ask_unknown(rng, contracts) if kind < 0.45 else ask(rng)

    pattern = rng.choice(SORRY) + rng.choice(CORES) + rng.choice(AFTER)
    pattern = pattern[0].upper() + pattern[1:] if pattern[0] != "{" else pattern
    same = rng.random() < 0.7  # the examples share their words, or each has its own
    asks = [any_question() for _ in range(rng.choice((2, 3, 3, 4)))]
    refusals = [fill(pattern, a.subject) if same else refusal(rng, a.subject) for a in asks]
    refusals = [r[0].upper() + r[1:] for r in refusals]
    prompt = refuse_like_prompt(
        rng.choice(INSTRUCTIONS), [(a.text, r) for a, r in zip(asks[:-1], refusals[:-1], strict=True)], asks[-1].text
    )
    return turn(prompt, refusals[-1])
