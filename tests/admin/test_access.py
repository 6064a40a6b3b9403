"""Who may use the admin listener: tokens, sessions and what ends them, and other people's pages."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from starlette.requests import Request

from gateway.admin.access import COOKIE, OPERATE, READ, SESSION_SECONDS, Access, Who
from gateway.admin.failed_logins import MOST, MOST_OF_ALL, PAUSE
from gateway.config.schema import Admin, AdminToken, Config
from gateway.errors import ApiError
from tests.admin.admin_kit import NOW, TOKEN, config_of

VIEWER = "token-of-a-viewer"
HOST = "gateway.example:8081"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def admin(role: str = READ, *tokens: str) -> Admin:
    digests = tuple(map(sha256, tokens or (VIEWER,)))
    return Admin(token=TOKEN, tokens=(AdminToken(id="viewer", digests=digests, role=role),))  # type: ignore[arg-type]


def asked(client: str = "192.0.2.1", scheme: str = "http", **headers: str) -> Request:
    pairs = [("host", HOST), *((name.replace("_", "-"), value) for name, value in headers.items())]
    return Request({
        "type": "http", "method": "GET", "scheme": scheme, "path": "/", "query_string": b"", "client": (client, 5),
        "server": ("127.0.0.1", 8081), "headers": [(n.encode(), v.encode("latin-1")) for n, v in pairs],
    })  # fmt: skip


class Gate:
    """Access with a clock and a configuration of a test's own."""

    def __init__(self, **changes: Any) -> None:
        self.config: Config = config_of(admin=admin(), **changes)
        self.now = NOW
        self.access = Access(lambda: self.config, lambda: self.now)

    def reload(self, **changes: Any) -> None:
        self.config = msgspec.structs.replace(self.config, **changes)

    def login(self, token: str = VIEWER, client: str = "192.0.2.1", **headers: str) -> Who | None:
        return self.access.login(asked(client, **headers), token)

    def session(self, token: str = VIEWER) -> Who:
        who = self.login(token)
        assert who is not None
        return who

    def who(self, cookie: str) -> Who | None:
        return self.access.who(asked(cookie=f"{COOKIE}={cookie}"))


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_a_token_says_who_and_with_which_role(gate: Gate):
    operator = gate.access.who(asked(authorization=f"Bearer {TOKEN}"))
    viewer = gate.access.who(asked(authorization=f"bearer  {VIEWER} "))
    assert operator is not None and (operator.id, operator.role, operator.csrf) == ("admin", OPERATE, "")
    assert viewer is not None and (viewer.id, viewer.role) == ("viewer", READ)
    assert operator.may(READ) and operator.may(OPERATE) and viewer.may(READ) and not viewer.may(OPERATE)


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {sha256(TOKEN)}", "Bearer \xff"],
)
def test_nothing_else_is_a_token(gate: Gate, value: str):
    assert gate.access.who(asked(authorization=value)) is None


def test_several_tokens_of_one_id_count_so_that_one_can_replace_the_other(gate: Gate):
    gate.reload(admin=admin(READ, VIEWER, "the-next-token"))
    assert gate.access.who(asked(authorization=f"Bearer {VIEWER}"))
    assert gate.access.who(asked(authorization="Bearer the-next-token"))


def test_two_authorizations_or_a_wrong_one_beside_a_session_are_none(gate: Gate):
    cookie = f"{COOKIE}={gate.session().session}"
    assert gate.access.who(asked(cookie=cookie, authorization="Bearer wrong")) is None
    request = asked(authorization=f"Bearer {TOKEN}")
    request.scope["headers"].append((b"authorization", b"Bearer other"))
    assert gate.access.who(request) is None


# -- Sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_holds_until_its_time_is_over(gate: Gate):
    made = gate.session()
    assert gate.who(made.session) == made
    gate.now += SESSION_SECONDS - 1
    assert gate.who(made.session) == made and gate.access.holds(made)
    gate.now += 1
    assert gate.who(made.session) is None and not gate.access.holds(made)


def test_every_login_makes_another_session(gate: Gate):
    one, other = gate.session(), gate.session()
    assert one.session != other.session and one.csrf != other.csrf


@pytest.mark.parametrize("place", range(4))
def test_a_session_that_was_changed_anywhere_is_none(gate: Gate, place: int):
    parts = gate.session().session.split(":")
    for other in ("admin", "", "9" * 400, "-1", parts[place] + "0", parts[place][:-1], "é"):
        assert gate.who(":".join([*parts[:place], other, *parts[place + 1 :]])) is None
    assert gate.who(":".join(parts[:-1])) is None and gate.who(":".join([*parts, "x"])) is None


