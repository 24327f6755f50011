"""The reference pages and "Run it yourself": what they say is what the library does, and no link leads nowhere."""

import json
import re
import sys
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import papermill
import pytest
import yaml
from browsing import CHROMIUM, PAGE
from conftest import make_model

import editunlearn_lib as eu
from editunlearn_lib import errors, methods, study

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"


sys.path.insert(0, str(BOOK / "_ext"))
facts = pytest.importorskip("facts")
factsheet = facts.factsheet
ERRORS = (BOOK / "reference" / "errors.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```\{raises\} (\w+)\n(.*?)^```", ERRORS, flags=re.MULTILINE | re.DOTALL)


def captioned(page: str) -> dict[str, str]:
    """The code blocks of a page that have a caption, by it."""
    text = (BOOK / "run" / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r"^```\{code-block\} \w+\n:caption: ([^\n]+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return dict(found)


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def classes() -> list[type]:
    """Every error class of the library, the base among them."""
    found = [eu.EditUnlearnError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_section_with_its_anchor_and_an_example(kind):
    name = kind.__name__
    assert re.search(rf"^\({name}\)=\n## {name}\n", ERRORS, flags=re.MULTILINE)
    if kind is not eu.EditUnlearnError:
        assert name in [expected for expected, _ in EXAMPLES]


@pytest.mark.parametrize("expected, code", EXAMPLES, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(EXAMPLES)])
def test_every_message_of_the_page_can_still_be_raised(expected, code, pocket):
    assert len(facts.raised(code, expected)) > 20
    assert facts.visible(code) and facts.HIDDEN not in facts.visible(code)


def test_an_example_that_no_longer_raises_is_noticed():
    with pytest.raises(facts.Raised, match="no DatasetError"):
        facts.raised("1 + 1", "DatasetError")
    with pytest.raises(facts.Raised, match="RequestError instead of DatasetError"):
        facts.raised("raise eu.RequestError('another')", "DatasetError")


def test_examples_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts.raised("Path('left.txt').write_text('x'); eu.load_split('nowhere.csv', n_forget=1, seed=0)", "DatasetError")
    assert list(tmp_path.iterdir()) == [] and Path.cwd() == tmp_path


# ---------------------------------------------------------------------------------------------------------------------
# Tables from files


def cells(html: str) -> list[list[str]]:
    """The rows of a table as text."""
    lines = re.findall("<tr>(.*?)</tr>", html)
    return [
        [unescape(re.sub(r"<[^>]+>", "", c)) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)] for line in lines
    ]


def test_the_status_page_shows_what_the_file_says_and_does_without(tmp_path, monkeypatch):
    monkeypatch.setattr(factsheet, "STATUS", tmp_path / "status.json")
    assert "No notebook" in factsheet.status_html()
    status = {
        "rq1": {
            "seconds": 200.0,
            "parameters": {"n_forget": 20},
            "device": "a test<card",
            "versions": {"torch": "9.9"},
            "finished": "2026-01-02T03:04:05+00:00",
        }
    }
    factsheet.STATUS.write_text(json.dumps(status), encoding="utf-8")
    html = factsheet.status_html()
    assert ["rq1", "3 min", "n_forget = 20", "a test<card", "2026-01-02 03:04:05 UTC"] in cells(html)
    assert "Made with torch 9.9." in html and "make book: 1 notebooks, 3 min in all" in html


