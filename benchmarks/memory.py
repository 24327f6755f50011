"""How much memory does each method need, computed beside measured, and computed for a 7B model? ``make bench``.

Computed: what the code keeps at its fullest moment, read off the code, as parts in bytes; the peak is the largest of a
method's phases. Measured: `unlearn` in a process of its own, the peak of resident memory (VmHWM, set back after loading
and a first small run) less what was resident then. Fresh memory is asked of the system for every tensor above 64 KiB and
given back at once (MALLOC_MMAP_THRESHOLD_), or else the allocator's own hoard is measured. Steps and epochs are few: the
peak is reached in the second. On a CPU covariance and projector lie in the same memory; on a GPU they stay beside it
and one at a time is moved there ("host" parts do not count, "moved" ones do).

Nothing is fitted to the measurements. The 7B table takes the lengths of texts from the pocket's tokenizer, which cuts
words into more pieces than Llama's, so it is on the high side. "covariance" is the passes that make C; on a GPU they
count for MEMIT and AlphaEdit. What the framework itself takes (a GPU's context, about 0.5 GB) is not in it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import editunlearn_lib as eu
from editunlearn_lib.covariance import text_source
from editunlearn_lib.evaluation import MAX_NEW_TOKENS
from editunlearn_lib.hparams import resolve
from editunlearn_lib.methods import METHODS, resolve_targets
from editunlearn_lib.methods.locate import CHUNK_TOKENS, lookup, together
from editunlearn_lib.methods.training import rows as encoded
from editunlearn_lib.models import encode
from editunlearn_lib.recipes.query_merging import merge_requests

TRAINING, EDITING = ("ga", "gd", "kl", "dpo", "idk"), ("rome", "memit", "alphaedit", "grace", "wise")
WITH_C = ("memit", "alphaedit")
BEGINNINGS = ("The city is one of the places that most", "Because of this there is no other way than", "I am not sure",
              "Therefore it is said that in the old days", "You can see that the people who live there")  # fmt: skip
TEMPLATES = ("{}", *(text + ". {}" for text in BEGINNINGS))
SHORT = {  # a run that reaches its peak and ends soon
    **{method: {"num_epochs": 2, "batch_size": 4, "full": False} for method in TRAINING},
    **{method: {"v_num_grad_steps": 3, "context_templates": TEMPLATES} for method in ("rome", *WITH_C)},
    "grace": {"n_iter": 3}, "wise": {"n_iter": 3},
}  # fmt: skip
MIDDLE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 32000,
}
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
LIMIT = {**dict.fromkeys(TRAINING, 48e9), **dict.fromkeys(EDITING, 24e9)}


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama; ``bytes`` of one weight; ``gpu``: tensors of the CPU do not count."""

    d: int
    d_ffn: int
    layers: int
    q: int  # heads · head size
    kv: int
    vocab: int
    parameters: int
    bytes: int
    gpu: bool

    @classmethod
    def of(cls, config, bytes: int, gpu: bool) -> Shape:
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        with torch.device("meta"):
            parameters = sum(p.numel() for p in LlamaForCausalLM(config).parameters())
        heads, kv = config.num_attention_heads, config.num_key_value_heads
        return cls(config.hidden_size, config.intermediate_size, config.num_hidden_layers, heads * size, kv * size,
                   config.vocab_size, parameters, bytes, gpu)  # fmt: skip


