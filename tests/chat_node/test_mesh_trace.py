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

SHAPE = [
    ("chat.ack", "chat.deliver"),
    ("chat.ack", "chat.enqueue"),
    ("chat.commit", "chat.ids"),
    ("chat.deliver", "chat.enqueue"),
    ("chat.enqueue", "chat.commit"),
    ("chat.ids", "chat.receive"),
    ("chat.receive", ""),
    ("chat.write", "chat.deliver"),
    ("chat.write", "chat.enqueue"),
    ("sync.deliver", "chat.enqueue"),
    ("sync.enqueue", "chat.enqueue"),
    ("sync.lookup", "chat.enqueue"),
    ("sync.queue", "chat.enqueue"),
]
"""(hop, the one before it) of a message to one device on the other node, and back to the sender's.
Presence's own lookup is not among them: it is a span of few messages a second."""
ONCE = ("chat.receive", "chat.ids", "chat.commit", "chat.enqueue")
MESSAGES = 60
WHOLE = 50
"""Traces that must be whole: exporters may drop spans on a busy machine, and a hint that the queue
gives twice is taken twice."""


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


async def test_each_of_many_traces_holds_every_hop_once(running_mesh: RunningMesh) -> None:
    suffix = uuid.uuid4().hex[:8]
    alice, bob = f"alice-{suffix}", f"bob-{suffix}"
    phone = Device(running_mesh.public, alice, "phone", running_mesh.token(alice), node=0)
    other = Device(running_mesh.public, bob, "phone", running_mesh.token(bob), node=1)
    contexts = [os.urandom(24) + b"\x01" for _ in range(MESSAGES)]
    async with phone, other:
        for number, context in enumerate(contexts, 1):
            keys = await phone.send(f"traced {number}", to=bob, trace_context=context)
            await phone.answered(keys)
            await all_see((phone, other), lambda device: len(device.stored) >= number)  # noqa: B023
    path, traces = running_mesh.folder.spans_file, [context[:16].hex() for context in contexts]
    found: list[list[spans.Span]] = []
    async with asyncio.timeout(150):
        while sum(_shape(one) == SHAPE for one in found) < WHOLE:
            await asyncio.sleep(0.5)
            found = await asyncio.to_thread(lambda: [spans.spans_of_trace(path, t) for t in traces])
    for context, trace in zip(contexts, found, strict=True):
        names = [span.name for span in trace]
        assert all(names.count(name) <= 1 for name in ONCE), names
        of_devices = [
            (span.name, span.attributes["chatmesh.session_no"])
            for span in trace
            if span.name in ("chat.write", "chat.ack")
        ]
        assert len(of_devices) == len(set(of_devices)), "written or acked twice to one device"
        messages = {span.attributes.get("chatmesh.message_id") for span in trace} - {None}
        assert len(messages) <= 1, "one message, one trace"
        first = [span.parent_id for span in trace if span.name == "chat.receive"]
        assert first in ([], [context[16:24].hex()])


def _shape(trace: list[spans.Span]) -> list[tuple[str, str]]:
    """Each hop with the one that it followed, sorted; "" = one outside."""
    names = {span.span_id: span.name for span in trace}
    return sorted(
        (span.name, names.get(span.parent_id, ""))
        for span in trace
        if span.name != "presence.lookup"
    )


def _is_whole(found: list[spans.Span]) -> bool:
    """Every hop is there; exporters send in their own time."""
    names = [span.name for span in found]
    processes = {span.pid for span in found}
    return set(names) >= HOPS and names.count("chat.ack") == 2 and len(processes) >= 3
