"""What the pages of the research questions compute: each value worked out a second time, by hand or the long way."""

import itertools

import pandas as pd
import pytest
import torch

import editunlearn_lib as eu
from editunlearn_lib import attacks, files, stats, study
from editunlearn_lib.data import load_split
from editunlearn_lib.methods import METHODS, positions
from editunlearn_lib.recipes import query_merging
from editunlearn_lib.study import results


def rows(recalls: dict, **cell) -> pd.DataFrame:
    """Records of one cell: ``{set: recalls of its questions}``."""
    usual = {"model": "made-up", "dataset": "factual", "method": "memit", "n_forget": 2}
    known = study.Cell(**usual | cell)
    asked = [
        {"set": which, "id": f"{which}-{i}", "variant": 0, "rouge1_recall": recall, "output": str(recall)}
        for which, part in recalls.items()
        for i, recall in enumerate(part)
    ]
    return pd.DataFrame(asked).assign(**study.columns(known))


def test_committed_results_lie_in_the_project_and_not_beside_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.project() is None and study.committed("pocket")[1] == "" and study.committed("pocket")[0].empty
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_toc.yml").touch()
    assert study.results_file("pocket") is None
    folder = tmp_path / "book" / "results"
    folder.mkdir(parents=True)
    rows({"forget": [0.5]}).to_parquet(folder / "some--model.parquet")
    (folder / "some--model.json").write_text('[{"commit": "abc"}]')
    monkeypatch.chdir(tmp_path / "notebooks")  # where JupyterLab runs a notebook
    records, commits = study.committed("some/model")
    assert len(records) == 1 and commits == "commit abc"


def test_agreement_is_cell_by_cell():
    live = pd.concat([rows({"forget": [0.0, 1.0]}), rows({"forget": [1.0]}, seed=1)])
    frame = results.agreement(live, rows({"forget": [0.0, 0.5], "retain": [1.0]}))
    (row,) = frame.to_dict("records")
    assert list(row.values()) == ["factual", "memit", "forget", 0.5, 0.25, 0.5]
    assert list(row)[3:] == ["live", "committed", "outputs; identical"]
    assert results.agreement(live, rows({"forget": [1.0]}, method="rome")).empty


def test_rows_in_the_books_order():
    names = [*reversed(METHODS), "unknown", "base"]
    assert results.in_order(pd.DataFrame({"method": names})).method.tolist() == ["base", *METHODS, "unknown"]
    frame = pd.DataFrame(itertools.product(["contracts", "factual"], ["rome", "base"]), columns=["dataset", "method"])
    assert results.in_order(frame, "dataset", "method").to_numpy().tolist() == [
        [d, m] for d in ("factual", "contracts") for m in ("base", "rome")
    ]


def test_sets_become_columns():
    summary = eu.summarise(
        pd.concat([rows({"retain": [1.0], "forget": [0.0, 0.5]}), rows({"forget": [1.0]}, method="ga")])
    )
    assert list(results.by_set(summary.assign(x=1), "x")) == ["x", "forget", "retain"]


def test_scores_far_from_the_papers():
    summary = eu.summarise(
        pd.concat([rows({"forget": [0.0], "retain": [0.5]}), rows({"forget": [0.5], "retain": [1.0]}, method="rome")]),
        by=("dataset", "method", "set"),
    )
    values = {("memit", "forget"): 1.0, ("memit", "retain"): 1.0, ("rome", "forget"): 0.4, ("rome", "retain"): 0.8}
    paper = pd.DataFrame(
        [
            {"dataset": "factual", "method": m, "set": s, "metric": "rouge1_recall", "value": v}
            for (m, s), v in values.items()
        ]
    )
    (row,) = results.differences(summary, paper, 0.25).to_dict("records")
    assert (row["method"], row["score"], row["paper"]) == ("memit", 1.5, 1.0)
    assert results.differences(summary, paper, 0.05).method.tolist() == ["memit", "rome"]  # the widest first
    assert set(results.both_kinds(paper).dataset) == {"factual", "tofu-facts"}
    assert results.both_kinds(paper.replace("factual", "pistol")).dataset.unique().tolist() == ["pistol", "contracts"]
    assert results.beside(summary, paper[paper.method == "rome"]).method.unique().tolist() == ["rome"]


def test_outcomes_are_per_cent_of_the_forgotten():
    frame = rows({"forget": [0, 0, 0, 1], "retain": [1]})
    frame["outcome"] = ["refusal", "refusal", "garbled", "correct", "other answer"]
    (row,) = results.outcomes(frame).to_dict("records")
    assert row == {"dataset": "factual", "method": "memit", "correct; %": 25, "refusal; %": 50, "garbled; %": 25}


