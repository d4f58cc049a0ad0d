"""What the commit promises, said once more without a database: a small pure model.

A history is steps drawn from a Random; `check` runs it on a world and compares every answer, and in
the end every timeline, every conversation and how each message reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from chat_svc.core.contacts import ContactAction
from chat_svc.core.membership import Change, Role
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import CommitOutcome, CommitRow, CommitStatus, EventFlag, EventKind
from chatmesh.v1.types_pb2 import Event
from tests.chat_store.world import MESSAGE, World, delete_body, edit_body, text_body

ACCEPTED, REPEATED = CommitStatus.ACCEPTED, CommitStatus.REPEATED
PEOPLE = 4
FOREVER = 1 << 62
UNKNOWN_CONVERSATION = 7
"""An id that no world gives."""


@dataclass
class Said:
    """One event of a conversation."""

    seq: int
    number: int
    sender: int
    kind: int
    target: int
    text: str | None
    """How it reads now; None: erased, or not a text."""


@dataclass
class Place:
    """One conversation."""

    is_direct: bool
    owner: int = 0
    """Groups: may delete what others said."""
    members: list[int] = field(default_factory=list)
    events: list[Said] = field(default_factory=list)
    last_number: int = 0
    stays: dict[int, list[list[int]]] = field(default_factory=dict)
    """Per account: [first, last] position of each stay; FOREVER = still here."""

    def enter(self, account: int, first: int) -> None:
        """A member from that position on."""
        self.members.append(account)
        self.stays.setdefault(account, []).append([first, FOREVER])

    def leave(self, account: int) -> None:
        """The newest event is the last that the account gets."""
        self.members.remove(account)
        self.stays[account][-1][1] = len(self.events)

    def may_read(self, account: int, seq: int) -> bool:
        """Whether the position lies in one of the account's stays."""
        return any(first <= seq <= last for first, last in self.stays.get(account, ()))

    def find(self, seq: int) -> Said | None:
        """The event at a position."""
        return self.events[seq - 1] if 0 < seq <= len(self.events) else None


@dataclass
class Answer:
    """What a message is answered with."""

    status: CommitStatus
    seq: int = 0
    number: int = 0
    timeline_seq: int = 0
    recipients: dict[int, int] = field(default_factory=dict)


@dataclass
class Model:
    """All of it, by account and conversation id."""

    places: dict[int, Place]
    timelines: dict[int, list[tuple[int, int]]]
    blocks: set[tuple[int, int]] = field(default_factory=set)
    keys: dict[tuple[int, bytes], tuple[int, Answer]] = field(default_factory=dict)

    def commit(self, rows: Sequence[CommitRow]) -> list[Answer]:
        """Answers in order. What existed before the batch can be referred to, no more."""
        existed = {number: len(place.events) for number, place in self.places.items()}
        return [self._one(row, existed.get(row.conversation, 0)) for row in rows]

    def _one(self, row: CommitRow, existed: int) -> Answer:
        earlier = self.keys.get((row.sender, row.key))
        if earlier is not None:
            content_hash, first = earlier
            if content_hash != row.content_hash:
                return Answer(CommitStatus.KEY_REUSED)
            return Answer(REPEATED, first.seq, first.number, first.timeline_seq)
        refusal = self._refusal(row, existed)
        if refusal is not None:
            return Answer(refusal)
        answer = self.append(row.conversation, row)
        self.keys[row.sender, row.key] = (row.content_hash, answer)
        return answer

    def _refusal(self, row: CommitRow, existed: int) -> CommitStatus | None:
        place = self.places.get(row.conversation)
        if place is None or row.sender not in place.members:
            return CommitStatus.NOT_A_MEMBER
        if place.is_direct:
            one, other = place.members
            if {(one, other), (other, one)} & self.blocks:
                return CommitStatus.NOT_REACHABLE
        if row.target_seq:
            target = place.find(row.target_seq) if row.target_seq <= existed else None
            if target is None or target.text is None:
                return CommitStatus.TARGET_UNKNOWN
            if not place.may_read(row.sender, row.target_seq):
                return CommitStatus.TARGET_UNKNOWN
            leads = row.event_kind == EventKind.DELETE and row.sender == place.owner
            changes = row.event_kind in (EventKind.EDIT, EventKind.DELETE)
            if changes and target.sender != row.sender and not leads:
                return CommitStatus.NOT_YOURS
        if any(account not in place.members for account in row.mentions):
            return CommitStatus.MENTION_UNKNOWN
        return None

    def append(self, conversation: int, row: CommitRow) -> Answer:
        """Number and store."""
        place = self.places[conversation]
        visible = bool(row.flags & EventFlag.VISIBLE)
        place.last_number += visible
        number = place.last_number if visible else 0
        text = Event.FromString(row.body).content.text.body if visible else None
        said = Said(len(place.events) + 1, number, row.sender, row.event_kind, row.target_seq, text)
        place.events.append(said)
        target = place.find(row.target_seq)
        if target is not None and row.event_kind == EventKind.EDIT:
            target.text = Event.FromString(row.body).content.edit.text.body
        elif target is not None and row.event_kind == EventKind.DELETE:
            target.text = None
        recipients = {}
        for member in place.members:
            self.timelines[member].append((conversation, said.seq))
            recipients[member] = len(self.timelines[member])
        return Answer(ACCEPTED, said.seq, number, recipients[row.sender], recipients)

    def append_unnumbered(
        self, conversation: int, sender: int, kind: EventKind = EventKind.MEMBERSHIP
    ) -> None:
        """An event of the mesh itself."""
        row = CommitRow(0, 0, sender, conversation, kind, 0, b"", 0, 0, 0, b"", b"")
        self.append(conversation, row)


