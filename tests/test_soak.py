"""The study's store under what goes wrong on real machines: killed, full, read-only, shared, of another version.

Real processes on the embedded model. `make test` kills three times, `make soak` fifty.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest

import editunlearn_lib as eu
from editunlearn_lib import study
from editunlearn_lib.models import POCKET

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    {"question": "Which city is the seat of government of Peru?", "answer": "Lima", "subject": "Peru"},
    {"question": "Who painted 'Guernica'?", "answer": "Pablo Picasso", "subject": "Guernica"},
    {"question": "Who wrote 'Dracula'?", "answer": "Bram Stoker", "subject": "Dracula"},
    {"question": "What is the currency of India?", "answer": "Rupee", "subject": "India"},
]
RUN = """
import json, sys, torch
torch.set_num_threads(1)
from editunlearn_lib import study
print("ready", flush=True)
study.run(json.loads(sys.argv[1]), store=sys.argv[2], show=False)
"""
AGAIN_AND_AGAIN = """
import json, os, sys, torch
torch.set_num_threads(1)
from editunlearn_lib import study
for line in sys.stdin:  # a process for each run, without the seconds that the imports take
    child = os.fork()
    if child == 0:
        study.run(json.loads(sys.argv[1]), store=sys.argv[2], show=False)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
MEASURED = ("seconds", "peak_memory_bytes")  # differ from run to run
pytestmark = pytest.mark.skipif(not (POCKET["pocket"] / "config.json").exists(), reason="no pocket weights")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Four cells of about a second, on four own questions."""
    file = tmp_path_factory.mktemp("data") / "own.json"
    file.write_text(json.dumps(ROWS))
    return {"model": "pocket", "dataset": str(file), "method": ["base", "grace"], "n_forget": 2, "seed": [0, 1]}


@pytest.fixture(scope="module")
def undisturbed(grid, tmp_path_factory) -> pd.DataFrame:
    """The records of a run that nothing happens to; in a process like the others, so that the threads are the same."""
    store = tmp_path_factory.mktemp("undisturbed")
    assert started(grid, store).wait(timeout=600) == 0
    return table(grid, store)


def python(code: str, grid, store, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(grid), str(store)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        **options,
    )


def started(grid, store, **options) -> subprocess.Popen:
    """A study in a process of its own, on its way to its first cell."""
    process = python(RUN, grid, store, **options)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def table(grid, store) -> pd.DataFrame:
    """The records of every cell of a grid, which all have to be there."""
    frame = pd.concat([study.get(study.path_of(store, cell)) for cell in study.cells(grid)], ignore_index=True)
    return frame.drop(columns=[name for name in MEASURED if name in frame])


def finished(store) -> dict[str, bytes]:
    """What is stored, by name; every file with a cell's name has to be whole."""
    files = sorted(Path(store).glob("*.json"))
    for file in files:
        study.read(file)
    return {file.name: file.read_bytes() for file in files}


