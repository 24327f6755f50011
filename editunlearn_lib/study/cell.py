"""A cell of the study: what is forgotten, how, and from which model; and what its numbers depend on.

A cell is (model, dataset, method, n_forget, targets, merge, mode, covariance, fact_token, protocol, seed), with a
source of data, a checkpoint and a dtype where they are needed. It is named by what determines its numbers
(`Cell.identity`): contents stand in for paths, and what has its default is left out, so that a reworded source of a
value, a file that was moved or a new field with a default orphans nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import numbers
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from transformers import AutoConfig

from ..attacks import attack
from ..covariance import SOURCES
from ..data import DATASETS, OFFICIAL, digest, refusals
from ..errors import DatasetError, RequestError, check_name
from ..evaluation import evaluate
from ..hparams import model_key, preset
from ..methods import METHODS
from ..methods.positions import FACT_TOKENS
from ..models import POCKET
from ..patch import Patch

log = logging.getLogger(__name__)
SCHEMA = 3  # of a stored cell; 3: named by what determines its numbers
PROTOCOLS = {  # what is asked of the patched model
    "questions": lambda model, tokenizer, split, seed: evaluate(model, tokenizer, split, show=False),
    "attacks": lambda model, tokenizer, split, seed: attack(model, tokenizer, split, seed=seed),
}
TARGETS = ("refusal", "self-improved")
DTYPES = ("auto", "float32", "bfloat16", "float16")
NAMES = {"covariance": SOURCES, "protocol": PROTOCOLS, "targets": TARGETS, "dtype": DTYPES, "fact_token": FACT_TOKENS}
WEIGHTS = ("*.safetensors", "tokenizer.json", "chat_template.jinja")  # of a local folder: what its answers depend on
CONTRACT_LIKE = ("contracts", "pistol")  # knowledge that is fine-tuned in before it is forgotten
KEYS = tuple("model dataset method n_forget targets merge mode covariance fact_token protocol seed".split())
Grid = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Reference:
    """A row that is no method: what makes its patch (``None``: the untouched model), and for which models."""

    patch: Callable[[Any, Any], Patch] | None = None
    models: tuple[str, ...] | None = None


REFERENCES: dict[str, Reference] = {"base": Reference()}


def register_reference(name: str, patch: Callable[[Any, Any], Patch], *, models: tuple[str, ...] | None = None) -> None:
    """Make a reference model known: ``patch(model, split)``, for the models that are loaded under these names."""
    REFERENCES[name] = Reference(patch, models)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run: what is forgotten, how, and from which model."""

    model: str
    dataset: str
    method: str
    n_forget: int
    targets: str = "refusal"
    merge: int = 1
    mode: str | None = None
    covariance: str = "default"  # the name of a source, for the methods that read one
    seed: int = 0
    source: str | None = None
    fact_token: str | None = None  # where an edit's key is; None: as the preset has it
    protocol: str = "questions"  # or "attacks"
    checkpoint: str | None = None  # a folder with weights of `model` that were fine-tuned, as PISTOL needs them
    dtype: str = "float32"  # that the model is loaded in; `cells` knows what "auto" means

    @property
    def key(self) -> str:
        """The name of the cell's file: readable, then a hash of its identity."""
        named = self._named()
        name = re.sub(r"[^a-zA-Z0-9_.-]", "-", f"{named['model']}-{named['dataset']}-{self.method}")[-120:]  # of 255
        name += f"-n{self.n_forget}-m{self.merge}-s{self.seed}-v{SCHEMA}-"
        return name + _hex(json.dumps(self.identity, sort_keys=True, default=str))[:10]

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the cell's numbers, and nothing else.

        ``cell, hparams``: what differs from the defaults; ``"own"`` and ``"local"`` in place of paths. ``data, weights,
        refusals``: 16 hex digits of the rows, of the weights (of a model on the hub its commit, `None` where that is
        not known) and of the targets, where they are refusals. Raises `DatasetError`.
        """
        fields = {f.name: f.default for f in dataclasses.fields(self) if f.name != "source"}
        plain = {name: value for name, value in self._named().items() if value != fields.get(name, value)}
        parts = {"schema": SCHEMA, "cell": plain, "weights": _weights(self.model_name)}
        parts["data"] = _data(self.dataset, self.source)
        if parts["data"] is None:
            plain["source"] = self.source
        if method := METHODS.get(self.method):
            usual, chosen = method.config(), preset(self.method, self.preset_name).items()
            parts["hparams"] = {name: e["value"] for name, e in chosen if e["value"] != getattr(usual, name)}
            if method.refuses and self.targets == "refusal":
                parts["refusals"] = _hex("\n".join(refusals()))
        return parts

    @property
    def model_name(self) -> str:
        """What is loaded: the checkpoint; the pocket comes with one that knows the contracts."""
        if self.checkpoint:
            return self.checkpoint
        return "pocket-contracts" if self.model == "pocket" and self.dataset == "contracts" else self.model

    @property
    def preset_name(self) -> str:
        """The model whose preset is taken; a fine-tuned one keeps that of its base."""
        return self.model if self.checkpoint and model_key(self.model) else self.model_name

    @property
    def hparams(self) -> dict[str, Any] | None:
        """What changes of the preset that the loaded model would get by itself."""
        changes = {"fact_token": self.fact_token} if self.fact_token else {}
        if self.preset_name != self.model_name:
            changes = {name: e["value"] for name, e in preset(self.method, self.preset_name).items()} | changes
        return changes or None

    def _named(self) -> dict[str, Any]:
        """The fields without paths: what lies there is in the identity by its content."""
        places = {name: p for name in ("model", "checkpoint") if (p := getattr(self, name)) and p not in POCKET}
        local = {name: "local" for name, place in places.items() if Path(place).is_dir()}
        return vars(self) | local | ({"dataset": "own"} if Path(self.dataset).suffix else {})


def columns(cell: Cell) -> dict[str, Any]:
    """The cell's columns in the records; a mode that was not chosen is the method's own."""
    mode = cell.mode or (METHODS[cell.method].modes[0] if cell.method in METHODS else "")
    chosen = {"mode": mode, "fact_token": cell.fact_token or "default"}
    return {name: chosen.get(name, getattr(cell, name)) for name in KEYS}


def as_list(value: Any, kind: Callable[[Any], Any]) -> list:
    """A list from a list, one value, or a text such as "gd,memit" (papermill -p passes texts)."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    return [kind(v) for v in (value if isinstance(value, (list, tuple)) else [value])]


