"""Waiting pieces leave joined, in the contract's order, within bounds."""

import pytest

from chat_svc.core import frames
from chat_svc.core.frames import OutgoingFrames, piece
from chat_svc.core.wire import read_varint
from chatmesh.v1 import session_pb2 as pb
from tests.chat_core.builders import item, parsed


def receipt(conversation: int, seq: int) -> bytes:
    return piece(
        frames.RECEIPTS,
        pb.Receipt(
            conversation_id=conversation, delivered_conversation_seq=seq
        ).SerializeToString(),
    )


def numbers(frame: bytes) -> list[int]:
    """Field numbers in the order of the bytes."""
    found, at = [], 0
    while at < len(frame):
        tag, at = read_varint(frame, at)
        size, at = read_varint(frame, at)
        found.append(tag >> 3)
        at += size
    return found


def test_welcome_leaves_alone_and_first_closed_alone_and_last() -> None:
    out = OutgoingFrames()
    assert not out
    out.add_entry(item(1).piece)
    out.set_closed(pb.Closed(reason=pb.Closed.REASON_REPLACED).SerializeToString())
    out.set_welcome(pb.Welcome(user_id="a").SerializeToString())
    seen = []
    while out:
        frame, _ = out.take()
        seen.append([field.name for field, _ in parsed(frame).ListFields()])
    assert seen == [["welcome"], ["entries"], ["closed"]]
    assert out.take() == (b"", 0)


def test_the_order_inside_a_frame() -> None:
    out = OutgoingFrames()
    out.put_keyed(frames.PONG, b"", piece(frames.PONG, pb.Pong(nonce=1).SerializeToString()))
    out.put_keyed(frames.RECEIPTS, b"1", receipt(1, 1))
    out.set_going_away(pb.GoingAway(reconnect_after_ms=5).SerializeToString())
    out.set_caught_up(pb.CaughtUp(timeline_seq=2).SerializeToString())
    out.add_result(pb.SendResult(message_id=9).SerializeToString())
    out.add_entry(item(1).piece)
    out.add_entry(item(2).piece)
    frame, entries = out.take()
    assert entries == 2
    assert numbers(frame) == [2, 2, 3, 4, 5, 8, 9]
    got = parsed(frame)
    assert [e.timeline_seq for e in got.entries] == [1, 2]
    assert (len(got.send_results), len(got.caught_up), len(got.receipts)) == (1, 1, 1)
    assert (len(got.pong), len(got.going_away)) == (1, 1)
    assert not out


def test_the_newest_per_key_wins_and_the_oldest_keys_are_dropped() -> None:
    out = OutgoingFrames()
    for number in range(frames.MAX_KEYED_PIECES + 3):
        out.put_keyed(frames.RECEIPTS, str(number).encode(), receipt(number, 1))
    out.put_keyed(frames.RECEIPTS, b"3", receipt(3, 7))
    assert out.keyed_dropped == 3
    got: list[pb.Receipt] = []
    while out:
        got += parsed(out.take()[0]).receipts
    assert len(got) == frames.MAX_KEYED_PIECES
    assert got[0].conversation_id == 4
    assert (got[-1].conversation_id, got[-1].delivered_conversation_seq) == (3, 7)


def test_frames_are_bounded_and_nothing_is_lost() -> None:
    out = OutgoingFrames()
    for seq in range(1, 101):
        out.add_entry(item(seq, 3000).piece)
    out.add_entry(item(101, 100_000).piece)
    out.add_entry(item(102).piece)
    seqs: list[int] = []
    counts = 0
    while out:
        before = out.waiting_entries
        frame, entries = out.take()
        assert out.waiting_entries == before - entries
        seqs += [e.timeline_seq for e in parsed(frame).entries]
        assert len(frame) <= frames.MAX_FRAME_BYTES or entries == 1
        counts += 1
    assert seqs == list(range(1, 103))
    assert counts > 4


def test_a_long_catch_up_starves_neither_results_nor_pongs() -> None:
    out = OutgoingFrames()
    for seq in range(1, 1001):
        out.add_entry(item(seq, 3000).piece)
    out.add_result(pb.SendResult(message_id=9).SerializeToString())
    out.put_keyed(frames.PONG, b"", piece(frames.PONG, pb.Pong(nonce=1).SerializeToString()))
    out.set_caught_up(pb.CaughtUp(timeline_seq=1000).SerializeToString())
    first = parsed(out.take()[0])
    assert len(first.send_results) == len(first.pong) == 1
    assert not first.caught_up
    last = first
    while out:
        last = parsed(out.take()[0])
    assert last.caught_up[0].timeline_seq == 1000
    assert last.entries


def test_dropped_entries_take_caught_up_with_them() -> None:
    out = OutgoingFrames()
    out.add_entry(item(1).piece)
    out.set_caught_up(pb.CaughtUp(timeline_seq=1).SerializeToString())
    out.drop_entries()
    assert not out


def test_the_section_of_a_signal() -> None:
    assert frames.section_of(receipt(1, 1)) == frames.RECEIPTS
    assert frames.section_of(piece(frames.TYPING, pb.Typing(active=True).SerializeToString()))
    assert frames.section_of(piece(frames.PONG, b"")) == frames.PONG
    assert frames.section_of(item(1).piece) is None
    assert frames.section_of(b"") is None


@pytest.mark.parametrize(
    "forged",
    [
        receipt(1, 1) + item(1).piece,
        receipt(1, 1) + receipt(2, 2),
        piece(frames.RECEIPTS, b"") + piece(frames.CLOSED, b""),
        receipt(1, 1)[:-1],
        frames.RECEIPTS,
        frames.RECEIPTS + b"\xff" * 12,
        piece(frames.RECEIPTS, b"\xff"),
        piece(frames.RECEIPTS, pb.Receipt(user_id="x" * 5_000).SerializeToString()),
        piece(frames.PRESENCE, pb.Presence(user_id="x").SerializeToString()),
    ],
)
def test_nothing_hides_in_a_signal(forged: bytes) -> None:
    assert frames.section_of(forged) is None
