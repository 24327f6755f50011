"""What the pages say of a method: each directive gives the numbers of a direct computation, and the pages agree with the code."""

import json
import re
import sys
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pytest

import editunlearn_lib as eu
from editunlearn_lib import hparams, show, study, study_pocket

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))
facts = pytest.importorskip("facts")
METHODS = list(eu.METHODS)
FIGURE = {  # and the method that it begins with, where it has several
    **{name: f"training {name}" for name in ("ga", "gd", "kl", "dpo", "idk")},
    **{name: f"rank-one {name}" for name in ("rome", "alphaedit")},
    "memit": "rank-one",
    "grace": "codebook",
    "wise": "routing",
}


def rows(html: str) -> dict[str, list[str]]:
    """The cells of a table's rows as text, by the first of them; the last row of a name counts."""
    found = {}
    for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL):
        cells = re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)
        name, *rest = (unescape(re.sub(r"<[^>]+>", "", cell.split("<small>")[0])).strip() for cell in cells)
        found[name] = rest
    return found


@pytest.fixture(scope="module")
def records():
    return study.load_results(study_pocket.RESULTS)


@pytest.mark.parametrize("method", METHODS)
def test_preset_has_every_value_with_its_source(method):
    html = facts.preset_html(method)
    table, sources = rows(html), html.rsplit("Sources: ", 1)[1].split(".</p>")[0]
    legend = dict(part.removeprefix("<sup>").split("</sup> ") for part in re.split("; (?=<sup>)", sources))
    for column, model in enumerate(facts.MODELS):
        for field, entry in eu.preset(method, model).items():
            shown, letter = table[field][column].rsplit(" ", 1)
            assert shown == facts._shown(entry["value"]), (field, model)
            assert unescape(legend[letter]) == entry["source"], (field, model)


@pytest.mark.parametrize("method", METHODS)
def test_preset_folds_away_only_what_no_preset_sets(method):
    open_rows = rows(facts.preset_html(method).split("<details>")[0])
    for field in eu.preset(method, "pocket"):
        sources = {eu.preset(method, model)[field]["source"] for model in facts.MODELS}
        assert (field in open_rows) == bool(sources - {hparams.DEFAULT, hparams.OURS}), field


def test_values_as_one_reads_them():
    values = [0.5, 1e-5, 15000.0, (4, 5), True, None, "ties", ("{}",), (5.0, 20.0)]
    assert [facts._shown(v) for v in values] == "0.5|1e-05|15000|4, 5|yes|none|ties|{}|5, 20".split("|")


@pytest.mark.parametrize("method", METHODS)
def test_costs_are_those_of_the_committed_cells(method):
    """Worked out from the manifest here, without `manifest_table`."""
    table = rows(facts.cost_html(method))
    documents = json.loads(study_pocket.RESULTS.with_suffix(".json").read_text())
    for column, (dataset, n) in enumerate(facts.VIEWS.items()):
        plain = study.Cell("pocket", dataset, method, n)
        cells = [d["patch"] for d in documents if study.Cell(**{**d["cell"], "seed": 0}) == plain]
        assert len(cells) >= 3
        for label, key, form in (
            ("seconds to make the patch, measured", "seconds", "{:.1f}"),
            ("size of the patch, MB, measured", "nbytes", "{:.2f}"),
            ("share of the edits that took, measured", "took", "{:.0%}"),
        ):
            if key == "took" and not eu.METHODS[method].edits:
                assert label not in table
                continue
            mean = sum(cell[key] for cell in cells) / len(cells) / (1e6 if key == "nbytes" else 1)
            assert table[label][column] == form.format(mean), label


@pytest.mark.parametrize("method", METHODS)
def test_memory_says_what_is_computed_and_what_measured(method):
    memory = json.loads((ROOT / "benchmarks" / "memory.json").read_text())
    html, pocket = facts.cost_html(method), memory["float32, CPU"]["pocket"][method]
    assert f"<strong>{pocket['measured MB']:.0f} MB</strong> measured, {pocket['computed MB']:.0f} MB computed" in html
    gigabytes = memory["Llama-2-7B, bfloat16, one GPU, computed"][method]["GB"]
    assert f"<strong>{gigabytes:.1f} GB</strong> computed" in html


