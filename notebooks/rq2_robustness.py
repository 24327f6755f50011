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
# # RQ2: Does the forgetting last?
#
# A method that scores well on the very questions it was given may have learnt to avoid those sentences and nothing
# more. This page asks again: in other words, with more to forget at once, on knowledge that was fine-tuned in, and
# then with seven ways to get an answer back that the paper does not try.
#
# :::{admonition} Before you read on
# :class: tip
# A patched model answers "I have not been told about that." You write the first half of the true answer behind the
# question and let it go on. For which methods do you expect the second half?
# :::

# %% tags=["parameters"]
model = "pocket"  # "pocket", a Hugging Face id, or a local folder
dataset = "factual"  # "factual", "contracts", "tofu-facts", "pistol", or a path to your .json, .jsonl, .csv
source = None  # for tofu-facts and pistol: a local file or folder; None reads from the hub
methods = ["base", "memit", "grace"]  # whose patches are attacked live
n_forget = 40
sizes = [20, 40, 60, 80, 100]  # of the forget set; with quick=False
seeds = [0]
device = "auto"
dtype = "auto"
store = "store"  # finished cells; a second run reuses them
quick = True  # True: attack the methods above; False: attacks and sizes for all methods, three seeds

# %% tags=["hide-input"]
import logging
from pathlib import Path

from IPython.display import Markdown, display

import editunlearn_lib as eu
from editunlearn_lib import attacks, files, study
from editunlearn_lib import show as show
from editunlearn_lib.study import results

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
show.use_book_renderer()
as_list = study.as_list
chosen, drawn = (as_list(methods, str), as_list(seeds, int)) if quick else (["base", *eu.METHODS], list(study.SEEDS))
shared = {"model": model, "dataset": dataset, "source": source, "method": chosen, "seed": drawn}
grid = [{**shared, "n_forget": n_forget, "protocol": "attacks"}]
if not quick:
    grid.append({**shared, "n_forget": as_list(sizes, int)})
place = (files.project() or Path()) / store
live = study.run(grid, store=place, device=device, dtype=dtype)

# %% tags=["hide-input"]
committed, commit = study.committed(model)
records, fresh, rest = study.join(live, committed)
made = f"{fresh} cells run live" + (f", {rest} committed ({commit})" if rest else "")
display(
    Markdown(
        f"The cell above attacked the patches of **{', '.join(dict.fromkeys(live.method))}** on `{dataset}`. "
        f"What it did not run comes from the committed results of the full study: **{rest}** cells. "
        "Every figure says where its numbers are from."
    )
)
main_cells = study.MAIN | ({} if len(committed) else {dataset: n_forget})
PAPER = eu.paper_tables().query("metric == 'rouge1_recall' and model == 'Llama2-7B'")


def source_of(frame):
    """Where the numbers of a figure come from."""
    return f"{study.forget_sets(frame)} forget set(s) a cell; {made}"


# %% [markdown]
# ## In other words
#
# Each forgotten fact is asked again in three or more other wordings, which no method has seen. On contracts the base
# model itself knows some of the rephrased questions only: see its row.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-rephrased", "caption": "The question as it was forgotten, and in other words. Crosses: the paper's Llama2-7B (Tables 1 and 2)."}}
plain = study.select_sizes(records, main_cells)
if len(plain):
    summary = eu.summarise(plain, by=("dataset", "method", "set"))
    of_paper = PAPER[PAPER.table.isin(["table1", "table2"]) & (PAPER.dataset == "factual")]
    display(
        show.pairs(
            summary,
            paper=of_paper,
            provenance=source_of(plain),
            name="rephrased",
            title="Asked again in other words",
            reading="Left is better for both; a long line means that only the trained wording was forgotten.",
        )
    )
else:
    display(Markdown("This run attacked patches only; `quick=False` asks the plain questions, too."))

