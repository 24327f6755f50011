"""How long does an edit take, how near is that to the least it could take, and what does a batch save? ``make bench``.

Seconds are those of a method's own run. The covariance and AlphaEdit's projector are there before it (the projector is
read from the cache, that is inside); the report on every edit, which `unlearn` writes afterwards, is not made. The
prefixes that the model writes itself, the passes that run once, keys and solves are inside: the share shows them, too.

The floor. A vector added at position s after layer l changes nothing below l and nothing before s, and no weight needs
a gradient. So a step costs one forward and one activation backward pass over the real tokens from s on, in the layers
above l; the head at scored positions alone. What runs once is not in it. A matrix with m entries takes 2m operations a
token forward and as many backward; attention 4·q·(tokens seen) forward, as many backward and 4·q a later token that
sees it for keys and values; norms, activations and the softmax nothing. WISE changes every token, so there s = 0, and
adds W′ a and the gradient of W′. Steps are those that were taken, request by request. Floor seconds are operations over
the best rate of a (tokens, d) @ (d, d_ffn) product. It is a bound of this way to work: the layer above l could keep the
queries, keys and values of tokens behind s, and the last layer needs its MLP at scored positions alone; both count.

One batch against one at a time: the same requests, the same z up to rounding. For GRACE every request has a value of
its own, as if no keys met; how many the run itself has is in the record. Rounds alternate, medians count.

The whole call is `unlearn` with its report, also on a random Llama of 12 x 768 with a vocabulary of 32,000, where
arithmetic rules and not overhead. ``--before`` names the root of an earlier version of this repository: its calls are
timed in processes of their own between ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from estimates import job_of
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

import editunlearn_lib as eu
from editunlearn_lib import memory
from editunlearn_lib.methods import METHODS, Job, Request, grace, routing, tail
from editunlearn_lib.methods.positions import lookup
from editunlearn_lib.methods.values import ValueConfig, context_templates, find_values
from editunlearn_lib.models import block, down_weight, n_layers

EDITING = [name for name, about in METHODS.items() if about.edits]
GOALS = {"rome": 0.5, "memit": 0.5, "alphaedit": 0.5, "grace": 0.5, "wise": 0.25}  # share of the floor
BATCH_GOAL = 3.5  # times faster than one at a time
# the public code's seconds an edit on a random Llama of 12 x 768, the whole call on one thread of another machine, and
# how many times faster than that it should be
ELSEWHERE = {"rome": (11.5, 3), "memit": (14.1, 5), "alphaedit": (17.1, 5), "grace": (13.4, 10), "wise": (37.0, 10)}
LAYERS = {"rome": [5], "memit": [4, 5, 6], "alphaedit": [4, 5, 6], "grace": [9], "wise": [9]}  # of 12


def timed(function, device):
    """Seconds, and what the function gives."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    result = function()
    wait()
    return time.perf_counter() - started, result


def matrix_rates(model, seconds: float = 0.3) -> dict[int, float]:
    """Operations a second of a (tokens, d) @ (d, d_ffn) product in the model's dtype, by tokens: the best of many."""
    d, d_ffn = down_weight(model, 0).shape
    rates = {}
    for tokens in (64, 256, 1024, 4096):
        x, W = (torch.rand(shape, device=model.device, dtype=model.dtype) for shape in ((tokens, d), (d, d_ffn)))
        best, until = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < until:
            best = min(best, timed(lambda x=x, W=W: x @ W, model.device)[0])
        rates[tokens] = 2 * tokens * d * d_ffn / best
    return rates


# ---------------------------------------------------------------- the floor


def pass_ops(model, layer: int, lengths, starts, scored) -> tuple[torch.Tensor, torch.Tensor]:
    """Operations of a forward and of a backward pass, text by text, in tokens from ``starts`` on, above ``layer``."""
    above, config = range(layer + 1, n_layers(model)), model.config
    entries = sum(p.numel() for i in above for p in block(model, i).parameters() if p.ndim == 2)
    head = model.get_output_embeddings().weight.numel()
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    tokens, start = (lengths - starts).double(), starts.double()
    pairs = tokens * (tokens + 1) / 2  # (token, token not behind it), both from s on
    seen = tokens * start + pairs
    matrices = 2 * entries * tokens + 2 * head * scored.double()
    attention = 4 * width * len(above)
    return matrices + attention * seen, matrices + attention * (seen + pairs)


