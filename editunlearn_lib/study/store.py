"""Where a study keeps its cells: a local folder, or any URL that fsspec reads (``s3://…``, ``file://…``).

A cell is ``KEY.json``; why one failed is ``KEY.failed.json``. Both appear whole or not at all. A results file is all
cells of a store in one parquet file, with a JSON manifest beside it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from upath import UPath

from .. import files
from ..errors import StoreError, first_line
from .cell import KEYS, SCHEMA, Cell, Grid, cells, columns

# other files of a folder are none of ours
NAME = re.compile(r".+-n\d+-m\d+-s-?\d+(-v\d+)?-[0-9a-f]{10}(\.failed)?\.json")
FAILED = ".failed.json"
NOTED = ("seconds", "peak_memory_bytes", "nbytes", "mode", "covariance", "took", "targets")  # of a patch, in a manifest


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def place(store: str | Path | UPath) -> Path | UPath:
    """The folder of a store. Raises `StoreError` for a URL whose filesystem is not known or not installed."""
    if not isinstance(store, str):
        return store
    if store.startswith("file://") or "://" not in store:
        return Path(store.removeprefix("file://"))
    try:
        # a listing that is remembered would hide what other machines have stored since
        folder = UPath(store, use_listings_cache=False)
        folder.fs  # noqa: B018 (made when it is asked for)
        return folder
    except Exception as error:  # ImportError, ValueError, and what each filesystem raises without its credentials
        raise StoreError(f"the store {store!r} cannot be opened ({_why(error)}).") from error


def names(store: str | Path | UPath, *, older: bool = False) -> set[str]:
    """The names of all files of cells in a store, those of failed ones among them; of other versions with ``older``."""
    folder = place(store)
    try:
        listed = [path.name for path in folder.iterdir()] if folder.exists() else []
    except Exception as error:
        raise StoreError(f"the store {folder} cannot be listed ({_why(error)}).") from error
    matches = filter(None, map(NAME.fullmatch, listed))
    return {match[0] for match in matches if (match[1] != f"-v{SCHEMA}") == older}


def stored(store: str | Path | UPath) -> list[str]:
    """The names of the files of finished cells, in order."""
    return sorted(name for name in names(store) if not name.endswith(FAILED))


def write(path: Path | UPath, text: str) -> None:
    """Write a file whole or not at all: locally by `files.write`, remotely by one put. Raises `StoreError`."""
    try:
        if isinstance(path, Path):
            return files.write(path, text)
        path.fs.makedirs(path.parent.path, exist_ok=True)
        path.fs.pipe_file(path.path, text.encode())
    except Exception as error:
        failed = f"{path.name} could not be stored in {path.parent}: {_why(error)}."
        failed, done = str(error) if isinstance(error, StoreError) else failed, 0
        with contextlib.suppress(StoreError):
            done = len(stored(path.parent))
        advice = "make room (or choose another store) and run again to go on."
        raise StoreError(f"{failed} The {done} cells stored before are intact; {advice}") from error


def check_writable(store: str | Path | UPath) -> None:
    """Raise `StoreError` before hours of work if nothing can be written there."""
    probe = place(store) / f".probe.{uuid.uuid4().hex}"
    try:
        write(probe, "")
    except StoreError as error:
        raise StoreError(str(error).replace(probe.name, "nothing")) from error
    probe.unlink(missing_ok=True)


def path_of(store: str | Path | UPath, cell: Cell) -> Path | UPath:
    """Where a cell lies in a store, whether it is there or not."""
    return place(store) / f"{cell.key}.json"


def put(store: str | Path | UPath, cell: Cell, records: pd.DataFrame, info: dict) -> Path | UPath:
    """Write one cell: whole or not at all. Why it failed earlier is removed."""
    path, columns = path_of(store, cell), records.to_dict(orient="list")
    document = {"cell": asdict(cell), "identity": cell.identity, "info": info, "records": columns}
    write(path, json.dumps(document, default=str))
    (path.parent / f"{cell.key}{FAILED}").unlink(missing_ok=True)
    return path


def read(path: str | Path | UPath) -> dict:
    """A stored cell: ``cell``, ``identity``, ``info``, ``records``. Raises `StoreError`, with what to do."""
    path = place(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if (schema := document["info"]["schema"]) == SCHEMA:
            records, _ = document["records"], document["identity"]
            if {len(column) for column in records.values()} != {len(records["id"])}:
                raise ValueError("its columns differ in length")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: not a stored cell ({error}). Delete the file and run again.") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if schema != SCHEMA:
        todo = "run the cell again, and move this file elsewhere to export the store."
        raise StoreError(f"{path}: schema {schema}, this version reads {SCHEMA}: {todo}")
    return document


def get(path: str | Path | UPath, cell: Cell | None = None) -> pd.DataFrame:
    """The records of a stored cell; with the columns of ``cell``, which may name the same contents by other paths."""
    return pd.DataFrame(read(path)["records"]).assign(**columns(cell) if cell else {})


def put_failed(store: str | Path | UPath, cell: Cell, error: str, reason: str, trace: str, commit: str) -> None:
    """Note why a cell failed: ``error`` is the class, ``reason`` one line."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    note = {"cell": asdict(cell), "error": error, "reason": reason, "traceback": trace, "time": now, "commit": commit}
    write(place(store) / f"{cell.key}{FAILED}", json.dumps(note, indent=1, default=str))


