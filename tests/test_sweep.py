"""Sweeps: stores on other filesystems, cells that fail, a Ray cluster that loses a node, and the command line."""

import itertools
import json
import os
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import OWN_ROWS, make_model, make_tokenizer

import editunlearn_lib as eu
from editunlearn_lib import study
from editunlearn_lib.__main__ import main, read_sweep
from editunlearn_lib.hparams import model_key
from editunlearn_lib.study import store as places
from editunlearn_lib.study import verify, work


@pytest.fixture
def own(tmp_path, pocket):
    """Four own questions: a cell takes a second."""
    file = tmp_path / "own.json"
    file.write_text(json.dumps(OWN_ROWS))
    return {"model": "pocket", "dataset": str(file), "n_forget": 1}


@pytest.fixture
def one_thread():
    """As a Ray worker with one CPU has it: the last bits of a sum depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- stores


@pytest.fixture(params=["folder", "file", "memory"])
def any_store(request, tmp_path) -> str:
    """One store of each kind, empty."""
    return {
        "folder": str(tmp_path / "store"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://{uuid.uuid4().hex}/store",
    }[request.param]


def test_a_store_is_a_folder_or_a_url(own, tmp_path, any_store, monkeypatch):
    grid = {**own, "method": "base"}
    records = study.run(grid, store=any_store, show=False)
    (cell,) = study.cells(grid)
    path = study.path_of(any_store, cell)
    assert path.exists() and path.name == f"{cell.key}.json" and study.read(path)["cell"]["method"] == "base"
    assert places.names(any_store) == {path.name}  # and no file of the probe, nor a temporary one
    monkeypatch.setattr(work, "run_cell", lambda *a: pytest.fail("a stored cell was run again"))
    pd.testing.assert_frame_equal(study.run(grid, store=any_store, show=False), records)
    file = study.export(any_store, tmp_path / "out.parquet")
    assert len(study.load_results(file)) == len(records)
    assert study.plan(grid, any_store).status.tolist() == ["done"]


def test_two_writers_of_one_cell_do_not_meet(tmp_path):
    texts, path = [json.dumps({"n": n, "fill": "x" * 100_000}) for n in range(8)], tmp_path / "cell.json"
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda text: [places.write(path, text) for _i in range(10)], texts):
            assert path.read_text() in texts  # one of them, whole
    assert [p.name for p in tmp_path.iterdir()] == ["cell.json"]


def test_what_is_no_cell_is_not_read(own, tmp_path):
    grid = {**own, "method": "base"}
    study.run(grid, store=tmp_path / "s", show=False)
    (cell,) = study.cells(grid)
    (tmp_path / "s" / f".{cell.key}.json.0123abcd").write_text("{")  # a writer that was killed
    (tmp_path / "s" / "notes.json").write_text("[]")
    assert len(places.names(tmp_path / "s")) == 1 and study.export(tmp_path / "s", tmp_path / "s" / "all.parquet")
    assert study.export(tmp_path / "s", tmp_path / "s" / "all.parquet")  # its own manifest is no cell
    study.path_of(tmp_path / "s", cell).write_text("[1]")
    with pytest.raises(eu.StoreError, match="Delete the file"):
        study.export(tmp_path / "s", tmp_path / "all.parquet")
    study.path_of(tmp_path / "s", cell).write_text(json.dumps({"cell": {}, "info": {"schema": 1}, "records": {}}))
    with pytest.raises(eu.StoreError, match="schema 1.*run the cell again"):
        study.export(tmp_path / "s", tmp_path / "all.parquet")


# ---------------------------------------------------------------- cells that fail


def test_a_cell_that_fails_is_noted_and_the_others_go_on(own, tmp_path, any_store, monkeypatch, caplog):
    run_cell, broken = work.run_cell, {"idk"}

    def sometimes(cell, *arguments):
        if cell.method in broken:
            raise torch.OutOfMemoryError("CUDA out of memory: a made-up one")
        return run_cell(cell, *arguments)

    monkeypatch.setattr(work, "run_cell", sometimes)
    grid = {**own, "method": ["idk", "base"]}
    records = study.run(grid, store=any_store, show=False)
    assert set(records.method) == {"base"}
    failed = study.cells(grid)[0]
    assert "1 of 2 cells failed" in caplog.text and failed.key in caplog.text and "retry_failed" in caplog.text
    note = study.failure(any_store, failed)
    assert note["error"] == "OutOfMemoryError" and "made-up" in note["reason"] and "sometimes" in note["traceback"]
    assert {"time", "commit", "cell"} <= set(note)
    assert study.plan(grid, any_store).status.tolist() == ["failed", "done"]

    broken.clear()
    caplog.clear()
    assert set(study.run(grid, store=any_store, show=False).method) == {
        "base"
    }  # not again by itself, but not in silence
    assert failed.key in caplog.text
    caplog.clear()
    assert set(study.run(grid, store=any_store, retry_failed=True, show=False).method) == {"base", "idk"}
    assert study.failure(any_store, failed) is None and "failed" not in caplog.text


def test_a_model_whose_logits_are_no_numbers_gives_no_result(own, tmp_path):
    model = make_model()
    model.model.norm.weight[0] = torch.nan
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    grid = {**own, "model": str(tmp_path / "model"), "method": "base", "n_forget": 2}
    for protocol in study.PROTOCOLS:
        with pytest.raises(eu.StudyError, match="1 of 1 cells failed.*\n.*TrainingError.*not numbers .*dtype"):
            study.run({**grid, "protocol": protocol}, store=tmp_path / protocol, show=False)


def test_a_store_that_cannot_be_written_to_is_known_before_anything_is_run(own, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "run_cell", lambda *a: pytest.fail("a cell was run whose result cannot be kept"))
    monkeypatch.setattr(work, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    (tmp_path / "file").touch()
    with pytest.raises(eu.StoreError, match="file"):
        study.run({**own, "method": "base"}, store=tmp_path / "file" / "store", show=False)


def test_a_cell_of_files_in_deep_folders_can_be_stored(own, tmp_path):
    """A file's name has at most 255 bytes, and the names of model and data may be long paths."""
    deep = tmp_path.joinpath(*["a folder with quite a náme"] * 8)
    deep.mkdir(parents=True)
    file = Path(own["dataset"]).rename(deep / "own.json")
    assert len(study.run({**own, "dataset": str(file), "method": "base"}, store=tmp_path / "s", show=False))
    assert all("base-n1" in path.name for path in (tmp_path / "s").glob("*.json"))


