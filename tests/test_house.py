"""How the house is built: classes stay small, and what a package keeps to itself nobody else takes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "gateway").rglob("*.py"))
MOST_ATTRIBUTES = 20
RECORDS = {"Struct", "NamedTuple", "Enum", "StrEnum", "IntEnum", "TypedDict"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# -- Attributes -------------------------------------------------------------------------------------------------------


def classes() -> dict[str, tuple[ast.ClassDef, dict[str, str]]]:
    """All classes by their full name, each with what the names in its module mean."""
    found = {}
    for path in MODULES:
        module = module_of(path)
        names = {node.name: f"{module}.{node.name}" for node in tree(path).body if isinstance(node, ast.ClassDef)}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                found[f"{module}.{node.name}"] = node, names
    return found


CLASSES = classes()


def bases(name: str) -> Iterator[str]:
    """A class and all that it is made from."""
    yield name
    if name in CLASSES:
        node, names = CLASSES[name]
        for base in node.bases:
            while isinstance(base, ast.Subscript):
                base = base.value
            text = ast.unparse(base)
            yield from bases(names.get(text, text))


def attributes(name: str) -> set[str]:
    """What an object of it has: set on `self` in some method, or named in its body; functions aside."""
    found: set[str] = set()
    for each in bases(name):
        if each not in CLASSES:
            continue
        node = CLASSES[each][0]
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                found.add(line.target.id)
            elif isinstance(line, ast.Assign):
                found |= {target.id for target in line.targets if isinstance(target, ast.Name)}
        for inner in ast.walk(node):
            if (
                isinstance(inner, ast.Attribute)
                and isinstance(inner.ctx, ast.Store)
                and ast.unparse(inner.value) == "self"
            ):
                found.add(inner.attr)
    return {each for each in found if not each.startswith("__")}


def is_record(name: str) -> bool:
    """Whether it is plain data: a struct, a tuple or words, whose functions at most derive something."""
    return any(each.rpartition(".")[2] in RECORDS for each in bases(name))


BEHAVING = sorted(name for name in CLASSES if not name.startswith("gateway.lab.") and not is_record(name))


def test_classes_are_seen():
    assert len(BEHAVING) > 150
    assert {"_gateway", "_lived"} <= attributes("gateway.asgi.Application")


@pytest.mark.parametrize("name", BEHAVING)
def test_a_class_has_at_most_twenty_attributes(name: str):
    """A class with more is two nouns."""
    assert len(attributes(name)) <= MOST_ATTRIBUTES, sorted(attributes(name))


# -- What is private --------------------------------------------------------------------------------------------------


def taken(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that a module imports."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports from the root"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def is_private(word: str) -> bool:
    return word.startswith("_") and not word.startswith("__")


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_nothing_private_of_another_package_is_imported(path: Path):
    own = module_of(path).split(".")[:-1] if path.stem != "__init__" else module_of(path).split(".")
    private = [
        f"{module} {name}".strip()
        for module, name in taken(path)
        if any(map(is_private, (*module.split("."), name))) and module.split(".")[: len(own)] != own
    ]
    assert not private
