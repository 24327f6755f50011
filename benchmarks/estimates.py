"""What a method will need, computed before anything is loaded: memory on a large GPU and a lower bound on the hours.

Both take a `transformers` config instead of a model: its shapes on the device ``meta``, without weights. The lengths of
texts are then those of the pocket's tokenizer, which cuts words into more pieces than a large one does, so that the
figures are on the high side. ``memory.py`` writes them into its tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig

import editunlearn_lib as eu
from editunlearn_lib import memory
from editunlearn_lib.evaluation import MAX_NEW_TOKENS, TOKENS_AT_ONCE
from editunlearn_lib.hparams import resolve
from editunlearn_lib.methods import METHODS, Job
from editunlearn_lib.methods.values import ValueConfig
from editunlearn_lib.models import load_tokenizer, on_meta, weight_bytes
from editunlearn_lib.recipes.query_merging import merge_requests
from editunlearn_lib.unlearn import resolve_targets

LARGE = {  # shapes of the paper's models, by its name for them: what their config.json says
    "Llama2-7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_key_value_heads": 32, "vocab_size": 32000},
    "Mistral-7B": {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32000},
    "Llama3.1-8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256},
}
TITLES = {"Llama2-7B": "Llama-2-7B", "Llama3.1-8B": "Llama-3.1-8B"}  # whose memory has a table
AIM = {True: 24e9, False: 48e9}  # bytes of a card: for methods that edit, for those that train
CARD = {"name": "H100 SXM", "operations a second": 989e12, "bytes a second": 3.35e12}  # dense bf16; its data sheet
USED = 0.4  # of both: what large models reach in practice


def large(name: str) -> LlamaConfig:
    """The config of a large model; its name leads to its presets."""
    return LlamaConfig(
        **LARGE[name], num_hidden_layers=32, num_attention_heads=32, tie_word_embeddings=False, name_or_path=name
    )


def job_of(
    model_or_config: Any,
    method: str,
    *,
    tokenizer=None,
    forget: Sequence[eu.QA] | None = None,
    retain: Sequence[eu.QA] = (),
    n_forget: int = 40,
    hparams: Any = None,
    mode: str | None = None,
    merge: int = 1,
    prompt_format: str = "chat",
    covariance: Any = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Job:
    """What `unlearn` would give to the method: preset, refusals as targets, the method's own mode.

    Of a model, or of a config in ``dtype``. Without a forget set: ``n_forget`` built-in facts and their retain set.
    """
    is_model = isinstance(model_or_config, nn.Module)
    model = model_or_config if is_model else on_meta(model_or_config).to(dtype)
    tokenizer = tokenizer or load_tokenizer("pocket")
    if forget is None:
        split = eu.load_split("factual", n_forget=n_forget, seed=0)
        forget, retain = split.forget, split.retain
    config, chosen = resolve(method, model.config, hparams), METHODS[method]
    targets, _ = resolve_targets(model, tokenizer, forget, "refusal", merge, prompt_format, 0)
    return Job(
        model,
        tokenizer,
        tuple(forget),
        merge_requests(tuple(forget), targets, merge),
        tuple(retain) if chosen.reads_retain else (),
        config,
        mode or chosen.modes[0],
        covariance,
        prompt_format,
        seed=0,
        progress=False,
    )


def one_gpu(name: str, n: int) -> dict[str, dict]:
    """Peak memory of every method for a large model in bfloat16 on one GPU, weights included, with the published
    presets; C is computed first."""
    table = {}
    for method, about in METHODS.items():
        job = job_of(large(name), method, n_forget=n)
        phase, parts = memory.estimate(job, method, gpu=True)
        total, aim = weight_bytes(job.model) + sum(parts.values()), AIM[about.edits]
        table[method] = {
            "GB": round(total / 1e9, 1),
            "aim GB": aim / 1e9,
            "within": total <= aim,
            "phase": phase,
            "parts GB": {part: round(size / 1e9, 2) for part, size in parts.items()},
        }
    return table


def hours(model_or_config: Any, method: str, *, questions: int, **options: Any) -> float:
    """A lower bound, in hours, on `unlearn` and on asking ``questions`` afterwards: computed, never measured.

    A pass takes as long as its arithmetic (2 operations a weight and token forwards, 2 more backwards to the inputs, 2
    more to the weights) or as reading its weights, whichever is longer, on a card of ``CARD`` used to ``USED``. Not in
    it: starting kernels, which small batches spend most of their time on, tokenising, loading, C and its projectors.
    ``method="base"``: the asking alone. ``options`` are those of `job_of`.
    """
    base = method == "base"
    name = next(name for name, about in METHODS.items() if about.edits) if base else method  # its questions are asked
    job, edits = job_of(model_or_config, name, **options), METHODS[name].edits
    m, x = memory.Shape(job.model, gpu=True), memory.lengths(job, name)
    read, rate = m.parameters * m.bytes / (USED * CARD["bytes a second"]), USED * CARD["operations a second"]

    def passes(times: float, tokens: float, directions: int = 1, share: float = 1.0) -> float:
        """Seconds of so many passes of so many tokens; directions 2: backwards as well, 3: to the weights, too."""
        return times * directions * share * max(2 * m.parameters * tokens / rate, read)

    total = 0.0
    if not base:
        total += (editing if edits else training)(m, METHODS[name], job.config, x, passes)
        questions += (3 if edits else 2) * x["n"]  # the report: before, after, and the target of an edit scored
    T = x["prompt"]
    at_once = max(1, min(questions, TOKENS_AT_ONCE // (T + MAX_NEW_TOKENS)))
    batches = -(-questions // at_once)
    total += passes(2 * batches, at_once * T) + passes(batches * MAX_NEW_TOKENS, at_once)  # scored and answered
    return total / 3600


def training(m: memory.Shape, about, config, x: dict[str, float], passes) -> float:
    """Seconds of a training: what the loss reads forwards and backwards, and what it asks the old model forwards."""
    steps = config.num_epochs * -(-x["n"] // x["B"])
    seconds = sum(passes(steps, x[name], 3 if config.full else 2) for name in about.reads)
    return seconds + sum(passes(steps, x[name]) for name in about.reference)


def editing(m: memory.Shape, about, config, x: dict[str, float], passes) -> float:
    """Seconds of an edit: every text once, then the steps above the layer, and the keys of every layer."""
    n, lines = x["n"], x["templates"] + 1
    above = (m.layers - max(config.layers) - 1) / m.layers
    if isinstance(config, ValueConfig):
        chunks, tokens = -(-n // x["chunk"]), x["chunk"] * lines
        seconds = passes(chunks, tokens * (x["P"] + x["S"]))
        seconds += passes(chunks * config.v_num_grad_steps, tokens * x["S"], 2, above)
        if "batch" in about.modes:  # the keys of every layer, and what is still missing
            seconds += passes(len(config.layers) * lines, n * x["P"])
        return seconds
    if hasattr(config, "act_margin"):
        return passes(1, 2 * n * x["T"]) + passes(n * config.n_iter, lines * x["T"], 2, above)
    return passes(1, n * lines * (x["P"] + x["S"])) + passes(config.n_iter, n * lines * x["S"], 2, above)


def paper_hours() -> dict:
    """Lower bounds in hours for the cells of every table of the paper, by table and model."""
    cells = eu.paper_tables().drop_duplicates(["table", "dataset", "model", "method", "n_forget", "merge", "stage"])
    known: dict[tuple, float] = {}
    tables: dict[str, dict] = {}
    for cell in cells.itertuples():
        n, m = int(cell.n_forget), int(cell.merge)
        data = "contracts" if cell.dataset == "pistol" else cell.dataset
        key = (cell.model, data, cell.method, n, m)
        if key not in known:
            split = eu.load_split(data, n_forget=n, seed=0)
            questions = sum(len(rows) for rows in split.sets().values())
            options = {"forget": split.forget, "retain": split.retain, "merge": m}
            known[key] = hours(large(cell.model), cell.method, questions=questions, **options)
        row = tables.setdefault(cell.table, {}).setdefault(cell.model, {"cells": 0, "hours": 0.0})
        row["cells"] += 1
        row["hours"] += known[key]
    return {
        "what": f"computed, never measured: a lower bound on one {CARD['name']} used to {USED:.0%} (arithmetic or "
        "reading the weights, whichever is longer); not in it: starting kernels, loading, C and its projectors",
        **{
            table: {model: {**row, "hours": round(row["hours"], 2)} for model, row in models.items()}
            for table, models in tables.items()
        },
    }
