"""Who may use the admin listener: tokens with roles, and the sessions of browsers.

A session is a cookie that the gateway signs and does not keep: it ends with its time, with its token, with a change of
the token's role, and at a logout, of which gateways tell each other. It knows neither routes nor pages.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Final

import msgspec
from starlette.requests import Request

from gateway.admin.failed_logins import FailedLogins
from gateway.config.schema import ADMIN, Config
from gateway.core.routing import broadcast
from gateway.errors import ApiError
from gateway.listen.addresses import Addresses

READ: Final = "read"  # may look at everything
OPERATE: Final = "operate"  # may change it too
COOKIE = "gateway_session"
CSRF_HEADER = "x-csrf-token"
SESSION_SECONDS = 12 * 3600
_COOKIES = 4  # of our name that one request may bring
_SKEW = 3600  # seconds by which clocks of gateways may differ
_ENDED = 10_000  # sessions ended early that are remembered

SIGN_IN = "The admin listener needs the header: Authorization: Bearer <admin.token>"


class Grant(msgspec.Struct, frozen=True):
    """What a token gives: whose it is, and the role. `digest` is its SHA-256 in hex."""

    id: str
    role: str
    digest: str


class Who(msgspec.Struct, frozen=True):
    """Who asks. `session` is the cookie of a browser, "" for whoever sends a token; `csrf` what such a browser must
    send along to change something; `until` when its session ends, in Unix seconds."""

    grant: Grant
    session: str = ""
    csrf: str = ""
    until: float = 0.0

    @property
    def id(self) -> str:
        return self.grant.id

    @property
    def role(self) -> str:
        return self.grant.role

    def may(self, role: str) -> bool:
        return self.role in (role, OPERATE)


class Access:
    """By the configuration that `config()` gives; `now()` gives Unix seconds; `tell` broadcasts to other gateways."""

    def __init__(
        self, config: Callable[[], Config], now: Callable[[], float], tell: Callable[[bytes], None] = lambda data: None
    ) -> None:
        self._tell = tell
        self.failed_logins = FailedLogins(now)
        self._config = config
        self._now = now
        self._known: Config | None = None
        self._by_digest: dict[str, Grant] = {}
        self._keys: list[bytes] = []
        self._addresses = Addresses(())
        self._ended: dict[str, float] = {}  # digests of sessions ended before their time, and when that is

    def _follow(self) -> None:
        config = self._config()
        if config is self._known:
            return
        admin = config.admin
        grants = [Grant(ADMIN, OPERATE, _digest(admin.token))]
        grants += [Grant(each.id, each.role, digest) for each in admin.tokens for digest in each.digests]
        self._by_digest = {grant.digest: grant for grant in grants}
        self._keys = [_mac(secret.encode(), b"sessions of the admin listener") for secret in config.secret]
        self._addresses = Addresses(config.trusted_proxies)
        self._known = config

    # Who asks.

    def who(self, request: Request) -> Who | None:
        """Who asks, by a token or, where none is sent, by a session; None for nobody known."""
        if "authorization" in request.headers:
            token = _bearer(request)
            grant = self._grant(token) if token else None
            return None if grant is None else Who(grant)
        found = (self._session(cookie) for cookie in _cookies(request))
        return next((who for who in found if who is not None), None)

    def holds(self, who: Who) -> bool:
        """Whether whoever asked some time ago could still ask."""
        self._follow()
        if self._by_digest.get(who.grant.digest) != who.grant:
            return False
        return not who.session or (self._now() < who.until and _digest(who.session) not in self._ended)

    def _grant(self, token: str) -> Grant | None:
        # How long a look for a digest takes tells nothing of the token that it is of.
        self._follow()
        return self._by_digest.get(_digest(token))

    def turned_away(self, request: Request) -> ApiError:
        """What to tell whoever is nobody known: 401, or 429 once this is one wrong token too many."""
        wrong = self._wrong(request) if _bearer(request) else None
        return wrong or ApiError(401, SIGN_IN)

    def _wrong(self, request: Request) -> ApiError | None:
        """Count a wrong token; the refusal, where there were too many."""
        wait = self.failed_logins.add(self.address(request))
        return ApiError(429, f"Too many wrong tokens; try again in {wait} s", retry_after=wait) if wait else None

    # Sessions.

    def login(self, request: Request, token: str) -> Who | None:
        """A new session for whoever sends this token; None for a wrong one. Raises ApiError 429 for a wrong one too
        many."""
        grant = self._grant(token)
        if grant is None:
            refusal = self._wrong(request)
            if refusal is not None:
                raise refusal
            return None
        cookie = f"{grant.id}:{int(self._now()) + SESSION_SECONDS}:{secrets.token_urlsafe(16)}"
        return self._session(f"{cookie}:{_signature(self._keys[0], cookie, grant)}")

    def logout(self, who: Who) -> None:
        """End the session, on this gateway at once and on those that can be told within milliseconds."""
        if who.session:
            digest = _digest(who.session)
            self._end(digest, who.until)
            self._tell(broadcast.encode(broadcast.Ended(digest)))

    def heard(self, data: bytes) -> None:
        """A broadcast of another gateway."""
        heard = broadcast.decode(data)
        if isinstance(heard, broadcast.Ended):
            self._end(heard.session, self._now() + SESSION_SECONDS + _SKEW)

    def _end(self, digest: str, until: float) -> None:
        now = self._now()
        self._ended = {ended: end for ended, end in self._ended.items() if end > now}
        self._ended[digest] = until
        while len(self._ended) > _ENDED:
            del self._ended[next(iter(self._ended))]

    def _session(self, cookie: str) -> Who | None:
        self._follow()
        said, _, signature = cookie.rpartition(":")
        name, until, *nonce = said.split(":")[:3] if said.count(":") == 2 else ("", "")
        if not nonce or not until.isascii() or not until.isdigit() or not self._now() < int(until[:15]):
            return None
        if _digest(cookie) in self._ended:
            return None
        for grant in self._by_digest.values():
            for key in self._keys if grant.id == name else ():
                if hmac.compare_digest(_signature(key, said, grant).encode(), signature.encode()):
                    csrf = _mac(key, f"csrf\n{cookie}".encode()).hex()
                    return Who(grant, cookie, csrf, float(until))
        return None

    def set_cookie(self, request: Request, who: Who | None) -> str:
        """The header that gives a browser its session, or takes it away."""
        value, age = (who.session, SESSION_SECONDS) if who is not None else ("", 0)
        secure = "; Secure" if self._by_https(request) else ""
        return f"{COOKIE}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}"

    def address(self, request: Request) -> str:
        """Where the request came from."""
        self._follow()
        return self._addresses.client(request.scope)

    def _by_https(self, request: Request) -> bool:
        """Whether the browser came by https, perhaps to a proxy of which nobody told the gateway."""
        self._follow()
        base = self._addresses.base_url(request.scope)
        return base.startswith(b"https:") or request.headers.get("origin", "").startswith("https:")

    # Other people's pages.

    def check_change(self, request: Request, who: Who) -> None:
        """A browser sends its session with whatever another page makes it ask: see that it was ours. Raises ApiError
        403."""
        if not who.session:
            return
        given = request.headers.get(CSRF_HEADER, "")
        if not hmac.compare_digest(given.encode(), who.csrf.encode()):
            raise ApiError(403, f"To change something, a session needs the header {CSRF_HEADER}: see GET /admin/v1/me")
        if self.same_origin(request) is not True:
            raise ApiError(403, "This request comes from another site")

    def same_origin(self, request: Request) -> bool | None:
        """Whether a page of this listener sent it, by what a browser says and no page can; None where none says so."""
        self._follow()
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site is not None:  # a proxy may have changed the host, but not this
            return site in ("same-origin", "none")
        if origin is None:
            return None
        host = self._addresses.base_url(request.scope).partition(b"://")[2].partition(b"/")[0].decode()
        return origin.partition("://")[2].lower() == host.lower()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _signature(key: bytes, said: str, grant: Grant) -> str:
    return _mac(key, f"session\n{said}\n{grant.id}\n{grant.role}\n{grant.digest}".encode()).hex()


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _bearer(request: Request) -> str:
    """The token that a request brings; "" for none, or two."""
    given = request.headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""


def _cookies(request: Request) -> list[str]:
    pairs = [each.strip() for line in request.headers.getlist("cookie") for each in line.split(";")]
    prefix = f"{COOKIE}="
    return [each.removeprefix(prefix) for each in pairs if each.startswith(prefix)][:_COOKIES]