def texts(config, tokenizer, forget, method: str):
    """Config and lengths of the texts that this method reads: what the formulas need to know of the requests."""
    options = resolve(method, METHODS[method].config, config, SHORT[method])
    targets, _ = resolve_targets(None, tokenizer, forget, "refusal", 1, "chat", 0)
    requests = merge_requests(tuple(forget), targets, 1)
    if method in TRAINING:
        answers = encoded(tokenizer, forget, [qa.answer for qa in forget], "chat", "cpu").ids.shape[1]
        return options, {"T": max(answers, encoded(tokenizer, forget, targets, "chat", "cpu").ids.shape[1])}
    position = options.fact_token if hasattr(options, "fact_token") else "prompt_last"
    templates = options.context_templates if hasattr(options, "context_templates") else ("{}",)
    found = [lookup(tokenizer, requests, t, "chat", position, targets=True, end=options.train_end) for t in templates]
    start, stop = (torch.cat(x) for x in zip(*((t.position, t.mask.sum(1)) for t in found), strict=True))
    prompt = lookup(tokenizer, requests, "{}", "chat", "prompt_last", targets=False).ids.shape[1]
    size = len(requests)
    if method == "rome":
        size = 1
    elif method in WITH_C:  # as in locate.values
        itemsize = 2 if config.hidden_size >= 4096 else 4  # a large model is in bf16
        size = min(size, together(requests, templates, config, max(options.layers), itemsize))
    return options, {
        "n": len(requests), "chunk": size, "templates": len(templates), "P": int(start.max()), "S": int((stop - start).max()),
        "T": int(stop.max()), "prompt": prompt, "scored": float((found[0].labels != -100).sum(1).float().mean()),
    }  # fmt: skip


# ---------------------------------------------------------------- the formulas


def phases(m: Shape, method: str, options, x: dict) -> dict[str, dict[str, float]]:
    """Bytes beside the weights, part by part, in every phase of a method."""
    if method in TRAINING:
        return training(m, method, options, x)
    if method == "wise":
        found = wise(m, options, x)
    else:
        found = values(m, max(options.layers), x, kl=bool(getattr(options, "kl_factor", 0)))
    W, C, edited = m.d * m.d_ffn, 8 * m.d_ffn**2, len(options.layers)
    if method in ("rome", *WITH_C):
        held = {"original weights": edited * W * m.bytes, "factors, float64": edited * x["n"] * (m.d + m.d_ffn) * 8}
        found["writing"] = {**held, "W₀, ΔW and their sum, float64": 3 * 8 * W}
        if method in WITH_C:
            tokens = min(CHUNK_TOKENS, x["n"] * x["P"])
            found["keys"] = {**held, "one pass": forward(m, tokens)}
        if method == "memit":
            found["solve"] = {**held, "λC, K Kᵀ and their sum, then its LU": 3 * C}
        if method == "alphaedit":
            found["solve"] = {**held, "moved: P": C}
            done = {"host: projectors of the layers before": (edited - 1) * C}
            found["projector"] = {**done, "host: C + Cᵀ, eigenvectors, workspace of eigh (2)": 4 * C}
            for name, parts in found.items():
                if name != "projector":
                    parts["host: projectors"] = edited * C
        for name in ("once", "steps"):
            found[name] |= held
    T, L = x["prompt"] + MAX_NEW_TOKENS, m.layers
    stored = 3 * W * 4 + edited * W * m.bytes
    found["report"] = {
        "keys and values of the generation, and one layer's growing": (L + 1) / L * 2 * m.kv * m.bytes * x["n"] * T * L,
        "one pass": forward(m, x["n"]), "logits of a step": 4 * 4 * x["n"] * m.vocab, "the patch on": stored,
    }  # fmt: skip
    found["report, first pass"] = {
        "keys and values": 2 * m.kv * m.bytes * x["n"] * x["prompt"] * L, "the patch on": stored,
        "one pass": forward(m, x["n"] * x["prompt"]),
    }  # fmt: skip
    return found


def forward(m: Shape, tokens: int) -> float:
    """A pass without gradients at its fullest: gate, up and their product, and three hidden vectors."""
    return tokens * (3 * m.d_ffn + 3 * m.d) * m.bytes


def kept(m: Shape) -> float:
    """For the backward pass of one token through one block, no weight having a gradient: two norms' inputs (float32),
    q and the attention's output, gate, its activation and up. Keys and values are counted beside."""
    return 2 * m.d * 4 + 2 * m.q * m.bytes + 3 * m.d_ffn * m.bytes


