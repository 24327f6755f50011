"""Models: loading, and which module of a block is what.

The only place that knows names of modules. A key is the input of an MLP's down projection, a value is its output.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from .errors import ModelLoadError, OutOfMemoryError, RequestError, UnsupportedModelError, check_name, first_line
from .progress import shown

WEIGHTS = Path(__file__).parent / "pocket" / "weights"
POCKET = {"pocket": WEIGHTS / "base", "pocket-contracts": WEIGHTS / "contracts"}
ONE_GPU = 0.75  # of the free memory of a GPU: weights that take more are split, since the methods need room as well


@dataclass(frozen=True)
class ModelFamily:
    """Where a family keeps its parts: dotted paths, ``blocks`` from the model, the others from one block."""

    blocks: str
    mlp: str
    down: str
    norm: str  # the last one, before the output head
    transposed: bool = False  # GPT-2's Conv1D stores (d_ffn, d) instead of (d, d_ffn)
    post_mlp_norm: str | None = None  # Gemma 2 and 3 normalise what the MLP puts out


LLAMA_LIKE = ModelFamily("model.layers", "mlp", "mlp.down_proj", "model.norm")
GEMMA = replace(LLAMA_LIKE, post_mlp_norm="post_feedforward_layernorm")
FAMILIES: dict[str, ModelFamily] = {  # by config.model_type, the exact name
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), LLAMA_LIKE),
    **dict.fromkeys(("gemma2", "gemma3_text"), GEMMA),
    "gpt2": ModelFamily("transformer.h", "mlp", "mlp.c_proj", "transformer.ln_f", transposed=True),
    "gpt_neox": ModelFamily("gpt_neox.layers", "mlp", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
}


def family_of(model: nn.Module) -> ModelFamily:
    """The family of a model; raises `UnsupportedModelError` that says what to add."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise UnsupportedModelError(
            f"models of type {kind!r} are not in the table of families ({', '.join(FAMILIES)}). Add one line to "
            f"editunlearn_lib.models.FAMILIES: FAMILIES[{kind!r}] = ModelFamily(blocks='path.to.layers', mlp='mlp', "
            "down='path.of.the.down.projection.in.a.block', norm='path.of.the.last.norm')."
        )
    return FAMILIES[kind]


def n_layers(model: nn.Module) -> int:
    """The number of blocks."""
    return len(model.get_submodule(family_of(model).blocks))


def block(model: nn.Module, layer: int) -> nn.Module:
    """Block number ``layer``, counted from 0."""
    if not 0 <= layer < n_layers(model):
        raise UnsupportedModelError(f"layer {layer} does not exist: this model has {n_layers(model)}, counted from 0.")
    return model.get_submodule(family_of(model).blocks)[layer]


def down(model: nn.Module, layer: int) -> nn.Module:
    """The MLP's down projection of a block: its input is the key, its output the value."""
    return block(model, layer).get_submodule(family_of(model).down)


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between the last block and the output head."""
    return model.get_submodule(family_of(model).norm)


def post_mlp_norm(model: nn.Module, layer: int) -> nn.Module | None:
    """The norm between a block's MLP and its residual stream; ``None`` in most families."""
    name = family_of(model).post_mlp_norm
    return block(model, layer).get_submodule(name) if name else None


