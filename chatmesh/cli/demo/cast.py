"""The devices of the demonstration, seen from outside: processes that are told what to do and
whose lines are watched.

Rules: what an actor says is believed only about itself (its frames, its store). Waiting is for
events, with a deadline that fails the step.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

SEE_SECONDS: Final = 15.0
"""How long a line may take that is expected to come at once."""
END_SECONDS: Final = 10.0
MAX_LINE_BYTES: Final = 1 << 20


class NotSeen(Exception):
    """What a step needs was not seen; the text says what was waited for."""


Line = dict[str, Any]


class Actor:
    """One device's process."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.seen: list[Line] = []
        """Everything it said, in order."""
        self._process = process
        self._news = asyncio.Condition()
        self._ended = False
        self._reader = asyncio.create_task(self._read(), name=f"demo-{name}")

    @classmethod
    async def start(cls, name: str, log: Path, environment: Mapping[str, str]) -> Actor:
        """Start the process; it is ready when this returns. Its stderr goes to a file."""
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "chatmesh.cli.demo.actor", name,
                stdin=PIPE, stdout=PIPE, stderr=stderr, limit=MAX_LINE_BYTES,
                env={**os.environ, **environment},
            )  # fmt: skip
        actor = cls(name, process)
        await actor.sees("ready")
        return actor

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def order(self, do: str, **facts: Any) -> int:
        """Give an order; the number of lines seen so far, to wait for lines after it."""
        if self._process.stdin is None or self._ended:
            raise NotSeen(f"{self.name} has ended")
        self._process.stdin.write(json.dumps({"do": do, **facts}).encode() + b"\n")
        return len(self.seen)

    async def sees(
        self,
        saw: str,
        where: Callable[[Line], bool] = lambda line: True,
        *,
        after: int = 0,
        within_seconds: float = SEE_SECONDS,
    ) -> Line:
        """The first matching line after so many lines, waiting for it.

        Raises NotSeen: in time there was none, the process ended, or it was refused something.
        """
        try:
            async with asyncio.timeout(within_seconds), self._news:
                while True:
                    for line in self.seen[after:]:
                        if line["saw"] == saw and where(line):
                            return line
                        if line["saw"] in ("refused", "ended"):
                            raise NotSeen(f"{self.name}: {line['text']}")
                    if self._ended:
                        raise NotSeen(f"{self.name} ended")
                    await self._news.wait()
        except TimeoutError:
            last = json.dumps(self.seen[-1]) if self.seen else "nothing"
            raise NotSeen(
                f"{self.name} did not see {saw!r} within {within_seconds:g} s; last: {last}"
            ) from None

    def entries(self) -> dict[int, int]:
        """What its store holds: message id by timeline_seq."""
        return {
            line["timeline_seq"]: line["message_id"] for line in self.seen if line["saw"] == "entry"
        }

    async def end(self) -> None:
        """Close its stdin, and wait until it has left; killed when it does not."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await asyncio.wait({self._reader})

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        while line := await self._process.stdout.readline():
            async with self._news:
                self.seen.append(json.loads(line))
                self._news.notify_all()
        async with self._news:
            self._ended = True
            self._news.notify_all()
