"""The full study on the pocket model: ``python -m editunlearn_lib.study_pocket``.

Runs every cell that the store lacks (it says beforehand how long that takes) and writes the committed results file.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from .methods import METHODS
from .study import Cell, cells, export, path_of, read, run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "book" / "results" / "pocket.parquet"
SEEDS = (0, 1, 2)  # three forget sets; hyperparameters were chosen on others
RETRAINED_SEEDS = [0]


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
    if methods is None:  # the model that never saw the forget set takes ten minutes a seed: fewer of them
        grid.append({**shared, "dataset": "contracts", "n_forget": 20, "method": "retrained", "seed": RETRAINED_SEEDS})
    return grid


def estimate(wanted: list[Cell], store: Path) -> str:
    """How many cells are missing and, from cells of the same method that are there, how long they will take."""
    missing = [cell for cell in wanted if not path_of(store, cell).exists()]
    seconds: dict[str, list[float]] = {}
    for path in Path(store).glob("*.json"):
        document = read(path)
        seconds.setdefault(document["cell"]["method"], []).append(document["info"]["cell_seconds"])
    known = [t for times in seconds.values() for t in times]
    usual = sum(known) / len(known) if known else 40.0  # seconds a cell of the pocket takes on two cores
    total = sum(sum(t) / len(t) if (t := seconds.get(cell.method)) else usual for cell in missing)
    return f"{len(wanted)} cells, {len(missing)} to run: about {total / 60:.0f} minutes."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=ROOT / "store")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    grid = rq1_grid()
    print(estimate(cells(grid), arguments.store), flush=True)  # noqa: T201 (a command)
    run(grid, store=arguments.store)
    print(f"written: {export(arguments.store, arguments.out)}")  # noqa: T201


if __name__ == "__main__":
    main()
