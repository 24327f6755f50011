"""The losses of unlearning by training: pure functions of logits and labels.

Shapes: logits ``(B, T, V)``; labels ``(B, T)``, aligned as in Hugging Face (``labels[b, t]`` is the token that stands
at position t, -100 = ignored), so ``logits[:, t]`` score ``labels[:, t + 1]``: the shift is made here. Natural
logarithms throughout; half-precision logits are computed in float32. Each function returns a scalar with a gradient.

    CE(a | x) = - 1/N Σ log p_θ(a_t | x, a_<t)          N = all tokens of the batch that are not ignored

Every function raises ``ValueError`` where the shapes do not fit or no token is labelled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


def idk(logits: Tensor, labels: Tensor) -> Tensor:
    """``CE(r | x)``: plain fine-tuning on the refusal r.

    Not in the paper: the control that separates editing from merely having a refusal as target.
    """
    return _cross_entropy("", logits, labels)


def ga(logits: Tensor, labels: Tensor) -> Tensor:
    """``-CE(a | x)`` on the forget set: gradient ascent on the true answer a (paper, equation 4; Maini et al. 2024)."""
    return -_cross_entropy("", logits, labels)


def gd(
    logits: Tensor, labels: Tensor, retain_logits: Tensor, retain_labels: Tensor, *, retain_weight: float = 1.0
) -> Tensor:
    """``-CE(a | x), forget + w · CE(a | x), retain`` (paper, equation 5; Liu et al. 2022).

    ``retain_*`` may have their own B and T; each CE is the mean over its own batch; w = ``retain_weight``.
    """
    forget = _cross_entropy("", logits, labels)
    return -forget + retain_weight * _cross_entropy("retain_", retain_logits, retain_labels)


def kl(
    logits: Tensor,
    labels: Tensor,
    retain_logits: Tensor,
    retain_reference_logits: Tensor,
    retain_mask: Tensor,
    *,
    kl_over: str = "real",
    retain_weight: float = 1.0,
) -> Tensor:
    """``-CE(a | x), forget + w · KL(p_θ₀ ‖ p_θ), retain`` (paper, equation 6; Maini et al. 2024).

    KL = 1/N Σ_t Σ_v p_θ₀(v) (log p_θ₀(v) - log p_θ(v)): forward, in nats, N = the real retain tokens, which are those
    where ``retain_mask`` (B, T) is 1. No shift: each real position has one next-token distribution. The reference
    ``retain_reference_logits`` (B, T, V) come from the model before unlearning and take no gradient.

    ``kl_over="all"`` averages over padding as well, as the public codes of TOFU, PISTOL and open-unlearning do.
    """
    forget = _cross_entropy("", logits, labels)
    _check_logits("retain_logits", retain_logits)
    if retain_reference_logits.shape != retain_logits.shape:
        raise ValueError(
            f"retain_reference_logits {tuple(retain_reference_logits.shape)} must have the shape of retain_logits "
            f"{tuple(retain_logits.shape)}."
        )
    if retain_mask.shape != retain_logits.shape[:2]:
        raise ValueError(f"retain_mask {tuple(retain_mask.shape)} must be (B, T) = {tuple(retain_logits.shape[:2])}.")
    if kl_over not in ("real", "all"):
        raise ValueError(f"kl_over must be 'real' or 'all', not {kl_over!r}.")
    chosen = torch.ones_like(retain_mask, dtype=torch.bool) if kl_over == "all" else retain_mask.bool()  # (B, T)
    if not chosen.any():
        raise ValueError("retain_mask marks no real token: the KL term would be a mean over nothing.")
    new = _full(retain_logits[chosen]).log_softmax(-1)  # (N, V)
    old = _full(retain_reference_logits[chosen]).detach().log_softmax(-1)  # (N, V)
    divergence = F.kl_div(new, old, reduction="batchmean", log_target=True)  # KL(old ‖ new), mean over N
    return -forget + retain_weight * divergence


def dpo(
    answer_logits: Tensor,
    answer_labels: Tensor,
    refusal_logits: Tensor,
    refusal_labels: Tensor,
    reference_answer_logits: Tensor,
    reference_refusal_logits: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """``-log σ(β [(log p_θ(r) - log p_θ(a)) - (log p_θ₀(r) - log p_θ₀(a))])``, mean over the batch.

    The refusal r is preferred to the true answer a (paper, equation 7; Rafailov et al. 2023, equation 7). log p is the
    **sum** over the labelled tokens of one sequence. ``answer_*`` is (B, T_a, V) and ``refusal_*`` (B, T_r, V): row b
    of both belongs to the same question. The reference logits take no gradient. At θ = θ₀ the loss is log 2.
    """
    if answer_logits.shape[0] != refusal_logits.shape[0]:
        raise ValueError(
            f"answer_logits and refusal_logits must pair row by row, but hold {answer_logits.shape[0]} and "
            f"{refusal_logits.shape[0]} sequences."
        )
    answer = _log_probability("answer_", answer_logits, answer_labels)  # (B,)
    refusal = _log_probability("refusal_", refusal_logits, refusal_labels)  # (B,)
    reference_answer = _log_probability("reference_answer_", reference_answer_logits, answer_labels).detach()
    reference_refusal = _log_probability("reference_refusal_", reference_refusal_logits, refusal_labels).detach()
    margin = (refusal - answer) - (reference_refusal - reference_answer)  # (B,)
    return -F.logsigmoid(beta * margin).mean()


def _cross_entropy(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Token mean over all labelled tokens of the batch, in nats."""
    scores, targets = _shift(name, logits, labels)
    if not (targets != IGNORED).any():
        raise ValueError(f"{name}labels hold no labelled token after position 0 (all are {IGNORED}): CE has no mean.")
    return F.cross_entropy(_full(scores).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def _log_probability(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """``Σ_t log p(label_t)`` over the labelled tokens of each sequence, (B,), in nats."""
    scores, targets = _shift(name, logits, labels)
    labelled = targets != IGNORED  # (B, T-1)
    if not labelled.any(dim=1).all():
        empty = (~labelled.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"{name}logits: the sequences {empty} have no labelled token after position 0.")
    chosen = targets.masked_fill(~labelled, 0).unsqueeze(-1)  # -100 is no index
    log_p = _full(scores).log_softmax(-1).gather(-1, chosen).squeeze(-1)  # (B, T-1)
    return log_p.masked_fill(~labelled, 0.0).sum(dim=1)


def _shift(name: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T-1, V) scores and the (B, T-1) tokens they score."""
    _check_logits(f"{name}logits", logits)
    if labels.shape != logits.shape[:2]:
        raise ValueError(f"labels {tuple(labels.shape)} of {name}logits must be (B, T) = {tuple(logits.shape[:2])}.")
    return logits[:, :-1], labels[:, 1:]


def _check_logits(name: str, logits: Tensor) -> None:
    if logits.ndim != 3:
        raise ValueError(f"{name} must be (B, T, V), not {tuple(logits.shape)}.")


def _full(logits: Tensor) -> Tensor:
    """float32 at least: a log-softmax in half precision loses the small differences that are trained on."""
    return logits if logits.dtype == torch.float64 else logits.float()
