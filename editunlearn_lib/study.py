"""The study: a grid of cells, each run once and stored whole.

A cell is (model, dataset, method, n_forget, targets, merge, mode, covariance, fact_token, protocol, seed). Every cell is
one JSON file, written atomically; killed half-way, the next run goes on with the cells that are missing. The store is
the only truth: whoever runs a cell writes it there, and what is there is never run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import gc
import hashlib
import importlib.metadata
import itertools
import json
import logging
import numbers
import os
import platform
import re
import reprlib
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from . import executors
from . import store as places
from .attacks import attack
from .covariance import SOURCES
from .data import DATASETS, ForgetSplit, load_split
from .errors import (
    DatasetError,
    EditUnlearnError,
    ModelLoadError,
    RequestError,
    StoreError,
    StudyError,
    UnknownNameError,
    UnsupportedModelError,
    check_name,
    first_line,
)
from .evaluation import evaluate
from .hparams import model_key, preset
from .methods import METHODS
from .methods.positions import FACT_TOKENS
from .models import POCKET, fingerprint, load_model
from .patch import Stopwatch
from .progress import progress
from .text import template_hash
from .unlearn import unlearn

log = logging.getLogger(__name__)
SCHEMA = 2  # of a stored cell; 2: with the choice of covariance
REFERENCES = (
    "base",
    "retrained",
)  # rows that are no methods: the untouched model, the one that never saw the forget set
PROTOCOLS = {  # what is asked of the patched model
    "questions": lambda model, tokenizer, split, seed: evaluate(model, tokenizer, split, show=False),
    "attacks": lambda model, tokenizer, split, seed: attack(model, tokenizer, split, seed=seed),
}
CONTRACT_LIKE = ("contracts", "pistol")  # knowledge that is fine-tuned in before it is forgotten
TARGETS = ("refusal", "self-improved")
# no cell is to blame for these, and the next one would meet them again: the run stops
FATAL = (StoreError, ModelLoadError, UnsupportedModelError, UnknownNameError, DatasetError)


@dataclass(frozen=True)
class Cell:
    """One run: what is forgotten, how, and from which model."""

    model: str
    dataset: str
    method: str
    n_forget: int
    targets: str = "refusal"
    merge: int = 1
    mode: str | None = None
    covariance: str = "default"  # the name of a source, for the methods that read one
    seed: int = 0
    source: str | None = None
    fact_token: str | None = None  # where an edit's key is; None: as the preset has it
    protocol: str = "questions"  # or "attacks"
    checkpoint: str | None = None  # a folder with weights of `model` that were fine-tuned, as PISTOL needs them

    @property
    def key(self) -> str:
        """The name of the cell's file: readable, and another for other presets, pocket weights or schema."""
        # a reference model has no hyperparameters; a data file is known by its name, wherever it lies
        values = (
            {} if self.method in REFERENCES else preset(self.method, self.model if self.checkpoint else self.model_name)
        )
        # younger than the first results, whose names stay; it changes no number
        values = {name: entry for name, entry in values.items() if name != "gradient_checkpointing"}
        cell = {**asdict(self), "source": Path(self.source).name if self.source else None}
        for name in ("fact_token", "protocol", "checkpoint"):  # younger than the first results, whose names stay
            if cell[name] == Cell.__dataclass_fields__[name].default:
                del cell[name]
        text = json.dumps([SCHEMA, cell, values, _weights(self.model_name)], sort_keys=True, default=str)
        name = re.sub(r"[^a-zA-Z0-9_.-]", "-", f"{self.model}-{self.dataset}-{self.method}")
        name = name[-120:]  # paths may be long, file names may not
        return f"{name}-n{self.n_forget}-m{self.merge}-s{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def model_name(self) -> str:
        """What is loaded: the checkpoint; the pocket comes with one that knows the contracts."""
        if self.checkpoint:
            return self.checkpoint
        return "pocket-contracts" if self.model == "pocket" and self.dataset == "contracts" else self.model


