"""The workshop: checks accept the solutions and say what to look at otherwise; exercises and solutions fit."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

import editunlearn_lib as eu
from editunlearn_lib.methods import METHODS
from notebooks.lessons import checks, exercises

FOLDER = Path(__file__).parents[1] / "notebooks" / "workshop"
NAMES = ["break", "merge", "refusal", "attack", "method"]
SPLIT = exercises.questions()


def cells(kind: str, number: int) -> list:
    return nbformat.read(FOLDER / f"{kind}{number}_{NAMES[number - 1]}.ipynb", as_version=4).cells


def tagged(kind: str, number: int, tag: str) -> list:
    return [cell for cell in cells(kind, number) if tag in cell.metadata.get("tags", [])]


def solution(number: int, **known) -> dict:
    """The functions that a solution fills in, without the rest of its notebook."""
    space = {"torch": torch, "cosine": torch.nn.functional.cosine_similarity, "eu": eu, "split": SPLIT, **known}
    for cell in tagged("sol", number, "solution"):
        if cell.cell_type == "code":
            for block in re.findall(r"^def .*?(?=^\S|\Z)", cell.source, flags=re.M | re.S):
                exec(block, space)
    return space


@pytest.mark.parametrize("number", range(1, 6))
def test_an_exercise_and_its_solution_share_what_is_given(number):
    def given(kind, tag):
        return [c.source for c in cells(kind, number) if tag not in c.metadata.get("tags", [])]

    assert given("ex", "exercise") == given("sol", "solution") and len(given("ex", "exercise")) >= 4
    assert any("TODO" in c.source for c in tagged("ex", number, "exercise"))
    assert not any("TODO" in c.source for c in cells("sol", number))
    assert not tagged("ex", number, "solution") and not tagged("sol", number, "exercise")
    assert sum("dropdown" in c.source for c in tagged("ex", number, "exercise")) >= 1  # hints are folded


def says(verdict, *words: str) -> None:
    """Not done, and the note has these words."""
    text = " ".join(verdict.notes)
    assert not verdict and all(word in text for word in words), text


def outcome_rows(forget: float, retain: float) -> pd.DataFrame:
    return pd.DataFrame({"set": ["forget", "retain"], "rouge1_recall": [forget, retain]})


def test_check_1():
    good = checks.FORGET_AT_MOST - 0.05, checks.RETAIN_AT_LEAST + 0.05
    assert checks.check_1(outcome_rows(*good))
    says(checks.check_1(...), "not filled in")
    says(checks.check_1("0.1"), "`stopped`")
    says(checks.check_1(outcome_rows(1.0, 1.0)), "too early")
    says(checks.check_1(outcome_rows(0.0, 0.0)), "too far")
    says(checks.check_1(outcome_rows(*good).query("set == 'forget'")), "retain")
    says(checks.check_1(outcome_rows(float("nan"), 1.0)), "no numbers")


def test_check_2():
    nearness = solution(2)["nearness"]
    assert checks._nearness(nearness) == [] and checks._reason("(b)") == []
    says(checks.check_2({1: ..., 2: ..., 5: ...}), "not filled in")
    says(checks.check_2([1]), "dict")
    says(checks.check_2({1: "x", 2: "x", 5: "x"}), "eu.unlearn")
    cosine = torch.nn.functional.cosine_similarity
    wrong = {
        "pairs": lambda lone, merged, m: cosine(lone, merged.repeat(m, 1)),
        "length of a key": lambda lone, merged, m: (lone * merged.repeat_interleave(m, 0)).sum(1),
        "one number per question": lambda lone, merged, m: cosine(lone[::m], merged),
        "stops with": lambda lone, merged, m: lone @ merged,
        "tensor of cosines": lambda lone, merged, m: "near",
    }
    for words, function in wrong.items():
        assert words in " ".join(checks._nearness(function)), words
    assert "letters" in checks._reason(2)[0] and "(c)" in checks._reason("c")[0]


def test_check_3():
    refuse = solution(3)["my_refusal"]
    texts = [refuse(qa) for qa in SPLIT.forget]
    assert checks.check_3(texts, SPLIT.forget)
    says(checks.check_3(..., SPLIT.forget), "not filled in")
    says(checks.check_3("I don't know.", SPLIT.forget), "list")
    says(checks.check_3(texts[:2], SPLIT.forget), "2 sentences")
    says(checks.check_3(["I don't know."] * len(texts), SPLIT.forget), "subject")
    leaking = [f"I don't know anything about {qa.subject}, least of all {qa.answer}." for qa in SPLIT.forget]
    verdict = checks.check_3(leaking, SPLIT.forget)
    says(verdict, "true answer")
    assert not any(qa.answer in note for qa in SPLIT.forget for note in verdict.notes)  # the note leaks nothing itself
    says(checks.check_3([qa.subject for qa in SPLIT.forget], SPLIT.forget), "decline")
    rows = pd.DataFrame({"set": "forget", "outcome": ["other answer"] * 10, "names_subject": [False] * 10})
    says(checks.check_3(texts, SPLIT.forget, rows), "did not learn")
    assert checks.check_3(texts, SPLIT.forget, rows.assign(outcome="refusal", names_subject=True))


def test_check_4():
    frame = solution(4)["my_frame"]
    frames, back = [frame(qa) for qa in SPLIT.forget], [qa.answer for qa in SPLIT.forget]
    rows = pd.DataFrame({"attack": "prefill", "rouge1_recall": [1.0] * 6 + [0.0] * 4})
    assert checks.check_4(rows) and checks.check_4(rows, frames, back, SPLIT.forget)
    says(checks.check_4(...), "not filled in")
    says(checks.check_4(rows.assign(attack="plain")), "no attack")
    says(checks.check_4(rows.assign(rouge1_recall=0.0)), "another kind")
    says(checks.check_4(rows, ..., [], SPLIT.forget), "not filled in")
    says(checks.check_4(rows, [qa.question for qa in SPLIT.forget], back, SPLIT.forget), "plain question")
    answered = [f"{qa.question} {qa.answer}" for qa in SPLIT.forget]
    says(checks.check_4(rows, answered, back, SPLIT.forget), "comes from you")
    says(checks.check_4(rows, frames, ["no"] * len(frames), SPLIT.forget), "0%")


def test_check_5():
    loss = solution(5)["npo_loss"]
    assert checks._npo(loss) == []
    says(checks.check_5(loss, "no-such-method"), "No method is registered")
    logsigmoid = torch.nn.functional.logsigmoid
    wrong = {
        "not filled in": lambda now, before, beta: ...,
        "more* likely": lambda now, before, beta: -2 / beta * logsigmoid(beta * (now - before)).mean(),
        "constant factor": lambda now, before, beta: -1 / beta * logsigmoid(-beta * (now - before)).mean(),
        "one number for the batch": lambda now, before, beta: -2 / beta * logsigmoid(-beta * (now - before)),
        "gradient": lambda now, before, beta: loss(now.detach(), before, beta),
        "tensor": lambda now, before, beta: loss(now, before, beta).item(),
        "β = 0.1 only": lambda now, before, beta: loss(now, before, 0.1),
        "overflows": lambda now, before, beta: -2 / beta * torch.log(1 / (1 + torch.exp(beta * (now - before)))).mean(),
        "stops with": lambda now, before, beta: 1 / 0,
    }
    for words, function in wrong.items():
        if words == "overflows":  # the textbook form, in large numbers
            function = lambda now, before, beta: 2 / beta * torch.log(1 + torch.exp(beta * (now - before))).mean()  # noqa: E731
        assert words in " ".join(checks._npo(function)), (words, checks._npo(function))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 6))
def test_a_solution_runs_through_and_its_checks_hold(number):
    before = dict(METHODS)
    space: dict = {}
    try:
        for cell in cells("sol", number):
            if cell.cell_type == "code":
                exec(cell.source, space)
    finally:
        for name in set(METHODS) - set(before):
            METHODS.pop(name)
    assert all(value for value in space.values() if isinstance(value, checks.Verdict))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 6))
def test_an_exercise_as_it_stands_says_that_it_is_not_filled_in(number, capsys):
    from nbclient import NotebookClient

    book = nbformat.read(FOLDER / f"ex{number}_{NAMES[number - 1]}.ipynb", as_version=4)
    NotebookClient(book, timeout=600, allow_errors=True).execute()
    shown = [
        "".join(out.get("data", {}).get("text/plain", "")) + out.get("text", "")
        for c in book.cells
        for out in c.get("outputs", [])
    ]
    assert any("not filled in" in text or "No method is registered" in text for text in shown), shown
