"""MEMIT: many facts rewritten at once, the change spread over several layers.

Source: Meng et al. 2023, "Mass-Editing Memory in a Transformer", eq. 14 and algorithm 1. Letters:

    z_i   the hidden vector at the last edited layer that makes the model answer with the target (locate.values)
    K     keys of all requests at a layer, one column a request, (d_ffn, n)
    C     the covariance E[k kᵀ] of keys of other text: what the layer must keep, (d_ffn, d_ffn)
    R     what is still missing at the last layer, shared among the layers left, (d, n)

    ΔW = R Kᵀ (λ C + K Kᵀ)⁻¹
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..models import as_stored, block, down_name, down_weight
from . import Job, Outcome, register
from .locate import context_templates, keys, lookup, memit_key, read, values


@dataclass(frozen=True)
class MEMITConfig:
    """EasyEdit's field names; a value's meaning stands in the equation above or in `locate.values`."""

    layers: tuple[int, ...] = (4, 5, 6, 7, 8)
    mom2_update_weight: float = 15000.0  # λ
    v_num_grad_steps: int = 25
    v_lr: float = 0.5
    v_weight_decay: float = 1e-3
    clamp_norm_factor: float = 4.0
    kl_factor: float = 0.0625
    fact_token: str = "subject_last"
    context_templates: tuple[str, ...] | None = None  # None: prefixes that the model writes itself
    context_length: int = 10  # tokens of such a prefix
    train_end: bool = False  # whether the end token belongs to the target
    batch_size: int | None = None  # requests edited at once; None: all


def memit(job: Job) -> Outcome:
    """All requests in one batch, or chunk by chunk; each chunk sees the weights that the last one left."""
    model, config = job.model, job.config
    layers = sorted(config.layers)
    templates = context_templates(model, job.tokenizer, config, job.seed)
    C = job.covariance(layers)  # {layer: (d_ffn, d_ffn)}
    W0 = {layer: down_weight(model, layer).detach().clone() for layer in layers}
    size = 1 if job.mode == "sequential" else config.batch_size or len(job.requests)
    log = []
    try:
        for start in job.bar(range(0, len(job.requests), size), "MEMIT"):
            requests = job.requests[start : start + size]
            log += edit(job, requests, layers, templates, C)
        change = {layer: down_weight(model, layer).detach().float() - W0[layer].float() for layer in layers}
        return Outcome.of({down_name(model, layer): as_stored(model, dW) for layer, dW in change.items()}, log)
    finally:
        with torch.no_grad():
            for layer, W in W0.items():  # the base model is left as it was, bit for bit
                down_weight(model, layer).copy_(W)


def edit(job: Job, requests, layers, templates, C) -> list[dict]:
    """Write one batch of requests into the weights of the model."""
    model, tokenizer, config, form = job.model, job.tokenizer, job.config, job.prompt_format
    last = block(model, layers[-1])
    z, log = values(model, tokenizer, requests, last, config, templates, form, show=job.progress)
    Z = z.T.double()  # (d, n)
    bare = lookup(tokenizer, requests, "{}", form, config.fact_token, targets=False)
    for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        K = memit_key(
            keys(model, tokenizer, requests, layer, templates, form, config.fact_token)
        ).T.double()  # (d_ffn, n)
        R = (Z - read(model, last, bare, inputs=False).T.double()) / left  # (d, n)
        A = config.mom2_update_weight * C[layer].to(K) + K @ K.T  # symmetric
        dW = torch.linalg.solve(A, K @ R.T).T  # R Kᵀ A⁻¹, (d, d_ffn)
        with torch.no_grad():
            W = down_weight(model, layer)
            W.copy_((W.double() + dW).to(W.dtype))
    return log


register("memit", MEMITConfig, memit, modes=("batch", "sequential"), edits=True, merges=True)
