"""The checks of the workshop: they tell a learner what to look at next.

A check never computes the exercise: it reads what the learner has made and gives a `Verdict`, which a notebook shows.
It raises nothing, whatever it is given, and no message holds an answer. A part that is still ``...`` is named as such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import pandas as pd
import torch
from torch.nn.functional import cosine_similarity, logsigmoid

from editunlearn_lib import metrics
from editunlearn_lib.attacks import ATTACKS
from editunlearn_lib.data import QA
from editunlearn_lib.methods import METHODS
from editunlearn_lib.patch import Patch
from editunlearn_lib.show import answer_words

from .exercises import review
from .verdict import Verdict, kind, not_yet, result_of, textless, trouble_with_records, unfilled, verdict

SIZES = (1, 2, 5)  # questions in one edit, exercise 2
# What is asked of a learner's result. Each was set from runs of the pocket, with room below what the solution reaches.
FORGET_AT_MOST, RETAIN_AT_LEAST = 0.6, 0.7  # ROUGE-1 recall, exercise 1
REFUSED_AT_LEAST = 0.5  # share of the forgotten questions, exercise 3
BACK_AT_LEAST = 0.5  # share of the answers, exercise 4
BACK = 0.5  # ROUGE-1 recall from which an answer counts as back
BETA = 0.1
_EDIT_KEY_REASON = "b"


def _recall(rows: pd.DataFrame) -> pd.Series:
    return pd.to_numeric(rows["rouge1_recall"], errors="coerce")


# ---------------------------------------------------------------- 1: break a model


def check_1(stopped: Any) -> Verdict:
    """Records of a model that has forgotten (recall on forget ≤ `FORGET_AT_MOST`) and knows the others still
    (retain ≥ `RETAIN_AT_LEAST`).
    """
    if trouble := trouble_with_records(stopped, "stopped", ("set", "rouge1_recall")):
        return not_yet(trouble)
    if absent := [name for name in ("forget", "retain") if not (stopped["set"] == name).any()]:
        lacks = f"`stopped` has no questions of the set {' and '.join(absent)}."
        return not_yet(f"{lacks} Forgetting means little without keeping: ask both.")
    forget, retain = (float(_recall(stopped[stopped["set"] == name]).mean()) for name in ("forget", "retain"))
    if math.isnan(forget + retain):
        return not_yet("The column `rouge1_recall` of `stopped` holds no numbers.")
    if forget > FORGET_AT_MOST and retain < RETAIN_AT_LEAST:
        return not_yet(
            f"It still knows {forget:.2f} of the forget set and has lost what it should keep (retain {retain:.2f}). "
            "Is this a run of GA on `split`?"
        )
    if forget > FORGET_AT_MOST:
        return not_yet(
            f"Stopped too early: recall on the forget set is {forget:.2f}, and at most {FORGET_AT_MOST} is asked. It "
            f"keeps everything (retain {retain:.2f}), so there is room: a few more epochs, or larger steps."
        )
    if retain < RETAIN_AT_LEAST:
        return not_yet(
            f"Gone too far: of what should be kept {retain:.2f} is left, and at least {RETAIN_AT_LEAST} is asked. Look "
            "at the outcomes: how does it answer now? Stop earlier, or take smaller steps so that you can stop more "
            "finely."
        )
    return Verdict(
        True,
        (
            f"Forget {forget:.2f}, retain {retain:.2f}: you stopped in time. How wide was the window? Try one epoch "
            "more and one less.",
        ),
    )


# ---------------------------------------------------------------- 2: merge queries


def check_2(patches: Any, nearness: Any = None, why: Any = None) -> Verdict:
    """``patches``: m → patch; ``nearness(lone, merged, m)`` → cosines (n,); ``why``: a letter. None is left out."""
    notes = _merged_patches(patches)
    if nearness is not None:
        notes += _nearness(nearness)
    if why is not None:
        notes += _reason(why)
    parts = sum(part is not None for part in (patches, nearness, why))
    praise = "All three parts hold." if parts == 3 else f"{parts} of 3 parts so far, and all as they should be."
    return verdict(notes, praise)


def _merged_patches(patches: Any) -> list[str]:
    if unfilled(list(patches.values()) if isinstance(patches, Mapping) else patches):
        return ["`merged(m)` is not filled in yet: let it return a patch in place of the `...`."]
    if not isinstance(patches, Mapping):
        return [f"`patches` should be a dict from m to a patch, and is {kind(patches)}."]
    notes = [f"There is no patch for m = {m}." for m in SIZES if m not in patches]
    for m, patch in patches.items():
        if not isinstance(patch, Patch):
            notes.append(f"For m = {m} there is {kind(patch)}; `merged` should return what `eu.unlearn` gives.")
            continue
        method, merge = patch.info.get("method"), patch.info.get("merge")
        if method not in METHODS or not METHODS[method].merges:
            notes.append(f"For m = {m} the patch is of `{method}`, which cannot merge. Take MEMIT or ROME.")
        elif merge != m:
            joined = f"the patch joined {merge} question{'s' * (merge != 1)} in an edit"
            notes.append(f"For m = {m} {joined}. Does `merged` pass its m on?")
    return notes


def _nearness(nearness: Any) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    lone, merged, m = torch.randn(6, 5, generator=generator), torch.randn(3, 5, generator=generator), 2
    result, trouble = result_of("nearness", nearness, lone.clone(), merged.clone(), m)
    if trouble:
        return [trouble]
    try:
        values = torch.as_tensor(result).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError):
        return [f"`nearness` should return a tensor of cosines, and returned {kind(result)}."]
    if tuple(values.shape) != (6,):
        shape = f"shape (6,) for six questions, not {tuple(values.shape)}"
        return [f"`nearness` should return one number per question, {shape}."]

    def same(other: torch.Tensor) -> bool:
        return torch.allclose(values, other.double(), atol=1e-4)

    own = merged.repeat_interleave(m, 0)
    if same(cosine_similarity(lone, own)):
        return []
    if same(cosine_similarity(lone, merged.repeat(m, 1))):
        return [
            "The cosines are cosines, but the pairs are not the ones asked for: with m = 2, questions 0 and 1 are in "
            "edit 0, questions 2 and 3 in edit 1. Which did you pair?"
        ]
    if same((lone * own).sum(1)):
        return [
            "The pairs are right, but these numbers grow with the length of a key; a cosine does not. What is missing?"
        ]
    if values.isnan().any() or values.abs().max() > 1 + 1e-4:
        return [
            "A cosine lies between −1 and 1; yours do not. Are both lengths divided by, each along the last dimension?"
        ]
    return [
        "`nearness` returns other cosines than those between each question's key and the key of its own edit. Try it "
        "by hand: with m = 1 and `merged = lone` every cosine is 1."
    ]


def _reason(why: Any) -> list[str]:
    if why is ...:
        return ["`why` is not filled in yet: look at the table, then give a letter."]
    letter = why.strip().strip("()").lower() if isinstance(why, str) else ""
    looks = {
        "a": "For (a), look at the row m = 1: the same kind of refusal was the target there.",
        "c": "For (c), look at `eu.METHODS['memit'].reads_retain`: what does MEMIT know of the retain set?",
        "d": "For (d), print `patches[5].info['log'][0]['question']`: is anything left out of the text?",
    }
    if letter == _EDIT_KEY_REASON:
        return []
    return [looks.get(letter, "`why` should be one of the letters 'a', 'b', 'c' and 'd', in quotes.")]


# ---------------------------------------------------------------- 3: write refusals


def check_3(targets: Any, forget: Sequence[QA], records: Any = None) -> Verdict:
    """One refusal per question that declines, names the subject and leaks no word of the answer; with ``records``, what
    came of them.
    """
    if unfilled(targets):
        return not_yet("`my_refusal` is not filled in yet: let it return a sentence in place of the `...`.")
    if not isinstance(targets, (list, tuple)):
        return not_yet(f"`targets` should be a list with one sentence per question, and is {kind(targets)}.")
    if len(targets) != len(forget):
        return not_yet(f"`targets` has {len(targets)} sentences for {len(forget)} questions.")
    if rows := textless(targets):
        return not_yet(f"{_numbers(rows)}: no text there, but {kind(targets[rows[0]])}. Each target is a sentence.")
    table = review(targets, forget)
    faults = {
        "does not decline. Say in plain words that you do not know, cannot or would rather not tell": ~table[
            "declines"
        ],
        "does not name the subject (`qa.subject`), so it would fit any question": ~table["names the subject"],
        "holds a word of the true answer that the question does not have": table["leaked words"] > 0,
    }
    notes = [f"{_numbers(list(table.index[bad]))}: {fault}." for fault, bad in faults.items() if bad.any()]
    praise = "All of them decline, name the subject and leak nothing."
    if not notes and records is not None:
        notes += _refused(records)
        praise += " And the edited model has learnt to refuse by name."
    return verdict(notes, praise)


def _refused(records: Any) -> list[str]:
    if trouble := trouble_with_records(records, "records", ("set", "outcome", "names_subject")):
        return [trouble]
    forget = records[records["set"] == "forget"]
    if not len(forget):
        return ["`records` has no questions of the set forget."]
    share = float(((forget["outcome"] == "refusal") & forget["names_subject"].astype(bool)).mean())
    if share >= REFUSED_AT_LEAST:
        return []
    return [
        f"Your sentences are fine, but the model did not learn to say them: {share:.0%} of the forgotten questions get "
        f"a refusal that names the subject, and {REFUSED_AT_LEAST:.0%} is asked. How does this model refuse when it "
        "really does not know something? Stay nearer to that."
    ]


def _numbers(rows: Sequence[int]) -> str:
    """Which rows, from 0 as Python counts."""
    return f"Target{'s' * (len(rows) > 1)} " + ", ".join(map(str, rows[:5])) + (" …" if len(rows) > 5 else "")


# ---------------------------------------------------------------- 4: attack


def check_4(came_back: Any, frames: Any = None, outputs: Any = None, forget: Sequence[QA] = ()) -> Verdict:
    """An attack that brings half of the answers back, and questions in a frame of one's own that do the same."""
    notes = _attack(came_back)
    if frames is not None:
        notes += _frames(frames, outputs, forget)
    how = ", by the attack and by your own words." if frames is not None else "."
    return verdict(notes, f"Half of the answers or more are back{how} Suppressed, then, not erased.")


