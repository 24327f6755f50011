"""The one table: what it holds, in which order, and that nothing in it breaks out."""

import re

import pandas as pd
import pytest
from sample_records import ATTACK, METHODS, Tags, csv_rows, paper, summary

from editunlearn_lib import show
from editunlearn_lib.show.page import Css, Raw, el

LIVE = "run live just now"


def test_table_sets_ours_beside_the_papers():
    shown = show.table(summary(), paper(), provenance=LIVE, caption="ROUGE-1 recall")
    parsed = Tags(shown.html)
    assert ("caption", {}) in parsed.found and "ours" in parsed.text and "paper" in parsed.text
    assert any(a.get("tabindex") == "0" and a.get("role") == "region" for _, a in parsed.found)
    row = next(r for r in csv_rows(shown.html) if (r["dataset"], r["method"]) == ("factual", "wise"))
    assert (row["forget_paper"], row["retain_paper"], row["score_paper"]) == ("0.25", "0.75", "1.5")
    assert float(row["forget_low"]) < float(row["forget_ours"]) < float(row["forget_high"])
    assert "unseen_paper" not in row  # no empty column for what the paper did not measure
    body = re.findall(r'<tr data-method="\w+"><th scope="row">.*?</tr>', shown.html)
    assert len(body) == 2 * len(METHODS) and len({row.count("<td") for row in body}) == 1


def test_table_without_paper_has_one_head_row():
    shown = show.table(summary(), provenance=LIVE, caption="c", methods=["gd", "wise"])
    assert shown.html.count("<thead><tr>") == 1 and "rowspan" not in shown.html
    assert "GD" in shown.text and "ROME" not in shown.text


def test_table_refuses_papers_with_several_values():
    with pytest.raises(ValueError, match=r"model \(Llama2-7B, Mistral-7B\)"):
        both = pd.concat([paper(), paper().assign(model="Mistral-7B")])
        show.table(summary(), both, provenance=LIVE, caption="c")


def test_a_plain_table_has_labels_groups_and_intervals():
    rows = pd.DataFrame(
        {
            "dataset": ["factual", "factual", "contracts"],
            "method": ["gd", "wise", "gd"],
            "took": [0.5, 0.123, None],
            "took_low": [0.4, 0.1, None],
            "took_high": [0.6, 0.2, None],
            "n; questions": [40, 40, 20],
        }
    )
    shown = show.plain_table(rows, "What took", provenance=LIVE, name="took", group="dataset")
    Tags(shown.html)
    assert shown.html.count("<tbody>") == 2 and shown.html.index("Factual (") < shown.html.index("Contracts (")
    assert re.findall(r"<th scope=.row.>(.*?)</th>(.*?)</tr>", shown.html) == [
        ("GD", "<td>0.50<small>0.40–0.60</small></td><td>40</td>"),
        ("WISE", "<td>0.12<small>0.10–0.20</small></td><td>40</td>"),
        ("GD", "<td>–</td><td>20</td>"),
    ]
    assert re.findall(r'<th scope="col">(.*?)</th>', shown.html) == ["method", "took", "n<small>questions</small>"]
    assert [(r["dataset"], r["method"], r["took_low"]) for r in csv_rows(shown.html)] == [
        ("factual", "gd", "0.4"),
        ("factual", "wise", "0.1"),
        ("contracts", "gd", ""),
    ]
    with pytest.raises(ValueError, match="'took' lacks set"):
        show.plain_table(rows, "What took", provenance=LIVE, name="took", group="set")
    with pytest.raises(ValueError, match="'took' has no rows"):
        show.plain_table(rows[:0], "What took", provenance=LIVE, name="took")


def test_the_edit_report_shows_what_did_not_take_first():
    log = [
        {
            "question": f"Q{i}?",
            "target": "No <b>.",
            "before": ATTACK,
            "after": "x",
            "took": i not in (3, 20),
            "loss": 0.5,
            "delta_norm": 2.0,
        }
        for i in range(25)
    ]
    shown = show.edit_report(log, provenance=LIVE)
    assert "23 of 25 took, 12 shown" in shown.html and shown.html.count("did not take") == 2
    rows = re.findall(r'<th scope="row">(Q\d+)', shown.html)
    assert rows[:2] == ["Q3", "Q20"] and len(rows) == 12
    assert "<script>window" not in shown.html and "<b>" not in shown.html.split("download")[0]
    assert len(csv_rows(shown.html)) == 25  # the download has them all
    Tags(shown.html)
    with pytest.raises(ValueError, match="before"):
        show.edit_report([{"question": "Q?"}], provenance=LIVE)


