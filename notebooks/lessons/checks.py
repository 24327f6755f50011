"""The workshop's questions, and checks that tell a learner what to look at next.

A check never computes the exercise: it reads what the learner has made and gives a `Verdict`, which a notebook shows.
It raises nothing, whatever it is given, and no message holds an answer. A part that is still ``...`` is named as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import pandas as pd
import torch

from . import metrics
from .attacks import ATTACKS
from .charts import answer_words
from .data import QA, ForgetSplit, load_split
from .hparams import resolve
from .methods import METHODS, locate
from .models import down
from .page import OUTCOMES
from .patch import Patch
from .recipes.query_merging import merge_requests

SIZES = (1, 2, 5)  # questions in one edit, exercise 2
# What is asked of a learner's result. Each was set from runs of the pocket, with room below what the solution reaches.
FORGET_AT_MOST, RETAIN_AT_LEAST = 0.6, 0.7  # ROUGE-1 recall, exercise 1
REFUSED_AT_LEAST = 0.5  # share of the forgotten questions, exercise 3
BACK_AT_LEAST = 0.5  # share of the answers, exercise 4
BACK = 0.5  # ROUGE-1 recall from which an answer counts as back
BETA = 0.1
_EDIT_KEY_REASON = "b"


@dataclass(frozen=True)
class Verdict:
    """What a check has found; true where nothing is left to do. A notebook shows ``notes`` as a list."""

    right: bool
    notes: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.right

    def _repr_markdown_(self) -> str:
        return f"**{'Right.' if self.right else 'Not yet.'}**\n\n" + "\n".join(f"- {note}" for note in self.notes)

    def __repr__(self) -> str:
        return f"{'Right.' if self.right else 'Not yet.'} " + " ".join(self.notes)


# ---------------------------------------------------------------- what all exercises share


def questions(*, n_forget: int = 10, n_retain: int = 30, seed: int = 102) -> ForgetSplit:
    """Ten built-in facts to forget, their rewordings, and thirty others to keep: few, so that a laptop asks them in seconds.

    The seed is none that the book reports.
    """
    split = load_split("factual", n_forget=n_forget, seed=seed)
    return replace(split, retain=split.retain[:n_retain], unseen=())


def outcomes(records: pd.DataFrame) -> pd.DataFrame:
    """Per set: ROUGE-1 recall, and the share of each outcome in per cent."""
    groups = records.groupby("set", sort=False)
    shares = (
        groups["outcome"].value_counts(normalize=True).unstack(fill_value=0).reindex(columns=OUTCOMES, fill_value=0)
    )
    shares = shares.mul(100).round().astype(int).add_suffix(" %")
    return shares.assign(rouge1_recall=groups["rouge1_recall"].mean().round(2)).reindex(groups.groups)


def keys(model, tokenizer, qas: Sequence[QA], m: int = 1) -> torch.Tensor:
    """``(groups, d_ffn)``: the keys at MEMIT's first layer when every m questions are one text, minus the mean key.

    A key is the input of the layer's down projection at the last token of the (last) subject. The mean is that of the
    single questions' keys, so a cosine of 0 means "no nearer than any two keys".
    """
    layer = resolve("memit", METHODS["memit"].config, model.config, None).layers[0]

    def read(size: int) -> torch.Tensor:
        requests = merge_requests(qas, ["x"] * -(-len(qas) // size), size)  # the target is not read
        places = locate.lookup(tokenizer, requests, "{}", "chat", "subject_last", targets=False)
        return locate.read(model, down(model, layer), places, inputs=True)

    alone = read(1)
    return (alone if m == 1 else read(m)) - alone.mean(0)


def review(texts: Sequence[str], qas: Sequence[QA]) -> pd.DataFrame:
    """One row per text: does it decline, does it name the subject, how many words of the answer does it leak?"""
    return pd.DataFrame(
        [
            {
                "question": qa.question,
                "text": text,
                "declines": metrics.declined(text),
                "names the subject": metrics.names_subject(text, qa.subject) if qa.subject else True,
                "leaked words": len(answer_words(text, qa.answer, qa.question)),
            }
            for text, qa in zip(texts, qas, strict=True)
        ]
    )


def _verdict(notes: Iterable[str], praise: str) -> Verdict:
    notes = tuple(notes)
    return Verdict(not notes, notes or (praise,))


def _kind(value: Any) -> str:
    return "`None` (is a `return` missing?)" if value is None else f"a `{type(value).__name__}`"


def _records(value: Any, name: str, columns: Sequence[str]) -> str | None:
    """What is wrong with a value that should be records; None if nothing is."""
    if value is ...:
        return f"`{name}` is not filled in yet: put your own code in place of the `...` in the cell marked TODO."
    if isinstance(value, Patch):
        return f"`{name}` is a patch. Switch it on and ask the questions: the check reads the answers, not the patch."
    if not isinstance(value, pd.DataFrame):
        return f"`{name}` should be a table of records, one row per question, and is {_kind(value)}."
    missing = [column for column in columns if column not in value]
    if missing:
        return f"`{name}` lacks the columns {', '.join(missing)}. Was it summarised already? The check needs one row per question."
    if not len(value):
        return f"`{name}` has no rows: nothing was asked."
    return None


def _recall(rows: pd.DataFrame) -> pd.Series:
    return pd.to_numeric(rows["rouge1_recall"], errors="coerce")


# ---------------------------------------------------------------- 1: break a model


def check_1(stopped: Any) -> Verdict:
    """Records of a model that has forgotten (recall on forget ≤ `FORGET_AT_MOST`) and kept (retain ≥ `RETAIN_AT_LEAST`)."""
    trouble = _records(stopped, "stopped", ("set", "rouge1_recall"))
    if trouble:
        return Verdict(False, (trouble,))
    absent = [name for name in ("forget", "retain") if not (stopped["set"] == name).any()]
    if absent:
        return Verdict(
            False,
            (
                f"`stopped` has no questions of the set {' and '.join(absent)}. Forgetting means little without keeping: ask both.",
            ),
        )
    forget, retain = (float(_recall(stopped[stopped["set"] == name]).mean()) for name in ("forget", "retain"))
    if math.isnan(forget + retain):
        return Verdict(False, ("The column `rouge1_recall` of `stopped` holds no numbers.",))
    notes = []
    if forget > FORGET_AT_MOST and retain < RETAIN_AT_LEAST:
        notes.append(
            f"It still knows {forget:.2f} of the forget set and has lost what it should keep (retain {retain:.2f}). Is this a run of GA on `split`?"
        )
    elif forget > FORGET_AT_MOST:
        notes.append(
            f"Stopped too early: recall on the forget set is {forget:.2f}, and at most {FORGET_AT_MOST} is asked. It keeps everything (retain {retain:.2f}), so there is room: a few more epochs, or larger steps."
        )
    elif retain < RETAIN_AT_LEAST:
        notes.append(
            f"Gone too far: of what should be kept {retain:.2f} is left, and at least {RETAIN_AT_LEAST} is asked. Look at the outcomes: how does it answer now? Stop earlier, or take smaller steps so that you can stop more finely."
        )
    return _verdict(
        notes,
        f"Forget {forget:.2f}, retain {retain:.2f}: you stopped in time. How wide was the window? Try one epoch more and one less.",
    )


# ---------------------------------------------------------------- 2: merge queries


def check_2(patches: Any, nearness: Any = None, why: Any = None) -> Verdict:
    """``patches``: m → patch; ``nearness(lone, merged, m)`` → (n,) cosines; ``why``: a letter. What is None is not looked at."""
    notes = _merged_patches(patches)
    if nearness is not None:
        notes += _nearness(nearness)
    if why is not None:
        notes += _reason(why)
    parts = sum(part is not None for part in (patches, nearness, why))
    return _verdict(
        notes, "All three parts hold." if parts == 3 else f"{parts} of 3 parts so far, and all as they should be."
    )


def _merged_patches(patches: Any) -> list[str]:
    if patches is ... or (isinstance(patches, Mapping) and patches and all(p is ... for p in patches.values())):
        return ["`merged(m)` is not filled in yet: let it return a patch in place of the `...`."]
    if not isinstance(patches, Mapping):
        return [f"`patches` should be a dict from m to a patch, and is {_kind(patches)}."]
    notes = [f"There is no patch for m = {m}." for m in SIZES if m not in patches]
    for m, patch in patches.items():
        if not isinstance(patch, Patch):
            notes.append(f"For m = {m} there is {_kind(patch)}; `merged` should return what `eu.unlearn` gives.")
            continue
        method, merge = patch.info.get("method"), patch.info.get("merge")
        if method not in METHODS or not METHODS[method].merges:
            notes.append(f"For m = {m} the patch is of `{method}`, which cannot merge. Take MEMIT or ROME.")
        elif merge != m:
            notes.append(
                f"For m = {m} the patch joined {merge} question{'s' * (merge != 1)} in an edit. Does `merged` pass its m on?"
            )
    return notes


def _nearness(nearness: Any) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    lone, merged, m = torch.randn(6, 5, generator=generator), torch.randn(3, 5, generator=generator), 2
    found, trouble = _called("nearness", nearness, lone.clone(), merged.clone(), m)
    if trouble:
        return [trouble]
    try:
        values = torch.as_tensor(found).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError):
        return [f"`nearness` should return a tensor of cosines, and returned {_kind(found)}."]
    if tuple(values.shape) != (6,):
        return [
            f"`nearness` should return one number per question, shape (6,) for six questions, not {tuple(values.shape)}."
        ]
    right = torch.nn.functional.cosine_similarity(lone, merged.repeat_interleave(m, 0)).double()
    if torch.allclose(values, right, atol=1e-4):
        return []
    if torch.allclose(values, torch.nn.functional.cosine_similarity(lone, merged.repeat(m, 1)).double(), atol=1e-4):
        return [
            "The cosines are cosines, but the pairs are not the ones asked for: with m = 2, questions 0 and 1 are in edit 0, questions 2 and 3 in edit 1. Which did you pair?"
        ]
    if torch.allclose(values, (lone * merged.repeat_interleave(m, 0)).sum(1).double(), atol=1e-4):
        return [
            "The pairs are right, but these numbers grow with the length of a key; a cosine does not. What is missing?"
        ]
    if values.isnan().any() or values.abs().max() > 1 + 1e-4:
        return [
            "A cosine lies between −1 and 1; yours do not. Are both lengths divided by, each along the last dimension?"
        ]
    return [
        "`nearness` returns other cosines than those between each question's key and the key of its own edit. Try it by hand: with m = 1 and `merged = lone` every cosine is 1."
    ]


def _reason(why: Any) -> list[str]:
    if why is ...:
        return ["`why` is not filled in yet: look at the table, then give a letter."]
    letter = why.strip().strip("()").lower() if isinstance(why, str) else None
    looks = {
        "a": "For (a), look at the row m = 1: the same kind of refusal was the target there.",
        "c": "For (c), look at `eu.METHODS['memit'].reads_retain`: what does MEMIT know of the retain set?",
        "d": "For (d), print `patches[5].info['log'][0]['question']`: is anything left out of the text?",
    }
    if letter == _EDIT_KEY_REASON:
        return []
    return [looks.get(letter or "", "`why` should be one of the letters 'a', 'b', 'c' and 'd', in quotes.")]


# ---------------------------------------------------------------- 3: write refusals


def check_3(targets: Any, forget: Sequence[QA], records: Any = None) -> Verdict:
    """One refusal per question that declines, names the subject and leaks no word of the answer; with ``records``, what came of them."""
    if targets is ... or (isinstance(targets, (list, tuple)) and targets and all(t is ... for t in targets)):
        return Verdict(False, ("`my_refusal` is not filled in yet: let it return a sentence in place of the `...`.",))
    if isinstance(targets, str) or not isinstance(targets, (list, tuple)):
        return Verdict(False, (f"`targets` should be a list with one sentence per question, and is {_kind(targets)}.",))
    if len(targets) != len(forget):
        return Verdict(False, (f"`targets` has {len(targets)} sentences for {len(forget)} questions.",))
    no_text = [i for i, text in enumerate(targets) if not isinstance(text, str) or not text.strip()]
    if no_text:
        return Verdict(
            False,
            (f"{_numbers(no_text)}: no text there, but {_kind(targets[no_text[0]])}. Each target is a sentence.",),
        )
    table = review(targets, forget)
    of = {
        "does not decline. Say in plain words that you do not know, cannot or would rather not tell": ~table[
            "declines"
        ],
        "does not name the subject (`qa.subject`), so it would fit any question": ~table["names the subject"],
        "holds a word of the true answer that the question does not have": table["leaked words"] > 0,
    }
    notes = [f"{_numbers(list(table.index[bad]))}: {what}." for what, bad in of.items() if bad.any()]
    if not notes and records is not None:
        trouble = _records(records, "records", ("set", "outcome", "names_subject"))
        if trouble:
            return Verdict(False, (trouble,))
        asked = records[records["set"] == "forget"]
        if not len(asked):
            return Verdict(False, ("`records` has no questions of the set forget.",))
        share = float(((asked["outcome"] == "refusal") & asked["names_subject"].astype(bool)).mean())
        if share < REFUSED_AT_LEAST:
            notes.append(
                f"Your sentences are fine, but the model did not learn to say them: {share:.0%} of the forgotten questions get a refusal that names the subject, and {REFUSED_AT_LEAST:.0%} is asked. How does this model refuse when it really does not know something? Stay nearer to that."
            )
    done = "All of them decline, name the subject and leak nothing."
    return _verdict(notes, done if records is None else done + " And the edited model has learnt to refuse by name.")


def _numbers(rows: Sequence[int]) -> str:
    """Which rows, from 0 as Python counts."""
    shown = ", ".join(map(str, rows[:5])) + (" …" if len(rows) > 5 else "")
    return f"Target{'s' * (len(rows) > 1)} {shown}"


# ---------------------------------------------------------------- 4: attack


def check_4(came_back: Any, frames: Any = None, outputs: Any = None, forget: Sequence[QA] = ()) -> Verdict:
    """An attack that brings half of the answers back, and questions in a frame of the learner's own that do the same."""
    notes = _attacked(came_back)
    if frames is not None:
        notes += _framed(frames, outputs, forget)
    praise = "Half of the answers or more are back" + (
        ", by the attack and by your own words." if frames is not None else "."
    )
    return _verdict(notes, praise + " Suppressed, then, not erased.")


