"""The clients of `bench groups` and `bench resume` notice each thing that must not be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from chatmesh.cli.bench.answering import Crew
from chatmesh.cli.bench.device import Device
from chatmesh.cli.bench.groups_load import Group
from chatmesh.cli.bench.payload import PairBodies, SendFrames
from chatmesh.cli.bench.plan import DevicePlan
from chatmesh.cli.bench.resume_load import Returning
from chatmesh.v1 import session_pb2, types_pb2

GROUP = 7
SIZE = 60
NOBODY = {"device_id": "d", "token": "", "target": ""}
ORDER: dict[str, Any] = {
    "devices": [{"user": name, **NOBODY} for name in ("ann", "bob", "cid")],
    "senders": 1, "window": 2, "size_bytes": SIZE, "ack_ms": 100, "run": 9,
}  # fmt: skip


def shown(device: Device, events: Iterable[tuple[int, types_pb2.Event]]) -> None:
    """These entries arrive, in one frame."""
    entries = [types_pb2.Entry(timeline_seq=seq, event=event) for seq, event in events]
    device._on_frame(session_pb2.ServerFrame(entries=entries).SerializeToString())


def message(bodies: PairBodies, number: int, seq: int, **fields: Any) -> types_pb2.Event:
    """Message `number` of ann, at a place in the group."""
    event = types_pb2.Event(
        conversation_id=GROUP, conversation_seq=seq, sender_user_id="ann", **fields
    )
    event.content.text.body = bodies.make(number, 1).decode()
    return event


class Played:
    """A group in which ann has sent three messages, and bob and cid get what a test says."""

    def __init__(self) -> None:
        self.group = Group(ORDER)
        self.group.conversation_id = GROUP
        self.ann, self.bob, self.cid = self.group.members
        self.sender = self.group.senders["ann"]
        self.sender.sent = 3

    def events(self, *numbers: int) -> list[tuple[int, types_pb2.Event]]:
        """The messages at the places that they should have."""
        return [(at + 1, message(self.sender.bodies, at, at + 11)) for at in numbers]

    def counts(self) -> tuple[int, int, int]:
        """Lost, doubled, out of order."""
        totals = self.group.totals()
        return totals.lost, totals.duplicated, totals.out_of_order


async def test_all_delivered_and_echoed_is_clean() -> None:
    played = Played()
    echo = types_pb2.Event(conversation_id=GROUP, sender_user_id="ann", idempotency_key=b"k" * 16)
    for seq in (1, 2, 3):
        echo.conversation_seq = 10 + seq
        shown(played.ann, [(seq, echo)])
    shown(played.bob, played.events(0, 1, 2))
    assert played.sender.done == 0, "cid has none of them"
    shown(played.cid, played.events(0, 1, 2))
    assert played.sender.done == 3
    assert played.sender.is_settled
    assert played.counts() == (0, 0, 0)


async def test_what_one_member_has_not_is_lost() -> None:
    played = Played()
    played.sender.echoes = 3
    shown(played.bob, played.events(0, 1, 2))
    shown(played.cid, played.events(0, 1))
    assert played.counts() == (1, 0, 0)
    assert not played.sender.is_settled


async def test_what_comes_twice_is_doubled() -> None:
    played = Played()
    played.sender.echoes = 3
    shown(played.cid, played.events(0, 1, 2))
    again = message(played.sender.bodies, 2, 14)
    shown(played.bob, [*played.events(0, 1, 2), (4, again)])
    assert played.counts() == (0, 1, 0)


async def test_a_step_back_and_a_hole_in_the_group_are_out_of_order() -> None:
    played = Played()
    played.sender.echoes = 3
    swapped = [(1, 1, 12), (2, 0, 11), (3, 2, 13)]
    bodies = played.sender.bodies
    shown(played.bob, [(seq, message(bodies, number, at)) for seq, number, at in swapped])
    shown(
        played.cid, [(at + 1, message(bodies, at, at + (20 if at > 1 else 1))) for at in range(3)]
    )
    lost, doubled, disorder = played.counts()
    assert (lost, doubled) == (0, 0)
    assert disorder > 1


async def test_an_echo_that_is_missing_is_lost() -> None:
    played = Played()
    shown(played.bob, played.events(0, 1, 2))
    shown(played.cid, played.events(0, 1, 2))
    assert played.counts() == (3, 0, 0)


def returning(crew: Crew) -> Returning:
    device = Returning(DevicePlan(user="ann", **NOBODY), crew, PairBodies(1, 0, SIZE), None)
    device.expected = 3
    return device


@pytest.mark.parametrize(
    ("numbers", "seqs", "lost", "doubled", "disorder"),
    [
        ((0, 1, 2), (1, 2, 3), 0, 0, 0),
        ((0, 2), (1, 2), 1, 0, 1),
        ((0, 1, 1, 2), (1, 2, 3, 4), 0, 1, 0),
        ((0, 1, 2), (1, 2, 2), 1, 1, 0),
        ((0, 1, 2), (1, 2, 4), 0, 0, 1),
    ],
)
async def test_who_comes_back_checks_every_entry(
    numbers: tuple[int, ...], seqs: tuple[int, ...], lost: int, doubled: int, disorder: int
) -> None:
    device = returning(Crew(None))
    bodies = PairBodies(1, 0, SIZE)
    shown(device, [(seq, message(bodies, n, 1)) for seq, n in zip(seqs, numbers, strict=True)])
    ledger = device.ledger
    assert ledger.lost(3) == lost
    assert device.duplicated + ledger.duplicated == doubled
    assert device.out_of_order + ledger.out_of_order == disorder
    assert device.all_here.is_set() == (lost == 0)


async def test_a_body_of_somebody_else_ends_the_run() -> None:
    crew = Crew(None)
    shown(returning(crew), [(1, message(PairBodies(2, 0, SIZE), 0, 1))])
    assert "not sent to it" in crew.failure.result()


async def test_who_comes_back_says_what_it_has_stored() -> None:
    seen = types_pb2.Cursor(timeline_seq=12, message_id=99)
    device = Returning(DevicePlan(user="ann", **NOBODY), Crew(None), PairBodies(1, 0, SIZE), seen)
    assert device.hello().cursor == seen
    assert device.hello().device_id == "d"


def test_a_frame_to_a_conversation_is_what_protobuf_makes() -> None:
    bodies = PairBodies(1, 0, SIZE)
    key, body = b"k" * 16, bodies.make(5, 6)
    frames = SendFrames(1 << 40, SIZE)
    made = session_pb2.ClientFrame.FromString(frames.frame([frames.message(key, body)]))
    (sent,) = made.send.messages
    assert sent.conversation_id == 1 << 40
    assert sent.idempotency_key == key
    assert sent.content.text.body == body.decode()
