"""The study: a grid of cells, each run once and stored whole.

A cell is (model, dataset, method, n_forget, targets, merge, mode, covariance, fact_token, protocol, seed). Every cell is one JSON file, written
atomically; killed half-way, the next run goes on with the cells that are missing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from .attacks import attack
from .covariance import SOURCES
from .data import DATASETS, ForgetSplit, load_split
from .errors import RequestError, StoreError, check_name
from .evaluation import evaluate
from .hparams import preset
from .methods import METHODS, unlearn
from .methods.locate import FACT_TOKENS
from .models import POCKET, fingerprint, load_model, template_hash
from .patch import Stopwatch
from .progress import progress

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

    @property
    def key(self) -> str:
        """The name of the cell's file: readable, and another for other presets, pocket weights or schema."""
        # a reference model has no hyperparameters; a data file is known by its name, wherever it lies
        values = {} if self.method in REFERENCES else preset(self.method, self.model_name)
        cell = {**asdict(self), "source": Path(self.source).name if self.source else None}
        for name in ("fact_token", "protocol"):  # younger than the first results, whose names stay
            if cell[name] == Cell.__dataclass_fields__[name].default:
                del cell[name]
        text = json.dumps([SCHEMA, cell, values, _weights(self.model_name)], sort_keys=True, default=str)
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{self.model}-{self.dataset}-{self.method}")
        return f"{name}-n{self.n_forget}-m{self.merge}-s{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def model_name(self) -> str:
        """The checkpoint: the pocket has one that knows the contracts."""
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
        lists = {
            name: [v] if isinstance(v, str) or not isinstance(v, Iterable) else list(v) for name, v in part.items()
        }
        for values in itertools.product(*lists.values()):
            cell = Cell(**dict(zip(lists, values, strict=True)))
            check_name("method", cell.method, (*METHODS, *REFERENCES))
            if Path(cell.dataset).suffix == "":
                check_name("dataset", cell.dataset, DATASETS)
            if cell.method == "retrained" and cell.model_name != "pocket-contracts":
                continue  # facts were learnt in pretraining: there is no model without them
            check_name("covariance", cell.covariance, SOURCES)
            check_name("protocol", cell.protocol, PROTOCOLS)
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
    executor: Callable[[Callable, list[Cell]], Iterable] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    show: bool = True,
) -> pd.DataFrame:
    """Run every cell that the store does not hold yet, and return the records of all, with the cell's columns.

    ``executor`` maps a function over cells (``None``: one after another, one model in memory). Ctrl-C or a full disk
    loses nothing that is finished. Raises `StoreError` if a cell cannot be stored.
    """
    wanted, store = cells(grid), Path(store)
    if not wanted:
        raise RequestError("the grid has no cell that can be run.")
    missing = [cell for cell in wanted if not path_of(store, cell).exists()]
    missing.sort(key=lambda c: c.model_name)  # one load for all the cells of a model
    loaded: dict[str, tuple] = {}

    def work(cell: Cell) -> None:
        if cell.model_name not in loaded:
            loaded.clear()  # one model in memory at a time
            loaded[cell.model_name] = load_model(cell.model_name, device=device, dtype=dtype)
        put(store, cell, *run_cell(cell, *loaded[cell.model_name]))

    done = 0
    try:
        for _ in progress(
            (executor or map)(work, missing), total=len(missing), desc="cells", enabled=show and bool(missing)
        ):
            done += 1
    except KeyboardInterrupt:
        log.warning(
            "stopped: %d of %d cells are in %s; run again to go on.",
            len(wanted) - len(missing) + done,
            len(wanted),
            store,
        )
        raise
    return pd.concat([get(path_of(store, cell)) for cell in wanted], ignore_index=True)


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
                model, tokenizer, split, cell.method, targets=cell.targets, merge=cell.merge, mode=cell.mode,
                covariance=cell.covariance, seed=cell.seed, progress=False,
                hparams={"fact_token": cell.fact_token} if cell.fact_token else None,
            )  # fmt: skip
        info = {**patch.info, "norms": patch.norms(), "nbytes": patch.nbytes}
        took = [row["took"] for row in patch.info["log"] if "took" in row]
        info["took"] = sum(took) / len(took) if took else None  # share of the edits
        with patch.on(model):
            records = ask(model, tokenizer, split, cell.seed)
    records.insert(0, "schema", SCHEMA)
    for position, (name, value) in enumerate(columns(cell).items(), 1):
        records.insert(position, name, value)
    records["same_party"] = records["id"].isin(split.same_party)
    return records, {
        "patch": info,
        "cell_seconds": watch.read()["seconds"],
        **provenance(model, tokenizer, split, records),
    }


def columns(cell: Cell) -> dict[str, Any]:
    """The cell's columns in the records; a mode that was not chosen is the method's own."""
    mode = cell.mode or (METHODS[cell.method].modes[0] if cell.method in METHODS else "")
    return {"model": cell.model, "dataset": cell.dataset, "method": cell.method, "n_forget": cell.n_forget,
            "targets": cell.targets, "merge": cell.merge, "mode": mode, "covariance": cell.covariance,
            "fact_token": cell.fact_token or "default", "protocol": cell.protocol, "seed": cell.seed}  # fmt: skip


