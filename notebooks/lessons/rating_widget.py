"""The rating tool of a live notebook: one item at a time, by keyboard or pointer. What it does is in `rating.Rater`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from editunlearn_lib.errors import RatingError
from editunlearn_lib.rating import CONSENT, QUESTIONS, SCALES, Rater

ESM = """
function render({ model, el }) {
  el.classList.add("eu-rating");
  el.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab would take 1-6 for headings
  const box = document.createElement("div");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Rating tool");
  el.append(box);
  let answers = [];
  let unsent = false;
  const add = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    node.textContent = text; // never HTML: outputs are what a model said
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    box.append(node);
    return node;
  };
  const send = (content) => { unsent = true; model.send(content); };
  const answer = (value) => {
    const state = model.get("state");
    const scale = state.scales[answers.length];
    if (unsent || state.phase !== "item" || !scale || !scale.values.includes(value)) return;
    answers.push(value);
    if (answers[0] === 0 || answers.length === state.scales.length) send({ do: "rate", values: answers });
    else draw();
  };
  const back = () => {
    if (answers.length) { answers.pop(); draw(); }
    else if (!unsent) send({ do: "undo" });
  };
  const draw = () => {
    const state = model.get("state");
    const focused = box.contains(document.activeElement);
    box.replaceChildren();
    if (state.phase === "consent") {
      add("p", state.consent);
      add("button", "I agree, start").onclick = () => send({ do: "consent" });
    } else if (state.phase === "done") {
      add("p", `All ${state.total} are rated. Thank you. Your code is ${state.code}.`, { role: "status" });
    } else {
      const place = `${state.done + 1} of ${state.total}`;
      add("p", `${place} · your code: ${state.code} · every answer is saved`, { class: "eu-small" });
      add("p", `Question: ${state.item.question}`);
      add("p", `True answer: ${state.item.answer}`);
      add("p", `The model said: ${state.item.output || "(nothing)"}`, { class: "eu-said" });
      const scale = state.scales[answers.length];
      add("p", scale.question, { "aria-live": "polite", class: "eu-ask" });
      const row = add("div", "");
      for (const value of scale.values) {
        const button = document.createElement("button");
        button.textContent = value;
        button.onclick = () => answer(value);
        row.append(button);
      }
      const undo = document.createElement("button");
      undo.textContent = "Back";
      undo.onclick = back;
      row.append(undo);
    }
    if (state.problem) add("p", state.problem, { role: "alert" });
    if (focused || state.phase !== "consent") box.focus({ preventScroll: true });
  };
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^[0-9]$/.test(event.key)) answer(Number(event.key));
    else if (event.key === "Backspace") back();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  model.on("change:state", () => { unsent = false; answers = []; draw(); });
  draw();
}
export default { render };
"""
CSS = """
.eu-rating > div { padding: 1rem; border: 1px solid currentColor; border-radius: 6px }
.eu-rating > div { max-width: 44rem; line-height: 1.5 }
.eu-rating > div:focus-visible { outline: 3px solid #0072b2 }
.eu-rating button { font: inherit; min-width: 2.75rem; min-height: 2.75rem; margin: 0 .4rem .4rem 0; cursor: pointer }
.eu-rating .eu-said { border-left: 4px solid currentColor; padding-left: .75rem }
.eu-rating .eu-said { font-size: 1.15em; overflow-wrap: anywhere }
.eu-rating .eu-ask { font-weight: 600 }
.eu-rating .eu-small { opacity: .8; font-size: .9em }
"""


def tool(folder: str | Path, code: str | None = None) -> RatingTool:
    """The rating tool for a study: keys 0/1, then 1–5 twice; Backspace goes back. Autosaves; ``code`` resumes.

    Needs a live notebook; in a static page it shows a sentence that says so.
    """
    return RatingTool(folder, code)


class RatingTool(anywidget.AnyWidget):
    """The widget. ``state`` is all that the browser knows: never a method, never another rater."""

    _esm = ESM
    _css = CSS
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, folder: str | Path, code: str | None = None):
        self.rater = Rater(folder, code)
        self._agreed = bool(self.rater.ratings)  # who goes on has agreed before
        self._turn = 0
        super().__init__(state=self._state())
        self.on_msg(lambda _, content, __: self.receive(content))

    def receive(self, content: dict[str, Any]) -> None:
        """What the browser sends: agreement, a rating, or one step back."""
        problem = ""
        try:
            if content.get("do") == "consent":
                self._agreed = True
            elif content.get("do") == "rate" and self._agreed:
                self.rater.rate(*content["values"])
            elif content.get("do") == "undo":
                self.rater.undo()
        except (RatingError, OSError) as error:  # a full disk: say so, and the answer can be given again
            problem = str(error)
        self.state = self._state(problem)

    def _state(self, problem: str = "") -> dict[str, Any]:
        rater = self.rater
        self._turn += 1  # a state always differs from the last one, so that the browser hears of it
        return {
            "turn": self._turn,
            "phase": "consent" if not self._agreed else "item" if rater.current else "done",
            "consent": CONSENT,
            "code": rater.code,
            "done": len(rater.ratings),
            "total": len(rater.order),
            "item": rater.current if self._agreed else None,
            "scales": [{"name": n, "question": QUESTIONS[n], "values": list(values)} for n, values in SCALES.items()],
            "problem": problem,
        }

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["text/html"] = "<p>The rating tool works in a live notebook only: <code>make live</code>.</p>"
        return bundle