def _attack(came_back: Any) -> list[str]:
    if trouble := trouble_with_records(came_back, "came_back", ("attack", "rouge1_recall")):
        return [trouble]
    rows = came_back[came_back["attack"].isin(set(ATTACKS) - {"plain"})]
    if not len(rows):
        plain = "`came_back` holds no attack but asking plainly, as the fact was forgotten."
        return [f"{plain} `attacks.ATTACKS` lists eight others."]
    shares = (_recall(rows) >= BACK).groupby(rows["attack"]).mean()
    if shares.max() >= BACK_AT_LEAST:
        return []
    return [
        f"The best you tried, `{shares.idxmax()}`, brings {shares.max():.0%} of the answers back; {BACK_AT_LEAST:.0%} "
        "is asked. Which attacks change the question, which the weights, and which the beginning of the answer? Try "
        "one of another kind."
    ]


def _frames(frames: Any, outputs: Any, forget: Sequence[QA]) -> list[str]:
    if unfilled(frames):
        return ["`my_frame` is not filled in yet: let it return a prompt in place of the `...`."]
    if not isinstance(frames, (list, tuple)) or len(frames) != len(forget):
        return [f"`frames` should be a list of {len(forget)} prompts, one per question."]
    if rows := textless(frames):
        return [f"`my_frame` should return a text; for question {rows[0]} it returned {kind(frames[rows[0]])}."]
    pairs, notes = list(zip(frames, forget, strict=True)), []
    if any(text.strip() == qa.question.strip() for text, qa in pairs):
        notes.append("`my_frame` returns the plain question. Put something around it, or ask it in another way.")
    if any(qa.subject and not metrics.names_subject(text, qa.subject) for text, qa in pairs):
        notes.append("Not every prompt names its subject any more: then it is another question.")
    if any(answer_words(text, qa.answer, qa.question) for text, qa in pairs):
        notes.append("A prompt holds a word of its true answer. Then the answer comes from you, not from the model.")
    if notes:
        return notes
    texts = isinstance(outputs, (list, tuple)) and all(isinstance(output, str) for output in outputs)
    if not texts or len(outputs) != len(frames):
        return [f"`outputs` should be a list of {len(frames)} texts: what the patched model says to each prompt."]
    back = [metrics.rouge1_recall(text, qa.answer) >= BACK for text, qa in zip(outputs, forget, strict=True)]
    share = sum(back) / len(back)
    if share >= BACK_AT_LEAST:
        return []
    return [
        f"Your frame brings {share:.0%} of the answers back; {BACK_AT_LEAST:.0%} is asked. GRACE compares one key: the "
        "one at the end of the prompt. How can you move the end away from where it was?"
    ]


