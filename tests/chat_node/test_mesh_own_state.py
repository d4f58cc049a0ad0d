"""Own state in a conversation on all devices, and search, on a real mesh of two nodes."""

from __future__ import annotations

import asyncio
from typing import Any

from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1 import types_pb2
from tests.chat_node.device import WAIT_SECONDS, Device
from tests.chat_node.test_mesh_timelines import People, people
from tests.raw import new_key

__all__ = ["people"]

FIELDS: tuple[dict[str, Any], ...] = (
    {"pinned": True}, {"archived": True}, {"mute": types_pb2.MUTE_LEVEL_MENTIONS_ONLY},
    {"mute": types_pb2.MUTE_LEVEL_ALL, "mute_until_ms": 4_000_000_000_000},
    {"marked_unread": True}, {"draft": "not said yet"}, {"read_message_no": 1},
    {"pinned": False}, {"archived": False}, {"mute": types_pb2.MUTE_LEVEL_NONE},
    {"marked_unread": False}, {"draft": ""},
)  # fmt: skip


def version(device: Device) -> int:
    """The newest account_version that it was told, without asking."""
    pongs = [pong.account_version for frame in device.frames for pong in frame.pong]
    welcome = device.welcome
    return max([*pongs, welcome.account_version if welcome else 0])


async def told(device: Device, since: int) -> None:
    await device.until(lambda: version(device) > since)


async def changed(people: People, since: int) -> pb.GetAccountStateResponse:
    return await people.call(
        "bob", "ConversationService/GetAccountState",
        pb.GetAccountStateRequest(since_account_version=since), pb.GetAccountStateResponse,
    )  # fmt: skip


async def test_own_state_is_the_same_on_all_devices_and_after_a_reconnect(people: People) -> None:
    alice = await people.device("alice", "phone", 0)
    keys = await alice.send("one", "two", to=people.user("bob"))
    (said, _) = await alice.answered(keys)
    number = said.conversation_id
    phone = await people.device("bob", "phone", 0)
    laptop = await people.device("bob", "laptop", 1)
    tablet = await people.device("bob", "tablet", 1)
    away_since = version(tablet)
    await tablet.hang_up()
    expected: dict[str, Any] = {}
    for fields in FIELDS:
        before = {device: version(device) for device in (phone, laptop)}
        answer = await people.call(
            "bob", "ConversationService/UpdateMemberState",
            pb.UpdateMemberStateRequest(conversation_id=number, **fields),
            pb.UpdateMemberStateResponse,
        )  # fmt: skip
        expected |= fields
        if "mute" in fields:
            expected["mute_until_ms"] = fields.get("mute_until_ms", 0)
        if "read_message_no" in fields:
            expected["marked_unread"] = False  # a mark that rises takes it away
        for device in (phone, laptop):
            was = before[device]
            await told(device, was)
            (now,) = (await changed(people, was)).conversations
            assert now.conversation_id == number
            assert now.state == answer.state
            assert {name: getattr(now.state, name) for name in expected} == expected, fields
    await tablet.open()
    assert version(tablet) >= version(phone) > away_since
    missed = await changed(people, away_since)
    assert [one.conversation_id for one in missed.conversations] == [number]
    assert missed.account_version == version(tablet)
    assert not (await changed(people, missed.account_version)).conversations
    # nobody else's business
    assert version(alice) == 0
    state = await people.call(
        "alice", "ConversationService/GetConversation",
        pb.GetConversationRequest(conversation_id=number), pb.GetConversationResponse,
    )  # fmt: skip
    assert not state.conversation.state.draft
    assert not state.conversation.state.read_message_no


async def test_a_read_mark_that_rises_takes_marked_unread_away_on_all_devices(
    people: People,
) -> None:
    alice = await people.device("alice", "phone", 0)
    (key,) = await alice.send("one", to=people.user("bob"))
    (said,) = await alice.answered([key])
    phone = await people.device("bob", "phone", 1)
    number = said.conversation_id
    await people.call(
        "bob", "ConversationService/UpdateMemberState",
        pb.UpdateMemberStateRequest(conversation_id=number, marked_unread=True),
        pb.UpdateMemberStateResponse,
    )  # fmt: skip
    await told(phone, 0)
    was = version(phone)
    assert (await changed(people, 0)).conversations[0].state.marked_unread
    await people.call(
        "bob", "ConversationService/UpdateMemberState",
        pb.UpdateMemberStateRequest(conversation_id=number, read_message_no=1),
        pb.UpdateMemberStateResponse,
    )  # fmt: skip
    await told(phone, was)
    (now,) = (await changed(people, was)).conversations
    assert (now.state.marked_unread, now.state.unread) == (False, 0)


async def found(people: People, name: str, query: str) -> list[str]:
    answer = await people.call(
        name, "ConversationService/SearchMessages",
        pb.SearchMessagesRequest(query=query), pb.SearchMessagesResponse,
    )  # fmt: skip
    return [hit.message.content.text.body for hit in answer.hits]


async def until_found(people: People, name: str, query: str, texts: list[str]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while await found(people, name, query) != texts:  # noqa: ASYNC110 - behind the commit
            await asyncio.sleep(0.05)


async def test_what_was_said_on_one_node_is_found_on_another(people: People) -> None:
    word = people.user("needle").replace("-", "")
    alice = await people.device("alice", "phone", 0)
    keys = await alice.send(f"{word} one", f"{word} two", to=people.user("bob"))
    (first, _) = await alice.answered(keys)
    await until_found(people, "bob", word, [f"{word} two", f"{word} one"])
    edit = types_pb2.EditContent(
        target_conversation_seq=first.conversation_seq, text=types_pb2.TextContent(body="changed")
    )
    message = types_pb2.OutgoingMessage(
        idempotency_key=new_key(), conversation_id=first.conversation_id,
        content=types_pb2.Content(edit=edit),
    )  # fmt: skip
    await alice.say(send={"messages": [message]})
    await alice.answered([message.idempotency_key])
    assert await found(people, "bob", word) == [f"{word} two"]  # at once: a hit says it now
    await until_found(people, "bob", "changed", ["changed"])
    assert await found(people, "carol", word) == []


async def test_what_no_node_noted_is_found_by_the_sweep(people: People) -> None:
    """As after a node died between its commit and the index."""
    word = people.user("swept").replace("-", "")
    alice = await people.device("alice", "phone", 0)
    (key,) = await alice.send(word, to=people.user("bob"))
    (said,) = await alice.answered([key])
    await until_found(people, "bob", word, [word])
    await people.ask(
        "WITH gone AS (DELETE FROM chat.search_entry WHERE conversation = %s)"
        " UPDATE chat.search_position SET indexed_seq = 0 WHERE conversation = %s",
        said.conversation_id, said.conversation_id,
    )  # fmt: skip
    await until_found(people, "bob", word, [word])
