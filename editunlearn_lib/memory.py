"""How much memory a method needs, computed before it starts, and a lower bound on how long a piece of work takes.

Computed is what the code keeps at its fullest moment, read off the code: parts in bytes, in each of a method's phases.
Nothing is fitted to measurements; ``benchmarks/memory.py`` sets them beside each other. Not in it: what the framework
itself takes (a GPU's context, about 0.5 GB) and the allocator's waste.

    m            sizes of the model (`Shape`)
    x            lengths of the texts in tokens (`lengths`)
    "host: …"    lies in main memory: on a GPU it does not count
    "moved: …"   lies on the GPU only while it is used: on a CPU it is counted where it lies
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from .covariance import BATCH_TOKENS
from .data import QA, load_split
from .errors import OutOfMemoryError, check_name, first_line
from .evaluation import MAX_NEW_TOKENS, TOKENS_AT_ONCE
from .hparams import resolve
from .methods import METHODS, resolve_targets
from .methods.locate import CHUNK_TOKENS, Request, lookup, together
from .methods.training import rows
from .models import block, devices, down_weight, load_tokenizer, n_layers, on_meta, weight_bytes
from .recipes.query_merging import merge_requests

log = logging.getLogger(__name__)

# methods whose formulas are below
COMPUTED = ("ga", "gd", "kl", "dpo", "idk", "rome", "memit", "alphaedit", "grace", "wise")
CLEARLY = 1.25  # an estimate above this share of what is free is an error, one above it all a warning
CARD = {"name": "H100 SXM", "operations a second": 989e12, "bytes a second": 3.35e12}  # dense bf16; its data sheet
USED = 0.4  # of both: what large models reach in practice
Phases = dict[str, dict[str, float]]  # bytes, by phase and part


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    d: int
    d_ffn: int
    layers: int
    q: int  # heads · head size
    kv: int
    vocab: int
    parameters: int
    entering: int  # of all linear maps of the blocks: the sum of their inputs, and of their outputs
    leaving: int
    bytes: int  # of one weight
    gpu: bool

    @classmethod
    def of(cls, model: nn.Module, gpu: bool) -> Shape:
        """Of a model, which may lie on the device ``meta``."""
        config = model.config
        d, d_ffn = down_weight(model, 0).shape
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or d // heads
        kv = getattr(config, "num_key_value_heads", None) or heads
        maps = [
            module.weight.shape
            for module in block(model, 0).modules()
            if getattr(module, "weight", None) is not None and module.weight.ndim == 2
        ]
        entering, leaving = (n_layers(model) * sum(shape[i] for shape in maps) for i in (1, 0))
        itemsize = model.dtype.itemsize
        return cls(
            d,
            d_ffn,
            n_layers(model),
            heads * size,
            kv * size,
            config.vocab_size,
            weight_bytes(model) // itemsize,
            entering,
            leaving,
            itemsize,
            gpu,
        )


def lengths(
    tokenizer,
    method: str,
    config: Any,
    model_config: Any,
    requests: Sequence[Request],
    forget: Sequence[QA],
    retain: Sequence[QA] = (),
    *,
    mode: str | None = None,
    prompt_format: str = "chat",
    itemsize: int = 4,
) -> dict[str, float]:
    """What the formulas have to know of the texts that this method reads, in tokens."""
    if not METHODS[method].edits:
        kinds = {
            "answer": (forget, [qa.answer for qa in forget]),
            "refusal": (forget, [r.target for r in requests]),
            "retain": (retain, [qa.answer for qa in retain]),
        }
        x = {"n": len(forget), "B": min(config.batch_size, len(forget))}
        for name, (qas, answers) in kinds.items():
            encoded = rows(tokenizer, qas, answers, prompt_format, "cpu").mask.sum(1) if qas else torch.zeros(1)
            x |= {name: int(encoded.max()), f"{name}, mean": float(encoded.float().mean())}
        return x
    prefix = " ".join(
        ["the"] * getattr(config, "context_length", 0)
    )  # written by the model later: only its length counts
    templates = getattr(config, "context_templates", ("{}",)) or ("{}", *[f"The {prefix}. {{}}"] * 5)
    position = getattr(config, "fact_token", "prompt_last")
    found = [
        lookup(tokenizer, requests, t, prompt_format, position, targets=True, end=config.train_end)
        for t in dict.fromkeys(templates)
    ]
    start, stop = (torch.cat(part) for part in zip(*((t.position, t.mask.sum(1)) for t in found), strict=True))
    prompt = lookup(tokenizer, requests, "{}", prompt_format, "prompt_last", targets=False).ids.shape[1]
    n = len(requests)
    batch = 1 if mode == "sequential" else getattr(config, "batch_size", None) or n
    if method in ("memit", "alphaedit"):
        batch = min(batch, n, together(requests, templates, model_config, max(config.layers), itemsize))
    return {
        "n": n,
        "chunk": n if method == "grace" else batch,
        "templates": len(templates),
        "P": int(start.max()),
        "S": int((stop - start).max()),
        "T": int(stop.max()),
        "prompt": prompt,
        "scored": float((found[0].labels != -100).sum(1).float().mean()),
    }


# ---------------------------------------------------------------- the formulas


def phases(m: Shape, method: str, config: Any, x: dict[str, float], *, covariance: bool = True) -> Phases:
    """Bytes beside the weights, part by part, in every phase of a method; ``covariance``: C is not there yet."""
    if not METHODS[method].edits:
        return training(m, method, config, x)
    if method == "wise":
        found = wise(m, config, x)
    else:
        found = values(m, max(config.layers), x, kl=bool(getattr(config, "kl_factor", 0)))
    W, C, edited = m.d * m.d_ffn, 8 * m.d_ffn**2, len(config.layers)
    if METHODS[method].covariance:
        held = {"original weights": edited * W * m.bytes, "factors, float64": edited * x["n"] * (m.d + m.d_ffn) * 8}
        uses_C = getattr(config, "mom2_adjustment", True)
        kept = {"host: C, or the projectors": edited * C if uses_C else 0}
        if uses_C:
            found["keys"] = {**held, **kept, "one pass": forward(m, min(CHUNK_TOKENS, x["n"] * x["P"]))}
        if method == "memit":
            found["solve"] = {**held, **kept, "λC, K Kᵀ and their sum, then its LU": 3 * C}
        if method == "alphaedit":
            found["solve"] = {**held, **kept, "moved: P": C}
            found["projector"] = {**kept, "host: C + Cᵀ, eigenvectors, workspace of eigh (2)": 4 * C}
        found["writing"] = {**held, **kept, "W₀, ΔW and their sum, float64": 3 * 8 * W}
        for name in ("once", "steps"):
            found[name] |= held | kept
        if uses_C and covariance:
            found |= moments(m, edited)
    T, L = x["prompt"] + MAX_NEW_TOKENS, m.layers
    at_once = min(x["n"], max(1, TOKENS_AT_ONCE // T))
    adapters = {"wise": 4 * W, "grace": 4 * x["n"] * (m.d_ffn + m.d)}  # the side memory; keys and values
    summed = 3 * W * 4 + (0 if m.gpu else edited * W * m.bytes)  # in float32; the original is in main memory
    stored = adapters.get(method, summed)
    found["report"] = {
        "keys and values of the generation, and one layer's growing": (L + 1) * 2 * m.kv * m.bytes * at_once * T,
        "one pass": forward(m, at_once),
        "logits of a step": 4 * 4 * at_once * m.vocab,
        "the patch on": stored,
    }
    found["report, first pass"] = {
        "keys and values": 2 * m.kv * m.bytes * x["n"] * x["prompt"] * L,
        "the patch on": stored,
        "one pass": forward(m, x["n"] * x["prompt"]),
    }
    return found


def forward(m: Shape, tokens: float) -> float:
    """A pass without gradients at its fullest: gate, up and their product, and three hidden vectors."""
    return tokens * (3 * m.d_ffn + 3 * m.d) * m.bytes


def kept(m: Shape) -> float:
    """For the backward pass of one token through one block, no weight having a gradient: two norms' inputs (float32),
    q and the attention's output, gate, its activation and up. Keys and values are counted beside."""
    return 2 * m.d * 4 + 2 * m.q * m.bytes + 3 * m.d_ffn * m.bytes


