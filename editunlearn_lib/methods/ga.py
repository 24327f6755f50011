"""Gradient ascent (GA): climb the loss of the true answers.

    minimise  −CE(a | x)  over the forget set

Source: the baseline of TOFU (Maini et al. 2024, section 4.1) and PISTOL (Qiu et al. 2024). CE is the mean over answer
and end tokens of the batch, natural log. Nothing bounds it from below: train long enough and the model breaks.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import losses
from . import Job, Outcome, register
from .training import TrainConfig, train


@dataclass(frozen=True)
class GAConfig(TrainConfig):
    """Fields of `TrainConfig`."""


def ga(job: Job) -> Outcome:
    def loss(model, answers, refusals, retain):
        return losses.ga(model.logits(answers), answers.labels)

    return train(job, loss)


register("ga", GAConfig, ga, refuses=False)
