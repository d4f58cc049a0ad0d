"""Fixtures of the runtime's tests: gRPC servers and channels, real PostgreSQL and Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from chatmesh.runtime.server import Face, GrpcServer
from tests.runtime import stores
from tests.runtime.echo import EchoServicer, EchoStub, add_echo


class Serving:
    """A started server with the echo service, and clients of it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def server(self, servicer: Any = None, **options: Any) -> tuple[GrpcServer, str]:
        """Start one; its address."""
        server = GrpcServer(**{"face": Face.MESH, "address": "127.0.0.1:0", **options})
        server.add(add_echo, servicer or EchoServicer())
        address = await server.start()
        self._stack.push_async_callback(server.stop, 0)
        return server, address

    def channel(self, address: str) -> grpc.aio.Channel:
        """A plain channel to it."""
        channel = grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._stack.push_async_callback(channel.close)
        return channel

    async def echo(self, servicer: Any = None, *, raw: bool = False, **options: Any) -> EchoStub:
        """Start a server; a stub of it."""
        _, address = await self.server(servicer, **options)
        return EchoStub(self.channel(address), raw=raw)


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    """Servers and channels that end with the test."""
    async with AsyncExitStack() as stack:
        yield Serving(stack)


@pytest.fixture(scope="session")
def postgres() -> Iterator[stores.Store]:
    """One PostgreSQL for the session."""
    with stores.postgres() as store:
        yield store


@pytest.fixture(scope="session")
def valkey() -> Iterator[stores.Store]:
    """One Valkey for the session."""
    with stores.valkey() as store:
        yield store
