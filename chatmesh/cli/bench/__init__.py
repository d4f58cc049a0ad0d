"""`chatmesh bench`: load from separate client processes, every message checked.

One module a subcommand, each with `register(bench)`; `X_run` measures, `X_load` is its clients in
processes of their own. They share `command` (options, errors), `plan` (what is asked), `load`,
`answering`, `pair`, `device`, `h2` (clients), `loaders` (the processes they run in), `mesh`,
`processes`, `meter`, `readback` (what is read of the mesh), and one form of what came: `result`,
which `output` shows, saves and prints by `report` and `saved`, and `compare` compares.
"""

import typer


def register(app: typer.Typer) -> None:
    """Adds the group."""
    from chatmesh.cli.bench import (
        commit,
        compare,
        groups,
        growth,
        idle,
        ids,
        messages,
        presence,
        push,
        resume,
        sizing,
        soak,
        stalled,
        sync,
    )

    bench = typer.Typer(
        name="bench", help="Measure a mesh under load; every message is checked.",
        no_args_is_help=True,
    )  # fmt: skip
    for subcommand in (
        messages, groups, idle, resume, growth, soak, ids, presence, sync, push, commit, stalled,
        compare, sizing,
    ):  # fmt: skip
        subcommand.register(bench)
    app.add_typer(bench)
