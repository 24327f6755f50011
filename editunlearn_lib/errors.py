"""The errors of the library: each names the thing and says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EditUnlearnError(Exception):
    """Base of every error raised on purpose."""


class DatasetError(EditUnlearnError, ValueError):
    """Data that cannot be used: names the file, the row and the field."""


class UnsupportedModelError(EditUnlearnError, ValueError):
    """A model whose blocks are not in the table of model families: says what to add."""


class UnknownNameError(EditUnlearnError, ValueError):
    """A name that is not in a registry: gives the nearest one."""


class ModelLoadError(EditUnlearnError, OSError):
    """A model that cannot be read or reached: says which local alternative works."""


class PatchError(EditUnlearnError, RuntimeError):
    """A patch that cannot be switched on, merged, saved or loaded as asked."""


class StoreError(EditUnlearnError, OSError):
    """A cell that could not be stored: what was finished before is still there."""


class StudyError(EditUnlearnError, RuntimeError):
    """A study that cannot go on: every cell failed, no worker starts, or workers run another version."""


class TrainingError(EditUnlearnError, RuntimeError):
    """A training, an edit or a model with numbers that are not finite: names the first and says what to lower."""


class RequestError(EditUnlearnError, ValueError):
    """A request that no method can act on: an empty forget set, a subject not in its question, …"""


class OutOfMemoryError(EditUnlearnError, MemoryError):
    """More memory is needed than is free: says how much, and what needs less."""


class RatingError(EditUnlearnError, ValueError):
    """A rating, a rater or a study that does not fit: names the file, the line and the field."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its name and arguments where it says nothing."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the nearest known name, or nothing."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise `UnknownNameError` unless ``name`` is known."""
    known = list(known)
    if name not in known:
        raise UnknownNameError(f"unknown {kind} {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
