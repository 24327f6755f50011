"""The figures of the status page: time and memory over size."""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))

import growth


def test_growth_has_both_measures_and_a_line_in_proportion():
    points = [
        ("n_forget", "ga", 10, 2.0, 4e6),
        ("n_forget", "ga", 100, 30.0, 0),
        ("n_forget", "evaluate", 10, 1.0, 1e6),
        ("cells", "load", 10, 1.0, 1e6),
    ]
    rows = pd.DataFrame(points, columns=["sweep", "work", "size", "cpu_seconds", "peak_bytes"])
    exponents = pd.DataFrame([{"sweep": "n_forget", "work": "ga", "measure": "cpu_seconds", "exponent": 1.18}])
    fig = growth.growth(rows, exponents, "n_forget", provenance="made up")
    assert [trace.name for trace in fig.data] == ["GA", "asking", "in proportion"]
    buttons = {button.label: button.args[0] for button in fig.layout.updatemenus[0].buttons}
    assert list(buttons) == ["time (s)", "memory (MB)"]
    assert buttons["time (s)"]["y"] == [[2.0, 30.0], [1.0], [1.0, 10.0]]  # from the cheapest: ten times 1 s
    assert buttons["memory (MB)"]["y"] == [[4.0, None], [1.0], [1.0, 10.0]]  # what was not measured has no point
    assert buttons["time (s)"]["x"] == [[10, 100], [10], [10, 100]]
    assert list(fig.data[0].y) == [2.0, 30.0] and fig.layout.xaxis.type == fig.layout.yaxis.type == "log"
    assert "time (s) of ga 1.18" in fig.layout.meta["alt"] and "load" not in fig.layout.meta["alt"]
