"""Direct preference optimisation (DPO): prefer the refusal r to the answer a.

    minimise  −log σ(β [ (log p_θ(r) − log p_θ(a)) − (log p_θ₀(r) − log p_θ₀(a)) ])

Source: Rafailov et al. 2023, eq. 7, as TOFU and PISTOL use it. Log-probabilities are summed over answer and end
tokens; β = 0.1. p_θ₀ is the model before unlearning, without a second copy. No term protects the retain set.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import losses
from . import Job, Outcome, register
from .training import TrainConfig, train


@dataclass(frozen=True)
class DPOConfig(TrainConfig):
    """Fields of `TrainConfig`, and β."""

    beta: float = 0.1


def dpo(job: Job) -> Outcome:
    def loss(model, answers, refusals, retain):
        return losses.dpo(
            model.logits(answers),
            answers.labels,
            model.logits(refusals),
            refusals.labels,
            model.reference_logits(answers),
            model.reference_logits(refusals),
            beta=job.config.beta,
        )

    return train(job, loss)


register("dpo", DPOConfig, dpo)
