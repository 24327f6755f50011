"""WISE: a second copy of one matrix takes the edits; each question is routed to the copy that knows it.

Source: Wang et al. 2024, "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing", eq. 2-7. Letters:

    W, W′   the down projection of one late layer and its side memory, which starts as W, (d, d_ffn)
    D       W′ − W
    a       the input of that projection, (T, d_ffn)
    Δ       the mean of ‖W a − W′ a‖ over the prompt's real tokens: Δ_edit of the request, Δ_loc of an unrelated prompt

    minimise  CE(r | x) + [Δ_loc − α]₊ + [β − Δ_edit]₊ + [γ − (Δ_edit − Δ_loc)]₊      α, β, γ = act_margin

by plain SGD on a random fraction ρ of the entries of W′ (a shard), one edit after another; each bracket is averaged
over its positive entries. After every ``save_freq`` edits a new shard begins, after every ``merge_freq`` the shards
become one memory by TIES. At inference a question with Δ > act_ratio · (the smallest Δ_edit of a memory) goes through
that memory, with several through the one where it exceeds by most. The published 500 and 1000 never merge at 100 edits
or fewer. Δ, CE, TIES and the routing stand in routing.py. EasyEdit's weight decay also moves entries outside of the
shard, and it divides CE by one token too many: not here.
"""

from dataclasses import dataclass

import torch

from ..errors import RequestError, check_name
from ..models import down_weight
from .positions import one_layer
from .registry import EASYEDIT, LLAMA2, LLAMA31, MISTRAL, Job, Outcome, register
from .routing import SideMemory, Texts, activation_of, sigma_of, ties, unrelated


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
    retrieve: bool = True  # False: all shards become one memory in the end
    weight_decay: float = 1e-5
    context_templates: tuple[str, ...] = ("{}",)
    train_end: bool = False  # whether the end token belongs to the target
    routing: str = "prompt"  # once, at prefill; "token": again at every token, as EasyEdit does
    distance_activation: bool = False  # the activation function around W a and W′ a, as EasyEdit has it


class WISEMemory(SideMemory):
    """WISE's patch."""

    kind = "wise"


def wise(job: Job) -> Outcome:
    """One edit after another: of each what lies below the layer is computed once."""
    config, activation = check(job), activation_of(job.model)
    W = down_weight(job.model, config.layers[0]).detach().float()
    sigma = sigma_of(activation, config.distance_activation)
    others, generator = unrelated(job), torch.Generator().manual_seed(job.seed)
    memories = job.previous.memories(W.device) if job.previous else []  # (D, the smallest Δ_edit)
    log, shards, asked = [], [], []  # D and its edits, not merged yet
    for i in job.bar(range(len(job.requests)), "WISE"):
        if i % config.save_freq == 0:
            rho = (torch.rand(W.shape, generator=generator) < config.mask_ratio).to(W)  # the shard
        if i % config.save_freq == 0 or not shards:
            shards.append((torch.zeros_like(W), []))
        texts, (D, edits) = Texts(job, job.requests[i], others[i], sigma), shards[-1]
        log, asked = [*log, edit(config, texts, D, W, rho)], [*asked, texts.asked()]
        edits.append(i)
        if config.retrieve and (i + 1) % config.merge_freq == 0:
            memories, shards = [*memories, merged(shards, config, asked, sigma)], []
    for rest in [[shard] for shard in shards] if config.retrieve else [shards]:
        memories.append(merged(rest, config, asked, sigma))
    sides, smallest = zip(*memories, strict=True)
    tensors = {f"side.{j}": D for j, D in enumerate(sides)} | {"smallest": torch.tensor(smallest)}
    return Outcome(tensors, log, WISEMemory, {"layer": config.layers[0], "activation": activation})


def edit(config: WISEConfig, texts: Texts, D: torch.Tensor, W: torch.Tensor, rho: torch.Tensor) -> dict:
    """One request's steps, which change D in place; what goes into the log."""
    alpha, beta, gamma = config.act_margin
    last, steps = float("inf"), 0
    for _ in range(config.n_iter):
        change = (texts.a @ D.T).requires_grad_(True)  # W′ a − W a, (M, d): all that D moves
        with torch.enable_grad():
            ce, delta = texts.ce(change), texts.delta(change)
            d_edit, d_loc = delta[:-1], delta[-1:]  # (templates,), (1,)
            loss = ce + hinge(d_loc - alpha) + hinge(beta - d_edit) + hinge(gamma - (d_edit - d_loc))
        moved, last = abs(loss.item() - last), loss.item()
        if last <= 0.02 and moved <= 1e-4:
            break
        (g,) = torch.autograd.grad(loss, change)
        step = g.T @ texts.a  # ∂ loss / ∂ D
        step.add_(W, alpha=config.weight_decay).add_(D, alpha=config.weight_decay)  # weight decay is of W′
        D.addcmul_(rho, step, value=-config.edit_lr).clamp_(-config.norm_constraint, config.norm_constraint)
        steps += 1
    row = {"steps": steps, "loss": last, "nll": ce.item(), "delta_edit": d_edit.mean().item()}
    return row | {"delta_loc": d_loc.item(), "delta_norm": D.norm().item()}


