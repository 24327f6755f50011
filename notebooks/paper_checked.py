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
# # The paper, checked
#
# The paper {cite}`li2025editing` prints its results in full, in seven tables. So everything that its text says about
# them can be worked out again. This page does that: each claim is quoted, the numbers that enter are shown, and a
# verdict follows from them by a rule that is stated. No model is run for it; the values come from one file of data.
#
# :::{admonition} Before you read on
# :class: tip
# Of all statements with a number or a comparison in it, how many do you expect to follow from the paper's own tables:
# nearly all, most, or half? And is there a column of which you would doubt that it holds what its name says?
# :::

# %% tags=["parameters"]
dataset = "factual"  # of the run for the column "Prob.": "factual", "contracts", or what study.run takes
n_forget = 40
methods = ["base", "memit"]  # run live where the committed results have no such cells
store = "store"

# %% tags=["hide-input"]
import logging
import sys

from IPython.display import Markdown, display

import editunlearn_lib as eu
from editunlearn_lib import files, show, study

ROOT = files.project()
sys.path.insert(0, str(ROOT))  # book/paper is no part of the library
from book.paper import claims, figures, probability

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
show.use_book_renderer()
PAPER, TEXT = eu.paper_tables(), eu.paper_text()
SOURCE = f"the paper's data file, {len(PAPER):,} values of its Tables 1–7"
results = claims.check_all(PAPER, TEXT)
counts = {verdict: sum(result.verdict == verdict for _, result in results) for verdict in claims.VERDICTS}
testable = len(results) - counts[claims.UNCHECKED]
display(
    Markdown(
        f"Of **{len(results)}** claims **{counts[claims.HOLDS]}** hold, **{counts[claims.IN_PART]}** hold in part, "
        f"**{counts[claims.FAILS]}** do not hold and **{counts[claims.UNCHECKED]}** cannot be checked: of those that "
        "can, "
        f"{counts[claims.HOLDS] / testable:.0%} hold as they stand."
    )
)

# %% [markdown]
# ## All claims
#
# In the order of the text. A verdict leads to its arithmetic. *Holds in part*: some of what the sentence speaks of is
# so, some is not, or is not printed. *Cannot be checked*: no table has the numbers. Where a word has no number
# ("robust", "close to"), the rule is ours and stands beside the arithmetic; with another rule the verdict may be
# another.

# %% tags=["hide-input"]
claims.overview(results, provenance=SOURCE)

# %% [markdown]
# Where text and tables part, that is no reproach. The tables are printed completely enough to find it, which is rarer
# than it should be, and several differences are of one row or one word.
#
# ## One model is not another
#
# The claim that carries the title, that editing is a strong baseline, rests on the *score*: 1 − ROUGE-1 on the forget
# set + ROUGE-1 on the retain set. Here it is for every method in every setting that the tables have. A method that is
# strong should lie to the right in every row.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-scores", "caption": "The score of each method in each setting of Tables 1, 3 and 4. Dotted: 1, where nothing or everything is forgotten."}}
scores = figures.scores(PAPER)
figures.score_dots(
    scores,
    provenance=SOURCE,
    title="The same methods, one setting after another",
    name="scores",
    reading="Further right is better; 2 is ideal, 1 is nothing or everything forgotten.",
)

# %% tags=["hide-input"]
first = figures.leaders(scores)
display(
    Markdown(
        "First is "
        + "; ".join(f"**{show.style(r.method).label}** ({r.dataset}: {r.score:.2f})" for r in first.itertuples())
        + f". {first.method.nunique()} methods come first somewhere. "
        + "Best and worst place of the methods that are printed everywhere: "
        + ", ".join(f"{show.style(r.Index).label} {r.best} to {r.worst}" for r in figures.places(scores).itertuples())
        + "."
    )
)

# %% [markdown]
# The same values in their two parts. The upper right corner is ideal; choose the setting above the figure.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-paper-trade-off", "caption": "The paper's values: how much was forgotten, how much was kept."}}
figure = show.trade_off(
    scores, provenance=SOURCE, title="What forgetting costs, in the paper's tables", name="paper-trade-off"
)
reading = "Up and to the right is better; dotted lines join equal scores. The paper gives no intervals."
figure.update_layout(meta={**figure.layout.meta, "reading": reading})

# %% [markdown]
# ## More to forget
#
# The paper's Figure 3 shows four methods of Table 5; here are all that it has. A button beneath the title hides or
# shows a line.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-paper-sizes", "caption": "The score over the size of the forget set, the paper's Table 5. GA and KL are printed for two sizes only."}}
figures.size_lines(PAPER, provenance=SOURCE)

# %% [markdown]
# ## Queries merged
#
# The right half of the paper's Figure 6, drawn again from Tables 5 and 7.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-paper-merge", "caption": "The score over m, the number of questions in one edit."}}
figures.merge_lines(PAPER, provenance=SOURCE)

# %% [markdown]
# ## The arithmetic, claim by claim

# %% tags=["hide-input"]
claims.details(results, provenance=SOURCE)

