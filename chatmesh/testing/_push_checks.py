"""I8: each device with a token acked or was pushed, visibly at most once, and not what it acked.

Pure. What a device owes is known from what was stored: the places of others' messages in the user's
timeline, as any device of the user stored them, or (when none did) the position that `away` names.
A visible notification tells of everything up to its position. Requests that a crash repeated carry
one key and count as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from chatmesh.testing._checks import Finding, finding
from chatmesh.testing._index import DeviceStory, Index
from chatmesh.testing.history import Operation

UNDER_WAY_NS: Final = 5_000_000_000
"""A notification that left before the ack arrived is none for something acked. The only check that
looks at times, and only this roughly: push and ack are recorded by different processes."""


def acked_or_pushed(index: Index) -> Iterator[Finding]:
    """I8."""
    for device in index.devices.values():
        pushes = [op for op in device.operations if op.kind == "pushed" and op.content != "silent"]
        token = next((op for op in device.operations if op.kind == "token"), None)
        yield from _twice(device, pushes)
        yield from _after_ack(device, pushes)
        away = next((op for op in device.operations if op.kind == "away"), None)
        end = device.final or away
        if token is not None and end is not None:
            yield from _neither(index, device, token, end, pushes)


def _neither(
    index: Index,
    device: DeviceStory,
    token: Operation,
    end: Operation,
    pushes: list[Operation],
) -> Iterator[Finding]:
    acked = max((op.timeline_seq for op in device.operations if op.kind == "acked"), default=0)
    told = max((op.timeline_seq for op in pushes), default=0)
    for position, shown_by in sorted(_owed(index, device, end).items()):
        if token.timeline_seq < position and position > max(acked, told):
            yield finding(
                f"{device.user}'s {device.device} has a token and neither acked position "
                f"{position} nor was told of it (acked {acked}, told {told})",
                token,
                shown_by,
            )


def _owed(index: Index, device: DeviceStory, end: Operation) -> dict[int, Operation]:
    """Positions that the device must ack or be told of, and what shows that they are there."""
    found: dict[int, Operation] = {}
    knows = False
    for other in index.devices_of(device.user):
        for position, op in other.stored.items():
            knows = True
            if op.sender not in ("", device.user) and not op.content.startswith("server."):
                found.setdefault(position, op)
    if not knows and end.timeline_seq:
        found[end.timeline_seq] = end
    return {position: op for position, op in found.items() if position <= end.timeline_seq}


def _twice(device: DeviceStory, pushes: list[Operation]) -> Iterator[Finding]:
    told: Operation | None = None
    keys: set[str] = set()
    for op in pushes:
        if op.key and op.key in keys:
            continue  # the request of before, repeated: the provider shows it once
        keys.add(op.key)
        if told is not None and op.timeline_seq <= told.timeline_seq:
            yield finding(
                f"{device.user}'s {device.device} was told of position {op.timeline_seq} twice, "
                "visibly",
                told,
                op,
            )
        if told is None or op.timeline_seq > told.timeline_seq:
            told = op


def _after_ack(device: DeviceStory, pushes: list[Operation]) -> Iterator[Finding]:
    acks = [op for op in device.operations if op.kind == "acked"]
    for push in pushes:
        for ack in acks:
            if ack.timeline_seq >= push.timeline_seq and ack.at_ns + UNDER_WAY_NS < push.at_ns:
                yield finding(
                    f"{device.user}'s {device.device} was told of position {push.timeline_seq}, "
                    f"which it had acked",
                    ack,
                    push,
                )
                break
