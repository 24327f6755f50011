"""Questions, forget sets and the refusals they are edited into."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import logging
import random
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DatasetError, EditUnlearnError, check_name, first_line
from . import contracts
from .facts import facts

log = logging.getLogger(__name__)
DATASETS = ("factual", "contracts", "tofu-facts", "pistol")
TOFU = ("locuslab/tofu", "bdc209e", ("real_authors", "world_facts"))  # hub id, pinned revision, files
N_UNSEEN = 400  # of the further facts; the rest is for covariances and never scored
PISTOL = ("xinchiqiu/PISTOL", None, "sample_data_1.json")  # None: no revision is known, the one found is recorded
HUB = re.compile(r"hub@([\w./-]+)")  # a source that names a revision on the hub


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
        for name in ("question", "answer"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise DatasetError(f"QA {self.id!r}: the field {name!r} is empty.")
            _encodable(f"QA {self.id!r}, field {name!r}", getattr(self, name))
        if self.subject is not None and not isinstance(self.subject, str):
            raise DatasetError(f"QA {self.id!r}: the subject is a text or None, not {reprlib.repr(self.subject)}.")
        if self.subject is not None and (not self.subject or self.subject not in self.question):
            raise DatasetError(
                f"QA {self.id!r}: the subject {self.subject!r} is not in the question {self.question!r}. "
                "Give a substring of the question, or None to edit at the question's last token."
            )

    def rephrased(self) -> tuple[QA, ...]:
        """Every rephrasing as a question of its own: same id, ``variant`` 1, 2, …"""
        return tuple(
            QA(
                self.id,
                text,
                self.answer,
                self.subject if self.subject and self.subject in text else None,
                group=self.group,
                variant=number,
                parties=self.parties,
            )
            for number, text in enumerate(self.rephrasings, 1)
        )


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


@functools.cache
def refusals() -> tuple[str, ...]:
    """The vanilla refusals: sentences that say "I don't know" and name nothing."""
    lines = (Path(__file__).parent / "refusals.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


@functools.cache
def factual() -> tuple[tuple[QA, ...], tuple[QA, ...]]:
    """The built-in facts: the 217 that TOFU asks about, and the 400 further ones that no method may read."""
    rows = [(f.tofu, QA(f.id, f.question, f.answer, f.subject, f.rephrasings, f.relation)) for f in facts()]
    return tuple(qa for tofu, qa in rows if tofu), _further()[:N_UNSEEN]


@functools.cache
def _further() -> tuple[QA, ...]:
    """The facts that TOFU does not ask about, in an order that depends on their ids alone."""
    rows = [QA(f.id, f.question, f.answer, f.subject, f.rephrasings, f.relation) for f in facts() if not f.tofu]
    return tuple(sorted(rows, key=lambda qa: hashlib.sha256(qa.id.encode()).digest()))


def covariance_facts() -> tuple[QA, ...]:
    """Facts that are in no scored set: a covariance may read their keys."""
    return _further()[N_UNSEEN:]


@functools.cache
def contract_rows(seed: int = 0) -> tuple[QA, ...]:
    """The built-in contracts: 20 edges of 20 questions each."""
    return tuple(
        QA(row.id, row.question, row.answer, row.subject, tuple(row.rephrasings), row.edge, parties=tuple(row.parties))
        for row in contracts.generate(seed)
    )


def load_split(
    dataset: str | Path,
    *,
    n_forget: int,
    seed: int,
    source: str | Path | None = None,
    forget_groups: Sequence[str] | None = None,
) -> ForgetSplit:
    """Draw a forget set.

    ``dataset``: ``factual``, ``contracts`` (built in), ``tofu-facts``, ``pistol`` (official: from ``source``, a local
    file or folder, or else from the hub; ``"hub@<revision>"`` asks it for that revision) or a path to your own ``.json``, ``.jsonl`` or ``.csv``. Facts are drawn
    one by one; contracts and PISTOL as whole edges, drawn by ``seed`` or named in ``forget_groups``, the last one cut
    to ``n_forget``. Raises `DatasetError` (file, row and field are named) and `UnknownNameError`.
    """
    unseen: tuple[QA, ...] = ()
    others: dict[str, tuple[QA, ...]] = {}
    name, origin = str(dataset), ""
    if source is not None and name not in ("tofu-facts", "pistol"):
        raise DatasetError(f"source is for 'tofu-facts' and 'pistol'; the dataset {name!r} does not read one.")
    if name == "factual":
        rows, unseen = factual()
    elif name == "contracts":
        rows, others = contract_rows(), {"factual": factual()[0]}
    elif name == "tofu-facts":
        (rows, origin), unseen = _tofu(source), factual()[1]
    elif name == "pistol":
        (rows, origin), others = _pistol(source), {"factual": factual()[0]}  # as in the paper's Table 4
    elif Path(name).suffix.lower() in (".json", ".jsonl", ".csv"):
        rows = _own(Path(name))
    else:
        check_name("dataset", name, DATASETS)  # raises, with the nearest name
    return _draw(
        name,
        rows,
        n_forget,
        seed,
        forget_groups,
        edges=name in ("contracts", "pistol"),
        unseen=unseen,
        others=others,
        origin=origin,
    )


def _draw(name, rows, n_forget, seed, forget_groups, *, edges, unseen, others, origin) -> ForgetSplit:
    if not isinstance(n_forget, int) or isinstance(n_forget, bool) or n_forget < 1:
        raise DatasetError(f"n_forget must be a whole number of at least 1, not {n_forget!r}.")
    if n_forget > len(rows):
        raise DatasetError(f"n_forget={n_forget}, but {name!r} has {len(rows)} rows: ask for {len(rows)} at most.")
    rng = random.Random(f"{name if name in DATASETS else 'own'} {seed}")  # a file that was moved gives the same draw
    groups = list(dict.fromkeys(row.group for row in rows if row.group))
    if forget_groups is not None:
        for group in forget_groups:
            check_name(f"group of {name}", group, groups)
        order = [row for group in dict.fromkeys(forget_groups) for row in rows if row.group == group]
        if len(order) < n_forget:
            raise DatasetError(
                f"n_forget={n_forget}, but the groups {list(forget_groups)} have {len(order)} rows together."
            )
    elif edges:
        order = [row for group in rng.sample(groups, len(groups)) for row in rows if row.group == group]
    else:
        order = rng.sample(rows, len(rows))
    forget = tuple(order[:n_forget])
    ids = {row.id for row in forget}
    retain = tuple(row for row in rows if row.id not in ids)
    parties = {party for row in forget for party in row.parties}
    return ForgetSplit(
        name,
        forget,
        retain,
        tuple(variant for row in forget for variant in row.rephrased()),
        tuple(unseen),
        others,
        frozenset(row.id for row in retain if parties & set(row.parties)),
        origin,
    )


# ---------------------------------------------------------------- the official data


def _tofu(source: str | Path | None) -> tuple[tuple[QA, ...], str]:
    """The official 217 questions, with our subjects and rephrasings, which are keyed by file and row."""
    notes = {fact.tofu[:2]: fact for fact in facts() if fact.tofu}
    rows, places = [], []
    for name in TOFU[2]:
        where, raw = _official(source, name + "_perturbed", hub=TOFU[0], revision=TOFU[1])
        places.append(where)
        for number, row in enumerate(raw):
            question, answer = _fields(where, number, row)
            note = notes.get((name, number))
            if note is None or note.tofu[2] not in question:
                raise DatasetError(
                    f"{where}, row {number + 1}: {question!r} is not the official question of this row, so our "
                    "annotations do not fit it. Give the unchanged file, or load it as your own data by its path."
                )
            rows.append(QA(f"tofu-{name}-{number}", question, answer, note.tofu[2], note.rephrasings, name))
    return tuple(rows), ", ".join(places)


def _pistol(source: str | Path | None) -> tuple[tuple[QA, ...], str]:
    """Official PISTOL rows; subjects and rephrasings come from rules."""
    where, raw = _official(source, "sample_data_1", hub=PISTOL[0], revision=PISTOL[1])
    rows, counts = [], {}
    for number, row in enumerate(raw):
        question, answer = _fields(where, number, row)
        edge = row.get("edge")
        if not isinstance(edge, str) or not edge:
            raise DatasetError(f"{where}, row {number + 1}: the field 'edge' is missing or no text.")
        try:
            subject, rephrasings, parties = contracts.annotate(question, answer, edge)
        except ValueError as error:
            raise DatasetError(f"{where}, row {number + 1}, field 'question': {error}") from error
        counts[edge] = counts.get(edge, -1) + 1
        rows.append(
            QA(
                f"pistol-{edge}-{counts[edge]:02d}",
                question,
                answer,
                subject,
                tuple(rephrasings),
                edge,
                parties=tuple(parties),
            )
        )
    return _with_parties(rows), where


def _with_parties(rows: list[QA]) -> tuple[QA, ...]:
    """A question that names one party only still belongs to an edge of two: every row gets both."""
    both: dict[str, dict[str, None]] = {}
    for row in rows:
        both.setdefault(row.group, {}).update(dict.fromkeys(row.parties))
    return tuple(QA(**{**row.__dict__, "parties": tuple(both[row.group])}) for row in rows)


def _official(source: str | Path | None, stem: str, *, hub: str, revision: str | None) -> tuple[str, list[dict]]:
    """Rows of an official file, and where they are: from a file, from a folder that holds it, or from the hub."""
    asked = HUB.fullmatch(str(source)) if source is not None else None
    if source is not None and not asked:
        path = Path(source)
        if path.is_dir():
            found = [p for p in (path / f"{stem}{end}" for end in (".json", ".jsonl")) if p.exists()]
            if not found:
                raise DatasetError(f"{path}: no file {stem}.json in this folder.")
            path = found[0]
        elif path.exists() and hub == TOFU[0] and not path.stem.startswith(stem):
            path = path.with_name(stem + path.suffix)  # one of TOFU's two files was named: the other stands beside it
        return str(path), _read(path)
    revision = asked[1] if asked else revision
    try:
        import datasets

        found = _resolved(hub, revision)
        table = datasets.load_dataset(hub, revision=found, data_files=stem + ".json", split="train")
        return f"hub:{hub}/{stem}.json@{found or 'unknown'}", list(table)
    except Exception as error:
        raise DatasetError(
            f"the hub could not give {hub}/{stem}.json ({type(error).__name__}: {first_line(error)}). "
            f"Download the file and pass source='path/to/folder', or use the built-in data ('factual', 'contracts')."
        ) from error


def _resolved(hub: str, revision: str | None) -> str | None:
    """The full commit hash of a revision (None: the newest); the revision itself where only the cache is at hand."""
    import huggingface_hub

    try:
        found = huggingface_hub.HfApi().dataset_info(hub, revision=revision).sha
    except (OSError, ValueError) as error:  # offline: what is in the cache may still do
        log.info("the revision of %s could not be looked up (%s).", hub, type(error).__name__)
        return revision
    if revision is None:
        log.warning(
            "%s has no pinned revision here; read was %s. source='hub@%s' asks for it again.", hub, found, found
        )
    return found


# ---------------------------------------------------------------- files


def _read(path: Path) -> list[dict]:
    """Rows of a .json (list or JSON lines), .jsonl or .csv file."""
    try:
        str(path).encode()  # the name is a part of the seed
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file.") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the name
        raise DatasetError(f"{str(path)!r}: cannot be read as UTF-8 text ({error}).") from error
    if path.suffix.lower() == ".csv":
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise DatasetError(f"{path}: not valid CSV ({error}).") from error
    elif path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of more than 4,300 digits
            raise DatasetError(f"{path}: not valid JSON ({error}).") from error
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    raise DatasetError(f"{path}, line {number}: not valid JSON ({error}).") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DatasetError(
                f"{path}, row {number + 1}: an object with 'question' and 'answer' is needed, not {reprlib.repr(row)}."
            )
    if not rows:
        raise DatasetError(f"{path}: the file holds no rows.")
    return rows


def _fields(where: str, number: int, row: dict) -> tuple[str, str]:
    """Question and answer of a row."""
    values = []
    for name in ("question", "answer"):
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            raise DatasetError(f"{where}, row {number + 1}: the field {name!r} is missing or empty.")
        _encodable(f"{where}, row {number + 1}, field {name!r}", value)
        values.append(value.strip())
    return values[0], values[1]


def _encodable(where: str, text: str) -> None:
    """Half a surrogate pair, which JSON can write, is no text: no tokenizer and no file takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"{where}: character {error.start + 1} is half a surrogate pair (\\u{ord(text[error.start]):04x}), which is "
            "no text. Write the whole character, in UTF-8."
        ) from None


