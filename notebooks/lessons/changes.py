"""How far two patches of a model lie apart, by what they add to its weights."""

from __future__ import annotations

import torch

from editunlearn_lib.patch import Patch


def change(patch: Patch) -> torch.Tensor:
    """ΔW of every matrix that a patch changes, one behind the other: (parameters,), float64 on the CPU."""
    return torch.cat([patch.delta(name).flatten().double().cpu() for name in patch.parameters])


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖a − b‖ / ‖b‖ of two changes of the same matrices."""
    return float((a - b).norm() / b.norm())


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """The cosine of the angle between two changes of the same matrices."""
    return float(torch.cosine_similarity(a, b, dim=0))
