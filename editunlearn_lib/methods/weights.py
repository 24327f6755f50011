"""Down projections while they are edited, and the loop that spreads a change over several of them."""

from collections.abc import Callable, Sequence
from typing import Self

import torch

from ..models import block, down_name, down_weight, family_of, n_layers
from ..patch import LEFT, RIGHT, Patch
from .positions import batch_keys, lookup, vectors_at
from .registry import Job, Request
from .values import find_values


class Weights:
    """The original W₀ of some layers plus ΔW = left @ right, rounded once, not at each edit.

    ``with Weights(model, layers, previous) as W:`` ``W.add(layer, left, right)``; afterwards the model is what it was.
    What an earlier patch changed is there from the start and stays part of the change, also at layers not edited now.
    """

    def __init__(self, model, layers: Sequence[int], previous: Patch | None = None):
        self.model, self.factors = model, {}
        earlier = previous.tensors() if previous else {}
        changed = [layer for layer in range(n_layers(model)) if down_name(model, layer) + LEFT in earlier]
        self.original = {layer: down_weight(model, layer).detach().clone() for layer in {*layers, *changed}}
        for layer in changed:
            factors = [earlier[down_name(model, layer) + end].double() for end in (LEFT, RIGHT)]
            self.factors[layer] = [factor.to(self.original[layer].device) for factor in self._turned(*factors)]

    def _turned(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of (d, d_ffn) as the model stores the matrix, or the other way: some families have the transpose."""
        return (right.T, left.T) if family_of(self.model).transposed else (left, right)

    def __enter__(self) -> Self:
        for layer in self.factors:
            self._write(layer)
        return self

    def add(self, layer: int, left: torch.Tensor, right: torch.Tensor) -> None:
        """W += left @ right, (d, r) @ (r, d_ffn), float64, computed where the layer lies."""
        left, right = (factor.to(self.original[layer].device) for factor in (left, right))
        if layer in self.factors:
            before_left, before_right = self.factors[layer]
            left, right = torch.cat([before_left, left], 1), torch.cat([before_right, right], 0)
        self.factors[layer] = left, right
        self._write(layer)

    @torch.no_grad()
    def _write(self, layer: int) -> None:
        left, right = self.factors[layer]
        W = down_weight(self.model, layer)
        W.copy_((self.original[layer].double() + left @ right).to(W.dtype))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The change as tensors of a patch, in the orientation in which each parameter is stored."""
        tensors = {}
        for layer, factors in self.factors.items():
            for end, factor in zip((LEFT, RIGHT), self._turned(*factors), strict=True):
                tensors[down_name(self.model, layer) + end] = factor.float().contiguous()
        return tensors

    @torch.no_grad()
    def __exit__(self, *_) -> None:
        for layer, W in self.original.items():  # the base model is left as it was, bit for bit
            down_weight(self.model, layer).copy_(W)


def batches_of(job: Job, what: str):
    """The requests of a job in the batches that are edited at once: one by one, by ``batch_size``, or all."""
    size = 1 if job.mode == "sequential" else job.config.batch_size or len(job.requests)
    return (job.requests[start : start + size] for start in job.bar(range(0, len(job.requests), size), what))


def spread(job: Job, requests: Sequence[Request], templates: Sequence[str], W: Weights, solve: Callable) -> list[dict]:
    """One batch: z of all requests on the model as it is, then layer by layer its share of what is missing.

    ``solve(layer, K, R)`` gives ΔW as (left, right) from the keys K (d_ffn, n) and what is missing R (d, n), both
    float64; it is written before the next layer's keys are read. Returns the log.
    """
    model, config, form, layers = job.model, job.config, job.prompt_format, sorted(job.config.layers)
    values = find_values(model, job.tokenizer, requests, layers[-1], config, templates, form, show=job.progress)
    Z = (values.h0 + values.delta).T.double()  # (d, n)
    bare = lookup(job.tokenizer, requests, "{}", form, config.fact_token, targets=False)
    for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        K = batch_keys(job, requests, layer, templates)
        R = (Z - vectors_at(model, block(model, layers[-1]), bare, inputs=False).T.double()) / left
        W.add(layer, *solve(layer, K, R.to(K.device)))
    return values.log
