"""Hints: what a commit tells the nodes of its recipients, and how they know it is true.

An entry in a hint is only spliced into a client's frame when its digest matches: BLAKE2s keyed with
a secret of the chat nodes alone, over the database's history, the account, the position and the
entry's bytes. Redis and sync_svc carry hints and can neither forge nor move one; what does not
match is only "account X is at n", which costs a read.

Signals (receipts, typing, counts) have no store to be compared with, so one without a matching
digest is dropped. What was signed stays true for a minute only: whoever keeps one cannot show it
again later.
"""

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from struct import Struct
from typing import Final

from chatmesh.mesh.v1.hint_pb2 import Hint, HintBatch, Signal
from chatmesh.mesh.v1.sync_pb2 import EnqueueRequest

DIGEST_BYTES: Final = 16
QUEUE_FORMAT: Final = 1
SIGNAL_MS: Final = 60_000
"""So far may the wall clocks of the node that signed and the one that reads differ, the time on the
way included."""
_PLACE: Final = Struct(">QQ")
_SIGNAL: Final = Struct(">QQQI")


class HintSigner:
    """Makes and checks digests. One per node and database history."""

    def __init__(self, key: bytes, history: bytes = b"") -> None:
        """Args: key: up to 32 bytes. history: id of the database, 16 bytes, if it is known yet."""
        self._key = key
        self.begin(history)

    def begin(self, history: bytes) -> None:
        """The database's history is known (or is another one): older digests match no more."""
        self._begun = blake2s(history, key=self._key, digest_size=DIGEST_BYTES)
        self._begun_signal = blake2s(
            history, key=self._key, digest_size=DIGEST_BYTES, person=b"signal"
        )

    def digest(self, account: int, timeline_seq: int, entry: bytes) -> bytes:
        """16 bytes."""
        hasher = self._begun.copy()  # the key's block is hashed already: a third cheaper
        hasher.update(_PLACE.pack(account, timeline_seq) + entry)
        return hasher.digest()

    def matches(self, hint: Hint) -> bool:
        """Whether the entry of a hint may be believed."""
        return len(hint.digest) == DIGEST_BYTES and hmac.compare_digest(
            self.digest(hint.account_id, hint.timeline_seq, hint.entry), hint.digest
        )

    def sign(self, signals: Iterable[Signal], node_id: int, now_ms: int) -> None:
        """Make signals this node's own, as of now."""
        for signal in signals:
            signal.node_id, signal.signed_at_ms = node_id, now_ms
            signal.digest = self._signal_digest(signal)

    def is_genuine(self, signal: Signal, now_ms: int) -> bool:
        """Whether a chat node made this signal, a moment ago."""
        return (
            len(signal.digest) == DIGEST_BYTES
            and abs(signal.signed_at_ms - now_ms) <= SIGNAL_MS
            and hmac.compare_digest(self._signal_digest(signal), signal.digest)
        )

    def _signal_digest(self, signal: Signal) -> bytes:
        hasher = self._begun_signal.copy()
        key = signal.coalesce_key
        place = _SIGNAL.pack(signal.account_id, signal.node_id, signal.signed_at_ms, len(key))
        hasher.update(place + key + signal.frame)
        return hasher.digest()


@dataclass(slots=True)
class NodeAddress:
    """This node, as the rest of the mesh names it. Filled in while the node starts: the parts are
    put together before PostgreSQL has given the id."""

    name: str
    target: str = ""
    node_id: int = 0


def batch_frame(
    address: NodeAddress, batch_id: int, hints: Sequence[Hint], *, attempt: int, now_ms: int
) -> bytes:
    """One EnqueueRequest with the hints of one commit; frames join by joining bytes."""
    batch = HintBatch(
        batch_id=batch_id,
        node_id=address.node_id,
        node_target=address.target,
        hints=hints,
        attempt=attempt,
        format=QUEUE_FORMAT,
        enqueued_at_ms=now_ms,
    )
    return EnqueueRequest(batches=[batch]).SerializeToString()


def signal_frame(address: NodeAddress, signals: Sequence[Signal], *, now_ms: int) -> bytes:
    """One EnqueueRequest with signals, which nobody settles."""
    batch = HintBatch(
        node_id=address.node_id,
        node_target=address.target,
        signals=signals,
        format=QUEUE_FORMAT,
        enqueued_at_ms=now_ms,
    )
    return EnqueueRequest(batches=[batch]).SerializeToString()
