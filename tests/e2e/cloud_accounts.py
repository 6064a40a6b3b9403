"""The `accounts` section for simulated accounts at clouds, each with the credential that its cloud prefers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.rig import Simulator


def account_of(simulator: Simulator, provider: str, number: int = 1) -> dict[str, Any]:
    return next(one for one in simulator.accounts if one["id"] == f"sim-{provider}-{number}")


def bedrock(simulator: Simulator, **changes: Any) -> dict[str, Any]:
    """It signs."""
    cloud = account_of(simulator, "bedrock")["cloud"]
    keys = {name: cloud[name] for name in ("access_key_id", "secret_access_key")}
    return {"id": "bedrock", "provider": "bedrock", "base_url": simulator.base_url, "region": "us-east-1",
            "aws": keys, **changes}  # fmt: skip


def mantle(simulator: Simulator, **changes: Any) -> dict[str, Any]:
    return bedrock(simulator, **{"id": "mantle", "api": "mantle", **changes})


def vertex(simulator: Simulator, folder: Path | None = None, **changes: Any) -> dict[str, Any]:
    """It has a token; a service account's key file in `folder`, if that is given."""
    one = account_of(simulator, "vertex")
    made = {"id": "vertex", "provider": "vertex", "base_url": simulator.base_url, "region": "global",
            "project": one["cloud"]["project"]}  # fmt: skip
    if folder is None:
        return {**made, "api_key": one["api_key"], **changes}
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {"type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": pem.decode(),
           "client_email": one["cloud"]["client_email"], "client_id": "1",
           "token_uri": f"{simulator.base_url}/token"}  # fmt: skip
    (folder / "key.json").write_text(json.dumps(key, indent=2))
    return {**made, "credentials": f"${{file:{folder}/key.json}}", **changes}


def foundry(simulator: Simulator, entra: bool = False, **changes: Any) -> dict[str, Any]:
    """It has a key; an application of Entra ID, if that is wanted."""
    one = account_of(simulator, "foundry")
    made = {"id": "foundry", "provider": "foundry", "base_url": f"{simulator.base_url}/anthropic"}
    if not entra:
        return {**made, "api_key": one["api_key"], **changes}
    cloud = one["cloud"]
    app = {"tenant_id": "tenant", "client_id": cloud["client_id"], "client_secret": cloud["client_secret"],
           "authority": simulator.base_url}  # fmt: skip
    return {**made, "entra": app, **changes}


def platform(simulator: Simulator, **changes: Any) -> dict[str, Any]:
    one = account_of(simulator, "aws-platform")
    return {"id": "platform", "provider": "aws-platform", "base_url": simulator.base_url, "region": "us-east-1",
            "workspace_id": one["workspace"], "api_key": one["api_key"], **changes}  # fmt: skip
