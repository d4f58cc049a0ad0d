"""push_svc as child processes, a recording chat node, and what sync_svc and chat_svc ask."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg
from grpc_health.v1.health_pb2 import (  # type: ignore[import-untyped]
    HealthCheckRequest,
    HealthCheckResponse,
)
from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]

from chatmesh.mesh.v1 import node_pb2, node_pb2_grpc, push_pb2_grpc
from chatmesh.mesh.v1 import push_pb2 as pb
from chatmesh.runtime.callers import CALLER_METADATA
from chatmesh.runtime.streams import RequestStream
from chatmesh.v1 import devices_pb2
from tests.push.hooks import BackEnd
from tests.runtime import stores

PATIENCE_SECONDS = 60
SECRET = "s" * 32
ALICE, BOB, CAROL = 101, 202, 303
LOG, WEBHOOK = devices_pb2.PUSH_PROVIDER_LOG, devices_pb2.PUSH_PROVIDER_WEBHOOK


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Push:
    """One replica."""

    def __init__(self, postgres_url: str, chat_target: str, **settings: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.channels: list[grpc.aio.Channel] = []
        self._log = tempfile.NamedTemporaryFile(prefix="push-", suffix=".log")  # noqa: SIM115
        self._settings = {
            "mesh_listen": self.address,
            "postgres_url": postgres_url,
            "chat_target": chat_target,
            "embedded": "true",
            "push_claim_seconds": "2",
            "push_send_seconds": "1",
            **settings,
        }
        self.start()

    def start(self, **settings: str) -> None:
        """Start (again), with these settings besides the first ones."""
        values = {**self._settings, **settings}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "push_svc"],
            env={
                "PATH": os.environ["PATH"],
                **{f"CHATMESH_{name.upper()}": value for name, value in values.items()},
            },
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

    async def wait_end(self) -> int:
        """Its exit code, once it has ended."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.to_thread(self.process.wait)

    async def end(self) -> None:
        """kill -9, and the end of all that was opened to it."""
        self.kill()
        for channel in self.channels:
            await channel.close()
        self._log.close()

    def channel(self) -> grpc.aio.Channel:
        """A channel of its own."""
        made = grpc.aio.insecure_channel(
            self.address,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        )
        self.channels.append(made)
        return made

    async def wait_ready(self, ready: bool = True) -> None:
        """Wait until health says so."""
        wanted = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        async with asyncio.timeout(PATIENCE_SECONDS), self.channel() as channel:
            watch = HealthStub(channel).Watch(HealthCheckRequest(), wait_for_ready=True)
            async for answer in watch:
                if answer.status == wanted:
                    return


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


