"""A small server process for the tests of the lifecycle; run with `python -m`.

MODE chooses what it does; it prints one line per step, so that a test can see the order.
"""

from __future__ import annotations

import os

from chatmesh.runtime import engine

engine.prepare()

import asyncio  # noqa: E402 - grpc must not be imported before prepare()
import sys  # noqa: E402
import time  # noqa: E402
from contextlib import asynccontextmanager  # noqa: E402
from typing import Any  # noqa: E402

from chatmesh.runtime import lifecycle  # noqa: E402
from chatmesh.runtime.errors import StartupError  # noqa: E402
from chatmesh.runtime.lifecycle import Lifecycle  # noqa: E402
from chatmesh.runtime.server import Face, GrpcServer  # noqa: E402
from chatmesh.runtime.settings import ServerSettings  # noqa: E402
from tests.runtime.echo import EchoServicer, Message, add_echo  # noqa: E402

MODE = os.environ.get("MODE", "")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Servicer(EchoServicer):
    """A session that leaves when it is told to, and one that never does."""

    def __init__(self) -> None:
        self.leave = asyncio.Event()

    async def StreamStream(self, requests: Any, context: Any) -> None:
        first = await context.read()
        say(f"session {first.text}")
        await context.write(first)
        try:
            if first.text == "polite":
                await self.leave.wait()
                await context.write(Message(text="going away"))
            else:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            say("session cancelled")
            raise

    async def drain(self) -> None:
        say("drain")
        self.leave.set()


@asynccontextmanager
async def store() -> Any:
    say("store opened")
    try:
        yield
    finally:
        say("store closed")


async def dying() -> None:
    await asyncio.sleep(0.05)
    raise RuntimeError("the loop's own words")


async def returning() -> None:
    await asyncio.sleep(0.05)


async def stubborn() -> None:
    """Swallows the first cancellation, as libraries do."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass
    try:
        await asyncio.Event().wait()
    finally:
        say("loop ended")


async def app(life: Lifecycle, settings: ServerSettings) -> None:
    if MODE == "cannot start":
        raise StartupError("the reason why not")
    if MODE == "crash":
        raise RuntimeError("the app's own words") from ValueError("a canary")
    if MODE == "return":
        return
    async with store():
        servicer = Servicer()
        public = GrpcServer(face=Face.PUBLIC, address="127.0.0.1:0", readiness=life.readiness)
        mesh = GrpcServer(face=Face.MESH, address=settings.mesh_listen, readiness=life.readiness)
        for server in (public, mesh):
            server.add(add_echo, servicer)
        life.background("stubborn", stubborn)
        if MODE == "dying loop":
            life.background("dying", dying)
        if MODE == "returning loop":
            life.background("returning", returning)
        if MODE == "mesh last":
            await public.start()
        mesh_address = await mesh.start()
        say(f"ready {await public.start()} {mesh_address}")
        if MODE == "blocked":
            await life.stopping.wait()
            time.sleep(3600)  # noqa: ASYNC251 - the event loop is stuck on purpose
        await life.run([public, mesh], [servicer.drain])
        say("run returned")


if __name__ == "__main__":
    raise SystemExit(engine.run(lifecycle.main(ServerSettings, app)))