def test_the_committed_results_are_counted_as_the_manifest_has_them(tmp_path, monkeypatch):
    manifest = json.loads((BOOK / "results" / "pocket.json").read_text(encoding="utf-8"))
    html = factsheet.stored_html()
    assert f"{len(manifest)} cells" in html
    assert sum(int(row[6]) for row in cells(html)[1:]) == len(manifest)
    assert all(one["commit"] in html for one in manifest)
    monkeypatch.setattr(factsheet, "MANIFEST", tmp_path / "pocket.json")
    assert "no committed results" in factsheet.stored_html()


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.json")), ids=lambda path: path.stem)
def test_every_benchmark_is_shown_with_its_label(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    html = factsheet.benchmark_html(path.stem, document)
    assert escape(document["what"]) in html and len(cells(html)) > 1


def test_a_benchmark_of_rows_is_a_table_of_them():
    rows = [{"what": "time", "exponent": 1.234}, {"what": "memory", "exponent": 0.5, "note": "flat"}]
    table = cells(factsheet.benchmark_html("growth", {"what": "exponents", "rows": rows}))
    assert table == [["what", "exponent", "note"], ["time", "1.234", ""], ["memory", "0.5", "flat"]]


def test_a_benchmark_of_ratios_is_a_table_of_them_by_kind():
    document = {"ratio": 6.5, "values": {"first": {"ratio": 2, "seconds": 9}, "second": {"share": 0.25}}}
    table = cells(factsheet.benchmark_html("speed", document))
    expected = [["times as fast"], ["speed", "6.5"], ["values · first", "2"], [factsheet.RATIOS["share"]]]
    assert table == [["what", "ratio"], *expected, ["values · second", "0.25"]]


@pytest.mark.parametrize("seconds, text", [(40.4, "40 s"), (600, "10 min"), (3 * 3600, "3.0 h")])
def test_times_are_said_as_people_say_them(seconds, text):
    assert factsheet.duration(seconds) == text


# ---------------------------------------------------------------------------------------------------------------------
# Your data, your method, the commands


@pytest.mark.parametrize("name", ["my_questions.csv", "my_questions.json", "my_questions.jsonl"])
def test_the_example_of_each_format_loads(name, tmp_path):
    (tmp_path / name).write_text(captioned("your_data")[name], encoding="utf-8")
    split = eu.load_split(tmp_path / name, n_forget=1, seed=0)
    rows = {qa.question: qa for qa in (*split.forget, *split.retain)}
    first = rows["Who leads the Harbour Office?"]
    assert (first.answer, first.subject) == ("Mara Example", "the Harbour Office")
    if not name.endswith("jsonl"):
        assert first.group == "offices"
        assert first.rephrasings == ("Name the head of the Harbour Office.", "The Harbour Office is led by whom?")
    if name.endswith("csv"):
        assert rows['Who wrote the memo "Tides, again"?'].subject == "Tides, again"


def test_the_python_examples_on_your_own_data_run(tmp_path, monkeypatch):
    blocks = captioned("your_data")
    monkeypatch.chdir(tmp_path)
    Path("my_questions.csv").write_text(blocks["my_questions.csv"], encoding="utf-8")
    names: dict = {}
    exec(blocks["by drawing"], names)
    assert {qa.group for qa in names["split"].forget} == {"memos"}
    exec(blocks["by hand"], names)
    assert {"forget", "retain", "rephrased", "unseen"} == set(names["split"].sets())
    exec(blocks["your own texts"], names)
    assert names["source"].texts == ("One text.", "Another text.")


def test_the_method_of_the_page_is_short_and_works(tmp_path, monkeypatch, tokenizer, split):
    blocks = captioned("your_method")
    assert len(blocks["ihl.py"].splitlines()) <= 42
    (tmp_path / "ihl.py").write_text(blocks["ihl.py"], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = make_model()
    names = {"model": model, "tokenizer": tokenizer, "split": split}
    try:
        exec(blocks["use it"], names)
        log = names["patch"].info["log"]
        assert names["patch"].info["method"] == "ihl" and log[-1]["loss"] < log[0]["loss"]
        untouched = eu.evaluate(model, tokenizer, split, sets=["forget"])
        patched = names["records"].query("set == 'forget'")
        assert patched["probability_per_token"].mean() < untouched["probability_per_token"].mean()
    finally:
        methods.METHODS.pop("ihl", None)
        sys.modules.pop("ihl", None)


PAGES = sorted((BOOK / "run").glob("*.md"))


def commands(page: Path) -> list[str]:
    """Every command of a page's shell blocks, lines that go on joined."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for line in "".join(blocks).replace("\\\n", " ").splitlines() if line.strip()]


def test_papermill_commands_name_notebooks_parameters_and_methods_that_exist():
    found = [line for page in PAGES for line in commands(page) if line.startswith("papermill ")]
    assert len(found) > 10
    for line in found:
        notebook, out = line.split()[1:3]
        options = dict(re.findall(r"-p (\w+) (\S+)", line))
        assert set(options) <= set(papermill.inspect_notebook(str(ROOT / notebook))), line
        assert out.endswith(".ipynb")
        chosen = options.get("methods", "base")
        if not chosen.startswith("$"):
            assert set(study.as_list(chosen, str)) <= {*eu.METHODS, *study.REFERENCES}, line


def test_every_table_of_the_paper_has_a_command():
    text = (BOOK / "run" / "large.md").read_text(encoding="utf-8")
    tables = eu.paper_tables()
    assert [name for name in tables["table"].unique() if f"**Table {name[-1]}**" not in text] == []
    everything = re.search(r"^ALL=(\S+)$", text, flags=re.MULTILINE)[1].split(",")
    assert set(tables["method"]) | {"base", "idk"} == set(everything) <= {"base", *eu.METHODS}
    third = next(line for line in commands(BOOK / "run" / "large.md") if "runs/table3" in line)
    assert set(re.search(r"-p methods (\S+)", third)[1].split(",")) - {"base"} == set(
        tables.query("table == 'table3'")["method"]
    )


def test_make_commands_of_the_pages_are_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    texts = "\n".join(page.read_text(encoding="utf-8") for page in [*PAGES, *(BOOK / "reference").glob("*.md")])
    named = set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", texts, flags=re.MULTILINE))
    assert {"book", "live", "study", "test"} <= named
    assert [name for name in named if not re.search(rf"^{name}:", makefile, flags=re.MULTILINE)] == []


# ---------------------------------------------------------------------------------------------------------------------
# Publishing


def test_the_workflow_builds_tests_and_publishes_with_the_least_rights():
    text = (ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    triggers = workflow[True]  # YAML 1.1 reads "on" as true
    assert {"push", "pull_request", "schedule"} <= set(triggers)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["publish"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert "permissions" not in workflow["jobs"]["build"]
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert {"make test", "make book"} <= {step.get("run") for step in steps}
    uses = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in uses)
    assert {name.split("@")[0] for name in uses} >= {"actions/upload-pages-artifact", "actions/deploy-pages"}


def test_binder_installs_the_pinned_requirements_and_the_library():
    lines = (ROOT / "binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (named,) = [line.split()[1] for line in lines if line.startswith("-r ")]
    assert (ROOT / "binder" / named).resolve() == ROOT / "requirements.txt"
    post = ROOT / "binder" / "postBuild"
    assert "-e ." in post.read_text(encoding="utf-8") and post.stat().st_mode & 0o111


# ---------------------------------------------------------------------------------------------------------------------
# The built pages

built = pytest.mark.skipif(CHROMIUM is None, reason="the sample book is built for the browser tests")


class Links(HTMLParser):
    """The anchors of a page and everything that it points to."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.targets = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.targets += [given[name] for name in ("href", "src") if given.get(name)]


def broken_links(folder: Path) -> list[tuple[str, str]]:
    """Pages and the targets inside the book that are not there; a state behind a figure's anchor is not looked at."""
    found = {path.resolve(): Links(path) for path in folder.rglob("*.html") if "_static" not in path.parts}
    broken = []
    for path, links in found.items():
        for target in links.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc or target in ("#", ""):
                continue
            there = (path.parent / unquote(url.path)).resolve() if url.path else path
            anchor = unquote(url.fragment)
            if not there.exists() or (anchor and there in found and anchor not in found[there].anchors):
                broken.append((str(path.relative_to(folder.resolve())), target))
    return broken


@built
def test_every_link_inside_the_book_leads_somewhere(pages):
    assert broken_links(pages.resolve()) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<p id="x"><a href="b.html#y">1</a><a href="c.html">2</a><a href="#x">3</a>')
    (tmp_path / "b.html").write_text('<p id="z">')
    assert broken_links(tmp_path) == [("a.html", "b.html#y"), ("a.html", "c.html")]


@built
def test_the_whole_public_library_is_documented(sample_book):
    anchors = Links(sample_book / "book" / "reference" / "api.html").anchors
    missing = [name for name in eu.__all__ if f"editunlearn_lib.{name}" not in anchors]
    own = [name for name in missing if f"editunlearn_lib.errors.{name}" not in anchors]
    assert [name for name in own if f"module-editunlearn_lib.{name}" not in anchors] == []
    modules = ("study", "attacks", "stats", "show", "rating", "losses", "metrics")
    assert [name for name in modules if f"module-editunlearn_lib.{name}" not in anchors] == []
    assert {"editunlearn_lib.study.run", "editunlearn_lib.Patch.merge_into", "editunlearn_lib.metrics.mrr"} <= anchors


@built
def test_a_name_in_a_docstring_is_a_link_and_an_error_can_be_linked_by_its_name(sample_book):
    html = (sample_book / "book" / "reference" / "api.html").read_text(encoding="utf-8")
    assert re.search(r'href="#editunlearn_lib\.errors\.PatchError"', html)
    assert {kind.__name__ for kind in classes()} <= Links(sample_book / "book" / "reference" / "errors.html").anchors


@built
def test_launch_buttons_point_at_the_source_notebooks(sample_book):
    html = (sample_book / PAGE).read_text(encoding="utf-8")
    for service in (
        r"mybinder\.org/v2/gh/[^\"]+urlpath=lab/tree",
        r"colab\.research\.google\.com/github/[^\"]+/blob/main",
    ):
        (link,) = re.findall(rf'href="https://{service}/([^"]+)"', html)
        assert (ROOT / link).is_file()


def test_the_pages_stand_in_the_table_of_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = json.dumps(toc)
    ours = [*(BOOK / "reference").glob("*.md"), *PAGES]
    assert [page.stem for page in ours if page.relative_to(ROOT).with_suffix("").as_posix() not in listed] == []