@functools.cache
def _weights(model_name: str) -> str | None:
    """A hash of the pocket's weights, so that cells of an older pocket do not count; None for other models."""
    file = POCKET.get(model_name, Path()) / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if model_name in POCKET and file.exists() else None


def as_list(value: Any, kind: Callable[[Any], Any]) -> list:
    """A list from a list, one value, or a text such as "gd,memit" (papermill -p passes texts)."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    return [kind(v) for v in (value if isinstance(value, (list, tuple)) else [value])]


def cells(grid: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Every cell of a grid (or of several): each field a value or a list of values. Wrong names and values raise."""
    found: dict[Cell, None] = {}
    known = set(Cell.__dataclass_fields__)
    for part in [grid] if isinstance(grid, Mapping) else grid:
        for name in part:
            check_name("field of a grid", name, known)
        if lacking := [
            f.name for f in dataclasses.fields(Cell) if f.default is dataclasses.MISSING and f.name not in part
        ]:
            raise RequestError(f"a grid needs the fields {', '.join(lacking)} too; it has {', '.join(part) or 'none'}.")
        lists = {
            name: [v] if isinstance(v, str) or not isinstance(v, Iterable) else list(v) for name, v in part.items()
        }
        for values in itertools.product(*lists.values()):
            cell = Cell(**dict(zip(lists, values, strict=True)))
            for entry in dataclasses.fields(Cell):
                kind = numbers.Integral if entry.type == "int" else (str, os.PathLike)
                value = getattr(cell, entry.name)
                if not isinstance(value, kind) and not (value is None and "None" in entry.type):
                    raise RequestError(
                        f"the field {entry.name!r} of a grid is {entry.type}, not {reprlib.repr(value)}."
                    )
            check_name("method", cell.method, (*METHODS, *REFERENCES))
            if Path(cell.dataset).suffix == "":
                check_name("dataset", cell.dataset, DATASETS)
            if cell.method == "retrained" and cell.model_name != "pocket-contracts":
                continue  # facts were learnt in pretraining: there is no model without them
            check_name("covariance", cell.covariance, SOURCES)
            check_name("protocol", cell.protocol, PROTOCOLS)
            check_name("targets", cell.targets, TARGETS)
            if cell.mode is not None and cell.method in METHODS:
                check_name(f"mode of {cell.method}", cell.mode, METHODS[cell.method].modes)
                if cell.mode == METHODS[cell.method].modes[0]:  # said or not, it is the same run
                    cell = dataclasses.replace(cell, mode=None)
            if cell.fact_token is not None:
                check_name("fact_token", cell.fact_token, FACT_TOKENS)
                if cell.method in REFERENCES or not METHODS[cell.method].merges:
                    continue
            if cell.merge > 1 and (cell.method in REFERENCES or not METHODS[cell.method].merges):
                continue
            if cell.covariance != "default" and (cell.method in REFERENCES or not METHODS[cell.method].covariance):
                continue
            found[cell] = None
    return list(found)


