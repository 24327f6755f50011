"""Asking the questions and scoring the answers: batched, greedy, both protocols.

Free-running: the model answers by itself, and answer token j is looked up in its j-th step. Teacher-forced: the true
answer is given, but behind a prompt that has been prefilled by itself, as it is in a generation: a patch that acts at
the end of the prompt finds it at the same token in both. Log-probabilities are natural; every metric's own protocol is
in `metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from . import metrics
from .data import QA, ForgetSplit
from .errors import RequestError, TrainingError, check_name
from .models import head
from .progress import progress
from .text import encode, prompt_text, with_target

MAX_NEW_TOKENS = 32  # part of the protocol: recall rewards rambling
TOKENS_AT_ONCE = 8192  # of one batch, padding included
SCORED_AT_ONCE = 64  # rows of a batch, by length of answer: the longest prompt and the longest answer both pad
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
        full = (
            len(batch) == batch_size
            if batch_size != "auto"
            else (len(batch) + 1) * (lengths[index] + extra) > TOKENS_AT_ONCE
        )
        if batch and full:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


class Scored(NamedTuple):
    """What a row of `answer_logits` holds: float32 and int64, on the CPU."""

    logits: torch.Tensor  # (T, V): row t scores answer token t, with the prompt and the true answer tokens before it
    ids: torch.Tensor  # (T,): the answer's tokens
    prompt_logits: torch.Tensor  # (min(v, tokens of the prompt), V), v = T + 1: at the prompt's first tokens


def _padded(rows: Sequence[torch.Tensor], value: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids as (B, longest), padded on a side, and their mask."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    place = torch.arange(ids.shape[1])[None]
    return ids, (place < lengths if side == "right" else place >= ids.shape[1] - lengths).long()


@torch.no_grad()
def answer_logits(model, tokenizer, prompts: Sequence[str], answers: Sequence[str]) -> Iterator[Scored]:
    """Teacher-forced logits of each answer behind its prompt, one row after another (V may be large).

    Prompt and answer are encoded as one text; the first answer token is the first that ends behind the prompt, also
    where it straddles the border. The tokens before it are one pass, padded on the left, with an empty cache; the
    answer's tokens are a second pass, padded on the right, with that cache. Both go through ``model.base_model``.
    Raises ``ValueError`` where a prompt or an answer has no token.
    """
    texts = [with_target(p, a) for p, a in zip(prompts, answers, strict=True)]
    encoded = encode(tokenizer, texts, side="right", offsets=True)  # padding on the right: row t is token t
    ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()
    behind = (encoded["offset_mapping"][..., 1] > torch.tensor([len(p) for p in prompts])[:, None]) & mask
    firsts = behind.int().argmax(1).tolist()  # 0 where there is none
    for text, first in zip(texts, firsts, strict=True):
        if not first:
            raise ValueError(f"there is no token of a prompt, or none of an answer, in {text!r}.")
    targets = [row[found] for row, found in zip(ids, behind, strict=True)]  # (T,) each
    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    before, before_mask = _padded([row[:first] for row, first in zip(ids, firsts, strict=True)], pad, "left")
    given, given_mask = _padded([target[:-1] for target in targets], pad, "right")  # nothing follows the last token
    whole = torch.cat([before_mask, given_mask], 1).to(model.device)  # (B, P + T - 1)
    positions = (whole.cumsum(1) - 1).clamp(min=0)
    P = before.shape[1]
    prefill = model.base_model(
        input_ids=before.to(model.device), attention_mask=whole[:, :P], position_ids=positions[:, :P], use_cache=True
    )
    hidden = prefill.last_hidden_state  # (B, P, d)
    if given.shape[1]:
        behind_it = model.base_model(
            input_ids=given.to(model.device),
            attention_mask=whole,
            position_ids=positions[:, P:],
            use_cache=True,
            past_key_values=prefill.past_key_values,
        ).last_hidden_state
        hidden = torch.cat([hidden, behind_it], 1)  # (B, P + T - 1, d)
    del prefill
    for row, first, target in zip(hidden, firsts, targets, strict=True):
        own = row[P - first :]  # the row without its padding on the left
        n = min(len(target) + 1, first)
        read = torch.cat([own[:n], own[first - 1 : first - 1 + len(target)]])  # (n + T, d)
        logits = head(model, read).float().cpu()
        yield Scored(logits[n:], target, logits[:n])


def answer_scores(model, tokenizer, prompts: Sequence[str], answers: Sequence[str]) -> Iterator[tuple[int, Scored]]:
    """(index, `answer_logits`) of every prompt, in batches of answers of like length: not in their order."""
    for part in batches([len(answer) for answer in answers], SCORED_AT_ONCE):
        yield from zip(
            part, answer_logits(model, tokenizer, [prompts[i] for i in part], [answers[i] for i in part]), strict=True
        )


class _Ranks(LogitsProcessor):
    """Writes down, at each step j of a generation, the rank of every row's answer token j. Changes nothing."""

    def __init__(self, targets: Sequence[torch.Tensor]):
        width = max(len(t) for t in targets)
        self.targets = torch.stack([torch.nn.functional.pad(t, (0, width - len(t)), value=-1) for t in targets])
        self.ranks: list[torch.Tensor] = []

    def __call__(self, input_ids, scores):
        step = len(self.ranks)
        if step < self.targets.shape[1]:
            target = self.targets[:, step].to(scores.device)
            own = scores.gather(1, target.clamp(min=0)[:, None])
            self.ranks.append(((scores > own).sum(1) + 1).cpu())  # (B,)
        return scores


