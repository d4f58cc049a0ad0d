"""Spliced bytes are what protobuf would have made."""

from hypothesis import given
from hypothesis import strategies as st

from chat_svc.core import entry_bytes as eb
from chat_svc.core.frames import entry_piece
from chat_svc.core.wire import read_varint, varint, varint_size
from chatmesh.v1 import session_pb2, types_pb2

IDS = st.integers(1, (1 << 63) - 1)
SEQS = st.integers(1, 1 << 40)


@given(st.integers(0, (1 << 64) - 1))
def test_varints_round_trip(value: int) -> None:
    encoded = varint(value)
    assert len(encoded) == varint_size(value)
    assert read_varint(b"\xff" + encoded + b"\x01", 1) == (value, 1 + len(encoded))


@given(
    conversation=IDS,
    seq=SEQS,
    message_no=st.integers(0, 1 << 40),
    message_id=IDS,
    sender=st.text(max_size=20),
    created=st.integers(0, 1 << 45),
    peer=st.text(max_size=20),
    kind=st.sampled_from([1, 2, 3]),
    text=st.text(max_size=300),
    timeline_seq=SEQS,
    key=st.sampled_from([b"", b"k" * 16]),
)
def test_an_entry_parses_to_what_went_in(
    conversation: int,
    seq: int,
    message_no: int,
    message_id: int,
    sender: str,
    created: int,
    peer: str,
    kind: types_pb2.ConversationKind.ValueType,
    text: str,
    timeline_seq: int,
    key: bytes,
) -> None:
    body = types_pb2.Event(
        content=types_pb2.Content(text=types_pb2.TextContent(body=text)), silent=True
    ).SerializeToString()
    event = eb.event_bytes(
        conversation, seq, message_no, message_id, sender, created, peer, kind, body
    )
    entry = eb.entry_bytes(timeline_seq, event, key)
    expected = types_pb2.Entry(
        timeline_seq=timeline_seq,
        event=types_pb2.Event(
            conversation_id=conversation,
            conversation_seq=seq,
            message_no=message_no,
            message_id=message_id,
            sender_user_id=sender,
            created_at_ms=created,
            peer_user_id=peer,
            conversation_kind=kind,
            content=types_pb2.Content(text=types_pb2.TextContent(body=text)),
            silent=True,
            idempotency_key=key,
        ),
    )
    assert types_pb2.Entry.FromString(entry) == expected
    assert eb.conversation_seq_of(entry, timeline_seq, conversation) == seq
    assert eb.has_key(entry) == bool(key)
    frame = session_pb2.ServerFrame.FromString(entry_piece(entry) + entry_piece(entry))
    assert list(frame.entries) == [expected, expected]


@given(st.binary(max_size=40), SEQS, IDS)
def test_foreign_bytes_have_no_conversation_seq_or_some_number(
    data: bytes, seq: int, conversation: int
) -> None:
    assert eb.conversation_seq_of(data, seq, conversation) >= 0


def test_a_body_without_content_is_an_erased_event() -> None:
    event = types_pb2.Event.FromString(eb.event_bytes(1, 2, 3, 4, "a", 5, "b", 1, b""))
    assert not event.HasField("content")
