"""I9 over a recorded history: who was shown online was there, and in the end what is true is shown.

Pure. Rules and tolerance are those of `presence_checks`; this module turns operations into stays
and claims, and its findings into operations. A history that records no stay of a user says nothing
about what may be shown of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from chatmesh.testing._checks import Finding, finding
from chatmesh.testing._index import DeviceStory, Index
from chatmesh.testing.history import Operation
from chatmesh.testing.presence_checks import Claim, Stay, converged, online_was_true

LEASE_MS: Final = 10_000
"""Of a chat node, by default: so long may the users of a dead one be shown online."""
SLACK_MS: Final = 20_000
"""Another lease, in which presence that lost everything keeps what was shown, and slow readers."""


def presence_was_true(index: Index) -> Iterator[Finding]:
    """I9."""
    stays = [stay for device in index.devices.values() for stay in _stays(device)]
    known = {stay.user for stay in stays}
    claims: dict[Claim, Operation] = {}
    newest: dict[Claim, Operation] = {}
    hidden: list[tuple[str, str]] = []
    for device in index.devices.values():
        seen = _claims(device, device.operations, known)
        claims |= seen
        if device.final is not None:
            newest |= _claims(device, _newest_shown(device), known)
        hidden += [
            (_name(device), user)
            for op in device.operations
            if op.kind == "unseen"
            for user in op.users
        ]
    for wrong in online_was_true(stays, claims, lease_ms=LEASE_MS, slack_ms=SLACK_MS):
        yield finding(wrong.text, claims.get(wrong.claim) if wrong.claim else None)
    for wrong in converged(stays, list(newest), hidden):
        yield finding(wrong.text, newest.get(wrong.claim) if wrong.claim else None)


def _name(device: DeviceStory) -> str:
    return f"{device.user}'s {device.device}"


def _ms(operation: Operation) -> int:
    return operation.at_ns // 1_000_000


def _stays(device: DeviceStory) -> Iterator[Stay]:
    came: list[Operation] = []
    for op in device.operations:
        if op.kind == "came":
            came.append(op)
        elif op.kind == "went" and came:
            yield Stay(device.user, _ms(came.pop()), _ms(op))
    for op in came:
        yield Stay(device.user, _ms(op))


def _claims(
    device: DeviceStory, operations: Iterable[Operation], known: set[str]
) -> dict[Claim, Operation]:
    return {
        Claim(_name(device), op.sender, op.content == "online", _ms(op)): op
        for op in operations
        if op.kind == "shown" and op.sender in known
    }


def _newest_shown(device: DeviceStory) -> Iterable[Operation]:
    """What a device was shown last of each user; an earlier connection's news are void."""
    newest: dict[str, Operation] = {}
    for op in device.operations:
        if op.kind == "opened":
            newest.clear()
        elif op.kind == "shown":
            newest[op.sender] = op
    return newest.values()