# %% tags=["hide-input"]
if len(plain):
    lines = [
        f"- **{show.style(row.method).label}**, {show.DATASET_LABELS.get(row.dataset, row.dataset)}: "
        f"{row.forget:.2f} as asked, {row.rephrased:.2f} in other words"
        for row in results.regained(summary, 0.25).itertuples()
    ]
    intro = "Rephrasing brings back 0.25 or more for:\n\n"
    display(Markdown(intro + "\n".join(lines) if lines else "No method loses 0.25 or more by rephrasing."))

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# The rephrasings are rule-made and short. A patient person who knows the subject would find better ones.
# :::
#
# ## More to forget
#
# The paper's Table 5 and Figure 3: forget sets of 20 to 100 of the 217 facts. Choose the method above the figure;
# dotted lines are the paper's.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-sizes", "caption": "ROUGE-1 recall over the size of the forget set (facts). Dotted: the paper's Llama2-7B, Table 5."}}
by_size = study.select(records, dataset="factual")
if by_size.n_forget.nunique() > 1:
    sized = eu.summarise(by_size, by=("method", "n_forget", "set"))
    display(
        show.sweep(
            sized,
            "n_forget",
            paper=PAPER[PAPER.table == "table5"],
            provenance=source_of(by_size),
            name="sizes",
            title="Forgetting more at once",
            x_title="questions in the forget set",
        )
    )
else:
    display(Markdown("This run has one size only; `quick=False` runs them all."))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-sizes-contracts", "caption": "The same for contracts: 20 to 100 of the 400 questions."}}
by_size = study.select(records, dataset="contracts")
if by_size.n_forget.nunique() > 1:
    sized = eu.summarise(by_size, by=("method", "n_forget", "set"))
    display(
        show.sweep(
            sized,
            "n_forget",
            provenance=source_of(by_size),
            name="sizes-contracts",
            title="Forgetting more contracts at once",
            x_title="questions in the forget set",
        )
    )
else:
    display(Markdown("The committed results hold one size of contracts only."))

# %% [markdown]
# ## Knowledge that was fine-tuned in
#
# The paper's Table 4: forty contract questions are forgotten. The last column is locality of another kind: the facts
# that the model knew before it ever saw a contract, and that no method may touch.

# %% tags=["hide-input"]
forty = study.select(records, dataset="contracts", n_forget=40)
if len(forty):
    of_forty = eu.summarise(forty, by=("dataset", "method", "set"))
    theirs = results.both_kinds(eu.paper_tables().query("metric == 'rouge1_recall' and table == 'table4'"))
    captions = {
        "Llama2-7B": ("table4", "Forty contract questions forgotten, ours beside the paper's Llama2-7B (PISTOL)"),
        "Mistral-7B": ("table4-mistral", "The same cells beside the paper's Mistral-7B"),
    }
    for whose, (name, caption) in captions.items():
        display(
            show.table(
                of_forty,
                theirs[theirs.model == whose],
                provenance=source_of(forty),
                sets=("forget", "rephrased", "retain", "factual"),
                name=name,
                caption=caption,
            )
        )
else:
    display(Markdown("The committed results do not hold these cells."))

# %% [markdown]
# ## Is one method better than another?
#
# The comprehensive score is 1 − forget + retain. "Better" is said here only where a paired permutation test over the
# same questions, corrected by Holm's method for all comparisons of the table, leaves less than one chance in twenty.

# %% tags=["hide-input"]
tests, lines = results.best_tested(plain), []
for d, one in tests.groupby("dataset", sort=False):
    kind, best = show.DATASET_LABELS.get(d, d), show.style(one.a.iloc[0]).label
    caption = f"{kind}: {best}, score {one.mean_a.iloc[0]:.2f}, compared with each other method"
    rows = one.rename(columns={"b": "method", "n": "questions", "mean_b": "score"})
    rows["p (Holm)"] = rows.p_holm.map("{:.4f}".format)
    rows = rows[["method", "score", "difference", "p (Holm)", "questions"]]
    where = source_of(plain[(plain.dataset == d) & ~plain.method.isin(study.REFERENCES)])
    display(show.plain_table(rows, caption, provenance=where, name=f"tests-{d}"))
    clear = ", ".join(show.style(m).label for m in one[one.p_holm < results.CLEAR].b)
    lines.append(
        f"- {kind}: **{best}** scores better than {clear or 'none of the others, as far as the test can tell'}."
    )
