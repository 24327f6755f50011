"""How do time and memory grow with the forget set, the model and the store? ``make bench``.

Three sweeps: questions to forget (10 to 1,000: the 217 facts of the factual set, behind them invented ones), the model
(the pocket, then Llamas with random weights up to some 350 million parameters; four questions) and the cells of a store
(10 to 2,000, each with 50 made-up rows). The first method of each kind stands for its kind. Each point is a process of
its own, forked from one that has imported everything, with one thread. Time is the processor's (user and system), so
that other work on the machine moves it less than seconds on the clock, which are in the rows too. Memory is the peak of
resident memory over what was there before, with the model loaded and one small run behind it; 0 is what fits into
memory that the process had already.

Iterations are few (`few`): growth is asked for here, not speed, which `methods.py` has. The exponent is the slope of a
line through log time against log size; "last" is that between the two largest sizes, which a fixed cost flattens less.
Work that is done once a question, a parameter or a cell has the exponent 1. `LIMIT` leaves room for noise; what is
above is printed, with what is known of its cause (`EXPECTED`).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import logging
import math
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

os.environ["EDITUNLEARN_QUIET"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch  # noqa: E402
import transformers  # noqa: E402

import editunlearn_lib as eu  # noqa: E402
from editunlearn_lib import study  # noqa: E402
from editunlearn_lib.hparams import resolve  # noqa: E402
from editunlearn_lib.methods import METHODS  # noqa: E402
from editunlearn_lib.models import down_weight, n_layers  # noqa: E402

LIMIT = 1.15
# the first method that edits in batches, that trains, and that acts beside a layer
SPREADS = next(name for name, about in METHODS.items() if about.covariance and "batch" in about.modes)
TRAINS = next(name for name, about in METHODS.items() if not about.edits)
BESIDE = next(name for name, about in METHODS.items() if about.edits and not about.covariance)
WORK = (SPREADS, TRAINS, BESIDE, "evaluate")
N_FORGET = (10, 30, 100, 300, 1000)  # the slowest method to 300 in the quick form
SIZES = {  # width, MLP width, layers, heads
    "pocket": None,
    "27M": (512, 1536, 8, 8),
    "91M": (768, 2048, 13, 12),
    "201M": (1024, 2816, 16, 16),
    "353M": (1024, 4096, 21, 16),
}
CELLS = {True: (10, 100, 500, 2000), False: (10, 50, 200, 500, 1000, 2000)}
ROWS = 50  # of a made-up cell
EXPECTED = {
    ("model", SPREADS): "one float64 solve with C costs d_ffn cubed, which is the parameters to the power of 1 to 1.5"
}


def few(method: str) -> dict[str, int]:
    """As few iterations as show how a method grows."""
    known = {field.name for field in fields(METHODS[method].config)}
    return {name: n for name, n in {"v_num_grad_steps": 2, "num_epochs": 1, "n_iter": 4}.items() if name in known}


# ---------------------------------------------------------------- one point, in a process of its own


class Meter:
    """Seconds, processor seconds and the growth of resident memory of what runs inside."""

    def __enter__(self):
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # Linux
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        self.before, self.wall, self.cpu = status("VmRSS"), time.perf_counter(), processor()
        return self

    def __exit__(self, *_):
        peak = status("VmHWM") - self.before if self.before else None
        self.row = {
            "seconds": round(time.perf_counter() - self.wall, 3),
            "cpu_seconds": round(processor() - self.cpu, 3),
            "peak_bytes": peak,
        }


def processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def status(field: str) -> int | None:
    """A field of /proc/self/status in bytes; None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def questions(n: int) -> tuple[eu.QA, ...]:
    """n questions: those of the factual set, then invented ones of the same form, which no model knows."""
    facts = eu.load_split("factual", n_forget=min(n, 217), seed=100).forget
    return facts + tuple(
        eu.QA(
            f"invented-{i}",
            f"Which city is the seat of government of Inventland {i}?",
            f"Madeupton {i}",
            f"Inventland {i}",
        )
        for i in range(n - len(facts))
    )


