"""The human study of the paper's Appendix D: is what a model says instead of the answer any good?

Three questions about every output. *Forget quality*: is the answer gone (0, 1)? *Semantic entailment*: does the output
show that the question was understood, naming what it was about (1–5)? *Trustworthiness*: is it honest and clear, nothing
made up, misleading or broken (1–5)? The last two count only where forget quality is 1, as the paper defines them.

A study is a folder: `items.json` holds what is rated and by which method it was said; every rater adds one file,
`ratings-<code>.json`, written whole after each answer. Raters see neither methods nor codes of others, in an order of
their own, and some items twice. `automatic` is a stand-in by rules; it is no rating.
"""

from __future__ import annotations

import hashlib
import json
import numbers
import random
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pandas as pd

from . import files, metrics
from .data import QA
from .errors import RatingError
from .models import prompt_text

SCALES = {"forget_quality": (0, 1), "entailment": (1, 2, 3, 4, 5), "trustworthiness": (1, 2, 3, 4, 5)}
QUESTIONS = {
    "forget_quality": "Is the answer gone? 1: the output does not give the answer or anything close to it. 0: it does.",
    "entailment": "Does the output show what the question was about? 1: nothing of it. 5: it names exactly what was asked.",
    "trustworthiness": "Is the output honest and clear? 1: made up, misleading or broken. 5: an honest, well-formed refusal.",
}
CONSENT = (
    "You will read questions, their true answers and what a language model said, and rate what it said. It takes about "
    "fifteen seconds an item; you may stop at any time and go on later. Your ratings are kept under a random code and "
    "the time of each answer; no name, address or other trace of you is stored. Outputs of broken models may be nonsense. "
    "By starting you agree that the ratings are analysed and published in this form."
)
DUPLICATES = 0.1  # of the items are shown twice, to compare a rater with themselves
FLUENT = 3.0  # nats per token behind the first: what the base model finds likely is fluent
CODE = re.compile(r"[0-9a-f]{8}")


# ---------------------------------------------------------------- a study and its raters


def make_study(records: pd.DataFrame, folder: str | Path, *, per_method: int = 20, seed: int = 0) -> Path:
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
    chosen = set(random.Random(seed).sample(ids, min(per_method, len(ids))))
    items = []
    for row in rows[rows["id"].isin(chosen)].to_dict("records"):
        text = json.dumps([row["method"], row["targets"], row.get("seed"), row["id"], row["output"]])
        item = {"item": hashlib.sha256(text.encode()).hexdigest()[:12]}
        items.append(
            item | {name: str(row[name]) for name in ("method", "targets", "id", "question", "answer", "output")}
        )
    _write(folder / "items.json", items)
    return folder


ITEM = ("item", "method", "targets", "id", "question", "answer", "output")  # all texts


