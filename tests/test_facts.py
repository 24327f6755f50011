"""What the pages say of a method: each directive gives the numbers of a direct computation, and the pages agree with
the code."""

import importlib.util
import io
import json
import re
import shutil
import sys
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import editunlearn_lib as eu
from editunlearn_lib import hparams, study

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))
pytest.importorskip("sphinx")
factsheet = importlib.import_module("factsheet")
specification = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
book_build = importlib.util.module_from_spec(specification)
specification.loader.exec_module(book_build)
METHODS = list(eu.METHODS)
RUN = [name for name in METHODS if (factsheet.runs()["method"] == name).any()]  # with committed results
WRITTEN = [name for name in METHODS if (ROOT / "book" / "methods" / f"{name}.md").exists()]
FIGURE = {  # and the method that it begins with, where it has several
    **{name: f"training {name}" for name in ("ga", "gd", "kl", "dpo", "npo", "simnpo", "idk")},
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
        name, *rest = (unescape(re.sub(r"<[^>]+>", "", cell.split("<small>")[0])).strip("\u2060\n ") for cell in cells)
        found[name] = rest
    return found


@pytest.fixture(scope="module")
def records():
    return study.load_results(factsheet.RESULTS)


@pytest.mark.parametrize("method", METHODS)
def test_preset_has_every_value_with_its_source(method):
    html = factsheet.preset_html(method)
    table, sources = rows(html), html.rsplit("Sources: ", 1)[1].split(".</p>")[0]
    legend = dict(part.removeprefix("<sup>").split("</sup> ") for part in re.split("; (?=<sup>)", sources))
    for column, model in enumerate(factsheet.MODELS):
        for field, entry in eu.preset(method, model).items():
            value, letter = table[field][column + 1].rsplit("\xa0", 1)
            assert value == factsheet.text(entry["value"]), (field, model)
            assert unescape(legend[letter]) == entry["source"], (field, model)
    config = eu.METHODS[method].config
    assert {field: table[field][0] for field in config.__dataclass_fields__} == {
        field: factsheet.text(getattr(config(), field)) for field in config.__dataclass_fields__
    }


@pytest.mark.parametrize("method", METHODS)
def test_preset_folds_away_only_what_no_preset_sets(method):
    open_rows = rows(factsheet.preset_html(method).split("<details>")[0])
    for field in eu.preset(method, "pocket"):
        sources = {eu.preset(method, model)[field]["source"] for model in factsheet.MODELS}
        assert (field in open_rows) == bool(sources - {hparams.DEFAULT, hparams.OURS}), field


def test_what_a_config_says_of_a_field_stands_beside_it():
    assert rows(factsheet.preset_html("memit"))["mom2_update_weight"][-1] == "λ"


def test_values_as_one_reads_them():
    values = [0.5, 1e-5, 15000.0, (4, 5), True, None, "ties", ("{}",), (5.0, 20.0)]
    assert [factsheet.text(v) for v in values] == "0.5|1e-05|15000|4, 5|yes|none|ties|{}|5, 20".split("|")


def groups(html: str) -> dict[str, dict[str, list[str]]]:
    """The rows of a table under each of its headings."""
    parts = re.split(r'<tr><th scope="rowgroup"[^>]*>(.*?)</th></tr>', html)
    return {unescape(title): rows(part) for title, part in zip(parts[1::2], parts[2::2], strict=True)}


def test_costs_are_those_of_the_committed_cells():
    """Worked out from the manifest here, without `manifest_table`; in the table of all as on the page of each."""
    documents = json.loads(factsheet.RESULTS.with_suffix(".json").read_text())
    everything = groups(factsheet.cost_html())
    for method in RUN:
        number = METHODS.index(method)
        table = groups(factsheet.cost_html(method))
        for dataset, n in factsheet.VIEWS.items():
            plain = study.Cell("pocket", dataset, method, n)
            cells = [d["patch"] for d in documents if study.Cell(**{**d["cell"], "seed": 0}) == plain]
            assert len(cells) >= 3
            for title, key, form in (
                ("seconds to make the patch", "seconds", "{:.1f}"),
                ("size of the patch, MB", "nbytes", "{:.2f}"),
                ("share of the edits that took", "took", "{:.0%}"),
            ):
                name = f"{dataset}, {n} forgotten"
                if key == "took" and not eu.METHODS[method].edits:
                    assert title not in table and everything[title][name][number] == "–"
                    continue
                mean = sum(cell[key] for cell in cells) / len(cells) / (1e6 if key == "nbytes" else 1)
                assert table[title][name] == [form.format(mean)] == [everything[title][name][number]], (method, title)


@pytest.mark.parametrize("method", RUN)
def test_memory_says_what_is_computed_and_what_measured(method):
    memory = json.loads((ROOT / "benchmarks" / "memory.json").read_text())
    table, pocket = groups(factsheet.cost_html(method)), memory["float32, CPU"]["pocket"]
    small = table[f"peak memory on the pocket beside its weights, MB, {pocket['requests']} questions"]
    assert small == {kind: [f"{pocket[method][f'{kind} MB']:.0f}"] for kind in ("measured", "computed")}
    large = table["peak memory with the weights, GB, computed"]["Llama-2-7B, bfloat16, one GPU"]
    row = memory["Llama-2-7B, bfloat16, one GPU, computed"][method]
    assert large == [f"{row['GB']:.1f}, {row['phase']}"]


@pytest.mark.parametrize("method", RUN)
def test_results_are_those_of_the_records_and_of_the_paper(method, records):
    html = factsheet.results_html(method)
    paper = eu.paper_tables().query("table == 'table1' and model == 'Llama2-7B' and metric == 'rouge1_recall'")
    parts = re.split(r"<tbody", html)[1:]
    assert len(parts) == 2 and ("paper" in html) == (method in set(paper["method"]))
    for part, (dataset, n) in zip(parts, factsheet.VIEWS.items(), strict=True):
        cell = study.select(records, dataset=dataset, n_forget=n, method=method)
        ours = cell.groupby("set")["rouge1_recall"].mean()
        theirs = paper[paper["dataset"].isin([dataset, {"contracts": "pistol"}.get(dataset)])]
        theirs = theirs[theirs["method"] == method].set_index("set")["value"]
        shown = rows(part)[eu.METHODS[method].label]
        expected = []
        for which in ("forget", "rephrased", "retain", "unseen"):
            expected.append(f"{ours[which]:.2f}" if which in ours else "–")
            expected += [f"{theirs[which]:.2f}"] if which in theirs else []
        expected.append(f"{1 - ours['forget'] + ours['retain']:.2f}")
        expected += [f"{1 - theirs['forget'] + theirs['retain']:.2f}"] if len(theirs) else []
        assert shown == expected


def test_a_method_without_results_says_so(monkeypatch, records):
    monkeypatch.setattr(factsheet, "runs", lambda: records.query("method == 'base'"))
    assert "There are no committed results yet." in factsheet.results_html("ga")


def test_value_is_one_mean_of_the_records(records):
    forty = study.select(records, dataset="factual", n_forget=40, method="memit")
    assert factsheet.value("memit", "factual", "unseen", "declined") == pytest.approx(
        forty[forty["set"] == "unseen"]["declined"].mean()
    )
    attacked = study.select(records, dataset="factual", n_forget=40, method="memit", protocol="attacks")
    assert (
        factsheet.sets("memit", "factual", "prefill")
        == f"{['no', 'one', 'two', 'three'][attacked.seed.nunique()]} forget sets"
    )
    assert factsheet.value("memit", "factual", "prefill") == pytest.approx(
        attacked[attacked["attack"] == "prefill"]["rouge1_recall"].mean()
    )


@pytest.mark.parametrize("make", [factsheet.preset_html, factsheet.cost_html, factsheet.results_html])
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
        factsheet.value(*words.split())


def test_method_table_follows_the_registry(monkeypatch):
    def tenth(job):
        """Not to be run."""

    monkeypatch.setitem(
        eu.METHODS,
        "mine",
        SimpleNamespace(
            run=tenth,
            label="mine",
            edits=True,
            reads=("retain",),
            covariance=True,
            refuses=True,
            modes=("batch",),
            merges=True,
            continues=False,
        ),
    )
    html = factsheet.method_table_html({"rome": "rome.html"})
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
    """Builds pages of MyST with the extension; the HTML of each, the warnings and the files the first depends on."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    def build(text: str, **further: str):
        folder, warnings = tmp_path_factory.mktemp("facts"), io.StringIO()
        for page, words in {"index": text, **further}.items():
            (folder / page).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{page}.md").write_text(words, encoding="utf-8")
        places = folder, None, folder / "out", folder / "doctrees"
        with docutils_namespace():
            config = {"extensions": ["myst_parser", "facts"]}
            app = Sphinx(*places, "html", config, status=None, warning=warnings)
            app.build()
        depends = {Path(app.srcdir, name).resolve().name for name in app.env.dependencies["index"]}
        html = [(folder / "out" / f"{page}.html").read_text(encoding="utf-8") for page in ("index", *further)]
        return (html if further else html[0]), warnings.getvalue(), depends

    return build


def test_every_directive_renders_for_every_method(sphinx_build):
    blocks = [f"```{{{name}}} {method}\n```" for method in METHODS for name in ("preset", "cost", "results")]
    text = "# Facts\n\n" + "\n\n".join(
        [
            *blocks,
            "```{methods}\n```",
            "```{cost}\n```",
            "```{method-reference}\n```",
            "So {value}`memit factual forget` remains.",
        ]
    )
    html, warnings, depends = sphinx_build(text)
    assert warnings == ""
    for method in METHODS:
        for made in (factsheet.preset_html(method), factsheet.cost_html(method), factsheet.results_html(method)):
            assert made in html
        assert f"<h2>{eu.METHODS[method].label}<a" in html and factsheet.head_html(method) in html
    assert f"So {factsheet.value('memit', 'factual', 'forget'):.2f} remains." in html
    needed = {
        "pocket.parquet",
        "pocket.json",
        "memory.json",
        "presets.json",
        "hparams.py",
        "paper_tables.csv",
        "factsheet.py",
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
# A method without a page

TENTH = '''"""Tenth: a method that a test has made up, with ```` a fence ````.

    minimise  L = 0 · λ <of nothing>

Source: nobody.
"""

from dataclasses import dataclass

from editunlearn_lib.methods import register


@dataclass(frozen=True)
class TenthConfig:
    strength: float = 0.5  # λ


def tenth(job):
    """Not to be run."""


register("tenth", TenthConfig, tenth, label="The tenth", reads=("refusals",))
'''


@pytest.fixture
def tenth(tmp_path, monkeypatch) -> Path:
    """A folder with the real pages and table of contents, while a method from outside of the package is registered."""
    (tmp_path / "tenth_method.py").write_text(TENTH, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("tenth_method")
    root = tmp_path / "copy"
    shutil.copytree(ROOT / "book" / "methods", root / "book" / "methods")
    shutil.copy(ROOT / "_toc.yml", root)
    yield root
    del eu.METHODS["tenth"]
    del sys.modules["tenth_method"]


def chapter(toc: Path) -> list[str]:
    """The pages of the chapter "The methods"."""
    parts = yaml.safe_load(toc.read_text(encoding="utf-8"))["parts"]
    return [page["file"] for page in next(part["chapters"] for part in parts if part["caption"] == "The methods")]


def test_a_method_without_a_page_gets_one_behind_the_others(tenth):
    before = (tenth / "_toc.yml").read_text(encoding="utf-8")
    toc = book_build.complete(tenth)
    made = [f"book/executed/methods/{name}" for name in eu.METHODS if name not in WRITTEN]
    assert chapter(toc) == [*chapter(tenth / "_toc.yml"), *made]
    assert toc.parent.name == "_build" and (tenth / "_toc.yml").read_text(encoding="utf-8") == before
    page = tenth / "book" / "executed" / "methods" / "tenth.md"
    text, written = page.read_text(encoding="utf-8"), page.stat().st_mtime_ns
    assert TENTH.strip() in text and "tenth_method.py" in text and "`````{code-block} python" in text
    assert [f"```{{{name}}} tenth" in text for name in ("head", "preset", "methods", "cost", "results")] == [True] * 5
    assert made[-1] == "book/executed/methods/tenth"  # behind what is registered in an order of its own
    assert {f"book/executed/methods/{path.stem}" for path in page.parent.iterdir()} == set(made)  # others have theirs
    book_build.complete(tenth)
    assert page.stat().st_mtime_ns == written  # Sphinx does not read it again

    shutil.move(page, tenth / "book" / "methods" / "tenth.md")  # somebody writes it
    assert "book/executed/methods/tenth" not in chapter(book_build.complete(tenth))


def test_the_facts_of_a_method_without_a_page(tenth):
    table = rows(factsheet.method_table_html({}))
    assert table["The tenth"][:3] == [
        "a method that a test has made up, with ```` a fence ````",
        "forget set",
        "a refusal",
    ]
    assert "There are no committed results yet." in factsheet.results_html("tenth")
    assert "has not been measured yet" in factsheet.cost_html("tenth")
    assert rows(factsheet.preset_html("tenth"))["strength"][0] == "0.5"
    assert "L = 0 · λ &lt;of nothing&gt;" in factsheet.head_html("tenth")


def test_the_page_from_the_template_is_built_and_the_index_leads_to_it(tenth, sphinx_build):
    pages = {"book/methods/index": "# All\n\n```{methods}\n```\n", "book/executed/methods/tenth": ""}
    pages["book/executed/methods/tenth"] = book_build.method_page("tenth")
    contents = "\n".join(["# Facts", "", "```{toctree}", *pages, "```"])
    (_, index, page), warnings, _ = sphinx_build(contents, **pages)
    assert warnings == ""
    assert '<a href="../executed/methods/tenth.html">The tenth</a>' in index
    assert "There are no committed results yet." in page and "Source: nobody." in page
    assert '<span class="nc">TenthConfig</span>' in page  # the source, coloured


# ---------------------------------------------------------------------------------------------------------------------
# The pages


@pytest.mark.parametrize("method", WRITTEN)
def test_every_page_of_a_method_has_the_same_order(method):
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
    shared = set(re.findall(r"literalinclude\} \.\./\.\./editunlearn_lib/(\S+)", text)) - {f"methods/{method}.py"}
    assert len(shared) <= 2  # what a reader needs open beside the method's own file
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
    found = factsheet.answer_html()
    score = {m: 1 - factsheet.value(m, "factual", "forget") + factsheet.value(m, "factual", "retain") for m in RUN}
    best = sorted(score, key=score.get, reverse=True)
    for method in best[:3]:
        assert f'<th scope="row">{eu.METHODS[method].label}</th><td>{score[method]:.2f}</td>' in found
    assert sum(f">{eu.METHODS[m].label}</th>" in found for m in RUN) in (3, 4)
    assert any(f">{eu.METHODS[m].label}</th>" in found for m in RUN if not eu.METHODS[m].edits)