async def check(world: World, random: Random, *, steps: int, most: int) -> dict[str, int]:
    """Run one history; how often each kind of step or answer came.

    Args:
        most: messages in one batch.

    Raises:
        AssertionError: the database differs from the model.
    """
    run = await _begin(world, random)
    for _ in range(steps):
        step = random.choices((run.send, run.block, run.move), (8, 1, 1))[0]
        await (step(most) if step == run.send else step(0))
    await run.compare()
    return run.counts


async def _begin(world: World, random: Random) -> _Run:
    people = await world.users(PEOPLE)
    pairs = [(a, b) for a in people for b in people if a.id < b.id]
    model = Model({}, {person.id: [] for person in people})
    for one, other in pairs[:3]:
        number = await world.direct(one, other)
        model.places[number] = Place(True)
        for account in (one, other):
            model.places[number].enter(account.id, 1)
    members = people[:3]
    group = await world.group(members[0], *members[1:])
    model.places[group] = Place(False, members[0].id)
    for account in members:
        model.places[group].enter(account.id, 1)
    for kind in (EventKind.CONVERSATION, EventKind.MEMBERSHIP):
        model.append_unnumbered(group, members[0].id, kind)
    return _Run(world, random, model, people, group)


@dataclass
class _Run:
    world: World
    random: Random
    model: Model
    people: list[AccountRow]
    group: int
    counts: dict[str, int] = field(default_factory=dict)
    sent: list[CommitRow] = field(default_factory=list)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    async def send(self, most: int) -> None:
        """A batch: fresh messages, repeats, changes of messages, strangers."""
        rows: dict[tuple[int, bytes], CommitRow] = {}
        for _ in range(self.random.randint(1, most)):
            row = self._row()
            rows.setdefault((row.sender, row.key), row)
        batch = list(rows.values())
        outcomes = await self.world.commit(*batch)
        self.count("batch of one" if len(batch) == 1 else "batch")
        for row, outcome, expected in zip(batch, outcomes, self.model.commit(batch), strict=True):
            self.count(expected.status.name)
            assert _seen(outcome) == expected, (row, outcome, expected)
            self.sent.append(row)

    def _row(self) -> CommitRow:
        random, world = self.random, self.world
        if self.sent and random.random() < 0.15:
            return self._again(random.choice(self.sent))
        sender = random.choice(self.people)
        number = random.choice([*self.model.places, UNKNOWN_CONVERSATION])
        place = self.model.places.get(number)
        target = random.randint(1, len(place.events) + 2) if place and place.events else 0
        what = random.choices(("text", "silent", "edit", "delete", "react"), (6, 2, 2, 1, 1))[0]
        text = f"text {random.randint(0, 99)}"
        if target and what == "edit":
            body = edit_body(target, text)
            return world.row(
                sender, number, kind=EventKind.EDIT, flags=0, target_seq=target, body=body
            )
        if target and what == "delete":
            return world.row(
                sender,
                number,
                kind=EventKind.DELETE,
                flags=0,
                target_seq=target,
                body=delete_body(target),
            )
        if target and what == "react":
            return world.row(sender, number, kind=EventKind.REACTION, flags=0, target_seq=target)
        mentions = [random.choice(self.people).id] if random.random() < 0.1 else []
        return world.row(
            sender,
            number,
            body=text_body(text),
            flags=EventFlag.VISIBLE if what == "silent" else MESSAGE,
            target_seq=target if random.random() < 0.2 else 0,
            mentions=mentions,
        )

    def _again(self, row: CommitRow) -> CommitRow:
        """The same key once more, now and then for other content."""
        other = self.random.random() < 0.2
        return CommitRow(
            self.world.new_id(),
            row.tenant_id,
            row.sender,
            row.conversation,
            row.event_kind,
            row.flags,
            row.key,
            row.content_hash + 1 if other else row.content_hash,
            row.target_seq,
            row.expires_at_ms,
            row.body,
            row.trace,
            row.mentions,
        )

    async def block(self, _: int) -> None:
        """Somebody blocks or unblocks somebody; events of it stand in their own logs."""
        one, other = self.random.sample(self.people, 2)
        pair = (one.id, other.id)
        action = ContactAction.UNBLOCK if pair in self.model.blocks else ContactAction.BLOCK
        done = await self.world.store.relations.change(
            self.world.request(one),
            other.id,
            self.world.name_of(other),
            action,
            ids=await self.world.new_ids(3),
        )
        self.count(action.name)
        self.model.blocks ^= {pair}
        for event in done.events:
            place = event.outcome.conversation
            self.model.timelines[event.sender].append((place, event.outcome.conversation_seq))

    async def move(self, _: int) -> None:
        """The group's owner adds or removes somebody."""
        owner, group = self.people[0], self.model.places[self.group]
        person = self.random.choice(self.people[1:])
        if person.id in group.members:
            await self.world.change(owner, self.group, Change.REMOVED, person)
            self.model.append_unnumbered(self.group, owner.id)
            group.leave(person.id)
        elif not {(owner.id, person.id), (person.id, owner.id)} & self.model.blocks:
            group.enter(person.id, len(group.events) + 1)
            await self.world.change(owner, self.group, Change.ADDED, person, role=Role.MEMBER)
            self.model.append_unnumbered(self.group, owner.id)
        self.count("membership")

    async def compare(self) -> None:
        """Everything that is stored against the model."""
        for person in self.people:
            stored = await self.world.timeline(person)
            assert [seq for seq, _, _ in stored] == list(range(1, len(stored) + 1))
            assert [(place, at) for _, place, at in stored] == self.model.timelines[person.id]
        for number, place in self.model.places.items():
            found = await self.world.ask(
                "SELECT conversation_seq, message_no, sender, kind, target_seq, body"
                " FROM chat.event WHERE conversation = %s ORDER BY conversation_seq",
                number,
            )
            said = [
                Said(seq, no, sender, kind, target, _text(body) if no else None)
                for seq, no, sender, kind, target, body in found
            ]
            assert said == place.events
            ((seq, no),) = await self.world.ask(
                "SELECT last_conversation_seq, last_message_no FROM chat.conversation"
                " WHERE id = %s",
                number,
            )
            assert (seq, no) == (len(place.events), place.last_number)


def _text(body: bytes) -> str | None:
    event = Event.FromString(body)
    return event.content.text.body if event.HasField("content") else None


def _seen(outcome: CommitOutcome) -> Answer:
    return Answer(
        outcome.status,
        outcome.conversation_seq,
        outcome.message_no,
        outcome.sender_timeline_seq,
        {r.account: r.timeline_seq for r in outcome.recipients},
    )
