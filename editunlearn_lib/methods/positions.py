"""Where a fact sits in a text, and its key there.

Key k = input of an MLP's down projection at the subject's last token; W k is what the layer writes there.
Sources: Meng et al. 2022 (eq. 3), Meng et al. 2023; conventions as in EasyEdit.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from torch.nn.functional import pad

from ..errors import RequestError, check_name
from ..models import down
from ..text import encode, end_of_turn, prompt_text, question_start, with_target
from .registry import Job, Request

FACT_TOKENS = ("subject_last", "question_last", "prompt_last")
CHUNK_TOKENS = 16_384  # texts are processed in chunks of about so many tokens


@dataclass(frozen=True)
class Lookup:
    """Encoded texts with, per text, the position that is edited and where the target is predicted."""

    ids: torch.Tensor  # (N, T), padded on the right
    mask: torch.Tensor  # (N, T), 1 on real tokens
    position: torch.Tensor  # (N,)
    labels: torch.Tensor  # (N, T): token t+1 where it belongs to the target, else -100

    def of(self, rows: torch.Tensor) -> Self:
        """Some of the texts, padded to the longest of them."""
        T = int(self.mask[rows].sum(1).max())
        return Lookup(self.ids[rows, :T], self.mask[rows, :T], self.position[rows], self.labels[rows, :T])


def lookup(
    tokenizer, requests: Sequence[Request], template: str, prompt_format: str, fact_token: str, *, targets, end=False
) -> Lookup:
    """Encode ``template ∘ question`` of every request, with the target (and the end token) behind it if asked for."""
    check_name("fact_token", fact_token, FACT_TOKENS)
    start, prompts, characters = question_start(tokenizer, prompt_format), [], []
    for request in requests:
        wrapped = template.replace("{}", request.question).strip()
        prompts.append(prompt_text(tokenizer, wrapped, prompt_format))
        stop = len(wrapped)
        if fact_token == "subject_last" and request.subject:
            first = wrapped.rfind(request.subject)
            if first < 0:
                raise RequestError(f"the subject {request.subject!r} is not in the question {request.question!r}.")
            stop = first + len(request.subject)
        characters.append((len(prompts[-1]) if fact_token == "prompt_last" else start + stop) - 1)
    texts, last = prompts, end_of_turn(tokenizer, prompt_format) if end else ""
    if targets:
        texts = [with_target(p, request.target) + last for p, request in zip(prompts, requests, strict=True)]
    encoded = encode(tokenizer, texts, side="right", offsets=True)
    ids, mask, real = encoded["input_ids"], encoded["attention_mask"], encoded["attention_mask"].bool()
    starts, stops = encoded["offset_mapping"].unbind(-1)  # characters, (N, T)
    at = torch.tensor(characters)[:, None]
    behind = (stops > torch.tensor([len(prompt) for prompt in prompts])[:, None]) & real
    covers = (starts <= at) & (at < stops) & real  # (N, T)
    if fact_token == "prompt_last":  # a prompt's last space may belong to the target's first token
        covers = real & ~behind
    if not covers.any(1).all():
        row = int((~covers.any(1)).nonzero()[0])
        raise RequestError(f"no token covers the end of the subject in {texts[row]!r}.")
    position = torch.where(covers, torch.arange(ids.shape[1]), -1).max(1).values  # the last of these tokens
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = torch.where(behind[:, 1:], ids[:, 1:], -100)
    return Lookup(ids, mask, position, labels)


def joined(texts: Sequence[Lookup]) -> Lookup:
    """Several of them as one, padded to the longest."""
    T = max(text.ids.shape[1] for text in texts)

    def rows(name: str, fill: int) -> torch.Tensor:
        return torch.cat([pad(getattr(text, name), (0, T - text.ids.shape[1]), value=fill) for text in texts])

    position = torch.cat([text.position for text in texts])
    return Lookup(rows("ids", 0), rows("mask", 0), position, rows("labels", -100))


def one_layer(job: Job) -> int:
    """The layer that an adapter is made for; `RequestError` unless it is one, and that of ``previous``."""
    layers = tuple(job.config.layers)
    if len(layers) != 1:
        raise RequestError(f"layers must hold exactly one layer, not {layers}.")
    if job.previous and job.previous.layer != layers[0]:
        raise RequestError(f"layers is {layers}, but the earlier patch acts at layer {job.previous.layer}.")
    return layers[0]


@contextlib.contextmanager
def hooked(module: nn.Module, function: Callable) -> Iterator[None]:
    """``function(input, output)`` at every pass inside the ``with``; what it returns, if anything, replaces the output.
    Blocks of some transformers releases return tuples: then it is about the first entry."""

    def hook(_module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        changed = function(inputs[0] if inputs else None, hidden)
        return (changed, *output[1:]) if changed is not None and isinstance(output, tuple) else changed

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def vectors_at(model: nn.Module, module: nn.Module, texts: Lookup, *, inputs: bool) -> torch.Tensor:
    """The input (or output) of a module at every text's position, float32 (N, d)."""
    vectors = []
    for rows in torch.arange(len(texts.ids)).split(max(1, CHUNK_TOKENS // texts.ids.shape[1])):

        def keep(entering, leaving, rows=rows):
            hidden = entering if inputs else leaving
            vectors.append(hidden[torch.arange(len(rows)), texts.position[rows].to(hidden.device)].float())

        ids, mask = texts.ids[rows].to(model.device), texts.mask[rows].to(model.device)
        with hooked(module, keep):
            model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    return torch.cat(vectors)


def request_keys(
    model, tokenizer, requests, layer: int, templates: Sequence[str], prompt_format: str, fact_token: str
) -> torch.Tensor:
    """The keys of every request under every template, (templates, N, d_ffn)."""
    texts = (lookup(tokenizer, requests, t, prompt_format, fact_token, targets=False) for t in templates)
    return torch.stack([vectors_at(model, down(model, layer), text, inputs=True) for text in texts])


def batch_keys(job: Job, requests: Sequence[Request], layer: int, templates: Sequence[str]) -> torch.Tensor:
    """K of these requests, (d_ffn, n) float64: the bare prompt's key and the mean of the others' weigh the same."""
    form, fact_token = job.prompt_format, job.config.fact_token
    keys = request_keys(job.model, job.tokenizer, requests, layer, templates, form, fact_token)
    return (keys[0] if len(keys) == 1 else (keys[0] + keys[1:].mean(0)) / 2).T.double()
