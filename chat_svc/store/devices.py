"""Devices: sessions opened and fenced, cursors, heads. What push asks is in `store.push_state`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.store import calls
from chatmesh import errors
from chatmesh.runtime.postgres import Database, Int8Array, TextArray

START_OLDEST = 1
START_HEAD = 2
"""Where a device without a cursor begins: `chatmesh.v1.Hello.Start` numbers."""

_OPENED, _CURSOR_INVALID, _SIGNED_OUT, _TOO_MANY = range(4)
"""Outcomes of `chat.open_session_1`."""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """What `open_session` found and did."""

    session_no: int
    """Greater than any before, of any device: fences acks and routes of older sessions."""
    previous_node_id: int
    """Node of the device's session before; 0 = none (or on this node: see node_id)."""
    previous_node_target: str
    """gRPC target of that node's mesh listener; empty = none, or its lease is over."""
    acked_seq: int
    acked_id: int
    start_seq: int
    """The session starts after this position."""
    head_seq: int
    min_seq: int
    """Oldest retained position; head_seq + 1 when nothing is retained."""
    account_version: int
    cursor_ok: bool
    """False: the cursor is too old, above the head, or of a rewound history; nothing changed."""
    devices: int
    """Devices of the account, this one included."""


@dataclass(frozen=True, slots=True)
class CursorWrite:
    """An ack to write."""

    account: int
    device_id: str
    session_no: int
    acked_seq: int
    acked_id: int
    """Message id of the entry at acked_seq; 0 = not known."""


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device."""

    device_id: str
    kind: int
    name: str
    seen_at_ms: int
    acked_seq: int
    session_node: int
    """Node of its live session; 0 = none, or the node's lease is over."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where an account's timeline stands."""

    seq: int
    notify_seq: int
    """Newest position that may notify; 0 = none."""
    min_seq: int
    account_version: int


@dataclass(frozen=True, slots=True)
class SignedOut:
    """A device that was signed out, and where its session was."""

    device_id: str
    node_id: int
    node_target: str
    """Empty: no live session."""


_OPEN: Final = """
SELECT o.*, coalesce(n.target, '')
FROM chat.open_session_1(%s::bigint, %s::text, %s::smallint, %s::text, %s::bigint, %s::bigint,
  %s::bigint, %s::smallint, %s::integer) o
