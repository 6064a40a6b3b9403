"""What a LiteLLM configuration means here: accounts, models, aliases, prices, the store.

Pure: decoded files in, a Draft out. LiteLLM lists *deployments*, each a model at a credential; here each credential is
one account with all its models, and a name that is not the model's own is an alias.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from gateway.commands.import_draft import Draft, given, number, unique, variable_name
from gateway.config.checks import loopback
from gateway.core.spending.pricing import Catalogue, Model

ANTHROPIC = "anthropic/"
_URL = "https://example.com"
_NO_ACCOUNT = "an account there has no counterpart"
_OTHERS = {
    "bedrock": "Claude on Amazon Bedrock: write an account of the provider bedrock (docs/clouds.md)",
    "vertex_ai": "Claude on Google Cloud: write an account of the provider vertex (docs/clouds.md)",
    "azure_ai": "Claude in Microsoft Foundry: write an account of the provider foundry (docs/clouds.md)",
    "azure": f"Azure OpenAI: {_NO_ACCOUNT}",
}
# Key of a price in LiteLLM, US dollars a token -> ours, per million; and the one of a catalogue's price.
_PRICES = {
    "input_cost_per_token": ("input", "input"),
    "output_cost_per_token": ("output", "output"),
    "cache_creation_input_token_cost": ("cache_write_5m", "write_5m"),
    "cache_creation_input_token_cost_above_1hr": ("cache_write_1h", "write_1h"),
    "cache_read_input_token_cost": ("cache_read", "read"),
}
_OF_INPUT = {"cache_write_5m": 1.25, "cache_write_1h": 2, "cache_read": 0.1}
_TAKEN = {
    "model", "api_key", "api_base", "base_url", "weight", "max_parallel_requests", "custom_llm_provider",
    "litellm_credential_name", "rpm", *_PRICES,
}  # fmt: skip
_WHY = {
    "rpm": "an account's limits are read from Anthropic's own answers",
    "tpm": "an account's limits are read from Anthropic's own answers",
    "order": "accounts are chosen by cache, weight and headroom, not in an order",
    "timeout": "one deadline holds for all attempts together: timeouts.total",
    "stream_timeout": "one deadline holds for all attempts together: timeouts.total",
    "max_retries": "what may be repeated is repeated by rules, not by number",
    "num_retries": "what may be repeated is repeated by rules, not by number",
    "retry_policy": "what may be repeated is repeated by rules, not by number",
    "allowed_fails": "an account is judged by what its answers mean, not by number",
    "allowed_fails_policy": "an account is judged by what its answers mean, not by number",
    "cooldown_time": "an account is closed for as long as its own answer says",
    "disable_cooldowns": "an account is closed for as long as its own answer says",
    "routing_strategy": "a conversation stays on the account that has its prompt in cache",
    "routing_strategy_args": "a conversation stays on the account that has its prompt in cache",
    "optional_pre_call_checks": "a conversation always stays on the account that has its prompt in cache",
    "enable_pre_call_checks": "a request goes upstream as it came",
    "fallbacks": "a request is never answered by another model than it names",
    "default_fallbacks": "a request is never answered by another model than it names",
    "context_window_fallbacks": "a request is never answered by another model than it names",
    "content_policy_fallbacks": "a request is never answered by another model than it names",
    "drop_params": "a request goes upstream as it came",
    "modify_params": "a request goes upstream as it came",
    "extra_headers": "a request's headers are its client's",
    "extra_body": "a request goes upstream as it came",
    "request_timeout": "one deadline holds for all attempts together: timeouts.total",
    "callbacks": "requests are told by metrics, log lines and OpenTelemetry spans",
    "success_callback": "requests are told by metrics, log lines and OpenTelemetry spans",
    "failure_callback": "requests are told by metrics, log lines and OpenTelemetry spans",
    "cache": "answers are not kept and served again; Anthropic's prompt cache is",
    "cache_params": "answers are not kept and served again; Anthropic's prompt cache is",
    "database_url": "there is no database: usage is in Redis and in the journal",
    "store_model_in_db": "accounts are in the file; models and keys that are in the database need its export",
    "guardrails": "what a request says is not looked at",
    "mcp_servers": "an MCP server is no account",
    "pass_through_endpoints": "all of Anthropic's API is served, and nothing else",
    "environment_variables": "set them where it runs",
    "max_budget": "a budget is a caller's or a team's",
    "budget_duration": "a budget is a caller's or a team's",
    "alerting": "alerts are rules for Prometheus",
    "ui_username": "the dashboard's tokens are admin.token and admin.tokens",
    "ui_password": "the dashboard's tokens are admin.token and admin.tokens",
    "set_verbose": "log.level says how much is logged",
    "json_logs": "log.format says how lines look",
}
_REDIS = ("url", "host", "port", "password", "ssl", "db")
_NO_COUNTERPART = "it has no counterpart"
_REQUEST = "a request goes upstream as it came"


@dataclass
class Names:
    """What clients may write as a model: `groups` by LiteLLM's name of it, each with what it stands for here, or None
    where that is not taken over; `served` by every other name of what is; `access` by the name of a group of them."""

    groups: dict[str, str | None] = field(default_factory=dict)
    served: dict[str, str] = field(default_factory=dict)
    access: dict[str, list[str]] = field(default_factory=dict)

    def resolve(self, name: str) -> list[str]:
        """What a name in a key's list of models allows here; nothing where that is not taken over."""
        if name in self.access:
            return [model for each in self.access[name] for model in self.resolve(each)]
        target = self.groups.get(name) or self.served.get(name)
        if target is not None:
            return [target]
        bare = name.removeprefix(ANTHROPIC)
        if name == "*":
            return ["*"]
        if "*" in name:
            found = [model for each, model in self.groups.items() if model and fnmatchcase(each, name)]
            return list(dict.fromkeys(["claude-*" if bare == "*" else bare] if bare != name else found))
        wide = any("*" in each and model and fnmatchcase(name, each) for each, model in self.groups.items())
        return [bare] if wide and bare.startswith("claude") else []

    def common(self, some: list[str], others: list[str]) -> list[str]:
        """What both lists allow: models by any of their names, and patterns."""
        found: dict[str, None] = {}
        for one in some:
            for other in others:
                if fnmatchcase(one, other) or self.served.get(one, one) == self.served.get(other, other):
                    found[one] = None
                elif fnmatchcase(other, one):
                    found[other] = None
        return list(found)


