"""An unlearning is a patch: a change of weights that can be switched on and off, saved, loaded and measured.

`Adapter` is a patch that changes no weight but acts in the forward pass at one layer (GRACE, WISE): the same verbs.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import sys
import time
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .errors import PatchError
from .files import whole
from .models import down, down_name, down_weight, fingerprint, n_layers

log = logging.getLogger(__name__)
FORMAT = 1
DENSE, LEFT, RIGHT = "::dense", "::left", "::right"


class _Applied:
    """What a model remembers while patches are on: the untouched weights, and the patches in their order."""

    def __init__(self):
        self.base: dict[str, torch.Tensor] = {}
        self.patches: list[Patch] = []
        self.hooks: dict[int, list] = {}  # by the adapter's id
        self.own: dict[str, Any] = {}  # the model's `generate` and `forward`, where they were set by hand
        self.columns: int | None = None  # during `generate`: how many are the prompt; 0: not known yet


def _state(model: nn.Module) -> _Applied:
    return model.__dict__.setdefault("_editunlearn", _Applied())


def _bare(model: nn.Module) -> nn.Module:
    """The model inside what `torch.compile` made of it: both share their weights and modules."""
    return getattr(model, "_orig_mod", model)


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """The base model, whatever patches are on, inside the ``with``."""
    model = _bare(model)
    patches = list(_state(model).patches)
    for patch in reversed(patches):
        patch.remove(model)
    try:
        yield
    finally:
        for patch in patches:
            patch.apply(model)


class Patch:
    """A change ΔW of some weight matrices, dense or as low-rank factors ``left @ right``.

    Made by `unlearn` or read by `load_patch`. ``info`` holds the method, the resolved hyperparameters, seconds, peak
    memory and a log of every edit. A patch belongs to one base model: it is recognised by its fingerprint.
    """

    kind: ClassVar[str] = "weights"

    def __init__(self, tensors: dict[str, torch.Tensor], info: dict[str, Any], base: str, shapes: dict[str, list[int]]):
        self._tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        self.info = info
        self.base = base
        self.shapes = shapes  # of every parameter of the base model
        self._shapes: dict[str, tuple[int, int]] = {}
        self._read()

    def _read(self) -> None:
        """Check the tensors and note which parameters they change."""
        for name, tensor in self._tensors.items():
            parameter, _, part = name.partition("::")
            if part not in ("dense", "left", "right", "keys"):
                raise PatchError(
                    f"the tensor {name!r} is no part of a patch: '::dense', '::left' or '::right' is missing."
                )
            if part == "dense":
                self._shapes[parameter] = tuple(tensor.shape)
            elif part == "left":
                right = self._tensors.get(parameter + RIGHT)
                if tensor.ndim != 2 or right is None or right.ndim != 2 or right.shape[0] != tensor.shape[1]:
                    raise PatchError(f"the factors of {parameter!r} do not fit each other: the patch is corrupt.")
                self._shapes[parameter] = (tensor.shape[0], right.shape[1])
            elif part == "right" and parameter + LEFT not in self._tensors:
                raise PatchError(f"the left factor of {parameter!r} is missing: the patch is corrupt.")

    def __repr__(self) -> str:
        return f"<Patch {self.info.get('method', '?')}: {len(self.parameters)} parameters, {self.nbytes / 1e6:.2f} MB>"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that are touched."""
        return tuple(sorted(self._shapes))

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is stored, by name."""
        return dict(self._tensors)

    def delta(self, parameter_name: str) -> torch.Tensor:
        """ΔW of a parameter, dense float32 in the parameter's shape; zeros where it is untouched."""
        if parameter_name + DENSE in self._tensors:
            return self._tensors[parameter_name + DENSE].float()
        if parameter_name + LEFT in self._tensors:
            return self._tensors[parameter_name + LEFT].float() @ self._tensors[parameter_name + RIGHT].float()
        shape = self.shapes.get(parameter_name)
        if shape is None:
            raise PatchError(f"the base model of this patch has no parameter {parameter_name!r}.")
        return torch.zeros(shape)

    def owns(self, model: nn.Module) -> set[str]:
        """The parameters that are changed, or (for an adapter) whose output is."""
        return set(self._shapes)

    def norms(self) -> dict[str, float]:
        """Frobenius norm of every ΔW."""
        return {name: float(self.delta(name).norm()) for name in self.parameters}

    # ------------------------------------------------------------ on and off

    def _check(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        for name, shape in self._shapes.items():
            if name not in parameters:
                raise PatchError(
                    f"this patch changes {name!r}, which this model does not have: it was made for another."
                )
            if tuple(parameters[name].shape) != shape:
                raise PatchError(
                    f"this patch changes {name!r} as {shape}, but this model has {tuple(parameters[name].shape)}."
                )
        found = fingerprint(model, _state(model).base)
        if self.base != found:
            raise PatchError(
                f"this patch was made for the base model {self.base}, this model is {found}: the same checkpoint is "
                "needed, and no weights changed since it was loaded."
            )

    def apply(self, model: nn.Module) -> None:
        """Switch on. Raises `PatchError` if it is on already, was made for another model, or clashes with what is on."""
        model = _bare(model)
        state = _state(model)
        if any(patch is self for patch in state.patches):
            raise PatchError("this patch is on already: remove it first.")
        self._check(model)
        for patch in state.patches:
            if clash := self.owns(model) & patch.owns(model) if {self.kind, patch.kind} != {"weights"} else ():
                raise PatchError(
                    f"{self!r} and {patch!r} clash: both act at {sorted(clash)[0]}, and one was made without the other. "
                    "Use one of them, or make them at different layers."
                )
        for name in self._shapes:
            if name not in state.base:
                state.base[name] = model.get_parameter(name).detach().to("cpu", copy=True)  # none beside a GPU's own
        state.patches.append(self)
        _rewrite(model, state, self._shapes)

    def remove(self, model: nn.Module) -> None:
        """Switch off; with the last patch off, the weights are the base model's bit for bit."""
        model = _bare(model)
        state = _state(model)
        if not any(patch is self for patch in state.patches):
            raise PatchError("this patch is not on, so it cannot be removed.")
        state.patches = [patch for patch in state.patches if patch is not self]
        _rewrite(model, state, self._shapes)

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[nn.Module]:
        """``with patch.on(model):`` - off again on exit, also after an exception."""
        self.apply(model)
        try:
            yield model
        finally:
            self.remove(model)

    def merge_into(self, model: nn.Module) -> nn.Module:
        """Write ΔW into the weights for good, for a plain ``save_pretrained``. Not while any patch is on."""
        model = _bare(model)
        if _state(model).patches:
            raise PatchError("patches are on: remove them before one is merged for good.")
        self._check(model)
        with torch.no_grad():
            for name in self._shapes:
                parameter = model.get_parameter(name)
                parameter.copy_((parameter.float() + self.delta(name).to(parameter.device)).to(parameter.dtype))
        return model

    # ------------------------------------------------------------ on disk

    def save(self, folder: str | Path) -> Path:
        """Write ``patch.safetensors`` and ``patch.json`` into the folder; each appears whole or not at all.

        The second holds the first's SHA-256, so that a damaged file, or one of an older patch, is noticed by
        `load_patch`. Raises `PatchError` where it cannot be written (a full disk, …): the patch is still in memory.
        """
        folder = Path(folder)
        try:
            with whole(folder / "patch.safetensors") as temporary:
                save_file(self._tensors, temporary)
                document = {
                    "format": FORMAT,
                    "kind": self.kind,
                    "base": self.base,
                    "info": self.info,
                    "shapes": self.shapes,
                    "sha256": _sha256(temporary),
                }
            with whole(folder / "patch.json") as temporary:
                temporary.write_text(json.dumps(document), encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise PatchError(
                f"{folder}: the patch could not be saved ({error}). It is still in memory: make room, or save it elsewhere."
            ) from error
        return folder


def _rewrite(model: nn.Module, state: _Applied, names) -> None:
    """Base plus every ΔW that is on, in float32, in the order the patches came."""
    with torch.no_grad():
        for name in names:
            parameter, base = model.get_parameter(name), state.base[name]
            deltas = [patch.delta(name) for patch in state.patches if name in patch._shapes]
            if deltas:
                total = base.to(parameter.device).float()
                for delta in deltas:
                    total = total + delta.to(parameter.device)
                parameter.copy_(total.to(base.dtype))
            else:
                parameter.copy_(base)
                del state.base[name]


@dataclass
class Pass:
    """What an adapter has to know of the forward pass that is going on."""

    state: _Applied
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
        self.state.columns = (
            self.state.columns or T
        )  # without a cache, the later passes of `generate` repeat the prompt
        return min(self.state.columns, T)

    def real(self, entering: torch.Tensor) -> torch.Tensor:
        """(B, T), true on the prompt's real tokens in this pass."""
        B, T = entering.shape[:2]
        behind = torch.arange(T, device=entering.device) >= self.end(T)
        mask = next(iter(self.mask.values())) if isinstance(self.mask, dict) else self.mask
        if not isinstance(mask, torch.Tensor):
            return ~behind.expand(B, T)
        mask = mask.to(entering.device)
        if (
            mask.ndim == 4
        ):  # (B, 1, queries, keys), from a static cache's `generate`: at prefill a real token sees itself
            own = mask[:, 0].diagonal(dim1=1, dim2=2)[:, :T]
            return (own if own.dtype == torch.bool else own == 0) & ~behind
        return mask[:, -T:].bool() & ~behind


class Adapter(Patch):
    """A patch that acts at one layer's down projection and changes no weight: `delta` is zero, `parameters` is empty.

    The end of the prompt is fixed at prefill (a pass with an empty cache): decode steps are no prompts. A pass without
    any cache is a prompt as a whole, but in `generate` the first pass fixes it too. ``info["layer"]`` is the layer.
    """

    kind = "adapter"
    needs: ClassVar[tuple[str, ...]] = ("layer",)  # entries of ``info`` without which it cannot act

    def _read(self) -> None:
        """Subclasses check their tensors too."""
        self._held: dict[torch.device, dict[str, torch.Tensor]] = {}
        missing = [name for name in self.needs if name not in self.info]
        if missing or not isinstance(self.info["layer"], int):
            raise PatchError(
                f"'info' of this patch lacks {missing or 'a layer that is a number'}: the patch is corrupt."
            )

    def act(self, entering: torch.Tensor, leaving: torch.Tensor, now: Pass) -> torch.Tensor | None:
        """The output (B, T, d) of the down projection in place of ``leaving``, or None; ``entering`` is (B, T, d_ffn)."""
        raise NotImplementedError

    @property
    def sizes(self) -> tuple[int, int]:
        """(d, d_ffn) of the layer it was made for."""
        raise NotImplementedError

    @property
    def layer(self) -> int:
        """The layer at whose down projection it acts."""
        return self.info["layer"]

    def held(self, device: torch.device) -> dict[str, torch.Tensor]:
        """The tensors on a device, copied there once while the patch is on."""
        if device not in self._held:
            self._held[device] = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        return self._held[device]

    def owns(self, model: nn.Module) -> set[str]:
        return {down_name(model, self.layer)}

    def _check(self, model: nn.Module) -> None:
        super()._check(model)
        found = tuple(down_weight(model, self.layer).shape) if 0 <= self.layer < n_layers(model) else None
        if found != self.sizes:
            raise PatchError(
                f"this patch acts at layer {self.layer} on a matrix {self.sizes}, but this model has "
                f"{f'{found} there' if found else f'{n_layers(model)} layers'}: the patch is corrupt."
            )

    def apply(self, model: nn.Module) -> None:
        super().apply(model)
        model = _bare(model)
        state = _state(model)
        if not state.hooks:
            state.own = {name: model.__dict__[name] for name in ("generate", "forward") if name in model.__dict__}
            # compiled code loses hooks at a graph break, without a word: while adapters are on, the model runs as it is
            model.forward = torch.compiler.disable(model.forward)
            model.generate = types.MethodType(_generate, model)
        state.hooks[id(self)] = self._attach(model)
        _forget_compiled()

    def remove(self, model: nn.Module) -> None:
        super().remove(model)
        model = _bare(model)
        state = _state(model)
        for handle in state.hooks.pop(id(self)):
            handle.remove()
        if not state.hooks:
            del model.__dict__["generate"], model.__dict__["forward"]
            model.__dict__.update(state.own)
            state.own = {}
        self._held.clear()
        _forget_compiled()

    def merge_into(self, model: nn.Module) -> nn.Module:
        """Always raises `PatchError`: there is no change of weights to write."""
        raise PatchError(
            f"{self!r} changes no weight, so it cannot be merged into one: keep it as a patch (save, load_patch)."
        )

    def _attach(self, model: nn.Module) -> list:
        base, now = model.base_model, Pass(_state(model))
        signature = inspect.signature(base.forward)

        def begin(_module, args, kwargs):
            given = signature.bind_partial(*args, **kwargs).arguments
            given = {**given, **given.get("kwargs", {})}
            now.mask, now.cache, now.decided = given.get("attention_mask"), given.get("past_key_values"), None
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
    state = _state(model)
    state.columns = 0
    try:
        return (state.own.get("generate") or types.MethodType(type(model).generate, model))(*args, **kwargs)
    finally:
        state.columns = None


KINDS: dict[str, type[Patch]] = {Patch.kind: Patch}  # the methods add theirs


def _forget_compiled() -> None:
    """Compiled code does not look again whether a module has hooks: what was compiled before is dropped."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def load_patch(folder: str | Path) -> Patch:
    """Read a saved patch; nothing in it is run. Raises `PatchError` naming the folder, also for values that are not finite."""
    folder = Path(folder)
    for name in ("patch.json", "patch.safetensors"):
        if not (folder / name).is_file():
            raise PatchError(f"{folder}: no patch here ({name} is missing).")
    try:
        document = json.loads((folder / "patch.json").read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise PatchError(f"patch format {document['format']!r}, this version reads {FORMAT}.")
        if document.get("sha256") not in (None, _sha256(folder / "patch.safetensors")):  # older patches have none
            raise PatchError("patch.json was written for another patch.safetensors: damaged, or of another patch.")
        tensors = load_file(folder / "patch.safetensors")
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise PatchError(f"the tensor {name!r} has values that are not finite.")
        if not isinstance(document["info"], dict) or not isinstance(document["base"], str):
            raise PatchError("'info' or 'base' of patch.json is not what a patch has there.")
        shapes = {name: [int(size) for size in shape] for name, shape in document["shapes"].items()}
        kind = document.get("kind", Patch.kind)
        if kind not in KINDS:
            raise PatchError(f"a patch of kind {kind!r}; this version knows {', '.join(KINDS)}.")
        return KINDS[kind](tensors, document["info"], document["base"], shapes)
    except PatchError as error:
        raise PatchError(f"{folder}: {error}") from error
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise PatchError(f"{folder}: not a patch, or a corrupt one ({type(error).__name__}: {error}).") from error


class Stopwatch:
    """Seconds and peak memory of a piece of work (bytes of all these GPUs together, else the process's peak)."""

    def __init__(self, *devices: torch.device):
        self.gpus = [device for device in devices if device.type == "cuda"]
        for gpu in self.gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        self.started = time.perf_counter()

    def read(self) -> dict[str, float]:
        if self.gpus:
            peak = sum(torch.cuda.max_memory_allocated(gpu) for gpu in self.gpus)
        else:
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"seconds": round(time.perf_counter() - self.started, 3), "peak_memory_bytes": int(peak)}