def _own(path: Path) -> tuple[QA, ...]:
    """Your own questions; ``id, subject, rephrasings, group`` are read where they are given."""
    rows, seen = [], set()
    for number, row in enumerate(_read(path)):
        question, answer = _fields(str(path), number, row)
        given = row.get("rephrasings") or ()
        if isinstance(given, str):
            given = [part.strip() for part in given.split("|") if part.strip()]  # one CSV cell, parted by |
        if not isinstance(given, (list, tuple)) or not all(isinstance(text, str) and text.strip() for text in given):
            raise DatasetError(f"{path}, row {number + 1}, field 'rephrasings': a list of texts is needed.")
        for text in given:
            _encodable(f"{path}, row {number + 1}, field 'rephrasings'", text)
        for name in ("subject", "group"):
            if row.get(name) is not None and not isinstance(row[name], str):
                shown = reprlib.repr(row[name])
                raise DatasetError(f"{path}, row {number + 1}, field {name!r}: a text is needed, not {shown}.")
            _encodable(f"{path}, row {number + 1}, field {name!r}", row.get(name) or "")
        given_id = row.get("id")
        if not isinstance(given_id, (str, int, float, type(None))):
            shown = reprlib.repr(given_id)
            raise DatasetError(f"{path}, row {number + 1}, field 'id': a text or a number is needed, not {shown}.")
        _encodable(f"{path}, row {number + 1}, field 'id'", str(given_id))
        identity = hashlib.sha256(question.encode()).hexdigest()[:12] if given_id in (None, "") else str(given_id)
        if identity in seen:
            raise DatasetError(f"{path}, row {number + 1}, field 'id': {identity!r} stands in an earlier row too.")
        seen.add(identity)
        try:
            rows.append(
                QA(identity, question, answer, row.get("subject") or None, tuple(given), row.get("group") or None)
            )
        except EditUnlearnError as error:
            raise DatasetError(f"{path}, row {number + 1}, field 'subject': {error}") from error
    return tuple(rows)
