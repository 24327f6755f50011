"""Hyperparameters: presets with the source of each value, EasyEdit's YAML files, and overrides.

Field names are EasyEdit's. A field of EasyEdit that has no meaning for a method is named in a warning, an unknown one
raises. A model without a preset gets the defaults, which are the published values of 32-layer models, at the same
fractions of the depth: layer l of 32 becomes round(l · L / 32). That is a guess, and it is all the rule does: λ,
learning rates and clamps depend on the length of a model's hidden vectors and do not transfer. Tune them.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from .errors import DatasetError, RequestError, UnknownNameError, check_name, nearest
from .methods import METHODS
from .methods.registry import OURS, Method
from .models import FAMILIES

log = logging.getLogger(__name__)

TUNED = "tuned here on forget sets that are not reported (pocket/tuning.jsonl)"
GUESS = "a guess by rule: no published preset for this model"
DEFAULT = "default of EasyEdit or PISTOL"

# other names of the models that have presets, of a hub id or a path the last part: exact, no guessing from parts
ALIASES = {
    "llama-2-7b-chat": ["Llama-2-7b-chat-hf", "Llama-2-7b-hf", "Llama2-7B"],
    "mistral-7b-instruct": [*(f"Mistral-7B-Instruct-v0.{n}" for n in (1, 2, 3)), "Mistral-7B"],
    "llama-3.1-8b-instruct": ["Llama-3.1-8B-Instruct", "Meta-Llama-3.1-8B-Instruct", "Llama3.1-8B"],
    "pocket": ["base"],
    "pocket-contracts": ["contracts"],
}

# EasyEdit's fields: those that a method does not have mean nothing to it, or the thing is decided elsewhere
WITHOUT_MEANING = frozenset(
    """
    act_margin act_ratio alg_name api_key archive attn_module_tmp batch_size bf16 checkpoint_interval clamp_norm_factor
    context_template_length_params densities device dist_fn dropout dtype edit_lr eps eps_expand evaluation_type
    fact_token fp16 hidden_act inner_params kl_factor L2 layer layer_module_tmp layer_selection layers lm_head_module
    ln_f_module load_path lora_alpha lora_dropout lora_type lr mask_ratio max_length merge_alg merge_freq
    mlp_module_tmp model_class model_name model_parallel model_save_pt mom2_adjustment mom2_dataset mom2_dtype
    mom2_n_samples mom2_update_weight n_iter norm_constraint nullspace_threshold num_pert num_steps
    objective_optimization P_loc rank reg replacement replay retrieve rewrite_module_tmp save_freq save_path stats_dir
    target_modules tokenizer_class tokenizer_name use_chat_template v_loss_layer v_lr v_num_grad_steps v_weight_decay
    val_init val_reg val_train weight_decay weights
    """.split()
)


def model_key(name: str, pocket: str | None = None) -> str | None:
    """The preset's model for a hub id, a folder's last part or a pocket model; ``None`` if there is no preset."""
    if pocket:
        return "pocket" if pocket == "base" else "pocket-contracts"
    for key, names in ALIASES.items():
        if (name if key.startswith("pocket") else Path(name).name) in (key, *names):
            return key
    return None


def preset(method: str, model_name: str) -> dict[str, dict[str, Any]]:
    """``{field: {"value": …, "source": …}}`` of a method for a model.

    For a model without a preset: the defaults, marked as a guess. A name does not tell how many layers a model has, so
    ``layers`` are those of a model of 32; `resolve`, which sees the model, scales them to its depth.
    """
    check_name("method", method, METHODS)
    config, sources = _preset(METHODS[method], model_key(model_name), None)
    return {f.name: {"value": getattr(config, f.name), "source": sources[f.name]} for f in fields(config)}


@functools.cache
def _tuned() -> dict[str, dict[str, Any]]:
    """What the search on the pocket chose, by pocket model and method."""
    return json.loads((Path(__file__).parent / "pocket" / "presets.json").read_text(encoding="utf-8"))


def _preset(method: Method, key: str | None, n_layers: int | None) -> tuple[Any, dict[str, str]]:
    """The config and ``{field: source}`` of a model by its preset's key, by rule where there is none."""
    tuned, by_search = _tuned().get(key, {}).get(method.name), TUNED
    if tuned is None and key == "pocket-contracts":
        tuned, by_search = _tuned()["pocket"].get(method.name), f"{TUNED}, on the facts"
    values, sources = {}, {}
    for part, source in (*method.presets.get(key, ()), (tuned or {}, by_search)):
        values |= part
        sources |= dict.fromkeys(part, source)
    config = replace(method.config(), **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    for f in fields(config):
        by_rule = not values or f.name == "layers"
        sources.setdefault(f.name, GUESS if by_rule else OURS if f.name in method.ours else DEFAULT)
    if n_layers and hasattr(config, "layers") and "layers" not in values:
        scaled = (min(round(layer * n_layers / 32), n_layers - 1) for layer in config.layers)
        config = replace(config, layers=tuple(dict.fromkeys(scaled)))
    return config, sources


def resolve(method: str, model_config: Any, hparams: Any):
    """The config of a run: the model's preset, or the rule by depth where there is none, then the overrides.

    ``hparams``: None, a config object, a dict, or a path to a YAML file. EasyEdit's ``layer`` and ``inner_params``
    are read as ``layers`` where the method has them. Raises `UnknownNameError` for an unknown field (with the nearest
    name) and `RequestError` for a value of the wrong type.
    """
    config_type = METHODS[method].config
    if is_dataclass(hparams) and not isinstance(hparams, type):
        if not isinstance(hparams, config_type):
            raise RequestError(f"{method} takes a {config_type.__name__}, not a {type(hparams).__name__}.")
        return hparams
    key = model_key(model_config._name_or_path or "", getattr(model_config, "pocket", None))
    config, _ = _preset(METHODS[method], key, model_config.num_hidden_layers)
    if hparams is None:
        return config
    where = "hparams"
    if isinstance(hparams, (str, Path)):
        where = str(hparams)
        try:
            hparams = yaml.safe_load(Path(hparams).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: no UTF-8, an odd date, …
            raise DatasetError(f"{where}: cannot be read as a YAML file of hyperparameters ({error}).") from error
    if not isinstance(hparams, Mapping):
        raise RequestError(
            f"{where}: a dict, a {config_type.__name__} or a YAML file is needed, not {type(hparams).__name__}."
        )
    return replace(config, **_overrides(where, method, config_type, hparams))


def _overrides(where: str, method: str, config_type: type, hparams: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a user's dict or EasyEdit's file changes, checked and in the right types."""
    kinds = get_type_hints(config_type)
    known = {f.name: kinds[f.name] for f in fields(config_type)}
    values, ignored = {}, []
    for key, value in hparams.items():
        name = key
        if key in ("layer", "inner_params") and key not in known and "layers" in known:
            name, value = "layers", value if key == "layer" else _block_numbers(where, value)
        if name in known:
            value = _coerce(where, key, value, known[name])
            if values.setdefault(name, value) != value:
                raise RequestError(f"{where}: {key!r} says {name} {value}, another field says {values[name]}.")
        elif name in WITHOUT_MEANING:
            ignored.append(name)
        else:
            hint = nearest(name, [*known, *WITHOUT_MEANING])
            raise UnknownNameError(f"{where}: {method} has no field {name!r}.{hint} Known: {', '.join(known)}.")
    if ignored:
        log.warning(
            "%s: these fields have no meaning for %s here and are ignored: %s", where, method, ", ".join(ignored)
        )
    return config_type.adapted(where, values) if hasattr(config_type, "adapted") else values


def _block_numbers(where: str, value: Any) -> list[int]:
    """The blocks that EasyEdit's ``inner_params`` name: ``["model.layers[27].mlp.down_proj.weight"]`` is ``[27]``."""
    numbers = []
    for text in map(str, value if isinstance(value, (list, tuple)) else [value]):
        blocks = re.findall(r"[.\[](\d+)(?=[.\]])", text)
        if len(blocks) != 1:
            raise RequestError(
                f"{where}: 'inner_params' needs names like 'model.layers[27].mlp.down_proj.weight', not {text!r}."
            )
        if not any(f".{family.down}." in text for family in FAMILIES.values()):
            log.warning(
                "%s: of inner_params %r only the layer is used: what is edited is its down projection.", where, text
            )
        numbers.append(int(blocks[0]))
    return list(dict.fromkeys(numbers))


def _coerce(where: str, name: str, value: Any, kind: Any) -> Any:
    """A value in the field's type: YAML reads 5e-1 as a text and a list where a tuple is meant."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return None
    try:
        if get_origin(kinds[0]) is not tuple:
            return _scalar(value, kinds[0])
        if name in ("layers", "layer") and isinstance(value, (int, float)):
            value = [value]
        if isinstance(value, (str, dict)) or (name in ("layers", "inner_params") and not value):
            raise TypeError
        return tuple(_scalar(item, get_args(kinds[0])[0]) for item in value)
    except (TypeError, ValueError, OverflowError):
        needed = kind.__name__ if isinstance(kind, type) else kind
        raise RequestError(f"{where}: the field {name!r} needs {needed}, not {value!r}.") from None


def _scalar(value: Any, kind: type) -> Any:
    """One value as ``kind``; raises TypeError or ValueError where it is none."""
    if kind is float and not isinstance(value, bool):
        return float(value)
    if kind is int and not isinstance(value, bool) and int(value) == float(value):
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise TypeError
