"""Valkey servers with ports of their own, that die, lose everything, follow and lead."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from chatmesh.embedded.binaries import valkey_program
from tests.service_process import free_port

PATIENCE_SECONDS = 60
PASSWORD = "p" * 24


class Valkey:
    """One server, running from `start` to `end`; several may share the password."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._folder = Path(tempfile.mkdtemp(prefix="cm-valkey-"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        self._process = subprocess.Popen(
            [
                str(valkey_program()),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
                *("--requirepass", PASSWORD, "--primaryauth", PASSWORD),
                *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
                *("--repl-diskless-sync-delay", "0"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._until(lambda: self._ask("PING"))

    def signal(self, number: signal.Signals) -> None:
        """To its process; SIGKILL returns when it is gone."""
        assert self._process is not None
        os.killpg(self._process.pid, number)
        if number is signal.SIGKILL:
            self._process.wait()

    def wipe(self) -> None:
        """Forget everything on disk; while it is down."""
        shutil.rmtree(self._folder)
        self._folder.mkdir()

    def follow(self, other: Valkey) -> None:
        """Become its replica, and wait until all is here."""
        self._ask("REPLICAOF", "127.0.0.1", str(other.port))
        self._until(lambda: self._replication()["master_link_status"] == "up")

    def lead(self) -> None:
        """Become a primary."""
        self._ask("REPLICAOF", "NO", "ONE")

    def end(self) -> None:
        """kill -9, and nothing is left."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _replication(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._ask("INFO", "replication")
        return answer

    def _ask(self, *command: str) -> Any:
        client = redis.Redis(port=self.port, password=PASSWORD, socket_timeout=10)
        try:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]
        except (redis.ConnectionError, redis.TimeoutError):
            return None
        finally:
            client.close()

    def _until(self, holds: Any) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert self._process is not None
            assert self._process.poll() is None, "valkey ended"
            assert time.monotonic() < deadline
            time.sleep(0.05)  # nobody tells
