"""The entry point `chatmesh`: finds the commands, runs one, turns expected failures into one line.

Rules: no command's work is done here.
"""

import importlib
import inspect
import os
import pkgutil
import sys

import typer

import chatmesh
from chatmesh import cli

_ORDER = (
    "up",
    "demo",
    "chat",
    "token",
    "send",
    "tail",
    "history",
    "search",
    "trace",
    "queue",
    "decode_id",
    "bench",
    "drill",
    "check_history",
    "doctor",
    "config",
    "migrate",
    "export",
    "import_",
    "protos",
)
"""How `--help` lists them; others follow in alphabetical order."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chatmesh {chatmesh.__version__}")
        raise typer.Exit


def _warn_of_strangers() -> None:
    """A variable that nothing reads is a line on stderr: it may be a misspelt setting."""
    if not any(name.startswith("CHATMESH_") for name in os.environ):
        return
    from chatmesh.runtime.variables import strangers
    from chatmesh.variables import NAMES

    for stranger in strangers(os.environ, NAMES):
        typer.echo(f"chatmesh: warning: {stranger}", err=True)


def build() -> typer.Typer:
    """The application with every command that is a module of chatmesh.cli."""
    app = typer.Typer(
        name="chatmesh",
        help="A chat back end as a mesh of gRPC servers. First: `chatmesh demo`.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="Show the version and end."
        ),
    ) -> None:
        _warn_of_strangers()

    names = [module.name for module in pkgutil.iter_modules(cli.__path__)]
    rank = {name: place for place, name in enumerate(_ORDER)}
    for name in sorted(names, key=lambda name: (rank.get(name, len(rank)), name)):
        if name == "main":
            continue
        module = importlib.import_module(f"{cli.__name__}.{name}")
        register = getattr(module, "register", None)
        if register is not None:
            register(app)
    _let_flow(app)
    return app


def _let_flow(app: typer.Typer) -> None:
    """Makes the paragraphs of help texts as wide as the terminal, not as the source is."""
    for command in app.registered_commands:
        text = command.help or (command.callback and command.callback.__doc__) or ""
        command.help = flowing(inspect.cleandoc(text))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _let_flow(group.typer_instance)


def flowing(text: str) -> str:
    """A docstring with one line a paragraph; what begins with \\b stays as it is."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        part if part.startswith("\b") else " ".join(part.split()) for part in paragraphs
    )


def main() -> None:
    """Runs the command of sys.argv. Exit codes: 0 good, 1 expected failure, 2 wrong usage."""
    # commands print names and texts of any language, whatever the terminal's locale says
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        build()()  # wrong usage, Ctrl-C and closed pipes are typer's to answer
    except cli.CommandError as error:
        typer.echo(f"chatmesh: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        text = _expected(error)
        if text is None:
            raise
        typer.echo(f"chatmesh: {text}", err=True)
        sys.exit(1)


def _expected(error: Exception) -> str | None:
    """The text of a failure that is no bug, from packages that this module need not import.

    Such packages mark their own: an embedded mesh that cannot start, settings that are wrong.
    """
    for kind in type(error).__mro__:
        if (kind.__module__, kind.__qualname__) in _EXPECTED:
            return str(error)
    return None


_EXPECTED = {
    ("chatmesh.embedded.errors", "EmbeddedError"),
    ("chatmesh.runtime.settings", "SettingsError"),
    ("chatmesh.runtime.errors", "StartupError"),
}

if __name__ == "__main__":
    main()
