"""The dashboard's files, read once from the package: two pages, their styles, scripts and icons, and their policy.

It knows nothing of requests, tokens or accounts: the admin API routes these bytes and decides who may have them, and
the scripts among them ask that API for everything they show.
"""

import hashlib
import html
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Final

import msgspec

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The `content-security-policy` of both pages: their own files, their own API, nothing inline, nobody's frame."""

LOGIN_ASSETS: Final = frozenset({"style.css", "theme.js", "icon.svg"})
"""What the login page needs, so what is served to those who have not logged in."""

_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_PAGES: Final = resources.files("gateway.admin.dashboard") / "page"


class Asset(msgspec.Struct, frozen=True):
    """One file under `/static/`: its bytes, its media type and its entity tag, quoted as the header wants it."""

    body: bytes
    media_type: str
    etag: str


def _assets() -> dict[str, Asset]:
    found = {}
    for file in _PAGES.iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _MEDIA_TYPES:
            body = file.read_bytes()
            found[file.name] = Asset(body, _MEDIA_TYPES[suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


ASSETS: Final[Mapping[str, Asset]] = MappingProxyType(_assets())
"""Every file of `GET /static/{name}` by its name."""

_MAIN: Final = (_PAGES / "main.html").read_bytes()
_LOGIN: Final = (_PAGES / "login.html").read_text(encoding="utf-8")


def main_page() -> bytes:
    """The dashboard itself, UTF-8 HTML; the same for everyone, for it holds no data."""
    return _MAIN


def login_page(message: str = "") -> bytes:
    """The form that asks for an admin token, UTF-8 HTML, with `message` above it when the last try failed."""
    shown = f'<p class="message bad" role="alert" id="message">{html.escape(message)}</p>' if message else ""
    return _LOGIN.replace("<!-- message -->", shown).encode()
