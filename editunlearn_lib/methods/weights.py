"""Down projections while they are edited, and the loop that spreads a change over several of them."""

from collections.abc import Callable, Sequence
from typing import Self

import torch

from ..models import block, down_name, family_of, n_layers
from ..patch import LEFT, RIGHT, Patch
from .positions import batch_keys, lookup, vectors_at
from .registry import Job, Request
from .values import find_values


class Weights:
    """The original W₀ of some layers plus ΔW = left @ right, rounded once, not at each edit.

    ``with Weights(model, layers, previous) as W:`` ``W.add(layer, left, right)``; afterwards the model is what it was.
    What an earlier patch changed is there from the start and stays, also at layers that are not edited now.
    """

    def __init__(self, model, layers: Sequence[int], previous: Patch | None = None):
        self.model, self.factors = model, {}  # {parameter: (left, right)}, both as the model stores it
        old, every = previous.tensors() if previous else {}, [down_name(model, i) for i in range(n_layers(model))]
        self.earlier = {name: (old[name + LEFT], old[name + RIGHT]) for name in every if name + LEFT in old}
        names = {*self.earlier, *(down_name(model, layer) for layer in layers)}
        self.original = {name: model.get_parameter(name).detach().clone() for name in names}

    def __enter__(self) -> Self:
        for name, (left, right) in self.earlier.items():
            self._add(name, left.double(), right.double())
        return self

    def add(self, layer: int, left: torch.Tensor, right: torch.Tensor) -> None:
        """W += left @ right, (d, r) @ (r, d_ffn), float64, computed where the layer lies."""
        turned = (right.T, left.T) if family_of(self.model).transposed else (left, right)
        self._add(down_name(self.model, layer), *turned)

    @torch.no_grad()
    def _add(self, name: str, left: torch.Tensor, right: torch.Tensor) -> None:
        W = self.original[name]
        left, right = left.to(W.device), right.to(W.device)
        if name in self.factors:
            before_left, before_right = self.factors[name]
            left, right = torch.cat([before_left, left], 1), torch.cat([before_right, right], 0)
        self.factors[name] = left, right
        self.model.get_parameter(name).copy_((W.double() + left @ right).to(W.dtype))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The change as tensors of a patch."""
        factors = {name + end: pair[i] for name, pair in self.factors.items() for i, end in enumerate((LEFT, RIGHT))}
        return {name: factor.float().contiguous() for name, factor in factors.items()}

    @torch.no_grad()
    def __exit__(self, *_) -> None:
        for name, W in self.original.items():  # the base model is left as it was, bit for bit
            self.model.get_parameter(name).copy_(W)


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
    values = find_values(job, requests, layers[-1], templates)
    Z = (values.h0 + values.delta).T.double()  # (d, n)
    bare = lookup(job.tokenizer, requests, "{}", form, config.fact_token, targets=False)
    for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        K = batch_keys(job, requests, layer, templates)
        R = (Z - vectors_at(model, block(model, layers[-1]), bare, inputs=False).T.double()) / left
        W.add(layer, *solve(layer, K, R.to(K.device)))
    return values.log