def scores(m: Shape, tokens: float) -> float:
    """Logits at scored positions: the last step's log-probabilities, this step's logits and log-probabilities."""
    return 12 * tokens * m.vocab


def values(m: Shape, layer: int, x: dict, kl: bool) -> dict[str, dict[str, float]]:
    """`locate.values` and GRACE: texts from s on, above the layer, for the rows of one chunk."""
    prompts = x["chunk"] * x["templates"]
    R, P, S, above = prompts + (x["chunk"] if kl else 0), x["P"], x["S"], m.layers - layer - 1
    kv = 2 * m.kv * m.bytes  # one token, one layer
    held = {
        "prefix keys and values": kv * R * P * above,
        "the cache itself, all layers, which the calls hold on to": kv * R * (P + S) * m.layers if P else 0,
        "key; MLP and block output, float32": R * (m.d_ffn + 2 * S * m.d) * 4,
    }
    first = {"prefix keys and values": kv * R * P * m.layers}
    return {
        "once": {**held, "one pass": forward(m, R * S), "keys, all positions": R * S * m.d_ffn * m.bytes},
        "prefix": {**first, "one pass": forward(m, R * P)},
        "steps": {
            **held, "prefix keys and values of these rows, again for every block": kv * R * P * above * above,
            "keys and values for the backward pass": kv * R * (P + S) * above,
            "activations": R * S * kept(m) * above, "attention masks": R * S * (P + S) * m.bytes * above,
            "hidden vectors, float32 and own dtype": R * S * m.d * (4 + m.bytes),
            "logits, or a block's gradients": max(scores(m, prompts * x["scored"]), 4 * R * S * m.d_ffn * m.bytes),
        },
    }  # fmt: skip


def wise(m: Shape, options, x: dict) -> dict[str, dict[str, float]]:
    """All tokens' keys, W and the side memory in float32, and one edit's steps."""
    R, T, W, above = x["n"] * (x["templates"] + 1), x["T"], m.d * m.d_ffn, m.layers - options.layers[0] - 1
    held = {"all keys; MLP and block output, float32": R * T * (m.d_ffn + 2 * m.d) * 4}
    side = {"W in float32": 0 if m.bytes == 4 else 4 * W, "the caller's D, the mask": (4 + 1) * W}
    rows = (x["templates"] + 1) * T
    return {
        "once": {**held, "one pass": forward(m, R * T)},
        "mask": {**held, "W in float32": side["W in float32"], "D and the random numbers": 2 * 4 * W},
        "steps": {
            **held, **side, "D, its gradient, and three terms of a step": 5 * 4 * W, "activations": rows * kept(m) * (above + 1),
            "logits": scores(m, x["templates"] * x["scored"]),
        },
        "smallest Δ": {**held, **side, "keys and outputs of all edits": x["n"] * T * (m.d_ffn + 4 * m.d) * 4},
    }  # fmt: skip


def training(m: Shape, method: str, options, x: dict) -> dict[str, dict[str, float]]:
    """LoRA on every linear map: batches with their graphs, logits, factors, gradients and Adam."""
    tokens, r = options.batch_size * x["T"], options.rank
    entering = 5 * m.d + m.q + m.d_ffn  # of the seven maps q, k, v, o, gate, up, down
    leaving = m.q + 2 * m.kv + 2 * m.d + 2 * m.d_ffn
    factors = m.layers * r * (entering + leaving)
    dropout = (4 + 1) if m.gpu else (4 + 4)  # output in float32, mask as bytes on a GPU
    graph = tokens * m.layers * (kept(m) + 2 * m.kv * m.bytes + dropout * entering + 7 * r * 4)
    b = m.bytes  # logits at all positions, in bytes a token and word: arguments of the loss, copies, log-probabilities
    logits = {"ga": 12, "idk": 12, "gd": max(2 * b + 12, 16), "kl": 3 * b + 24, "dpo": 4 * b + 16}[method]
    graphs = 1 if method in ("ga", "idk") else 2
    held = {"factors, gradients, Adam": 4 * 4 * factors}
    return {
        "steps": {
            **held, "graphs": graphs * graph, "logits": logits * tokens * m.vocab, "a block's gradients": 4 * tokens * m.d_ffn * 4
        },
        "optimiser": {**held, "its temporaries": (2 if m.gpu else 0) * 4 * factors},
    }  # fmt: skip


