"""The accounts as `gateway doctor` finds them: one free request to each, the way the gateway would send it;
where that proves too little and is wished, a paid one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from time import time
from typing import Any, NamedTuple

import msgspec

from gateway.commands.checkup.finding import Finding, caused, failed, ok, warning
from gateway.commands.checkup.store import clock
from gateway.config.checks import api_path
from gateway.config.schema import Account as AccountConfig
from gateway.config.schema import Config, catalogue_of
from gateway.core.routing.outcomes import Outcome, judge_body
from gateway.core.routing.outcomes import judge as judge_status
from gateway.core.spending.pricing import Catalogue
from gateway.core.wire.peek import peek
from gateway.core.wire.usage_meter import UsageMeter
from gateway.upstream.provider import Call, Headers, Outgoing
from gateway.upstream.transport import Interrupted, NotSent, TransportError
from gateway.worker.accounts import Account, Pool

SECONDS = 15.0  # for an account's whole answer
AT_ONCE = 8
MOST_BYTES = 4 * 1024 * 1024
_LINES = [b"content-type: application/json\r\n", b"accept-encoding: identity\r\n"]
_HELLO = [{"role": "user", "content": "Hello"}]
_MODELS = 1000  # entries of an account's list of models
_IDENTITY = (("organization", b"anthropic-organization-id"), ("workspace", b"anthropic-workspace-id"))


class _Entry(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Entry]
    has_more: bool = False


class Answer(msgspec.Struct):
    """What one account said. `status` 0: nothing, and `problem` says why; `spent`: it was about the organization's
    money; `skew` is how many seconds its clock is ahead, within a second, None where it sent no time; `lacking`:
    there is no credential, for that `problem`. At a `cloud` `counted` is the model whose tokens were asked for ("" for
    none), which is free, `asked` the one that was asked for a token, which cost so many `usd`, and `outcome` what the
    answer to that means."""

    status: int = 0
    problem: str = ""
    models: tuple[str, ...] | None = None
    identity: dict[str, str] = {}
    skew: float | None = None
    spent: bool = False
    lacking: bool = False
    cloud: bool = False
    counted: str = ""
    asked: str = ""
    usd: float = 0.0
    outcome: Outcome | None = None


class _Heard(NamedTuple):
    status: int
    headers: Headers
    body: bytes
    skew: float | None


async def check_accounts(config: Config, paid: bool = False) -> list[Finding]:
    """What is to say of every account, in the order of the file. With `paid`, those of which no free call proves
    credential and model are asked for one token."""
    pool, catalogue = Pool(config), catalogue_of(config)
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(account: AccountConfig) -> Answer:
        async with turns:
            return await _ask(pool.accounts[account.id], catalogue, paid)

    try:
        answers = await asyncio.gather(*(one(account) for account in config.accounts))
    finally:
        await pool.aclose()
    told = list(zip(config.accounts, answers, strict=True))
    findings = [each for account, answer in told for each in judge(account, answer, catalogue)]
    return [*findings, *identities(told)]


async def _ask(account: Account, catalogue: Catalogue, paid: bool) -> Answer:
    try:
        return await _answer(account, catalogue, paid)
    except TimeoutError:
        return Answer(problem=f"no answer within {SECONDS:g} s")
    except NotSent as error:
        return Answer(problem=f"cannot be reached ({error})")
    except (Interrupted, TransportError) as error:
        return Answer(problem=f"gave no whole answer ({error})")


async def _answer(account: Account, catalogue: Catalogue, paid: bool) -> Answer:
    provider = account.provider
    async with asyncio.timeout(SECONDS):
        await provider.credential.refresh()
    if provider.credential.trouble:
        return Answer(problem=provider.credential.trouble, lacking=True)
    if provider.probe_proves:
        heard = await _exchange(account, provider.probe(_MODELS))
        headers = dict(heard.headers)
        identity = {what: headers[name].decode("latin-1") for what, name in _IDENTITY if name in headers}
        spent = judge_body(judge_status(heard.status), heard.body) is Outcome.SPENT
        return Answer(heard.status, "", _models(heard.body), identity, heard.skew, spent)
    model = _cheapest(account, catalogue, "count_tokens")
    heard = await _exchange(account, provider.prepare(_count(model)) if model else provider.probe(_MODELS))
    outcome = _outcome(account, heard) if model else None
    if paid and outcome not in (Outcome.SERVED, Outcome.UNAUTHORIZED):
        asked = _cheapest(account, catalogue, "messages")
        if asked:
            return await _pay(account, catalogue, asked)
    return Answer(heard.status, skew=heard.skew, cloud=True, counted=model, outcome=outcome)


async def _pay(account: Account, catalogue: Catalogue, model: str) -> Answer:
    """The least that an inference can be: a word in, a token out."""
    heard = await _exchange(account, account.provider.prepare(_inference(model)))
    outcome, meter = _outcome(account, heard), UsageMeter()
    meter.read_json(heard.body)
    usd = catalogue.bill(model, meter.usage).times(account.factor(model)).cost / 1e9
    return Answer(heard.status, skew=heard.skew, cloud=True, asked=model, usd=usd, outcome=outcome)


async def _exchange(account: Account, outgoing: Outgoing) -> _Heard:
    async with asyncio.timeout(SECONDS):
        began = time()
        response = await account.transport.send(
            outgoing.method, outgoing.path, outgoing.headers, outgoing.body, first_byte=SECONDS
        )
        answered = time()
        try:
            body = b""
            while (piece := await response.read()) and len(body) < MOST_BYTES:
                body += piece
        finally:
            response.close()
    date = next((value for name, value in reversed(response.headers) if name == b"date"), b"")
    return _Heard(response.status, response.headers, body, _skew(date, (began + answered) / 2))


def _outcome(account: Account, heard: _Heard) -> Outcome:
    """What an answer of a cloud means."""
    if heard.status < 300:
        return Outcome.SERVED
    return account.provider.refusal(heard.status, heard.headers, heard.body, "").outcome


def _cheapest(account: Account, catalogue: Catalogue, endpoint: str) -> str:
    """The cheapest model that the account is meant to serve at an endpoint, "" if there is none."""
    found = [
        model
        for model in catalogue
        if not model.retired
        and any(fnmatchcase(name, pattern) for name in model.names for pattern in account.config.models)
        and account.provider.serves(endpoint, model.id)
    ]
    return min(found, key=lambda model: model.price.input).id if found else ""


def _count(model: str) -> Call:
    return _call("count_tokens", b"/v1/messages/count_tokens", {"model": model, "messages": _HELLO})


def _inference(model: str) -> Call:
    return _call("messages", b"/v1/messages", {"model": model, "max_tokens": 1, "messages": _HELLO})


def _call(endpoint: str, path: bytes, asked: dict[str, Any]) -> Call:
    peeked = peek(msgspec.json.encode(asked))
    return Call(
        b"POST", path, [*_LINES], peeked.body, asked["model"], version=False, endpoint=endpoint, peek=peeked
    )  # fmt: skip


def _models(body: bytes) -> tuple[str, ...] | None:
    try:
        found = msgspec.json.decode(body, type=_Models)
    except msgspec.DecodeError:
        return None
    return tuple(entry.id for entry in found.data)


def _skew(date: bytes, now: float) -> float | None:
    try:
        return parsedate_to_datetime(date.decode("latin-1")).timestamp() + 0.5 - now  # it was cut to a whole second
    except (ValueError, TypeError):
        return None


# What it means.


def judge(account: AccountConfig, answer: Answer, catalogue: Catalogue) -> Iterator[Finding]:
    """What one account's answer says of it."""
    about = f"account {account.id}"
    if account.state != "active":
        yield warning(about, "state", f"the file says {account.state}", "take state out of it to serve with it again")
    if answer.lacking:
        yield failed(about, "credential", answer.problem, "see docs/clouds.md for what the account needs")
    elif answer.cloud and answer.status:
        yield _of_cloud(about, answer)
    elif answer.spent:
        yield ok(about, "credential", "accepted")
        what = f"its organization is out of credit, over its spending limit or on hold ({answer.status})"
        yield failed(about, "credit", what, "add credit or raise the limit in its console")
    elif answer.status != 200:
        yield _refused(account, about, answer)
    elif answer.models is None:
        yield failed(about, "credential", "what answered is no Messages API", "check base_url")
    else:
        yield ok(about, "credential", f"accepted; {len(answer.models)} models")
        yield from _patterns(account, about, answer.models, catalogue)
    if answer.skew is not None:
        found = clock(about, answer.skew, exact=1.0)
        if found.advice:
            yield caused("ahead" if answer.skew > 0 else "behind", found)


