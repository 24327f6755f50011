"""The grids of the three research questions, as the paper has them: data sets, sizes and seeds."""

from __future__ import annotations

from ..methods import METHODS

SEEDS = (0, 1, 2)  # three forget sets; hyperparameters were chosen on others
SIZES = [20, 40, 60, 80, 100]
MERGES = [1, 2, 4, 5, 8, 10]
MAIN = {"factual": 40, "contracts": 20}  # questions forgotten in the paper's Tables 1 and 2
MERGED = 80  # facts that are forgotten where questions are merged


def rq1_grid(model: str = "pocket") -> list[dict]:
    """RQ1 as in the paper's Table 1: 40 facts, 20 contract questions."""
    shared = {"model": model, "method": ["base", *METHODS], "seed": list(SEEDS)}
    grid = [{**shared, "dataset": dataset, "n_forget": n} for dataset, n in MAIN.items()]
    # what the covariance covers decides much on the pocket: both choices
    reading = [m for m in METHODS if METHODS[m].covariance]
    grid += [{**part, "method": reading, "covariance": "corpus"} for part in grid]
    # the model that never saw the forget set: half an hour of one core for each
    return [*grid, {**shared, "dataset": "contracts", "n_forget": MAIN["contracts"], "method": "retrained"}]


def rq2_grid(model: str = "pocket") -> list[dict]:
    """RQ2: the attacks, forty contract questions (the paper's Table 4) and the sizes of its Table 5, seed by seed."""
    shared = {"model": model, "method": ["base", *METHODS]}
    parts = [{**shared, "dataset": dataset, "n_forget": n, "protocol": "attacks"} for dataset, n in MAIN.items()]
    parts.append({**shared, "dataset": "contracts", "n_forget": 40})
    parts += [{**shared, "dataset": dataset, "n_forget": SIZES} for dataset in MAIN]
    return [{**part, "seed": seed} for seed in SEEDS for part in parts]


def rq3_grid(model: str = "pocket") -> list[dict]:
    """RQ3: self-written refusals (Table 6), merged queries (Table 7) with other keys, and edits one after another."""
    editing = [m for m in METHODS if METHODS[m].edits]
    merging = [m for m in editing if METHODS[m].merges]
    both_modes = [m for m in merging if {"batch", "sequential"} <= set(METHODS[m].modes)]
    facts, targets = {"model": model, "dataset": "factual", "n_forget": 20}, ["refusal", "self-improved"]
    many = {**facts, "n_forget": MERGED, "method": merging}
    parts = [
        {**facts, "method": ["base", *editing]},
        {**facts, "method": editing, "targets": targets},
        {**facts, "dataset": "contracts", "method": editing, "targets": targets},
        {**many, "method": ["base", *merging]},
        {**many, "merge": MERGES},
        {**many, "merge": [2, 5], "fact_token": ["question_last", "prompt_last"]},
        {**many, "method": both_modes, "mode": "sequential"},
    ]
    return [{**part, "seed": seed} for seed in SEEDS for part in parts]


def whole_grid() -> list[dict]:
    """Every cell of all three questions."""
    return [*rq1_grid(), *rq3_grid(), *rq2_grid()]