def scores(m: Shape, tokens: float) -> float:
    """Logits at scored positions: the last step's log-probabilities, this step's logits and log-probabilities."""
    return 12 * tokens * m.vocab


def values(m: Shape, layer: int, x: dict[str, float], kl: bool) -> Phases:
    """`locate.values` and GRACE: texts from s on, above the layer, for the rows of one chunk."""
    prompts = x["chunk"] * x["templates"]
    R, P, S, above = prompts + (x["chunk"] if kl else 0), x["P"], x["S"], m.layers - layer - 1
    kv = 2 * m.kv * m.bytes  # one token, one layer
    own = 4 if m.bytes < 4 else 0  # in half precision what is kept in float32 is a copy
    held = {
        "keys and values of the prefix": kv * R * P * above,
        "key; MLP and block output, float32": R * (m.d_ffn + 2 * S * m.d) * 4,
    }
    return {
        "once": {
            **held,
            "the cache, all layers": kv * R * (P + S) * m.layers if P else 0,
            "one pass": forward(m, R * S),
        },
        "prefix": {"keys and values, all layers": kv * R * P * m.layers, "one pass": forward(m, R * P)},
        "steps": {
            **held,
            "the prefix of the rows that are left": kv * R * P * above,
            "keys and values for the backward pass": 2 * m.q * m.bytes * R * (P + S) * above,
            "activations": R * S * kept(m) * above,
            "attention masks": 2 * R * S * (P + S) * m.bytes,
            "hidden vectors": R * S * m.d * (m.bytes + own),
            "logits, or a block's gradients": max(scores(m, prompts * x["scored"]), 4 * R * S * m.d_ffn * m.bytes),
        },
    }


