"""One generator per invariant; each finding carries just the operations that show it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chatmesh.testing._index import DeviceStory, Index
from chatmesh.testing.history import Operation


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and what shows it."""

    text: str
    operations: tuple[Operation, ...]


def finding(text: str, *operations: Operation | None) -> Finding:
    """What is wrong, with the operations that are there to show it."""
    return Finding(text, tuple(op for op in operations if op is not None))


# -- I1, I5: presence and absence -----------------------------------------------------------------


def accepted_is_everywhere(index: Index) -> Iterator[Finding]:
    """I1."""
    for key, story in index.keys.items():
        for answer in story.accepted[:1]:
            place = answer.conversation_id, answer.conversation_seq
            for user in sorted(index.members_at(*place)):
                for device in index.devices_of(user):
                    if device.final is not None and _lacks(index, device, answer):
                        yield finding(
                            f"key {key} was accepted as message {answer.message_id}, but "
                            f"{user}'s {device.device} never stored it",
                            answer,
                            device.final,
                        )


def _lacks(index: Index, device: DeviceStory, answer: Operation) -> bool:
    """Whether a device that should have stored a message has not."""
    place = answer.conversation_id, answer.conversation_seq
    received = [op for op in index.by_place[place] if op.user == device.user]
    if any(op.device == device.device for op in received):
        return False
    positions = {op.timeline_seq for op in received}
    if answer.user == device.user:
        positions.add(answer.timeline_seq)
    if positions:
        return min(positions) > device.start
    if device.start == 0:
        return True
    # nobody of this user has it: it is due if the device holds an earlier event of the conversation
    return any(
        op.conversation_id == place[0] and op.conversation_seq < place[1]
        for op in device.stored.values()
    )


def refused_is_nowhere(index: Index) -> Iterator[Finding]:
    """I5."""
    for key, story in index.keys.items():
        if story.accepted:
            continue
        seen = _seen(index, key, story.sends)
        if story.refused and not story.unknown and seen:
            refusal = story.refused[0]
            yield finding(
                f"key {key} was refused ({refusal.reason}), but {seen[0].user}'s "
                f"{seen[0].device} stored it",
                refusal,
                seen[0],
            )
        elif seen:
            yield from _half_there(index, key, seen[0])


def _half_there(index: Index, key: str, seen: Operation) -> Iterator[Finding]:
    """A message of unknown outcome that some have must be with all."""
    for user in sorted(index.members_at(seen.conversation_id, seen.conversation_seq)):
        for device in index.devices_of(user):
            if device.final is not None and _lacks(index, device, seen):
                yield finding(
                    f"key {key} had no answer; {seen.user}'s {seen.device} stored it, "
                    f"{user}'s {device.device} did not",
                    seen,
                    device.final,
                )


def _seen(index: Index, key: str, sends: Iterable[Operation]) -> list[Operation]:
    """Receptions of a key's message: by its key in own timelines, by its content in others."""
    found: list[Operation] = []
    for send in sends:
        others = index.send_digests.get((send.user, send.digest), []) if send.digest else []
        found += [
            op
            for op in index.by_digest.get((send.user, send.digest), [])
            if op.key == key or (not op.key and len(others) == 1)
        ]
    return found


# -- I2, I7, I11: one device ----------------------------------------------------------------------


def positions_are_contiguous(index: Index) -> Iterator[Finding]:
    """I2."""
    for device in index.devices.values():
        expected: int | None = None
        before: Operation | None = None
        name = f"{device.user}'s {device.device}"
        for op in device.operations:
            if op.kind in ("opened", "snapshot"):
                expected, before = op.timeline_seq + 1, op
            elif op.kind == "received":
                expected = op.timeline_seq if expected is None else expected
                if op.timeline_seq != expected:
                    what = "again" if op.timeline_seq < expected else "too early"
                    yield finding(
                        f"{name} received position {op.timeline_seq} {what}: {expected} was next",
                        before,
                        op,
                    )
                expected, before = op.timeline_seq + 1, op


def acks_are_true(index: Index) -> Iterator[Finding]:
    """I7. A device that resumes may ack again what it acked before it was killed, so acks are
    compared within a session."""
    for device in index.devices.values():
        stored, acked = 0, 0
        last_stored: Operation | None = None
        last_ack: Operation | None = None
        name = f"{device.user}'s {device.device}"
        for number, op in enumerate(device.operations):
            if op.kind in ("opened", "snapshot"):
                acked, last_ack = 0, None
            if op.kind in ("received", "snapshot") or (op.kind == "opened" and number == 0):
                if op.kind == "snapshot":
                    stored = op.timeline_seq
                if op.timeline_seq >= stored:
                    stored, last_stored = op.timeline_seq, op
            elif op.kind == "opened" and op.timeline_seq > stored:
                yield finding(
                    f"{name} resumed after {op.timeline_seq}, above what it stored ({stored})",
                    last_stored,
                    op,
                )
            elif op.kind == "acked":
                if op.timeline_seq > stored:
                    yield finding(
                        f"{name} acked {op.timeline_seq}, above what it stored ({stored})",
                        last_stored,
                        op,
                    )
                if op.timeline_seq < acked:
                    yield finding(f"{name} acked {op.timeline_seq} after {acked}", last_ack, op)
                acked, last_ack = max(acked, op.timeline_seq), op


