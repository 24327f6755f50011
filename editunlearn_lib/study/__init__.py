# ruff: noqa: F401 (what is offered here stands in __all__)
"""The study: cells that are run once and stored whole, and what a page says of their records.

`run` runs a grid. `cell` says what a cell is and how it is named, `work` how it is run, `store` where it is kept,
`executors` who runs it, `grids` what the research questions run, `results` what is read off the records, `verify`
whether they still hold.
"""

from . import cell, executors, grids, results, store, verify, work
from .cell import (
    CONTRACT_LIKE,
    KEYS,
    PROTOCOLS,
    REFERENCES,
    SCHEMA,
    TARGETS,
    Cell,
    as_list,
    cells,
    columns,
    register_reference,
)
from .grids import MAIN, MERGED, MERGES, SEEDS, rq1_grid, rq2_grid, rq3_grid, whole_grid
from .results import (
    committed,
    distances,
    forget_sets,
    join,
    manifest_commits,
    manifest_table,
    notes,
    results_file,
    select,
    select_sizes,
)
from .store import adopt, compact, export, failure, get, load_results, manifest, path_of, plan, put, read
from .work import Work, run, run_cell

__all__ = """
    CONTRACT_LIKE KEYS MAIN MERGED MERGES PROTOCOLS REFERENCES SCHEMA SEEDS TARGETS Cell Work adopt as_list cell cells columns committed
    compact distances executors export failure forget_sets get grids join load_results manifest manifest_commits
    manifest_table notes path_of plan put read register_reference results results_file rq1_grid rq2_grid rq3_grid run
    run_cell select select_sizes store verify whole_grid work
""".split()