def wise(m: Shape, config: Any, x: dict[str, float]) -> Phases:
    """All tokens' keys, W and the side memory in float32, and one edit's steps."""
    R, T, W, above = x["n"] * (x["templates"] + 1), x["T"], m.d * m.d_ffn, m.layers - config.layers[0] - 1
    held = {"all keys; MLP and block output, float32": R * T * (m.d_ffn + 2 * m.d) * 4}
    side = {"W in float32": 0 if m.bytes == 4 else 4 * W, "the caller's D, the mask": (4 + 1) * W}
    lines = (x["templates"] + 1) * T
    return {
        "once": {**held, "one pass": forward(m, R * T)},
        "mask": {**held, "W in float32": side["W in float32"], "D and the random numbers": 2 * 4 * W},
        "steps": {
            **held,
            **side,
            "D, its gradient, and three terms of a step": 5 * 4 * W,
            "activations": lines * (kept(m) + 2 * m.q * m.bytes) * (above + 1),
            "logits": scores(m, x["templates"] * x["scored"]),
        },
        "smallest Δ": {**held, **side, "keys and outputs of all edits": x["n"] * T * (m.d_ffn + 4 * m.d) * 4},
    }


def training(m: Shape, method: str, config: Any, x: dict[str, float]) -> Phases:
    """LoRA on every linear map, or every weight: batches with their graphs, logits, gradients and Adam."""
    a, r, k = (x["B"] * x[name] for name in ("answer", "refusal", "retain"))  # tokens of a batch, padding included
    b, V = m.bytes, m.vocab
    first, second = {"ga": (a, 0), "idk": (r, 0), "gd": (a, k), "kl": (a, k), "dpo": (a, r)}[method]
    logits = {  # bytes a word: what the loss is given, copies in float32, log-probabilities, their gradients
        "ga": 12 * a,
        "idk": 12 * r,
        "gd": max(b * (a + k) + 4 * a + 8 * k, 12 * a + 4 * k),
        "kl": b * (a + 2 * k) + 4 * a + 20 * x["B"] * x["retain, mean"],
        "dpo": 2 * b * (a + r) + 4 * (a + r) + 8 * max(a, r),
    }[method] * V
    if config.full:
        weight, state = 2 * m.d * 4 + 5 * m.d * b + 4 * m.d_ffn * b + 3 * m.q * b, m.parameters * b
        held = {"original weights": state, "gradients": state, "Adam": 2 * state}
    else:
        dropout = (4 + 1) if m.gpu else (4 + 4)  # output in float32, mask as bytes on a GPU
        weight = (
            kept(m)
            + 2 * m.q * b
            + (dropout * m.entering / m.layers if config.lora_dropout else 4 * (2 * m.d + m.q + m.d_ffn))
        )
        weight += 4 * config.rank * 7
        state = 4 * config.rank * (m.entering + m.leaving)
        held = {"factors, gradients, Adam": 4 * state}
    tokens = first + second
    graph = tokens * m.layers * weight
    if config.gradient_checkpointing:
        graph = tokens * m.layers * m.d * b + max(first, second) * weight
    found = {
        "steps": {
            **held,
            "graphs": graph,
            "logits": logits,
            "a block's gradients": 4 * max(first, second) * m.d_ffn * 4,
        },
        "optimiser": {**held, "its temporaries": state if m.gpu else 0},
    }
    if config.full:
        found["change"] = {"original weights": state, "Adam": 2 * state, "host: change, float32": 4 * m.parameters}
    return found


