"""Figures and tables from records: what they hold, what they refuse, what they escape."""

import re

import pandas as pd
import plotly.io as pio
import pytest
from sample_records import ATTACK, METHODS, Tags, csv_rows, figure_json, paper, records, summary

import editunlearn_lib as eu
from editunlearn_lib import show
from editunlearn_lib.show import page

LIVE = "run live just now"


def rendered(fig) -> dict:
    """What a notebook stores of a figure."""
    return show.BookRenderer().to_mimebundle(fig.to_dict())


# -- styles


def test_every_method_has_its_own_look():
    looks = [show.style(method) for method in METHODS]
    assert set(METHODS) == {*page.REFERENCES, *eu.METHODS}
    assert len({look.symbol for look in looks}) == len(METHODS)  # told apart without colour
    okabe_ito = {"#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"}
    assert {look.colour for look in looks} == okabe_ito | {"#808080"}


def test_a_method_looks_the_same_in_every_figure_and_selection():
    one = show.radar(summary().query("method == 'wise'"), provenance=LIVE).data[0]
    all_of = {t.name: t for t in show.trade_off(summary(), provenance=LIVE).data}
    assert one.marker.symbol == all_of["WISE"].marker.symbol
    assert one.marker.color == all_of["WISE"].marker.color


def test_a_method_that_is_not_built_in_is_drawn_too():
    mine = summary().replace({"method": {"wise": "my method"}})
    assert show.radar(mine, provenance=LIVE).data[-1].name == "my method"
    assert show.ordered(["wise", "my method", "a method", "idk", "rome", "base"]) == [
        *("base", "idk", "rome", "wise", "a method", "my method")
    ]  # references, training, editing, unknown


# -- Plotly figures


def swept() -> pd.DataFrame:
    """Made-up values of two methods over the size of the forget set."""
    rows = [
        {
            "method": m,
            "set": w,
            "n_forget": n,
            "rouge1_recall": v,
            "rouge1_recall_low": v - 0.1,
            "rouge1_recall_high": v + 0.05,
        }
        for m, shift in (("rome", 0.0), ("memit", 0.1))
        for w, start in (("forget", 0.2), ("retain", 0.7))
        for n, v in ((20, start + shift), (40, start + shift + 0.1))
    ]
    return pd.DataFrame(rows)


def attacked() -> pd.DataFrame:
    """Made-up values of two methods under two attacks; one was not measured."""
    rows = [
        ("factual", "base", "plain", 1.0),
        ("factual", "base", "chat", 0.9),
        ("factual", "rome", "plain", 0.1),
        ("contracts", "base", "plain", 0.8),
    ]
    return pd.DataFrame(rows, columns=["dataset", "method", "attack", "rouge1_recall"])


def test_a_sweep_has_a_line_per_set_a_menu_of_methods_and_the_papers_lines():
    theirs = pd.DataFrame(
        [
            {"method": "memit", "set": "forget", "n_forget": 20, "metric": "rouge1_recall", "value": 0.5},
            {"method": "memit", "set": "forget", "n_forget": 20, "metric": "mrr", "value": 0.9},
        ]
    )
    fig = show.sweep(swept(), "n_forget", paper=theirs, provenance=LIVE, title="T", x_title="size")
    assert [t.name for t in fig.data] == ["forget", "retain", "forget (paper)"]
    assert list(fig.data[0].x) == [20, 40] and list(fig.data[0].y) == pytest.approx([0.2, 0.3])
    assert (
        list(fig.data[0].error_y.arrayminus) == pytest.approx([0.1, 0.1]) and fig.data[2].y == ()
    )  # ROME: the paper has none
    memit = fig.layout.updatemenus[0].buttons[1]
    assert memit.label == "MEMIT" and memit.args[0]["y"][2] == [0.5]
    assert "ROME: forget 0.20, 0.30" in fig.layout.meta["alt"]
    assert len(csv_rows(rendered(fig)["text/html"])) == len(swept())
    base = swept().query("method == 'rome'").assign(method="base")
    fig = show.sweep(pd.concat([base, swept()]), "n_forget", provenance=LIVE, title="T", x_title="size")
    assert [b.label for b in fig.layout.updatemenus[0].buttons] == ["ROME", "MEMIT", "Base model"]
    with pytest.raises(ValueError, match="2 rows"):
        show.sweep(pd.concat([swept(), swept()]), "n_forget", provenance=LIVE, title="T", x_title="size")