def failure(store: str | Path | UPath, cell: Cell) -> dict[str, Any] | None:
    """Why a cell failed (``error, reason, traceback, time, commit``); ``None`` if it did not."""
    path = place(store) / f"{cell.key}{FAILED}"
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        note = {}
    return note if {"error", "reason"} <= set(note) else {"error": "unknown", "reason": f"{path} is not legible"}


def failures(store: str | Path | UPath, failed: Sequence[Cell], total: int) -> str:
    """Which cells failed, why, and how to run them again; each reason once."""
    reasons: dict[str, list[str]] = {}
    for cell in failed:
        note = failure(store, cell)
        reasons.setdefault(f"{note['error']}: {note['reason']}", []).append(cell.key)
    lines = [f"{len(failed)} of {total} cells failed:"]
    for why, keys in reasons.items():
        lines.append(f"  {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if keys[3:] else ''}: {why}")
    again = "Run again with retry_failed=True (--retry-failed) to try them once more."
    return "\n".join([*lines, f"Each has a KEY{FAILED} in {store} with the traceback. {again}"])


def sorted_out(chosen: Sequence[Cell], store: str | Path | UPath) -> tuple[list[Cell], list[Cell], list[Cell]]:
    """The cells that are done, those that failed, and those that are missing."""
    there, parts = names(store), ([], [], [])
    for cell in chosen:
        key = cell.key
        parts[0 if f"{key}.json" in there else 1 if key + FAILED in there else 2].append(cell)
    return parts


def plan(grid: Grid, store: str | Path | UPath, *, device: str = "auto", dtype: str = "auto") -> pd.DataFrame:
    """Every cell of a grid with its ``status`` in a store and the ``seconds`` it took, or will take.

    ``status`` is ``done``, ``failed`` or ``missing``. The seconds of a cell that is not done are the mean of the
    store's cells of its model and method; NaN where there are none.
    """
    chosen, own, usual = cells(grid, device=device, dtype=dtype), {}, {}
    for name in stored(store):
        document = read(place(store) / name)
        own[name.removesuffix(".json")] = seconds = document["info"]["cell_seconds"]
        usual.setdefault((document["cell"]["model"], document["cell"]["method"]), []).append(seconds)
    statuses = zip(("done", "failed", "missing"), sorted_out(chosen, store), strict=True)
    status = {cell: name for name, part in statuses for cell in part}
    rows = []
    for cell in chosen:
        known = usual.get((cell.model, cell.method), [])
        seconds = own.get(cell.key, sum(known) / len(known) if known else float("nan"))
        rows.append({"cell": cell.key, "status": status[cell], "seconds": seconds, **columns(cell)})
    return pd.DataFrame(rows)


