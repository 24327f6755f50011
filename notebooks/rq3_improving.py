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
# # RQ3: Do two recipes help?
#
# The paper proposes two: let the model write its own refusal for each question and edit towards that
# (*self-improvement*), and join several questions into one edit (*query merging*). Both are tried here with seeds,
# intervals and the outputs themselves.
#
# :::{admonition} Before you read on
# :class: tip
# Ten questions are joined into one text, and one edit makes the model refuse that text. Why should it then refuse one
# of the ten when it is asked alone?
# :::

# %% tags=["parameters"]
model = "pocket"  # "pocket", a Hugging Face id, or a local folder
dataset = "factual"  # "factual", "contracts", "tofu-facts", "pistol", or a path to your .json, .jsonl, .csv
source = None  # for tofu-facts and pistol: a local file or folder; None reads from the hub
methods = ["memit"]  # editing methods that are run live
n_forget = 20  # for self-improvement
n_merged = 20  # for query merging; the paper has 80
merges = [1, 2]  # questions in one edit
seeds = [0]
ratings = None  # a CSV of human ratings, exported from the rating tool
study_folder = None  # the study that they belong to
device = "auto"
dtype = "auto"
store = "store"  # finished cells; a second run reuses them
quick = True  # True: the values above; False: all editing methods, n = 80 with m = 1, 2, 4, 5, 8, 10, three seeds

# %% tags=["hide-input"]
import logging
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

import editunlearn_lib as eu
from editunlearn_lib import files, rating, show, study
from editunlearn_lib.hparams import resolve
from editunlearn_lib.recipes import query_merging, self_improvement
from editunlearn_lib.study import results

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
show.use_book_renderer()
as_list, on = study.as_list, {"device": device, "dtype": dtype}
first_seed, sizes_of_merges = as_list(seeds, int)[0], as_list(merges, int)
editing = [name for name, method in eu.METHODS.items() if method.edits]
joining = [name for name in editing if eu.METHODS[name].merges]  # methods that can merge questions
batching = [name for name in joining if {"batch", "sequential"} <= set(eu.METHODS[name].modes)]
chosen, m, n = (as_list(methods, str), sizes_of_merges, n_merged) if quick else (editing, study.MERGES, study.MERGED)
shared = {
    "model": model,
    "dataset": dataset,
    "source": source,
    "seed": as_list(seeds, int) if quick else list(study.SEEDS),
}
grid = [
    {**shared, "method": chosen, "n_forget": n_forget, "targets": ["refusal", "self-improved"]},
    {**shared, "method": [name for name in chosen if name in joining] or ["base"], "n_forget": n, "merge": m},
]
place = (files.project() or Path()) / store
live = study.run(grid, store=place, **on)

# %% tags=["hide-input"]
committed, commit = study.committed(model)
records, fresh, rest = study.join(live, committed)
patches = study.notes(place, study.cells(grid, **on), study.results_file(model))
made = f"{fresh} cells run live" + (f", {rest} committed ({commit})" if rest else "")
display(
    Markdown(
        f"The cell above ran **{', '.join(dict.fromkeys(live.method))}** on `{dataset}`; **{rest}** further cells "
        "come from the committed results of the full study. Every figure says where its numbers are from."
    )
)
PAPER = eu.paper_tables().query("metric == 'rouge1_recall' and model == 'Llama2-7B'")


def source_of(frame):
    """Where the numbers of a figure come from."""
    return f"{study.forget_sets(frame)} forget set(s) a cell; {made}"


# %% [markdown]
# ## Self-improvement
#
# The vanilla target is a random sentence from the I-don't-know set, whatever was asked. Here the model itself writes
# one, from an instruction and two examples about invented things. The paper's prompts are lost from its text; these
# are ours:

# %% tags=["hide-input"]
question = eu.load_split(dataset, n_forget=n_forget, seed=first_seed, source=source).forget[0]
display(Markdown("```text\n" + self_improvement.refusal_prompt(question.question) + "\n```"))

# %% [markdown]
# What it writes is checked: it declines, it names the subject, and it does not leak a word of the answer. What fails
# is asked for again with other examples, and after three tries a template stands in. How often that was needed:

# %% tags=["hide-input"]
title = "Refusals that a template stands in for"
show.plain_table(results.fallbacks(patches), title, provenance=made, name="templates", group="dataset")

# %% [markdown]
# ### Before and after
#
# The paper's Table 6: twenty facts, each editing method towards a vanilla refusal and towards the model's own.

# %% tags=["hide-input"]
usual = dataset in study.MAIN and n_forget == 20
both = results.both_targets(records, {"factual": 20, "contracts": 20} if usual else {dataset: n_forget})
summary = eu.summarise(both, by=("dataset", "targets", "method", "set"))
for targets, stage in (("refusal", "vanilla"), ("self-improved", "self-improved")):
    of_paper = PAPER[(PAPER.table == "table6") & (PAPER.stage == stage)]
    one = summary[summary.targets == targets]
    towards = "vanilla refusals" if stage == "vanilla" else "refusals that the model wrote"
    if len(one):
        display(
            show.table(
                one,
                of_paper,
                provenance=source_of(both[both.targets == targets]),
                name=f"table6-{stage}",
                caption=f"Edited towards {towards}, beside the paper's Table 6",
            )
        )

# %% [markdown]
# Does it help? Paired over the same questions, with Holm's correction over all rows; the difference is
# *self-improved* −
# *vanilla* in ROUGE-1 recall (below zero is better for forget and rephrased, above zero for retain).

# %% tags=["hide-input"]
tested = results.improvement(both)
if len(tested):
    rows = tested.drop(columns=["p", "p_holm"]).assign(**{"p (Holm)": tested.p_holm.map("{:.4f}".format)})
    title = "Self-improved − vanilla, ROUGE-1 recall"
    display(show.plain_table(rows, title, provenance=source_of(both), name="self-improvement", group="dataset"))
    clear = (tested.p_holm < results.CLEAR).sum()
    display(Markdown(f"**{clear}** of {len(tested)} differences are more than chance at one in twenty."))

# %% [markdown]
# ### Is a tailored refusal a better one?
#
# What ROUGE cannot see: does the refusal name what was asked about, and is it clean? The columns below are an
# **automatic stand-in** for human judgement, made by rules (`rating.automatic`): *gone*: the answer is not given;
# *declines*; *names* the subject; *clean*: no answer to another question of the same kind is named; *fluent* under
# the base model, at most 3 nats a token. *Points* counts the last four, and is 0 where the answer is not gone, as the
# paper counts its ratings only there.

# %% tags=["hide-input"]
base_model, tokenizer = eu.load_model(study.Cell(model, dataset, "base", n_forget).model_name, **on)
judged = both[(both.set == "forget") & (both.dataset == dataset)]
split = eu.load_split(dataset, n_forget=n_forget, seed=first_seed, source=source)
judged = rating.automatic(judged, [*split.forget, *split.retain, *split.unseen], base_model, tokenizer)
where = f"automatic, by rules; no person has rated these; {len(judged)} outputs; {source_of(judged)}"
show.plain_table(results.by_rules(judged), "Refusals judged by rules", provenance=where, name="rules")

# %% tags=["hide-input"]
if ratings and study_folder:
    people = rating.load_ratings(ratings, rating.read_items(study_folder))
    means, agreement = rating.analyse(people)
    by_people = f"ratings by people, {Path(ratings).name}"
    for table, caption, name in (
        (results.in_order(means), "Ratings by people, with 95 % intervals over outputs", "ratings"),
        (agreement, "How far raters agree: Krippendorff's alpha, and what was shown twice", "raters"),
    ):
        display(show.plain_table(table, caption, provenance=by_people, name=name))
    if len(table := results.people_and_rules(people, judged)):
        where = f"{by_people}; {source_of(judged)}"
        display(show.plain_table(table, "People and rules", provenance=where, name="people-and-rules"))
else:
    display(
        Markdown(
            "There is no file of human ratings here. To make one, run the rating tool in a live notebook (below) and pass "
            "its export as `ratings`, with the study's folder as `study_folder`."
        )
    )

# %% [markdown]
# ### What they say
#
# The same forgotten questions, edited towards a vanilla refusal and towards the model's own.

