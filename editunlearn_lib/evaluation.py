"""Asking the questions and scoring the answers: batched, greedy, both protocols.

Free-running: the model answers by itself, and answer token j is looked up in its j-th step. Teacher-forced: the true
answer is given, but behind a prompt that has been prefilled by itself, as it is in a generation: a patch that acts at
the end of the prompt finds it at the same token in both. Log-probabilities are natural; every metric's own protocol is
in `metrics`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from . import metrics
from .data import QA, ForgetSplit
from .errors import RequestError, TrainingError, check_name
from .models import head
from .progress import progress
from .text import encode, prompt_text, with_target

MAX_NEW_TOKENS = 32  # part of the protocol: recall rewards rambling
TOKENS_AT_ONCE = 8192  # of one batch, padding included
ROWS_AT_ONCE = 64  # teacher-forced rows of a batch, by length of answer: the longest prompt and answer both pad
TOP = 100  # the paper's m for the hit rate
METRICS = (
    "rouge1_recall",
    "probability",
    "probability_per_token",
    "mrr",
    "hit_rate",
    "mrr_teacher_forced",
    "hit_rate_teacher_forced",
    "pistol_confidence",
    "declined",
    "names_subject",
)


def batches(lengths: Sequence[int], batch_size: int | str, extra: int = 0) -> Iterator[list[int]]:
    """Indices in batches of like length: ``batch_size`` rows, or as many as fit ``TOKENS_AT_ONCE`` for ``"auto"``."""
    if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
        raise RequestError(f"batch_size must be 'auto' or a whole number of at least 1, not {batch_size!r}.")
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        too_many = batch_size == "auto" and (len(batch) + 1) * (lengths[index] + extra) > TOKENS_AT_ONCE
        if batch and (too_many or len(batch) == batch_size):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


class AnswerLogits(NamedTuple):
    """A row of `answer_logits`: float32 and int64, on the CPU."""

    logits: torch.Tensor  # (T, V): row t scores answer token t, with the prompt and the true answer tokens before it
    ids: torch.Tensor  # (T,): the answer's tokens
    prompt_logits: torch.Tensor  # (min(v, tokens of the prompt), V), v = T + 1: at the prompt's first tokens


def _padded(rows: Sequence[torch.Tensor], value: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids as (B, longest), padded on a side, and their mask."""
    pad = functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
    return pad(rows, padding_value=value), pad([torch.ones_like(row) for row in rows])


@dataclass
class Prefilled:
    """Prompts that have been run: their tokens and mask (B, P), padded on the left, the logits behind them (B, V), the
    cache, and its keys and values as they were then, layer by layer."""

    ids: torch.Tensor
    mask: torch.Tensor
    logits: torch.Tensor
    cache: DynamicCache
    stored: list[tuple[torch.Tensor, torch.Tensor]]

    def back(self) -> DynamicCache:
        """The cache as the prompts left it, whatever was run behind them."""
        for layer, (keys, values) in zip(self.cache.layers, self.stored, strict=True):
            layer.keys, layer.values = keys, values
        return self.cache