def floor_ops(job: Job, log: list[dict]) -> float | None:
    """Operations of all steps that were taken, the whole run; None for a way to edit that the floor above is not of."""
    model, config, form = job.model, job.config, job.prompt_format

    def texts(requests, template, position, **options):
        encoded = lookup(job.tokenizer, requests, template, form, position, end=config.train_end, **options)
        return encoded.mask.sum(1), encoded.position, (encoded.labels != -100).sum(1)

    if isinstance(config, grace.GRACEConfig):
        forward, backward = pass_ops(model, config.layers[0], *texts(job.requests, "{}", "prompt_last", targets=True))
        return float((steps_of(log) * (forward + backward)).sum())
    if hasattr(config, "act_margin"):  # a side memory changes every token
        layer, own = config.layers[0], 0
        tokens = texts(routing.unrelated(job), "{}", "prompt_last", targets=False)[1].double() + 1
        for template in config.context_templates:
            lengths, position, scored = texts(job.requests, template, "prompt_last", targets=True)
            forward, backward = pass_ops(model, layer, lengths, torch.zeros_like(position), scored)
            own, tokens = own + forward + backward, tokens + lengths
        return float((steps_of(log) * (own + 4 * down_weight(model, layer).numel() * tokens)).sum())
    if not isinstance(config, ValueConfig):
        return None
    layer, steps = max(config.layers), steps_of(log)
    forward, backward = torch.zeros(len(steps), dtype=torch.double), torch.zeros(len(steps), dtype=torch.double)
    for template in context_templates(job):
        one, other = pass_ops(model, layer, *texts(job.requests, template, config.fact_token, targets=True))
        forward, backward = forward + one, backward + other
    if config.kl_factor:  # the text ends at its subject; one token, whose whole distribution is scored
        for i, request in enumerate(job.requests):
            for subject in request.subjects:
                about = [Request((), f"{subject} is a", "", (subject,))]
                at = lookup(job.tokenizer, about, "{}", "raw", "subject_last", targets=False).position
                one, other = pass_ops(model, layer, at + 1, at, torch.ones(1))
                forward[i], backward[i] = forward[i] + one[0], backward[i] + other[0]
    return float(((steps + 1) * forward + steps * backward).sum())  # the last pass tests the loss and takes no step


def steps_of(log: list[dict]) -> torch.Tensor:
    """Steps that were taken, request by request, (n,)."""
    return torch.tensor([row["steps"] for row in log], dtype=torch.double)


def profiled(method: str, job: Job) -> dict[str, float]:
    """Where the time of a run goes: the six largest shares of single operations, the profiler's own time included."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        METHODS[method].run(job)
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    return {row.key: round(row.self_cpu_time_total / total, 3) for row in rows[:6]}


# ---------------------------------------------------------------- one batch against one at a time


def shared_values(job: Job, requests) -> torch.Tensor:
    """z = h₀ + δ of the methods that search values in batches, (n, d)."""
    values = find_values(job, requests, max(job.config.layers), context_templates(job))
    return values.h0 + values.delta


def grace_values(job: Job, requests, V: torch.Tensor) -> torch.Tensor:
    """The trained values of GRACE, (n, d), from these first values; every request has its own."""
    how = (job.prompt_format, "prompt_last")
    texts = lookup(job.tokenizer, requests, "{}", *how, targets=True, end=job.config.train_end)
    tails, rows = (
        tail.Tails(job.model, job.config.layers[0], texts),
        torch.arange(len(requests), device=job.model.device),
    )
    return grace.train_values(job, tails, rows, V.to(rows.device))[0]


def batch_and_single(job: Job):
    """Two functions, for all requests at once and one by one, both giving (n, d)."""
    n, requests = len(job.requests), job.requests
    if isinstance(job.config, ValueConfig):
        each = [[request] for request in requests]
        return lambda: shared_values(job, requests), lambda: torch.cat([shared_values(job, one) for one in each])
    V = torch.rand(n, down_weight(job.model, 0).shape[0], generator=torch.Generator().manual_seed(job.seed))
    return (
        lambda: grace_values(job, requests, V),
        lambda: torch.cat([grace_values(job, requests[i : i + 1], V[i : i + 1]) for i in range(n)]),
    )


# ---------------------------------------------------------------- whole calls


def random_llama():
    """100 million random weights, 12 x 768, and the pocket's tokenizer: no answer ends by itself."""
    _, tokenizer = eu.load_model("pocket")
    torch.manual_seed(0)
    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = LlamaConfig(vocab_size=32_000, eos_token_id=None, pad_token_id=tokenizer.pad_token_id, **sizes)
    return LlamaForCausalLM(config).eval(), tokenizer


