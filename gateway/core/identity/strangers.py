"""Issuers that give a token to anybody who asks: what must be required of theirs, or everybody would be let in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_GLOB = re.compile(r"[*?\[]")

# By issuer: the claims of which one must be required, and what a pattern of it must have before its first wildcard for
# it to name somebody (None: no wildcard at all).
_GITHUB = {
    **dict.fromkeys(
        ("repository_id", "repository_owner", "repository_owner_id", "enterprise", "enterprise_id"), None
    ),
    "repository": r"[^/]+/",
    "job_workflow_ref": r"[^/]+/",
    "sub": r"repo:[^/:]+/",
}  # fmt: skip
_GITLAB = {
    **dict.fromkeys(("project_id", "namespace_id", "namespace_path", "user_id", "user_login"), None),
    "project_path": r"[^/]+/",
    "sub": r"project_path:[^/:]+/",
}
_GOOGLE = dict.fromkeys(("sub", "email", "hd", "azp"), None)
_ENTRA = dict.fromkeys(("tid", "oid", "sub", "azp", "appid"), None)
_OPEN: tuple[tuple[str, Mapping[str, str | None]], ...] = (
    (r"https://token\.actions\.githubusercontent\.com(?:/.*)?", _GITHUB),
    (r"https://gitlab\.com/?", _GITLAB),
    (r"(?:https://)?accounts\.google\.com/?", _GOOGLE),
    # Entra's form for any tenant, and the tenant of everybody's private account.
    (
        r"https://(?:login\.microsoftonline\.com|sts\.windows\.net)/"
        r"(?:common|organizations|consumers|\{tenantid\}|9188040d-6c67-4c5b-b112-36a304b66dad)(?:/.*)?",
        _ENTRA,
    ),
)


def wanting(issuer: str, require: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The claims of which one must be required to name somebody, where none does and the issuer serves strangers."""
    for pattern, table in _OPEN:
        if re.fullmatch(pattern, issuer, re.IGNORECASE):
            if any(_named(patterns, table[path]) for path, patterns in require.items() if path in table):
                return ()
            return tuple(table)
    return ()


def _named(patterns: Sequence[str], before: str | None) -> bool:
    """Whether each of the patterns names somebody."""
    return all(
        not (found := _GLOB.search(pattern))
        or (before is not None and re.match(before, pattern[: found.start()]) is not None)
        for pattern in patterns
    )
