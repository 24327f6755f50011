"""The scores of the paper's tables, drawn."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from editunlearn_lib.show import page, style

from .lookup import EDITING, MODELS, TRAINING, Numbers, frame, label, where


def scores(tables: pd.DataFrame) -> pd.DataFrame:
    """ROUGE-1 and score of Tables 1, 3 and 4, as the figures take a summary: one row per setting, method and set."""
    settings = [("table1", "factual", 40, model) for model in MODELS] + [("table3", "factual", 40, "Llama3.1-8B")]
    settings += [(table, "pistol", n, model) for table, n in (("table1", 20), ("table4", 40)) for model in MODELS]
    rows = []
    for table, dataset, n, model in settings:
        for m, r in Numbers(tables).rouge(table, model, dataset).iterrows():
            rows += [(f"{where(dataset, model)}, {n}", m, s, r[s], r["score"]) for s in ("forget", "retain")]
    return frame("dataset | method | set | rouge1_recall | score", rows)


def leaders(summary: pd.DataFrame) -> pd.DataFrame:
    """The method that comes first by score in each setting."""
    one = summary.drop_duplicates(["dataset", "method"])
    return one.loc[one.groupby("dataset", sort=False)["score"].idxmax()]


def places(summary: pd.DataFrame) -> pd.DataFrame:
    """The ``best`` and the ``worst`` place by score of each method that every setting has."""
    wide = summary.drop_duplicates(["dataset", "method"]).pivot(index="method", columns="dataset", values="score")
    ranks = wide.rank(ascending=False, method="min").dropna().astype(int)
    return pd.DataFrame({"best": ranks.min(axis=1), "worst": ranks.max(axis=1)})


def score_dots(summary: pd.DataFrame, *, provenance: str, title: str, reading: str, name: str = "scores") -> go.Figure:
    """The score of each method in each setting: one row per setting, one mark per method, a line at 1."""
    one, fig, in_words = summary.drop_duplicates(["dataset", "method"]), go.Figure(), []
    settings = list(dict.fromkeys(one["dataset"]))
    for m in (m for m in (*TRAINING, *EDITING) if m in set(one["method"])):
        rows = one[one["method"] == m]
        fig.add_scatter(
            name=label(m),
            mode="markers",
            marker=page.marker(style(m), 12),
            x=[page.number(v) for v in rows["score"]],
            y=rows["dataset"].tolist(),
            hovertemplate="<b>%{fullData.name}</b>, %{y}: %{x:.2f}<extra></extra>",
            cliponaxis=False,
        )
    line = {"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    title_x = {"text": "score: 1 − ROUGE-1 forget + ROUGE-1 retain"}
    fig.update_layout(
        xaxis={"title": title_x, "zeroline": False, "range": [0.8, 1.85]},
        yaxis={"categoryorder": "array", "categoryarray": settings[::-1], "automargin": True},
        shapes=[{**line, "line": {"width": 1, "dash": "dot", "color": "#808080"}}],
    )
    for s in settings:
        ranked = one[one["dataset"] == s].sort_values("score", ascending=False)
        in_words.append(f"{s}: {', '.join(f'{label(r.method)} {r.score:.2f}' for r in ranked.itertuples())}")
    return page.finish(
        fig,
        title=title,
        reading=reading,
        provenance=provenance,
        csv=page.csv(one),
        name=name,
        height=180 + 46 * len(settings),
        left=150,
        alt=f"Dot plot of scores. {'. '.join(in_words)}.",
    )


def size_lines(tables: pd.DataFrame, *, provenance: str, name: str = "size-scores") -> go.Figure:
    """Table 5: the score over the size of the forget set, every method that has more than one size."""
    scores = Numbers(tables).score_by_size([*TRAINING, *EDITING]).rename_axis(index="x", columns="method")
    rows = scores.unstack().dropna().rename("score").reset_index()
    title, x_title, what = (
        "Over the size of the forget set, Llama2-7B",
        "facts forgotten",
        "the number of facts forgotten",
    )
    return _lines(rows[["x", "method", "score"]], {}, title, x_title, what, provenance=provenance, name=name)


def merge_lines(tables: pd.DataFrame, *, provenance: str, name: str = "merge-scores") -> go.Figure:
    """Figure 6, right, drawn again: the score over m, with the unmerged methods of the same size as lines across."""
    paper = Numbers(tables)
    n, rows = paper.merge_size(), paper.merging().rename(columns={"m": "x"})
    across = paper.rouge("table5", n=n)["score"][["alphaedit", "gd", "dpo"]]
    title, x_title = f"Merging, {n} facts, Llama2-7B", "questions in one edit (m); 1: unmerged"
    return _lines(rows, across, title, x_title, "m", provenance=provenance, name=name)


def _lines(rows: pd.DataFrame, across, title: str, x_title: str, what: str, **below) -> go.Figure:
    """The score over a column ``x``, one line per method; ``across`` has single values, drawn as lines across."""
    fig, places, in_words = go.Figure(), sorted(int(v) for v in rows["x"].unique()), []
    lines = [(m, "", part["x"], part["score"]) for m, part in rows.groupby("method", sort=False)]
    lines += [(m, ", unmerged", [places[0], places[-1]], [v, v]) for m, v in across.items()]
    for m, more, x, y in lines:
        look, dotted = style(m), bool(more)
        fig.add_scatter(
            name=label(m) + more,
            mode="lines+markers",
            x=[int(v) for v in x],
            y=[page.number(v) for v in y],
            cliponaxis=False,
            line={"color": look.colour, "width": 1.5 if dotted else 2.5, "dash": "dot" if dotted else look.dash},
            marker=page.marker(look, 10),
            hovertemplate="<b>%{fullData.name}</b>, %{x}: %{y:.3f}<extra></extra>",
        )
        in_words.append(f"{label(m)}{more}: " + ", ".join(f"{a} {b:.3f}" for a, b in zip(x, y, strict=True)))
    fig.update_layout(
        xaxis={"title": {"text": x_title}, "tickvals": places, "zeroline": False, "showgrid": False},
        yaxis={"title": {"text": "score"}, "zeroline": False},
    )
    reading = "Higher is better; 2 is ideal, 1 is nothing or everything forgotten."
    alt = f"Line chart of the score over {what}. {'. '.join(in_words)}."
    return page.finish(fig, title=title, reading=reading, alt=alt, csv=page.csv(rows), height=460, **below)
