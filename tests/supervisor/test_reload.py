"""Which changes of a file a running gateway takes over, and how it notices them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client import CollectorRegistry

from gateway.config.file import loads
from gateway.config.schema import Config
from gateway.log import captured
from gateway.supervisor import reload
from gateway.supervisor.reload import RELOADABLE, Reloader, compare

BASE: dict[str, Any] = {
    "admin": {"token": "token-of-the-operator"},
    "secret": "0123456789abcdef0123456789abcdef",
    "accounts": [{"id": "a", "api_key": "sk-ant-a"}, {"id": "b", "api_key": "sk-ant-b"}],
    "keys": [{"id": "alice", "key": "sk-alice"}, {"id": "bob", "key": "sk-bob"}],
}


def text(**changes: Any) -> str:
    return yaml.safe_dump({**BASE, **changes})


def config(**changes: Any) -> Config:
    return loads(text(**changes), {})


def test_nothing_changes_nothing():
    change = compare(config(), config())
    assert change == (change.__class__(config(), (), ()))


def test_accounts_and_callers_that_changed_are_named_one_by_one():
    accounts = [{"id": "b", "api_key": "sk-ant-new"}, {"id": "c", "api_key": "sk-ant-c"}]
    loaded = config(accounts=accounts, keys=[{"id": "alice", "key": "sk-alice"}, {"id": "carol", "key": "sk-carol"}])
    change = compare(config(), loaded)
    assert change.changed == ("accounts.a", "accounts.b", "accounts.c", "keys.bob", "keys.carol")
    assert (change.config, change.restart) == (loaded, ())
    reordered = compare(config(), config(accounts=BASE["accounts"][::-1]))
    assert reordered.changed == ("accounts",)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"admin": {"token": "another-token-of-operators"}}, "admin.token"),
        (
            {"admin": {**BASE["admin"], "tokens": [{"id": "grafana", "token": "token-of-grafana-alone"}]}},
            "admin.tokens.grafana",
        ),
        ({"admin": {**BASE["admin"], "metrics_open": True}}, "admin.metrics_open"),
        ({"affinity": {"remember": 60}}, "affinity.remember"),
        ({"expose_account": False}, "expose_account"),
        ({"retry_ambiguous": True}, "retry_ambiguous"),
        ({"share": "team"}, "share"),
        ({"cors": {"origins": ["https://chat.acme.test"]}}, "cors.origins"),
        ({"public_url": "https://llm.acme.test"}, "public_url"),
        ({"trusted_proxies": ["10.0.0.0/8"]}, "trusted_proxies"),
        ({"models": {"aliases": {"fast": "claude-haiku-4-5"}}}, "models.aliases"),
        ({"models": {"catalogue": {"claude-haiku-4-5": {"output": 4}}}}, "models.catalogue"),
    ],
)
def test_settings_that_need_no_restart_are_taken_over(changes, named):
    change = compare(config(), config(**changes))
    assert (change.config, change.changed, change.restart) == (config(**changes), (named,), ())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"listen": "127.0.0.1:1"}, "listen"),
        ({"admin": {**BASE["admin"], "listen": "127.0.0.1:2"}}, "admin.listen"),
        ({"workers": 2}, "workers"),
        ({"redis": "redis://elsewhere"}, "redis"),
        ({"data_dir": "/elsewhere"}, "data_dir"),
        ({"secret": "f" * 32}, "secret"),
        ({"affinity": {"header": "X-Other"}}, "affinity.header"),
        ({"timeouts": {"idle": 5}}, "timeouts.idle"),
        ({"limits": {"max_body_mb": 5}}, "limits.max_body_mb"),
        ({"limits": {"max_held_mb": 600}}, "limits.max_held_mb"),
        ({"log": {"level": "debug"}}, "log.level"),
    ],
)
def test_settings_that_need_a_restart_keep_their_running_value(changes, named):
    change = compare(config(), config(**changes, expose_account=False))
    assert (change.changed, change.restart) == (("expose_account",), (named,))
    assert change.config == config(expose_account=False)


def test_every_setting_is_one_or_the_other():
    """Whatever a new setting is called, `compare` sees it: a reload never drops a change in silence."""
    running = config()
    for name in Config.__struct_fields__:
        value = getattr(running, name)
        if name in ("accounts", "keys", "issuers", "teams"):
            continue
        settings = {name: msgspec.structs.replace(running, **{name: ("other", value)})}
        if isinstance(value, msgspec.Struct):
            settings = {
                f"{name}.{inner}": msgspec.structs.replace(
                    running, **{name: msgspec.structs.replace(value, **{inner: ("other", getattr(value, inner))})}
                )
                for inner in value.__struct_fields__
            }
        settings.pop("admin.tokens", None)  # a list like accounts
        for setting, other in settings.items():
            change = compare(running, other)
            assert (setting in change.changed) == (setting in RELOADABLE)
            assert (setting in change.restart) == (setting not in RELOADABLE)
            assert (change.config == other) == (setting in RELOADABLE)


# -- Following a file -------------------------------------------------------------------------------------------------


class Followed:
    """A file, and a reloader that follows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.applied: asyncio.Queue[Config] = asyncio.Queue()
        self.running = config()
        self.registry = CollectorRegistry()
        self.reloader = Reloader(path, lambda: self.running, self._apply, self.registry)

    async def _apply(self, config: Config) -> None:
        self.running = config
        self.applied.put_nowait(config)

    def good(self) -> float | None:
        return self.registry.get_sample_value("gateway_config_last_reload_successful")

    async def next(self) -> Config:
        async with asyncio.timeout(20):
            return await self.applied.get()


