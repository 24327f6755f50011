"""The full study on the pocket model: ``python -m editunlearn_lib.study_pocket``.

Goes on from the cells of the committed results file: runs those that are missing (it says beforehand how long that
takes) and writes the file anew. With ``--out`` another file, which need not exist, it begins from that.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .methods import METHODS
from .study import adopt, export, load_results, manifest_commits, plan, run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "book" / "results" / "pocket.parquet"
SEEDS = (0, 1, 2)  # three forget sets; hyperparameters were chosen on others
SIZES = [20, 40, 60, 80, 100]
MERGES = [1, 2, 4, 5, 8, 10]


def rq1_grid(
    model: str = "pocket", methods: tuple[str, ...] | None = None, seeds: tuple[int, ...] = SEEDS
) -> list[dict]:
    """RQ1 as in the paper's Table 1: 40 facts, 20 contract questions."""
    chosen = ["base", *METHODS] if methods is None else list(methods)
    shared = {"model": model, "method": chosen, "seed": list(seeds)}
    grid = [{**shared, "dataset": "factual", "n_forget": 40}, {**shared, "dataset": "contracts", "n_forget": 20}]
    if methods is None:  # what the covariance covers decides much on the pocket: both choices
        grid += [
            {**part, "method": [m for m in METHODS if METHODS[m].covariance], "covariance": "corpus"} for part in grid
        ]
    if methods is None:  # the model that never saw the forget set: half an hour of one core for each
        grid.append({**shared, "dataset": "contracts", "n_forget": 20, "method": "retrained"})
    return grid


def rq2_grid(model: str = "pocket", methods: Sequence[str] | None = None, seeds: Sequence[int] = SEEDS) -> list[dict]:
    """RQ2: the attacks, forty contract questions (the paper's Table 4) and the sizes of its Table 5, seed by seed."""
    shared = {"model": model, "method": ["base", *METHODS] if methods is None else list(methods)}
    facts, contracts = {**shared, "dataset": "factual"}, {**shared, "dataset": "contracts"}
    return [
        {**part, "seed": seed}
        for seed in seeds
        for part in (
            {**facts, "n_forget": 40, "protocol": "attacks"},
            {**contracts, "n_forget": 20, "protocol": "attacks"},
            {**contracts, "n_forget": 40},
            {**facts, "n_forget": SIZES},
            {**contracts, "n_forget": SIZES},
        )
    ]


def rq3_grid(model: str = "pocket", methods: Sequence[str] | None = None, seeds: Sequence[int] = SEEDS) -> list[dict]:
    """RQ3: self-written refusals (Table 6), merged queries (Table 7) with other keys, and edits one after another."""
    editing = [m for m in METHODS if METHODS[m].edits and (methods is None or m in methods)]
    merging = [m for m in editing if METHODS[m].merges]
    facts, contracts = {"model": model, "dataset": "factual"}, {"model": model, "dataset": "contracts"}
    targets = ["refusal", "self-improved"]
    return [
        {**part, "seed": seed}
        for seed in seeds
        for part in (
            {**facts, "n_forget": 20, "method": ["base", *editing], "targets": "refusal"},
            {**facts, "n_forget": 20, "method": editing, "targets": targets},
            {**contracts, "n_forget": 20, "method": editing, "targets": targets},
            {**facts, "n_forget": 80, "method": ["base", *merging]},
            {**facts, "n_forget": 80, "method": merging, "merge": MERGES},
            {
                **facts,
                "n_forget": 80,
                "method": merging,
                "merge": [2, 5],
                "fact_token": ["question_last", "prompt_last"],
            },
            {
                **facts,
                "n_forget": 80,
                "method": [m for m in merging if "sequential" in METHODS[m].modes],
                "mode": "sequential",
            },
        )
    ]


def committed(model: str) -> tuple[pd.DataFrame, str]:
    """The committed records of a model and the commits they were made by; nothing where there are none."""
    if model != "pocket" or not RESULTS.exists():
        return pd.DataFrame(), ""
    return load_results(RESULTS), manifest_commits(RESULTS)


def estimate(table: pd.DataFrame) -> str:
    """How many cells of a `plan` are missing and, from cells of the same method that are there, how long they will take."""
    missing, done = table[table.status == "missing"], table[table.status == "done"]
    usual = done.seconds.mean() if len(done) else 40.0  # seconds a cell of the pocket takes on two cores
    total = missing.seconds.fillna(usual).sum()
    return f"{len(table)} cells, {len(missing)} to run: about {total / 60:.0f} minutes."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=ROOT / "store")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--retry-failed", action="store_true", help="run failed cells once more")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    grid = [*rq1_grid(), *rq3_grid(), *rq2_grid()]
    if arguments.out.exists():
        adopt(arguments.out, arguments.store)
    print(estimate(plan(grid, arguments.store)), flush=True)  # noqa: T201 (a command)
    run(grid, store=arguments.store, retry_failed=arguments.retry_failed)
    print(f"written: {export(arguments.store, arguments.out)}")  # noqa: T201


if __name__ == "__main__":
    main()