def _of_cloud(about: str, answer: Answer) -> Finding:
    """What the answer to a count of tokens or to an inference says, or that somebody is there."""
    model, status = answer.asked or answer.counted, answer.status
    if not model:
        return ok(about, "reachable", "somebody answers; no call there is free that would show more (--paid makes one)")
    if answer.outcome is Outcome.SERVED and answer.asked:
        return ok(about, "credential", f"accepted; {model} answers (that cost ${answer.usd:.7f})")
    if answer.outcome is Outcome.SERVED:
        return ok(about, "credential", f"accepted; counts tokens of {model}")
    if answer.outcome is Outcome.UNAUTHORIZED:
        return failed(about, "credential", f"refused ({status})", "check the credential and its region")
    if answer.outcome is Outcome.DENIED:
        if answer.asked:
            advice = "ask for access to it, grant the permission, or correct models"
            return failed(about, "models", f"may not use {model} ({status})", advice)
        what = f"may not use {model}, or not count its tokens ({status})"
        return warning(about, "models", what, "ask for access to it, grant the permission, or correct models")
    if answer.outcome is Outcome.LIMITED:
        return warning(about, "credential", f"limited just now ({status})", "it was not refused; try again later")
    if status >= 500:
        return warning(about, "credential", f"the upstream fails ({status})", "see its status page; try again later")
    what = f"cannot serve {model} ({status})" if answer.asked else f"cannot count tokens of {model} ({status})"
    return warning(about, "models", what, "check model_names and profile")


