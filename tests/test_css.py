"""Class names: Python, scripts and style sheets agree on them in one place, `Css`."""

import re
from pathlib import Path

from editunlearn_lib.show.page import Css

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "editunlearn_lib" / "show" / "page.py"
STATIC = sorted(file for end in ("css", "js") for file in (ROOT / "book" / "_static").glob(f"*.{end}"))
PYTHON = sorted(
    file
    for folder in ("editunlearn_lib", "book", "notebooks")
    for file in (ROOT / folder).rglob("*.py")
    if not {"executed", "_build"} & set(file.parts)
)
NAMES = set(vars(Css).values())
WRITTEN = r"(?<![-\w])eu-[a-z][a-z-]*"  # not a variable of CSS, which begins with --
EVENT = r"(?:Event|addEventListener)\(\"eu-[a-z-]+"


def used() -> dict[str, str]:
    """Each class name that is written out or taken from `Css`, and a file that does so."""
    names = {}
    for file in [*STATIC, *PYTHON]:
        text = re.sub(EVENT, "", file.read_text(encoding="utf-8"))
        found = set(re.findall(WRITTEN, text))
        if file.suffix == ".py":
            found |= {getattr(Css, name, f"Css.{name}") for name in re.findall(r"\bCss\.(\w+)", text)}
        names |= dict.fromkeys(found, file.name)
    return names


def test_a_class_name_that_is_used_stands_in_its_place():
    assert {name: file for name, file in used().items() if name not in NAMES} == {}


def test_a_class_name_that_stands_there_is_used():
    assert [name for name in NAMES if name != "eu" and name not in used()] == []


def test_the_package_writes_them_from_there():
    mine = [file for file in PYTHON if file.parent == PLACE.parent and file != PLACE]
    assert {file.name: found for file in mine if (found := re.findall(WRITTEN, file.read_text()))} == {}
