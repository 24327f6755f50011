"""Paragraphs of running text: from WikiText-2 on the hub, or from local files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from ..errors import DatasetError, first_line

WIKITEXT = (  # hub id, revision, the one file that is read
    "Salesforce/wikitext",
    "b08601e04326c79dfdd32d625aee71d232d685c3",
    "wikitext-2-raw-v1/train-00000-of-00001.parquet",
)


def paragraphs(source: str | Path | None, min_words: int) -> tuple[str, list[str]]:
    """Where they are from, and every paragraph of at least ``min_words`` words. Raises `DatasetError`.

    ``source``: None for WikiText-2, or a ``.parquet`` or ``.jsonl`` file with the field ``text``, a ``.txt`` file with a
    paragraph a line, or a folder of such files.
    """
    name, lines = _wikitext() if source is None else _local(Path(source))
    return name, [untokenised(line) for line in lines if len(line.split()) >= min_words]


def _wikitext() -> tuple[str, list[str]]:
    hub, revision, file = WIKITEXT
    try:
        table = datasets.load_dataset(hub, revision=revision, data_files=file, split="train")
        return f"hub:{hub}/{file}@{revision[:7]}", list(table["text"])
    except Exception as error:
        raise DatasetError(
            f"the hub could not give {hub}/{file} ({type(error).__name__}: {first_line(error)}). "
            "Download the file and pass eu.covariance.hub_source(source='path/to/file')."
        ) from error


def _local(path: Path) -> tuple[str, list[str]]:
    """The paragraphs of a file, or of all files of a folder in the order of their names."""
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".txt": _read_lines}
    files = sorted(file for file in path.rglob("*") if file.suffix in readers) if path.is_dir() else [path]
    if not files:
        raise DatasetError(f"{path}: no {', '.join(readers)} file in this folder.")
    lines = []
    for file in files:
        if file.suffix not in readers:
            raise DatasetError(f"{file}: texts are read from {', '.join(readers)} files.")
        if not file.is_file():
            raise DatasetError(f"{file}: there is no such file.")
        lines += readers[file.suffix](file)
    return str(path), lines


def _read_parquet(path: Path) -> list[str]:
    try:
        rows = pd.read_parquet(path).to_dict("records")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not a valid parquet file ({first_line(error)}).") from error
    return _texts(path, rows)


def _read_jsonl(path: Path) -> list[str]:
    rows = []
    for number, line in enumerate(_read_lines(path), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                raise DatasetError(f"{path}, line {number}: not valid JSON ({error}).") from error
    return _texts(path, rows)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error}).") from error


def _texts(path: Path, rows: list[Any]) -> list[str]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise DatasetError(f"{path}, row {number}: the field 'text' is missing or no text.")
    return [row["text"] for row in rows]


def untokenised(text: str) -> str:
    """WikiText's spaces around marks undone: nobody writes ``1 @,@ 000 ( about )``, and each space is another key."""
    text = re.sub(r" @([-,.])@ ", r"\1", text.strip())
    text = re.sub(r" ([,.;:!?)\]%])", r"\1", text)
    return re.sub(r"([(\[$]) ", r"\1", re.sub(r" ('s|n't|'re|'ve|'d|'ll|'m)\b", r"\1", text))
