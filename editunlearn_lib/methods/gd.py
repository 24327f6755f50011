"""Gradient difference (GD): climb the loss on the forget set, descend it on the retain set.

    minimise  −CE(a | x) over forget  +  retain_weight · CE(a | x) over retain

Source: Liu et al. 2022, as in TOFU (section 4.1); one retain row is drawn for every forget row, weight 1.
It reads the retain set, which the editing methods do not.
"""

from dataclasses import dataclass

from .. import losses
from .registry import Job, Outcome, register
from .training import PUBLISHED, TRIALS, TrainConfig, train


@dataclass(frozen=True)
class GDConfig(TrainConfig):
    """Fields of `TrainConfig`, and the weight of the retain term."""

    retain_weight: float = 1.0


def gd(job: Job) -> Outcome:
    def loss(model, batch):
        forget, retain = batch.answers, batch.retain
        logits, retain_logits = model.logits(forget), model.logits(retain)
        return losses.gd(logits, forget.labels, retain_logits, retain.labels, retain_weight=job.config.retain_weight)

    return train(job, loss)


def memory(m, config, x) -> dict:
    """Bytes a word of the vocabulary: logits of both, float32 copies, log-probabilities and their gradients."""
    a, k = x["answers"], x["retain"]
    return {"logits": max(m.bytes * (a + k) + 4 * a + 8 * k, 12 * a + 4 * k)}


# fmt: off
register(
    "gd", GDConfig, gd, label="GD", colour="#56B4E9", symbol="square-open", dash="dash", order=20,
    reads=("answers", "retain"), presets=PUBLISHED, trials=TRIALS, memory=memory,
)