# ---------------------------------------------------------------- 5: a method of one's own


def check_5(loss: Any, name: str = "my_npo") -> Verdict:
    """``loss(now, before, beta)``: NPO's, of log-probabilities (B,); ``name``: registered, with a dataclass config."""
    notes = _npo(loss)
    if name not in METHODS:
        notes.append(f"No method is registered as `{name}` yet: call `register` in the cell marked TODO.")
    else:
        notes += _registration(METHODS[name], name)
    return verdict(notes, f"The loss is NPO's, and `eu.unlearn(…, method='{name}')` knows it.")


def _npo(loss: Any) -> list[str]:
    before, start = torch.tensor([-1.0, -5.0, -3.0, -4.0]), torch.tensor([-2.0, -5.0, -9.0, -0.5])
    now = start.clone().requires_grad_()
    result, trouble = result_of("npo_loss", loss, now, before, BETA)
    if trouble:
        return [trouble]
    if not isinstance(result, torch.Tensor):
        returned = f"`npo_loss` should return a tensor, and returned {kind(result)}."
        return [f"{returned} With `.item()` or numpy the gradient is lost."]
    if result.ndim:
        returned = f"`npo_loss` should return one number for the batch, and returned the shape {tuple(result.shape)}."
        return [f"{returned} What is E over the forget set?"]
    if not result.requires_grad:
        return ["`npo_loss` has no gradient with respect to `now`. Does it use `now`, without `detach` and `no_grad`?"]
    right, value = float(_reference(start, before, BETA)), float(result.detach())
    (gradient,) = torch.autograd.grad(result, now, allow_unused=True)
    if gradient is None or not math.isfinite(value):
        return [
            "`npo_loss` is not a finite number with a gradient with respect to `now`. Look at which logarithm is taken "
            "of what."
        ]
    if math.isclose(value, right, rel_tol=1e-4):
        return _npo_elsewhere(loss, gradient, start, before)
    if bool((gradient < 0).any()):
        return [
            "Minimising this makes the true answers *more* likely: the gradient with respect to `now` is negative. "
            "Check the signs, in front of the logarithm and inside σ."
        ]
    again, reference = result_of("npo_loss", loss, before, start, BETA)[0], float(_reference(before, start, BETA))
    if isinstance(again, torch.Tensor) and math.isclose(value / right, float(again) / reference, rel_tol=1e-3):
        return [
            "The shape of the loss is right, but it is off by a constant factor. What stands in front of the "
            "expectation, and is it a mean?"
        ]
    return [
        "The sign is right, but not the value. At `now == before` the loss should be 2/β · log 2; what is yours? Then "
        "go through the formula from the inside: the log ratio, times what, through which function?"
    ]


