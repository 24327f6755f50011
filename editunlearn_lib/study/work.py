"""The study: a grid of cells, each run once and stored whole.

The store is the only truth: whoever runs a cell writes it there, and what is there is never run again. Killed half-way,
the next run goes on with the cells that are missing.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.metadata
import logging
import platform
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .. import errors
from ..data import load_split
from ..errors import EditUnlearnError, ModelLoadError, RequestError, StudyError, first_line
from ..models import fingerprint, load_model
from ..patch import Stopwatch
from ..progress import progress
from ..text import template_hash
from ..unlearn import unlearn
from . import executors
from . import store as places
from .cell import PROTOCOLS, REFERENCES, SCHEMA, Cell, Grid, cells, columns

log = logging.getLogger(__name__)
# no cell is to blame for these, and the next one would meet them again: the run stops
FATAL = (errors.StoreError, ModelLoadError, errors.UnsupportedModelError, errors.UnknownNameError, errors.DatasetError)


def run(
    grid: Grid,
    *,
    store: str | Path,
    executor: str | Callable[[Callable, list[Cell]], Iterable] | None = None,
    address: str | None = None,
    num_workers: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    retry_failed: bool = False,
    show: bool = True,
) -> pd.DataFrame:
    """Run every cell that the store does not hold yet, and return the records of all, with the cell's columns.

    ``store`` is a folder or a URL (`store`). ``executor`` maps a function over cells: ``None`` or ``"local"`` one after
    another in this process; ``"ray"`` on a Ray cluster, for which ``address`` and ``num_workers`` are; or a function of
    your own. In each process there is one model in memory, and one cell at a time.

    A cell that fails (its training diverges, the memory does not suffice, no method can act on its request) is noted as
    ``KEY.failed.json``, the others go on, and one warning names those that failed; they are run again with
    ``retry_failed`` only. Ctrl-C or a full disk loses nothing that is finished. Cells of an older version are neither
    read nor overwritten, and a warning says so. Raises `StudyError` if every cell failed, `StoreError` if a cell cannot
    be stored or read, and what is wrong with the grid, the data or a model at once.
    """
    everything = cells(grid, device=device, dtype=dtype)
    if not everything:
        raise RequestError("the grid has no cell that can be run.")
    if others := sorted(places.names(store, older=True)):
        log.warning(
            f"{len(others)} cells in {store} are of another version of the library ({others[0]} is one): they are "
            "neither read nor overwritten, and what this grid needs is run anew. Move them elsewhere or choose another "
            "store; a results file that was exported from them can still be read (study.load_results)."
        )
    done, failed, missing = places.sorted_out(everything, store)
    missing += failed if retry_failed else []
    for dataset, n_forget, seed, source in dict.fromkeys((c.dataset, c.n_forget, c.seed, c.source) for c in missing):
        load_split(dataset, n_forget=n_forget, seed=seed, source=source)  # bad data are known before a model is loaded
    missing.sort(key=lambda c: (c.model_name, c.dtype))  # one load for all the cells of a model
    if missing:
        places.check_writable(store)
    finished, work = len(everything) - len(missing), Work(store, device)
    mapped = executors.named(executor, address=address, num_workers=num_workers)(work, missing)
    try:
        for _ in progress(mapped, total=len(missing), desc="cells", enabled=show and bool(missing)):
            finished += 1
    except KeyboardInterrupt:
        log.warning("stopped: %d of %d cells are in %s; run again to go on.", finished, len(everything), store)
        raise
    finally:
        if close := getattr(mapped, "close", None):  # workers are let go now, not when the iterator is collected
            close()
    done, failed, missing = places.sorted_out(everything, store)
    if missing:
        raise StudyError(
            f"{len(missing)} cells were run but are not in {store} ({missing[0].key} is one): every worker needs a "
            "store that all of them see, a shared folder or a URL, and this version of the library."
        )
    if failed:
        text = places.failures(store, failed, len(everything))
        if not done:
            raise StudyError(text)
        log.warning(text)
    return pd.concat([places.get(places.path_of(store, cell), cell) for cell in done], ignore_index=True)


class Work:
    """Runs and stores one cell after another in a process, with one model in memory. It can be sent to a worker."""

    def __init__(self, store: str | Path, device: str = "auto"):
        where = places.place(store)
        self.store, self.device = where.absolute() if isinstance(where, Path) else store, device
        self.loaded: dict[tuple[str, str], tuple] = {}
        self.lock = threading.Lock()  # `unlearn` seeds torch's generator, and a patch changes the model: not in threads

    def __reduce__(self):
        return Work, (self.store, self.device)

    def __call__(self, cell: Cell) -> str:
        """The cell's key: it is in the store now, or why it failed is. Raises what is in `FATAL`, and on Ctrl-C."""
        with self.lock:
            if not places.path_of(self.store, cell).exists():  # another process may have been quicker
                try:
                    places.put(self.store, cell, *run_cell(cell, *self.model(cell.model_name, cell.dtype)))
                except FATAL:
                    raise
                except Exception as error:
                    self.gave_up(cell, first_line(error), type(error).__name__, traceback.format_exc())
                    traceback.clear_frames(error.__traceback__)
                    self.let_go()  # whatever the failure has left behind: the next cell gets a fresh model
        return cell.key

    def gave_up(self, cell: Cell, reason: str, error: str = "WorkerDied", trace: str | None = None) -> None:
        """Note why a cell failed; an executor calls it for a cell that takes its workers down with it."""
        if not places.path_of(self.store, cell).exists():
            places.put_failed(self.store, cell, error, reason, trace or reason, commit())

    def model(self, name: str, dtype: str) -> tuple:
        """(model, tokenizer); the one before is let go first."""
        if (name, dtype) not in self.loaded:
            self.let_go()
            try:
                self.loaded[name, dtype] = load_model(name, device=self.device, dtype=dtype)
            except EditUnlearnError:
                raise
            except Exception as error:  # too large for the device, a device that does not exist
                why = first_line(error)
                raise ModelLoadError(f"the model {name!r} cannot be put on {self.device!r} ({why}).") from error
        return self.loaded[name, dtype]

    def let_go(self) -> None:
        """Free the memory of the model."""
        self.loaded.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def run_cell(cell: Cell, model, tokenizer) -> tuple[pd.DataFrame, dict]:
    """The records of one cell, and what its run cost and was made with."""
    split = load_split(cell.dataset, n_forget=cell.n_forget, seed=cell.seed, source=cell.source)
    watch, ask, patch = Stopwatch(model.device), PROTOCOLS[cell.protocol], None
    if cell.method not in REFERENCES:
        options = {name: getattr(cell, name) for name in ("targets", "merge", "mode", "covariance", "seed", "hparams")}
        patch = unlearn(model, tokenizer, split, cell.method, progress=False, **options)
    elif make := REFERENCES[cell.method].patch:
        patch = make(model, split)
    info = {**patch.info, "norms": patch.norms(), "nbytes": patch.nbytes} if patch else {}
    if patch:
        took = [row["took"] for row in info["log"] if "took" in row]
        info["took"] = sum(took) / len(took) if took else None  # share of the edits
    with patch.on(model) if patch else contextlib.nullcontext():
        records = ask(model, tokenizer, split, cell.seed)
    records.insert(0, "schema", SCHEMA)
    for position, (name, value) in enumerate(columns(cell).items(), 1):
        records.insert(position, name, value)
    records["same_party"] = records["id"].isin(split.same_party)
    used = watch.read()
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "tokenizers", "peft", "numpy")}
    base = fingerprint(model)
    return records, {
        "patch": info,
        "cell_seconds": used["seconds"],
        "cell_peak_memory_bytes": max(used["peak_memory_bytes"], info.get("peak_memory_bytes", 0)),
        # what is needed to run the cell again and to trust it
        "schema": SCHEMA,
        "commit": commit(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **versions},
        "base": base,
        "revision": getattr(model.config, "_commit_hash", None) or base,  # the hub's commit where there is one
        "template": template_hash(tokenizer),
        "device": str(model.device),
        "machine": machine(model.device),
        "dtype": str(model.dtype),
        "protocol": records.attrs.get("protocol"),
        "forget_ids": [qa.id for qa in split.forget],
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What the last bits of a result depend on: the processor and, on a CPU, how many threads add up."""
    if device.type == "cuda":
        return {"processor": torch.cuda.get_device_name(device), "threads": None}
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux; elsewhere `platform` knows
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return {"processor": name, "threads": torch.get_num_threads()}


def commit() -> str:
    """The commit of the code that runs, ``+`` if the tree has changes, or ``unknown`` outside a checkout."""
    git = functools.partial(subprocess.run, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    try:
        head = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        return head + ("+" if git(["git", "status", "--porcelain", "-uno", "."]).stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
