"""The rules of the house: imports point downwards, no method is named outside of its file, rooms stay small, a tenth
method is one file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import editunlearn_lib as eu

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "editunlearn_lib"
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import house  # noqa: E402

SOURCES = sorted(LIBRARY.rglob("*.py"))
OPTIONAL = {"ray"}  # extras: imported where they are needed
# losses are the named equations of the field; names of methods are its public functions by contract
NAMED = {"losses.py"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


# ---------------------------------------------------------------- imports


def test_no_module_imports_itself_by_a_detour():
    graph = house.imports(LIBRARY)
    assert house.circles(graph) == [] and house.circles(house.rooms(graph)) == []


def test_imports_stand_at_the_top_of_a_file():
    inside = []
    for path in SOURCES:
        for statement, within in house.statements(tree(path)):
            names = [alias.name for alias in statement.names]
            root = getattr(statement, "module", None) or names[0]
            if within and root.split(".")[0] not in OPTIONAL:
                inside.append(f"{path.relative_to(ROOT)}: {', '.join(names)}")
    assert inside == []


ABOVE = {  # a room, and what it must never know
    "data": {"models", "patch", "methods", "unlearn", "evaluation", "study", "show", "pocket", "rating"},
    "methods": {"unlearn", "hparams", "memory", "covariance", "recipes", "study", "show", "pocket", "rating"},
    "evaluation": {"methods", "unlearn", "study", "show", "pocket"},
    "unlearn": {"study", "show", "pocket", "rating", "attacks"},
    "study": {"show", "pocket", "rating"},
    "show": {"models", "patch", "unlearn", "study", "pocket", "evaluation"},
}


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_does_not_know_what_stands_above_it(room):
    assert (
        house.beneath(house.rooms(house.imports(LIBRARY)), room)
        & (ABOVE[room] if room != "show" else {"study", "pocket", "unlearn"})
        == set()
    )
    assert house.rooms(house.imports(LIBRARY))[room] & ABOVE[room] == set()


def test_the_registry_is_a_leaf():
    methods = {f"editunlearn_lib.methods.{path.stem}" for path in (LIBRARY / "methods").glob("*.py")}
    below = house.beneath(house.imports(LIBRARY), "editunlearn_lib.methods.registry")
    assert below & methods == set()


def test_the_library_reaches_nothing_outside_itself():
    """No path is made from the package's folder upwards: an installed wheel has nothing there."""
    found = [str(p.relative_to(ROOT)) for p in SOURCES if re.search(r"__file__\)[^\n]*\.parents\[[1-9]", p.read_text())]
    assert found in ([], ["editunlearn_lib/study/work.py"])  # where git is asked for the commit of the code


# ---------------------------------------------------------------- names of methods


def words_of(path: Path):
    """(line, text) of every identifier and string of a file, but for docstrings and comments."""
    module = tree(path)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value
        for field in ("id", "attr", "name", "arg"):
            if isinstance(getattr(node, field, None), str):
                yield getattr(node, "lineno", 0), getattr(node, field)


METHOD = re.compile(
    r"\b(" + "|".join(name for name in eu.METHODS if name not in ("kl", "ga", "gd")) + r"|GA|GD)\b", re.I
)


def test_nothing_outside_a_methods_own_file_names_it():
    """KL is also a divergence, and `ga`, `gd` are syllables: they count in capitals as names of methods."""
    own = {LIBRARY / "methods" / f"{name}.py" for name in eu.METHODS}
    named = [
        f"{path.relative_to(ROOT)}:{line}: {text[:60]!r}"
        for path in SOURCES
        if path not in own and path.name not in NAMED
        for line, text in words_of(path)
        if METHOD.search(text)
    ]
    assert named == []


# ---------------------------------------------------------------- sizes


def test_no_file_is_long_and_the_package_is_thin():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {p.name: n for p, n in lines.items() if n > 400} == {}
    # The aim is 8,000 and not reached: what is allowed is what was reached, and goes down with every room that shrinks.
    assert sum(n for p, n in lines.items() if "data" not in p.parts) <= 8_760
    assert sum(n for p, n in lines.items() if p.parent.name == "methods") <= 2_000


def test_what_a_method_says_of_itself_is_one_file():
    for name, method in eu.METHODS.items():
        path = LIBRARY / "methods" / f"{name}.py"
        text = path.read_text(encoding="utf-8")
        assert method.run.__module__ == f"editunlearn_lib.methods.{name}"
        assert text.count("\nregister(") == 1 and ast.get_docstring(tree(path)).count("Source") >= (name != "idk")
        assert {method.label, method.colour, method.symbol} and method.order < 1000 and method.trials, name


def test_marks_tell_methods_apart():
    marks = {(m.colour, m.symbol) for m in eu.METHODS.values()}
    assert len(marks) == len(eu.METHODS) == len({m.label for m in eu.METHODS.values()})
    assert len({m.symbol for m in eu.METHODS.values()}) == len(eu.METHODS)  # colour is never the only cue


