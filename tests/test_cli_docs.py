"""The documents beside the program: links that lead somewhere, commands that exist, a reference that is up to date."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer.main
from typer.testing import CliRunner

from gateway.cli import app
from gateway.commands.config_reference import reference
from gateway.config.schema import schema
from gateway.supervisor.reload import RELOADABLE

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`gateway ([^`]+)`")
GROUP = typer.main.get_command(app)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@cache
def anchors(page: Path) -> frozenset[str]:
    """Where links into a page may lead, as GitHub names its headings."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)


@each_page
def test_every_link_leads_somewhere(page: Path):
    found = LINK.findall(FENCE.sub("", page.read_text()))
    for link in found:
        if re.match("[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT) and target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def lines(page: Path) -> list[str]:
    """What follows `gateway` in every command line of a page."""
    text = page.read_text()
    blocks = "\n".join(FENCE.findall(text)).replace("\\\n", " ")
    typed = re.findall(r"^(?:\$ )?gateway ([^|\n]*)", blocks, re.MULTILINE)
    return typed + [" ".join(each.split()) for each in INLINE.findall(FENCE.sub("", text))]


def parsed(line: str) -> tuple[list[str], Any, list[str]]:
    """The words of the command, the command, and the words after it."""
    words = shlex.split(line, comments=True)
    path: list[str] = []
    command: Any = GROUP
    while words and words[0] in getattr(command, "commands", {}):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    return path, command, words


@each_page
def test_every_command_line_is_one_of_ours(page: Path):
    for line in lines(page):
        if "|" in line or "…" in line.split()[0]:
            continue
        path, command, rest = parsed(line)
        known = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)} | {"--help"}
        for word in rest:
            if word.startswith("-"):
                assert word.partition("=")[0] in known, f"{page.name}: gateway {line}: {word}"
        unnamed = [word for word in rest if not word.startswith("-")]
        assert path or not unnamed, f"{page.name}: gateway {line}: no such command"
        assert not (unnamed and hasattr(command, "commands")) or command.invoke_without_command, f"{page.name}: {line}"
        assert CliRunner().invoke(app, [*path, "--help"]).exit_code == 0


def test_the_pages_have_command_lines_to_look_at():
    assert sum(len(lines(page)) for page in PAGES) > 40


def test_the_reference_of_the_configuration_is_up_to_date():
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text() == reference(schema(), RELOADABLE), (
        "gateway config schema --markdown > docs/configuration.md"
    )


def test_the_reference_names_every_key_of_the_schema():
    page = reference(schema(), RELOADABLE)

    def keys(found: Any) -> set[str]:
        if not isinstance(found, dict):
            return set().union(*map(keys, found)) if isinstance(found, list) else set()
        own = set(found["properties"]) if isinstance(found.get("properties"), dict) else set()
        return own.union(*(keys(each) for each in found.values()))

    assert not [name for name in keys(schema()) if f"| `{name}` |" not in page]


def test_what_can_be_reloaded_is_among_the_keys():
    page = reference(schema(), RELOADABLE)
    assert "| `workers` | whole number from 1 to 256 | `1` |  |" in page
    assert "| `expose_account` | `true`, `false` | `true` | yes |" in page
    assert "| `remember` |" in page and "| `86400` | yes |" in page


def test_schema_is_printed_as_markdown_or_json_but_not_both():
    run = CliRunner().invoke
    assert run(app, ["config", "schema", "--markdown"]).stdout == reference(schema(), RELOADABLE)
    assert run(app, ["config", "schema", "--json"]).stdout.startswith("{")
    assert run(app, ["config", "schema", "--json", "--markdown"]).exit_code == 2


def test_the_picture_is_well_formed_and_speaks():
    picture = ElementTree.parse(ROOT / "docs" / "images" / "routing.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    assert picture.find(f"{name}title") is not None and picture.find(f"{name}desc") is not None
    assert "prefers-color-scheme: dark" in "".join(each.text or "" for each in picture.iter(f"{name}style"))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170
