"""AlphaEdit: MEMIT's change, kept in the null space of what the layer must not forget.

Source: Fang et al. 2025, "AlphaEdit: Null-Space Constrained Knowledge Editing", eq. 11-14. Letters:

    P      projector on the eigenvectors of C = E[k kᵀ] with eigenvalues below ``nullspace_threshold``, (d_ffn, d_ffn)
    K      keys of the requests at a layer, (d_ffn, n);  K_p  keys of all earlier edits, (d_ffn, p)
    R      what is still missing at the last layer, shared among the layers left, (d, n)

    ΔW = R Kᵀ P (K_p K_pᵀ P + K Kᵀ P + L2·I)⁻¹

With A = [K, K_p] and P = Pᵀ = P², that is  ΔW = R · (the first n rows of (Aᵀ P A + L2·I)⁻¹ Aᵀ P):  a small symmetric
system of n + p unknowns instead of one of d_ffn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..models import down_name, n_layers
from . import Job, Outcome, register
from .locate import Weights, context_templates, keys, memit_key, spread

KEYS = "::keys"  # in the patch, beside the factors of a parameter: K_p, one row an edit


@dataclass(frozen=True)
class AlphaEditConfig:
    """EasyEdit's field names; a value's meaning stands in the equation above or in `locate.values`."""

    layers: tuple[int, ...] = (4, 5, 6, 7, 8)
    v_num_grad_steps: int = 25
    v_lr: float = 0.1
    v_weight_decay: float = 0.5
    clamp_norm_factor: float = 0.75
    kl_factor: float = 0.0625
    nullspace_threshold: float = 2e-2
    L2: float = 10.0
    fact_token: str = "subject_last"
    context_templates: tuple[str, ...] | None = None  # None: prefixes that the model writes itself
    context_length: int = 10  # tokens of such a prefix
    train_end: bool = False  # whether the end token belongs to the target
    batch_size: int | None = None  # requests edited at once; None: all


def alphaedit(job: Job) -> Outcome:
    """All requests in one batch, or chunk by chunk; each chunk spares the keys of those before it."""
    from ..covariance import null_space  # it imports this package

    model, config = job.model, job.config
    layers = sorted(config.layers)
    templates = context_templates(model, job.tokenizer, config, job.seed)
    P = {layer: null_space(C, config.nullspace_threshold) for layer, C in job.covariance(layers).items()}
    earlier = job.previous.tensors() if job.previous else {}
    K_p = {
        i: k.T.double() for i in range(n_layers(model)) if (k := earlier.get(down_name(model, i) + KEYS)) is not None
    }

    def solve(layer, K, R):
        A = torch.cat([K, K_p[layer].to(K)], 1) if layer in K_p else K  # (d_ffn, n + p)
        PA = P[layer].to(K) @ A
        small = A.T @ PA + config.L2 * torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
        return R, torch.linalg.solve(small, PA.T)[: K.shape[1]]  # (d, n), (n, d_ffn)

    size = 1 if job.mode == "sequential" else config.batch_size or len(job.requests)
    log = []
    with Weights(model, layers, job.previous) as W:
        for start in job.bar(range(0, len(job.requests), size), "AlphaEdit"):
            requests = job.requests[start : start + size]
            log += spread(job, requests, layers, templates, W, solve)
            for layer in layers:  # re-measured on the edited model
                K = memit_key(
                    keys(model, job.tokenizer, requests, layer, templates, job.prompt_format, config.fact_token)
                )
                K_p[layer] = torch.cat([K_p[layer].to(K.device), K.T.double()], 1) if layer in K_p else K.T.double()
        cache = {down_name(model, layer) + KEYS: k.T.float().contiguous() for layer, k in K_p.items()}
        return Outcome(W.tensors() | cache, log)


register(
    "alphaedit",
    AlphaEditConfig,
    alphaedit,
    modes=("batch", "sequential"),
    edits=True,
    merges=True,
    continues=True,
    covariance=True,
)