@pytest.fixture
async def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Followed]:
    monkeypatch.setattr(reload, "_QUIET", 0.05)
    path = tmp_path / "gateway.yaml"
    path.write_text(text())
    made = Followed(path)
    running = asyncio.create_task(made.reloader.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_change_between_loading_and_following_is_not_missed(tmp_path: Path):
    path = tmp_path / "gateway.yaml"
    path.write_text(text(expose_account=False))
    made = Followed(path)  # it runs with what the file said before
    running = asyncio.create_task(made.reloader.run())
    assert not (await made.next()).expose_account
    running.cancel()


async def test_an_old_file_is_not_read_again_before_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "gateway.yaml"
    path.write_text(text(expose_account=False))
    monkeypatch.setattr(reload, "_FRESH", -1.0)
    monkeypatch.setattr(reload, "_QUIET", 0.05)
    made = Followed(path)
    running = asyncio.create_task(made.reloader.run())
    await asyncio.sleep(0.1)
    path.write_text(text(retry_ambiguous=True))
    assert (await made.next()).retry_ambiguous
    running.cancel()


async def test_each_change_is_applied_once(followed: Followed):
    for remember in (10.0, 20.0, 30.0):
        followed.path.write_text(text(affinity={"remember": remember}))
        assert (await followed.next()).affinity.remember == remember
    assert followed.applied.empty() and followed.good() == 1


async def test_a_file_that_is_not_finished_yet_is_not_read(followed: Followed, monkeypatch: pytest.MonkeyPatch):
    """Each part is a file that could be used, with fewer accounts than were meant."""
    monkeypatch.setattr(reload, "_QUIET", 0.5)
    accounts = [{"id": f"a{number}", "api_key": f"sk-{number}"} for number in range(20)]
    parts = [text(accounts=accounts[:number]) for number in range(2, 21)]
    for part in parts:
        followed.path.write_text(part)
        await asyncio.sleep(0.01)
    assert len((await followed.next()).accounts) == 20
    assert followed.applied.empty()


async def test_a_file_that_cannot_be_used_costs_one_line_and_the_next_good_one_counts(followed: Followed):
    with captured() as logs:
        followed.path.write_text(text(wokers=3))
        async with asyncio.timeout(20):
            while followed.good():  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        failed = [line for line in logs if line["event"] == "config reload failed"]
        assert len(failed) == 1 and 'did you mean "workers"?' in failed[0]["reason"]
        followed.path.write_text(text(expose_account=False))
        await followed.next()
        assert followed.good() == 1
        followed.path.unlink()
        async with asyncio.timeout(20):
            while followed.good():  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
        followed.path.write_text(text(expose_account=False))  # as it was: nothing to apply, and yet good again
        async with asyncio.timeout(20):
            while not followed.good():  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
    assert followed.applied.empty()


async def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reload, "_QUIET", 0.05)
    for name, exposed in (("one", True), ("two", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "real.yaml").write_text(text(expose_account=exposed))
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "gateway.yaml").symlink_to(tmp_path / "one/real.yaml")
    made = Followed(mount / "gateway.yaml")
    running = asyncio.create_task(made.reloader.run())
    await asyncio.sleep(0.2)
    (mount / "next").symlink_to(tmp_path / "two/real.yaml")
    os.replace(mount / "next", mount / "gateway.yaml")
    assert not (await made.next()).expose_account
    (tmp_path / "two/real.yaml").write_text(text(retry_ambiguous=True))  # in the folder that counts now
    assert (await made.next()).retry_ambiguous
    running.cancel()


async def test_a_folder_that_is_gone_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reload, "_QUIET", 0.05)
    monkeypatch.setattr(reload, "LOOK_EVERY", 0.1)
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "gateway.yaml"
    path.write_text(text())
    made = Followed(path)
    running = asyncio.create_task(made.reloader.run())
    await asyncio.sleep(0.2)
    folder.rename(tmp_path / "moved")
    await asyncio.sleep(0.3)
    folder.mkdir()
    path.write_text(text(expose_account=False))
    assert not (await made.next()).expose_account
    path.write_text(text(retry_ambiguous=True))
    assert (await made.next()).retry_ambiguous
    running.cancel()


async def test_what_goes_wrong_in_applying_ends_nothing(followed: Followed, monkeypatch: pytest.MonkeyPatch):
    async def broken(config: Config) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(followed.reloader, "_apply", broken)
    with captured() as logs:
        followed.path.write_text(text(expose_account=False))
        async with asyncio.timeout(20):
            while followed.good():  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["config reload failed"]
    monkeypatch.undo()
    followed.path.write_text(text(expose_account=False, retry_ambiguous=True))
    assert (await followed.next()).retry_ambiguous


def test_a_gateway_without_a_file_shows_the_families_too():
    registry = CollectorRegistry()
    Reloader(None, config, _nothing, registry)
    assert registry.get_sample_value("gateway_config_last_reload_successful") == 1
    assert registry.get_sample_value("gateway_config_last_reload_success_timestamp_seconds")


async def _nothing(config: Config) -> None:
    raise AssertionError
