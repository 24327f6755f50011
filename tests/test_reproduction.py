"""The paper's tables beside runs: what matches, what is listed as left out, and how agreement is counted."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

import editunlearn_lib as eu
from book.paper import reproduction, reproduction_page
from editunlearn_lib import study


@pytest.fixture(scope="module")
def paper():
    return eu.paper_tables()


def made_up(method: str, *, value: float, dataset="factual", n_forget=40, seed=0, **cell) -> pd.DataFrame:
    """Records as study.run gives them, of a model that does not exist: nothing here was measured."""
    known = study.Cell("made-up", dataset, method, n_forget, seed=seed, **cell)
    rows = []
    for which, i in itertools.product(("forget", "rephrased", "retain", "unseen"), range(4)):
        rows.append(
            {
                **study.columns(known),
                "set": which,
                "id": f"{which}{i}",
                "variant": 0,
                "output": "",
                "same_party": False,
                "rouge1_recall": value,
                "probability": 0.1,
                "mrr": 0.2,
                "hit_rate": 0.3,
                "pistol_confidence": 0.4,
            }
        )
    return pd.DataFrame(rows)


def test_a_cell_stands_beside_the_one_of_the_same_data_size_merging_and_target(paper):
    runs = pd.concat(
        [
            made_up("memit", value=0.1),
            made_up("memit", value=0.3, seed=1),
            made_up("memit", value=0.5, n_forget=80, merge=5),
            made_up("wise", value=0.6, n_forget=20, targets="self-improved"),
            made_up("gd", value=0.7, dataset="contracts", n_forget=20),
        ]
    )
    summary, left_out = reproduction.match(runs, paper)
    assert left_out.empty
    assert set(summary["set"]) == {"forget", "rephrased", "retain"}  # the paper has no unseen set
    columns = reproduction.run_columns({"mine": summary})
    assert list(columns) == ["mine: made-up"]

    def value(table, **key):
        frame = reproduction.beside(paper, columns, table)
        for name, wanted in key.items():
            frame = frame[frame[name] == wanted]
        assert len(frame) == 1
        return frame.iloc[0]

    one = value("table1", dataset="factual", method="memit", set="forget")
    assert one["mine: made-up"] == pytest.approx(0.2) and one["mine: made-up forget sets"] == 2  # two forget sets
    assert one["paper: Llama2-7B"] == 0.02 and pd.isna(one["paper: Mistral-7B"])  # a dash in the paper
    assert value("table1", dataset="pistol", method="gd", set="retain")["mine: made-up"] == 0.7
    assert value("table2", method="memit")["mine: made-up"] == pytest.approx(0.2)
    assert value("table6", stage="self-improved", method="wise", set="rephrased")["mine: made-up"] == 0.6
    assert pd.isna(value("table6", stage="vanilla", method="wise", set="rephrased")["mine: made-up"])
    assert value("table7", merge=5, method="memit", set="retain")["mine: made-up"] == 0.5
    confidence = reproduction.beside(paper, columns, "table1", "confidence")
    assert confidence["mine: made-up"].dropna().eq(0.4).all() and confidence["paper: Llama2-7B"].iloc[0] == 0.59


def test_what_matches_nothing_is_listed_with_the_reason(paper):
    runs = pd.concat(
        [
            made_up("base", value=1),
            made_up("idk", value=1),
            made_up("memit", value=1, n_forget=30),
            made_up("memit", value=1, mode="sequential"),
            made_up("memit", value=1, covariance="corpus"),
            made_up("memit", value=1, protocol="attacks"),
            made_up("memit", value=1, dataset="own.csv"),
            made_up("ga", value=1, n_forget=100),  # Table 5 has no GA at 100
        ]
    )
    summary, left_out = reproduction.match(runs, paper)
    assert summary.empty and len(left_out) == 8
    for part in (
        "before unlearning",
        "a method that",
        "size, merging or target",
        "another mode (sequential)",
        "covariance",
        "attacks",
        "a data set",
    ):
        assert left_out["why"].str.contains(part, regex=False).any(), part
    columns = reproduction.run_columns({"mine": summary})
    assert columns == {} and reproduction.agreement(paper, columns).empty
    assert (
        "0.30" in reproduction_page.table_beside_runs(paper, columns, "table1", provenance="p").html
    )  # the paper alone


def test_the_official_data_and_ours_of_one_kind_get_a_column_each(paper):
    runs = pd.concat([made_up("gd", value=0.1), made_up("gd", value=0.9, dataset="tofu-facts")])
    columns = reproduction.run_columns({"mine": reproduction.match(runs, paper)[0]})
    assert list(columns) == ["mine: made-up, factual", "mine: made-up, tofu-facts"]
    frame = reproduction.beside(paper, columns, "table1")
    row = frame[(frame["method"] == "gd") & (frame["set"] == "forget") & (frame["dataset"] == "factual")].iloc[0]
    assert (row["mine: made-up, factual"], row["mine: made-up, tofu-facts"]) == (0.1, 0.9)


def test_every_printed_value_is_in_some_view(paper):
    for name in reproduction.TABLES:
        seen = 0
        for view, (_, metric, _) in reproduction.VIEWS.items():
            if view == "confidence":  # the same column of the paper as "formula"
                continue
            frame = reproduction.beside(paper, {}, name, view)
            seen += int(frame.filter(like="paper: ").notna().to_numpy().sum())
            assert not frame.duplicated([*reproduction.CELL, "set"]).any()
            assert metric in set(paper["metric"])
        assert seen == (paper["table"] == name).sum(), name


def test_rank_agreement_by_hand():
    assert reproduction.rank_agreement([1, 2, 3, 4], [10, 20, 30, 40])[0] == pytest.approx(1)
    assert reproduction.rank_agreement([1, 2, 3, 4], [4, 3, 2, 1])[0] == pytest.approx(-1)
    # ranks 1 2 3 4 and 2 1 4 3: rho = 1 - 6 * 4 / (4 * 15) = 0.6; of 24 orders 5 have at least 0.6 (1, three of .8, .6
    # …)
    rho, p = reproduction.rank_agreement([1, 2, 3, 4], [2, 1, 4, 3])
    assert rho == pytest.approx(0.6)
    ideal = [np.corrcoef([1, 2, 3, 4], order)[0, 1] for order in itertools.permutations([1, 2, 3, 4])]
    assert p == pytest.approx(np.mean([r >= 0.6 - 1e-9 for r in ideal]), abs=0.02)
    assert np.isnan(reproduction.rank_agreement([1, 1, 1, 1], [1, 2, 3, 4])[0])


def test_agreement_is_full_with_the_papers_own_order_and_reversed_with_its_opposite(paper):
    def run(sign):
        one = paper[(paper["table"] == "table1") & (paper["dataset"] == "factual") & (paper["model"] == "Llama2-7B")]
        wide = one[one["metric"] == "rouge1_recall"].pivot(index="method", columns="set", values="value")
        score = 1 - wide["forget"] + wide["retain"]
        parts = []
        for method, s in score.items():
            records = made_up(method, value=0.0)
            retained = (s / 2) if sign > 0 else 1 - s / 2  # forget is 0, so the score's order is that of retain
            parts.append(
                records.assign(rouge1_recall=records["rouge1_recall"].mask(records["set"] == "retain", retained))
            )
        return reproduction.run_columns({"mine": reproduction.match(pd.concat(parts), paper)[0]})

    same = reproduction.agreement(paper, run(+1))
    mine = same[(same["table"] == "table1") & (same["paper"] == "Llama2-7B")].iloc[0]
    assert mine["rho"] == pytest.approx(1) and mine["n"] == 9 and mine["p"] < 0.01
    assert mine["first"] == mine["ours_first"] == "AlphaEdit"
    other = reproduction.agreement(paper, run(-1))
    assert other[(other["table"] == "table1") & (other["paper"] == "Llama2-7B")]["rho"].item() == pytest.approx(-1)


def test_a_store_that_a_study_has_just_written(paper, pocket, tmp_path):
    rows = [
        {"question": "Who painted 'Guernica'?", "answer": "Pablo Picasso", "subject": "Guernica"},
        {"question": "Who wrote 'Dracula'?", "answer": "Bram Stoker", "subject": "Dracula"},
        {"question": "What is the currency of India?", "answer": "Rupee", "subject": "India"},
        {"question": "What is the capital of Peru?", "answer": "Lima", "subject": "Peru"},
    ]
    (tmp_path / "own.json").write_text(json.dumps(rows))
    grid = {"model": "pocket", "dataset": str(tmp_path / "own.json"), "method": "base", "n_forget": 3}
    study.run(grid, store=tmp_path / "store", show=False)
    records = reproduction.read_runs(tmp_path / "store")
    assert set(records["method"]) == {"base"} and "pistol_confidence" in records
    summary, left_out = reproduction.match(records, paper)
    assert summary.empty and left_out["why"].tolist() == ["the model before unlearning: no row in the tables"]
    file = study.export(tmp_path / "store", tmp_path / "all.parquet")
    assert len(reproduction.read_runs(file)) == len(records)


def test_a_made_up_store_is_read_as_a_column(paper, tmp_path):
    for method, value in (("ga", 0.1), ("memit", 0.4)):
        cell = study.Cell("made-up", "factual", method, 40)
        study.put(tmp_path, cell, made_up(method, value=value), {"schema": study.SCHEMA, "patch": {}})
    columns = reproduction.run_columns({"yours": reproduction.match(reproduction.read_runs(tmp_path), paper)[0]})
    html = reproduction_page.table_beside_runs(paper, columns, "table1", provenance="made up").html
    assert "yours" in html and "made-up" in html and "1 set<" in html


def test_what_is_no_store_says_so(tmp_path):
    with pytest.raises(eu.StoreError, match="nowhere: no such folder or file. Give the folder"):
        reproduction.read_runs(tmp_path / "nowhere")
    with pytest.raises(eu.StoreError, match="no stored cells"):
        reproduction.read_runs(tmp_path)
    (tmp_path / "x.parquet").write_text("no parquet")
    with pytest.raises(eu.StoreError, match="x.parquet: not a parquet file"):
        reproduction.read_runs(tmp_path / "x.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(eu.StoreError, match="lacks model"):
        reproduction.read_runs(tmp_path / "y.parquet")
    (tmp_path / "z.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(eu.StoreError, match="not a stored cell"):
        reproduction.read_runs(tmp_path)


@pytest.mark.skipif(study.results_file("pocket") is None, reason="no committed results yet")
def test_the_committed_results_fill_table_1(paper):
    committed, _ = study.committed("pocket")
    part = study.select(committed, dataset=["factual", "contracts"], n_forget=[20, 40])
    columns = reproduction.run_columns({"pocket": reproduction.match(part, paper)[0]})
    frame = reproduction.beside(paper, columns, "table1")
    assert frame["pocket"].notna().all() and frame["pocket forget sets"].eq(3).all()
    mean = part[(part.dataset == "factual") & (part.n_forget == 40) & (part.method == "memit") & (part.set == "forget")]
    row = frame[(frame.dataset == "factual") & (frame.method == "memit") & (frame.set == "forget")].iloc[0]
    assert row["pocket"] == pytest.approx(mean.rouge1_recall.mean(), abs=1e-6)
    figure = reproduction_page.dots_beside_runs(paper, columns, "table1", provenance="p")
    assert [t.name for t in figure.data] == ["paper: Llama2-7B", "paper: Mistral-7B", "pocket"]
    assert len(figure.layout.updatemenus[0].buttons) == 2


def test_the_selector_works_without_a_script(paper):
    html = reproduction_page.table_beside_runs(paper, {}, "table4", provenance="p").html
    assert "<select>" in html and ":has(option[value=" in html and "<script" not in html
    assert html.count('class="eu-view"') == html.count("<option") == 4  # without runs there is no confidence to show