def test_what_rephrasing_brings_back():
    parts = [rows({"forget": [0.0], "rephrased": [r]}, method=m) for m, r in (("base", 1.0), ("ga", 0.2), ("gd", 0.3))]
    summary = eu.summarise(pd.concat(parts), by=("dataset", "method", "set"))
    assert results.regained(summary, 0.25).method.tolist() == ["gd"]
    assert results.regained(summary[summary.set == "forget"], 0.25).empty


def test_points_have_the_score_as_their_mean():
    frame = pd.concat(
        [rows({"forget": [0.1, 0.3], "retain": [0.9] * 7 + [0.2], "unseen": [0.0]}, seed=s) for s in (0, 1)]
    )
    points = results.with_points(frame, "method")
    score = 1 - frame[frame.set == "forget"].rouge1_recall.mean() + frame[frame.set == "retain"].rouge1_recall.mean()
    assert points.points.mean() == pytest.approx(score)


def test_the_best_is_tested_against_each_other_and_no_reference():
    made = {"ga": (0.0, 0.1), "memit": (0.0, 0.9), "rome": (0.1, 0.9), "base": (0.0, 1.0)}
    parts = [
        rows({"forget": [f] * 20, "retain": [r] * 30}, method=m, seed=s) for m, (f, r) in made.items() for s in (0, 1)
    ]
    tests = results.best_tested(pd.concat(parts))
    assert tests[["dataset", "a", "b"]].to_numpy().tolist() == [["factual", "memit", m] for m in ("rome", "ga")]
    assert tests.mean_a.tolist() == pytest.approx([1.9, 1.9]) and tests.mean_b.tolist() == pytest.approx([1.8, 1.1])
    assert (tests.p_holm < results.CLEAR).all()
    assert results.best_tested(parts[0]).empty and results.best_tested(parts[0].iloc[:0]).empty


def attacked() -> pd.DataFrame:
    recalls = {
        "ga": {"plain": 0.1, "prefill": 0.4, "relearn": 0.9},
        "memit": {"plain": 0.6, "prefill": 0.9, "relearn": 0.9},
    }
    recalls["base"] = dict.fromkeys(recalls["ga"], 1.0)
    parts = [
        rows({"forget": [recall]}, method=m, protocol="attacks").assign(attack=a)
        for m, by_attack in recalls.items()
        for a, recall in reversed(by_attack.items())
    ]
    return pd.concat(parts)


def test_what_attacks_bring_back():
    assert {"plain", "prefill", "relearn"} <= set(attacks.ATTACKS)
    summary = results.recovered(attacked())
    assert summary.method.unique().tolist() == ["base", "ga", "memit"]
    assert summary.attack.tolist()[:3] == [a for a in attacks.ATTACKS if a in ("plain", "prefill", "relearn")]
    (row,) = results.strongest(summary).to_dict("records")  # MEMIT had not forgotten half, base is no method
    assert row == {"dataset": "factual", "method": "ga", "plain": 0.1, "attack": "relearn", "recall": 0.9, "gain": 0.8}
    wide = results.attack_table(summary).set_index("method")
    assert wide.loc["ga", ["plain", "plain_low", "plain_high", "relearn"]].tolist() == [0.1, 0.1, 0.1, 0.9]


def test_recall_by_distance_with_the_number_of_questions():
    split = load_split("factual", n_forget=40, seed=0)
    frame = pd.DataFrame([{"id": qa.id, "rouge1_recall": 1.0} for qa in split.retain])
    frame = frame.assign(dataset="factual", n_forget=40, seed=0, method="ga")
    (row,) = results.by_distance(frame).to_dict("records")
    counts = results.distances(frame).distance.value_counts()
    assert {name: row[name] for name in results.NEAR if name in row} == {n: f"1.00 ({c})" for n, c in counts.items()}


def test_templates_that_stood_in():
    cell = {"model": "pocket", "dataset": "factual", "method": "rome", "n_forget": 20, "targets": "self-improved"}
    noted = [(study.Cell(**cell, seed=seed), {"targets": {"fallbacks": 3 - seed}}) for seed in (1, 0)]
    noted += [(study.Cell(**cell | {"method": "memit"}, seed=0), {"targets": {"fallbacks": 3}})]  # the same texts
    noted += [(study.Cell(**cell | {"targets": "refusal"}), {"targets": {}})]
    frame = results.fallbacks(noted)
    assert frame[["forget set", "template instead"]].to_numpy().tolist() == [[0, 3], [1, 2]]


def test_self_improvement_is_tested_pairwise_with_holm_over_all_rows():
    before, after = [0.9] * 12, [0.1] * 12
    both = pd.concat(
        [
            rows({"forget": before, "retain": before}),
            rows({"forget": after, "retain": before}, targets="self-improved"),
            rows({"forget": before}, method="rome"),  # was run towards one kind only
        ]
    )
    chosen = results.both_targets(both, {"factual": 2})
    assert set(chosen.method) == {"memit"} and chosen.targets.tolist()[:24] == ["refusal"] * 24
    frame = results.improvement(chosen)
    assert frame.set.tolist() == ["forget", "retain"] and frame.difference.tolist() == pytest.approx([-0.8, 0.0])
    assert frame.p_holm.tolist() == stats.holm(frame.p) and frame.p_holm[0] < 0.01 < frame.p_holm[1]
    assert results.improvement(chosen[chosen.targets == "refusal"]).empty


