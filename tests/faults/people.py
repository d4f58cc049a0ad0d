"""Users of a random run: their devices, and calls that are made until they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import grpc

from chatmesh.embedded.running import RunningMesh
from chatmesh.runtime import faults
from chatmesh.testing import Recorder
from chatmesh.v1 import contacts_pb2_grpc, conversations_pb2_grpc, devices_pb2_grpc
from tests.faults.devices import RecordedDevice
from tests.raw import bearer

ANSWER_SECONDS = 90
"""Long: nothing is timed, but a test that waits for ever tells nothing."""
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
}
"""The outcome is not known, or nothing was done: asked again, under the same key, elsewhere."""


class Person:
    """One user."""

    def __init__(
        self, name: str, targets: list[str], mesh: RunningMesh, recorder: Recorder, random: Random
    ) -> None:
        self.name = name
        self.devices: list[RecordedDevice] = []
        self.friends: set[str] = set()
        """Whose presence its devices record."""
        self.away: set[str] = set()
        """Devices that are not connected on purpose."""
        self._token = mesh.token(name)
        self._targets = targets
        self._recorder = recorder
        self._random = random
        self._channels = [
            grpc.aio.insecure_channel(
                target,
                options=[
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.initial_reconnect_backoff_ms", 100),
                    ("grpc.max_reconnect_backoff_ms", 500),
                ],
            )
            for target in targets
        ]
        self.conversations = [
            conversations_pb2_grpc.ConversationServiceStub(channel) for channel in self._channels
        ]
        self.contacts = [
            contacts_pb2_grpc.ContactServiceStub(channel) for channel in self._channels
        ]
        self.device_calls = [
            devices_pb2_grpc.DeviceServiceStub(channel) for channel in self._channels
        ]

    def device(self, device_id: str, node: int = 0) -> RecordedDevice:
        """One more, not connected, and the caller's alone."""
        device = RecordedDevice(self._targets, self.name, device_id, self._token, node=node)
        device.recorder, device.friends = self._recorder, self.friends
        return device

    async def new_device(self) -> RecordedDevice:
        """One more, connected, from the oldest entry on."""
        number = len(self.devices)
        device = self.device(f"device-{number}", number)
        self.devices.append(device)
        await device.reopen()
        return device

    @property
    def here(self) -> list[RecordedDevice]:
        """Devices that mean to be connected."""
        return [device for device in self.devices if device.device_id not in self.away]

    async def call(self, stubs: list[Any], method: str, request: Any) -> Any:
        """Ask one node after the other until one answers.

        Raises Fault when it is refused.
        """

        async def once(stub: Any) -> Any:
            return await getattr(stub, method)(request, metadata=bearer(self._token), timeout=5)

        start = self._random.randrange(len(stubs))
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                try:
                    return await once(stubs[start % len(stubs)])
                except grpc.aio.AioRpcError as error:
                    if error.code() not in PASSING:
                        raise faults.from_rpc_error(error) from error
                start += 1
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Hang up everywhere."""
        for device in self.devices:
            await device.hang_up()
        for channel in self._channels:
            await channel.close()


async def all_at_once(work: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Results in order; the first failure ends the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(one)) for one in work]
    return [task.result() for task in tasks]


async def _run(work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()
