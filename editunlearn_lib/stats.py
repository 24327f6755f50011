"""Which differences are more than chance: paired tests over the same questions, with Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .errors import RequestError

DRAWS = 9999  # of a permutation test: the smallest p is 1 / 10,000


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided p of a paired permutation test: are differences with a mean this far from 0 likely if signs are chance?

    ``(1 + number of draws with |mean| ≥ the observed |mean|) / (1 + draws)``, 9,999 seeded draws (Fisher's
    randomisation test). Raises `RequestError` for no differences.
    """
    d = np.asarray(differences, dtype=float)  # (n,)
    if not len(d):
        raise RequestError("a paired test needs at least one question that both have answered.")
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(DRAWS, len(d)))
    as_far = np.abs(signs @ d) >= abs(d.sum()) - 1e-9
    return float((1 + as_far.sum()) / (1 + DRAWS))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the i-th smallest p times (n − i + 1), made monotone and at most 1 (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled)) if len(order) else []
    return adjusted.tolist()


def compare(
    records: pd.DataFrame,
    pairs: Sequence[tuple],
    *,
    column: str = "method",
    metric: str = "rouge1_recall",
    unit: Sequence[str] = ("seed", "id"),
) -> pd.DataFrame:
    """A paired test for each pair (a, b) of values of ``column``, over questions that both were asked.

    A question is one difference, the mean over its variants. Columns: ``a, b, n, mean_a, mean_b, difference`` (a − b),
    ``p``, ``p_holm`` over the pairs. Raises `RequestError` where a pair has no question in common.
    """
    unit = [name for name in unit if name in records]
    means = records.groupby([column, *unit], observed=True)[metric].mean().unstack(column)  # (questions, values)
    rows = []
    for a, b in pairs:
        both = means[[a, b]].dropna() if {a, b} <= set(means) else means.iloc[:0]
        if not len(both):
            raise RequestError(f"{a!r} and {b!r} have no question in common that both were asked.")
        left, right = both[a], both[b]
        difference = left - right
        rows.append((a, b, len(both), left.mean(), right.mean(), difference.mean(), sign_flip_test(difference)))
    tests = pd.DataFrame(rows, columns=["a", "b", "n", "mean_a", "mean_b", "difference", "p"])
    return tests.assign(p_holm=holm(tests["p"]))