# %% tags=["hide-input"]
seed0 = both[(both.seed == both.seed.min()) & (both.dataset == dataset)].sort_values("targets", kind="stable")
base_rows = study.select(records, n_forget=n_forget, dataset=dataset, method="base", seed=both.seed.min())
improved = seed0.targets == "self-improved"
label = seed0.method.where(~improved, [f"{show.style(m).label}, self-improved" for m in seed0.method])
order = results.in_order(seed0.assign(label=label)).label.unique()
show.side_by_side(
    pd.concat([base_rows, seed0.assign(method=label)]),
    ["base"] * bool(len(base_rows)) + list(order),
    provenance=source_of(seed0),
    questions=6,
    sets=("forget", "rephrased"),
    name="refusals",
    title="Two kinds of refusal",
)

# %% [markdown]
# ### Rate them yourself
#
# In a live notebook (`make live`) this opens the rating tool; several people may rate, each under a random code:
#
# ```python
# import sys
#
# from editunlearn_lib import files
#
# sys.path.insert(0, str(files.project()))  # the tool stands beside the library
# from notebooks.lessons import rating_widget
#
# folder = rating.make_study(both[both.seed == 0], "my-study")
# rating_widget.tool(folder)  # keys 0/1, then 1–5 twice; Backspace goes back
# rating.export_csv(folder, "ratings.csv")
# ```
#
# ## Query merging
#
# The paper's Table 7 and Figure 6: eighty facts, *m* questions joined into one edit with one refusal. With *m* = 1
# nothing is merged. Choose the method above the figure.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-merge", "caption": "ROUGE-1 recall over m, the number of questions in one edit. Dotted: the paper's Llama2-7B, Table 7."}}
merged = study.select(records, dataset="factual", n_forget=study.MERGED, merge=study.MERGES, method=joining)
if not len(merged):
    merged = study.select(records, dataset=dataset, n_forget=n_merged, merge=sizes_of_merges, method=joining)
by_m = eu.summarise(merged, by=("method", "merge", "set"))
of_table5 = PAPER[(PAPER.table == "table5") & (PAPER.n_forget == study.MERGED)]  # Table 7 begins at m = 2
PAPER_M = pd.concat([of_table5, PAPER[PAPER.table == "table7"]])
show.sweep(
    by_m,
    "merge",
    paper=PAPER_M,
    provenance=source_of(merged),
    name="merge",
    title="Joining questions into one edit",
    x_title="questions in one edit (m)",
)

# %% [markdown]
# Move *m* and see everything move with it: the measures, what the edits cost, and what the model then says. The
# questions are the first forgotten ones of the first forget set. Black ticks are the paper's values.

# %% tags=["hide-input"]
first = merged[merged.seed == merged.seed.min()]
costs = results.merge_costs(patches, merged)
cost = {
    (row.method, row.m): f"{row.edits} edits for {len(first[first.set == 'forget'].id.unique())} questions; "
    f"{row.seconds:.0f} s, a patch of {row.MB:.1f} MB"
    + (f"; {row.took:.0%} of the edits took when the merged text was asked" if pd.notna(row.took) else "")
    for row in costs[costs.seed == merged.seed.min()].itertuples()
}
show.stops(
    by_m,
    first,
    "merge",
    cost=cost,
    paper=PAPER_M if len(committed) else None,
    label="m",
    provenance=source_of(merged),
    title="Questions in one edit",
    reading="At m = 1 nothing is merged. Lines on the bars are 95 % intervals.",
    name="merge-slider",
)

# %% tags=["hide-input"]
scores = results.merge_scores(merged)
lines = []
for method, one in scores.groupby("method", sort=False):
    best, alone = one.loc[one.score.idxmax()], one[one.m == 1].score.sum() if (one.m == 1).any() else float("nan")
    better, worse = (", ".join(map(str, one.m[one[word]])) for word in ("better", "worse"))
    lines.append(
        f"- **{show.style(method).label}**: score {alone:.2f} unmerged, best at m = {best.m} with {best.score:.2f}. "
        f"Better than unmerged by the paired test: {f'm = {better}' if better else 'none'}; "
        f"worse: {f'm = {worse}' if worse else 'none'}."
    )