def covariance(m: Shape, layers: int, tokens: int) -> dict[str, dict[str, float]]:
    """The passes over the texts: sums in float64, the keys of one batch in float64."""
    C = 8 * m.d_ffn**2
    return {
        "passes": {"sums": layers * C, "keys": tokens * m.d_ffn * (8 + 2 * m.bytes), "hidden vectors": 3 * tokens * m.d * m.bytes},
        "storing": {"host: sums and C": 2 * layers * C, "host: the file's bytes": C},
    }  # fmt: skip


def peak(m: Shape, found: dict[str, dict[str, float]]) -> tuple[float, str, dict[str, float]]:
    """The fullest phase: bytes, its name and its parts."""
    skip = "host: " if m.gpu else "moved: "
    sums = {name: sum(v for k, v in parts.items() if not k.startswith(skip)) for name, parts in found.items()}
    name = max(sums, key=sums.get)
    return sums[name], name, {k: v for k, v in found[name].items() if not k.startswith(skip) and v}


# ---------------------------------------------------------------- the measurement


def subject(name: str):
    """Model and tokenizer: the pocket, or a random Llama of 134 million weights with the pocket's tokenizer."""
    model, tokenizer = eu.load_model("pocket", device="cpu")
    if name == "middle":
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**MIDDLE, tie_word_embeddings=False)).eval().requires_grad_(False)
    return model, tokenizer


