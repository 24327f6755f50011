"""What ROME, MEMIT and AlphaEdit share: where a fact sits, its key there, and the value that makes the model say r.

Key k = input of an MLP's down projection at the subject's last token; W k is what the layer writes there.
Source: Meng et al. 2022 (ROME, eq. 3-4), Meng et al. 2023 (MEMIT, eq. 16); conventions as in EasyEdit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import RequestError, check_name
from ..models import (
    block,
    down,
    down_name,
    down_weight,
    encode,
    end_of_turn,
    family_of,
    head,
    n_layers,
    prompt_text,
    question_start,
    with_target,
)
from ..patch import LEFT, RIGHT, Patch
from ..progress import progress
from .hooks import hooked
from .tail import Tail

FACT_TOKENS = ("subject_last", "question_last", "prompt_last")
CHUNK_TOKENS = 16_384  # texts are processed in chunks of about so many tokens
VALUE_BYTES = 8e9  # of activations while values are optimised: 7B in bf16 stays within a card of 24 GB
VECTORS = 32  # hidden vectors that a token keeps in a block until the backward pass, roughly


@dataclass(frozen=True)
class Request:
    """One edit: this question shall be answered by this target. ``subjects`` has one entry a merged question."""

    ids: tuple[str, ...]
    question: str
    target: str
    subjects: tuple[str, ...]

    @property
    def subject(self) -> str | None:
        """The subject whose last token is edited: the last one of a merged request."""
        return self.subjects[-1] if self.subjects else None


@dataclass(frozen=True)
class Lookup:
    """Encoded texts with, per text, the position that is edited and where the target is predicted."""

    ids: torch.Tensor  # (N, T), padded on the right
    mask: torch.Tensor  # (N, T), 1 on real tokens
    position: torch.Tensor  # (N,)
    labels: torch.Tensor  # (N, T): token t+1 where it belongs to the target, else -100


def lookup(
    tokenizer,
    requests: Sequence[Request],
    template: str,
    prompt_format: str,
    fact_token: str,
    *,
    targets: bool,
    end: bool = False,
) -> Lookup:
    """Encode ``template ∘ question`` of every request, with the target behind it if asked for."""
    check_name("fact_token", fact_token, FACT_TOKENS)
    prompts, texts, characters = [], [], []
    start = question_start(tokenizer, prompt_format)
    for request in requests:
        wrapped = template.replace("{}", request.question).strip()
        prompt = prompt_text(tokenizer, wrapped, prompt_format)
        if fact_token == "prompt_last":
            characters.append(len(prompt) - 1)
        elif fact_token == "subject_last" and request.subject:
            found = wrapped.rfind(request.subject)
            if found < 0:
                raise RequestError(f"the subject {request.subject!r} is not in the question {request.question!r}.")
            characters.append(start + found + len(request.subject) - 1)
        else:
            characters.append(start + len(wrapped) - 1)
        text = with_target(prompt, request.target) if targets else prompt
        prompts.append(prompt)
        texts.append(text + end_of_turn(tokenizer, prompt_format) if targets and end else text)
    encoded = encode(tokenizer, texts, side="right", offsets=True)
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    offsets = encoded["offset_mapping"]  # (N, T, 2)
    starts, stops = offsets[..., 0], offsets[..., 1]
    at = torch.tensor(characters)[:, None]
    covers = (starts <= at) & (at < stops) & mask.bool()  # (N, T)
    if not covers.any(1).all():
        row = int((~covers.any(1)).nonzero()[0])
        raise RequestError(f"no token covers the end of the subject in {texts[row]!r}.")
    order = torch.arange(ids.shape[1])
    position = torch.where(covers, order, -1).max(1).values  # the last token that covers the character
    behind = (stops > torch.tensor([len(prompt) for prompt in prompts])[:, None]) & mask.bool()
    if fact_token == "prompt_last":  # a prompt's last space may belong to the target's first token
        position = torch.where(mask.bool() & ~behind, order, -1).max(1).values
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = torch.where(behind[:, 1:], ids[:, 1:], -100)
    return Lookup(ids, mask, position, labels)


@torch.no_grad()
def read(model: nn.Module, module: nn.Module, texts: Lookup, *, inputs: bool) -> torch.Tensor:
    """The input (or output) of a module at every text's position, float32 (N, d)."""
    found = []
    for rows in torch.arange(len(texts.ids)).split(max(1, CHUNK_TOKENS // texts.ids.shape[1])):

        def keep(entering, leaving, rows=rows):
            chosen = entering if inputs else leaving
            found.append(chosen[torch.arange(len(rows)), texts.position[rows].to(chosen.device)].float())

        with hooked(module, keep):
            model(
                input_ids=texts.ids[rows].to(model.device),
                attention_mask=texts.mask[rows].to(model.device),
                use_cache=False,
                logits_to_keep=1,
            )
    return torch.cat(found)


def keys(
    model, tokenizer, requests, layer: int, templates: Sequence[str], prompt_format: str, fact_token: str
) -> torch.Tensor:
    """The keys of every request under every template, (templates, N, d_ffn)."""
    module = down(model, layer)
    return torch.stack(
        [
            read(
                model,
                module,
                lookup(tokenizer, requests, template, prompt_format, fact_token, targets=False),
                inputs=True,
            )
            for template in templates
        ]
    )


def memit_key(found: torch.Tensor) -> torch.Tensor:
    """(templates, N, d) -> (N, d): the bare prompt's key and the mean of the others' weigh the same."""
    return found[0] if len(found) == 1 else (found[0] + found[1:].mean(0)) / 2


@dataclass(frozen=True)
class Values:
    """What the value optimisation found: h₀ and δ, each (N, d), and the keys at the layer, (templates, N, d_ffn)."""

    h0: torch.Tensor
    delta: torch.Tensor
    keys: torch.Tensor
    log: list[dict]


def together(requests: Sequence[Request], templates: Sequence[str], model_config, layer: int, itemsize: int) -> int:
    """How many requests' values are optimised in one batch: about `CHUNK_TOKENS`, fewer where a token weighs much."""
    longest = max(len(request.question) for request in requests) // 3 + 40  # tokens, roughly
    token = (model_config.num_hidden_layers - layer) * model_config.hidden_size * VECTORS * itemsize  # bytes
    return max(1, int(min(CHUNK_TOKENS, VALUE_BYTES / token)) // (longest * (len(templates) + 1)))


def values(
    model,
    tokenizer,
    requests: Sequence[Request],
    layer: int,
    config,
    templates: Sequence[str],
    prompt_format: str,
    *,
    at: str = "block",
    show: bool = True,
) -> Values:
    """The vector that makes the model answer with the target, added to the output of a block or of its MLP (``at``).

    δ = argmin  NLL(r | template ∘ x with h + δ), mean over templates
              + kl_factor · KL(p_δ ‖ p₀) at the subject's last token of "{subject} is a"
              + v_weight_decay · ‖δ‖ / ‖h₀‖²
    by Adam, projected on ‖δ‖ ≤ clamp · ‖h₀‖ after each step. A request stops when its loss is below 0.05 (tested
    before the step); the last of n steps never steps. Requests do not touch each other: Adam works by element, so
    all of them in one batch is the same as one at a time.
    """
    size = together(requests, templates, model.config, layer, model.dtype.itemsize)
    parts = [requests[i : i + size] for i in range(0, len(requests), size)]
    done = [
        _values(model, tokenizer, part, layer, config, templates, prompt_format, at)
        for part in progress(parts, desc="values", enabled=show and len(parts) > 1)
    ]
    h0, delta, keys = (torch.cat(tensors, -2) for tensors in zip(*(part[:3] for part in done), strict=True))
    return Values(h0, delta, keys, [row for part in done for row in part[3]])


def _values(model, tokenizer, requests, layer, config, templates, prompt_format, at):
    device, n = down_weight(model, layer).device, len(requests)
    texts = [
        lookup(tokenizer, requests, template, prompt_format, config.fact_token, targets=True, end=config.train_end)
        for template in templates
    ]
    essence = [
        (i, Request((), f"{subject} is a", "", (subject,)))
        for i, request in enumerate(requests)
        for subject in request.subjects
    ]
    m = len(templates) * n  # the first m rows are prompts, template by template; the rest are KL texts
    owner = torch.tensor([i for i, _ in essence] if config.kl_factor else [], dtype=torch.long, device=device)
    if len(owner):
        kl_texts = lookup(tokenizer, [r for _, r in essence], "{}", "raw", "subject_last", targets=False)
        behind = torch.arange(kl_texts.ids.shape[1]) > kl_texts.position[:, None]
        kl_texts.mask[behind] = 0  # the KL is taken at the subject's last token: what follows cannot matter
        texts.append(kl_texts)
    width = max(t.ids.shape[1] for t in texts)

    def stack(name: str, fill: int) -> torch.Tensor:
        return torch.cat(
            [nn.functional.pad(getattr(t, name), (0, width - t.ids.shape[1]), value=fill) for t in texts]
        ).to(device)

    position = torch.cat([t.position for t in texts]).to(device)
    tail = Tail(model, layer, stack("ids", 0), stack("mask", 0), position)
    S = tail.mask.shape[1]
    column = (position[:m, None] + torch.arange(S, device=device)).clamp(max=width - 1)  # (m, S): which token it is
    labels = torch.where(tail.mask[:m], stack("labels", -100)[:m].gather(1, column), -100)
    scored = labels != -100  # (m, S)
    per_text = scored.sum(1)
    rows = torch.arange(len(position), device=device)
    whose = torch.cat([rows[:n].repeat(len(templates)), owner])

    h0 = (tail.value if at == "mlp" else tail.out)[:n, 0]  # the bare texts' (templates[0])
    delta = torch.zeros_like(h0, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=config.v_lr)
    active, p0 = torch.ones(n, dtype=torch.bool, device=device), None
    seen = torch.zeros(4, n, device=device)  # steps, loss, nll, kl of the last pass of every request
    with torch.enable_grad():
        for step in range(config.v_num_grad_steps):
            now = active[whose].nonzero().flatten()  # rows of requests that have stopped are left out
            prompts, essences = now[now < m], now[now >= m]
            hidden = tail(now, tail.add(now, delta[whose[now]], at))  # (rows, S, d)
            found = scored[prompts]
            logp = head(model, hidden[: len(prompts)][found]).float().log_softmax(-1)  # (scored tokens, V)
            token_nll = -logp.gather(1, labels[prompts][found][:, None]).squeeze(1)
            text_of = prompts[:, None].expand_as(found)[found]
            nll = torch.zeros(m, device=device).index_add(0, text_of, token_nll) / per_text  # (m,)
            nll = nll.view(len(templates), n).mean(0)  # (n,)
            kl = torch.zeros(n, device=device)
            if len(owner):
                p = head(model, hidden[len(prompts) :, 0]).float().log_softmax(-1)  # (KL texts, V)
                p0 = p.detach() if p0 is None else p0
                kl = kl.index_add(0, whose[essences], (p.exp() * (p - p0[essences - m])).sum(-1))
                kl = kl / torch.bincount(owner, minlength=n).clamp(min=1)
            decay = config.v_weight_decay * delta.norm(dim=1) / h0.norm(dim=1) ** 2
            loss = nll + config.kl_factor * kl + decay  # (n,)
            with torch.no_grad():
                seen = torch.where(active, torch.stack([torch.full_like(loss, step), loss, nll, kl]), seen)
                active = active & (loss >= 0.05)
            if step == config.v_num_grad_steps - 1 or not active.any():
                break
            (delta.grad,) = torch.autograd.grad(loss[active].sum(), delta)
            before = delta.detach().clone()
            adam.step()
            with torch.no_grad():
                delta[~active] = before[~active]  # Adam's momentum would move those that have stopped
                limit = config.clamp_norm_factor * h0.norm(dim=1, keepdim=True)
                delta *= (limit / delta.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
    delta = delta.detach()
    table = torch.cat([seen, delta.norm(dim=1)[None], h0.norm(dim=1)[None]]).T.tolist()
    names = ("steps", "loss", "nll", "kl", "delta_norm", "h0_norm")
    log = [{**dict(zip(names, row, strict=True)), "steps": int(row[0])} for row in table]
    return h0, delta, tail.key[:m].view(len(templates), n, -1), log


class Weights:
    """Down projections while they are edited: the original W₀ plus ΔW = left @ right, rounded once, not at each edit.

    ``with Weights(model, layers, previous) as W:`` ``W.add(layer, left, right)``; afterwards the model is what it was.
    What an earlier patch changed is there from the start and stays part of the change, also at layers not edited now.
    """

    def __init__(self, model, layers: Sequence[int], previous: Patch | None = None):
        self.model, self.factors = model, {}
        earlier = previous.tensors() if previous else {}
        changed = [layer for layer in range(n_layers(model)) if down_name(model, layer) + LEFT in earlier]
        self.original = {layer: down_weight(model, layer).detach().clone() for layer in {*layers, *changed}}
        for layer in changed:
            name = down_name(model, layer)
            left, right = earlier[name + LEFT].double(), earlier[name + RIGHT].double()
            if family_of(model).transposed:
                left, right = right.T, left.T
            self.factors[layer] = left.to(self.original[layer].device), right.to(self.original[layer].device)

    def __enter__(self) -> Weights:
        for layer in self.factors:
            self._write(layer)
        return self

    def add(self, layer: int, left: torch.Tensor, right: torch.Tensor) -> None:
        """W += left @ right, (d, r) @ (r, d_ffn), float64, computed where the layer lies."""
        left, right = (factor.to(self.original[layer].device) for factor in (left, right))
        if layer in self.factors:
            before_left, before_right = self.factors[layer]
            left, right = torch.cat([before_left, left], 1), torch.cat([before_right, right], 0)
        self.factors[layer] = left, right
        self._write(layer)

    @torch.no_grad()
    def _write(self, layer: int) -> None:
        left, right = self.factors[layer]
        W = down_weight(self.model, layer)
        W.copy_((self.original[layer].double() + left @ right).to(W.dtype))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The change as tensors of a patch, in the orientation in which each parameter is stored."""
        found = {}
        for layer, (left, right) in self.factors.items():
            if family_of(self.model).transposed:
                left, right = right.T, left.T
            name = down_name(self.model, layer)
            found[name + LEFT], found[name + RIGHT] = left.float().contiguous(), right.float().contiguous()
        return found

    def __exit__(self, *_) -> None:
        with torch.no_grad():
            for layer, W in self.original.items():  # the base model is left as it was, bit for bit
                down_weight(self.model, layer).copy_(W)


def spread(
    job, requests: Sequence[Request], layers: Sequence[int], templates: Sequence[str], W: Weights, solve
) -> list[dict]:
    """The loop of MEMIT and AlphaEdit: z of all requests on the model as it is, then layer by layer its share.

    ``solve(layer, K, R)`` gives ΔW as (left, right) from the keys K (d_ffn, n) and what is missing R (d, n), both
    float64; it is written before the next layer's keys are read.
    """
    model, tokenizer, config, form = job.model, job.tokenizer, job.config, job.prompt_format
    last = block(model, layers[-1])
    found = values(model, tokenizer, requests, layers[-1], config, templates, form, show=job.progress)
    Z = (found.h0 + found.delta).T.double()  # (d, n)
    bare = lookup(tokenizer, requests, "{}", form, config.fact_token, targets=False)
    for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        K = memit_key(keys(model, tokenizer, requests, layer, templates, form, config.fact_token)).T.double()
        R = (Z - read(model, last, bare, inputs=False).T.double()) / left
        W.add(layer, *solve(layer, K, R.to(K.device)))
    return found.log


def context_templates(model, tokenizer, config, seed: int) -> tuple[str, ...]:
    """The bare ``{}`` first, then prefixes that the model writes itself behind five words (top-k 5, seeded)."""
    if config.context_templates is not None:
        return tuple(config.context_templates)
    starts = encode(tokenizer, ["The", "Therefore", "Because", "I", "You"]).to(model.device)
    generator = torch.Generator().manual_seed(seed)
    ids, mask = starts["input_ids"], starts["attention_mask"]
    with torch.no_grad():
        for _ in range(config.context_length):
            best = (
                model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
                .logits[:, -1]
                .float()
                .topk(5)
            )
            pick = torch.multinomial(best.values.softmax(-1).cpu(), 1, generator=generator).to(ids.device)
            ids = torch.cat([ids, best.indices.gather(1, pick)], 1)
            mask = torch.cat([mask, torch.ones_like(pick)], 1)
    prefixes = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return ("{}", *(" ".join(p.replace("{", " ").replace("}", " ").split()) + ". {}" for p in prefixes))
