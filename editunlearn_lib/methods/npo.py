"""Negative preference optimisation (NPO): the answer a is what nobody prefers; how fast it may fall is bounded.

    minimise  −(2/β) log σ(−β [log p_θ(a) − log p_θ₀(a)]) over forget, · γ,  +  α · CE(a | x) over retain

Source: Zhang et al. 2024, "Negative Preference Optimization", eq. 3, with the retain term of its section 4. It is DPO
without the preferred answer: nothing is put in the answer's place, nobody teaches it to refuse. Log-probabilities are
summed over answer and end tokens; p_θ₀ is the model before unlearning, without a second copy. With β → 0 it is GA.
"""

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from .. import losses
from .registry import LLAMA2, LLAMA31, MISTRAL, Job, Outcome, register
from .training import TRIALS, TrainConfig, train


@dataclass(frozen=True)
class NPOConfig(TrainConfig):
    """Fields of `TrainConfig`, β, and the weights of the two terms."""

    num_epochs: int = 10
    beta: float = 0.1
    gamma: float = 1.0  # of the forget term
    alpha: float = 1.0  # of the retain term


def npo(job: Job) -> Outcome:
    config = job.config

    def loss(model, batch):
        a, k = batch.answers, batch.retain
        now = losses.log_probability(model.logits(a), a.labels)  # log p_θ(a), (B,)
        before = losses.log_probability(model.reference_logits(a), a.labels)  # log p_θ₀(a), (B,)
        forget = -2 / config.beta * logsigmoid(-config.beta * (now - before)).mean()
        return config.gamma * forget + config.alpha * losses.cross_entropy(model.logits(k), k.labels)

    return train(job, loss)


def memory(m, config, x) -> dict:
    """Bytes a word of the vocabulary: three sets of logits, copies in float32, log-probabilities and gradients."""
    a, k = x["answers"], x["retain"]
    return {"logits": m.bytes * (2 * a + k) + 4 * (a + k) + 8 * max(a, k)}


# fmt: off
HPARAMS = {"lr": 1e-5, "num_epochs": 10, "beta": 0.1, "gamma": 1.0, "alpha": 1.0}
register(
    "npo", NPOConfig, npo, label="NPO", colour="#0072B2", symbol="pentagon-open", dash="dash", order=42,
    reads=("answers", "retain"), reference=("answers",), trials=TRIALS, memory=memory,
    presets=dict.fromkeys((LLAMA2, MISTRAL, LLAMA31), [(HPARAMS, "open-unlearning's code, as it runs on TOFU")]),
)