# %% [markdown]
# ## What is in the column “Prob.”?
#
# The text defines it as the product of the probabilities of the answer's tokens,
# $\prod_t p(a_t \mid x, a_{<t})$. One claim above shows, from the tables alone, that the column cannot be that while
# MRR is what its formula says. The public evaluation code of PISTOL {cite}`qiu2024pistol`, on whose metrics the paper
# draws, stores something else under "probs": the mean, over the first positions of the **prompt**, of the largest
# probability that the model gives to any next token. It never looks at the answer. Whether the paper ran that code as
# it is, it does not say; but both quantities can be computed on a run and laid beside its column. (*Per token* is the
# geometric mean over the product's factors.)
#
# :::{admonition} Before you read on
# :class: tip
# A model has been made to refuse forty questions and to answer the others as before. Which of the two quantities will
# differ between the forget and the retain set, and by how much?
# :::

# %% tags=["hide-input"]
committed, commit = study.committed("pocket")
run = study.select(committed, dataset=dataset, n_forget=n_forget) if len(committed) else committed
if len(run) and set(probability.NEEDED) <= set(run):
    made = f"pocket, committed results ({commit})"
else:
    wanted = {"model": "pocket", "dataset": dataset, "method": study.as_list(methods, str), "n_forget": n_forget}
    run, made = study.run(wanted, store=ROOT / store), "pocket, run live"
measures = probability.measures(run, PAPER, dataset)
show.plain_table(
    probability.columns(measures),
    "Prob. three ways: the formula's product and PISTOL's code on the pocket, the paper's column",
    provenance=f"{made}, {n_forget} questions of {dataset}, {run.seed.nunique()} forget set(s); "
    "paper: its data file, Llama2-7B",
    name="probabilities",
)

# %% tags=["hide-input"]
of_paper = {
    name: probability.table1(PAPER, dataset, name).loc["Llama2-7B"] for name in ("probability", "rouge1_recall")
}
gap = {name: probability.gap(measure) for name, measure in (measures | of_paper).items()}
pistol = probability.gap(probability.table1(PAPER, "pistol"))
fell, moved = probability.fall(measures["product"]), probability.fall(measures["code"]).abs()
asked = int(run["set"].isin(["forget", "retain"]).sum())
display(
    Markdown(
        f"Between retain and forget, averaged over {len(fell)} methods, the **product differs by "
        f"{gap['product']:.2f}**, "
        f"what PISTOL's code computes by **{gap['code']:.3f}**, and the paper's column by **{gap['probability']:.2f}** "
        f"({pistol:.3f} on PISTOL, both models). For comparison, ROUGE-1 differs by "
        f"{gap['ROUGE-1']:.2f} here and by {gap['rouge1_recall']:.2f} in the paper. "
        f"By unlearning the product on the forget set falls by {fell.min():.2f} to {fell.max():.2f}; "
        f"the other quantity moves by {moved.min():.3f} to {moved.max():.3f}. "
        f"The bound Prob. ≤ MRR holds for the product in {probability.below_mrr(run):.0%} of {asked:,} outputs."
    )
)

# %% [markdown]
# ### What that does to a conclusion
#
# Who takes the column for the formula reads that after unlearning a forgotten answer is as likely as a retained one,
# and concludes that every method merely hides what it should remove. If the column is what PISTOL's code stores, it
# does not say that. It says how sure the model is of the next word of a **question**, which unlearning need not
# change, and which is no evidence on forgetting: neither for a method nor against it. So no verdict on this page
# leans on it.

# %% tags=["hide-input"]
column = of_paper["probability"]
by_paper, by_code, by_formula = map(probability.no_less, (column, measures["code"], measures["product"]))
display(
    Markdown(
        "Counted: the forgotten answer is “at least as likely as the retained one” for "
        f"**{by_paper}** of {len(column)} methods by the paper's column, for **{by_code}** of {len(fell)} by PISTOL's "
        f"code on the pocket, and for **{by_formula}** of {len(fell)} by the formula on the same outputs."
    )
)

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# That a claim follows from the tables does not make the tables right: each value is one run on one forget set,
# without an interval, and the next one may come out otherwise. That a claim does not follow does not make it false
# either: the authors may have looked at runs, figures or marks that the text we have does not hold. Claims about
# people's ratings and about outputs cannot be judged here at all. And a rule of ours, such as "half of what was known
# before", stands where the paper has a word.
# :::

# %% tags=["hide-input"]
n = int(PAPER[PAPER.table == "table1"].n_forget.max())
display(
    Markdown(
        f"How much chance there is in one value: a mean over {n} questions that each score between 0 and 1 has a "
        "standard error of up to "
        f"{(0.25 / n) ** 0.5:.2f}, and two such values may differ by twice {(0.5 / n) ** 0.5:.2f} without any cause."
    )
)

# %% [markdown]
# ## Run it yourself
#
# A claim is a quotation, a check and a wording; other tables can be put in the place of the paper's, your own among
# them. In the project's folder:
#
# ```python
# import editunlearn_lib as eu
# from book.paper import claims
#
# for claim, result in claims.check_all():
#     print(claim.section, claim.quote, result.verdict, result.arithmetic, sep="\n  ")
#
# tables = eu.paper_tables()  # change a value, and see what still holds
# claims.check_all(tables, eu.paper_text())
# ```
