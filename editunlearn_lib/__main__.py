"""The command line: ``editunlearn sweep FILE.yaml``, ``study``, ``export STORE FILE``, ``verify``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from . import files, study
from .errors import DatasetError, EditUnlearnError, StoreError, UnknownNameError, check_name
from .study import verify

KINDS = {"store": str, "grid": (list, dict), "device": str, "dtype": str}  # of the fields of a sweep file


def read_sweep(file: str | Path) -> dict[str, Any]:
    """A sweep from a YAML file: ``store`` and ``grid``, a list of grids of `study.run`; ``device`` and ``dtype``.

    Paths in it are read from where the command is run. Raises `DatasetError` for a file that cannot be read or lacks a
    field, and `UnknownNameError` for a field that is not known, with the nearest name.
    """
    try:
        fields = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    except yaml.YAMLError as error:
        raise DatasetError(f"{file}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(fields, dict):
        raise DatasetError(
            f"{file}: a sweep has the fields 'store' and 'grid'; this file holds {type(fields).__name__}."
        )
    try:
        for name in fields:
            check_name("field of a sweep", name, KINDS)
    except UnknownNameError as error:
        raise UnknownNameError(f"{file}: {error}") from None
    for name, kind in KINDS.items():
        if name in ("store", "grid") and not fields.get(name):
            raise DatasetError(f"{file}: the field {name!r} is missing or empty.")
        if name in fields and not isinstance(fields[name], kind):
            raise DatasetError(f"{file}, field {name!r}: {fields[name]!r} is not what is needed there.")
    parts = fields["grid"] if isinstance(fields["grid"], list) else [fields["grid"]]
    if not all(isinstance(part, dict) for part in parts):
        needed = "a list of grids is needed, each with 'model', 'dataset', 'method' and 'n_forget'."
        raise DatasetError(f"{file}, field 'grid': {needed}")
    return {"device": "auto", "dtype": "auto", **fields, "grid": parts}


def sweep(file: str, store: str, device: str, dtype: str, dry_run: bool, retry_failed: bool, **workers) -> int:
    """Run what is missing, or say what would be run."""
    own = {"store": store, "device": device, "dtype": dtype}
    fields = read_sweep(file) | {name: value for name, value in own.items() if value}
    grid, store = fields.pop("grid"), fields.pop("store")
    if not dry_run:
        study.run(grid, store=store, retry_failed=retry_failed, **workers, **fields)
    table = study.plan(grid, store, **fields)
    if dry_run:
        print(described(table, store, retry_failed))
        return 0
    print(f"{int((table.status == 'done').sum())} of {len(table)} cells are in {store}.")
    return int((table.status == "failed").any())


def described(table: pd.DataFrame, store: str | Path, retry_failed: bool) -> str:
    """The plan of a sweep as text: a line a cell, then how many are done and how long the others will take."""
    lines = []
    for row in table.itertuples():
        took = "unknown" if row.seconds != row.seconds else f"{row.seconds:.0f} s"
        lines.append(f"{row.status:8} {took:>9}  {row.cell}")
    left = table[table.status.isin(["missing", "failed"] if retry_failed else ["missing"])]
    known, unknown = left.seconds.sum(), int(left.seconds.isna().sum())
    time = "unknown" if unknown == len(left) and unknown else f"about {known / 60:.0f} minutes for one worker"
    if 0 < unknown < len(left):
        time += f", and {unknown} cells of unknown time"
    counts = ", ".join(f"{int((table.status == status).sum())} {status}" for status in ("done", "failed", "missing"))
    lines.append(f"{len(table)} cells in {store}: {counts}. To run: {len(left)} ({time if len(left) else 'nothing'}).")
    return "\n".join(lines)


def whole_study(store: Path | None, out: Path | None, retry_failed: bool) -> int:
    """Go on from a results file: say how long the missing cells take, run them, and write it anew."""
    home = files.project() or Path()
    store, out = store or home / "store", out or home / study.results.RESULTS / "pocket.parquet"
    grid = study.whole_grid()
    if out.exists():
        study.adopt(out, store)
    print(described(study.plan(grid, store), store, retry_failed).splitlines()[-1], flush=True)
    study.run(grid, store=store, retry_failed=retry_failed)
    return export(store, out)


def export(store: str | Path, out: str | Path) -> int:
    """A store as one results file."""
    print(f"written: {study.export(store, out)}")
    return 0


def check(results: Path | None, **options) -> int:
    """Run a sample of a results file again."""
    if (file := results or study.results_file("pocket")) is None:
        where = "run this in the project's folder, or name a file: --results."
        raise StoreError(f"there are no committed results here: {where}")
    table = verify.verify(file, **options)
    print(table.to_string(index=False, float_format="{:.4g}".format))
    outside = int((table.verdict == "outside").sum())
    print(
        f"{len(table) - outside} of {len(table)} cells agree with {file}. Needed: identical on the same machine "
        f"with the same versions, else {verify.OUTPUTS:.0%} of the outputs and every set's mean within {verify.METRIC}."
    )
    return int(outside > 0)


def number(text: str) -> int:
    """A whole number of at least 1."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    main = argparse.ArgumentParser(prog="editunlearn", description="Sweeps over many cells, and their results.")
    commands = main.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("sweep", help="run the cells of a sweep file that its store does not hold yet")
    one.add_argument("file", metavar="FILE.yaml")
    one.add_argument("--executor", choices=["local", "ray"], default="local")
    one.add_argument("--address", help="of a Ray cluster; without it Ray is started on this machine")
    one.add_argument("--num-workers", type=number, help="at most so many on Ray; else one for every GPU, or every CPU")
    one.add_argument("--store", help="a folder or URL in place of the file's")
    one.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    one.add_argument("--retry-failed", action="store_true", help="run failed cells once more")
    one.add_argument("--device", help="in place of the file's")
    one.add_argument("--dtype", help="in place of the file's")
    one.set_defaults(run=sweep)
    one = commands.add_parser("study", help="run what the committed results of the embedded model lack (hours)")
    one.add_argument("--store", type=Path, help="else store/ in the project's folder")
    one.add_argument("--out", type=Path, metavar="FILE", help="a results file to begin from and to write")
    one.add_argument("--retry-failed", action="store_true", help="run failed cells once more")
    one.set_defaults(run=whole_study)
    one = commands.add_parser("export", help="write a store as one parquet file with a manifest")
    one.add_argument("store", metavar="STORE")
    one.add_argument("out", metavar="FILE")
    one.set_defaults(run=export)
    one = commands.add_parser("verify", help="run a sample of committed results again and compare")
    one.add_argument("--sample", type=number, default=3, metavar="N", dest="n", help="how many cells")
    one.add_argument("--results", type=Path, metavar="FILE", help="a parquet file with its manifest")
    one.add_argument("--seed", type=int, default=0, help="of the draw")
    one.add_argument("--device", default="auto")
    one.add_argument("--dtype", help="in place of the one that a cell was made in")
    one.set_defaults(run=check)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 if all is well, 1 if cells failed or results disagree, 2 if something asked for is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    chosen = vars(parser().parse_args(arguments))
    try:
        return chosen.pop("run")(**chosen)
    except EditUnlearnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