def test_a_removed_token_ends_its_sessions_and_no_others(gate: Gate):
    viewer, operator = gate.session(), gate.session(TOKEN)
    gate.reload(admin=Admin(token=TOKEN))
    assert gate.who(viewer.session) is None and not gate.access.holds(viewer)
    assert gate.who(operator.session) == operator and gate.access.holds(operator)


def test_a_token_that_replaced_another_does_not_inherit_its_sessions(gate: Gate):
    made = gate.session()
    gate.reload(admin=admin(READ, "another-token"))
    assert gate.who(made.session) is None


def test_a_change_of_role_ends_sessions_so_that_none_has_more_than_its_token(gate: Gate):
    made = gate.session()
    gate.reload(admin=admin(OPERATE))
    assert gate.who(made.session) is None and not gate.access.holds(made)
    higher = gate.session()
    gate.reload(admin=admin(READ))
    assert gate.who(higher.session) is None
    gate.reload(admin=admin(OPERATE))
    assert gate.who(higher.session) == higher


def test_sessions_outlive_a_change_of_the_secret_as_long_as_the_former_is_named(gate: Gate):
    made = gate.session()
    gate.reload(secret=("n" * 32, "s" * 32))
    assert gate.who(made.session) == made
    gate.reload(secret=("n" * 32,))
    assert gate.who(made.session) is None


def test_another_gateway_of_the_same_configuration_knows_the_session(gate: Gate):
    assert Gate().who(gate.session().session) is not None
    assert Gate(secret=("o" * 32,)).who(gate.session().session) is None


def test_a_logout_ends_the_session(gate: Gate):
    one, other = gate.session(), gate.session()
    gate.access.logout(one)
    assert gate.who(one.session) is None and not gate.access.holds(one)
    assert gate.who(other.session) == other


def test_a_logout_ends_the_session_on_other_gateways_too(gate: Gate):
    told: list[bytes] = []
    elsewhere = Gate()
    elsewhere.access = Access(lambda: elsewhere.config, lambda: elsewhere.now, told.append)
    one, other = gate.session(), gate.session()
    elsewhere.access.logout(one)
    (data,) = told
    assert one.session.encode() not in data
    gate.access.heard(data)
    gate.access.heard(b"what nobody can read")
    assert gate.who(one.session) is None and not gate.access.holds(one)
    assert gate.who(other.session) == other
    for _ in range(3):  # what is over is not kept
        gate.now += SESSION_SECONDS
        gate.access.logout(gate.session())
    assert len(gate.access._ended) <= 2


def test_a_planted_cookie_does_not_hide_the_real_one(gate: Gate):
    made = gate.session()
    request = asked(cookie=f"a=b; {COOKIE}=planted; {COOKIE}={made.session}; c")
    assert gate.access.who(request) == made


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites_and_secure_by_https(gate: Gate):
    made = gate.session()
    plain = gate.access.set_cookie(asked(), made)
    assert plain == f"{COOKIE}={made.session}; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"
    assert gate.access.set_cookie(asked(scheme="https"), made) == f"{plain}; Secure"
    assert gate.access.set_cookie(asked(origin=f"https://{HOST}"), made) == f"{plain}; Secure"
    assert gate.access.set_cookie(asked(x_forwarded_proto="https"), made) == plain
    gate.reload(trusted_proxies=("192.0.2.0/24",))
    assert gate.access.set_cookie(asked(x_forwarded_proto="https"), made) == f"{plain}; Secure"
    assert gate.access.set_cookie(asked(), None).startswith(f"{COOKIE}=; Path=/; Max-Age=0;")


# -- Trying tokens ----------------------------------------------------------------------------------------------------


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_wrong_tokens_are_counted_by_address_and_the_right_one_passes(gate: Gate):
    for _ in range(MOST):
        assert gate.login("wrong-token") is None
    with pytest.raises(ApiError) as caught:
        gate.login("wrong-token")
    assert caught.value.status == 429 and 0 < (caught.value.retry_after or 0) <= 60
    assert gate.login() is not None
    assert gate.login("wrong-token", client="192.0.2.2") is None
    gate.now += 61
    assert gate.login("wrong-token") is None


def test_a_wrong_token_in_a_header_counts_as_one_in_the_form(gate: Gate):
    for number in range(MOST):
        assert gate.access.who(asked(**bearer("wrong"))) is None
        assert gate.access.turned_away(asked(**bearer(f"wrong-{number}"))).status == 401
    refusal = gate.access.turned_away(asked(**bearer("wrong")))
    assert refusal.status == 429 and 0 < (refusal.retry_after or 0) <= 60
    with pytest.raises(ApiError):
        gate.login("wrong-token")
    assert gate.access.who(asked(**bearer(TOKEN))) is not None  # whatever others do behind the same proxy
    assert gate.access.turned_away(asked("192.0.2.2", **bearer("wrong"))).status == 401