def _npo_elsewhere(loss: Any, gradient: torch.Tensor, start: torch.Tensor, before: torch.Tensor) -> list[str]:
    """A loss whose value is right at one place: is it elsewhere, too?"""
    if bool((gradient <= 0).any()):
        return ["The value is right, but the gradient does not lower `now`. Is some part of it detached?"]
    extreme = result_of("npo_loss", loss, torch.tensor([0.0]), torch.tensor([-3e4]), 1.0)[0]
    if not (isinstance(extreme, torch.Tensor) and bool(torch.isfinite(extreme).all())):
        return [
            "Right for small numbers, but it overflows for large ones: torch has a function that takes σ and its "
            "logarithm in one step."
        ]
    other = result_of("npo_loss", loss, start, before, 0.5)[0]
    right = float(_reference(start, before, 0.5))
    if not isinstance(other, torch.Tensor) or not math.isclose(float(other), right, rel_tol=1e-4):
        return ["Right for β = 0.1 only: `beta` stands in the formula twice."]
    return []


def _reference(now: torch.Tensor, before: torch.Tensor, beta: float) -> torch.Tensor:
    return -2 / beta * logsigmoid(-beta * (now - before)).mean()


def _registration(method: Any, name: str) -> list[str]:
    config = method.config
    if not (isinstance(config, type) and is_dataclass(config)) or not config.__dataclass_params__.frozen:
        return [f"The config of `{name}` should be a frozen dataclass, the class itself and not an instance."]
    if not hasattr(config, "beta"):
        return [f"The config of `{name}` has no field `beta`."]
    if not callable(method.run):
        return [f"What runs `{name}` should be a function of a job, and is {kind(method.run)}."]
    return []
