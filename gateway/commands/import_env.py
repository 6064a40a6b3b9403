"""Which accounts the environment and a `.env` file hold. Pure: what stands in them in, a Draft out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from gateway.commands.import_draft import Draft, unique

_API_KEY = re.compile(r"sk-ant-api\d\d-.+")
_NAME = re.compile(r"(?:[A-Z0-9_]+_)?(?:ANTHROPIC|CLAUDE)_(?:[A-Z0-9_]+_)?(?:API_)?KEYS?(?:_[A-Z0-9_]+)?")
_OTHERS = {
    "ANTHROPIC_AUTH_TOKEN": "a bearer token is no API key",
    "CLAUDE_CODE_OAUTH_TOKEN": "a person's subscription is no account of a pool",
    "ANTHROPIC_ADMIN_KEY": "an admin key serves no models",
    "ANTHROPIC_BASE_URL": "accounts are at https://api.anthropic.com unless base_url says otherwise",
    "AWS_BEARER_TOKEN_BEDROCK": "write an account of the provider bedrock (docs/clouds.md)",
    "AWS_ACCESS_KEY_ID": "write an account of the provider bedrock (docs/clouds.md)",
    "ANTHROPIC_VERTEX_PROJECT_ID": "write an account of the provider vertex (docs/clouds.md)",
    "ANTHROPIC_FOUNDRY_API_KEY": "write an account of the provider foundry (docs/clouds.md)",
    "OPENAI_API_KEY": "an account of another vendor has no counterpart",
}


_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)(\s*)=(\s*)(?:(?<=\s)#.*|(.*?))\s*")
_NO_LINE = "it holds a key, and is not NAME=value"


def _parse(text: str, unread: list[int]) -> Iterator[tuple[str, str]]:
    """Names and values of a `.env` file: `NAME=value`, perhaps after `export`, perhaps in quotes; a shell takes no
    blanks around the `=`. Other lines that hold a key get their number into `unread`."""
    for number, line in enumerate(text.splitlines(), 1):
        found = _LINE.fullmatch(line)
        name, before, after, value = found.groups("") if found is not None else ("", "", "", "")
        if name and not (value and (before or after)):
            quoted = re.match(r"(['\"])(.*?)\1", value)
            yield name, quoted[2] if quoted else re.sub(r"\s+#.*$", "", value)
        elif (_API_KEY.search(line) or _NAME.fullmatch(name)) and not line.lstrip().startswith("#"):
            unread.append(number)


def take(environ: Mapping[str, str], text: str, shown: str, draft: Draft) -> None:
    """An account for each distinct key of Anthropic's in the environment and in the text of a `.env` file, `shown` by
    its name. Raises ValueError if there is none."""
    unread: list[int] = []
    file = dict(_parse(text, unread))
    for number in unread:
        draft.left(f"{shown}:{number}", _NO_LINE)
    accounts: dict[str, dict[str, str]] = {}  # by key
    for name, value in {**dict(sorted(environ.items())), **file, **environ}.items():  # its own come first, and hold
        if not value:
            continue
        if value.startswith("sk-ant-admin"):
            draft.left(name, _OTHERS["ANTHROPIC_ADMIN_KEY"])
        elif name in _OTHERS:
            draft.left(name, _OTHERS[name])
        elif value in accounts:
            draft.left(name, f"it holds the same key as {accounts[value]['api_key'].strip('${}')}")
        elif _API_KEY.fullmatch(value) or _NAME.fullmatch(name):
            words = re.sub(r"ANTHROPIC|CLAUDE|API|KEYS?", "", name.upper()).strip("_").lower()
            words = re.sub("_+", "-", words)
            taken = [account["id"] for account in accounts.values()]
            origin = "in the environment" if name in environ else f"in {shown}, which has to be loaded before it starts"
            accounts[value] = {
                "id": unique(f"anthropic-{words}" if words else "anthropic", taken, "A-Za-z0-9._-", 64),
                "api_key": draft.variable(name, origin),
            }
    if not accounts:
        words = f"neither the environment nor {shown} holds a key of Anthropic's, such as ANTHROPIC_API_KEY"
        raise ValueError("\n".join([words, *(f"{shown}:{number}: {_NO_LINE}" for number in unread)]))
    draft.config["accounts"] = list(accounts.values())
    draft.look("keys", "none are in the file: `gateway keys create NAME` makes one while the gateway runs")
    if len(accounts) > 1:
        draft.look(
            "organization and workspace",
            "keys of one organization share rate limits, keys of one workspace share prompt caches; give the accounts "
            "that share them the same names",
        )
