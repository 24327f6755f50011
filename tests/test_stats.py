"""Paired tests: against cases worked out by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest

from editunlearn_lib import stats
from editunlearn_lib.errors import RequestError


def test_sign_flips_against_all_of_them():
    d = [0.5, 0.2, -0.1, 0.4, 0.3, 0.6, 0.1, 0.2]
    every = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) >= sum(d) - 1e-9
        for signs in itertools.product((1, -1), repeat=8)
    ]
    assert stats.sign_flip_test(d) == pytest.approx(np.mean(every), abs=0.005)
    assert stats.sign_flip_test(d) == stats.sign_flip_test([-x for x in d])
    assert stats.sign_flip_test([0.0] * 5) == 1.0
    assert stats.sign_flip_test([1.0] * 40) == pytest.approx(1 / 10_000)


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert stats.holm([]) == []


def test_compare_pairs_questions_not_rows():
    rows = [
        {"method": m, "seed": s, "id": i, "variant": v, "rouge1_recall": value}
        for m, values in {"a": (1, 1, 1), "b": (0, 1, 0.5)}.items()
        for s in (0, 1)
        for i, value in zip("xyz", values, strict=True)
        for v in (1, 2)
    ]
    rows.append({"method": "b", "seed": 0, "id": "only b was asked", "variant": 1, "rouge1_recall": 1.0})
    (row,) = stats.compare(pd.DataFrame(rows), [("a", "b")]).to_dict("records")
    assert (row["n"], row["mean_a"], row["mean_b"], row["difference"]) == (6, 1.0, 0.5, 0.5)
    assert row["p_holm"] == row["p"] > 0.05  # four differences that are not 0 cannot be told from chance
    with pytest.raises(RequestError, match="no question in common"):
        stats.compare(pd.DataFrame(rows), [("a", "c")])
