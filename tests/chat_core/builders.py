"""Values for tests of the pure cores."""

import uuid

from chat_svc.core.batch import PendingSend, Sender
from chat_svc.core.content import Checked
from chat_svc.core.frames import entry_piece
from chat_svc.core.window import Item
from chatmesh.v1 import session_pb2, types_pb2

WALL_MS = 1_790_000_000_000
CONVERSATION = 77


def key(number: int = 1, made_ms: int = WALL_MS) -> bytes:
    """A UUIDv7 of a given time."""
    head = made_ms.to_bytes(6, "big") + b"\x70\x00"
    return head + b"\x80" + number.to_bytes(7, "big")


def random_key() -> bytes:
    raw = bytearray(key())
    raw[9:] = uuid.uuid4().bytes[9:]
    return bytes(raw)


def message(text: str = "hi", number: int = 1, **fields: object) -> types_pb2.OutgoingMessage:
    """A plain text to bob."""
    made = types_pb2.OutgoingMessage(
        idempotency_key=key(number),
        to_user_id="bob",
        content=types_pb2.Content(text=types_pb2.TextContent(body=text)),
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def entry(seq: int, size: int = 20) -> bytes:
    """Entry bytes with a body of about ``size`` bytes."""
    return types_pb2.Entry(
        timeline_seq=seq,
        event=types_pb2.Event(conversation_seq=seq, sender_user_id="x" * size),
    ).SerializeToString()


def item(
    seq: int,
    size: int = 20,
    *,
    notifies: bool = True,
    own: bool = False,
    conversation: int = CONVERSATION,
    trace: bytes = b"",
) -> Item:
    """An entry ready to be written, at the same place in its conversation as in the timeline."""
    return Item(
        seq, entry_piece(entry(seq, size)), seq * 1000, conversation, seq, notifies, own, trace
    )


def parsed(frame: bytes) -> session_pb2.ServerFrame:
    return session_pb2.ServerFrame.FromString(frame)


def sender(name: str = "alice", account: int = 1) -> Sender:
    return Sender("default", 1, account, name, b"", 0, lambda *_: None)


def pending(owner: Sender, number: int, *, size: int = 10) -> PendingSend:
    checked = Checked(key(number), "bob", 0, 1, 3, 0, 0, b"x" * size, size, (), b"")
    return PendingSend(owner, checked, None)
