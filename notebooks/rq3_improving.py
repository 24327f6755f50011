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
# Ten questions are joined into one text, and one edit makes the model refuse that text. Why should it then refuse one of the
# ten when it is asked alone?
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
import torch
from IPython.display import Markdown, display

import editunlearn_lib as eu
from editunlearn_lib import rating, show, stats, study, study_pocket
from editunlearn_lib.hparams import resolve
from editunlearn_lib.methods import positions
from editunlearn_lib.models import down
from editunlearn_lib.recipes import query_merging, self_improvement

logging.getLogger("editunlearn_lib").setLevel(logging.ERROR)
show.use_book_renderer()
as_list, ROOT = study.as_list, Path(eu.__file__).parents[1]
shared = {"model": model, "dataset": dataset, "source": source}
if quick:
    shared |= {"seed": as_list(seeds, int)}
    chosen, m, n = as_list(methods, str), as_list(merges, int), n_merged
else:
    shared |= {"seed": list(study_pocket.SEEDS)}
    chosen, m, n = [name for name, method in eu.METHODS.items() if method.edits], study_pocket.MERGES, 80
grid = [
    {**shared, "method": chosen, "n_forget": n_forget, "targets": ["refusal", "self-improved"]},
    {**shared, "method": [name for name in chosen if eu.METHODS[name].merges] or ["base"], "n_forget": n, "merge": m},
]
place = Path(store) if Path(store).is_absolute() else ROOT / store
live = study.run(grid, store=place, device=device, dtype=dtype)

# %% tags=["hide-input"]
committed, commit = study_pocket.committed(model)
records, fresh, rest = study.join(live, committed)
made = f"{fresh} cells run live" + (f", {rest} committed ({commit})" if rest else "")
display(
    Markdown(
        f"The cell above ran **{', '.join(dict.fromkeys(live.method))}** on `{dataset}`; **{rest}** further cells come from the "
        "committed results of the full study. Every figure says where its numbers are from."
    )
)
PAPER = eu.paper_tables().query("metric == 'rouge1_recall' and model == 'Llama2-7B'")


def source_of(frame):
    """Where the numbers of a figure come from."""
    return f"{study.forget_sets(frame)} forget set(s) a cell; {made}"


def in_order(frame):
    """The rows in the book's order of methods."""
    return frame.sort_values("method", key=lambda names: names.map([*eu.METHODS].index), kind="stable")


# %% [markdown]
# ## Self-improvement
#
# The vanilla target is a random sentence from the I-don't-know set, whatever was asked. Here the model itself writes one, from an
# instruction and two examples about invented things. The paper's prompts are lost from its text; these are ours:

# %% tags=["hide-input"]
question = eu.load_split(dataset, n_forget=n_forget, seed=as_list(seeds, int)[0], source=source).forget[0]
display(Markdown("```text\n" + self_improvement.refusal_prompt(question.question) + "\n```"))

# %% [markdown]
# What it writes is checked: it declines, it names the subject, and it does not leak a word of the answer. What fails is asked
# for again with other examples, and after three tries a template stands in. How often that was needed:

# %% tags=["hide-input"]
noted = study.notes(
    [study.path_of(place, c) for c in study.cells(grid)], study_pocket.RESULTS if len(committed) else None
)
written = (
    pd.DataFrame(
        [
            {
                "dataset": c.dataset,
                "forget set": c.seed,
                "questions": c.n_forget,
                "template instead": patch["targets"]["fallbacks"],
            }
            for c, patch in noted
            if c.targets == "self-improved" and patch.get("targets")
        ]
    )
    .drop_duplicates()
    .sort_values(["dataset", "forget set"], ascending=[False, True])
)
show.plain_table(written, "Refusals that a template stands in for", provenance=made, name="templates", group="dataset")

# %% [markdown]
# ### Before and after
#
# The paper's Table 6: twenty facts, each editing method towards a vanilla refusal and towards the model's own.

# %% tags=["hide-input"]
both = pd.concat(
    [
        study.select(records, n_forget=20, dataset=d, targets=["refusal", "self-improved"])
        for d in ("factual", "contracts")
    ]
)
if dataset not in ("factual", "contracts") or n_forget != 20:
    both = study.select(records, n_forget=n_forget, dataset=dataset, targets=["refusal", "self-improved"])
