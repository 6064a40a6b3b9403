"""What exported virtual keys and teams of LiteLLM mean here: callers whose keys stay as they are, teams, limits.

Pure: a file's text in, a Draft out. LiteLLM keeps the SHA-256 of a key in `token`, which is what `key_sha256` takes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gateway.commands.import_draft import Draft, given, number, unique, verbatim
from gateway.commands.import_litellm import Names
from gateway.config import checks
from gateway.config.rules import moment_text
from gateway.config.schema import Budget
from gateway.config.sections import simple

_DAY = 86_400
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY, "mo": 30 * _DAY, "y": 365 * _DAY}
_PERIODS = {_DAY: "day", 7 * _DAY: "week", 30 * _DAY: "month", 31 * _DAY: "month"}
_TEXTS = frozenset({"token", "key_alias", "user_id", "team_id", "team_alias"})  # where t is no flag
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # for a note
_ALL = frozenset({"all-proxy-models", "*"})
_TEAMS = "all-team-models"

_LIMITS = {"max_budget", "budget_duration", "rpm_limit", "tpm_limit", "max_parallel_requests"}
_TAKEN = {"token", "key_alias", "user_id", "team_id", "models", "expires", "metadata", "blocked", *_LIMITS}
_TEAM_TAKEN = {"team_id", "team_alias", "models", "metadata", "blocked", *_LIMITS}
_JOINED = ("max_budget", "budget_duration", "rpm_limit", "tpm_limit", "max_parallel_requests", "models",
           "metadata", "blocked")  # fmt: skip
# What LiteLLM writes down for itself.
_OWN = {
    "key_name", "spend", "created_at", "created_by", "updated_at", "updated_by", "budget_reset_at", "model_spend",
    "last_active", "last_rotation_at", "key_rotation_at", "rotation_count", "soft_budget_cooldown", "team_spend",
    "team_member_spend", "team_member", "key", "model_id", "user", "user_email", "key_type",
}  # fmt: skip
_WHY = {
    "aliases": "a key has no aliases of its own; models.aliases hold for all",
    "budget_id": "the budget is in another table: give the key its amount",
    "model_max_budget": "a budget is for all models together",
    "soft_budget": "an alert tells of budgets that are nearly used up",
    "permissions": "a key may do whatever its models allow",
    "allowed_routes": "a key may use every endpoint",
    "guardrails": "what a request says is not looked at",
    "object_permission_id": "a key may do whatever its models allow",
    "auto_rotate": "a key is rotated by hand: one caller may have several",
    "rotation_interval": "a key is rotated by hand: one caller may have several",
    "members": "people are callers with keys; a team has no members beside them",
    "members_with_roles": "people are callers with keys; a team has no members beside them",
    "admins": "people are callers with keys; a team has no members beside them",
    "organization_id": "callers have a team and nothing above it",
    "allowed_cache_controls": "answers are not kept and served again",
}
_NO_COUNTERPART = "it has no counterpart"
_BLOCKED = "it is blocked, or a limit of 0 lets nothing through"
_NO_MODELS = "it may use none of the models that are taken over"


def read_rows(text: str) -> list[dict[str, Any]]:
    """The rows of a table in CSV with a head, or in JSON as LiteLLM's own API lists them. Raises ValueError."""
    if text.lstrip()[:1] in ("[", "{"):
        try:
            data = json.loads(text)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"is not valid JSON: {error}") from None
        count: Any = 0
        if isinstance(data, dict):
            count = data.get("total_count")
            data = next((value for value in data.values() if isinstance(value, list)), None)
        if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
            raise ValueError("is no list of keys or teams (/key/list needs return_full_object=true)")
        if isinstance(count, int) and count > len(data):
            raise ValueError(f"has {len(data)} of {count}: join all pages of /key/list to one list (size=100&page=2 …)")
        return data
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # metadata may be long
    try:
        rows = csv.DictReader(io.StringIO(text))
        return [{str(key): _cell(str(key), value) for key, value in row.items() if key} for row in rows]
    except csv.Error as error:
        raise ValueError(f"is not valid CSV: {error}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _cell(column: str, text: str | None) -> Any:
    """The value of a cell as PostgreSQL writes it."""
    if text is None or text in ("", "NULL", "\\N", "null"):
        return None
    if column in _TEXTS:
        return text
    if text in ("t", "true", "True"):
        return True
    if text in ("f", "false", "False"):
        return False
    if text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:  # an array of PostgreSQL's: {a,"b c"}
            inner = text[1:-1]
            return next(csv.reader([inner], escapechar="\\", doublequote=False)) if inner else []
    return text


def take_teams(rows: list[dict[str, Any]], names: Names, draft: Draft) -> Teams:
    """The teams of a table. Raises ValueError for rows that are none."""
    found = Teams(draft, names)
    for row in rows:
        found.add(row)
    return found


def take(keys: list[dict[str, Any]], teams: Teams, names: Names, draft: Draft) -> None:
    """Put callers and teams into the draft. Raises ValueError for rows that are none."""
    if keys and not any("token" in row for row in keys):
        raise ValueError("has no column `token`: is it an export of LiteLLM_VerificationToken?")
    for row in keys:
        teams.add_joined(row)
    callers = _Callers(draft, names, teams)
    for row in keys:
        callers.add(row)
    if teams.entries:
        draft.config["teams"] = list(teams.entries.values())
    if callers.entries:
        draft.config["keys"] = list(callers.entries.values())


class Teams:
    """Those of the table, and of the columns beside keys."""

    def __init__(self, draft: Draft, names: Names) -> None:
        self._draft = draft
        self._names = names
        self.entries: dict[str, dict[str, Any]] = {}  # by LiteLLM's id
        self.models: dict[str, list[str]] = {}  # also of those that are left out
        self.blocked: set[str] = set()

    def add(self, row: Mapping[str, Any]) -> None:
        theirs = str(row.get("team_id"))
        if theirs in self.models:
            return
        name = str(row.get("team_alias") or theirs)
        models = self.models[theirs] = _resolved(_strings(row.get("models")), self._names, f"team {name}", self._draft)
        if row.get("blocked") is True or _closed(row, f"team {name}"):
            self.blocked.add(theirs)
            self._draft.left("teams", _BLOCKED, name)
            return
        if not models:
            self._draft.left("teams", _NO_MODELS, name)
            return
        taken = [entry["id"] for entry in self.entries.values()]
        entry: dict[str, Any] = {"id": unique(name, taken, "A-Za-z0-9._-", 64)}
        holder = f"team {entry['id']}"
        if entry["id"] != name:
            self._draft.changed("a team's name", "an id has the characters A-Z a-z 0-9 . _ - alone", holder)
        if models != ["*"]:
            entry["models"] = models
        limits = _limits(row, holder, self._draft)
        entry.update({"limits": limits} if limits else {})
        _spent(row, holder, self._draft)
        for column in given(row, *_TEAM_TAKEN, *_OWN):
            self._draft.left(f"teams: {column}", _WHY.get(column, _NO_COUNTERPART), holder)
        metadata = row.get("metadata")
        for key in given(metadata) if isinstance(metadata, dict) else ():
            self._draft.left(f"teams: metadata.{key}", _NO_COUNTERPART, holder)
        self.entries[theirs] = entry

    def add_joined(self, row: Mapping[str, Any]) -> None:
        """The team of a key, whose columns may stand beside the key's own."""
        theirs = row.get("team_id")
        if theirs:
            columns = {name: row.get(f"team_{name}") for name in _JOINED}
            self.add({"team_id": theirs, "team_alias": row.get("team_alias"), **columns})


class _Callers:
    def __init__(self, draft: Draft, names: Names, teams: Teams) -> None:
        self._draft = draft
        self._names = names
        self._teams = teams
        self.entries: dict[str, dict[str, Any]] = {}  # by digest

    def add(self, row: Mapping[str, Any]) -> None:
        draft, token = self._draft, str(row.get("token") or "")
        team = str(row["team_id"]) if row.get("team_id") else None
        digest = _digest(token)
        shown = str(row.get("key_alias") or row.get("user_id") or f"key-{digest[:8]}")
        if not token or digest in self.entries:
            draft.left("keys", "it has no token" if not token else "the same token stands there twice", shown)
            return
        if row.get("blocked") is True or team in self._teams.blocked or _closed(row, shown):
            draft.left("keys", _BLOCKED, shown)
            return
        models = self._models(row, team, shown)
        if not models:
            draft.left("keys", _NO_MODELS, shown)
            return
        taken = [entry["id"] for entry in self.entries.values()]
        entry: dict[str, Any] = {"id": unique(shown, taken, "A-Za-z0-9._@+'-", 128), "key_sha256": digest}
        name = entry["id"]
        if name != shown:
            draft.changed("a key's name", "an id has the characters A-Z a-z 0-9 . _ - @ + ' alone, once", name)
        if team is not None:
            entry["team"] = self._teams.entries[team]["id"]
        if models != ["*"]:
            entry["models"] = models
        limits = _limits(row, name, draft)
        entry.update({"limits": limits} if limits else {})
        if row.get("expires"):
            entry["expires"] = _moment(str(row["expires"]), name)
        _spent(row, name, draft)
        notes = self._notes(row.get("metadata"), name)
        entry.update({"metadata": notes} if notes else {})
        for column in given(row, *_TAKEN, *_OWN, "team_alias", *(f"team_{each}" for each in _JOINED)):
            draft.left(f"keys: {column}", _WHY.get(column, _NO_COUNTERPART), name)
        self.entries[digest] = entry

    def _models(self, row: Mapping[str, Any], team: str | None, shown: str) -> list[str]:
        """What the key may use: its own list within its team's, in which an empty list is all."""
        own, within = _strings(row.get("models")), self._teams.models.get(team or "", ["*"])
        if not own or _TEAMS in own:
            return within
        return self._names.common(_resolved(own, self._names, shown, self._draft), within)

    def _notes(self, metadata: object, name: str) -> dict[str, str]:
        notes = {}
        for key, value in metadata.items() if isinstance(metadata, dict) else ():
            if value in (None, "", [], {}):
                continue
            text = str(value) if isinstance(value, str | int | float) else "\n"
            short = len(text) <= checks.NOTE_LENGTH and not _UNFIT.search(text)
            if short and re.fullmatch(checks.ID_PATTERN, key):
                notes[key] = verbatim(text)
            else:
                self._draft.left(f"keys: metadata.{key}", "a note is one short text", name)
        return notes


def _resolved(listed: list[str], names: Names, holder: str, draft: Draft) -> list[str]:
    """What a list of models allows here, in which an empty list is all."""
    if not listed or not _ALL.isdisjoint(listed):
        return ["*"]
    found: list[str] = []
    for name in listed:
        models = names.resolve(name)
        found += [model for model in models if model not in found]
        if not models:
            draft.left(f"models: {name}", "it is none of the models that are taken over", holder)
    return ["*"] if "*" in found else found


def _closed(row: Mapping[str, Any], holder: str) -> bool:
    names = ("rpm_limit", "tpm_limit", "max_parallel_requests")
    return any(number(row, name, f"{holder}: ") == 0 for name in names)


def _spent(row: Mapping[str, Any], holder: str, draft: Draft) -> None:
    if number(row, "spend", f"{holder}: "):
        draft.left("spend", "what was spent before does not come over: every budget begins unused")


def _limits(row: Mapping[str, Any], holder: str, draft: Draft) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    place = f"{holder}: "
    if requests := number(row, "rpm_limit", place):
        limits["requests_per_minute"] = int(requests)
    if tokens := number(row, "tpm_limit", place):
        limits["input_tokens_per_minute"] = limits["output_tokens_per_minute"] = int(tokens)
        draft.changed("tpm_limit", "became a limit of input and one of output; cache reads count for neither", holder)
    if parallel := number(row, "max_parallel_requests", place):
        limits["concurrency"] = int(parallel)
    budget = number(row, "max_budget", place)
    if budget is not None:
        limits["budget_usd"] = simple(_budget(budget, row.get("budget_duration"), holder, draft))
    return limits


def _budget(amount: float, duration: object, holder: str, draft: Draft) -> dict[str, float]:
    """A budget of the UTC day or calendar month, or of another period in proportion."""
    found = re.fullmatch(r"(\d+)(s|mo|m|h|d|w|y)", str(duration or ""))
    if found is None:
        draft.changed("max_budget without budget_duration", "a budget for ever became one of a calendar month", holder)
        return {"month": amount}
    seconds = int(found[1]) * _SECONDS[found[2]]
    period = _PERIODS.get(seconds)
    if period in Budget.__struct_fields__:
        return {str(period): amount}
    period = "day" if seconds < _DAY else "month"
    share = (_DAY if period == "day" else 30 * _DAY) / seconds if seconds else 1
    draft.changed(f"budget_duration {duration}", f"became a budget of a {period}, in proportion", holder)
    return {period: round(amount * share, 2)}


def _digest(token: str) -> str:
    """What LiteLLM stores of a key is its digest, but for keys that do not begin with sk-."""
    return token.lower() if re.fullmatch(checks.DIGEST_PATTERN, token) else hashlib.sha256(token.encode()).hexdigest()


def _strings(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)] if value else []


def _moment(text: str, holder: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{holder}: expires is no time") from None
    return moment_text((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