def test_pairs_join_two_values_of_each_method():
    frame = summary()
    fig = show.pairs(frame, provenance=LIVE, paper=paper(), title="T", reading="left is better")
    names = [t.name for t in fig.data[1:]]
    assert names == ["forget", "rephrased", "forget (paper)", "rephrased (paper)"]
    value = frame.set_index(["dataset", "method", "set"]).rouge1_recall
    at = list(fig.data[1].y).index("GRACE")
    assert fig.data[1].x[at] == pytest.approx(value["factual", "grace", "forget"], abs=1e-4)
    assert fig.data[2].x[at] == pytest.approx(value["factual", "grace", "rephrased"], abs=1e-4)
    assert list(fig.data[3].x)[list(fig.data[3].y).index("WISE")] == 0.25 and fig.data[3].x[at] is None
    assert list(fig.data[0].x[3 * at : 3 * at + 3]) == [fig.data[1].x[at], fig.data[2].x[at], None]  # the line between
    assert len(fig.layout.updatemenus[0].buttons) == 2


def test_a_matrix_numbers_its_cells_and_leaves_out_what_was_not_measured():
    fig = show.matrix(attacked(), "method", "attack", provenance=LIVE, title="T", reading="light is better")
    assert [list(z) for z in fig.data[0].z] == [[1.0, 0.9], [0.1, None]] and [list(t) for t in fig.data[0].text] == [
        ["1.0", ".90"],
        [".10", ""],
    ]
    assert list(fig.data[0].y) == ["Base model", "ROME"] and fig.data[0].customdata[1][1] == "not measured"
    contracts = fig.layout.updatemenus[0].buttons[1].args[0]
    assert contracts["z"] == [[[0.8, None], [None, None]]]
    assert "ROME plain 0.10, chat –" in fig.layout.meta["alt"]


@pytest.mark.parametrize("draw", [show.radar, show.trade_off])
def test_a_figure_says_what_it_shows(draw):
    fig = draw(summary(), provenance="committed results, abc1234")
    bundle = rendered(fig)
    html = bundle["text/html"]
    assert bundle["text/plain"] == fig.layout.meta["alt"]
    assert "better" in html  # which direction is good
    assert "Source: committed results, abc1234" in html
    assert "committed results, abc1234" in fig.layout.title.subtitle.text  # for JupyterLab, which sees no HTML
    assert f"WISE {page.Summary(summary()).score('factual', 'wise'):.2f}" in bundle["text/plain"]
    assert len(csv_rows(html)) == len(summary())
    assert Tags(html).found[0][1]["role"] == "group"
    assert len(html) < 150_000 and "http" not in re.sub(r"data:text/csv[^\"]*", "", html)


def test_radar_flips_what_should_be_low_and_closes_its_outline():
    frame = summary()
    fig = show.radar(frame[frame.method.eq("gd")], provenance=LIVE)
    value = frame[frame.dataset.eq("factual") & frame.method.eq("gd")].set_index("set").rouge1_recall
    expected = [1 - value["forget"], value["retain"], 1 - value["rephrased"], 1 - value["forget"]]
    assert list(fig.data[0].r) == pytest.approx(expected, abs=1e-4)


def test_radar_leaves_a_gap_where_nothing_was_measured():
    frame = summary()
    fig = show.radar(frame[frame.method.eq("gd") & ~frame.set.eq("rephrased")], provenance=LIVE)
    assert fig.data[0].r[2] is None
    assert "not measured" in fig.data[0].customdata[2]


def test_trade_off_has_intervals_the_right_way_round():
    row = {"dataset": "d", "method": "gd", "score": 1.5, "n": 9}
    frame = pd.DataFrame(
        [
            row | {"set": "forget", "rouge1_recall": 0.3, "rouge1_recall_low": 0.2, "rouge1_recall_high": 0.6},
            row | {"set": "retain", "rouge1_recall": 0.8, "rouge1_recall_low": 0.7, "rouge1_recall_high": 0.85},
        ]
    )
    point = show.trade_off(frame, provenance=LIVE).data[0]
    assert (point.x[0], point.y[0]) == (0.7, 0.8)
    assert (point.error_x.array[0], point.error_x.arrayminus[0]) == pytest.approx((0.1, 0.3))
    assert (point.error_y.array[0], point.error_y.arrayminus[0]) == pytest.approx((0.05, 0.1))


