"""An unlearning is a patch: a change of weights that can be switched on and off, saved, loaded and measured.

`adapter` has patches that change no weight but act in the forward pass: the same verbs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import resource
import time
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
from .models import fingerprint

log = logging.getLogger(__name__)
FORMAT = 1
DENSE, LEFT, RIGHT = "::dense", "::left", "::right"
KEPT_AT_LEAST = 0.5  # of a change; with less left in the model's dtype it is another change
KINDS: dict[str, type[Patch]] = {}  # every class of patches, by its kind
CORRUPT = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, SafetensorError)


@dataclass
class Applied:
    """What a model remembers while patches are on: the untouched weights, and the patches in their order."""

    base: dict[str, torch.Tensor] = field(default_factory=dict)
    patches: list[Patch] = field(default_factory=list)
    hooks: dict[int, list] = field(default_factory=dict)  # by the adapter's id
    own: dict[str, Any] = field(default_factory=dict)  # the model's `generate` and `forward`, where set by hand
    columns: int | None = None  # during `generate`: how many are the prompt; 0: not known yet


def state_of(model: nn.Module) -> Applied:
    return model.__dict__.setdefault("_editunlearn", Applied())


def bare(model: nn.Module) -> nn.Module:
    """The model inside what `torch.compile` made of it: both share their weights and modules."""
    return getattr(model, "_orig_mod", model)


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """The base model, whatever patches are on, inside the ``with``."""
    model = bare(model)
    patches = list(state_of(model).patches)
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

    kind: ClassVar[str] = "weights"  # by which `load_patch` knows the class again
    writes: ClassVar[bool] = True  # into the weights; else it acts beside them
    adds: ClassVar[bool] = True  # only adds ΔW x to what a module puts out, so that several may act at one place

    def __init_subclass__(cls):
        if "kind" in cls.__dict__:
            KINDS[cls.kind] = cls

    def __init__(self, tensors: dict[str, torch.Tensor], info: dict[str, Any], base: str, shapes: dict[str, list[int]]):
        self._tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        self.info, self.base, self.shapes = info, base, shapes  # shapes: of every parameter of the base model
        self._shapes: dict[str, tuple[int, int]] = {}
        self._read()

    def _read(self) -> None:
        """Check the tensors and note which parameters they change."""
        for name, tensor in self._tensors.items():
            parameter, _, part = name.partition("::")
            if part == "dense":
                self._shapes[parameter] = tuple(tensor.shape)
            elif part == "left":
                right = self._tensors.get(parameter + RIGHT)
                if tensor.ndim != 2 or right is None or right.ndim != 2 or right.shape[0] != tensor.shape[1]:
                    raise PatchError(f"the factors of {parameter!r} do not fit each other: the patch is corrupt.")
                self._shapes[parameter] = (tensor.shape[0], right.shape[1])
            elif part == "right" and parameter + LEFT not in self._tensors:
                raise PatchError(f"the left factor of {parameter!r} is missing: the patch is corrupt.")
            elif part not in ("right", "keys"):
                raise PatchError(
                    f"the tensor {name!r} is no part of a patch: '::dense', '::left' or '::right' is missing."
                )

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

    def _check(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        for name, shape in self._shapes.items():
            what = f"this patch changes {name!r}"
            if name not in parameters:
                raise PatchError(f"{what}, which this model does not have: it was made for another.")
            if (there := tuple(parameters[name].shape)) != shape:
                raise PatchError(f"{what} as {shape}, but this model has {there}.")
        if self.base != (this := fingerprint(model, state_of(model).base)):
            raise PatchError(
                f"this patch was made for the base model {self.base}, this model is {this}: the same checkpoint is "
                "needed, and no weights changed since it was loaded."
            )

    def apply(self, model: nn.Module) -> None:
        """Switch on. Raises `PatchError` if it is on already, is of another model, or clashes with what is on."""
        state = state_of(model := bare(model))
        if any(patch is self for patch in state.patches):
            raise PatchError("this patch is on already: remove it first.")
        self._check(model)
        for patch in state.patches:
            if clash := set() if self.adds and patch.adds else self.owns(model) & patch.owns(model):
                raise PatchError(
                    f"{self!r} and {patch!r} clash: both act at {sorted(clash)[0]}, and one was made without the "
                    "other. Use one of them, or make them at different layers."
                )
        self._switch_on(model, state)
        state.patches.append(self)
        self._rewrite(model, state)

    def _switch_on(self, model: nn.Module, state: Applied) -> None:
        """What comes before the weights are written: what they were goes to main memory, not beside a GPU's own."""
        for name in self._shapes:
            if name not in state.base:
                state.base[name] = model.get_parameter(name).detach().to("cpu", copy=True)
        if str(model.dtype) != self.info.get("dtype", str(model.dtype)):
            self.warn_of_rounding(model)

    def remove(self, model: nn.Module) -> None:
        """Switch off; with the last patch off, the weights are the base model's bit for bit."""
        state = state_of(model := bare(model))
        if not any(patch is self for patch in state.patches):
            raise PatchError("this patch is not on, so it cannot be removed.")
        state.patches = [patch for patch in state.patches if patch is not self]
        self._rewrite(model, state)

    @torch.no_grad()
    def _rewrite(self, model: nn.Module, state: Applied) -> None:
        """Base plus every ΔW that is on, in float32, in the order the patches came."""
        for name in self._shapes:
            parameter, base = model.get_parameter(name), state.base[name]
            deltas = [patch.delta(name) for patch in state.patches if patch.writes and name in patch._shapes]
            if deltas:
                total = base.to(parameter.device).float()
                for delta in deltas:
                    total = total + delta.to(parameter.device)
                parameter.copy_(total.to(base.dtype))
            else:
                parameter.copy_(base)
                del state.base[name]

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
        model = bare(model)
        if state_of(model).patches:
            raise PatchError("patches are on: remove them before one is merged for good.")
        self._check(model)
        self.warn_of_rounding(model)
        with torch.no_grad():
            for name in self._shapes:
                parameter = model.get_parameter(name)
                parameter.copy_((parameter.float() + self.delta(name).to(parameter.device)).to(parameter.dtype))
        return model

    @torch.no_grad()
    def kept_in_dtype(self, model: nn.Module) -> float:
        """Share of the norm of ΔW that the untouched model's dtype keeps: 1 − ‖rounded change − ΔW‖ / ‖ΔW‖, 0 to 1.

        A change of less than half the step between two neighbouring numbers of the dtype is rounded away: 0 is left.
        """
        lost, all_of_it = 0.0, 0.0
        for name in self._shapes:
            W = model.get_parameter(name)
            delta = self.delta(name).to(W.device)
            rounded = (W.float() + delta).to(W.dtype).float() - W.float()
            lost, all_of_it = lost + float((rounded - delta).square().sum()), all_of_it + float(delta.square().sum())
        return max(0.0, 1 - (lost / all_of_it) ** 0.5) if all_of_it else 1.0

    def warn_of_rounding(self, model: nn.Module) -> float:
        """`kept_in_dtype`, with a warning where it is below `KEPT_AT_LEAST`."""
        share = self.kept_in_dtype(model)
        if share < KEPT_AT_LEAST:
            what = f"{str(model.dtype)[6:]} keeps only {100 * share:.0f} % of this change"
            log.warning("%r: %s, the rest is rounded away: load the model with dtype='float32'.", self, what)
        return share

    def save(self, folder: str | Path) -> Path:
        """Write ``patch.safetensors`` and ``patch.json`` into the folder; each appears whole or not at all.

        The second holds the first's SHA-256, so that a damaged file, or one of an older patch, is noticed by
        `load_patch`. Raises `PatchError` where it cannot be written (a full disk, …): the patch is still in memory.
        """
        folder = Path(folder)
        document = {"format": FORMAT, "kind": self.kind, "base": self.base, "info": self.info, "shapes": self.shapes}
        try:
            with whole(folder / "patch.safetensors") as temporary:
                save_file(self._tensors, temporary)
                document["sha256"] = _sha256(temporary)
            with whole(folder / "patch.json") as temporary:
                temporary.write_text(json.dumps(document), encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise PatchError(
                f"{folder}: the patch could not be saved ({error}). It is still in memory: make room, or save it "
                "elsewhere."
            ) from error
        return folder


KINDS[Patch.kind] = Patch


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def load_patch(folder: str | Path) -> Patch:
    """Read a saved patch; nothing in it is run. Raises `PatchError` with the folder, also for values not finite."""
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
    except CORRUPT as error:
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
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"seconds": round(time.perf_counter() - self.started, 3), "peak_memory_bytes": int(peak)}
