"""WISE: a second copy of one matrix takes the edits; each question is routed to the copy that knows it.

Source: Wang et al. 2024, "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing", eq. 2-7. Letters:

    W, W′   the down projection of one late layer and its side memory, which starts as W, (d, d_ffn)
    a       the input of that projection, (T, d_ffn)
    Δ       the mean of ‖W a − W′ a‖ over the prompt's real tokens: Δ_edit of the request, Δ_loc of an unrelated prompt

    minimise  CE(r | x) + [Δ_loc − α]₊ + [β − Δ_edit]₊ + [γ − (Δ_edit − Δ_loc)]₊      α, β, γ = act_margin

by plain SGD on a random fraction ρ of the entries of W′ (a shard), one edit after another; each bracket is averaged over
its positive entries. After every ``save_freq`` edits a new shard begins, after every ``merge_freq`` the shards become one
memory by TIES. At inference a question with Δ > act_ratio · (the smallest Δ_edit of a memory) goes through that memory,
with several through the one where it exceeds by most. The published 500 and 1000 never merge at 100 edits or fewer.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import torch
from transformers.activations import ACT2FN

from ..errors import PatchError, check_name
from ..models import down_weight, head
from ..patch import KINDS, Adapter, Pass
from . import Job, Outcome, register
from .locate import Request, lookup
from .tail import Tail


@dataclass(frozen=True)
class WISEConfig:
    """EasyEdit's field names, and below them options that EasyEdit does not have or decides otherwise."""

    layers: tuple[int, ...] = (27,)  # one
    edit_lr: float = 1.0
    n_iter: int = 70
    act_margin: tuple[float, ...] = (5.0, 20.0, 10.0)  # α, β, γ
    act_ratio: float = 0.88
    mask_ratio: float = 0.2  # ρ
    norm_constraint: float = 1.0  # no entry of W′ is farther than this from W
    save_freq: int = 500
    merge_freq: int = 1000
    merge_alg: str = "ties"
    densities: float = 0.53
    weights: float = 1.0
    retrieve: bool = True  # False: all memories become one in the end
    weight_decay: float = 1e-5
    context_templates: tuple[str, ...] = ("{}",)
    train_end: bool = False  # whether the end token belongs to the target
    routing: str = "prompt"  # once, at prefill; "token": again at every token, as EasyEdit does
    distance: str = "mean"  # of the norms over the tokens; "max": ours, not published
    distance_activation: bool = False  # the activation function around W a and W′ a, as EasyEdit has it
    unrelated: str = "texts"  # where unrelated prompts come from; "retain": the retain set, which WISE then reads
    seed: int | None = None  # of masks and unrelated prompts; None: that of `unlearn`


def norms(difference: torch.Tensor, real: torch.Tensor, how: str) -> torch.Tensor:
    """Δ (R,) from the difference of the outputs (R, T, d), over real tokens (R, T)."""
    norm = difference.norm(dim=-1).masked_fill(~real, 0.0)
    return norm.sum(1) / real.sum(1) if how == "mean" else norm.max(1).values


def hinge(x: torch.Tensor) -> torch.Tensor:
    """[x]₊, averaged over its positive entries."""
    return x[x > 0].mean() if (x > 0).any() else x.new_zeros(())


def ties(changes: list[torch.Tensor], density: float, weight: float) -> torch.Tensor:
    """TIES (Yadav et al. 2023): keep the largest entries of each change, choose a sign, average those that agree."""
    kept = []
    for change in changes:
        size = max(1, int(density * change.numel()))
        least = change.abs().flatten().kthvalue(change.numel() - size + 1).values
        kept.append(torch.where(change.abs() >= least, change, 0.0))
    stack = weight * torch.stack(kept)
    agree = (stack.sign() == stack.sum(0).sign()) & (stack != 0)
    return (stack * agree).sum(0) / (weight * agree.sum(0)).clamp(min=1e-8)


