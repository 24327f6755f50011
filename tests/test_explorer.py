"""The linked views: what they hold. Driving them in a browser: test_pages.py."""

import json
import re

import pandas as pd
import pytest
from sample_records import ATTACK, paper, records, summary

from editunlearn_lib import show


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
