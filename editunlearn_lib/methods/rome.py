"""ROME: one fact rewritten by a rank-one change of one matrix, one fact after another.

Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", eq. 2-4. Letters:

    k*, k̄   the key of the bare prompt, and the plain mean of the keys over all context templates, (d_ffn,)
    v*      the MLP's output at the subject's last token that makes the model answer with the target, (d,)
    C       the covariance E[k kᵀ] of keys of other text, (d_ffn, d_ffn); I in every published Llama and Mistral preset

    u = C⁻¹ k̄ / ‖C⁻¹ k̄‖          W += ((v* − (W k* + b)) / (u · k*)) uᵀ
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import Job, Outcome, register
from .locate import Weights, context_templates, values


@dataclass(frozen=True)
class ROMEConfig:
    """EasyEdit's field names; a value's meaning stands in the equation above or in `locate.values`."""

    layers: tuple[int, ...] = (5,)
    v_num_grad_steps: int = 25
    v_lr: float = 0.5
    v_weight_decay: float = 1e-3
    clamp_norm_factor: float = 4.0
    kl_factor: float = 0.0625
    mom2_adjustment: bool = False  # False: C = I
    fact_token: str = "subject_last"
    context_templates: tuple[str, ...] | None = None  # None: prefixes that the model writes itself
    context_length: int = 10  # tokens of such a prefix
    train_end: bool = False  # whether the end token belongs to the target


def rome(job: Job) -> Outcome:
    """One edit after another: each sees the weights that the last one left."""
    model, config = job.model, job.config
    templates = context_templates(model, job.tokenizer, config, job.seed)
    C = job.covariance(config.layers) if config.mom2_adjustment else {}
    factor = {layer: torch.linalg.cholesky(M.double()) for layer, M in C.items()}  # once for all edits
    log = []
    with Weights(model, config.layers, job.previous) as W:
        for request in job.bar(job.requests, "ROME"):
            for layer in config.layers:
                found = values(
                    model, job.tokenizer, [request], layer, config, templates, job.prompt_format, at="mlp", show=False
                )
                k = found.keys[:, 0].double()  # (templates, d_ffn)
                k_star, k_bar = k[0], k.mean(0)
                u = torch.cholesky_solve(k_bar[:, None], factor[layer].to(k))[:, 0] if factor else k_bar
                u = u / u.norm()
                missing = found.delta[0].double()  # v* − (W k* + b) = δ, since h₀ is what W writes for k*
                W.add(layer, (missing / (u @ k_star))[:, None], u[None])
            log += found.log
        return Outcome(W.tensors(), log)


register("rome", ROMEConfig, rome, modes=("sequential",), edits=True, merges=True, continues=True, covariance=True)
