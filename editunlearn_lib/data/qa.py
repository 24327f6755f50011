"""A question with its answer, and what is forgotten and retained."""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass, field

from ..errors import DatasetError


@dataclass(frozen=True)
class QA:
    """One question with its answer.

    ``id`` is stable across splits and releases. ``subject`` is a substring of ``question`` (its last occurrence
    counts) or ``None``: then the last token of the question is edited and there is no KL text. ``group`` is a PISTOL
    edge or the relation of a fact. ``variant`` > 0 marks a rephrased row.
    """

    id: str
    question: str
    answer: str
    subject: str | None = None
    rephrasings: tuple[str, ...] = ()
    group: str | None = None
    variant: int = 0
    parties: tuple[str, ...] = ()

    def __post_init__(self):
        texts = [("question", self.question), ("answer", self.answer), ("subject", self.subject), ("group", self.group)]
        for name, text in (*texts, *(("rephrasings", text) for text in self.rephrasings), ("id", str(self.id))):
            if text is None and name in ("subject", "group"):
                continue
            if not isinstance(text, str) or not text.strip():
                empty = not text or isinstance(text, str)
                what = "is missing or empty" if empty else f"is no text: {reprlib.repr(text)}"
                raise DatasetError(f"QA {self.id!r}: the field {name!r} {what}.")
            if broken := re.search("[\ud800-\udfff]", text):  # JSON can write it; no tokenizer and no file takes it
                raise DatasetError(
                    f"QA {self.id!r}: in the field {name!r} character {broken.start() + 1} is half a surrogate pair "
                    f"(\\u{ord(broken[0]):04x}), which is no text. Write the whole character, in UTF-8."
                )
        if self.subject is not None and self.subject not in self.question:
            raise DatasetError(
                f"QA {self.id!r}: the field 'subject' is {self.subject!r}, which is not in the question "
                f"{self.question!r}. Give a substring of the question, or None to edit at the question's last token."
            )

    def rephrased(self) -> tuple[QA, ...]:
        """Every rephrasing as a question of its own: same id, ``variant`` 1, 2, …"""
        rows = []
        for number, text in enumerate(self.rephrasings, 1):
            subject = self.subject if self.subject and self.subject in text else None
            rows.append(QA(self.id, text, self.answer, subject, (), self.group, number, self.parties))
        return tuple(rows)


@dataclass(frozen=True)
class ForgetSplit:
    """What is forgotten, what is retained and read by some methods, and what no method may read.

    ``rephrased`` holds every rephrasing of every forget question; ``unseen`` is retained knowledge that no method may
    read, not even GD and KL; ``others`` maps a name to further sets. ``same_party`` holds the ids of the retain rows
    that share a party with a forgotten edge. ``origin`` says where official data came from: files, or the hub with
    the revision that was read.
    """

    name: str
    forget: tuple[QA, ...]
    retain: tuple[QA, ...]
    rephrased: tuple[QA, ...] = ()
    unseen: tuple[QA, ...] = ()
    others: dict[str, tuple[QA, ...]] = field(default_factory=dict)
    same_party: frozenset[str] = frozenset()
    origin: str = ""

    def sets(self) -> dict[str, tuple[QA, ...]]:
        """Every set that is not empty, by name."""
        named = {"forget": self.forget, "retain": self.retain, "rephrased": self.rephrased, "unseen": self.unseen}
        return {name: tuple(rows) for name, rows in {**named, **self.others}.items() if rows}
