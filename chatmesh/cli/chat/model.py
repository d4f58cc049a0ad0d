"""What the screen shows, as values: conversations, messages, marks, presence, the connection.

Role: takes what the SDK brings (entries, pages, receipts, …) and what the user offers, in any order
and any number of times, and keeps one state of it. The screen is a function of this state.
Rules: pure: no I/O, no task, no clock (times are arguments), no widget. Applying the same event
twice changes nothing. A message of a conversation that nobody opened is counted, not kept.
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from chatmesh import client as sdk

PREVIEW_CHARACTERS = 200
TYPING_MS = 6_000
"""How long somebody types when the server does not say."""


def key_of(kind: sdk.ConversationKind, peer: str, conversation_id: int) -> str:
    """Name of a conversation that is known before it exists: `@bob`, or `#12` for a group."""
    return f"#{conversation_id}" if kind == sdk.ConversationKind.GROUP or not peer else f"@{peer}"


class Kind(enum.Enum):
    """How a message reads."""

    TEXT = "text"
    NOTE = "note"
    """Said by the server: members, titles."""
    OTHER = "other"
    """Bytes, or a kind of a newer release."""
    ERASED = "erased"


class Mark(enum.IntEnum):
    """How far an own message has got."""

    WAITING = 0
    REFUSED = 1
    SENT = 2
    DELIVERED = 3
    READ = 4


@dataclass(slots=True)
class Said:
    """One message of the history."""

    conversation_seq: int
    message_no: int
    sender: str
    created_at_ms: int
    kind: Kind
    text: str
    reply_to: int = 0
    edited: bool = False


@dataclass(slots=True)
class Waiting:
    """One message without an answer; `refused` says why it never will be sent."""

    key: bytes
    text: str
    reply_to: int = 0
    refused: str = ""


@dataclass(slots=True)
class Talk:
    """One conversation. `conversation_id` 0: nothing was said in it yet."""

    key: str
    peer: str = ""
    kind: sdk.ConversationKind = sdk.ConversationKind.DIRECT
    conversation_id: int = 0
    title: str = ""
    unread: int = 0
    read_message_no: int = 0
    last_message_no: int = 0
    last_seq: int = 0
    active_at_ms: int = 0
    preview: str = ""
    pinned: bool = False
    muted: bool = False
    opened: bool = False
    has_more: bool = True
    said: dict[int, Said] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    waiting: dict[bytes, Waiting] = field(default_factory=dict)
    members: list[str] = field(default_factory=list)
    reactions: dict[int, dict[str, set[str]]] = field(default_factory=dict)
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    counted: dict[tuple[int, int], int] = field(default_factory=dict)
    typing: dict[str, int] = field(default_factory=dict)
    changes: dict[int, sdk.Content] = field(default_factory=dict)
    """Edits and deletions of messages that are not loaded, by target."""

    @property
    def name(self) -> str:
        """What it is called; a text of other people."""
        return self.title or self.peer or self.key

    def messages(self) -> list[Said]:
        """In order."""
        return [self.said[seq] for seq in self.order]

    def keep(self, message: Said) -> None:
        """Put a message at its place, unless it is there."""
        if message.conversation_seq not in self.said:
            self.said[message.conversation_seq] = message
            bisect.insort(self.order, message.conversation_seq)
            if (change := self.changes.pop(message.conversation_seq, None)) is not None:
                self.change(message.conversation_seq, change)

    def change(self, target: int, content: sdk.Content) -> None:
        """Edit or blank a message; remembered when it is not loaded."""
        message = self.said.get(target)
        if message is None:
            self.changes[target] = content
            return
        if isinstance(content, sdk.Delete):
            message.kind, message.text = Kind.ERASED, ""
            self.reactions.pop(target, None)
        elif isinstance(content, sdk.Edit) and message.kind != Kind.ERASED:
            message.kind, message.text = _reads(content.body)
            message.edited = True

    def react(self, user: str, said: sdk.Reaction) -> None:
        """Set or take back one reaction."""
        of_message = self.reactions.setdefault(said.target_conversation_seq, {})
        users = of_message.setdefault(said.reaction, set())
        if said.removed:
            users.discard(user)
        else:
            users.add(user)
        if not users:
            del of_message[said.reaction]

    def mark_of(self, message: Said) -> tuple[Mark, int]:
        """How far an own message has got, and how many have read it."""
        seq, number = message.conversation_seq, message.message_no
        reached = [value for value in self.marks.values() if value[0] >= seq]
        read = sum(1 for value in self.marks.values() if 0 < number <= value[1])
        for (delivered_seq, read_no), members in self.counted.items():
            if 0 < number <= read_no:
                read = max(read, members)
            elif delivered_seq >= seq:
                reached.append((delivered_seq, 0))
        if read:
            return Mark.READ, read
        return (Mark.DELIVERED if reached else Mark.SENT), 0


class Link(enum.Enum):
    """How the connection is."""

    CONNECTING = "connecting"
    CATCHING_UP = "catching up"
    ONLINE = "online"
    LOST = "lost"
    ENDED = "ended"


class Model:
    """Everything. `me` is empty until the server has said who the token speaks for."""

    def __init__(self, me: str = "") -> None:
        self.me = me
        self.talks: dict[str, Talk] = {}
        self.ids: dict[int, str] = {}
        self.presence: dict[str, sdk.Presence] = {}
        self.contacts: dict[str, sdk.ContactState] = {}
        self.link = Link.CONNECTING
        self.problem = ""
        self.open_key = ""

    # -- conversations -----------------------------------------------------------------------------

    @property
    def open(self) -> Talk | None:
        """The conversation on screen."""
        return self.talks.get(self.open_key)

    def listed(self) -> list[Talk]:
        """For the list: pinned first, then by activity."""
        return sorted(self.talks.values(), key=lambda one: (not one.pinned, -one.active_at_ms))

    def with_user(self, user: str) -> Talk:
        """The direct conversation with a user, which may not exist yet."""
        kind = sdk.ConversationKind.SELF if user == self.me else sdk.ConversationKind.DIRECT
        return self.talks.setdefault(f"@{user}", Talk(f"@{user}", user, kind))

    def by_id(self, conversation_id: int) -> Talk | None:
        """A conversation that exists."""
        return self.talks.get(self.ids.get(conversation_id, ""))

    def _talk(self, kind: sdk.ConversationKind, peer: str, conversation_id: int) -> Talk:
        key = key_of(kind, peer, conversation_id)
        talk = self.talks.setdefault(key, Talk(key, peer, kind))
        talk.conversation_id, talk.kind = conversation_id, kind
        self.ids[conversation_id] = key
        return talk

    def conversation(self, said: sdk.Conversation) -> Talk:
        """The server tells of a conversation, as of its last event."""
        talk = self._talk(said.kind, said.peer, said.conversation_id)
        state = said.state
        talk.pinned = state.pinned
        talk.muted = state.mute in (sdk.MuteLevel.ALL, sdk.MuteLevel.MENTIONS_ONLY)
        if said.last_conversation_seq >= talk.last_seq:
            talk.title, talk.unread = said.title, state.unread
            talk.last_seq = said.last_conversation_seq
            talk.last_message_no = max(talk.last_message_no, said.last_message_no)
            talk.active_at_ms = max(talk.active_at_ms, said.active_at_ms)
            if said.last_message is not None:
                talk.preview = self._preview(said.last_message)
        if state.read_message_no >= talk.last_message_no:
            talk.unread = 0
        talk.read_message_no = max(talk.read_message_no, state.read_message_no)
        return talk

    def members(self, talk: Talk, members: Sequence[sdk.Member]) -> None:
        """Who is in it, and how far they have got."""
        talk.members = [one.user_id for one in members]
        for one in members:
            if one.user_id != self.me:
                self._mark(talk, one.user_id, one.delivered_conversation_seq, one.read_message_no)

    def history(self, talk: Talk, page: sdk.HistoryPage) -> None:
        """An older (or the newest) page of a conversation."""
        for event in page.messages:
            talk.keep(self._said(event))
        talk.has_more = page.more

    def read(self, talk: Talk) -> int:
        """The user has seen the newest message; its number when that was news, else 0."""
        talk.unread = 0
        if talk.last_message_no <= talk.read_message_no:
            return 0
        talk.read_message_no = talk.last_message_no
        return talk.last_message_no

    # -- what comes --------------------------------------------------------------------------------

    def event(self, event: sdk.Event) -> None:
        """An entry of the timeline; entries of long ago come too, on a new device."""
        if isinstance(event.content, sdk.AccountChange):
            self._account(event.content)
            return
        talk = self._talk(event.conversation_kind, event.peer, event.conversation_id)
        talk.waiting.pop(event.key, None)
        is_new = event.conversation_seq > talk.last_seq
        if is_new:
            talk.last_seq = event.conversation_seq
            talk.active_at_ms = max(talk.active_at_ms, event.created_at_ms)
            talk.typing.pop(event.sender, None)
        self._take(talk, event)
        if not is_new or not event.message_no:
            return
        talk.last_message_no = max(talk.last_message_no, event.message_no)
        if event.content is not None:
            talk.preview = self._preview(event)
            if event.sender != self.me and event.message_no > talk.read_message_no:
                talk.unread += 1

    def _take(self, talk: Talk, event: sdk.Event) -> None:
        match event.content:
            case sdk.Reaction():
                talk.react(event.sender, event.content)
            case sdk.Edit(target, _) | sdk.Delete(target):
                if talk.opened:
                    talk.change(target, event.content)
            case sdk.Pin():
                pass
            case content:
                if isinstance(content, sdk.ConversationChange) and content.title is not None:
                    talk.title = content.title
                if isinstance(content, sdk.Membership):
                    self._membership(talk, content)
                if talk.opened:
                    talk.keep(self._said(event))

    def _membership(self, talk: Talk, said: sdk.Membership) -> None:
        users = [user for user in talk.members if user not in said.user_ids]
        if said.change in (sdk.MembershipChange.ADDED, sdk.MembershipChange.ROLE):
            users += said.user_ids
        if talk.members:
            talk.members = users

    def _account(self, said: sdk.AccountChange) -> None:
        talk = self.by_id(said.conversation_id)
        if said.subject == "hidden" and talk and said.conversation_seq in talk.said:
            del talk.said[said.conversation_seq]
            talk.order.remove(said.conversation_seq)

    def receipt(self, said: sdk.Receipt) -> None:
        """Somebody has got something, or read it."""
        talk = self.by_id(said.conversation_id)
        if talk is None or said.user_id == self.me:
            return
        delivered, read = said.delivered_conversation_seq, said.read_message_no
        if said.member_count:
            talk.counted[delivered, read] = said.member_count
            for old in sorted(talk.counted)[:-8]:
                del talk.counted[old]
        else:
            self._mark(talk, said.user_id, delivered, read)

    def _mark(self, talk: Talk, user: str, delivered: int, read: int) -> None:
        before = talk.marks.get(user, (0, 0))
        talk.marks[user] = max(before[0], delivered), max(before[1], read)

    def typed(self, said: sdk.Typing, now_ms: int) -> None:
        """Somebody types, or stopped."""
        talk = self.by_id(said.conversation_id)
        if talk is None or said.user_id == self.me:
            return
        if said.active:
            talk.typing[said.user_id] = now_ms + (said.expires_in_ms or TYPING_MS)
        else:
            talk.typing.pop(said.user_id, None)

    def typing_over(self, now_ms: int) -> bool:
        """Forget who has stopped typing without a word; True when there was one."""
        over = False
        for talk in self.talks.values():
            for user in [user for user, until in talk.typing.items() if until <= now_ms]:
                del talk.typing[user]
                over = True
        return over

    def seen(self, said: sdk.Presence) -> None:
        """Presence of somebody; UNKNOWN leaves what was shown."""
        if said.state != sdk.PresenceState.UNKNOWN or said.user_id not in self.presence:
            self.presence[said.user_id] = said

    # -- what the user offers ----------------------------------------------------------------------

    def offered(self, talk: Talk, waiting: Waiting, now_ms: int) -> None:
        """A message is on its way."""
        talk.waiting[waiting.key] = waiting
        talk.active_at_ms = max(talk.active_at_ms, now_ms)

    def settled(self, key: bytes, outcome: sdk.Sent | sdk.ChatmeshError) -> None:
        """The answer to a message: it is in the history, or never will be."""
        for talk in list(self.talks.values()):
            waiting = talk.waiting.get(key)
            if waiting is None:
                continue
            if isinstance(outcome, sdk.ChatmeshError):
                waiting.refused = outcome.message
                continue
            del talk.waiting[key]
            self._talk(talk.kind, talk.peer, outcome.conversation_id)
            talk.active_at_ms = max(talk.active_at_ms, outcome.created_at_ms)
            if talk.opened:
                talk.keep(
                    Said(
                        outcome.conversation_seq, outcome.message_no, self.me,
                        outcome.created_at_ms, Kind.TEXT, waiting.text, waiting.reply_to,
                    )
                )  # fmt: skip

    def drop_refused(self) -> None:
        """The user has seen what was refused in the open conversation."""
        if (talk := self.open) is not None:
            talk.waiting = {key: one for key, one in talk.waiting.items() if not one.refused}

    # -- texts -------------------------------------------------------------------------------------

    def _said(self, event: sdk.Event) -> Said:
        kind, text = _reads(event.content)
        return Said(
            event.conversation_seq, event.message_no, event.sender, event.created_at_ms,
            kind, text, event.reply_to,
        )  # fmt: skip

    def _preview(self, event: sdk.Event) -> str:
        kind, text = _reads(event.content)
        first = text[:PREVIEW_CHARACTERS]
        if kind == Kind.ERASED:
            return "deleted"
        return f"you: {first}" if event.sender == self.me else first


def _reads(content: sdk.Content | None) -> tuple[Kind, str]:
    match content:
        case None:
            return Kind.ERASED, ""
        case sdk.Text(body):
            return Kind.TEXT, body
        case sdk.Data(media_type, body):
            return Kind.OTHER, f"{media_type}, {len(body)} bytes"
        case sdk.Membership(change, users, _):
            return Kind.NOTE, f"{change.name.lower()}: {_names(users)}"
        case sdk.ConversationChange(created, title, _):
            what = "made the group" if created else "changed the group"
            return Kind.NOTE, f"{what}{f': {title}' if title else ''}"
        case _:
            return Kind.OTHER, "a kind of message that this release does not know"


def _names(users: Iterable[str]) -> str:
    return ", ".join(users)
