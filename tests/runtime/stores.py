"""Real PostgreSQL and Valkey processes for tests of the runtime."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from chatmesh.embedded.children import Command
from chatmesh.embedded.layout import DataFolder
from chatmesh.embedded.postgres import EmbeddedPostgres
from chatmesh.embedded.valkey import EmbeddedValkey

START_SECONDS = 60


class Store:
    """A running server: its URL, and a way to stop and start it again."""

    def __init__(self, command: Command, is_ready: Callable[[], bool], url: str) -> None:
        self.url = url
        self._command = command
        self._is_ready = is_ready
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        self._process = subprocess.Popen(
            list(self._command.argv),
            env=dict(self._command.environment),
            cwd=self._command.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._command.argv[-1]} did not start")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """Stop at once and wait."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(START_SECONDS)


def _with(command: Command, environment: Mapping[str, str] | None) -> Command:
    return replace(command, environment={**command.environment, **(environment or {})})


@contextmanager
def folder() -> Iterator[DataFolder]:
    """A data folder with a short path: socket paths are limited to about 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="cm-") as name:
        made = DataFolder(Path(name))
        made.make()
        yield made


@contextmanager
def postgres(
    settings: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Store]:
    """A PostgreSQL with the mesh's roles and database; `url` is the owner's."""
    with folder() as data:
        sockets = data.path / "s"
        sockets.mkdir(mode=0o700)
        server = EmbeddedPostgres(data, sockets, settings=settings)
        server.prepare()
        command = _with(server.command(), environment)
        store = Store(command, server.is_ready, server.owner_url())
        store.start()
        try:
            server.provision()
            yield store
        finally:
            store.stop()


@contextmanager
def valkey(environment: Mapping[str, str] | None = None) -> Iterator[Store]:
    """A Valkey with a password on a socket."""
    with folder() as data:
        sockets = data.path / "s"
        sockets.mkdir(mode=0o700)
        server = EmbeddedValkey(data, sockets)
        server.prepare()
        store = Store(_with(server.command(), environment), server.is_ready, server.url())
        store.start()
        try:
            yield store
        finally:
            store.stop()
