"""Texts: how a question becomes a prompt, and a prompt becomes tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from transformers import BatchEncoding

from .errors import check_name

PROMPT_FORMATS = ("chat", "raw")
TEMPLATE_DATE = "26 Jul 2024"  # some templates print today's date: results must not depend on the day


def render_chat(tokenizer, messages: list[dict[str, str]], **options) -> str:
    """The tokenizer's own template, with the clock stopped: results must not depend on the day."""
    frozen = "{% macro strftime_now(format) %}" + TEMPLATE_DATE + "{% endmacro %}" + tokenizer.get_chat_template()
    return tokenizer.apply_chat_template(
        messages, chat_template=frozen, tokenize=False, date_string=TEMPLATE_DATE, **options
    )


def prompt_text(tokenizer, question: str, prompt_format: str = "chat") -> str:
    """The whole text that a question is asked with, special tokens included as text.

    ``"chat"``: the tokenizer's own template, or ``[INST] … [/INST]`` where it has none. ``"raw"``: the question alone.
    White space around the question is dropped, as many templates do.
    """
    check_name("prompt_format", prompt_format, PROMPT_FORMATS)
    question = question.strip()
    if prompt_format == "raw":
        return question
    if not tokenizer.chat_template:
        return f"[INST] {question} [/INST]"
    return render_chat(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True)


def question_start(tokenizer, prompt_format: str = "chat") -> int:
    """The character of a prompt at which its question begins: the same for every question."""
    mark = "\N{SNOWMAN}question\N{SNOWMAN}"  # a question such as "I" also stands inside "[/INST]"
    return prompt_text(tokenizer, mark, prompt_format).index(mark)


def with_target(prompt: str, target: str) -> str:
    """Prompt and target with one space between them, unless the prompt ends in white space."""
    return prompt + ("" if prompt[-1:].isspace() else " ") + target.strip()


def end_of_turn(tokenizer, prompt_format: str = "chat") -> str:
    """The text that ends an answer: what the chat template puts there, or the end-of-sequence token."""
    if prompt_format == "chat" and tokenizer.chat_template:
        text = render_chat(tokenizer, [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "ANSWER"}])
        if end := text.rpartition("ANSWER")[2].strip():
            return end
    return tokenizer.eos_token or ""


def template_hash(tokenizer) -> str:
    """Eight hex digits that tell chat templates apart: a part of every record."""
    return hashlib.sha256((tokenizer.chat_template or "[INST] {} [/INST]").encode()).hexdigest()[:8]


def encode(tokenizer, texts: Sequence[str], *, side: str = "left", offsets: bool = False) -> BatchEncoding:
    """Token ids (B, T) of whole texts, padded to the longest on the given side.

    A beginning-of-sequence token is added as the tokenizer does it, but never to a text that starts with one.
    """
    bos = tokenizer.bos_token
    has_bos = [bool(bos) and text.startswith(bos) for text in texts]
    if len(set(has_bos)) > 1:
        raise ValueError("some of these texts start with the beginning-of-sequence token and some do not.")
    old, tokenizer.padding_side = tokenizer.padding_side, side
    try:
        options = {"add_special_tokens": not any(has_bos), "return_offsets_mapping": offsets}
        return tokenizer(list(texts), padding=True, return_tensors="pt", **options)
    finally:
        tokenizer.padding_side = old
