"""What the configuration says of an account, as its provider needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from gateway.core.routing.provider_names import Names, ProviderNames
from gateway.upstream.credentials.aws import AwsKeys
from gateway.upstream.credentials.entra import EntraApp

_MANY = 1024  # models whose names are kept at hand


class AccountNames:
    """What one account calls models: by the operator's `own` names, else as its provider does. `canonical(model)` is
    the catalogue's id of a model by any of its names, the name itself where it knows none."""

    def __init__(self, table: ProviderNames, canonical: Callable[[str], str], own: Mapping[str, str]) -> None:
        self._table = table
        self._canonical = canonical
        self._known: dict[str, Names] = {}
        self._own = {canonical(model): name for model, name in own.items()}

    def own(self, model: str) -> str | None:
        """The operator's name of a model, None if there is none."""
        return self._own.get(self._canonical(model)) if self._own else None

    def known(self, model: str) -> Names:
        """Its names at each provider."""
        found = self._known.get(model)
        if found is None:
            if len(self._known) >= _MANY:
                self._known.clear()
            known = self._canonical(model)
            found = self._known[model] = self._table.of(model if known not in self._table.models else known)
        return found


_NO_KEYS = AwsKeys()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Of one account. `host` is the value of the host header, `prefix` the path that goes before every path; `google`
    the text of a key file. Empty is what was not given."""

    names: AccountNames
    host: bytes = b""
    prefix: bytes = b""
    api_key: str = ""
    region: str = ""
    api: str = ""
    profile: str = ""
    aws_account: str = ""
    aws: AwsKeys | None = None
    project: str = ""
    google: str = ""
    entra: EntraApp | None = None
    workspace_id: str = ""

    @property
    def access(self) -> tuple[object, ...]:
        """What a credential is made of: it stays while this does."""
        return (self.api_key, self.region, self.api, self.aws, self.google, self.entra)

    @property
    def hidden(self) -> tuple[str, ...]:
        """Words that no client may see."""
        host = self.host.decode("latin-1")
        words = (*self.secrets, self.aws_account, self.project, self.workspace_id, host)
        return tuple(word for word in words if len(word) > 3)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Words that nobody may see."""
        keys = self.aws or _NO_KEYS
        words = (self.api_key, keys.access_key_id, keys.secret_access_key, keys.session_token)
        return tuple(word for word in words if word)
