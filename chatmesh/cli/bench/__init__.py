"""`chatmesh bench`: load from separate client processes, every message checked.

One module a subcommand, each with `register(bench)`: `messages`, `ids`, `presence`, `compare`,
`sync`, `push`, `commit`, `stalled` and `sizing` now; `idle`, `groups`, `resume` have their place
beside them. They share `plan` (what is asked), `load`, `pair`, `device`, `h2` (the clients, in
processes of their own), `mesh`, `processes`, `readback` (what is read of the mesh), `outcome`,
`report`, `saved`.
"""

import typer


def register(app: typer.Typer) -> None:
    """Adds the group."""
    from chatmesh.cli.bench import (
        commit,
        compare,
        ids,
        messages,
        presence,
        push,
        sizing,
        stalled,
        sync,
    )

    bench = typer.Typer(
        name="bench", help="Measure a mesh under load; every message is checked.",
        no_args_is_help=True,
    )  # fmt: skip
    for subcommand in (messages, ids, presence, commit, sync, push, compare, stalled, sizing):
        subcommand.register(bench)
    app.add_typer(bench)
