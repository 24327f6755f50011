"""How much faster is asking 217 questions in batches than one by one? ``make bench``.

Both in one run on one machine, alternating; the ratio of the medians is what counts. The answers must be the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import editunlearn_lib as eu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "evaluation.json")
    arguments = parser.parse_args()
    model, tokenizer = eu.load_model(arguments.model)
    whole = eu.load_split("factual", n_forget=217, seed=0)
    seconds: dict[str, list[float]] = {"batched": [], "one by one": []}
    outputs = {}
    for _ in range(arguments.rounds):
        for name, size in (("batched", "auto"), ("one by one", 1)):
            started = time.perf_counter()
            outputs[name] = eu.evaluate(model, tokenizer, whole, sets=["forget"], batch_size=size, show=False).output
            seconds[name].append(time.perf_counter() - started)
    medians = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    result = {
        "what": "evaluate() on 217 questions, seconds (median)",
        "model": arguments.model,
        **medians,
        "ratio": round(medians["one by one"] / medians["batched"], 1),
        "same outputs": bool((outputs["batched"] == outputs["one by one"]).all()),
        "rounds": arguments.rounds,
        "device": str(model.device),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
