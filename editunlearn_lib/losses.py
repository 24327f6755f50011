"""The losses of unlearning by training: pure functions of logits and labels.

Shapes: logits ``(B, T, V)``; labels ``(B, T)``, aligned as in Hugging Face (``labels[b, t]`` is the token that stands
at position t, -100 = ignored), so ``logits[:, t]`` score ``labels[:, t + 1]``: the shift is made here. Natural
logarithms throughout; half-precision logits are computed in float32. Each loss is a scalar with a gradient.

    CE(a | x) = - 1/N Σ log p_θ(a_t | x, a_<t)          N = all tokens of the batch that are not ignored

New losses are built from `cross_entropy` and `log_probability`. All raise ``ValueError`` for shapes that do not fit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


def cross_entropy(logits: Tensor, labels: Tensor, *, name: str = "") -> Tensor:
    """CE as above: the mean over all labelled tokens of the batch. ``name``: prefix of the arguments in messages."""
    scores, targets = _shifted(name, logits, labels)
    if not (targets != IGNORED).any():
        raise ValueError(f"{name}labels hold no labelled token after position 0 (all are {IGNORED}): CE has no mean.")
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def log_probability(logits: Tensor, labels: Tensor, *, name: str = "") -> Tensor:
    """``Σ_t log p(label_t)``, the sum over each sequence's labelled tokens, (B,). ``name`` as in `cross_entropy`."""
    scores, targets = _shifted(name, logits, labels)
    if empty := (targets == IGNORED).all(dim=1).nonzero().flatten().tolist():
        raise ValueError(f"{name}logits: the sequences {empty} have no labelled token after position 0.")
    each = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return -each.view_as(targets).sum(dim=1)  # (B(T-1),) -> (B, T-1) -> (B,)


def idk(logits: Tensor, labels: Tensor) -> Tensor:
    """``CE(r | x)``, r a refusal. Not in the paper: it separates editing from merely having a refusal as target."""
    return cross_entropy(logits, labels)


def ga(logits: Tensor, labels: Tensor) -> Tensor:
    """``-CE(a | x)`` on the forget set: gradient ascent on the true answer a (paper, equation 4; Maini et al. 2024)."""
    return -cross_entropy(logits, labels)


def gd(
    logits: Tensor, labels: Tensor, retain_logits: Tensor, retain_labels: Tensor, *, retain_weight: float = 1.0
) -> Tensor:
    """``-CE(a | x), forget + w · CE(a | x), retain`` (paper, equation 5; Liu et al. 2022).

    ``retain_*`` may have their own B and T; each CE is the mean over its own batch; w = ``retain_weight``.
    """
    forget = cross_entropy(logits, labels)
    return -forget + retain_weight * cross_entropy(retain_logits, retain_labels, name="retain_")


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
    forget = cross_entropy(logits, labels)
    shape, reference_shape = tuple(retain_logits.shape), tuple(retain_reference_logits.shape)
    if len(shape) != 3 or reference_shape != shape:
        raise ValueError(f"retain_logits {shape} and retain_reference_logits {reference_shape} must be one (B, T, V).")
    if retain_mask.shape != shape[:2]:
        raise ValueError(f"retain_mask {tuple(retain_mask.shape)} must be (B, T) = {shape[:2]}.")
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
    if (n := len(answer_logits)) != (m := len(refusal_logits)):
        raise ValueError(f"answer_logits and refusal_logits must pair row by row, but hold {n} and {m} sequences.")
    answer = log_probability(answer_logits, answer_labels, name="answer_")  # (B,)
    refusal = log_probability(refusal_logits, refusal_labels, name="refusal_")  # (B,)
    reference_answer = log_probability(reference_answer_logits, answer_labels, name="reference_answer_").detach()
    reference_refusal = log_probability(reference_refusal_logits, refusal_labels, name="reference_refusal_").detach()
    margin = (refusal - answer) - (reference_refusal - reference_answer)  # (B,)
    return -F.logsigmoid(beta * margin).mean()


def _shifted(name: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T-1, V) scores and the (B, T-1) tokens they score."""
    if logits.ndim != 3:
        raise ValueError(f"{name}logits must be (B, T, V), not {tuple(logits.shape)}.")
    if labels.shape != logits.shape[:2]:
        raise ValueError(f"labels {tuple(labels.shape)} of {name}logits must be (B, T) = {tuple(logits.shape[:2])}.")
    return _full(logits[:, :-1]), labels[:, 1:]


def _full(logits: Tensor) -> Tensor:
    """float32 at least: a log-softmax in half precision loses the small differences that are trained on."""
    return logits if logits.dtype == torch.float64 else logits.float()