def head(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits (…, V) of normalised last hidden states (…, d), as the model's own forward pass computes them, and where
    the states lie: in a model on several devices, the head may lie elsewhere."""
    logits = model.get_output_embeddings()(hidden).to(hidden.device)
    cap = getattr(model.config, "final_logit_softcapping", None)  # Gemma 2
    return logits if cap is None else torch.tanh(logits / cap) * cap


def down_name(model: nn.Module, layer: int) -> str:
    """The parameter name of a down projection's weight."""
    block(model, layer)  # a layer that does not exist is an error here too
    family = family_of(model)
    return f"{family.blocks}.{layer}.{family.down}.weight"


def down_weight(model: nn.Module, layer: int) -> torch.Tensor:
    """W of a down projection as the equations have it, (d, d_ffn): a view, also of GPT-2's transposed one."""
    weight = down(model, layer).weight
    return weight.T if family_of(model).transposed else weight


def on_meta(config) -> nn.Module:
    """A model of this config without its weights: shapes only, on the device ``meta``."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights; tied ones count once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def devices(model: nn.Module) -> list[torch.device]:
    """Where the weights lie, in the order of the parameters: several devices where the model is split."""
    return list(dict.fromkeys(parameter.device for parameter in model.parameters()))


def load_model(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    device_map: str | dict[str, int | str] | None = None,
):
    """Load ``(model, tokenizer)``: ``"pocket"``, ``"pocket-contracts"``, a hub id or a local folder.

    ``device="auto"`` takes CUDA where there is one, and splits the model over all GPUs where it fills more than
    ``ONE_GPU`` of what is free on the first. ``device_map`` splits it in any case: ``"auto"``, or a device for every
    module as accelerate has it (``{"model.embed_tokens": 0, "model.layers.0": 0, …}``). ``dtype="auto"`` is float32 on
    a CPU (there, bf16 is slower and loses small edits) and the checkpoint's own on a GPU. Only safetensors are read and
    no remote code is run. Raises `ModelLoadError` and `UnsupportedModelError`.
    """
    path, quoted = POCKET.get(str(name), name), repr(str(name))
    if device_map is not None and device != "auto":
        raise RequestError(
            f"device={str(device)!r} and device_map={device_map!r} exclude each other: give one of them."
        )
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if isinstance(dtype, str) and dtype != "auto":
        check_name("dtype", dtype, ("float32", "bfloat16", "float16"))
        dtype = getattr(torch, dtype)
    if dtype == "auto" and str(place).startswith("cpu"):
        dtype = torch.float32
    bars = hf_logging.is_progress_bar_enabled()
    if bars and not shown():
        hf_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        family_of(SimpleNamespace(config=config))
        if device == "auto" and device_map is None and place == "cuda":
            need = weight_bytes(on_meta(config).to((config.dtype or torch.float32) if dtype == "auto" else dtype))
            free = torch.cuda.mem_get_info()[0]
            if torch.cuda.device_count() > 1 and need > ONE_GPU * free:
                device_map = "auto"
            elif need > free:
                raise OutOfMemoryError(
                    f"the weights of {quoted} take {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB of the GPU are free: "
                    "use dtype='bfloat16', a larger GPU or more of them, or device='cpu'."
                )
        tokenizer = load_tokenizer(name)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, device_map=device_map, use_safetensors=True, trust_remote_code=False
        )
    except (UnsupportedModelError, OutOfMemoryError):
        raise
    except Exception as error:  # transformers raises OSError, ValueError and hub errors of many types
        raise ModelLoadError(
            f"the model {quoted} cannot be loaded ({type(error).__name__}: {first_line(error)}). "
            "A local folder with config.json, *.safetensors and tokenizer files works without a network: "
            "load_model('path/to/folder'); load_model('pocket') needs nothing at all."
        ) from error
    finally:
        if bars:
            hf_logging.enable_progress_bar()
    if device_map is None:
        model = model.to(place)
    # a model of which some weights lie on disk answers, but cannot be edited
    if away := [parameter for parameter, tensor in model.named_parameters() if tensor.device.type == "meta"]:
        raise ModelLoadError(
            f"the model {quoted} does not fit on the devices: {len(away)} of its weights ({away[0]}, …) were left in "
            "main memory or on disk, where no method can change them. Use dtype='bfloat16', more or larger GPUs, a "
            "device_map over GPUs only, or device='cpu'."
        )
    return model.eval().requires_grad_(False), tokenizer


def load_tokenizer(name: str | Path):
    """The tokenizer of a model, without the model; it can always pad."""
    tokenizer = AutoTokenizer.from_pretrained(POCKET.get(str(name), name), trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def fingerprint(model: nn.Module, untouched: dict[str, torch.Tensor] | None = None) -> str:
    """Sixteen hex digits of a model's weights: names, shapes and 64 values of every parameter, rounded to bf16.

    Rounded, so that one checkpoint loaded in float32 and in bfloat16 is the same model. ``untouched`` gives the
    original values of parameters that are patched at the moment.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = (untouched or {}).get(name, parameter).detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.bfloat16).float()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
