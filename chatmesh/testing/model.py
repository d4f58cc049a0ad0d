"""What the mesh should do, in the smallest form that is still right. Pure, in memory, obvious.

Random tests run the same steps on the real mesh and here, and compare: every user's timeline,
every conversation's order, how it reads now, what is unread. Nothing is fast, lost, retried or
concurrent here.

Rules taken from docs/positions.md, docs/unread.md and docs/promises.md; who may do what from the
contract. No limits, no clocks, no push.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from chatmesh import fold


class Refused(Exception):
    """The mesh would refuse; `reason` is the contract's."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Said:
    """An event: what a timeline entry shows. `target_seq` 0: none."""

    conversation: int
    conversation_seq: int
    message_no: int
    sender: str
    kind: str
    """text, edit, delete, reaction, created, added, removed, left."""
    body: str
    target_seq: int = 0


@dataclass(slots=True)
class Chat:
    """A conversation."""

    number: int
    direct: bool
    members: set[str]
    owner: str
    events: list[Said] = field(default_factory=list)
    message_count: int = 0
    stays: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Per user: (first, last) conversation_seq of each stay; last 0 = still a member."""
    read: dict[str, int] = field(default_factory=dict)
    """Read marks, as message_no."""

    def may_read(self, user: str, conversation_seq: int) -> bool:
        """Whether a user was a member there."""
        return any(
            first <= conversation_seq and (last == 0 or conversation_seq <= last)
            for first, last in self.stays.get(user, ())
        )

    def enter(self, user: str) -> None:
        """A member from the next event on; what was said before is not unread."""
        self.members.add(user)
        self.stays.setdefault(user, []).append((len(self.events) + 1, 0))
        self.read[user] = max(self.read.get(user, 0), self.message_count)

    def leave(self, user: str) -> None:
        """The newest event was the last they get."""
        self.members.discard(user)
        first, _ = self.stays[user][-1]
        self.stays[user][-1] = (first, len(self.events))


Reading = fold.Reading[str]
"""How one message reads now. ``body`` None: deleted."""

_EFFECTS: Final = {
    "text": fold.Effect.MESSAGE,
    "edit": fold.Effect.EDIT,
    "delete": fold.Effect.DELETE,
    "reaction": fold.Effect.REACTION,
}


class Model:
    """A whole mesh of one tenant."""

    def __init__(self) -> None:
        self.chats: list[Chat] = []
        self.timelines: dict[str, list[Said]] = {}
        self.blocks: set[tuple[str, str]] = set()
        self._keys: dict[tuple[str, str], tuple[object, Said]] = {}

    # -- making ------------------------------------------------------------------------------------

    def direct(self, one: str, other: str) -> Chat:
        """The direct conversation of two users (of one with themself: the notes), made if new."""
        members = {one, other}
        for chat in self.chats:
            if chat.direct and chat.members == members:
                return chat
        return self._chat(Chat(len(self.chats), True, set(), one), members)

    def group(self, owner: str, members: Iterable[str]) -> Chat:
        """A new group; its first events say so, and who came."""
        wanted = set(members)
        if any(self._is_blocked(member, owner) for member in wanted):
            raise Refused("NOT_REACHABLE")
        chat = self._chat(Chat(len(self.chats), False, set(), owner), {owner, *wanted})
        self._append(chat, owner, "created", "")
        self._append(chat, owner, "added", ",".join(sorted(chat.members)))
        return chat

    def _chat(self, chat: Chat, members: set[str]) -> Chat:
        self.chats.append(chat)
        for member in members:
            chat.enter(member)
        return chat

    def _is_blocked(self, one: str, other: str) -> bool:
        return bool({(one, other), (other, one)} & self.blocks)

    # -- saying ------------------------------------------------------------------------------------

    def send(
        self, sender: str, chat: Chat, key: str, body: str, *, kind: str = "text", target: int = 0
    ) -> Said:
        """One message under a key: once, whatever happens.

        Raises Refused: NOT_A_MEMBER, NOT_REACHABLE, KEY_REUSED, TARGET_UNKNOWN, NOT_YOURS.
        """
        content = (chat.number, kind, body, target)
        if known := self._keys.get((sender, key)):
            if known[0] != content:
                raise Refused("KEY_REUSED")
            return known[1]
        if sender not in chat.members:
            raise Refused("NOT_A_MEMBER")
        if chat.direct and any(self._is_blocked(one, sender) for one in chat.members):
            raise Refused("NOT_REACHABLE")
        if target:
            self._check_target(sender, chat, kind, target)
        said = self._append(chat, sender, kind, body, target)
        self._keys[sender, key] = (content, said)
        return said

    def _check_target(self, sender: str, chat: Chat, kind: str, target: int) -> None:
        readings = {reading.conversation_seq: reading for reading in self.reads_now(chat)}
        reading = readings.get(target)
        if reading is None or reading.body is None or not chat.may_read(sender, target):
            raise Refused("TARGET_UNKNOWN")
        leads = kind == "delete" and sender == chat.owner and not chat.direct
        if kind in ("edit", "delete") and reading.sender != sender and not leads:
            raise Refused("NOT_YOURS")

    def _append(self, chat: Chat, sender: str, kind: str, body: str, target: int = 0) -> Said:
        chat.message_count += kind == "text"
        said = Said(
            chat.number,
            len(chat.events) + 1,
            chat.message_count if kind == "text" else 0,
            sender,
            kind,
            body,
            target,
        )
        chat.events.append(said)
        for member in chat.members:
            self.timelines.setdefault(member, []).append(said)
        return said

    # -- members -----------------------------------------------------------------------------------

    def add(self, by: str, chat: Chat, user: str) -> Said | None:
        """Add a user to a group; None: was in it."""
        self._check_admin(by, chat)
        if user in chat.members:
            return None
        if self._is_blocked(user, by):
            raise Refused("NOT_REACHABLE")
        chat.enter(user)
        return self._append(chat, by, "added", user)

    def remove(self, by: str, chat: Chat, user: str) -> Said | None:
        """Remove a user (oneself: leave); the removed sees it, too. None: was not in it."""
        if by != user:
            self._check_admin(by, chat)
        elif by not in chat.members:
            raise Refused("NOT_FOUND")
        if user not in chat.members:
            return None
        if user == chat.owner and len(chat.members) > 1:
            raise Refused("LAST_OWNER")
        said = self._append(chat, by, "left" if by == user else "removed", user)
        chat.leave(user)
        return said

    def _check_admin(self, by: str, chat: Chat) -> None:
        if by not in chat.members or chat.direct:
            raise Refused("NOT_FOUND")
        if by != chat.owner:
            raise Refused("ROLE_REQUIRED")

    def block(self, user: str, other: str) -> None:
        """`user` blocks `other`."""
        self.blocks.add((user, other))

    def unblock(self, user: str, other: str) -> None:
        """No longer."""
        self.blocks.discard((user, other))

    # -- reading marks -----------------------------------------------------------------------------

    def mark_read(self, user: str, chat: Chat, message_no: int) -> None:
        """Marks only rise, and end at the newest message."""
        chat.read[user] = max(chat.read.get(user, 0), min(message_no, chat.message_count))

    def unread(self, user: str, chat: Chat) -> int:
        """Messages of others after the read mark, but deleted ones and those of whom one blocks."""
        if user not in chat.members:
            return 0
        numbers = {said.conversation_seq: said.message_no for said in chat.events}
        return sum(
            reading.sender != user
            and reading.body is not None
            and chat.may_read(user, reading.conversation_seq)
            and (user, reading.sender) not in self.blocks
            and numbers[reading.conversation_seq] > chat.read.get(user, 0)
            for reading in self.reads_now(chat)
        )

    # -- reading -----------------------------------------------------------------------------------

    def reads_now(self, chat: Chat) -> list[Reading]:
        """The visible messages with edits, deletions and reactions applied."""
        return fold.reads_now(
            fold.Said(
                said.conversation_seq,
                _EFFECTS.get(said.kind, fold.Effect.NONE),
                said.sender,
                said.body,
                said.target_seq,
                reaction=said.body,
            )
            for said in chat.events
        )
