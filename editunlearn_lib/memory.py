"""How much memory a method needs, computed before it starts, and what is said where that is more than there is.

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
from pathlib import Path
from typing import Any

import psutil
import torch

from .covariance import BATCH_TOKENS
from .errors import OutOfMemoryError, first_line
from .evaluation import MAX_NEW_TOKENS, TOKENS_AT_ONCE
from .methods import METHODS, Job
from .methods.positions import CHUNK_TOKENS, lookup
from .methods.training import TrainConfig, encode_answers
from .methods.values import ValueConfig, batch_of
from .models import block, devices, down_weight, n_layers, weight_bytes

log = logging.getLogger(__name__)

CLEARLY = 1.25  # an estimate above this share of what is free is an error, one above it all a warning
EDITING = ("once", "prefix", "steps", "keys", "solve", "writing")  # phases with the original weights beside them
Phases = dict[str, dict[str, float]]  # bytes, by phase and part


class Shape:
    """Sizes of a model, which may lie on the device ``meta``, and what every formula needs of them in bytes."""

    def __init__(self, model: torch.nn.Module, gpu: bool):
        config, maps = model.config, [weight.shape for weight in block(model, 0).parameters() if weight.ndim == 2]
        self.layers, self.vocab, (self.d, self.d_ffn) = n_layers(model), config.vocab_size, down_weight(model, 0).shape
        self.gpu, self.bytes = gpu, model.dtype.itemsize  # of one weight
        self.parameters, heads = weight_bytes(model) // self.bytes, config.num_attention_heads
        size = getattr(config, "head_dim", None) or self.d // heads
        self.q, self.kv = heads * size, (getattr(config, "num_key_value_heads", None) or heads) * size
        # of all linear maps of the blocks: the sum of their inputs, and of their outputs
        self.entering, self.leaving = (self.layers * sum(shape[i] for shape in maps) for i in (1, 0))
        self.linear = self.layers * sum(a * b for a, b in maps)  # their weights

    def square(self) -> float:
        """A matrix (d_ffn, d_ffn) in float64."""
        return 8 * self.d_ffn**2

    def forward(self, tokens: float) -> float:
        """A pass without gradients at its fullest: gate, up and their product, and three hidden vectors."""
        return tokens * (3 * self.d_ffn + 3 * self.d) * self.bytes

    def activations(self) -> float:
        """For the backward pass of one token through one block, no weight having a gradient: two norms' inputs
        (float32), q and the attention's output, gate, its activation and up. Keys and values are counted beside."""
        return 2 * self.d * 4 + 2 * self.q * self.bytes + 3 * self.d_ffn * self.bytes

    def scores(self, tokens: float) -> float:
        """Logits at scored positions: the last step's log-probabilities, this step's logits and log-probabilities."""
        return 12 * tokens * self.vocab


def layers_of(config: Any) -> tuple[int, ...]:
    """The layers that a config names; the first, behind which most is to be run, where it names none."""
    layers = getattr(config, "layers", ())
    each = layers if isinstance(layers, (tuple, list)) else (layers,)
    return tuple(layer for layer in each if isinstance(layer, int)) or (0,)


def batch_size(config: Any, n: int) -> int:
    """How many of n rows a config takes at once: all where it does not say."""
    size = getattr(config, "batch_size", None)
    return size if isinstance(size, int) and size > 0 else n


