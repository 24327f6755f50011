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
# # Reproduction: paper | pocket | your run
#
# The seven tables of the paper {cite}`li2025editing`, each value beside what the pocket model gave, and, if you have
# run the study on a model of your own, beside yours. The models differ, so the values will; the question is whether
# the
# **order of the methods** survives.
#
# :::{admonition} Before you read on
# :class: tip
# The paper's models have seven and eight billion weights, the pocket has under seven million. Rank its nine methods
# by score on both: will the rank correlation be near 1, near 0, or below? Will the best method be the same?
# :::

# %% tags=["parameters"]
your_store = None  # the `store` folder of study.run, or a parquet file of study.export
your_name = "your run"
model = "pocket"  # whose committed results are the second column

# %% tags=["hide-input"]
import logging
import sys
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

import editunlearn_lib as eu
from editunlearn_lib import files, show, study

ROOT = files.project()
sys.path.insert(0, str(ROOT))  # book/paper is no part of the library
from book.paper import reproduction, reproduction_page

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
show.use_book_renderer()
PAPER, TEXT = eu.paper_tables(), eu.paper_text()
committed, commit = study.committed(model)
runs, left_out, before = {}, {}, {}
if len(committed):
    runs[model], left_out[model] = reproduction.match(committed, PAPER)
    before[model] = committed
SOURCE = (
    f"paper: the paper's data file; {model}: committed results ({commit})" if runs else "paper: the paper's data file"
)
if your_store:
    yours = reproduction.read_runs(ROOT / your_store)
    runs[your_name], left_out[your_name] = reproduction.match(yours, PAPER)
    before[your_name] = yours
    SOURCE += f"; {your_name}: {Path(your_store).name}"
columns = reproduction.run_columns(runs)
cells = len(PAPER[["table", "model", *reproduction.CELL]].drop_duplicates())
lines = [f"The tables hold **{len(PAPER):,}** values in {cells} rows."]
for name, summary in runs.items():
    there = summary[reproduction.CELL].drop_duplicates()
    whose = ", ".join(dict.fromkeys(summary["model"])) if len(summary) else "no matching cell"
    sets = summary.groupby(reproduction.CELL)["forget_sets"].max() if len(summary) else pd.Series([0])
    lines.append(
        f"**{name}**"
        + (f" ({whose})" if whose != name else "")
        + f": {len(there)} cells stand beside cells of the paper, made with "
        f"{sets.min()} to {sets.max()} forget set(s) each; {len(left_out[name])} further ones match none and are "
        "counted at the end."
    )
if not your_store:
    lines.append("There is no column of yours: `your_store` is not given. How to get one stands below.")
display(Markdown(" ".join(lines)))

# %% [markdown]
# ## What stands beside what
#
# A cell of the paper is matched by the data (its facts: ours or TOFU's; its PISTOL: our contracts or the official
# ones), by the number of forgotten questions, by how many are joined into one edit, and by the target (*vanilla*: a
# refusal from the set; *self-improved*: the model's own). Ours are the runs with each method's own mode, the default
# covariance and the default key. Under a value of ours: its 95 % interval over questions, and the number of forget
# sets. The paper's values have neither.
#
# Before unlearning, which the tables do not print:

# %% tags=["hide-input"]
rows = [
    {"source": f"paper: {r.model}", "data": r.dataset, "set": "not said", "ROUGE-1": r.value}
    for r in TEXT[TEXT.what == "before unlearning"].itertuples()
]
for name, records in before.items():
    base = records[
        (records.method == "base") & (records.protocol == "questions") & records.set.isin(["forget", "retain"])
    ]
    rows += [
        {"source": name if m == name else f"{name}: {m}", "data": d, "set": s, "ROUGE-1": v}
        for (m, d, s), v in base.groupby(["model", "dataset", "set"], sort=False).rouge1_recall.mean().items()
    ]
display(show.plain_table(pd.DataFrame(rows), "ROUGE-1 recall before unlearning", provenance=SOURCE, name="before"))


def beside(table):
    """A table of the paper beside ours, and its figure."""
    display(reproduction_page.table_beside_runs(PAPER, columns, table, provenance=SOURCE))
    if columns:
        display(reproduction_page.dots_beside_runs(PAPER, columns, table, provenance=SOURCE))


agree = reproduction.agreement(PAPER, columns)


def say(table):
    """The agreement of one table in a sentence for every pair of sources."""
    lines = [
        f"- {r['rows']}, {r['paper']} and {r['run']}: rank correlation **{r['rho']:.2f}** over {r['n']} rows (by "
        f"{r['by']}; as high in {r['p']:.0%} of "
        f"random orders). First: {r['first']} there, {r['ours_first']} here. Mean distance {r['distance']:.2f}."
        for r in agree[agree.table == table].to_dict("records")
    ]
    display(Markdown("\n".join(lines) or f"Fewer than {reproduction.ENOUGH} methods in common: no rank correlation."))


# %% [markdown]
# ## Do they agree?
#
# Spearman's rank correlation of the methods by score, for each group of rows that has at least four methods on both
# sides. It is 1 where the order is the same, 0 where one order says nothing on the other. **With so few methods it is
# a weak instrument**: the table says how often a random order would agree as well.