@pytest.mark.parametrize("draw", [show.radar, show.trade_off])
def test_the_menu_puts_the_second_data_set_into_the_same_traces(draw):
    fig = draw(summary(), provenance=LIVE)
    alone = draw(summary()[summary().dataset.eq("contracts")], provenance=LIVE)
    update = fig.layout.updatemenus[0].buttons[1].args[0]
    key = "r" if "r" in update else "x"
    assert [list(v) for v in update[key]] == [list(t[key]) for t in alone.data]
    assert not alone.layout.updatemenus  # one data set: nothing to choose


def test_two_values_for_one_mark_are_refused_with_what_to_select():
    double = pd.concat([summary().assign(n_forget=20), summary().assign(n_forget=40)])
    with pytest.raises(ValueError, match=r"Select one value of: n_forget \(20, 40\)"):
        show.radar(double, provenance=LIVE)


@pytest.mark.parametrize("broken", [summary().drop(columns="score"), summary().iloc[:0]])
def test_unusable_summaries_are_refused(broken):
    with pytest.raises(ValueError, match="lacks score|no rows"):
        show.trade_off(broken, provenance=LIVE)


def test_titles_cannot_break_out_of_the_page():
    fig = show.trade_off(summary(), provenance=ATTACK, title=ATTACK, name='"><b>')
    html = rendered(fig)["text/html"]
    assert [tag for tag, _ in Tags(html).found].count("script") == 1
    assert not any(tag in ("img", "b") for tag, _ in Tags(html).found)


def test_the_renderer_is_the_default_after_the_call(monkeypatch):
    monkeypatch.setattr(pio.renderers, "default", "json")
    show.use_book_renderer()
    assert pio.renderers.default == "book"
    fig = show.radar(summary(), provenance=LIVE)
    assert set(rendered(fig)) == {"application/vnd.plotly.v1+json", "text/html", "text/plain"}
    assert figure_json(rendered(fig)["text/html"])["data"][0]["type"] == "scatterpolar"


# -- side by side


def test_answer_words_are_found_but_not_those_of_the_question():
    question, answer = "Who wrote 'The Trial' in Prague?", "Franz Kafka of Prague"
    said = "In PRAGUE, kafka, of course; Kafkaesque."
    assert [said[a:b] for a, b in show.answer_words(said, answer, question)] == ["kafka"]


def test_side_by_side_shows_base_first_and_marks_leaks():
    view = show.side_by_side(records(), ["wise", "gd"], provenance=LIVE, questions=2)
    items = [a for t, a in Tags(view.html).found if t == "li"]
    assert [a["data-method"] for a in items[:3]] == ["base", "wise", "gd"]
    assert "<mark>exampleton</mark>" in view.html
    index = figure_json(view.html)["cases"]
    assert len(index) == 2 * 2 * 3  # questions, data sets, sets
    assert index[0]["key"] == "factual/forget/factual-0/0"
    assert len(csv_rows(view.html)) == len(index) * 3
    assert LIVE in view.text and "Exampleton" in view.text
    assert set(view._repr_mimebundle_()) == {"text/html", "text/plain"}


def test_side_by_side_escapes_what_models_and_users_write():
    frame = records().assign(question=ATTACK, answer=ATTACK)
    for dangerous in (records(), frame):
        html = show.side_by_side(dangerous, provenance=ATTACK, title=ATTACK, name='"x').html
        tags = [tag for tag, _ in Tags(html).found]
        assert tags.count("script") == 1 and "img" not in tags
        assert not any(key.startswith("on") for _, attrs in Tags(html).found for key in attrs)
        figure_json(html)


def test_side_by_side_takes_named_questions():
    chosen = [("retain", "factual-1", 0), ("forget", "factual-0", 0)]
    view = show.side_by_side(records(), provenance=LIVE, questions=chosen)
    assert [c["key"] for c in figure_json(view.html)["cases"]] == [
        "factual/retain/factual-1/0",
        "factual/forget/factual-0/0",
    ]
    with pytest.raises(ValueError, match="no question"):
        show.side_by_side(records(), provenance=LIVE, questions=[("forget", "nowhere", 0)])


def test_side_by_side_refuses_two_outputs_for_one_place():
    double = pd.concat([records(), records().assign(seed=1)])
    with pytest.raises(ValueError, match=r"seed \(0, 1\)"):
        show.side_by_side(double, provenance=LIVE)


def test_an_empty_output_is_shown_as_such():
    html = show.side_by_side(records().assign(output=" "), provenance=LIVE).html
    assert "(nothing)" in html
