"""A message that was sent by a unary call is traced from its arrival on, as one of a session is."""

import asyncio
import os

import pytest

from chatmesh.client import Message, Text, UnaryClient
from chatmesh.embedded import spans
from chatmesh.embedded.running import RunningMesh

pytestmark = pytest.mark.mesh

ORDER = ("chat.receive", "chat.ids", "chat.commit", "chat.enqueue")


async def test_its_first_hop_is_its_arrival(running_mesh: RunningMesh) -> None:
    trace, parent = os.urandom(16).hex(), os.urandom(8).hex()
    message = Message(
        content=Text("traced"),
        to_user=f"unary-bob-{trace[:8]}",
        traceparent=f"00-{trace}-{parent}-01",
    )
    token = running_mesh.token(f"unary-alice-{trace[:8]}")
    async with UnaryClient(running_mesh.public[0], token=token) as client:
        await client.send(message)
    hops: dict[str, spans.Span] = {}
    async with asyncio.timeout(60):
        while not hops.keys() >= set(ORDER):
            await asyncio.sleep(0.2)
            found = await asyncio.to_thread(
                spans.spans_of_trace, running_mesh.folder.spans_file, trace
            )
            hops = {span.name: span for span in found if span.name in ORDER}
    parents = [hops[name].parent_id for name in ORDER]
    assert parents == [parent, *(hops[name].span_id for name in ORDER[:-1])]
