"""A side memory beside one layer, and the router that decides which questions go through it. Letters as in wise.py.

Sources: Wang et al. 2024 (WISE, eq. 2-3 and 6-7); Yadav et al. 2023 (TIES).
"""

from __future__ import annotations

import itertools
import random

import torch
from torch.nn.functional import pad
from transformers.activations import ACT2FN

from ..adapter import Adapter, Pass
from ..data import covariance_facts
from ..errors import PatchError, RequestError
from ..models import down_weight, head
from .positions import lookup
from .registry import Request
from .tail import Tail


def one_layer(job) -> int:
    """The layer that an adapter is made for; `RequestError` unless it is one, and that of ``previous``."""
    layers = tuple(job.config.layers)
    if len(layers) != 1:
        raise RequestError(f"layers must hold exactly one layer, not {layers}.")
    if job.previous and job.previous.layer != layers[0]:
        raise RequestError(f"layers is {layers}, but the earlier patch acts at layer {job.previous.layer}.")
    return layers[0]


def sigma_of(activation: str, wanted: bool):
    """The function around W a and W′ a in Δ: the model's activation if wanted, else none, as in the paper."""
    return ACT2FN[activation] if wanted else lambda x: x


def pooled(norm: torch.Tensor, real: torch.Tensor, how: str) -> torch.Tensor:
    """Δ (…,) from ‖W a − W′ a‖ of every token (…, T), over real tokens: their mean, or the largest."""
    norm = norm.masked_fill(~real, 0.0)
    return norm.sum(-1) / real.sum(-1).clamp(min=1) if how == "mean" else norm.amax(-1)


def ties(changes: list[torch.Tensor], density: float, weight: float) -> torch.Tensor:
    """TIES: keep the largest entries of each change, choose a sign, average those that agree."""
    kept = []
    for change in changes:
        size = max(1, int(density * change.numel()))
        least = change.abs().flatten().kthvalue(change.numel() - size + 1).values
        kept.append(torch.where(change.abs() >= least, change, 0.0))
    stack = weight * torch.stack(kept)
    agree = (stack.sign() == stack.sum(0).sign()) & (stack != 0)
    return (stack * agree).sum(0) / (weight * agree.sum(0)).clamp(min=1e-8)


class Texts:
    """The requests in every context with their targets, and the unrelated prompts: rows of one `Tail`."""

    def __init__(self, job, seed: int):
        config, n, self.model = job.config, len(job.requests), job.model
        how = (job.prompt_format, "prompt_last")
        texts = [
            lookup(job.tokenizer, job.requests, template, *how, targets=True, end=config.train_end)
            for template in config.context_templates
        ]
        texts.append(lookup(job.tokenizer, unrelated(job, seed), "{}", *how, targets=False))
        T, device = max(t.ids.shape[1] for t in texts), down_weight(job.model, config.layers[0]).device
        ids, mask, labels = (
            torch.cat([pad(getattr(t, name), (0, T - t.ids.shape[1]), value=fill) for t in texts])
            for name, fill in (("ids", 0), ("mask", 0), ("labels", -100))
        )
        position = torch.cat([t.position for t in texts])  # the prompt's last token
        self.tail = Tail(job.model, config.layers[0], ids, mask, torch.zeros_like(position), all_keys=True)
        self.a, self.labels = self.tail.key, labels.to(device)
        self.prompt = (torch.arange(T) <= position[:, None]).to(device)  # routing sees nothing else
        *self.edits, self.unrelated = torch.arange(len(ids), device=device).split(n)
        self.edits, self.unrelated = torch.stack(self.edits, 1), self.unrelated[:, None]  # (n, templates), (n, 1)
        own = job.model.config.to_dict()
        self.activation = own.get("hidden_act") or own.get("hidden_activation") or own["activation_function"]
        self.sigma, self.distance = sigma_of(self.activation, config.distance_activation), config.distance

    def delta(self, rows: torch.Tensor, D: torch.Tensor) -> torch.Tensor:
        """Δ of these rows, (R,)."""
        before = self.tail.value[rows]  # W a + b, (R, T, d)
        change = self.sigma(before + self.a[rows] @ D.T) - self.sigma(before)
        return pooled(change.norm(dim=-1), self.prompt[rows], self.distance)

    def ce(self, rows: torch.Tensor, D: torch.Tensor) -> torch.Tensor:
        """CE(r | x) through W′, the mean over a target's tokens and over these rows."""
        tail, scored = self.tail, self.labels[rows] != -100
        value = tail.value[rows] + self.a[rows] @ D.T  # W′ a + b
        hidden = tail(rows, tail.out[rows] - tail.after(tail.value[rows]) + tail.after(value))
        logp = head(self.model, hidden[scored]).float().log_softmax(-1)  # (tokens, V)
        nll = -logp.gather(1, self.labels[rows][scored][:, None]).squeeze(1)
        return (nll / scored.sum(1, keepdim=True).expand_as(scored)[scored]).sum() / len(rows)


