"""The graph of imports: what a module imports, where that runs in a circle, and the map that is drawn of it."""

import re
import sys
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import house  # noqa: E402

LIBRARY = ROOT / "editunlearn_lib"
FILES = {
    "__init__.py": "from .top import run\nfrom . import data as _data\n",
    "top.py": '"""The call: `run` it. And more."""\nimport os\nimport small.data.rows\n'
    "from .methods import METHODS, ga\nfrom . import *\n",
    "errors.py": "class Wrong(Exception):\n    pass\n",
    "data/__init__.py": "from ..errors import Wrong\nfrom .rows import ROWS\n",
    "data/rows.py": "from ..errors import Wrong as W\n\nROWS = ()\n",
    "methods/__init__.py": '"""Methods."""\nMETHODS = {}\n\n\ndef all_of_them():\n'
    "    from . import ga, later\n    import small.top as t\n",
    "methods/ga.py": "from __future__ import annotations\nimport torch\n"
    "from ..data import rows\nfrom .. import errors\n",
    "methods/later.py": "if True:\n    from small.methods.ga import x\n\nclass A:\n    from ..data import ROWS\n",
}


@pytest.fixture
def small(tmp_path) -> Path:
    """A package of eight files."""
    for name, text in FILES.items():
        path = tmp_path / "small" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "small"


def test_imports_are_those_of_the_house_by_module(small):
    assert house.imports(small) == {
        "small": {"small.top", "small.data"},
        "small.top": {"small.data.rows", "small.methods", "small.methods.ga", "small"},
        "small.errors": set(),
        "small.data": {"small.errors", "small.data.rows"},
        "small.data.rows": {"small.errors"},
        "small.methods": set(),
        "small.methods.ga": {"small.data.rows", "small.errors"},
        "small.methods.later": {"small.methods.ga", "small.data"},
    }


def test_imports_inside_functions_are_counted_apart(small):
    inside = {name: names for name, names in house.imports(small, inside=True).items() if names}
    assert inside == {"small.methods": {"small.methods.ga", "small.methods.later", "small.top"}}


def test_lines_are_those_of_the_files(small):
    assert house.lines(small)["small.errors"] == 2 and sum(house.lines(small).values()) == 30


def test_circles_are_found_and_nothing_else():
    graph = {
        "a": {"b"},
        "b": {"c"},
        "c": {"b", "d"},
        "d": {"e"},
        "e": set(),
        "f": {"f"},
        "g": {"h"},
        "h": {"i"},
        "i": {"g"},
    }
    assert house.circles(graph) == [["b", "c"], ["f"], ["g", "h", "i"]]
    assert house.circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_a_room_stands_above_all_that_it_imports(small):
    rooms = house.rooms(house.imports(small))
    assert rooms["methods"] == {"data", "errors"} and rooms["small"] == {"top", "data"}
    assert house.layers(rooms) == [
        ["small", "top"],
        ["methods"],
        ["data"],
        ["errors"],
    ]  # the door and the top: a circle


def test_the_layers_of_the_library_point_downwards():
    rooms = house.rooms(house.imports(LIBRARY))
    height = {name: -i for i, layer in enumerate(house.layers(rooms)) for name in layer}
    rings = {name: set(ring) for ring in house.circles(rooms) for name in ring}
    wrong = [(a, b) for a, below in rooms.items() for b in below - rings.get(a, set()) if height[b] >= height[a]]
    assert height.keys() == rooms.keys() and wrong == []


def test_the_map_has_every_room_with_its_lines_and_links_to_what_it_imports(small):
    html = house.map_html(small)
    assert "5 rooms in 4 layers, 8 files, 30 lines" in html
    boxes = dict(re.findall(r'<li id="room-(\w+)">(.*?)(?=<li id="room-|$)', html, flags=re.DOTALL))
    assert list(boxes) == ["small", "top", "methods", "data", "errors"]
    assert "<small>2 lines</small>" in boxes["errors"] and "imports nothing of the house" in boxes["errors"]
    assert re.findall(r'href="#room-(\w+)"', boxes["methods"]) == ["data", "errors"]
    assert "3 files" in boxes["methods"] and "<li>ga: 4</li>" in boxes["methods"]
    assert "<p>The call: <code>run</code> it</p>" in boxes["top"]
    assert "in a circle" in boxes["top"] and "in a circle" not in boxes["methods"]


def test_the_map_of_the_library_is_complete():
    html = house.map_html(LIBRARY)
    names = {
        path.name if path.is_dir() else path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or path.is_dir()
    }
    names = {name for name in names if any((LIBRARY / name).rglob("*.py")) or (LIBRARY / f"{name}.py").exists()}
    assert {unescape(name) for name in re.findall(r'id="room-(\w+)"', html)} == names - {"__init__"} | {LIBRARY.name}