@dataclass
class _Account:
    models: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)  # `rpm`, which LiteLLM shares by where there is no weight
    concurrency: int = 0
    key: str = ""
    url: str = ""
    id: str = ""


def take(config: Mapping[str, Any], catalogue: Catalogue, draft: Draft) -> Names:
    """Put accounts, models and the store of a LiteLLM configuration into the draft. Raises ValueError for one that is
    none."""
    listed = config.get("model_list")
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ValueError("has no model_list: is it a LiteLLM configuration?")
    names = Names()
    models = _Models(catalogue, draft, names)
    accounts = _Accounts(draft, _credentials(config))
    for index, deployment in enumerate(listed):
        place = f"model_list[{index}]"
        models.take(deployment, accounts.take(deployment, place), place)
    draft.config["accounts"] = accounts.entries()
    router = _section(config, "router_settings")
    models.alias_groups(router.get("model_group_alias"))
    _store(router, draft)
    _admin(_section(config, "general_settings"), draft)
    _rest(config, draft)
    models.finish()
    if len(draft.config["accounts"]) > 1:
        draft.look(
            "organization and workspace",
            "keys of one organization share rate limits, keys of one workspace share prompt caches; give the accounts "
            "that share them the same names",
        )
    return names


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _credentials(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        str(each.get("credential_name")): _section(each, "credential_values")
        for each in config.get("credential_list") or ()
        if isinstance(each, dict)
    }


def provider_of(params: Mapping[str, Any]) -> tuple[str, str]:
    """(provider, model) of a deployment; without a prefix LiteLLM goes by the model's name."""
    model = str(params.get("model") or "")
    given_provider = params.get("custom_llm_provider")
    if given_provider:
        return str(given_provider), model.removeprefix(f"{given_provider}/")
    provider, slash, rest = model.partition("/")
    if slash:
        return provider, rest
    return ("anthropic" if model.startswith("claude") else "openai"), model


