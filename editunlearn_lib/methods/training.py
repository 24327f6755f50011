"""What the methods that train share: batches, LoRA or full fine-tuning, and the reference model without a second copy.

Defaults as PISTOL published them. Rows are padded to the longest of their batch.
"""

import contextlib
import functools
import logging
import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import peft
import torch

from ..adapter import Beside
from ..data import QA
from ..errors import TrainingError
from ..patch import Patch
from .positions import lookup
from .registry import LLAMA2, LLAMA31, MISTRAL, PISTOL, Job, Outcome, Request

log = logging.getLogger(__name__)
ROUNDED_AWAY = (
    "full fine-tuning in %s: steps smaller than about 1/%d of a weight are rounded away. Load the model with "
    "dtype='float32', or train LoRA factors (full: false), which are float32."
)


@dataclass(frozen=True)
class TrainConfig:
    """Learning rate, epochs, batch; ``full=True`` trains every weight instead of LoRA factors."""

    lr: float = 1e-5
    num_epochs: int = 20
    batch_size: int = 4
    weight_decay: float = 0.01
    rank: int = 8
    lora_alpha: float = 32.0
    lora_dropout: float = 0.05
    target_modules: tuple[str, ...] = ("all-linear",)  # of peft
    full: bool = False
    gradient_checkpointing: bool = False  # blocks run again in the backward pass: less memory, a third more time


SIZES = {"rank": 8, "lora_alpha": 32.0, "lora_dropout": 0.05}
LORA = {"lr": 1e-5, "num_epochs": 20, "batch_size": 4, "weight_decay": 0.01, **SIZES}
PUBLISHED = {model: [(LORA, PISTOL)] for model in (LLAMA2, MISTRAL, LLAMA31)}
TRIALS = [{"lr": lr, "num_epochs": 10} for lr in (4e-5, 7e-5, 1.2e-4, 3e-4, 1e-3, 2.5e-3)]  # on the pocket