def moments(m: Shape, layers: int, tokens: int = BATCH_TOKENS) -> Phases:
    """The passes over the texts that make C: sums in float64, the keys of one batch in float64."""
    C = 8 * m.d_ffn**2
    return {
        "covariance": {
            "sums": layers * C,
            "keys": tokens * m.d_ffn * (8 + 2 * m.bytes),
            "hidden vectors": 3 * tokens * m.d * m.bytes,
        },
        "covariance, storing": {"host: sums and C": 2 * layers * C, "host: the file's bytes": C},
    }


def fullest(m: Shape, found: Phases) -> tuple[str, dict[str, float]]:
    """The phase that needs most, and its parts."""
    skip = "host: " if m.gpu else "moved: "
    left = {name: {k: v for k, v in parts.items() if v and not k.startswith(skip)} for name, parts in found.items()}
    name = max(left, key=lambda one: sum(left[one].values()))
    return name, left[name]


# ---------------------------------------------------------------- before it starts


def estimate(model_or_config: Any, method: str, *, covariance: bool = True, **options: Any) -> dict[str, float]:
    """Bytes by part at the fullest moment of `unlearn`, ``weights`` among them; their sum is what is needed.

    Of a model, or of a `transformers` config before anything is loaded. ``options`` are those of `prepare`.
    ``covariance=False``: C is in the cache or given. Raises `UnknownNameError` and what the hyperparameters raise.
    """
    m, config, x = prepare(model_or_config, method, **options)
    _, parts = fullest(m, phases(m, method, config, x, covariance=covariance))
    return {"weights": m.parameters * m.bytes, **parts}


