"""What ROME, MEMIT and AlphaEdit share: where a fact sits, its key there, and the value that makes the model say r.

Key k = input of an MLP's down projection at the subject's last token; W k is what the layer writes there.
Source: Meng et al. 2022 (ROME, eq. 3-4), Meng et al. 2023 (MEMIT, eq. 16); conventions as in EasyEdit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import RequestError, check_name
from ..models import down, encode, end_of_turn, prompt_text, question_start, with_target
from ..progress import progress

FACT_TOKENS = ("subject_last", "question_last", "prompt_last")
CHUNK_TOKENS = 16_384  # texts are processed in chunks of about so many tokens


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
    tokenizer, requests: Sequence[Request], template: str, prompt_format: str, fact_token: str, *, targets: bool,
    end: bool = False,
) -> Lookup:  # fmt: skip
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
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = torch.where(behind[:, 1:], ids[:, 1:], -100)
    return Lookup(ids, mask, position, labels)


@contextlib.contextmanager
def hooked(module: nn.Module, function) -> Iterator[None]:
    """A forward hook for the length of the ``with``; blocks of older transformers return tuples."""

    def hook(_module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        changed = function(inputs[0], hidden)
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def read(model: nn.Module, module: nn.Module, texts: Lookup, *, inputs: bool) -> torch.Tensor:
    """The input (or output) of a module at every text's position, float32 (N, d)."""
    found = []
    for rows in torch.arange(len(texts.ids)).split(max(1, CHUNK_TOKENS // texts.ids.shape[1])):

        def keep(entering, leaving, rows=rows):
            chosen = entering if inputs else leaving
            found.append(chosen[torch.arange(len(rows)), texts.position[rows].to(chosen.device)].float())

        with hooked(module, keep):
            model(input_ids=texts.ids[rows].to(model.device), attention_mask=texts.mask[rows].to(model.device), use_cache=False, logits_to_keep=1)  # fmt: skip
    return torch.cat(found)


def keys(
    model, tokenizer, requests, layer: int, templates: Sequence[str], prompt_format: str, fact_token: str
) -> torch.Tensor:
    """The keys of every request under every template, (templates, N, d_ffn)."""
    module = down(model, layer)
    return torch.stack([
        read(model, module, lookup(tokenizer, requests, template, prompt_format, fact_token, targets=False), inputs=True)
        for template in templates
    ])  # fmt: skip


def memit_key(found: torch.Tensor) -> torch.Tensor:
    """(templates, N, d) -> (N, d): the bare prompt's key and the mean of the others' weigh the same."""
    return found[0] if len(found) == 1 else (found[0] + found[1:].mean(0)) / 2


def values(
    model, tokenizer, requests: Sequence[Request], module: nn.Module, config, templates: Sequence[str],
    prompt_format: str, *, show: bool = True,
) -> tuple[torch.Tensor, list[dict]]:  # fmt: skip
    """z = h₀ + δ of every request, (N, d), and what happened on the way.

    δ = argmin  NLL(r | template ∘ x with h + δ), mean over templates
              + kl_factor · KL(p_δ ‖ p₀) at the subject's last token of "{subject} is a"
              + v_weight_decay · ‖δ‖ / ‖h₀‖²
    by Adam, projected on ‖δ‖ ≤ clamp · ‖h₀‖ after each step. A request stops when its loss is below 0.05 (tested
    before the step); the last of n steps never steps. Requests do not touch each other: Adam works by element, so
    all of them in one batch is the same as one at a time.
    """
    per_request = len(templates) + 1
    longest = max(len(request.question) for request in requests) // 3 + 40
    size = max(1, CHUNK_TOKENS // (longest * per_request))
    parts = [requests[i : i + size] for i in range(0, len(requests), size)]
    done = [_values(model, tokenizer, part, module, config, templates, prompt_format)
            for part in progress(parts, desc="values", enabled=show and len(parts) > 1)]  # fmt: skip
    return torch.cat([z for z, _ in done]), [row for _, log in done for row in log]


def _values(model, tokenizer, requests, module, config, templates, prompt_format):
    device, n = model.device, len(requests)
    texts = [lookup(tokenizer, requests, template, prompt_format, config.fact_token, targets=True, end=config.train_end)
             for template in templates]  # fmt: skip
    essence = [
        (i, Request((), f"{subject} is a", "", (subject,)))
        for i, request in enumerate(requests) for subject in request.subjects
    ]  # fmt: skip
    owner = torch.tensor([i for i, _ in essence], dtype=torch.long, device=device)
    if essence and config.kl_factor:
        texts.append(lookup(tokenizer, [r for _, r in essence], "{}", "raw", "subject_last", targets=False))
    width = max(t.ids.shape[1] for t in texts)

    def stack(name: str, fill: int) -> torch.Tensor:
        return torch.cat([nn.functional.pad(getattr(t, name), (0, width - t.ids.shape[1]), value=fill) for t in texts]).to(device)  # fmt: skip

    ids, mask, labels = stack("ids", 0), stack("mask", 0), stack("labels", -100)
    position = torch.cat([t.position for t in texts]).to(device)
    rows = torch.arange(len(ids), device=device)
    m = len(templates) * n  # the first m rows are prompts, template by template; the rest are KL texts
    whose = torch.cat([torch.arange(n, device=device).repeat(len(templates)), owner[: len(ids) - m]])
    scored = labels[:m] != -100  # (m, T)
    per_text = scored.sum(1)

    delta, h0, p0 = None, None, None
    adam, active, log = None, torch.ones(n, dtype=torch.bool, device=device), [{} for _ in requests]
    now = rows  # the rows of this pass: those of requests that have stopped are left out

    def add(_, hidden):
        nonlocal delta, h0, adam
        if delta is None:  # the first pass: h₀ is the bare text's hidden vector
            h0 = hidden[rows[:n], position[:n]].detach().float()
            delta = torch.zeros_like(h0, requires_grad=True)
            adam = torch.optim.Adam([delta], lr=config.v_lr)
        changed, here = hidden.clone(), rows[: len(now)]
        changed[here, position[now]] = (hidden[here, position[now]].float() + delta[whose[now]]).to(hidden.dtype)
        return changed

    with torch.enable_grad(), hooked(module, add):
        for step in range(config.v_num_grad_steps):
            now = active[whose].nonzero().flatten()
            prompts, essences = now[now < m], now[now >= m]
            logits = model(input_ids=ids[now], attention_mask=mask[now], use_cache=False).logits
            found = scored[prompts]
            logp = logits[: len(prompts)][found].float().log_softmax(-1)  # (scored tokens, V)
            token_nll = -logp.gather(1, labels[prompts][found][:, None]).squeeze(1)
            text_of = prompts[:, None].expand_as(found)[found]
            nll = torch.zeros(m, device=device).index_add(0, text_of, token_nll) / per_text  # (m,)
            nll = nll.view(len(templates), n).mean(0)  # (n,)
            kl = torch.zeros(n, device=device)
            if len(ids) > m:
                at = rows[: len(essences)] + len(prompts)
                p = logits[at, position[essences]].float().log_softmax(-1)  # (KL texts, V)
                p0 = p.detach() if p0 is None else p0
                kl = kl.index_add(0, whose[essences], (p.exp() * (p - p0[essences - m])).sum(-1))
                kl = kl / torch.bincount(owner, minlength=n).clamp(min=1)
            decay = config.v_weight_decay * delta.norm(dim=1) / h0.norm(dim=1) ** 2
            loss = nll + config.kl_factor * kl + decay  # (n,)
            for i in active.nonzero().flatten().tolist():
                log[i] = {"steps": step, "loss": loss[i].item(), "nll": nll[i].item(), "kl": kl[i].item()}
            active = active & (loss.detach() >= 0.05)
            if not active.any() or step == config.v_num_grad_steps - 1:
                break
            adam.zero_grad()
            (delta.grad,) = torch.autograd.grad(loss[active].sum(), delta)
            before = delta.detach().clone()
            adam.step()
            with torch.no_grad():
                delta[~active] = before[~active]  # Adam's momentum would move those that have stopped
                limit = config.clamp_norm_factor * h0.norm(dim=1, keepdim=True)
                delta *= (limit / delta.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
    for row, d, h in zip(log, delta.detach().norm(dim=1), h0.norm(dim=1), strict=True):
        row["delta_norm"], row["h0_norm"] = d.item(), h.item()
    return h0 + delta.detach(), log


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