# ---------------------------------------------------------------- a tenth method is one file

TENTH = '''"""Halving: every answer is made half as likely, and nothing else.

    minimise  CE(a | x)  over the forget set, upside down

Source: nobody; a test.
"""

from dataclasses import dataclass

from editunlearn_lib import losses
from editunlearn_lib.methods.registry import Job, Outcome, register
from editunlearn_lib.methods.training import TrainConfig, train


@dataclass(frozen=True)
class HalvingConfig(TrainConfig):
    strength: float = 0.5


def halving(job: Job) -> Outcome:
    def loss(model, batch):
        return losses.ga(model.logits(batch.answers), batch.answers.labels) * job.config.strength

    return train(job, loss)


LOOKS = {"label": "Halving", "colour": "#123456", "symbol": "star-diamond"}
register("halving", HalvingConfig, halving, reads=("answers",), **LOOKS)
'''
USE = """
import sys, types
from pathlib import Path
sys.path.insert(0, "book/_ext")
import pandas as pd
import editunlearn_lib as eu
from editunlearn_lib import memory
assert list(eu.METHODS)[-1] == "halving" and eu.METHODS["halving"].reads == ("answers",)
model, tokenizer = eu.load_model("pocket")
split = eu.load_split("factual", n_forget=2, seed=0)
patch = eu.unlearn(model, tokenizer, split, "halving", hparams={"lr": 1e-3, "num_epochs": 2}, progress=False)
assert patch.info["hparams"]["strength"] == 0.5 and "changed" in patch.info and not patch.info["reads_retain"]
# memory: the estimate of its kind, above nothing
requests = tuple(eu.methods.Request((q.id,), q.question, "No.", ()) for q in split.forget)
job = types.SimpleNamespace(model=model, tokenizer=tokenizer, forget=split.forget, retain=(), mode="batch",
    prompt_format="chat", requests=requests, config=eu.METHODS["halving"].config())
assert sum(memory.estimate(job, "halving")[1].values()) > 1e5
# presets: a guess by rule, on every model; trials are none of ours
assert {row["source"] for row in eu.preset("halving", "pocket").values()} == {eu.hparams.GUESS}
# study: a cell of its own
(cell,) = eu.study.cells({"model": "pocket", "dataset": "factual", "method": "halving", "n_forget": 2})
assert cell.key.startswith("pocket-factual-halving-n2")
# table and figure: its own label and mark
with patch.on(model):
    records = eu.evaluate(model, tokenizer, split, sets=["forget", "rephrased"], show=False)
records = pd.concat([records, records.assign(set="retain")]).assign(method="halving", dataset="factual")
summary = eu.summarise(records, by=("dataset", "method", "set"))
table = eu.show.table(summary, provenance="a test", caption="A tenth method")
assert "Halving" in table.html
figure = eu.show.radar(summary, provenance="a test")
assert [(t.name, t.line.color, t.marker.symbol) for t in figure.data] == [("Halving", "#123456", "star-diamond")]
# page, row and costs in the book
sys.path.insert(0, "book")
import build, facts, factsheet
page = build.method_page("halving")
assert "Halving" in page and "halving" in page
assert "There are no committed results yet." in factsheet.results_html("halving")
assert "Halving" in factsheet.method_table_html({}) and "Halving" in factsheet.preset_html("halving")
assert "has not been measured yet" in factsheet.cost_html("halving")
print("DONE")
"""


def test_a_tenth_method_is_one_file_from_outside(tmp_path):
    """A package with one module and an entry point: found in call, table, figure, memory, page, presets and study."""
    (tmp_path / "halving_method.py").write_text(TENTH)
    info = tmp_path / "halving_method-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halving-method\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[editunlearn.methods]\nhalving = halving_method\n")
    path = f"{tmp_path}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**__import__("os").environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0 and "DONE" in done.stdout, done.stderr[-3000:]


def test_a_plugin_that_cannot_be_imported_is_left_out_and_named(tmp_path):
    (tmp_path / "broken_method.py").write_text("import nothing_of_that_name\n")
    info = tmp_path / "broken_method-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-method\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[editunlearn.methods]\nbroken = broken_method\n")
    code = "import editunlearn_lib as eu; assert 'broken' not in eu.METHODS and 'memit' in eu.METHODS"
    env = {**__import__("os").environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "the method broken (broken_method) is left out" in done.stderr and "nothing_of_that_name" in done.stderr


def test_a_name_that_is_taken_is_not_taken_over():
    with pytest.raises(eu.RequestError, match="'memit' already"):
        eu.methods.register("memit", eu.METHODS["memit"].config, lambda job: None)
    with pytest.raises(eu.RequestError, match="reads"):
        eu.methods.register("mine", eu.METHODS["memit"].config, lambda job: None, reads=("answer",))
    assert "mine" not in eu.METHODS
