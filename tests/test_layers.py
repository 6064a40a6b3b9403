"""Imports point down, and `gateway.core` decides without clock, chance, event loop or I/O."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOWN, *_, PURITY = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
RANK = {  # 0 is the top; names of one line may import each other
    name: rank for rank, line in enumerate(DOWN["layers"]) for name in re.findall(r"gateway\.(\w+)", line)
}
IMPURE = set(PURITY["forbidden_modules"])
IMPURE_CALLS = {"now", "utcnow", "today", "open", "input", "print"}
MODULES = sorted(
    path for path in (ROOT / "gateway").rglob("*.py") if path.parent != ROOT / "gateway" or path.stem != "__init__"
)


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Every name a module imports, anywhere in it, as the parts of its absolute dotted path."""
    here = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else ()
            module = tuple(node.module.split(".")) if node.module else ()
            yield from ((*base, *module, alias.name) for alias in node.names)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_down(path: Path):
    own = path.relative_to(ROOT / "gateway").with_suffix("").parts[0]
    assert own in RANK, f"give gateway.{own} a place in the layers of pyproject.toml"
    up = {
        parts[1]
        for parts in imports(path)
        if parts[0] == "gateway" and len(parts) > 1 and RANK.get(parts[1], 99) < RANK[own]
    }
    assert not up


CORE = [path for path in MODULES if path.is_relative_to(ROOT / "gateway" / "core")]


def test_core_is_seen_whole():
    assert len([path for path in CORE if path.stem != "__init__"]) >= 25


@pytest.mark.parametrize("path", CORE, ids=name)
def test_core_is_pure(path: Path):
    assert not {parts[0] for parts in imports(path)} & IMPURE
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncFunctionDef | ast.AsyncWith), ast.unparse(node)
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert called not in IMPURE_CALLS, ast.unparse(node)


def test_no_child_takes_modules_from_the_working_directory():
    """Each program that is started with our own interpreter is started with -P: a gateway.py there is not ours."""
    children = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable":
                children[f"{name(path)}:{node.lineno}"] = ast.unparse(node.elts[1])
    assert len(children) >= 6
    assert set(children.values()) == {"'-P'"}, children
    named = [path for path in MODULES if "sys.executable" in path.read_text()]
    assert {name(path) for path in named} == {child.partition(":")[0] for child in children}
