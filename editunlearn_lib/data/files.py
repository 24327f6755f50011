"""Data sets from files: your own, and the official ones of TOFU and PISTOL with our subjects and rephrasings."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import logging
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd

from ..errors import DatasetError, first_line
from . import contracts
from .facts import facts
from .qa import QA

log = logging.getLogger(__name__)
OFFICIAL = {  # hub id, pinned revision (None: none is known, the newest is read and recorded), files
    "tofu-facts": ("locuslab/tofu", "bdc209e", ("real_authors_perturbed", "world_facts_perturbed")),
    "pistol": ("xinchiqiu/PISTOL", None, ("sample_data_1",)),
}
OWN = (".json", ".jsonl", ".csv")
HUB = re.compile(r"hub@([\w./-]+)")  # a source that names a revision on the hub
Table = list[tuple[str, dict]]  # each row behind its place: file and number


def local_files(dataset: str, source: str | Path | None) -> list[Path]:
    """The files that a data set is read from; none where it is built in or comes from the hub.

    ``source`` is the folder of an official data set, its file, or one of its files with the others beside it.
    """
    if dataset not in OFFICIAL:
        return [Path(dataset)] if Path(dataset).suffix.lower() in OWN else []
    if source is None or HUB.fullmatch(str(source)):
        return []
    path, stems = Path(source), OFFICIAL[dataset][2]
    if path.is_dir():
        files = [next((p for end in OWN if (p := path / (stem + end)).exists()), path / stem) for stem in stems]
        if missing := [file for file in files if not file.suffix]:
            raise DatasetError(f"{path}: no file {missing[0].name}.json in this folder.")
        return files
    alone = len(stems) == 1 or not path.exists()
    return [path if alone or path.stem.startswith(stem) else path.with_name(stem + path.suffix) for stem in stems]


def tofu_rows(source: str | Path | None) -> tuple[tuple[QA, ...], str]:
    """The official 217 questions, with our subjects and rephrasings, which are keyed by file and row."""
    notes = {fact.tofu[:2]: fact for fact in facts() if fact.tofu}
    tables, origin = _official_tables("tofu-facts", source)
    rows = []
    for name, table in zip(("real_authors", "world_facts"), tables, strict=True):
        for number, (place, row) in enumerate(table):
            question, answer, note = _text(row, "question"), _text(row, "answer"), notes.get((name, number))
            with _at(place):
                if note is None or note.tofu[2] not in question:
                    raise ValueError(
                        f"{question!r} is not the official question of this row, so our annotations do not fit it. "
                        "Give the unchanged file, or load it as your own data by its path."
                    )
                rows.append(QA(f"tofu-{name}-{number}", question, answer, note.tofu[2], note.rephrasings, name))
    return tuple(rows), origin


def pistol_rows(source: str | Path | None) -> tuple[tuple[QA, ...], str]:
    """Official PISTOL rows; subjects and rephrasings come from rules."""
    [table], origin = _official_tables("pistol", source)
    edges: dict[str, list[QA]] = {}
    for place, row in table:
        question, answer, edge = (_text(row, name) for name in ("question", "answer", "edge"))
        with _at(place):
            if not edge:
                raise ValueError("the field 'edge' is missing or no text.")
            subject, rephrasings, parties = contracts.annotate(question, answer, edge)
            identity = f"pistol-{edge}-{len(edges.setdefault(edge, [])):02d}"
            edges[edge].append(QA(identity, question, answer, subject, rephrasings, edge, parties=parties))
    # a question that names one party only still belongs to an edge of two: every row gets both
    both = {edge: tuple(dict.fromkeys(p for row in rows for p in row.parties)) for edge, rows in edges.items()}
    return tuple(dataclasses.replace(row, parties=both[row.group]) for rows in edges.values() for row in rows), origin


def own_rows(path: Path) -> tuple[QA, ...]:
    """Your own questions; ``id, subject, rephrasings, group`` are read where they are given."""
    rows: dict[str, QA] = {}
    for place, row in _table(path):
        row = {name: value for name, value in row.items() if value not in (None, "")}
        question, texts, identity = _text(row, "question"), row.get("rephrasings", []), row.get("id")
        if isinstance(texts, str):
            texts = [part.strip() for part in texts.split("|") if part.strip()]  # one CSV cell, parted by |
        with _at(place):
            if not isinstance(identity, str | int | float | None):
                raise ValueError(f"the field 'id' needs a text or a number, not {reprlib.repr(identity)}.")
            if identity is None:
                identity = hashlib.sha256(question.encode(errors="replace")).hexdigest()[:12]
            if str(identity) in rows:
                raise ValueError(f"the field 'id', {str(identity)!r}, stands in an earlier row too.")
            if not isinstance(texts, list):
                raise ValueError(f"the field 'rephrasings' needs a list of texts, not {reprlib.repr(texts)}.")
            qa = QA(str(identity), question, _text(row, "answer"), row.get("subject"), tuple(texts), row.get("group"))
        rows[qa.id] = qa
    return tuple(rows.values())


@contextlib.contextmanager
def _at(place: str) -> Iterator[None]:
    """An error about a row names its file and number."""
    try:
        yield
    except ValueError as error:
        what = re.sub(r"^QA '.*?': ", "", str(error))  # the place says which
        raise DatasetError(f"{place}: {what}") from error


def _text(row: dict, name: str) -> str:
    """A field, stripped; empty where it is none or no text, which a `QA` refuses."""
    return row[name].strip() if isinstance(row.get(name), str) else ""


def _official_tables(dataset: str, source: str | Path | None) -> tuple[list[Table], str]:
    """The rows of each official file, and where they came from: paths, or the hub with the revision that was read."""
    if files := local_files(dataset, source):
        return [_table(file) for file in files], ", ".join(map(str, files))
    hub, pinned, stems = OFFICIAL[dataset]
    revision = HUB.fullmatch(str(source))[1] if source is not None else pinned
    instead = "pass source='path/to/folder', or use the built-in data ('factual', 'contracts')."
    files = [hub_file(hub, f"{stem}.json", revision, instead) for stem in stems]
    commit = files[0].parent.name  # the cache keeps a revision in a folder of its name
    if revision is None:
        log.warning("%s has no pinned revision here; source='hub@%s' asks for this one again.", hub, commit)
    return [_table(file) for file in files], ", ".join(f"hub:{hub}/{file.name}@{file.parent.name}" for file in files)


def hub_file(hub: str, file: str, revision: str | None, instead: str) -> Path:
    """A file of a data set on the hub. Raises `DatasetError`, which says what to do instead."""
    try:
        return Path(huggingface_hub.hf_hub_download(hub, file, repo_type="dataset", revision=revision))
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise DatasetError(f"the hub could not give {hub}/{file} ({why}). Download the file and {instead}") from error


def _table(path: Path) -> Table:
    table = file_rows(path)
    for place, row in table:
        if not isinstance(row, dict):
            raise DatasetError(f"{place}: an object with 'question' and 'answer' is needed, not {reprlib.repr(row)}.")
    if not table:
        raise DatasetError(f"{path}: the file holds no rows.")
    return table


def file_rows(path: Path) -> list[tuple[str, Any]]:
    """Rows of a .json (list or JSON lines), .jsonl, .csv or .parquet file, or {"text": line} of a .txt file."""
    suffix, line, rows = path.suffix.lower(), "", []
    what = "parquet" if suffix == ".parquet" else "UTF-8 text"
    try:
        str(path).encode()  # the name goes into the records
        text = pd.read_parquet(path) if what == "parquet" else path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file.") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the name
        raise DatasetError(f"{str(path)!r}: cannot be read as {what} ({first_line(error)}).") from error
    try:
        if what == "parquet":
            rows = text.to_dict("records")
        elif suffix == ".txt":
            rows = [{"text": content} for content in text.split("\n")]
        elif suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        elif suffix == ".json" and text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            for number, content in enumerate(text.split("\n"), 1):
                line = f", line {number}"
                rows += [json.loads(content)] if content.strip() else []
    except (csv.Error, ValueError, RecursionError) as error:  # ValueError: also a number of more than 4,300 digits
        kind = "CSV" if suffix == ".csv" else "JSON"
        raise DatasetError(f"{path}{line}: not valid {kind} ({error}).") from error
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows, 1)]
