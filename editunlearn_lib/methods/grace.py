"""GRACE: a codebook at one layer. Where a question's key is near a stored one, the layer says the stored value.

Source: Hartvigsen et al. 2023, "Aging with GRACE", algorithm 1. Letters:

    k       the down projection's input at the last prompt token, (d_ffn,)
    v, ε    what the layer puts out there instead, (d,), and how far from its key that reaches

    h(x) = v_i  if  d = ‖k(x) − k_i‖ ≤ ε_i  for the nearest key i,  else  W k(x) + b

    A new question at distance d from the nearest key i (the first question: no key, d = ∞):
      d > ε_i + ε₀         a new key with radius ε₀
      the same target      ε_i = max(ε_i, d); its value is trained on
      another target       a new key with radius d/2, and ε_i = d/2 − 1e-5

Of keys at the same distance the newest counts, and a radius below 0 (the same question, another target) ends its key.
EasyEdit prepends the labels while it appends the keys, so that its third case looks at the wrong label; this follows
the original, which appends both.
"""

import logging
from dataclasses import dataclass

import torch

from ..adapter import Adapter, Pass
from ..errors import PatchError, RequestError, check_name
from .positions import lookup, one_layer
from .registry import EASYEDIT, LLAMA2, LLAMA31, MISTRAL, OURS, Job, Outcome, register
from .tail import Tails

log = logging.getLogger(__name__)

# a question asked in another batch has its key elsewhere by rounding, in parts of ‖k‖, and a radius may end at a key
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@dataclass(frozen=True)
class GRACEConfig:
    """EasyEdit's field names. Distances scale with the model: no ``eps`` serves two of them."""

    layers: tuple[int, ...] = (27,)  # one
    edit_lr: float = 1.0
    n_iter: int = 50
    eps: float = 1.0  # ε₀
    replacement: str = "replace_last"  # the value stands at the last prompt token
    train_end: bool = False  # whether the end token belongs to the target

    @staticmethod
    def adapted(where: str, values: dict) -> dict:
        """EasyEdit's other places for a value are not offered: a warning, and the one that is."""
        place = values.get("replacement", "replace_last")
        check_name("replacement", place, ("replace_last", "replace_all", "replace_prompt"))
        if place == "replace_last":
            return values
        told = "%s: replacement %r is not offered, replace_last is used: the value at the last prompt token."
        log.warning(told, where, place)
        return {**values, "replacement": "replace_last"}


def grace(job: Job) -> Outcome:
    """Keys first (no value moves a key); then the values, together where their keys do not meet, else in order."""
    config, layer, how = job.config, one_layer(job), (job.prompt_format, "prompt_last")
    if config.replacement != "replace_last":
        raise RequestError(f"replacement must be 'replace_last', not {config.replacement!r}.")
    texts = lookup(job.tokenizer, job.requests, "{}", *how, targets=True, end=config.train_end)
    tails = Tails(job.model, layer, texts)
    book = job.previous.tensors() if job.previous else {"keys": (), "values": (), "radii": torch.zeros(0)}
    keys, values, radii = list(book["keys"]), list(book["values"]), book["radii"].tolist()
    labels = list(job.previous.info["labels"]) if job.previous else []
    generator = torch.Generator().manual_seed(job.seed)
    entries = []  # the codebook entry of every request
    for k, request in zip(tails.key.cpu(), job.requests, strict=True):
        near, i = float("inf"), -1
        if keys:
            near, i = (x.item() for x in nearest(k[None], torch.stack(keys), torch.tensor(radii)))
        meets = bool(keys) and near <= radii[i] + config.eps
        if meets and labels[i] == request.target:  # the same target
            radii[i] = max(radii[i], near)
        else:  # a new key
            radius = config.eps
            if meets:  # another target
                radius, radii[i] = near / 2, near / 2 - 1e-5
            i = len(keys)
            keys, radii, labels = [*keys, k], [*radii, radius], [*labels, request.target]
            values.append(torch.rand(tails.value.shape[-1], generator=generator))  # uniform in [0, 1)
        entries.append(i)
    V, rows, left = torch.stack(values).to(tails.key.device), {}, list(range(len(entries)))
    while left:  # of every entry the first request that is left
        first = list({entries[n]: n for n in reversed(left)}.values())
        own = torch.tensor([entries[n] for n in first])
        V[own], reports = train_values(job, tails, torch.tensor(first, device=V.device), V[own])
        rows |= dict(zip(first, reports, strict=True))
        left = [n for n in left if n not in first]
    rows = [{**rows[n], "entry": i, "radius": radii[i]} for n, i in enumerate(entries)]
    tensors = {"keys": torch.stack(keys), "values": V.float(), "radii": torch.tensor(radii)}
    return Outcome(tensors, rows, Codebook, {"layer": layer, "labels": labels})