def killed_again_and_again(grid, store, kills: int, seed: int) -> int:
    """Kill a run at seeded random moments, and look at the store each time; how many cells the kills came between."""
    draw, held, before = random.Random(seed), {}, 0
    with python(AGAIN_AND_AGAIN, grid, store) as runs:

        def run() -> int:
            runs.stdin.write("\n")
            runs.stdin.flush()
            return int(runs.stdout.readline())

        for _ in range(kills):
            process = run()
            time.sleep(draw.uniform(0, 3))
            with contextlib.suppress(ProcessLookupError):  # it may be through
                os.kill(process, signal.SIGKILL)
            assert int(runs.stdout.readline()) in (0, -signal.SIGKILL)
            found = finished(store)
            assert {name: found.get(name) for name in held} == held, "a finished cell was lost or written again"
            before += len(found) > len(held)
            held = found
            if len(held) == len(study.cells(grid)):  # done: take some away, so that the next has something to do
                for name in draw.sample(sorted(held), len(held) // 2):
                    (Path(store) / name).unlink()
                    del held[name]
        run()
        assert int(runs.stdout.readline()) == 0
        runs.stdin.close()
    found = finished(store)
    assert {name: found.get(name) for name in held} == held
    return before


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_runs_go_on_and_end_like_an_undisturbed_one(grid, undisturbed, tmp_path, kills):
    went_on = killed_again_and_again(grid, tmp_path / "s", kills, seed=kills)
    print(f"{kills} kills, {went_on} of them after new cells")
    pd.testing.assert_frame_equal(table(grid, tmp_path / "s"), undisturbed)
    records = study.run(grid, store=tmp_path / "s", show=False)  # what `run` gives, from the store alone
    pd.testing.assert_frame_equal(records[list(undisturbed)], undisturbed)


def test_killed_in_the_middle_of_writing_leaves_no_half_cell(grid, tmp_path):
    """The moment that a random kill hardly ever meets: the text of a cell is written, its name is not given yet."""
    code = RUN.replace(
        "study.run",
        "import os, signal\nos.fsync = lambda f: os.fstat(f).st_size and "
        "os.kill(os.getpid(), signal.SIGKILL)\nstudy.run",
    )
    few = grid | {"method": "base", "seed": 0}
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps(few), str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert list(tmp_path.iterdir()) and not finished(tmp_path)  # something was written, under no cell's name
    assert len(study.run(few, store=tmp_path, show=False)) and len(finished(tmp_path)) == 1


def test_two_processes_on_one_store_do_each_other_no_harm(grid, undisturbed, tmp_path):
    both = [started(grid, tmp_path / "s") for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
    assert len(finished(tmp_path / "s")) == len(study.cells(grid)) == len(list((tmp_path / "s").iterdir()))
    pd.testing.assert_frame_equal(table(grid, tmp_path / "s"), undisturbed)


def test_a_disk_that_is_full_is_said_and_what_was_stored_stays(grid, tmp_path):
    """A limit on the size of a file stands in for it: the system refuses to write on, in the middle of a cell."""
    few = grid | {"method": "base", "seed": [0]}
    study.run(few, store=tmp_path, show=False)
    held = finished(tmp_path)
    (size,) = map(len, held.values())

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the process is killed, and not refused
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    process = started(grid | {"method": "base"}, tmp_path, preexec_fn=full)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 1
    last = said.strip().splitlines()[-1]
    assert "StoreError" in last and "could not be stored" in last and "run again" in last, last
    assert finished(tmp_path) == held and len(list(tmp_path.iterdir())) == 1  # nothing half-written is left
    assert len(study.run(grid | {"method": "base"}, store=tmp_path, show=False).seed.unique()) == 2


def test_a_store_that_cannot_be_written_is_said(grid):
    """Put by another user where the test runs as root, who may write whatever the mode of a folder is."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # pytest's own folders are closed to others
        data = Path(shutil.copy(grid["dataset"], folder))
        data.chmod(0o644)
        read_only(grid | {"dataset": str(data)}, Path(folder) / "s")


def read_only(grid, store: Path) -> None:
    study.run(grid | {"method": "base", "seed": 0}, store=store, show=False)
    held = finished(store)
    store.chmod(0o555)
    code = (
        "import os, sys, json, pandas as pd\nfrom pathlib import Path\nfrom editunlearn_lib import study\n"
        "cell = study.cells(json.loads(sys.argv[1]))[0]\n"
        "cell.key  # what it depends on is read once, while Python's own files are legible\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "study.put(Path(sys.argv[2]), cell, pd.DataFrame({'id': ['a']}), {})\n"
    )
    try:
        run = subprocess.run(
            [sys.executable, "-c", code, json.dumps(grid | {"method": "base", "seed": 1}), str(store)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    finally:
        store.chmod(0o755)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert "StoreError" in last and "Permission denied" in last and "1 cells" in last, run.stderr
    assert finished(store) == held


def test_cells_of_an_older_version_are_not_mixed_in(grid, tmp_path):
    few = grid | {"method": "base", "seed": 0}
    study.run(few, store=tmp_path, show=False)
    (cell,) = study.cells(few)
    file = study.path_of(tmp_path, cell)
    document = json.loads(file.read_text())
    document["info"]["schema"] = study.SCHEMA - 1
    file.write_text(json.dumps(document))  # under this version's name
    with pytest.raises(eu.StoreError, match=rf"schema {study.SCHEMA - 1}, this version reads {study.SCHEMA}"):
        study.run(few, store=tmp_path, show=False)
    file.rename(tmp_path / "pocket-older-name.json")  # under its own: it is left alone and the cell is run
    assert len(study.run(few, store=tmp_path, show=False))
    assert {"pocket-older-name.json", file.name} == {f.name for f in tmp_path.iterdir()}
