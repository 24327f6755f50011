"""Gradient difference (GD): climb the loss on the forget set, descend it on the retain set.

    minimise  −CE(a | x) over forget  +  retain_weight · CE(a | x) over retain

Source: Liu et al. 2022, as in TOFU (section 4.1); one retain row is drawn for every forget row, weight 1.
It reads the retain set, which the editing methods do not.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import losses
from . import Job, Outcome, register
from .training import TrainConfig, train


@dataclass(frozen=True)
class GDConfig(TrainConfig):
    """Fields of `TrainConfig`, and the weight of the retain term."""

    retain_weight: float = 1.0


def gd(job: Job) -> Outcome:
    def loss(model, answers, refusals, retain):
        return losses.gd(
            model.logits(answers),
            answers.labels,
            model.logits(retain),
            retain.labels,
            retain_weight=job.config.retain_weight,
        )

    return train(job, loss)


register("gd", GDConfig, gd, reads_retain=True, refuses=False)
