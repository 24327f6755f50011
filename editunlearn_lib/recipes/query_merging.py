"""Query merging: m forget questions joined into one edit, so that n questions make n/m edits (the paper, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..data import QA
from ..methods.registry import Request

log = logging.getLogger(__name__)


def merge_requests(forget: Sequence[QA], targets: Sequence[str], m: int) -> tuple[Request, ...]:
    """Join every m questions in their order by a space; the last group is smaller where m does not divide n.

    The merged edit's key is at the last question's subject.
    """
    if len(forget) % m:
        log.warning("merge=%d does not divide %d questions: the last group has %d.", m, len(forget), len(forget) % m)
    groups = [forget[i : i + m] for i in range(0, len(forget), m)]
    return tuple(
        Request(
            tuple(qa.id for qa in group),
            " ".join(qa.question for qa in group),
            target,
            tuple(qa.subject for qa in group if qa.subject),
        )
        for group, target in zip(groups, targets, strict=True)
    )