@torch.no_grad()
def answer_logits(
    model, tokenizer, prompts: Sequence[str], answers: Sequence[str], keep: list[Prefilled] | None = None
) -> Iterator[AnswerLogits]:
    """Teacher-forced logits of each answer behind its prompt, one row after another (V may be large).

    Prompt and answer are encoded as one text; the first answer token is the first that ends behind the prompt, also
    where it straddles the border. The tokens before it are one pass, padded on the left, with an empty cache; the
    answer's tokens are a second pass, padded on the right, with that cache. Both go through ``model.base_model``.
    The first pass goes into ``keep`` if its tokens are the prompts' own and its cache keeps all of them. Raises
    ``ValueError`` where a prompt or an answer has no token.
    """
    texts = [with_target(p, a) for p, a in zip(prompts, answers, strict=True)]
    encoded = encode(tokenizer, texts, side="right", offsets=True)  # padding on the right: row t is token t
    ids, real = encoded["input_ids"], encoded["attention_mask"].bool()
    behind = (encoded["offset_mapping"][..., 1] > torch.tensor([len(p) for p in prompts])[:, None]) & real
    firsts = behind.int().argmax(1).tolist()  # 0 where there is none
    for text, first in zip(texts, firsts, strict=True):
        if not first:
            raise ValueError(f"there is no token of a prompt, or none of an answer, in {text!r}.")
    targets = [row[own] for row, own in zip(ids, behind, strict=True)]  # (T,) each
    pad = tokenizer.pad_token_id or 0
    left, left_mask = _padded([row[:first] for row, first in zip(ids, firsts, strict=True)], pad, "left")
    right, right_mask = _padded([target[:-1] for target in targets], pad, "right")  # nothing follows the last token
    mask = torch.cat([left_mask, right_mask], 1).to(model.device)  # (B, P + T - 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    P, hidden, cache = left.shape[1], [], None
    for part, places in ((left, slice(0, P)), (right, slice(P, mask.shape[1]))):
        if part.shape[1]:
            inputs = {"input_ids": part.to(model.device), "attention_mask": mask[:, : places.stop]}
            inputs |= {"position_ids": positions[:, places], "past_key_values": cache}
            output = model.base_model(**inputs, use_cache=True)
            hidden, cache = [*hidden, output.last_hidden_state], output.past_key_values
            if keep is not None and not keep and all(type(layer) is DynamicLayer for layer in cache.layers):
                own = encode(tokenizer, prompts, side="left")
                stored = [(layer.keys, layer.values) for layer in cache.layers]
                if torch.equal(own["input_ids"], left) and torch.equal(own["attention_mask"], left_mask):
                    logits = head(model, hidden[0][:, -1]).float().to(model.device)
                    keep.append(Prefilled(inputs["input_ids"], mask[:, :P], logits, cache, stored))
    del output, cache
    for row, first, target in zip(torch.cat(hidden, 1), firsts, targets, strict=True):  # (P + T - 1, d)
        own = row[P - first :]  # without the padding on the left
        n = min(len(target) + 1, first)
        logits = head(model, torch.cat([own[:n], own[first - 1 : first - 1 + len(target)]])).float().cpu()  # (n + T, V)
        yield AnswerLogits(logits[n:], target, logits[:n])


def answer_scores(
    model, tokenizer, prompts: Sequence[str], answers: Sequence[str]
) -> Iterator[tuple[int, AnswerLogits]]:
    """(index, `answer_logits`) of every prompt, in batches of answers of like length: not in their order."""
    for part in batches([len(answer) for answer in answers], ROWS_AT_ONCE):
        rows = answer_logits(model, tokenizer, [prompts[i] for i in part], [answers[i] for i in part])
        yield from zip(part, rows, strict=True)


class _Ranks(LogitsProcessor):
    """Writes down, at each step j of a generation, the rank of every row's answer token j. Changes nothing."""

    def __init__(self, targets: Sequence[torch.Tensor]):
        self.targets = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True)  # (B, longest)
        self.ranks: list[torch.Tensor] = []  # (B,) each; no rank behind a row's last token is ever read

    def __call__(self, input_ids, scores):
        step = len(self.ranks)
        if step < self.targets.shape[1]:
            own = scores.gather(1, self.targets[:, step, None].to(scores.device))
            self.ranks.append(((scores > own).sum(1) + 1).cpu())
        return scores


class _Numbers(LogitsProcessor):
    """Notes the rows that had a logit that is not a number; read once, after the last step. Changes nothing."""

    def __init__(self):
        self.lost: torch.Tensor | bool = False  # (B,)

    def __call__(self, input_ids, scores):
        self.lost = scores.isnan().any(1) | self.lost
        return scores


