"""A side memory beside one layer, and the router that decides which questions go through it. Letters as in wise.py.

Sources: Wang et al. 2024 (WISE, eq. 2-3 and 6-7); Yadav et al. 2023 (TIES).
"""

import itertools
import random

import torch
from transformers.activations import ACT2FN

from ..adapter import Adapter, Pass
from ..data import covariance_facts
from ..errors import PatchError
from .positions import joined, lookup
from .registry import Request
from .tail import Tail


def sigma_of(activation: str, wanted: bool):
    """The function around W a and W′ a in Δ: the model's activation if wanted, else none, as in the paper."""
    return ACT2FN[activation] if wanted else lambda x: x


def pooled(norm: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Δ (…,): the mean of ‖W a − W′ a‖ (…, T) over real tokens."""
    return norm.masked_fill(~real, 0.0).sum(-1) / real.sum(-1).clamp(min=1)


def ties(changes: list[torch.Tensor], density: float, weight: float) -> torch.Tensor:
    """TIES: keep the largest entries of each change, choose a sign, average those that agree."""
    largest = []
    for change in changes:
        size = max(1, int(density * change.numel()))
        least = change.abs().flatten().kthvalue(change.numel() - size + 1).values
        largest.append(torch.where(change.abs() >= least, change, 0.0))
    stack = weight * torch.stack(largest)
    agree = (stack.sign() == stack.sum(0).sign()) & (stack != 0)
    return (stack * agree).sum(0) / (weight * agree.sum(0)).clamp(min=1e-8)


class Texts:
    """One request in every context with its target, and behind them its unrelated prompt, token by token.

    ``a`` (M, d_ffn) enters the layer and ``before`` (M, d) = W a + b leaves it; ``row`` (M,) is a token's text, of
    which the last is the unrelated one, and ``prompt`` (M,) says whether routing sees the token.
    """

    def __init__(self, job, request: Request, other: Request, sigma):
        config, how = job.config, (job.prompt_format, "prompt_last")
        about = (job.tokenizer, [request])
        edit = joined([lookup(*about, t, *how, targets=True, end=config.train_end) for t in config.context_templates])
        unrelated = lookup(job.tokenizer, [other], "{}", *how, targets=False)
        self.tail, beside = (Tail(job.model, config.layers[0], texts, whole=True) for texts in (edit, unrelated))
        self.n, self.m, self.sigma = len(edit.ids), int(self.tail.mask.sum()), sigma  # texts and tokens of the request
        self.a = torch.cat([self.tail.key[self.tail.mask], beside.key[beside.mask]])
        self.before = torch.cat([self.tail.value[self.tail.mask], beside.value[beside.mask]])
        row, order = torch.cat([self.tail.mask.nonzero(), beside.mask.nonzero()]).T
        row[self.m :] = self.n
        last = torch.cat([edit.position, unrelated.position]).to(row.device)
        self.row, self.prompt, self.count = row, order <= last[row], last + 1

    def delta(self, change: torch.Tensor) -> torch.Tensor:
        """Δ of every text from W′ a − W a (M, d): of the request in its contexts, then of the unrelated prompt."""
        norm = (self.sigma(self.before + change) - self.sigma(self.before)).norm(dim=-1) * self.prompt
        return norm.new_zeros(self.n + 1).index_add(0, self.row, norm) / self.count

    def ce(self, change: torch.Tensor) -> torch.Tensor:
        """CE(r | x) through W′, the mean over a target's tokens and over the contexts."""
        tail = self.tail
        value = tail.value.masked_scatter(tail.mask[..., None], (self.before + change)[: self.m])  # W′ a + b
        hidden = tail.out - tail.after(tail.value) + tail.after(value)
        rows = torch.arange(self.n, device=hidden.device)
        return tail.nll(rows, tail(rows, hidden)).mean()

    def asked(self) -> tuple[torch.Tensor, torch.Tensor]:
        """a and W a + b of the bare question's prompt, which is asked without a context, (T, …) each."""
        bare = (self.row == 0) & self.prompt
        return self.a[bare], self.before[bare]


def activation_of(model) -> str:
    """The name of the model's activation function."""
    own = model.config.to_dict()
    return own.get("hidden_act") or own.get("hidden_activation") or own["activation_function"]


def unrelated(job) -> list[Request]:
    """A question for each edit that has nothing to do with it, from built-in facts that are never scored."""
    forgotten = {qa.question for qa in job.forget}
    pool = [qa.question for qa in covariance_facts() if qa.question not in forgotten]
    random.Random(f"unrelated {job.seed}").shuffle(pool)
    return [Request((), question, "", ()) for question in itertools.islice(itertools.cycle(pool), len(job.requests))]


class SideMemory(Adapter):
    """A patch: ``side.j`` = D = W′ − W of memory j, (d, d_ffn), and ``smallest``, the smallest Δ of its edits."""

    needs = ("layer", "hparams", "activation")

    def _read(self) -> None:
        super()._read()
        smallest, n = self._tensors.get("smallest"), len(self._tensors) - 1
        sides = [self._tensors.get(f"side.{j}") for j in range(n)]
        if smallest is None or smallest.shape != (n,) or not n or any(D is None for D in sides):
            raise PatchError("a side memory has side.0, … and as many numbers in 'smallest': the patch is corrupt.")
        if sides[0].ndim != 2 or len({D.shape for D in sides}) != 1:
            raise PatchError("the memories side.0, side.1, … are no matrices of one shape: the patch is corrupt.")
        if self.info["hparams"].get("distance", "mean") != "mean":
            raise PatchError(
                "this patch has the distance 'max', which left with version 0.3: use version 0.2 or edit anew."
            )

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
            delta = pooled(norm, now.real(entering))[..., None].expand_as(norm)
            if by_token:  # behind the prompt every token decides for itself
                behind = torch.arange(norm.shape[-1], device=norm.device) >= now.end(norm.shape[-1])
                delta = torch.where(behind, norm, delta)
            least = torch.tensor([smallest for _, smallest in memories], device=delta.device)[:, None, None]
            excess, route = (delta - config["act_ratio"] * least).max(0)  # (B, T)
            route = torch.where(excess > 0, route, -1)  # -1: the main memory
            now.decided = route[:, :1]
        else:
            route = now.kept[now.cache].expand(before.shape[:2])
        chosen = changes.gather(0, route.clamp(min=0)[None, ..., None].expand(1, *before.shape))[0]
        return torch.where((route >= 0)[..., None], before + chosen, before).to(leaving.dtype)