@pytest.mark.parametrize("method", METHODS)
def test_results_are_those_of_the_records_and_of_the_paper(method, records):
    html = facts.results_html(method)
    paper = eu.paper_tables().query("table == 'table1' and model == 'Llama2-7B' and metric == 'rouge1_recall'")
    parts = re.split(r"<tbody", html)[1:]
    assert len(parts) == 2 and ("paper" in html) == (method in set(paper["method"]))
    for part, (dataset, n) in zip(parts, facts.VIEWS.items(), strict=True):
        cell = study.select(records, dataset=dataset, n_forget=n, method=method)
        ours = cell.groupby("set")["rouge1_recall"].mean()
        theirs = paper[(paper["dataset"] == facts.PAPER_NAME[dataset]) & (paper["method"] == method)].set_index("set")[
            "value"
        ]
        shown = rows(part)[facts.show.style(method).label]
        expected = []
        for which in ("forget", "rephrased", "retain", "unseen"):
            expected.append(f"{ours[which]:.2f}" if which in ours else "–")
            expected += [f"{theirs[which]:.2f}"] if which in theirs else []
        expected.append(f"{1 - ours['forget'] + ours['retain']:.2f}")
        expected += [f"{1 - theirs['forget'] + theirs['retain']:.2f}"] if len(theirs) else []
        assert shown == expected


def test_a_method_without_results_says_so(monkeypatch, records):
    monkeypatch.setattr(facts, "runs", lambda: records.query("method == 'base'"))
    assert "no committed results of GA" in facts.results_html("ga")


def test_value_is_one_mean_of_the_records(records):
    forty = study.select(records, dataset="factual", n_forget=40, method="memit")
    assert facts.value("memit", "factual", "unseen", "declined") == pytest.approx(
        forty[forty["set"] == "unseen"]["declined"].mean()
    )
    attacked = study.select(records, dataset="factual", n_forget=40, method="memit", protocol="attacks")
    assert (
        facts.sets("memit", "factual", "prefill")
        == f"{['no', 'one', 'two', 'three'][attacked.seed.nunique()]} forget sets"
    )
    assert facts.value("memit", "factual", "prefill") == pytest.approx(
        attacked[attacked["attack"] == "prefill"]["rouge1_recall"].mean()
    )


@pytest.mark.parametrize("make", [facts.preset_html, facts.cost_html, facts.results_html])
def test_an_unknown_method_is_named_with_the_nearest(make):
    with pytest.raises(eu.errors.UnknownNameError, match="unknown method 'romee'. Did you mean 'rome'"):
        make("romee")


@pytest.mark.parametrize(
    "words, wrong",
    [
        ("romee factual forget", "romee"),
        ("rome facts forget", "facts"),
        ("rome factual forgot", "forgot"),
        ("rome factual forget rogue", "rogue"),
        ("ga contracts unseen", "unseen"),
    ],
)
def test_a_value_that_is_not_there_is_named(words, wrong):
    with pytest.raises(eu.errors.EditUnlearnError, match=wrong):
        facts.value(*words.split())


def test_method_table_follows_the_registry(monkeypatch):
    def tenth(job):
        """Not to be run."""

    monkeypatch.setitem(
        eu.METHODS,
        "mine",
        SimpleNamespace(
            run=tenth,
            edits=True,
            reads_retain=True,
            covariance=True,
            refuses=True,
            modes=("batch",),
            merges=True,
            continues=False,
        ),
    )
    html = facts.method_table_html(["rome"])
    table = rows(html)
    assert table["GA"][1:] == ["forget set", "away from the answer", "–", "–", "–"]
    assert table["GD"][1] == "forget set, retain set"
    assert table["MEMIT"][1:] == ["forget set, covariance of keys", "a refusal", "batch or sequential", "yes", "yes"]
    assert table["GRACE"][0] == "a codebook at one layer" and table["GRACE"][-2:] == ["–", "yes"]
    assert table["mine"][1:] == ["forget set, retain set, covariance of keys", "a refusal", "batch", "yes", "–"]
    assert re.findall(r'href="([^"]+)"', html) == ["rome.html"]
    families = [name for name in table if name.startswith("Changes")]
    assert len(families) == 3 and list(table).index("WISE") > list(table).index("Changes no weight, acts in one layer")


# ---------------------------------------------------------------------------------------------------------------------
# In Sphinx