def wise(job: Job) -> Outcome:
    """One edit after another; what lies below the layer is computed once for all of them."""
    config, model, layer = job.config, job.model, job.config.layers[0]
    for name, value, known in (("routing", config.routing, ("prompt", "token")), ("distance", config.distance, ("mean", "max")),
                               ("unrelated", config.unrelated, ("texts", "retain")), ("merge_alg", config.merge_alg, ("ties",))):  # fmt: skip
        check_name(name, value, known)
    seed = job.seed if config.seed is None else config.seed
    generator, W = torch.Generator().manual_seed(seed), down_weight(model, layer).detach().float()
    edits = [Request(r.ids, r.question, r.target, r.subjects) for r in job.requests]
    n, templates = len(edits), config.context_templates
    loc = [Request((), question, "", ()) for question in unrelated(job, n, seed)]
    texts = [lookup(job.tokenizer, edits, t, job.prompt_format, "prompt_last", targets=True, end=config.train_end) for t in templates]  # fmt: skip
    texts.append(lookup(job.tokenizer, loc, "{}", job.prompt_format, "prompt_last", targets=False))
    T = max(t.ids.shape[1] for t in texts)
    ids, mask, labels = (
        torch.cat([torch.nn.functional.pad(getattr(t, name), (0, T - t.ids.shape[1]), value=fill) for t in texts])
        for name, fill in (("ids", 0), ("mask", 0), ("labels", -100))
    )
    position = torch.cat([t.position for t in texts])
    tail = Tail(model, layer, ids, mask, torch.zeros_like(position), all_keys=True)
    prompt = (torch.arange(T) <= position[:, None]).to(W.device)  # (rows, T): routing sees nothing else
    a, labels = tail.key, labels.to(W.device)
    sigma = ACT2FN[activation(model)] if config.distance_activation else lambda x: x

    def delta_of(rows, D):  # Δ of these rows if W′ = W + D
        before = tail.value[rows]
        return norms(sigma(before + a[rows] @ D.T) - sigma(before), prompt[rows], config.distance)

    memories = job.previous.memories(W.device) if job.previous else []  # (D, the smallest Δ_edit)
    shards: list[tuple[torch.Tensor, list[int]]] = []  # D and its edits, not merged yet
    log, D, held = [], torch.zeros_like(W), []
    for i in job.bar(range(n), "WISE"):
        if i % config.save_freq == 0:
            if held:
                shards.append((D, held))
            D, held = torch.zeros_like(W), []
            rho = (torch.rand(W.shape, generator=generator) < config.mask_ratio).to(W.device)
        rows = torch.arange(len(templates), device=W.device) * n + i
        D, row = edit(job, tail, rows, len(templates) * n + i, D, W, rho, labels, delta_of)
        log.append(row)
        held.append(i)
        if (i + 1) % config.merge_freq == 0:
            memories.append(merged([*shards, (D, held)], config, delta_of))
            shards, held, D = [], [], torch.zeros_like(W)
    if held:
        shards.append((D, held))
    if config.retrieve:
        memories += [merged([shard], config, delta_of) for shard in shards]
    elif shards:
        memories.append(merged(shards, config, delta_of))
    tensors = {f"side.{j}": D for j, (D, _) in enumerate(memories)}
    tensors["smallest"] = torch.tensor([smallest for _, smallest in memories])
    notes = {"layer": layer, "activation": activation(model)}
    return Outcome(tensors, log, SideMemory, notes)


def merged(shards, config: WISEConfig, delta_of) -> tuple[torch.Tensor, float]:
    """One memory from shards, and the smallest Δ of the edits it holds."""
    changes = [D for D, _ in shards]
    D = changes[0] if len(changes) == 1 else ties(changes, config.densities, config.weights)
    with torch.no_grad():
        return D, float(delta_of(torch.tensor([i for _, held in shards for i in held], device=D.device), D).min())


