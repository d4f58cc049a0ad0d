"""One sampled message is one trace, hop by hop, from several processes; others leave no span."""

import asyncio
import itertools
import os
import uuid

import pytest

from chatmesh.embedded import spans
from chatmesh.embedded.running import RunningMesh
from tests.chat_node.device import Device, all_see

pytestmark = pytest.mark.mesh

HOPS = {"chat.receive", "chat.ids", "chat.commit", "chat.enqueue", "chat.deliver", "chat.write",
        "chat.ack"}  # fmt: skip


async def test_every_hop_of_a_sampled_message_is_one_trace(running_mesh: RunningMesh) -> None:
    suffix = uuid.uuid4().hex[:8]
    alice, bob = f"alice-{suffix}", f"bob-{suffix}"
    phone = Device(running_mesh.public, alice, "phone", running_mesh.token(alice), node=0)
    other = Device(running_mesh.public, bob, "phone", running_mesh.token(bob), node=1)
    context = os.urandom(24) + b"\x01"
    async with phone, other:
        (key,) = await phone.send("traced", to=bob, trace_context=context)
        (result,) = await phone.answered([key])
        await all_see((phone, other), lambda device: device.stored)
        path = running_mesh.folder.spans_file
        found: list[spans.Span] = []
        async with asyncio.timeout(30):
            while not _is_whole(found):
                await asyncio.sleep(0.2)
                trace = await asyncio.to_thread(spans.trace_of_message, path, result.message_id)
                if trace is not None:
                    found = await asyncio.to_thread(spans.spans_of_trace, path, trace)
    assert {span.trace_id for span in found if span.name in HOPS} == {context[:16].hex()}
    by_name = {span.name: span for span in found}
    assert by_name["chat.receive"].parent_id == context[16:24].hex()
    order = ["chat.receive", "chat.ids", "chat.commit", "chat.enqueue"]
    for earlier, later in itertools.pairwise(order):
        assert by_name[later].parent_id == by_name[earlier].span_id
    commit = by_name["chat.commit"].attributes
    assert commit["chatmesh.message_id"] == result.message_id
    assert commit["chatmesh.conversation_seq"] == 1
    assert commit["chatmesh.batch_size"] == 1
    writes = [span for span in found if span.name == "chat.write"]
    acks = [span for span in found if span.name == "chat.ack"]
    assert len(writes) == len(acks) == 2, "one for each device"


def _is_whole(found: list[spans.Span]) -> bool:
    """Every hop is there; exporters send in their own time."""
    names = [span.name for span in found]
    processes = {span.pid for span in found}
    return set(names) >= HOPS and names.count("chat.ack") == 2 and len(processes) >= 3
