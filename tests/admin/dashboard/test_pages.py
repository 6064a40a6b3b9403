"""The dashboard's files: that they are whole, and that they keep to the policy which they are served with."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from gateway.admin.access import Access
from gateway.admin.dashboard import pages
from gateway.admin.dashboard.pages import ASSETS, CSP, LOGIN_ASSETS, login_page, main_page
from gateway.commands.top_view import SICK
from gateway.supervisor.pool.diagnosis import STATES
from gateway.telemetry.metric_table import MOVES
from tests.admin.admin_kit import NOW, config_of, routes_of

OWN = sorted(name for name in ASSETS if name.endswith(".js") and name != "uplot.js")
NAMES = re.compile(r"""(?:src|href)="/static/([^"]+)\"""")
IMPORTS = re.compile(r"""^import .+ from "\./(.+?)";$""", re.MULTILINE)


def table(name: str) -> set[str]:
    """The keys of a table of words.js."""
    [body] = re.findall(rf"(?ms)^export const {name} = \{{$(.+?)^\}};$", ASSETS["words.js"].body.decode())
    return set(re.findall(r"(?m)^  (\w+):", body))


class Tags(HTMLParser):
    """All start tags of a page, with their attributes, and what stands between those of scripts and styles."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self._in = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in in ("script", "style"):
            self.inline += data.strip()


PAGES = {"main": main_page(), "login": login_page("Wrong")}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_has_nothing_inline_and_nothing_from_elsewhere(page: bytes):
    found = Tags(page)
    assert found.inline == ""
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "#")), (tag, attributes)
            assert not (attributes.get(name) or "").startswith("//")


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_all_that_a_page_names_is_there(page: bytes):
    assert set(NAMES.findall(page.decode())) <= ASSETS.keys()
    identifiers = [attributes["id"] for _, attributes in Tags(page).tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_the_login_page_needs_nothing_that_is_not_open():
    assert set(NAMES.findall(login_page().decode())) == LOGIN_ASSETS <= ASSETS.keys()


def test_the_message_of_the_login_page_is_text():
    assert b'<p class="message bad" role="alert" id="message">&lt;b&gt; &quot; &amp;</p>' in login_page('<b> " &')
    assert b"alert" not in login_page()


def test_every_section_of_the_page_is_in_its_navigation():
    tags = Tags(main_page()).tags
    # Not the very name of the address, or the browser would scroll to it.
    sections = [
        str(attributes["id"]).removeprefix("at-")
        for tag, attributes in tags
        if tag == "section" and "hidden" in attributes
    ]
    links = [str(attributes["href"]) for tag, attributes in tags if tag == "a"]
    assert sections and {f"#{name}" for name in sections} <= set(links)
    known = re.search(r"const sections = {(.+?)};", ASSETS["app.js"].body.decode())
    assert known is not None and {name.strip() for name in known[1].split(",")} == set(sections)


@pytest.mark.parametrize("name", OWN)
def test_a_script_makes_no_markup_of_strings(name: str):
    text = ASSETS[name].body.decode()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert word not in text
    assert 'setAttribute("style"' not in text
    assert len(text.splitlines()) < 300


@pytest.mark.parametrize("name", OWN)
def test_what_a_script_imports_is_there(name: str):
    for wanted in IMPORTS.findall(ASSETS[name].body.decode()):
        assert wanted in ASSETS


def test_every_action_of_the_audit_log_has_its_word():
    actions = {route.action for route in routes_of(Access(config_of, lambda: NOW)) if route.action}
    known = re.search(r"const ACTIONS = {(.+?)};", ASSETS["audit.js"].body.decode(), re.DOTALL)
    assert known is not None and actions and actions <= set(re.findall(r'"([\w.]+)": "', known[1]))


def test_assets_say_what_they_are():
    for name, asset in ASSETS.items():
        assert asset.body and asset.media_type.startswith(("text/", "image/svg+xml")), name
        assert re.fullmatch(r'"[0-9a-f]{32}"', asset.etag)
    assert len({asset.etag for asset in ASSETS.values()}) == len(ASSETS)
    assert b"MIT License" in ASSETS["uplot.LICENSE.txt"].body


def test_the_policy_allows_own_files_alone():
    policy = dict(each.strip().split(" ", 1) for each in CSP.split(";"))
    assert policy["default-src"] == "'none'" == policy["frame-ancestors"] == policy["base-uri"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert not re.search(r"unsafe|\*|https?:", CSP)


def test_the_page_is_small():
    assert len(main_page()) + sum(len(asset.body) for asset in ASSETS.values()) < 250_000
    assert pages.main_page() == main_page()


def test_every_state_of_an_account_and_every_reason_to_move_has_its_words():
    assert table("STATES") == {*STATES}
    [order] = re.findall(r"const SICK_FIRST = (.+);", ASSETS["words.js"].body.decode())
    assert json.loads(order) == [*SICK, "available"]
    assert table("REASONS") >= {reason for (reason,) in MOVES.known} - {"account_bound"}  # a label of the metric alone
