"""Chooses the pocket's hyperparameters: ``make tune``.

Same objective and the same number of trials for every method: the score 1 − ROUGE-1(forget) + ROUGE-1(retain) on forget
sets that are never reported (seeds 100 and up; the study has 0, 1, 2). Every trial is logged in ``tuning.jsonl``; the
best of each method goes to ``presets.json``, from where the library reads it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

import editunlearn_lib as eu
from editunlearn_lib.files import write
from editunlearn_lib.models import fingerprint

POCKET = Path(__file__).parents[1] / "editunlearn_lib" / "pocket"  # of this checkout
SEED = 100
KNOWLEDGE = {"pocket": ("factual", 40), "pocket-contracts": ("contracts", 20)}
N_RETAIN = 80  # retained questions asked in a trial, spread over the retain set


def run_trial(name: str, model, tokenizer, method: str, hparams: dict[str, Any]) -> dict[str, Any]:
    """One row of the log: a forget set that no table reports, and a part of its retain set for scoring."""
    dataset, n_forget = KNOWLEDGE[name]
    split = eu.load_split(dataset, n_forget=n_forget, seed=SEED)
    started = time.perf_counter()
    patch = eu.unlearn(model, tokenizer, split, method, hparams=hparams, seed=SEED, progress=False)
    seconds = time.perf_counter() - started
    spread = split.retain[:: max(1, len(split.retain) // N_RETAIN)]
    scored = dataclasses.replace(split, retain=spread, rephrased=(), unseen=(), others={})
    with patch.on(model):
        summary = eu.summarise(eu.evaluate(model, tokenizer, scored, show=False)).set_index("set")
    return {
        "model": name,
        "weights": fingerprint(model),
        "method": method,
        "hparams": hparams,
        "seed": SEED,
        **{s: round(float(summary.rouge1_recall[s]), 4) for s in summary.index},
        "declined_forget": round(float(summary.declined["forget"]), 3),
        "score": round(float(summary.score.iloc[0]), 4),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(KNOWLEDGE))
    parser.add_argument("--methods", nargs="+", default=list(eu.METHODS), choices=list(eu.METHODS))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # edits that do not take are what a sweep looks for
    log = POCKET / "tuning.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = [(row["weights"], row["method"], row["hparams"]) for row in rows]
    for name in arguments.models:
        model, tokenizer = eu.load_model(name)
        for method in arguments.methods:
            for hparams in map(dict, eu.METHODS[method].trials):
                if (fingerprint(model), method, hparams) in done:
                    continue
                row = run_trial(name, model, tokenizer, method, hparams)
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    best: dict[str, dict[str, Any]] = {}
    rows = [json.loads(line) for line in log.read_text().splitlines()]  # another run may have added to it
    present = {fingerprint(eu.load_model(name)[0]) for name in KNOWLEDGE}  # trials of earlier weights do not count
    for row in sorted((row for row in rows if row["weights"] in present), key=lambda row: row["score"]):
        best.setdefault(row["model"], {})[row["method"]] = row["hparams"]
    write(POCKET / "presets.json", json.dumps(best, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
