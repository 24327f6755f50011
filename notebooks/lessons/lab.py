"""The lab of a live notebook: choose a method, make a patch, and ask with the patch off and on.

ipywidgets over the same calls that a notebook would make. `Lab` holds what happens and needs no widget; `lab` draws it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

import ipywidgets as w
from IPython.display import display

from editunlearn_lib.data import QA, ForgetSplit, load_split
from editunlearn_lib.errors import EditUnlearnError, RequestError
from editunlearn_lib.evaluation import generate
from editunlearn_lib.methods import METHODS
from editunlearn_lib.metrics import outcome
from editunlearn_lib.patch import Patch
from editunlearn_lib.show import Column, Table, edit_report, output_html, style
from editunlearn_lib.show.page import Css, el, raw
from editunlearn_lib.unlearn import unlearn

MERGES = (1, 2, 4, 5, 8, 10)


class Lab:
    """A model, a split, and the patches made so far: one for each choice, made once."""

    def __init__(self, model, tokenizer, split: ForgetSplit):
        self.model, self.tokenizer, self.split = model, tokenizer, split
        self.patches: dict[tuple, Patch] = {}
        self.seconds = 0.0  # of the last call

    def patch(self, method: str, merge: int = 1, targets: str = "refusal", n: int | None = None) -> Patch:
        """The patch for this choice: of the first ``n`` questions to forget; ``targets`` may be one's own sentence."""
        key = (method, merge, targets, n)
        if key not in self.patches:
            self.patches[key] = self._unlearn(self.split.forget[:n], method, targets, merge)
        return self.patches[key]

    def own(self, question: str, method: str, targets: str = "refusal", subject: str | None = None) -> Patch:
        """A patch that makes the model refuse one question of one's own; what it says now is taken for the answer.

        ``subject`` is a part of the question: without one the edit's key is at the question's last token.
        """
        question = question.strip()
        if not question:
            raise RequestError("there is no question: type one first.")
        key = (method, 1, targets, question, subject)
        if key not in self.patches:
            answer = generate(self.model, self.tokenizer, [question])[0]
            if not answer:
                raise RequestError("the model says nothing to this question: there is nothing to forget.")
            qa = QA(id="own", question=question, answer=answer, subject=subject or None)
            self.patches[key] = self._unlearn((qa,), method, targets, 1)
        return self.patches[key]

    def _unlearn(self, forget: Sequence[QA], method: str, targets: str, merge: int) -> Patch:
        own = targets not in ("refusal", "self-improved")  # a sentence, once for every edit
        return unlearn(
            self.model,
            self.tokenizer,
            forget,
            method,
            targets=[targets] * -(-len(forget) // merge) if own else targets,
            merge=merge,
            retain=self.split.retain,
        )

    def ask(self, question: str, patch: Patch | None) -> tuple[str, str]:
        """What the model says with the patch off and on."""
        before = generate(self.model, self.tokenizer, [question])[0]
        if patch is None:
            return before, before
        with patch.on(self.model):
            return before, generate(self.model, self.tokenizer, [question])[0]

    def known(self, question: str) -> QA | None:
        """The question of the data that this is, in its own or in other words."""
        everything = (*self.split.forget, *self.split.rephrased, *self.split.retain, *self.split.unseen)
        return next((qa for qa in everything if qa.question == question.strip()), None)


def before_after(question: str, before: str, after: str, answer: str | None, label: str) -> Table:
    """One question with the patch off and on; words of the true answer are marked, where it is known."""
    truth = f"true answer: {answer}" if answer else "not a question of the data: the true answer is not known here"
    rows = []
    for name, output in (("before", before), (label, after)):
        verdict = el("span", outcome(output, answer), css=Css.outcome) if answer else ""
        rows.append({"patch": name, "outcome": verdict, "output": output_html(output, answer, question)})
    columns = [Column("patch"), Column("outcome", kind="words"), Column("output", kind="words")]
    return Table(raw(el("b", question), " ", el("small", f"({truth})")), columns, rows, "")


def lab(model, tokenizer, split: ForgetSplit | None = None, *, n_forget: int = 10, seed: int = 0):
    """The lab as widgets: method, m and targets above, a question of your own below. Needs a live notebook.

    ``split`` defaults to ``n_forget`` of the built-in facts. Nothing is computed before a button is pressed; what fails
    says so in the lab and leaves it usable.
    """
    split = split or load_split("factual", n_forget=n_forget, seed=seed)
    work = Lab(model, tokenizer, split)
    current: dict = {"patch": None, "label": "no patch yet"}
    wide = {"description_width": "9em"}
    method = w.Dropdown(options=[(style(m).label, m) for m in METHODS], value="memit", description="Method", style=wide)
    n = w.IntSlider(len(split.forget), 1, len(split.forget), description="Questions", style=wide)
    m = w.SelectionSlider(options=MERGES, value=1, description="m in one edit", style=wide)
    targets = w.Combobox(
        options=["refusal", "self-improved"],
        value="refusal",
        description="Target",
        ensure_option=False,
        style=wide,
        placeholder="refusal, self-improved, or a sentence",
    )
    make = w.Button(description="Make the patch", button_style="primary")
    question_box = w.Combobox(
        options=[qa.question for qa in (*split.forget, *split.rephrased, *split.retain[:40])],
        placeholder="type a question, or choose one",
        description="Question",
        ensure_option=False,
        style=wide,
        layout=w.Layout(width="min(48em, 100%)"),
    )
    subject = w.Text(description="Its subject", placeholder="a part of the question; may be empty", style=wide)
    ask = w.Button(description="Ask, before and after")
    forget = w.Button(description="Forget this one, then ask")
    state, out = w.HTML(), w.Output()

    def allowed(*_) -> None:
        m.disabled = not METHODS[method.value].merges
        if m.disabled:
            m.value = 1

    def attempt(what: str, action) -> None:
        """Run an action with the buttons off; an error of ours is shown, not raised into nowhere."""
        for button in (make, ask, forget):
            button.disabled = True
        state.value = escape(f"{what} …")
        started = time.monotonic()
        out.clear_output(wait=True)
        try:
            with out:
                action()
            work.seconds = time.monotonic() - started
            state.value = escape(f"{current['label']} · {work.seconds:.1f} s")
        except EditUnlearnError as error:
            state.value = f"<b>Not done.</b> {escape(str(error))}"
        finally:
            for button in (make, ask, forget):
                button.disabled = False

    def use(patch: Patch, label: str) -> None:
        current.update(patch=patch, label=label)

    def show_question() -> None:
        question = question_box.value.strip()
        if not question:
            raise RequestError("there is no question: type one first.")
        qa = work.known(question)
        display(before_after(question, *work.ask(question, current["patch"]), qa and qa.answer, current["label"]))

    def on_make(_) -> None:
        def action() -> None:
            patch = work.patch(method.value, m.value, targets.value, n.value)
            use(patch, f"{style(method.value).label}, {n.value} questions, m = {m.value}, {targets.value!r}")
            if "took" in (patch.info["log"] or [{}])[0]:
                display(edit_report(patch.info["log"], provenance="this lab"))
            for qa in (split.forget[0], split.retain[0]):
                display(before_after(qa.question, *work.ask(qa.question, patch), qa.answer, current["label"]))

        attempt("Unlearning", action)

    def on_forget(_) -> None:
        def action() -> None:
            patch = work.own(question_box.value, method.value, targets.value, subject.value.strip())
            use(patch, f"{style(method.value).label} on this question alone")
            show_question()

        attempt("Unlearning", action)

    method.observe(allowed, "value")
    make.on_click(on_make)
    ask.on_click(lambda _: attempt("Asking", show_question))
    forget.on_click(on_forget)
    allowed()
    box = w.VBox([method, n, m, targets, make, question_box, subject, w.HBox([ask, forget]), state, out])
    box.lab = work
    return box
