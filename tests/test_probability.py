"""What notebooks say of the column "Prob.", of places and of how far two patches lie apart: worked out by hand."""

import pandas as pd
import pytest
import torch

import editunlearn_lib as eu
from book.paper import figures, probability
from notebooks.lessons import changes

TABLES = eu.paper_tables()


@pytest.fixture
def run() -> pd.DataFrame:
    """Two outputs of a set and method of a model that does not exist: nothing here was measured."""
    product = {
        ("base", "forget"): (0.9, 0.7),
        ("base", "retain"): (0.8, 0.8),
        ("memit", "forget"): (0.1, 0.3),
        ("memit", "retain"): (0.6, 0.4),
        ("ga", "forget"): (0.5, 0.3),
        ("ga", "retain"): (0.5, 0.31),
        ("ga", "unseen"): (1.0, 1.0),  # not looked at
    }
    rows = [(m, which, p) for (m, which), pair in product.items() for p in pair]
    frame = pd.DataFrame(rows, columns=["method", "set", "probability"])
    frame["pistol_confidence"] = frame["probability"].where(frame["set"] == "unseen", 0.6)
    frame["mrr_teacher_forced"] = frame["probability"].where(frame["probability"] != 0.9, 0.5)
    return frame.assign(probability_per_token=0.9, rouge1_recall=0.25)


def test_the_measures_stand_side_by_side(run):
    parts = probability.measures(run, TABLES, "factual")
    frame = probability.columns(parts)
    assert list(frame)[:7] == [
        "method",
        *(f"{n}; {s}" for n in ("product", "code", "paper") for s in ("forget", "retain")),
    ]
    assert frame["method"].tolist() == ["Base model", "GA", "MEMIT"]  # the book's order
    assert frame["product; forget"].tolist() == pytest.approx([0.8, 0.4, 0.2])
    assert frame["product; retain"].tolist() == pytest.approx([0.8, 0.405, 0.5])
    assert pd.isna(frame["paper; forget"][0]) and frame["paper; forget"][1] == 0.59  # as Table 1 has it for GA


def test_what_unlearning_does_to_a_measure(run):
    product, code, *_ = probability.measures(run, TABLES, "factual").values()
    assert probability.gap(product) == pytest.approx((0.3 + 0.005) / 2) and probability.gap(code) == 0
    assert probability.fall(product).to_dict() == pytest.approx({"ga": 0.4, "memit": 0.6})
    assert probability.fall(product.drop("base")).to_dict() == pytest.approx({"ga": 0.005, "memit": 0.3})
    assert probability.no_less(product) == 1 and probability.no_less(code) == 2  # GA's forget set is within 0.01
    assert probability.below_mrr(run) == pytest.approx(11 / 12)  # 0.9 stands above 0.5


def test_the_papers_column_is_that_of_its_data_of_the_same_kind():
    facts, contracts = probability.table1(TABLES, "tofu-facts"), probability.table1(TABLES, "contracts")
    assert facts.loc["Llama2-7B"].equals(probability.table1(TABLES, "own.csv").loc["Llama2-7B"])
    assert contracts.equals(probability.table1(TABLES, "pistol")) and not contracts.equals(facts)
    rouge = probability.table1(TABLES, "factual", "rouge1_recall").loc[("Llama2-7B", "wise")]
    assert rouge.to_dict() == {"forget": 0.28, "retain": 0.76}
    by_hand = [abs(r["retain"] - r["forget"]) for _, r in contracts.iterrows() if not r.isna().any()]
    assert probability.gap(contracts) == pytest.approx(sum(by_hand) / len(by_hand))


def test_who_comes_first_and_who_is_where():
    rows = [
        ("x", "ga", 1.0),
        ("x", "gd", 1.5),
        ("x", "rome", 1.2),
        ("y", "ga", 1.4),
        ("y", "gd", 1.1),
        ("y", "rome", None),
    ]
    scores = pd.DataFrame(rows, columns=["dataset", "method", "score"])
    assert figures.leaders(scores)["method"].tolist() == ["gd", "ga"]
    assert figures.places(scores).to_dict("index") == {"ga": {"best": 1, "worst": 3}, "gd": {"best": 1, "worst": 2}}


def test_how_far_two_changes_lie_apart():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])
    assert changes.distance(a, b) == pytest.approx(4 / 3) and changes.cosine(a, b) == pytest.approx(0.6)
    assert changes.distance(b, b) == 0 and changes.cosine(b, b) == pytest.approx(1)


def test_a_change_is_what_the_patch_adds(pocket):
    model, tokenizer = pocket
    split = eu.load_split("factual", n_forget=2, seed=0)
    patch = eu.unlearn(model, tokenizer, split, "ga", progress=False)
    change = changes.change(patch)
    assert change.dtype == torch.float64 and change.norm() > 0
    assert change.numel() == sum(model.get_parameter(name).numel() for name in patch.parameters)
