"""`gateway usage` as its users run it, against a real admin listener and a real store that is filled by hand."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import uvicorn
from typer.testing import CliRunner

from gateway.admin.desks.usage import Usage
from gateway.commands.usage import app
from gateway.config.file import load
from gateway.store.ledger.ledger import Entry
from gateway.store.ledger.usage import UsageReader
from tests.admin.admin_kit import admin_app
from tests.e2e.rig import ADMIN_TOKEN, SECRET, Store, free_port, until

DATABASE = 9
RECORDS = 2500
MODEL, DATED, OTHER = "claude-haiku-4-5", "claude-haiku-4-5-20251001", "claude-opus-4-6"
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)  # of all that was used
ACCOUNTS = [
    {"id": "a", "organization": "acme", "workspace": "one"},
    {"id": "b", "organization": "acme", "workspace": "two"},
    {"id": "c", "organization": "other", "workspace": "three"},
]


class Accounts:
    """A desk that shows these."""

    def all(self) -> list[dict[str, str]]:
        return ACCOUNTS


class Admin:
    """An admin listener with nothing but accounts and usage."""

    def __init__(self, url: str, folder: Path) -> None:
        self.port = free_port()
        self.file = folder / "gateway.yaml"
        config = {
            "admin": {"listen": f"127.0.0.1:{self.port}", "token": ADMIN_TOKEN}, "secret": SECRET,
            "accounts": [{"id": "a", "api_key": "sk-a"}],
        }  # fmt: skip
        self.file.write_text(json.dumps(config))
        reader = UsageReader(url)

        loaded = load(self.file)

        async def told() -> None:
            pass

        app = admin_app(lambda: loaded, usage=Usage(reader, time.time, told), accounts=Accounts())
        options: dict[str, Any] = {"log_config": None, "ws": "none", "lifespan": "off"}
        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, **options))

        async def serve() -> None:
            await self._server.serve()
            await reader.close()

        self._thread = threading.Thread(target=asyncio.run, args=(serve(),))
        self._thread.start()
        until(lambda: self._server.started, "the listener")

    def end(self) -> None:
        self._server.should_exit = True
        self._thread.join()


def fill(client: redis.Redis) -> None:
    """A day's totals and records, in the layout that settlements write."""

    def count(tenant: str, key: str, model: str, account: str, *numbers: int) -> None:
        client.sadd("{pool}:tenants", tenant)
        for name in (f"h:{DAY:%Y%m%d}15", f"d:{DAY:%Y%m%d}"):
            packed = msgspec.msgpack.encode(numbers)
            client.hset(f"{{{tenant}}}:u:{name}", f"{key}\0{model}\0{account}", packed)

    count("t:research", "alice", MODEL, "a", 10, 1, 1000, 8000, 500, 500, 200, 1_234_567_890_123, 2_000_000_000)
    count("t:research", "carol", OTHER, "b", 4, 0, 100, 0, 0, 0, 10, 2_000_007, 0)
    count("c:bob", "bob", MODEL, "a", 2, 0, 20, 0, 0, 0, 2, 1, 0)
    count("c:bob", "bob", MODEL, "c", 5, 0, 70, 0, 0, 0, 7, 500_000_000, 0)
    for number in range(RECORDS):
        record("t:research", "alice", number, client)
    record("c:bob", "bob", RECORDS, client)


def record(tenant: str, key: str, number: int, client: redis.Redis) -> None:
    at = int(DAY.timestamp() + 15 * 3600 + number) * 1000
    team = tenant.removeprefix("t:") if tenant.startswith("t:") else ""
    entry = Entry(f"req_{number}", at, at + 500, key, team, MODEL, "a", "/v1/messages", input=number, cost_nano=number)
    entries = [entry]
    if number % 100 == 7:  # one that was an estimate before
        entries.insert(0, msgspec.structs.replace(entry, provisional=True, estimated=1, input=3))
    for order, each in enumerate(entries):
        client.xadd(f"{{{tenant}}}:s", {"r": msgspec.msgpack.encode(each)}, id=f"{at}-{order + 1}")


