"""What a page says of records: which rows it shows, what is counted, compared and tested. Frames in, frames out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .. import files, metrics, stats
from ..attacks import ATTACKS
from ..data import load_split
from ..evaluation import summarise
from ..methods import METHODS
from .cell import KEYS, REFERENCES, Cell, columns
from .store import load_results, manifest, notes

RESULTS = Path("book") / "results"  # in the project's folder: a parquet file and a manifest a model
RECALL = "rouge1_recall"
SETS = ("forget", "rephrased", "retain", "unseen")
PLAIN = {"targets": "refusal", "merge": 1, "covariance": "default", "fact_token": "default", "protocol": "questions"}
KINDS = {"factual": "tofu-facts", "pistol": "contracts"}  # ours and the official data of the same kind
TOKENS = ("default", "question_last", "prompt_last")  # where the key of a merged edit may sit
NEAR = ("same subject or party", "same relation", "distant")  # how a retained question relates to those forgotten
UNIT = ("seed", "set", "id")  # what a score's test pairs
CLEAR = 0.05  # below it a difference is more than chance


def results_file(model: str) -> Path | None:
    """The committed results file of a model, in the project's folder; ``None`` where there is none."""
    home = files.project()
    file = home / RESULTS / f"{str(model).strip('/').replace('/', '--')}.parquet" if home else None
    return file if file and file.is_file() else None


def committed(model: str) -> tuple[pd.DataFrame, str]:
    """The committed records of a model and the commits they were made by; nothing where there are none."""
    file = results_file(model)
    return (load_results(file), manifest_commits(file)) if file else (pd.DataFrame(), "")


def manifest_commits(file: str | Path) -> str:
    """The commits that a results file was made by, for provenance lines: three by name, more as a number."""
    commits = sorted({document["commit"] for document in manifest(file)})
    if len(commits) > 3:  # in no order of time, so no range
        rest = f"{len(commits) - 2} more, listed in {Path(file).with_suffix('.json').name}"
        return f"commits {commits[0]}, {commits[1]} and {rest}"
    return ("commits " if commits[1:] else "commit ") + ", ".join(commits)


def patch_costs(patches: Iterable[tuple[Cell, dict]]) -> pd.DataFrame:
    """A row a cell with a patch: its columns, the share of its edits that took, seconds, and megabytes of the patch."""
    rows = []
    for cell, patch in patches:
        if patch.get("seconds") is not None:
            cost = {"took": patch.get("took"), "seconds": patch["seconds"], "MB": (patch["nbytes"] or 0) / 1e6}
            rows.append(columns(cell) | cost)
    return pd.DataFrame(rows, columns=[*KEYS, "took", "seconds", "MB"]).astype({"took": float})


def manifest_table(file: str | Path) -> pd.DataFrame:
    """A results file by data set, size, method and covariance: share of edits that took, seconds, MB of the patch."""
    frame = patch_costs(notes(None, [], file)).rename(columns={"took": "edits that took"})
    by = ["dataset", "n_forget", "method", "covariance"]
    frame = select(frame, covariance=frame.covariance).groupby(by, sort=False)
    return frame[["edits that took", "seconds", "MB"]].mean().reset_index()


def costs(file: str | Path, sizes: Mapping[str, int]) -> pd.DataFrame:
    """`manifest_table` of these data sets and sizes, each method with its usual covariance."""
    table = manifest_table(file).query("covariance == 'default'").drop(columns="covariance")
    return table[table.n_forget == table.dataset.map(sizes)]


