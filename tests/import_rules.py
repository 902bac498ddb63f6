"""Reading a package's imports, and judging them: floors, circles. The rules themselves are in `test_import_rules`."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

Floors = Sequence[Sequence[str]]
"""From the ground up. The folders and files of one floor stand side by side: none imports another."""


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(path: Path, *, for_types: bool = True) -> set[str]:
    """The full names that a module imports, inside functions too."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if is_type_checking(node) and not for_types:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))
    return names


def modules(root: Path, packages: Iterable[str]) -> dict[str, Path]:
    """Every module below `root / package`, by its full name."""
    found = {}
    for path in (path for package in packages for path in sorted((root / package).rglob("*.py"))):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def import_graph(tree: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which modules of the tree each of them imports: `from a.b import c` is a.b.c where that is one, else a.b."""
    graph: dict[str, set[str]] = {}
    for module, path in tree.items():
        found = set()
        for name in imported(path):
            home = next((home for home in (name, name.rpartition(".")[0]) if home in tree), None)
            if home is not None and home != module:
                found.add(home)
        graph[module] = found
    return graph


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A circle of modules that import each other; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def room(module: str) -> str:
    """The folder or file of the package that a module stands in: `engines` for `vcut_trt.engines.tensorrt.build`."""
    return [*module.split("."), ""][1]


def floor_violations(graph: Mapping[str, set[str]], floors: Floors) -> list[str]:
    """Imports of a floor above, or of a neighbour; and modules without a floor."""
    height = {name: index for index, floor in enumerate(floors) for name in floor}
    said = []
    for module, imports in graph.items():
        here = room(module)
        if here and here not in height:
            said.append(f"{module} stands on no floor")
            continue
        for other in imports:
            there = room(other)
            if here and there != here and height.get(there, len(floors)) >= height[here]:
                said.append(f"{module} imports {other}")
    return said
