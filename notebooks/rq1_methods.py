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
# # RQ1: Which methods forget best?
#
# A model is asked to forget a handful of questions and to keep everything else. Training methods climb the loss of the
# true answers (GA, GD, KL) or prefer a refusal to them (DPO); editing methods write the refusal into a few weight
# matrices. Each method below gets the same forget set, the same refusals and the same questions afterwards.
#
# :::{admonition} Before you read on
# :class: tip
# Suppose that a method drives its score on the forget set to zero. What else would you want to know before you call it
# good at forgetting? Write down two things; the figures below show two that matter.
# :::

# %% tags=["parameters"]
model = "pocket"  # "pocket", a Hugging Face id, or a local folder
dataset = "factual"  # "factual", "contracts", "tofu-facts", "pistol", or a path to your .json, .jsonl, .csv
source = None  # for tofu-facts and pistol: a local file or folder; None reads from the hub
methods = ["base", "gd", "memit", "grace"]  # what is run live; any of editunlearn_lib.METHODS, "base", "retrained"
n_forget = 40
seeds = [0]
device = "auto"
dtype = "auto"
store = "store"  # finished cells; a second run reuses them
quick = True  # True: run the methods above; False: all ten methods and three seeds

# %% tags=["hide-input"]
import logging
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

import editunlearn_lib as eu
from editunlearn_lib import files, show, study
from editunlearn_lib.study import results

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
show.use_book_renderer()
first_seed = study.as_list(seeds, int)[0]
grid = {
    "model": model,
    "dataset": dataset,
    "method": study.as_list(methods, str) if quick else [*study.REFERENCES, *eu.METHODS],
    "n_forget": n_forget,
    "source": source,
    "seed": study.as_list(seeds, int) if quick else list(study.SEEDS),
}
place = (files.project() or Path()) / store
live = study.run(grid, store=place, device=device, dtype=dtype)

# %% [markdown]
# ## What is shown here
#
# The cell above has just been run: a part of the study, on the model and the data of its parameters. What it did not
# run comes from the committed results of the full study, which were made by the same code. Each figure says which of
# the two it shows.

# %% tags=["hide-input"]
committed, commit = study.committed(model)
records, fresh, rest = study.join(live, committed)
provenance = f"{fresh} cells run live, the others committed results ({commit})" if rest else "run live"
sizes = {**(study.MAIN if len(committed) else {}), dataset: n_forget}
of_rq1 = study.select_sizes(records, sizes, covariance=["default", "corpus"])
shown = of_rq1[of_rq1.covariance == "default"]  # the other choice of covariance has a section of its own
live_part = live[["dataset", "method", "n_forget", "seed"]].drop_duplicates()
display(
    Markdown(
        f"Run live: **{len(live_part)}** cells of `{model}` on `{dataset}` "
        f"({', '.join(dict.fromkeys(live_part.method))}; {n_forget} questions forgotten). "
        f"Shown in all: **{len(shown[[*study.KEYS]].drop_duplicates())}** cells, **{len(shown):,}** questions asked."
    )
)

# %% [markdown]
# Does the live run agree with the committed one, cell by cell? ROUGE-1 recall, mean over the questions of a set:

# %% tags=["hide-input"]
same = results.agreement(live, committed) if len(committed) else committed
if len(same):
    title = "The same cells, run live and committed"
    display(show.plain_table(same, title, provenance=provenance, name="agreement", group="dataset"))
elif len(committed):
    display(Markdown("This run has no cell in common with the committed results."))
else:
    display(Markdown("There are no committed results for this model: everything below is this run."))

# %% [markdown]
# ## Every method, every measure
#
# A hurried reader should take away: a method is good only if it reaches the rim of the radar on **all three** axes.
# ROUGE-1 recall of the answers: low is good on **forget** and **rephrased**, high is good on **retain** and
# **unseen** (which no method may read, not even GD and KL, which train on the retain set). The radar turns *forget*
# and *rephrased* round, so that outside is good everywhere. Intervals are 95 % bootstrap intervals. The paper's
# values are those of its Tables 1 and 2 for Llama2-7B (facts: 40 forgotten; contracts: PISTOL, 20 forgotten); they
# stand beside ours and are never mixed with them: another model, other contracts. The outputs are the first of each
# set in the order of the data, none picked by hand, of the first forget set.

# %% tags=["hide-input"]
summary = eu.summarise(shown, by=("dataset", "method", "set"))
table1 = eu.paper_tables().query("model == 'Llama2-7B' and (table == 'table1' or table == 'table2')")
paper = results.both_kinds(table1)
show.linked(
    summary,
    shown[shown.seed == first_seed],
    paper,
    provenance=provenance,
    caption=f"RQ1 on {model}, ours beside the paper's Llama2-7B",
    name="rq1",
)

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# A radar hides the sizes of differences and their intervals, and its area means nothing: read the dots. Not answering
# is not the same as refusing: garbled text scores as well as a polite "I don't know". The outputs tell them apart.
# :::
#
# The paper has a second model in the same table, and repeats part of it with a third:

# %% tags=["hide-input"]
others = eu.paper_tables().query("metric == 'rouge1_recall' and model != 'Llama2-7B' and table in ['table1', 'table3']")
for name, part in results.both_kinds(others).groupby("model"):
    if len(few := results.beside(summary, part)):
        display(
            show.table(
                few,
                part,
                provenance=provenance,
                sets=("forget", "retain"),
                name=f"rq1-{name}",
                caption=f"The same cells of {model} beside the paper's {name} (Table {part.table.iloc[0][-1]})",
            )
        )