def all_converged(index: Index) -> Iterator[Finding]:
    """I11."""
    for device in index.devices.values():
        final = device.final
        if final is None or device.head >= final.timeline_seq:
            continue
        last = device.stored.get(device.head)
        yield finding(
            f"{device.user}'s {device.device} ends at {device.head}, the head of its timeline is "
            f"{final.timeline_seq}",
            last,
            final,
        )


# -- I3, I4: agreement ----------------------------------------------------------------------------


def _identity(index: Index, op: Operation) -> tuple[int, int, int, str, str, str]:
    changed = _place(op) in index.changed
    return (
        op.conversation_id,
        op.conversation_seq,
        op.message_id,
        op.sender,
        "" if changed else op.content,
        "" if changed else op.digest,
    )


def devices_agree(index: Index) -> Iterator[Finding]:
    """I3."""
    at_position: dict[tuple[str, int], Operation] = {}
    for device in index.devices.values():
        last_of_conversation: dict[int, Operation] = {}
        for op in device.received:
            first = at_position.setdefault((op.user, op.timeline_seq), op)
            if _identity(index, first) != _identity(index, op):
                yield finding(
                    f"position {op.timeline_seq} of {op.user} is one thing on {first.device}, "
                    f"another on {op.device}",
                    first,
                    op,
                )
        for _, op in sorted(device.stored.items()):
            last = last_of_conversation.get(op.conversation_id)
            if last is not None and last.conversation_seq >= op.conversation_seq:
                yield finding(
                    f"{op.user}'s {op.device} has {op.conversation_seq} of conversation "
                    f"{op.conversation_id} after {last.conversation_seq}",
                    last,
                    op,
                )
            last_of_conversation[op.conversation_id] = op
    yield from _places_agree(index)


def _places_agree(index: Index) -> Iterator[Finding]:
    """A place in a conversation is the same event for every member."""
    for (conversation, seq), operations in index.by_place.items():
        first = operations[0]
        for op in operations[1:]:
            if _identity(index, first) != _identity(index, op):
                yield finding(
                    f"place {seq} of conversation {conversation} is one thing for {first.user}, "
                    f"another for {op.user}",
                    first,
                    op,
                )


def one_key_one_message(index: Index) -> Iterator[Finding]:
    """I4."""
    for key, story in index.keys.items():
        answers = story.accepted
        for answer in answers[1:]:
            if (answer.message_id, answer.conversation_seq) != (
                answers[0].message_id,
                answers[0].conversation_seq,
            ):
                yield finding(f"key {key} was answered with two messages", answers[0], answer)
    yield from _one_message_one_place(index)


def _one_message_one_place(index: Index) -> Iterator[Finding]:
    places: dict[int, Operation] = {}
    by_key: dict[str, Operation] = {}
    for operations in index.by_place.values():
        for op in operations:
            first = places.setdefault(op.message_id, op)
            if _place(first) != _place(op):
                yield finding(f"message {op.message_id} is in two places", first, op)
            if op.key:
                first = by_key.setdefault(op.key, op)
                if first.message_id != op.message_id:
                    yield finding(f"key {op.key} made two messages", first, op)
    sends = index.send_digests
    for said, operations in index.by_digest.items():
        if len(sends.get(said, ())) != 1:
            continue  # said more than once on purpose, or by nobody (I6 tells)
        by_place: dict[tuple[int, int], Operation] = {}
        for op in operations:
            by_place.setdefault(_place(op), op)
        if len(by_place) > 1:
            first, second = list(by_place.values())[:2]
            yield finding(f"what {said[0]} sent once is there twice", sends[said][0], first, second)


def _place(op: Operation) -> tuple[int, int]:
    return op.conversation_id, op.conversation_seq


# -- I6: nothing foreign --------------------------------------------------------------------------


def only_sent_only_members(index: Index) -> Iterator[Finding]:
    """I6."""
    sends = index.send_digests
    senders: dict[str, set[str]] = defaultdict(set)
    for user, digest in sends:
        senders[digest].add(user)
    for operations in index.by_place.values():
        for op in operations:
            if (
                op.digest
                and not op.content.startswith("server.")
                and ((op.sender, op.digest) not in sends)
            ):
                others = ", ".join(sorted(senders.get(op.digest, ())))
                real = sends[next(iter(senders[op.digest])), op.digest][0] if others else None
                yield finding(
                    f"{op.user}'s {op.device} stored a message of {op.sender} that "
                    + (f"{others} sent" if others else "nobody sent"),
                    real,
                    op,
                )
            if index.knows_members(op.conversation_id) and op.user not in index.members_at(
                *_place(op)
            ):
                yield finding(
                    f"{op.user} was no member of conversation {op.conversation_id} at "
                    f"{op.conversation_seq}, and stored it",
                    *index.members_operations(op.conversation_id)[:1],
                    op,
                )
