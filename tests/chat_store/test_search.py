"""Search over a real store: what is found, by whom, and what takes it away again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from chat_svc.core.membership import Change
from chat_svc.node.counters import NodeCounters
from chat_svc.node.search import SearchIndexing
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import EventKind
from chat_svc.store.search import SearchStore
from chatmesh.runtime.clock import SystemClock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.postgres import Database
from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1.types_pb2 import Content, DataContent, EditContent, Event, TextContent
from tests.chat_store.api import Api
from tests.chat_store.world import World, delete_body, edit_body, text_body

STORED_FIELDS = (
    "content { text { body: 'plain sailing' } }",
    "content { text { body: 'plain sailing' } } encrypted: true",
    "content { data { media_type: 'a/b' body: 'plain sailing' } }",
    "content { edit { target_conversation_seq: 1 text { body: 'plain sailing' } } }",
    "content { text { body: '' } }",
    (
        "content { text { body: 'plain sailing' } } reply_to_conversation_seq: 300 silent: true"
        " metadata { key: 'k' value: 'sailing' } attachments { uri: 'https://x' name: 'sailing' }"
        " thread_root_conversation_seq: 18446744073709551615"
    ),
    "",
)


async def index(world: World) -> None:
    """What the background loop does, until nothing is behind."""
    while True:
        step = await world.store.search.sweep(max_rows=10_000, period_ms=0)
        if not step.behind:
            return
        behind: Sequence[int] = step.behind
        while behind:
            behind = (await world.store.search.index(behind, max_events=100)).behind


async def ask(
    api: Api, account: AccountRow, query: str, **fields: object
) -> pb.SearchMessagesResponse:
    request = pb.SearchMessagesRequest(query=query, **fields)  # type: ignore[arg-type]
    user = api.world.name_of(account)
    answer: pb.SearchMessagesResponse = await api.call(
        user, api.conversations.SearchMessages, request
    )
    return answer


async def found(api: Api, account: AccountRow, query: str, **fields: object) -> list[str]:
    """Texts of all hits."""
    answer = await ask(api, account, query, **fields)
    return [hit.message.content.text.body for hit in answer.hits]


async def words(world: World, conversation: int) -> list[int]:
    """Messages of a conversation that have words."""
    rows = await world.ask(
        "SELECT conversation_seq FROM chat.search_entry WHERE conversation = %s ORDER BY 1",
        conversation,
    )
    return [seq for (seq,) in rows]


@pytest.mark.parametrize("fields", STORED_FIELDS)
async def test_the_text_of_a_stored_body(world: World, fields: str) -> None:
    from google.protobuf import text_format

    event = text_format.Parse(fields, Event())
    expected = "" if event.encrypted else event.content.text.body
    body = event.SerializeToString(deterministic=True)
    rows = await world.ask("SELECT chat.search_text_1(%s)", body)
    assert rows == [(expected,)]
    # and of what was cut off anywhere: no error
    for end in range(len(body)):
        await world.ask("SELECT chat.search_text_1(%s)", body[:end].split(b"plain")[0])


async def test_words_phrases_and_without_in_own_conversations_only(api: Api) -> None:
    world = api.world
    one, two, three = await world.users(3)
    talk, other = await world.direct(one, two), await world.direct(two, three)
    await world.commit(
        world.row(one, talk, "The quick brown fox"),
        world.row(two, talk, "a brown quick dog"),
        world.row(two, other, "quick brown secrets"),
    )
    assert await found(api, one, "quick") == []  # behind the commit, not in it
    await index(world)
    assert await found(api, one, "quick") == ["a brown quick dog", "The quick brown fox"]
    assert await found(api, one, '"quick brown"') == ["The quick brown fox"]
    assert await found(api, one, "brown -fox") == ["a brown quick dog"]
    assert await found(api, one, "FOX or dog") == ["a brown quick dog", "The quick brown fox"]
    assert await found(api, one, "secrets") == []
    assert await found(api, three, "quick") == ["quick brown secrets"]
    assert await found(api, two, "quick", conversation_id=other) == ["quick brown secrets"]
    assert await found(api, one, "quick", conversation_id=other) == []
    (hit, _) = (await ask(api, one, "quick")).hits
    assert hit.highlight == "a brown \ue000quick\ue001 dog"
    assert (hit.message.sender_user_id, hit.message.peer_user_id) == (
        world.name_of(two),
        world.name_of(one),
    )


async def test_a_text_cannot_forge_the_marks_of_a_highlight(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    talk = await world.direct(one, two)
    await world.commit(world.row(two, talk, "see \ue000this\ue001 <b>needle</b>"))
    await index(world)
    (hit,) = (await ask(api, one, "needle")).hits
    assert hit.highlight.count("\ue000") == hit.highlight.count("\ue001") == 1
    assert "\ue000needle\ue001" in hit.highlight
    assert hit.message.content.text.body == "see \ue000this\ue001 <b>needle</b>"


async def test_pages_hold_each_hit_once_while_more_is_written(api: Api) -> None:
    world = api.world
    one, two, three = await world.users(3)
    talks = [await world.direct(one, two), await world.direct(one, three)]
    for number in range(12):
        await world.commit(world.row(one, talks[number % 2], f"needle {number}"))
    await index(world)
    texts, token = [], ""
    for page in range(5):
        answer = await ask(api, one, "needle", page_size=3, page_token=token)
        texts += [hit.message.content.text.body for hit in answer.hits]
        token = answer.next_page_token
        await world.commit(world.row(one, talks[0], f"needle late {page}"))
        await index(world)
        if not token:
            break
    assert sorted(texts) == sorted(f"needle {number}" for number in range(12))
    for parity in (0, 1):  # two conversations: what was said in the same millisecond is a tie
        numbers = [int(text.split()[1]) for text in texts if int(text.split()[1]) % 2 == parity]
        assert numbers == sorted(numbers, reverse=True)
    first = await ask(api, one, "needle", page_size=3)
    for account, query, fields in (
        (two, "needle", {}),
        (one, "other", {}),
        (one, "needle", {"conversation_id": talks[0]}),
    ):
        with pytest.raises(Fault) as refused:
            await ask(api, account, query, page_token=first.next_page_token, **fields)
        assert refused.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_page_of_what_the_caller_may_not_see_says_where_to_go_on(api: Api) -> None:
    world = api.world
    owner, later = await world.users(2)
    group = await world.group(owner)
    await world.commit(*(world.row(owner, group, f"needle {n}") for n in range(230)))
    await world.change(owner, group, Change.ADDED, later)
    await world.commit(world.row(owner, group, "needle for both"))
    talk = await world.direct(later, later)
    await index(world)
    await world.commit(world.row(later, talk, "old needle"))
    await world.ask("UPDATE chat.event SET created_at_ms = 1 WHERE conversation = %s", talk)
    await index(world)
    texts, token, pages = [], "", 0
    while pages == 0 or token:
        answer = await ask(api, later, "needle", page_size=1, page_token=token)
        texts += [hit.message.content.text.body for hit in answer.hits]
        token, pages = answer.next_page_token, pages + 1
    assert texts == ["needle for both", "old needle"]
    assert pages > 2  # 102 are looked at for each


async def test_edits_and_deletions_reach_the_index(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    talk = await world.direct(one, two)
    first, second = await world.commit(
        world.row(one, talk, "old words"), world.row(one, talk, "old promises")
    )
    await index(world)
    for kind, target, body in (
        (EventKind.EDIT, first, edit_body(first.conversation_seq, "new words")),
        (EventKind.DELETE, second, delete_body(second.conversation_seq)),
    ):
        await world.commit(
            world.row(one, talk, kind=kind, flags=0, target_seq=target.conversation_seq, body=body)
        )
    # at once, though the index is behind: a hit is a message that says it now
    assert await found(api, two, "old") == []
    await index(world)
    assert await found(api, two, "new") == ["new words"]
    assert await words(world, talk) == [first.conversation_seq]


async def test_what_expires_or_is_past_retention_is_not_found(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    talk = await world.direct(one, two)
    (now,) = (await world.ask("SELECT chat.now_ms()"))[0]
    await world.commit(
        world.row(one, talk, "needle for a while", expires_at_ms=now + 3_600_000),
        world.row(one, talk, "needle too old"),
        world.row(one, talk, "needle"),
    )
    await index(world)
    assert len(await found(api, two, "needle")) == 3
    await world.ask(
        "UPDATE chat.event SET expires_at_ms = 1 WHERE conversation = %s AND expires_at_ms > 0",
        talk,
    )
    assert await found(api, two, "needle") == ["needle", "needle too old"]
    assert await words(world, talk) == [1, 2, 3]
    await world.store.retention.expire(100)
    assert await words(world, talk) == [2, 3]
    await world.ask("DELETE FROM chat.event WHERE conversation = %s AND conversation_seq = 2", talk)
    assert await found(api, two, "needle") == ["needle"]
    await index(world)
    assert await words(world, talk) == [3]


async def test_hidden_for_oneself_and_encrypted_is_not_found(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    talk = await world.direct(one, two)
    sealed = Event(content=Content(text=TextContent(body="needle sealed")), encrypted=True)
    data = Event(content=Content(data=DataContent(media_type="a/b", body=b"needle data")))
    await world.commit(
        world.row(one, talk, "needle"),
        world.row(one, talk, body=sealed.SerializeToString()),
        world.row(one, talk, kind=EventKind.DATA, body=data.SerializeToString()),
    )
    await index(world)
    assert await words(world, talk) == [1]
    request = pb.HideMessageRequest(conversation_id=talk, conversation_seq=1)
    await api.call(world.name_of(two), api.conversations.HideMessage, request)
    assert await found(api, two, "needle") == []
    assert await found(api, one, "needle") == ["needle"]
    # an edit does not make an encrypted message one that can be searched
    edit = EditContent(target_conversation_seq=2, text=TextContent(body="needle edited"))
    edited = Event(content=Content(edit=edit))
    await world.commit(
        world.row(
            one, talk, kind=EventKind.EDIT, flags=0, target_seq=2, body=edited.SerializeToString()
        )
    )
    await index(world)
    assert await words(world, talk) == [1]


async def test_members_find_what_was_said_while_they_were_members(api: Api) -> None:
    world = api.world
    owner, before, later, reader = await world.users(4)
    group = await world.group(owner, before)
    open_group = await world.group(owner, before, history=2)
    said: dict[int, int] = {}
    for number in (group, open_group):
        (early,) = await world.commit(world.row(owner, number, "needle early"))
        said.setdefault(number, early.conversation_seq)
        await world.change(owner, number, Change.REMOVED, before)
        await world.change(owner, number, Change.ADDED, later)
        await world.commit(world.row(owner, number, "needle late"))
    await index(world)
    assert await found(api, before, "needle", conversation_id=group) == ["needle early"]
    assert await found(api, later, "needle", conversation_id=group) == ["needle late"]
    assert await found(api, later, "needle", conversation_id=open_group) == [
        "needle late",
        "needle early",
    ]
    assert await found(api, reader, "needle") == []
    # said differently after somebody left: not theirs to find
    await world.commit(
        world.row(
            owner, group, kind=EventKind.EDIT, flags=0, target_seq=said[group],
            body=edit_body(said[group], "needle changed"),
        )
    )  # fmt: skip
    await index(world)
    assert await found(api, before, "needle", conversation_id=group) == []
    assert await found(api, before, "changed") == []
    assert await found(api, owner, "changed") == ["needle changed"]
    # nor, edited after somebody came, what was said before
    assert await found(api, later, "changed") == []


@pytest.mark.parametrize(
    "query",
    [
        "",
        "   ",
        "x" * 257,
        '"open',
        "a\0b",
        "line\nbreak",
        "-without",
        "-one -two",
        "or",
        "!?",
        '""',
    ],
)
async def test_searches_that_cannot_be(api: Api, query: str) -> None:
    (one,) = await api.world.users(1)
    if query == "or":  # a word like any other when it stands alone
        assert await found(api, one, query) == []
        return
    with pytest.raises(Fault) as refused:
        await found(api, one, query)
    assert refused.value.reason == "QUERY_INVALID"
    assert refused.value.message[0].islower()


async def test_another_language_makes_the_index_anew(world: World, server: object) -> None:
    one, two = await world.users(2)
    talk = await world.direct(one, two)
    await world.commit(world.row(one, talk, "running engines"))
    await index(world)
    async with Database(world.url, role_name="chatmesh_chat", max_size=1) as database:
        english = SearchStore(database, language="english")
        assert (await english.search(one.id, "engine", limit=10)).hits == []
        assert talk in (await english.sweep(max_rows=10_000, period_ms=0)).behind
        await english.index([talk], max_events=100)
        (hit,) = (await english.search(one.id, "engine runs", limit=10)).hits
        assert hit.highlight == "\ue000running\ue001 \ue000engines\ue001"


async def test_what_is_noted_is_indexed_in_bounded_steps(world: World) -> None:
    one, two = await world.users(2)
    talk = await world.direct(one, two)
    await world.commit(*(world.row(one, talk, f"bounded {n}") for n in range(30)))
    counters = NodeCounters()
    loop = SearchIndexing(world.store.search, SystemClock(), counters)
    assert loop.lag_seconds == 0
    loop.note([talk])
    step = await world.store.search.index([talk], max_events=10)
    assert (step.events, step.behind, len(await words(world, talk))) == (10, [talk], 10)
    await loop.step()
    assert counters.search_events == 20
    assert len(await words(world, talk)) == 30
    assert loop.lag_seconds == 0


async def test_one_node_steps_at_a_time(world: World) -> None:
    one, two = await world.users(2)
    talk = await world.direct(one, two)
    await world.commit(world.row(one, talk, "waiting"))
    loop = SearchIndexing(world.store.search, SystemClock(), NodeCounters())
    loop.note([talk])
    async with world.store.search._database.connection() as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(hashtext('chat.search'))")
        await loop.step()
        assert await words(world, talk) == []
        assert loop._noted.keys() == {talk}
        assert not (await world.store.search.sweep(max_rows=10, period_ms=0)).behind
    await loop.step()
    assert await words(world, talk) == [1]


async def test_one_text_that_cannot_be_split_keeps_no_other_from_being_found(world: World) -> None:
    one, two, three = await world.users(3)
    talks = [await world.direct(one, two), await world.direct(one, three)]
    await world.commit(*(world.row(one, talk, "fine") for talk in talks))
    broken = text_body("ok").replace(b"ok", b"\xff\xfe")
    await world.ask("UPDATE chat.event SET body = %s WHERE conversation = %s", broken, talks[0])
    loop = SearchIndexing(world.store.search, SystemClock(), NodeCounters())
    loop.note(talks)
    await loop.step()
    assert [await words(world, talk) for talk in talks] == [[], [1]]
    await world.ask("DELETE FROM chat.event WHERE conversation = %s", talks[0])
    await world.ask(
        "UPDATE chat.conversation SET last_conversation_seq = 0, last_message_no = 0 WHERE id = %s",
        talks[0],
    )