LEFT JOIN chat.chat_node n ON n.id = o.previous_node AND n.lease_until_ms > chat.now_ms()
"""
_WRITE_CURSORS: Final = "SELECT chat.write_cursors_1(%s, %s, %s, %s, %s)"
_CLOSE: Final = "SELECT chat.close_sessions_1(%s, %s, %s)"
_LIST: Final = """
SELECT d.device_id, d.kind, d.name, d.seen_at_ms, d.acked_seq, coalesce(n.id, 0)
FROM chat.device d
LEFT JOIN chat.chat_node n ON n.id = d.session_node AND n.lease_until_ms > chat.now_ms()
WHERE d.account = %s ORDER BY d.seen_at_ms DESC, d.device_id
"""
_HAS: Final = "SELECT 1 FROM chat.device WHERE account = %s AND device_id = %s"
_SIGN_OUT: Final = """
SELECT s.device_id, s.session_node, coalesce(n.target, '')
FROM chat.sign_out_1(%s::bigint, %s::text[]) s
LEFT JOIN chat.chat_node n ON n.id = s.session_node AND n.lease_until_ms > chat.now_ms()
"""
_SET_PUSH: Final = "UPDATE chat.timeline_head SET push_devices = %s WHERE account = %s"
_HEADS: Final = """
SELECT account, seq, notify_seq, min_seq, account_version
FROM chat.timeline_head WHERE account = ANY (%s)
"""
_SESSION_NOS: Final = """
SELECT account, device_id, session_no FROM chat.device WHERE account = ANY (%s)
"""


_MATCH: Final = """
SELECT coalesce(chat.cursor_matches(x.account, x.seq, x.id), false)
FROM unnest(%s, %s, %s) WITH ORDINALITY x(account, seq, id, n) ORDER BY x.n
"""


class DeviceStore:
    """Reads and writes of device and timeline_head."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_session(
        self,
        account: int,
        device_id: str,
        kind: int,
        name: str,
        node_id: int,
        cursor: tuple[int, int] | None,
        start: int,
        *,
        max_devices: int = 10,
    ) -> OpenedSession:
        """Raise the device's session_no, and say where it starts.

        A cursor whose message id matches counts as an ack.

        Args:
            cursor: (timeline_seq, message id); None = a device without one.
            start: START_OLDEST or START_HEAD, read only without a cursor.

        Raises:
            Fault: DEVICE_REFUSED (signed out), LIMIT_EXCEEDED (max_devices).
        """
        seq, message_id = cursor if cursor is not None else (None, None)
        found = await calls.row(
            self._database,
            _OPEN,
            (account, device_id, kind, name, node_id, seq, message_id, start, max_devices),
        )
        if found is None:
            raise LookupError(f"there is no account {account}")
        outcome, *columns, target = found
        if outcome == _SIGNED_OUT:
            raise errors.DEVICE_REFUSED()
        if outcome == _TOO_MANY:
            raise errors.LIMIT_EXCEEDED(limit="max_devices", value=max_devices)
        session_no, node, acked, acked_id, start_seq, head, low, version, devices = columns
        return OpenedSession(
            session_no=session_no or 0,
            previous_node_id=node,
            previous_node_target=target,
            acked_seq=acked,
            acked_id=acked_id,
            start_seq=start_seq or 0,
            head_seq=head,
            min_seq=low,
            account_version=version,
            cursor_ok=outcome == _OPENED,
            devices=devices,
        )

    async def write_cursors(self, rows: Sequence[CursorWrite]) -> None:
        """Write acks: forward only, and only by the session that is the device's newest."""
        newest: dict[tuple[int, str, int], CursorWrite] = {}
        for row in rows:
            key = (row.account, row.device_id, row.session_no)
            if key not in newest or newest[key].acked_seq < row.acked_seq:
                newest[key] = row
        if not newest:
            return
        writes = list(newest.values())
        await calls.rows(
            self._database,
            _WRITE_CURSORS,
            (
                Int8Array([write.account for write in writes]),
                TextArray([write.device_id for write in writes]),
                Int8Array([write.session_no for write in writes]),
                Int8Array([write.acked_seq for write in writes]),
                Int8Array([write.acked_id for write in writes]),
            ),
        )

    async def close_sessions(self, sessions: Sequence[tuple[int, str, int]]) -> None:
        """(account, device_id, session_no) of sessions that ended: the device has no node now."""
        if sessions:
            accounts, device_ids, numbers = zip(*sessions, strict=True)
            await calls.rows(
                self._database,
                _CLOSE,
                (Int8Array(accounts), TextArray(device_ids), Int8Array(numbers)),
            )

    async def list_devices(self, account: int) -> list[DeviceRow]:
        """Devices by last session, newest first."""
        return [DeviceRow(*row) for row in await calls.rows(self._database, _LIST, (account,))]

    async def has_device(self, account: int, device_id: str) -> bool:
        """Whether the account has it."""
        return await calls.row(self._database, _HAS, (account, device_id)) is not None

    async def sign_out(self, account: int, device_ids: Sequence[str] | None) -> list[SignedOut]:
        """Forget devices (None = all): no session of theirs is honoured any more."""
        wanted = None if device_ids is None else TextArray(device_ids)
        found = await calls.rows(self._database, _SIGN_OUT, (account, wanted))
        return [SignedOut(*row) for row in found]

    async def set_push_devices(self, account: int, push_devices: int) -> None:
        """Devices of the account with a push token, as push_svc says."""
        await calls.change(self._database, _SET_PUSH, (push_devices, account))

    async def match(self, cursors: Sequence[tuple[int, int, int]]) -> list[bool]:
        """Whether each (account, timeline_seq, message id or 0) can be resumed from."""
        arguments = (
            Int8Array([account for account, _, _ in cursors]),
            Int8Array([seq for _, seq, _ in cursors]),
            Int8Array([message_id for _, _, message_id in cursors]),
        )
        return [good for (good,) in await calls.rows(self._database, _MATCH, arguments)]

    async def session_nos(self, accounts: Sequence[int]) -> dict[tuple[int, str], int]:
        """Newest session_no by (account, device_id), of every device that is not signed out."""
        found = await calls.rows(self._database, _SESSION_NOS, (Int8Array(accounts),))
        return {(account, device_id): number for account, device_id, number in found}

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        """Heads by account."""
        found = await calls.rows(self._database, _HEADS, (Int8Array(accounts),))
        return {account: Head(*columns) for account, *columns in found}
