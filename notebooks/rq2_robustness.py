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
# A method that scores well on the very questions it was given may have learnt to avoid those sentences and nothing more.
# This page asks again: in other words, with more to forget at once, on knowledge that was fine-tuned in, and then with
# seven ways to get an answer back that the paper does not try.
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

import pandas as pd
from IPython.display import Markdown, display

import editunlearn_lib as eu
from editunlearn_lib import attacks, show, stats, study, study_pocket

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
show.use_book_renderer()
as_list, ROOT = study.as_list, Path(eu.__file__).parents[1]
shared = {"model": model, "dataset": dataset, "source": source}
if quick:
    grid = [
        {
            **shared,
            "method": as_list(methods, str),
            "n_forget": n_forget,
            "seed": as_list(seeds, int),
            "protocol": "attacks",
        }
    ]
else:
    shared |= {"method": ["base", *eu.METHODS], "seed": list(study_pocket.SEEDS)}
    grid = [{**shared, "n_forget": n_forget, "protocol": "attacks"}, {**shared, "n_forget": as_list(sizes, int)}]
place = Path(store) if Path(store).is_absolute() else ROOT / store
live = study.run(grid, store=place, device=device, dtype=dtype)

# %% tags=["hide-input"]
committed, commit = study_pocket.committed(model)
records, fresh, rest = study.join(live, committed)
made = f"{fresh} cells run live" + (f", {rest} committed ({commit})" if rest else "")
display(
    Markdown(
        f"The cell above attacked the patches of **{', '.join(dict.fromkeys(live.method))}** on `{dataset}`. What it did not run comes "
        f"from the committed results of the full study: **{rest}** cells. Every figure says where its numbers are from."
    )
)
main_cells = {"factual": 40, "contracts": 20, **({} if len(committed) else {dataset: n_forget})}


def part(**wanted):
    """The plain cells of the data sets' main sizes (or with other columns, as given)."""
    return pd.concat([study.select(records, dataset=d, **{"n_forget": n, **wanted}) for d, n in main_cells.items()])


def source_of(frame):
    """Where the numbers of a figure come from."""
    return f"{study.forget_sets(frame)} forget set(s) a cell; {made}"


PAPER = eu.paper_tables().query("metric == 'rouge1_recall' and model == 'Llama2-7B'")

# %% [markdown]
# ## In other words
#
# Each forgotten fact is asked again in three or more other wordings, which no method has seen. On contracts the base
# model itself knows some of the rephrased questions only: see its row.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-rephrased", "caption": "The question as it was forgotten, and in other words. Crosses: the paper's Llama2-7B (Tables 1 and 2)."}}
plain = part()
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
    wide = summary.pivot_table(index=["dataset", "method"], columns="set", values="rouge1_recall", sort=False)
    base = wide.xs("base", level="method") if "base" in summary.method.values else None
    lines = []
    for (d, m), row in wide.iterrows():
        if m != "base" and row["rephrased"] - row["forget"] >= 0.25:
            lines.append(
                f"- **{show.style(m).label}**, {show.DATASET_LABELS.get(d, d)}: {row['forget']:.2f} as asked, {row['rephrased']:.2f} in other words"
            )
    display(
        Markdown(
            "Rephrasing brings back 0.25 or more for:\n\n" + "\n".join(lines)
            if lines
            else "No method loses 0.25 or more by rephrasing."
        )
    )

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# The rephrasings are rule-made and short. A patient person who knows the subject would find better ones.
# :::
#
# ## More to forget
#
# The paper's Table 5 and Figure 3: forget sets of 20 to 100 of the 217 facts. Choose the method above the figure; dotted
# lines are the paper's.

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
# The paper's Table 4: forty contract questions are forgotten. The last column is locality of another kind: the facts that the
# model knew before it ever saw a contract, and that no method may touch.

# %% tags=["hide-input"]
forty = study.select(records, dataset="contracts", n_forget=40)
if len(forty):
    of_paper = PAPER[PAPER.table == "table4"].replace({"dataset": {"pistol": "contracts"}})
    display(
        show.table(
            eu.summarise(forty, by=("dataset", "method", "set")),
            of_paper,
            provenance=source_of(forty),
            sets=("forget", "rephrased", "retain", "factual"),
            name="table4",
            caption="Forty contract questions forgotten, ours beside the paper's Llama2-7B (PISTOL)",
        )
    )
    of_mistral = eu.paper_tables().query("metric == 'rouge1_recall' and table == 'table4' and model == 'Mistral-7B'")
    if len(of_mistral):
        display(
            show.table(
                eu.summarise(forty, by=("dataset", "method", "set")),
                of_mistral.replace({"dataset": {"pistol": "contracts"}}),
                provenance=source_of(forty),
                sets=("forget", "rephrased", "retain", "factual"),
                name="table4-mistral",
                caption="The same cells beside the paper's Mistral-7B",
            )
        )
else:
    display(Markdown("The committed results do not hold these cells."))

# %% [markdown]
# ## Is one method better than another?
#
# The comprehensive score is 1 − forget + retain. "Better" is said here only where a paired permutation test over the same
# questions, corrected by Holm's method for all comparisons of the table, leaves less than one chance in twenty.

