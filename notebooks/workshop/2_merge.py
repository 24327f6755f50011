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

# %% [markdown] tags=["exercise"]
# # Exercise 2: Several questions in one edit

# %% [markdown] tags=["solution"]
# # Solution 2: Several questions in one edit

# %% [markdown]
# The paper joins *m* questions into one text and makes one edit of it, with one refusal: *n* questions then need only
# *n / m* edits.
#
# :::{admonition} Predict first
# :class: tip
# Ten facts, edited by MEMIT with m = 1, 2 and 5. Each question is then asked **alone**. Write down how many of the
# ten are forgotten for each m.
# :::

# %%
import logging
import sys

import pandas as pd
import torch
from IPython.display import display

import editunlearn_lib as eu
from editunlearn_lib import files

sys.path.insert(0, str(files.project()))  # the lessons stand beside the library
from notebooks.lessons import checks, exercises

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
model, tokenizer = eu.load_model("pocket")
split = exercises.questions()

cosine = torch.nn.functional.cosine_similarity

# %% [markdown]
# ## Three patches
#
# `eu.unlearn` has an argument for the number of questions in an edit; its docstring names it (`eu.unlearn?`).

# %% [markdown] tags=["exercise"]
# :::{dropdown} Hint
# `eu.unlearn(model, tokenizer, split, "memit", …=m, progress=False)` returns the patch.
# :::


# %% tags=["exercise"]
def merged(m):
    # TODO: return a patch by MEMIT (or ROME) in which m questions are one edit.
    return ...


patches = {m: merged(m) for m in (1, 2, 5)}
checks.check_2(patches)


# %% tags=["solution"]
def merged(m):
    return eu.unlearn(model, tokenizer, split, "memit", merge=m, progress=False)


patches = {m: merged(m) for m in (1, 2, 5)}
checks.check_2(patches)


# %%
def asked_alone(patch):
    """ROUGE-1 recall of each forgotten question, asked alone with the patch on."""
    with patch.on(model):
        return eu.evaluate(model, tokenizer, split, sets=["forget"], show=False).rouge1_recall.to_numpy()


recall = {m: asked_alone(patch) for m, patch in patches.items() if patch is not ...}
pd.DataFrame(
    {
        "edits": {m: len(patches[m].info["log"]) for m in recall},
        "that took on their own text": {m: sum(row["took"] for row in patches[m].info["log"]) for m in recall},
        "still known, asked alone": {m: values.mean() for m, values in recall.items()},
    }
).rename_axis("m").round(2)

# %% [markdown]
# ## Why?
#
# An edit writes *at this key, give that value* into a weight matrix. A question that has another key does not meet it.
# `exercises.edit_keys` reads the keys off the model: of every question asked alone, and of the merged texts (at the
# last subject in them). Write the function that compares each question's key with the key of **its own** edit:
# questions 0 … m − 1 are in edit 0, questions m … 2m − 1 in edit 1, and so on.

# %% [markdown] tags=["exercise"]
# :::{dropdown} Hint 1
# Bring `merged` to the shape of `lone` first: each row must stand there m times, one after another.
# :::
#
# :::{dropdown} Hint 2
# `torch.repeat_interleave`, then `cosine(…, …)`, which works along dimension 1.
# :::


# %% tags=["exercise"]
def nearness(lone, merged, m):
    # TODO: lone is (n, d), merged is (n / m, d); return n cosines, one per question.
    return ...


checks.check_2(patches, nearness)


# %% tags=["solution"]
def nearness(lone, merged, m):
    return cosine(lone, merged.repeat_interleave(m, 0))


checks.check_2(patches, nearness)

# %%
lone = exercises.edit_keys(model, tokenizer, split.forget)
places, reworded = [], [qa for qa in split.rephrased if qa.variant == 1]
for m in recall:
    near = nearness(lone, exercises.edit_keys(model, tokenizer, split.forget, m), m)
    if near is not ...:
        last = torch.arange(len(lone)) % m == m - 1
        for place, rows in (("the last in its text", last), ("the others", ~last)):
            if rows.any():
                known = recall[m][rows.numpy()].mean()
                places.append({"m": m, "place": place, "cosine": float(near[rows].mean()), "still known": known})
display(pd.DataFrame(places).round(2))
near = float(cosine(lone, exercises.edit_keys(model, tokenizer, reworded)).mean())
print(f"For comparison: a question and the same question in other words have a cosine of {near:.2f}.")

# %% [markdown]
# Why are **the others** not reached? One of these is right:
#
# - (a) a refusal is too short to be learnt;
# - (b) the edit stands at one key, and these questions, asked alone, have other keys;
# - (c) the retained questions pull the edit back;
# - (d) these questions were left out of the merged text.

# %% [markdown] tags=["exercise"]
# :::{dropdown} Hint
# Each wrong one is contradicted by something that you can look up in a line. The check tells you where.
# :::

# %% tags=["exercise"]
# TODO: a letter, in quotes.
why = ...
checks.check_2(patches, nearness, why)

# %% tags=["solution"]
why = "b"
checks.check_2(patches, nearness, why)

# %% [markdown] tags=["solution"]
# A cosine near 0 is what any two unrelated questions have: for all but the last question, the merged edit stands
# somewhere else. The last one's key is nearly the edit's own, and still it is mostly not forgotten. For that look at
# the first table: most of the merged edits did not even take on their own text. A value at one token is asked to turn
# the answers to several questions at once, and the other questions are still there to be attended to.
#
# This is what the pocket does, at one layer, with one choice of key. The paper reports a gain from merging on models
# of seven billion weights; what is shown here does not say where that gain comes from. More in [the third
# question](../rq3_improving).

# %% tags=["solution"]
from myst_nb import glue

for m, values in recall.items():
    glue(f"ws2_known_{m}", round(float(values.mean()), 2), display=False)
of = pd.DataFrame(places).set_index(["m", "place"]).cosine
glue("ws2_last", round(float(of[5, "the last in its text"]), 2), display=False)
glue("ws2_others", round(float(of[5, "the others"]), 2), display=False)
