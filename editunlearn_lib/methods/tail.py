"""What a change at layer l can reach: the blocks above l, and there the positions from s on. Everything else runs once.

A vector that is added to the hidden state at position s of layer l's output changes nothing below l and nothing before
s, since attention is causal. So the blocks below, and in the blocks above the keys and values of the positions before
s, are computed once and kept; a step costs one forward pass, and one backward pass to the vector, through the rest.
No weight needs a gradient. This is exact.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Cache, DynamicCache

from ..models import block, down, final_norm, head, n_layers, post_mlp_norm
from .positions import Lookup, hooked

# What a group costs before its first token: starting a block, in operations of a product of matrices in the same time
# (more on a GPU, which is faster), and reading all weights once more, which takes as long as so many tokens.
START = {"cpu": 1e8, "cuda": 1e10}
READING = 20


class Prefix:
    """The keys and values of the positions before s, as the attention layers ask a cache for them."""

    def __init__(self, stored: dict[int, tuple[torch.Tensor, torch.Tensor]]):
        self.stored = stored  # {layer: (keys, values)}, each (N, heads, P, head_dim)

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_, **__):
        before_keys, before_values = self.stored[layer]
        return torch.cat([before_keys, keys], -2), torch.cat([before_values, values], -2)


class Tail:
    """The texts from position s on, above layer l: column t - s of the tail belongs to token t, of S columns.

    s is the position of each text (`Lookup`), or 0 if they are to be there as a ``whole``. Afterwards, on the layer's
    own device: ``mask`` and ``labels`` (N, S); ``out`` the block's and ``value`` the MLP's output, both (N, S, d)
    float32; ``key`` the MLP's key, (N, S, d_ffn) if ``whole``, else (N, d_ffn) at s alone; ``last`` (N, d) the model's
    last hidden state at s, normalised.
    """

    @torch.no_grad()
    def __init__(self, model, layer: int, texts: Lookup, whole: bool = False):
        self.model, self.norm, self.post = model, final_norm(model), post_mlp_norm(model, layer)
        self.whole = whole
        start = torch.zeros_like(texts.position) if whole else texts.position
        ids, mask, start = (tensor.to(model.device) for tensor in (texts.ids, texts.mask, start))
        lengths, P = mask.sum(1), int(start.max())
        S = int((lengths - start).max())
        token = torch.arange(P + S, device=ids.device) - (P - start)[:, None]  # which stands in a column, (N, P+S)
        real = (token >= 0) & (token < lengths[:, None])
        position = token.clamp(min=0, max=ids.shape[1] - 1)
        ids = torch.where(real, ids.gather(1, position), 0)

        cache = DynamicCache() if P else None

        def run(first: int, stop: int) -> torch.Tensor:
            where = {"attention_mask": real[:, :stop].long(), "position_ids": position[:, first:stop]}
            cached = {"past_key_values": cache, "use_cache": bool(P)}
            return model.base_model(input_ids=ids[:, first:stop], **cached, **where).last_hidden_state

        self.prefix = None
        if P:
            run(0, P)
            layers = range(layer + 1, n_layers(model))
            self.prefix = Prefix({i: (cache.layers[i].keys, cache.layers[i].values) for i in layers})
        self.above: list[tuple[Any, list, dict]] = []  # the blocks above, with what the model called them with

        def called(module, args, kwargs):  # the prefix in place of the cache, so that the rest of the cache is let go
            own = {k: self.prefix if isinstance(v, Cache) else v for k, v in kwargs.items() if k != "hidden_states"}
            self.above.append((module, [self.prefix if isinstance(v, Cache) else v for v in args[1:]], own))

        def at_down(entering, leaving):
            key = entering if whole else entering[:, 0].clone()  # a view would keep all of them
            self.key, self.value = key.float(), leaving.float()

        def at_block(_, leaving):
            self.out = leaving.float()

        with contextlib.ExitStack() as stack:
            stack.enter_context(hooked(down(model, layer), at_down))
            stack.enter_context(hooked(block(model, layer), at_block))
            for i in range(layer + 1, n_layers(model)):
                handle = block(model, i).register_forward_pre_hook(called, with_kwargs=True)
                stack.callback(handle.remove)
            last = run(P, P + S)
        self.last = last[:, 0].to(self.out.device)
        self.mask = real[:, P:].to(self.out.device)
        labels = texts.labels.gather(1, position[:, P:].to(texts.labels.device)).to(self.out.device)
        self.labels = labels.masked_fill(~self.mask, -100)
        self.rows = None  # that were chosen last

    def add(self, rows: torch.Tensor, delta: torch.Tensor, at: str) -> torch.Tensor:
        """The block's output (R, S, d) of these rows with δ (R, d) added at s, to it or (``at="mlp"``) to the MLP's."""
        if at == "mlp" and self.post is not None:
            return self.replace(rows, self.value[rows, 0] + delta)
        hidden = self.out[rows].clone()
        hidden[:, 0] = hidden[:, 0] + delta
        return hidden

    def replace(self, rows: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The block's output (R, S, d) of these rows if the MLP's output at s were this value (R, d)."""
        hidden = self.out[rows].clone()
        hidden[:, 0] = hidden[:, 0] - self.after(self.value[rows, 0]) + self.after(value)
        return hidden

    def after(self, value: torch.Tensor) -> torch.Tensor:
        """What a block adds of its MLP's output: the output itself, but normalised in Gemma 2 and 3."""
        return value if self.post is None else self.post(value.to(self.model.dtype)).float()

    def __call__(self, rows: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The last block's output (R, S, d) of these rows if the block at l put out ``hidden`` (R, S, d)."""
        self._choose(rows)
        hidden = hidden.to(self.model.dtype)
        for module, args, kwargs in self.calls:
            leaving = module(hidden, *args, **kwargs)
            hidden = leaving[0] if isinstance(leaving, tuple) else leaving
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of last hidden states (M, d) before their norm: (M, V), float32."""
        return head(self.model, self.norm(hidden).to(self.out.device)).float()  # the last block may lie elsewhere

    def nll(self, rows: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """−log p of the target, the mean over its tokens, from the last block's output of these rows, (R,)."""
        self._choose(rows)
        return (self.fixed + self._sum(hidden, *self.scored)) / self.count

    def _sum(self, hidden: torch.Tensor, row: torch.Tensor, column: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """−log p of these tokens, added up text by text: norm and head run at scored positions alone, (R,)."""
        token = cross_entropy(self.logits(hidden[row, column]), truth, reduction="none")
        return token.new_zeros(len(hidden)).index_add(0, row, token)

    def _choose(self, rows: torch.Tensor) -> None:
        """What all blocks are called with, cut to these rows, and where their targets are; again for other rows."""
        if self.rows is not None and torch.equal(self.rows, rows):
            return
        seen: dict[int, Any] = {}
        self.rows, self.calls = rows, [(module, *self._of(rows, given, seen)) for module, *given in self.above]
        labels = self.labels[rows]
        row, column = (labels != -100).nonzero(as_tuple=True)
        self.count = torch.bincount(row, minlength=len(rows)).clamp(min=1)  # a text without a target has the NLL 0
        reached = column >= 0 if self.above or self.whole else column == 0  # by a change at s: no block above, no other
        self.scored, apart = ((row[at], column[at], labels[row[at], column[at]]) for at in (reached, ~reached))
        with torch.no_grad():
            self.fixed = self._sum(self.out[rows], *apart) if len(apart[0]) else 0.0

    def _of(self, rows: torch.Tensor, entry: Any, seen: dict[int, Any]) -> Any:
        """The same arguments for some of the rows."""
        if isinstance(entry, dict):
            return {name: self._of(rows, value, seen) for name, value in entry.items()}
        if isinstance(entry, (tuple, list)):
            return type(entry)(self._of(rows, value, seen) for value in entry)
        if id(entry) not in seen:
            n, seen[id(entry)] = len(self.mask), entry
            if isinstance(entry, Prefix):
                seen[id(entry)] = Prefix(self._of(rows, entry.stored, seen))
            elif isinstance(entry, torch.Tensor) and entry.ndim and entry.shape[0] == n and n > 1:
                seen[id(entry)] = entry[rows.to(entry.device)]
        return seen[id(entry)]


class Tails:
    """N texts from s on in groups of like length, each a `Tail`: little padding, few passes.

    Of all texts at s, as there: ``out``, ``value`` and ``last`` (N, d), ``key`` (N, d_ffn).
    """

    def __init__(self, model, layer: int, texts: Lookup):
        lengths = texts.mask.sum(1) - texts.position
        above = range(layer + 1, n_layers(model))
        entries = sum(p.numel() for i in above for p in block(model, i).parameters() if p.ndim == 2)
        start = START.get(model.device.type, 1e10) * (len(above) + 1) / (6 * max(entries, 1))
        groups = of_like_length(lengths, start + READING)
        self.parts = [(rows, Tail(model, layer, texts.of(rows))) for rows in groups]
        device = self.parts[0][1].out.device
        self.parts = [(rows.to(device), tail) for rows, tail in self.parts]
        order = torch.cat([rows for rows, _ in self.parts]).argsort()
        for name in ("out", "value", "key", "last"):
            vectors = [getattr(tail, name) for _, tail in self.parts]
            setattr(self, name, torch.cat([v[:, 0] if v.ndim == 3 else v for v in vectors])[order])

    def of(self, chosen: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, Tail]]:
        """Group by group, for ``chosen`` (N,) bool: which of them it holds, their numbers there, and the `Tail`."""
        for rows, tail in self.parts:
            own = chosen[rows].nonzero().flatten()
            if len(own):
                yield rows[own], own, tail


def of_like_length(lengths: torch.Tensor, price: float) -> list[torch.Tensor]:
    """Numbers of the texts in groups: the fewest tokens in all, with padding and with ``price`` tokens a group."""
    order = lengths.argsort(descending=True, stable=True)
    sizes, least, starts = lengths[order].tolist(), [0.0], []  # of the first i texts: the fewest tokens, the last group
    for i in range(1, len(sizes) + 1):
        tokens, start = min((least[j] + sizes[j] * (i - j) + price, j) for j in range(i))
        least, starts = [*least, tokens], [*starts, start]
    groups, stop = [], len(sizes)
    while stop:
        groups.append(order[starts[stop - 1] : stop])
        stop = starts[stop - 1]
    return groups[::-1]
