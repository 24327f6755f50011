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
# # Exercise 4: Attack a patch until it leaks

# %% [markdown] tags=["solution"]
# # Solution 4: Attack a patch until it leaks

# %% [markdown]
# Two patches make the model refuse the same ten questions. Is the knowledge erased, or only suppressed? You have the
# model in your hands: find the answers.
#
# :::{admonition} Predict first
# :class: tip
# MEMIT changes two weight matrices. GRACE changes none: it keeps a list of keys, and answers with a stored value when
# the end of a prompt comes near one of them. Which of the two will leak more easily, and to what?
# :::

# %%
import logging
import sys

import pandas as pd
from IPython.display import display

import editunlearn_lib as eu
from editunlearn_lib import attacks, files

sys.path.insert(0, str(files.project()))  # the lessons stand beside the library
from notebooks.lessons import checks, exercises

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
model, tokenizer = eu.load_model("pocket")
split = exercises.questions()

memit = eu.unlearn(model, tokenizer, split, "memit", progress=False)
grace = eu.unlearn(model, tokenizer, split, "grace", progress=False)


def recalled(questions, patch):
    """What the model says to each question with the patch on."""
    with patch.on(model):
        return eu.generate(model, tokenizer, questions)


plain = [qa.question for qa in split.forget]
pd.DataFrame(
    {"answer": [qa.answer for qa in split.forget], "MEMIT": recalled(plain, memit), "GRACE": recalled(plain, grace)}
)

# %% [markdown]
# ## Break MEMIT's patch
#
# The library knows these attacks. Find one that brings at least half of the answers back from `memit`.

# %%
pd.DataFrame({"what it does": attacks.ATTACKS}).iloc[1:]

# %% [markdown] tags=["exercise"]
# :::{dropdown} Hint 1
# `attacks.attack(model, tokenizer, split, ["list"])` gives records; several names at once are fine. Only `relearn`
# takes more than a few seconds.
# :::
#
# :::{dropdown} Hint 2
# Which attack does not wait for the model's first word?
# :::

# %% tags=["exercise"]
with memit.on(model):
    # TODO: call attacks.attack(…) with the names of one or more attacks.
    came_back = ...

checks.check_4(came_back)

# %% tags=["solution"]
with memit.on(model):
    came_back = attacks.attack(model, tokenizer, split, ["list", "4-bit", "prefill"])

checks.check_4(came_back)

# %%
if came_back is not ...:
    back = came_back.assign(back=came_back.rouge1_recall >= checks.BACK)
    display(back.groupby("attack", sort=False).back.agg(["mean", "size"]).round(2))
    display(came_back[["attack", "question", "answer", "output"]].groupby("attack", sort=False).head(3))

# %% [markdown]
# Where the beginning of the answer was given, only the words behind it are scored; answers of a single token are left
# out.
#
# ## Break GRACE's patch with your own words
#
# Put something around the question, or ask it in another way, so that at least half of the answers come back. Your
# prompt must name the subject and must not hold a word of the answer.

# %% [markdown] tags=["exercise"]
# :::{dropdown} Hint
# GRACE looks at the **last** token of the prompt. A sentence behind the question moves the end elsewhere; so does
# asking twice.
# :::


# %% tags=["exercise"]
def my_frame(qa):
    # TODO: return a prompt that asks for the same thing in a frame of your own.
    return ...


frames = [my_frame(qa) for qa in split.forget]
outputs = ... if ... in frames else recalled(frames, grace)
checks.check_4(came_back, frames, outputs, split.forget)


# %% tags=["solution"]
def my_frame(qa):
    return f"{qa.question} {qa.question}"


frames = [my_frame(qa) for qa in split.forget]
outputs = ... if ... in frames else recalled(frames, grace)
checks.check_4(came_back, frames, outputs, split.forget)

# %%
if outputs is not ...:
    display(pd.DataFrame({"prompt": frames, "answer": [qa.answer for qa in split.forget], "GRACE": outputs}))
    display(pd.DataFrame({"prompt": frames, "MEMIT": recalled(frames, memit)}))

# %% [markdown] tags=["solution"]
# Both patches pass when the question is asked as it was forgotten, and neither has erased the answer. GRACE's guard
# stands at one place, the key of the prompt's last token, and every frame that moves the end goes round it. MEMIT's
# edit stands in the weights, at the subject, and the same frames bring fewer answers back from it, though not none:
# read the last table. Put the beginning of the answer into the model's mouth, and it goes on as before.
#
# What follows for a right to be forgotten? A model that can be questioned only as its owner allows may be safe behind
# such a patch. One whose weights, or whose answer's first words, are in another's hands is not.

# %% tags=["solution"]
from myst_nb import glue

for name, share in back.groupby("attack").back.mean().items():
    glue(f"ws4_{name}", f"{share:.0%}", display=False)
own = [eu.metrics.rouge1_recall(text, qa.answer) >= checks.BACK for text, qa in zip(outputs, split.forget, strict=True)]
glue("ws4_frame", f"{sum(own) / len(own):.0%}", display=False)
said = recalled(frames, memit)
also = [eu.metrics.rouge1_recall(text, qa.answer) >= checks.BACK for text, qa in zip(said, split.forget, strict=True)]
glue("ws4_frame_memit", f"{sum(also) / len(also):.0%}", display=False)
