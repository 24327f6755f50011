"""What a change at layer l can reach: the blocks above l, and there the positions from s on. Everything else runs once.

A vector that is added to the hidden state at position s of layer l's output changes nothing below l and nothing before
s, since attention is causal. So the blocks below, and in the blocks above the keys and values of the positions before
s, are computed once and kept; a step costs one forward pass, and one backward pass to the vector, through the rest.
No weight needs a gradient. This is exact.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache

from ..models import block, down, final_norm, n_layers, post_mlp_norm
from .hooks import hooked


class Prefix:
    """The keys and values of the positions before s, as the attention layers ask a cache for them."""

    def __init__(self, kept: dict[int, tuple[torch.Tensor, torch.Tensor]]):
        self.kept = kept  # {layer: (keys, values)}, each (N, heads, P, head_dim)

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_, **__
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before_keys, before_values = self.kept[layer]
        return torch.cat([before_keys, keys], -2), torch.cat([before_values, values], -2)

    def rows(self, rows: torch.Tensor) -> Prefix:
        return Prefix({layer: (k[rows.to(k.device)], v[rows.to(v.device)]) for layer, (k, v) in self.kept.items()})


class Tail:
    """The texts from position s on, above layer l.

    ids, mask   (N, T), padded on the right
    start       (N,), the position s of each text; column t - s of the tail belongs to token t
    Afterwards, on the layer's own device: ``out`` the block's output, ``value`` the MLP's output, both (N, S, d) float32, and ``key``, the MLP's
    key, (N, S, d_ffn), or (N, d_ffn) at s alone unless ``all_keys``.
    """

    @torch.no_grad()
    def __init__(self, model, layer: int, ids: torch.Tensor, mask: torch.Tensor, start: torch.Tensor, all_keys=False):
        self.norm, self.post = final_norm(model), post_mlp_norm(model, layer)
        self.dtype = model.dtype
        ids, mask, start = (tensor.to(model.device) for tensor in (ids, mask, start))
        lengths, n, P = mask.sum(1), len(ids), int(start.max())
        S = int((lengths - start).max())
        token = (
            torch.arange(P + S, device=ids.device) - (P - start)[:, None]
        )  # (N, P+S): which token stands in a column
        real = (token >= 0) & (token < lengths[:, None])
        position = token.clamp(min=0, max=ids.shape[1] - 1)
        ids = torch.where(real, ids.gather(1, position), 0)

        cache = DynamicCache() if P else None
        kept = {}
        if P:
            model.base_model(
                input_ids=ids[:, :P],
                attention_mask=real[:, :P].long(),
                position_ids=position[:, :P],
                past_key_values=cache,
                use_cache=True,
            )
            above = range(layer + 1, n_layers(model))
            kept = {i: (cache.layers[i].keys, cache.layers[i].values) for i in above}

        self.n, self.prefix = n, Prefix(kept) if P else None
        self.above: list[tuple[Any, tuple, dict]] = []  # the blocks above, with what the model called them with
        found: dict[str, torch.Tensor] = {}

        def called(module, args, kwargs):
            own = {k: self._kept(v) for k, v in kwargs.items() if k != "hidden_states"}
            self.above.append((module, tuple(map(self._kept, args[1:])), own))

        def at_down(entering, leaving):
            key = entering if all_keys else entering[:, 0].clone()  # a view would keep all of them
            found["key"], found["value"] = key.float(), leaving.float()

        def at_block(_, leaving):
            found["out"] = leaving.float()

        with contextlib.ExitStack() as stack:
            stack.enter_context(hooked(down(model, layer), at_down))
            stack.enter_context(hooked(block(model, layer), at_block))
            for i in range(layer + 1, n_layers(model)):
                handle = block(model, i).register_forward_pre_hook(called, with_kwargs=True)
                stack.callback(handle.remove)
            model.base_model(
                input_ids=ids[:, P:],
                attention_mask=real.long(),
                position_ids=position[:, P:],
                past_key_values=cache,
                use_cache=bool(P),
            )
        self.key, self.value, self.out = found["key"], found["value"], found["out"]
        self.mask = real[:, P:].to(self.out.device)  # (N, S)
        self._now: tuple[torch.Tensor | None, list] = (None, [])

    def add(self, rows: torch.Tensor, delta: torch.Tensor, at: str) -> torch.Tensor:
        """The block's output (R, S, d) of these rows with δ (R, d) added at s, to the block's or to the MLP's output."""
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
        return value if self.post is None else self.post(value.to(self.dtype)).float()

    def __call__(self, rows: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The last hidden state (R, S, d), normalised, of these rows if the block at l put out ``hidden`` (R, S, d)."""
        before, calls = self._now
        if before is None or not torch.equal(before, rows):
            seen: dict[int, Any] = {}  # what all blocks are called with is cut to these rows once
            calls = [
                (module, self._of(rows, args, seen), self._of(rows, kwargs, seen))
                for module, args, kwargs in self.above
            ]
            self._now = rows, calls
        hidden = hidden.to(self.dtype)
        for module, args, kwargs in calls:
            leaving = module(hidden, *args, **kwargs)
            hidden = leaving[0] if isinstance(leaving, tuple) else leaving
        return self.norm(hidden).to(self.out.device)  # on several devices, the last block lies elsewhere

    def _kept(self, given: Any) -> Any:
        """The prefix in place of the cache, so that the rest of the cache is let go."""
        return self.prefix if isinstance(given, Cache) else given

    def _of(self, rows: torch.Tensor, given: Any, seen: dict[int, Any]) -> Any:
        """The same arguments for some of the rows."""
        if isinstance(given, dict):
            return {name: self._of(rows, value, seen) for name, value in given.items()}
        if isinstance(given, Sequence) and not isinstance(given, str):
            return type(given)(self._of(rows, value, seen) for value in given)
        if id(given) not in seen:
            seen[id(given)] = given
            if isinstance(given, Prefix):
                seen[id(given)] = given.rows(rows)
            elif isinstance(given, torch.Tensor) and given.ndim and given.shape[0] == self.n and self.n > 1:
                seen[id(given)] = given[rows.to(given.device)]
        return seen[id(given)]
