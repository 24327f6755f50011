"""Paragraphs of running text: from WikiText-2 on the hub, or from local files."""

from __future__ import annotations

import re
from pathlib import Path

import datasets

from ..errors import DatasetError, first_line
from .files import file_rows

WIKITEXT = (  # hub id, revision, the one file that is read
    "Salesforce/wikitext",
    "b08601e04326c79dfdd32d625aee71d232d685c3",
    "wikitext-2-raw-v1/train-00000-of-00001.parquet",
)
KINDS = (".parquet", ".jsonl", ".txt")


def paragraphs(source: str | Path | None, min_words: int) -> tuple[str, list[str]]:
    """Where they are from, and every paragraph of at least ``min_words`` words. Raises `DatasetError`.

    ``source``: None for WikiText-2, or a ``.parquet`` or ``.jsonl`` file with the field ``text``, a ``.txt`` file with
    a paragraph a line, or a folder of such files, read in the order of their names.
    """
    name, lines = _wikitext() if source is None else (str(source), _local(Path(source)))
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


def _local(path: Path) -> list[str]:
    files = sorted(file for file in path.rglob("*") if file.suffix in KINDS) if path.is_dir() else [path]
    if not files:
        raise DatasetError(f"{path}: no {', '.join(KINDS)} file in this folder.")
    lines = []
    for file in files:
        if file.suffix not in KINDS:
            raise DatasetError(f"{file}: texts are read from {', '.join(KINDS)} files.")
        for place, row in file_rows(file):
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise DatasetError(f"{place}: the field 'text' is missing or no text.")
            lines.append(row["text"])
    return lines


def untokenised(text: str) -> str:
    """WikiText's spaces around marks undone: nobody writes ``1 @,@ 000 ( about )``, and each space is another key."""
    text = re.sub(r" @([-,.])@ ", r"\1", text.strip())
    text = re.sub(r" ([,.;:!?)\]%])", r"\1", text)
    return re.sub(r"([(\[$]) ", r"\1", re.sub(r" ('s|n't|'re|'ve|'d|'ll|'m)\b", r"\1", text))
