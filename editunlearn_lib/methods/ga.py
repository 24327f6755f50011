"""Gradient ascent (GA): climb the loss of the true answers.

    minimise  −CE(a | x)  over the forget set

Source: the baseline of TOFU (Maini et al. 2024, section 4.1) and PISTOL (Qiu et al. 2024). CE is the mean over answer
and end tokens of the batch, natural log. Nothing bounds it from below: train long enough and the model breaks.
"""

from dataclasses import dataclass

from .. import losses
from .registry import Job, Outcome, register
from .training import PUBLISHED, TRIALS, TrainConfig, train


@dataclass(frozen=True)
class GAConfig(TrainConfig):
    """Fields of `TrainConfig`."""


def ga(job: Job) -> Outcome:
    def loss(model, batch):
        return losses.ga(model.logits(batch.answers), batch.answers.labels)

    return train(job, loss)


# fmt: off
register(
    "ga", GAConfig, ga, label="GA", colour="#D55E00", symbol="circle-open", dash="dash", order=10,
    reads=("answers",), presets=PUBLISHED, trials=TRIALS,
)
