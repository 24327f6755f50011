"""The project's own files: what the README promises, what is pinned, paired and small enough, and how notebooks run."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
import yaml

import editunlearn_lib as eu

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
MEGABYTE = 1_000_000


def load_execute():
    """book/execute.py as a module, under a name of its own."""
    spec = importlib.util.spec_from_file_location("book_execute", ROOT / "book" / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


execute = load_execute()


def git(*arguments: str) -> str:
    """The output of a git command in the repository; skips where there is no repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not in a git repository ({error})")
    return done.stdout


def project_files() -> list[Path]:
    """Files that are tracked, or would be with `git add`."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def make_targets() -> set[str]:
    rules = re.findall(r"^([a-z.][\w.-]*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return set(rules) - {".PHONY", ".DELETE_ON_ERROR"}


# ---------------------------------------------------------------------------------------------------------------------
# README and CONTRIBUTING


def test_the_example_of_the_readme_runs(pocket, tmp_path, monkeypatch, capsys):
    (example,) = blocks(README, "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert names["split"].forget[0].question[:20] in printed
    assert (tmp_path / "patches" / "memit").is_dir()
    assert names["patch"].info["method"] == "memit"


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_command_named_is_a_make_target(text):
    code = "\n".join(re.findall(r"```\w*\n.*?```", text, flags=re.DOTALL) + re.findall(r"`[^`\n]+`", text))
    named = re.findall(r"\bmake (?:[A-Z_]+=\S+ )*([a-z.][\w.-]*)", code)
    assert named
    assert sorted(set(named) - make_targets()) == []


def test_the_two_commands_are_in_the_readme():
    assert re.search(r"^make book\b", README, flags=re.MULTILINE)
    assert re.search(r"^make test\b", README, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", text) if "://" not in t]
    assert [t for t in targets if not (ROOT / t.split("#")[0]).exists()] == []


def test_papermill_commands_name_parameters_that_exist():
    commands = re.findall(r"^papermill (\S+) \S+ (.*)$", README, flags=re.MULTILINE)
    assert commands
    for notebook, options in commands:
        if not (ROOT / notebook).exists():
            pytest.skip(f"{notebook} is not there yet")
        known = execute.known_parameters(ROOT / notebook)
        assert [name for name in re.findall(r"-p (\w+)", options) if name not in known] == []


def test_methods_named_as_there_are_registered():
    there = next(line for line in README.splitlines() if line.startswith("| Methods that train")).split("|")[2]
    there += next(line for line in README.splitlines() if line.startswith("| Methods that edit")).split("|")[2]
    missing = [name for name in eu.METHODS if not re.search(rf"\b{name}\b", there, flags=re.IGNORECASE)]
    assert missing == []


# ---------------------------------------------------------------------------------------------------------------------
# Requirements, version, citation, address


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_requirements_are_pinned_and_cover_the_library():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
    assert [line for line in wanted if not re.fullmatch(r"[\w.-]+==\d[\w.]*", line)] == []
    pinned = {normal(line.split("==")[0]) for line in wanted}
    assert len(pinned) == len(wanted)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = dict(re.fullmatch(r"([\w.-]+)>=(\S+)", line).groups() for line in project["dependencies"])
    assert {normal(name) for name in bounds} <= pinned


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == eu.__version__ == str(citation["version"])
    newest = re.search(r"^## (\S+) – (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert newest.groups() == (eu.__version__, str(citation["date-released"]))


def test_the_citation_names_the_project_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    (paper,) = citation["references"]
    entry = (ROOT / "book" / "references.bib").read_text(encoding="utf-8").split("@")[1]
    assert paper["title"] in entry
    assert " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]) in entry
    assert paper["identifiers"][0]["value"] in entry


def test_the_address_stands_in_one_place():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    address = config["repository"]["url"].split("://")[1].rstrip("/").encode()
    assert [p.relative_to(ROOT).as_posix() for p in project_files() if address in p.read_bytes()] == ["_config.yml"]


# ---------------------------------------------------------------------------------------------------------------------
# Size


def test_no_file_is_large_and_all_together_are_small():
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in project_files()}
    assert [name for name, size in sizes.items() if size > 11 * MEGABYTE] == []
    assert sum(sizes.values()) < 80 * MEGABYTE


def test_a_clone_with_all_its_history_is_small():
    assert int(git("rev-list", "--objects", "--disk-usage", "HEAD")) < 80 * MEGABYTE


# ---------------------------------------------------------------------------------------------------------------------
# Notebooks


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_equals_its_source_and_has_no_outputs(source):
    notebook = jupytext.read(source.with_suffix(".ipynb"))
    assert execute.essence(notebook) == execute.essence(execute.derived(source)), "run: make notebooks"
    assert set(notebook.metadata["jupytext"]["formats"].split(",")) == {"py:percent", "ipynb"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code if cell.outputs or cell.execution_count] == []
    assert len([cell for cell in code if "parameters" in cell.metadata.get("tags", [])]) == 1


@pytest.mark.parametrize("source", sorted((ROOT / "notebooks" / "workshop").glob("*.py")), ids=lambda path: path.stem)
def test_an_exercise_and_its_solution_come_from_one_source_and_have_no_outputs(source):
    targets = execute.targets(source)
    assert [path.name for path in targets] == [f"ex{source.stem}.ipynb", f"sol{source.stem}.ipynb"]
    for path, tag in zip(targets, ("solution", "exercise"), strict=True):
        assert execute.origin(path) == (source, tag)
        notebook = jupytext.read(path)
        assert execute.essence(notebook) == execute.essence(execute.derived(source, tag)), "run: make notebooks"
        assert [c.source for c in notebook.cells if c.cell_type == "code" and (c.outputs or c.execution_count)] == []


def test_every_notebook_has_its_source():
    alone = [p.name for p in (ROOT / "notebooks").rglob("*.ipynb") if not execute.origin(p)[0].exists()]
    assert alone == []


def test_the_modules_of_the_lessons_are_no_notebooks():
    assert (ROOT / "notebooks" / "lessons" / "checks.py").exists()
    assert not [path for path in execute.sources(ROOT) if path.parent.name == "lessons"]
    assert ROOT / "notebooks" / "lessons" / "checks.py" in set(execute.dependencies(ROOT))


PERCENT = """# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A page