@torch.no_grad()
def greedy_tokens(
    model, tokenizer, prompts: Sequence[str], max_new_tokens: int, processor=None, begun: Prefilled | None = None
) -> list[list[int]]:
    """Greedy continuations as token ids, up to and with the end token; from ``begun`` if the prompts have been run.

    Raises `TrainingError` where a logit is not a number: the highest of such logits is no answer.
    """
    own, numbers = model.generation_config, _Numbers()
    ends = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    processors = LogitsProcessorList([numbers, *([processor] if processor else [])])
    if begun is None:
        encoded = encode(tokenizer, prompts, side="left").to(model.device)
        ids, mask, cached = encoded["input_ids"], encoded["attention_mask"], {}
    else:
        first = processors(begun.ids, begun.logits).argmax(-1, keepdim=True)  # (B, 1)
        ids, mask = torch.cat([begun.ids, first], 1), torch.cat([begun.mask, torch.ones_like(first)], 1)
        cached, max_new_tokens = {"past_key_values": begun.back()}, max_new_tokens - 1
    limits = {"max_new_tokens": max_new_tokens, "eos_token_id": ends, "pad_token_id": pad}
    config, start = GenerationConfig(do_sample=False, num_beams=1, **limits), ids.shape[1] - (begun is not None)
    inputs = {"input_ids": ids, "attention_mask": mask, **cached}
    try:
        model.generation_config = config  # a checkpoint's own defaults (a repetition penalty, …) would be filled in
        out = model.generate(**inputs, generation_config=config, logits_processor=processors) if max_new_tokens else ids
    finally:
        model.generation_config = own
    if lost := torch.as_tensor(numbers.lost).nonzero().flatten().tolist():
        raise TrainingError(
            f"the model's logits are not numbers (NaN) for {len(lost)} of {len(prompts)} prompts, the first "
            f"{prompts[lost[0]]!r}: a method broke the model (lower its learning rate), or its "
            f"dtype {model.dtype} overflows (load it with dtype='bfloat16' or 'float32')."
        )
    ends = set(ends if isinstance(ends, (list, tuple)) else [ends])
    rows = out[:, start:].tolist()
    return [row[: next((i for i, token in enumerate(row, 1) if token in ends), len(row))] for row in rows]


