"""Marks and counts: every row of the table of `core.unread`, and that marks only rise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from chat_svc.core.membership import Change
from chat_svc.core.unread import EXACT_UP_TO, RULES, UnreadRule
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import CommitStatus, EventFlag, EventKind
from chat_svc.store.conversations import MemberChange
from chat_svc.store.govern import Properties
from chat_svc.store.receipts import Mark
from chat_svc.store.self_log import Owner
from chatmesh.v1.types_pb2 import Content, EditContent, Event, TextContent
from tests.chat_store.world import NODE, World

PAGE = Path(__file__).parents[2] / "docs" / "unread.md"


class Case:
    """A group in which somebody may say something to a reader who has read everything so far."""

    def __init__(self, world: World, writer: AccountRow, reader: AccountRow, group: int) -> None:
        self.world = world
        self.writer = writer
        self.reader = reader
        self.group = group

    async def say(self, **fields: object) -> int:
        """One message of the writer; its conversation_seq."""
        row = self.world.row(self.writer, self.group, **fields)  # type: ignore[arg-type]
        (outcome,) = await self.world.commit(row)
        assert outcome.status == CommitStatus.ACCEPTED
        return outcome.conversation_seq

    async def set_own(self, **fields: object) -> None:
        """The reader's own state."""
        await self.world.store.conversations.update_member_state(
            self.reader.id,
            self.group,
            MemberChange(**fields),  # type: ignore[arg-type]
        )


async def message(case: Case) -> None:
    await case.say()


async def silent(case: Case) -> None:
    await case.say(flags=EventFlag.VISIBLE)


async def own(case: Case) -> None:
    await case.world.commit(case.world.row(case.reader, case.group))


async def erased(case: Case) -> None:
    seq = await case.say()
    await case.say(kind=EventKind.DELETE, flags=0, target_seq=seq)


async def expired(case: Case) -> None:
    await case.say(expires_at_ms=1)


async def hidden(case: Case) -> None:
    seq = await case.say()
    owner = Owner(case.reader.tenant_id, case.reader.id, case.world.name_of(case.reader), NODE)
    ids = await case.world.new_ids(2)
    await case.world.store.self_log.hide(owner, case.group, seq, ids=ids)


async def edited(case: Case) -> None:
    seq = await case.say()
    edit = EditContent(target_conversation_seq=seq, text=TextContent(body="new"))
    body = Event(content=Content(edit=edit)).SerializeToString()
    await case.say(kind=EventKind.EDIT, flags=0, target_seq=seq, body=body)


async def about_a_message(case: Case) -> None:
    seq = await case.say()
    await case.set_own(read_message_no=1)
    await case.say(kind=EventKind.REACTION, flags=0, target_seq=seq)
    await case.say(kind=EventKind.PIN, flags=0, target_seq=seq)


async def title(case: Case) -> None:
    world = case.world
    await world.store.govern.update_group(
        world.request(case.writer), case.group, Properties("new"), ids=await world.new_ids(2)
    )


async def before_joining(case: Case) -> None:
    await case.world.change(case.writer, case.group, Change.REMOVED, case.reader)
    await case.say()
    await case.world.change(case.writer, case.group, Change.ADDED, case.reader)


async def of_blocked(case: Case) -> None:
    await case.world.ask(
        "INSERT INTO chat.block VALUES (%s, %s, 0)", case.reader.id, case.writer.id
    )
    await case.say()


async def muted(case: Case) -> None:
    await case.set_own(mute=3)
    await case.say()


async def archived(case: Case) -> None:
    await case.set_own(archived=True)
    await case.say()


async def left(case: Case) -> None:
    await case.say()
    await case.world.change(case.reader, case.group, Change.LEFT, case.reader)


CASES: dict[str, Callable[[Case], Awaitable[None]]] = {
    "message": message,
    "silent message": silent,
    "own message": own,
    "erased message": erased,
    "expired message": expired,
    "hidden message": hidden,
    "edited message": edited,
    "edit, delete, reaction, pin": about_a_message,
    "membership, title": title,
    "before joining": before_joining,
    "of a blocked sender": of_blocked,
    "in a muted conversation": muted,
    "in an archived conversation": archived,
    "in a group that was left": left,
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.what)
async def test_the_store_counts_as_the_table_says(world: World, rule: UnreadRule) -> None:
    writer, reader = await world.users(2)
    case = Case(world, writer, reader, await world.group(writer, reader))
    await CASES[rule.what](case)
    view = await world.store.conversations.view(reader.id, case.group)
    assert (view.state.unread if view else 0) == int(rule.in_conversation)
    assert await world.store.conversations.unread_totals(reader.id) == (int(rule.in_total), 0)


