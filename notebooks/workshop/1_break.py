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
# # Exercise 1: Break a model, then stop in time

# %% [markdown] tags=["solution"]
# # Solution 1: Break a model, then stop in time

# %% [markdown]
# Gradient ascent (GA) turns training round: it *climbs* the loss of the true answers until they are unlikely. Nothing
# in it says where to stop.
#
# :::{admonition} Predict first
# :class: tip
# GA is given ten facts to forget and is run for far too long. What will the model then say when it is asked about a
# fact that it was to **keep**: the right answer, a refusal, a wrong answer, or no language at all? Write one of the
# four down.
# :::

# %%
import logging
import sys

from IPython.display import display

import editunlearn_lib as eu
from editunlearn_lib import files

sys.path.insert(0, str(files.project()))  # the lessons stand beside the library
from notebooks.lessons import checks, exercises

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
model, tokenizer = eu.load_model("pocket")
split = exercises.questions()


def attempt(lr, num_epochs):
    """Records of the model after gradient ascent with this learning rate, for so many passes over the forget set."""
    patch = eu.unlearn(model, tokenizer, split, "ga", hparams={"lr": lr, "num_epochs": num_epochs}, progress=False)
    with patch.on(model):
        return eu.evaluate(model, tokenizer, split, sets=["forget", "retain"], show=False)


before = eu.evaluate(model, tokenizer, split, sets=["forget", "retain"], show=False)
exercises.outcomes(before)

# %% [markdown]
# ## Too far
#
# A learning rate and a number of epochs that are both too large:

# %%
broken = attempt(lr=2e-3, num_epochs=8)
display(exercises.outcomes(broken))
broken[["set", "question", "answer", "output"]].groupby("set").head(2)

# %% [markdown]
# The forget set has a perfect score: not a word of any answer is left. Now read the outputs. Was your prediction right?
#
# ## Stop in time
#
# Is there a learning rate and a number of epochs with which GA forgets a part of the ten facts and keeps most of the
# others? What is asked, in ROUGE-1 recall:

# %%
{"forget, at most": checks.FORGET_AT_MOST, "retain, at least": checks.RETAIN_AT_LEAST}

# %% [markdown] tags=["exercise"]
# :::{dropdown} Hint 1
# With a small learning rate an epoch does little, so you can stop more finely. Try `3e-4`.
# :::
#
# :::{dropdown} Hint 2
# Keep the learning rate. Find a number of epochs that is too few and one that is too many, then halve the interval.
# :::

# %% tags=["exercise"]
# TODO: call attempt(…) with a learning rate and a number of epochs of your own.
stopped = ...

# %% [markdown] tags=["solution"]
# A small learning rate, so that an epoch is a small step; then the number of epochs by halving the interval between
# too few and too many:

# %% tags=["solution"]
stopped = attempt(lr=3e-4, num_epochs=10)

# %%
if stopped is not ...:
    display(exercises.outcomes(stopped))
checks.check_1(stopped)

# %% [markdown] tags=["solution"]
# ## How wide is the window?
#
# The same learning rate, stopped earlier and later:

# %% tags=["solution"]
import pandas as pd

runs = {5: attempt(3e-4, 5), 10: stopped, 13: attempt(3e-4, 13)}
window = pd.concat({n: exercises.outcomes(records) for n, records in runs.items()}, names=["epochs"])
window

# %% [markdown] tags=["solution"]
# Between "has hardly begun" and "has lost nearly everything" there are few epochs, and nothing in the forget set's
# own loss tells where they end: you needed the retain set to see it. That is why GD and KL add a term for retained
# questions, and why no score of forgetting is worth anything alone.
#
# On the way down the outcomes pass through *refusal*: pushed away from its answers, the pocket falls back on the
# sentences with which it was trained to decline what it does not know. Later it is no language. The rule behind
# *refusal* looks for such a sentence and does not see how broken the rest of the output is.

# %% tags=["solution"]
from myst_nb import glue

for name, records in (("before", before), ("broken", broken), ("stopped", stopped)):
    for which, recall in records.groupby("set").rouge1_recall.mean().items():
        glue(f"ws1_{name}_{which}", round(float(recall), 2), display=False)
glue("ws1_garbled", f"{(broken.outcome == 'garbled').mean():.0%}", display=False)
