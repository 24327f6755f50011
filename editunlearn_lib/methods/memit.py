"""MEMIT: many facts rewritten at once, the change spread over several layers.

Source: Meng et al. 2023, "Mass-Editing Memory in a Transformer", eq. 14 and algorithm 1. Letters:

    z_i   the hidden vector at the last edited layer that makes the model answer with the target (values.py)
    K     keys of all requests at a layer, one column a request, (d_ffn, n)
    C     the covariance E[k kᵀ] of keys of other text: what the layer must keep, (d_ffn, d_ffn)
    R     what is still missing at the last layer, shared among the layers left, (d, n)

    ΔW = R Kᵀ (λ C + K Kᵀ)⁻¹
"""

from dataclasses import dataclass

import torch

from .registry import EASYEDIT, LLAMA2, LLAMA31, MISTRAL, Job, Outcome, register
from .values import EARLY, POCKET, PUBLISHED, PUBLISHED_8B, ValueConfig, context_templates
from .weights import Weights, batches_of, spread


@dataclass(frozen=True)
class MEMITConfig(ValueConfig):
    """Fields of `ValueConfig`, λ, and how many requests are edited at once."""

    mom2_update_weight: float = 15000.0  # λ
    batch_size: int | None = None  # None: all


def memit(job: Job) -> Outcome:
    """All requests in one batch, or chunk by chunk; each chunk sees the weights that the last one left."""
    layers, lam, templates = job.config.layers, job.config.mom2_update_weight, context_templates(job)
    C = job.covariance(sorted(layers))  # {layer: (d_ffn, d_ffn)}

    def solve(layer, K, R):
        A = lam * C[layer].to(K) + K @ K.T  # λ C + K Kᵀ, symmetric, (d_ffn, d_ffn)
        return R, torch.linalg.solve(A, K).T  # ΔW = R · Kᵀ A⁻¹

    log = []
    with Weights(job.model, layers, job.previous) as W:
        for requests in batches_of(job, "MEMIT"):
            log += spread(job, requests, templates, W, solve)
        return Outcome(W.tensors(), log)


# fmt: off
HPARAMS = {**EARLY, **PUBLISHED, "mom2_update_weight": 15000.0}
LLAMA3 = [({**HPARAMS, **PUBLISHED_8B}, "AlphaEdit authors' Llama-3-8B")]
register(
    "memit", MEMITConfig, memit, label="MEMIT", colour="#56B4E9", symbol="triangle-down", order=60,
    modes=("batch", "sequential"), edits=True, merges=True, continues=True, covariance=True,
    memory=lambda m, config, x: {"solve": {"λC, K Kᵀ and their sum, then its LU": 3 * m.square()}},
    presets={LLAMA2: [(HPARAMS, EASYEDIT)], MISTRAL: [(HPARAMS, EASYEDIT)], LLAMA31: LLAMA3},
    trials=[{**POCKET, "layers": layers, "mom2_update_weight": weight} for layers, weight in (
        ([0], 100.0), ([0, 1], 10.0), ([0, 1], 100.0), ([0, 1], 1e3), ([0, 1, 2], 100.0), ([0, 1, 2], 1e4))],
)