def prepare(
    model_or_config: Any,
    method: str,
    *,
    tokenizer=None,
    forget: Sequence[QA] | None = None,
    retain: Sequence[QA] | None = None,
    n_forget: int = 40,
    hparams: Any = None,
    mode: str | None = None,
    merge: int = 1,
    prompt_format: str = "chat",
    dtype: torch.dtype = torch.bfloat16,
    gpu: bool | None = None,
) -> tuple[Shape, Any, dict[str, float]]:
    """Sizes, resolved hyperparameters and lengths of texts, as the formulas take them.

    A config is taken in ``dtype`` and on a GPU, unless ``gpu=False``. Without a tokenizer and a forget set of your own:
    ``n_forget`` built-in facts as the pocket's tokenizer cuts them, which is into more pieces than a large one does.
    """
    check_name("method with a formula", method, COMPUTED)
    loaded = isinstance(model_or_config, nn.Module)
    model = model_or_config if loaded else on_meta(model_or_config).to(dtype)
    if gpu is None:
        gpu = not loaded or devices(model)[0].type == "cuda"
    if forget is None:
        split = load_split("factual", n_forget=n_forget, seed=0)
        forget, retain = split.forget, split.retain if retain is None else retain
    tokenizer = tokenizer or load_tokenizer("pocket")
    config = resolve(method, METHODS[method].config, model.config, hparams)
    targets, _ = resolve_targets(model, tokenizer, forget, "refusal", merge, prompt_format, 0)
    requests = merge_requests(tuple(forget), targets, merge)
    m = Shape.of(model, gpu)
    x = lengths(
        tokenizer,
        method,
        config,
        model.config,
        requests,
        forget,
        retain or (),
        mode=mode or METHODS[method].modes[0],
        prompt_format=prompt_format,
        itemsize=m.bytes,
    )
    return m, config, x


def free(model: nn.Module) -> float:
    """Bytes that are still to be had: on all the GPUs that a model lies on together, or of main memory.

    In a container with a limit of its own (control groups, version 2) that limit counts.
    """
    gpus = [device for device in devices(model) if device.type == "cuda"]
    if gpus:
        held_back = sum(torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu) for gpu in gpus)
        return sum(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus) + held_back
    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(available, limit - used + int(stat["inactive_file"]))  # files that were read are let go first
    except (OSError, ValueError, KeyError):  # no such group, or "max": no limit
        return available


def check(job: Any, method: str, *, covariance: bool) -> None:
    """Warn where a method needs more than is free, raise `OutOfMemoryError` where it is ``CLEARLY`` more.

    Over several GPUs the sum counts: which of them fills up first is not computed. A method of your own has no formula
    here and is not checked.
    """
    if method not in COMPUTED:
        return
    m = Shape.of(job.model, devices(job.model)[0].type == "cuda")
    x = lengths(
        job.tokenizer,
        method,
        job.config,
        job.model.config,
        job.requests,
        job.forget,
        job.retain,
        mode=job.mode,
        prompt_format=job.prompt_format,
        itemsize=m.bytes,
    )
    name, parts = fullest(m, phases(m, method, job.config, x, covariance=covariance))
    need, have = sum(parts.values()), free(job.model)
    if need <= have:
        return
    largest = max(parts, key=parts.get).removeprefix("host: ").removeprefix("moved: ")
    text = (
        f"{method} on {len(job.requests)} requests needs about {need / 1e9:.1f} GB beside the weights (at its fullest in "
        f"{name!r}; the largest part: {largest}, {max(parts.values()) / 1e9:.1f} GB), and {have / 1e9:.1f} GB are free: "
        f"use {advice(job, method)}."
    )
    if need > CLEARLY * have:
        raise OutOfMemoryError(f"{text} unlearn(…, check_memory=False) goes on regardless.")
    log.warning("%s It may be just enough: the estimate is off by up to a fifth.", text)


def advice(job: Any, method: str) -> str:
    """What needs less memory, for this method as it is run."""
    config, ways = job.config, []
    if getattr(config, "full", False):
        ways.append("LoRA (full: false)")
    if not getattr(config, "gradient_checkpointing", True):
        ways.append("gradient_checkpointing: true")
    if hasattr(config, "batch_size") and job.mode != "sequential" and (config.batch_size or len(job.requests)) > 1:
        ways.append(f"a smaller batch_size ({config.batch_size or len(job.requests)} now)")
    elif METHODS[method].edits and len(job.requests) > 1:
        ways.append("fewer requests at a time (previous= continues a patch)")
    if job.model.dtype.itemsize > 2:
        ways.append("dtype='bfloat16' in load_model")
    if devices(job.model)[0].type == "cuda":
        ways.append("more GPUs (device_map='auto' in load_model)")
    return ", ".join(ways) or "a machine with more memory"


