"""The bodies that the load sends, and the bytes of the frames that carry them.

Role: a body is a stamp (run, pair, number, intended send time) and padding; frames are spliced
from parts that are made once a pair, since serialising a message object for each costs more than
all the rest of the client.
Rules: pure. What is written here by hand is compared with the protobuf runtime by a test.

    body   RRRRRRRR PPPPPP NNNNNNNNNN TTTTTTTTTTTTTTTT xxxx…   (hex; T = monotonic ns)
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

STAMP_CHARACTERS: Final = 40
LARGEST_TEXT: Final = 16_384
"""Code points of a text by the contract; the bodies are ASCII."""
MEDIA_TYPE: Final = b"application/octet-stream"

_KEY: Final = struct.Struct(">QQ")
_VERSION_7: Final = 0x7000
_VARIANT: Final = 0x8000_0000_0000_0000

# field numbers and wire type 2, as in session.proto and types.proto
_FRAME_SEND: Final = b"\x12"
_SEND_MESSAGES: Final = b"\x0a"
_KEY_16: Final = b"\x0a\x10"
_TO_USER: Final = b"\x12"
_TO_CONVERSATION: Final = b"\x18"
_CONTENT: Final = b"\x22"
_TEXT: Final = b"\x0a"
_DATA: Final = b"\x12"
_BODY_OF_TEXT: Final = b"\x0a"
_MEDIA_OF_DATA: Final = b"\x0a"
_BODY_OF_DATA: Final = b"\x12"
_FRAME_ACK: Final = b"\x1a"
_UP_TO: Final = b"\x08"
_FRAME_PING: Final = b"\x52"


class Stamp(NamedTuple):
    """What a body says of itself."""

    number: int
    intended_ns: int


def varint(value: int) -> bytes:
    """Base 128, least significant first."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(tag: bytes, content: bytes) -> bytes:
    """A length-delimited field."""
    return tag + varint(len(content)) + content


class PairBodies:
    """Makes and reads the bodies of one pair; everything constant is made once."""

    __slots__ = ("_form", "_head", "_padding")

    def __init__(self, run: int, pair: int, size_bytes: int) -> None:
        self._head = f"{run & 0xFFFFFFFF:08x}{pair & 0xFFFFFF:06x}"
        self._padding = "x" * (size_bytes - STAMP_CHARACTERS)
        self._form = f"{self._head}%010x%016x{self._padding}".encode()

    def make(self, number: int, intended_ns: int) -> bytes:
        """The body of one message."""
        return self._form % (number, intended_ns)

    def read(self, body: str) -> Stamp | None:
        """The stamp of a body of this pair, whole and unchanged; None for any other text."""
        if body[:14] != self._head or body[40:] != self._padding:
            return None
        return Stamp(int(body[14:24], 16), int(body[24:40], 16))


class KeySource:
    """UUIDv7 keys (RFC 9562) of one sender: time, a random start, a counter in the last bytes."""

    __slots__ = ("_next", "_rand_a")

    def __init__(self) -> None:
        self._rand_a = random.getrandbits(12)
        self._next = random.getrandbits(61)  # room to count up within 62 bits

    def next(self, now_ms: int) -> bytes:
        """A key never given before."""
        self._next += 1
        return _KEY.pack(now_ms << 16 | _VERSION_7 | self._rand_a, _VARIANT | self._next)


class SendFrames:
    """Splices ClientFrame{send} to one user (by name) or one conversation (by its id)."""

    __slots__ = ("_after_key", "_before_key")

    def __init__(self, to: str | int, size_bytes: int) -> None:
        is_text = size_bytes <= LARGEST_TEXT
        media = b"" if is_text else delimited(_MEDIA_OF_DATA, MEDIA_TYPE)
        body_tag = _BODY_OF_TEXT if is_text else _BODY_OF_DATA
        inner = media + body_tag + varint(size_bytes)
        kind = (_TEXT if is_text else _DATA) + varint(len(inner) + size_bytes) + inner
        content = _CONTENT + varint(len(kind) + size_bytes) + kind
        where = (
            delimited(_TO_USER, to.encode())
            if isinstance(to, str)
            else _TO_CONVERSATION + varint(to)
        )
        self._after_key = where + content
        length = len(_KEY_16) + 16 + len(self._after_key) + size_bytes
        self._before_key = _SEND_MESSAGES + varint(length) + _KEY_16

    def message(self, key: bytes, body: bytes) -> bytes:
        """One element of Send.messages."""
        return self._before_key + key + self._after_key + body

    @staticmethod
    def frame(messages: Iterable[bytes]) -> bytes:
        """The frame that holds these messages."""
        return delimited(_FRAME_SEND, b"".join(messages))


def ack_frame(timeline_seq: int) -> bytes:
    """ClientFrame{ack}."""
    return delimited(_FRAME_ACK, _UP_TO + varint(timeline_seq))


PING_FRAME: Final = _FRAME_PING + b"\x00"
"""ClientFrame{ping} with nonce 0."""
