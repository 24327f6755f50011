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

from . import Job, Outcome, register
from .locate import Weights, context_templates, spread


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

    def solve(layer, K, R):
        A = config.mom2_update_weight * C[layer].to(K) + K @ K.T  # λ C + K Kᵀ, symmetric, (d_ffn, d_ffn)
        return R, torch.linalg.solve(A, K).T  # ΔW = R · Kᵀ A⁻¹

    size = 1 if job.mode == "sequential" else config.batch_size or len(job.requests)
    log = []
    with Weights(model, layers, job.previous) as W:
        for start in job.bar(range(0, len(job.requests), size), "MEMIT"):
            log += spread(job, job.requests[start : start + size], layers, templates, W, solve)
        return Outcome(W.tensors(), log)


register(
    "memit", MEMITConfig, memit, modes=("batch", "sequential"), edits=True, merges=True, continues=True, covariance=True
)
