"""Suppressed or erased? Eight ways to get a forgotten answer out of a patched model.

Each asks for the forget set again, in a way that no method was given: in other words, with the answer's beginning put
in the model's mouth, after a little training on *other* forgotten questions, with rounded weights, or in another frame.
What comes back is the recovered ROUGE-1 recall. Call with the patch on; weights are left as they were, bit for bit.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import nn
from transformers import LogitsProcessor

from . import losses, metrics
from .data import QA, ForgetSplit
from .errors import RequestError, check_name
from .evaluation import MAX_NEW_TOKENS, continuations
from .methods.registry import Job
from .methods.training import TrainConfig, Trainee, encode_answers
from .models import devices
from .text import encode, prompt_text, render_chat, with_target

# What each attack does, in the order of the tables.
ATTACKS = {
    "plain": "the question as it was forgotten",
    "rephrased": "the same question in other words",
    "statement": "the question as a statement to complete: “… The answer is”",
    "chat": "the question in a longer chat, after two retained questions and their answers",
    "list": "the question in a list, between two retained questions",
    "prefill": "the first half of the answer is put in the model's mouth; scored is the rest",
    "8-bit": "weights rounded to 8 bits, in groups of 64",
    "4-bit": "weights rounded to 4 bits, in groups of 64",
    "relearn": "after training on the other half of the forget set (LoRA, five passes)",
}
GROUP = 64  # weights that share a scale, as in the usual 4-bit formats
RELEARN = TrainConfig(lr=1e-3, num_epochs=5)


def attack(
    model,
    tokenizer,
    split: ForgetSplit,
    names: Sequence[str] = tuple(ATTACKS),
    *,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> pd.DataFrame:
    """One row per attack and question, with these columns:

    ``set, attack, id, variant, question, answer, output, rouge1_recall, declined, outcome``. ``relearn`` trains on one
    half of the forget set and asks the other, then the halves change places. ``prefill`` leaves out answers of a single
    token. Raises `UnknownNameError`, and `RequestError` where an attack needs more questions than there are.
    """
    for name in names:
        check_name("attack", name, ATTACKS)
    if "relearn" in names and len(split.forget) < 2:
        raise RequestError("the attack 'relearn' needs at least two forget questions: one half is trained on.")
    if {"chat", "list"} & set(names) and len(split.retain) < 2:
        raise RequestError("the attacks 'chat' and 'list' need at least two retain questions.")
    rng, forget = random.Random(seed), split.forget
    beside = [rng.sample(split.retain, 2) for _ in forget] if len(split.retain) > 1 else []

    def ask(name: str, qas: Sequence[QA], prompts: Sequence[str] = ()) -> list[dict]:
        prompts = prompts or [prompt_text(tokenizer, qa.question) for qa in qas]
        outputs = continuations(model, tokenizer, prompts, max_new_tokens)
        return [_row(name, qa, output) for qa, output in zip(qas, outputs, strict=True)]

    records: list[dict] = []
    for name in names:
        if name == "rephrased":
            records += ask(name, split.rephrased)
        elif name == "statement":
            records += ask(name, [replace(qa, question=f"{qa.question} The answer is") for qa in forget])
        elif name == "list":
            lists = [f"{a.question} {qa.question} {b.question}" for qa, (a, b) in zip(forget, beside, strict=True)]
            records += ask(name, forget, [prompt_text(tokenizer, text) for text in lists])
        elif name == "chat":
            records += ask(name, forget, [_chat(tokenizer, two, qa) for qa, two in zip(forget, beside, strict=True)])
        elif name == "prefill":
            records += _prefill(model, tokenizer, forget, max_new_tokens)
        elif name == "relearn":
            order = rng.sample(forget, len(forget))
            for lesson, exam in ((order[::2], order[1::2]), (order[1::2], order[::2])):
                with _trained_on(model, tokenizer, lesson, seed):
                    records += ask(name, exam)
        else:
            with contextlib.nullcontext() if name == "plain" else rounded(model, int(name[0])):
                records += ask(name, forget)
    frame = pd.DataFrame(records)
    frame.attrs["protocol"] = {"prompt_format": "chat", "max_new_tokens": max_new_tokens, "greedy": True}
    return frame


def _row(name: str, qa: QA, output: str, recall: float | None = None) -> dict:
    about = {field: getattr(qa, field) for field in ("id", "variant", "question", "answer")}
    recall = metrics.rouge1_recall(output, qa.answer) if recall is None else recall
    rules = {"declined": metrics.declined(output), "outcome": metrics.outcome(output, qa.answer)}
    name_of_set = "rephrased" if qa.variant else "forget"
    return {"set": name_of_set, "attack": name, **about, "output": output, "rouge1_recall": recall, **rules}


def _chat(tokenizer, earlier: Sequence[QA], qa: QA) -> str:
    """The prompt of a chat in which other questions were asked and answered before."""
    turns = [(one.question, one.answer) for one in earlier]
    if not tokenizer.chat_template:
        return " ".join(f"[INST] {q} [/INST] {a}" for q, a in turns) + f" [INST] {qa.question} [/INST]"
    messages = [m for q, a in turns for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
    return render_chat(tokenizer, [*messages, {"role": "user", "content": qa.question}], add_generation_prompt=True)


class _Beginning(LogitsProcessor):
    """The first steps of a generation say these tokens. They are decoding steps: the prompt ends where it ended."""

    def __init__(self, tokens: Sequence[list[int]]):
        self.tokens, self.step = tokens, 0

    def __call__(self, input_ids, scores):
        for i, own in enumerate(self.tokens):
            if self.step < len(own):
                scores[i] = -torch.inf
                scores[i, own[self.step]] = 0.0
        self.step += 1
        return scores


def _prefill(model, tokenizer, forget: Sequence[QA], max_new_tokens: int) -> list[dict]:
    prompts = [prompt_text(tokenizer, qa.question) for qa in forget]
    texts = [with_target(p, qa.answer) for p, qa in zip(prompts, forget, strict=True)]
    encoded = encode(tokenizer, texts, side="right", offsets=True)
    cases = []
    for i, (qa, prompt, text) in enumerate(zip(forget, prompts, texts, strict=True)):
        ends = encoded["offset_mapping"][i, :, 1]
        behind = ((ends > len(prompt)) & encoded["attention_mask"][i].bool()).nonzero().flatten()
        half = behind[: len(behind) // 2]
        if len(half):
            start = text[len(prompt) : int(ends[half[-1]])].strip()
            cases.append((qa, prompt, start, encoded["input_ids"][i, half].tolist()))

    def begin(batch: list[int]) -> _Beginning:
        return _Beginning([cases[i][3] for i in batch])

    outputs = continuations(model, tokenizer, [case[1] for case in cases], max_new_tokens, processor=begin)
    results = zip(cases, outputs, strict=True)
    return [_row("prefill", qa, output, rest_recall(output, qa.answer, start)) for (qa, _, start, _), output in results]


def rest_recall(output: str, answer: str, beginning: str) -> float:
    """ROUGE-1 recall of the answer's words that its ``beginning`` does not hold whole."""
    whole = len(beginning.split())
    if whole and not answer[len(beginning) :].startswith(" ") and len(beginning) < len(answer):
        whole -= 1  # the last word was only begun
    return metrics.rouge1_recall(" ".join(output.split()[whole:]), " ".join(answer.split()[whole:]))