def test_people_and_rules():
    output = {"method": "memit", "targets": "refusal"}
    judged = pd.DataFrame(
        [{**output, "id": i, "output": i, "gone": i != "c", "points": n} for n, i in enumerate("abc")]
    )
    people = judged[["method", "targets", "id", "output"]].assign(
        showing=1, forget_quality=[1, 1, 1], entailment=[1, 2, 3], trustworthiness=[3, 2, 1]
    )
    (row,) = results.people_and_rules(pd.concat([people, people.assign(showing=2)]), judged).to_dict("records")
    assert row["rated outputs"] == 3 and row["gone: rule and rater agree"] == pytest.approx(2 / 3)
    assert row["points ~ entailment"] == pytest.approx(1) and row["points ~ trustworthiness"] == pytest.approx(-1)
    assert results.people_and_rules(people.assign(output="?"), judged).empty


def test_merging_is_scored_and_tested_against_no_merging():
    made = {1: (0.1, 0.9), 2: (0.1, 0.5), 4: (0.0, 0.95)}
    parts = [rows({"forget": [f] * 16, "retain": [r] * 16}, n_forget=16, merge=m) for m, (f, r) in made.items()]
    frame = results.merge_scores(pd.concat(parts))
    assert frame.m.tolist() == [1, 2, 4] and frame.score.tolist() == pytest.approx([1.8, 1.4, 1.95])
    assert frame.m[frame.better].tolist() == [4] and frame.m[frame.worse].tolist() == [2]
    alone = results.merge_scores(parts[1])
    assert alone.m.tolist() == [2] and not alone.better.any()


def test_costs_and_places_of_merged_edits():
    split = load_split("factual", n_forget=5, seed=0)
    frame = rows({"forget": [0.0] * 5}, n_forget=5, merge=2)
    last = {split.forget[i].id for i in (1, 3, 4)}  # two groups of two, and one of one
    frame["id"] = [qa.id for qa in split.forget]
    frame["rouge1_recall"] = [0.0 if i in last else 1.0 for i in frame["id"]]
    cell = study.Cell("made-up", "factual", "memit", 5, merge=2)
    patch = {"seconds": 3.0, "nbytes": 2e6, "took": 0.5}
    noted = [(cell, patch), (study.Cell("made-up", "factual", "memit", 6, merge=2), patch)]
    noted += [(study.Cell("made-up", "factual", "memit", 5, merge=2, fact_token="prompt_last"), patch)]
    costs = results.merge_costs(noted, frame)
    assert costs.to_dict("records") == [
        {"method": "memit", "m": 2, "seed": 0, "edits": 3, "seconds": 3.0, "MB": 2.0, "took": 0.5}
    ]
    (row,) = results.by_place(frame, costs).to_dict("records")
    assert row == {"method": "memit", "m": 2, "the last": 0.0, "the others": 1.0, "took": 0.5}
    assert results.by_place(frame.assign(merge=1), costs).empty


def test_cosines_of_merged_keys(tiny):
    """Read once more by the library's other way to a key: of each question alone, and of each pair."""
    model, tokenizer = tiny
    split = load_split("factual", n_forget=5, seed=0)

    def key(group):
        requests = query_merging.merge_requests(group, ["x"], len(group))
        return positions.request_keys(model, tokenizer, requests, 1, ["{}"], "chat", "subject_last")[0, 0]

    alone = torch.stack([key([qa]) for qa in split.forget])
    mean, pairs = alone.mean(0), [split.forget[start : start + 2] for start in (0, 2, 4)]  # the last of them has one
    near = [
        torch.cosine_similarity(alone[i] - mean, key(pair) - mean, dim=0)
        for i, pair in zip((1, 3, 4), pairs, strict=True)
    ]
    far = [
        torch.cosine_similarity(alone[i] - mean, key(pair) - mean, dim=0)
        for i, pair in zip((0, 2), pairs, strict=False)
    ]
    frame = query_merging.key_cosines(model, tokenizer, split, 1, (2, 5)).set_index("compared").cosine
    assert len(frame) == 6 and frame.index[0] == "the same question in other words"
    assert frame["m = 2: the merged text and its last question"] == pytest.approx(sum(near).item() / 3, abs=1e-5)
    assert frame["m = 2: the merged text and its other questions"] == pytest.approx(sum(far).item() / 2, abs=1e-5)
    own = eu.ForgetSplit("own", split.forget, ())  # without rephrasings there is no such row
    assert query_merging.key_cosines(model, tokenizer, own, 1, (2,)).compared[0] == "another forgotten question"
