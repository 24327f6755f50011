"""The control (idk): plain fine-tuning on the refusals.

    minimise  CE(r | x)  over the forget set, nothing else

It separates what editing does from what merely having a refusal as the target does.
"""

from dataclasses import dataclass

from .. import losses
from .registry import Job, Outcome, register
from .training import PUBLISHED, TRIALS, TrainConfig, train


@dataclass(frozen=True)
class IDKConfig(TrainConfig):
    """Fields of `TrainConfig`."""


def idk(job: Job) -> Outcome:
    def loss(model, batch):
        return losses.idk(model.logits(batch.refusals), batch.refusals.labels)

    return train(job, loss)


# fmt: off
register(
    "idk", IDKConfig, idk, label="IDK fine-tuning", colour="#E69F00", symbol="triangle-down-open", dash="dash", order=100,
    reads=("refusals",), presets=PUBLISHED, trials=TRIALS,
)
