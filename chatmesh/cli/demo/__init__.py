"""`chatmesh demo`: the whole diagram on this machine, step by step, every step verified.

A mesh of its own with two chat nodes, and three devices as processes of their own. Exit code 0
only if every step was seen.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatmesh.cli import CommandError, JsonOption, progress

if TYPE_CHECKING:
    from chatmesh.cli.demo.play import Outcome, Played
    from chatmesh.embedded.running import RunningMesh

DataOption = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Use this data folder, and keep it.", show_default=False
    ),
]
"""Not that of the other commands: a demo never takes CHATMESH_DATA for its own."""

_FLOWS = {
    "login": "Login flow",
    "message": "Message flow",
    "offline": "Offline flow",
    "trace": "Trace",
}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(demo)


def demo(
    data: DataOption = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the data folder for `chatmesh trace` and logs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the mesh, let Alice and Bob chat, and verify every step of the diagram.

    Alice (phone, laptop) and Bob (phone) are processes of their own. A step counts when its effect
    was seen outside the service that claims it: in the recipient's frame, in a row, in the queue,
    in the notification. Without --data a fresh folder is used and removed at the end.

    \b
    Examples:
      chatmesh demo
      chatmesh demo --json | jq .ok
      chatmesh demo --data /tmp/demo && chatmesh trace --data /tmp/demo MESSAGE_ID
    """
    from chatmesh.runtime import engine

    engine.prepare()
    began = time.monotonic()
    with _folder(data, keep) as folder, _mesh(folder) as mesh:
        ready = time.monotonic() - began
        progress(f"the mesh is ready after {ready:.1f} s, data in {folder}")
        outcome = _played(mesh, as_json)
        seconds = time.monotonic() - began
        if as_json:
            typer.echo(json.dumps(_document(outcome, ready, seconds)))
        else:
            _close(outcome, seconds)
    if not outcome.ok:
        raise typer.Exit(1)


@contextlib.contextmanager
def _folder(data: pathlib.Path | None, keep: bool) -> Iterator[pathlib.Path]:
    if data is not None:
        yield data
        return
    folder = tempfile.mkdtemp(prefix="chatmesh-demo-")
    try:
        yield pathlib.Path(folder)
    finally:
        if not keep:
            import shutil

            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _mesh(folder: pathlib.Path) -> Iterator[RunningMesh]:
    """A mesh on ports of its own, so that one of yours may run beside."""
    try:
        from chatmesh.embedded.supervisor import Mesh, MeshOptions
    except ImportError as error:
        raise CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'") from None
    from chatmesh.cli.demo.play import EXPORT_DELAY_MS
    from chatmesh.runtime import logs

    logs.configure("demo", "warning", "console")
    options = MeshOptions(
        data=folder,
        chat_nodes=2,
        ports="auto",
        trace_sample_ratio=1.0,
        environment={"*": {"OTEL_BSP_SCHEDULE_DELAY": EXPORT_DELAY_MS}},
    )
    with Mesh(options, report=progress) as mesh:
        try:
            yield mesh.running
        finally:
            mesh.stop(hurry=True)  # nobody is left to drain for


def _played(mesh: RunningMesh, as_json: bool) -> Outcome:
    import asyncio

    from chatmesh.cli.demo.play import play

    flows: list[str] = []

    def tell(played: Played) -> None:
        if as_json:
            progress(f"{played.number}. {played.title}: {'seen' if played.ok else 'NOT SEEN'}")
            return
        if played.flow not in flows:
            flows.append(played.flow)
            typer.echo(f"\n{_FLOWS[played.flow]}")
        _print_step(played)

    return asyncio.run(play(mesh, tell))


def _print_step(played: Played) -> None:
    mark = typer.style("✓", fg="green") if played.ok else typer.style("✗", fg="red")
    typer.echo(f" {mark} {played.number:2}. {played.title}  ({played.waited_ms:.0f} ms)")
    typer.echo(f"       {played.observed or played.error}")
    if played.ok and played.error:
        typer.echo(f"       {played.error}")


def _close(outcome: Outcome, seconds: float) -> None:
    from rich.console import Console

    from chatmesh.cli.waterfall import console_width, drawn, rows

    if outcome.spans:
        typer.echo("\nTime of each step, by the spans of its hops")
        for step in outcome.steps:
            if step.span_ms:
                hops_ms = ", ".join(f"{name} {ms:.2f}" for name, ms in step.span_ms.items())
                typer.echo(f" {step.number:2}. {sum(step.span_ms.values()):7.2f} ms  {hops_ms}")
        hops = rows(outcome.spans)
        title = f"message {outcome.message_id}: {len(hops)} hops"
        typer.echo("")
        Console(width=console_width()).print(drawn(hops, title))
    seen = sum(step.ok for step in outcome.steps)
    verdict = "every step was seen" if outcome.ok else "NOT every step was seen"
    typer.echo(f"\n{verdict} ({seen} steps, {seconds:.1f} s)")


def _document(outcome: Outcome, ready_seconds: float, seconds: float) -> dict[str, Any]:
    from dataclasses import asdict

    from chatmesh.cli.waterfall import rows

    return {
        "ok": outcome.ok,
        "steps": [asdict(step) for step in outcome.steps],
        "message_id": str(outcome.message_id),
        "span_processes": outcome.span_processes,
        "hops": [asdict(row) for row in rows(outcome.spans)],
        "ready_seconds": round(ready_seconds, 3),
        "seconds": round(seconds, 3),
    }
