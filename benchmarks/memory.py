"""How much memory does each method need, computed (`editunlearn_lib.memory`) beside measured? ``make bench``.

Measured: `unlearn` in a process of its own, the peak of resident memory (VmHWM, set back after loading and a first
small run) less what was resident then. Fresh memory is asked of the system for every tensor above 64 KiB and given back
at once (MALLOC_MMAP_THRESHOLD_), or else the allocator's own hoard is measured. Steps and epochs are few: the peak is
reached in the second. On a CPU covariance and projector lie in the same memory; on a GPU they stay beside it and one at
a time is moved there.

Nothing is fitted to the measurements. "covariance" is the passes that make C; in the tables of large models they count
for the methods that read it. "hours" are a lower bound, for the cells of the paper's tables one after another on one
card: computed, never measured (`estimates.py`).
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
from pathlib import Path

import torch
from estimates import TITLES, job_of, one_gpu, paper_hours
from transformers import LlamaConfig, LlamaForCausalLM

import editunlearn_lib as eu
from editunlearn_lib import memory
from editunlearn_lib.covariance import BATCH_TOKENS, text_source
from editunlearn_lib.hparams import resolve
from editunlearn_lib.methods import METHODS
from editunlearn_lib.methods.training import TrainConfig
from editunlearn_lib.methods.values import ValueConfig
from editunlearn_lib.models import weight_bytes
from editunlearn_lib.text import encode

# the first method that edits in batches: its layers are those of the covariance that is measured
SPREADS = next(name for name, about in METHODS.items() if about.covariance and "batch" in about.modes)
BEGINNINGS = (
    "The city is one of the places that most",
    "Because of this there is no other way than",
    "I am not sure",
    "Therefore it is said that in the old days",
    "You can see that the people who live there",
)
TEMPLATES = ("{}", *(text + ". {}" for text in BEGINNINGS))
MIDDLE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 32000,
}


def short(method: str) -> dict:
    """Hyperparameters of a run that reaches its peak and ends soon."""
    config = METHODS[method].config
    if issubclass(config, TrainConfig):
        return {"num_epochs": 2, "batch_size": 4, "full": False}
    if issubclass(config, ValueConfig):
        return {"v_num_grad_steps": 3, "context_templates": TEMPLATES}
    return {"n_iter": 3} if hasattr(config, "n_iter") else {}


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
    return [text + str(i) for i in range(BATCH_TOKENS // (len(text) // 3 + 9))]


def measure(name: str, method: str, n: int) -> float:
    """Bytes above what is resident after loading and a small run. In a process of its own: ``--child``."""
    model, tokenizer = subject(name)
    C = {}
    if method in METHODS and METHODS[method].covariance:
        d_ffn = model.config.intermediate_size
        one = torch.eye(d_ffn, dtype=torch.float64) * (0.01 + 0.02 * (torch.arange(d_ffn) % 2))
        C = {layer: one.clone() for layer in resolve(method, model.config, short(method)).layers}

    def work(n):
        if method == "covariance":
            layers = resolve(SPREADS, model.config, None).layers
            source = text_source(batch_of_texts() if n > 1 else ["The sea."])
            return source.matrices(model, tokenizer, layers, show=False)
        split = eu.load_split("factual", n_forget=n, seed=100)
        return eu.unlearn(model, tokenizer, split, method, hparams=short(method), covariance=C or None, progress=False)

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


def computed(model, tokenizer, method: str, n: int) -> tuple[str, dict[str, float]]:
    """The fullest phase and its parts, in bytes."""
    if method == "covariance":
        tokens = encode(tokenizer, batch_of_texts(), side="right")["input_ids"].numel()
        m, layers = memory.Shape(model, gpu=False), resolve(SPREADS, model.config, None).layers
        return memory.fullest(m, memory.moments(m, len(layers), tokens))
    split = eu.load_split("factual", n_forget=n, seed=100)
    rows = {"tokenizer": tokenizer, "forget": split.forget, "retain": split.retain}
    return memory.estimate(job_of(model, method, hparams=short(method), **rows), method, covariance=False)


def compare(name: str, methods, n: int) -> dict:
    """Computed beside measured, on a CPU in float32."""
    model, tokenizer = subject(name)
    weights, table = weight_bytes(model), {}
    print(f"\n{name}, {n} requests, float32, CPU, MB beside the weights ({weights / 1e6:.0f})")
    print(f"{'':10} {'computed':>9} {'measured':>9} {'error':>6}   fullest phase")
    for method in methods:
        phase, parts = computed(model, tokenizer, method, n)
        total, peak = sum(parts.values()), measured(name, method, n)
        table[method] = {
            "computed MB": round(total / 1e6, 1),
            "measured MB": round(peak / 1e6, 1),
            "error": round(total / peak - 1, 3),
            "phase": phase,
            "parts MB": {part: round(size / 1e6, 1) for part, size in parts.items()},
        }
        print(f"{method:10} {total / 1e6:9.1f} {peak / 1e6:9.1f} {total / peak - 1:+6.0%}   {phase}", flush=True)
    return {"requests": n, "weights MB": round(weights / 1e6, 1), **table}


def large_table(name: str, n: int) -> dict:
    """`one_gpu`, and what it says for a terminal."""
    table = one_gpu(name, n)
    print(f"\n{TITLES[name]}, bfloat16, one GPU, {n} requests, computed, GB with the weights")
    for method, row in table.items():
        verdict, largest = "within" if row["within"] else "ABOVE", max(row["parts GB"], key=row["parts GB"].get)
        print(f"{method:10} {row['GB']:6.1f} {verdict} {row['aim GB']:.0f}   {row['phase']}: {largest}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["pocket", "middle"], help="which are measured")
    parser.add_argument("--methods", nargs="*", default=[*METHODS, "covariance"])
    parser.add_argument("--requests", type=int, default=40, help="on the pocket and in the tables of large models")
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
    tables = {
        name: compare(name, arguments.methods, n if name == "pocket" else arguments.middle_requests)
        for name in arguments.models
    }
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name, rows in before.get("float32, CPU", {}).items():  # what was not measured now stays
        tables[name] = {**rows, **tables.get(name, {})}
    result = {
        "what": "peak memory of unlearn: beside the weights (measured models), with them (large ones)",
        "float32, CPU": tables,
        **{f"{title}, bfloat16, one GPU, computed": large_table(name, n) for name, title in TITLES.items()},
        "hours": paper_hours(),
    }
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
