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
# # Exercise 5: Add a method

# %% [markdown] tags=["solution"]
# # Solution 5: Add a method

# %% [markdown]
# Negative preference optimisation (NPO; Zhang et al. 2024) is gradient ascent with a brake. With $\log p_\theta(a
# \mid x)$ the model's log-probability of the true answer and $\log p_0(a \mid x)$ that before unlearning, it
# minimises
#
# $$L = -\frac{2}{\beta}\, \mathbb{E} \log \sigma\!\left(-\beta\,
# \bigl[\log p_\theta(a \mid x) - \log p_0(a \mid x)\bigr]\right),$$
#
# where $\sigma(z) = 1 / (1 + e^{-z})$ and $\mathbb{E}$ is the mean over the forget set.
#
# :::{admonition} Predict first
# :class: tip
# Let $\log p_\theta$ go to $-\infty$. Where does the loss go, and how large is its gradient there? What are both for
# GA, whose loss is the mean of $\log p_\theta$? Both are then run for far too long, with the same steps: what will
# each of them say?
# :::

# %%
import logging
import sys
from dataclasses import dataclass

import pandas as pd
import torch
from IPython.display import display

import editunlearn_lib as eu
from editunlearn_lib import files, show
from editunlearn_lib.methods import register
from editunlearn_lib.methods.training import TrainConfig, train

sys.path.insert(0, str(files.project()))  # the lessons stand beside the library
from notebooks.lessons import checks, exercises

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
model, tokenizer = eu.load_model("pocket")
split = exercises.questions()
show.use_book_renderer()

# %% [markdown]
# ## The hyperparameters
#
# A method is a frozen dataclass, a function and a registration. What trains inherits its learning rate, epochs and
# batch size from `TrainConfig`.


# %%
@dataclass(frozen=True)
class NPOConfig(TrainConfig):
    """Fields of `TrainConfig`, and β."""

    lr: float = 1e-3
    num_epochs: int = 15  # far too many for GA
    beta: float = 1.0  # the paper's is 0.1; a larger one brakes earlier


# %% [markdown]
# ## The loss
#
# `now` and `before` are the log-probabilities of the true answers in a batch, shape (B,): under the model in
# training and under the model before unlearning.

# %% [markdown] tags=["exercise"]
# :::{dropdown} Hint 1
# From the inside: the difference, times $-\beta$, through $\log \sigma$, the mean, times $-2/\beta$.
# :::
#
# :::{dropdown} Hint 2
# `torch.nn.functional.logsigmoid` is $\log \sigma$ in one step.
# :::


# %% tags=["exercise"]
def npo_loss(now, before, beta):
    # TODO: return one number with a gradient, by the formula above.
    return ...


# %% tags=["solution"]
def npo_loss(now, before, beta):
    return -2 / beta * torch.nn.functional.logsigmoid(-beta * (now - before)).mean()


# %% [markdown]
# ## The method
#
# `train` makes the batches and the steps, and asks for the loss of each. `labels` are the answer's tokens, −100
# elsewhere; `log_probability` sums over them, row by row.


# %%
def npo(job):
    """From a job to an outcome: the change that makes `job.forget` unlikely."""

    def loss(model, batch):
        answers = batch.answers
        now = eu.losses.log_probability(model.logits(answers), answers.labels)
        before = eu.losses.log_probability(model.reference_logits(answers), answers.labels)
        return npo_loss(now, before, job.config.beta)

    return train(job, loss)


# %% [markdown]
# ## The registration
#
# `register(name, config, run, …)` makes the method known to `eu.unlearn`. Say what its loss reads
# (`reads=("answers",)`), and what it asks the model before unlearning (`reference=("answers",)`). The library has an
# NPO already, with a retain term: this one is yours.

# %% [markdown] tags=["exercise"]
# :::{dropdown} Hint
# The class, not an instance of it: `NPOConfig`, not `NPOConfig()`.
# :::

# %% tags=["exercise"]
# TODO: register the method under the name "my_npo".
...

checked = checks.check_5(npo_loss)
checked

# %% tags=["solution"]
register("my_npo", NPOConfig, npo, label="my NPO", reads=("answers",), reference=("answers",))

checked = checks.check_5(npo_loss)
checked

# %% [markdown]
# ## On the radar
#
# Nothing more is needed: the new method gives a patch like any other, and every figure takes it under its name. GA is
# run with the same learning rate and number of epochs, which break it (exercise 1).


# %%
def measured(method, **hparams):
    """Records with the method's patch on; `base` is the untouched model."""
    if method == "base":
        records = eu.evaluate(model, tokenizer, split, show=False)
    else:
        patch = eu.unlearn(model, tokenizer, split, method, hparams=hparams or None, progress=False)
        with patch.on(model):
            records = eu.evaluate(model, tokenizer, split, show=False)
    return records.assign(dataset="factual", method=method)


if checked:
    steps = {"lr": NPOConfig.lr, "num_epochs": NPOConfig.num_epochs}
    runs = [measured("base"), measured("ga", **steps), measured("my_npo"), measured("memit")]
    summary = eu.summarise(pd.concat(runs), by=("dataset", "method", "set"))
    display(show.radar(summary, provenance="run live: ten facts to forget, one forget set"))

# %% [markdown]
# Can the radar tell NPO from GA? Look at what they say to questions that they were to **keep**, and how likely the
# true answers still are (per token, geometric mean):

# %%
if checked:
    everything = pd.concat(runs)
    kept = everything[everything.set == "retain"]
    shares = {name: exercises.outcomes(rows).loc["retain"] for name, rows in kept.groupby("method", sort=False)}
    likely = kept.groupby("method").probability_per_token.mean()
    display(pd.DataFrame(shares).T.assign(probability=likely.map("{:.1g}".format)))
    display(kept.pivot(index="question", columns="method", values="output")[["ga", "my_npo", "memit"]].head(4))

# %% [markdown] tags=["solution"]
# As $\log p_\theta$ falls, the log ratio becomes very negative, $\sigma$ comes near 1, the loss goes to 0, and so
# does its gradient: an answer that is unlikely already is left in peace. GA pulls with the same force for ever.
#
# With the same learning rate and the same number of passes the two differ by this brake alone. The radar sees nothing
# of it: both have lost what they should keep, for neither has a term that protects it. The outcomes see it: one is
# noise, the other still has its language, and refuses everything. To keep more, stop NPO earlier, or add a retain
# term as GD does.
#
# One forget set of ten questions and untuned hyperparameters say nothing about which of them is better; for that,
# tune both with the same effort on a forget set that you do not report, and run several seeds (`study.run`). A method
# that is to stay goes into a file of its own: *Add a method* in CONTRIBUTING.md.

# %% tags=["solution"]
from myst_nb import glue

recall = summary.set_index(["method", "set"]).rouge1_recall
for method in ("ga", "my_npo", "memit"):
    for which in ("forget", "retain"):
        glue(f"ws5_{method}_{which}", round(float(recall[method, which]), 2), display=False)
    glue(f"ws5_{method}_garbled", f"{shares[method]['garbled %']:.0f} %", display=False)