def lengths(job: Job, method: str) -> dict[str, float]:
    """What the formulas have to know of the texts that this method reads, in tokens.

    Training: of ``answers``, ``refusals`` and ``retain`` a batch as long as its longest text, and one of mean length.
    Editing: texts have P tokens before the edited position, S from there on, T in all; ``scored`` belong to the target.
    """
    config, requests, form, edits = job.config, job.requests, job.prompt_format, METHODS[method].edits
    n = len(requests if edits else job.forget)
    batch = min(batch_size(config, n), n)
    prompts = lookup(job.tokenizer, requests if edits else job.forget, "{}", form, "prompt_last", targets=False)
    x: dict[str, float] = {"n": n, "prompt": prompts.ids.shape[1]}
    if not edits:
        x["B"] = batch
        for name, rows, texts in (
            ("answers", job.forget, [qa.answer for qa in job.forget]),
            ("refusals", requests, [request.target for request in requests]),
            ("retain", job.retain, [qa.answer for qa in job.retain]),
        ):
            size = encode_answers(job.tokenizer, rows, texts, form, "cpu").mask.sum(1) if rows else torch.zeros(1)
            x |= {name: batch * float(size.max()), f"{name}, mean": batch * float(size.float().mean())}
        return x
    prefix = " ".join(["the"] * getattr(config, "context_length", 0))  # the model writes it: only its length counts
    templates = getattr(config, "context_templates", ("{}",)) or ("{}", *[f"The {prefix}. {{}}"] * 5)
    at = {"fact_token": getattr(config, "fact_token", "prompt_last"), "end": getattr(config, "train_end", False)}
    texts = [lookup(job.tokenizer, requests, t, form, targets=True, **at) for t in dict.fromkeys(templates)]
    start, stop = (torch.cat(part) for part in zip(*((t.position, t.mask.sum(1)) for t in texts), strict=True))
    x |= {"P": int(start.max()), "S": int((stop - start).max()), "T": int(stop.max()), "templates": len(templates)}
    x |= {"scored": float((texts[0].labels != -100).sum(1).float().mean()), "chunk": n}
    if isinstance(config, ValueConfig):
        last, itemsize = min(max(layers_of(config)), n_layers(job.model) - 1), job.model.dtype.itemsize
        most = batch_of(requests, templates, job.model.config, last, itemsize)
        x["chunk"] = 1 if job.mode == "sequential" else min(batch, most)
    return x


def phases(m: Shape, method: str, config: Any, x: dict[str, float], *, covariance: bool = True) -> Phases:
    """Bytes beside the weights, part by part, in every phase of a method; ``covariance``: C is not there yet.

    A method's own phases (`Method.memory`) join those of its kind, or take their place; ``report`` is its patch alone.
    """
    about = METHODS[method]
    own: dict[str, Any] = dict(about.memory(m, config, x)) if about.memory else {}
    if not about.edits:
        return training(m, config, x, about.reads or ("answers", "refusals"), own.get("logits"))
    W, edited = m.d * m.d_ffn, len(layers_of(config))
    summed = 3 * W * 4 + (0 if m.gpu else edited * W * m.bytes)  # in float32; the original in main memory
    on = own.pop("report", {"the patch on": summed})
    phase = ({} if "steps" in own else values(m, config, x)) | own
    if about.covariance:
        C = {"host: C, or the projectors": edited * m.square()} if getattr(config, "mom2_adjustment", True) else {}
        weights = {"original weights": edited * W * m.bytes, "factors, float64": edited * x["n"] * (m.d + m.d_ffn) * 8}
        phase["writing"] = {"W₀, ΔW and their sum, float64": 3 * 8 * W}
        if C:
            phase["keys"] = {"one pass": m.forward(min(CHUNK_TOKENS, x["n"] * x["P"]))}
        phase = {name: (weights if name in EDITING else {}) | C | parts for name, parts in phase.items()}
        if C and covariance:
            phase |= moments(m, edited)
    return phase | report(m, x, on)


