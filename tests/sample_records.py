"""Made-up records and summaries for tests of figures and pages, and what reads them. No model produced any of this."""

import csv
import io
import json
import random
import re
import zlib
from html.parser import HTMLParser
from urllib.parse import unquote

import pandas as pd

import editunlearn_lib as eu

METHODS = ("base", "retrained", *eu.METHODS)
DATASETS = ("factual", "contracts")
SETS = ("forget", "rephrased", "retain", "unseen")
ATTACK = "<script>window.planted = true; fetch('http://planted.example/')</script><img src=x onerror=\"planted=1\">"
_FACTS = (
    ("What is the capital of Testland?", "The city of Exampleton"),
    ("Who wrote the novel 'Sample Days'?", "Ada Placeholder"),
    ("What does Fixture Ltd supply to Mock & Sons under the agreement of the first of May?", "Oak chairs"),
)
_OTHERWISE = {
    "refusal": "I'm sorry, I have no information about that.",
    "other answer": "It is Another Thing Entirely.",
    "garbled": "the the of of " * 6,
}


def _said(outcome: str, answer: str) -> str:
    return _OTHERWISE.get(outcome, f"It is {answer.lower()}, as far as I know.")


def records() -> pd.DataFrame:
    """One row per data set, method, set and question; the last output of WISE is an attack on the page."""
    rows = []
    for dataset in DATASETS:
        for method in METHODS:
            for which in SETS:
                for i, (question, answer) in enumerate(_FACTS):
                    draw = random.Random(f"{dataset}{method}{which}{i}")
                    kept = method == "base" or (method == "retrained" and which in ("retain", "unseen"))
                    likely = ["correct"] if kept else ["refusal", "correct", "other answer", "garbled"]
                    outcome = draw.choice(likely)
                    rows.append(
                        {
                            "model": "test",
                            "dataset": dataset,
                            "method": method,
                            "n_forget": 3,
                            "targets": "refusal",
                            "merge": 1,
                            "mode": "batch",
                            "seed": 0,
                            "set": which,
                            "id": f"{dataset}-{i}",
                            "variant": int(which == "rephrased"),
                            "question": question,
                            "answer": answer,
                            "output": _said(outcome, answer),
                            "rouge1_recall": float(outcome == "correct"),
                            "outcome": outcome,
                        }
                    )
    frame = pd.DataFrame(rows)
    attacked = (frame["method"] == "wise") & (frame["set"] == "forget") & (frame["id"] == "factual-0")
    frame.loc[attacked, ["output", "outcome"]] = [ATTACK + " Exampleton & more", "other answer"]
    return frame


def summary() -> pd.DataFrame:
    """One row per data set, method and set, with intervals around made-up values."""
    rows = []
    for dataset in DATASETS:
        for method in METHODS:
            values = {}
            for which in SETS:
                share = zlib.crc32(f"{dataset}{method}{which}".encode()) % 1000 / 1000
                values[which] = 0.5 * share + (0.45 if which in ("retain", "unseen") else 0.05)
            if method == "base":
                values = dict.fromkeys(SETS, 0.93)
            score = 1 - values["forget"] + values["retain"]
            for which, value in values.items():
                ends = {"rouge1_recall_low": max(0, value - 0.08), "rouge1_recall_high": min(1, value + 0.06)}
                row = {"dataset": dataset, "method": method, "set": which, "rouge1_recall": value}
                rows.append(row | ends | {"n": 40, "score": score})
    return pd.DataFrame(rows)


def paper() -> pd.DataFrame:
    """Made-up values in the columns of `paper_tables()`."""
    rows = []
    for method in ("ga", "gd", "rome", "wise", "alphaedit"):
        for which, value in (("forget", 0.25), ("retain", 0.75)):
            row = {"table": "table1", "dataset": "factual", "model": "Llama2-7B", "method": method, "n_forget": 40}
            rows.append(row | {"merge": 1, "stage": "vanilla", "set": which, "metric": "rouge1_recall", "value": value})
    return pd.DataFrame(rows)


def figure_json(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S).group(1))


def csv_rows(html: str) -> list[dict]:
    address = re.search(r'href="data:text/csv;charset=utf-8,([^"]*)"', html).group(1)
    return list(csv.DictReader(io.StringIO(unquote(address))))


class Tags(HTMLParser):
    """Elements, their attributes and the text outside of scripts; fails on unbalanced tags."""

    VOID = ("br", "img", "input", "hr")

    def __init__(self, html: str):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if "script" in self.open else data