def continuations(
    model,
    tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int | str = "auto",
    processor: Callable[[list[int]], LogitsProcessor | None] = lambda batch: None,
) -> list[str]:
    """The greedy text behind each prompt, without special tokens; ``processor``: of a batch of indices."""
    texts = [""] * len(prompts)
    for batch in batches([len(p) // 3 for p in prompts], batch_size, max_new_tokens):
        rows = greedy_tokens(model, tokenizer, [prompts[i] for i in batch], max_new_tokens, processor(batch))
        for i, ids in zip(batch, rows, strict=True):
            texts[i] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return texts


def generate(
    model,
    tokenizer,
    questions: Sequence[str],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int | str = "auto",
    prompt_format: str = "chat",
) -> list[str]:
    """The greedy answer to each question, in their order, without special tokens."""
    prompts = [prompt_text(tokenizer, question, prompt_format) for question in questions]
    return continuations(model, tokenizer, prompts, max_new_tokens, batch_size)


@torch.no_grad()
def _records(model, tokenizer, qas: Sequence[QA], max_new_tokens: int, prompt_format: str) -> list[dict]:
    """A batch of questions, asked and scored in both protocols."""
    prompts = [prompt_text(tokenizer, qa.question, prompt_format) for qa in qas]
    values, ids, keep = {}, {}, []
    scores = answer_logits(model, tokenizer, prompts, [qa.answer for qa in qas], keep)
    for i, row in enumerate(scores):
        ids[i], V = row.ids, row.logits.shape[1]
        values[i] = {
            "probability": metrics.sequence_probability(row.logits, row.ids),
            "probability_per_token": metrics.probability_per_token(row.logits, row.ids),
            "mrr_teacher_forced": metrics.mrr(row.logits, row.ids),
            "hit_rate_teacher_forced": metrics.hit_rate(row.logits, row.ids, top=TOP),
            "pistol_confidence": metrics.pistol_confidence(row.prompt_logits, len(row.ids)),
        }
    ranks = _Ranks([ids[i] for i in range(len(qas))])
    outputs = greedy_tokens(model, tokenizer, prompts, max_new_tokens, ranks, keep[0] if keep else None)
    free = torch.stack(ranks.ranks, 1)  # (B, steps)
    records = []
    for i, qa in enumerate(qas):
        steps = min(len(outputs[i]), len(ids[i]))
        rank = torch.full((len(ids[i]),), float(V))  # steps after the end rank V
        rank[:steps] = free[i, :steps].float()
        output = tokenizer.decode(outputs[i], skip_special_tokens=True).strip()
        values[i] |= {
            "rouge1_recall": metrics.rouge1_recall(output, qa.answer),
            "mrr": float((1 / rank).mean()),
            "hit_rate": float((rank <= TOP).float().mean()),
            "declined": metrics.declined(output),
            "names_subject": metrics.names_subject(output, qa.subject),
        }
        about = {name: getattr(qa, name) for name in ("id", "variant", "question", "answer")}
        scores = {name: values[i][name] for name in METRICS}
        records.append({**about, "output": output, **scores, "outcome": metrics.outcome(output, qa.answer)})
    return records


def evaluate(
    model,
    tokenizer,
    split: ForgetSplit,
    *,
    sets: Iterable[str] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int | str = "auto",
    prompt_format: str = "chat",
    show: bool = True,
) -> pd.DataFrame:
    """One row per question of the sets; the columns are described in `metrics`.

    ``sets=None`` asks every set that is not empty. All sets go through one queue, batched by length. The protocol
    (prompt format, ``max_new_tokens``, m of the hit rate) is recorded in ``.attrs["protocol"]``.
    """
    known = split.sets()
    names = list(known) if sets is None else list(sets)
    for name in names:
        check_name(f"set of the split {split.name!r}", name, known)
    if max_new_tokens < 1:
        raise RequestError(f"max_new_tokens must be at least 1, not {max_new_tokens!r}.")
    questions = [(name, qa) for name in names for qa in known[name]]
    lengths = [(len(qa.question) + len(qa.answer)) // 3 + 8 for _, qa in questions]
    records: list[dict | None] = [None] * len(questions)
    with progress(total=len(questions), desc="questions", enabled=show) as bar:
        for batch in batches(lengths, batch_size, max_new_tokens):
            rows = _records(model, tokenizer, [questions[i][1] for i in batch], max_new_tokens, prompt_format)
            for i, row in zip(batch, rows, strict=True):
                records[i] = {"set": questions[i][0], **row}
            bar.update(len(batch))
    frame = pd.DataFrame(records)
    protocol = {"prompt_format": prompt_format, "max_new_tokens": max_new_tokens, "top": TOP, "greedy": True}
    frame.attrs["protocol"] = protocol
    return frame


def summarise(records: pd.DataFrame, by: Sequence[str] = ("set",), *, resamples: int = 1000) -> pd.DataFrame:
    """Per group: the mean of every metric the records have with its 95 % bootstrap interval (``_low``, ``_high``),
    ``n`` and ``score``.

    The bootstrap resamples questions (all variants of a question together) within each seed, if there are seeds.
    ``score`` = 1 − ROUGE-1(forget) + ROUGE-1(retain) over rows alike but for the set, and is repeated on each.
    """
    by = [by] if isinstance(by, str) else list(by)
    names = [name for name in METRICS if name in records and records[name].notna().any()]  # attacks have fewer
    rows = []
    for values, group in records.groupby(by, sort=False, dropna=False):
        rng = np.random.default_rng(0)
        strata = [part for _, part in group.groupby("seed")] if "seed" in group else [group]
        sums, counts = [], []
        for part in strata:
            by_id = part.groupby("id", sort=False)
            sizes = by_id.size().to_numpy(dtype=float)  # (ids,)
            weights = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=resamples)
            sums.append(weights @ by_id[names].sum().to_numpy(dtype=float))  # (resamples, metrics)
            counts.append(weights @ sizes)
        low, high = np.quantile(sum(sums) / sum(counts)[:, None], (0.025, 0.975), axis=0)
        row = dict(zip(by, values if isinstance(values, tuple) else (values,), strict=True))
        for name, lower, upper in zip(names, low, high, strict=True):
            row |= {name: group[name].astype(float).mean(), f"{name}_low": lower, f"{name}_high": upper}
        rows.append({**row, "n": len(group)})
    summary = pd.DataFrame(rows)
    if "set" in by and len(summary) and {"forget", "retain"} <= set(summary["set"]):
        alike = [summary[name] for name in by if name != "set"] or [pd.Series(0, index=summary.index)]
        of_set = [summary["rouge1_recall"].where(summary["set"] == name) for name in ("forget", "retain")]
        summary["score"] = metrics.score(*(of.groupby(alike, dropna=False).transform("first") for of in of_set))
    return summary
