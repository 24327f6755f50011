"""Run the notebooks that the book shows: `python book/execute.py [NAME …] [-p PARAMETER VALUE …]`.

For every `book/executed/NAME` in _toc.yml, notebooks/NAME.ipynb goes through papermill in a kernel of this Python, with
the repository's root as working directory. A copy is kept as long as nothing that it depends on has changed: the
notebook, the library with its data and weights, the lessons, book/paper, the committed results, the installed versions
and the parameters.
Without parameters two run at a time on a CPU, each with half of its cores.
`book/executed/status.json` holds what each copy was made with, and how long it took. NAME may lie in a subfolder
(`workshop/ex1_break`). A notebook with a cell tagged `exercise` has gaps for the reader to fill in: it is copied as it
stands and not run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import difflib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

import jupytext
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy", "pandas", "plotly", "papermill")
QUIET = {
    "EDITUNLEARN_QUIET": "1",  # no progress bars: each update of a text bar would be a line in the page
    "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",  # for authors of libraries, not for readers
    "TOKENIZERS_PARALLELISM": "false",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


def say(text: str) -> None:
    """One line of progress; the output itself stays free for what a caller may want to read."""
    print(text, file=sys.stderr, flush=True)


def page_names(root: Path) -> list[str]:
    """Names of the executed notebooks in _toc.yml, in reading order."""
    names: list[str] = []

    def walk(entry: dict) -> None:
        path = Path(entry.get("file", entry.get("root", "")))
        if path.is_relative_to("book/executed"):
            names.append(path.relative_to("book/executed").as_posix().removesuffix(".ipynb"))
        for key in ("parts", "chapters", "sections"):
            for child in entry.get(key, []):
                walk(child)

    walk(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")))
    return names


# ---------------------------------------------------------------------------------------------------------------------
# The pair: NAME.py is the source, NAME.ipynb is derived from it


def essence(notebook) -> str:
    """What a notebook says: its cells without outputs, counters and ids."""
    cells = [[cell.cell_type, cell.source, dict(cell.metadata)] for cell in notebook.cells]
    return json.dumps(cells, sort_keys=True, ensure_ascii=False)


def derived(source: Path, without: str | None = None):
    """The notebook of a py:percent file, without outputs; its cells are numbered, so that it is the same every time.

    ``without``: a tag whose cells are left out.
    """
    notebook = jupytext.read(source, fmt="py:percent")
    if without:  # a part of its source: JupyterLab shall not write it back beside that as a whole
        notebook.cells = [cell for cell in notebook.cells if without not in cell.metadata.get("tags", [])]
        notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"cell-{number}"
    return notebook


def origin(notebook: Path) -> tuple[Path, str | None]:
    """The source of a notebook, and the tag of the cells that it leaves out.

    An exercise and its solution share one source: ex1_break.ipynb is 1_break.py without the cells tagged `solution`,
    sol1_break.ipynb is it without those tagged `exercise`.
    """
    if shared := re.fullmatch(r"(ex|sol)(\d\w*)", notebook.stem):
        return notebook.with_name(f"{shared[2]}.py"), {"ex": "solution", "sol": "exercise"}[shared[1]]
    return notebook.with_suffix(".py"), None


def targets(source: Path) -> list[Path]:
    """The notebooks that are derived from a source."""
    if re.fullmatch(r"\d\w*", source.stem):
        return [source.with_name(f"{kind}{source.stem}.ipynb") for kind in ("ex", "sol")]
    return [source.with_suffix(".ipynb")]


def pair(notebook: Path) -> Path:
    """Bring an .ipynb up to date with the .py it comes from and return it. A newer .ipynb that differs is never
    overwritten."""
    target = notebook.with_suffix(".ipynb")
    source, without = origin(target)
    if not source.exists():
        if target.exists():
            return target  # somebody's own notebook, without a pair
        sys.exit(f"_toc.yml names the notebook {target.stem}, but there is no {source.relative_to(ROOT)}.")
    notebook = derived(source, without)
    if target.exists():
        if essence(jupytext.read(target)) == essence(notebook):
            return target
        if target.stat().st_mtime > source.stat().st_mtime + 1:  # a checkout writes both within a moment
            keep = (
                f"carry it over into {source.name}"
                if without
                else f"jupytext --to py:percent {target.relative_to(ROOT)}"
            )
            sys.exit(
                f"{target.name} was changed after {source.name}, which is its source. To keep the change: {keep}. "
                f"To drop it: delete {target.name}. Then run again."
            )
    replace(target, jupytext.writes(notebook, fmt="ipynb"))
    say(f"{target.name}: derived from {source.name}")
    return target


def sources(root: Path) -> list[Path]:
    """Every py:percent source in notebooks/ and its subfolders; JupyterLab's hidden checkpoints are none, nor are the
    modules of a package.
    """
    folder = root / "notebooks"
    paths = (path for path in folder.rglob("*.py") if not (path.parent / "__init__.py").exists())
    return sorted(path for path in paths if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def is_exercise(notebook) -> bool:
    """Whether a reader has something to fill in: a cell is tagged `exercise`."""
    return any("exercise" in cell.metadata.get("tags", []) for cell in notebook.cells)


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


# ---------------------------------------------------------------------------------------------------------------------
# Reuse


def dependencies(root: Path) -> Iterator[Path]:
    """Every file that a result may depend on, besides the notebook."""
    for folder in (
        root / "editunlearn_lib",
        root / "notebooks" / "lessons",
        root / "book" / "paper",
        root / "book" / "results",
    ):
        for path in sorted(folder.rglob("*")):
            hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(folder).parts)
            if path.is_file() and not hidden and not path.name.endswith((".part", ".tmp")):
                yield path


def digest(root: Path, notebook: Path, parameters: dict, versions: dict) -> str:
    """A fingerprint of everything that an executed copy was made from."""
    total = hashlib.sha256()
    total.update(essence(jupytext.read(notebook)).encode())
    total.update(json.dumps([parameters, versions], sort_keys=True, default=str).encode())
    for path in dependencies(root):
        total.update(f"\n{path.relative_to(root).as_posix()} ".encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def installed() -> dict[str, str]:
    """The versions that results may depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def read_status(path: Path) -> dict:
    """status.json, or nothing where there is none that can be read."""
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