# %% tags=["hide-input"]
scored = part()
lines = []
for d in scored.dataset.unique():
    one = scored[
        (scored.dataset == d) & scored.set.isin(["forget", "retain"]) & ~scored.method.isin(study.REFERENCES)
    ].copy()
    one["points"] = one.rouge1_recall.where(one.set == "retain", 1 - one.rouge1_recall)
    # each half of the score weighs one, whatever the sizes of its set
    sizes_of = one.groupby(["method", "seed", "set"]).id.transform("size")
    one["points"] *= one.groupby(["method", "seed"]).id.transform("size") / sizes_of
    order = one.groupby("method").points.mean().sort_values(ascending=False)
    if len(order) < 2:
        continue
    best = order.index[0]
    tests = stats.compare(
        one, [(best, other) for other in order.index[1:]], metric="points", unit=("seed", "set", "id")
    )
    name, kind = show.style(best).label, show.DATASET_LABELS.get(d, d)
    shown = tests.assign(p_holm=tests.p_holm.map("{:.4f}".format))
    shown = shown.rename(columns={"b": "method", "n": "questions", "mean_b": "score", "p_holm": "p (Holm)"})
    display(
        show.plain_table(
            shown[["method", "score", "difference", "p (Holm)", "questions"]],
            provenance=source_of(one),
            name=f"tests-{d}",
            caption=f"{kind}: {name}, score {tests.mean_a.iloc[0]:.2f}, compared with each other method",
        )
    )
    clear = [show.style(m).label for m, p in zip(tests.b, tests.p_holm, strict=True) if p < 0.05]
    lines.append(
        f"- {kind}: **{name}** scores better than {', '.join(clear) or 'none of the others, as far as the test can tell'}."
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
attacked = pd.concat(
    [
        study.select(records, protocol="attacks", dataset=d, n_forget=n)
        for d, n in {**main_cells, dataset: n_forget}.items()
    ]
)
recovered = eu.summarise(attacked, by=("dataset", "method", "attack"))
rank = {name: i for i, name in enumerate([*main_cells, *show.ordered(attacked.method), *attacks.ATTACKS])}
recovered = recovered.sort_values(["dataset", "method", "attack"], key=lambda c: c.map(rank).fillna(99), kind="stable")
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
measure = ["rouge1_recall", "rouge1_recall_low", "rouge1_recall_high"]
shown = recovered.pivot_table(index=["dataset", "method"], columns="attack", values=measure, sort=False)
shown.columns = [f"{attack}{which.removeprefix(measure[0])}" for which, attack in shown.columns]
show.plain_table(
    shown.reset_index(),
    "ROUGE-1 recall under each attack, with 95 % intervals",
    provenance=source_of(attacked),
    name="attacks-table",
    group="dataset",
)

# %% tags=["hide-input"]
lines = []
for (d, m), group in recovered[recovered.method != "base"].groupby(["dataset", "method"], sort=False):
    values = group.set_index("attack").rouge1_recall
    gained = (values - values["plain"]).drop("plain")
    if values["plain"] <= 0.5:
        worst = gained.idxmax()
        found = f"*{worst}* brings it to {values[worst]:.2f}" if gained[worst] >= 0.05 else "no attack adds 0.05"
        lines.append(
            f"- **{show.style(m).label}**, {show.DATASET_LABELS.get(d, d)}: {values['plain']:.2f} as asked; {found}"
        )
display(
    Markdown("The attack that recovers most, for every method that had forgotten at least half:\n\n" + "\n".join(lines))
)

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# Half an answer in the mouth helps a model that never knew the answer, too, where names are spelled in few ways; and a little
# training teaches the form of an answer besides bringing back what was there. What a patch keeps beside the model (GRACE's
# codebook, WISE's side memory) is not rounded. An adversary with the weights can do more than this.
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
kept = part()
kept = study.distances(kept[kept.set == "retain"]) if len(kept) else kept
if len(kept):
    near = eu.summarise(kept, by=("dataset", "method", "distance"))
    near = near.sort_values(["dataset", "method"], key=lambda c: c.map(rank).fillna(99), kind="stable")
    near["cell"] = [f"{v:.2f} ({n})" for v, n in zip(near.rouge1_recall, near.n, strict=True)]
    near = near.pivot_table(index=["dataset", "method"], columns="distance", values="cell", aggfunc="first", sort=False)
    near = near[[c for c in ("same subject or party", "same relation", "distant") if c in near]].fillna("–")
    display(
        show.plain_table(
            near.reset_index(),
            "ROUGE-1 recall of what was to be kept, by its distance (questions)",
            provenance=source_of(kept),
            name="distances",
            group="dataset",
        )
    )
else:
    display(Markdown("This run asked no retained questions; `quick=False` does."))

# %% [markdown]
# ## Run it yourself
#
# ```bash
# papermill notebooks/rq2_robustness.ipynb out.ipynb -p model path/to/model -p quick False
# papermill notebooks/rq2_robustness.ipynb out.ipynb -p methods base,rome,wise -p n_forget 10
# ```
