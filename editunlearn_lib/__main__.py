"""The command line: ``python -m editunlearn_lib sweep FILE.yaml``, ``export STORE FILE``, ``verify``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import study, verify
from .errors import DatasetError, EditUnlearnError, UnknownNameError, check_name
from .study_pocket import RESULTS

FIELDS = ("store", "grid", "device", "dtype")


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says."""

    store: str
    grid: list[dict[str, Any]]
    device: str = "auto"
    dtype: str = "auto"


def read_sweep(file: str | Path) -> Sweep:
    """A sweep from a YAML file: ``store`` and ``grid``, a list of grids of `study.run`; ``device`` and ``dtype`` if wanted.

    Paths in it are read from where the command is run. Raises `DatasetError` for a file that cannot be read or lacks a
    field, and `UnknownNameError` for a field that is not known, with the nearest name.
    """
    try:
        found = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    except yaml.YAMLError as error:
        raise DatasetError(f"{file}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(found, dict):
        raise DatasetError(
            f"{file}: a sweep has the fields 'store' and 'grid'; this file holds {type(found).__name__}."
        )
    try:
        for name in found:
            check_name("field of a sweep", name, FIELDS)
    except UnknownNameError as error:
        raise UnknownNameError(f"{file}: {error}") from None
    for name, kind in (("store", str), ("grid", (list, dict)), ("device", str), ("dtype", str)):
        if name in ("store", "grid") and not found.get(name):
            raise DatasetError(f"{file}: the field {name!r} is missing or empty.")
        if name in found and not isinstance(found[name], kind):
            raise DatasetError(f"{file}, field {name!r}: {found[name]!r} is not what is needed there.")
    parts = found["grid"] if isinstance(found["grid"], list) else [found["grid"]]
    if not all(isinstance(part, dict) for part in parts):
        raise DatasetError(
            f"{file}, field 'grid': a list of grids is needed, each with 'model', 'dataset', 'method' and 'n_forget'."
        )
    return Sweep(**{**found, "grid": parts})


def sweep(arguments: argparse.Namespace) -> int:
    """Run what is missing, or say what would be run."""
    asked = read_sweep(arguments.file)
    store = arguments.store or asked.store
    if arguments.dry_run:
        print(described(study.plan(asked.grid, store), store, retry_failed=arguments.retry_failed))
        return 0
    study.run(
        asked.grid,
        store=store,
        executor=arguments.executor,
        address=arguments.address,
        num_workers=arguments.num_workers,
        device=arguments.device or asked.device,
        dtype=arguments.dtype or asked.dtype,
        retry_failed=arguments.retry_failed,
    )
    table = study.plan(asked.grid, store)
    failed = int((table.status == "failed").sum())
    print(f"{int((table.status == 'done').sum())} of {len(table)} cells are in {store}.")
    return 1 if failed else 0


def described(table, store: str, *, retry_failed: bool = False) -> str:
    """The plan of a sweep as text: a line a cell, then how many are done and how long the others will take."""
    lines = []
    for row in table.itertuples():
        took = "unknown" if row.seconds != row.seconds else f"{row.seconds:.0f} s"
        lines.append(f"{row.status:8} {took:>9}  {row.cell}")
    open_ = table[table.status.isin(["missing", "failed"] if retry_failed else ["missing"])]
    known, unknown = open_.seconds.sum(), int(open_.seconds.isna().sum())
    time = "unknown" if unknown == len(open_) and unknown else f"about {known / 60:.0f} minutes for one worker"
    if 0 < unknown < len(open_):
        time += f", and {unknown} cells of unknown time"
    counts = ", ".join(f"{int((table.status == status).sum())} {status}" for status in ("done", "failed", "missing"))
    return "\n".join(
        [
            *lines,
            f"{len(table)} cells in {store}: {counts}. To run: {len(open_)} ({time if len(open_) else 'nothing'}).",
        ]
    )


def export(arguments: argparse.Namespace) -> int:
    """A store as one results file."""
    print(f"written: {study.export(arguments.store, arguments.out)}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Run a sample of a results file again."""
    table = verify.verify(
        arguments.results, n=arguments.sample, seed=arguments.seed, device=arguments.device, dtype=arguments.dtype
    )
    print(table.to_string(index=False, float_format="{:.4g}".format))
    outside = int((table.verdict == "outside").sum())
    print(
        f"{len(table) - outside} of {len(table)} cells agree with {arguments.results}. Needed: identical on the same machine "
        f"with the same versions, else {verify.OUTPUTS:.0%} of the outputs and every set's mean within {verify.METRIC}."
    )
    return 1 if outside else 0


def whole(text: str) -> int:
    """A whole number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    main = argparse.ArgumentParser(
        prog="python -m editunlearn_lib", description="Sweeps over many cells, and their results."
    )
    commands = main.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("sweep", help="run the cells of a sweep file that its store does not hold yet")
    one.add_argument("file", metavar="FILE.yaml")
    one.add_argument("--executor", choices=["local", "ray"], default="local")
    one.add_argument("--address", help="of a Ray cluster; without it Ray is started on this machine")
    one.add_argument("--num-workers", type=whole, help="at most so many on Ray; else one for every GPU, or every CPU")
    one.add_argument("--store", help="a folder or URL in place of the file's")
    one.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    one.add_argument("--retry-failed", action="store_true", help="run failed cells once more")
    one.add_argument("--device", help="in place of the file's")
    one.add_argument("--dtype", help="in place of the file's")
    one.set_defaults(run=sweep)
    one = commands.add_parser("export", help="write a store as one parquet file with a manifest")
    one.add_argument("store", metavar="STORE")
    one.add_argument("out", metavar="FILE")
    one.set_defaults(run=export)
    one = commands.add_parser("verify", help="run a sample of committed results again and compare")
    one.add_argument("--sample", type=whole, default=3, metavar="N", help="how many cells")
    one.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="a parquet file with its manifest")
    one.add_argument("--seed", type=int, default=0, help="of the draw")
    one.add_argument("--device", default="auto")
    one.add_argument("--dtype", default="auto")
    one.set_defaults(run=check)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 if all is well, 1 if cells failed or results disagree, 2 if something asked for is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    chosen = parser().parse_args(arguments)
    try:
        return chosen.run(chosen)
    except EditUnlearnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
