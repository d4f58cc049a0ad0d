"""One server, `python -m <package>`, as a child process of a test."""

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
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import (  # type: ignore[import-untyped]
    HealthCheckRequest,
    HealthCheckResponse,
)
from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]

PATIENCE_SECONDS = 60


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServiceProcess:
    """Running; `end` it."""

    def __init__(
        self,
        package: str,
        settings: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` by their field names, `environment` as it is."""
        self.address = f"127.0.0.1:{free_port()}"
        self.metrics = f"127.0.0.1:{free_port()}"
        self._log = tempfile.NamedTemporaryFile(prefix=f"{package}-", suffix=".log")  # noqa: SIM115
        everything = {
            "mesh_listen": self.address,
            "metrics_listen": self.metrics,
            **settings,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", package],
            env={
                "PATH": os.environ["PATH"],
                **{f"CHATMESH_{name.upper()}": value for name, value in everything.items()},
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
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

    def end(self) -> None:
        """Kill it, if it still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()