def test_a_run_without_any_result_is_an_error(own, tmp_path):
    with pytest.raises(eu.StudyError, match="1 of 1 cells failed.*\n.*RequestError.*merge"):
        study.run({**own, "method": "memit", "merge": 0}, store=tmp_path / "s", show=False)


def test_what_is_wrong_with_the_grid_or_the_model_stops_at_once(own, tmp_path):
    with pytest.raises(eu.ModelLoadError, match="no-such-model"):
        study.run({**own, "model": str(tmp_path / "no-such-model"), "method": ["base", "ga"]}, store=tmp_path / "s")
    with pytest.raises(eu.DatasetError, match="n_forget=9"):
        study.run({**own, "n_forget": 9, "method": "base"}, store=tmp_path / "s")
    with pytest.raises(eu.UnknownNameError, match="mode of grace"):
        study.cells({**own, "method": "grace", "mode": "batch"})
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'refusal'"):
        study.cells({**own, "method": "grace", "targets": "refusals"})
    with pytest.raises(eu.RequestError, match="n_forget"):
        study.cells({"model": "pocket", "dataset": "factual", "method": "base"})
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'ray'"):
        study.run({**own, "method": "base"}, store=tmp_path / "s", executor="rays")
    assert not list(tmp_path.glob("s/*"))


