"""The control (idk): plain fine-tuning on the refusals.

    minimise  CE(r | x)  over the forget set, nothing else

It separates what editing does from what merely having a refusal as the target does.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import losses
from . import Job, Outcome, register
from .training import TrainConfig, train


@dataclass(frozen=True)
class IDKConfig(TrainConfig):
    """Fields of `TrainConfig`."""


def idk(job: Job) -> Outcome:
    def loss(model, answers, refusals, retain):
        return losses.idk(model.logits(refusals), refusals.labels)

    return train(job, loss)


register("idk", IDKConfig, idk)
