"""What the file says of caches that accounts share, against what their rows tell of it. Nobody is asked."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config.account import Account

__all__ = ["domain_warnings"]

_REGIONAL = ("bedrock", "vertex")  # whose regions share no cache
_OWN = ("anthropic", "aws-platform")  # both Anthropic's: a workspace may be one of either


def domain_warnings(accounts: Iterable[Account]) -> list[str]:
    """Accounts that share a cache by their rows and not by their workspaces, or the reverse, one line each."""
    warnings = []
    holders: dict[str, Account] = {}
    domains: dict[tuple[str, str], Account] = {}
    for account in accounts:
        first = holders.setdefault(account.workspace, account)
        why = _apart(first, account)
        if why:
            warnings.append(
                f"account {account.id}: it has the workspace of account {first.id}, {account.workspace}, and yet {why}"
                ", which share no cache: give it a workspace of its own"
            )
        if not account.domain:
            continue
        first = domains.setdefault((account.kind, account.domain), account)
        if first.workspace != account.workspace:
            warnings.append(
                f"account {account.id}: it shares the cache of account {first.id}, as both are of {account.domain}, "
                "and yet their workspaces differ: give both the same"
            )
    return warnings


def _apart(one: Account, other: Account) -> str:
    """Why they can share no cache, "" if they may."""
    if one.provider != other.provider:
        both = one.provider in _OWN and other.provider in _OWN
        return "" if both else f"they are of {one.provider} and {other.provider}"
    if one.provider in _REGIONAL and one.region != other.region:
        return f"they are of the regions {one.region} and {other.region}"
    if one.kind == other.kind and one.domain and other.domain and one.domain != other.domain:
        return f"they are of {one.domain} and {other.domain}"
    return ""