@dataclass(frozen=True)
class Rows:
    """Encoded texts: ids, mask (B, T) and labels (B, T), −100 on the prompt and the padding."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor


def encode_answers(tokenizer, qas: Sequence[QA], answers: Sequence[str], prompt_format: str, device) -> Rows:
    """Questions with answers; labels are answer tokens and (in a chat) the end token."""
    requests = [Request((), qa.question, answer, ()) for qa, answer in zip(qas, answers, strict=True)]
    texts = lookup(tokenizer, requests, "{}", prompt_format, "prompt_last", targets=True, end=prompt_format == "chat")
    labels = texts.labels.roll(1, 1)  # each at its token, not at the one before
    return Rows(texts.ids.to(device), texts.mask.to(device), labels.to(device))


class Batch:
    """Some forget questions with their answers, their refusals, and as many retained questions; encoded when read."""

    def __init__(self, job: Job, qas: Sequence[QA], targets: Sequence[str], retain_qas: Sequence[QA]):
        self.job, self.qas, self.targets, self.retain_qas = job, qas, targets, retain_qas

    def _rows(self, qas: Sequence[QA], answers: Sequence[str] | None = None) -> Rows:
        answers = [qa.answer for qa in qas] if answers is None else answers
        return encode_answers(self.job.tokenizer, qas, answers, self.job.prompt_format, self.job.model.device)

    answers = functools.cached_property(lambda self: self._rows(self.qas))
    refusals = functools.cached_property(lambda self: self._rows(self.qas, self.targets))
    retain = functools.cached_property(lambda self: self._rows(self.retain_qas))


class Trainee:
    """The model in training: ``logits`` now, ``reference_logits`` before. One copy of the model in memory.

    ``undo()`` leaves the model as it was, bit for bit.
    """

    def __init__(self, job: Job):
        self.job, self.model, self.full, stack = job, job.model, job.config.full, contextlib.ExitStack()
        self.undo = stack.close
        for module in job.model.modules():
            stack.callback(setattr, module, "training", module.training)
        for parameter in job.model.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            stack.callback(setattr, parameter, "grad", None)
        if self.full:
            self.original = {n: p.detach().clone() for n, p in job.model.named_parameters()}  # needed to undo, too
            for name, parameter in job.model.named_parameters():
                stack.callback(parameter.data.copy_, self.original[name])
            job.model.requires_grad_(True)
            if (dtype := job.model.dtype).itemsize < 4:
                log.warning(ROUNDED_AWAY, str(dtype)[6:], 2 / torch.finfo(dtype).eps)
        else:
            config, modules = job.config, list(job.config.target_modules)
            modules = modules[0] if modules == ["all-linear"] else modules
            sizes = {"r": config.rank, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
            lora = peft.LoraConfig(target_modules=modules, task_type="CAUSAL_LM", **sizes)
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's, about transformers
                self.model = peft.get_peft_model(job.model, lora)  # factors are float32 whatever the model's dtype is
            stack.callback(self.model.unload)
        if job.config.gradient_checkpointing:
            self._checkpointing("enable", {"use_reentrant": False})
            stack.callback(self._checkpointing, "disable")

    def _checkpointing(self, verb: str, *options) -> None:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # it is renamed in later transformers
            getattr(self.job.model, f"gradient_checkpointing_{verb}")(*options)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def logits(self, rows: Rows) -> torch.Tensor:
        return self.model(input_ids=rows.ids, attention_mask=rows.mask, use_cache=False).logits

    @torch.no_grad()
    def reference_logits(self, rows: Rows) -> torch.Tensor:
        """Logits of the model before unlearning: adapter off, or the original weights called functionally."""
        inputs = {"input_ids": rows.ids, "attention_mask": rows.mask, "use_cache": False}
        self.model.eval()  # no dropout in the reference
        try:
            if self.full:
                return torch.func.functional_call(self.model, self.original, kwargs=inputs).logits
            with self.model.disable_adapter():
                return self.model(**inputs).logits
        finally:
            self.model.train()

    def outcome(self, log: list[dict]) -> Outcome:
        """The change. LoRA's factors stay beside weights in half precision, which would round much of them away."""
        if self.full:
            now = dict(self.job.model.named_parameters())
            changes = {n: (now[n].detach().float() - old.float()).cpu() for n, old in self.original.items()}
            return Outcome.of({n: d for n, d in changes.items() if d.any()}, log)
        factors = {}
        for name, module in self.model.base_model.model.named_modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                B, A = module.lora_B["default"].weight, module.lora_A["default"].weight
                left, right = (module.scaling["default"] * B).detach().float(), A.detach().float()
                if getattr(module, "fan_in_fan_out", False):  # GPT-2's Conv1D stores the transpose
                    left, right = right.T.contiguous(), left.T.contiguous()
                factors[name + ".weight"] = (left, right)
        return Outcome.of_factors(factors, log, Beside if self.job.model.dtype.itemsize < 4 else Patch)


def train(job: Job, loss: Callable[[Trainee, Batch], torch.Tensor]) -> Outcome:
    """AdamW at a constant rate on ``loss(model, batch)`` of every batch of forget rows.

    One retain row is drawn for every forget row. Raises `TrainingError` as soon as a loss is not finite.
    """
    rng, log, config = random.Random(job.seed), [], job.config
    trainee = Trainee(job)
    try:
        trainee.model.train()
        adam = torch.optim.AdamW(trainee.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        pairs = list(zip(job.forget, (request.target for request in job.requests), strict=True))
        for epoch in job.bar(range(config.num_epochs), "epochs"):
            total, steps = 0.0, 0
            order = rng.sample(pairs, len(pairs))
            for start in range(0, len(order), config.batch_size):
                forget, targets = zip(*order[start : start + config.batch_size], strict=True)
                retain = [rng.choice(job.retain) for _ in forget] if job.retain else []
                value = loss(trainee, Batch(job, forget, targets, retain))
                if not math.isfinite(now := value.item()):
                    raise TrainingError(
                        f"the loss is {now} at step {steps + 1} of epoch {epoch + 1}: lower lr (it is {config.lr:g}), "
                        "or load the model in float32 or bfloat16."
                    )
                value.backward()
                adam.step()
                adam.zero_grad(set_to_none=True)
                total, steps = total + now, steps + 1
            log.append({"epoch": epoch + 1, "loss": total / steps})
        return trainee.outcome(log)
    finally:
        trainee.undo()
