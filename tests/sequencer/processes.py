"""`python -m sequencer_svc` as child processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import grpc
from grpc_health.v1.health_pb2 import (  # type: ignore[import-untyped]
    HealthCheckRequest,
    HealthCheckResponse,
)
from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]

from chatmesh.mesh.v1 import sequencer_pb2, sequencer_pb2_grpc
from chatmesh.runtime.callers import CALLER_METADATA

PATIENCE_SECONDS = 60


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Sequencer:
    """One process."""

    def __init__(self, environment: Mapping[str, str], log: IO[bytes]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.metrics = f"127.0.0.1:{free_port()}"
        self._log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sequencer_svc"],
            env={
                "PATH": os.environ["PATH"],
                "CHATMESH_MESH_LISTEN": self.address,
                "CHATMESH_METRICS_LISTEN": self.metrics,
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def log(self) -> str:
        """What it wrote so far."""
        return Path(self._log.name).read_text()

    async def wait_ready(self, ready: bool = True) -> dict[str, Any]:
        """Wait until it is (or is not) ready, as its health tells; then what /readyz says."""
        wanted = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            grpc.aio.insecure_channel(
                self.address, options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel,
        ):
            watch = HealthStub(channel).Watch(HealthCheckRequest(), wait_for_ready=True)
            async for answer in watch:
                if answer.status == wanted:
                    break
        return await asyncio.to_thread(self._readyz)

    def _readyz(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://{self.metrics}/readyz", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                found = json.load(error)
        return found

    async def wait_end(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.to_thread(self.process.wait)


class Client:
    """A caller of the mesh."""

    def __init__(self, sequencer: Sequencer, caller: str = "chat_svc") -> None:
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
        self._all: list[Sequencer] = []
        self._clients: list[Client] = []

    def start(self, postgres_url: str, **settings: str) -> Sequencer:
        """Start one; `settings` by their field names."""
        environment = {
            f"CHATMESH_{name.upper()}": value
            for name, value in {"postgres_url": postgres_url, **settings}.items()
        }
        log = tempfile.NamedTemporaryFile(prefix="sequencer-", suffix=".log")  # noqa: SIM115
        made = Sequencer(environment, log)
        self._all.append(made)
        return made

    def end(self, number: signal.Signals) -> None:
        """End all processes."""
        for one in self._all:
            if one.process.poll() is None:
                os.killpg(one.process.pid, number)
            one.process.wait()
            one._log.close()
