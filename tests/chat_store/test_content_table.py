"""Every row of the table of content: said as a client says it, and what a reader gets of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from chat_svc.api.mesh import _pending
from chat_svc.core.content import KINDS, check
from chat_svc.core.content_table import RULES, ContentRule
from chat_svc.core.limits import Limits
from chat_svc.core.membership import Change
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import CommitOutcome, CommitStatus, EventKind
from chat_svc.store.govern import Properties
from chat_svc.store.self_log import Owner
from chatmesh.runtime.faults import Fault
from chatmesh.v1 import types_pb2 as pb
from tests.chat_store.test_devices import opened
from tests.chat_store.world import NODE, World, uuid7

PAGE = Path(__file__).parents[2] / "docs" / "content.md"
WORD = "needle"


class Case:
    """A group, its owner who says something, a member who reads, and one who is no member."""

    def __init__(self, world: World, people: list[AccountRow], group: int) -> None:
        self.world = world
        self.writer, self.reader, self.stranger = people
        self.group = group

    async def say(
        self, content: pb.Content, *, by: AccountRow | None = None, **fields: Any
    ) -> CommitOutcome:
        """One message, checked and committed as a node does it."""
        message = pb.OutgoingMessage(
            idempotency_key=uuid7(), conversation_id=self.group, content=content, **fields
        )
        checked = check(message, Limits(), int(time.time() * 1_000))
        names = {self.world.name_of(one): one.id for one in (self.writer, self.reader)}
        row = self.world.row(
            by or self.writer, self.group, kind=EventKind(checked.kind), flags=checked.flags,
            target_seq=checked.target_seq, body=checked.body,
            expires_at_ms=checked.expires_at_ms, mentions=[names[m] for m in checked.mentions],
        )  # fmt: skip
        (outcome,) = await self.world.commit(row)
        return outcome

    async def text(self, words: str = WORD, **fields: Any) -> int:
        """A text; its conversation_seq."""
        outcome = await self.say(text(words), **fields)
        assert outcome.status == CommitStatus.ACCEPTED
        return outcome.conversation_seq

    async def earlier(self, words: str = "earlier") -> int:
        """A text that the reader has read and stored."""
        seq = await self.text(words)
        await self.all_read()
        return seq

    async def all_read(self) -> None:
        world = self.world
        heads = await world.store.devices.heads([self.reader.id])
        await world.ask(
            "UPDATE chat.device SET acked_seq = %s WHERE account = %s",
            heads[self.reader.id].seq, self.reader.id,
        )  # fmt: skip
        await world.ask(
            "UPDATE chat.member m SET read_message_no = c.last_message_no,"
            " read_conversation_seq = c.last_conversation_seq FROM chat.conversation c"
            " WHERE c.id = m.conversation AND m.account = %s",
            self.reader.id,
        )

    async def about(self, content: pb.Content) -> None:
        assert (await self.say(content)).status == CommitStatus.ACCEPTED


def text(words: str) -> pb.Content:
    return pb.Content(text=pb.TextContent(body=words))


def edit_of(seq: int, words: str) -> pb.Content:
    edit = pb.EditContent(target_conversation_seq=seq, text=pb.TextContent(body=words))
    return pb.Content(edit=edit)


def delete_of(seq: int) -> pb.Content:
    return pb.Content(delete=pb.DeleteContent(target_conversation_seq=seq))


def reaction_to(seq: int) -> pb.Content:
    return pb.Content(reaction=pb.ReactionContent(target_conversation_seq=seq, reaction=WORD))


def pin_of(seq: int) -> pb.Content:
    return pb.Content(pin=pb.PinContent(target_conversation_seq=seq))


async def plain(case: Case) -> None:
    await case.text()


async def data(case: Case) -> None:
    await case.about(pb.Content(data=pb.DataContent(media_type="a/b", body=WORD.encode())))


async def edit(case: Case) -> None:
    await case.about(edit_of(await case.earlier(), WORD))


async def delete(case: Case) -> None:
    await case.about(delete_of(await case.text()))


async def reaction(case: Case) -> None:
    await case.about(reaction_to(await case.earlier()))


async def pin(case: Case) -> None:
    await case.about(pin_of(await case.earlier()))


async def membership(case: Case) -> None:
    await case.world.change(case.writer, case.group, Change.ADDED, case.stranger)


async def conversation(case: Case) -> None:
    world = case.world
    await world.store.govern.update_group(
        world.request(case.writer), case.group, Properties(WORD), ids=await world.new_ids(2)
    )


def _owner(case: Case) -> Owner:
    reader = case.reader
    return Owner(reader.tenant_id, reader.id, case.world.name_of(reader), NODE)


async def account(case: Case) -> None:
    ids = await case.world.new_ids(2)
    await case.world.store.self_log.tell(_owner(case), "mutes", WORD, ids=ids)


async def encrypted(case: Case) -> None:
    await case.text(encrypted=True)


async def attachments(case: Case) -> None:
    file = pb.Attachment(
        uri="https://files.example/x", media_type="image/png", size_bytes=3, sha256=b"s" * 32
    )
    await case.text(attachments=[file])


async def reply(case: Case) -> None:
    await case.text(reply_to_conversation_seq=await case.earlier())


async def thread(case: Case) -> None:
    root = await case.earlier()
    mentioned = [case.world.name_of(case.reader)]
    await case.text(thread_root_conversation_seq=root, mention_user_ids=mentioned)
    page = await case.world.store.history.list_messages(
        case.reader.id, case.group, from_seq=0, forward=True, limit=9, thread=root
    )
    assert page is not None
    assert len(page.messages) == 2
    totals = await case.world.store.conversations.unread_totals(case.reader.id)
    assert totals[1] == 1, "a mention in a thread is one"


async def mention(case: Case) -> None:
    await case.text(mention_user_ids=[case.world.name_of(case.reader)])


async def forward(case: Case) -> None:
    await case.text(forwarded_from=pb.ForwardedFrom(user_id="somebody", created_at_ms=1))


async def silent(case: Case) -> None:
    await case.text(silent=True)


async def disappearing(case: Case) -> None:
    seq = await case.text(expires_at_ms=int(time.time() * 1_000) + 3_600_000)
    await case.world.ask(
        "UPDATE chat.event SET expires_at_ms = 1 WHERE conversation = %s"
        " AND conversation_seq = %s",
        case.group, seq,
    )  # fmt: skip


async def delete_for_me(case: Case) -> None:
    seq = await case.text()
    ids = await case.world.new_ids(2)
    await case.world.store.self_log.hide(_owner(case), case.group, seq, ids=ids)


CASES: dict[str, Callable[[Case], Awaitable[None]]] = {
    "text": plain, "data": data, "edit": edit, "delete": delete, "reaction": reaction, "pin": pin,
    "membership": membership, "conversation": conversation, "account": account,
    "encrypted": encrypted, "attachments": attachments, "reply": reply, "thread": thread,
    "mention": mention, "forward": forward, "silent": silent, "disappearing": disappearing,
    "delete for me": delete_for_me,
}  # fmt: skip


async def made(world: World) -> Case:
    people = await world.users(3)
    case = Case(world, people, await world.group(people[0], people[1]))
    await opened(world, people[1])
    await case.all_read()
    return case


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.what)
async def test_a_reader_gets_what_the_table_says(world: World, rule: ContentRule) -> None:
    case = await made(world)
    await CASES[rule.what](case)
    store, reader = world.store, case.reader.id
    behind = [case.group]
    while behind:
        behind = (await store.search.index(behind, max_events=1_000)).behind
    unread, _ = await store.conversations.unread_totals(reader)
    (state,) = await store.push_state.push_state([(reader, "phone")], 0)
    hits = (await store.search.search(reader, WORD, limit=9)).hits
    is_pushed = state.visible and bool(state.pending)
    assert (unread > 0, is_pushed, bool(hits)) == (rule.unread, rule.push, rule.search)
    if rule.what in ("encrypted", "data"):
        (pending,) = state.pending
        assert _pending(pending).text == ""
    elif rule.push:
        assert _pending(state.pending[-1]).text == WORD


def test_the_page_says_what_the_table_says() -> None:
    lines = PAGE.read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    word = {True: "yes", False: "no"}
    assert rows == [
        [rule.what, rule.who, rule.reads, word[rule.unread], word[rule.push], word[rule.search]]
        for rule in RULES
    ]


def test_every_kind_has_a_row_and_every_row_a_case() -> None:
    kinds = [field.name for field in pb.Content.DESCRIPTOR.oneofs_by_name["kind"].fields]
    assert [rule.what for rule in RULES][: len(kinds)] == kinds
    assert [rule.what for rule in RULES] == list(CASES)
    assert list(KINDS) == kinds[: len(KINDS)]
    by_server = {rule.what for rule in RULES if rule.who.startswith("the server")}
    assert by_server == set(kinds) - set(KINDS)


@pytest.mark.parametrize("name", ["membership", "conversation", "account"])
def test_what_the_server_writes_no_client_may(name: str) -> None:
    content = pb.Content()
    getattr(content, name).SetInParent()
    message = pb.OutgoingMessage(idempotency_key=uuid7(), to_user_id="x", content=content)
    with pytest.raises(Fault) as refused:
        check(message, Limits(), int(time.time() * 1_000))
    assert refused.value.reason == "CONTENT_UNSUPPORTED"


async def test_who_may_say_what(world: World) -> None:
    case = await made(world)
    seq = await case.earlier()
    own = (await case.say(text("mine"), by=case.reader)).conversation_seq
    every = (
        text("hi"), pb.Content(data=pb.DataContent(media_type="a/b", body=b"x")),
        edit_of(seq, "x"), delete_of(seq), reaction_to(seq), pin_of(seq),
    )  # fmt: skip
    for content in every:
        outcome = await case.say(content, by=case.stranger)
        assert outcome.status == CommitStatus.NOT_A_MEMBER, content
    for content, status in (
        (edit_of(seq, "x"), CommitStatus.NOT_YOURS), (delete_of(seq), CommitStatus.NOT_YOURS),
        (reaction_to(seq), CommitStatus.ACCEPTED), (pin_of(seq), CommitStatus.ACCEPTED),
        (edit_of(own, "x"), CommitStatus.ACCEPTED),
    ):  # fmt: skip
        assert (await case.say(content, by=case.reader)).status == status, content
    # the owner may delete what a member said, and not put words into their mouth
    assert (await case.say(edit_of(own, "x"))).status == CommitStatus.NOT_YOURS
    assert (await case.say(delete_of(own))).status == CommitStatus.ACCEPTED
