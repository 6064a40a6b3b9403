"""The official clients of the clouds, pointed at the simulator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anthropic
import boto3
from botocore.config import Config

from gateway.lab.simulator import Account, Cloud, Simulator

MODEL = "claude-haiku-4-5"
PROFILE = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
BASE = "anthropic.claude-haiku-4-5-20251001-v1:0"
NAMES = {
    "bedrock": PROFILE,
    "signed": PROFILE,
    "mantle": "anthropic.claude-haiku-4-5",
    "vertex": "claude-haiku-4-5@20251001",
    "foundry": MODEL,
    "platform": MODEL,
}
ACCOUNTS = {"bedrock": "sim-bedrock-1", "signed": "sim-bedrock-1", "mantle": "sim-bedrock-1", "vertex": "sim-vertex-1",
            "foundry": "sim-foundry-1", "platform": "sim-aws-platform-1"}  # fmt: skip


def account(sim: Simulator, client: str) -> tuple[Account, Cloud]:
    found = sim.world[ACCOUNTS[client]]
    assert found.cloud is not None
    return found, found.cloud


@contextlib.contextmanager
def client(sim: Simulator, which: str, **options: Any) -> Iterator[Any]:
    """The SDK's client of a cloud; `bedrock` has a key, `signed` signs."""
    one, cloud = account(sim, which)
    keys = {"aws_access_key": cloud.access_key_id, "aws_secret_key": cloud.secret_access_key}
    url, region, more = sim.base_url, "us-east-1", {"max_retries": 0, **options}
    makers: dict[str, Any] = {
        "bedrock": lambda: anthropic.AnthropicBedrock(api_key=one.api_key, aws_region=region, base_url=url, **more),
        "signed": lambda: anthropic.AnthropicBedrock(aws_region=region, base_url=url, **{**keys, **more}),
        "mantle": lambda: anthropic.AnthropicBedrockMantle(
            aws_region=region, base_url=f"{url}/anthropic", **{**keys, **more}
        ),
        "vertex": lambda: anthropic.AnthropicVertex(
            access_token=one.api_key, region="global", project_id=cloud.project, base_url=f"{url}/v1", **more
        ),
        "foundry": lambda: anthropic.AnthropicFoundry(api_key=one.api_key, base_url=f"{url}/anthropic", **more),
        "platform": lambda: anthropic.AnthropicAWS(
            aws_region=region, workspace_id=one.workspace, base_url=url, **{**keys, **more}
        ),
    }
    with makers[which]() as made:
        yield made


@contextlib.contextmanager
def boto(sim: Simulator, **keys: str) -> Iterator[Any]:
    """boto3's client of Bedrock, with the account's keys or other ones."""
    _, cloud = account(sim, "bedrock")
    given = {"aws_access_key_id": cloud.access_key_id, "aws_secret_access_key": cloud.secret_access_key}
    config = Config(retries={"total_max_attempts": 1})
    made = boto3.client(
        "bedrock-runtime", region_name="us-east-1", endpoint_url=sim.base_url, config=config, **(given | keys)
    )
    with contextlib.closing(made):
        yield made