def export(store: str | Path | UPath, file: str | Path) -> Path:
    """Every cell of a store as one compact parquet file, with a JSON manifest of the cells beside it."""
    documents = {name.removesuffix(".json"): read(place(store) / name) for name in stored(store)}
    if not documents:
        raise StoreError(f"{store}: no stored cells to export.")
    frame = compact(pd.concat([pd.DataFrame(d["records"]) for d in documents.values()], ignore_index=True))
    # rows of the same question lie together: the file is a third of what it would be
    order = ["protocol", "dataset", "set", "id", "variant", "method"]
    frame = frame.sort_values(order, kind="stable", ignore_index=True)
    frame = frame.astype(dict.fromkeys(frame.select_dtypes(exclude=["number", "bool"]), "category"))
    file, slim = Path(file), []
    for key, d in documents.items():
        identity = {k: v for k, v in d["identity"].items() if k not in ("cell", "schema")}  # both stand beside it
        patch = {k: d["info"]["patch"].get(k) for k in NOTED}
        slim.append({"cell": d["cell"], "key": key, "identity": identity, **d["info"], "patch": patch})
    try:
        with files.whole(file) as temporary:
            frame.to_parquet(temporary, compression="zstd", index=False)
    except OSError as error:
        raise StoreError(f"{file} cannot be written ({error.strerror or error}); the store is as it was.") from error
    text = json.dumps(slim, indent=None, separators=(",", ":")).replace('{"cell"', '\n{"cell"') + "\n"
    files.write(file.with_suffix(".json"), text)
    return file


def adopt(file: str | Path, store: str | Path | UPath) -> int:
    """Put the cells of a results file that a store lacks into it, so that a study goes on from there; how many.

    Numbers are as the file has them (`compact`). Cells that have another key today (other weights, hyperparameters or
    data) are left out. Raises `StoreError` for a file of another version.
    """
    documents = manifest(file)
    if others := {d["schema"] for d in documents} - {SCHEMA}:
        raise StoreError(
            f"{file}: results of schema {', '.join(map(str, sorted(others)))}; this version ({SCHEMA}) names cells in "
            "another way and cannot go on from them. study.load_results and the pages still read the file; run the "
            "study into a new store, or go on with the version of the library that made it."
        )
    rows = dict(list(load_results(file).groupby(list(KEYS), sort=False)))
    there, adopted = names(store), 0
    for document in documents:
        cell, key = Cell(**document.pop("cell")), document.pop("key")
        document.pop("identity")
        if key == cell.key and f"{key}.json" not in there:
            put(store, cell, rows[tuple(columns(cell).values())].dropna(axis=1, how="all"), document)
            adopted += 1
    return adopted


def manifest(file: str | Path) -> list[dict[str, Any]]:
    """The manifest beside a results file: ``cell``, ``key``, ``identity``, ``patch`` and provenance of each cell."""
    return json.loads(Path(file).with_suffix(".json").read_text(encoding="utf-8"))


def notes(store, cells: Iterable[Cell], file: str | Path | None = None) -> list[tuple[Cell, dict]]:
    """Cells with what is noted of their patch (``took``, ``seconds``, …): stored ones, and those of a results file.

    A cell that is not there, since it failed, is left out.
    """
    patches = {Cell(**document["cell"]): document["patch"] for document in (manifest(file) if file else [])}
    paths = {cell: path_of(store, cell) for cell in cells}
    patches |= {cell: read(path)["info"]["patch"] for cell, path in paths.items() if path.exists()}
    return list(patches.items())


def compact(records: pd.DataFrame) -> pd.DataFrame:
    """Records as a results file holds them: four decimals in float32."""
    exact = records.select_dtypes("float64")
    return records.assign(**exact.round(4).astype("float32"))


def load_results(file: str | Path) -> pd.DataFrame:
    """The records of a committed results file."""
    frame = pd.read_parquet(file)
    return frame.astype(dict.fromkeys(frame.select_dtypes("category"), object))