display(Markdown("\n".join(lines)))
wide = (
    scores.pivot(index="method", columns="m", values="score").add_prefix("m = ").rename_axis(columns=None).reset_index()
)
title = "Score by the number of questions in one edit"
display(show.plain_table(results.in_order(wide), title, provenance=source_of(merged), name="merge-scores"))

# %% [markdown]
# ### Where the merged edit's key sits
#
# A merged text has several subjects, and an edit needs one key. The default is the last subject's last token; the table
# compares the last token of the text and that of the whole prompt (`fact_token`).

# %% tags=["hide-input"]
size = study.MERGED if len(study.select(records, dataset="factual", n_forget=study.MERGED)) else n_merged
keyed = study.select(
    records, dataset="factual", n_forget=size, merge=study.MERGES, method=joining, fact_token=results.TOKENS
)
compared = {*keyed[keyed.fact_token != "default"]["merge"], *sizes_of_merges}
keyed = keyed[keyed["merge"].isin(compared)]
if len(keyed):
    by = ("method", "merge", "fact_token")
    wide = results.by_set(eu.summarise(keyed, by=(*by, "set")), *by, sets=("forget", "rephrased", "retain"))
    wide = wide.rename(columns={"merge": "m", "fact_token": "key at"}).replace(
        {"key at": {"default": "subject_last (default)"}}
    )
    title = "ROUGE-1 recall by where the merged edit's key sits"
    display(show.plain_table(results.in_order(wide), title, provenance=source_of(keyed), name="key-positions"))

# %% [markdown]
# ### Why it does what it does
#
# An edit reaches a question only if the question's key lies near the edit's. The keys here are read off this model:
# that of each question asked alone, at its subject, and that of the merged text, at its last subject. Cosines are
# taken after the mean key is subtracted, so that 0 means "no nearer than any two keys".

# %% tags=["hide-input"]
layer = resolve(batching[0], base_model.config, None).layers[0]
size = min(study.MERGED, max(n_merged, 20)) if quick else study.MERGED
split = eu.load_split(dataset, n_forget=size, seed=0, source=source)
cosines = query_merging.key_cosines(base_model, tokenizer, split, layer)
where = f"run live: {model}, mean over {size} forgotten questions of {dataset}"
show.plain_table(cosines, f"Cosines of centred keys, layer {layer}", name="key-cosines", provenance=where)

# %% [markdown]
# And do those questions flip whose key the edit has? Forgotten questions by their place in the merged text: the last
# one, whose subject holds the key, and the others. *Took* is the share of edits with which the model begins its
# target when the
# **merged** text is asked.

# %% tags=["hide-input"]
placed = results.by_place(merged, costs, source)
if len(placed):
    title = "Forgotten questions by their place in the merged text, ROUGE-1 recall"
    display(show.plain_table(placed, title, provenance=source_of(merged), name="places"))

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# A cosine near 0 says why there is no reason for a lone question to be reached; it does not say that none ever is. In
# a model of seven billion weights a subject may be held in more layers and more loosely; whether the paper's gain
# comes from there, these numbers do not say.
# :::
#
# ### All at once, or one after another
#
# The paper's MEMIT falls apart at forty edits, although MEMIT was published for thousands. Perhaps it was run one edit
# after another. Both, on the same eighty facts:

# %% tags=["hide-input"]
facts = study.select(records, dataset="factual", n_forget=study.MERGED, mode=["batch", "sequential"], method=batching)
if facts["mode"].nunique() == 2:
    wide = results.in_order(results.by_set(eu.summarise(facts, by=("method", "mode", "set")), "method", "mode"))
    title = "ROUGE-1 recall, eighty facts edited either way"
    display(show.plain_table(wide, title, provenance=source_of(facts), name="modes"))
else:
    display(Markdown("The committed results hold one of the two modes only; `study.run` takes `mode` in its grid."))

# %% [markdown]
# ## Run it yourself
#
# ```bash
# papermill notebooks/rq3_improving.ipynb out.ipynb -p model path/to/model -p quick False
# papermill notebooks/rq3_improving.ipynb out.ipynb -p methods rome,memit -p n_merged 40 -p merges 1,4,8
# ```