# %% tags=["hide-input"]
before = results.by_set(summary[summary.method == "base"], "dataset").sort_values("dataset")
known = [
    f"{show.DATASET_LABELS.get(row.dataset, row.dataset)}: **{row.forget:.2f}** on the forget questions as they stand, "
    f"**{row.rephrased:.2f}** in other words"
    for row in before.itertuples()
    if "rephrased" in before and pd.notna(row.rephrased)
]
if known:
    display(
        Markdown(
            "ROUGE-1 recall before anything is forgotten. "
            + "; ".join(known)
            + ". Where the second number is low, a low score on "
            "*rephrased* afterwards is no merit of a method: look at how far it fell."
        )
    )

# %% [markdown]
# ## Where this differs from the paper

# %% tags=["hide-input"]
lines = [
    f"- **{show.style(row.method).label}**, {show.DATASET_LABELS.get(row.dataset, row.dataset)}: "
    f"score {row.score:.2f} here, {row.paper:.2f} in the paper"
    for row in results.differences(summary, paper, 0.25).itertuples()
]
intro = "The comprehensive score (1 − forget + retain) is 0.25 or more away from the paper's for:\n\n"
display(Markdown(intro + "\n".join(lines) if lines else "No score is 0.25 or more away from the paper's."))

# %% [markdown]
# Four things differ, and a difference above may come from any of them. The model: some million weights against seven
# billion. The hyperparameters: each method of the pocket got the same number of trials on a forget set that is not
# reported, the paper's values are lost from its text. For MEMIT the order of the edits: here all requests are solved
# for in one batch, as MEMIT was published; the paper does not say whether it edited in a batch or one after another,
# and a long sequence of edits is known to break models. And the covariance: here it is taken over the text that the
# model was trained on and over subjects that are in no scored set; for a large model nobody has its training text at
# hand.
#
# ## What forgetting costs

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-trade-off", "caption": "Forgotten against retained, with 95 % intervals; up and to the right is better. Lines join points of equal score."}}
show.trade_off(summary, provenance=provenance)

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# The retain set is what GD and KL train on, so they are favoured on this axis; compare the *unseen* column of the
# table. The forget sets of the seeds overlap by chance, since all are drawn from the same questions.
# :::
#
# ## How a method stops answering
#
# Every answer to a forgotten question falls into one of four kinds, by an automatic rule (`metrics.outcome`): *correct*
# (it still knows), *refusal*, *other answer* and *garbled*. A refusal is what the target asked for; garbled text means
# that the model is broken there.

# %% tags=["hide-input"]
title = "Answers to the forgotten questions, by kind"
show.plain_table(results.outcomes(shown), title, provenance=provenance, name="outcomes", group="dataset")

# %% [markdown]
# ## Which keys the covariance covers
#
# ROME, MEMIT and AlphaEdit must know what else a layer's keys are used for, and learn it from a covariance of keys. Two
# choices: the keys of running text alone (*corpus*, as the published codes have it), or half of them the keys at the
# subjects of facts that are in no scored set (*corpus and subjects*, the pocket's default).

# %% tags=["hide-input"]
editing = of_rq1[of_rq1.method.isin([m for m in eu.METHODS if eu.METHODS[m].covariance])]
if editing.covariance.nunique() > 1:
    by = ("dataset", "method", "covariance")
    wide = results.in_order(results.by_set(eu.summarise(editing, by=(*by, "set")), *by)).rename(
        columns={"covariance": "keys"}
    )
    wide = wide.replace({"keys": {"default": "corpus and subjects"}})
    title = "ROUGE-1 recall with either covariance"
    display(show.plain_table(wide, title, provenance=provenance, name="covariances", group="dataset"))
else:
    display(
        Markdown(
            "Only the committed results of the pocket hold both choices; `study.run` takes `covariance` in its grid."
        )
    )

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# Whether the difference is one of *which* keys or of *how near* they lie to the scored ones: the added subjects are
# other facts of the same relations. For a large model nobody has such a list ready, and text alone is what everyone
# uses.
# :::
#
# ## Did the edits take?
#
# An edit that silently does nothing is the worst kind of failure. Each edited request is checked with the patch on:
# does the model begin its target? What did not take is in `patch.info` and is warned about.

# %% tags=["hide-input"]
for cell, info in study.notes(place, study.cells(grid, device=device, dtype=dtype)):
    if info and "took" in (info["log"] or [{}])[0] and cell.seed == first_seed:
        display(
            show.edit_report(
                info["log"],
                caption=f"{show.style(cell.method).label} on {cell.dataset}, seed {cell.seed}",
                provenance="run live",
                name=f"edits-{cell.method}",
            )
        )

# %% tags=["hide-input"]
if len(committed):
    took = results.costs(study.results_file(model), sizes)
    title, where = "Share of the edits that took, time, and the weight of a patch", f"committed results ({commit})"
    display(
        show.plain_table(took, title, provenance=f"{where}, mean over the forget sets", name="took", group="dataset")
    )
    display(Markdown("Seconds are for all edits of a forget set. Training methods have no single edits to check."))

# %% [markdown]
# ## Run it yourself
#
# ```bash
# papermill notebooks/rq1_methods.ipynb out.ipynb -p model path/to/model -p n_forget 20 -p methods base,ga,memit
# papermill notebooks/rq1_methods.ipynb out.ipynb -p dataset tofu-facts -p source path/to/tofu
# ```
