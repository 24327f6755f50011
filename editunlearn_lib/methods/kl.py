"""KL minimisation (KL): climb the loss on the forget set, stay near the old model on the retain set.

    minimise  −CE(a | x) over forget  +  retain_weight · KL(p_θ₀ ‖ p_θ) over retain

Source: TOFU (section 4.1). Forward KL, mean over the real retain tokens; the public codes average over padding too,
which then dominates (``kl_over="all"`` does as they do). p_θ₀ is the model before unlearning, without a second copy.
"""

from dataclasses import dataclass

from .. import losses
from .registry import Job, Outcome, register
from .training import PUBLISHED, TRIALS, TrainConfig, train


@dataclass(frozen=True)
class KLConfig(TrainConfig):
    """Fields of `TrainConfig`, the weight of the KL term, and over which tokens it is averaged."""

    retain_weight: float = 1.0
    kl_over: str = "real"


def kl(job: Job) -> Outcome:
    options = {"retain_weight": job.config.retain_weight, "kl_over": job.config.kl_over}

    def loss(model, batch):
        forget, retain = batch.answers, batch.retain
        logits, now, before = model.logits(forget), model.logits(retain), model.reference_logits(retain)
        return losses.kl(logits, forget.labels, now, before, retain.mask, **options)

    return train(job, loss)


def memory(m, config, x) -> dict:
    """Bytes a word of the vocabulary: three sets of logits; the divergence at real retain tokens."""
    a, k = x["answers"], x["retain"]
    return {"logits": m.bytes * (a + 2 * k) + 4 * a + 20 * x["retain, mean"]}


# fmt: off
register(
    "kl", KLConfig, kl, label="KL", colour="#009E73", symbol="diamond-open", dash="dash", order=30,
    reads=("answers", "retain"), reference=("retain",), presets=PUBLISHED, trials=TRIALS, memory=memory,
)