def _refused(account: AccountConfig, about: str, answer: Answer) -> Finding:
    status = answer.status
    if status == 401:
        return failed(about, "credential", "refused (401)", "put a valid key into api_key")
    if status == 403:
        return failed(
            about, "credential", "not allowed (403)", "is the key one for the Messages API, and its IP allowed?"
        )
    end = api_path(account.base_url)
    if end and status in (404, 405):
        what = f"it ends in {end}, to which whole paths are added: nothing there ({status})"
        return failed(about, "base_url", what, f"leave {end} out")
    if status == 404:
        return failed(about, "credential", "nothing there (404)", "check the path of base_url")
    if status == 429:
        return warning(about, "credential", "limited just now (429)", "the key was not refused; try again later")
    if status >= 500:
        return warning(about, "credential", f"the upstream fails ({status})", "see its status page; try again later")
    if status:
        return failed(about, "credential", f"unexpected answer ({status})", "check base_url and proxy")
    way = "proxy" if account.proxy is not None else "base_url"
    hint = f"check {way}, ca_file and the firewall" if "certificate" in answer.problem.lower() else f"check {way}"
    return failed(about, "reachable", answer.problem, f"{hint} and the network")


def _patterns(account: AccountConfig, about: str, models: Sequence[str], catalogue: Catalogue) -> Iterator[Finding]:
    """Whether what the file promises is there. A model is known by its dated id, its short one and its aliases."""
    names = set(models)
    for model in models:
        known = catalogue.find(model)
        if known is not None:
            names.update((known.id, *known.aliases))
    useless = [pattern for pattern in account.models if not any(fnmatchcase(name, pattern) for name in names)]
    served = sum(
        any(fnmatchcase(name, pattern) for name in catalogue.names(model) for pattern in account.models)
        for model in models
    )
    if len(useless) == len(account.models):
        yield failed(about, "models", "no model there fits", f"correct models: {', '.join(useless)}")
    elif useless:
        yield warning(about, "models", f"nothing there fits {', '.join(useless)}", "correct models, or take it out")
    else:
        yield ok(about, "models", f"serves {served} of {len(models)}")


def identities(told: Sequence[tuple[AccountConfig, Answer]]) -> Iterator[Finding]:
    """Whether accounts that the upstream says are of one organization or workspace are so in the file, and others
    not. Two accounts with one key are one mistake, which is told elsewhere."""
    named = [(account, answer.identity) for account, answer in told if answer.identity]
    wrong: set[str] = set()
    for index, (account, its) in enumerate(named):
        for other, theirs in named[:index]:
            if account.api_key and account.api_key == other.api_key:
                continue
            unlike = {
                what: its[what] == theirs[what]
                for what in its.keys() & theirs.keys()
                if (getattr(account, what) == getattr(other, what)) != (its[what] == theirs[what])
            }
            for same in set(unlike.values()):
                whats = " and ".join(sorted(what for what, really in unlike.items() if really == same))
                yield _misnamed(whats, f"{other.id} and {account.id}", same)
            wrong |= unlike.keys()
            if unlike:
                break  # one finding an account is enough
    for what, _ in _IDENTITY:
        those = sum(what in identity for _, identity in named)
        if those and what not in wrong:
            yield ok(what, "headers", f"{those} accounts fit the file")


def _misnamed(what: str, names: str, same: bool) -> Finding:
    if same:
        return failed(what, names, f"the upstream says one {what}, the file two", f"give both the same {what}")
    return failed(what, names, f"the upstream says two {what}s, the file one", f"give them different {what}s")
