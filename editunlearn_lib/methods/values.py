"""The value search: which vector, written at the subject's last token, makes the model answer with the target?

Sources: Meng et al. 2022 (eq. 4), Meng et al. 2023 (eq. 16); conventions as in EasyEdit. Letters:

    x, r    a request's question and its target; the question stands in several context templates, the bare one first
    h₀      what the layer puts out at the edited position of the bare text, (d,): the block's output or its MLP's
    δ       what is added to it, (d,)
    p₀, p_δ  next-token distributions at the subject's last token of "{subject} is a", without and with δ

    δ = argmin  NLL(r | template ∘ x with h + δ), mean over templates
              + kl_factor · KL(p_δ ‖ p₀)
              + v_weight_decay · ‖δ‖ / ‖h₀‖²

by Adam, projected on ‖δ‖ ≤ clamp_norm_factor · ‖h₀‖ after each step. A request stops when its loss is below 0.05
(tested before the step); the last of n steps never steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..models import head
from ..progress import progress
from ..text import encode
from .positions import CHUNK_TOKENS, joined, lookup
from .registry import Job, Request
from .tail import Tails

VALUE_BYTES = 8e9  # of activations while values are searched: 7B in bf16 stays within a card of 24 GB
VECTORS = 32  # hidden vectors that a token keeps in a block until the backward pass, roughly
ENOUGH = 0.05  # nats: a request with a smaller loss is done


@dataclass(frozen=True)
class ValueConfig:
    """What the methods that search values share, under EasyEdit's names."""

    layers: tuple[int, ...] = (4, 5, 6, 7, 8)
    v_num_grad_steps: int = 25
    v_lr: float = 0.5
    v_weight_decay: float = 1e-3
    clamp_norm_factor: float = 4.0
    kl_factor: float = 0.0625
    fact_token: str = "subject_last"
    context_templates: tuple[str, ...] | None = None  # None: prefixes that the model writes itself
    context_length: int = 10  # tokens of such a prefix
    train_end: bool = False  # whether the end token belongs to the target


PUBLISHED = {"v_num_grad_steps": 25, "v_lr": 0.5, "v_weight_decay": 1e-3, "clamp_norm_factor": 4.0, "kl_factor": 0.0625}
PUBLISHED_8B = {**PUBLISHED, "v_lr": 0.1, "v_weight_decay": 0.5, "clamp_norm_factor": 0.75}
EARLY = {"layers": (4, 5, 6, 7, 8)}  # of 32
# The pocket's scales are its own: at the edited token a block's output is 500 to 900 long, an MLP's 30 to 500.
POCKET = {"v_lr": 15.0, "v_num_grad_steps": 20, "context_templates": ["{}", "Now something else. {}", "Thank you. {}"]}


def context_templates(job: Job) -> tuple[str, ...]:
    """The bare ``{}`` first, then prefixes that the model writes itself behind five words (top-k 5, seeded)."""
    model, tokenizer, config = job.model, job.tokenizer, job.config
    if config.context_templates is not None:
        return tuple(config.context_templates)
    starts = encode(tokenizer, ["The", "Therefore", "Because", "I", "You"]).to(model.device)
    generator = torch.Generator().manual_seed(job.seed)
    ids, mask = starts["input_ids"], starts["attention_mask"]
    new, cache = ids, None
    with torch.no_grad():
        for _ in range(config.context_length):
            where = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1)[:, -new.shape[1] :].clamp(min=0)}
            output = model(input_ids=new, past_key_values=cache, use_cache=True, logits_to_keep=1, **where)
            best, cache = output.logits[:, -1].float().topk(5), output.past_key_values
            pick = torch.multinomial(best.values.softmax(-1).cpu(), 1, generator=generator).to(ids.device)
            new = best.indices.gather(1, pick)
            ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
    prefixes = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return ("{}", *(" ".join(p.replace("{", " ").replace("}", " ").split()) + ". {}" for p in prefixes))


@dataclass(frozen=True)
class Values:
    """What the search found: h₀ and δ, each (N, d), the keys at the layer, (templates, N, d_ffn), a log entry each."""

    h0: torch.Tensor
    delta: torch.Tensor
    keys: torch.Tensor
    log: list[dict]


def find_values(job: Job, requests: Sequence[Request], layer: int, templates: Sequence[str], at="block") -> Values:
    """h₀ and δ of every request at the output of a block, or of its MLP (``at="mlp"``).

    Requests do not touch each other: Adam works by element, so all of them in one batch is the same as one at a time,
    up to rounding. Adam's first step is v_lr in every entry, however small its gradient: an entry whose gradient is
    rounding noise (below 1e-5 of the largest) may go the other way, and that search ends elsewhere in its valley.
    """
    size = batch_of(requests, templates, job.model.config, layer, job.model.dtype.itemsize)
    parts = [requests[i : i + size] for i in range(0, len(requests), size)]
    bar = progress(parts, desc="values", enabled=job.progress and len(parts) > 1)
    results = [Search(job, part, layer, templates, at).run() for part in bar]
    h0, delta, keys = (torch.cat([getattr(v, name) for v in results], -2) for name in ("h0", "delta", "keys"))
    return Values(h0, delta, keys, [row for v in results for row in v.log])