# %% tags=["parameters"]
n = 1

# %%
import os
import sys

from book_helper import WHERE

print(n, os.getcwd(), sys.executable, WHERE, os.environ["EDITUNLEARN_QUIET"])
"""


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A repository with one notebook, and `execute` working on it."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "page.py").write_text(PERCENT)
    (tmp_path / "book_helper.py").write_text("WHERE = 'from the root'\n")
    (tmp_path / "editunlearn_lib").mkdir()
    (tmp_path / "editunlearn_lib" / "code.py").write_text("a = 1\n")
    toc = {"format": "jb-book", "root": "book/index"}
    toc["parts"] = [{"chapters": [{"file": "book/other"}, {"file": "book/executed/page", "sections": []}]}]
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "device", lambda threads: "a test")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, value in execute.QUIET.items():  # what execute() sets is taken back afterwards
        monkeypatch.setenv(name, value)
    return tmp_path


def printed_by(notebook: Path) -> str:
    book = nbformat.read(notebook, as_version=4)
    return "".join(o["text"] for cell in book.cells for o in cell.get("outputs", []) if o["output_type"] == "stream")


def test_notebooks_run_here_and_are_reused_until_something_changes(small, capsys):
    assert execute.page_names(small) == ["page"]
    copy = small / "book" / "executed" / "page.ipynb"
    execute.execute(["page"], {})
    assert printed_by(copy).split() == ["1", str(small), sys.executable, "from", "the", "root", "1"]
    assert not (copy.parent / ".partial").exists()
    status = execute.read_status(copy.parent / "status.json")["page"]
    assert status["device"] == "a test" and status["seconds"] > 0 and "torch" in status["versions"]

    first = copy.stat().st_mtime_ns
    execute.execute(["page"], {})
    assert copy.stat().st_mtime_ns == first
    assert "nothing has changed" in capsys.readouterr().err

    execute.execute(["page"], {"n": 2})  # other parameters
    assert printed_by(copy).startswith("2 ")
    second = copy.stat().st_mtime_ns
    (small / "editunlearn_lib" / "code.py").write_text("a = 2\n")
    execute.execute(["page"], {"n": 2})  # another library
    assert copy.stat().st_mtime_ns > second


def test_an_error_in_a_cell_is_shown_and_the_old_copy_stays(small, capsys):
    copy = small / "book" / "executed" / "page.ipynb"
    copy.parent.mkdir(parents=True)
    copy.write_text("the old copy")
    (small / "notebooks" / "page.py").write_text(PERCENT + "\n# %%\nraise RuntimeError('a made-up error')\n")
    with pytest.raises(SystemExit) as stop:
        execute.execute(["page"], {})
    assert stop.value.code not in (0, None)
    assert "RuntimeError: a made-up error" in capsys.readouterr().err
    assert copy.read_text() == "the old copy"
    assert execute.read_status(copy.parent / "status.json") == {}


def test_notebooks_run_two_at_a_time_and_one_that_fails_costs_the_others_nothing(small, capsys, monkeypatch):
    """Each of the first two waits for the other: one after another they would wait in vain."""
    meet = "\n# %%\nimport time\nPath('{mine}').touch()\nend = time.monotonic() + 60\n"
    meet += "while not Path('{other}').exists():\n"
    meet += "    assert time.monotonic() < end\n    time.sleep(0.05)\n"
    for name, mine, other in (("page", "a", "b"), ("second", "b", "a"), ("third", "a", "b")):
        source = PERCENT + "\n# %%\nfrom pathlib import Path\n" + meet.format(mine=mine, other=other)
        (small / "notebooks" / f"{name}.py").write_text(source + ("1 / 0\n" if name == "page" else ""))
    monkeypatch.setattr(execute, "at_once", lambda parameters: 2)
    with pytest.raises(SystemExit, match="Not all notebooks ran: page "):
        execute.execute(["page", "second", "third"], {})
    folder = small / "book" / "executed"
    assert sorted(path.name for path in folder.glob("*.ipynb")) == ["second.ipynb", "third.ipynb"]
    assert sorted(execute.read_status(folder / "status.json")) == ["second", "third"]
    assert "page.ipynb: cell" in capsys.readouterr().err and (folder / ".partial" / "page.ipynb").exists()


def test_a_kernel_that_does_not_start_is_tried_once_more(small, capsys, monkeypatch):
    """Of what two kernels and other programs ask of a machine at once, a port may be taken in between."""
    tries, real, here = [], papermill.execute_notebook, Path.cwd()

    def taken(*args, **options):
        assert Path.cwd() == small and "cwd" not in options  # which would change the folder of the notebook beside it
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return real(*args, **options)

    monkeypatch.setattr(papermill, "execute_notebook", taken)
    (small / "notebooks" / "page.py").write_text(PERCENT)
    execute.execute(["page"], {})
    assert Path.cwd() == here
    assert len(tries) == 2 and "page: its kernel did not start; once more" in capsys.readouterr().err
    assert (small / "book" / "executed" / "page.ipynb").exists()


def test_a_large_model_is_not_loaded_twice():
    assert execute.at_once({"model": "mistralai/Mistral-7B-Instruct-v0.3"}) == 1


def test_an_unknown_parameter_gets_the_nearest_name(small):
    (small / "notebooks" / "page.py").write_text(PERCENT.replace("n = 1", "n_forget = 1"))
    with pytest.raises(SystemExit, match="Did you mean 'n_forget'"):
        execute.execute(["page"], {"n_forgt": 2})


def test_a_notebook_is_derived_from_its_source_and_a_newer_one_is_not_lost(small):
    source, target = small / "notebooks" / "page.py", small / "notebooks" / "page.ipynb"
    execute.pair(source)
    first = target.read_text()
    target.unlink()
    execute.pair(source)
    assert target.read_text() == first  # the same every time, ids included
    source.write_text(PERCENT + "\n# %%\n1 + 1\n")
    os.utime(target, (0, 0))
    execute.pair(source)
    assert "1 + 1" in target.read_text()
    target.write_text(target.read_text().replace("1 + 1", "2 + 2"))
    os.utime(source, (0, 0))
    with pytest.raises(SystemExit, match="changed after"):
        execute.pair(source)
    assert "2 + 2" in target.read_text()
