"""`chatmesh bench idle`: memory and CPU of sessions that only stay."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, JsonOption
from chatmesh.cli.bench import command
from chatmesh.cli.bench.messages import ChatNodesOption, DataOption
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

if TYPE_CHECKING:
    from chatmesh.cli.bench.loaders import Progress
    from chatmesh.cli.bench.mesh import MeasuredMesh
    from chatmesh.cli.bench.result import Result

MAX_CONNECTIONS = 20_000
IDENTITY = "public"

ConnectionsOption = Annotated[int, typer.Option(help="Sessions that are measured.")]
WarmOption = Annotated[int, typer.Option(help="Sessions before them, which warm the nodes up.")]
SecondsOption = Annotated[
    float, typer.Option(help="Time of each of the two looks at the CPU: with few, and with all.")
]
SettleOption = Annotated[float, typer.Option(help="Seconds from connecting to reading memory.")]
TlsOption = Annotated[
    bool, typer.Option("--tls", help="Serve the public port with TLS (a mesh of its own).")
]


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(idle)


def idle(
    connections: ConnectionsOption = 1_000,
    warm: WarmOption = 20,
    seconds: SecondsOption = 30,
    settle: SettleOption = 5,
    tls: TlsOption = False,
    chat_nodes: ChatNodesOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Weigh idle sessions: KiB and CPU each, by service, stores apart.

    Every session is a connection of its own, with the pings that keep it alive. What it costs is
    the difference to the same mesh with the sessions of the warm-up alone.

    \b
    Examples:
      chatmesh bench idle --connections 5000 --json
      chatmesh bench idle --tls
    """
    try:
        from chatmesh.cli.bench import idle_run
    except ImportError as error:
        raise command.missing(error) from None
    command.between("--connections", connections, 1, MAX_CONNECTIONS)
    command.between("--warm", warm, 1, 1_000)
    command.between("--seconds", seconds, 0.1, 3_600)
    command.between("--settle", settle, 0, 3_600)
    if tls and data is not None:
        raise CommandError(
            "--tls is for a mesh of its own (without --data): it starts one with a certificate",
            exit_code=2,
        )
    nodes = command.check_nodes(chat_nodes, data)
    command.check_descriptors("--connections", connections + warm)
    output = Output(as_json, save, html)
    with _public_tls(tls) as (ca, environment):
        load = idle_run.IdleLoad(connections, warm, seconds, settle, ca)

        async def work(measured: MeasuredMesh, progress: Progress) -> Result:
            return await idle_run.measure(measured, load, progress)

        result = command.run_measured(work, data, nodes, environment)
    output.deliver(result)


@contextmanager
def _public_tls(wanted: bool) -> Iterator[tuple[str | None, Mapping[str, Mapping[str, str]]]]:
    """A certificate of the public port for as long as the mesh runs: its CA, and the variables."""
    if not wanted:
        yield None, {}
        return
    from chatmesh.embedded import certificates

    folder = pathlib.Path(tempfile.mkdtemp(prefix="chatmesh-bench-tls-"))
    try:
        certificates.issue(folder, [IDENTITY])
        files = certificates.files_of(folder, IDENTITY)
        yield (
            str(files.ca),
            {
                "chat_svc": {
                    "CHATMESH_PUBLIC_TLS_CERT": str(files.certificate),
                    "CHATMESH_PUBLIC_TLS_KEY": str(files.key),
                }
            },
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
