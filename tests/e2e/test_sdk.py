"""What the SDK promises, on the real mesh: one test a promise that a peer cannot prove."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from chatmesh.client import (
    AccountChanged,
    AuthenticationFailed,
    Client,
    ContactAction,
    ContentRefused,
    Cursor,
    Delete,
    DeviceKind,
    DeviceRefused,
    Edit,
    Entry,
    MemberRole,
    Membership,
    MemoryStore,
    NotFound,
    NotReachable,
    PresenceState,
    PushProvider,
    Reaction,
    Sent,
    SessionReplaced,
    Snapshot,
    Text,
)
from chatmesh.testing import TcpProxy

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh

pytestmark = [pytest.mark.mesh]


class Chat:
    """Clients of users that no other test has."""

    def __init__(self, mesh: RunningMesh) -> None:
        self.mesh = mesh
        self.suffix = uuid.uuid4().hex[:12]

    def name(self, user: str) -> str:
        return f"{user}-{self.suffix}"

    def client(self, user: str, device: str = "phone", node: int = 0, **options: Any) -> Client:
        options.setdefault("token", self.mesh.token(self.name(user)))
        return Client(self.mesh.public[node], device_id=device, **options)


@pytest.fixture
def chat(running_mesh: RunningMesh) -> Chat:
    return Chat(running_mesh)


async def next_text(entries: Any) -> Entry:
    async for entry in entries:
        if entry.text is not None:
            return entry  # type: ignore[no-any-return]
    raise AssertionError("the client ended")


async def test_receipts_presence_and_typing_reach_the_other(chat: Chat) -> None:
    async with chat.client("alice") as alice, chat.client("bob", node=1) as bob:
        await alice.update_contact(chat.name("bob"), ContactAction.REQUEST)
        await bob.update_contact(chat.name("alice"), ContactAction.ACCEPT)
        receipts, presence, typing = alice.receipts(), alice.presence(), bob.typing()
        sent = await alice.send(to_user=chat.name("bob"), text="hello")
        entries = bob.entries()
        entry = await next_text(entries)
        entry.ack()
        async for receipt in receipts:
            if receipt.delivered_conversation_seq >= sent.conversation_seq:
                break
        bob.mark_read(sent.conversation_id, sent.message_no)
        async for receipt in receipts:
            if receipt.read_message_no >= sent.message_no:
                break
        async for friend in presence:
            if friend.user_id == chat.name("bob") and friend.is_online:
                break
        alice.set_typing(sent.conversation_id)
        said = await anext(typing)
        assert (said.user_id, said.active) == (chat.name("alice"), True)


async def test_the_newest_session_of_a_device_wins(chat: Chat) -> None:
    async with chat.client("alice") as older, chat.client("alice", node=1) as newer:
        with pytest.raises(SessionReplaced):
            await next_text(older.entries())
        await newer.send(to_user=chat.name("alice"), text="note to myself")
        assert (await next_text(newer.entries())).event.peer == chat.name("alice")


async def test_signing_out_ends_the_device_on_every_node(chat: Chat) -> None:
    async with chat.client("alice") as phone, chat.client("alice", "laptop", node=1) as laptop:
        kinds = {device.device_id: device.online for device in await phone.devices()}
        assert kinds == {"phone": True, "laptop": True}
        await phone.sign_out("laptop")
        with pytest.raises(DeviceRefused):
            await next_text(laptop.entries())
        assert [device.device_id for device in await phone.devices()] == ["phone"]


async def test_a_token_is_renewed_within_the_session(chat: Chat) -> None:
    given: list[str] = []
    renewed = asyncio.Event()

    async def provide() -> str:
        given.append(chat.mesh.token(chat.name("alice"), ttl_seconds=4))
        if len(given) >= 3:
            renewed.set()
        return given[-1]

    async with chat.client("alice", token=provide) as alice:
        assert alice.session is not None
        session_no = alice.session.session_no
        await renewed.wait()
        await alice.send(to_user=chat.name("bob"), text="still here")
        assert alice.session.session_no == session_no, "it never had to open another"


async def test_a_cursor_of_another_history_becomes_a_snapshot(chat: Chat) -> None:
    async with chat.client("alice") as alice:
        await alice.send(to_user=chat.name("bob"), text="one")
    snapshots: asyncio.Queue[Snapshot] = asyncio.Queue()
    store = MemoryStore()
    await store.save_cursor(Cursor(999_999, 7))
    async with chat.client("alice", "tablet", store=store, on_snapshot=snapshots.put) as alice:
        snapshot = await snapshots.get()
        assert [one.peer for one in snapshot.conversations] == [chat.name("bob")]
        last = snapshot.conversations[0].last_message
        assert last is not None
        assert last.text == "one"
        sent = await alice.send(to_user=chat.name("bob"), text="two")
        entry = await next_text(alice.entries())
        assert (entry.timeline_seq, entry.text) == (sent.timeline_seq, "two")


async def test_groups_edits_and_history(chat: Chat) -> None:
    async with chat.client("alice") as alice, chat.client("bob", node=1) as bob:
        group = await alice.create_group("climbing", [chat.name("bob")])
        first = await alice.send(conversation_id=group.conversation_id, text="helo")
        target = first.conversation_seq
        await alice.send(conversation_id=group.conversation_id, content=Edit(target, Text("hello")))
        await bob.send(conversation_id=group.conversation_id, content=Reaction(target, "+1"))
        oops = await alice.send(conversation_id=group.conversation_id, text="oops")
        await alice.send(
            conversation_id=group.conversation_id, content=Delete(oops.conversation_seq)
        )
        page = await bob.history(group.conversation_id)
        assert [event.text for event in page.messages] == ["hello", None]
        members = {one.user_id: one.role for one in await bob.members(group.conversation_id)}
        assert members == {
            chat.name("alice"): MemberRole.OWNER, chat.name("bob"): MemberRole.MEMBER
        }  # fmt: skip
        left = await bob.leave_group(group.conversation_id)
        assert left is not None
        assert isinstance(left.content, Membership)
        with pytest.raises(NotFound):
            await bob.send(conversation_id=group.conversation_id, text="still here?")


async def test_history_is_paged_both_ways(chat: Chat) -> None:
    async with chat.client("alice") as alice:
        for number in range(7):
            await alice.send(to_user=chat.name("bob"), text=f"{number}")
        newest = await alice.history(with_user=chat.name("bob"), limit=3)
        assert ([event.text for event in newest.messages], newest.more) == (["4", "5", "6"], True)
        older = await alice.history(
            newest.messages[0].conversation_id, before=newest.messages[0].conversation_seq, limit=9
        )
        assert ([event.text for event in older.messages], older.more) == (list("0123"), False)
        forward = await alice.history(newest.messages[0].conversation_id, after=0, limit=2)
        assert ([event.text for event in forward.messages], forward.more) == (["0", "1"], True)


async def test_refusals_are_typed(chat: Chat) -> None:
    async with chat.client("alice") as alice, chat.client("bob") as bob:
        with pytest.raises(ContentRefused):
            await alice.send(to_user=chat.name("bob"), text="\x00")
        with pytest.raises(ContentRefused):
            await alice.send(to_user=chat.name("bob"), text="x" * 70_000)
        with pytest.raises(NotFound):
            await alice.send(conversation_id=1, text="x")
        await bob.block(chat.name("alice"))
        with pytest.raises(NotReachable):
            await alice.send(to_user=chat.name("bob"), text="x")
        await bob.unblock(chat.name("alice"))
        await alice.send(to_user=chat.name("bob"), text="y")


async def test_unread_is_told_and_falls_by_reading(chat: Chat) -> None:
    async with chat.client("alice") as alice, chat.client("bob", node=1) as bob:
        events = bob.events()
        sent = await alice.send(to_user=chat.name("bob"), text="hello")
        page = await bob.conversations()
        assert [one.state.unread for one in page.conversations] == [1]
        state = await bob.update_conversation_state(
            sent.conversation_id, read_message_no=sent.message_no, pinned=True
        )
        assert (state.unread, state.pinned) == (0, True)
        async for event in events:
            if isinstance(event, AccountChanged) and event.unread.messages == 0:
                break
        changed, version = await bob.changed_conversations(0)
        assert [one.conversation_id for one in changed] == [sent.conversation_id]
        assert version > 0


async def test_devices_and_push_tokens(chat: Chat) -> None:
    async with chat.client("alice", device_kind=DeviceKind.PHONE, device_name="mine") as alice:
        await alice.register_push_token(PushProvider.LOG, f"token-{chat.suffix}")
        (device,) = await alice.devices()
        assert (device.kind, device.name, device.push_provider) == (
            DeviceKind.PHONE, "mine", PushProvider.LOG
        )  # fmt: skip
        await alice.unregister_push_token()
        (device,) = await alice.devices()
        assert device.push_provider is PushProvider.NONE


async def test_do_not_disturb_is_seen_by_contacts(chat: Chat) -> None:
    async with chat.client("alice") as alice, chat.client("bob") as bob:
        await alice.send(to_user=chat.name("bob"), text="we are contacts now")
        presence = bob.presence()
        alice.set_presence(PresenceState.DO_NOT_DISTURB, status_text="in a meeting")
        async for friend in presence:
            if friend.state is PresenceState.DO_NOT_DISTURB:
                assert friend.status_text == "in a meeting"
                break


async def test_a_bad_token_is_told_at_once_and_every_time(chat: Chat) -> None:
    for token in ("no.to.ken", "opaque", chat.mesh.token("x", ttl_seconds=-10)):
        for _ in range(5):
            with pytest.raises(AuthenticationFailed):
                async with chat.client("alice", token=token):
                    pass


async def test_clients_of_many_users_share_a_process(chat: Chat) -> None:
    """50 users in a ring, each sends to the next: everyone hears exactly one message."""
    users = [f"user{number}" for number in range(50)]

    async def one(number: int, ready: asyncio.Barrier) -> str | None:
        async with chat.client(users[number], node=number % 2) as client:
            await ready.wait()
            await client.send(to_user=chat.name(users[(number + 1) % 50]), text=f"{number}")
            async for entry in client.entries():
                if entry.event.sender != client.user_id:
                    await ready.wait()
                    return entry.text
        return None

    ready = asyncio.Barrier(len(users))
    heard = await asyncio.gather(*(one(number, ready) for number in range(50)))
    assert heard == [f"{(number - 1) % 50}" for number in range(50)]


async def test_answers_that_are_cut_off_repeat_nothing(
    chat: Chat, running_mesh: RunningMesh
) -> None:
    """1,000 sends while the answering half of the link is cut again and again."""
    async with (
        TcpProxy(chat.mesh.public[0]) as proxy,
        Client(proxy.address, token=chat.mesh.token(chat.name("alice"))) as alice,
        chat.client("bob", node=1) as bob,
    ):
        heard: list[str] = []
        cuts = 0

        async def listen() -> None:
            nonlocal cuts
            async for entry in bob.entries():
                if entry.text is not None:
                    heard.append(entry.text)
                    if len(heard) % 25 == 0 and len(heard) < 1000:
                        proxy.cut_after("down", 40)
                        cuts += 1
                    if len(heard) == 1000:
                        return

        listening = asyncio.create_task(listen())
        texts = [f"{number}" for number in range(1000)]
        sent = [await one for one in _in_tens(alice, chat.name("bob"), texts)]
        await listening
        assert len({one.message_id for one in sent}) == 1000
        assert heard == texts, "in the first order, each once"
        assert cuts == 39
        assert proxy.connections > 10
        page = await bob.conversation(with_user=chat.name("alice"))
        assert page.last_message_no == 1000


def _in_tens(alice: Client, to: str, texts: list[str]) -> list[asyncio.Task[Sent]]:
    """Sends that begin in order, at most ten without an answer."""
    gate = asyncio.Semaphore(10)

    async def one(text: str, before: asyncio.Event, after: asyncio.Event) -> Sent:
        await before.wait()
        async with gate:
            sending = asyncio.ensure_future(alice.send(to_user=to, text=text))
            await asyncio.sleep(0)  # it is offered
            after.set()
            return await sending

    events = [asyncio.Event() for _ in range(len(texts) + 1)]
    events[0].set()
    return [
        asyncio.create_task(one(text, events[number], events[number + 1]))
        for number, text in enumerate(texts)
    ]