def edit(job: Job, tail: Tail, rows, loc: int, D, W, rho, labels, delta_of) -> tuple[torch.Tensor, dict]:
    """One request (rows: its templates) against one unrelated prompt (row ``loc``): D = W′ − W after its steps."""
    config, (alpha, beta, gamma) = job.config, job.config.act_margin
    wanted = labels[rows]
    scored, last, loss = wanted != -100, float("inf"), torch.zeros(())
    both = torch.cat([rows, rows.new_tensor([loc])])
    with torch.enable_grad():
        for step in range(config.n_iter):
            D = D.detach().requires_grad_(True)
            value = tail.value[rows] + tail.key[rows] @ D.T  # W′ a + b
            hidden = tail(rows, tail.out[rows] - tail.after(tail.value[rows]) + tail.after(value))
            logp = head(job.model, hidden[scored]).float().log_softmax(-1)
            nll = torch.zeros_like(scored, dtype=logp.dtype).masked_scatter(scored, -logp.gather(1, wanted[scored][:, None]))
            ce = (nll.sum(1) / scored.sum(1)).mean()
            delta = delta_of(both, D)
            d_edit, d_loc = delta[:-1], delta[-1:]
            loss = ce + hinge(d_loc - alpha) + hinge(beta - d_edit) + hinge(gamma - (d_edit - d_loc))
            moved, last = abs(loss.item() - last), loss.item()
            if last <= 0.02 and moved <= 1e-4:
                break
            (gradient,) = torch.autograd.grad(loss, D)
            with torch.no_grad():  # weight decay is of W′ = W + D, and only on the shard's entries
                D = D - config.edit_lr * rho * (gradient + config.weight_decay * (W + D))
                D = D.clamp(-config.norm_constraint, config.norm_constraint)
    D = D.detach()
    return D, {"steps": step + 1, "loss": last, "nll": ce.item(), "delta_edit": d_edit.mean().item(),
               "delta_loc": d_loc.item(), "delta_norm": D.norm().item()}  # fmt: skip


def unrelated(job: Job, n: int, seed: int) -> list[str]:
    """n questions that have nothing to do with the edits: built-in facts that are never scored, or the retain set."""
    from ..data import covariance_facts

    pool = [qa.question for qa in (job.retain if job.config.unrelated == "retain" else covariance_facts())]
    forgotten = {qa.question for qa in job.forget}
    pool = [question for question in pool if question not in forgotten]
    random.Random(f"unrelated {seed}").shuffle(pool)
    return list(itertools.islice(itertools.cycle(pool), n))


def activation(model) -> str:
    """The name of the model's activation function."""
    config = model.config
    return getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None) or config.activation_function


class SideMemory(Adapter):
    """WISE's patch: ``side.j`` = W′ − W of memory j, (d, d_ffn), and ``smallest``, the smallest Δ of its edits."""

    kind = "wise"

    def _read(self) -> None:
        sides = [name for name in self._tensors if name.startswith("side.")]
        if set(self._tensors) != {*sides, "smallest"} or len(self._tensors["smallest"]) != len(sides) or not sides:
            raise PatchError("a side memory has side.0, side.1, … and as many numbers in 'smallest': the patch is corrupt.")

    def memories(self, device) -> list[tuple[torch.Tensor, float]]:
        """(W′ − W, the smallest Δ of its edits), memory by memory."""
        smallest = self._tensors["smallest"].tolist()
        return [(self._tensors[f"side.{j}"].to(device), s) for j, s in enumerate(smallest)]

    def act(self, entering: torch.Tensor, leaving: torch.Tensor, now: Pass) -> torch.Tensor | None:
        config, a = self.info["hparams"], entering.float()
        sigma = ACT2FN[self.info["activation"]] if config["distance_activation"] else lambda x: x
        memories = self.memories(entering.device)
        decide = now.prompt or config["routing"] == "token"
        route = None if decide else now.kept.get(now.cache)
        if route is None and not decide:
            return None  # this cache was not filled with the patch on: the base model's sequence
        changes = [a @ D.T for D, _ in memories]  # W′ a − W a, (B, T, d)
        if decide:
            real, before = now.real(entering), leaving.float()
            excess = torch.stack([
                norms(sigma(before + change) - sigma(before), real, config["distance"]) - config["act_ratio"] * smallest
                for change, (_, smallest) in zip(changes, memories, strict=True)
            ])  # (memories, B)
            route = torch.where(excess.max(0).values > 0, excess.argmax(0), -1)  # (B,), -1: the main memory
            now.decided = route
        chosen = torch.stack(changes)[route.clamp(min=0), torch.arange(len(route), device=route.device)]
        return torch.where((route >= 0)[:, None, None], leaving.float() + chosen, leaving.float()).to(leaving.dtype)


KINDS[SideMemory.kind] = SideMemory
register("wise", WISEConfig, wise, modes=("sequential",), edits=True, continues=True)
