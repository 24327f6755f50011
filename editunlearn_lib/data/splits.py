"""The data sets by name, the sets that are built in, and how a forget set is drawn."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import operator
import random
from collections.abc import Sequence
from pathlib import Path

from ..errors import DatasetError, check_name
from .contracts import generate
from .facts import facts
from .files import OFFICIAL, local_files, own_rows, pistol_rows, tofu_rows
from .qa import QA, ForgetSplit

DATASETS = ("factual", "contracts", *OFFICIAL)
N_UNSEEN = 400  # of the further facts; the rest is for covariances and never scored


@functools.cache
def refusals() -> tuple[str, ...]:
    """The vanilla refusals: sentences that say "I don't know" and name nothing."""
    lines = (Path(__file__).parent / "refusals.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


@functools.cache
def factual() -> tuple[tuple[QA, ...], tuple[QA, ...]]:
    """The built-in facts: the 217 that TOFU asks about, and the 400 further ones that no method may read."""
    return tuple(fact for fact in facts() if fact.tofu), _further()[:N_UNSEEN]


def covariance_facts() -> tuple[QA, ...]:
    """Facts that are in no scored set: a covariance may read their keys."""
    return _further()[N_UNSEEN:]


@functools.cache
def forget_sets() -> tuple[tuple[str, ...], ...]:
    """Ids of five disjoint forget sets of 40 facts, fixed once: a model is trained without all 200 (17 are left over).

    No wording of any other fact tells one of them: facts that stand twice, or turned round, are all in the sets.
    """
    order = random.Random("forget sets 1").sample([fact.id for fact in factual()[0]], 217)
    return tuple(tuple(order[start : start + 40]) for start in range(0, 200, 40))


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
    file or folder, or else from the hub; ``"hub@<revision>"`` asks it for that revision) or a path to your own
    ``.json``, ``.jsonl`` or ``.csv``. Facts are drawn one by one; contracts and PISTOL as whole edges, drawn by
    ``seed`` or named in ``forget_groups``, the last one cut to ``n_forget``. Your own rows are drawn by ``seed``
    alone, wherever the file lies. Raises `DatasetError` (file, row and field are named) and `UnknownNameError`.
    """
    name = str(dataset)
    rows, unseen, others, origin = _load(name, source)
    if not isinstance(n_forget, int) or isinstance(n_forget, bool) or n_forget < 1:
        raise DatasetError(f"n_forget must be a whole number of at least 1, not {n_forget!r}.")
    if n_forget > len(rows):
        raise DatasetError(f"n_forget={n_forget}, but {name!r} has {len(rows)} rows: ask for {len(rows)} at most.")
    rng = random.Random(f"{name if name in DATASETS else 'own'} {seed}")
    groups = list(dict.fromkeys(row.group for row in rows if row.group))
    if forget_groups is not None:
        for group in forget_groups:
            check_name(f"group of {name}", group, groups)
        order = [row for group in dict.fromkeys(forget_groups) for row in rows if row.group == group]
        if len(order) < n_forget:
            raise DatasetError(f"n_forget={n_forget}, but {list(forget_groups)} have {len(order)} rows together.")
    elif name in ("contracts", "pistol"):
        order = [row for group in rng.sample(groups, len(groups)) for row in rows if row.group == group]
    else:
        order = rng.sample(rows, len(rows))
    forget = tuple(order[:n_forget])
    ids = {row.id for row in forget}
    retain = tuple(row for row in rows if row.id not in ids)
    parties = {party for row in forget for party in row.parties}
    rephrased = tuple(variant for row in forget for variant in row.rephrased())
    same_party = frozenset(row.id for row in retain if parties & set(row.parties))
    return ForgetSplit(name, forget, retain, rephrased, unseen, others, same_party, origin)


def digest(dataset: str | Path, source: str | Path | None = None) -> str:
    """Sixteen hex digits of every row that `load_split` can draw from or hands on; never of a name or a path.

    A file is read again where its time or size has changed. Raises as `load_split` does.
    """
    state = []
    for file in local_files(str(dataset), source):
        with contextlib.suppress(OSError, ValueError):  # what cannot be read the reader reports
            state.append((str(file.absolute()), file.stat().st_mtime_ns, file.stat().st_size))
    return _digest(str(dataset), source, tuple(state))


@functools.lru_cache(maxsize=64)
def _digest(name: str, source: str | Path | None, state: tuple) -> str:
    rows, unseen, others, _ = _load(name, source)
    fields = operator.attrgetter("id", "question", "answer", "subject", "rephrasings", "group", "parties")
    sets = {key: [fields(qa) for qa in part] for key, part in {"rows": rows, "unseen": unseen, **others}.items()}
    return hashlib.sha256(json.dumps(sets, sort_keys=True).encode()).hexdigest()[:16]


def _load(name: str, source: str | Path | None) -> tuple[tuple[QA, ...], tuple[QA, ...], dict, str]:
    """What a data set holds before anything is drawn: its rows, those unseen, further sets, and where it came from."""
    if source is not None and name not in OFFICIAL:
        raise DatasetError(f"source is for 'tofu-facts' and 'pistol'; the dataset {name!r} does not read one.")
    unseen, others, origin = (), {}, ""
    if name == "factual":
        rows, unseen = factual()
    elif name == "contracts":
        rows, others = generate(), {"factual": factual()[0]}
    elif name == "tofu-facts":
        (rows, origin), unseen = tofu_rows(source), factual()[1]
    elif name == "pistol":
        (rows, origin), others = pistol_rows(source), {"factual": factual()[0]}  # as in the paper's Table 4
    elif local_files(name, None):
        rows = own_rows(Path(name))
    else:
        check_name("dataset", name, DATASETS)  # raises, with the nearest name
    return rows, unseen, others, origin


@functools.cache
def _further() -> tuple[QA, ...]:
    """The facts that TOFU does not ask about, in an order that depends on their ids alone."""
    rows = [fact for fact in facts() if not fact.tofu]
    return tuple(sorted(rows, key=lambda qa: hashlib.sha256(qa.id.encode()).digest()))