async def test_a_block_hides_what_was_unread_before_it_and_its_end_brings_it_back(
    world: World,
) -> None:
    writer, reader, other = await world.users(3)
    direct = await world.direct(writer, reader)
    group = await world.group(other, writer, reader)
    await world.commit(
        world.row(writer, direct),
        world.row(writer, group, mentions=[reader.id]),
        world.row(other, group),
    )
    counts = world.store.conversations

    async def told() -> tuple[int, ...]:
        unread = []
        for conversation in (direct, group):
            view = await counts.view(reader.id, conversation)
            assert view is not None
            unread.append(view.state.unread)
        return *unread, *await counts.unread_totals(reader.id)

    assert await told() == (1, 2, 3, 1)
    await world.ask("INSERT INTO chat.block VALUES (%s, %s, 0)", reader.id, writer.id)
    assert await told() == (0, 1, 1, 0)
    await world.ask("DELETE FROM chat.block WHERE owner = %s", reader.id)
    assert await told() == (1, 2, 3, 1)


def test_the_page_says_what_the_table_says() -> None:
    lines = PAGE.read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    word = {True: "yes", False: "no"}
    assert rows == [
        [rule.what, word[rule.in_conversation], word[rule.in_total], rule.why] for rule in RULES
    ]


def test_every_row_has_its_case() -> None:
    assert [rule.what for rule in RULES] == list(CASES)


async def test_mentions_are_counted_among_the_unread(world: World) -> None:
    writer, reader, other = await world.users(3)
    group = await world.group(writer, reader, other)
    await world.commit(
        world.row(writer, group, mentions=[reader.id, other.id]),
        world.row(writer, group, mentions=[other.id]),
        world.row(writer, group, mentions=[reader.id]),
    )
    totals = world.store.conversations.unread_totals
    assert await totals(reader.id) == (3, 2)
    await world.store.receipts.write_marks([Mark(group, reader.id, 1, 0)])
    assert await totals(reader.id) == (2, 1)
    assert await totals(other.id) == (3, 2)


async def test_marks_only_rise_and_end_at_the_head(world: World) -> None:
    one, two, stranger = await world.users(3)
    conversation = await world.direct(one, two)
    await world.commit(*(world.row(one, conversation) for _ in range(5)))
    write = world.store.receipts.write_marks

    def mark(read: int, delivered: int = 0, account: AccountRow = two) -> Mark:
        return Mark(conversation, account.id, read, delivered)

    async def written(*marks: Mark) -> list[tuple[int, int, bool, bool]]:
        return [
            (c.read_message_no, c.delivered_conversation_seq, c.read_changed, c.delivered_changed)
            for c in await write(marks)
        ]

    assert await written(mark(2, 3), mark(1, 4)) == [(2, 4, True, True)]
    assert await written(mark(1, 5)) == [(2, 5, False, True)]
    assert await written(mark(2, 5), mark(0, 1)) == []
    assert await written(mark(900, 900)) == [(5, 5, True, False)]
    assert await written(mark(5, 5, stranger)) == []
    assert await written(Mark(987, two.id, 1, 1)) == []
    assert await written() == []
    heads = await world.store.devices.heads([two.id])
    assert heads[two.id].account_version == 2


async def test_marks_of_many_members_at_once(world: World) -> None:
    owner, *members = await world.users(6)
    group = await world.group(owner, *members)
    await world.commit(*(world.row(owner, group) for _ in range(3)))
    marks = [Mark(group, member.id, n % 3 + 1, n) for n, member in enumerate(members)]
    changed = await world.store.receipts.write_marks(marks)
    assert {
        c.account: (c.read_message_no, c.member_count, c.conversation_kind) for c in changed
    } == {member.id: (n % 3 + 1, 6, 2) for n, member in enumerate(members)}


async def test_a_long_backlog_is_told_by_its_numbers(world: World) -> None:
    writer, reader = await world.users(2)
    group = await world.group(writer, reader)
    for _ in range(EXACT_UP_TO // 500):
        await world.commit(*(world.row(writer, group) for _ in range(500)))
    await world.commit(world.row(reader, group))
    totals = world.store.conversations.unread_totals
    # one above the exact range: the reader's own message is not taken out
    assert await totals(reader.id) == (EXACT_UP_TO + 1, 0)
    await world.store.receipts.write_marks([Mark(group, reader.id, 1, 0)])
    assert await totals(reader.id) == (EXACT_UP_TO - 1, 0)


async def test_the_read_position_is_found_among_events_without_number(world: World) -> None:
    writer, reader = await world.users(2)
    group = await world.group(writer, reader)  # two events without number
    for _ in range(4):
        (outcome,) = await world.commit(world.row(writer, group))
        seq = outcome.conversation_seq
        reactions = [
            world.row(writer, group, kind=EventKind.REACTION, flags=0, target_seq=seq)
            for _ in range(3)
        ]
        await world.commit(*reactions)
    for number, seq in ((2, 7), (4, 15)):
        await world.store.receipts.write_marks([Mark(group, reader.id, number, 0)])
        found = await world.ask(
            "SELECT read_conversation_seq FROM chat.member"
            " WHERE conversation = %s AND account = %s",
            group,
            reader.id,
        )
        assert found == [(seq,)]
