"""Where a study keeps its cells: a local folder, or any URL that fsspec reads (``s3://…``, ``memory://…``, ``file://…``).

A cell is ``KEY.json``; why one failed is ``KEY.failed.json``. Both appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from .errors import StoreError, first_line
from .files import whole

CELL = re.compile(r".+-n\d+-m\d+-s-?\d+-[0-9a-f]{10}\.json")  # other files of a folder are none of ours
FAILED = ".failed.json"


@dataclass(frozen=True)
class RemotePath:
    """A file or folder of an fsspec filesystem, with the verbs of a `pathlib.Path` that a store needs."""

    fs: Any
    path: str

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.fs, self.path.rstrip("/").rpartition("/")[0])

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.fs, f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.fs.unstrip_protocol(self.path)

    def exists(self) -> bool:
        return self.fs.exists(self.path)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.fs.cat_file(self.path).decode(encoding)


def place(store: str | Path | RemotePath) -> Path | RemotePath:
    """The folder of a store. Raises `StoreError` for a URL whose filesystem is not known or not installed."""
    if isinstance(store, (Path, RemotePath)):
        return store
    if store.startswith("file://"):
        return Path(store.removeprefix("file://"))
    if "://" not in store:
        return Path(store)
    try:
        # a listing that is remembered would hide what other machines have stored since
        return RemotePath(*fsspec.core.url_to_fs(store, use_listings_cache=False))
    except Exception as error:  # ImportError, ValueError, and what each filesystem raises without its credentials
        raise StoreError(
            f"the store {store!r} cannot be opened ({type(error).__name__}: {first_line(error)})."
        ) from error


def names(store: str | Path | RemotePath) -> set[str]:
    """The names of all files of cells in a store, those of failed ones among them: one listing."""
    folder = place(store)
    try:
        if isinstance(folder, Path):
            found = [path.name for path in folder.iterdir()]
        else:
            found = [path.rpartition("/")[2] for path in folder.fs.ls(folder.path, detail=False)]
    except FileNotFoundError:
        return set()
    except Exception as error:
        raise StoreError(
            f"the store {folder} cannot be listed ({type(error).__name__}: {first_line(error)})."
        ) from error
    return {name for name in found if CELL.fullmatch(name.replace(FAILED, ".json"))}


def write(path: Path | RemotePath, text: str) -> None:
    """Write a file whole or not at all: locally by `whole`, remotely by one put."""
    if not isinstance(path, Path):
        try:
            path.fs.makedirs(path.parent.path, exist_ok=True)
            path.fs.pipe_file(path.path, text.encode())
        except Exception as error:
            raise StoreError(
                f"{path.name} could not be stored in {path.parent}: {type(error).__name__}: {first_line(error)}."
            ) from error
        return
    try:
        with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"{path.name} could not be stored in {path.parent}: {error.strerror or error}.") from error


def remove(path: Path | RemotePath) -> None:
    """Remove a file; it may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink() if isinstance(path, Path) else path.fs.rm_file(path.path)


def check_writable(store: str | Path | RemotePath) -> None:
    """Raise `StoreError` before hours of work if nothing can be written there."""
    probe = place(store) / f".probe.{uuid.uuid4().hex}"
    try:
        write(probe, "")
    except StoreError as error:
        raise StoreError(str(error).replace(probe.name, "nothing")) from error
    remove(probe)
