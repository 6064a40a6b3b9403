"""The collections of plain objects under `/v1/`: how each is named, what its objects have, what can be done to them.

Adding a collection is adding a row to `KINDS`; a sub-resource without a row in `SUBS` gets a shape from its name.
"""

from typing import Any

import msgspec

__all__ = ["KINDS", "SUBS", "Kind", "Sub", "sub_of"]


class Kind(msgspec.Struct, frozen=True):
    """`fields` is what an object has where its creator said nothing, `required` what the creator must say.

    `actions` are changes by the last word of `POST /v1/<kind>/{id}/<action>`. Ids are known in the workspace, or in
    the whole organization where the kind is `of_organization`.
    """

    type: str
    prefix: str
    label: str
    fields: dict[str, Any] = {}
    required: tuple[str, ...] = ()
    actions: dict[str, dict[str, Any]] = {}
    of_organization: bool = False
    creatable: bool = True


class Sub(msgspec.Struct, frozen=True):
    """A sub-resource; `deleted` is the type of the answer to its deletion, `fields` as for a kind."""

    type: str
    prefix: str
    deleted: str
    fields: dict[str, Any] = {}


_TOKENS = {"input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
_CLOUD = {
    "type": "cloud",
    "networking": {"type": "unrestricted"},
    "packages": {"type": "packages", "apt": [], "cargo": [], "gem": [], "go": [], "npm": [], "pip": []},
}

KINDS: dict[str, Kind] = {
    "agents": Kind(
        "agent",
        "agent_",
        "Agent",
        {
            "description": None,
            "execution_identity": {"type": "service_account"},
            "mcp_servers": [],
            "metadata": {},
            "multiagent": None,
            "skills": [],
            "system": None,
            "tools": [],
            "version": 1,
        },
        ("model", "name"),
    ),
    "sessions": Kind(
        "session",
        "sesn_",
        "Session",
        {
            "budget": None,
            "deployment_id": None,
            "metadata": {},
            "outcome_evaluations": [],
            "resources": [],
            "stats": {"active_seconds": 0.0, "duration_seconds": 0.0},
            "status": "idle",
            "title": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
            "vault_ids": [],
        },
        ("agent", "environment_id"),
    ),
    "environments": Kind(
        "environment",
        "env_",
        "Environment",
        {"config": _CLOUD, "description": None, "metadata": {}, "scope": "organization"},
        ("name",),
    ),
    "vaults": Kind("vault", "vlt_", "Vault", {"metadata": {}}, ("display_name",)),
    "memory_stores": Kind("memory_store", "memstore_", "Memory store", {"description": "", "metadata": {}}, ("name",)),
    "deployments": Kind(
        "deployment",
        "depl_",
        "Deployment",
        {
            "budget": None,
            "description": None,
            "metadata": {},
            "paused_reason": None,
            "resources": [],
            "schedule": None,
            "status": "active",
            "vault_ids": [],
        },
        ("agent", "environment_id", "initial_events", "name"),
        {
            "pause": {"status": "paused", "paused_reason": {"type": "manual"}},
            "unpause": {"status": "active", "paused_reason": None},
        },
    ),
    "deployment_runs": Kind("deployment_run", "drun_", "Deployment run", creatable=False),
    "dreams": Kind(
        "dream",
        "drm_",
        "Dream",
        {
            "ended_at": None,
            "error": None,
            "instructions": None,
            "output_behavior": {"type": "create_new"},
            "outputs": [],
            "session_id": None,
            "status": "pending",
            "usage": _TOKENS,
        },
        ("inputs", "model"),
        {"cancel": {"status": "canceled"}},
    ),
    "tunnels": Kind("tunnel", "tnl_", "Tunnel", {"display_name": None}),
    "user_profiles": Kind(
        "user_profile",
        "uprof_",
        "User profile",
        {
            "access_type": "application",
            "enforcement_actions": [],
            "enforcement_status": "unrestricted",
            "external_user_details": {},
            "metadata": {},
            "name": None,
            "programs": {},
            "trust_grants": {},
        },
        of_organization=True,
    ),
}

SUBS: dict[tuple[str, str], Sub] = {
    ("memory_stores", "memories"): Sub("memory", "mem_", "memory_deleted"),
    ("memory_stores", "memory_versions"): Sub("memory_version", "memver_", "memory_version_deleted"),
    ("vaults", "credentials"): Sub("vault_credential", "vcrd_", "vault_credential_deleted", {"metadata": {}}),
    ("sessions", "resources"): Sub("file", "sesrsc_", "session_resource_deleted"),
    ("sessions", "threads"): Sub("session_thread", "sthr_", "session_thread_deleted"),
    ("tunnels", "certificates"): Sub("tunnel_certificate", "tcrt_", "tunnel_certificate_deleted", {"fingerprint": ""}),
    ("environments", "work"): Sub("work", "work_", "work_deleted", {"metadata": {}, "state": "queued", "secret": None}),
}


def sub_of(kind: str, name: str) -> Sub:
    """The sub-resource of that name, known or made up."""
    known = SUBS.get((kind, name))
    if known is not None:
        return known
    single = name.removesuffix("s")
    return Sub(single, f"{single[:8]}_", f"{single}_deleted")
