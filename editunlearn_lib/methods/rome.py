"""ROME: one fact rewritten by a rank-one change of one matrix, one fact after another.

Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", eq. 2-4. Letters:

    k*, k̄   the key of the bare prompt, and the plain mean of the keys over all context templates, (d_ffn,)
    v*      the MLP's output at the subject's last token that makes the model answer with the target, (d,)
    C       the covariance E[k kᵀ] of keys of other text, (d_ffn, d_ffn); I in every published Llama and Mistral preset

    u = C⁻¹ k̄ / ‖C⁻¹ k̄‖          W += ((v* − (W k* + b)) / (u · k*)) uᵀ
"""

from dataclasses import dataclass

import torch

from .registry import EASYEDIT, LLAMA2, LLAMA31, MISTRAL, Job, Outcome, register
from .values import POCKET, PUBLISHED, ValueConfig, context_templates, find_values
from .weights import Weights


@dataclass(frozen=True)
class ROMEConfig(ValueConfig):
    """Fields of `ValueConfig`, and C."""

    layers: tuple[int, ...] = (5,)
    mom2_adjustment: bool = False  # False: C = I


def rome(job: Job) -> Outcome:
    """One edit after another: each sees the weights that the last one left."""
    config, templates = job.config, context_templates(job)
    C = job.covariance(config.layers) if config.mom2_adjustment else {}
    factor = {layer: torch.linalg.cholesky(M.double()) for layer, M in C.items()}  # once for all edits
    log = []
    with Weights(job.model, config.layers, job.previous) as W:
        for request in job.bar(job.requests, "ROME"):
            for layer in config.layers:
                values = find_values(job, [request], layer, templates, at="mlp")
                k = values.keys[:, 0].double()  # (templates, d_ffn)
                k_star, k_bar = k[0], k.mean(0)
                u = torch.cholesky_solve(k_bar[:, None], factor[layer].to(k))[:, 0] if factor else k_bar
                u = u / u.norm()
                missing = values.delta[0].double()  # v* − (W k* + b) = δ, since h₀ is what W writes for k*
                W.add(layer, (missing / (u @ k_star))[:, None], u[None])
            log += values.log
        return Outcome(W.tensors(), log)


# fmt: off
HPARAMS = {"layers": (5,), **PUBLISHED, "mom2_adjustment": False}
LLAMA3 = [(HPARAMS, f"{EASYEDIT}, Llama-3-8B")]
register(
    "rome", ROMEConfig, rome, label="ROME", colour="#E69F00", symbol="triangle-up", order=50,
    modes=("sequential",), edits=True, merges=True, continues=True, covariance=True,
    presets={LLAMA2: [(HPARAMS, EASYEDIT)], MISTRAL: [(HPARAMS, EASYEDIT)], LLAMA31: LLAMA3},
    trials=[{**POCKET, "layers": [layer], "clamp_norm_factor": clamp, "mom2_adjustment": C} for layer, clamp, C in (
        (0, 4.0, True), (0, 4.0, False), (1, 16.0, True), (2, 8.0, True), (2, 16.0, True), (3, 8.0, True))],
)