def unrelated(job, seed: int) -> list[Request]:
    """A question for each edit that has nothing to do with it: from built-in facts never scored, or the retain set."""
    pool = [qa.question for qa in (job.retain if job.config.unrelated == "retain" else covariance_facts())]
    forgotten = {qa.question for qa in job.forget}
    pool = [question for question in pool if question not in forgotten]
    random.Random(f"unrelated {seed}").shuffle(pool)
    return [Request((), question, "", ()) for question in itertools.islice(itertools.cycle(pool), len(job.requests))]


class SideMemory(Adapter):
    """A patch: ``side.j`` = D = W′ − W of memory j, (d, d_ffn), and ``smallest``, the smallest Δ of its edits."""

    needs = ("layer", "hparams", "activation")

    def _read(self) -> None:
        super()._read()
        smallest, n = self._tensors.get("smallest"), len(self._tensors) - 1
        sides = [self._tensors.get(f"side.{j}") for j in range(n)]
        if smallest is None or smallest.shape != (n,) or not n or any(D is None for D in sides):
            raise PatchError(
                "a side memory has side.0, side.1, … and as many numbers in 'smallest': the patch is corrupt."
            )
        if sides[0].ndim != 2 or len({D.shape for D in sides}) != 1:
            raise PatchError("the memories side.0, side.1, … are no matrices of one shape: the patch is corrupt.")

    @property
    def sizes(self) -> tuple[int, int]:
        return tuple(self._tensors["side.0"].shape)

    def memories(self, device) -> list[tuple[torch.Tensor, float]]:
        """(D, the smallest Δ of its edits), memory by memory."""
        copy = self.on_device(torch.device(device))
        return [(copy[f"side.{j}"], smallest) for j, smallest in enumerate(self._tensors["smallest"].tolist())]

    def act(self, entering: torch.Tensor, leaving: torch.Tensor, now: Pass) -> torch.Tensor | None:
        config, a, before = self.info["hparams"], entering.float(), leaving.float()
        by_token = config["routing"] == "token"
        if not now.prompt and not by_token and now.cache not in now.kept:
            return None  # this cache was not filled with the patch on: the base model's sequence
        memories = self.memories(entering.device)
        changes = torch.stack([a @ D.T for D, _ in memories])  # W′ a − W a, (memories, B, T, d)
        if now.prompt or by_token:
            sigma = sigma_of(self.info["activation"], config["distance_activation"])
            norm = (sigma(before + changes) - sigma(before)).norm(dim=-1)  # (memories, B, T)
            delta = pooled(norm, now.real(entering), config["distance"])[..., None].expand_as(norm)
            if by_token:  # behind the prompt every token decides for itself
                behind = torch.arange(norm.shape[-1], device=norm.device) >= now.end(norm.shape[-1])
                delta = torch.where(behind, norm, delta)
            smallest = torch.tensor([smallest for _, smallest in memories], device=delta.device)
            excess, route = (delta - config["act_ratio"] * smallest[:, None, None]).max(0)  # (B, T)
            route = torch.where(excess > 0, route, -1)  # -1: the main memory
            now.decided = route[:, :1]
        else:
            route = now.kept[now.cache].expand(before.shape[:2])
        chosen = changes.gather(0, route.clamp(min=0)[None, ..., None].expand(1, *before.shape))[0]
        return torch.where((route >= 0)[..., None], before + chosen, before).to(leaving.dtype)


def side_memory(of, m, config, x) -> dict:
    """What `wise` needs: all tokens' keys, W and the side memory in float32, and one edit's steps."""
    R, T, W, above = x["n"] * (x["templates"] + 1), x["T"], m.d * m.d_ffn, m.layers - config.layers[0] - 1
    texts = {"all keys; MLP and block output, float32": R * T * (m.d_ffn + 2 * m.d) * 4}
    side = {"W in float32": 0 if m.bytes == 4 else 4 * W, "the caller's D, the mask": (4 + 1) * W}
    tokens = (x["templates"] + 1) * T
    return {
        "once": {**texts, "one pass": of.forward(m, R * T)},
        "mask": {**texts, "W in float32": side["W in float32"], "D and the random numbers": 2 * 4 * W},
        "steps": {
            **texts,
            **side,
            "D, its gradient, and three terms of a step": 5 * 4 * W,
            "activations": tokens * (of.activations(m) + 2 * m.q * m.bytes) * (above + 1),
            "logits": of.scores(m, x["templates"] * x["scored"]),
        },
        "smallest Δ": {**texts, **side, "keys and outputs of all edits": x["n"] * T * (m.d_ffn + 4 * m.d) * 4},
        "report": {"the patch on": 4 * W},
    }