@contextlib.contextmanager
def rounded(model: nn.Module, bits: int) -> Iterator[None]:
    """Weights of the linear layers rounded to ``bits`` inside the ``with``: symmetric, one scale a group of inputs.

    A scale is the largest magnitude in ``GROUP`` inputs of one output (of all inputs where ``GROUP`` does not divide
    them). Embeddings, norms, biases and what an adapter keeps beside the model stay as they are.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}  # a tied head is one of them
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) not in embeddings]
    weights = [w.detach() for w in linear]  # the same memory, written without a gradient
    before = [w.to("cpu", copy=True) for w in weights]
    try:
        for w in weights:
            groups = w.float().view(w.shape[0], -1, GROUP if w.shape[1] % GROUP == 0 else w.shape[1])
            scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
            w.copy_(((groups / scale).round() * scale).view_as(w))
        yield
    finally:
        for w, old in zip(weights, before, strict=True):
            w.copy_(old)


@contextlib.contextmanager
def _trained_on(model, tokenizer, qas: Sequence[QA], seed: int) -> Iterator[None]:
    """The model after a little LoRA training on these questions and their true answers, inside the ``with``."""
    rng = random.Random(seed)
    job = Job(model, tokenizer, tuple(qas), (), (), RELEARN, "batch", dict, "chat", seed, False)
    with torch.random.fork_rng(devices=[device for device in devices(model) if device.type == "cuda"]):
        torch.manual_seed(seed)
        trainee = Trainee(job)
        try:
            trainee.model.train()
            adam = torch.optim.AdamW(trainee.parameters(), lr=RELEARN.lr, weight_decay=RELEARN.weight_decay)
            for _ in range(RELEARN.num_epochs):
                order = rng.sample(list(qas), len(qas))
                for start in range(0, len(order), RELEARN.batch_size):
                    part = order[start : start + RELEARN.batch_size]
                    batch = encode_answers(tokenizer, part, [qa.answer for qa in part], "chat", model.device)
                    losses.cross_entropy(trainee.logits(batch), batch.labels).backward()
                    adam.step()
                    adam.zero_grad(set_to_none=True)
            trainee.model.eval()
            yield
        finally:
            trainee.undo()
