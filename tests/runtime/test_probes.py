"""The probes' port: three questions, answered by the loop that serves, and nothing else."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from chatmesh.runtime.errors import AddressTaken
from chatmesh.runtime.probes import LIVENESS, READINESS, STARTUP, ProbeServer
from chatmesh.runtime.readiness import Readiness

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Probed:
    """A probe server and the kubelet's side."""

    def __init__(self) -> None:
        self.readiness = Readiness()
        self.started = asyncio.Event()
        self.server = ProbeServer("127.0.0.1:0", self.readiness, self.started)
        self.address = ""

    async def ask(self, service: str) -> int:
        async with grpc.aio.insecure_channel(self.address) as channel:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = await health_pb2_grpc.HealthStub(channel).Check(request)
            return int(answer.status)


@pytest.fixture
async def probed() -> AsyncIterator[Probed]:
    made = Probed()
    made.address = await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop()


async def test_each_probe_asks_its_own_question(probed: Probed) -> None:
    store = probed.readiness.require("postgres")
    assert [await probed.ask(name) for name in (STARTUP, LIVENESS, READINESS)] == [
        NOT_SERVING, SERVING, NOT_SERVING,
    ]  # fmt: skip
    probed.started.set()
    assert await probed.ask(STARTUP) == SERVING, "a missing store is no failed start"
    assert await probed.ask(READINESS) == NOT_SERVING
    store.up()
    assert await probed.ask(READINESS) == SERVING
    assert await probed.ask("") == SERVING
    probed.readiness.stop()
    assert await probed.ask(READINESS) == NOT_SERVING
    assert await probed.ask(LIVENESS) == SERVING, "a drain must not be cut short"


async def test_an_unknown_name_is_told(probed: Probed) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await probed.ask("no.such.probe")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_address_in_use_is_told(probed: Probed) -> None:
    with pytest.raises(AddressTaken):
        await ProbeServer(probed.address, probed.readiness, probed.started).start()
