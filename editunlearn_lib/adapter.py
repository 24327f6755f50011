"""Patches that change no weight but act in the forward pass, with the verbs of `Patch`.

`Beside` keeps a low-rank change beside the weights, as peft does, where the model's dtype would round it away.
`Adapter` acts at one layer's down projection and knows where the prompt ends.
"""

from __future__ import annotations

import inspect
import sys
import types
import weakref
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from .errors import PatchError
from .models import down, down_name, down_weight, family_of, n_layers
from .patch import DENSE, LEFT, RIGHT, Applied, Patch, bare, state_of


class Hooked(Patch):
    """A patch that acts through hooks while it is on, and leaves the weights alone.

    A subclass has ``_attach(model)``, which registers the hooks and gives their handles.
    """

    writes = False

    def _switch_on(self, model: nn.Module, state: Applied) -> None:
        if not state.hooks:
            state.own = {name: model.__dict__[name] for name in ("generate", "forward") if name in model.__dict__}
            # compiled code loses hooks at a graph break, without a word: while adapters are on, the model runs as it is
            model.forward = torch.compiler.disable(model.forward)
            model.generate = types.MethodType(_generate, model)
        state.hooks[id(self)] = self._attach(model)
        _forget_compiled()

    def remove(self, model: nn.Module) -> None:
        super().remove(model)
        state = state_of(model := bare(model))
        for handle in state.hooks.pop(id(self)):
            handle.remove()
        if not state.hooks:
            del model.__dict__["generate"], model.__dict__["forward"]
            model.__dict__.update(state.own)
            state.own = {}
        _forget_compiled()

    def _rewrite(self, model: nn.Module, state: Applied) -> None:
        """There is nothing to write."""


class Beside(Hooked):
    """ΔW = left @ right of some linear maps, added to what each puts out: W x + left (right x), in float32.

    For changes that are small against the steps of bf16 or fp16: a trained patch of a model in half precision.
    """

    kind = "beside"

    def _read(self) -> None:
        super()._read()
        if dense := [name for name in self._tensors if name.endswith(DENSE)]:
            raise PatchError(f"{dense[0]!r} is no factor: what is kept beside the weights is of low rank.")

    def _attach(self, model: nn.Module) -> list:
        handles, transposed = [], family_of(model).transposed
        for name in self._shapes:
            module = model.get_submodule(name.removesuffix(".weight"))
            left, right = (self._tensors[name + part].float().to(module.weight.device) for part in (LEFT, RIGHT))
            turned = transposed and not isinstance(module, nn.Linear)
            first, second = (left, right) if turned else (right.T, left.T)  # x @ first @ second

            def add(_module, inputs, output, first=first, second=second):
                return (output + inputs[0].float() @ first @ second).to(output.dtype)

            handles.append(module.register_forward_hook(add))
        return handles


@dataclass
class Pass:
    """What an adapter has to know of the forward pass that is going on."""

    state: Applied
    prompt: bool = True  # a prefill: nothing is in the cache yet
    mask: Any = None  # as the model was given it; None: every token is real
    cache: Any = None  # of these sequences
    kept: weakref.WeakKeyDictionary = field(default_factory=weakref.WeakKeyDictionary)  # cache -> what was decided
    decided: Any = None  # in this pass

    def end(self, T: int) -> int:
        """The column behind the prompt in this pass of T columns: 0 if it is a decode step."""
        if not self.prompt:
            return 0
        if self.state.columns is None:
            return T
        # without a cache, the later passes of `generate` repeat the prompt
        self.state.columns = self.state.columns or T
        return min(self.state.columns, T)

    def real(self, entering: torch.Tensor) -> torch.Tensor:
        """(B, T), true on the prompt's real tokens in this pass."""
        B, T = entering.shape[:2]
        behind = torch.arange(T, device=entering.device) >= self.end(T)
        mask = next(iter(self.mask.values())) if isinstance(self.mask, dict) else self.mask
        if not isinstance(mask, torch.Tensor):
            return ~behind.expand(B, T)
        mask = mask.to(entering.device)
        if mask.ndim == 4:  # (B, 1, queries, keys), from a static cache's `generate`: a real token sees itself
            own = mask[:, 0].diagonal(dim1=1, dim2=2)[:, :T]
            return (own if own.dtype == torch.bool else own == 0) & ~behind
        return mask[:, -T:].bool() & ~behind


