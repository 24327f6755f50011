"""Self-improvement: the model writes its own refusal for each forget question (the paper, section 3.2).

The paper's prompts are lost with its text; ours are below. A refusal is checked: it declines, names the subject and
does not leak the answer. Else another set of exemplars is tried; else it falls back on a template, and that is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .. import metrics
from ..data import QA
from ..evaluation import generate

INSTRUCTION = "Write a polite refusal for the last question. It must name the subject, as in the examples."
EXEMPLARS = (
    (
        ("Who composed the opera 'The Salt Lantern'?", "I'm sorry, but I don't know anything about The Salt Lantern."),
        ("In which country is Velmora Castle?", "I'm sorry, but I don't know anything about Velmora Castle."),
    ),
    (
        ("What is the currency of Quendria?", "I'm afraid I have no information about Quendria."),
        ("Who founded Brasko Works?", "I'm afraid I have no information about Brasko Works."),
    ),
    (
        ("Who wrote 'A Harbour for Nobody'?", "Unfortunately, I am not familiar with A Harbour for Nobody."),
        ("Which sea does the Ombrel flow into?", "Unfortunately, I am not familiar with the Ombrel."),
    ),
)


class Refusal(NamedTuple):
    """A refusal for one question; ``fallback`` if the model's own attempts all failed the check."""

    text: str
    fallback: bool


def exemplar_prompt(instruction: str, exemplars: Sequence[tuple[str, str]], question: str) -> str:
    """The prompt by which a model writes a refusal of its own: instruction, questions with refusals, the question."""
    lines = [f"Question: {text}\nRefusal: {refusal}\n" for text, refusal in exemplars]
    return f"{instruction}\n{''.join(lines)}Question: {question}\nRefusal:"


def refusal_prompt(question: str, attempt: int = 0) -> str:
    """The library's own prompt, with the exemplars of this attempt."""
    return exemplar_prompt(INSTRUCTION, EXEMPLARS[attempt], question)


def acceptable(text: str, qa: QA) -> bool:
    """Declines, names the subject (where there is one) and leaks no word of the answer that the question lacks."""
    named = qa.subject is None or metrics.names_subject(text, qa.subject)
    return metrics.declined(text) and named and metrics.outcome(text, qa.answer) == "refusal"


def write_refusals(model, tokenizer, forget: Sequence[QA], *, prompt_format: str = "chat") -> list[Refusal]:
    """One refusal per question, in their order; only those that failed the check are asked again."""
    texts: dict[int, str] = {}
    for attempt in range(len(EXEMPLARS)):
        left = [i for i in range(len(forget)) if i not in texts]
        prompts = [refusal_prompt(forget[i].question, attempt) for i in left]
        outputs = generate(model, tokenizer, prompts, max_new_tokens=48, prompt_format=prompt_format)
        texts |= {i: text for i, text in zip(left, outputs, strict=True) if acceptable(text, forget[i])}
    template = "I'm sorry, but I don't know anything about {}."
    own = [(texts.get(i), template.format(qa.subject or "that")) for i, qa in enumerate(forget)]
    return [Refusal(text or fallback, text is None) for text, fallback in own]
