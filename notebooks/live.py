# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The lab
#
# Choose a method, how many questions it forgets, how many of them go into one edit, and what the model should say
# instead. Then ask: a question of the data, one in other words, one that should have been left alone, or one of your
# own. Everything is computed when you press a button, on the model of the first cell. The first patch of a method
# that reads a covariance takes longer.

# %% tags=["parameters"]
model = "pocket"  # "pocket", a Hugging Face id, or a local folder
dataset = "factual"  # "factual", "contracts" (with model = "pocket-contracts"), or a path to your file
n_forget = 10
seed = 0
device = "auto"
dtype = "auto"

# %%
import sys

import editunlearn_lib as eu
from editunlearn_lib import files, show

sys.path.insert(0, str(files.project()))  # the lessons stand beside the library
from notebooks.lessons.lab import lab

show.use_book_renderer()
loaded, tokenizer = eu.load_model(model, device=device, dtype=dtype)
split = eu.load_split(dataset, n_forget=n_forget, seed=seed)
bench = lab(loaded, tokenizer, split)
bench

# %% [markdown]
# ## The figures of the book, from this model
#
# Run the cell below when you have made two patches or more: every patch of the lab is asked the same questions, and
# shown as the book shows its own.

# %%
import pandas as pd

sets = ["forget", "rephrased", "retain"]
rows = [eu.evaluate(loaded, tokenizer, split, sets=sets).assign(method="base")]
for (method, m, targets, *_), patch in bench.lab.patches.items():
    name = method if (m, targets) == (1, "refusal") else f"{method}, m = {m}, {targets}"
    with patch.on(loaded):
        rows.append(eu.evaluate(loaded, tokenizer, split, sets=sets).assign(method=name))
records = pd.concat(rows).assign(dataset=dataset)
records = records.drop_duplicates(["method", "set", "id", "variant"])
summary = eu.summarise(records, by=("dataset", "method", "set"))
show.linked(summary, records, provenance="this lab", caption="The patches of the lab")
