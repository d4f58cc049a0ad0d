"""A TCP proxy that misbehaves on demand: between clients and chat nodes, nodes and PostgreSQL,
services and Redis, or any two processes.

    async with TcpProxy("127.0.0.1:7030") as proxy:
        ...connect to proxy.address...
        proxy.delay("down", 0.2)        # server to client is 200 ms late
        proxy.blackhole("both")         # half-open: bytes vanish, connections stay
        proxy.cut_after("down", 1000)   # after 1,000 more bytes the connections are reset
        proxy.cut_all()                 # reset what is open now
        proxy.pause(); proxy.resume()   # bytes wait (the senders meet backpressure)

`up` is client to server, `down` is server to client. Rules hold for open and new connections until
`heal()`. Bytes are never reordered or changed. Memory is bounded: while bytes wait, nothing more is
read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

Direction = Literal["up", "down"]
Directions = Literal["up", "down", "both"]

CHUNK_BYTES: Final = 65_536
MAX_WAITING_PIECES: Final = 64
"""Pieces that wait in one direction of one connection: at most 4 MiB."""
_DelayLine: TypeAlias = "asyncio.Queue[tuple[float, bytes]]"
"""(loop time at which it may go on, bytes; b"" = the end)."""


class _Rules:
    """What happens to the bytes of one direction."""

    def __init__(self) -> None:
        self.delay_seconds = 0.0
        self.blackhole = False
        self.bytes_left: int | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.passed_bytes = 0
        self.swallowed_bytes = 0


class TcpProxy:
    """One listener on a free port of 127.0.0.1, one target: `HOST:PORT` or `unix:/path`."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.connections = 0
        """Connections accepted so far."""
        self._rules: dict[Direction, _Rules] = {"up": _Rules(), "down": _Rules()}
        self._refusing = False
        self._server: asyncio.Server | None = None
        self._links: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._spawn, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut_all()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            raise RuntimeError("use the proxy as `async with TcpProxy(target) as proxy`")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        """What to connect to."""
        return f"127.0.0.1:{self.port}"

    @property
    def open_links(self) -> int:
        """Connections open now."""
        return len(self._links)

    def passed_bytes(self, direction: Direction) -> int:
        """Bytes that reached the other side so far."""
        return self._rules[direction].passed_bytes

    def swallowed_bytes(self, direction: Direction) -> int:
        """Bytes that vanished in a black hole so far."""
        return self._rules[direction].swallowed_bytes

    # -- misbehaviour ------------------------------------------------------------------------------

    def delay(self, directions: Directions, seconds: float) -> None:
        """Every piece arrives so much later."""
        for rules in self._of(directions):
            rules.delay_seconds = seconds

    def blackhole(self, directions: Directions = "both") -> None:
        """Half-open: bytes are taken and vanish, the connections stay open."""
        for rules in self._of(directions):
            rules.blackhole = True

    def pause(self, directions: Directions = "both") -> None:
        """Bytes wait until `resume`."""
        for rules in self._of(directions):
            rules.flowing.clear()

    def resume(self, directions: Directions = "both") -> None:
        """Bytes that wait go on."""
        for rules in self._of(directions):
            rules.flowing.set()

    def cut_after(self, direction: Direction, count: int) -> None:
        """Let so many more bytes pass in this direction (over all connections), then reset the
        connection that carried the last of them. 0: the next byte cuts."""
        self._rules[direction].bytes_left = count

    def cut_all(self) -> int:
        """Reset every open connection; how many there were."""
        links = list(self._links)
        for link in links:
            _reset(link)
        return len(links)

    def refuse(self, refusing: bool = True) -> None:
        """Reset new connections at once."""
        self._refusing = refusing

    def heal(self) -> None:
        """No rule holds any more. What vanished in a black hole is gone: such connections are
        reset, since a stream with a hole is no stream."""
        self._refusing = False
        holed = any(rules.blackhole for rules in self._rules.values())
        for rules in self._rules.values():
            rules.delay_seconds, rules.blackhole, rules.bytes_left = 0.0, False, None
            rules.flowing.set()
        if holed:
            self.cut_all()

    def _of(self, directions: Directions) -> Iterator[_Rules]:
        for direction, rules in self._rules.items():
            if directions in (direction, "both"):
                yield rules

    # -- bytes -------------------------------------------------------------------------------------

    def _spawn(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._accept(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusing:
            _reset((writer, writer))
            return
        try:
            far_reader, far_writer = await self._connect()
        except OSError:
            _reset((writer, writer))
            return
        link = (writer, far_writer)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer, "up", link)),
            asyncio.create_task(self._pump(far_reader, writer, "down", link)),
        ]
        try:
            await asyncio.wait(pumps)
        finally:
            self._links.discard(link)
            for side in link:
                side.close()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.target.startswith("unix:"):
            return await asyncio.open_unix_connection(self.target.removeprefix("unix:"))
        host, _, port = self.target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
        link: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        line: _DelayLine = asyncio.Queue(MAX_WAITING_PIECES)
        source = asyncio.create_task(self._fill(reader, line, self._rules[direction], link))
        try:
            await self._pour(line, writer, self._rules[direction], link)
        except ConnectionError:
            pass  # the far side is gone; the other pump notices by itself
        finally:
            source.cancel()
            await asyncio.gather(source, return_exceptions=True)

    async def _fill(
        self,
        reader: asyncio.StreamReader,
        line: _DelayLine,
        rules: _Rules,
        link: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        """Read, and stamp each piece with the time at which it may go on."""
        loop = asyncio.get_running_loop()
        piece = b"start"
        while piece:
            try:
                piece = await reader.read(CHUNK_BYTES)
            except ConnectionError:
                if not rules.blackhole:
                    _reset(link)  # one side was reset: so is the other
                piece = b""
            await line.put((loop.time() + rules.delay_seconds, piece))

    async def _pour(
        self,
        line: _DelayLine,
        writer: asyncio.StreamWriter,
        rules: _Rules,
        link: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, piece = await line.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await rules.flowing.wait()
            if rules.blackhole:
                rules.swallowed_bytes += len(piece)
                if not piece:
                    return  # even the goodbye vanishes
                continue
            if not piece:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            cut = rules.bytes_left is not None and len(piece) > rules.bytes_left
            if rules.bytes_left is not None:
                piece = piece[: rules.bytes_left]
                rules.bytes_left -= len(piece)
            writer.write(piece)
            rules.passed_bytes += len(piece)
            await writer.drain()
            if cut:
                rules.bytes_left = None  # one cut: who reconnects is served
                _reset(link)
                return


def _reset(link: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
    """Ends both sides with RST (SO_LINGER 0), as a crash does: no orderly goodbye."""
    for writer in link:
        end = writer.get_extra_info("socket")
        if end is not None:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