def _attacked(came_back: Any) -> list[str]:
    trouble = _records(came_back, "came_back", ("attack", "rouge1_recall"))
    if trouble:
        return [trouble]
    tried = came_back[came_back["attack"].isin(set(ATTACKS) - {"plain"})]
    if not len(tried):
        return [
            "`came_back` holds no attack but asking plainly, as the fact was forgotten. `attacks.ATTACKS` lists eight others."
        ]
    shares = (_recall(tried) >= BACK).groupby(tried["attack"]).mean()
    if shares.max() >= BACK_AT_LEAST:
        return []
    best = shares.idxmax()
    return [
        f"The best you tried, `{best}`, brings {shares.max():.0%} of the answers back; {BACK_AT_LEAST:.0%} is asked. Which attacks change the question, which the weights, and which the beginning of the answer? Try one of another kind."
    ]


def _framed(frames: Any, outputs: Any, forget: Sequence[QA]) -> list[str]:
    if frames is ... or (isinstance(frames, (list, tuple)) and frames and all(f is ... for f in frames)):
        return ["`my_frame` is not filled in yet: let it return a prompt in place of the `...`."]
    if not isinstance(frames, (list, tuple)) or len(frames) != len(forget):
        return [f"`frames` should be a list of {len(forget)} prompts, one per question."]
    no_text = [i for i, text in enumerate(frames) if not isinstance(text, str) or not text.strip()]
    if no_text:
        return [f"`my_frame` should return a text; for question {no_text[0]} it returned {_kind(frames[no_text[0]])}."]
    pairs = list(zip(frames, forget, strict=True))
    notes = []
    if any(text.strip() == qa.question.strip() for text, qa in pairs):
        notes.append("`my_frame` returns the plain question. Put something around it, or ask it in another way.")
    if any(qa.subject and not metrics.names_subject(text, qa.subject) for text, qa in pairs):
        notes.append("Not every prompt names its subject any more: then it is another question.")
    if any(answer_words(text, qa.answer, qa.question) for text, qa in pairs):
        notes.append("A prompt holds a word of its true answer. Then the answer comes from you, not from the model.")
    if notes:
        return notes
    if (
        not isinstance(outputs, (list, tuple))
        or len(outputs) != len(frames)
        or not all(isinstance(o, str) for o in outputs)
    ):
        return [f"`outputs` should be a list of {len(frames)} texts: what the patched model says to each prompt."]
    back = [metrics.rouge1_recall(text, qa.answer) >= BACK for text, qa in zip(outputs, forget, strict=True)]
    share = sum(back) / len(back)
    if share >= BACK_AT_LEAST:
        return []
    return [
        f"Your frame brings {share:.0%} of the answers back; {BACK_AT_LEAST:.0%} is asked. GRACE compares one key: the one at the end of the prompt. How can you move the end away from where it was?"
    ]


