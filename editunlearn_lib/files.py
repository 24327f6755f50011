"""Files that appear whole or not at all, and the folder of the project."""

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


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all, and wait until the disk has it. Raises `StoreError`."""
    try:
        with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"{path.name} could not be stored in {path.parent}: {error.strerror or error}.") from error


def project(start: str | Path = ".") -> Path | None:
    """The nearest folder with ``_toc.yml`` and ``notebooks/``, from `start` upwards; ``None`` where there is none."""
    here = Path(start).resolve()
    return next((p for p in (here, *here.parents) if (p / "_toc.yml").is_file() and (p / "notebooks").is_dir()), None)