def hinge(x: torch.Tensor) -> torch.Tensor:
    """[x]₊, averaged over its positive entries."""
    return x[x > 0].mean() if (x > 0).any() else x.new_zeros(())


def merged(shards: list, config: WISEConfig, asked: list, sigma) -> tuple[torch.Tensor, float]:
    """One memory from shards, and the smallest Δ of the edits it holds (asked without a context)."""
    D = shards[0][0] if len(shards) == 1 else ties([D for D, _ in shards], config.densities, config.weights)
    of = [asked[i] for _, edits in shards for i in edits]
    return D, min(float((sigma(before + a @ D.T) - sigma(before)).norm(dim=-1).mean()) for a, before in of)


def check(job: Job) -> WISEConfig:
    """The config; `RequestError` names a field that cannot be meant."""
    config = job.config
    one_layer(job)
    check_name("merge_alg", config.merge_alg, ("ties",))
    check_name("routing", config.routing, ("prompt", "token"))
    if len(config.act_margin) != 3:
        raise RequestError(f"act_margin must be three numbers (α, β, γ), not {config.act_margin}.")
    if job.previous and not config.retrieve:
        raise RequestError("retrieve must be true to continue an earlier patch: its edits cannot be measured again.")
    for name in ("n_iter", "save_freq", "merge_freq"):
        if getattr(config, name) < 1:
            raise RequestError(f"{name} must be at least 1, not {getattr(config, name)}.")
    if job.previous and (earlier := job.previous.info["hparams"]["distance_activation"]) != config.distance_activation:
        raise RequestError(f"distance_activation must be {earlier!r}, as in the earlier patch.")
    return config


def memory(m, config, x) -> dict:
    """All tokens' keys, W and the side memory in float32, and one edit's steps."""
    W, tokens = 4 * m.d * m.d_ffn, (x["templates"] + 1) * x["T"]  # of one edit
    texts = {"all keys; MLP and block output, float32": x["n"] * tokens * (m.d_ffn + 2 * m.d) * 4}
    both = {**texts, "W in float32": 0 if m.bytes == 4 else W}
    side = {**both, "the caller's D, the mask": 5 / 4 * W}
    graph = tokens * (m.activations() + 2 * m.q * m.bytes) * (m.layers - config.layers[0])
    logits = m.scores(x["templates"] * x["scored"])
    return {
        "once": {**texts, "one pass": m.forward(x["n"] * tokens)},
        "mask": {**both, "D and the random numbers": 2 * W},
        "steps": {**side, "D, its gradient, three terms of a step": 5 * W, "activations": graph, "logits": logits},
        "smallest Δ": {**side, "keys and outputs of all edits": x["n"] * x["T"] * (m.d_ffn + 4 * m.d) * 4},
        "report": {"the patch on": W},
    }


# fmt: off
HPARAMS = {
    "layers": (27,), "edit_lr": 1.0, "n_iter": 70, "weight_decay": 1e-5, "act_margin": (5.0, 20.0, 10.0),
    "act_ratio": 0.88, "mask_ratio": 0.2, "norm_constraint": 1.0, "save_freq": 500, "merge_freq": 1000,
    "merge_alg": "ties", "densities": 0.53, "weights": 1.0, "retrieve": True,
}
HPARAMS_8B = {**HPARAMS, "layers": (29,), "edit_lr": 0.9, "n_iter": 30, "act_margin": (5.0, 10.0, 10.0)}
register(
    "wise", WISEConfig, wise, label="WISE", colour="#0072B2", symbol="square", order=80,
    modes=("sequential",), edits=True, continues=True, memory=memory,
    ours=("context_templates", "distance_activation", "routing"),
    presets={LLAMA2: [(HPARAMS, EASYEDIT)], MISTRAL: [(HPARAMS, EASYEDIT)], LLAMA31: [(HPARAMS_8B, EASYEDIT)]},
    trials=[{"layers": [i], "edit_lr": lr, "act_margin": abc, "n_iter": n, "train_end": True} for i, lr, abc, n in (
        (3, 1.0, [150.0, 600.0, 300.0], 150), (4, 0.3, [150.0, 600.0, 300.0], 150),
        (4, 1.0, [500.0, 2000.0, 1000.0], 100), (5, 0.03, [500.0, 2000.0, 1000.0], 100),
        (5, 0.05, [750.0, 3000.0, 1500.0], 150), (5, 0.1, [1000.0, 4000.0, 2000.0], 100))],
)
