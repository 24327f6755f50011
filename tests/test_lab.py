"""The lab of a live notebook: what it does, with and without its widgets."""

import pytest

import editunlearn_lib as eu
from notebooks.lessons.lab import Lab, lab


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
    method, _, m, _, make, question, _, buttons, state, _ = box.children
    method.value = "grace"
    assert m.disabled and m.value == 1
    make.click()
    assert list(box.lab.patches) == [("grace", 1, "refusal", 2)] and "GRACE, 2 questions" in state.value
    question.value = split.forget[0].question
    buttons.children[0].click()
    said = capsys.readouterr().out  # without a kernel it is printed
    assert (
        f"before: correct {split.forget[0].answer}" in said and "GRACE, 2 questions, m = 1, 'refusal': refusal " in said
    )
    method.value = "memit"
    assert not m.disabled
    question.value = ""
    buttons.children[1].click()  # nothing to forget: said, and the lab goes on
    assert "Not done" in state.value and not make.disabled