@pytest.mark.parametrize(
    ("method", "hparams"),
    [
        ("ga", {"lr": 1e30, "full": True, "num_epochs": 3}),
        ("memit", {"v_lr": float("inf"), "layers": [1]}),
        ("grace", {"edit_lr": float("inf"), "layers": [1]}),
    ],
)
def test_numbers_that_are_not_finite_are_no_patch(tiny, split, method, hparams):
    from conftest import same, weights

    model, tokenizer = tiny
    before = weights(model)
    covariance = {1: torch.eye(48, dtype=torch.float64)}
    with pytest.raises(eu.TrainingError, match="lower"):
        eu.unlearn(model, tokenizer, split, method, hparams=hparams, covariance=covariance, progress=False)
    assert same(before, weights(model))


# ---------------------------------------------------------------- executors and provenance


def test_an_executor_of_ones_own_maps_cells_also_in_threads(own, tmp_path):
    grid = {**own, "method": ["base", "grace"], "seed": [0, 1]}
    plain = study.run(grid, store=tmp_path / "a", show=False)
    with ThreadPoolExecutor(3) as pool:
        threaded = study.run(grid, store=tmp_path / "b", executor=pool.map, show=False)
    pd.testing.assert_frame_equal(plain, threaded)
    with pytest.raises(eu.StudyError, match="4 cells were run but are not in"):
        study.run(grid, store=tmp_path / "c", executor=lambda work, cells: [c.key for c in cells], show=False)


def test_without_ray_the_error_says_how_to_get_it(own, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(eu.StudyError, match=r"pip install 'editunlearn_lib\[cluster\]'"):
        study.run({**own, "method": "base"}, store=tmp_path / "s", executor="ray", show=False)


def test_a_cell_says_what_it_was_made_with(own, tmp_path):
    grid = {**own, "method": "base"}
    study.run(grid, store=tmp_path, show=False)
    document = study.read(study.path_of(tmp_path, study.cells(grid)[0]))
    info = document["info"]
    assert info["revision"] == info["base"]  # no hub: the fingerprint of the weights
    assert {"torch", "transformers", "tokenizers", "peft", "numpy", "python"} <= set(info["versions"])
    assert info["machine"]["processor"] and info["machine"]["threads"] >= 1
    assert info["cell_peak_memory_bytes"] > 1e7 and info["cell_seconds"] > 0
    assert {"commit", "template", "device", "dtype", "protocol", "forget_ids"} <= set(info) and document["cell"][
        "seed"
    ] == 0


def test_a_checkpoint_keeps_the_hyperparameters_of_its_model():
    grid = {"model": "meta-llama/Llama-2-7b-chat-hf", "dataset": "pistol", "method": "rome", "n_forget": 20}
    plain, tuned = study.cells(grid) + study.cells({**grid, "checkpoint": "somewhere/else"})
    assert tuned.model_name == "somewhere/else" and plain.key != tuned.key
    assert study.columns(tuned)["model"] == grid["model"]
    assert tuned.hparams["layers"] == (5,) and plain.hparams is None


# ---------------------------------------------------------------- sweep files and the command line

SWEEPS = Path(__file__).resolve().parent.parent / "sweeps"
DATASETS = {"tofu-facts": "factual", "pistol": "pistol"}
MODELS = {model_key(name): name for name in ("Llama2-7B", "Mistral-7B", "Llama3.1-8B")}


@pytest.mark.parametrize("table", sorted(eu.paper_tables().table.unique()))
def test_a_sweep_file_has_the_cells_of_its_table(table):
    cells = study.cells(read_sweep(SWEEPS / f"paper_{table}.yaml")["grid"])
    stages = {"refusal": "vanilla", "self-improved": "self-improved"}
    found = [
        (DATASETS[c.dataset], MODELS[model_key(c.model)], c.method, c.n_forget, c.merge, stages[c.targets])
        for c in cells
    ]
    rows = eu.paper_tables().query("table == @table")
    wanted = rows[["dataset", "model", "method", "n_forget", "merge", "stage"]].drop_duplicates()
    assert sorted(found) == sorted(map(tuple, wanted.to_numpy().tolist()))
    assert all((c.checkpoint is not None) == (c.dataset == "pistol") for c in cells)


def test_every_sweep_file_can_be_planned(tmp_path, capsys):
    files = sorted(SWEEPS.glob("*.yaml"))
    assert len(files) == 8
    for file in files:
        assert main(["sweep", str(file), "--dry-run", "--store", str(tmp_path / "none")]) == 0
        printed = capsys.readouterr().out
        assert "0 done, 0 failed" in printed and "unknown" in printed


@pytest.fixture
def sweep_file(own, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        json.dumps({"store": str(tmp_path / "s"), "grid": [{**own, "method": ["base", "grace"], "seed": [0, 1]}]})
    )
    return file


def test_a_sweep_from_plan_to_export_and_verification(own, sweep_file, tmp_path, capsys):
    study.run({**own, "method": "base", "seed": 0}, store=tmp_path / "s", show=False)
    assert main(["sweep", str(sweep_file), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["done", "missing", "missing", "missing"]
    assert "unknown" not in lines[1] and "unknown" in lines[2]  # another base cell is in the store, no GRACE
    assert "1 done, 0 failed, 3 missing. To run: 3" in lines[4] and "2 cells of unknown time" in lines[4]

    assert main(["sweep", str(sweep_file)]) == 0
    assert "4 of 4 cells are in" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "s"), str(tmp_path / "all.parquet")]) == 0
    verified = ["verify", "--results", str(tmp_path / "all.parquet"), "--sample", "2"]
    assert main(verified) == 0
    assert "2 of 2 cells agree" in capsys.readouterr().out
    assert set(verify.verify(tmp_path / "all.parquet", n=2).verdict) == {"identical"}

    frame = study.load_results(tmp_path / "all.parquet")
    frame["output"] = "something else"
    frame.to_parquet(tmp_path / "all.parquet")
    assert main(verified) == 1
    assert "0 of 2 cells agree" in capsys.readouterr().out