def whole_calls(name: str, n: int) -> dict[str, list[float]]:
    """Method by method: seconds an edit of `unlearn` and of its run alone, and the peak of memory above the model."""
    torch.set_num_threads(1)
    model, tokenizer = random_llama() if name == "random" else eu.load_model(name)
    split = eu.load_split("factual", n_forget=n, seed=100)
    identity = {i: torch.eye(down_weight(model, i).shape[1], dtype=torch.float64) for i in range(n_layers(model))}
    found = {}
    for method in EDITING:
        hparams = {"layers": LAYERS.get(method, [5])} if name == "random" else None
        if method == "alphaedit":
            hparams = {**(hparams or {}), "nullspace_threshold": 2.0}
        options = {"hparams": hparams, "covariance": identity, "progress": False, "check_memory": False}
        seconds, patch = timed(lambda m=method, o=options: eu.unlearn(model, tokenizer, split, m, **o), model.device)
        found[method] = [seconds / n, patch.info["seconds"] / n, patch.info["peak_memory_bytes"] / 2**20]
    return found


def beside(before: Path | None, name: str, n: int, rounds: int) -> dict:
    """Medians of `whole_calls` of this version, and of an earlier one, each call in a process of its own."""
    code = "import json, sys; sys.path[:0] = sys.argv[1:3]; import methods; "
    code += "print(json.dumps(methods.whole_calls(sys.argv[3], int(sys.argv[4]))))"
    runs: dict[str, list[dict]] = {}
    for _ in range(rounds):
        for when, root in {"before": before, "now": Path(__file__).parents[1]}.items():
            if root:
                ask = [sys.executable, "-c", code, str(Path(__file__).parent), str(root), name, str(n)]
                environment = {**os.environ, "PYTHONPATH": str(root)}
                out = subprocess.run(ask, env=environment, cwd=root, capture_output=True, text=True, check=True).stdout
                runs.setdefault(when, []).append(json.loads(out.splitlines()[-1]))
    what = ("seconds per edit", "of them the run", "peak MiB")

    def medians(found: list[dict], method: str) -> dict[str, float]:
        columns = zip(*(run[method] for run in found), strict=True)
        return {name: round(statistics.median(column), 3) for name, column in zip(what, columns, strict=True)}

    return {when: {method: medians(found, method) for method in EDITING} for when, found in runs.items()}