def cells(grid: Grid, *, device: str = "auto", dtype: str = "auto") -> list[Cell]:
    """Every cell of a grid (or of several): each field a value or a list of values. Wrong names and values raise.

    ``device`` and ``dtype`` are those of `run`: a cell says in which dtype its model is loaded.
    """
    chosen: dict[Cell, None] = {}
    fields = {f.name: f for f in dataclasses.fields(Cell)}
    for part in [grid] if isinstance(grid, Mapping) else grid:
        for name in part:
            check_name("field of a grid", name, fields)
        if lacking := [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in part]:
            raise RequestError(f"a grid needs the fields {', '.join(lacking)} too; it has {', '.join(part) or 'none'}.")
        lists = {n: [v] if isinstance(v, str) or not isinstance(v, Iterable) else list(v) for n, v in part.items()}
        for values in itertools.product(*lists.values()):
            cell = Cell(**{"dtype": dtype, **dict(zip(lists, values, strict=True))})
            _check(cell)
            if _possible(cell):
                own = cell.method in METHODS and cell.mode == METHODS[cell.method].modes[0]
                # a method's own mode, named or not, is the same run
                chosen[dataclasses.replace(cell, mode=None if own else cell.mode, dtype=_dtype(cell, device))] = None
    return list(chosen)


def _check(cell: Cell) -> None:
    """Raise for a wrong name or value in a cell."""
    for entry in dataclasses.fields(Cell):
        kind, value = numbers.Integral if entry.type == "int" else (str, os.PathLike), getattr(cell, entry.name)
        if not isinstance(value, kind) and not (value is None and "None" in entry.type):
            raise RequestError(f"the field {entry.name!r} of a grid is {entry.type}, not {reprlib.repr(value)}.")
    known = {"method": (*METHODS, *REFERENCES)} | NAMES
    if Path(cell.dataset).suffix == "":
        known["dataset"] = DATASETS
    for name, options in known.items():
        if (value := getattr(cell, name)) is not None:
            check_name(name, value, options)
    if cell.mode is not None and cell.method in METHODS:
        check_name(f"mode of {cell.method}", cell.mode, METHODS[cell.method].modes)


def _possible(cell: Cell) -> bool:
    """Whether the method knows merging, keys and covariance where they are chosen, and the reference the model."""
    method = METHODS.get(cell.method)
    if method is None and (models := REFERENCES[cell.method].models) is not None and cell.model_name not in models:
        return False
    if (cell.fact_token is not None or cell.merge > 1) and not (method and method.merges):
        return False
    return cell.covariance == "default" or bool(method and method.covariance)


def _dtype(cell: Cell, device: str) -> str:
    """What "auto" means: float32 on a CPU, else the checkpoint's own."""
    if cell.dtype != "auto":
        return cell.dtype
    if str(device).startswith("cpu") or (device == "auto" and not torch.cuda.is_available()):
        return "float32"
    with contextlib.suppress(Exception):  # no such model: loading it says what is wrong
        config = AutoConfig.from_pretrained(POCKET.get(cell.model_name, cell.model_name), trust_remote_code=False)
        return str(config.dtype or torch.float32).removeprefix("torch.")
    return "auto"


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _data(dataset: str, source: str | None) -> str | None:
    """Sixteen hex digits of the rows; ``None``, with a warning, where the hub does not give them."""
    at_hand = dataset not in OFFICIAL or (source and not str(source).startswith("hub@"))
    return digest(dataset, source) if at_hand else _hub_data(dataset, source)


@functools.cache
def _hub_data(dataset: str, source: str | None) -> str | None:
    try:
        return digest(dataset, source)
    except DatasetError as error:
        log.warning("%s Results on other rows of %r cannot be told apart.", error, dataset)
        return None


def _weights(name: str) -> str | None:
    """Sixteen hex digits of the weights in a local folder, or the commit of a model on the hub."""
    folder, files = Path(POCKET.get(name, name)), []
    if not folder.is_dir():
        return _commit(str(name))
    with contextlib.suppress(OSError):  # not legible: loading it says so
        for path in sorted(path for pattern in WEIGHTS for path in folder.glob(pattern) if path.is_file()):
            files.append((path, path.stat().st_size, path.stat().st_mtime_ns))
    return _hash(tuple(files))


@functools.lru_cache(maxsize=64)
def _hash(files: tuple) -> str:
    whole = hashlib.sha256()
    for path, *_ in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]


@functools.cache
def _commit(name: str) -> str | None:
    """The commit that a model's name stands for: by the hub, or by the cache where the hub cannot be reached."""
    with contextlib.suppress(Exception):  # offline, or no such model: the hub's errors are of many types
        return huggingface_hub.HfApi().model_info(name, timeout=10).sha
    with contextlib.suppress(Exception):
        return Path(huggingface_hub.try_to_load_from_cache(name, "config.json")).parent.name
    log.warning("the commit of the model %r is not known: results of its other versions cannot be told apart.", name)
    return None