# ---------------------------------------------------------------------------------------------------------------------
# Running


@contextlib.contextmanager
def kernel_of_this_python() -> Iterator[None]:
    """Make `python3` mean the running interpreter, whatever kernels are registered on this machine."""
    from ipykernel.kernelspec import write_kernel_spec

    with tempfile.TemporaryDirectory(prefix="editunlearn-kernel-") as folder:
        write_kernel_spec(str(Path(folder) / "kernels" / "python3"), extra_arguments=["--log-level=40"])  # errors only
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, before]))
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


def at_once(parameters: dict) -> int:
    """How many notebooks run beside each other: two on a CPU (the pocket leaves half of it idle), else one.

    With parameters they may hold a large model, of which there is room for one; so may a GPU.
    """
    import torch

    return 1 if parameters or torch.cuda.is_available() else min(2, os.cpu_count() or 1)


def device(threads: int) -> str:
    """What the notebooks find when they are left to choose."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {threads} {'thread' if threads == 1 else 'threads'})"


def run(notebook: Path, target: Path, parameters: dict) -> float:
    """Execute one notebook into ``target``, in the working directory; the seconds it took. The target appears when all
    cells have run.

    Raises RuntimeError with the cell's traceback if one fails.
    """
    import papermill

    partial = target.parent / ".partial" / target.name
    partial.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    run_all = functools.partial(
        papermill.execute_notebook,
        str(notebook),
        str(partial),
        parameters=parameters,
        kernel_name="python3",
        progress_bar={"file": sys.stderr, "desc": notebook.stem, "mininterval": 1, "disable": None},
    )
    try:
        try:
            run_all()
        except RuntimeError as error:  # a port that was free a moment ago may be taken: nothing has been run yet
            if "before replying" not in str(error):
                raise
            say(f"{notebook.stem}: its kernel did not start; once more")
            run_all()
    except papermill.PapermillExecutionError as error:
        lines = "\n".join(error.traceback)
        raise RuntimeError(
            f"{lines}\n\n{notebook.name}: cell {error.exec_count} failed with {error.ename}: {error.evalue}\n"
            f"The cells up to there are in {partial.relative_to(ROOT)}; the copy that the book shows is unchanged."
        ) from None
    os.replace(partial, target)
    return time.monotonic() - started


def known_parameters(notebook: Path) -> list[str]:
    """Names in the cell tagged `parameters`."""
    import papermill

    return list(papermill.inspect_notebook(str(notebook)))


def execute(names: Sequence[str], parameters: dict, *, force: bool = False) -> None:
    """Bring the executed copies of these notebooks up to date."""
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    executed, versions = ROOT / "book" / "executed", installed()
    executed.mkdir(parents=True, exist_ok=True)
    notebooks = {name: pair(ROOT / "notebooks" / f"{name}.py") for name in names}
    given = {name: {} for name in names}
    if parameters:
        known = {name: known_parameters(notebook) for name, notebook in notebooks.items()}
        everything = sorted({parameter for found in known.values() for parameter in found})
        for parameter in parameters:
            if parameter not in everything:
                near = difflib.get_close_matches(parameter, everything, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                sys.exit(f"no notebook has a parameter {parameter!r}.{hint} Known: {', '.join(everything) or 'none'}.")
        given = {name: {p: v for p, v in parameters.items() if p in known[name]} for name in names}
    status, fingerprints = read_status(executed / "status.json"), {}
    for name, notebook in notebooks.items():
        target = executed / f"{name}.ipynb"
        if is_exercise(jupytext.read(notebook)):
            text = notebook.read_text(encoding="utf-8")
            if not target.exists() or target.read_text(encoding="utf-8") != text:
                replace(target, text)
                say(f"{name}: an exercise, copied as it stands")
            continue
        fingerprint = digest(ROOT, notebook, given[name], versions)
        last = status.get(name, {})
        if target.exists() and last.get("fingerprint") == fingerprint and not force:
            say(f"{name}: nothing has changed since {last['finished']}")
        else:
            fingerprints[name] = fingerprint
    if not fingerprints:
        return
    jobs = at_once(parameters)
    share = max(1, (os.cpu_count() or 1) // jobs)  # together the kernels use each core once
    threads = int(os.environ.setdefault("OMP_NUM_THREADS", str(share)).split(",")[0])

    def one(name: str) -> tuple[str, float | str]:
        last = status.get(name, {})
        expected = f" (the last time it took {last['seconds']:.0f} s)" if "seconds" in last else ""
        say(f"{name}: running {', '.join(f'{p}={v!r}' for p, v in given[name].items()) or 'as it stands'}{expected}")
        try:
            return name, run(notebooks[name], executed / f"{name}.ipynb", given[name])
        except RuntimeError as error:  # told at the end, so that the others can finish
            return name, str(error)

    failed = []
    # The folder belongs to the process, so it is changed once, and not by each of two notebooks (papermill's `cwd`).
    with contextlib.chdir(ROOT), kernel_of_this_python(), ThreadPool(jobs) as pool:
        for name, seconds in pool.imap_unordered(one, fingerprints):
            if isinstance(seconds, str):
                say(f"\n{seconds}")
                failed.append(name)
                continue
            status[name] = {
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "seconds": round(seconds, 1),
                "parameters": given[name],
                "device": device(threads),
                "versions": versions,
                "fingerprint": fingerprints[name],
            }
            replace(executed / "status.json", json.dumps(status, indent=1, default=str) + "\n")
            say(f"{name}: done in {seconds:.0f} s")
    for emptied in executed.rglob(".partial"):
        with contextlib.suppress(OSError):  # what a failed run has left stays
            emptied.rmdir()
    if failed:
        sys.exit(f"Not all notebooks ran: {', '.join(failed)} (what went wrong stands above).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks; default: all that _toc.yml names")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"), dest="parameters")
    parser.add_argument("--force", action="store_true", help="run even if nothing has changed")
    parser.add_argument("--derive", action="store_true", help="only derive each .ipynb in notebooks/ from its .py")
    arguments = parser.parse_args()
    if arguments.derive:
        for target in (target for source in sources(ROOT) for target in targets(source)):
            pair(target)
        return
    pages = page_names(ROOT)
    for name in arguments.names:
        if name not in pages:
            sys.exit(f"_toc.yml has no page book/executed/{name}. It has: {', '.join(pages)}.")
    try:
        parameters = {name: yaml.safe_load(value) for name, value in arguments.parameters}
    except yaml.YAMLError as error:
        sys.exit(f"a parameter's value is read as YAML, and one of these is not: {error}")
    try:
        execute(arguments.names or pages, parameters, force=arguments.force)
    except KeyboardInterrupt:
        sys.exit("stopped; what was finished before is kept.")


if __name__ == "__main__":
    main()
