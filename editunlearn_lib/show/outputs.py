"""Side by side: what the models said to the same question, with words of the answer marked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..metrics import OUTCOMES
from . import page
from .page import Css, Html, Raw, el, raw, style

WANTED = {
    "forget": "to be forgotten: the answer should be gone",
    "rephrased": "a forgotten fact asked in other words: the answer should be gone",
    "retain": "to be kept: the answer should still come",
    "unseen": "kept, and never shown to any method: the answer should still come",
}
_WORD = re.compile(r"[^\W_]+")
# Words too common to give anything away: an answer's "the" in an output is no leak.
_COMMON = frozenset(_WORD.findall("a an and are as at by for from in is it its of on or that the this to was with"))


def answer_words(text: str, answer: str, question: str = "") -> list[tuple[int, int]]:
    """Where `text` says words of the answer: (start, end) of each.

    Case does not matter; words of the question and very common words do not count, for they give nothing away.
    """
    known = {w.lower() for w in _WORD.findall(question)} | _COMMON
    wanted = {w.lower() for w in _WORD.findall(answer)} - known
    return [m.span() for m in _WORD.finditer(text) if m.group().lower() in wanted]


def output_html(output: str, answer: str | None, question: str) -> Raw:
    """An output as HTML, escaped, with words of the answer marked (none where the answer is not known)."""
    if not output.strip():
        return el("em", "(nothing)")
    parts, at = [], 0
    for start, end in answer_words(output, answer, question) if answer else ():
        parts += [output[at:start], el("mark", output[start:end])]
        at = end
    return raw(*parts, output[at:])


def judged_html(row: Mapping[str, Any]) -> Raw:
    """A record's output behind its outcome, a word with a bar whose look comes from ``data-outcome`` around it."""
    output = output_html(str(row["output"]), str(row["answer"]), str(row["question"]))
    return raw(el("span", row["outcome"], css=Css.outcome), " ", el("span", output, css=Css.output))


def side_by_side(
    records: pd.DataFrame,
    methods: Sequence[str] | None = None,
    *,
    provenance: str,
    questions: int | Sequence[tuple[str, Any, int]] = 6,
    sets: Sequence[str] = ("forget", "rephrased", "retain"),
    title: str = "The same question, put to every model",
    name: str = "side-by-side",
) -> Html:
    """For each of some questions: the answer, the base model's output and every method's, beside its outcome.

    `questions` is the number taken from the head of each set (no picking of telling ones), or a list of
    (set, id, variant). Without a script each question is a fold-out; the book's script puts a question selector and
    filters by method, outcome and word in front, whose state lies in the address (`#<name>?q=…&outcome=…`).
    """
    page.need(records, ("method", "set", "id", "question", "answer", "output", "outcome"), "records")
    variant = records["variant"].fillna(0).astype(int) if "variant" in records else 0
    records = records.assign(dataset=records.get("dataset", ""), variant=variant)
    methods = list(methods) if methods is not None else page.ordered(records["method"])
    if "base" in set(records["method"]):
        methods = ["base", *(m for m in methods if m != "base")]  # the output before unlearning is always there
    records = records[records["method"].isin(methods)]
    page.need(records, (), f"records, for the methods {', '.join(methods)},")
    keys = ["dataset", "set", "id", "variant"]
    page.one_per(records, [*keys, "method"], "records")
    rows_of: dict[tuple, list[dict]] = {key: [] for key in _choose(records, keys, questions, sets)}
    for row in records.sort_values("method", key=lambda names: names.map(methods.index)).to_dict("records"):
        key = tuple(row[k] for k in keys)
        if key in rows_of:
            rows_of[key].append(row)

    many = records["dataset"].nunique() > 1
    index = [
        {
            "key": "/".join(map(str, key if many else key[1:])),
            "dataset": str(key[0]),
            "group": (f"{page.label(key[0])}: " if many else "") + str(key[1]),
            "question": str(rows[0]["question"]),
            "outcomes": sorted({row["outcome"] for row in rows}),
        }
        for key, rows in rows_of.items()
    ]
    flat = pd.DataFrame(sum(rows_of.values(), []))
    present = [[m, style(m).label] for m in methods if m in set(flat["method"])]
    marked = raw("Marked: ", el("mark", "words of the answer"), ", where the question does not already say them.")
    cases = [_case(rows, first=i == 0) for i, rows in enumerate(rows_of.values())]
    data = page.data_script({"cases": index, "outcomes": list(OUTCOMES), "methods": present})
    csv = page.csv(flat[[*keys, "question", "answer", "method", "outcome", "output"]])
    count = el("p", css=Css.count, role="status")
    return page.section(Css.sbs, name, title, marked, count, *cases, data, page.note(provenance, csv, name))


def _choose(
    records: pd.DataFrame, keys: list[str], questions: int | Sequence[tuple[str, Any, int]], sets: Sequence[str]
) -> list[tuple]:
    there = list(records[keys].drop_duplicates().itertuples(index=False, name=None))
    if isinstance(questions, int):
        groups = [(dataset, which) for dataset in dict.fromkeys(key[0] for key in there) for which in sets]
        chosen = [key for group in groups for key in [k for k in there if k[:2] == group][:questions]]
    else:
        absent = [q for q in map(tuple, questions) if q not in {key[1:] for key in there}]
        if absent:
            raise ValueError(f"records have no question (set, id, variant) = {absent[0]!r}")
        chosen = [key for q in questions for key in there if key[1:] == tuple(q)]
    if not chosen:
        raise ValueError(f"records have no questions in the sets {', '.join(sets)}; they have {set(records['set'])}")
    return chosen


def _case(rows: list[dict], *, first: bool) -> Raw:
    answer, which = rows[0]["answer"], str(rows[0]["set"])
    aim = WANTED.get(which, f"{which}: nothing about it should change")
    items = []
    for row in rows:
        inner = raw(el("strong", style(row["method"]).label), " ", judged_html(row))
        items.append(el("li", inner, data_outcome=row["outcome"], data_method=row["method"]))
    about = raw("Answer: ", el("strong", answer), " ", el("span", f"({aim})"))
    fold = [el("summary", rows[0]["question"]), el("p", about, css=Css.answer), el("ul", *items, role="list")]
    return el("details", *fold, css=Css.case, open=first)
