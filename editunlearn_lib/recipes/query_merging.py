"""Query merging: m forget questions joined into one edit: n questions make n/m edits (the paper, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pandas as pd
import torch

from ..data import QA, ForgetSplit
from ..methods.positions import request_keys
from ..methods.registry import Request

log = logging.getLogger(__name__)


def merge_requests(forget: Sequence[QA], targets: Sequence[str], m: int) -> tuple[Request, ...]:
    """Join every m questions in their order by a space; the last group is smaller where m does not divide n.

    The merged edit's key is at the last question's subject.
    """
    if len(forget) % m:
        log.warning("merge=%d does not divide %d questions: the last group has %d.", m, len(forget), len(forget) % m)
    return _join(forget, targets, m)


def _join(forget: Sequence[QA], targets: Sequence[str], m: int) -> tuple[Request, ...]:
    requests, groups = [], [forget[i : i + m] for i in range(0, len(forget), m)]
    for group, target in zip(groups, targets, strict=True):
        question, subjects = " ".join(qa.question for qa in group), tuple(qa.subject for qa in group if qa.subject)
        requests.append(Request(tuple(qa.id for qa in group), question, target, subjects))
    return tuple(requests)


def key_cosines(
    model, tokenizer, split: ForgetSplit, layer: int, sizes: Sequence[int] = (2, 4, 5, 8, 10)
) -> pd.DataFrame:
    """How near the key of a forgotten question lies to other keys: ``compared, cosine``, means over the questions.

    The keys are read at one layer, at the last subject: of each question alone, of its first rephrasing, and of texts
    that join m questions. The mean key is subtracted, so that 0 means "no nearer than any two keys".
    """

    def keys(qas: Sequence[QA], m: int = 1) -> torch.Tensor:  # (groups, d_ffn)
        requests = _join(qas, [""] * -(-len(qas) // m), m)
        return request_keys(model, tokenizer, requests, layer, ("{}",), "chat", "subject_last")[0]

    n, ids = len(split.forget), [qa.id for qa in split.forget]
    alone = keys(split.forget)
    pairs = {"another forgotten question": (alone, alone.roll(1, 0))}
    if first := [qa for qa in split.rephrased if qa.variant == 1]:
        same = alone[[ids.index(qa.id) for qa in first]]
        pairs = {"the same question in other words": (same, keys(first)), **pairs}
    for m in sizes:
        merged = keys(split.forget, m)
        last = [min(start + m, n) - 1 for start in range(0, n, m)]
        others = [i for i in range(n) if i not in last]
        pairs[f"m = {m}: the merged text and its last question"] = alone[last], merged
        pairs[f"m = {m}: the merged text and its other questions"] = alone[others], merged[[i // m for i in others]]
    mean = alone.mean(0)
    cosines = {k: float(torch.cosine_similarity(a - mean, b - mean).mean()) for k, (a, b) in pairs.items()}
    return pd.DataFrame(cosines.items(), columns=["compared", "cosine"])