def test_a_sample_is_seeded_quick_and_of_different_methods():
    methods = ["base", "grace", "memit", "ga"]
    manifest = [
        {"cell": {"method": m, "seed": s}, "cell_seconds": 10.0 * i + s}
        for (i, m), s in itertools.product(enumerate(methods), range(12))
    ]
    drawn = verify.sample(manifest, 3, 0)
    assert drawn == verify.sample(manifest, 3, 0) and drawn != verify.sample(manifest, 3, 1)
    assert max(entry["cell_seconds"] for entry in drawn) < 20
    assert {entry["cell"]["method"] for entry in verify.sample(manifest, 4, 0)} == {"base", "grace"}
    assert len(verify.sample(manifest, 48, 0)) == 48


def test_what_verification_needs_of_a_cell():
    entry = {"device": "cpu", "versions": {"torch": "1"}, "machine": {"threads": 1}, "identity": {"hparams": {"lr": 1}}}
    same = {**entry, "device": "cpu"}
    row = {"same outputs": 0.97, "largest difference": 0.02, "identical": False}
    assert verify.judge(row, entry, same)["verdict"] == "outside"  # the same machine: everything must be identical
    other = {**same, "machine": {"threads": 2}}
    assert verify.judge(row, entry, other) == {
        "needed": "within tolerance",
        "verdict": "within tolerance",
        "note": "other machine",
    }
    assert verify.judge({**row, "same outputs": 0.9}, entry, other)["verdict"] == "outside"
    assert verify.judge({**row, "largest difference": 0.1}, entry, other)["verdict"] == "outside"
    assert verify.judge({**row, "identical": True}, entry, same)["verdict"] == "identical"
    assert verify.judge(row, entry, {**same, "identity": {"hparams": {"lr": 2}}})["note"] == "other hyperparameters"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stor: x\ngrid: []", "Did you mean 'store'"),
        ("store: x", "'grid' is missing"),
        ("[1", "not valid YAML"),
        ("store: x\ngrid: [1]", "list of grids"),
        ("a text", "holds str"),
        ("store: x\ngrid: [{model: pocket, dataset: factual, method: memmit, n_forget: 1}]", "Did you mean 'memit'"),
        ("store: x\ngrid: [{model: pocket, dataset: factual, method: base, n_forgot: 1}]", "Did you mean 'n_forget'"),
    ],
)
def test_a_wrong_sweep_file_is_one_line(tmp_path, capsys, text, message):
    (tmp_path / "s.yaml").write_text(text)
    assert main(["sweep", str(tmp_path / "s.yaml")]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.startswith("error: ") and len(shown.strip().splitlines()) == 1


def test_other_wrong_requests_are_one_line_too(tmp_path, capsys):
    for command in (
        ["sweep", "none.yaml"],
        ["export", str(tmp_path), str(tmp_path / "x")],
        ["verify", "--results", "none.parquet"],
    ):
        assert main(command) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


# ---------------------------------------------------------------- Ray


@pytest.fixture
def workers_path(monkeypatch):
    """Workers find this library, and Ray reports nothing."""
    root = str(Path(__file__).resolve().parent.parent)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))


