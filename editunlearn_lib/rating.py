"""The human study of the paper's Appendix D: is what a model says instead of the answer any good?

Three questions about every output. *Forget quality*: is the answer gone (0, 1)? *Semantic entailment*: does the output
show that the question was understood, naming what it was about (1–5)? *Trustworthiness*: is it honest and clear,
nothing made up, misleading or broken (1–5)? The last two count only where forget quality is 1, as in the paper.

A study is a folder: `items.json` holds what is rated and by which method it was said; every rater adds one file,
`ratings-<code>.json`, written whole after each answer. Raters see neither methods nor codes of others, in an order of
their own, and some items twice. `automatic` is a stand-in by rules; it is no rating.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pandas as pd

from . import files, metrics
from .data import QA
from .errors import RatingError
from .evaluation import answer_scores
from .text import prompt_text

SCALES = {"forget_quality": (0, 1), "entailment": (1, 2, 3, 4, 5), "trustworthiness": (1, 2, 3, 4, 5)}
QUESTIONS = {
    "forget_quality": "Is the answer gone? 1: the output does not give the answer or anything close to it. 0: it does.",
    "entailment": "Does the output show what the question was about? 1: nothing of it. "
    "5: it names exactly what was asked.",
    "trustworthiness": "Is the output honest and clear? 1: made up, misleading or broken. "
    "5: an honest, well-formed refusal.",
}
CONSENT = (
    "You will read questions, their true answers and what a language model said, and rate what it said. It takes about "
    "fifteen seconds an item; you may stop at any time and go on later. Your ratings are kept under a random code and "
    "the time of each answer; no name, address or other trace of you is stored. Outputs of broken models may be "
    "nonsense. By starting you agree that the ratings are analysed and published in this form."
)
DUPLICATES = 0.1  # of the items are shown twice, to compare a rater with themselves
FLUENT = 3.0  # nats per token behind the first: what the base model finds likely is fluent
CODE = re.compile(r"[0-9a-f]{8}")
ITEM = ("item", "method", "targets", "id", "question", "answer", "output")  # all texts
COLUMNS = ("rater", "item", "showing", *SCALES)  # of an export


def make_study(records: pd.DataFrame, folder: str | Path, *, per_method: int = 20) -> Path:
    """Draw ``per_method`` outputs to forgotten questions of every method (the same questions for all) as items.

    ``records``: rows of one forget set, with ``method, targets, set, id, question, answer, output``. Raises
    `RatingError` where the folder has a study already, or the records have no forgotten questions.
    """
    folder = Path(folder)
    if (folder / "items.json").exists():
        raise RatingError(f"{folder} holds a study already: choose another folder, or go on with that one.")
    rows = records[(records["set"] == "forget") & (records["method"] != "base")]
    if rows.empty:
        raise RatingError("the records have no forgotten questions of a patched model: there is nothing to rate.")
    ids = sorted(set(rows["id"]))
    items, sample = [], random.Random(0).sample(ids, min(per_method, len(ids)))
    for row in rows[rows["id"].isin(sample)].to_dict("records"):
        text = json.dumps([row["method"], row["targets"], row.get("seed"), row["id"], row["output"]])
        row["item"] = hashlib.sha256(text.encode()).hexdigest()[:12]
        items.append({name: str(row[name]) for name in ITEM})
    _write(folder / "items.json", items)
    return folder


def read_items(folder: str | Path) -> list[dict]:
    """The items of a study. Raises `RatingError` where there are none, or the file is not one of ours."""
    where = Path(folder) / "items.json"
    try:
        items = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RatingError(f"{folder}: no study here ({error}). `rating.make_study` makes one.") from error
    if not isinstance(items, list) or not items:
        raise RatingError(f"{where}: a list of items is needed; `rating.make_study` writes one.")
    for number, item in enumerate(items, 1):
        if wrong := [n for n in ITEM if not isinstance(item, dict) or not isinstance(item.get(n), str)]:
            raise RatingError(f"{where}, item {number}: {', '.join(wrong)} missing or no text.")
    if len({item["item"] for item in items}) < len(items):
        raise RatingError(f"{where}: an item stands there twice.")
    return items


class Rater:
    """One person's way through a study: in an order of their own, saved after each answer.

    ``code=None`` starts a new one under a random code; a code that is there goes on where it stopped.
    """

    def __init__(self, folder: str | Path, code: str | None = None):
        self.folder, self.items = Path(folder), {item["item"]: item for item in read_items(folder)}
        self.code = secrets.token_hex(4) if code is None else code
        self.file = self.folder / f"ratings-{self.code}.json"
        anew = "leave the code out to start anew."
        if not CODE.fullmatch(self.code):
            raise RatingError(f"a rater's code has eight characters of 0-9 and a-f, not {code!r}; {anew}")
        if code is not None and not self.file.exists():
            raise RatingError(f"{self.folder} has no rater {code!r}; {anew}")
        rng = random.Random(self.code)
        names = rng.sample(sorted(self.items), len(self.items))
        again = rng.sample(names, max(1, round(DUPLICATES * len(names))))
        self.order = [(name, 1) for name in names]  # item and showing
        for name in again:  # its second showing comes late: at a random place of the last half, behind the first
            first = self.order.index((name, 1))
            self.order.insert(rng.randint(max(first + 1, len(self.order) // 2), len(self.order)), (name, 2))
        self.ratings: list[dict] = read_ratings(self.file, self.items)["ratings"] if self.file.exists() else []

    @property
    def current(self) -> dict | None:
        """Question, answer and output of the item to be rated now, nothing that tells its method; None at the end."""
        if len(self.ratings) >= len(self.order):
            return None
        item = self.items[self.order[len(self.ratings)][0]]
        return {name: item[name] for name in ("question", "answer", "output")}

    def rate(self, forget_quality: int, entailment: int | None = None, trustworthiness: int | None = None) -> None:
        """Rate the current item and save. The two other scales are asked only where forget quality is 1."""
        if self.current is None:
            raise RatingError("every item is rated.")
        others = (None, None) if forget_quality == 0 else (entailment, trustworthiness)
        values = (*self.order[len(self.ratings)], forget_quality, *others)
        rating = dict(zip(COLUMNS[1:], values, strict=True))
        _check_rating(rating, self.items)
        self.ratings.append(rating)
        self._save()

    def undo(self) -> None:
        """Take the last rating back."""
        if self.ratings:
            self.ratings.pop()
            self._save()

    def _save(self) -> None:
        _write(self.file, {"rater": self.code, "consent": CONSENT, "ratings": self.ratings})


def read_ratings(file: Path, items: Collection[str]) -> dict:
    """One rater's file: ``rater`` (a code) and ``ratings``. Raises `RatingError` naming the file and what is wrong.

    Only codes, names of ``items`` and numbers get through, so that nothing in an export can be a formula.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        code, is_code = document["rater"], CODE.fullmatch(document["rater"])
        ratings = [{name: rating[name] for name in COLUMNS[1:]} for rating in document["ratings"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RatingError(f"{file}: not a file of ratings ({type(error).__name__}: {error}).") from error
    if not is_code:
        raise RatingError(f"{file}: {code!r} is no rater's code.")
    for number, rating in enumerate(ratings, 1):
        _check_rating(rating, items, f"{file}, rating {number}: ")
    return {"rater": code, "ratings": ratings}


def _check_rating(rating: Mapping[str, Any], items: Collection[str], where: str = "") -> None:
    """Raise `RatingError` for what is not in the study or on its scale; where the first is 0 the others may be None."""
    if rating["item"] not in list(items):  # a list: it may be no text
        raise RatingError(f"{where}the item {rating['item']!r} is not in this study.")
    if rating["showing"] not in (1, 2):
        raise RatingError(f"{where}showing is 1 or 2, not {rating['showing']!r}.")
    for name, scale in SCALES.items():
        value = rating[name]
        if value is None and name != "forget_quality" and rating["forget_quality"] == 0:
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or value not in scale:
            raise RatingError(f"{where}{name} is a whole number from {scale[0]} to {scale[-1]}, not {value!r}.")


def _write(path: Path, value: Any) -> None:
    files.write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def export_csv(folder: str | Path, file: str | Path) -> Path:
    """All ratings of a study as one CSV: ``rater, item, showing`` and the three scales (empty where not asked).

    Raters' files are checked (`read_ratings`): there is no cell that a spreadsheet would run as a formula.
    """
    items, rows = [item["item"] for item in read_items(folder)], []
    for path in sorted(Path(folder).glob("ratings-*.json")):
        document = read_ratings(path, items)
        rows += [{"rater": document["rater"], **rating} for rating in document["ratings"]]
    frame = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(SCALES, "Int64"))
    files.write(Path(file), frame.to_csv(index=False, lineterminator="\n"))
    return Path(file)


def load_ratings(file: str | Path, items: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The ratings of a CSV, each with its method. Raises `RatingError` naming row and field of what does not fit."""
    try:
        texts = {"rater": str, "item": str}
        frame = pd.read_csv(file, dtype=texts, index_col=False, keep_default_na=False, na_values="")
    except (OSError, ValueError, OverflowError, pd.errors.ParserError) as error:
        raise RatingError(f"{file}: not a CSV of ratings ({error}).") from error
    if missing := [name for name in COLUMNS if name not in frame]:
        raise RatingError(f"{file} lacks the columns {', '.join(missing)}; `rating.export_csv` writes such a file.")
    about = {item["item"]: item for item in items}
    for number, row in enumerate(frame.astype(object).where(frame.notna(), None).to_dict("records"), 2):
        _check_rating(row, about, f"{file}, line {number}: ")
        if row["rater"] is None:
            raise RatingError(f"{file}, line {number}: the rater is missing.")
    return frame[list(COLUMNS)].merge(pd.DataFrame(list(about.values()), columns=ITEM), on="item", how="left")


def analyse(ratings: pd.DataFrame, *, resamples: int = 1000) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means per method and targets with 95 % intervals (bootstrap over items), and how far raters agree.

    The second frame: Krippendorff's alpha of each scale between raters (nominal for forget quality, ordinal for the
    others; NaN with one rater or one value), and the share of hidden duplicates that a rater rated the same.
    """
    first = ratings[ratings["showing"] == 1]
    rng, rows = np.random.default_rng(0), []
    for (method, targets), group in first.groupby(["method", "targets"], sort=False):
        row = {"method": method, "targets": targets, "ratings": len(group), "raters": group["rater"].nunique()}
        for name in SCALES:
            counted = group if name == "forget_quality" else group[group["forget_quality"] == 1]
            of_item = counted.groupby("item")[name].mean().dropna().to_numpy(dtype=float)
            if len(of_item):
                low, high = np.quantile(rng.choice(of_item, (resamples, len(of_item))).mean(1), (0.025, 0.975))
                row |= {name: of_item.mean(), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    agreement = []
    for name in SCALES:
        table = first.pivot_table(index="rater", columns="item", values=name, aggfunc="first").to_numpy(dtype=float)
        level, alpha = "nominal" if name == "forget_quality" else "ordinal", np.nan
        if len(table) > 1 and len(np.unique(table[~np.isnan(table)])) > 1:
            alpha = float(krippendorff.alpha(table, level_of_measurement=level))
        both = ratings.pivot_table(index=["rater", "item"], columns="showing", values=name, aggfunc="first")
        both = both.dropna() if {1, 2} <= set(both.columns) else both.iloc[:0]
        same = float((both[1] == both[2]).mean()) if len(both) else np.nan
        agreement.append({"scale": name, "alpha": alpha, "same when shown twice": same, "shown twice": len(both)})
    return pd.DataFrame(rows), pd.DataFrame(agreement)


def automatic(records: pd.DataFrame, qas: Sequence[QA], model=None, tokenizer=None) -> pd.DataFrame:
    """Rows of ``records`` with the stand-in's columns; it is made by rules and is never called a rating.

    ``gone``: the outcome is not *correct*. ``declines``: `metrics.declined`. ``names``: the subject (rows without one
    have none to name). ``clean``: it names no answer of another fact of the same relation. ``fluent``: the base model
    finds its tokens behind the first likely, at most `FLUENT` nats each on average (without the model: it is not
    `metrics.garbled`). ``points``: how many of the last four hold, 0 where the answer is not gone.
    """
    by_id, kin = {qa.id: qa for qa in qas}, {}
    for qa in qas:
        kin.setdefault(qa.group, set()).add(qa.answer)

    def clean(output: str, qa: QA) -> bool:
        others = kin[qa.group] - {qa.answer}
        return not any(metrics.names_subject(output, other) for other in others if other not in qa.question)

    rows = records[records["id"].isin(by_id)].copy()
    rows["gone"] = rows["outcome"] != "correct"
    rows[["declines", "names"]] = rows[["declined", "names_subject"]].astype(bool).to_numpy()
    rows["clean"] = [clean(output, by_id[i]) for output, i in zip(rows["output"], rows["id"], strict=True)]
    rows["fluent"] = ~rows["output"].map(metrics.garbled) if model is None else _fluent(model, tokenizer, rows)
    rows["points"] = rows[["declines", "names", "clean", "fluent"]].sum(axis=1).where(rows["gone"], 0)
    return rows


def _fluent(model, tokenizer, rows: pd.DataFrame) -> list[bool]:
    pairs = [(question, str(output)) for question, output in zip(rows["question"], rows["output"], strict=True)]
    fluent = dict.fromkeys(pairs, False)
    full = [pair for pair in fluent if pair[1].strip()]
    prompts = [prompt_text(tokenizer, question) for question, _ in full]
    for i, row in answer_scores(model, tokenizer, prompts, [output for _, output in full]):
        logp = row.logits.log_softmax(-1).gather(1, row.ids[:, None]).flatten()  # (T,)
        fluent[full[i]] = len(logp) < 2 or float(-logp[1:].mean()) <= FLUENT
    return [fluent[pair] for pair in pairs]