display(Markdown("\n".join(lines) or "This run has fewer than two methods to compare."))

# %% [markdown]
# ## Suppressed or erased?
#
# What comes back when a patched model is asked in a way nobody planned for? Each column is one attack; the value is the
# ROUGE-1 recall of the answer that is recovered. The first column is the plain question.

# %% tags=["hide-input"]
display(Markdown("\n".join(f"- *{name}*: {what}" for name, what in attacks.ATTACKS.items())))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-attacks", "caption": "What each attack recovers from each patched model; dark is bad. The base row is what there is to recover."}}
attacked = study.select_sizes(records, {**main_cells, dataset: n_forget}, protocol="attacks")
recovered = results.recovered(attacked)
show.matrix(
    recovered,
    "method",
    "attack",
    provenance=source_of(attacked),
    name="attacks",
    title="What each attack brings back",
    reading="Light is better; compare each row with the base model's.",
)

# %% tags=["hide-input"]
title = "ROUGE-1 recall under each attack, with 95 % intervals"
wide = results.attack_table(recovered)
show.plain_table(wide, title, provenance=source_of(attacked), name="attacks-table", group="dataset")

# %% tags=["hide-input"]
lines = [
    f"- **{show.style(row.method).label}**, {show.DATASET_LABELS.get(row.dataset, row.dataset)}: "
    f"{row.plain:.2f} as asked; "
    + (f"*{row.attack}* brings it to {row.recall:.2f}" if row.gain >= 0.05 else "no attack adds 0.05")
    for row in results.strongest(recovered).itertuples()
]
display(
    Markdown("The attack that recovers most, for every method that had forgotten at least half:\n\n" + "\n".join(lines))
)

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# Half an answer in the mouth helps a model that never knew the answer, too, where names are spelled in few ways; and
# a little training teaches the form of an answer besides bringing back what was there. What a patch keeps beside the
# model (GRACE's codebook, WISE's side memory) is not rounded. An adversary with the weights can do more than this.
# :::
#
# ### What it looks like
#
# The first forgotten questions under every attack, with the patch of each method on.

# %% tags=["hide-input"]
one = attacked[
    (attacked.dataset == attacked.dataset.iloc[0]) & (attacked.seed == attacked.seed.iloc[0]) & (attacked.variant <= 1)
]
one = one.assign(set=one.attack)  # each attack is a group of the selector
show.side_by_side(
    one,
    sets=list(attacks.ATTACKS),
    questions=3,
    provenance=source_of(one),
    name="attacked",
    title="The same question under every attack",
)

# %% [markdown]
# ## Where locality is lost
#
# What was to be kept, split by how near it lies to what was forgotten: the same subject or contract party, the same
# relation (another author's birthplace, say), and the rest. ROUGE-1 recall with the number of questions asked.

# %% tags=["hide-input"]
retained = plain[plain.set == "retain"]
if len(retained):
    title = "ROUGE-1 recall of what was to be kept, by its distance (questions)"
    near = results.by_distance(retained)
    display(show.plain_table(near, title, provenance=source_of(retained), name="distances", group="dataset"))
else:
    display(Markdown("This run asked no retained questions; `quick=False` does."))

# %% [markdown]
# ## Run it yourself
#
# ```bash
# papermill notebooks/rq2_robustness.ipynb out.ipynb -p model path/to/model -p quick False
# papermill notebooks/rq2_robustness.ipynb out.ipynb -p methods base,rome,wise -p n_forget 10
# ```
