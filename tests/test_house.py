"""The rules of CONTRIBUTING: layers, no circular imports, limits of length."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT, run_command

import anomaly_tf
from anomaly_tf.approaches import APPROACHES

PACKAGE = ROOT / "anomaly_tf"
MODULES = sorted(PACKAGE.rglob("*.py"))
OTHERS = sorted([*ROOT.glob("*.py"), *(ROOT / "measurements").glob("*.py")])
MAX_LINES, MAX_BODY = 400, 60
# From the ground upwards: a folder or module imports from those in front of it, and from its own.
FLOORS = (
    ("errors", "onednn", "program", "reachability", "version"),
    ("cluster",),
    ("jobs",),
    ("runs",),
    ("script",),
    ("config",),
    ("networks",),
    ("approaches", "data"),
    ("choice", "detection"),
    ("deploy",),
    ("training",),
    ("reporting",),
    ("commands",),
    ("api", "benchmark"),
    ("estimator", "command_line"),
    ("tuning",),
    ("cli",),
    ("__main__",),
)


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    """Modules of the package that a module imports, at its head or in a function."""
    known = {name_of(module) for module in MODULES}
    typing_only = {
        node
        for block in ast.walk(tree_of(path))
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node not in typing_only:
            if not node.module.startswith("anomaly_tf"):
                continue
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_no_module_imports_itself_by_a_detour():
    graph = {name_of(path): set(imports_of(path)) - {name_of(path)} for path in MODULES}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_imports_go_downwards():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert set(floor) == {room_of(name_of(path)) for path in MODULES} - {""}
    for path in MODULES:
        room = room_of(name_of(path))
        for imported in imports_of(path) if room else ():
            other = room_of(imported)
            assert other == room or floor[other] < floor[room], f"{path} imports {imported}"


def test_an_approach_imports_no_other():
    for path in (PACKAGE / "approaches").glob("*/*.py"):
        for imported in imports_of(path):
            inside = imported.split(".")[1:]
            assert inside[0] != "approaches" or inside[1] in ("base", path.parent.name), path


def test_nobody_below_the_command_line_names_an_approach():
    names = re.compile(rf"""["'](?:{"|".join({*APPROACHES, *APPROACHES.values()})})["']""")
    rooms = ("data", "detection", "deploy", "reporting", "training", "runs")
    for path in (path for room in rooms for path in (PACKAGE / room).rglob("*.py")):
        assert not names.search(path.read_text("utf-8")), path


@pytest.mark.parametrize("path", MODULES + OTHERS, ids=name_of)
def test_no_module_and_no_function_is_too_long(path):
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[ast.get_docstring(node) is not None :]
            if body:
                assert node.body[-1].end_lineno - body[0].lineno < MAX_BODY, node.name


def test_the_map_of_the_package_names_every_room():
    named = set(re.findall(r"`(\w+)`", anomaly_tf.__doc__))
    rooms = {path.stem for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.stem for path in PACKAGE.glob("[a-z]*.py")}
    assert rooms | modules <= named


def test_fuzz_runs_every_file_of_generated_inputs():
    done = run_command("make", "-n", "-o", ".venv/ready-requirements", "fuzz")
    files = {f"tests/{path.name}" for path in (ROOT / "tests").glob("test_fuzz*.py")}
    assert {word for word in done.stdout.split() if word.startswith("tests/")} == files
