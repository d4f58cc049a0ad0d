"""A history arranged for the checks: by key, by device, by message. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from chatmesh.testing.history import Operation

DeviceName = tuple[str, str]
"""(user, device)"""
Place = tuple[int, int]
"""(conversation_id, conversation_seq)"""


@dataclass(slots=True)
class KeyStory:
    """All that was recorded of one idempotency key."""

    sends: list[Operation] = field(default_factory=list)
    accepted: list[Operation] = field(default_factory=list)
    refused: list[Operation] = field(default_factory=list)
    unknown: list[Operation] = field(default_factory=list)


@dataclass(slots=True)
class DeviceStory:
    """One device's operations, in its own order."""

    user: str
    device: str
    operations: list[Operation] = field(default_factory=list)
    final: Operation | None = None
    received: list[Operation] = field(default_factory=list)
    """Every reception since the last snapshot, also of what was there already."""
    stored: dict[int, Operation] = field(default_factory=dict)
    """By timeline_seq: the first record of what was stored there (since the last snapshot)."""
    start: int = 0
    """Position the device's timeline starts after: its first session, or its last snapshot."""

    @property
    def head(self) -> int:
        """Highest position stored."""
        return max(self.stored, default=self.start)


class Index:
    """One history."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.keys: dict[str, KeyStory] = defaultdict(KeyStory)
        self.devices: dict[DeviceName, DeviceStory] = {}
        self.by_place: dict[Place, list[Operation]] = defaultdict(list)
        """Everything received, by place in its conversation."""
        self.by_digest: dict[tuple[str, str], list[Operation]] = defaultdict(list)
        """Everything received, by (sender, digest)."""
        self.changed: set[Place] = set()
        """Places that an edit or a delete changed, and edits: a device that reads them later gets
        other content than one that was live."""
        self._intervals: dict[int, list[Operation]] = defaultdict(list)
        self._seen_users: dict[int, set[str]] = defaultdict(set)
        for operation in operations:
            self._add(operation)

    def _add(self, op: Operation) -> None:
        match op.kind:
            case "send":
                self.keys[op.key].sends.append(op)
            case "sent":
                self._add_answer(op)
            case "members":
                self._intervals[op.conversation_id].append(op)
            case _:
                self._add_device(op)

    def _add_answer(self, op: Operation) -> None:
        story = self.keys[op.key]
        if op.outcome == "accepted":
            story.accepted.append(op)
            self._seen_users[op.conversation_id].add(op.user)
            named = {op.to_user, *(send.to_user for send in story.sends)}
            self._seen_users[op.conversation_id].update(named - {""})
        elif op.outcome == "refused":
            story.refused.append(op)
        else:
            story.unknown.append(op)

    def _add_device(self, op: Operation) -> None:
        name = (op.user, op.device)
        story = self.devices.get(name)
        if story is None:
            story = self.devices[name] = DeviceStory(op.user, op.device)
            story.start = op.timeline_seq if op.kind in ("opened", "snapshot") else 0
        story.operations.append(op)
        if op.kind == "received":
            story.received.append(op)
            story.stored.setdefault(op.timeline_seq, op)
            self.by_place[op.conversation_id, op.conversation_seq].append(op)
            self._seen_users[op.conversation_id].add(op.user)
            if op.target_seq:
                self.changed.add((op.conversation_id, op.target_seq))
                self.changed.add((op.conversation_id, op.conversation_seq))
            if op.sender and op.digest and not op.content.startswith("server."):
                self.by_digest[op.sender, op.digest].append(op)
        elif op.kind == "snapshot":
            story.start = op.timeline_seq
            story.received.clear()
            story.stored.clear()
        elif op.kind == "final":
            story.final = op

    def devices_of(self, user: str) -> Iterator[DeviceStory]:
        """All devices of a user."""
        return (story for (owner, _), story in self.devices.items() if owner == user)

    def members_at(self, conversation_id: int, conversation_seq: int) -> set[str]:
        """Who was a member at that place: as `members` operations say, else who was ever seen."""
        intervals = self._intervals.get(conversation_id)
        if not intervals:
            return self._seen_users[conversation_id]
        return {
            user
            for op in intervals
            if op.conversation_seq <= conversation_seq
            and (op.until_seq == 0 or conversation_seq <= op.until_seq)
            for user in op.users
        }

    def knows_members(self, conversation_id: int) -> bool:
        """Whether `members` operations tell who may see a conversation."""
        return conversation_id in self._intervals

    def members_operations(self, conversation_id: int) -> Sequence[Operation]:
        """What says who was a member."""
        return self._intervals.get(conversation_id, ())

    @cached_property
    def send_digests(self) -> dict[tuple[str, str], list[Operation]]:
        """First sends of each key, by (user, digest)."""
        found: dict[tuple[str, str], list[Operation]] = defaultdict(list)
        for story in self.keys.values():
            for op in story.sends[:1]:
                found[op.user, op.digest].append(op)
        return found
