"""Who calls, by a key or a token in either header."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from gateway.config.schema import Admin, Caller, Config, Issuer
from gateway.core.spending.keyring import Stored
from gateway.errors import ApiError
from gateway.store.pool.keyring import keyring_of
from gateway.worker.callers.authenticate import Callers
from gateway.worker.head import Head, read_head
from tests.minting import AUDIENCE, ISSUER, claims_of, key_set, mint, rsa

CONFIG = Config(admin=Admin(token="admin-token"), secret=("s" * 32,), accounts=())
SCOPE = {"client": ("192.0.2.1", 1), "headers": []}
KEY = rsa()


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYRING = keyring_of(
    (
        Caller(id="alice", digests=(digest("sk-alice-1"), digest("sk-alice-2"))),
        Caller(id="bob", digests=(digest("sk-bob"),)),
    ),
    Stored(),
)


def knowing(config: Config, complete: Callable[[], bool] = lambda: True) -> Callers:
    callers = Callers(config, complete)
    callers.know(KEYRING, ())
    return callers


CALLERS = knowing(CONFIG)


def head(*headers: tuple[bytes, bytes]) -> Head:
    return read_head(list(headers), b"x-conversation-id")


async def who(*headers: tuple[bytes, bytes], callers: Callers = CALLERS) -> str:
    found = callers.find(head(*headers)) or await callers.identify(head(*headers), SCOPE)
    return found.id


@pytest.mark.parametrize(
    ("headers", "caller"),
    [
        ([(b"x-api-key", b"sk-alice-1")], "alice"),
        ([(b"x-api-key", b"sk-alice-2")], "alice"),
        ([(b"authorization", b"Bearer sk-bob")], "bob"),
        ([(b"x-api-key", b"sk-bob"), (b"authorization", b"Bearer other")], "bob"),
        ([(b"x-api-key", b"other"), (b"authorization", b"Bearer sk-bob")], "bob"),
    ],
)
async def test_a_caller_is_known_by_any_of_its_keys_in_either_header(headers, caller):
    assert await who(*headers) == caller


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([], "x-api-key header is required"),
        ([(b"x-api-key", b"")], "x-api-key header is required"),
        ([(b"authorization", b"Basic sk-bob")], "x-api-key header is required"),
        ([(b"x-api-key", b"sk-other")], "invalid x-api-key"),
        ([(b"x-api-key", b"sk-bo")], "invalid x-api-key"),
        ([(b"x-api-key", b"sk-bob ")], "invalid x-api-key"),
        ([(b"x-api-key", digest("sk-bob").encode())], "invalid x-api-key"),
        ([(b"authorization", b"Bearer nobody")], "invalid x-api-key"),
        ([(b"x-api-key", b"\xff\xfe")], "invalid x-api-key"),
        ([(b"x-api-key", mint(KEY))], "invalid x-api-key"),
    ],
)
async def test_who_has_no_key_is_told_so(headers, words):
    with pytest.raises(ApiError, match=words) as caught:
        await who(*headers)
    assert caught.value.status == 401
    assert caught.value.kind == "authentication_error"


async def test_while_not_all_keys_are_known_none_is_called_wrong():
    callers = knowing(CONFIG, lambda: False)
    with pytest.raises(ApiError) as caught:
        await who((b"x-api-key", b"sk-other"), callers=callers)
    assert caught.value.status == 529


@pytest.fixture
async def federated(tmp_path):
    (tmp_path / "jwks.json").write_bytes(key_set(KEY))
    issuer = Issuer(id="k8s", issuer=ISSUER, audiences=(AUDIENCE,), jwks_file=str(tmp_path / "jwks.json"))
    callers = knowing(Config(admin=Admin(token="admin-token"), secret=("s" * 32,), accounts=(), issuers=(issuer,)))
    yield callers
    await callers.close()


RIGHT, WRONG = mint(KEY), mint(rsa())


@pytest.mark.parametrize(
    ("headers", "caller"),
    [
        ([(b"x-api-key", RIGHT)], "k8s/alice"),
        ([(b"authorization", b"Bearer " + RIGHT)], "k8s/alice"),
        ([(b"x-api-key", RIGHT), (b"authorization", b"Bearer " + RIGHT)], "k8s/alice"),
        ([(b"x-api-key", WRONG), (b"authorization", b"Bearer " + RIGHT)], "k8s/alice"),
        ([(b"x-api-key", b"nobody"), (b"authorization", b"Bearer " + RIGHT)], "k8s/alice"),
        ([(b"x-api-key", b"sk-bob"), (b"authorization", b"Bearer " + RIGHT)], "bob"),
    ],
)
async def test_a_token_counts_in_either_header(federated: Callers, headers, caller):
    assert await who(*headers, callers=federated) == caller
    found = federated.find(head(*headers))
    assert found is not None and found.id == caller


async def test_what_is_no_token_is_a_key(federated: Callers):
    with pytest.raises(ApiError, match="invalid x-api-key"):
        await who((b"x-api-key", b"sk-other"), callers=federated)


async def test_of_a_wrong_token_its_bearer_is_told(federated: Callers):
    with pytest.raises(ApiError, match="expired"):
        await who((b"x-api-key", mint(KEY, claims_of(exp=1))), callers=federated)
