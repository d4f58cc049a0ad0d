"""A real message from a device on each chat node to one on every other, and back.

Role: what no single check sees: sequencer, commit, queue, presence and delivery together. On the
mesh of this machine each node gets a user of its own, who is deleted afterwards. Elsewhere there is
one token: its user gets a device on each node, writes notes to itself, deletes them and signs the
devices out.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from chatmesh.cli.doctor.findings import Finding, fail, ok, warn
from chatmesh.cli.doctor.subjects import DOCTORS_TENANT

if TYPE_CHECKING:
    from chatmesh.client import Client, Tls

PATIENCE_SECONDS: Final = 30.0
REMEDY: Final = "`chatmesh queue status`, and the logs of both nodes, presence and sync"


@dataclass(frozen=True, slots=True)
class Place:
    """A chat node and who speaks there."""

    name: str
    target: str
    user: str
    token: str


@dataclass(frozen=True, slots=True)
class _Device:
    place: Place
    client: Client
    heard: dict[str, asyncio.Future[None]]


def places_of(mesh: Any) -> list[Place]:
    """Each node of a running mesh, with a user made for the occasion."""
    mark = secrets.token_hex(4)
    nodes = [process for process in mesh.processes if process.public]
    return [
        Place(
            node.name,
            node.public,
            f"doctor-{mark}-{node.name}",
            mesh.token(f"doctor-{mark}-{node.name}", tenant=DOCTORS_TENANT),
        )
        for node in nodes
    ]


async def look_at_delivery(
    places: Sequence[Place], *, tls: Tls | None, admin: Any = None
) -> list[Finding]:
    """One finding per ordered pair of nodes.

    Args:
        admin: a UnaryClient that may delete the users; None: all places share one user, who stays.
    """
    from chatmesh.client import ChatmeshError

    try:
        devices: list[_Device] = []
        async with AsyncExitStack() as stack:
            try:
                devices = [await _opened(stack, place, tls) for place in places]
            except ChatmeshError as error:
                said = f"a device cannot connect: {error}"
                return [fail("delivery", said, "look into the chat nodes' logs")]
            found = [
                await _between(one, other)
                for one in devices
                for other in devices
                if one is not other
            ]
        if admin is None:
            found += await _sign_out(devices, tls)
        return found or [warn("delivery", "there is one chat node", "run two or more")]
    finally:
        if admin is not None:
            await _delete(admin, places)


async def _opened(stack: AsyncExitStack, place: Place, tls: Tls | None) -> _Device:
    from chatmesh.client import Client

    client = await stack.enter_async_context(
        Client(
            place.target,
            token=place.token,
            tls=tls,
            start="head",
            device_name="chatmesh doctor",
            connect_timeout_seconds=PATIENCE_SECONDS,
        )
    )
    device = _Device(place, client, {})
    listening = asyncio.create_task(_listen(device), name=f"doctor at {place.name}")
    stack.push_async_callback(_end, listening)
    return device


async def _listen(device: _Device) -> None:
    from chatmesh.client import Text

    async for entry in device.client.entries():
        content = entry.event.content
        future = device.heard.get(content.body) if isinstance(content, Text) else None
        if future is not None and not future.done():
            future.set_result(None)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # told by the findings: the message was not heard


async def _between(one: _Device, other: _Device) -> Finding:
    from chatmesh.client import ChatmeshError, Delete

    subject = f"delivery {one.place.name} to {other.place.name}"
    text = f"chatmesh doctor {secrets.token_hex(8)}"
    heard = other.heard[text] = asyncio.get_running_loop().create_future()
    began = time.monotonic()
    to_user = other.place.user or one.client.user_id
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            sent = await one.client.send(to_user=to_user, text=text, silent=True)
            await heard
            took = time.monotonic() - began
            gone = Delete(sent.conversation_seq)
            await one.client.send(conversation_id=sent.conversation_id, content=gone)
    except TimeoutError:
        return fail(subject, f"not there after {PATIENCE_SECONDS:g} s", REMEDY)
    except ChatmeshError as error:
        return fail(subject, str(error), REMEDY)
    return ok(subject, f"there after {took * 1000:.0f} ms")


async def _sign_out(devices: Sequence[_Device], tls: Tls | None) -> list[Finding]:
    from chatmesh.client import ChatmeshError, UnaryClient

    left = []
    for device in devices:
        place = device.place
        try:
            async with UnaryClient(place.target, token=place.token, tls=tls) as client:
                await client.sign_out(device.client.device_id)
        except ChatmeshError as error:
            left.append(f"{device.client.device_id}: {error}")
    if not left:
        return []
    return [warn("delivery devices", f"not signed out: {'; '.join(left)}", "sign them out")]


async def _delete(admin: Any, places: Sequence[Place]) -> None:
    from chatmesh.client import ChatmeshError

    for place in places:
        try:
            while not await admin.delete_user(place.user):
                pass  # a bounded step at a time
        except ChatmeshError:
            continue  # was never made
