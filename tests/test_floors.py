"""The package's floors: imports go downwards only, and what is pure stays pure. Read from the source, nothing is imported."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "proxy"

FLOOR = {
    "frozen": -1,
    "domain": 0,
    "errors": 1,
    "config": 2,
    "policy": 3,
    "dialects": 3,
    "ledger": 4,
    "metrics": 4,
    "simulation": 4,
    "server": 5,
    "processes": 6,
    "app": 7,
    "cli": 8,
    "__main__": 9,
}
"""What stands on one floor must not know its neighbours."""

PURE = ("policy", "dialects")
NOT_PURE = frozenset(
    {"asyncio", "aiohttp", "redis", "prometheus_client", "logging", "time", "threading", "socket", "os", "subprocess"}
    | {"random", "secrets", "uuid"}
)
KNOWN_TO = {
    "redis": {"ledger"},
    "prometheus_client": {"metrics"},
    "aiohttp": {"server", "simulation", "cli"},
    "pydantic": {"config", "server"},
    "argparse": {"cli"},
}
"""Libraries, and the only floors that may know them. The demo in `cli` plays callers, who speak HTTP."""


def place_of(module: str) -> str:
    """The folder or module directly under the package that a dotted name belongs to; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


@functools.cache
def modules() -> list[tuple[str, list[ast.AST]]]:
    """Every module of the package with all that stands in it."""
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found.append((name, list(ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))))))
    return found


def imports(nodes: Sequence[ast.AST]) -> Iterator[tuple[str, int]]:
    """Every imported module with its line; `from proxy import x` counts as `proxy.x`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full, so that they can be searched for"
            assert node.module is not None
            if node.module == "proxy":
                yield from ((f"proxy.{alias.name}", node.lineno) for alias in node.names if alias.name != "__version__")
            else:
                yield node.module, node.lineno


@functools.cache
def all_imports() -> list[tuple[str, str, int]]:
    """Who imports what, on which line."""
    return [(name, module, line) for name, nodes in modules() for module, line in imports(nodes)]


def test_every_module_stands_on_a_floor() -> None:
    """A new folder is given its place here before anything may import it."""
    assert {place_of(name) for name, _ in modules()} - {""} <= FLOOR.keys()


def test_imports_go_downwards() -> None:
    """A module knows its own folder and the floors below it; the package's own module knows nothing, so importing it is free."""
    wrong = []
    for name, module, line in all_imports():
        if module.split(".")[0] != "proxy":
            continue
        here, there = place_of(name), place_of(module)
        if here != there and (not here or not there or FLOOR[there] >= FLOOR[here]):
            wrong.append(f"{name}:{line} must not import {module}")
    assert not wrong


@pytest.mark.parametrize("floor", PURE)
def test_pure_floors_do_nothing_but_calculate(floor: str) -> None:
    """No waiting, no input or output, no clock, no chance, no log: numbers or bytes in, decisions or facts out."""
    used = [(f"{name}:{line}", module) for name, module, line in all_imports() if place_of(name) == floor]
    assert not [use for use in used if use[1].split(".")[0] in NOT_PURE]
    assert not [use for use in used if use[1].startswith("proxy.config")], "a rule takes its numbers as arguments"
    waiting = [
        f"{name}:{node.lineno}"
        for name, nodes in modules()
        if place_of(name) == floor
        for node in nodes
        if isinstance(node, (ast.AsyncFunctionDef, ast.Await))
    ]
    assert not waiting


@pytest.mark.parametrize("library", KNOWN_TO)
def test_a_library_is_known_to_its_floor_alone(library: str) -> None:
    """So that it can be replaced there, and its errors end there."""
    users = [(f"{name}:{line}", place_of(name)) for name, module, line in all_imports() if module.split(".")[0] == library]
    assert not [use for use in users if use[1] not in KNOWN_TO[library]]


def test_the_environment_is_read_in_few_places() -> None:
    """Settings come from the configuration, secrets by `config.read_secret`; the commands read where the admin API is."""
    readers = {
        name
        for name, nodes in modules()
        for node in nodes
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and isinstance(node.value, ast.Name)
    }
    assert {place_of(name) for name in readers} <= {"config", "cli"}
