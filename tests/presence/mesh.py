"""Replicas of presence_svc as child processes, and what chat_svc and sync_svc do with them."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import (  # type: ignore[import-untyped]
    HealthCheckRequest,
    HealthCheckResponse,
)
from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]

from chatmesh.digest import mix_session
from chatmesh.mesh.v1 import presence_pb2 as pb
from chatmesh.mesh.v1 import presence_pb2_grpc
from chatmesh.runtime.callers import CALLER_METADATA
from chatmesh.v1 import types_pb2

PATIENCE_SECONDS = 60


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Presence:
    """One replica."""

    def __init__(self, redis_url: str, **settings: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.channels: list[grpc.aio.Channel] = []
        self._log = tempfile.NamedTemporaryFile(prefix="presence-", suffix=".log")  # noqa: SIM115
        self._environment = {
            "PATH": os.environ["PATH"],
            "CHATMESH_MESH_LISTEN": self.address,
            "CHATMESH_REDIS_URL": redis_url,
            **{f"CHATMESH_{name.upper()}": value for name, value in settings.items()},
        }
        self.start()

    def start(self) -> None:
        """Start (again)."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "presence_svc"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def log(self) -> str:
        """What it wrote so far."""
        return Path(self._log.name).read_text()

    def kill(self) -> None:
        """kill -9."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    async def end(self) -> None:
        """kill -9, and the end of all that was opened to it."""
        self.kill()
        for channel in self.channels:
            await channel.close()
        self._log.close()

    def channel(self) -> grpc.aio.Channel:
        """A channel of its own."""
        return grpc.aio.insecure_channel(
            self.address, options=[("grpc.use_local_subchannel_pool", 1)]
        )

    async def wait_ready(self, ready: bool = True) -> None:
        """Wait until health says so."""
        wanted = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        async with asyncio.timeout(PATIENCE_SECONDS), self.channel() as channel:
            watch = HealthStub(channel).Watch(HealthCheckRequest(), wait_for_ready=True)
            async for answer in watch:
                if answer.status == wanted:
                    return


class Refused(Exception):
    """A stream ended with a status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code = code


