"""`chatmesh bench stalled`: what devices that read nothing cost, in memory and for the others.

Two runs of the same load on one chat node: quiet, then beside devices with thousands of entries
pending that say hello, take no more and ack nothing. They go on pinging, so that nothing else is
wrong with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatmesh.cli import CommandError, JsonOption, progress
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh

MEMORY_MARGIN = 1.2
"""Growth over what is stated may be the allocator's."""
PINGS_SECONDS = 4
STALLED_WINDOW_BYTES = 65_535
"""HTTP/2's default. It is never opened again, so no more than this arrives. HTTP/2's pings are
answered, as a client's gRPC does whose application takes nothing."""
SENDS_AT_ONCE = 100
GROUP_MEMBERS = 200
"""Members of a group, whose messages make the pending entries of all of them."""

SessionsOption = Annotated[int, typer.Option(help="Devices that read nothing.")]
EntriesOption = Annotated[int, typer.Option(help="Entries pending for each of them.")]
SizeOption = Annotated[int, typer.Option(help="Bytes of each message's body.")]
PairsOption = Annotated[int, typer.Option(help="Pairs of healthy devices beside them.")]
RateOption = Annotated[float, typer.Option(help="Messages/s over all healthy pairs.")]
SecondsOption = Annotated[float, typer.Option(help="Measured time of each of the two runs.")]


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(stalled)


