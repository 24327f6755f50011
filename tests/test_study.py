"""The study: cells, the atomic store, resuming, and what happens when something breaks half-way."""

import dataclasses
import errno
import json
import os
import shutil

import pandas as pd
import pytest
from conftest import OWN_ROWS, make_model, make_tokenizer

import editunlearn_lib as eu
from editunlearn_lib import attacks, study
from editunlearn_lib.data import load_split
from editunlearn_lib.evaluation import summarise
from editunlearn_lib.methods import METHODS
from editunlearn_lib.models import fingerprint
from editunlearn_lib.patch import DENSE, Patch
from editunlearn_lib.study import cell as cell_module
from editunlearn_lib.study import work

RESULTS = study.results_file("pocket")


@pytest.fixture
def grid(tmp_path, pocket):
    """Two small cells on the pocket: four own questions, one of them forgotten."""
    file = tmp_path / "own.json"
    file.write_text(json.dumps(OWN_ROWS))
    return {"model": "pocket", "dataset": str(file), "method": ["base", "idk"], "n_forget": 1}


def test_every_cell_is_stored_and_not_run_twice(grid, tmp_path, monkeypatch):
    records = study.run(grid, store=tmp_path / "store", show=False)
    assert list(dict.fromkeys(records.method)) == ["base", "idk"]
    assert set(records.set) == {"forget", "retain", "rephrased"} or set(records.set) == {"forget", "retain"}
    assert {"schema", "model", "dataset", "method", "n_forget", "targets", "merge", "mode", "seed"} <= set(
        records.columns
    )
    monkeypatch.setattr(work, "run_cell", lambda *a: pytest.fail("a stored cell was run again"))
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
    run_cell, calls = work.run_cell, []

    def interrupted(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return run_cell(*arguments)

    monkeypatch.setattr(work, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.run(grid, store=tmp_path / "s", show=False)
    assert "1 of 2 cells" in caplog.text and "run again" in caplog.text
    assert len(list((tmp_path / "s").glob("*.json"))) == 1
    monkeypatch.setattr(work, "run_cell", run_cell)
    assert len(study.run(grid, store=tmp_path / "s", show=False).method.unique()) == 2


def test_a_full_disk_is_one_clear_error_and_leaves_no_half_cell(grid, tmp_path, monkeypatch):
    study.run({**grid, "method": "base"}, store=tmp_path / "s", show=False)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
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


def test_a_study_goes_on_from_a_results_file(grid, tmp_path, monkeypatch):
    grid = [grid, {**grid, "n_forget": 2, "method": "base", "protocol": "attacks"}]
    study.run(grid, store=tmp_path / "a", show=False)
    file = study.export(tmp_path / "a", tmp_path / "a.parquet")
    assert study.adopt(file, tmp_path / "b") == 3
    assert study.adopt(file, tmp_path / "b") == 0  # they are there
    monkeypatch.setattr(work, "run_cell", lambda *a: pytest.fail("an adopted cell was run again"))
    assert len(study.run(grid, store=tmp_path / "b", show=False))
    again = study.export(tmp_path / "b", tmp_path / "b.parquet")
    pd.testing.assert_frame_equal(study.load_results(again), study.load_results(file))
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()
    monkeypatch.setattr(cell_module, "_weights", lambda name: "other weights")
    assert study.adopt(file, tmp_path / "c") == 0  # their numbers belong to the weights they were made with


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


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_own_mode_said_or_not_is_one_cell(method):
    """Two cells with the same columns would count every question twice."""
    grid = {"model": "pocket", "dataset": "factual", "method": method, "n_forget": 2}
    modes = METHODS[method].modes
    found = study.cells({**grid, "mode": [None, *modes]})
    assert len(found) == len(modes) and found[0] == study.cells(grid)[0]
    assert len({tuple(study.columns(cell).values()) for cell in found}) == len(found)


# ---------------------------------------------------------------- what a cell is named by


@pytest.mark.skipif(RESULTS is None, reason="no committed results yet")
def test_a_reworded_source_and_new_fields_with_defaults_orphan_nothing(monkeypatch):
    presets = cell_module.preset
    for name, method in METHODS.items():
        config = dataclasses.make_dataclass("Config", [("younger", int, 7)], bases=(method.config,), frozen=True)
        monkeypatch.setitem(METHODS, name, dataclasses.replace(method, config=config))
    reworded = lambda *a: {field: {**entry, "source": "in other words"} for field, entry in presets(*a).items()}  # noqa: E731
    monkeypatch.setattr(cell_module, "preset", reworded)
    Younger = dataclasses.make_dataclass("Cell", [("younger", str, "no")], bases=(study.Cell,), frozen=True)
    documents = study.manifest(RESULTS)
    assert len(documents) >= 534
    assert not [d["key"] for d in documents if Younger(**d["cell"]).key != d["key"]]
    assert Younger(**documents[0]["cell"], younger="yes").key != documents[0]["key"]


@pytest.mark.slow
@pytest.mark.skipif(RESULTS is None, reason="no committed results yet")
def test_the_committed_results_can_be_gone_on_from(tmp_path):
    assert study.adopt(RESULTS, tmp_path) == len(study.manifest(RESULTS))
    plan, run = study.plan(study.whole_grid(), tmp_path), {row["cell"]["method"] for row in study.manifest(RESULTS)}
    assert set(plan[plan.method.isin(run)].status) == {"done"}
    assert not run & set(plan[plan.status != "done"].method)  # a method is run whole or not at all


def test_another_preset_is_another_cell(monkeypatch):
    (cell,) = study.cells({"model": "pocket", "dataset": "factual", "method": "memit", "n_forget": 40})
    before, presets = cell.key, cell_module.preset
    monkeypatch.setattr(cell_module, "preset", lambda *a: presets(*a) | {"v_lr": {"value": 123.0, "source": "test"}})
    assert cell.key != before and cell.identity["hparams"]["v_lr"] == 123.0


def test_data_are_known_by_what_they_say_and_not_by_their_path(grid, tmp_path, monkeypatch):
    records = study.run(grid, store=tmp_path / "s", show=False)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "renamed.json"
    os.rename(grid["dataset"], moved)
    with monkeypatch.context() as patched:
        patched.setattr(work, "run_cell", lambda *a: pytest.fail("a cell was run again since its data were moved"))
        again = study.run({**grid, "dataset": str(moved)}, store=tmp_path / "s", show=False)
    pd.testing.assert_frame_equal(records.assign(dataset=str(moved)), again)
    split = load_split(str(moved), n_forget=1, seed=0)
    assert set(again[again.set == "forget"]["id"]) == {qa.id for qa in split.forget}  # the draw is the same as well
    before = {cell.key for cell in study.cells({**grid, "dataset": str(moved)})}
    moved.write_text(json.dumps([{**row, "answer": row["answer"].replace("Lima", "Cusco")} for row in OWN_ROWS]))
    assert not before & {cell.key for cell in study.cells({**grid, "dataset": str(moved)})}


def test_a_local_model_is_known_by_its_weights(grid, tmp_path):
    one, other, moved = (tmp_path / name for name in ("one", "other", "moved"))
    for folder, scale in ((one, 1.0), (other, 2.0)):
        model = make_model()
        model.model.norm.weight.data *= scale
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    key = lambda **fields: study.Cell(**{"dataset": "factual", "method": "base", "n_forget": 2, **fields}).key  # noqa: E731
    before, tuned = key(model=str(one)), key(model="pocket", checkpoint=str(one))
    shutil.copytree(one, moved)
    assert key(model=str(moved)) == before and key(model="pocket", checkpoint=str(moved)) == tuned
    assert str(tmp_path.name) not in before
    shutil.copy(other / "model.safetensors", one)
    assert key(model=str(one)) != before and key(model="pocket", checkpoint=str(one)) != tuned


def test_a_model_on_the_hub_is_known_by_its_commit(monkeypatch, caplog):
    cell, info = study.Cell("some/model", "factual", "base", 2), type("Info", (), {"sha": "a" * 40})
    unknown = cell.identity
    assert unknown["weights"] is None and len(caplog.records) == 1 and "some/model" in caplog.text
    assert cell.identity == unknown and len(caplog.records) == 1  # told once
    monkeypatch.setattr(cell_module.huggingface_hub.HfApi, "model_info", lambda *a, **k: info)
    cell_module._commit.cache_clear()
    assert cell.identity["weights"] == "a" * 40
    cell_module._commit.cache_clear()


def test_refusals_count_where_they_are_the_targets(monkeypatch):
    usual = {"model": "pocket", "dataset": "factual", "n_forget": 2}
    chosen = study.cells(
        [{**usual, "method": ["base", *METHODS]}, {**usual, "method": "rome", "targets": "self-improved"}]
    )
    before = [cell.key for cell in chosen]
    monkeypatch.setattr(cell_module, "refusals", lambda: ("I would rather not say.",))
    changed = {(cell.method, cell.targets) for cell, key in zip(chosen, before, strict=True) if cell.key != key}
    assert changed == {(name, "refusal") for name, method in METHODS.items() if method.refuses}


def test_a_dtype_belongs_to_a_cell(monkeypatch):
    grid = {"model": "pocket", "dataset": "factual", "method": "base", "n_forget": 2}
    (cell,), (half,) = study.cells(grid, device="cpu"), study.cells(grid, device="cpu", dtype="bfloat16")
    assert cell.dtype == "float32" and "dtype" not in cell.identity["cell"] and half.key != cell.key
    assert study.columns(cell) == study.columns(half)
    assert study.cells(grid, device="cuda:0")[0].dtype == "bfloat16"  # as the checkpoint has it
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'bfloat16'"):
        study.cells(grid, dtype="bfloat")


def test_a_store_of_an_older_version_is_named_and_left_alone(grid, tmp_path, caplog):
    old = tmp_path / "s" / "pocket-own.json-base-n1-m1-s0-0123456789.json"
    old.parent.mkdir()
    old.write_text(json.dumps({"cell": {}, "info": {"schema": 2}, "records": {"id": []}}))
    before = old.read_bytes()
    assert len(study.run({**grid, "method": "base"}, store=tmp_path / "s", show=False))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "1 cells" in warning and old.name in warning and "another store" in warning
    assert old.read_bytes() == before and len(list(old.parent.iterdir())) == 2
    assert len(study.load_results(study.export(tmp_path / "s", tmp_path / "out.parquet"))) and old.exists()


def test_a_results_file_of_an_older_version_can_be_read_but_not_gone_on_from(grid, tmp_path):
    study.run({**grid, "method": "base"}, store=tmp_path / "s", show=False)
    file = study.export(tmp_path / "s", tmp_path / "old.parquet")
    documents = study.manifest(file)
    for document in documents:
        document["schema"] = 2
        del document["identity"]
    file.with_suffix(".json").write_text(json.dumps(documents))
    assert len(study.load_results(file)) and study.manifest_commits(file)
    with pytest.raises(eu.StoreError, match="schema 2.*new store"):
        study.adopt(file, tmp_path / "t")


def test_a_reference_is_registered_by_who_makes_it(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(cell_module, "REFERENCES", dict(study.REFERENCES))
    monkeypatch.setattr(work, "REFERENCES", cell_module.REFERENCES)

    def nothing(model, split):
        (name, weight), *_ = model.named_parameters()
        shapes = {n: list(p.shape) for n, p in model.named_parameters()}
        return Patch({name + DENSE: -weight.detach()}, {"log": [], "seconds": 1.0}, fingerprint(model), shapes)

    study.register_reference("nothing", nothing, models=("pocket",))
    records = study.run({**grid, "method": ["base", "nothing"]}, store=tmp_path, show=False)
    outputs = records.groupby("method").output.apply(list)
    assert outputs["base"] != outputs["nothing"]
    assert not study.cells({**grid, "dataset": "contracts", "method": "nothing"})  # other weights are loaded there


def test_a_choice_of_covariance_is_a_cell_of_the_methods_that_read_one():
    found = study.cells(
        {
            "model": "pocket",
            "dataset": "factual",
            "method": ["base", "ga", "grace", "memit", "rome"],
            "n_forget": 4,
            "covariance": ["default", "corpus"],
        }
    )
    assert [c.method for c in found if c.covariance == "corpus"] == ["memit", "rome"]
    assert len({c.key for c in found}) == len(found) == 7
    assert {study.columns(c)["covariance"] for c in found} == {"default", "corpus"}
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'corpus'"):
        study.cells({"model": "pocket", "dataset": "factual", "method": "memit", "n_forget": 4, "covariance": "corpsu"})


def test_the_manifest_says_how_many_edits_took_and_what_they_cost(tmp_path):
    rome = {"model": "pocket", "dataset": "factual", "method": "rome", "n_forget": 40, "covariance": "corpus"}
    patch = {"took": 0.5, "seconds": 2.0, "nbytes": 5e6}
    cells = [{"cell": rome | {"seed": seed}, "patch": patch | {"took": took}} for seed, took in enumerate((0.5, 1.0))]
    cells += [
        {"cell": rome | other, "patch": patch}
        for other in ({"merge": 2}, {"targets": "self-improved"}, {"protocol": "attacks"})
    ]
    cells += [
        {"cell": rome | {"method": "base", "covariance": "default"}, "patch": {"nbytes": None}}
    ]  # no patch: no row
    (tmp_path / "r.json").write_text(json.dumps(cells))
    (row,) = study.manifest_table(tmp_path / "r.parquet").to_dict("records")
    assert row == {
        "dataset": "factual",
        "n_forget": 40,
        "method": "rome",
        "covariance": "corpus",
        "edits that took": 0.75,
        "seconds": 2.0,
        "MB": 5.0,
    }


@pytest.mark.skipif(RESULTS is None, reason="no committed results yet")
def test_the_committed_results_are_complete_and_small():
    file = RESULTS
    assert file.stat().st_size + file.with_suffix(".json").stat().st_size <= 5_000_000
    frame = study.load_results(file)
    wanted = {(c.dataset, c.method, c.n_forget, c.seed) for c in study.cells(study.rq1_grid())}
    there = set(map(tuple, frame[["dataset", "method", "n_forget", "seed"]].drop_duplicates().to_numpy().tolist()))
    without = {cell[1] for cell in wanted - there}  # methods that are younger than the results: whole, or not at all
    assert {cell for cell in wanted if cell[1] not in without} <= there and not without & {cell[1] for cell in there}
    assert len(without) <= 2
    assert (frame.schema == study.SCHEMA).all()


# ---------------------------------------------------------------- choosing and joining cells


def frame_of(*cells: dict) -> pd.DataFrame:
    usual = {"model": "pocket", "dataset": "factual", "n_forget": 40, "seed": 0, "method": "memit"}
    return pd.DataFrame([study.columns(study.Cell(**usual | cell)) | {"set": "forget", "id": "x"} for cell in cells])


def test_select_keeps_the_plain_cells_unless_told_otherwise():
    frame = frame_of(
        {},
        {"seed": 1},
        {"n_forget": 20},
        {"merge": 2},
        {"targets": "self-improved"},
        {"mode": "sequential"},
        {"covariance": "corpus"},
        {"fact_token": "prompt_last"},
        {"protocol": "attacks"},
        {"method": "base"},
    )
    assert study.select(frame, dataset="factual", n_forget=40).index.tolist() == [0, 1, 9]
    assert study.select(frame, merge=[1, 2], method="memit", n_forget=40).index.tolist() == [0, 1, 3]
    assert study.select(frame, mode="sequential").index.tolist() == [5]
    assert study.select(frame, protocol="attacks").index.tolist() == [8]


def test_join_prefers_what_was_run_live():
    live = frame_of({}, {"seed": 1}).assign(output="live")
    committed = frame_of({}, {"merge": 2}).assign(output="committed")
    records, fresh, rest = study.join(live, committed)
    assert (fresh, rest) == (2, 1) and records.output.tolist() == ["live", "live", "committed"]
    assert study.join(live, committed.iloc[:0])[1:] == (2, 0)


def test_distances_of_retained_questions():
    split = load_split("factual", n_forget=40, seed=0)
    subjects, groups = {qa.subject for qa in split.forget}, {qa.group for qa in split.forget}
    rows = pd.DataFrame([{"dataset": "factual", "n_forget": 40, "seed": 0, "id": qa.id} for qa in split.retain])
    by_id = {qa.id: qa for qa in split.retain}
    for row in study.distances(rows).itertuples():
        qa = by_id[row.id]
        wanted = (
            "same subject or party" if qa.subject in subjects else "same relation" if qa.group in groups else "distant"
        )
        assert row.distance == wanted
    contracts = load_split("contracts", n_forget=20, seed=0)
    rows = pd.DataFrame([{"dataset": "contracts", "n_forget": 20, "seed": 0, "id": qa.id} for qa in contracts.retain])
    found = study.distances(rows)
    assert set(found[found.distance == "same subject or party"].id) == contracts.same_party
    assert set(found.distance) == {"same subject or party", "distant"}


def test_attack_cells_are_stored_like_others(tmp_path):
    records = study.run(
        {"model": "pocket", "dataset": "factual", "method": "base", "n_forget": 4, "seed": 0, "protocol": "attacks"},
        store=tmp_path,
    )
    assert set(records.attack) == set(attacks.ATTACKS) and (records.protocol == "attacks").all()
    assert study.export(tmp_path, tmp_path / "out.parquet").exists()
    loaded = study.load_results(tmp_path / "out.parquet")
    assert len(loaded) == len(records)
    shown = summarise(loaded, by=("method", "attack"))
    assert shown.rouge1_recall.notna().all() and "mrr" not in shown


def test_notes_of_stored_cells_come_before_those_of_a_results_file(grid, tmp_path):
    (cell,) = study.cells(grid | {"method": "idk"})
    other = dataclasses.asdict(cell) | {"seed": 7}
    documents = [{"cell": c, "patch": {"seconds": -1.0, "took": None}} for c in (dataclasses.asdict(cell), other)]
    (tmp_path / "r.json").write_text(json.dumps(documents))
    study.run(grid | {"method": "idk"}, store=tmp_path / "store", show=False)
    noted = dict(study.notes(tmp_path / "store", [cell], tmp_path / "r.parquet"))
    assert set(noted) == {cell, dataclasses.replace(cell, seed=7)}
    assert noted[cell]["seconds"] > 0 and noted[dataclasses.replace(cell, seed=7)]["seconds"] == -1.0
    assert len(study.notes(tmp_path / "store", [cell])) == 1


@pytest.mark.parametrize(
    ("commits", "text"),
    [
        ("a", "commit a"),
        ("ba", "commits a, b"),
        ("cab", "commits a, b, c"),
        ("dbcae", "commits a, b and 3 more, listed in r.json"),
    ],
)
def test_many_commits_are_a_number(tmp_path, commits, text):
    (tmp_path / "r.json").write_text(json.dumps([{"commit": c} for c in commits + commits]))
    assert study.manifest_commits(tmp_path / "r.parquet") == text


def test_forget_sets_are_counted_cell_by_cell():
    cell = {**dict.fromkeys(study.KEYS, "x"), "merge": 1}
    rows = [{**cell, "method": m, "seed": seed} for m, seeds in {"ga": (0, 1, 2), "gd": (0,)}.items() for seed in seeds]
    records = pd.DataFrame(rows * 2)  # several questions a cell
    assert study.forget_sets(records) == "1 to 3"
    assert study.forget_sets(records[records.method == "ga"]) == "3"
