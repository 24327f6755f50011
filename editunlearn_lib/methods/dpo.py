"""Direct preference optimisation (DPO): prefer the refusal r to the answer a.

    minimise  −log σ(β [ (log p_θ(r) − log p_θ(a)) − (log p_θ₀(r) − log p_θ₀(a)) ])

Source: Rafailov et al. 2023, eq. 7, as TOFU and PISTOL use it. Log-probabilities are summed over answer and end
tokens; β = 0.1. p_θ₀ is the model before unlearning, without a second copy. No term protects the retain set.
"""

from dataclasses import dataclass

from .. import losses
from .registry import Job, Outcome, register
from .training import PUBLISHED, TRIALS, TrainConfig, train


@dataclass(frozen=True)
class DPOConfig(TrainConfig):
    """Fields of `TrainConfig`, and β."""

    beta: float = 0.1


def dpo(job: Job) -> Outcome:
    def loss(model, batch):
        a, r = batch.answers, batch.refusals
        now = (model.logits(a), a.labels, model.logits(r), r.labels)
        return losses.dpo(*now, model.reference_logits(a), model.reference_logits(r), beta=job.config.beta)

    return train(job, loss)


def memory(m, config, x) -> dict:
    """Bytes a word of the vocabulary: four sets of logits, copies in float32, log-probabilities and gradients."""
    a, r = x["answers"], x["refusals"]
    return {"logits": 2 * m.bytes * (a + r) + 4 * (a + r) + 8 * max(a, r)}


# fmt: off
register(
    "dpo", DPOConfig, dpo, label="DPO", colour="#CC79A7", symbol="triangle-up-open", dash="dash", order=40,
    reads=("answers", "refusals"), reference=("answers", "refusals"), presets=PUBLISHED, trials=TRIALS, memory=memory,
)