def join(live: pd.DataFrame, committed: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """All records of a live run and, for the cells that it did not run, committed ones; how many cells are of each."""
    keys = list(KEYS)
    fresh = set(map(tuple, live[keys].drop_duplicates().to_numpy().tolist()))
    if not len(committed):
        return live, len(fresh), 0
    rest = committed[[tuple(row) not in fresh for row in committed[keys].to_numpy().tolist()]]
    return pd.concat([live, rest], ignore_index=True), len(fresh), len(rest[keys].drop_duplicates())


def select(records: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows with these values (one or a list) in the columns of a cell, and the default in all others but the seed.

    ``select(records, dataset="factual", n_forget=40)``: no merging, plain refusals, each method's own mode and keys.
    """
    chosen = pd.Series(True, index=records.index)
    for name, value in {**PLAIN, **values}.items():
        one = isinstance(value, str) or not isinstance(value, Iterable)
        chosen &= records[name].isin([value] if one else list(value))
    if "mode" not in values:
        own = {name: method.modes[0] for name, method in METHODS.items()}
        chosen &= records["mode"] == records["method"].map(own).fillna("")
    return records[chosen]


def select_sizes(records: pd.DataFrame, sizes: Mapping[str, int], **values: Any) -> pd.DataFrame:
    """`select` for each data set with the size of its forget set, one after another."""
    return pd.concat([select(records, **{"dataset": d, "n_forget": n, **values}) for d, n in sizes.items()])


def forget_sets(records: pd.DataFrame) -> str:
    """How many forget sets (seeds) stand behind each cell of these rows: "3", or "1 to 3" where cells differ."""
    counts = records.groupby([key for key in KEYS if key != "seed"], observed=True).seed.nunique()
    return f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.max()}"


def in_order(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows in the book's order of data sets, methods and attacks, by ``columns`` (``method``)."""
    rank = {name: i for i, name in enumerate([*KINDS, *KINDS.values(), *REFERENCES, *METHODS, *ATTACKS])}
    return frame.sort_values(list(columns or ["method"]), key=lambda c: c.map(rank).fillna(len(rank)), kind="stable")


def by_set(summary: pd.DataFrame, *by: str, sets: Sequence[str] = SETS) -> pd.DataFrame:
    """ROUGE-1 recall of a summary, a row for each value of ``by``, a column a set."""
    wide = summary.pivot_table(index=list(by), columns="set", values=RECALL, sort=False)
    return wide[[name for name in sets if name in wide]].rename_axis(columns=None).reset_index()


def agreement(live: pd.DataFrame, committed: pd.DataFrame) -> pd.DataFrame:
    """The same cells, run live and committed: ROUGE-1 recall of both and the share of identical outputs, by set."""
    both = live.merge(committed, on=[*KEYS, "set", "id", "variant"], suffixes=("", "_committed"))
    both["identical"] = both.output == both.output_committed
    same = both.groupby(["dataset", "method", "set"], sort=False)[[RECALL, f"{RECALL}_committed", "identical"]].mean()
    same.columns = ["live", "committed", "outputs; identical"]
    return same.reset_index()


def both_kinds(paper: pd.DataFrame) -> pd.DataFrame:
    """The paper's values under the names of its data sets and under those of ours of the same kind."""
    return pd.concat([paper, paper.replace({"dataset": KINDS})])


def beside(summary: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """The rows of the data sets and methods that the paper's values are of, and of the untouched model."""
    return summary[summary.dataset.isin(set(paper.dataset)) & summary.method.isin(["base", *paper.method])]


def differences(summary: pd.DataFrame, paper: pd.DataFrame, least: float) -> pd.DataFrame:
    """Where our score and the paper's are at least ``least`` apart, widest first: ``dataset, method, score, paper``."""
    index = ["dataset", "method"]
    theirs = paper[paper.metric == RECALL].pivot_table(index=index, columns="set", values="value")
    frame = summary.drop_duplicates(index).set_index(index)[["score"]]
    frame = frame.assign(paper=metrics.score(theirs["forget"], theirs["retain"])).dropna()
    gap = (frame.score - frame.paper).abs().sort_values(ascending=False)
    return frame.loc[gap[gap >= least].index].reset_index()


def outcomes(records: pd.DataFrame) -> pd.DataFrame:
    """How the forgotten questions are answered: per cent of each kind, a row a data set and method."""
    kinds = records[records.set == "forget"].groupby(["dataset", "method"], sort=False)
    kinds = kinds.outcome.value_counts(normalize=True).unstack(fill_value=0)
    kinds = kinds[[c for c in ("correct", "refusal", "other answer", "garbled") if c in kinds]]
    kinds = kinds.mul(100).round(0).astype(int).add_suffix("; %").reset_index()
    return in_order(kinds, "dataset", "method").reset_index(drop=True)


def regained(summary: pd.DataFrame, least: float) -> pd.DataFrame:
    """The methods that rephrasing brings back ``least`` or more for: ``dataset, method, forget, rephrased``."""
    wide = by_set(summary[summary.method != "base"], "dataset", "method")
    return wide[wide["rephrased"] - wide["forget"] >= least] if "rephrased" in wide else wide.iloc[:0]


def with_points(records: pd.DataFrame, by: str) -> pd.DataFrame:
    """Rows of the forget and the retain set with a column ``points``, whose mean over one ``by`` is the score.

    A retained question gives its recall, a forgotten one 1 − recall; each half weighs one, however large its set.
    """
    rows = records[records.set.isin(["forget", "retain"])].copy()
    rows["points"] = rows[RECALL].where(rows.set == "retain", 1 - rows[RECALL])
    sizes = rows.groupby([by, "seed", "set"]).id.transform("size")
    rows["points"] *= rows.groupby([by, "seed"]).id.transform("size") / sizes
    return rows


def best_tested(records: pd.DataFrame) -> pd.DataFrame:
    """Per data set the method of the best score against each other: ``dataset`` and the columns of `stats.compare`."""
    parts = []
    for dataset, one in records[~records.method.isin(REFERENCES)].groupby("dataset", sort=False):
        one = with_points(one, "method")
        best, *others = one.groupby("method").points.mean().sort_values(ascending=False).index
        if others:
            tests = stats.compare(one, [(best, m) for m in others], metric="points", unit=UNIT)
            parts.append(tests.assign(dataset=dataset))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["dataset"])


def recovered(records: pd.DataFrame) -> pd.DataFrame:
    """What each attack brings back: a summary by data set, method and attack, in the book's order."""
    return in_order(summarise(records, by=("dataset", "method", "attack")), "dataset", "method", "attack")


def attack_table(summary: pd.DataFrame) -> pd.DataFrame:
    """A row a data set and method, a column an attack, each with the ends of its interval."""
    values = [RECALL, f"{RECALL}_low", f"{RECALL}_high"]
    wide = summary.pivot_table(index=["dataset", "method"], columns="attack", values=values, sort=False)
    wide.columns = [f"{attack}{which.removeprefix(RECALL)}" for which, attack in wide.columns]
    return wide.reset_index()


def strongest(summary: pd.DataFrame) -> pd.DataFrame:
    """The attack that recovers most from each method that had forgotten half: its name, ``recall`` and ``gain``."""
    rows = []
    for (dataset, method), group in summary[summary.method != "base"].groupby(["dataset", "method"], sort=False):
        recall = group.set_index("attack")[RECALL]
        if (plain := recall.pop("plain")) <= 0.5:
            row = {"dataset": dataset, "method": method, "plain": plain, "attack": (worst := recall.idxmax())}
            rows.append({**row, "recall": recall[worst], "gain": recall[worst] - plain})
    return pd.DataFrame(rows, columns=["dataset", "method", "plain", "attack", "recall", "gain"])


def distances(records: pd.DataFrame) -> pd.DataFrame:
    """Retain rows with a column ``distance``: how near a question lies to those that were forgotten in its cell.

    ``same subject or party``, ``same relation`` (`QA.group`; a contract's group is its edge, so contracts have none) or
    ``distant``. Built-in data only: other rows are left out.
    """
    parts = []
    for (dataset, n, seed), rows in records.groupby(["dataset", "n_forget", "seed"], sort=False):
        if dataset not in ("factual", "contracts"):
            continue
        split, facts = load_split(dataset, n_forget=int(n), seed=int(seed)), dataset == "factual"
        subjects, groups = {qa.subject for qa in split.forget}, {qa.group for qa in split.forget}
        near = {qa.id for qa in split.retain if qa.subject in subjects} if facts else split.same_party
        alike = {qa.id for qa in split.retain if facts and qa.group in groups}
        parts.append(rows.assign(distance=[NEAR[0 if i in near else 1 if i in alike else 2] for i in rows["id"]]))
    return pd.concat(parts, ignore_index=True) if parts else records.iloc[:0].assign(distance="")


def by_distance(records: pd.DataFrame) -> pd.DataFrame:
    """ROUGE-1 recall of what was to be kept by its distance, with the number of questions, as texts."""
    near = in_order(summarise(distances(records), by=("dataset", "method", "distance")), "dataset", "method")
    near["text"] = [f"{v:.2f} ({n})" for v, n in zip(near[RECALL], near.n, strict=True)]
    near = near.pivot_table(index=["dataset", "method"], columns="distance", values="text", aggfunc="first", sort=False)
    return near[[name for name in NEAR if name in near]].fillna("–").reset_index()


def fallbacks(patches: Sequence[tuple[Cell, dict]]) -> pd.DataFrame:
    """How many refusals a template stands in for, by data set and forget set."""
    written = [(c, p["targets"]) for c, p in patches if c.targets == "self-improved" and p.get("targets")]
    rows = [(c.dataset, c.seed, c.n_forget, targets["fallbacks"]) for c, targets in written]
    frame = pd.DataFrame(rows, columns=["dataset", "forget set", "questions", "template instead"])
    return frame.drop_duplicates().sort_values(["dataset", "forget set"], ascending=[False, True])


def both_targets(records: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """The methods that were run towards refusals of both kinds, vanilla ones first."""
    both = select_sizes(records, sizes, targets=["refusal", "self-improved"])
    both = both[both.method.isin(set(both[both.targets == "self-improved"].method))]
    return in_order(both.sort_values("targets", kind="stable"))


def improvement(records: pd.DataFrame) -> pd.DataFrame:
    """Self-improved − vanilla by data set, method and set: a paired test, ``p_holm`` is corrected over all rows."""
    by, rows = ["dataset", "method", "set"], []
    for names, group in records[records.set.isin(SETS[:3])].groupby(by, sort=False):
        if group.targets.nunique() == 2:
            test = stats.compare(group, [("self-improved", "refusal")], column="targets").iloc[0]
            rows.append((*names, test.n, test.difference, test.p))
    frame = pd.DataFrame(rows, columns=[*by, "questions", "difference", "p"])
    return frame.assign(p_holm=stats.holm(frame.p)).sort_values("set", kind="stable")


def by_rules(judged: pd.DataFrame) -> pd.DataFrame:
    """Means of what `rating.automatic` says, by method and kind of refusal."""
    rules = ["gone", "declines", "names", "clean", "fluent", "points"]
    return judged.groupby(["method", "targets"], sort=False)[rules].mean().reset_index()


def people_and_rules(people: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """How far raters and rules agree over the outputs that both have judged: one row, or none."""
    output = ["method", "targets", "id", "output"]
    ours = judged.drop_duplicates(output)[[*output, "gone", "points"]]
    both = people[people.showing == 1].merge(ours, on=output)
    counted = both[both.forget_quality == 1]
    row = {"rated outputs": len(both), "gone: rule and rater agree": (both.gone == both.forget_quality.eq(1)).mean()}
    for scale in ("entailment", "trustworthiness"):
        row[f"points ~ {scale}"] = counted.points.rank().corr(counted[scale].rank())
    return pd.DataFrame([row] if len(both) else [])


def merge_scores(records: pd.DataFrame) -> pd.DataFrame:
    """Per method the score of each m, and by a paired test against m = 1 whether it is ``better`` or ``worse``."""
    parts = []
    for method, one in in_order(records).groupby("method", sort=False):
        score = by_set(summarise(one, by=("merge", "set")), "merge").set_index("merge").sort_index()
        frame = metrics.score(score["forget"], score["retain"]).rename("score").rename_axis("m").reset_index()
        pairs = [(m, 1) for m in frame.m if m != 1] if 1 in set(frame.m) else []
        tests = stats.compare(with_points(one, "merge"), pairs, column="merge", metric="points", unit=UNIT)
        clear = tests[tests.p_holm < CLEAR]
        better, worse = (set(clear[clear.difference * sign > 0].a) for sign in (1, -1))
        parts.append(frame.assign(method=method, better=frame.m.isin(better), worse=frame.m.isin(worse)))
    return pd.concat(parts, ignore_index=True)[["method", "m", "score", "better", "worse"]]


def merge_costs(patches: Sequence[tuple[Cell, dict]], records: pd.DataFrame) -> pd.DataFrame:
    """What the merged edits of these records cost, a row a cell: ``method, m, seed, edits, seconds, MB, took``."""
    cell = {"dataset": records.dataset.iloc[0], "n_forget": records.n_forget.iloc[0]}
    costs = patch_costs(patches)
    costs = select(costs, merge=costs["merge"], **cell).rename(columns={"merge": "m"})
    costs["edits"] = -(-costs.n_forget // costs.m)
    return costs[["method", "m", "seed", "edits", "seconds", "MB", "took"]].reset_index(drop=True)


def by_place(records: pd.DataFrame, costs: pd.DataFrame, source: str | None = None) -> pd.DataFrame:
    """Forgotten questions by their place in the merged text, the last or another, and the share of edits that took."""
    parts = []
    rows = records[(records.set == "forget") & (records["merge"] > 1)]
    for (dataset, n, m, seed), group in rows.groupby(["dataset", "n_forget", "merge", "seed"]):
        order = [qa.id for qa in load_split(dataset, n_forget=int(n), seed=int(seed), source=source).forget]
        last = {order[min(start + m, n) - 1] for start in range(0, n, m)}
        parts.append(group.assign(m=m, place=["the last" if i in last else "the others" for i in group.id]))
    if not parts:
        return pd.DataFrame()
    wide = pd.concat(parts).pivot_table(index=["method", "m"], columns="place", values=RECALL, sort=False)
    return in_order(wide.join(costs.groupby(["method", "m"]).took.mean()).reset_index())
