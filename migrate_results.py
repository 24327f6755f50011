"""Once: give the committed cells the names of schema 3. No number changes; run again, it changes nothing more."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from transformers import AutoConfig

from editunlearn_lib import files, study
from editunlearn_lib.data import load_split
from editunlearn_lib.hparams import resolve
from editunlearn_lib.methods import METHODS
from editunlearn_lib.models import POCKET, fingerprint, load_model
from editunlearn_lib.study.store import NOTED

file = Path(sys.argv[1] if len(sys.argv) > 1 else "book/results/pocket.parquet")
before, entries = study.load_results(file), study.manifest(file)
models = {name: (AutoConfig.from_pretrained(path), fingerprint(load_model(name)[0])) for name, path in POCKET.items()}
wrong, done = [], []
for entry in entries:
    cell = study.Cell(**entry["cell"])
    config, base = models[cell.model_name]
    recorded = entry["patch"].pop("hparams", None)
    if recorded and cell.method in METHODS:
        today = json.loads(json.dumps(asdict(resolve(cell.method, METHODS[cell.method].config, config, cell.hparams))))
        usual = json.loads(json.dumps(asdict(METHODS[cell.method].config())))
        if {**usual, **recorded} != today:
            wrong.append((cell, "hyperparameters"))
    if cell.method in METHODS and not recorded and "identity" not in entry:
        wrong.append((cell, "no hyperparameters recorded"))
    if entry["base"] != base:
        wrong.append((cell, "weights"))
    split = load_split(cell.dataset, n_forget=cell.n_forget, seed=cell.seed)
    if entry["forget_ids"] != [qa.id for qa in split.forget]:
        wrong.append((cell, "forget set"))
    if entry["dtype"] != "torch.float32":
        wrong.append((cell, "dtype"))
    identity = {k: v for k, v in cell.identity.items() if k not in ("cell", "schema")}
    head = {"cell": asdict(cell), "key": cell.key, "identity": identity}
    rest = {k: v for k, v in entry.items() if k not in head}
    done.append({**head, **rest, "schema": study.SCHEMA, "patch": {k: entry["patch"].get(k) for k in NOTED}})
texts = {}
for (dataset, n, seed), rows in before.groupby(["dataset", "n_forget", "seed"]):
    split = load_split(dataset, n_forget=int(n), seed=int(seed))
    known = {(qa.id, qa.variant): (qa.question, qa.answer) for part in split.sets().values() for qa in part}
    rows = rows[rows.protocol == "questions"]
    there = list(zip(rows["id"], rows["variant"], rows["question"], rows["answer"], strict=True))
    if bad := [row for row in there if known.get(row[:2]) != row[2:]]:
        wrong.append((dataset, n, seed, f"{len(bad)} questions or answers", bad[0]))
print(len(entries), "cells;", len(wrong), "differ from today:", wrong[:5])
if wrong:
    sys.exit(1)
frame = pd.read_parquet(file)
frame["schema"] = study.SCHEMA
with files.whole(file) as temporary:
    frame.to_parquet(temporary, compression="zstd", index=False)
text = json.dumps(sorted(done, key=lambda d: d["key"]), indent=None, separators=(",", ":"))
files.write(file.with_suffix(".json"), text.replace('{"cell"', '\n{"cell"') + "\n")
after = study.load_results(file)
assert before.drop(columns="schema").equals(after.drop(columns="schema")) and list(before) == list(after)
assert (before.dtypes == after.dtypes).all()
print(f"{len(after):,} rows, {after.shape[1]} columns: all values but those of 'schema' are as they were")
