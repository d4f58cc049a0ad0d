"""The frames that the load splices by hand are the ones protobuf would write."""

import time

import pytest

from chatmesh.cli.bench.payload import (
    LARGEST_TEXT,
    PING_FRAME,
    STAMP_CHARACTERS,
    KeySource,
    PairBodies,
    SendFrames,
    ack_frame,
)
from chatmesh.v1 import session_pb2

SIZES = (STAMP_CHARACTERS, 127, 128, 200, LARGEST_TEXT, LARGEST_TEXT + 1, 65_536)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 3, 100])
def test_send_frame_is_what_protobuf_writes(size: int, count: int) -> None:
    bodies, frames, keys = PairBodies(7, 3, size), SendFrames("bob", size), KeySource()
    now_ms = time.time_ns() // 1_000_000
    sent = [(keys.next(now_ms), bodies.make(number, number * 1_000)) for number in range(count)]

    frame = frames.frame([frames.message(key, body) for key, body in sent])

    expected = session_pb2.ClientFrame()
    for key, body in sent:
        message = expected.send.messages.add(idempotency_key=key, to_user_id="bob")
        if size <= LARGEST_TEXT:
            message.content.text.body = body.decode()
        else:
            message.content.data.media_type = "application/octet-stream"
            message.content.data.body = body
    assert frame == expected.SerializeToString(deterministic=True)


@pytest.mark.parametrize("seq", [1, 127, 128, 300_000, 2**63])
def test_ack_frame_is_what_protobuf_writes(seq: int) -> None:
    expected = session_pb2.ClientFrame(ack=session_pb2.Ack(up_to_timeline_seq=seq))
    assert ack_frame(seq) == expected.SerializeToString()


def test_ping_frame_is_what_protobuf_writes() -> None:
    assert session_pb2.ClientFrame(ping=session_pb2.Ping(nonce=0)).SerializeToString() == PING_FRAME


def test_body_says_its_number_and_time() -> None:
    bodies = PairBodies(0xFFFF_FFFF, 12, 200)
    body = bodies.make(2**40 - 1, 2**63)
    assert len(body) == 200
    assert bodies.read(body.decode()) == (2**40 - 1, 2**63)


@pytest.mark.parametrize(
    "change",
    [lambda body: body[:-1], lambda body: body + "x", lambda body: "0" * 14 + body[14:],
     lambda body: body[:60] + "y" + body[61:], lambda body: ""],
    ids=["shorter", "longer", "other pair", "changed padding", "empty"],
)  # fmt: skip
def test_body_that_is_not_whole_is_no_body(change) -> None:  # type: ignore[no-untyped-def]
    bodies = PairBodies(1, 2, 100)
    assert bodies.read(change(bodies.make(1, 2).decode())) is None


def test_keys_are_uuid_version_7_with_their_time_and_never_repeat() -> None:
    keys = KeySource()
    now_ms = 1_767_225_600_123
    made = [keys.next(now_ms) for _ in range(1_000)]
    assert len(set(made)) == 1_000
    for key in made:
        assert len(key) == 16
        assert int.from_bytes(key[:6], "big") == now_ms
        assert key[6] >> 4 == 7
        assert key[8] >> 6 == 0b10