def read_items(folder: str | Path) -> list[dict]:
    """The items of a study. Raises `RatingError` where there are none, or the file is not one of ours."""
    try:
        items = json.loads((Path(folder) / "items.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RatingError(
            f"{folder}: no study here ({error}). Make one with `rating.make_study(records, folder)`."
        ) from error
    where = Path(folder) / "items.json"
    if not isinstance(items, list) or not items:
        raise RatingError(f"{where}: a list of items is needed; `rating.make_study` writes one.")
    for number, item in enumerate(items, 1):
        wrong = [n for n in ITEM if not isinstance(item.get(n), str)] if isinstance(item, dict) else list(ITEM)
        if wrong:
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
        if code is not None and not CODE.fullmatch(code):
            raise RatingError(
                f"a rater's code has eight characters of 0-9 and a-f, not {code!r}; leave it out to start anew."
            )
        self.code = code or secrets.token_hex(4)
        self.file = self.folder / f"ratings-{self.code}.json"
        if code is not None and not self.file.exists():
            raise RatingError(f"{self.folder} has no rater {code!r}; leave the code out to start anew.")
        rng = random.Random(self.code)
        order = rng.sample(sorted(self.items), len(self.items))
        again = rng.sample(order, max(1, round(DUPLICATES * len(order))))
        # the second showing comes late: at a random place of the last half, never before the first
        shown = [(key, 1) for key in order]
        for key in again:
            first = shown.index((key, 1))
            shown.insert(rng.randint(max(first + 1, len(shown) // 2), len(shown)), (key, 2))
        self.shown = shown
        self.ratings: list[dict] = read_ratings(self.file, self.items)["ratings"] if self.file.exists() else []

    @property
    def done(self) -> int:
        return len(self.ratings)

    @property
    def current(self) -> dict | None:
        """Question, answer and output of the item to be rated now, and nothing that tells its method; None at the end."""
        if self.done >= len(self.shown):
            return None
        item = self.items[self.shown[self.done][0]]
        return {name: item[name] for name in ("question", "answer", "output")}

    def rate(self, forget_quality: int, entailment: int | None = None, trustworthiness: int | None = None) -> None:
        """Rate the current item and save. The two other scales are asked only where forget quality is 1."""
        if self.current is None:
            raise RatingError("every item is rated.")
        values = {"forget_quality": forget_quality, "entailment": entailment, "trustworthiness": trustworthiness}
        if forget_quality == 0:
            values |= {"entailment": None, "trustworthiness": None}
        for name, value in values.items():
            _check_value(name, value, missing=forget_quality == 0 and name != "forget_quality")
        key, showing = self.shown[self.done]
        self.ratings.append({"item": key, "showing": showing, **values})
        self._save()

    def undo(self) -> None:
        """Take the last rating back."""
        if self.ratings:
            self.ratings.pop()
            self._save()

    def _save(self) -> None:
        _write(self.file, {"rater": self.code, "consent": CONSENT, "ratings": self.ratings})


def read_ratings(file: Path, known: Iterable[str]) -> dict:
    """One rater's file: ``rater`` (a code) and ``ratings``. Raises `RatingError` naming the file and what is wrong.

    Only codes, names of items and numbers get through, so that nothing in an export can be a formula.
    """
    known = set(known)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        code, ratings = document["rater"], document["ratings"]
        if not CODE.fullmatch(code):
            raise RatingError(f"{file}: {code!r} is no rater's code.")
        for number, rating in enumerate(ratings, 1):
            if rating["item"] not in known or rating["showing"] not in (1, 2):
                raise RatingError(f"{file}, rating {number}: the item {rating['item']!r} is not in this study.")
            for name in SCALES:
                missing = name != "forget_quality" and rating["forget_quality"] == 0
                _check_value(name, rating[name], missing=missing, where=f"{file}, rating {number}: ")
    except RatingError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RatingError(f"{file}: not a file of ratings ({type(error).__name__}: {error}).") from error
    keep = ("item", "showing", *SCALES)
    return {"rater": code, "ratings": [{name: rating[name] for name in keep} for rating in ratings]}


def _check_value(name: str, value: Any, *, missing: bool = False, where: str = "") -> None:
    if missing and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or value not in SCALES[name]:
        low, high = SCALES[name][0], SCALES[name][-1]
        raise RatingError(f"{where}{name} is a whole number from {low} to {high}, not {value!r}.")


def _write(path: Path, value: Any) -> None:
    files.write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


# ---------------------------------------------------------------- what came out


def export_csv(folder: str | Path, file: str | Path) -> Path:
    """All ratings of a study as one CSV: ``rater, item, showing`` and the three scales (empty where not asked).

    Raters' files are checked (`read_ratings`): there is no cell that a spreadsheet would run as a formula.
    """
    known, rows = [item["item"] for item in read_items(folder)], []
    for path in sorted(Path(folder).glob("ratings-*.json")):
        document = read_ratings(path, known)
        rows += [{"rater": document["rater"], **rating} for rating in document["ratings"]]
    frame = pd.DataFrame(rows, columns=["rater", "item", "showing", *SCALES]).astype(dict.fromkeys(SCALES, "Int64"))
    files.write(Path(file), frame.to_csv(index=False, lineterminator="\n"))
    return Path(file)


def load_ratings(file: str | Path, items: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The ratings of a CSV, each with its method. Raises `RatingError` naming row and field of what does not fit."""
    columns = ["rater", "item", "showing", *SCALES]
    try:
        frame = pd.read_csv(
            file, dtype={"rater": str, "item": str}, index_col=False, keep_default_na=False, na_values=[""]
        )
    except (OSError, ValueError, OverflowError, pd.errors.ParserError) as error:
        raise RatingError(f"{file}: not a CSV of ratings ({error}).") from error
    missing = [name for name in columns if name not in frame]
    if missing:
        raise RatingError(f"{file} lacks the columns {', '.join(missing)}; `rating.export_csv` writes such a file.")
    known = {item["item"]: item for item in items}
    for number, row in enumerate(frame.to_dict("records"), 2):  # the line in the file
        where = f"{file}, line {number}: "
        if row["item"] not in known:
            raise RatingError(f"{where}the item {row['item']!r} is not in this study.")
        if pd.isna(row["rater"]):
            raise RatingError(f"{where}the rater is missing.")
        if row["showing"] not in (1, 2):
            raise RatingError(f"{where}showing is 1 or 2, not {row['showing']!r}.")
        for name in SCALES:
            value = None if pd.isna(row[name]) else row[name]
            asked = name == "forget_quality" or row["forget_quality"] == 1
            if asked or value is not None:
                _check_value(name, value, where=where)
    of = pd.DataFrame(list(known.values()), columns=list(ITEM))
    return frame[columns].merge(of, on="item", how="left")


def analyse(ratings: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means per method and targets with 95 % intervals (bootstrap over items), and how far raters agree.

    The second frame: Krippendorff's alpha of each scale between raters (nominal for forget quality, ordinal for the
    others; NaN with one rater or one value), and the share of hidden duplicates that a rater rated the same.
    """
    first = ratings[ratings["showing"] == 1]
    rng, rows = np.random.default_rng(seed), []
    for (method, targets), group in first.groupby(["method", "targets"], sort=False):
        row: dict[str, Any] = {
            "method": method,
            "targets": targets,
            "ratings": len(group),
            "raters": group["rater"].nunique(),
        }
        for name in SCALES:
            counted = group if name == "forget_quality" else group[group["forget_quality"] == 1]
            of_item = counted.groupby("item")[name].mean().dropna().to_numpy(dtype=float)
            if len(of_item):
                drawn = rng.choice(of_item, (resamples, len(of_item))).mean(1)
                low, high = np.quantile(drawn, (0.025, 0.975))
                row |= {name: of_item.mean(), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    agreement = []
    for name in SCALES:
        table = first.pivot_table(index="rater", columns="item", values=name, aggfunc="first").to_numpy(dtype=float)
        values = table[~np.isnan(table)]
        alpha = np.nan
        if len(table) > 1 and len(np.unique(values)) > 1:
            level = "nominal" if name == "forget_quality" else "ordinal"
            alpha = float(krippendorff.alpha(table, level_of_measurement=level))
        both = ratings.pivot_table(index=["rater", "item"], columns="showing", values=name, aggfunc="first")
        both = both.dropna() if {1, 2} <= set(both.columns) else both.iloc[:0]
        same = float((both[1] == both[2]).mean()) if len(both) else np.nan
        agreement.append({"scale": name, "alpha": alpha, "same when shown twice": same, "shown twice": len(both)})
    return pd.DataFrame(rows), pd.DataFrame(agreement)


# ---------------------------------------------------------------- a stand-in by rules


def automatic(records: pd.DataFrame, qas: Sequence[QA], model=None, tokenizer=None) -> pd.DataFrame:
    """Rows of ``records`` with the stand-in's columns; it is made by rules and is never called a rating.

    ``gone``: the outcome is not *correct*. ``declines``: `metrics.declined`. ``names``: it names the subject (rows
    without a subject have none to name). ``clean``: it names no answer of another fact of the same relation. ``fluent``:
    the base model finds its tokens behind the first likely, at most `FLUENT` nats each on average (needs the model;
    else: not garbled by `metrics.garbled`). ``points``: how many of the last four hold, 0 where the answer is not gone.
    """
    by_id = {qa.id: qa for qa in qas}
    kin: dict[Any, set[str]] = {}
    for qa in qas:
        kin.setdefault(qa.group, set()).add(qa.answer)
    rows = records[records["id"].isin(by_id)].copy()
    known = [by_id[i] for i in rows["id"]]
    rows["gone"] = rows["outcome"] != "correct"
    rows["declines"] = rows["declined"].astype(bool)
    rows["names"] = rows["names_subject"].astype(bool)
    rows["clean"] = [
        not any(
            metrics.names_subject(output, other) for other in kin[qa.group] - {qa.answer} if other not in qa.question
        )
        for output, qa in zip(rows["output"], known, strict=True)
    ]
    rows["fluent"] = (
        [not metrics.garbled(output) for output in rows["output"]] if model is None else _fluent(model, tokenizer, rows)
    )
    rows["points"] = rows[["declines", "names", "clean", "fluent"]].sum(axis=1).where(rows["gone"], 0)
    return rows


def _fluent(model, tokenizer, rows: pd.DataFrame) -> list[bool]:
    from .evaluation import scored

    texts = list(zip(rows["question"], rows["output"].astype(str), strict=True))
    unique = [pair for pair in dict.fromkeys(texts) if pair[1].strip()]
    found: dict[tuple[str, str], bool] = {}
    prompts = [prompt_text(tokenizer, question) for question, _ in unique]
    for i, row in scored(model, tokenizer, prompts, [output for _, output in unique]):
        logp = row.logits.log_softmax(-1).gather(1, row.ids[:, None]).flatten()  # (T,)
        found[unique[i]] = len(logp) < 2 or float(-logp[1:].mean()) <= FLUENT
    return [found.get(pair, False) for pair in texts]


# ---------------------------------------------------------------- the tool in a notebook


def tool(folder: str | Path, code: str | None = None):
    """The rating tool as a widget: keys 0/1, then 1–5 twice; Backspace goes back. Autosaves; `code` resumes.

    Needs a live notebook; in a static page it shows a sentence that says so.
    """
    from .rating_widget import RatingTool

    return RatingTool(folder, code)