# ---------------------------------------------------------------- the run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--before", type=Path, help="the root of an earlier version of this repository")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "methods.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    calls = {
        name: beside(arguments.before and arguments.before.resolve(), name, n, arguments.rounds)
        for name, n in ((arguments.model, 8), ("random", 2))
    }
    model, tokenizer = eu.load_model(arguments.model)
    split = eu.load_split("factual", n_forget=arguments.requests, seed=100)
    source, stored = eu.covariance.named_source("default", model, tokenizer), {}

    def covariance(layers):
        missing = [layer for layer in layers if layer not in stored]
        stored.update(source.matrices(model, tokenizer, missing, show=False) if missing else {})
        return {layer: stored[layer] for layer in layers}

    def job_on(split, method):
        rows = {"tokenizer": tokenizer, "forget": split.forget, "retain": split.retain}
        return job_of(model, method, covariance=covariance, **rows)

    jobs = {method: job_on(split, method) for method in EDITING}
    in_batches = [
        name for name in EDITING if isinstance(jobs[name].config, ValueConfig) and "batch" in METHODS[name].modes
    ]
    codebooks = [name for name in EDITING if isinstance(jobs[name].config, grace.GRACEConfig)]
    pairs = {method: batch_and_single(jobs[method]) for method in (*in_batches, *codebooks)}
    one = eu.load_split("factual", n_forget=1, seed=100)
    for method in EDITING:  # a run before the clock starts: covariance, projector, the first call of everything
        METHODS[method].run(job_on(one, method))
    profiles = {method: profiled(method, job_on(one, method)) for method in EDITING}
    rates, seconds, outcomes, z = [], {}, {}, {}
    for _ in range(arguments.rounds):
        rates.append(matrix_rates(model))
        for method in EDITING:
            took, outcomes[method] = timed(lambda name=method, job=jobs[method]: METHODS[name].run(job), model.device)
            seconds.setdefault(method, []).append(took)
        for method, functions in pairs.items():
            for name, function in zip(("batch", "single"), functions, strict=True):
                took, z[method, name] = timed(function, model.device)
                seconds.setdefault((method, name), []).append(took)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    by_tokens = {tokens: statistics.median(r[tokens] for r in rates) for tokens in rates[0]}
    rate, n = max(by_tokens.values()), arguments.requests
    methods, batches = {}, {}
    for method in EDITING:
        entries, ops = outcomes[method].log, floor_ops(jobs[method], outcomes[method].log)
        methods[method] = {
            "layers": list(memory.layers_of(jobs[method].config)),
            "seconds": round(median[method], 3),
            "seconds per edit": round(median[method] / n, 4),
            "all rounds": [round(s, 3) for s in seconds[method]],
            "steps per edit": sum(row.get("steps", 0) for row in entries) / n,
            "floor operations": ops,
            "floor seconds": ops and round(ops / rate, 4),
            "share": ops and round(ops / rate / median[method], 3),
            "profile of one edit": profiles[method],
        }
    for method in pairs:
        batch, single = z[method, "batch"], z[method, "single"]
        difference = (batch - single).norm(dim=1) / single.norm(dim=1)
        batches[method] = {
            "batch, seconds": round(median[method, "batch"], 3),
            "one at a time, seconds": round(median[method, "single"], 3),
            "ratio": round(median[method, "single"] / median[method, "batch"], 2),
            "relative difference, largest": float(difference.max()),
            "median": float(difference.median()),
        }
    for method in codebooks:
        batches[method]["entries in the codebook"] = len(outcomes[method].tensors["keys"])
    result = {
        "what": "the editing methods' own run, and their values in one batch against one at a time",
        "model": arguments.model,
        "requests": n,
        "rounds": arguments.rounds,
        "device": str(model.device),
        "dtype": str(model.dtype),
        "threads": torch.get_num_threads(),
        "operations per second": rate,
        "by tokens": by_tokens,
        "methods": methods,
        "values": batches,
        "whole calls": calls,
        "the public code's seconds per edit on the random model, another machine": ELSEWHERE,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def verdict(found: float, goal: float) -> str:
    return f"goal {goal:g}: {'reached' if found >= goal else 'not reached'}"


def table(result: dict) -> str:
    """The result for a terminal; each line with a goal says whether it is reached."""
    lines = [
        f"{result['model']}, {result['requests']} requests, medians of {result['rounds']} rounds, {result['device']}, "
        f"{result['threads']} threads, {result['operations per second'] / 1e9:.1f} GFLOP/s",
        "",
        f"{'run alone':10} {'s':>8} {'s/edit':>8} {'steps':>6} {'GFLOP':>8} {'floor s':>8} {'share':>6}",
    ]
    for method, row in result["methods"].items():
        line = f"{method:10} {row['seconds']:8.2f} {row['seconds per edit']:8.4f} {row['steps per edit']:6.1f} "
        if row["share"]:
            line += f"{row['floor operations'] / 1e9:8.1f} {row['floor seconds']:8.3f} {row['share']:6.0%}   "
            line += verdict(row["share"], GOALS[method]) if method in GOALS else ""
        lines.append(line)
    lines += [
        "",
        f"{'values':10} {'batch s':>8} {'single s':>8} {'ratio':>6}   relative difference, largest and median",
    ]
    for method, row in result["values"].items():
        lines.append(
            f"{method:10} {row['batch, seconds']:8.2f} {row['one at a time, seconds']:8.2f} {row['ratio']:6.2f}   "
            f"{row['relative difference, largest']:.1e}  {row['median']:.1e}   {verdict(row['ratio'], BATCH_GOAL)}"
        )
    for name, versions in result["whole calls"].items():
        head = "".join(f"{when:>24}" for when in versions)
        lines += ["", f"{'whole call':10} on {name}: seconds an edit, of them the run, peak MiB", f"{'':10}{head}"]
        for method in versions["now"]:
            line = f"{method:10}" + "".join(
                f"{row['seconds per edit']:10.3f} {row['of them the run']:7.3f} {row['peak MiB']:5.0f}"
                for row in (found[method] for found in versions.values())
            )
            if name == "random" and method in ELSEWHERE:
                public, goal = ELSEWHERE[method]
                times = public / versions["now"][method]["seconds per edit"]
                line += f"   {times:.1f} times the public code elsewhere, {verdict(times, goal)}"
            lines.append(line)
    return "\n".join([*lines, "", "The public code was timed on another machine: no claim is made."])


if __name__ == "__main__":
    main()
