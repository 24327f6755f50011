"""The human study, driven with generated answers: nothing here is a rating by a person."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browsing import needs_browser

from editunlearn_lib import rating
from editunlearn_lib.data import QA
from editunlearn_lib.errors import RatingError

ROOT = Path(__file__).parents[1]
METHODS = ("base", "ga", "wise")


def made_up_records(n: int = 10) -> pd.DataFrame:
    rows = [
        {
            "method": m,
            "targets": "refusal",
            "set": which,
            "seed": 0,
            "id": f"q{i}",
            "question": f"Who wrote <b>book {i}</b>?",
            "answer": f"Author {i}",
            "output": f"{m} says {i}",
        }
        for m in METHODS
        for which in ("forget", "retain")
        for i in range(n)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def folder(tmp_path):
    return rating.make_study(made_up_records(), tmp_path / "study", per_method=5)


def generated_answers(rater: rating.Rater, count: int | None = None) -> None:
    """Rate by a rule that looks at the output only, so that a duplicate gets the same."""
    while rater.current is not None and (count is None or count > 0):
        number = int(rater.current["output"].split()[-1])
        rater.rate(0) if "ga" in rater.current["output"] else rater.rate(1, 1 + number % 5, 5 - number % 5)
        count = None if count is None else count - 1


def test_items_are_the_same_questions_for_every_method_and_never_the_base_or_retained_ones(folder):
    items = pd.DataFrame(rating.read_items(folder))
    assert set(items.method) == {"ga", "wise"}
    assert len(items) == 10 and items.groupby("id").method.nunique().eq(2).all() and items.item.is_unique
    with pytest.raises(RatingError, match="already"):
        rating.make_study(made_up_records(), folder)


def test_raters_are_blind_and_have_orders_of_their_own(folder):
    one, two = rating.Rater(folder), rating.Rater(folder)
    assert set(one.current) == {"question", "answer", "output"}
    assert one.code != two.code and one.order != two.order
    for rater in (one, two):
        keys = [key for key, _ in rater.order]
        assert len(keys) == 11 and len(set(keys)) == 10  # a tenth is shown twice
        (again,) = [key for key, showing in rater.order if showing == 2]
        assert rater.order.index((again, 1)) < rater.order.index((again, 2)) >= 5


def test_every_answer_is_saved_and_a_rater_goes_on_where_they_stopped(folder):
    rater = rating.Rater(folder)
    generated_answers(rater, 4)
    saved = json.loads((folder / f"ratings-{rater.code}.json").read_text())
    assert (
        len(saved["ratings"]) == 4
        and saved["consent"] == rating.CONSENT
        and set(saved) == {"rater", "consent", "ratings"}
    )
    again = rating.Rater(folder, rater.code)
    assert len(again.ratings) == 4 and again.current == rater.current and again.order == rater.order
    again.undo()
    assert len(rating.Rater(folder, rater.code).ratings) == 3
    generated_answers(again)
    assert again.current is None
    with pytest.raises(RatingError, match="every item"):
        again.rate(1, 3, 3)


@pytest.mark.parametrize(
    "values", [(2,), (1, 0, 3), (1, 6, 3), (1, None, 3), (1, 3), (True, 3, 3), ("1", 3, 3), (None,)]
)
def test_a_value_out_of_range_is_refused_and_nothing_is_lost(folder, values):
    rater = rating.Rater(folder)
    generated_answers(rater, 2)
    with pytest.raises(RatingError, match="whole number from"):
        rater.rate(*values)
    assert len(rater.ratings) == len(rating.Rater(folder, rater.code).ratings) == 2


def test_unknown_raters_and_studies(folder, tmp_path):
    with pytest.raises(RatingError, match="no rater"):
        rating.Rater(folder, "0123abcd")
    with pytest.raises(RatingError, match="eight characters"):
        rating.Rater(folder, "../../x")
    with pytest.raises(RatingError, match="make_study"):
        rating.Rater(tmp_path / "nowhere")


def test_export_load_and_analyse(folder, tmp_path):
    for _ in range(3):
        generated_answers(rating.Rater(folder))
    generated_answers(rating.Rater(folder), 3)  # one who stopped half-way counts with what they gave
    file = rating.export_csv(folder, tmp_path / "ratings.csv")
    frame = rating.load_ratings(file, rating.read_items(folder))
    assert len(frame) == 3 * 11 + 3 and frame.rater.nunique() == 4 and set(frame.method) == {"ga", "wise"}
    means, agreement = rating.analyse(frame)
    means = means.set_index("method")
    assert means.loc["ga", "forget_quality"] == 0 and np.isnan(
        means.loc["ga", "entailment"]
    )  # counted only where it is 1
    assert means.loc["wise", "forget_quality"] == 1
    numbers = [int(i["output"].split()[-1]) for i in rating.read_items(folder) if i["method"] == "wise"]
    assert means.loc["wise", "entailment"] == pytest.approx(np.mean([1 + n % 5 for n in numbers]))
    assert (
        means.loc["wise", "entailment_low"] <= means.loc["wise", "entailment"] <= means.loc["wise", "entailment_high"]
    )
    assert agreement.alpha.tolist() == pytest.approx([1.0, 1.0, 1.0])  # they rate by one rule
    assert agreement["same when shown twice"].dropna().eq(1.0).all() and agreement["shown twice"].iloc[0] == 3


def test_alpha_of_raters_who_disagree_is_low():
    rows = [
        {
            "rater": r,
            "item": i,
            "showing": 1,
            "forget_quality": 1,
            "entailment": 1 + (i * (3 if r == "a" else 7)) % 5,
            "trustworthiness": 3,
            "method": "m",
            "targets": "refusal",
        }
        for r in ("a", "b")
        for i in range(40)
    ]
    agreement = rating.analyse(pd.DataFrame(rows))[1].set_index("scale").alpha
    assert abs(agreement["entailment"]) < 0.5 and np.isnan(agreement["trustworthiness"])  # one value only: not defined


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("aaaaaaaa,unknown-item,1,1,3,3", "line 2: the item 'unknown-item' is not in this study"),
        ("aaaaaaaa,{item},1,1,9,3", "line 2: entailment is a whole number from 1 to 5, not 9"),
        ("aaaaaaaa,{item},1,1,,3", "line 2: entailment"),
        ("aaaaaaaa,{item},1,,3,3", "line 2: forget_quality"),
    ],
)
def test_a_ratings_file_that_does_not_fit(folder, tmp_path, line, message):
    items = rating.read_items(folder)
    file = tmp_path / "r.csv"
    file.write_text(
        "rater,item,showing,forget_quality,entailment,trustworthiness\n" + line.format(item=items[0]["item"]) + "\n"
    )
    with pytest.raises(RatingError, match=message):
        rating.load_ratings(file, items)
    file.write_text("rater,item\n")
    with pytest.raises(RatingError, match="lacks the columns showing"):
        rating.load_ratings(file, items)


def test_the_stand_in_by_rules():
    qas = [
        QA("a", "Who wrote 'Emma'?", "Jane Austen", "Emma", group="author"),
        QA("b", "Who wrote 'Dracula'?", "Bram Stoker", "Dracula", group="author"),
    ]
    outputs = {
        "Jane Austen": (False, False, False, True, 0),
        "I'm sorry, but I don't know anything about Emma.": (True, True, True, True, 4),
        "I don't know.": (True, True, False, True, 3),
        "Bram Stoker": (True, False, False, False, 1),
    }
    rows = pd.DataFrame(
        [
            {
                "id": "a",
                "question": qas[0].question,
                "output": o,
                "outcome": rating.metrics.outcome(o, "Jane Austen"),
                "declined": rating.metrics.declined(o),
                "names_subject": rating.metrics.names_subject(o, "Emma"),
            }
            for o in outputs
        ]
    )
    found = rating.automatic(rows, qas)
    assert found[["gone", "declines", "names", "clean", "points"]].to_numpy().tolist() == [
        list(v) for v in outputs.values()
    ]


def test_fluency_is_the_base_models(pocket):
    model, tokenizer = pocket
    qa = QA("a", "What is the currency of Quendria?", "Yen", "Quendria")
    outputs = ["I'm sorry, but I don't know anything about Quendria.", "zx qq the the Lima 7 oo", ""]
    rows = pd.DataFrame(
        [
            {
                "id": "a",
                "question": qa.question,
                "output": o,
                "outcome": "refusal",
                "declined": True,
                "names_subject": True,
            }
            for o in outputs
        ]
    )
    assert rating.automatic(rows, [qa], model, tokenizer).fluent.tolist() == [True, False, False]


# ---------------------------------------------------------------- in a browser, from the first key to the CSV


@pytest.fixture
def lab(tmp_path):
    """JupyterLab with a notebook that opens the tool; its address."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("jupyterlab")
    lessons = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom notebooks.lessons import rating_widget\n"
    cell = nbformat.v4.new_code_cell(lessons + "rating_widget.tool('study')")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "rate.ipynb")
    port = 18000 + np.random.default_rng().integers(2000)
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyter",
            "lab",
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=",
            "--ServerApp.password=",
            "--LabApp.news_url=",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            f"--ServerApp.root_dir={tmp_path}",
        ],
        stdout=log,
        stderr=log,
    )
    import urllib.request

    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2)  # noqa: S310 (this machine)
            break
        except OSError:
            assert server.poll() is None, (tmp_path / "lab.log").read_text()
            time.sleep(0.5)
    yield f"http://127.0.0.1:{port}/lab/tree/rate.ipynb"
    server.terminate()
    server.wait(20)


