# ruff: noqa: F401, I001 (what is imported here is offered)
"""The study: cells that are run once and stored whole, and what a page says of their records.

`run` runs a grid. `cell` says what a cell is and how it is named, `work` how it is run, `store` where it is kept,
`executors` who runs it, `grids` what the research questions run, `results` what is read off the records, `verify`
whether they still hold.
"""

from . import cell, executors, grids, results, store, verify, work
from .cell import CONTRACT_LIKE, KEYS, PROTOCOLS, REFERENCES, SCHEMA, Cell, as_list, cells, columns, register_reference
from .grids import MAIN, MERGED, MERGES, SEEDS, rq1_grid, rq2_grid, rq3_grid, whole_grid
from .results import committed, distances, forget_sets, join, manifest_commits, manifest_table
from .results import results_file, select, select_sizes
from .store import adopt, compact, export, failure, get, load_results, manifest, notes, path_of, plan, put, read
from .work import run, run_cell

__all__ = [name for name in dir() if not name.startswith("_")]
