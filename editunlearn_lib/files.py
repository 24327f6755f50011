"""Files that appear whole or not at all, and where the project lies."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import StoreError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` if the block ends well: whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # two machines may have a process of the same number
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def project(start: str | Path | None = None) -> Path | None:
    """The project's folder: the working folder (or ``start``) or its nearest parent with _toc.yml and notebooks/."""
    start = Path(start or ".").resolve()
    folders = (start, *start.parents)
    return next((f for f in folders if (f / "_toc.yml").is_file() and (f / "notebooks").is_dir()), None)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all, and wait until the disk has it. Raises `StoreError`."""
    try:
        with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"{path.name} could not be stored in {path.parent}: {error.strerror or error}.") from error