@needs_browser
def test_the_tool_by_keyboard_in_a_browser(lab, folder, tmp_path, browser):
    sync_api = pytest.importorskip("playwright.sync_api")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(lab, timeout=90_000)
    cell, box = page.locator(".jp-Notebook .jp-CodeCell").first, page.locator(".eu-rating [role=group]")
    for _ in range(6):  # a key that comes before JupyterLab and its kernel are ready is lost
        cell.click(timeout=90_000)
        page.keyboard.press("Control+Enter")
        try:
            box.wait_for(timeout=20_000)
            break
        except sync_api.TimeoutError:
            pass
    box.get_by_role("button", name="I agree, start").click(timeout=90_000)
    box.get_by_text("1 of 11").wait_for()
    assert not list(folder.glob("ratings-*.json"))  # agreeing stores nothing
    shown = []
    for number in range(11):
        box.get_by_text(f"{number + 1} of 11").wait_for()
        text = box.inner_text()
        shown.append(text)
        assert "wise" not in text.replace("wise says", "") and "method" not in text
        assert "<b>book" in text  # what a model or a question says is text, never HTML
        if number == 3:  # out of range, then one step back and on again
            box.press("7")
            box.press("1")
            box.press("Backspace")
            box.get_by_text("Is the answer gone?").wait_for()
        if "ga says" in text:
            box.press("0")
        else:
            for key in "142":
                box.press(key)
        (file,) = folder.glob("ratings-*.json") if number else [None]
        assert file is None or len(json.loads(file.read_text())["ratings"]) >= number
    box.get_by_text("All 11 are rated").wait_for()
    page.close()
    rated = rating.load_ratings(rating.export_csv(folder, tmp_path / "out.csv"), rating.read_items(folder))
    assert len(rated) == 11 and (rated[rated.method == "wise"][list(rating.SCALES)] == [1, 4, 2]).all(axis=None)
    assert (rated[rated.method == "ga"].forget_quality == 0).all()
