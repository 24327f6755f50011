"""Hyperparameters: presets with the source of each value, EasyEdit's YAML files, and overrides.

Field names are EasyEdit's. A field of EasyEdit that has no meaning here is named in a warning, an unknown one raises.
"""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from .errors import DatasetError, RequestError, UnknownNameError, nearest

log = logging.getLogger(__name__)

EASYEDIT = "EasyEdit hparams"
PISTOL = "PISTOL's published code"
TUNED = "tuned here on forget sets that are not reported (pocket/tuning.jsonl)"
GUESS = "a guess by rule: no published preset for this model"

# names under which a model with published presets is known: exact, no guessing from parts of a name
ALIASES = {
    "llama-2-7b-chat": ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-hf", "Llama-2-7b-chat-hf", "Llama2-7B", "llama-2-7b-chat"),
    "mistral-7b-instruct": ("mistralai/Mistral-7B-Instruct-v0.1", "mistralai/Mistral-7B-Instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.3", "Mistral-7B", "mistral-7b-instruct"),
    "llama-3.1-8b-instruct": ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct", "Llama3.1-8B", "llama-3.1-8b-instruct"),
    "pocket": ("pocket", "base"),
    "pocket-contracts": ("pocket-contracts", "contracts"),
}  # fmt: skip

_lora = {"lr": 1e-5, "num_epochs": 20, "batch_size": 4, "weight_decay": 0.01, "rank": 8, "lora_alpha": 32.0, "lora_dropout": 0.05}  # fmt: skip
_published = {(m, k): (dict(_lora), PISTOL) for m in ("ga", "gd", "kl", "dpo", "idk")
              for k in ("llama-2-7b-chat", "mistral-7b-instruct", "llama-3.1-8b-instruct")}  # fmt: skip
_memit7b = {"layers": (4, 5, 6, 7, 8), "v_num_grad_steps": 25, "v_lr": 0.5, "v_weight_decay": 1e-3, "clamp_norm_factor": 4.0, "kl_factor": 0.0625, "mom2_update_weight": 15000.0}  # fmt: skip
PRESETS: dict[tuple[str, str], tuple[dict[str, Any], str]] = {
    **_published,
    ("memit", "llama-2-7b-chat"): (_memit7b, EASYEDIT),
    ("memit", "mistral-7b-instruct"): (_memit7b, EASYEDIT),
    ("memit", "llama-3.1-8b-instruct"): (
        {**_memit7b, "v_lr": 0.1, "v_weight_decay": 0.5, "clamp_norm_factor": 0.75}, "AlphaEdit authors' Llama-3-8B"),
}  # fmt: skip

# fields of EasyEdit's files that mean nothing here, because the thing is decided elsewhere
WITHOUT_MEANING = frozenset(
    [
        "alg_name",
        "model_name",
        "device",
        "model_parallel",
        "fp16",
        "max_length",
        "stats_dir",
        "mom2_dataset",
        "mom2_n_samples",
        "mom2_dtype",
        "rewrite_module_tmp",
        "layer_module_tmp",
        "mlp_module_tmp",
        "attn_module_tmp",
        "ln_f_module",
        "lm_head_module",
        "layer_selection",
        "v_loss_layer",
        "context_template_length_params",
        "mom2_adjustment",
        "P_loc",
        "objective_optimization",
        "inner_params",
        "num_steps",
        "model_class",
        "tokenizer_class",
        "tokenizer_name",
        "model_save_pt",
        "archive",
        "checkpoint_interval",
        "bf16",
        "dtype",
        "nullspace_threshold",
        "L2",
        "edit_lr",
        "n_iter",
        "eps",
        "replacement",
        "act_margin",
        "act_ratio",
        "mask_ratio",
        "norm_constraint",
        "densities",
        "lora_type",
        "target_modules",
        "kl_factor",
        "norm_constraint",
        "bucket",
    ]
)


def model_key(name: str, pocket: str | None = None) -> str | None:
    """The preset's model for a hub id, a folder's last part or a pocket model; ``None`` if there is no preset."""
    if pocket:
        return "pocket" if pocket == "base" else "pocket-contracts"
    for key, names in ALIASES.items():
        if name in names or (
            key not in ("pocket", "pocket-contracts") and Path(name).name in {n.split("/")[-1] for n in names}
        ):
            return key
    return None