def model_of(name: str):
    """The pocket, or a Llama with random weights and the pocket's tokenizer."""
    model, tokenizer = eu.load_model("pocket", device="cpu")
    if SIZES[name] is None:
        return model, tokenizer
    width, ffn, layers, heads = SIZES[name]
    config = transformers.LlamaConfig(
        vocab_size=model.config.vocab_size,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        max_position_embeddings=model.config.max_position_embeddings,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False), tokenizer


def do(work: str, model, tokenizer, qas, covariance) -> None:
    if work == "evaluate":
        eu.evaluate(model, tokenizer, eu.ForgetSplit("growth", qas, ()), max_new_tokens=16, show=False)
    else:
        options = {"covariance": covariance} if METHODS[work].covariance else {}
        eu.unlearn(model, tokenizer, qas, work, hparams=few(work), progress=False, **options)


def point(kind: str, work: str, size) -> dict:
    """One measurement: a row of the result."""
    torch.set_num_threads(1)
    logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)  # with so few iterations no edit takes
    return store_point(work, size) if kind == "cells" else edit_point(kind, work, size)


def edit_point(kind: str, work: str, size) -> dict:
    name, n = ("pocket", size) if kind == "n_forget" else (size, 4)
    model, tokenizer = model_of(name)
    covariance = {}
    if work in METHODS and METHODS[work].covariance:  # of the right form and condition; what it holds costs nothing
        layers = resolve(work, model.config, few(work)).layers
        covariance = {layer: torch.eye(down_weight(model, layer).shape[1], dtype=torch.float64) for layer in layers}
    qas = questions(n)
    do(work, model, tokenizer, questions(2), covariance)  # the first call of everything
    with Meter() as meter:
        do(work, model, tokenizer, qas, covariance)
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "size": n if kind == "n_forget" else parameters,
        "parameters": parameters,
        "n_forget": n,
        "layers": n_layers(model),
        "invented": max(0, n - 217),
        **meter.row,
    }


def store_point(work: str, n: int) -> dict:
    """``start``: `study.run` on a stored grid (find every cell, read it, join); ``load``, ``export``."""
    import pandas as pd

    grid = {"model": "pocket", "dataset": "factual", "method": "base", "n_forget": 2, "seed": list(range(n))}
    frame = pd.DataFrame(
        [
            {
                "schema": study.SCHEMA,
                "set": "forget",
                "id": f"made-up-{i}",
                "variant": 0,
                "question": f"Question {i}?",
                "answer": f"Answer {i}",
                "output": "I'm sorry, but I don't know.",
                "rouge1_recall": i / ROWS,
                "outcome": "refusal",
            }
            for i in range(ROWS)
        ]
    )
    info = {"schema": study.SCHEMA, "patch": {}, "commit": "made up"}
    with tempfile.TemporaryDirectory() as folder:
        cells = study.cells(grid)
        first = study.put(Path(folder), cells[0], frame.assign(**study.columns(cells[0])), info)
        document = json.loads(first.read_text(encoding="utf-8"))
        for cell in cells[1:]:  # a copy but for its seed: `put` waits for the disk
            document["cell"]["seed"], document["records"]["seed"] = cell.seed, [cell.seed] * ROWS
            study.path_of(Path(folder), cell).write_text(json.dumps(document), encoding="utf-8")
        study.cells({**grid, "seed": 0})
        with Meter() as meter:
            if work == "start":
                rows = len(study.run(grid, store=folder, show=False))
            elif work == "load":
                rows = sum(len(study.get(study.path_of(folder, cell))) for cell in cells)
            else:
                study.export(folder, Path(folder) / "out" / "all.parquet")
                rows = n * ROWS
        assert rows == n * ROWS  # noqa: S101
    return {"size": n, "cells": n, "rows_a_cell": ROWS, **meter.row}


# ---------------------------------------------------------------- the sweep


def slope(sizes, values) -> float | None:
    """Of the least-squares line through log value against log size."""
    pairs = [(math.log(s), math.log(v)) for s, v in zip(sizes, values, strict=True) if v and v > 0]
    if len(pairs) < 2:
        return None
    mean_x, mean_y = (sum(p[i] for p in pairs) / len(pairs) for i in (0, 1))
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / sum((x - mean_x) ** 2 for x, _ in pairs)


