"""Are the committed results still what the code gives? A sample of their cells is run again and compared.

Two runs of one cell on the same machine, with the same versions and as many threads, are alike to the last bit on a
CPU, so there everything must be identical. On another processor sums are added up in another order; training and value
optimisation carry the last bit on, and an answer that hung by a hair may become another one. There the outputs of at
least ``OUTPUTS`` of the questions must be the same, and no set's mean of a metric may move by more than ``METRIC``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import StoreError
from ..evaluation import METRICS
from ..models import load_model
from ..progress import progress
from . import store, work
from .cell import KEYS, Cell, columns

OUTPUTS = 0.95  # share of questions with the same output
METRIC = 0.05  # of a set's mean; all metrics lie between 0 and 1
KEY = ["set", "id", "variant"]
# what is told of a change, and where it is seen
CHANGES = {"hyperparameters": "hparams", "weights": "base"}
CHANGES |= {name: name for name in ("data", "refusals", "template", "protocol", "versions", "machine")}


def sample(manifest: Sequence[dict], n: int, seed: int) -> list[dict]:
    """n entries of a manifest, drawn from the quickest (a quarter, or 4n), of different methods while there are any."""
    quickest = sorted(manifest, key=lambda entry: entry["cell_seconds"])[: max(len(manifest) // 4, 4 * n)]
    random.Random(seed).shuffle(quickest)
    chosen: list[dict] = []
    while quickest and len(chosen) < n:
        times = {m: sum(c["cell"]["method"] == m for c in chosen) for m in {e["cell"]["method"] for e in quickest}}
        chosen.append(min(quickest, key=lambda entry: times[entry["cell"]["method"]]))
        quickest.remove(chosen[-1])
    return chosen


def verify(file: Path, *, n: int = 3, seed: int = 0, device: str = "auto", dtype: str | None = None) -> pd.DataFrame:
    """Run n cells of a results file again, in the dtype that they were made in unless another is given; one row a cell.

    Columns: ``cell``, ``questions``, ``same outputs`` (a share), ``largest difference`` (of a set's mean of a metric),
    ``identical`` (every value), ``needed`` (``identical`` or ``within tolerance``), ``verdict`` (``identical``,
    ``within tolerance`` or ``outside``), ``note`` (what has changed since: hyperparameters, weights, data, …) and
    ``seconds``. Raises `StoreError` where the file or its manifest cannot be read.
    """
    try:
        committed, manifest = store.load_results(file), store.manifest(file)
    except (OSError, ValueError) as error:
        beside = file.with_suffix(".json").name
        raise StoreError(f"{file} and its manifest {beside} cannot be read ({error}).") from error
    loaded, rows = {}, []
    chosen = sorted(sample(manifest, n, seed), key=lambda entry: Cell(**entry["cell"]).model_name)
    for entry in progress(chosen, desc="cells"):
        cell = Cell(**entry["cell"])
        name = (cell.model_name, dtype or cell.dtype)
        if name not in loaded:
            loaded = {name: load_model(name[0], device=device, dtype=name[1])}
        records, info = work.run_cell(cell, *loaded[name])
        before = committed[(committed[list(KEYS)] == pd.Series(columns(cell))).all(axis=1)]
        row = {"cell": cell.key, **compare(store.compact(records), before), "seconds": info["cell_seconds"]}
        now = json.loads(json.dumps({**info, "identity": cell.identity}, default=str))
        rows.append(row | judge(row, entry, now))
    order = "cell,questions,same outputs,largest difference,identical,needed,verdict,note,seconds"
    return pd.DataFrame(rows, columns=order.split(","))


def compare(now: pd.DataFrame, before: pd.DataFrame) -> dict[str, Any]:
    """How alike two sets of records of one cell are; both as `store.compact` leaves them."""
    key = [*KEY, "attack"] if "attack" in now else KEY
    shared = [name for name in (*METRICS, "outcome") if name in now and name in before and before[name].notna().any()]
    now, before = (frame.set_index(key)[["output", *shared]].sort_index() for frame in (now, before))
    if not now.index.equals(before.index):
        return {"questions": len(now), "same outputs": 0.0, "largest difference": float("inf"), "identical": False}
    same, groups = now["output"] == before["output"], [name for name in ("set", "attack") if name in key]
    numbers = [name for name in shared if name != "outcome"]
    means = [frame[numbers].astype(float).groupby(level=groups).mean() for frame in (now, before)]
    now, before = (frame[shared].astype(object).fillna("") for frame in (now, before))
    return {
        "questions": len(now),
        "same outputs": float(same.mean()),
        "largest difference": float((means[0] - means[1]).abs().max(axis=None)),
        "identical": bool(same.all() and (now == before).all(axis=None)),
    }


def judge(row: dict, entry: dict, info: dict) -> dict[str, str]:
    """What is needed of a cell, whether it is met, and what has changed since the cell was committed."""
    before, now = ({**document, **document.get("identity", {})} for document in (entry, info))
    changed = [what for what, name in CHANGES.items() if before.get(name) != now.get(name)]
    alike = not {"versions", "machine"} & set(changed) and info["device"] == entry["device"] == "cpu"
    within = row["same outputs"] >= OUTPUTS and row["largest difference"] <= METRIC
    verdict = "identical" if row["identical"] else "within tolerance" if within and not alike else "outside"
    return {
        "needed": "identical" if alike else "within tolerance",
        "verdict": verdict,
        "note": "other " + ", ".join(changed) if changed else "",
    }