class _Accounts:
    """One for each distinct credential, in the order of the file."""

    def __init__(self, draft: Draft, credentials: Mapping[str, Mapping[str, Any]]) -> None:
        self._draft = draft
        self._credentials = credentials
        self._found: dict[tuple[str, str], _Account] = {}
        self._literals = 0
        self._paced: list[str] = []  # names of models that have `rpm`

    def take(self, deployment: Mapping[str, Any], place: str) -> bool:
        """Whether it is taken over."""
        draft, name = self._draft, str(deployment.get("model_name"))
        params = _section(deployment, "litellm_params")
        provider, model = provider_of(params)
        if provider != "anthropic":
            draft.left("model_list", _OTHERS.get(provider, f"the provider {provider}: {_NO_ACCOUNT}"), name)
            return False
        for key in given(params, *_TAKEN):
            draft.left(f"litellm_params.{key}", _WHY.get(key, _REQUEST), name)
        info = _section(deployment, "model_info")
        for key in given(info, "id", "db_model", "access_groups", "mode", "base_model", *_PRICES):
            if not key.startswith(("max_", "supports_")):  # what it says of a model, the catalogue knows
                draft.left(f"model_info.{key}", _NO_COUNTERPART, name)
        place = f"{place}.litellm_params."
        account = self._account(params, place)
        account.models += [] if model in account.models else [model]
        weight, requests = number(params, "weight", place), number(params, "rpm", place)
        account.weights += [] if weight is None else [weight]
        if requests:
            account.requests.append(requests)
            self._paced.append(name)
        account.concurrency = max(account.concurrency, int(number(params, "max_parallel_requests", place) or 0))
        return True

    def _account(self, params: Mapping[str, Any], place: str) -> _Account:
        credential = params.get("litellm_credential_name")
        params = {**params, **self._credentials.get(str(credential), {})}
        key = str(params.get("api_key") or "os.environ/ANTHROPIC_API_KEY")
        url = str(params.get("api_base") or params.get("base_url") or "")
        if (key, url) in self._found:
            return self._found[key, url]
        place = f"credential_list ({credential})" if credential else f"{place}api_key"
        account = _Account(url=self._url(url))
        if key.startswith("os.environ/"):
            account.key = self._draft.secret(key, "", place)
            words = account.key.strip("${}").lower().replace("anthropic", "").replace("api_key", "").strip("_")
        else:
            self._literals += 1
            words = str(credential or self._literals)
            account.key = self._draft.secret(key, f"ANTHROPIC_API_KEY_{variable_name(words)}", place)
        taken = [each.id for each in self._found.values()]
        account.id = unique("-".join(filter(None, ("anthropic", words.replace("_", "-")))), taken, "A-Za-z0-9._-", 64)
        self._found[key, url] = account
        return account

    def _url(self, url: str) -> str:
        """Without the path that LiteLLM lets be part of it."""
        if url.startswith("os.environ/"):
            return self._draft.value(url, _URL)
        bare = re.sub(r"(/v1(/messages)?)?/*$", "", url)
        return "" if bare == "https://api.anthropic.com" else bare

    def entries(self) -> list[dict[str, Any]]:
        accounts = list(self._found.values())
        shares = self._shares(accounts)
        return [self._entry(account, share) for account, share in zip(accounts, shares, strict=True)]

    def _shares(self, accounts: list[_Account]) -> list[float]:
        """The weight of each. Where none has one, LiteLLM shares by `rpm`."""
        if not any(account.weights for account in accounts) and all(account.requests for account in accounts):
            least = min((max(account.requests) for account in accounts), default=1.0)
            shares = [round(max(account.requests) / least, 2) for account in accounts]
            if set(shares) != {1.0}:
                self._draft.changed("litellm_params.rpm", "became the accounts' weights, as LiteLLM shares by it")
            return shares
        for name in self._paced:
            self._draft.left("litellm_params.rpm", _WHY["rpm"], name)
        for account in accounts:
            if len(set(account.weights)) > 1:
                self._draft.changed(
                    "litellm_params.weight", "an account has one weight: the largest of its models'", account.id
                )
            elif account.weights and not max(account.weights):
                self._draft.changed("litellm_params.weight", "0 became state: disabled; it serves nothing", account.id)
        return [max(account.weights, default=1.0) for account in accounts]

    def _entry(self, account: _Account, weight: float) -> dict[str, Any]:
        entry: dict[str, Any] = {"id": account.id, "api_key": account.key}
        if account.url:
            entry["base_url"] = account.url
            host = re.match(r"http://([^/:]+)", account.url)
            if host and not loopback(host[1]):
                self._draft.look(f"account {account.id}", "its base_url is http, so that its key is sent unencrypted")
        if weight == 0:
            entry["state"] = "disabled"
        elif weight != 1:
            entry["weight"] = int(weight) if weight == int(weight) else weight
        if "*" not in account.models:
            entry["models"] = account.models
        if account.concurrency:
            entry["max_concurrency"] = account.concurrency
        return entry