def fits(rows: list[dict]) -> list[dict]:
    """A flat row for each sweep and measure: fitted and last exponent, and whether both are where they should be."""
    table = []
    for kind, work in dict.fromkeys((row["sweep"], row["work"]) for row in rows):
        mine = sorted((r for r in rows if (r["sweep"], r["work"]) == (kind, work)), key=lambda r: r["size"])
        sizes = [row["size"] for row in mine]
        for measure in ("cpu_seconds", "peak_bytes"):
            values = [row[measure] for row in mine]
            fitted, last = slope(sizes, values), slope(sizes[-2:], values[-2:])
            if fitted is None:
                continue
            worst = max(x for x in (fitted, last) if x is not None)
            table.append(
                {
                    "sweep": kind,
                    "work": work,
                    "measure": measure,
                    "exponent": round(fitted, 2),
                    "last_exponent": None if last is None else round(last, 2),
                    "within": worst <= LIMIT,
                }
            )
    return table


def plan(quick: bool) -> list[tuple[str, str, object]]:
    """The points, cheap ones first in each sweep."""
    points: list[tuple[str, str, object]] = [
        ("cells", work, n) for n in CELLS[quick] for work in ("start", "load", "export")
    ]
    points += [("n_forget", work, n) for n in N_FORGET for work in WORK if not (quick and work == SPREADS and n > 300)]
    points += [("model", work, name) for name in SIZES for work in WORK]
    return points


def machine() -> dict:
    return {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": 1,
        "load": os.getloadavg()[0],
    }


def _work(jobs, results) -> None:
    results.put(point(*jobs))


def apart(context, job: tuple) -> dict:
    """`point` in a process of its own."""
    results = context.SimpleQueue()
    process = context.Process(target=_work, args=(job, results))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{job} ended with {process.exitcode}")
    return results.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--full", action="store_true", help="the slowest method with 1,000 questions too, and more stores"
    )
    parser.add_argument("--sweeps", nargs="+", default=["cells", "n_forget", "model"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "growth.json")
    parser.add_argument("--note", default="", help="kept in the file: what else ran on the machine")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__ if __name__ != "__main__" else Path(__file__).stem])
    sys.path.insert(0, str(Path(__file__).parent))
    result = {
        "what": "growth of time and memory",
        "limit": LIMIT,
        "note": arguments.note,
        "machine": machine(),
        "exponents": [],
        "rows": [],
    }
    for kind, work, size in plan(not arguments.full):
        if kind in arguments.sweeps:
            row = {"sweep": kind, "work": work, **apart(context, (kind, work, size))}
            result["rows"].append(row)
            memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:10.1f} MB"
            print(f"{kind:9} {work:9} {row['size']:>12,} {row['cpu_seconds']:9.2f} s {memory}", flush=True)
            result["exponents"] = fits(result["rows"])
            write(arguments.out, result)  # a run that is stopped keeps what it has
    print("\n" + table(result["exponents"]))


def write(file: Path, result: dict) -> None:
    """A row a line."""
    lists = {name: result[name] for name in ("exponents", "rows")}
    text = json.dumps({k: v for k, v in result.items() if k not in lists}, indent=1, ensure_ascii=False)[:-2]
    for name, rows in lists.items():
        text += f',\n "{name}": [\n  ' + ",\n  ".join(json.dumps(row) for row in rows) + "\n ]"
    file.write_text(text + "\n}\n", encoding="utf-8")


def table(exponents: list[dict]) -> str:
    lines = [f"{'sweep':9} {'work':9} {'measure':12} {'exponent':>8} {'last':>6}   at most about 1?"]
    for row in exponents:
        why = EXPECTED.get((row["sweep"], row["work"]), "") if row["measure"] == "cpu_seconds" else ""
        verdict = "yes" if row["within"] else "NO" + (f": {why}" if why else "")
        last = "–" if row["last_exponent"] is None else f"{row['last_exponent']:.2f}"
        lines.append(
            f"{row['sweep']:9} {row['work']:9} {row['measure']:12} {row['exponent']:8.2f} {last:>6}   {verdict}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
