"""Build the book from executed notebooks: `python book/build.py`.

Copies the vendored scripts, tidies the executed notebooks, gives every method without a page one from a template, and
runs Jupyter Book with warnings as errors. What is up to date is left alone, so a second run is quick. Notebooks are not
executed here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from fontTools import subset

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
sys.path.insert(0, str(PROJECT))  # this repository's library, not another that is installed

import editunlearn_lib as eu  # noqa: E402

WRITTEN, MADE = "book/methods", "book/executed/methods"  # pages of methods: by somebody, and from the template
# A page of a method that nobody has written one for; the fence is longer than any in the source.
PAGE = """# {label}

:::{{note}}
This page is made from the method's own file and from what was run; nobody has written one yet.
:::

## The equation and its source

```{{head}} {name}
```

## The source, whole

{fence}{{code-block}} python
:caption: {file}

{source}
{fence}

## Presets

```{{preset}} {name}
```

## What it reads

```{{methods}} {name}
```

## What it costs

```{{cost}} {name}
```

## What it did here

```{{results}} {name}
```
"""
# Jupyter Book's own front page names no icon, so a browser asks the server for one that is not there; this needs none.
FRONT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Editing as Unlearning</title>
<link rel="icon" href="data:,"><meta http-equiv="refresh" content="0; url=book/index.html"></head>
<body><a href="book/index.html">Editing as Unlearning</a></body></html>
"""


def vendored() -> dict[str, Path]:
    """The scripts that pages share and the files they come from; the whole Plotly is for traces the small one lacks."""
    plotly = importlib.util.find_spec("plotly")
    return {
        "plotly-small.min.js": HERE / "plotly" / "plotly-small.min.js",
        "plotly.min.js": Path(plotly.origin).parent / "package_data" / "plotly.min.js",
        "tex-svg.js": _packaged("sphinx-mathjax-offline", "tex-svg.js"),
    }


def _packaged(package: str, name: str) -> Path:
    """A file of an installed package, found without importing it (its module name is not an identifier)."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"The book needs {name} for its formulas: pip install {package}")
    return Path(next(f for f in files if f.name == name).locate())


def copy_vendored(target: Path) -> None:
    """Copy the scripts unless the copies are the same already."""
    target.mkdir(parents=True, exist_ok=True)
    for name, source in vendored().items():
        copy = target / name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            shutil.copyfile(source, copy)


def tidy(notebook: Path) -> bool:
    """Hide the parameter cells, drop what papermill and widgets leave behind; True if the file changed."""
    before = notebook.read_text(encoding="utf-8")
    book = json.loads(before)
    for key in ("papermill", "widgets"):
        book["metadata"].pop(key, None)
    for cell in book["cells"]:
        cell["metadata"].pop("papermill", None)
        tags = cell["metadata"].get("tags", [])
        if {"parameters", "injected-parameters"} & set(tags) and "hide-input" not in tags:
            cell["metadata"]["tags"] = [*tags, "hide-input"]
    after = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
    if after == before:
        return False  # an untouched file is not read again by Sphinx
    notebook.write_text(after, encoding="utf-8")
    return True


def write(path: Path, text: str) -> None:
    """Write a file unless it says the same already: an untouched one is not read again by Sphinx."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def method_page(name: str) -> str:
    """The page of a method from the template: its head, its source, and the directives for everything else."""
    file = Path(inspect.getfile(eu.METHODS[name].run)).resolve()
    source = file.read_text(encoding="utf-8").rstrip()
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", source))])
    place = file.relative_to(PROJECT).as_posix() if file.is_relative_to(PROJECT) else file.name
    return PAGE.format(name=name, label=eu.METHODS[name].label, file=place, source=source, fence=fence)


def complete(root: Path) -> Path:
    """Write a page for each method that has none, behind the last of the chapter of methods; the table of contents.

    A book without that chapter is left as it is. _toc.yml itself is not changed.
    """
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    for part in toc.get("parts", []):
        if f"{WRITTEN}/index" in [chapter.get("file") for chapter in part["chapters"]]:
            missing = [name for name in eu.METHODS if not (root / WRITTEN / f"{name}.md").exists()]
            for name in missing:
                write(root / MADE / f"{name}.md", method_page(name))
            part["chapters"] += [{"file": f"{MADE}/{name}"} for name in missing]
    target = root / "_build" / "toc.yml"
    write(target, yaml.safe_dump(toc, sort_keys=False, allow_unicode=True))
    return target


def few_icons(pages: Path) -> None:
    """Cut the theme's icon fonts down to the icons that the pages and the theme's own styles name: 300 kB to 10."""
    styles = (pages / "_static" / "styles" / "pydata-sphinx-theme.css").read_text(encoding="utf-8")
    named = {name for page in pages.rglob("*.html") for name in re.findall(r"\bfa-[a-z-]+", page.read_text("utf-8"))}
    codes = {int(code, 16) for code in re.findall(r'--pst-icon-[a-z-]+:"\\(f[0-9a-f]{3})"', styles)}
    codes |= {ord(code) for code in re.findall(r'--pst-icon-[a-z-]+:"(.)"', styles)}
    for classes, code in re.findall(r'((?:\.fa-[a-z-]+:before,?)+)\{content:"\\(f[0-9a-f]{3})"', styles):
        if named & set(re.findall(r"fa-[a-z-]+", classes)):
            codes.add(int(code, 16))
    options = subset.Options(flavor="woff2", ignore_missing_unicodes=True, notdef_outline=True)
    for path in (pages / "_static" / "vendor" / "fontawesome" / "webfonts").glob("*.woff2"):
        font, cut = subset.load_font(path, options), subset.Subsetter(options)
        cut.populate(unicodes=codes)
        cut.subset(font)
        subset.save_font(font, path, options)


def missing_pages(root: Path) -> list[str]:
    """Pages of _toc.yml that are not there."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    pages, queue = [toc["root"]], [toc]
    while queue:
        entry = queue.pop()
        for child in [c for key in ("parts", "chapters", "sections") for c in entry.get(key, [])]:
            queue.append(child)
            pages += [child["file"]] if "file" in child else []
    return [page for page in pages if not any((root / f"{page}{end}").exists() for end in (".md", ".ipynb"))]


def build(root: Path) -> Path:
    """Build the book of `root`; the folder of its pages."""
    copy_vendored(root / "book" / "_static" / "vendor")
    for notebook in sorted((root / "book" / "executed").rglob("*.ipynb")):
        if ".partial" not in notebook.parts:  # what a failed run has left
            tidy(notebook)
    if absent := missing_pages(root):
        sys.exit(f"_toc.yml names pages that are not there: {', '.join(absent)}. Execute the notebooks first.")
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    start = "from jupyter_book.cli.main import main; main()"  # this interpreter's, whatever PATH says
    run = [sys.executable, "-c", start, "build", str(root), "--path-output", str(root), "--toc", str(complete(root))]
    done = subprocess.run([*run, "-W", "--keep-going", "-q"], check=False, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        # Sphinx would not read the pages again, and the next run would pass without their warnings.
        shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)
        sys.exit(done.returncode)
    pages = root / "_build" / "html"
    few_icons(pages)
    (pages / "index.html").write_text(FRONT, encoding="utf-8")
    return pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=HERE.parent, help="folder with _config.yml and _toc.yml")
    pages = build(parser.parse_args().root.resolve())
    print(f"The book is at {pages / 'index.html'}")


if __name__ == "__main__":
    main()
