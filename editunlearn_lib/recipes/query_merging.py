"""Query merging: m forget questions joined into one edit, so that n questions make n/m edits (the paper, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pandas as pd
import torch

from ..data import QA, ForgetSplit
from ..methods.positions import lookup, vectors_at
from ..methods.registry import Request
from ..models import down

log = logging.getLogger(__name__)


def merge_requests(forget: Sequence[QA], targets: Sequence[str], m: int) -> tuple[Request, ...]:
    """Join every m questions in their order by a space; the last group is smaller where m does not divide n.

    The merged edit's key is at the last question's subject.
    """
    if len(forget) % m:
        log.warning("merge=%d does not divide %d questions: the last group has %d.", m, len(forget), len(forget) % m)
    return tuple(_joined(group, target) for group, target in zip(_groups(forget, m), targets, strict=True))


def _groups(forget: Sequence[QA], m: int) -> list[Sequence[QA]]:
    return [forget[i : i + m] for i in range(0, len(forget), m)]


def _joined(group: Sequence[QA], target: str = "") -> Request:
    question, subjects = " ".join(qa.question for qa in group), tuple(qa.subject for qa in group if qa.subject)
    return Request(tuple(qa.id for qa in group), question, target, subjects)


def key_cosines(
    model, tokenizer, split: ForgetSplit, layer: int, sizes: Sequence[int] = (2, 4, 5, 8, 10)
) -> pd.DataFrame:
    """How near the key of a forgotten question lies to other keys: ``compared, cosine``, means over the questions.

    The keys are read at one layer, at the last subject: of each question alone, of its first rephrasing, and of the texts
    that join m questions. The mean key is subtracted, so that 0 means "no nearer than any two keys".
    """

    def keys(groups: Sequence[Sequence[QA]]) -> torch.Tensor:  # (groups, d_ffn)
        requests = [_joined(group) for group in groups]
        texts = lookup(tokenizer, requests, "{}", "chat", "subject_last", targets=False)
        return vectors_at(model, down(model, layer), texts, inputs=True)

    def row(compared: str, left: torch.Tensor, right: torch.Tensor) -> dict:
        cosine = torch.cosine_similarity(left - mean, right - mean)
        return {"compared": compared, "cosine": float(cosine.mean())}

    n, ids = len(split.forget), [qa.id for qa in split.forget]
    alone = keys(_groups(split.forget, 1))
    mean = alone.mean(0)
    reworded = [qa for qa in split.rephrased if qa.variant == 1]
    rows = [row("another forgotten question", alone, alone.roll(1, 0))]
    if reworded:
        same = alone[[ids.index(qa.id) for qa in reworded]]
        rows.insert(0, row("the same question in other words", same, keys(_groups(reworded, 1))))
    for m in sizes:
        merged = keys(_groups(split.forget, m))
        last = [min(start + m, n) - 1 for start in range(0, n, m)]
        others = [i for i in range(n) if i not in last]
        rows.append(row(f"m = {m}: the merged text and its last question", alone[last], merged))
        rows.append(
            row(f"m = {m}: the merged text and its other questions", alone[others], merged[[i // m for i in others]])
        )
    return pd.DataFrame(rows)