def stalled(
    sessions: SessionsOption = 200,
    entries: EntriesOption = 10_000,
    size: SizeOption = 1_000,
    pairs: PairsOption = 100,
    rate: RateOption = 200,
    seconds: SecondsOption = 10,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Measure what devices that read nothing cost a chat node and the devices beside them.

    Starts a mesh of one chat node in a temporary folder. Exit code 1 when the node's memory grew by
    more than is stated for such sessions, with a fifth on top.
    """
    import asyncio

    try:
        from chatmesh.cli.bench.loaders import RunFailed
        from chatmesh.cli.bench.mesh import measured_mesh
        from chatmesh.cli.bench.plan import ImpossibleLoad, Load
        from chatmesh.cli.bench.result import Result
        from chatmesh.runtime import logs
    except ImportError as error:
        raise CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'") from None
    if min(sessions, entries) < 1:
        raise CommandError("--sessions and --entries are 1 or more", exit_code=2)
    try:
        load = Load(
            pairs=pairs, window=None, rate=rate, size_bytes=200, seconds=seconds,
            warmup_seconds=2,
        )  # fmt: skip
    except ImpossibleLoad as error:
        raise CommandError(str(error), exit_code=2) from None
    output = Output(as_json, save, html)
    logs.configure("bench", "warning", "console")
    with measured_mesh(None, 1, progress) as measured:
        try:
            result = asyncio.run(_measure(measured.mesh, load, sessions, entries, size))
        except (RunFailed, OSError) as error:
            measured.keep = True
            raise CommandError(f"no result: {error} (all logs: {measured.logs})") from None
    output.deliver(
        Result(
            kind="stalled",
            load={**load.to_json(), "sessions": sessions, "entries": entries, "body_bytes": size},
            figures=result,
            passed=result["rss_growth_bytes"] <= result["allowed_bytes"],
            failure="the node's memory grew by more than is stated for stalled sessions",
        )
    )


async def _measure(
    mesh: RunningMesh, load: Any, sessions: int, entries: int, size: int
) -> dict[str, float]:
    """The figures, by their names in `--json`."""
    import asyncio

    import psutil

    from chatmesh.cli.bench import run
    from chatmesh.cli.bench.loaders import RunFailed
    from chatmesh.limits import STALLED_SESSION_BYTES

    def quiet(_phase: str, _share: float, _delivered: int) -> None:
        """Two runs are no progress bar."""

    (pid,) = [process.pid for process in mesh.processes if process.service == "chat_svc"]
    node = psutil.Process(pid)
    users = [f"stalled-{number}" for number in range(sessions)]
    progress(f"writing {entries:,} entries for each of {sessions} devices")
    await _fill(mesh, users, entries, size)
    progress("the load alone")
    alone = await run.run(mesh, load, quiet)
    before = node.memory_info().rss
    progress(f"the load beside {sessions} devices that read nothing")
    connections: list[tuple[Any, Any]] = []
    pinging = asyncio.create_task(_ping(connections))
    try:
        await _stall(mesh, users, connections)
        beside = await run.run(mesh, load, quiet)
        after = node.memory_info().rss
        ended = sum(connection.closed_because is not None for connection, _ in connections)
    finally:
        pinging.cancel()
        for connection, _ in connections:
            connection.close()
    if ended:
        raise RunFailed(f"{ended} of the devices that read nothing were closed before the end")
    if not (alone.passed and beside.passed):
        raise RunFailed("messages between healthy devices were lost or doubled")
    p99 = [outcome.histogram.summary_ms()["p99"] for outcome in (alone, beside)]
    return {
        "stalled_sessions": sessions,
        "entries_pending": entries,
        "rss_growth_bytes": after - before,
        "stated_bytes": STALLED_SESSION_BYTES,
        "allowed_bytes": round(STALLED_SESSION_BYTES * sessions * MEMORY_MARGIN),
        "quiet_p99_ms": p99[0],
        "beside_p99_ms": p99[1],
        "healthy_p99_ratio": round(p99[1] / p99[0], 3),
    }


async def _fill(mesh: RunningMesh, users: list[str], entries: int, size: int) -> None:
    """Entries for everyone, by groups that they are in."""
    import grpc

    from chatmesh.client._keys import uuid7
    from chatmesh.runtime.clock import SystemClock
    from chatmesh.v1 import conversations_pb2, conversations_pb2_grpc, session_pb2, types_pb2
    from chatmesh.v1.session_pb2_grpc import ChatServiceStub

    clock = SystemClock()
    metadata = (("authorization", f"Bearer {mesh.token('stalled-writer')}"),)
    content = types_pb2.Content(text=types_pb2.TextContent(body="x" * size))
    async with grpc.aio.insecure_channel(mesh.public[0]) as channel:
        chat: Any = ChatServiceStub(channel)
        conversations: Any = conversations_pb2_grpc.ConversationServiceStub(channel)
        for start in range(0, len(users), GROUP_MEMBERS):
            group = await conversations.CreateConversation(
                conversations_pb2.CreateConversationRequest(
                    idempotency_key=uuid7(clock.wall_ms()),
                    title="stalled",
                    member_user_ids=users[start : start + GROUP_MEMBERS],
                ),
                metadata=metadata,
            )
            for written in range(0, entries, SENDS_AT_ONCE):
                messages = [
                    types_pb2.OutgoingMessage(
                        idempotency_key=uuid7(clock.wall_ms()),
                        conversation_id=group.conversation.conversation_id,
                        content=content,
                    )
                    for _ in range(min(SENDS_AT_ONCE, entries - written))
                ]
                await chat.SendMessages(
                    session_pb2.SendMessagesRequest(messages=messages), metadata=metadata
                )


async def _stall(mesh: RunningMesh, users: list[str], made: list[tuple[Any, Any]]) -> None:
    """Makes connections with sessions that said hello, and take nothing after the first frames."""
    import asyncio

    from chatmesh.cli.bench.device import SESSION_PATH
    from chatmesh.cli.bench.grpc_stream import Ended
    from chatmesh.cli.bench.h2 import connect
    from chatmesh.v1 import session_pb2

    for user in users:
        connection = await connect(mesh.public[0], window_bytes=STALLED_WINDOW_BYTES)
        welcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_frame(frame: bytes, first: asyncio.Future[bytes] = welcome) -> None:
            if not first.done():
                first.set_result(frame)

        def on_end(ended: Ended, first: asyncio.Future[bytes] = welcome) -> None:
            if not first.done():
                first.set_exception(ConnectionError(f"not welcome: {ended}"))

        stream = connection.open(
            SESSION_PATH, [("authorization", f"Bearer {mesh.token(user)}")], on_frame, on_end
        )
        hello = session_pb2.Hello(device_id="stalled", start=session_pb2.Hello.START_OLDEST)
        stream.send(session_pb2.ClientFrame(hello=hello).SerializeToString())
        await welcome
        made.append((connection, stream))


async def _ping(connections: list[tuple[Any, Any]]) -> None:
    """They are alive, they only read nothing."""
    import asyncio

    from chatmesh.cli.bench import payload

    while True:
        await asyncio.sleep(PINGS_SECONDS)
        for _, stream in connections:
            stream.send(payload.PING_FRAME)
