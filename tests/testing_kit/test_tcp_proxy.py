"""The proxy's misbehaviour, one kind at a time, on an echo server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from chatmesh.testing import TcpProxy


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # cut on purpose
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, TcpProxy(f"127.0.0.1:{port}") as running:
        yield running


class Line:
    """One connection through the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, proxy: TcpProxy) -> None:
        self._proxy = proxy

    async def __aenter__(self) -> Line:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._proxy.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def fails(self) -> bytes:
        """What came before the connection broke."""
        try:
            await self.reader.readexactly(100)
        except ConnectionError:
            return b""
        except asyncio.IncompleteReadError as error:
            return error.partial
        raise AssertionError("it did not break")

    async def echo(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readexactly(len(data))


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so; the test's own timeout ends a vain wait."""
    while not condition():  # noqa: ASYNC110 - the proxy offers no event for its counters
        await asyncio.sleep(0)


async def test_bytes_pass_unchanged(proxy: TcpProxy) -> None:
    async with Line(proxy) as line:
        data = bytes(range(256)) * 4096
        assert await line.echo(data) == data
        assert proxy.passed_bytes("up") == proxy.passed_bytes("down") == len(data)
        line.writer.write_eof()
        assert await line.reader.read() == b""


async def test_delay_keeps_bytes_in_order_and_late(proxy: TcpProxy) -> None:
    async with Line(proxy) as line:
        proxy.delay("down", 0.05)
        before = asyncio.get_running_loop().time()
        assert await line.echo(b"abc") == b"abc"
        assert asyncio.get_running_loop().time() - before >= 0.05, "a lower bound is no race"


async def test_cut_at_a_byte(proxy: TcpProxy) -> None:
    async with Line(proxy) as line:
        proxy.cut_after("down", 5)
        line.writer.write(b"0123456789")
        assert await line.fails() in (b"", b"01234"), "a reset may overtake bytes, never add any"
        assert proxy.passed_bytes("down") == 5
    async with Line(proxy) as again:
        assert await again.echo(b"served") == b"served"


async def test_a_black_hole_swallows_and_keeps_the_connection(proxy: TcpProxy) -> None:
    async with Line(proxy) as line, Line(proxy) as other:
        await line.echo(b"open")
        proxy.blackhole("up")
        line.writer.write(b"lost")
        other.writer.write(b"lost, too")
        await until(lambda: proxy.open_links == 2 and proxy.swallowed_bytes("up") == 13)
        assert proxy.passed_bytes("up") == 4
        proxy.heal()
        assert await line.fails() == await other.fails() == b""
    async with Line(proxy) as after:
        assert await after.echo(b"healed") == b"healed"


async def test_pause_holds_and_resume_lets_go(proxy: TcpProxy) -> None:
    async with Line(proxy) as line:
        await line.echo(b"open")
        proxy.pause("down")
        line.writer.write(b"wait")
        reading = asyncio.create_task(line.reader.readexactly(4))
        await until(lambda: proxy.passed_bytes("up") == 8)
        assert not reading.done()
        proxy.resume("down")
        assert await reading == b"wait"


async def test_cut_all_and_refuse(proxy: TcpProxy) -> None:
    async with Line(proxy) as line:
        await line.echo(b"open")
        proxy.refuse()
        assert proxy.cut_all() == 1
        assert await line.fails() == b""
    async with Line(proxy) as refused:
        assert await refused.fails() == b""
    proxy.heal()
    async with Line(proxy) as again:
        assert await again.echo(b"back") == b"back"