@pytest.fixture(scope="module")
def sphinx_build(tmp_path_factory):
    """Builds one page of MyST with the extension; its HTML, the warnings and the files it depends on."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    def build(text: str):
        import io

        folder = tmp_path_factory.mktemp("facts")
        (folder / "index.md").write_text(text, encoding="utf-8")
        warnings = io.StringIO()
        with docutils_namespace():
            app = Sphinx(
                folder,
                None,
                folder / "out",
                folder / "doctrees",
                "html",
                {"extensions": ["myst_parser", "facts"]},
                status=None,
                warning=warnings,
            )
            app.build()
        depends = {Path(app.srcdir, name).resolve().name for name in app.env.dependencies["index"]}
        return (folder / "out" / "index.html").read_text(encoding="utf-8"), warnings.getvalue(), depends

    return build


def test_every_directive_renders_for_every_method(sphinx_build):
    blocks = [f"```{{{name}}} {method}\n```" for method in METHODS for name in ("preset", "cost", "results")]
    text = "# Facts\n\n" + "\n\n".join([*blocks, "```{method-table}\n```", "So {value}`memit factual forget` remains."])
    html, warnings, depends = sphinx_build(text)
    assert warnings == ""
    for method in METHODS:
        for made in (facts.preset_html(method), facts.cost_html(method), facts.results_html(method)):
            assert made in html
    assert f"So {facts.value('memit', 'factual', 'forget'):.2f} remains." in html
    needed = {
        "pocket.parquet",
        "pocket.json",
        "memory.json",
        "presets.json",
        "hparams.py",
        "paper_tables.csv",
        "facts.py",
    }
    assert needed <= depends and {f"{method}.py" for method in METHODS} <= depends


@pytest.mark.parametrize(
    "text",
    ["```{preset} romee\n```", "```{cost} romee\n```", "```{results} romee\n```", "{value}`romee factual forget`"],
)
def test_a_wrong_name_is_one_clear_warning(sphinx_build, text):
    _, warnings, _ = sphinx_build(f"# Facts\n\n{text}\n")
    assert warnings.count("unknown method 'romee'") == 1 and "Did you mean 'rome'?" in warnings


def test_a_value_of_too_few_words_is_a_warning(sphinx_build):
    assert "{value}`rome`" in sphinx_build("# Facts\n\n{value}`rome`\n")[1]


# ---------------------------------------------------------------------------------------------------------------------
# The pages


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_page_in_the_same_order(method):
    text = (ROOT / "book" / "methods" / f"{method}.md").read_text(encoding="utf-8")
    order = [
        "## The idea",
        "## The equation",
        "```{literalinclude}",
        f"methods/{method}.py\n",
        f"```{{explore}} {FIGURE[method]}\n",
        "## Presets",
        f"```{{preset}} {method}\n",
        "## What goes wrong",
        "## What it costs",
        f"```{{cost}} {method}\n",
        "## What it did here",
        "Before you look",
        f"```{{results}} {method}\n",
        "What this does not show",
    ]
    places = [text.find(part) for part in order]
    assert -1 not in places and places == sorted(places)
    assert re.search(rf"\]\({method}(\.md)?\)", (ROOT / "book" / "methods" / "index.md").read_text(encoding="utf-8"))


def test_no_result_is_typed_into_the_prose():
    """A decimal fraction outside of code, formulas and roles is a setting that a preset or a file names."""
    settings = {"0.02", "0.1", "3.2"}  # AlphaEdit's threshold, DPO's β, a section of the paper
    for page in (
        *sorted((ROOT / "book" / "methods").glob("*.md")),
        ROOT / "book" / "background.md",
        ROOT / "book" / "metrics.md",
    ):
        text = re.sub(r"```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert set(re.findall(r"\b\d*\.\d+\b", text)) <= settings, page.name


def test_the_answer_on_the_front_page_is_that_of_the_records():
    found = facts.answer_html()
    score = {m: 1 - facts.value(m, "factual", "forget") + facts.value(m, "factual", "retain") for m in eu.METHODS}
    best = sorted(score, key=score.get, reverse=True)
    for method in best[:3]:
        assert f'<th scope="row">{show.style(method).label}</th><td>{score[method]:.2f}</td>' in found
    assert sum(f">{show.style(m).label}</th>" in found for m in eu.METHODS) in (3, 4)
    assert any(f">{show.style(m).label}</th>" in found for m in eu.METHODS if not eu.METHODS[m].edits)