# ---------------------------------------------------------------- 5: a method of one's own


def check_5(loss: Any, name: str = "npo") -> Verdict:
    """``loss(now, before, beta)``: the NPO loss of log-probabilities (B,); ``name``: registered, with a dataclass config."""
    notes = _npo(loss)
    if name not in METHODS:
        notes.append(f"No method is registered as `{name}` yet: call `register` in the cell marked TODO.")
    else:
        notes += _registered(METHODS[name], name)
    return _verdict(notes, f"The loss is NPO's, and `eu.unlearn(…, method='{name}')` knows it.")


def _npo(loss: Any) -> list[str]:
    before = torch.tensor([-1.0, -5.0, -3.0, -4.0])
    start = torch.tensor([-2.0, -5.0, -9.0, -0.5])
    now = start.clone().requires_grad_()
    found, trouble = _called("npo_loss", loss, now, before, BETA)
    if trouble:
        return [trouble]
    if not isinstance(found, torch.Tensor):
        return [
            f"`npo_loss` should return a tensor, and returned {_kind(found)}. With `.item()` or numpy the gradient is lost."
        ]
    if found.ndim:
        return [
            f"`npo_loss` should return one number for the batch, and returned the shape {tuple(found.shape)}. What is E over the forget set?"
        ]
    if not found.requires_grad:
        return ["`npo_loss` has no gradient with respect to `now`. Does it use `now`, without `detach` and `no_grad`?"]
    right = float(_reference(start, before, BETA))
    value = float(found.detach())
    (gradient,) = torch.autograd.grad(found, now, allow_unused=True)
    if gradient is None or not math.isfinite(value):
        return [
            "`npo_loss` is not a finite number with a gradient with respect to `now`. Look at which logarithm is taken of what."
        ]
    if math.isclose(value, right, rel_tol=1e-4):
        if bool((gradient <= 0).any()):
            return ["The value is right, but the gradient does not lower `now`. Is some part of it detached?"]
        extreme = _called("npo_loss", loss, torch.tensor([0.0]), torch.tensor([-3e4]), 1.0)[0]
        if not (isinstance(extreme, torch.Tensor) and bool(torch.isfinite(extreme).all())):
            return [
                "Right for small numbers, but it overflows for large ones: torch has a function that takes σ and its logarithm in one step."
            ]
        other = _called("npo_loss", loss, start, before, 0.5)[0]
        if not math.isclose(float(other), float(_reference(start, before, 0.5)), rel_tol=1e-4):
            return ["Right for β = 0.1 only: `beta` stands in the formula twice."]
        return []
    if bool((gradient < 0).any()):
        return [
            "Minimising this makes the true answers *more* likely: the gradient with respect to `now` is negative. Check the signs, in front of the logarithm and inside σ."
        ]
    again = _called("npo_loss", loss, before, start, BETA)[0]
    if math.isclose(value / right, float(again) / float(_reference(before, start, BETA)), rel_tol=1e-3):
        return [
            "The shape of the loss is right, but it is off by a constant factor. What stands in front of the expectation, and is it a mean?"
        ]
    return [
        "The sign is right, but not the value. At `now == before` the loss should be 2/β · log 2; what is yours? Then go through the formula from the inside: the log ratio, times what, through which function?"
    ]