def train_values(job: Job, tails: Tails, rows: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, list[dict]]:
    """v = argmin CE(r | x with v at the last prompt token) by Adam, for each of these rows from its v (R, d); a log."""
    v = v.clone().requires_grad_(True)
    adam = torch.optim.Adam([v], lr=job.config.edit_lr)

    number = torch.full((len(tails.key),), -1, device=rows.device)  # of a text among these rows
    number[rows] = torch.arange(len(rows), device=rows.device)

    def loss():
        nll = v.new_zeros(len(rows))
        for of, own, tail in tails.of(number >= 0):
            hidden = tail(own, tail.replace(own, v[number[of]]))
            nll = nll.index_add(0, number[of], tail.nll(own, hidden))
        return nll

    with torch.enable_grad():
        for _ in job.bar(range(job.config.n_iter), "GRACE"):
            (v.grad,) = torch.autograd.grad(loss().sum(), v)
            adam.step()
    v = v.detach()
    with torch.no_grad():
        after = torch.stack([loss(), (v - tails.value[rows]).norm(dim=1)], 1).tolist()
    return v, [{"steps": job.config.n_iter, "loss": nll, "delta_norm": norm} for nll, norm in after]


def nearest(k: torch.Tensor, keys: torch.Tensor, radii: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance and number of the nearest key, each (B,), for k (B, d_ffn)."""
    distance = torch.cdist(k, keys, compute_mode="donot_use_mm_for_euclid_dist")  # (B, n)
    distance = distance.masked_fill(radii < 0, torch.inf)
    least = distance.min(1, keepdim=True).values
    return least[:, 0], torch.where(distance == least, torch.arange(len(keys), device=k.device), -1).max(1).values


class Codebook(Adapter):
    """GRACE's patch: ``keys`` (n, d_ffn), ``values`` (n, d), ``radii`` (n,); ``info["labels"]`` are the targets."""

    kind = "grace"
    needs = ("layer", "labels")

    def _read(self) -> None:
        super()._read()
        dims = {name: tensor.ndim for name, tensor in self._tensors.items()}
        n = len(self.info["labels"])
        if dims != {"keys": 2, "values": 2, "radii": 1} or any(len(tensor) != n for tensor in self._tensors.values()):
            raise PatchError("a codebook has keys, values, radii and labels, as many of each: the patch is corrupt.")

    @property
    def sizes(self) -> tuple[int, int]:
        return self._tensors["values"].shape[1], self._tensors["keys"].shape[1]

    def act(self, entering: torch.Tensor, leaving: torch.Tensor, now: Pass) -> torch.Tensor | None:
        if not now.prompt:
            return None
        rows, order = (torch.arange(size, device=entering.device) for size in entering.shape[:2])  # (B,), (T,)
        last = torch.where(now.real(entering), order, -1).max(1).values.clamp(min=0)  # the last prompt token
        book, k = self.on_device(entering.device), entering[rows, last].float()  # (B, d_ffn)
        d, i = nearest(k, book["keys"], book["radii"])
        inside = d <= book["radii"][i] + ROUNDING.get(entering.dtype, 1e-5) * k.norm(dim=1)
        changed = leaving.clone()
        changed[rows[inside], last[inside]] = book["values"][i[inside]].to(leaving.dtype)
        return changed


# fmt: off
HPARAMS = {"layers": (27,), "edit_lr": 1.0, "n_iter": 50, "eps": 1.0}
LIKE_LLAMA2 = [(HPARAMS, f"{OURS}; that of Llama-2-7B")]
register(
    "grace", GRACEConfig, grace, label="GRACE", colour="#CC79A7", symbol="diamond", order=70,
    modes=("sequential",), edits=True, continues=True, ours=("replacement",),
    memory=lambda m, config, x: {"report": {"the patch on": 4 * x["n"] * (m.d_ffn + m.d)}},
    presets={LLAMA2: [(HPARAMS, EASYEDIT)], MISTRAL: LIKE_LLAMA2, LLAMA31: LIKE_LLAMA2},
    # keys of two questions at the pocket's last prompt token are 7 apart in layer 2, 30 in layer 4, 320 in layer 5
    trials=[{"layers": [layer], "eps": eps, "train_end": True} for layer, eps in (
        (2, 3.0), (2, 6.0), (4, 8.0), (4, 14.0), (5, 80.0), (5, 140.0))],
)
