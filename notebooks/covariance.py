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
# # The covariance: how many texts, and which keys
#
# ROME, MEMIT and AlphaEdit must know what to leave alone. They can read it off the covariance of keys,
# $C = \mathbb{E}[k k^\top]$: a key $k$ is what enters the MLP's down projection at a token, and the mean runs over the
# tokens of some texts. MEMIT changes a layer by
#
# $$\Delta W = R K^\top (\lambda C + K K^\top)^{-1},$$
#
# so a direction in which $C$ is large is a direction in which the edit stays small. The paper took 1,000 texts. This
# page asks what that number, and the choice of the texts, do to an edit.
#
# :::{admonition} Before you read on
# :class: tip
# The edit below is made with $C$ from 100, 300, 1,000 and 3,000 texts, then with two choices of keys for one number of
# texts. Which matters more for what the model keeps: ten times as many texts, or other keys?
# :::

# %% tags=["parameters"]
model = "pocket"  # "pocket", a Hugging Face id, or a local folder
sizes = [100, 300, 1000, 3000]  # numbers of texts; each edit is compared with that of the last
n_forget = 20
seed = 0
device = "auto"
dtype = "auto"

# %% tags=["hide-input"]
import logging
import sys

import pandas as pd
from IPython.display import Markdown, display

import editunlearn_lib as eu
from editunlearn_lib import covariance, files, show, study

sys.path.insert(0, str(files.project()))  # the lessons stand beside the library
from notebooks.lessons import changes

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
LIVE = f"run live: {n_forget} facts, one forget set"

sizes = sorted(study.as_list(sizes, int))
lm, tokenizer = eu.load_model(model, device=device, dtype=dtype)
split = eu.load_split("factual", n_forget=int(n_forget), seed=int(seed))


def edit(source):
    """MEMIT with the preset of this model and C from this source: the patch, and its ΔW."""
    patch = eu.unlearn(lm, tokenizer, split, "memit", covariance=source, seed=int(seed), progress=False)
    return patch, changes.change(patch)


def scores(patch, sets):
    """ROUGE-1 recall by set, with its interval, as texts."""
    with patch.on(lm):
        found = eu.summarise(eu.evaluate(lm, tokenizer, split, sets=sets)).set_index("set")
    return {name: with_interval(found.loc[name]) for name in sets}


def with_interval(row):
    return f"{row.rouge1_recall:.2f} ({row.rouge1_recall_low:.2f}–{row.rouge1_recall_high:.2f})"


sources = {n: covariance.named_source("default", lm, tokenizer, n) for n in sizes}
told = sources[sizes[-1]].describe()
edits = {n: edit(source) for n, source in sources.items()}
results = {n: scores(patch, ["forget", "retain"]) for n, (patch, _) in edits.items()}
display(
    Markdown(
        f"MEMIT on `{model}`, {n_forget} facts forgotten, seed {seed}. The texts: *{told['name']}*; covered: "
        f"{told['keys']}"
        + (f", which have a share of {told['subject_share']:g} in *C*." if told["subject_share"] else ".")
    )
)

# %% [markdown]
# ## How many texts
#
# The smaller samples are parts of the larger ones. What the edit aims at, the vectors that make the model refuse, does
# not depend on $C$, so any difference between two rows comes from $C$ alone. *Distance* is
# $\lVert \Delta W_n - \Delta W_N \rVert / \lVert \Delta W_N \rVert$ over all edited layers, $N$ being the largest
# number of texts; *cosine* is that of the two changes. ROUGE-1 recall with its 95 % bootstrap interval over questions:
# low is good on **forget**, high on **retain**.

# %% tags=["hide-input"]
_, last = edits[sizes[-1]]
rows = [
    {
        "texts": f"{n:,}",
        "distance": f"{changes.distance(change, last):.3f}",
        "cosine": f"{changes.cosine(change, last):.3f}",
        **results[n],
    }
    for n, (_, change) in edits.items()
]
show.plain_table(
    pd.DataFrame(rows), "Texts that C is the mean over, and what MEMIT's edit does", provenance=LIVE, name="texts"
)

# %% [markdown]
# ## Which keys
#
# For the pocket there is a choice. **corpus** is the text that it was trained on and nothing else. **corpus+subjects**
# takes a share of $C$ from keys where edits happen, at the last token of a subject; the subjects are those of facts
# that are in no scored set, and no scored fact has the same subject. **unseen** is kept knowledge that no method may
# read.

# %% tags=["hide-input"]
if getattr(lm.config, "pocket", None):
    n, rows = 1000, []  # texts
    for keys in ("corpus", "corpus+subjects"):
        source = covariance.named_source(keys, lm, tokenizer, n)
        known = n in edits and source == sources[n]
        patch, change = edits[n] if known else edit(source)
        rows.append(
            {
                "keys": keys,
                "subjects": len(source.requests),
                "norm of ΔW": f"{change.norm():.1f}",
                **(results[n] | scores(patch, ["unseen"]) if known else scores(patch, ["forget", "retain", "unseen"])),
            }
        )
    display(
        show.plain_table(pd.DataFrame(rows), f"Keys that C is the mean over, {n:,} texts", provenance=LIVE, name="keys")
    )
else:
    display(Markdown("The training text of this model is not at hand, so there is no such choice."))

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# One forget set, one seed, one method: a difference inside the intervals is none. The hyperparameters were chosen for
# one of these covariances, and $\lambda$ weighs $C$: with another $\lambda$ the order may be another. The pocket's
# corpus tells every fact that the model knows, so $C$ covers the forgotten and the unseen ones as well; for a large
# model nobody has the training text at hand, and general text stands in for it. Keys of a large model have more than
# ten times as many dimensions: how many texts they need is not answered here.
# :::
#
# ## Other texts
#
# ```python
# from editunlearn_lib import covariance
#
# eu.unlearn(model, tokenizer, split, "memit", covariance="corpus")  # or "corpus+subjects", "wikitext", "default"
# eu.unlearn(model, tokenizer, split, "memit", covariance=covariance.hub_source(3000))  # WikiText-2, more of it
# eu.unlearn(model, tokenizer, split, "memit", covariance=covariance.hub_source(1000, source="path/to/texts.txt"))
# eu.unlearn(model, tokenizer, split, "memit", covariance=covariance.text_source(my_texts))
# ```
#
# A matrix is stored under the hash of the weights, the layer, the texts, their number and the dtype, so the same
# edit on the next day starts at once.