improved = set(both[both.targets == "self-improved"].method)
both = both[both.method.isin(improved)].sort_values("targets", kind="stable")
both = in_order(both)
summary = eu.summarise(both, by=("dataset", "targets", "method", "set"))
for targets, stage in (("refusal", "vanilla"), ("self-improved", "self-improved")):
    of_paper = PAPER[(PAPER.table == "table6") & (PAPER.stage == stage)]
    one = summary[summary.targets == targets]
    if len(one):
        display(
            show.table(
                one,
                of_paper,
                provenance=source_of(both[both.targets == targets]),
                name=f"table6-{stage}",
                caption=f"Edited towards {'vanilla refusals' if stage == 'vanilla' else 'refusals that the model wrote'}, beside the paper's Table 6",
            )
        )

# %% [markdown]
# Does it help? Paired over the same questions, with Holm's correction over all rows; the difference is *self-improved* −
# *vanilla* in ROUGE-1 recall (below zero is better for forget and rephrased, above zero for retain).

# %% tags=["hide-input"]
rows = []
for (d, method, which), group in both[both.set.isin(["forget", "rephrased", "retain"])].groupby(
    ["dataset", "method", "set"], sort=False
):
    if group.targets.nunique() == 2:
        test = stats.compare(group, [("self-improved", "refusal")], column="targets").iloc[0]
        found = {"questions": test.n, "difference": test.difference, "p": test.p}
        rows.append({"dataset": d, "method": method, "set": which, **found})
if rows:
    tested = pd.DataFrame(rows)
    tested["p (Holm)"] = stats.holm(tested.p)
    shown = tested.drop(columns="p").assign(**{"p (Holm)": tested["p (Holm)"].map("{:.4f}".format)})
    display(
        show.plain_table(
            shown.sort_values("set", kind="stable"),
            "Self-improved − vanilla, ROUGE-1 recall",
            provenance=source_of(both),
            name="self-improvement",
            group="dataset",
        )
    )
    clear = tested[tested["p (Holm)"] < 0.05]
    display(Markdown(f"**{len(clear)}** of {len(tested)} differences are more than chance at one in twenty."))

# %% [markdown]
# ### Is a tailored refusal a better one?
#
# What ROUGE cannot see: does the refusal name what was asked about, and is it clean? The columns below are an **automatic
# stand-in** for human judgement, made by rules (`rating.automatic`): *gone*: the answer is not given; *declines*; *names* the
# subject; *clean*: no answer to another question of the same kind is named; *fluent* under the base model, at most 3
# nats a token. *Points* counts the last four, and is 0 where the answer is not gone, as the paper counts its
# ratings only there.

# %% tags=["hide-input"]
base_model, tokenizer = eu.load_model(
    study.Cell(model, dataset, "base", n_forget).model_name, device=device, dtype=dtype
)
judged = both[(both.set == "forget") & (both.dataset == dataset)]
split = eu.load_split(dataset, n_forget=n_forget, seed=as_list(seeds, int)[0], source=source)
everything = [*split.forget, *split.retain, *split.unseen]
judged = rating.automatic(judged, everything, base_model, tokenizer)
rules = ["gone", "declines", "names", "clean", "fluent", "points"]
show.plain_table(
    judged.groupby(["method", "targets"], sort=False)[rules].mean().reset_index(),
    "Refusals judged by rules",
    provenance=f"automatic, by rules; no person has rated these; {len(judged)} outputs; {source_of(judged)}",
    name="rules",
)

# %% tags=["hide-input"]
if ratings and study_folder:
    people = rating.load_ratings(ratings, rating.read_items(study_folder))
    means, agreement = rating.analyse(people)
    by_people = f"ratings by people, {Path(ratings).name}"
    for table, caption, name in (
        (in_order(means), "Ratings by people, with 95 % intervals over outputs", "ratings"),
        (agreement, "How far raters agree: Krippendorff's alpha, and what was shown twice", "raters"),
    ):
        display(show.plain_table(table, caption, provenance=by_people, name=name))
    ours = judged.drop_duplicates(["method", "targets", "id", "output"])[
        ["method", "targets", "id", "output", "gone", "points"]
    ]
    joined = people[people.showing == 1].merge(ours, on=["method", "targets", "id", "output"])
    if len(joined):
        counted = joined[joined.forget_quality == 1]
        shown = pd.DataFrame(
            [
                {
                    "rated outputs": len(joined),
                    "gone: rule and rater agree": (joined.gone == joined.forget_quality.eq(1)).mean(),
                    "points ~ entailment": counted.points.rank().corr(counted.entailment.rank()),
                    "points ~ trustworthiness": counted.points.rank().corr(counted.trustworthiness.rank()),
                }
            ]
        )
        display(
            show.plain_table(
                shown, "People and rules", provenance=f"{by_people}; {source_of(judged)}", name="people-and-rules"
            )
        )
