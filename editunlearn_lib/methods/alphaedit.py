"""AlphaEdit: MEMIT's change, kept in the null space of what the layer must not forget.

Source: Fang et al. 2025, "AlphaEdit: Null-Space Constrained Knowledge Editing", eq. 11-14. Letters:

    P      projector on the eigenvectors of C = E[k kᵀ] with eigenvalues below ``nullspace_threshold``, (d_ffn, d_ffn)
    K      keys of the requests at a layer, (d_ffn, n);  K_p  keys of all earlier edits, (d_ffn, p)
    R      what is still missing at the last layer, shared among the layers left, (d, n)

    ΔW = R Kᵀ P (K_p K_pᵀ P + K Kᵀ P + L2·I)⁻¹

With A = [K, K_p] and P = Pᵀ = P², that is  ΔW = R · (the first n rows of (Aᵀ P A + L2·I)⁻¹ Aᵀ P):  a small symmetric
system of n + p unknowns instead of one of d_ffn.
"""

from dataclasses import dataclass

import torch

from ..models import down_name, n_layers
from .moments import null_space
from .positions import batch_keys
from .registry import LLAMA2, LLAMA31, MISTRAL, OURS, Job, Outcome, register
from .values import EARLY, POCKET, PUBLISHED, PUBLISHED_8B, ValueConfig, context_templates
from .weights import Weights, batches_of, spread

KEYS = "::keys"  # in the patch, beside the factors of a parameter: K_p, one row an edit


@dataclass(frozen=True)
class AlphaEditConfig(ValueConfig):
    """Fields of `ValueConfig`, the projector's threshold, L2, and how many requests are edited at once."""

    v_lr: float = 0.1
    v_weight_decay: float = 0.5
    clamp_norm_factor: float = 0.75
    nullspace_threshold: float = 2e-2
    L2: float = 10.0
    batch_size: int | None = None  # None: all


def alphaedit(job: Job) -> Outcome:
    """All requests in one batch, or chunk by chunk; each chunk spares the keys of those before it."""
    model, config, templates = job.model, job.config, context_templates(job)
    layers = sorted(config.layers)
    P = {layer: null_space(C, config.nullspace_threshold) for layer, C in job.covariance(layers).items()}
    earlier = job.previous.tensors() if job.previous else {}
    stored = {i: earlier.get(down_name(model, i) + KEYS) for i in range(n_layers(model))}
    K_p = {i: k.T.double() for i, k in stored.items() if k is not None}  # {layer: (d_ffn, p)}

    def solve(layer, K, R):
        A = torch.cat([K, K_p[layer].to(K)], 1) if layer in K_p else K  # (d_ffn, n + p)
        PA = P[layer].to(K) @ A
        small = A.T @ PA + config.L2 * torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
        return R, torch.linalg.solve(small, PA.T)[: K.shape[1]]  # (d, n), (n, d_ffn)

    log = []
    with Weights(model, layers, job.previous) as W:
        for requests in batches_of(job, "AlphaEdit"):
            log += spread(job, requests, templates, W, solve)
            for layer in layers:  # re-measured on the edited model
                K = batch_keys(job, requests, layer, templates)
                K_p[layer] = torch.cat([K_p[layer].to(K), K], 1) if layer in K_p else K
        cache = {down_name(model, layer) + KEYS: k.T.float().contiguous() for layer, k in K_p.items()}
        return Outcome(W.tensors() | cache, log)


# fmt: off
AUTHORS = "AlphaEdit authors' Llama-3-8B"
NULLSPACE = {"nullspace_threshold": 2e-2, "L2": 10.0}
SEARCH = {**EARLY, **PUBLISHED}
SEVEN_B = [(SEARCH, f"{OURS}; MEMIT's layers and value search"), (NULLSPACE, f"{OURS}; that of {AUTHORS}")]
TRIED = {**POCKET, "clamp_norm_factor": 4.0, "v_weight_decay": 1e-3}
register(
    "alphaedit", AlphaEditConfig, alphaedit, label="AlphaEdit", colour="#D55E00", symbol="circle", order=90,
    modes=("batch", "sequential"), edits=True, merges=True, continues=True, covariance=True,
    memory=lambda m, config, x: {
        "solve": {"moved: P": m.square()},
        "projector": {"host: C + Cᵀ, eigenvectors, workspace of eigh (2)": 4 * m.square()},
    },
    presets={LLAMA2: SEVEN_B, MISTRAL: SEVEN_B, LLAMA31: [({**EARLY, **PUBLISHED_8B, **NULLSPACE}, AUTHORS)]},
    trials=[{**TRIED, "layers": layers, "nullspace_threshold": threshold, "L2": L2} for layers, threshold, L2 in (
        ([0], 1.0, 10.0), ([0], 8.0, 10.0), ([0, 1], 1.0, 10.0), ([0, 1], 1.0, 1e3), ([1], 0.1, 1.0), ([2], 0.5, 1.0))],
)