def test_whoever_sends_no_token_tries_none(gate: Gate):
    for value in ("", "Bearer", "Bearer ", "Basic YTpi", TOKEN):
        for _ in range(MOST):
            assert gate.access.turned_away(asked(authorization=value)).status == 401
            assert gate.access.turned_away(asked()).status == 401
    assert gate.access.turned_away(asked(**bearer("wrong"))).status == 401


def test_right_tokens_are_not_counted(gate: Gate):
    for _ in range(3 * MOST):
        gate.session()
    assert gate.login("wrong-token") is None


def test_wrong_tokens_from_everywhere_make_signing_in_slow_for_all(gate: Gate):
    for number in range(MOST_OF_ALL):
        assert gate.access.failed_logins.pause == 0
        assert gate.login("wrong-token", f"198.51.100.{number}") is None
    assert gate.access.failed_logins.pause == PAUSE
    assert gate.login(client="203.0.113.1") is not None
    gate.now += 61
    assert gate.access.failed_logins.pause == 0


@pytest.mark.parametrize("addresses", [("2001:db8::1", "2001:db8::ffff:2"), ("192.0.2.1", "::ffff:192.0.2.1")])
def test_one_network_is_one_client(gate: Gate, addresses: tuple[str, str]):
    for number in range(MOST):
        gate.login("wrong-token", addresses[number % 2])
    with pytest.raises(ApiError):
        gate.login("wrong-token", client=addresses[0])


def test_behind_a_trusted_proxy_the_client_counts_and_cannot_choose_who_it_is(gate: Gate):
    for number in range(MOST):
        gate.login("wrong-token", x_forwarded_for=f"10.0.0.{number}")
    with pytest.raises(ApiError):
        gate.login("wrong-token", x_forwarded_for="10.9.9.9")  # the proxy is nobody's that is trusted
    gate.reload(trusted_proxies=("192.0.2.1",))
    for number in range(MOST):
        gate.login("wrong-token", x_forwarded_for=f"10.0.0.{number}, 203.0.113.7, 192.0.2.1")
    with pytest.raises(ApiError):
        gate.login("wrong-token", x_forwarded_for="10.9.9.9, 203.0.113.7")
    assert gate.login("wrong-token", x_forwarded_for="203.0.113.7, 203.0.113.8") is None


# -- Other people's pages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, None),
        ({"origin": f"http://{HOST}"}, True),
        ({"origin": f"https://{HOST}"}, True),
        ({"origin": f"http://{HOST.upper()}"}, True),
        ({"origin": "null"}, False),
        ({"origin": f"http://{HOST}.evil.example"}, False),
        ({"origin": "http://gateway.example"}, False),
        ({"sec_fetch_site": "same-origin", "origin": "https://what.the.proxy.is.called"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "same-site", "origin": f"http://{HOST}"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"x_forwarded_host": "evil.example", "origin": "http://evil.example"}, False),
    ],
)
def test_a_page_of_ours_is_told_from_those_of_others(gate: Gate, headers: dict[str, str], same: bool | None):
    assert gate.access.same_origin(asked(**headers)) is same


def test_a_session_changes_something_only_with_its_own_csrf_and_from_our_page(gate: Gate):
    made, other = gate.session(TOKEN), gate.session(TOKEN)
    ours = {"sec_fetch_site": "same-origin"}
    gate.access.check_change(asked(x_csrf_token=made.csrf, **ours), made)
    wrong: list[dict[str, str]] = [
        ours, {**ours, "x_csrf_token": ""}, {**ours, "x_csrf_token": other.csrf}, {**ours, "x_csrf_token": "\xff"},
        {"x_csrf_token": made.csrf}, {"x_csrf_token": made.csrf, "origin": "http://evil.example"},
        {"x_csrf_token": made.csrf, "sec_fetch_site": "same-site"},
    ]  # fmt: skip
    for headers in wrong:
        with pytest.raises(ApiError) as caught:
            gate.access.check_change(asked(**headers), made)
        assert caught.value.status == 403


def test_a_token_needs_neither(gate: Gate):
    who = gate.access.who(asked(authorization=f"Bearer {TOKEN}"))
    assert who is not None
    gate.access.check_change(asked(origin="http://elsewhere.example"), who)
