"""The test's side of `receiver`: starts the processes, follows how far they are."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

ARRIVAL_SECONDS = 60
"""Long: nothing is timed, but a test that waits for ever tells nothing."""


class Receiver:
    """One receiving process."""

    def __init__(self, kind: str, **order: Any) -> None:
        self.user: str = order["user"]
        self.device: str = order["device"]
        self._kind = kind
        self._order = {**order, "history": str(order["history"])}
        self._process: Process | None = None
        self.stored = -1

    async def start(self) -> None:
        """Start (or start again after `kill`), and wait for its first session."""
        self.stored = -1
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.e2e.receiver", self._kind, stdin=PIPE, stdout=PIPE,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._order).encode() + b"\n")
        await self.reaches(0)

    async def reaches(self, position: int) -> None:
        """Wait until it has stored up to a position."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(ARRIVAL_SECONDS):
            while self.stored < position:
                line = await self._process.stdout.readline()
                assert line, f"the receiver {self.user} {self.device} ended"
                self.stored = json.loads(line)["stored"]

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """kill -9, unless it has ended."""
        assert self._process is not None
        if self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGKILL)
        await self._process.communicate()

    async def end(self) -> None:
        """Let it leave."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.communicate()
        assert self._process.returncode == 0
