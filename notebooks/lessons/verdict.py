"""What a check of an exercise gives, and what all checks ask of a learner's values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from editunlearn_lib.patch import Patch


@dataclass(frozen=True)
class Verdict:
    """What a check says; true where nothing is left to do. A notebook shows ``notes`` as a list."""

    right: bool
    notes: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.right

    def _repr_markdown_(self) -> str:
        return f"**{'Right.' if self.right else 'Not yet.'}**\n\n" + "\n".join(f"- {note}" for note in self.notes)

    def __repr__(self) -> str:
        return f"{'Right.' if self.right else 'Not yet.'} " + " ".join(self.notes)


def verdict(notes: Iterable[str], praise: str) -> Verdict:
    """Right, with the praise, where there are no notes."""
    notes = tuple(notes)
    return Verdict(not notes, notes or (praise,))


def not_yet(note: str) -> Verdict:
    return Verdict(False, (note,))


def kind(value: Any) -> str:
    """What a value is, in words for a note."""
    return "`None` (is a `return` missing?)" if value is None else f"a `{type(value).__name__}`"


def unfilled(value: Any) -> bool:
    """Whether a value, or all of a list of them, is still ``...``."""
    return value is ... or (isinstance(value, (list, tuple)) and bool(value) and all(one is ... for one in value))


def textless(texts: Sequence[Any]) -> list[int]:
    """Which of them are no texts, or empty ones."""
    return [i for i, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]


def trouble_with_records(value: Any, name: str, columns: Sequence[str]) -> str | None:
    """What is wrong with a value that should be records; None if nothing is."""
    if value is ...:
        return f"`{name}` is not filled in yet: put your own code in place of the `...` in the cell marked TODO."
    if isinstance(value, Patch):
        return f"`{name}` is a patch. Switch it on and ask the questions: the check reads the answers, not the patch."
    if not isinstance(value, pd.DataFrame):
        return f"`{name}` should be a table of records, one row per question, and is {kind(value)}."
    if missing := [column for column in columns if column not in value]:
        lacks = f"`{name}` lacks the columns {', '.join(missing)}."
        return f"{lacks} Was it summarised already? The check needs one row per question."
    return None if len(value) else f"`{name}` has no rows: nothing was asked."


def result_of(name: str, function: Any, *arguments: Any) -> tuple[Any, str | None]:
    """What a learner's function returns, and what went wrong if something did."""
    if function is ...:
        return None, f"`{name}` is not filled in yet."
    if not callable(function):
        return None, f"`{name}` should be a function, and is {kind(function)}. Pass it without calling it."
    try:
        result = function(*arguments)
    except Exception as error:  # a learner's own code may raise anything, and that is what they need to read
        return None, f"`{name}` stops with {type(error).__name__}: {error}"
    if result is ...:
        return None, f"`{name}` is not filled in yet: put your own code in place of the `...`."
    return result, None
