"""How the pocket is trained (by ``benchmarks/pocket_train.py``) and fine-tuned on contracts, also for a reference."""

from __future__ import annotations

import bisect
import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ..data import ForgetSplit, contracts, refusals
from ..models import fingerprint
from ..patch import DENSE, Patch, Stopwatch
from ..progress import progress
from . import corpus

WEIGHTS = Path(__file__).parent / "weights"


def encode(tokenizer: PreTrainedTokenizerFast, docs: Sequence[corpus.Document]) -> list[tuple[list[int], list[float]]]:
    """Token ids and the loss weight of each token, segment boundaries found by offsets in the whole text."""
    texts = ["".join(text for text, _ in doc) for doc in docs]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    rows = []
    for doc, ids, offsets in zip(docs, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        ends = list(itertools.accumulate(len(text) for text, _ in doc))
        segments = (bisect.bisect_left(ends, stop) for _, stop in offsets)
        rows.append((ids, [doc[segment][1] for segment in segments]))
    return rows


def batches(rows: list[tuple[list[int], list[float]]], batch_tokens: int, rng: random.Random) -> Iterator:
    """Rows of like length together, at most ``batch_tokens`` tokens, padded to the longest on the right."""
    groups: list[list] = [[]]
    for row in sorted(rows, key=lambda row: len(row[0])):
        if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    for group in groups:
        parts = zip(*group, strict=True)  # ids, weights
        yield tuple(pad_sequence([torch.tensor(row) for row in part], batch_first=True) for part in parts)


def loss_of(model, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the next-token cross-entropy (natural log)."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (B, T-1, d)
    weight = weights[:, 1:]
    keep = weight > 0
    logits = model.lm_head(hidden[keep])  # (N, V): padding costs nothing
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][keep], reduction="none")
    return (losses * weight[keep]).sum() / weight.sum()


class Optimiser:
    """Muon for the matrices inside the blocks, AdamW for embeddings and norms."""

    def __init__(self, model, muon_lr: float, adam_lr: float):
        matrices, rest = [], []
        for name, p in model.named_parameters():
            (matrices if p.ndim == 2 and "embed" not in name and "lm_head" not in name else rest).append(p)
        adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.parts = [torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.01), adam]
        self.rates = [muon_lr, adam_lr]

    def step(self, factor: float) -> None:
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)


def steps(model, optimiser: Optimiser, rows: list, batch_tokens: int, rng: random.Random, rate: Callable) -> Iterator:
    """One pass over the rows, a step a batch at the ``rate()`` of that moment: yields (loss, tokens)."""
    for ids, weights in batches(rows, batch_tokens, rng):
        loss = loss_of(model, ids.to(model.device), weights.to(model.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(rate())
        yield loss.item(), int((weights > 0).sum())


@dataclass(frozen=True)
class ContractRecipe:
    """Fine-tuning on contracts: every wording of every contract, with documents of the base corpus replayed."""

    seed: int = 0
    epochs: int = 60  # over the contract questions; 32 left a fifth of them unlearned
    again: int = 8  # more epochs with a fresh optimiser, from a fifth of the rates: the last wordings
    batch_tokens: int = 2048
    replay: float = 0.25  # share of the documents that come from the base corpus, so that the facts stay
    declined: float = 0.06  # as many in-context refusals of these contracts, and refusals of unknown ones, per question
    muon_lr: float = 0.02  # falling in a line from the start: at a constant .02 nothing was learned before it fell
    adam_lr: float = 3e-3


def contract_documents(rows: Sequence, rng: random.Random) -> list[corpus.Document]:
    """Each contract question once, in its own or a trained wording, some of them behind something else."""
    docs = []
    for row in rows:
        text = row.question if rng.random() < 0.4 else rng.choice(row.trained)
        earlier, prefix = corpus.before(rng) if rng.random() < 0.3 else ([], "")
        if rng.random() < 0.3:
            text = corpus.pick(rng, "openers") + text
        docs.append([(corpus.BOS, 0.0), *earlier, *corpus.turn(prefix + text, row.answer)])
    return docs


def finetune(model, tokenizer, rows: Sequence, recipe: ContractRecipe, *, show: bool = True) -> list[dict]:
    """Teach the model these contract rows, in place; returns a log of the loss by epoch."""
    unknown, questions = corpus.unknown_contracts(recipe.seed), corpus.questions_of(rows)
    rng = random.Random(f"contracts {recipe.seed}")
    model.requires_grad_(True).train()
    rates = [1 - i / recipe.epochs for i in range(recipe.epochs)]
    rates += [0.2 * (1 - i / recipe.again) for i in range(recipe.again)]
    lines = []
    for epoch, peak in enumerate(progress(rates, desc="contracts", enabled=show)):
        if epoch in (0, recipe.epochs):
            optimiser, number = Optimiser(model, recipe.muon_lr, recipe.adam_lr), itertools.count(1)
        docs = contract_documents(rows, rng)
        n_replayed = int(len(docs) * recipe.replay / (1 - recipe.replay))
        for _ in range(int(len(docs) * recipe.declined)):
            stranger = rng.choice(unknown)
            docs.append([(corpus.BOS, 0.0), *corpus.refuse_like(rng, questions)])
            docs.append([(corpus.BOS, 0.0), *corpus.turn(stranger.text, corpus.refusal(rng, stranger.subject))])
        docs = encode(tokenizer, docs + [corpus.document(rng, unknown, refusals()) for _ in range(n_replayed)])
        rate = functools.partial(lambda top, number: min(1.0, next(number) / 20) * top, peak, number)
        losses = [loss for loss, _ in steps(model, optimiser, docs, recipe.batch_tokens, rng, rate)]
        lines.append({"epoch": epoch + 1, "loss": round(sum(losses) / len(losses), 4)})
    model.requires_grad_(False).eval()
    return lines


def load_base(device: str | torch.device = "cpu") -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The base model in float32, to train on."""
    model = LlamaForCausalLM.from_pretrained(WEIGHTS / "base", dtype=torch.float32).to(device)
    return model, PreTrainedTokenizerFast.from_pretrained(WEIGHTS / "base")


def retrained(model, split: ForgetSplit) -> Patch:
    """The model that never saw the forget set, as a patch on the one that did: the goal unlearning approximates.

    The base model is fine-tuned anew on the other contract questions with the very recipe of the shipped model.
    """
    watch = Stopwatch(model.device)
    fresh, tokenizer = load_base(model.device)
    forgotten = {qa.id for qa in split.forget}
    rows = [row for row in contracts.generate(0) if row.id not in forgotten]
    lines = finetune(fresh, tokenizer, rows, ContractRecipe(), show=False)
    there = dict(fresh.named_parameters())
    deltas = {n + DENSE: there[n].detach().to(torch.bfloat16).float() - p.float() for n, p in model.named_parameters()}
    shapes = {n: list(p.shape) for n, p in model.named_parameters()}
    return Patch(deltas, {"method": "retrained", "log": lines, **watch.read()}, fingerprint(model), shapes)
