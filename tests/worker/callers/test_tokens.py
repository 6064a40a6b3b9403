"""Workloads with tokens of their own: every forgery is refused, and who is let in is one caller everywhere."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from time import time
from typing import Any

import pytest
from joserfc.jwk import RSAKey

from gateway.config.schema import Admin, CallerLimits, Config, Issuer, Team
from gateway.core.identity import gateway_token
from gateway.core.identity.token import LEEWAY
from gateway.errors import ApiError
from gateway.worker.callers import tokens as module
from gateway.worker.callers.tokens import MOST_WRONG, Tokens
from tests.minting import AUDIENCE, ISSUER, claims_of, ec, encoded, key_set, mint, rsa, sealed

KEY, STRANGER, CURVE = rsa("k1"), rsa("k1"), ec("ec1")
SECRET = "s" * 32


@dataclasses.dataclass
class Scene:
    """Tokens of one gateway, and what its configuration says; `now` is ahead of the clock by `later` seconds."""

    folder: Any
    later: float = 0.0
    issuers: tuple[Issuer, ...] = ()
    teams: tuple[str, ...] = ("platform",)
    secret: tuple[str, ...] = (SECRET,)

    def __post_init__(self) -> None:
        self.shows(KEY, CURVE)
        self.issuers = (self.issuer(),)
        self.tokens = Tokens(self.config, lambda: time() + self.later)
        self.tokens.know(self.teams)

    def shows(self, *keys: Any) -> None:
        (self.folder / "jwks.json").write_bytes(key_set(*keys))

    def issuer(self, **changes: Any) -> Issuer:
        said = {"id": "k8s", "issuer": ISSUER, "audiences": (AUDIENCE,), "jwks_file": str(self.folder / "jwks.json")}
        return Issuer(**{**said, **changes})

    @property
    def config(self) -> Config:
        teams = tuple(Team(id=team) for team in self.teams)
        return Config(admin=Admin(token="t"), secret=self.secret, accounts=(), issuers=self.issuers, teams=teams)

    def says(self, *issuers: Issuer) -> None:
        self.issuers = issuers
        self.tokens.configure(self.config)

    async def who(self, token: bytes, address: str = "192.0.2.1") -> str:
        return (await self.tokens.identify(token, address)).id

    async def refusal(self, token: bytes, address: str = "192.0.2.1") -> tuple[int, str]:
        with pytest.raises(ApiError) as caught:
            await self.tokens.identify(token, address)
        return caught.value.status, caught.value.message


@pytest.fixture
async def scene(tmp_path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    await scene.tokens.close()


async def test_a_right_token_is_its_caller(scene: Scene):
    assert await scene.who(mint(KEY)) == "k8s/alice"
    assert await scene.who(mint(KEY, typ="at+jwt")) == "k8s/alice"
    assert await scene.who(mint(KEY, claims_of(aud=["other", AUDIENCE]))) == "k8s/alice"


async def test_a_token_without_a_key_id_is_of_the_only_key_that_fits(scene: Scene):
    assert await scene.who(mint(KEY, kid=None)) == "k8s/alice"
    scene.says(scene.issuer(algorithms=("ES256", "RS256")))
    assert await scene.who(mint(CURVE, algorithm="ES256", kid=None)) == "k8s/alice"


# Forgeries.


def pem(key: RSAKey) -> bytes:
    return key.as_pem(private=False)


def swapped(token: bytes, **claims: Any) -> bytes:
    head, _, rest = token.partition(b".")
    return head + b"." + encoded(json.dumps(claims_of(**claims)).encode()).encode() + b"." + rest.partition(b".")[2]


def bare(**header: Any) -> bytes:
    head, body = (encoded(json.dumps(each).encode()) for each in (header, claims_of()))
    return f"{head}.{body}.".encode()


def modulus(key: RSAKey) -> bytes:
    return base64.urlsafe_b64decode(str(key.as_dict(private=False)["n"]) + "==")


def twice(name: str) -> bytes:
    """Claims, of which the first of one name is not the last."""
    return json.dumps(claims_of()).encode().replace(b"{", b'{"%b": "bob", ' % name.encode(), 1)


def loose(token: bytes) -> bytes:
    """The same signature in other letters."""
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + bytes([letters[letters.index(token[-1]) ^ 1]])


FORGERIES: dict[str, Callable[[], bytes]] = {
    "no signature": lambda: bare(alg="none", kid="k1"),
    "none in other letters": lambda: bare(alg="nOnE", kid="k1"),
    "an empty signature": lambda: bare(alg="RS256", kid="k1"),
    "a stranger's key of the same id": lambda: mint(STRANGER),
    "the public key as a secret": lambda: mint(pem(KEY), algorithm="HS256"),
    "the modulus as a secret": lambda: mint(modulus(KEY), algorithm="HS256"),
    "an algorithm that is not the issuer's": lambda: mint(KEY, algorithm="RS512"),
    "another family's algorithm": lambda: mint(KEY, algorithm="PS256"),
    "a key of another kind": lambda: mint(CURVE, algorithm="ES256"),
    "the algorithm of another key": lambda: mint(KEY, alg="ES256"),
    "a key in the token": lambda: mint(STRANGER, jwk=STRANGER.as_dict(private=False)),
    "a URL of keys in the token": lambda: mint(STRANGER, jku="https://attacker.example/jwks"),
    "a certificate in the token": lambda: mint(STRANGER, x5u="https://attacker.example/x", x5c=["MIIB"]),
    "an unknown key": lambda: mint(STRANGER, kid="k2"),
    "a path for a key id": lambda: mint(STRANGER, kid="../../dev/null"),
    "other claims under a right signature": lambda: swapped(mint(KEY), sub="bob"),
    "the signature of another token": lambda: swapped(mint(KEY, claims_of(sub="bob"))),
    "another issuer": lambda: mint(KEY, claims_of(iss="https://other.example")),
    "an issuer with a slash more": lambda: mint(KEY, claims_of(iss=ISSUER + "/")),
    "an issuer in capitals": lambda: mint(KEY, claims_of(iss=ISSUER.upper())),
    "no issuer": lambda: mint(KEY, claims_of(iss=None)),
    "another audience": lambda: mint(KEY, claims_of(aud="other")),
    "no audience": lambda: mint(KEY, claims_of(aud=None)),
    "an empty list of audiences": lambda: mint(KEY, claims_of(aud=[])),
    "no end": lambda: mint(KEY, claims_of(exp=None)),
    "an end that is over": lambda: mint(KEY, claims_of(exp=int(time()) - int(LEEWAY) - 1)),
    "an end in years": lambda: mint(KEY, claims_of(exp=int(time()) + 365 * 86_400)),
    "an end that is text": lambda: mint(KEY, claims_of(exp="9999999999")),
    "a beginning that is to come": lambda: mint(KEY, claims_of(nbf=int(time()) + 120)),
    "signed in the future": lambda: mint(KEY, claims_of(iat=int(time()) + 120)),
    "no subject": lambda: mint(KEY, claims_of(sub=None)),
    "a critical extension": lambda: mint(KEY, crit=["exp"]),
    "an unencoded payload": lambda: mint(KEY, b64=False, crit=["b64"]),
    "another kind of token": lambda: mint(KEY, typ="logout+jwt"),
    "more than eight kilobytes": lambda: mint(KEY, claims_of(more="x" * 8192)),
    "a header that is a list": lambda: sealed(b'["RS256"]', json.dumps(claims_of()).encode(), KEY, "RS256"),
    "claims that are a list": lambda: sealed(b'{"alg":"RS256","kid":"k1"}', b"[]", KEY, "RS256"),
    "claims that are no JSON": lambda: sealed(b'{"alg":"RS256","kid":"k1"}', b"{", KEY, "RS256"),
    "a claim that is there twice": lambda: sealed(b'{"alg":"RS256","kid":"k1"}', twice("sub"), KEY, "RS256"),
    "an algorithm that is there twice": lambda: sealed(
        b'{"alg":"none","kid":"k1","alg":"RS256"}', json.dumps(claims_of()).encode(), KEY, "RS256"
    ),
    "a signature with other bits that mean nothing": lambda: loose(mint(KEY)),
    "an issuer with a byte of nothing": lambda: mint(KEY, claims_of(iss=ISSUER + "\0")),
    "audiences of others": lambda: mint(KEY, claims_of(aud=["other", "gateway/"])),
    "a critical extension that is null": lambda: sealed(
        b'{"alg":"RS256","kid":"k1","crit":null}', json.dumps(claims_of()).encode(), KEY, "RS256"
    ),
    "a signature with a line end": lambda: mint(KEY) + b"\n",
    "a token of the gateway's that nobody signed": lambda: b"gwt_" + mint(KEY)[:60] + b".AAAA",
    "a token of another gateway's": lambda: gateway_token.sign(
        gateway_token.Grant("k8s", "k8s/alice", "", int(time()) + 60), gateway_token.key_of("t" * 32)
    ),
    "a token of the gateway's that has ended": lambda: gateway_token.sign(
        gateway_token.Grant("k8s", "k8s/alice", "", int(time()) - 1), gateway_token.key_of(SECRET)
    ),
    "a token of the gateway's by an issuer that is gone": lambda: gateway_token.sign(
        gateway_token.Grant("old", "old/alice", "", int(time()) + 60), gateway_token.key_of(SECRET)
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_forged(scene: Scene, forgery: str):
    status, words = await scene.refusal(FORGERIES[forgery]())
    assert status == 401
    assert "alice" not in words and "example" not in words


async def test_no_forgery_makes_the_next_right_token_wrong(scene: Scene):
    for make in FORGERIES.values():
        await scene.refusal(make())
    assert await scene.who(mint(KEY)) == "k8s/alice"


# Who is let in.


async def test_whose_claims_do_not_fit_is_not_let_in(scene: Scene):
    scene.says(scene.issuer(require={"sub": ("system:serviceaccount:ml:*",)}))
    assert await scene.who(mint(KEY, claims_of(sub="system:serviceaccount:ml:a"))) == "k8s/system:serviceaccount:ml:a"
    assert await scene.refusal(mint(KEY, claims_of(sub="system:serviceaccount:web:a"))) == (
        403, "Your token does not fit what is required of its claim sub."
    )  # fmt: skip


async def test_a_wrong_token_is_not_told_what_is_required(scene: Scene):
    scene.says(scene.issuer(require={"sub": ("bob",)}))
    assert (await scene.refusal(mint(STRANGER)))[0] == 401


async def test_a_caller_has_what_its_issuer_allows(scene: Scene):
    limits = CallerLimits(requests_per_minute=5)
    scene.says(scene.issuer(models=("claude-haiku-*",), limits=limits, team="platform"))
    caller = await scene.tokens.identify(mint(KEY), "192.0.2.1")
    assert (caller.team, caller.models, caller.limits) == ("platform", ("claude-haiku-*",), limits)
    assert caller.tenant == "t:platform"


async def test_without_its_team_nobody_is_let_in(scene: Scene):
    scene.says(scene.issuer(team="{team}"))
    assert await scene.who(mint(KEY, claims_of(team="platform"))) == "k8s/alice"
    for claims in (claims_of(), claims_of(team="research"), claims_of(team=["platform"])):
        assert (await scene.refusal(mint(KEY, claims)))[0] == 403
    token = mint(KEY, claims_of(team="platform"))
    assert await scene.who(token) == "k8s/alice"
    scene.tokens.know([])
    assert (await scene.refusal(token))[0] == 403


async def test_of_several_entries_of_an_issuer_the_first_that_lets_a_token_in_counts(scene: Scene):
    scene.says(
        scene.issuer(id="ml", require={"sub": ("ml-*",)}),
        scene.issuer(id="web", require={"sub": ("web-*", "ml-2")}),
        scene.issuer(id="closed", audiences=("other",)),
    )
    assert await scene.who(mint(KEY, claims_of(sub="ml-2"))) == "ml/ml-2"
    assert await scene.who(mint(KEY, claims_of(sub="web-1"))) == "web/web-1"
    assert (await scene.refusal(mint(KEY, claims_of(sub="x"))))[0] == 403


async def test_no_token_makes_a_caller_of_a_file(scene: Scene):
    for subject in ("alice", "/alice", "../alice", "k8s/alice", "a" * 200, "alice\n"):
        name = await scene.who(mint(KEY, claims_of(sub=subject)))
        assert name.startswith("k8s/") and len(name) <= 128


async def test_an_issuer_has_so_many_callers_at_a_time(scene: Scene, monkeypatch):
    monkeypatch.setattr(module, "MOST_CALLERS", 2)
    for name in ("a", "b", "a"):
        assert await scene.who(mint(KEY, claims_of(sub=name))) == f"k8s/{name}"
    assert (await scene.refusal(mint(KEY, claims_of(sub="c"))))[0] == 403
    scene.later = 700.0
    assert await scene.who(mint(KEY, claims_of(sub="c", exp=int(time()) + 3000))) == "k8s/c"


# What is known.


def known(scene: Scene, token: bytes) -> bool:
    return scene.tokens.find(hashlib.sha256(token).digest(), time() + scene.later) is not None


async def test_a_token_that_was_right_once_is_known_until_it_ends(scene: Scene):
    token = mint(KEY)
    assert not known(scene, token)
    await scene.who(token)
    assert known(scene, token)
    scene.later = 600.0 + LEEWAY
    assert not known(scene, token)


async def test_what_was_wrong_is_not_known(scene: Scene):
    await scene.refusal(mint(STRANGER))
    assert not known(scene, mint(STRANGER))


async def test_so_many_tokens_are_known_at_most(scene: Scene, monkeypatch):
    monkeypatch.setattr(module, "MOST_KNOWN", 2)
    tokens = [mint(KEY, claims_of(sub=name)) for name in "abc"]
    for token in tokens:
        await scene.who(token)
    assert [known(scene, token) for token in tokens] == [False, True, True]


@pytest.mark.parametrize("change", ["require", "secret", "gone"])
async def test_a_new_configuration_looks_at_every_token_anew(scene: Scene, change: str):
    token = mint(KEY)
    own, _ = await scene.tokens.exchange(token, None, "192.0.2.1")
    await scene.who(own if change == "secret" else token)
    if change == "require":
        scene.says(scene.issuer(require={"sub": ("bob",)}))
        assert not known(scene, token)
        assert (await scene.refusal(token))[0] == 403
    elif change == "secret":
        scene.secret = ("t" * 32,)
        scene.says(*scene.issuers)
        assert (await scene.refusal(own))[0] == 401
    else:
        scene.says()
        assert (await scene.refusal(token))[0] == 401


async def test_a_key_that_is_no_longer_shown_makes_no_token_right(scene: Scene):
    token = mint(KEY)
    await scene.who(token)
    scene.shows(STRANGER)
    scene.later = 31.0
    await scene.refusal(mint(STRANGER, kid="new"))
    assert not known(scene, token)
    assert (await scene.refusal(token))[0] == 401
    assert await scene.who(mint(STRANGER)) == "k8s/alice"


async def test_while_nobody_knows_the_issuers_keys_a_token_is_neither_right_nor_wrong(scene: Scene):
    (scene.folder / "jwks.json").unlink()
    status, words = await scene.refusal(mint(KEY))
    assert status == 529 and "keys" in words
    assert scene.tokens.failing


async def test_an_address_that_sends_too_many_wrong_tokens_must_wait(scene: Scene):
    token = mint(KEY)
    await scene.who(token)
    for _ in range(MOST_WRONG):
        assert (await scene.refusal(b"eyJ..", "2001:db8::1"))[0] == 401
    assert (await scene.refusal(mint(KEY, claims_of(sub="bob")), "2001:db8::2"))[0] == 429
    assert known(scene, token)  # whoever was right goes on
    assert await scene.who(mint(KEY, claims_of(sub="bob")), "2001:db8:1::1") == "k8s/bob"
    scene.later = 61.0
    assert await scene.who(mint(KEY, claims_of(sub="carol")), "2001:db8::1") == "k8s/carol"


async def flooded(scene: Scene, address: str = "192.0.2.1") -> None:
    """An address sends so many wrong tokens that no new one of it is looked at."""
    for _ in range(MOST_WRONG):
        await scene.refusal(b"eyJ..", address)
    assert (await scene.refusal(mint(KEY, claims_of(sub="new")), address))[0] == 429


@pytest.mark.parametrize("change", ["teams", "issuers", "secret", "keys", "nothing"])
async def test_what_was_right_goes_on_behind_such_an_address_whatever_changes(scene: Scene, change: str):
    token = mint(KEY)
    await scene.who(token)
    own, _ = await scene.tokens.exchange(token, None, "192.0.2.1")
    await flooded(scene)
    if change == "teams":
        scene.tokens.know([*scene.teams, "another"])
    elif change == "issuers":
        scene.says(scene.issuer(limits=CallerLimits(requests_per_minute=5)))
    elif change == "secret":
        scene.secret = ("t" * 32, SECRET)
        scene.says(*scene.issuers)
    elif change == "keys":
        scene.tokens.forget()
    else:
        scene.says(*scene.issuers)
    assert known(scene, token) is (change == "nothing")
    for right in (token, own):
        assert await scene.who(right) == "k8s/alice"
        assert known(scene, right)
    assert (await scene.tokens.exchange(token, None, "192.0.2.1"))[1].id == "k8s/alice"
    assert (await scene.refusal(mint(KEY, claims_of(sub="bob"))))[0] == 429


async def test_what_a_change_makes_wrong_is_looked_at_once_more_and_counts_for_nothing(scene: Scene):
    token = mint(KEY)
    await scene.who(token)
    for _ in range(MOST_WRONG - 1):
        await scene.refusal(b"eyJ..")
    scene.says(scene.issuer(id="other", audiences=("other",)))
    assert (await scene.refusal(token))[0] == 401  # not counted
    assert (await scene.refusal(token))[0] == 401  # counted, as any other wrong one
    assert (await scene.refusal(token))[0] == 429


async def test_who_has_lost_the_team_is_let_in_again_with_it(scene: Scene):
    scene.says(scene.issuer(team="platform"))
    token = mint(KEY)
    await scene.who(token)
    await flooded(scene)
    scene.tokens.know([])
    assert (await scene.refusal(token))[0] == 403
    scene.tokens.know(scene.teams)
    assert await scene.who(token) == "k8s/alice"


async def test_what_has_ended_is_new_again(scene: Scene):
    token = mint(KEY)
    await scene.who(token)
    scene.later = 600.0 + LEEWAY
    await flooded(scene)
    assert (await scene.refusal(token))[0] == 429


async def test_what_was_exchanged_once_is_exchanged_again_behind_such_an_address(scene: Scene):
    token = mint(KEY)
    own, _ = await scene.tokens.exchange(token, "k8s", "192.0.2.1")
    assert not known(scene, token)  # another entry may be the first that lets it in
    await flooded(scene)
    assert await scene.who(own) == "k8s/alice"
    assert (await scene.tokens.exchange(token, "k8s", "192.0.2.1"))[1].id == "k8s/alice"


# The gateway's own tokens.


async def test_a_token_is_exchanged_for_one_of_the_same_caller(scene: Scene):
    scene.says(scene.issuer(team="platform"))
    own, caller = await scene.tokens.exchange(mint(KEY), "k8s", "192.0.2.1")
    assert own.startswith(b"gwt_")
    assert caller.id == "k8s/alice"
    assert await scene.tokens.identify(own, "192.0.2.1") is caller


async def test_another_gateway_of_the_same_secret_knows_it_without_asking_anybody(scene: Scene, tmp_path):
    own, _ = await scene.tokens.exchange(mint(KEY), None, "192.0.2.1")
    (scene.folder / "jwks.json").unlink()
    other = Tokens(scene.config)
    assert (await other.identify(own, "192.0.2.1")).id == "k8s/alice"
    await other.close()


async def test_it_is_exchanged_by_the_rule_that_is_named(scene: Scene):
    scene.says(scene.issuer(id="one"), scene.issuer(id="two"))
    assert (await scene.tokens.exchange(mint(KEY), "two", "192.0.2.1"))[1].id == "two/alice"
    assert (await scene.tokens.exchange(mint(KEY), None, "192.0.2.1"))[1].id == "one/alice"
    with pytest.raises(ApiError) as caught:
        await scene.tokens.exchange(mint(KEY), "three", "192.0.2.1")
    assert caught.value.status == 401


async def test_it_cannot_be_exchanged_for_a_longer_one(scene: Scene):
    own, _ = await scene.tokens.exchange(mint(KEY), None, "192.0.2.1")
    with pytest.raises(ApiError) as caught:
        await scene.tokens.exchange(own, None, "192.0.2.1")
    assert caught.value.status == 401


async def test_it_ends_with_its_team(scene: Scene):
    scene.says(scene.issuer(team="platform"))
    own, _ = await scene.tokens.exchange(mint(KEY), None, "192.0.2.1")
    scene.tokens.know([])
    assert (await scene.refusal(own))[0] == 403