@contextlib.contextmanager
def explained(what: str, ways: str) -> Iterator[None]:
    """Memory that runs out inside the ``with`` becomes an `OutOfMemoryError` that says what needs less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        ours = isinstance(error, OutOfMemoryError)
        ran_out = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        if ours or not ran_out:
            raise
        traceback.clear_frames(error.__traceback__)  # or else the error keeps every tensor of the work alive
        raise OutOfMemoryError(
            f"memory ran out in {what}: use {ways}. The model is as it was. ({first_line(error)})"
        ) from error


# ---------------------------------------------------------------- how long


def hours(model_or_config: Any, method: str, *, asked: int, **options: Any) -> float:
    """A lower bound, in hours, on `unlearn` and on asking ``asked`` questions afterwards: computed, never measured.

    A pass takes as long as its arithmetic (2 operations a weight and token forwards, 2 more backwards to the inputs, 2
    more to the weights) or as reading its weights, whichever is longer, on a card of ``CARD`` used to ``USED``. Not in it:
    starting kernels, which small batches spend most of their time on, tokenising, loading, C and its projectors.
    ``method="base"``: the asking alone. ``options`` are those of `prepare`.
    """
    m, config, x = prepare(model_or_config, "grace" if method == "base" else method, **options)
    read, rate = m.parameters * m.bytes / (USED * CARD["bytes a second"]), USED * CARD["operations a second"]

    def passes(times: float, tokens: float, directions: int = 1, share: float = 1.0) -> float:
        """Seconds of so many passes of so many tokens; 2 directions: with a backward pass; 3: to the weights as well."""
        return times * directions * share * max(2 * m.parameters * tokens / rate, read)

    total = 0.0
    if method != "base" and not METHODS[method].edits:
        steps = config.num_epochs * -(-x["n"] // x["B"])
        ways = 3 if config.full else 2
        with_graph, without = {
            "ga": (("answer",), ()),
            "idk": (("refusal",), ()),
            "gd": (("answer", "retain"), ()),
            "kl": (("answer", "retain"), ("retain",)),
            "dpo": (("answer", "refusal"),) * 2,
        }[method]
        total += sum(passes(steps, x["B"] * x[name], ways) for name in with_graph)
        total += sum(passes(steps, x["B"] * x[name]) for name in without)
    elif method != "base":
        n, layer = x["n"], max(config.layers)
        above = (m.layers - layer - 1) / m.layers
        if method == "wise":
            total += passes(1, 2 * n * x["T"]) + passes(n * config.n_iter, (x["templates"] + 1) * x["T"], 2, above)
        else:
            chunks, tokens = -(-n // x["chunk"]), x["chunk"] * (x["templates"] + 1)
            steps = config.n_iter if method == "grace" else config.v_num_grad_steps
            total += passes(chunks, tokens * (x["P"] + x["S"])) + passes(chunks * steps, tokens * x["S"], 2, above)
        if method in ("memit", "alphaedit"):  # the keys of every layer, and what is still missing
            total += passes(len(config.layers) * (x["templates"] + 1), n * x["P"])
        asked += 3 * n  # the report: before, after, and the target scored
    T = x.get("prompt") or max(x["answer"], x["refusal"])
    at_once = max(1, min(asked, TOKENS_AT_ONCE // (T + MAX_NEW_TOKENS)))
    batches = -(-asked // at_once)
    total += passes(2 * batches, at_once * T) + passes(batches * MAX_NEW_TOKENS, at_once)  # scored and answered
    return total / 3600