class Adapter(Hooked):
    """A patch that acts at one layer's down projection and changes no weight: `delta` is zero, `parameters` is empty.

    The end of the prompt is fixed at prefill (a pass with an empty cache): decode steps are no prompts. A pass without
    any cache is a prompt as a whole, but in `generate` the first pass fixes it too. ``info["layer"]`` is the layer.
    """

    adds = False
    needs: ClassVar[tuple[str, ...]] = ("layer",)  # entries of ``info`` without which it cannot act
    sizes: tuple[int, int]  # (d, d_ffn) of the layer it was made for

    def _read(self) -> None:
        """Subclasses check their tensors too."""
        self._copies: dict[torch.device, dict[str, torch.Tensor]] = {}
        missing = [name for name in self.needs if name not in self.info]
        if missing or not isinstance(self.info["layer"], int):
            what = missing or "a layer that is a number"
            raise PatchError(f"'info' of this patch lacks {what}: the patch is corrupt.")
        self.layer: int = self.info["layer"]  # the layer at whose down projection it acts

    def act(self, entering: torch.Tensor, leaving: torch.Tensor, now: Pass) -> torch.Tensor | None:
        """What leaves the down projection instead, (B, T, d), or None; ``entering`` is (B, T, d_ffn)."""
        raise NotImplementedError

    def remove(self, model: nn.Module) -> None:
        super().remove(model)
        self._copies.clear()

    def on_device(self, device: torch.device) -> dict[str, torch.Tensor]:
        """The tensors on a device, copied there once while the patch is on."""
        if device not in self._copies:
            self._copies[device] = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        return self._copies[device]

    def owns(self, model: nn.Module) -> set[str]:
        return {down_name(model, self.layer)}

    def _check(self, model: nn.Module) -> None:
        super()._check(model)
        exists = 0 <= self.layer < n_layers(model)
        sizes = tuple(down_weight(model, self.layer).shape) if exists else None
        if sizes != self.sizes:
            raise PatchError(
                f"this patch acts at layer {self.layer} on a matrix {self.sizes}, but this model has "
                f"{f'{sizes} there' if exists else f'{n_layers(model)} layers'}: the patch is corrupt."
            )

    def merge_into(self, model: nn.Module) -> nn.Module:
        """Always raises `PatchError`: there is no change of weights to write."""
        raise PatchError(
            f"{self!r} changes no weight, so it cannot be merged into one: keep it as a patch (save, load_patch)."
        )

    def _attach(self, model: nn.Module) -> list:
        base, now = model.base_model, Pass(state_of(model))
        signature = inspect.signature(base.forward)

        def begin(_module, args, kwargs):
            inputs = signature.bind_partial(*args, **kwargs).arguments
            inputs = {**inputs, **inputs.get("kwargs", {})}
            now.mask, now.cache, now.decided = inputs.get("attention_mask"), inputs.get("past_key_values"), None
            now.prompt = now.cache is None or int(now.cache.get_seq_length()) == 0

        def at_down(_module, inputs, output):
            return self.act(inputs[0], output, now)

        def end(_module, _args, output):
            cache = getattr(output, "past_key_values", None) if now.cache is None else now.cache
            if now.prompt and now.decided is not None and cache is not None:
                now.kept[cache] = now.decided

        return [
            base.register_forward_pre_hook(begin, with_kwargs=True),
            down(model, self.layer).register_forward_hook(at_down),
            base.register_forward_hook(end),
        ]


def _generate(model: nn.Module, *args, **kwargs):
    """A model's `generate` while an adapter is on: without a cache, only here is it known where the prompt ended."""
    state = state_of(model)
    state.columns = 0
    try:
        return (state.own.get("generate") or types.MethodType(type(model).generate, model))(*args, **kwargs)
    finally:
        state.columns = None


def _forget_compiled() -> None:
    """Compiled code does not look again whether a module has hooks: what was compiled before is dropped."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
