"""`gateway doctor`: can the keys of issuers be had, and do they sign as the configuration expects."""

from __future__ import annotations

import asyncio

from gateway.commands.checkup.finding import Finding, failed, ok, warning
from gateway.config.schema import Config, Issuer
from gateway.upstream.transport import TransportError
from gateway.worker.callers.issuer_keys import source_of
from gateway.worker.callers.signatures import parse_keys

_CHECK = "keys"


async def check_issuers(config: Config) -> list[Finding]:
    """Fetch each one's key set once, as workers do."""
    return await asyncio.gather(*map(_issuer, config.issuers))


async def _issuer(issuer: Issuer) -> Finding:
    about, source = f"issuer {issuer.id}", source_of(issuer)
    server = source.open()
    try:
        data, _ = await server.fetch()
        keys = parse_keys(data)
    except (OSError, ValueError, TransportError, TimeoutError) as error:
        words = str(error) or "it took too long"
        return failed(
            about, _CHECK, f"{source}: {words}", "correct jwks_uri or jwks_file, or let this machine reach it"
        )
    finally:
        await server.aclose()
    unusable = [each for each in issuer.algorithms if not keys.any_for(each)]
    if unusable:
        words = f"{source} has no key for {', '.join(unusable)}"
        return warning(about, _CHECK, words, "take out of algorithms what it does not sign by")
    return ok(about, _CHECK, f"{source} has {len(keys)} {'key' if len(keys) == 1 else 'keys'}")
