"""The house, read from its code: which module imports which, where imports run in a circle, how long each file is.

A graph is a dict from a name to the set of names that it imports. Nothing is imported to draw it: `ast` reads files.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

Graph = dict[str, set[str]]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def files(root: Path) -> dict[str, Path]:
    """The file of every module below a package's folder, by its dotted name; ``__init__.py`` is the package itself."""
    root = Path(root)
    parts = {path: path.relative_to(root.parent).with_suffix("").parts for path in sorted(root.rglob("*.py"))}
    return {".".join(p[:-1] if p[-1] == "__init__" else p): path for path, p in parts.items()}


def statements(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import of a syntax tree, and whether it stands inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, inside
        else:
            yield from statements(child, inside or isinstance(child, FUNCTIONS))


def modules_of(statement: ast.Import | ast.ImportFrom, package: str, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the house that an import names: ``from . import charts`` names the module, not its package."""
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    else:
        above = package.split(".")[: len(package.split(".")) + 1 - statement.level] if statement.level else []
        base = ".".join([*above, *filter(None, [statement.module])])
        names = [f"{base}.{alias.name}" for alias in statement.names]
    for name in names:
        while name and name not in known:
            name = name.rpartition(".")[0]
        if name:
            yield name


def imports(root: Path, *, inside: bool = False) -> Graph:
    """What each module below ``root`` imports of the others when it is loaded; ``inside``: or else inside functions."""
    known = files(root)
    graph: Graph = {}
    for module, path in known.items():
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        wanted = (one for one, within in statements(tree) if within == inside)
        graph[module] = {name for one in wanted for name in modules_of(one, package, known)} - {module}
    return graph


def lines(root: Path) -> dict[str, int]:
    """How many lines each module's file has."""
    return {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in files(root).items()}


def beneath(graph: Graph, name: str) -> set[str]:
    """Everything that a module reaches by imports; itself only in a circle."""
    reached: set[str] = set()
    queue = set(graph.get(name, ()))
    while queue:
        reached |= queue
        queue = {further for one in queue for further in graph.get(one, ())} - reached
    return reached


def circles(graph: Graph) -> list[list[str]]:
    """The groups of modules that import one another in a circle; none in a house whose arrows point downwards."""
    below = {name: beneath(graph, name) for name in graph}
    groups = {frozenset(n for n in below[name] if name in below.get(n, ())) for name in graph if name in below[name]}
    return sorted(sorted(group) for group in groups)


def rooms(graph: Graph) -> Graph:
    """The same graph of a package's rooms: its folders and the modules beside them; its ``__init__`` is the door."""

    def room(module: str) -> str:
        return module.split(".")[1] if "." in module else module

    merged: Graph = {room(module): set() for module in graph}
    for module, found in graph.items():
        merged[room(module)] |= {room(name) for name in found} - {room(module)}
    return merged


def layers(graph: Graph) -> list[list[str]]:
    """The names in layers, from the top down: each stands above all that it imports; a circle stands in one layer."""
    below = {name: beneath(graph, name) for name in graph}
    height: dict[str, int] = {}
    for name in sorted(graph, key=lambda n: (len(below[n] | {n}), n)):  # what reaches less comes first
        ring = {n for n in below[name] if name in below.get(n, ())} | {name}
        height[name] = 1 + max((height[n] for n in below[name] - ring), default=-1)
    return [sorted(n for n in graph if height[n] == level) for level in sorted(set(height.values()), reverse=True)]


def first_sentence(path: Path) -> str:
    """What a file says of itself in its first line, up to the first full stop or colon."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].split(". ")[0].rstrip(".:")


def map_html(root: Path) -> str:
    """The rooms of a package in layers, as nested lists: each with its lines of code and links to what it imports."""
    known, length, graph = files(root), lines(root), rooms(imports(root))
    door = Path(root).name
    ring = {name for circle in circles(graph) for name in circle}

    def link(name: str) -> str:
        return f'<a href="#room-{escape(name)}">{escape(name)}</a>'

    def box(name: str) -> str:
        own = {m: n for m, n in length.items() if name in (m, *m.split(".")[1:2])}
        home = known.get(f"{door}.{name}", known.get(name))
        inner = "".join(f"<li>{escape(m.rpartition('.')[2])}: {n}</li>" for m, n in own.items())
        parts = f"<details><summary>{len(own)} files</summary><ul>{inner}</ul></details>" if len(own) > 1 else ""
        below = ", ".join(link(n) for n in sorted(graph[name])) or "nothing of the house"
        words = re.sub("`+(.+?)`+", r"<code>\1</code>", escape(first_sentence(home)))
        circle = "<p><strong>in a circle</strong></p>" if name in ring else ""
        return (
            f'<li id="room-{escape(name)}"><p><b>{escape(name)}</b> <small>{sum(own.values()):,} lines</small></p>'
            f"<p>{words}</p>{circle}<p>imports {below}</p>{parts}</li>"
        )

    floors = layers(graph)
    drawn = "".join(
        f'<li><p class="eu-lane">Layer {number}</p><ul>{"".join(map(box, floor))}</ul></li>'
        for number, floor in zip(range(len(floors), 0, -1), floors, strict=True)
    )
    total = f"{len(graph)} rooms in {len(floors)} layers, {len(known)} files, {sum(length.values()):,} lines"
    return f'<div class="eu eu-house"><p class="eu-title">{total}</p><ol>{drawn}</ol></div>'