# %% tags=["hide-input"]
if len(agree):
    for name, part in agree.groupby("run", sort=False):
        shown = pd.DataFrame(
            {
                "rows": [f"Table {t[-1]}, {m}: {r}" for t, m, r in zip(part.table, part.paper, part.rows, strict=True)],
                "rank; correlation": part.rho,
                "n": part.n,
                "random orders; as good": part.p.map("{:.0%}".format),
                "first; paper": part["first"],
                "first; ours": part.ours_first,
            }
        ).replace(" = ", "\u00a0=\u00a0", regex=True)
        display(
            show.plain_table(
                shown, f"The paper and {name}: do they order the methods alike?", provenance=SOURCE, name="agreement"
            )
        )
        clear, same = (part.p < 0.05).sum(), (part["first"] == part.ours_first).sum()
        big = part[part.table == "table1"].rho
        verdict = (
            "is not reproduced" if clear == 0 else "is reproduced in part" if clear < len(part) else "is reproduced"
        )
        display(
            Markdown(
                f"**{name}**: {len(part)} comparisons; the rank correlation lies between {part.rho.min():.2f} and "
                f"{part.rho.max():.2f}"
                + (f" ({big.min():.2f} to {big.max():.2f} in Table 1)" if len(big) else "")
                + f". In {clear} of them a random order would do as well less often than one time in twenty; the "
                f"same method is first in {same}. "
                f"By this measure the paper's order of methods **{verdict}** on {name}. Several comparisons share "
                "runs (the forty facts stand in "
                f"Tables 1, 2, 3 and 5, and some groups have only {part.n.min()} methods), so they are not "
                f"{len(part)} independent ones."
            )
        )
else:
    display(Markdown("There is nothing to compare: no run has a cell in common with the tables."))

# %% [markdown]
# ## Table 1: general performance

# %% tags=["hide-input"]
beside("table1")
say("table1")

# %% [markdown]
# ## Table 2: rephrased questions

# %% tags=["hide-input"]
beside("table2")
say("table2")

# %% [markdown]
# ## Table 3: Llama3.1-8B
#
# Four methods on forty facts. The pocket has no larger brother: its values are those of Table 1.

# %% tags=["hide-input"]
beside("table3")
say("table3")

# %% [markdown]
# ## Table 4: forty contract questions
#
# The set *factual*: facts, asked after contracts were forgotten.

# %% tags=["hide-input"]
beside("table4")
say("table4")

# %% [markdown]
# ## Table 5: sizes of the forget set

# %% tags=["hide-input"]
beside("table5")
say("table5")

# %% [markdown]
# ## Table 6: self-improvement

# %% tags=["hide-input"]
beside("table6")
say("table6")

# %% [markdown]
# ## Table 7: query merging
#
# Rows of both methods and all m are ranked together.

# %% tags=["hide-input"]
beside("table7")
say("table7")

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# A low agreement does not say who is right. The pocket is a thousand times smaller, its hyperparameters were tuned on
# it, and its facts were learnt from a corpus that says them often; the paper's methods ran with presets that others
# had published. Where a method fails on one side, the order of all methods changes. And a single forget set behind
# many of the values, theirs always and ours often, is a reason for differences by itself.
# :::
#
# ## Your column
#
# Run the cells on your model; a model of seven billion weights wants a GPU. They are stored one by one, and a run
# that was stopped goes on where it was. The first line is the part to begin with.
#
# ```python
# import editunlearn_lib as eu
# from editunlearn_lib import study
#
# facts = {"model": "meta-llama/Llama-2-7b-chat-hf", "dataset": "tofu-facts", "seed": [0]}
# study.run({**facts, "method": ["base", *eu.METHODS], "n_forget": 40}, store="my-store")  # Tables 1 and 2
# study.run([
#     {**facts, "method": list(eu.METHODS), "n_forget": [20, 60, 80, 100]},  # Table 5
#     {**facts, "method": ["rome", "memit", "grace", "wise", "alphaedit"], "n_forget": 20,
#      "targets": "self-improved"},  # Table 6
#     {**facts, "method": ["rome", "memit"], "n_forget": 80, "merge": [2, 4, 5, 8, 10]},  # Table 7
# ], store="my-store")
# ```
#
# The notebooks write into the same kind of store: `papermill notebooks/rq1_methods.ipynb out.ipynb -p model
# path/to/model -p dataset tofu-facts -p store my-store`. Then
#
# ```bash
# papermill notebooks/reproduction.ipynb out.ipynb -p your_store my-store -p your_name "Llama 2, my GPU"
# make book ARGS="-p your_store my-store"
# ```
#
# A relative path starts at the repository's folder. `make book` looks at the path, not at what lies in it: after more
# cells have been run, say `make book ARGS="-p your_store my-store --force"`.
#
# ## What matches no cell

# %% tags=["hide-input"]
for name, cells in left_out.items():
    if not len(cells):
        display(Markdown(f"**{name}**: every cell stands in a table."))
        continue
    by_reason = cells["why"].value_counts()
    display(Markdown(f"**{name}**, {len(cells)} cells: " + "; ".join(f"{k} ({v})" for k, v in by_reason.items()) + "."))
    if name != model:  # all cells of yours; those of the pocket are in the chapters of the questions
        display(
            cells[
                ["model", "dataset", "method", "n_forget", "targets", "merge", "mode", "covariance", "protocol", "why"]
            ]
        )
