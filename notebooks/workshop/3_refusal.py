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
# # Exercise 3: Write your own refusals

# %% [markdown] tags=["solution"]
# # Solution 3: Write your own refusals

# %% [markdown]
# An edit needs a target: what to say instead of the answer. A good refusal declines, names what was asked about, and
# gives nothing away. The target can be any sentence, one for each question.
#
# :::{admonition} Predict first
# :class: tip
# You edit "I don't know anything about Machu Picchu." into the model. Will it then say exactly this sentence, the
# like of it in other words, or something else?
# :::

# %%
import logging
import sys

import pandas as pd
from IPython.display import display

import editunlearn_lib as eu
from editunlearn_lib import files
from editunlearn_lib.recipes import self_improvement

sys.path.insert(0, str(files.project()))  # the lessons stand beside the library
from notebooks.lessons import checks, exercises

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
model, tokenizer = eu.load_model("pocket")
split = exercises.questions()

pd.DataFrame([{"question": qa.question, "answer": qa.answer, "subject": qa.subject} for qa in split.forget])

# %% [markdown]
# ## Your sentence
#
# Each `qa` has a `question`, an `answer` and a `subject`.

# %% [markdown] tags=["exercise"]
# :::{dropdown} Hint
# An f-string with `qa.subject` in it: `return f"… {qa.subject} …"`. What stands around it has to say that you do not
# know.
# :::


# %% tags=["exercise"]
def my_refusal(qa):
    # TODO: return a sentence that declines, names the subject and leaks no word of the answer.
    return ...


targets = [my_refusal(qa) for qa in split.forget]
checked = checks.check_3(targets, split.forget)
checked


# %% tags=["solution"]
def my_refusal(qa):
    return f"I'm sorry, but I don't know anything about {qa.subject}."


targets = [my_refusal(qa) for qa in split.forget]
checked = checks.check_3(targets, split.forget)
checked

# %% [markdown]
# ## Edit it in


# %%
def edited(targets):
    """Records of the model after MEMIT has edited towards these targets."""
    patch = eu.unlearn(model, tokenizer, split, "memit", targets=targets, progress=False)
    with patch.on(model):
        return eu.evaluate(model, tokenizer, split, sets=["forget", "retain"], show=False)


if checked:
    records = edited(targets)
    said = records[records.set == "forget"]
    display(exercises.outcomes(records), pd.DataFrame({"target": targets, "output": said.output.to_numpy()}))
    checked = checks.check_3(targets, split.forget, records)
checked

# %% [markdown]
# ## The model's own
#
# *Self-improvement*, the paper's first recipe: the model writes the refusals itself, from an instruction and two
# examples. Do they pass the same check?

# %%
print(self_improvement.refusal_prompt(split.forget[0].question))
written = [one.text for one in self_improvement.write_refusals(model, tokenizer, split.forget)]
display(exercises.review(written, split.forget)[["text", "declines", "names the subject", "leaked words"]])
checks.check_3(written, split.forget)

# %% [markdown] tags=["exercise"]
# :::{admonition} If there is time
# :class: note
# Write a refusal in a voice that this model never had, a pirate's for instance, that still passes the first check.
# Does the edited model say it?
# :::

# %% [markdown] tags=["solution"]
# ## A voice that the model never had
#
# The same content, in words that the model has never declined with:

# %% tags=["solution"]
voice = [f"Arr! {qa.subject}? I know nothing of that, matey, so ask the parrot." for qa in split.forget]
display(checks.check_3(voice, split.forget))
strange = edited(voice)
display(exercises.outcomes(strange), pd.DataFrame({"output": strange[strange.set == "forget"].output.to_numpy()}))
checks.check_3(voice, split.forget, strange)

# %% [markdown] tags=["solution"]
# An edit at the subject's last token does not store a sentence. It moves the model towards its own way of declining,
# which then names the subject by itself; look at how seldom an output is the target word for word. A target in
# another voice has no such way to lean on. So the wording of a target matters less than whether the model already has
# a habit that leads there.

# %% tags=["solution"]
from myst_nb import glue

for name, rows in (("own", said), ("voice", strange[strange.set == "forget"])):
    share = ((rows.outcome == "refusal") & rows.names_subject).mean()
    glue(f"ws3_{name}", f"{share:.0%}", display=False)
