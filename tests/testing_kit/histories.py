"""A small good history, and ways to break it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from chatmesh.testing.history import Operation, digest_of

CHAT = 900


def key(number: int) -> str:
    return f"{number:032x}"


class Story:
    """Alice (phone, laptop) and Bob (phone) in one direct conversation."""

    DEVICES = (("alice", "phone"), ("alice", "laptop"), ("bob", "phone"))

    def __init__(self) -> None:
        self.operations: list[Operation] = [
            Operation(kind="opened", user=user, device=device) for user, device in self.DEVICES
        ]
        self.count = 0

    def say(self, sender: str, text: str) -> None:
        """Send, be accepted, arrive everywhere, be acked."""
        self.count += 1
        other = "bob" if sender == "alice" else "alice"
        place: dict[str, Any] = {
            "conversation_id": CHAT,
            "conversation_seq": self.count,
            "message_no": self.count,
            "message_id": 5000 + self.count,
        }
        said: dict[str, Any] = {"content": "text", "digest": digest_of(text)}
        self.operations += [
            Operation(kind="send", user=sender, key=key(self.count), to_user=other, **said),
            Operation(
                kind="sent",
                user=sender,
                key=key(self.count),
                outcome="accepted",
                to_user=other,
                timeline_seq=self.count,
                **place,
            ),
        ]
        for user, device in self.DEVICES:
            own = key(self.count) if user == sender else ""
            self.operations += [
                Operation(
                    kind="received",
                    user=user,
                    device=device,
                    timeline_seq=self.count,
                    sender=sender,
                    key=own,
                    **place,
                    **said,
                ),
                Operation(kind="acked", user=user, device=device, timeline_seq=self.count),
            ]

    def refuse(self, sender: str, text: str) -> None:
        """Send and be refused."""
        number = 1000 + len(self.operations)
        self.operations += [
            Operation(
                kind="send",
                user=sender,
                key=key(number),
                to_user="carol",
                content="text",
                digest=digest_of(text),
            ),
            Operation(
                kind="sent",
                user=sender,
                key=key(number),
                outcome="refused",
                reason="NOT_REACHABLE",
            ),
        ]

    def end(self) -> list[Operation]:
        """Every device had time to converge."""
        finals = [
            Operation(kind="final", user=user, device=device, timeline_seq=self.count)
            for user, device in self.DEVICES
        ]
        return number_lines([*self.operations, *finals])


def number_lines(operations: list[Operation]) -> list[Operation]:
    return [replace(op, where=f"h:{line}") for line, op in enumerate(operations, 1)]


def good() -> list[Operation]:
    """Five messages back and forth, one refusal."""
    story = Story()
    for number in range(5):
        story.say("alice" if number % 2 == 0 else "bob", f"text {number}")
    story.refuse("alice", "nobody hears this")
    return story.end()


def at(history: list[Operation], kind: str, user: str, device: str, seq: int) -> int:
    """Line of one operation of a device."""
    for line, op in enumerate(history):
        if (op.kind, op.user, op.device, op.timeline_seq) == (kind, user, device, seq):
            return line
    raise LookupError((kind, user, device, seq))
