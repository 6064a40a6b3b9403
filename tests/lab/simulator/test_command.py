"""`gateway simulate` as a process."""

import asyncio
import json
import signal
import ssl
import sys

import httpx
import pytest
import trustme

from gateway.lab.simulator import World
from tests.lab.simulator.simulator_kit import body, headers

PROGRAM = "import typer; from gateway.lab.simulator.command import simulate; typer.run(simulate)"


async def started(*arguments):
    """The process and its first line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        "--listen",
        "127.0.0.1:0",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, (await asyncio.wait_for(process.stdout.readline(), 30)).decode()


async def ended(process):
    """Its exit code; the pipes are read to their end."""
    await asyncio.wait_for(process.communicate(), 30)
    return process.returncode


async def test_it_prints_one_json_line_serves_and_stops_on_sigterm():
    process, line = await started("--json", "--accounts", "4", "--workspaces", "2", "--answer-tokens", "5-9")
    announced = json.loads(line)
    world = World.grid(accounts=4, workspaces=2)
    assert [account["id"] for account in announced["accounts"]] == [account.id for account in world]
    assert announced["accounts"][3].keys() >= {"id", "api_key", "workspace", "organization"}
    async with httpx.AsyncClient(base_url=announced["base_url"]) as client:
        answer = await client.post("/v1/messages", json=body(), headers=headers(world.accounts[3]))
        assert 5 <= answer.json()["usage"]["output_tokens"] <= 9
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 0


async def test_it_prints_a_table_for_people_reads_a_world_file_and_stops_on_sigint(tmp_path):
    world = tmp_path / "world.yaml"
    world.write_text("accounts:\n- {id: one, api_key: k1, workspace: w, organization: o, models: [claude-opus-5]}\n")
    process, line = await started("--config", str(world))
    assert line.startswith("http://127.0.0.1:")
    assert (await process.stdout.readline()).decode().split() == ["one", "k1", "w", "o"]
    process.send_signal(signal.SIGINT)
    assert await ended(process) == 0


async def test_it_ends_with_its_parent():
    process, _ = await started("--json", "--parent-watch")
    process.stdin.close()
    assert await ended(process) == 0


async def test_it_serves_tls(tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(tmp_path / "cert.pem"), append=True)
    process, line = await started(
        "--json", "--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    url = json.loads(line)["base_url"]
    assert url.startswith("https://")
    async with httpx.AsyncClient(base_url=url, verify=context) as client:
        assert (await client.head("/api/hello")).status_code == 200
        head = headers(World.grid().accounts[0], x_sim_fault="reset")
        with pytest.raises(httpx.TransportError):
            await client.post("/v1/messages", json=body(), headers=head)
    process.terminate()
    assert await ended(process) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen", "nowhere"],
        ["--accounts", "2", "--workspaces", "3"],
        ["--answer-tokens", "9-5"],
        ["--answer-tokens", "many"],
        ["--tls-key", "key.pem"],
        ["--config", "/nonexistent/world.yaml"],
    ],
)
async def test_wrong_use_is_exit_code_2_with_a_reason(arguments):
    process, line = await started(*arguments)
    _, error = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, line) == (2, "")
    assert error.startswith(b"simulate: ")


async def test_an_address_that_is_taken_is_exit_code_1():
    first, line = await started("--json")
    port = json.loads(line)["base_url"].rpartition(":")[2]
    second, _ = await started("--listen", f"127.0.0.1:{port}")
    assert await ended(second) == 1
    first.terminate()
    assert await ended(first) == 0
