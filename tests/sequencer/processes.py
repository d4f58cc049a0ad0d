"""`python -m sequencer_svc` as child processes, and their callers."""

from __future__ import annotations

from typing import Any

import grpc

from chatmesh.mesh.v1 import sequencer_pb2, sequencer_pb2_grpc
from chatmesh.runtime.callers import CALLER_METADATA
from tests.service_process import ServiceProcess


class Client:
    """A caller of the mesh."""

    def __init__(self, sequencer: ServiceProcess, caller: str = "chat_svc") -> None:
        self.channel = grpc.aio.insecure_channel(
            sequencer.address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._stub: sequencer_pb2_grpc.SequencerServiceAsyncStub = (
            sequencer_pb2_grpc.SequencerServiceStub(self.channel)
        )
        self._metadata = ((CALLER_METADATA, caller),)

    async def ids(self, count: int, *, timeout: float = 10) -> list[int]:  # noqa: ASYNC109
        """Ids by the unary RPC."""
        answer = await self._stub.NextIds(
            sequencer_pb2.NextIdsRequest(count=count), metadata=self._metadata, timeout=timeout
        )
        return expand(answer)

    def stream(self) -> Any:
        """An open NextIdsStream."""
        return self._stub.NextIdsStream(metadata=self._metadata)

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()


def expand(answer: sequencer_pb2.NextIdsResponse) -> list[int]:
    """The ids of an answer, in order."""
    return [given.first + number for given in answer.ranges for number in range(given.count)]


class Sequencers:
    """All processes of one test."""

    def __init__(self) -> None:
        self._all: list[ServiceProcess] = []

    def start(self, postgres_url: str, **settings: str) -> ServiceProcess:
        """Start one; `settings` by their field names."""
        made = ServiceProcess("sequencer_svc", {"postgres_url": postgres_url, **settings})
        self._all.append(made)
        return made

    def end(self) -> None:
        """End all processes."""
        for one in self._all:
            one.end()