def run(
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
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
    another in this process; ``"ray"`` on a Ray cluster, which ``address`` and ``num_workers`` are for (`executors.ray`);
    or a function of your own. In each process there is one model in memory, and one cell at a time.

    A cell that fails (its training diverges, the memory does not suffice, no method can act on its request) is noted as
    ``KEY.failed.json``, the others go on, and one warning names those that failed; they are run again with
    ``retry_failed`` only. Ctrl-C or a full disk loses nothing that is finished. Raises `StudyError` if every cell failed,
    `StoreError` if a cell cannot be stored or read, and what is wrong with the grid, the data or a model at once.
    """
    wanted = cells(grid)
    if not wanted:
        raise RequestError("the grid has no cell that can be run.")
    there = places.names(store)
    missing = [c for c in wanted if _file(c) not in there and (retry_failed or _file(c, failed=True) not in there)]
    for dataset, n_forget, seed, source in dict.fromkeys((c.dataset, c.n_forget, c.seed, c.source) for c in missing):
        load_split(dataset, n_forget=n_forget, seed=seed, source=source)  # bad data are known before a model is loaded
    missing.sort(key=lambda c: c.model_name)  # one load for all the cells of a model
    if missing:
        with _told(store):
            places.check_writable(store)
    done, work = len(wanted) - len(missing), Work(store, device, dtype)
    mapped = executors.named(executor, address=address, num_workers=num_workers)(work, missing)
    try:
        for _ in progress(mapped, total=len(missing), desc="cells", enabled=show and bool(missing)):
            done += 1
    except KeyboardInterrupt:
        log.warning("stopped: %d of %d cells are in %s; run again to go on.", done, len(wanted), store)
        raise
    finally:
        if close := getattr(mapped, "close", None):  # workers are let go now, not when the iterator is collected
            close()
    there = places.names(store)
    finished = [cell for cell in wanted if _file(cell) in there]
    failed = [cell for cell in wanted if _file(cell) not in there and _file(cell, failed=True) in there]
    if len(finished) + len(failed) < len(wanted):
        lost = next(cell for cell in wanted if cell not in {*finished, *failed})
        raise StudyError(
            f"{len(wanted) - len(finished) - len(failed)} cells were run but are not in {store} ({lost.key} is one): every "
            "worker needs a store that all of them see, a shared folder or a URL, and this version of the library."
        )
    if failed:
        text = _failures(store, failed, len(wanted))
        if not finished:
            raise StudyError(text)
        log.warning(text)
    return pd.concat([get(path_of(store, cell)) for cell in finished], ignore_index=True)


def _failures(store, failed: Sequence[Cell], total: int) -> str:
    """Which cells failed, why, and how to run them again; each reason once."""
    reasons: dict[str, list[str]] = {}
    for cell in failed:
        note = failure(store, cell)
        reasons.setdefault(f"{note['error']}: {note['reason']}", []).append(cell.key)
    lines = [
        f"  {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if keys[3:] else ''}: {why}"
        for why, keys in reasons.items()
    ]
    return "\n".join(
        [
            f"{len(failed)} of {total} cells failed:",
            *lines,
            f"Each has a KEY{places.FAILED} in {store} with the traceback. Run again with retry_failed=True (--retry-failed) to try them once more.",
        ]
    )


class Work:
    """Runs one cell after another in a process and stores each, with one model in memory. It can be sent to a worker."""

    def __init__(self, store: str | Path, device: str = "auto", dtype: str = "auto"):
        where = places.place(store)
        self.sent = (where.absolute() if isinstance(where, Path) else store, device, dtype)
        self.store, self.device, self.dtype = self.sent
        self.loaded: dict[str, tuple] = {}
        self.lock = threading.Lock()  # `unlearn` seeds torch's generator, and a patch changes the model: not in threads

    def __reduce__(self):
        return Work, self.sent

    def __call__(self, cell: Cell) -> str:
        """The cell's key: it is in the store now, or why it failed is. Raises what is in `FATAL`, and on Ctrl-C."""
        with self.lock:
            if not path_of(self.store, cell).exists():  # another process may have been quicker
                try:
                    put(self.store, cell, *run_cell(cell, *self.model(cell.model_name)))
                except FATAL:
                    raise
                except Exception as error:
                    put_failed(self.store, cell, type(error).__name__, first_line(error), traceback.format_exc())
                    self.loaded.clear()  # whatever the failure has left behind: the next cell gets a fresh model
                    traceback.clear_frames(error.__traceback__)
                    _free()
        return cell.key

    def gave_up(self, cell: Cell, reason: str) -> None:
        """What an executor calls when a cell takes its workers down with it."""
        if not path_of(self.store, cell).exists():
            put_failed(self.store, cell, "WorkerDied", reason, reason)

    def model(self, name: str) -> tuple:
        """(model, tokenizer); the one before is let go first."""
        if name not in self.loaded:
            self.loaded.clear()
            _free()
            try:
                self.loaded[name] = load_model(name, device=self.device, dtype=self.dtype)
            except EditUnlearnError:
                raise
            except Exception as error:  # too large for the device, a device that does not exist
                raise ModelLoadError(
                    f"the model {name!r} cannot be put on {self.device!r} ({first_line(error)})."
                ) from error
        return self.loaded[name]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_cell(cell: Cell, model, tokenizer) -> tuple[pd.DataFrame, dict]:
    """Records and info of one cell."""
    split = load_split(cell.dataset, n_forget=cell.n_forget, seed=cell.seed, source=cell.source)
    watch, ask = Stopwatch(model.device), PROTOCOLS[cell.protocol]
    info: dict[str, Any] = {}
    if cell.method == "base":
        records = ask(model, tokenizer, split, cell.seed)
    else:
        if cell.method == "retrained":
            from .pocket.train import retrained

            patch = retrained(model, split)
        else:
            patch = unlearn(
                model,
                tokenizer,
                split,
                cell.method,
                targets=cell.targets,
                merge=cell.merge,
                mode=cell.mode,
                covariance=cell.covariance,
                seed=cell.seed,
                progress=False,
                hparams=_hparams(cell),
            )
        info = {**patch.info, "norms": patch.norms(), "nbytes": patch.nbytes}
        took = [row["took"] for row in patch.info["log"] if "took" in row]
        info["took"] = sum(took) / len(took) if took else None  # share of the edits
        with patch.on(model):
            records = ask(model, tokenizer, split, cell.seed)
    records.insert(0, "schema", SCHEMA)
    for position, (name, value) in enumerate(columns(cell).items(), 1):
        records.insert(position, name, value)
    records["same_party"] = records["id"].isin(split.same_party)
    used = watch.read()
    return records, {
        "patch": info,
        "cell_seconds": used["seconds"],
        "cell_peak_memory_bytes": max(used["peak_memory_bytes"], info.get("peak_memory_bytes", 0)),
        **provenance(model, tokenizer, split, records),
    }


def _hparams(cell: Cell) -> dict[str, Any] | None:
    """What a cell changes of the preset that the loaded model would get; a fine-tuned model keeps that of its base."""
    changes = {"fact_token": cell.fact_token} if cell.fact_token else {}
    if cell.checkpoint and model_key(cell.model):
        changes = {name: entry["value"] for name, entry in preset(cell.method, cell.model).items()} | changes
    return changes or None


def columns(cell: Cell) -> dict[str, Any]:
    """The cell's columns in the records; a mode that was not chosen is the method's own."""
    mode = cell.mode or (METHODS[cell.method].modes[0] if cell.method in METHODS else "")
    return {
        "model": cell.model,
        "dataset": cell.dataset,
        "method": cell.method,
        "n_forget": cell.n_forget,
        "targets": cell.targets,
        "merge": cell.merge,
        "mode": mode,
        "covariance": cell.covariance,
        "fact_token": cell.fact_token or "default",
        "protocol": cell.protocol,
        "seed": cell.seed,
    }


def provenance(model, tokenizer, split: ForgetSplit, records: pd.DataFrame) -> dict[str, Any]:
    """What is needed to run a cell again and to trust it."""
    return {
        "schema": SCHEMA,
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: importlib.metadata.version(name) for name in ("transformers", "tokenizers", "peft", "numpy")},
        },
        "base": (base := fingerprint(model)),
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
    try:
        here = Path(__file__).parent
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "."],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return head + ("+" if dirty.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# ---------------------------------------------------------------- the store


def path_of(store: str | Path, cell: Cell) -> Path | places.RemotePath:
    """Where a cell lies in a store, whether it is there or not."""
    return places.place(store) / _file(cell)


def _file(cell: Cell, *, failed: bool = False) -> str:
    return cell.key + (places.FAILED if failed else ".json")


def put(store: str | Path, cell: Cell, records: pd.DataFrame, info: dict) -> Path | places.RemotePath:
    """Write one cell: whole or not at all. Why it failed earlier is removed."""
    path = path_of(store, cell)
    text = json.dumps({"cell": asdict(cell), "info": info, "records": records.to_dict(orient="list")}, default=str)
    with _told(store):
        places.write(path, text)
    places.remove(path.parent / _file(cell, failed=True))
    return path


@contextlib.contextmanager
def _told(store: str | Path) -> Iterator[None]:
    """A `StoreError` that also says what is safe and how to go on."""
    try:
        yield
    except StoreError as error:
        finished = 0
        with contextlib.suppress(StoreError):
            finished = sum(not name.endswith(places.FAILED) for name in places.names(store))
        raise StoreError(
            f"{error} The {finished} cells stored before are intact; make room (or choose another store) and run again "
            "to go on."
        ) from error


def put_failed(store: str | Path, cell: Cell, error: str, reason: str, trace: str) -> None:
    """Note why a cell failed: ``error`` is the class, ``reason`` one line."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    note = {"cell": asdict(cell), "error": error, "reason": reason, "traceback": trace, "time": now, "commit": commit()}
    places.write(places.place(store) / _file(cell, failed=True), json.dumps(note, indent=1))


def failure(store: str | Path, cell: Cell) -> dict[str, Any] | None:
    """Why a cell failed (``error, reason, traceback, time, commit``); ``None`` if it did not."""
    path = places.place(store) / _file(cell, failed=True)
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return note if {"error", "reason"} <= set(note) else {"error": "unknown", "reason": f"{path} is not legible"}
    except FileNotFoundError:
        return None
    except ValueError:
        return {"error": "unknown", "reason": f"{path} is not legible"}


def plan(grid: Mapping[str, Any] | Sequence[Mapping[str, Any]], store: str | Path) -> pd.DataFrame:
    """Every cell of a grid with its ``status`` in a store and the ``seconds`` it took, or will take.

    ``status`` is ``done``, ``failed`` or ``missing``. The seconds of a cell that is not done are the mean of the store's
    cells of its model and method; NaN where there are none.
    """
    there, wanted = places.names(store), cells(grid)
    took: dict[tuple[str, str], list[float]] = {}
    own: dict[str, float] = {}
    for name in sorted(there):
        if not name.endswith(places.FAILED):
            document = read(places.place(store) / name)
            own[name] = document["info"]["cell_seconds"]
            took.setdefault((document["cell"]["model"], document["cell"]["method"]), []).append(own[name])
    rows = []
    for cell in wanted:
        done, failed = _file(cell) in there, _file(cell, failed=True) in there
        known = took.get((cell.model, cell.method), [])
        rows.append(
            {
                "cell": cell.key,
                "status": "done" if done else "failed" if failed else "missing",
                "seconds": own[_file(cell)] if done else sum(known) / len(known) if known else float("nan"),
                **columns(cell),
            }
        )
    return pd.DataFrame(rows)


def get(path: str | Path | places.RemotePath) -> pd.DataFrame:
    """The records of a stored cell."""
    return pd.DataFrame(read(path)["records"])


def read(path: str | Path | places.RemotePath) -> dict:
    """A stored cell: ``cell``, ``info``, ``records``. Raises `StoreError` that names the file and says what to do."""
    path = places.place(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["info"]["schema"] != SCHEMA:
            raise StoreError(
                f"{path}: schema {document['info']['schema']}, this version reads {SCHEMA}: run the cell again, and move "
                "this file elsewhere to export the store."
            )
        records = document["records"]
        for name, default in (("fact_token", "default"), ("protocol", "questions")):  # younger columns
            records.setdefault(name, [default] * len(records["id"]))
        if len({len(column) for column in records.values()}) != 1:
            raise ValueError("its columns differ in length")
        return document
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: not a stored cell ({error}). Delete the file and run again.") from error
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}).") from error


def export(store: str | Path, file: str | Path) -> Path:
    """Every cell of a store as one compact parquet file, with a JSON manifest of the cells beside it."""
    found = sorted(name for name in places.names(store) if not name.endswith(places.FAILED))
    if not found:
        raise StoreError(f"{store}: no stored cells to export.")
    documents = [read(places.place(store) / name) for name in found]
    frame = compact(pd.concat([pd.DataFrame(d["records"]) for d in documents], ignore_index=True))
    # Rows of the same question lie together: the file is a third of what it would be.
    frame = frame.sort_values(
        ["protocol", "dataset", "set", "id", "variant", "method"], kind="stable", ignore_index=True
    )
    for name in frame.columns:
        if frame[name].dtype == object or str(frame[name].dtype).startswith("str"):
            frame[name] = frame[name].astype("category")
    file = Path(file)
    slim = [
        {
            "cell": d["cell"],
            "key": name.removesuffix(".json"),
            **{k: v for k, v in d["info"].items() if k != "patch"},
            "patch": {
                k: d["info"]["patch"].get(k)
                for k in ("hparams", "seconds", "peak_memory_bytes", "nbytes", "mode", "covariance", "took", "targets")
            },
        }
        for name, d in zip(found, documents, strict=True)
    ]
    try:
        with places.whole(file) as temporary:
            frame.to_parquet(temporary, compression="zstd", index=False)
    except OSError as error:
        raise StoreError(f"{file} cannot be written ({error.strerror or error}); the store is as it was.") from error
    text = json.dumps(slim, indent=None, separators=(",", ":")).replace('{"cell"', '\n{"cell"') + "\n"
    places.write(file.with_suffix(".json"), text)
    return file


def adopt(file: str | Path, store: str | Path) -> int:
    """Put the cells of a results file that a store lacks into it, so that a study goes on from there; how many.

    Numbers are as the file has them (`compact`). Cells that have another key today (other presets or weights) are left out.
    """
    documents = json.loads(Path(file).with_suffix(".json").read_text(encoding="utf-8"))
    rows = {key: part.dropna(axis=1, how="all") for key, part in load_results(file).groupby(list(KEYS), sort=False)}
    there, adopted = places.names(store), 0
    for document in documents:
        cell, key = Cell(**document.pop("cell")), document.pop("key", None)
        if key == cell.key and _file(cell) not in there:
            put(store, cell, rows[tuple(columns(cell).values())], document)
            adopted += 1
    return adopted


def compact(records: pd.DataFrame) -> pd.DataFrame:
    """Records as a results file holds them: four decimals in float32."""
    records = records.copy()
    for name in records.select_dtypes("float64"):
        records[name] = records[name].round(4).astype("float32")
    return records


def load_results(file: str | Path) -> pd.DataFrame:
    """The records of a committed results file."""
    frame = pd.read_parquet(file)
    for name in frame.select_dtypes("category"):
        frame[name] = frame[name].astype(object)
    return frame


def select(records: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The rows with these values (one or a list) in the columns of a cell, and the default in all others but the seed.

    ``select(records, dataset="factual", n_forget=40)``: no merging, plain refusals, each method's own mode and keys.
    """
    usual = {
        "targets": "refusal",
        "merge": 1,
        "covariance": "default",
        "fact_token": "default",
        "protocol": "questions",
    }
    keep = pd.Series(True, index=records.index)
    for name, value in {**usual, **wanted}.items():
        keep &= records[name].isin(
            [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
        )
    if "mode" not in wanted:
        own = {name: method.modes[0] for name, method in METHODS.items()}
        keep &= records["mode"] == records["method"].map(own).fillna("")
    return records[keep]


KEYS = (
    "model",
    "dataset",
    "method",
    "n_forget",
    "targets",
    "merge",
    "mode",
    "covariance",
    "fact_token",
    "protocol",
    "seed",
)


def forget_sets(records: pd.DataFrame) -> str:
    """How many forget sets (seeds) stand behind each cell of these rows: "3", or "1 to 3" where cells differ."""
    counts = records.groupby([key for key in KEYS if key != "seed"], observed=True).seed.nunique()
    return f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.max()}"


def join(live: pd.DataFrame, committed: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """All records of a live run and, for the cells that it did not run, committed ones; how many cells are of each."""
    keys = list(KEYS)
    fresh = set(map(tuple, live[keys].drop_duplicates().to_numpy().tolist()))
    if not len(committed):
        return live, len(fresh), 0
    rest = committed[[tuple(row) not in fresh for row in committed[keys].to_numpy().tolist()]]
    return pd.concat([live, rest], ignore_index=True), len(fresh), len(rest[keys].drop_duplicates())


def distances(records: pd.DataFrame) -> pd.DataFrame:
    """Retain rows with a column ``distance``: how near a question lies to those that were forgotten in its cell.

    ``same subject or party``, ``same relation`` (`QA.group`; a contract's group is its edge, so contracts have none) or
    ``distant``. Built-in data only: other rows are left out.
    """
    parts = []
    for (dataset, n, seed), rows in records.groupby(["dataset", "n_forget", "seed"], sort=False):
        if dataset not in ("factual", "contracts"):
            continue
        split = load_split(dataset, n_forget=int(n), seed=int(seed))
        subjects, groups = {qa.subject for qa in split.forget}, {qa.group for qa in split.forget}
        near = (
            {qa.id for qa in split.retain if qa.subject in subjects} if dataset == "factual" else set(split.same_party)
        )
        alike = {qa.id for qa in split.retain if dataset == "factual" and qa.group in groups}
        place = [
            "same subject or party" if i in near else "same relation" if i in alike else "distant" for i in rows["id"]
        ]
        parts.append(rows.assign(distance=place))
    return pd.concat(parts, ignore_index=True) if parts else records.iloc[:0].assign(distance="")


def manifest_commits(file: str | Path) -> str:
    """The commits that the cells of a results file were made by, for provenance lines: three by name, more as a number."""
    manifest = Path(file).with_suffix(".json")
    commits = sorted({document["commit"] for document in json.loads(manifest.read_text(encoding="utf-8"))})
    if len(commits) > 3:  # in no order of time, so no range
        return f"commits {commits[0]}, {commits[1]} and {len(commits) - 2} more, listed in {manifest.name}"
    return ("commits " if commits[1:] else "commit ") + ", ".join(commits)


def notes(stored: Iterable[Path | places.RemotePath], file: str | Path | None = None) -> list[tuple[Cell, dict]]:
    """Cells with what is noted of their patch (``took``, ``seconds``, ``targets``, …): stored ones, and those of a results file.

    A cell that is not there, since it failed, is left out.
    """
    found = {}
    for document in json.loads(Path(file).with_suffix(".json").read_text(encoding="utf-8")) if file else []:
        found[Cell(**document["cell"])] = document["patch"]
    for path in stored:
        if not path.exists():
            continue
        document = read(path)
        found[Cell(**document["cell"])] = document["info"]["patch"]
    return list(found.items())


def manifest_table(file: str | Path) -> pd.DataFrame:
    """Per data set, size, method and covariance of a results file: share of edits that took, seconds, megabytes of the patch."""
    documents = json.loads(Path(file).with_suffix(".json").read_text(encoding="utf-8"))
    rows = [
        {
            "dataset": c.dataset,
            "n_forget": c.n_forget,
            "method": c.method,
            "covariance": c.covariance,
            "edits that took": patch.get("took"),
            "seconds": patch["seconds"],
            "MB": (patch["nbytes"] or 0) / 1e6,
        }
        for c, patch in ((Cell(**d["cell"]), d["patch"]) for d in documents)
        if patch.get("seconds") is not None
        and c == dataclasses.replace(c, targets="refusal", merge=1, mode=None, fact_token=None, protocol="questions")
    ]
    frame = pd.DataFrame(rows).astype({"edits that took": float})
    return frame.groupby(["dataset", "n_forget", "method", "covariance"], sort=False).mean().reset_index()
