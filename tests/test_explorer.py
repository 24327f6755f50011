"""The linked views and the lab: what they hold, and what the lab does. Driving them in a browser: test_pages.py."""

import json
import re

import pandas as pd
import pytest
from sample_records import ATTACK, paper, records, summary

import editunlearn_lib as eu
from editunlearn_lib import show
from editunlearn_lib.live import Lab, lab


def merged() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A summary and records over m, made up: the sample's rows with a shifted value."""
    few = summary().query("dataset == 'factual' and method in ['rome', 'memit']")
    rows = records().query("dataset == 'factual' and method in ['rome', 'memit']")
    return (
        pd.concat([few.assign(merge=m, rouge1_recall=(few.rouge1_recall + m / 20) % 1) for m in (1, 2, 5)]),
        pd.concat([rows.assign(merge=m, output=rows.output + f" at {m}") for m in (1, 2, 5)]),
    )


def data_of(html: str) -> list[dict]:
    return [json.loads(t) for t in re.findall(r'<script type="application/json">(.*?)</script>', html)]


def test_linked_holds_every_part_and_names_them_alike():
    view = show.linked(summary(), records(), paper(), provenance="made up", caption="All", name="x")
    about = data_of(view.html)[-1]
    assert about["datasets"] == ["factual", "contracts"]
    methods = [m for m, _ in about["methods"]]
    assert set(methods) == set(summary().method)
    assert view.html.count('class="eu eu-figure"') == 2
    for name in methods:
        assert f'<tr data-method="{name}">' in view.html
    for name in ("x-radar", "x-dots", "x-table", "x-outputs"):
        assert f'download="{name}.csv"' in view.html
    assert "made up" in view.text and "ROUGE-1" in view.text


def test_the_papers_layer_of_the_radar_is_its_values_and_off_at_first():
    figure = data_of(show.linked(summary(), records(), paper(), provenance="-", caption="-").html)[0]
    layer = {t["meta"]: t for t in figure["data"]}
    theirs = paper().query("dataset == 'factual' and metric == 'rouge1_recall'").set_index(["method", "set"]).value
    method = theirs.index[0][0]
    trace = layer[f"paper {method}"]
    assert trace["visible"] is False and trace["showlegend"] is False
    assert trace["r"][0] == pytest.approx(1 - theirs[method, "forget"], abs=1e-4)
    assert trace["r"][1] == pytest.approx(theirs[method, "retain"], abs=1e-4)
    assert "paper base" in layer and layer["paper base"]["r"] == [None] * 4


def test_stops_has_one_part_a_method_and_value_with_its_own_outputs():
    numbers, said = merged()
    view = show.stops(
        numbers,
        said,
        "merge",
        provenance="made up",
        title="T",
        reading="R",
        label="m",
        cost={("memit", 2): "7 edits"},
        name="s",
    )
    parts = re.findall(r'data-group="(\w+)" data-stop="(\d)"', view.html)
    assert parts == [(m, v) for m in ("rome", "memit") for v in "125"]
    stop = view.html.split('data-group="memit" data-stop="2"')[1].split("</details>")[0]
    assert "7 edits" in stop and "at 2" in stop and "at 5" not in stop
    value = numbers.query("method == 'memit' and merge == 2 and set == 'retain'").rouge1_recall.iloc[0]
    assert f"--v:{100 * round(value, 4):.1f}%" in stop and f"{value:.2f}" in stop
    assert data_of(view.html)[-1]["stops"] == [1, 2, 5]


def test_outputs_are_escaped():
    numbers, said = merged()
    said = said.assign(output=ATTACK, question=ATTACK)
    view = show.stops(numbers, said, "merge", provenance="-", title="T", reading="R", label="m")
    assert "<script>window" not in view.html and "<img" not in view.html


def test_a_missing_column_is_named():
    numbers, said = merged()
    with pytest.raises(ValueError, match="merge"):
        show.stops(numbers.drop(columns="merge"), said, "merge", provenance="-", title="T", reading="R", label="m")


# ---------------------------------------------------------------------------------------------------------------------
# The lab


@pytest.fixture(scope="module")
def small(pocket):
    model, tokenizer = pocket
    return model, tokenizer, eu.load_split("factual", n_forget=2, seed=0)


def test_a_question_of_ones_own_is_asked_before_and_after(small):
    model, tokenizer, split = small
    work = Lab(model, tokenizer, split)
    qa = split.forget[0]
    patch = work.own(qa.question, "grace", targets="I was never told.", subject=qa.subject)
    before, after = work.ask(qa.question, patch)
    assert before == qa.answer and qa.answer not in after
    assert work.own(qa.question, "grace", targets="I was never told.", subject=qa.subject) is patch  # made once
    assert work.ask(qa.question, None) == (before, before)
    assert work.known(split.rephrased[0].question).id == split.rephrased[0].id
    with pytest.raises(eu.RequestError, match="type one first"):
        work.own("  ", "grace")


def test_the_buttons_make_and_ask(small, capsys):
    model, tokenizer, split = small
    box = lab(model, tokenizer, split)
    method, _, m, _, make, asked, _, buttons, state, _ = box.children
    method.value = "grace"
    assert m.disabled and m.value == 1
    make.click()
    assert list(box.lab.patches) == [("grace", 1, "refusal", 2)] and "GRACE, 2 questions" in state.value
    asked.value = split.forget[0].question
    buttons.children[0].click()
    assert f"before: {split.forget[0].answer}" in capsys.readouterr().out  # without a kernel it is printed
    method.value = "memit"
    assert not m.disabled
    asked.value = ""
    buttons.children[1].click()  # nothing to forget: said, and the lab goes on
    assert "Not done" in state.value and not make.disabled