class _Numbers(LogitsProcessor):
    """Notes the rows that had a logit that is not a number; read once, after the last step. Changes nothing."""

    def __init__(self):
        self.lost = None  # (B,)

    def __call__(self, input_ids, scores):
        found = scores.isnan().any(1)
        self.lost = found if self.lost is None else self.lost | found
        return scores


@torch.no_grad()
def greedy_tokens(model, tokenizer, prompts: Sequence[str], max_new_tokens: int, processor=None) -> list[list[int]]:
    """Greedy continuations as token ids, without what follows the end token (the end token itself is kept).

    Raises `TrainingError` where a logit is not a number: the highest of such logits is no answer.
    """
    encoded = encode(tokenizer, prompts, side="left").to(model.device)
    own, numbers = model.generation_config, _Numbers()
    ends = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    config = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=pad
    )
    try:
        model.generation_config = config  # a checkpoint's own defaults (a repetition penalty, …) would be filled in
        out = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            generation_config=config,
            logits_processor=LogitsProcessorList([numbers, *([processor] if processor else [])]),
        )
    finally:
        model.generation_config = own
    if numbers.lost is not None and numbers.lost.any():
        raise TrainingError(
            f"the model's logits are not numbers (NaN) for {int(numbers.lost.sum())} of {len(prompts)} prompts, the first "
            f"{prompts[int(numbers.lost.int().argmax())]!r}: a method broke the model (lower its learning rate), or its "
            f"dtype {model.dtype} overflows (load it with dtype='bfloat16' or 'float32')."
        )
    ends = set(ends if isinstance(ends, (list, tuple)) else [ends])
    rows = []
    for row in out[:, encoded["input_ids"].shape[1] :].tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
        rows.append(row[: stop + 1])
    return rows


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
    answers = [""] * len(prompts)
    for batch in batches([len(p) // 3 for p in prompts], batch_size, max_new_tokens):
        found = greedy_tokens(model, tokenizer, [prompts[i] for i in batch], max_new_tokens)
        for i, ids in zip(batch, found, strict=True):
            answers[i] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return answers


@torch.no_grad()
def _score_batch(model, tokenizer, qas: Sequence[QA], max_new_tokens: int, prompt_format: str) -> list[dict]:
    prompts = [prompt_text(tokenizer, qa.question, prompt_format) for qa in qas]
    answers = [qa.answer for qa in qas]
    forced, ids, V = {}, {}, 0
    for i, row in answer_scores(model, tokenizer, prompts, answers):
        ids[i], V = row.ids, row.logits.shape[1]
        forced[i] = {
            "probability": metrics.sequence_probability(row.logits, row.ids),
            "probability_per_token": metrics.probability_per_token(row.logits, row.ids),
            "mrr_teacher_forced": metrics.mrr(row.logits, row.ids),
            "hit_rate_teacher_forced": metrics.hit_rate(row.logits, row.ids, top=TOP),
            "pistol_confidence": metrics.pistol_confidence(row.prompt_logits, len(row.ids)),
        }
    targets = [ids[i] for i in range(len(qas))]
    ranks = _Ranks(targets)
    outputs = greedy_tokens(model, tokenizer, prompts, max_new_tokens, ranks)
    free = torch.stack(ranks.ranks, 1)  # (B, steps)
    records = []
    for i, (qa, target) in enumerate(zip(qas, targets, strict=True)):
        steps = min(len(outputs[i]), len(target))
        rank = torch.full((len(target),), float(V))  # steps after the end rank V
        rank[:steps] = free[i, :steps].float()
        output = tokenizer.decode(outputs[i], skip_special_tokens=True).strip()
        values = {
            **forced[i],
            "rouge1_recall": metrics.rouge1_recall(output, qa.answer),
            "mrr": float((1 / rank).mean()),
            "hit_rate": float((rank <= TOP).float().mean()),
            "declined": metrics.declined(output),
            "names_subject": bool(qa.subject) and metrics.names_subject(output, qa.subject),
        }
        records.append(
            {
                "id": qa.id,
                "variant": qa.variant,
                "question": qa.question,
                "answer": qa.answer,
                "output": output,
                **{name: values[name] for name in METRICS},
                "outcome": metrics.outcome(output, qa.answer),
            }
        )
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
    """One row per question asked; the columns are described in `metrics`.

    ``sets=None`` asks every set that is not empty. All sets go through one queue, batched by length. The protocol
    (prompt format, ``max_new_tokens``, m of the hit rate) is recorded in ``.attrs["protocol"]``.
    """
    known = split.sets()
    chosen = list(known) if sets is None else list(sets)
    for name in chosen:
        check_name(f"set of the split {split.name!r}", name, known)
    if max_new_tokens < 1:
        raise RequestError(f"max_new_tokens must be at least 1, not {max_new_tokens!r}.")
    asked = [(name, qa) for name in chosen for qa in known[name]]
    lengths = [(len(qa.question) + len(qa.answer)) // 3 + 8 for _, qa in asked]
    records: list[dict | None] = [None] * len(asked)
    with progress(total=len(asked), desc="questions", enabled=show) as bar:
        for batch in batches(lengths, batch_size, max_new_tokens):
            found = _score_batch(model, tokenizer, [asked[i][1] for i in batch], max_new_tokens, prompt_format)
            for i, record in zip(batch, found, strict=True):
                records[i] = {"set": asked[i][0], **record}
            bar.update(len(batch))
    frame = pd.DataFrame(records)
    frame.attrs["protocol"] = {
        "prompt_format": prompt_format,
        "max_new_tokens": max_new_tokens,
        "top": TOP,
        "greedy": True,
    }
    return frame


def summarise(
    records: pd.DataFrame, by: Sequence[str] = ("set",), *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Per group: mean of every metric that the records have, with a 95 % bootstrap interval (``_low``, ``_high``), ``n`` and ``score``.

    The bootstrap resamples questions (all variants of a question together) within each seed, if there are seeds.
    ``score`` = 1 − ROUGE-1(forget) + ROUGE-1(retain) over rows alike but for the set, and is repeated on each.
    """
    by = [by] if isinstance(by, str) else list(by)
    scored = [name for name in METRICS if name in records and records[name].notna().any()]  # attacks have fewer
    rows = []
    for values, group in records.groupby(by, sort=False, dropna=False):
        rng = np.random.default_rng(seed)
        strata = [part for _, part in group.groupby("seed")] if "seed" in group else [group]
        sums, counts = [], []
        for part in strata:
            per_id = part.groupby("id", sort=False)[scored].agg("sum").to_numpy(dtype=float)  # (ids, metrics)
            size = part.groupby("id", sort=False).size().to_numpy(dtype=float)
            weights = rng.multinomial(len(size), np.full(len(size), 1 / len(size)), size=resamples)  # (resamples, ids)
            sums.append(weights @ per_id)
            counts.append(weights @ size)
        drawn = sum(sums) / sum(counts)[:, None]  # (resamples, metrics)
        low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
        row = dict(zip(by, values if isinstance(values, tuple) else (values,), strict=True))
        for j, name in enumerate(scored):
            row |= {
                name: float(group[name].astype(float).mean()),
                f"{name}_low": float(low[j]),
                f"{name}_high": float(high[j]),
            }
        rows.append({**row, "n": len(group)})
    summary = pd.DataFrame(rows)
    if "set" in by and len(summary):
        others = [name for name in by if name != "set"]
        mean = summary.pivot_table(
            index=others or (lambda _: 0), columns="set", values="rouge1_recall", sort=False, dropna=False
        )
        if {"forget", "retain"} <= set(mean.columns):
            score = (1 - mean["forget"] + mean["retain"]).rename("score")
            summary = (
                summary.merge(score, left_on=others, right_index=True, how="left")
                if others
                else summary.assign(score=float(score.iloc[0]))
            )
    return summary