@pytest.fixture(scope="module")
def admin(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    url = f"{store.url}/{DATABASE}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        fill(client)
    admin = Admin(url, tmp_path_factory.mktemp("usage"))
    yield admin
    admin.end()


@pytest.fixture
def run(admin: Admin) -> Any:
    """The command with these words: exit code, what it printed, what it said."""

    def run(
        *words: str | Path, file: Path | None = admin.file, env: dict[str, str] | None = None
    ) -> tuple[int, str, str]:
        config = ["--config", str(file)] if file is not None else []
        done = CliRunner(env={"TERM": "dumb", "HTTP_PROXY": "http://127.0.0.1:9", **(env or {})}).invoke(
            app, [*map(str, words), *config]
        )
        return done.exit_code, done.stdout, done.stderr

    return run


# -- The table --------------------------------------------------------------------------------------------------------


def cells(text: str, first: str) -> list[str]:
    """The cells of the line that begins with this one."""
    lines = [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in text.splitlines()]
    return next(line for line in lines if line[0] == first)


def test_usage_is_a_table_with_hit_rates_dollars_and_totals(run):
    before = datetime.now(UTC)
    code, out, err = run("--from", "7d")
    days = {f"{at - timedelta(days=7):%Y-%m-%d}" for at in (before, datetime.now(UTC))}  # midnight may come meanwhile
    assert (code, err) == (0, "")
    assert any(f"{day} 00:00 to now, UTC" in out for day in days)
    assert cells(out, "alice")[1:] == ["10", "1", "1,000", "8,000", "1,000", "200", "80.0%", "$1,234.57", "$2.00"]
    assert cells(out, "carol")[1:] == ["4", "0", "100", "0", "0", "10", "0.0%", "$0.002000", "$0.00"]
    assert cells(out, "total")[1:] == ["21", "1", "1,190", "8,000", "1,000", "219", "78.5%", "$1,235.07", "$2.00"]
    assert out.index("alice") < out.index("bob") < out.index("carol")


def test_usage_can_be_grouped_by_several_names_and_narrowed(run):
    code, out, _ = run("--from", "7d", "--group-by", "team,model", "--model", MODEL, "--account", "a", "--account", "c")
    assert code == 0
    assert cells(out, "research")[1:3] == [MODEL, "10"]
    assert cells(out, "-")[1:3] == [MODEL, "7"]
    assert OTHER not in out
    code, out, _ = run("--from", "7d", "--group-by", "day", "--json")
    assert [(row["day"], row["requests"]) for row in json.loads(out)] == [(f"{DAY:%Y-%m-%d}", 21)]


def test_usage_comes_as_json_and_csv_with_money_exact(run):
    code, out, _ = run("--from", "7d", "--group-by", "key,account", "--json")
    rows = json.loads(out)
    assert (code, rows[0]["key"], rows[0]["account"]) == (0, "alice", "a")
    assert rows[0]["cost_usd"] == 1234.567890123
    code, out, _ = run("--from", "7d", "--group-by", "key,account", "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert (code, len(table)) == (0, 4)
    assert [row["cost_usd"] for row in table] == ["1234.567890123", "0.5", "0.002000007", "0.000000001"]
    assert list(table[0])[:4] == ["key", "account", "requests", "estimated_requests"]


def test_nothing_used_is_an_empty_table(run):
    code, out, err = run("--from", "2d", "--to", "1d")
    assert (code, err) == (0, "") and "cost" in out and "total" not in out
    assert run("--from", "2d", "--to", "1d", "--json")[1] == "[]\n"


def test_a_gateway_whose_file_is_elsewhere_is_asked_by_its_address(run, admin, tmp_path):
    words = ["--from", "7d", "--json", "--url", f"http://127.0.0.1:{admin.port}/"]
    (tmp_path / "token").write_text(f"{ADMIN_TOKEN}\n")
    assert len(json.loads(run(*words, "--token-file", tmp_path / "token", file=None)[1])) == 3
    assert len(json.loads(run(*words, file=None, env={"GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN})[1])) == 3
    code, out, err = run(*words, file=None, env={"GATEWAY_ADMIN_TOKEN": "another"})
    assert code == 1 and "another admin.token" in err  # the listener, which is in this process, logs to stdout
    code, out, err = run(*words, "--token-file", tmp_path / "none", file=None)
    assert (code, out) == (2, "") and "cannot read" in err
    code, out, err = run(
        "--url", f"http://127.0.0.1:{free_port()}", file=None, env={"GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN}
    )
    assert (code, out) == (1, "") and "no gateway answers at http://127.0.0.1" in err
    for bad in ("127.0.0.1:8081", "ftp://x", "http://[", "https://"):
        code, out, err = run("--url", bad, file=None)
        assert (code, out) == (2, "") and "--url must be" in err, bad


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--from", "yesterday"], "--from must be a time"),
        (["--from", "1d", "--to", "2d"], "--from must be before to"),
        (["--group-by", "colour"], "group_by must be one of"),
        (["--json", "--csv"], "not both"),
        (["--from", "7d", "export", "--out", "records.jsonl"], "options come after the command: gateway usage export"),
        (["export", "--out", "records.txt"], "--out must end in .jsonl or .parquet"),
        (["reconcile", "--report", "none.json"], "cannot read none.json"),
        (["reconcile", "--report", "/dev/null", "--workspace", "one"], "--workspace must be OURS=THEIRS"),
    ],
)
def test_wrong_use_is_said_in_one_line(run, words, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert (code, out) == (2, "") and part in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# -- Export -----------------------------------------------------------------------------------------------------------


def test_every_record_is_exported_once_over_many_pages(run, tmp_path):
    out = tmp_path / "usage.jsonl"
    code, said, err = run("export", "--from", "7d", "--out", out)
    assert (code, said, err) == (0, f"{RECORDS + 1:,} records in {out}\n", "")
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(each["request_id"] for each in records) == sorted(f"req_{number}" for number in range(RECORDS + 1))
    assert records[1]["cost_usd"] == (RECORDS - 1) / 1e9 and records[1]["input_tokens"] == RECORDS - 1
    assert not any(each["provisional"] for each in records)
    assert [each.name for each in tmp_path.iterdir()] == [out.name]


def test_an_export_takes_in_no_other_time(run, tmp_path):
    out = tmp_path / "usage.jsonl"
    code, said, _ = run("export", "--from", f"{DAY:%Y-%m-%d}T16:00:00Z", "--to", "0d", "--out", out)
    assert (code, said, out.read_text()) == (0, f"0 records in {out}\n", "")


def test_an_export_that_fails_leaves_what_was_there(run, tmp_path):
    out = tmp_path / "usage.jsonl"
    out.write_text("of last month")
    words = ["export", "--out", out, "--url", f"http://127.0.0.1:{free_port()}"]
    code, _, _ = run(*words, file=None, env={"GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN})
    assert (code, out.read_text(), len(list(tmp_path.iterdir()))) == (1, "of last month", 1)
    code, _, err = run("export", "--out", tmp_path / "none" / "usage.jsonl")
    assert code == 1 and "cannot write" in err


def test_parquet_needs_a_package_and_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, out, err = run("export", "--out", tmp_path / "usage.parquet")
    assert (code, out) == (2, "") and "pip install pyarrow" in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# -- Reconcile --------------------------------------------------------------------------------------------------------


def report(folder: Path, *results: dict[str, Any], hours: int = 24) -> Path:
    """Anthropic's report of the day, as it would be downloaded."""
    bucket = {"starting_at": DAY.isoformat(), "ending_at": (DAY + timedelta(hours=hours)).isoformat()}
    file = folder / "report.json"
    file.write_text(json.dumps({"data": [{**bucket, "results": results}], "has_more": False, "next_page": None}))
    return file


def result(model: str, input: int, output: int, read: int = 0, written: tuple[int, int] = (0, 0), **more: Any) -> Any:
    return {
        "uncached_input_tokens": input, "output_tokens": output, "cache_read_input_tokens": read, "model": model,
        "cache_creation": {"ephemeral_5m_input_tokens": written[0], "ephemeral_1h_input_tokens": written[1]},
        "api_key_id": None, "workspace_id": None, "service_tier": None, "context_window": None, **more,
    }  # fmt: skip


EXACT = (result(DATED, 1020, 202, 8000, (500, 500)), result(OTHER, 100, 10))


def test_a_report_that_agrees_is_a_table_without_differences(run, tmp_path):
    code, out, err = run("reconcile", "--report", report(tmp_path, *EXACT), "--organization", "acme")
    assert (code, err) == (0, "")
    assert "organization acme" in out
    code, out, _ = run("reconcile", "--report", report(tmp_path, *EXACT), "--organization", "acme", "--json")
    rows = json.loads(out)
    assert (code, len(rows), {row["organization"] for row in rows}) == (0, 7, {"acme"})
    assert {(row["difference"], row["unexplained"]) for row in rows} == {(0, 0)}
    found = {(row["model"], row["tokens"]): (row["theirs"], row["ours"]) for row in rows}
    assert found[MODEL, "cache_creation.ephemeral_1h_input_tokens"] == (500, 500)


def test_a_difference_that_nothing_explains_fails_and_tolerance_is_the_askers(run, tmp_path):
    file = report(tmp_path, EXACT[0], result(OTHER, 103, 10))
    code, out, err = run("reconcile", "--report", file, "--account", "a", "--account", "b")
    assert code == 1 and "2.91%" in err and "2.91%" in out
    assert run("reconcile", "--report", file, "--organization", "acme", "--tolerance", "3")[0] == 0


def test_estimated_requests_and_other_keys_are_named_as_causes(run, tmp_path):
    mine = result(MODEL, 1050, 202, 8000, (500, 500), api_key_id="ours"), {**EXACT[1], "api_key_id": "ours"}
    file = report(tmp_path, *mine, result(OTHER, 7, 7, api_key_id="of others"))
    words = ["reconcile", "--report", file, "--organization", "acme", "--api-key-id", "ours"]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert "estimates +30" in out and "other keys +7" in out
    code, out, _ = run(*words, "--json")
    explained = {(row["model"], row["tokens"]): row["explained"] for row in json.loads(out)}
    assert explained[MODEL, "uncached_input_tokens"] == {"other": 0, "batch": 0, "estimated": 30, "edges": 0}
    assert explained[OTHER, "output_tokens"] == {"other": 7, "batch": 0, "estimated": 0, "edges": 0}


def test_an_edge_in_a_busy_hour_explains_what_was_under_way(run, tmp_path):
    """All was used in the hour from 15:00: a twelfth of it, about, may count beyond 16:00, and none beyond midnight."""
    results = EXACT[0], result(OTHER, 103, 10)
    words = ["--organization", "acme", "--json"]
    code, out, _ = run("reconcile", "--report", report(tmp_path, *results, hours=16), *words)
    [row] = [row for row in json.loads(out) if row["difference"]]
    assert (code, row["explained"]["edges"], row["unexplained"]) == (0, 3, 0)
    assert run("reconcile", "--report", report(tmp_path, *results), *words)[0] == 1


def test_workspaces_are_compared_one_by_one_if_their_ids_are_given(run, tmp_path):
    file = report(tmp_path, EXACT[0], {**EXACT[1], "workspace_id": "wrkspc_2"})
    places = ["--workspace", "one=default", "--workspace", "two=wrkspc_2"]
    code, out, _ = run("reconcile", "--report", file, "--organization", "acme", *places, "--json")
    assert (code, {(row["workspace"], row["model"]) for row in json.loads(out)}) == (
        0,
        {("one", MODEL), ("two", OTHER)},
    )


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "give --organization: acme, other"),
        (["--organization", "none"], "no account is in the organization none"),
        (["--account", "z"], "no account of the id z"),
        (["--organization", "acme", "--api-key-id", "ours"], "does not tell API keys apart"),
    ],
)
def test_a_report_that_cannot_be_matched_is_wrong_use(run, tmp_path, words, part):
    code, out, err = run("reconcile", "--report", report(tmp_path, *EXACT), *words)
    assert (code, out) == (2, "") and part in err and len(err.splitlines()) == 1
    file = tmp_path / "page.json"
    file.write_text('{"error": "not_found"}')
    code, out, err = run("reconcile", "--report", file)
    assert (code, out) == (2, "") and "not a usage report" in err