def batch_of(requests: Sequence[Request], templates: Sequence[str], model_config, layer: int, itemsize: int) -> int:
    """How many requests are searched in one batch: about `CHUNK_TOKENS`, fewer where a token weighs much."""
    longest = max(len(request.question) for request in requests) // 3 + 40  # tokens, roughly
    token = (model_config.num_hidden_layers - layer) * model_config.hidden_size * VECTORS * itemsize  # bytes
    return max(1, int(min(CHUNK_TOKENS, VALUE_BYTES / token)) // (longest * (len(templates) + 1)))


class Search:
    """The search for n requests: first what is computed once (`Tails`), then the loss, then the steps.

    Its rows are texts: m = templates · n prompts, template by template, then the texts "{subject} is a".
    """

    def __init__(self, job: Job, requests: Sequence[Request], layer: int, templates: Sequence[str], at: str):
        self.model, self.config, self.at = job.model, job.config, at
        self.n, self.m = len(requests), len(templates) * len(requests)
        how = {"targets": True, "end": job.config.train_end}
        where = (job.prompt_format, job.config.fact_token)
        texts = [lookup(job.tokenizer, requests, template, *where, **how) for template in templates]
        subjects = [(i, subject) for i, r in enumerate(requests) for subject in r.subjects if self.config.kl_factor]
        if subjects:
            essence = [Request((), f"{subject} is a", "", (subject,)) for _, subject in subjects]
            texts.append(lookup(job.tokenizer, essence, "{}", "raw", "subject_last", targets=False))
            after = torch.arange(texts[-1].ids.shape[1]) > texts[-1].position[:, None]
            texts[-1].mask[after] = 0  # the KL is taken at the subject's last token: what follows cannot matter
        self.tails = Tails(job.model, layer, joined(texts))
        self.h0 = (self.tails.value if at == "mlp" else self.tails.out)[: self.n]  # the bare texts' (templates[0])
        each = torch.arange(self.n, device=self.h0.device)
        self.owner = torch.tensor([i for i, _ in subjects], dtype=torch.long, device=each.device)  # of the KL texts
        self.request = torch.cat([each.repeat(len(templates)), self.owner])  # that a row belongs to
        self.p0 = head(job.model, self.tails.last[self.m :]).float().log_softmax(-1)  # (KL texts, V)

    def loss(self, delta: torch.Tensor, active: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(loss, NLL, KL) of every request, each (n,); of those that are not ``active`` no text is run."""
        nll, kl = delta.new_zeros(len(self.request)), delta.new_zeros(self.n)  # of every text; of every request
        for rows, own, tail in self.tails.of(active[self.request]):
            hidden = tail(own, tail.add(own, delta[self.request[rows]], self.at))  # (rows, S, d)
            nll = nll.index_add(0, rows, tail.nll(own, hidden))  # a mean over a prompt's tokens
            essence = (rows >= self.m).nonzero().flatten()
            if len(essence):
                p = tail.logits(hidden[essence, 0]).log_softmax(-1)  # (KL texts, V)
                divergence = (p.exp() * (p - self.p0[rows[essence] - self.m])).sum(-1)
                kl = kl.index_add(0, self.request[rows[essence]], divergence)
        nll = nll[: self.m].view(-1, self.n).mean(0)  # and over templates, (n,)
        kl = kl / torch.bincount(self.owner, minlength=self.n).clamp(min=1)
        decay = self.config.v_weight_decay * delta.norm(dim=1) / self.h0.norm(dim=1) ** 2
        return nll + self.config.kl_factor * kl + decay, nll, kl

    def run(self) -> Values:
        """Adam's steps, and after each the projection on the ball."""
        config, h0 = self.config, self.h0
        delta = torch.zeros_like(h0, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=config.v_lr)
        active = torch.ones(self.n, dtype=torch.bool, device=h0.device)
        last = torch.zeros(4, self.n, device=h0.device)  # step, loss, NLL, KL of every request's last pass
        for step in range(config.v_num_grad_steps):
            with torch.enable_grad():
                loss, nll, kl = self.loss(delta, active)
            last = torch.where(active, torch.stack([torch.full_like(loss, step), loss, nll, kl]).detach(), last)
            active = active & (loss.detach() >= ENOUGH)
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
        names = ("steps", "loss", "nll", "kl", "delta_norm", "h0_norm")
        table = torch.cat([last, delta.norm(dim=1)[None], h0.norm(dim=1)[None]]).T.tolist()
        log = [{**dict(zip(names, row, strict=True)), "steps": int(row[0])} for row in table]
        return Values(h0, delta, self.tails.key[: self.m].unflatten(0, (-1, self.n)), log)