class Caller:
    """Unary calls as one service."""

    def __init__(self, presence: Presence, caller: str) -> None:
        self.channel = presence.channel()
        presence.channels.append(self.channel)
        self.stub: presence_pb2_grpc.PresenceServiceAsyncStub = (
            presence_pb2_grpc.PresenceServiceStub(self.channel)
        )
        self.metadata = ((CALLER_METADATA, caller),)

    async def lookup(self, *account_ids: int) -> pb.LookupSessionsResponse:
        """LookupSessions."""
        return await self.stub.LookupSessions(
            pb.LookupSessionsRequest(account_ids=account_ids), metadata=self.metadata, timeout=10
        )

    async def routes(self, account_id: int) -> list[tuple[int, str, int]]:
        """(node, device, session_no) of an account."""
        answer = await self.lookup(account_id)
        return [
            (route.node_id, route.device_id, route.session_no)
            for route in answer.accounts[0].routes
        ]

    async def wait_for(self, account_id: int, *, online: bool) -> pb.LookupSessionsResponse:
        """Ask until the answer is certain and as wanted."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                answer = await self.lookup(account_id)
                known = bool(answer.accounts[0].routes) or not answer.unknown
                if known and bool(answer.accounts[0].routes) == online:
                    return answer
                await asyncio.sleep(0.05)


class ChatNode(Caller):
    """What a chat node does: beats, attaches, watches. Its sessions are its own truth."""

    def __init__(self, presence: Presence, node_id: int) -> None:
        super().__init__(presence, "chat_svc")
        self.node_id = node_id
        self.ref = pb.NodeRef(
            node_id=node_id, target=f"127.0.0.1:{node_id % 50_000 + 1}", name=f"node-{node_id}"
        )
        self.sessions: dict[tuple[int, str], int] = {}
        self._ids = itertools.count(1)
        self._beats: Any = None
        self._attaches: Any = None

    async def beat(self, *, leaving: bool = False) -> pb.KeepAliveResponse:
        """One beat with the true count and digest."""
        if self._beats is None:
            self._beats = self.stub.KeepAlive(metadata=self.metadata)
        digest = 0
        for (account_id, _), session_no in self.sessions.items():
            digest ^= mix_session(account_id, session_no)
        await self._beats.write(
            pb.KeepAliveRequest(
                request_id=next(self._ids),
                node=self.ref,
                session_count=len(self.sessions),
                session_digest=digest,
                leaving=leaving,
            )
        )
        answer: pb.KeepAliveResponse = await self._beats.read()
        return answer

    async def attach(
        self, *sessions: tuple[int, str, int], active: bool = True, full: bool = False
    ) -> list[tuple[int, str, int]]:
        """Attach sessions (account, device, session_no); those that are superseded."""
        for account_id, device_id, session_no in sessions:
            self.sessions[account_id, device_id] = session_no
        answer = await self._attach(attached=records(sessions, active), full=full, full_done=full)
        gone = [(one.account_id, one.device_id, one.session_no) for one in answer.superseded]
        for account_id, device_id, session_no in gone:
            if self.sessions.get((account_id, device_id)) == session_no:
                del self.sessions[account_id, device_id]
        return gone

    async def attach_all(self) -> list[tuple[int, str, int]]:
        """A full attach of the node's truth."""
        return await self.attach(
            *((account, device, no) for (account, device), no in self.sessions.items()), full=True
        )

    async def detach(self, *sessions: tuple[int, str, int]) -> None:
        """Detach sessions."""
        for account_id, device_id, _ in sessions:
            self.sessions.pop((account_id, device_id), None)
        await self._attach(detached=records(sessions, False))

    async def _attach(self, **fields: Any) -> pb.AttachResponse:
        if self._attaches is None:
            self._attaches = self.stub.Attach(metadata=self.metadata)
        request = pb.AttachRequest(request_id=next(self._ids), node_id=self.node_id, **fields)
        try:
            await self._attaches.write(request)  # a refusal may overtake it
            answer: pb.AttachResponse = await self._attaches.read()
        except grpc.aio.AioRpcError as error:
            self._attaches = None
            raise Refused(error.code(), error.details() or "") from None
        return answer

    async def live(self, seconds: float = 0.5) -> None:
        """Beat and attach again when asked, until cancelled."""
        while True:
            if (await self.beat()).reattach:
                await self.attach_all()
            await asyncio.sleep(seconds)

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Beats go on while this is open; its end is the node's death by kill -9."""
        task = asyncio.create_task(self.live())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))

    def watch(self) -> Watch:
        """An open Watch stream."""
        return Watch(self.stub.Watch(metadata=self.metadata), self.node_id)


class Watch:
    """One Watch stream: the newest fact of each account."""

    def __init__(self, call: Any, node_id: int) -> None:
        self._call = call
        self._node_id = node_id
        self.states: dict[int, list[int]] = {}
        self.facts: dict[int, pb.PresenceFact] = {}
        self.digests: list[int] = []

    async def add(self, *account_ids: int) -> None:
        """Watch from now on."""
        await self._call.write(pb.WatchRequest(node_id=self._node_id, add_account_ids=account_ids))

    async def remove(self, *account_ids: int) -> None:
        """Watch no longer."""
        await self._call.write(pb.WatchRequest(remove_account_ids=account_ids))

    async def read(self) -> pb.WatchResponse:
        """The next response."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await self._call.read()
        assert answer is not grpc.aio.EOF, await self._call.details()
        for fact in answer.facts:
            self.facts[fact.account_id] = fact
            self.states.setdefault(fact.account_id, []).append(fact.state)
        if answer.has_digest:
            self.digests.append(answer.digest)
        found: pb.WatchResponse = answer
        return found

    async def wait_for(self, account_id: int, state: int) -> pb.PresenceFact:
        """Read until an account has a state."""
        while account_id not in self.facts or self.facts[account_id].state != state:
            await self.read()
        return self.facts[account_id]

    async def end(self) -> grpc.StatusCode:
        """Read until the server ends the stream; its status."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self._call.read() is not grpc.aio.EOF:
                pass
            code: grpc.StatusCode = await self._call.code()
        return code

    def cancel(self) -> None:
        """End the stream."""
        self._call.cancel()


def records(sessions: Iterable[tuple[int, str, int]], active: bool) -> list[pb.SessionRecord]:
    """Session records of phones."""
    return [
        pb.SessionRecord(
            account_id=account_id,
            device_id=device_id,
            session_no=session_no,
            device_kind=types_pb2.DEVICE_KIND_PHONE,
            active=active,
        )
        for account_id, device_id, session_no in sessions
    ]