def batch_of_texts() -> list[str]:
    """Texts that fill one batch of the covariance."""
    text = "The river runs from the hills to the sea. " * 12
    return [text + str(i) for i in range(CHUNK_TOKENS // (len(text) // 3 + 9))]


def measure(name: str, method: str, n: int) -> float:
    """Bytes above what is resident after loading and a small run. In a process of its own: ``--child``."""
    model, tokenizer = subject(name)
    C = {}
    if method in WITH_C:
        options = resolve(method, METHODS[method].config, model.config, SHORT[method])
        f = model.config.intermediate_size
        C = {
            layer: torch.eye(f, dtype=torch.float64) * (0.01 + 0.02 * (torch.arange(f) % 2)) for layer in options.layers
        }

    def work(n):
        if method == "covariance":
            layers = resolve("memit", METHODS["memit"].config, model.config, None).layers
            source = text_source(batch_of_texts() if n > 1 else ["The sea."])
            return source.matrices(model, tokenizer, layers, show=False)
        split = eu.load_split("factual", n_forget=n, seed=100)
        return eu.unlearn(model, tokenizer, split, method, hparams=SHORT[method], covariance=C or None, progress=False)

    work(1)
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = status("VmRSS")
    work(n)
    return status("VmHWM") - before


def status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def measured(name: str, method: str, n: int) -> float:
    """`measure` in a fresh process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "EDITUNLEARN_CACHE": cache,
            "EDITUNLEARN_QUIET": "1",
            "MALLOC_MMAP_THRESHOLD_": "65536",
        }
        command = [sys.executable, __file__, "--child", name, method, str(n)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{method} on {name}: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


# ---------------------------------------------------------------- the run


def predicted(m: Shape, config, tokenizer, method: str, n: int, at_once: int | None = None):
    """Peak, phase and parts for this method on a model of this config; ``at_once``: the values of so many requests."""
    if method == "covariance":
        layers = len(resolve("memit", METHODS["memit"].config, config, None).layers)
        tokens = encode(tokenizer, batch_of_texts(), side="right")["input_ids"].numel()
        return peak(m, covariance(m, layers, CHUNK_TOKENS if m.gpu else tokens))
    options, lengths = texts(config, tokenizer, eu.load_split("factual", n_forget=n, seed=100).forget, method)
    return peak(m, phases(m, method, options, lengths | ({"chunk": at_once} if at_once else {})))


def compare(name: str, methods, n: int) -> dict:
    """Computed beside measured, on a CPU in float32."""
    model, tokenizer = subject(name)
    config, found = model.config, {}
    del model
    m = Shape.of(config, 4, False)
    print(f"\n{name}, {n} requests, float32, CPU, MB beside the weights ({m.parameters * 4 / 1e6:.0f})")
    print(f"{'':10} {'computed':>9} {'measured':>9} {'error':>6}   fullest phase")
    for method in methods:
        computed, phase, parts = predicted(m, config, tokenizer, method, n)
        seen = measured(name, method, n)
        found[method] = {
            "computed MB": round(computed / 1e6, 1), "measured MB": round(seen / 1e6, 1), "error": round(computed / seen - 1, 3),
            "phase": phase, "parts MB": {part: round(size / 1e6, 1) for part, size in parts.items()},
        }  # fmt: skip
        print(f"{method:10} {computed / 1e6:9.1f} {seen / 1e6:9.1f} {computed / seen - 1:+6.0%}   {phase}", flush=True)
    return {"requests": n, "weights MB": round(m.parameters * 4 / 1e6, 1), **found}


def seven_billion(methods, n: int) -> dict:
    """Computed for Llama-2-7B's shape in bfloat16 on one GPU, weights included, with the published presets."""
    _, tokenizer = subject("pocket")
    config = LlamaConfig(**LLAMA_7B, name_or_path="meta-llama/Llama-2-7b-chat-hf", tie_word_embeddings=False)
    m, table = Shape.of(config, 2, True), {}
    weights = m.parameters * m.bytes
    print(f"\nLlama-2-7B, bfloat16, one GPU, {n} requests, computed, GB with the weights ({weights / 1e9:.1f})")
    for method in methods:
        aim = LIMIT[method]

        def whole(at_once=None, method=method):
            found = predicted(m, config, tokenizer, method, n, at_once)
            if method in WITH_C:
                other = predicted(m, config, tokenizer, "covariance", n)
                found = max(found, (other[0], "covariance", other[2]), key=lambda one: one[0])
            return weights + found[0], *found[1:]

        total, phase, parts = whole()
        table[method] = row = {
            "GB": round(total / 1e9, 1), "aim GB": aim / 1e9, "within": total <= aim, "phase": phase,
            "parts GB": {part: round(size / 1e9, 2) for part, size in parts.items()},
        }  # fmt: skip
        line = f"{method:10} {total / 1e9:6.1f} {'within' if total <= aim else 'ABOVE'} {aim / 1e9:.0f}   {phase}: {max(parts, key=parts.get)}"
        if method in WITH_C and total > aim:  # what would fit: the values of fewer requests at once
            row["requests at once that fit"] = next((k for k in range(n, 0, -1) if whole(k)[0] <= aim), 0)
            line += f"; values of {row['requests at once that fit']} requests at once would fit"
        print(line)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["pocket", "middle"], help="which are measured")
    parser.add_argument("--methods", nargs="*", default=[*TRAINING, *EDITING, "covariance"])
    parser.add_argument("--requests", type=int, default=40, help="on the pocket and in the 7B table")
    parser.add_argument("--middle-requests", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "memory.json")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        logging.disable()
        name, method, n = arguments.child
        print(measure(name, method, int(n)))
        return
    n = arguments.requests
    found = {name: compare(name, arguments.methods, n if name == "pocket" else arguments.middle_requests)
             for name in arguments.models}  # fmt: skip
    result = {
        "what": "peak memory of unlearn: beside the weights (measured models), with them (7B)", "float32, CPU": found,
        "Llama-2-7B, bfloat16, one GPU, computed": seven_billion([m for m in arguments.methods if m != "covariance"], n),
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