# -- Table itself


def made(**more) -> show.Table:
    columns = [
        show.Column("field", el("small", "of a preset")),
        show.Column("value", "pocket", over="ours", number=lambda x: f"{x:.1f}"),
        show.Column("paper", "paper", over="ours", kind="paper"),
        show.Column("why", "why", kind="words"),
    ]
    rows = [
        {"field": "lr", "value": 0.25, "value_low": 0.1, "value_high": 0.4, "value_more": "; 3 sets", "family": "a"},
        {"field": "lr", "value": None, "paper": 4, "why": ATTACK, "family": "a"},
        {"field": el("code", "<n>"), "value": float("nan"), "why": el("b", "x"), "family": "b"},
    ]
    return show.Table("A <caption>", columns, rows, LIVE, **more)


def cells(html: str) -> list[str]:
    return re.findall(r"<td[^>]*>(.*?)</td>", html)


def test_a_cell_is_a_number_with_its_interval_a_dash_a_text_or_html():
    html = made().html
    Tags(html)
    assert cells(html)[:4] == ["0.2<small>0.10–0.40; 3 sets</small>", "–", "–", "–"]
    assert "<code>&lt;n&gt;</code>" in html and "<b>x</b>" in html and "<script>" not in html and "<img" not in html
    assert "A &lt;caption&gt;" in html and "download" not in html and f"Source: {LIVE}" in html
    assert f'<td class="{Css.text}">' in html and f'<td class="{Css.paper}">4</td>' in html


def test_heads_stand_in_two_rows_where_some_are_shared():
    head = made().html.split("<thead>")[1].split("</thead>")[0]
    assert re.findall(r"<th ([^>]*)>(.*?)</th>", head) == [
        ('scope="col" rowspan="2"', "<small>of a preset</small>"),
        ('scope="colgroup" colspan="2"', "ours"),
        (f'scope="col" rowspan="2" class="{Css.text}"', "why"),
        ('scope="col"', "pocket"),
        (f'scope="col" class="{Css.paper}"', "paper"),
    ]
    bare = show.Table("c", [show.Column("a"), show.Column("b")], [{"a": "x", "b": "y"}], LIVE)
    assert "<thead>" not in bare.html  # no column has a head


def test_rows_have_groups_and_rows_that_begin_alike_one_head():
    html = made(group="family", join=True).html
    assert re.findall(r'scope="rowgroup" colspan="(\d)">(\w)<', html) == [("4", "a"), ("4", "b")]
    assert re.findall(r'<th scope="row" rowspan="(\d)">', html) == ["2", "1"] and html.count("<tbody>") == 2
    assert made(group="family").html.count('<th scope="row">') == 3


def test_further_rows_are_folded_away_and_a_note_may_be_html():
    shown = made(folded=("2 further fields", [{"field": "beta"}, {"field": "gamma"}]), name="presets")
    fold = shown.html.split("<details>")[1].split("</details>")[0]
    assert fold.startswith("<summary>2 further fields</summary>") and "beta" in fold and "<caption>" not in fold
    assert [row["field"] for row in csv_rows(shown.html)] == ["lr", "lr", "<code>&lt;n&gt;</code>"]
    only = show.Table("c", [show.Column("a", "a")], [], Raw("Sources: <sup>a</sup>"), folded=("more", [{"a": 1}]))
    assert only.html.count("<table>") == 1 and f'<p class="{Css.note}">Sources: <sup>a</sup></p>' in only.html
    assert only.bare() == "" and made().bare().startswith(f'<div class="{Css.scroll}"')


def test_a_terminal_gets_the_words():
    assert made(name="n").text.splitlines()[0] == "A <caption>"
    assert "lr: 0.2 0.10–0.40; 3 sets" in made(name="n").text and "Download" not in made(name="n").text