def provenance(model, tokenizer, split: ForgetSplit, records: pd.DataFrame) -> dict[str, Any]:
    """What is needed to run a cell again and to trust it."""
    return {
        "schema": SCHEMA,
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "base": fingerprint(model),
        "template": template_hash(tokenizer),
        "device": str(model.device),
        "dtype": str(model.dtype),
        "protocol": records.attrs.get("protocol"),
        "forget_ids": [qa.id for qa in split.forget],
    }


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


def path_of(store: Path, cell: Cell) -> Path:
    return Path(store) / f"{cell.key}.json"


def put(store: Path, cell: Cell, records: pd.DataFrame, info: dict) -> Path:
    """Write one cell: whole or not at all."""
    path = path_of(store, cell)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps({"cell": asdict(cell), "info": info, "records": records.to_dict(orient="list")}, default=str)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        finished = len(list(path.parent.glob("*.json"))) if path.parent.is_dir() else 0
        raise StoreError(
            f"the cell {cell.key} could not be stored in {path.parent}: {error.strerror or error}. The {finished} cells "
            "stored before are intact; make room (or choose another store) and run again to go on."
        ) from error
    return path


def get(path: Path) -> pd.DataFrame:
    """The records of a stored cell."""
    return pd.DataFrame(read(path)["records"])


def read(path: Path) -> dict:
    """A stored cell: ``cell``, ``info``, ``records``."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if document["info"]["schema"] != SCHEMA:
            raise StoreError(
                f"{path}: schema {document['info']['schema']}, this version reads {SCHEMA}: run the cell again."
            )
        records = document["records"]
        for name, default in (("fact_token", "default"), ("protocol", "questions")):  # younger columns
            records.setdefault(name, [default] * len(records["id"]))
        return document
    except (ValueError, KeyError) as error:
        raise StoreError(f"{path}: not a stored cell ({error}). Delete the file and run again.") from error


def export(store: str | Path, file: str | Path) -> Path:
    """Every cell of a store as one compact parquet file, with a JSON manifest of the cells beside it."""
    paths = sorted(Path(store).glob("*.json"))
    if not paths:
        raise StoreError(f"{store}: no stored cells to export.")
    documents = [read(path) for path in paths]
    frame = pd.concat([pd.DataFrame(d["records"]) for d in documents], ignore_index=True)
    # Rows of the same question lie together and four decimals are kept: the file is a third of what it would be.
    frame = frame.sort_values(
        ["protocol", "dataset", "set", "id", "variant", "method"], kind="stable", ignore_index=True
    )
    for name in frame.select_dtypes("float64"):
        frame[name] = frame[name].round(4).astype("float32")
    for name in frame.columns:
        if frame[name].dtype == object or str(frame[name].dtype).startswith("str"):
            frame[name] = frame[name].astype("category")
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    frame.to_parquet(temporary, compression="zstd", index=False)
    os.replace(temporary, file)
    slim = [{"cell": d["cell"], **{k: v for k, v in d["info"].items() if k != "patch"},
             "patch": {k: d["info"]["patch"].get(k) for k in ("hparams", "seconds", "peak_memory_bytes", "nbytes", "mode", "covariance", "took", "targets")}}
            for d in documents]  # fmt: skip
    manifest = file.with_suffix(".json")
    temporary.write_text(json.dumps(slim, indent=None, separators=(",", ":")).replace('{"cell"', '\n{"cell"') + "\n")
    os.replace(temporary, manifest)
    return file


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
    """The commits that the cells of a results file were made by, for provenance lines."""
    documents = json.loads(Path(file).with_suffix(".json").read_text(encoding="utf-8"))
    return "commit " + ", ".join(sorted({document["commit"] for document in documents}))


def notes(stored: Iterable[Path], file: str | Path | None = None) -> list[tuple[Cell, dict]]:
    """Cells with what is noted of their patch (``took``, ``seconds``, ``targets``, …): stored ones, and those of a results file."""
    found = {}
    for document in json.loads(Path(file).with_suffix(".json").read_text(encoding="utf-8")) if file else []:
        found[Cell(**document["cell"])] = document["patch"]
    for path in stored:
        document = read(path)
        found[Cell(**document["cell"])] = document["info"]["patch"]
    return list(found.items())


def manifest_table(file: str | Path) -> pd.DataFrame:
    """Per data set, size, method and covariance of a results file: share of edits that took, seconds, megabytes of the patch."""
    documents = json.loads(Path(file).with_suffix(".json").read_text(encoding="utf-8"))
    rows = [
        {"dataset": c.dataset, "n_forget": c.n_forget, "method": c.method, "covariance": c.covariance,
         "edits that took": patch.get("took"), "seconds": patch["seconds"], "MB": (patch["nbytes"] or 0) / 1e6}
        for c, patch in ((Cell(**d["cell"]), d["patch"]) for d in documents)
        if patch.get("seconds") is not None and c == dataclasses.replace(c, targets="refusal", merge=1, mode=None, fact_token=None, protocol="questions")
    ]  # fmt: skip
    frame = pd.DataFrame(rows).astype({"edits that took": float})
    return frame.groupby(["dataset", "n_forget", "method", "covariance"], sort=False).mean().reset_index()