@pytest.fixture
def cluster(workers_path):
    """Two nodes of one CPU each, on this machine."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    import ray

    node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100_000_000}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.other = cluster.add_node(**node)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def disturbed(grid, store, cluster) -> tuple[pd.DataFrame, int]:
    """The records of a run that loses a node, and how many cells were stored by then."""
    stored = []

    def kill():
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not places.names(store):
            time.sleep(0.02)
        stored.append(len(places.names(store)))
        cluster.remove_node(cluster.other, allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        return study.run(grid, store=store, executor="ray", address=cluster.address, show=False), stored[0]
    finally:
        thread.join()


@pytest.mark.slow
def test_ray_starts_on_this_machine_and_is_gone_afterwards(own, tmp_path, workers_path, one_thread, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    grid = {**own, "method": ["base", "grace"]}
    records = study.run(grid, store=tmp_path / "ray", executor="ray", num_workers=1, show=False)
    assert not ray.is_initialized()
    pd.testing.assert_frame_equal(records, study.run(grid, store=tmp_path / "local", show=False))


def test_a_ray_that_is_slow_to_start_is_tried_once_more(own, tmp_path, monkeypatch):
    ray, tries = pytest.importorskip("ray"), []

    def init(**arguments):
        tries.append(arguments)
        raise Exception("The current node timed out during startup.")  # noqa: TRY002 (as Ray raises it)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(eu.StudyError, match="does not start on this machine .*timed out"):
        study.run({**own, "method": "base"}, store=tmp_path, executor="ray", show=False)
    assert len(tries) == 2
    with pytest.raises(eu.StudyError, match="no Ray cluster can be reached at '127.0.0.1:1'"):
        study.run({**own, "method": "base"}, store=tmp_path, executor="ray", address="127.0.0.1:1", show=False)
    assert len(tries) == 3


@pytest.mark.slow
def test_a_node_that_dies_half_way_changes_nothing(own, tmp_path, cluster, one_thread, caplog):
    grid = [{**own, "method": ["base", "grace"], "seed": [0, 1, 2]}, {**own, "n_forget": 4, "method": "gd"}]
    records, stored = disturbed(grid, tmp_path / "ray", cluster)
    assert 1 <= stored < 6  # it was in the middle
    assert "1 of 7 cells failed" in caplog.text and "RequestError: gd needs a retain set" in caplog.text
    undisturbed = study.run(grid[0], store=tmp_path / "local", show=False)
    pd.testing.assert_frame_equal(records, undisturbed)


@pytest.mark.slow
def test_a_longer_sweep_that_loses_a_node(own, tmp_path, cluster, one_thread):
    grid = [
        {**own, "method": ["base", "idk", "ga", "memit", "rome"], "seed": [0, 1, 2]},
        {"model": "pocket", "dataset": "factual", "n_forget": 3, "method": ["base", "grace", "memit"]},
    ]
    records, stored = disturbed(grid, tmp_path / "ray", cluster)
    assert 1 <= stored < 18
    pd.testing.assert_frame_equal(records, study.run(grid, store=tmp_path / "local", show=False))
    assert not list((tmp_path / "ray").glob("*.failed.json"))