class Caller:
    """One service that calls push_svc."""

    def __init__(self, push: Push, caller: str = "chat_svc") -> None:
        self.metadata = ((CALLER_METADATA, caller),)
        self.stub: push_pb2_grpc.PushServiceAsyncStub = push_pb2_grpc.PushServiceStub(
            push.channel()
        )
        self.pushes: RequestStream[pb.PushRequest, pb.PushResponse] = RequestStream(
            lambda: self.stub.Push(metadata=self.metadata),
            name="push",
            max_in_flight=1_000,
            max_age_seconds=600,
        )
        self.cancels: RequestStream[pb.CancelRequest, pb.CancelResponse] = RequestStream(
            lambda: self.stub.Cancel(metadata=self.metadata),
            name="cancel",
            max_in_flight=1_000,
            max_age_seconds=600,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Caller:
        self._tasks = [
            asyncio.create_task(self.pushes.run()),
            asyncio.create_task(self.cancels.run()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            while not task.done():
                task.cancel()
                await asyncio.wait((task,), timeout=1)

    async def push(self, account_id: int, timeline_seq: int, **fields: Any) -> pb.PushResponse:
        """One target; the answer."""
        target = pb.PushTarget(account_id=account_id, timeline_seq=timeline_seq, **fields)
        return await self.pushes.call(pb.PushRequest(targets=[target]), timeout_seconds=60)

    async def cancel(self, account_id: int, device_id: str, timeline_seq: int) -> None:
        """An ack, or (without a device) a read."""
        target = pb.CancelTarget(
            account_id=account_id, device_id=device_id, timeline_seq=timeline_seq
        )
        await self.cancels.call(pb.CancelRequest(targets=[target]), timeout_seconds=60)

    async def put_token(
        self,
        account_id: int,
        device_id: str = "phone",
        token: str = "",
        provider: devices_pb2.PushProvider.ValueType = LOG,
        **fields: Any,
    ) -> pb.PutTokenResponse:
        """Bind a token."""
        return await self.stub.PutToken(
            pb.PutTokenRequest(
                account_id=account_id,
                token=devices_pb2.PushToken(
                    device_id=device_id,
                    provider=provider,
                    token=token or f"token of {account_id} {device_id}",
                    **fields,
                ),
            ),
            metadata=self.metadata,
            timeout=10,
        )

    async def records(self, account_id: int) -> Sequence[pb.PushRecord]:
        """What became of an account's jobs, newest first."""
        answer = await self.stub.ListPushes(
            pb.ListPushesRequest(account_id=account_id, page_size=100),
            metadata=((CALLER_METADATA, "cli"),),
            timeout=10,
        )
        return answer.pushes

    async def wait_for(
        self, account_id: int, outcome: str, *, count: int = 1
    ) -> list[pb.PushRecord]:
        """The records with an outcome, once there are so many."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = [one for one in await self.records(account_id) if one.outcome == outcome]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.05)


@dataclass(slots=True)
class Device:
    """What the recording chat node says of a device."""

    exists: bool = True
    acked: int = 0
    notify: int = 0
    visible: bool = True
    other_active: bool = False
    text: str = "hello"


@dataclass(slots=True)
class ChatNode(node_pb2_grpc.ChatNodeServiceServicer):
    """A chat node's side of push: answers as told, remembers what it was asked."""

    devices: dict[tuple[int, str], Device] = field(default_factory=dict)
    asked: list[list[tuple[int, str]]] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    """By account: what SetPushDevices said last."""
    address: str = ""
    _server: grpc.aio.Server | None = None

    def device(self, account_id: int, device_id: str = "phone") -> Device:
        """A device, made at first use."""
        return self.devices.setdefault((account_id, device_id), Device())

    async def PushState(
        self, request: node_pb2.PushStateRequest, context: Any
    ) -> node_pb2.PushStateResponse:
        """The state of each device."""
        self.asked.append([(one.account_id, one.device_id) for one in request.devices])
        response = node_pb2.PushStateResponse()
        for ref in request.devices:
            device = self.device(ref.account_id, ref.device_id)
            waiting = range(device.acked + 1, device.notify + 1)
            state = response.devices.add(
                account_id=ref.account_id,
                device_id=ref.device_id,
                exists=device.exists,
                acked_timeline_seq=device.acked,
                notify_timeline_seq=device.notify,
                badge=len(waiting),
                visible=device.visible and bool(waiting),
                pending_count=len(waiting),
                other_device_active=device.other_active,
            )
            for seq in waiting[-5:]:
                state.pending.add(
                    timeline_seq=seq,
                    message_id=seq * 10,
                    conversation_id=77,
                    sender_user_id="bob",
                    text=f"{device.text} {seq}",
                )
        return response

    async def SetPushDevices(
        self, request: node_pb2.SetPushDevicesRequest, context: Any
    ) -> node_pb2.SetPushDevicesResponse:
        """Remember the count."""
        self.counts[request.account_id] = request.push_devices
        return node_pb2.SetPushDevicesResponse()

    def Deliver(self, request_iterator: Any, context: Any) -> Any:
        """Not for push."""
        raise NotImplementedError

    async def EndSessions(self, request: Any, context: Any) -> node_pb2.EndSessionsResponse:
        """Not for push."""
        raise NotImplementedError

    async def start(self) -> None:
        """Listen (again, on the same port)."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        node_pb2_grpc.add_ChatNodeServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Stop at once."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


def hooked(back_end: BackEnd, **settings: str) -> dict[str, str]:
    """Settings that allow webhooks to the local back end."""
    return {
        "push_webhook_secrets": json.dumps([SECRET]),
        "push_webhook_networks": json.dumps(["127.0.0.0/8"]),
        "push_extra_ca": str(back_end.ca),
        **settings,
    }


def jobs_left(store: stores.Store) -> int:
    """Rows of push_job."""
    with psycopg.connect(store.url) as connection:
        row = connection.execute("SELECT count(*) FROM push.push_job").fetchone()
        assert row is not None
        return int(row[0])


async def no_jobs_left(store: stores.Store) -> None:
    """Wait until every job has ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await asyncio.to_thread(jobs_left, store):  # noqa: ASYNC110 - another process's rows
            await asyncio.sleep(0.05)
