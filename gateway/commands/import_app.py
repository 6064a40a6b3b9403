"""`gateway import`: write a configuration file from what is in use today.

The file goes to --output, the report to stderr. Exit codes: 0 done, 2 wrong use, or a file that cannot be used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml

from gateway.commands import import_env, import_litellm, import_litellm_keys
from gateway.commands.client import fail
from gateway.commands.import_draft import Draft
from gateway.config.file import load_default_path, read_text
from gateway.config.schema import ConfigError
from gateway.data import load_catalogue

T = TypeVar("T")

_MAX_DEPTH = 100
_MAX_INCLUDES = 8  # one within the other
app = typer.Typer(help="Write gateway.yaml from what is in use today.", no_args_is_help=True)

OutputOption = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write; - is standard output. Never overwrites."),
]


@app.command()
def litellm(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="LiteLLM's configuration file.")],
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its virtual keys: the table LiteLLM_VerificationToken as CSV, or JSON."),
    ] = None,
    teams: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its teams: the table LiteLLM_TeamTable as CSV, or JSON.")
    ] = None,
    output: OutputOption = load_default_path,
) -> None:
    """Take over a LiteLLM proxy: accounts, models, keys, teams and budgets. Clients keep their keys."""
    _refuse_to_overwrite(output)
    draft = Draft()
    names = _use(config, lambda: import_litellm.take(_read_yaml(config), load_catalogue(), draft))
    key_rows, team_rows = _rows(keys), _rows(teams)
    found = _use(teams or config, lambda: import_litellm_keys.take_teams(team_rows, names, draft))
    _use(keys or config, lambda: import_litellm_keys.take(key_rows, found, names, draft))
    if keys is None:
        draft.look("keys", "virtual keys are in LiteLLM's database: export them and give them with --keys")
    if not draft.config["accounts"]:
        fail(f"{config}: none of its models is at Anthropic\n{draft.report()}", 2)
    _write(draft, f"{config.name} of LiteLLM", output)


@app.command()
def env(
    file: Annotated[
        Path | None,
        typer.Option("--env-file", metavar="FILE", help="A file of NAME=value lines; default: .env, if any."),
    ] = None,
    output: OutputOption = load_default_path,
) -> None:
    """Make an account of each Anthropic key in the environment and in .env."""
    _refuse_to_overwrite(output)
    draft = Draft()
    path = file or Path(".env")
    text = _use(path, lambda: read_text(path)) if file or path.exists() else ""
    _use(path, lambda: import_env.take(os.environ, text, str(path), draft), named=False)
    _write(draft, "the environment", output)


def _use(file: Path, work: Callable[[], T], named: bool = True) -> T:
    """What `work` gives; ends the command where the file it is about cannot be used."""
    try:
        return work()
    except ConfigError as error:
        fail(str(error), 2)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:  # a file of another shape
        reason = str(error) if type(error) is ValueError else f"has a value of an unexpected kind ({error})"
        fail(f"{file}: {reason}" if named else reason, 2)


def _read_yaml(path: Path, depth: int = 0, missing: str = "") -> dict[str, Any]:
    """The file with those that it includes, as LiteLLM reads it."""
    text, loader = read_text(path, missing), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(yaml.parse(text, Loader=loader))
        data = yaml.load(text, Loader=loader)  # noqa: S506 - safe
    except yaml.YAMLError:
        raise ValueError("is not valid YAML") from None
    if not isinstance(data, dict):
        raise ValueError("is no mapping: is it a LiteLLM configuration?")
    named = data.pop("include", None) or ()
    if named and depth == _MAX_INCLUDES:
        raise ValueError("is included by files that include one another without an end")
    for name in [named] if isinstance(named, str) else named:
        for key, value in _read_yaml(path.parent / str(name), depth + 1, f", which {path} includes").items():
            present = data.get(key)
            if isinstance(present, list) and isinstance(value, list):
                present.extend(value)
            elif isinstance(present, dict) and isinstance(value, dict):
                present.update(value)
            else:
                data[key] = value
    return data


def _check_depth(events: Iterator[Any]) -> None:
    """Raises ValueError where lists and mappings stand in one another more deeply than the loader bears."""
    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise ValueError("is nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _rows(path: Path | None) -> list[dict[str, Any]]:
    return [] if path is None else _use(path, lambda: import_litellm_keys.read_rows(read_text(path)))


def _refuse_to_overwrite(output: Path) -> None:
    if str(output) != "-" and (output.exists() or output.is_symlink()):
        fail(f"{output} exists, and is not overwritten; name another file with --output", 2)


def _write(draft: Draft, origin: str, output: Path) -> None:
    try:
        draft.check()
    except ConfigError as error:
        fail(f"{error}\ngateway: that is no configuration that can be used; nothing is written", 2)
    text = draft.text(origin)
    if str(output) == "-":
        typer.echo(text, nl=False)
    else:
        try:
            with output.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            fail(f"{output} cannot be written: {error.strerror}", 2)
    typer.echo(draft.report(), err=True)
    shown = "it" if str(output) == "-" else str(output)
    typer.echo(f"\nThen: gateway config check, gateway doctor, gateway serve with {shown}.", err=True)
