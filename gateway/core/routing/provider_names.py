"""What providers call the models that Anthropic's own API names otherwise.

A table, and the rule by which names are made that it does not have yet. Pure; where the table comes from is the
caller's business.
"""

from __future__ import annotations

import re

import msgspec

PROFILES = ("global", "us", "eu", "jp", "au", "apac", "us-gov")  # where an inference profile of Bedrock's may compute

_DATED = re.compile(r"(.+)-(20\d{6})")
_OWN = re.compile(r"claude-[a-z0-9-]{1,100}")  # what a client asks for may be anything


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model at each provider, None where it is not. `bedrock` is the base id, to which one of `profiles` is put in
    front (None: nobody knows which there are); `countable`: Bedrock counts tokens by the base id; `flat`: it costs the
    same in every region."""

    bedrock: str | None = None
    profiles: tuple[str, ...] | None = None
    countable: bool = False
    flat: bool = False
    mantle: str | None = None
    vertex: str | None = None
    foundry: str | None = None

    def on_bedrock(self, profile: str) -> str | None:
        """The id under a profile, one of PROFILES or "none"; None where the model has none there."""
        if self.bedrock is None or profile == "none":
            return self.bedrock
        if self.profiles is not None and profile not in self.profiles:
            return None
        return f"{profile}.{self.bedrock}"


NOWHERE = Names()


class ProviderNames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table, by the catalogue's ids."""

    as_of: str
    sources: tuple[str, ...]
    models: dict[str, Names]

    def of(self, model: str) -> Names:
        """The names of a model, given by the catalogue's id or, where that does not know it, as it was asked for: those
        of newer models follow the rule by which the table's were made."""
        found = self.models.get(model)
        if found is not None:
            return found
        if _OWN.fullmatch(model) is None:
            return NOWHERE
        dated = _DATED.fullmatch(model)
        if dated is None:
            return Names(f"anthropic.{model}", mantle=f"anthropic.{model}", vertex=model, foundry=model)
        name, date = dated.groups()
        return Names(f"anthropic.{model}-v1:0", mantle=f"anthropic.{name}", vertex=f"{name}@{date}", foundry=name)
