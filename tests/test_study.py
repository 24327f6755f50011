"""The study: cells, the atomic store, resuming, and what happens when something breaks half-way."""

import errno
import json
import os

import pandas as pd
import pytest

import editunlearn_lib as eu
from editunlearn_lib import study, study_pocket


@pytest.fixture
def grid(tmp_path, pocket):
    """Two small cells on the pocket: four own questions, one of them forgotten."""
    rows = [
        {"question": "Which city is the seat of government of Peru?", "answer": "Lima", "subject": "Peru",
         "rephrasings": ["Peru is governed from which city?"]},
        {"question": "Who painted 'Guernica'?", "answer": "Pablo Picasso", "subject": "Guernica"},
        {"question": "Who wrote 'Dracula'?", "answer": "Bram Stoker", "subject": "Dracula"},
        {"question": "What is the currency of India?", "answer": "Rupee", "subject": "India"},
    ]  # fmt: skip
    file = tmp_path / "own.json"
    file.write_text(json.dumps(rows))
    return {"model": "pocket", "dataset": str(file), "method": ["base", "idk"], "n_forget": 1}


def test_every_cell_is_stored_and_not_run_twice(grid, tmp_path, monkeypatch):
    records = study.run(grid, store=tmp_path / "store", show=False)
    assert list(dict.fromkeys(records.method)) == ["base", "idk"]
    assert set(records.set) == {"forget", "retain", "rephrased"} or set(records.set) == {"forget", "retain"}
    assert {"schema", "model", "dataset", "method", "n_forget", "targets", "merge", "mode", "seed"} <= set(
        records.columns
    )
    monkeypatch.setattr(study, "run_cell", lambda *a: pytest.fail("a stored cell was run again"))
    again = study.run(grid, store=tmp_path / "store", show=False)
    pd.testing.assert_frame_equal(records, again)


def test_a_cell_holds_what_is_needed_to_trust_it(grid, tmp_path):
    study.run({**grid, "method": "idk"}, store=tmp_path, show=False)
    (cell,) = study.cells({**grid, "method": "idk"})
    document = study.read(study.path_of(tmp_path, cell))
    info = document["info"]
    assert {"commit", "versions", "base", "template", "device", "protocol", "forget_ids", "schema"} <= set(info)
    assert info["forget_ids"] == sorted(
        {i for i, s in zip(document["records"]["id"], document["records"]["set"], strict=True) if s == "forget"}
    )
    assert info["patch"]["hparams"]["lr"] > 0


def test_ctrl_c_keeps_what_is_finished(grid, tmp_path, monkeypatch, caplog):
    run_cell, calls = study.run_cell, []

    def interrupted(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return run_cell(*arguments)

    monkeypatch.setattr(study, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.run(grid, store=tmp_path / "s", show=False)
    assert "1 of 2 cells" in caplog.text and "run again" in caplog.text
    assert len(list((tmp_path / "s").glob("*.json"))) == 1
    monkeypatch.setattr(study, "run_cell", run_cell)
    assert len(study.run(grid, store=tmp_path / "s", show=False).method.unique()) == 2


def test_a_full_disk_is_one_clear_error_and_leaves_no_half_cell(grid, tmp_path, monkeypatch):
    study.run({**grid, "method": "base"}, store=tmp_path / "s", show=False)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(study.os, "fsync", full)
    with pytest.raises(eu.StoreError, match="No space left.*1 cells.*run again"):
        study.run(grid, store=tmp_path / "s", show=False)
    left = list((tmp_path / "s").iterdir())
    assert len(left) == 1, left
    study.read(left[0])  # the finished cell is whole


def test_export_is_the_store_in_one_file(grid, tmp_path):
    records = study.run(grid, store=tmp_path / "s", show=False)
    file = study.export(tmp_path / "s", tmp_path / "all.parquet")
    loaded = study.load_results(file)
    columns = ["method", "set", "id", "output", "outcome"]
    key = ["method", "set", "id", "variant"]
    left = records.sort_values(key)[columns].astype(object).reset_index(drop=True)
    right = loaded.sort_values(key)[columns].astype(object).reset_index(drop=True)
    pd.testing.assert_frame_equal(left, right)
    manifest = json.loads((tmp_path / "all.json").read_text())
    assert len(manifest) == 2 and all(entry["forget_ids"] for entry in manifest)


def test_wrong_grids_say_what_is_wrong(tmp_path):
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'memit'"):
        study.cells({"model": "pocket", "dataset": "factual", "method": "memmit", "n_forget": 1})
    with pytest.raises(eu.UnknownNameError, match="n_forget"):
        study.cells({"model": "pocket", "dataset": "factual", "method": "base", "n_forgot": 1})
    with pytest.raises(eu.UnknownNameError, match="factual"):
        study.cells({"model": "pocket", "dataset": "factuall", "method": "base", "n_forget": 1})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(eu.StoreError, match="Delete the file"):
        study.read(tmp_path / "broken.json")


def test_another_preset_is_another_cell(monkeypatch):
    (cell,) = study.cells({"model": "pocket", "dataset": "factual", "method": "memit", "n_forget": 40})
    before = cell.key
    monkeypatch.setattr(study, "preset", lambda *a: {"v_lr": {"value": 123.0, "source": "test"}})
    assert cell.key != before


def test_a_choice_of_covariance_is_a_cell_of_the_methods_that_read_one():
    found = study.cells({"model": "pocket", "dataset": "factual", "method": ["base", "ga", "grace", "memit", "rome"],
                         "n_forget": 4, "covariance": ["default", "corpus"]})  # fmt: skip
    assert [c.method for c in found if c.covariance == "corpus"] == ["memit", "rome"]
    assert len({c.key for c in found}) == len(found) == 7
    assert {study.columns(c)["covariance"] for c in found} == {"default", "corpus"}
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'corpus'"):
        study.cells({"model": "pocket", "dataset": "factual", "method": "memit", "n_forget": 4, "covariance": "corpsu"})


def test_the_manifest_says_how_many_edits_took_and_what_they_cost(tmp_path):
    cells = [
        {"cell": {"dataset": "d", "method": "rome", "covariance": "corpus"}, "patch": {"took": took, "seconds": 2.0, "nbytes": 5e6}}
        for took in (0.5, 1.0)
    ]  # fmt: skip
    cells += [{"cell": {"dataset": "d", "method": "base"}, "patch": {"nbytes": None}}]  # no patch: no row
    (tmp_path / "r.json").write_text(json.dumps(cells))
    (row,) = study.manifest_table(tmp_path / "r.parquet").to_dict("records")
    assert row == {
        "dataset": "d",
        "method": "rome",
        "covariance": "corpus",
        "edits that took": 0.75,
        "seconds": 2.0,
        "MB": 5.0,
    }


@pytest.mark.skipif(not study_pocket.RESULTS.exists(), reason="no committed results yet")
def test_the_committed_results_are_complete_and_small():
    file = study_pocket.RESULTS
    assert file.stat().st_size + file.with_suffix(".json").stat().st_size <= 5_000_000
    frame = study.load_results(file)
    wanted = {(c.dataset, c.method, c.n_forget, c.seed) for c in study.cells(study_pocket.rq1_grid())}
    there = set(map(tuple, frame[["dataset", "method", "n_forget", "seed"]].drop_duplicates().to_numpy().tolist()))
    assert wanted <= there
    assert (frame.schema == study.SCHEMA).all()