def _reference(now: torch.Tensor, before: torch.Tensor, beta: float) -> torch.Tensor:
    return -2 / beta * torch.nn.functional.logsigmoid(-beta * (now - before)).mean()


def _registered(method: Any, name: str) -> list[str]:
    config = method.config
    if not (isinstance(config, type) and is_dataclass(config)) or not config.__dataclass_params__.frozen:
        return [f"The config of `{name}` should be a frozen dataclass, the class itself and not an instance."]
    if not hasattr(config, "beta"):
        return [f"The config of `{name}` has no field `beta`."]
    if not callable(method.run):
        return [f"What runs `{name}` should be a function of a job, and is {_kind(method.run)}."]
    return []


def _called(name: str, function: Callable | Any, *arguments: Any) -> tuple[Any, str | None]:
    """What a learner's function returns, and what went wrong if something did."""
    if function is ...:
        return None, f"`{name}` is not filled in yet."
    if not callable(function):
        return None, f"`{name}` should be a function, and is {_kind(function)}. Pass it without calling it."
    try:
        found = function(*arguments)
    except Exception as error:  # a learner's own code may raise anything, and that is what they need to read
        return None, f"`{name}` stops with {type(error).__name__}: {error}"
    if found is ...:
        return None, f"`{name}` is not filled in yet: put your own code in place of the `...`."
    return found, None