def report(m: Shape, x: dict[str, float], on: dict[str, float]) -> Phases:
    """The questions are answered with the patch on: at the end of a batch, and in its first pass."""
    kv, T = 2 * m.kv * m.bytes, x["prompt"] + MAX_NEW_TOKENS  # kv: a token in a layer
    at_once = min(x["n"], max(1, TOKENS_AT_ONCE // T))
    first = {"keys and values": kv * at_once * x["prompt"] * m.layers, "one pass": m.forward(at_once * x["prompt"])}
    cache = {"keys and values of the generation, and one layer's growing": (m.layers + 1) * kv * at_once * T}
    step = {"one pass": m.forward(at_once), "logits of a step": 4 * 4 * at_once * m.vocab}
    return {"report": cache | step | on, "report, first pass": first | on}


def values(m: Shape, config: Any, x: dict[str, float]) -> Phases:
    """Texts from the edited position on, above the last layer, for the rows of one chunk."""
    prompts, kl = x["chunk"] * x["templates"], x["chunk"] if getattr(config, "kl_factor", 0) else 0
    R, P, S, above = prompts + kl, x["P"], x["S"], max(m.layers - max(layers_of(config)) - 1, 0)
    kv = 2 * m.kv * m.bytes  # a token in a layer
    prefix, outputs = kv * R * P * above, R * (m.d_ffn + 2 * S * m.d) * 4
    texts = {"keys and values of the prefix": prefix, "key; MLP and block output, float32": outputs}
    cache = kv * R * (P + S) * m.layers if P else 0
    return {
        "once": {**texts, "the cache, all layers": cache, "one pass": m.forward(R * S)},
        "prefix": {"keys and values, all layers": kv * R * P * m.layers, "one pass": m.forward(R * P)},
        "steps": {
            **texts,
            "the prefix of the rows that are left": prefix,
            "keys and values for the backward pass": 2 * m.q * m.bytes * R * (P + S) * above,
            "activations": R * S * m.activations() * above,
            "attention masks": 2 * R * S * (P + S) * m.bytes,
            "hidden vectors": R * S * m.d * (m.bytes + 4 if m.bytes < 4 else m.bytes),  # a copy in float32
            "logits, or a block's gradients": max(m.scores(prompts * x["scored"]), 4 * R * S * m.d_ffn * m.bytes),
        },
    }


def training(m: Shape, config: Any, x: dict[str, float], reads: Sequence[str], logits: float | None) -> Phases:
    """LoRA on every linear map, or every weight: batches with their graphs, logits, gradients and Adam.

    reads: the texts of the loss; logits: bytes a word, if not those of a cross-entropy. A config that is no
    `TrainConfig` says nothing of all this: its defaults are taken.
    """
    b, config, tokens = m.bytes, config if isinstance(config, TrainConfig) else TrainConfig(), [x[i] for i in reads]
    every = sum(tokens) * m.layers
    if config.full:
        weight, state = 2 * m.d * 4 + 5 * m.d * b + 4 * m.d_ffn * b + 3 * m.q * b, m.parameters * b
        states = {"original weights": state, "gradients": state, "Adam": 2 * state}
        last = {"change": {"original weights": state, "Adam": 2 * state, "host: change, float32": 4 * m.parameters}}
        on = {"host: original weights": state, "host: the patch": 4 * m.parameters}
    else:
        dropout = (4 + 1) if m.gpu else (4 + 4)  # output in float32, mask as bytes on a GPU
        entering = dropout * m.entering / m.layers if config.lora_dropout else 4 * (2 * m.d + m.q + m.d_ffn)
        weight = m.activations() + 2 * m.q * b + entering + 4 * config.rank * 7
        state, last = 4 * config.rank * (m.entering + m.leaving), {}
        on = {"the patch on": state, "host: original weights": m.linear * b if b >= 4 else 0}  # else it acts beside
        states = {"factors, gradients, Adam": 4 * state}
    graph = every * m.d * b + max(tokens) * weight if config.gradient_checkpointing else every * weight
    words = (12 * sum(tokens) if logits is None else logits) * m.vocab
    steps = {**states, "graphs": graph, "logits": words, "a block's gradients": 4 * max(tokens) * m.d_ffn * 4}
    return {"steps": steps, "optimiser": {**states, "its temporaries": state * m.gpu}} | last | report(m, x, on)


def moments(m: Shape, layers: int, tokens: int = BATCH_TOKENS) -> Phases:
    """The passes over the texts that make C: sums in float64, the keys of one batch in float64."""
    sums, keys, hidden = layers * m.square(), tokens * m.d_ffn * (8 + 2 * m.bytes), 3 * tokens * m.d * m.bytes
    storing = {"host: sums and C": 2 * sums, "host: the file's bytes": m.square()}
    return {"covariance": {"sums": sums, "keys": keys, "hidden vectors": hidden}, "covariance, storing": storing}


def fullest(m: Shape, phase: Phases) -> tuple[str, dict[str, float]]:
    """The phase that needs most, and its parts."""
    skip = "host: " if m.gpu else "moved: "
    left = {name: {k: v for k, v in parts.items() if v and not k.startswith(skip)} for name, parts in phase.items()}
    return max(left.items(), key=lambda item: sum(item[1].values()))


def estimate(job: Job, method: str, *, covariance=True, gpu: bool | None = None) -> tuple[str, dict[str, float]]:
    """The phase in which a method needs most beside the weights, and its parts in bytes: their sum is what is needed.
    The model may lie on the device ``meta``. ``covariance=False``: C is in the cache or given."""
    m = Shape(job.model, devices(job.model)[0].type == "cuda" if gpu is None else gpu)
    return fullest(m, phases(m, method, job.config, lengths(job, method), covariance=covariance))


def free(model: torch.nn.Module) -> float:
    """Bytes still to be had: on all the GPUs of a model together, or of main memory (in a container: of its limit)."""
    gpus = [device for device in devices(model) if device.type == "cuda"]
    if gpus:
        cached = sum(torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu) for gpu in gpus)
        return sum(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus) + cached
    available, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(available, limit - used + int(stat["inactive_file"]))  # files that were read are let go first
    except (OSError, ValueError, KeyError):  # no control group of version 2, or "max": no limit
        return available


def ensure_enough(job: Job, method: str, *, covariance: bool) -> None:
    """Warn where a method needs more than is free, raise `OutOfMemoryError` where it is ``CLEARLY`` more. Over several
    GPUs the sum counts: which of them fills up first is not computed."""
    name, parts = estimate(job, method, covariance=covariance)
    need, have = sum(parts.values()), free(job.model)
    if need <= have:
        return
    part, most = max(parts.items(), key=lambda item: item[1])
    text = (
        f"{method} on {len(job.requests)} requests needs about {need / 1e9:.1f} GB beside the weights (at its fullest "
        f"in {name!r}; the largest part: {part.removeprefix('host: ').removeprefix('moved: ')}, {most / 1e9:.1f} GB), "
        f"and {have / 1e9:.1f} GB are free: use {advice(job, method)}."
    )
    if need > CLEARLY * have:
        raise OutOfMemoryError(f"{text} unlearn(…, check_memory=False) goes on regardless.")
    log.warning("%s It may be just enough: the estimate is off by up to a fifth.", text)


def advice(job: Job, method: str) -> str:
    """What needs less memory, for this method as it is run."""
    config, n = job.config, len(job.requests)
    size = batch_size(config, n) if hasattr(config, "batch_size") and job.mode != "sequential" else 1
    ways = {
        "LoRA (full: false)": getattr(config, "full", False),
        "gradient_checkpointing: true": not getattr(config, "gradient_checkpointing", True),
        f"a smaller batch_size ({size} now)": size > 1,
        "fewer requests at a time (previous= continues a patch)": METHODS[method].continues and n > 1 >= size,
        "dtype='bfloat16' in load_model": job.model.dtype.itemsize > 2,
        "more GPUs (device_map='auto' in load_model)": devices(job.model)[0].type == "cuda",
    }
    return ", ".join(way for way, helps in ways.items() if helps) or "a machine with more memory"


@contextlib.contextmanager
def explained(what: str, ways: str) -> Iterator[None]:
    """Memory that runs out inside the ``with`` becomes an `OutOfMemoryError` that says what needs less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        ran_out = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        if isinstance(error, OutOfMemoryError) or not ran_out:
            raise
        traceback.clear_frames(error.__traceback__)  # or else the error keeps every tensor of the work alive
        text = f"memory ran out in {what}: use {ways}. The model is as it was. ({first_line(error)})"
        raise OutOfMemoryError(text) from error