def preset(method: str, model_name: str) -> dict[str, dict[str, Any]]:
    """``{field: {"value": …, "source": …}}`` of a method for a model."""
    from .errors import check_name
    from .methods import METHODS

    check_name("method", method, METHODS)
    config, sources = _preset(method, METHODS[method].config, model_key(model_name), None)
    return {f.name: {"value": getattr(config, f.name), "source": sources[f.name]} for f in fields(config)}


@functools.cache
def _tuned() -> dict[str, dict[str, Any]]:
    """What `pocket.tune` chose, by pocket model and method."""
    file = Path(__file__).parent / "pocket" / "presets.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _preset(method: str, config_type: type, key: str | None, n_layers: int | None):
    values, source = PRESETS.get((method, key), ({}, None)) if key else ({}, None)
    chosen = _tuned().get(key, {}).get(method) if key else None
    said = TUNED
    if chosen is None and key == "pocket-contracts":
        chosen, said = _tuned().get("pocket", {}).get(method), TUNED + ", on the facts"
    if chosen is not None:
        values, source = {k: tuple(v) if isinstance(v, list) else v for k, v in chosen.items()}, said
    config = replace(config_type(), **values)
    sources = {f.name: source if f.name in values else "default of EasyEdit or PISTOL" for f in fields(config)}
    if source is None:
        if n_layers and hasattr(config, "layers"):  # the depth that layers 4-8 have in a model of 32
            first = max(0, round(n_layers * 4 / 32))
            count = max(1, round(n_layers * 5 / 32))
            config = replace(config, layers=tuple(range(first, min(first + count, n_layers))))
        sources = dict.fromkeys(sources, GUESS)
    return config, sources


def resolve(method: str, config_type: type, model_config: Any, hparams: Any):
    """The config of a run: the model's preset, then the overrides.

    ``hparams``: None, a config object, a dict, or a path to a YAML file. Raises `UnknownNameError` for an unknown
    field (with the nearest name) and `RequestError` for a value of the wrong type.
    """
    if is_dataclass(hparams) and not isinstance(hparams, type):
        if not isinstance(hparams, config_type):
            raise RequestError(f"{method} takes a {config_type.__name__}, not a {type(hparams).__name__}.")
        return hparams
    key = model_key(model_config._name_or_path or "", getattr(model_config, "pocket", None))
    config, _ = _preset(method, config_type, key, model_config.num_hidden_layers)
    if hparams is None:
        return config
    where = "hparams"
    if isinstance(hparams, (str, Path)):
        where = str(hparams)
        try:
            hparams = yaml.safe_load(Path(hparams).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DatasetError(f"{where}: cannot be read as a YAML file of hyperparameters ({error}).") from error
    if not isinstance(hparams, dict):
        raise RequestError(
            f"{where}: a dict, a {config_type.__name__} or a YAML file is needed, not {type(hparams).__name__}."
        )
    known = {f.name: f for f in fields(config_type)}
    changed, ignored = {}, []
    for name, value in hparams.items():
        if name in known:
            changed[name] = _coerce(where, name, value, getattr(config, name), known[name].type)
        elif name in WITHOUT_MEANING:
            ignored.append(name)
        else:
            raise UnknownNameError(
                f"{where}: {method} has no field {name!r}.{nearest(name, known)} Known: {', '.join(known)}."
            )
    if ignored:
        log.warning(
            "%s: these fields have no meaning for %s here and are ignored: %s", where, method, ", ".join(ignored)
        )
    return replace(config, **changed)


def _coerce(where: str, name: str, value: Any, now: Any, kind: str) -> Any:
    """A value in the field's type: YAML reads 5e-1 as a text and a list where a tuple is meant."""
    if value is None and "None" in str(kind):
        return None
    try:
        if str(kind).startswith("tuple"):
            if isinstance(value, (str, int, float)):
                raise TypeError
            return tuple(int(v) if "int" in str(kind) else v for v in value)
        if isinstance(now, bool):
            if not isinstance(value, bool):
                raise TypeError
            return value
        if str(kind).startswith("int"):
            if int(value) != float(value):
                raise TypeError
            return int(value)
        if str(kind).startswith("float"):
            return float(value)
        return str(value)
    except (TypeError, ValueError):
        raise RequestError(f"{where}: the field {name!r} needs {kind}, not {value!r}.") from None
