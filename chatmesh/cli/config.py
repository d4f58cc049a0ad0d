"""`chatmesh config`: what each server would run with, and what is wrong with it.

Rules: the servers' own settings classes answer, found by module name; nothing is judged here.
No secret is printed.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatmesh.cli import CommandError, DataOption, JsonOption

if TYPE_CHECKING:
    from chatmesh.runtime.settings import Settings
    from chatmesh.runtime.settings_told import Told

SERVICES = ("chat_svc", "presence_svc", "push_svc", "sequencer_svc", "sync_svc")
WRONG = 2
"""Exit code when a setting is wrong: the code with which a server ends for the same reason."""

ServicesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SERVICE]...",
        help="chat, presence, push, sequencer, sync; left out: all five.",
        show_default=False,
    ),
]
FileOption = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--env-file",
        metavar="FILE",
        help="NAME=VALUE lines instead of the environment, as of `docker run --env-file`.",
        show_default=False,
    ),
]
RunningOption = Annotated[
    bool, typer.Option("--running", help="The processes of the mesh that runs on this machine.")
]


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(
        help="Settings in force, where each came from, and what is wrong. "
        "Reference: docs/settings.md.",
        no_args_is_help=True,
    )
    group.command()(show)
    group.command()(check)
    app.add_typer(group, name="config")


def show(
    services: ServicesArgument = None,
    env_file: FileOption = None,
    running: RunningOption = False,
    data: DataOption = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only what is not at its default.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print each server's settings and where each value came from; secrets are hidden.

    \b
    Examples:
      chatmesh config show chat --changed     # what a chat node would run with, from here
      chatmesh config show --running          # what the servers of `chatmesh up` run with
      chatmesh config show push --env-file push.env --json
    """
    from chatmesh.runtime.settings_told import told

    documents = []
    for name, module, environ in environments(services, env_file, running, data):
        rows = [
            row
            for row in told(settings_class(module), environ)
            if not changed or row.origin in ("env", "file")
        ]
        documents.append({"name": name, "service": module, "settings": [_row(r) for r in rows]})
        if not as_json:
            _print(name, rows)
    if as_json:
        typer.echo(json.dumps({"servers": documents}, ensure_ascii=False))


def check(
    services: ServicesArgument = None,
    env_file: FileOption = None,
    running: RunningOption = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell all that is wrong at once, before a server is started. Exit code 2 if anything is.

    \b
    Examples:
      chatmesh config check                                # all five, from the environment
      chatmesh config check chat --env-file chat.env
    """
    from chatmesh.runtime.settings import SettingsError, load
    from chatmesh.variables import NAMES

    found: dict[str, list[str]] = {}
    names = []
    for name, module, environ in environments(services, env_file, running, data):
        names.append(name)
        try:
            load(settings_class(module), environ, known=NAMES)
        except SettingsError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(name)
    if as_json:
        problems = [{"problem": text, "servers": servers} for text, servers in found.items()]
        typer.echo(json.dumps({"checked": names, "problems": problems}, ensure_ascii=False))
    else:
        for text, servers in found.items():
            typer.echo(f"{', '.join(servers)}: {text}")
    if found:
        count = f"{len(found)} problems" if len(found) > 1 else "1 problem"
        raise CommandError(f"{count} in the settings", WRONG)
    if not as_json:
        typer.echo(f"good: {', '.join(names)}")


def settings_class(module: str) -> type[Settings]:
    """A server's settings class, by the server's module name."""
    from chatmesh.runtime.settings import ServerSettings

    found = importlib.import_module(f"{module}.settings")
    for value in vars(found).values():
        is_settings = isinstance(value, type) and issubclass(value, ServerSettings)
        if is_settings and value.__module__ == found.__name__:
            settings: type[Settings] = value
            return settings
    raise LookupError(f"{module}.settings has no settings class")


def environments(
    services: Iterable[str] | None,
    env_file: pathlib.Path | None,
    running: bool,
    data: pathlib.Path | None,
) -> list[tuple[str, str, Mapping[str, str]]]:
    """(name, module, environment) of each server that is asked about."""
    modules = [_module(name) for name in services or SERVICES]
    if running:
        if env_file is not None:
            raise CommandError("--running and --env-file do not go together", 2)
        return [one for one in _of_processes(data) if one[1] in modules]
    environ: Mapping[str, str] = os.environ
    if env_file is not None:
        environ = _of_file(env_file)
    return [(module.removesuffix("_svc"), module, environ) for module in modules]


def _module(name: str) -> str:
    module = f"{name.removesuffix('_svc')}_svc"
    if module not in SERVICES:
        known = ", ".join(one.removesuffix("_svc") for one in SERVICES)
        raise CommandError(f"no server is called {name!r}; there are {known}", 2)
    return module


def _of_file(path: pathlib.Path) -> Mapping[str, str]:
    from chatmesh.runtime.settings_told import environment_of_file

    try:
        return environment_of_file(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CommandError(f"cannot read {path}: {why}", 2) from None
    except ValueError as error:
        raise CommandError(f"{path}: {error}", 2) from None


def _of_processes(data: pathlib.Path | None) -> list[tuple[str, str, Mapping[str, str]]]:
    try:
        import psutil
    except ImportError as error:
        raise CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'") from None
    from chatmesh.embedded import running

    found: list[tuple[str, str, Mapping[str, str]]] = []
    for process in running.find(data).processes:
        if process.service not in SERVICES:
            continue
        try:
            found.append((process.name, process.service, psutil.Process(process.pid).environ()))
        except psutil.Error:
            raise CommandError(f"{process.name} cannot be looked at: it has just ended") from None
    return found


def _row(row: Told) -> dict[str, Any]:
    return {"name": row.name, "value": row.value, "origin": row.origin, "file": row.file}


def _print(name: str, rows: list[Told]) -> None:
    from chatmesh.cli.plain import shown

    typer.echo(f"{name}:")
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        came = f"file {row.file}" if row.origin == "file" else row.origin
        typer.echo(f"  {row.name:{width}}  {shown(row.value)}  [{came}]")