class _Models:
    """What clients write, and what it stands for."""

    def __init__(self, catalogue: Catalogue, draft: Draft, names: Names) -> None:
        self._catalogue = catalogue
        self._draft = draft
        self._names = names
        self._aliases: dict[str, str] = {}
        self._deployed: dict[str, str] = {}  # models as deployments name them
        self._entries: dict[str, dict[str, float]] = {}
        self._access: defaultdict[str, list[str]] = defaultdict(list)

    def take(self, deployment: Mapping[str, Any], taken: bool, place: str) -> None:
        name = str(deployment.get("model_name"))
        params, info = _section(deployment, "litellm_params"), _section(deployment, "model_info")
        for group in info.get("access_groups") or ():
            self._access[str(group)].append(name)
        _, model = provider_of(params)
        if not taken:
            self._names.groups.setdefault(name, None)
        elif "*" in model:
            self._wild(name, model)
        else:
            self._name(name, model)
            self._deployed[str(params.get("model"))] = model
            self._price(model, {**info, **params}, name, place)

    def _name(self, name: str, model: str) -> None:
        present = self._names.groups.get(name)
        if present is None:
            self._names.groups[name] = model
            self._alias(name, model)
        elif model not in self._catalogue.names(present):
            self._draft.changed("model_list", f"one name, several models: here it is {present} alone", name)

    def _wild(self, name: str, model: str) -> None:
        """`anthropic/*` and the like: their names for whatever the catalogue knows of it."""
        self._names.groups[name] = "claude-*" if model == "*" else model
        before, _, after = model.partition("*")
        for known in self._in_use():
            if not fnmatchcase(known, model):
                continue
            star = known[len(before) : len(known) - len(after)]
            for each in {name.replace("*", star, 1), f"{ANTHROPIC}{known}" if name == "*" else known}:
                self._alias(each, known)

    def _in_use(self) -> Iterable[str]:
        return [name for model in self._catalogue if not model.retired for name in model.names]

    def _alias(self, name: str, model: str) -> None:
        if name in self._catalogue.names(model):
            return
        known = self._catalogue.exact(name)
        if known is not None and not known.retired:
            self._draft.left("model_list", f"it is the name of another model than {model}, which it would hide", name)
            self._names.groups[name] = known.id
        elif re.search(r"\s", name):
            self._draft.left("model_list", f"a model's name has no spaces; {model} is served by its own name", name)
        elif "*" not in name:
            self._aliases.setdefault(name, model)

    def alias_groups(self, groups: object) -> None:
        """`model_group_alias`: a name of a name."""
        for name, target in groups.items() if isinstance(groups, dict) else ():
            target = target.get("model") if isinstance(target, dict) else target
            models = self._names.resolve(str(target))
            if len(models) == 1 and "*" not in models[0]:
                self._names.groups[str(name)] = models[0]
                self._alias(str(name), models[0])
            else:
                self._draft.left("router_settings.model_group_alias", "what it stands for is not taken over", str(name))

    def _price(self, model: str, params: Mapping[str, Any], name: str, place: str) -> None:
        """Dollars a token become dollars per million; those that the catalogue has anyway are not repeated."""
        prices = {ours: number(params, theirs, f"{place}: ") for theirs, (ours, _) in _PRICES.items()}
        dollars = {ours: round(price * 1_000_000, 3) for ours, price in prices.items() if price is not None}
        known = self._catalogue.find(model)
        if known is None and not dollars:
            self._draft.look(model, "no model of the catalogue; give its price in models.catalogue, else it is a guess")
        elif known is not None and known.retired:
            self._draft.look(model, "Anthropic has retired it; let its names stand for a newer one")
        if not dollars or (known is not None and _same(known, dollars)):
            return
        if known is None and not {"input", "output"} <= dollars.keys():
            self._draft.left("input_cost_per_token", "a price of both input and output is needed", name)
            return
        if "input" in dollars:  # what would follow from it, rounded to what a price may be
            for key, times in _OF_INPUT.items():
                cost = dollars["input"] * times
                if abs(cost - round(cost, 3)) > 1e-9:
                    dollars.setdefault(key, round(cost, 3))
        self._entries.setdefault(known.id if known else model, dollars)

    def finish(self) -> None:
        """Into the draft."""
        self._names.access.update(self._access)
        for name, model in self._deployed.items():  # which LiteLLM takes for names too
            for each in (name, *self._catalogue.names(model)):
                self._names.served.setdefault(each, model)
            if name not in self._names.groups:
                self._alias(name, model)
        models: dict[str, Any] = {}
        if self._aliases:
            models["aliases"] = self._aliases
        if self._entries:
            models["catalogue"] = self._entries
            self._draft.changed("input_cost_per_token", "became models.catalogue, in US dollars per million tokens")
        if models:
            self._draft.config["models"] = models


