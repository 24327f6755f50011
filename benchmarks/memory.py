"""How much memory does each method need, computed (`editunlearn_lib.memory`) beside measured? ``make bench``.

Measured: `unlearn` in a process of its own, the peak of resident memory (VmHWM, set back after loading and a first small
run) less what was resident then. Fresh memory is asked of the system for every tensor above 64 KiB and given back at
once (MALLOC_MMAP_THRESHOLD_), or else the allocator's own hoard is measured. Steps and epochs are few: the peak is
reached in the second. On a CPU covariance and projector lie in the same memory; on a GPU they stay beside it and one at
a time is moved there.

Nothing is fitted to the measurements. The tables of large models take the lengths of texts from the pocket's tokenizer,
which cuts words into more pieces than theirs, so they are on the high side. "covariance" is the passes that make C; in
those tables they count for MEMIT and AlphaEdit. "hours" are a lower bound (`memory.hours`), for the cells of the paper's
tables one after another on one card: computed, never measured.
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
from transformers import LlamaConfig, LlamaForCausalLM

import editunlearn_lib as eu
from editunlearn_lib import memory
from editunlearn_lib.covariance import BATCH_TOKENS, text_source
from editunlearn_lib.hparams import resolve
from editunlearn_lib.models import load_tokenizer
from editunlearn_lib.text import encode

TRAINING, EDITING = ("ga", "gd", "kl", "dpo", "idk"), ("rome", "memit", "alphaedit", "grace", "wise")
WITH_C = ("memit", "alphaedit")
BEGINNINGS = (
    "The city is one of the places that most",
    "Because of this there is no other way than",
    "I am not sure",
    "Therefore it is said that in the old days",
    "You can see that the people who live there",
)
TEMPLATES = ("{}", *(text + ". {}" for text in BEGINNINGS))
SHORT = {  # a run that reaches its peak and ends soon
    **{method: {"num_epochs": 2, "batch_size": 4, "full": False} for method in TRAINING},
    **{method: {"v_num_grad_steps": 3, "context_templates": TEMPLATES} for method in ("rome", *WITH_C)},
    "grace": {"n_iter": 3},
    "wise": {"n_iter": 3},
}
MIDDLE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 32000,
}
LARGE = {  # shapes of the paper's models, by its name for them: what their config.json says
    "Llama2-7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_key_value_heads": 32, "vocab_size": 32000},
    "Mistral-7B": {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32000},
    "Llama3.1-8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256},
}
TITLES = {"Llama2-7B": "Llama-2-7B", "Llama3.1-8B": "Llama-3.1-8B"}  # whose memory has a table
LIMIT = {**dict.fromkeys(TRAINING, 48e9), **dict.fromkeys(EDITING, 24e9)}


def large(name: str) -> LlamaConfig:
    """The config of a large model; its name leads to its presets."""
    return LlamaConfig(
        **LARGE[name], num_hidden_layers=32, num_attention_heads=32, tie_word_embeddings=False, name_or_path=name
    )


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
    if method in WITH_C:
        options = resolve(method, model.config, SHORT[method])
        f = model.config.intermediate_size
        C = {
            layer: torch.eye(f, dtype=torch.float64) * (0.01 + 0.02 * (torch.arange(f) % 2)) for layer in options.layers
        }

    def work(n):
        if method == "covariance":
            layers = resolve("memit", model.config, None).layers
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


def compare(name: str, methods, n: int) -> dict:
    """Computed beside measured, on a CPU in float32."""
    model, tokenizer = subject(name)
    weights, found = memory.weight_bytes(model), {}
    print(f"\n{name}, {n} requests, float32, CPU, MB beside the weights ({weights / 1e6:.0f})")
    print(f"{'':10} {'computed':>9} {'measured':>9} {'error':>6}   fullest phase")
    split = eu.load_split("factual", n_forget=n, seed=100)
    for method in methods:
        if method == "covariance":
            m, config, _ = memory.prepare(model, "memit")
            tokens = encode(tokenizer, batch_of_texts(), side="right")["input_ids"].numel()
            phases = memory.moments(m, len(config.layers), tokens)
        else:
            m, config, x = memory.prepare(
                model, method, tokenizer=tokenizer, forget=split.forget, retain=split.retain, hparams=SHORT[method]
            )
            phases = memory.phases(m, method, config, x, covariance=False)
        phase, parts = memory.fullest(m, phases)
        computed, seen = sum(parts.values()), measured(name, method, n)
        found[method] = {
            "computed MB": round(computed / 1e6, 1),
            "measured MB": round(seen / 1e6, 1),
            "error": round(computed / seen - 1, 3),
            "phase": phase,
            "parts MB": {part: round(size / 1e6, 1) for part, size in parts.items()},
        }
        print(f"{method:10} {computed / 1e6:9.1f} {seen / 1e6:9.1f} {computed / seen - 1:+6.0%}   {phase}", flush=True)
    return {"requests": n, "weights MB": round(weights / 1e6, 1), **found}


def one_gpu(name: str, methods, n: int) -> dict:
    """Computed for a large model in bfloat16 on one GPU, weights included, with the published presets."""
    config, table = large(name), {}
    print(f"\n{TITLES[name]}, bfloat16, one GPU, {n} requests, computed, GB with the weights")
    for method in methods:
        m, options, x = memory.prepare(config, method, n_forget=n)
        phase, parts = memory.fullest(m, memory.phases(m, method, options, x))
        total, aim = m.parameters * m.bytes + sum(parts.values()), LIMIT[method]
        table[method] = {
            "GB": round(total / 1e9, 1),
            "aim GB": aim / 1e9,
            "within": total <= aim,
            "phase": phase,
            "parts GB": {part: round(size / 1e9, 2) for part, size in parts.items()},
        }
        print(
            f"{method:10} {total / 1e9:6.1f} {'within' if total <= aim else 'ABOVE'} {aim / 1e9:.0f}   {phase}: {max(parts, key=parts.get)}"
        )
    return table


def paper_hours() -> dict:
    """Lower bounds in hours for the cells of every table of the paper, by table and model."""
    cells = eu.paper_tables().drop_duplicates(["table", "dataset", "model", "method", "n_forget", "merge", "stage"])
    known, found = {}, {}
    for cell in cells.itertuples():
        n, m = int(cell.n_forget), int(cell.merge)
        data = "contracts" if cell.dataset == "pistol" else cell.dataset
        key = (cell.model, data, cell.method, n, m)
        if key not in known:
            split = eu.load_split(data, n_forget=n, seed=0)
            asked = sum(len(rows) for rows in split.sets().values())
            known[key] = memory.hours(
                large(cell.model),
                cell.method,
                asked=asked,
                tokenizer=load_tokenizer("pocket"),
                forget=split.forget,
                retain=split.retain,
                merge=m,
            )
        table = found.setdefault(cell.table, {}).setdefault(cell.model, {"cells": 0, "hours": 0.0})
        table["cells"] += 1
        table["hours"] += known[key]
    for table in found.values():
        for row in table.values():
            row["hours"] = round(row["hours"], 2)
    return {
        "what": f"computed, never measured: a lower bound on one {memory.CARD['name']} used to {memory.USED:.0%} "
        "(arithmetic or reading the weights, whichever is longer); not in it: starting kernels, loading, C and its projectors",
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["pocket", "middle"], help="which are measured")
    parser.add_argument("--methods", nargs="*", default=[*TRAINING, *EDITING, "covariance"])
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
    found = {
        name: compare(name, arguments.methods, n if name == "pocket" else arguments.middle_requests)
        for name in arguments.models
    }
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name, rows in before.get("float32, CPU", {}).items():  # what was not measured now stays
        found[name] = {**rows, **found.get(name, {})} if name in found else rows
    result = {
        "what": "peak memory of unlearn: beside the weights (measured models), with them (large ones)",
        "float32, CPU": found,
        **{
            f"{title}, bfloat16, one GPU, computed": one_gpu(name, (*TRAINING, *EDITING), n)
            for name, title in TITLES.items()
        },
        "hours": paper_hours(),
    }
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
