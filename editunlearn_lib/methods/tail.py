"""What a change at layer l can reach: the blocks above l, and there the positions from s on. Everything else runs once.

A vector that is added to the hidden state at position s of layer l's output changes nothing below l and nothing before
s, since attention is causal. So the blocks below, and in the blocks above the keys and values of the positions before
s, are computed once and kept; a step costs one forward pass, and one backward pass to the vector, through the rest.
No weight needs a gradient. This is exact.
"""

import contextlib
from typing import Any

import torch
from transformers import Cache, DynamicCache

from ..models import block, down, final_norm, head, n_layers, post_mlp_norm
from .positions import Lookup, hooked


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
    float32; ``key`` the MLP's key, (N, S, d_ffn) if ``whole``, else (N, d_ffn) at s alone.
    """

    @torch.no_grad()
    def __init__(self, model, layer: int, texts: Lookup, whole: bool = False):
        self.model, self.norm, self.post = model, final_norm(model), post_mlp_norm(model, layer)
        start = torch.zeros_like(texts.position) if whole else texts.position
        ids, mask, start = (tensor.to(model.device) for tensor in (texts.ids, texts.mask, start))
        lengths, P = mask.sum(1), int(start.max())
        S = int((lengths - start).max())
        token = torch.arange(P + S, device=ids.device) - (P - start)[:, None]  # which stands in a column, (N, P+S)
        real = (token >= 0) & (token < lengths[:, None])
        position = token.clamp(min=0, max=ids.shape[1] - 1)
        ids = torch.where(real, ids.gather(1, position), 0)

        cache = DynamicCache() if P else None

        def run(first: int, stop: int) -> None:
            where = {"attention_mask": real[:, :stop].long(), "position_ids": position[:, first:stop]}
            model.base_model(input_ids=ids[:, first:stop], past_key_values=cache, use_cache=bool(P), **where)

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
            run(P, P + S)
        self.mask = real[:, P:].to(self.out.device)
        labels = texts.labels.gather(1, position[:, P:].to(texts.labels.device)).to(self.out.device)
        self.labels = labels.masked_fill(~self.mask, -100)
        self.rows, self.calls = None, []  # the blocks above, as they are called for some of the rows

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
        """The last hidden state (R, S, d), normalised, of these rows if the block at l put out ``hidden`` (R, S, d)."""
        if self.rows is None or not torch.equal(self.rows, rows):
            seen: dict[int, Any] = {}  # what all blocks are called with is cut to these rows once
            self.rows, self.calls = rows, [(module, *self._of(rows, given, seen)) for module, *given in self.above]
        hidden = hidden.to(self.model.dtype)
        for module, args, kwargs in self.calls:
            leaving = module(hidden, *args, **kwargs)
            hidden = leaving[0] if isinstance(leaving, tuple) else leaving
        return self.norm(hidden).to(self.out.device)  # on several devices, the last block lies elsewhere

    def nll(self, rows: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """−log p of each target token behind the last hidden states (R, S, d) of these rows, and which of them it
        belongs to, both (tokens,); and how many each of them has, (R,)."""
        labels = self.labels[rows]
        scored = labels != -100  # (R, S)
        logp = head(self.model, hidden[scored]).float().log_softmax(-1)  # (tokens, V)
        nll = -logp.gather(1, labels[scored][:, None]).squeeze(1)
        return nll, scored.nonzero()[:, 0], scored.sum(1)

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
