"""SimNPO: NPO without the model before unlearning; each answer counts by its mean token.

    minimise  −(2/β) log σ(β [NLL(a | x) / |a| − δ]) over forget, · γ,  +  α · CE(a | x) over retain

Source: Fan et al. 2024, "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning", eq. 4.
NLL is summed over answer and end tokens, |a| is their number, so that long answers are not forgotten first. An answer
that is unlikely already has a small gradient. Nothing is put in the answer's place.
"""

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from .. import losses
from .registry import LLAMA2, LLAMA31, MISTRAL, Job, Outcome, register
from .training import TRIALS, TrainConfig, train


@dataclass(frozen=True)
class SimNPOConfig(TrainConfig):
    """Fields of `TrainConfig`, β, δ, and the weights of the two terms."""

    num_epochs: int = 10
    beta: float = 4.5
    delta: float = 0.0  # nats a token; some code calls this gamma
    gamma: float = 0.125  # of the forget term
    alpha: float = 1.0  # of the retain term


def simnpo(job: Job) -> Outcome:
    config = job.config

    def loss(model, batch):
        a, k = batch.answers, batch.retain
        length = (a.labels != losses.IGNORED).sum(1)  # |a|, (B,)
        nll = -losses.log_probability(model.logits(a), a.labels) / length  # (B,)
        forget = -2 / config.beta * logsigmoid(config.beta * (nll - config.delta)).mean()
        return config.gamma * forget + config.alpha * losses.cross_entropy(model.logits(k), k.labels)

    return train(job, loss)


# fmt: off
HPARAMS = {"lr": 1e-5, "num_epochs": 10, "beta": 4.5, "delta": 0.0, "gamma": 0.125, "alpha": 1.0}
register(
    "simnpo", SimNPOConfig, simnpo, label="SimNPO", colour="#009E73", symbol="hexagram-open", dash="dash", order=44,
    reads=("answers", "retain"), trials=TRIALS,
    presets=dict.fromkeys((LLAMA2, MISTRAL, LLAMA31), [(HPARAMS, "open-unlearning's code, as it runs on TOFU")]),
)
