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
from editunlearn_lib.models import fingerprint
from editunlearn_lib.store import write

POCKET = Path(__file__).parents[1] / "editunlearn_lib" / "pocket"  # of this checkout
SEED = 100
KNOWLEDGE = {"pocket": ("factual", 40), "pocket-contracts": ("contracts", 20)}
N_RETAIN = 80  # retained questions asked in a trial, spread over the retain set

# The pocket's scales are its own: at the edited token a block's output is 500 to 900 long and an MLP's 30 (layer 1) to
# 500 (layer 0); eigenvalues of C have a median of 2 in layer 0 and .03 in layer 1; keys of two questions at the last
# prompt token are 7 apart in layer 2, 30 in layer 4, 320 in layer 5. EasyEdit's rates, clamps and radii mean nothing here.
TRAINED = [{"lr": lr, "num_epochs": 10} for lr in (4e-5, 7e-5, 1.2e-4, 3e-4, 1e-3, 2.5e-3)]
VALUE = {"v_lr": 15.0, "v_num_grad_steps": 20, "context_templates": ["{}", "Now something else. {}", "Thank you. {}"]}
TRIALS: dict[str, list[dict[str, Any]]] = {  # until each method's file has its own
    **dict.fromkeys(("ga", "gd", "kl", "dpo", "idk"), TRAINED),
    "memit": [
        {**VALUE, "layers": layers, "mom2_update_weight": weight}
        for layers, weight in (
            ([0], 100.0),
            ([0, 1], 10.0),
            ([0, 1], 100.0),
            ([0, 1], 1e3),
            ([0, 1, 2], 100.0),
            ([0, 1, 2], 1e4),
        )
    ],
    "rome": [
        {**VALUE, "layers": [layer], "clamp_norm_factor": clamp, "mom2_adjustment": adjusted}
        for layer, clamp, adjusted in (
            (0, 4.0, True),
            (0, 4.0, False),
            (1, 16.0, True),
            (2, 8.0, True),
            (2, 16.0, True),
            (3, 8.0, True),
        )
    ],
    "alphaedit": [
        {
            **VALUE,
            "layers": layers,
            "nullspace_threshold": threshold,
            "L2": L2,
            "clamp_norm_factor": 4.0,
            "v_weight_decay": 1e-3,
        }
        for layers, threshold, L2 in (
            ([0], 1.0, 10.0),
            ([0], 8.0, 10.0),
            ([0, 1], 1.0, 10.0),
            ([0, 1], 1.0, 1000.0),
            ([1], 0.1, 1.0),
            ([2], 0.5, 1.0),
        )
    ],
    "grace": [
        {"layers": [layer], "eps": eps, "train_end": True}
        for layer, eps in ((2, 3.0), (2, 6.0), (4, 8.0), (4, 14.0), (5, 80.0), (5, 140.0))
    ],
    "wise": [
        {
            "layers": [layer],
            "edit_lr": lr,
            "act_margin": [scale * m for m in (5.0, 20.0, 10.0)],
            "n_iter": n,
            "train_end": True,
        }
        for layer, lr, scale, n in (
            (3, 1.0, 30.0, 150),
            (4, 0.3, 30.0, 150),
            (4, 1.0, 100.0, 100),
            (5, 0.03, 100.0, 100),
            (5, 0.05, 150.0, 150),
            (5, 0.1, 200.0, 100),
        )
    ],
}


def trials(method: str) -> list[dict[str, Any]]:
    """The hyperparameters that are tried, as many for every method."""
    return getattr(eu.METHODS[method], "trials", None) or TRIALS[method]


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
            for hparams in trials(method):
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