def _same(known: Model, dollars: Mapping[str, float]) -> bool:
    fields = dict(_PRICES.values())
    return all(getattr(known.price, fields[key]) == round(value * 1000) for key, value in dollars.items())


def _store(router: Mapping[str, Any], draft: Draft) -> None:
    url, host = router.get("redis_url"), router.get("redis_host")
    if url:
        draft.config["redis"] = draft.secret(url, "REDIS_URL", "router_settings.redis_url", "redis://redis:6379")
    elif host:
        password = router.get("redis_password")
        port = router.get("redis_port")
        user = draft.secret(password, "REDIS_PASSWORD", "router_settings.redis_password") if password else ""
        scheme = "rediss" if router.get("redis_ssl") else "redis"
        draft.config["redis"] = (
            f"{scheme}://{f':{user}@' if user else ''}{draft.value(host, 'redis')}"
            f":{draft.value(port, '6379') if port else 6379}/{router.get('redis_db') or 0}"
        )
        if user:
            draft.look("redis", "a password in a URL is percent-encoded: / is %2F, @ is %40, : is %3A")
    else:
        draft.look(
            "redis", "no router_settings.redis_host: the embedded store is used; several replicas need one Redis"
        )


def _admin(general: Mapping[str, Any], draft: Draft) -> None:
    key = general.get("master_key")
    if not key:
        draft.changed("no general_settings.master_key", "it was open to everybody; here each client needs a key")
        return
    named = str(key).startswith("os.environ/")
    if named:
        draft.config["admin"]["token"] = draft.secret(key, "", "")
        draft.forget("GATEWAY_ADMIN_TOKEN")
    draft.changed(
        "general_settings.master_key",
        ("became" if named else "is written out; a new token in GATEWAY_ADMIN_TOKEN became")
        + " admin.token, which needs 20 characters; it opens the admin listener alone: a client that calls models "
        "with it needs a key of its own (`gateway keys create`)",
    )


def _rest(config: Mapping[str, Any], draft: Draft) -> None:
    """Everything that nothing above has looked at."""
    taken = {
        "router_settings": ("model_group_alias", *(f"redis_{each}" for each in _REDIS)),
        "general_settings": ("master_key",),
        "litellm_settings": (),
    }
    for name, value in config.items():
        if name in ("model_list", "credential_list", "include") or not value:
            continue
        if name == "environment_variables" and isinstance(value, dict):
            for each in value:
                draft.left(f"{name}.{each}", _WHY[name])
        elif name in taken and isinstance(value, dict):
            for key in given(value, *taken[name]):
                draft.left(f"{name}.{key}", _WHY.get(key, _NO_COUNTERPART))
        else:
            draft.left(name, _WHY.get(name, _NO_COUNTERPART))