else:
    display(
        Markdown(
            "There is no file of human ratings here. To make one, run the rating tool in a live notebook (below) and pass its "
            "export as `ratings`, with the study's folder as `study_folder`."
        )
    )

# %% [markdown]
# ### What they say
#
# The same forgotten questions, edited towards a vanilla refusal and towards the model's own.

# %% tags=["hide-input"]
seed0 = both[(both.seed == both.seed.min()) & (both.dataset == dataset)]
base_rows = study.select(records, n_forget=n_forget, dataset=dataset, method="base", seed=both.seed.min())
place_of = {m: i for i, m in enumerate(show.ordered(both.method))}
kinds = seed0[["method", "targets"]].drop_duplicates().sort_values("targets")  # "refusal" before "self-improved"
kinds = kinds.sort_values("method", key=lambda c: c.map(place_of).fillna(len(place_of)), kind="stable")
label = {(m, t): m if t == "refusal" else f"{show.style(m).label}, self-improved" for m, t in kinds.to_numpy().tolist()}
named = seed0.assign(method=[label[m, t] for m, t in zip(seed0.method, seed0.targets, strict=True)])
order = ["base"] * bool(len(base_rows)) + list(label.values())
show.side_by_side(
    pd.concat([base_rows, named]),
    order,
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
# The paper's Table 7 and Figure 6: eighty facts, *m* questions joined into one edit with one refusal. With *m* = 1 nothing
# is merged. Choose the method above the figure.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-merge", "caption": "ROUGE-1 recall over m, the number of questions in one edit. Dotted: the paper's Llama2-7B, Table 7."}}
joins = [name for name, method in eu.METHODS.items() if method.merges]
merged = study.select(records, dataset="factual", n_forget=80, merge=study_pocket.MERGES, method=joins)
if not len(merged):
    merged = study.select(records, dataset=dataset, n_forget=n_merged, merge=as_list(merges, int), method=joins)
by_m = eu.summarise(merged, by=("method", "merge", "set"))
PAPER_M = pd.concat(
    [PAPER[(PAPER.table == "table5") & (PAPER.n_forget == 80)], PAPER[PAPER.table == "table7"]]
)  # Table 7 begins at m = 2
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
# Move *m* and see everything move with it: the measures, what the edits cost, and what the model then says. The questions
# are the first forgotten ones of the first forget set. Black ticks are the paper's values.

# %% tags=["hide-input"]
noted = study.notes(
    [study.path_of(place, c) for c in study.cells(grid)], study_pocket.RESULTS if len(committed) else None
)
size = int(merged.n_forget.iloc[0])
cost = {
    (
        c.method,
        c.merge,
    ): f"{-(-size // c.merge)} edits for {size} questions; {patch['seconds']:.0f} s, a patch of {patch['nbytes'] / 1e6:.1f} MB"
    + (
        f"; {patch['took']:.0%} of the edits took when the merged text was asked"
        if patch.get("took") is not None
        else ""
    )
    for c, patch in noted
    if c.n_forget == size
    and c.dataset == merged.dataset.iloc[0]
    and c.seed == merged.seed.min()
    and c.targets == "refusal"
    and c.fact_token is None
    and c.mode is None
    and c.covariance == "default"
    and patch.get("seconds") is not None
}
show.stops(
    by_m,
    merged[(merged.seed == merged.seed.min()) & (merged.dataset == merged.dataset.iloc[0])],
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
wide = by_m.pivot_table(index=["method", "merge"], columns="set", values="rouge1_recall", sort=False)
scores = (1 - wide["forget"] + wide["retain"]).unstack("merge").sort_index(axis=1)
lines = []
for method in (m for m in joins if m in scores.index):
    best = scores.loc[method].idxmax()
    one = merged[(merged.method == method) & merged.set.isin(["forget", "retain"])].copy()
    one["points"] = one.rouge1_recall.where(one.set == "retain", 1 - one.rouge1_recall)
    there = sorted(map(int, one["merge"].unique()))
    test = [(k, 1) for k in there if k != 1] if 1 in there else []
    per_set = one.groupby(["merge", "set"]).id.transform("size")
    one["points"] *= one.groupby("merge").id.transform("size") / per_set  # each half of the score weighs one
    found = stats.compare(one, test, column="merge", metric="points", unit=("seed", "set", "id")) if test else None
    better = (
        []
        if found is None
        else [str(a) for a, d, p in zip(found.a, found.difference, found.p_holm, strict=True) if d > 0 and p < 0.05]
    )
    worse = (
        []
        if found is None
        else [str(a) for a, d, p in zip(found.a, found.difference, found.p_holm, strict=True) if d < 0 and p < 0.05]
    )
    lines.append(
        f"- **{show.style(method).label}**: score {scores.loc[method].get(1, float('nan')):.2f} unmerged, best at m = {int(best)} with "
        f"{scores.loc[method, best]:.2f}. Better than unmerged by the paired test: {'m = ' + ', '.join(better) if better else 'none'}; "
        f"worse: {'m = ' + ', '.join(worse) if worse else 'none'}."
    )
display(Markdown("\n".join(lines)))
shown = scores.rename(columns="m = {}".format).rename_axis(columns=None).reset_index()
display(
    show.plain_table(
        in_order(shown),
        "Score by the number of questions in one edit",
        provenance=source_of(merged),
        name="merge-scores",
    )
)

# %% [markdown]
# ### Where the merged edit's key sits
#
# A merged text has several subjects, and an edit needs one key. The default is the last subject's last token; the table
# compares the last token of the text and that of the whole prompt (`fact_token`).

# %% tags=["hide-input"]
size = 80 if len(study.select(records, dataset="factual", n_forget=80)) else n_merged
keyed = study.select(
    records,
    dataset="factual",
    n_forget=size,
    merge=study_pocket.MERGES,
    method=joins,
    fact_token=["default", "question_last", "prompt_last"],
)
keyed = keyed[keyed["merge"].isin([*set(keyed[keyed.fact_token != "default"]["merge"]), *as_list(merges, int)])]
if len(keyed):
    choice = eu.summarise(keyed, by=("method", "merge", "fact_token", "set"))
    wide = choice.pivot_table(
        index=["method", "merge", "fact_token"], columns="set", values="rouge1_recall", sort=False
    )
    wide = wide[[c for c in ("forget", "rephrased", "retain") if c in wide]].rename_axis(["method", "m", "key at"])
    display(
        show.plain_table(
            in_order(wide.rename(index={"default": "subject_last (default)"}).reset_index()),
            "ROUGE-1 recall by where the merged edit's key sits",
            provenance=source_of(keyed),
            name="key-positions",
        )
    )

# %% [markdown]
# ### Why it does what it does
#
# An edit reaches a question only if the question's key lies near the edit's. The keys here are read off this model: that
# of each question asked alone, at its subject, and that of the merged text, at its last subject. Cosines are taken after
# the mean key is subtracted, so that 0 means "no nearer than any two keys".

# %% tags=["hide-input"]
layer = resolve("memit", base_model.config, None).layers[0]
split = eu.load_split(dataset, n_forget=min(80, max(n_merged, 20)) if quick else 80, seed=0, source=source)


def keys_of(requests, token="subject_last"):
    """(n, d_ffn): the key of each request."""
    texts = positions.lookup(tokenizer, requests, "{}", "chat", token, targets=False)
    return positions.vectors_at(base_model, down(base_model, layer), texts, inputs=True)


alone = keys_of(query_merging.merge_requests(split.forget, ["x"] * len(split.forget), 1))
other = [r for r in split.rephrased if r.variant == 1]
reworded = keys_of(query_merging.merge_requests(other, ["x"] * len(other), 1))
mean = alone.mean(0)
cosine = torch.nn.functional.cosine_similarity
rows = [
    {
        "compared": "the same question in other words",
        "cosine": float(
            cosine(
                torch.stack([alone[[q.id for q in split.forget].index(r.id)] for r in other]) - mean, reworded - mean
            ).mean()
        ),
    }
]
rows.append(
    {"compared": "another forgotten question", "cosine": float(cosine(alone - mean, alone.roll(1, 0) - mean).mean())}
)
logging.getLogger("editunlearn_lib.recipes.query_merging").setLevel(logging.CRITICAL)
for size in (2, 4, 5, 8, 10):
    groups = -(-len(split.forget) // size)
    merged_keys = keys_of(query_merging.merge_requests(split.forget, ["x"] * groups, size))
    last = [min((g + 1) * size, len(split.forget)) - 1 for g in range(groups)]
    rest_of = [i for i in range(len(split.forget)) if i not in last]
    rows.append(
        {
            "compared": f"m = {size}: the merged text and its last question",
            "cosine": float(cosine(alone[last] - mean, merged_keys - mean).mean()),
        }
    )
    rows.append(
        {
            "compared": f"m = {size}: the merged text and its other questions",
            "cosine": float(cosine(alone[rest_of] - mean, merged_keys[[i // size for i in rest_of]] - mean).mean()),
        }
    )
show.plain_table(
    pd.DataFrame(rows),
    f"Cosines of centred keys, layer {layer}",
    name="key-cosines",
    provenance=f"run live: {model}, mean over {len(split.forget)} forgotten questions of {dataset}",
)

# %% [markdown]
# And do those questions flip whose key the edit has? Forgotten questions by their place in the merged text: the last one, whose
# subject holds the key, and the others. *Took* is the share of edits with which the model begins its target when the
# **merged** text is asked.

# %% tags=["hide-input"]
rows = []
for (method, size, seed), group in merged[(merged.set == "forget") & (merged["merge"] > 1)].groupby(
    ["method", "merge", "seed"]
):
    data, n = group.dataset.iloc[0], int(group.n_forget.iloc[0])
    order = [qa.id for qa in eu.load_split(data, n_forget=n, seed=int(seed), source=source).forget]
    last = {order[min(start + size, n) - 1] for start in range(0, n, size)}
    rows += [
        {"method": method, "m": size, "place": "the last" if i in last else "the others", "forget": recall}
        for i, recall in zip(group.id, group.rouge1_recall, strict=True)
    ]
if rows:
    placed = pd.DataFrame(rows).pivot_table(index=["method", "m"], columns="place", values="forget", sort=False)
    took = [
        {"method": c.method, "m": c.merge, "took": patch["took"]}
        for c, patch in noted
        if c.merge > 1 and c.fact_token is None and c.n_forget == n and patch.get("took") is not None
    ]
    placed = placed.join(pd.DataFrame(took).groupby(["method", "m"]).mean())
    display(
        show.plain_table(
            in_order(placed.reset_index()),
            "Forgotten questions by their place in the merged text, ROUGE-1 recall",
            provenance=source_of(merged),
            name="places",
        )
    )

# %% [markdown]
# :::{admonition} What this does not show
# :class: note
# A cosine near 0 says why there is no reason for a lone question to be reached; it does not say that none ever is. In a model
# of seven billion weights a subject may be held in more layers and more loosely; whether the paper's gain comes from there,
# these numbers do not say.
# :::
#
# ### All at once, or one after another
#
# The paper's MEMIT falls apart at forty edits, although MEMIT was published for thousands. Perhaps it was run one edit
# after another. Both, on the same eighty facts:

# %% tags=["hide-input"]
modes = study.select(
    records, dataset="factual", n_forget=80, mode=["batch", "sequential"], method=["memit", "alphaedit"]
)
if modes["mode"].nunique() == 2:
    wide = eu.summarise(modes, by=("method", "mode", "set")).pivot_table(
        index=["method", "mode"], columns="set", values="rouge1_recall", sort=False
    )
    wide = wide[[c for c in ("forget", "rephrased", "retain", "unseen") if c in wide]].reset_index()
    display(
        show.plain_table(
            in_order(wide), "ROUGE-1 recall, eighty facts edited either way", provenance=source_of(modes), name="modes"
        )
    )
else:
    display(Markdown("The committed results hold one of the two modes only; `study.run` takes `mode` in its grid."))

# %% [markdown]
# ## Run it yourself
#
# ```bash
# papermill notebooks/rq3_improving.ipynb out.ipynb -p model path/to/model -p quick False
# papermill notebooks/rq3_improving.ipynb out.ipynb -p methods rome,memit -p n_merged 40 -p merges 1,4,8
# ```
