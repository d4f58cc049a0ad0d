"""The load processes of a run, and the watch over the mesh while they work.

Role: starts children that are clients, speaks with them in JSON lines, waits for what they say, and
tells a death in the mesh from a failure of the clients.
Rules: knows no kind of load. A process that was started here is ended here, whatever happens.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from chatmesh.cli.bench.load import MAX_LINE_BYTES
from chatmesh.cli.bench.plan import ImpossibleLoad
from chatmesh.cli.bench.processes import MeshDied, MeshProcesses

Progress = Callable[[str, float, int], None]
"""Phase, share of it that is done (0 to 1), messages delivered so far."""

WATCH_SECONDS: Final = 0.5
LAST_WORDS_SECONDS: Final = 3
LOAD_MODULE: Final = "chatmesh.cli.bench.load"


class RunFailed(Exception):
    """There is no result; the text says why and where to look."""


class LoadProcess:
    """A child that is the clients of some pairs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.delivered = 0
        self.ticks = 0
        self.behind_ms = 0.0
        """Age of the oldest message under way, where the process tells it."""
        self.on_line: Callable[[Mapping[str, Any]], None] | None = None
        """Hears every line that was not waited for."""

    @classmethod
    async def start(cls, order: Mapping[str, Any], module: str = LOAD_MODULE) -> LoadProcess:
        """Start one and give it its order. `module` is what `python -m` runs."""
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is for the command, which ends it
        )  # fmt: skip
        made = cls(started)
        await made.tell(order)
        return made

    async def tell(self, order: Mapping[str, Any]) -> None:
        """One line to it."""
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()

    async def until(self, event: str) -> Mapping[str, Any]:
        """Its next line of this kind; ticks are noted. Raises RunFailed, ImpossibleLoad."""
        if self._process.stdout is None:
            raise RunFailed("the load process has no output")
        while line := await self._process.stdout.readline():
            content: Mapping[str, Any] = json.loads(line)
            if content["event"] == event:
                return content
            if content["event"] == "failed":
                failure = ImpossibleLoad if content["impossible"] else RunFailed
                raise failure(str(content["what"]))
            self.delivered = content.get("delivered", self.delivered)
            self.behind_ms = content.get("behind_ms", self.behind_ms)
            self.ticks += 1
            if self.on_line is not None:
                self.on_line(content)
        code = await self._process.wait()
        raise RunFailed(f"the load process {self.pid} ended with code {code}")

    async def ask(self, **order: Any) -> Mapping[str, Any]:
        """An order, and the line that says it is done. Raises RunFailed, ImpossibleLoad."""
        await self.tell(order)
        return await self.until("done")

    async def leave(self) -> None:
        """After its result: its sessions end in order, and so does it."""
        await self.tell({"bye": {}})
        await self._process.wait()

    async def stop(self) -> None:
        """End it, however far it is."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def watched(processes: MeshProcesses) -> AsyncIterator[None]:
    """Within: a death in the mesh ends the run as MeshDied, whatever the clients say of it."""
    me = asyncio.current_task()
    died: list[MeshDied] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                processes.check()
            except MeshDied as death:
                died.append(death)
                if me is not None:
                    me.cancel()
                return

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not died or me is None:
            raise
        me.uncancel()
        raise died[0] from None
    except RunFailed as failure:
        # a session that ended may be the first sign of a death: give the kernel a moment to tell
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while time.monotonic() < deadline:
            try:
                processes.check()
            except MeshDied as death:
                raise death from failure
            await asyncio.sleep(0.1)
        raise
    finally:
        watching.cancel()


async def sleep_until(
    at_ns: int,
    since_ns: int,
    phase: str,
    ends: asyncio.Future[list[Mapping[str, Any]]],
    loaders: Sequence[LoadProcess],
    progress: Progress,
) -> None:
    """Until a moment, showing how far it is; sooner when the load has ended (or failed)."""
    while (left_ns := at_ns - time.monotonic_ns()) > 0:
        share = 1 - left_ns / max(1, at_ns - since_ns)
        progress(phase, max(0.0, share), sum(one.delivered for one in loaders))
        await asyncio.wait((ends,), timeout=min(0.25, left_ns / 1e9))
        if ends.done():
            ends.result()  # raises what it failed with
            return


async def all_of(waiting: Any) -> list[Mapping[str, Any]]:
    """All of them, or the first failure alone."""
    tasks = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in waiting]
    except* (RunFailed, ImpossibleLoad) as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
