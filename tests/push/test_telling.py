"""Who is told, what, and when not: real processes, a recording chat node."""

from __future__ import annotations

import asyncio
import json

from chatmesh.v1 import devices_pb2
from tests.push.conftest import Start
from tests.push.hooks import BackEnd
from tests.push.mesh import (
    ALICE,
    BOB,
    CAROL,
    LOG,
    WEBHOOK,
    Caller,
    ChatNode,
    hooked,
    jobs_left,
)
from tests.runtime import stores


async def test_an_offline_device_is_told_once(start: Start, chat: ChatNode) -> None:
    push = start()
    await push.wait_ready()
    async with Caller(push) as caller:
        assert (await caller.put_token(ALICE)).push_devices == 1
        chat.device(ALICE).notify = 5
        assert (await caller.push(ALICE, 5, message_id=50)).jobs == 1
        (record,) = await caller.wait_for(ALICE, "sent")
        assert (record.title, record.visible, record.message_id) == ("bob", True, 50)
        assert record.body == "5 new messages", "more than three are a number"
        assert record.provider == LOG
        assert (await caller.push(ALICE, 5)).jobs == 0, "it was told"
        chat.device(ALICE).notify = 6
        assert (await caller.push(ALICE, 6)).jobs == 1
        newest, _ = await caller.wait_for(ALICE, "sent", count=2)
        assert newest.body == "hello 6"
    assert "hello 6" in push.log()


async def test_privacy_is_the_devices_or_the_deployments(
    start: Start, chat: ChatNode, back_end: BackEnd
) -> None:
    push = start(**hooked(back_end))
    await push.wait_ready()
    chat.devices.clear()
    async with Caller(push) as caller:
        await caller.put_token(ALICE, token=back_end.url("/a"), provider=WEBHOOK)
        await caller.put_token(
            BOB,
            token=back_end.url("/b"),
            provider=WEBHOOK,
            privacy=devices_pb2.PUSH_PRIVACY_FULL,
        )
        chat.device(ALICE).notify = chat.device(BOB).notify = 1
        await caller.push(ALICE, 1)
        await caller.push(BOB, 1)
        requests = {one.path: json.loads(one.body) for one in await back_end.wait_for(2)}
        assert requests["/a"]["title"] == ""
        assert requests["/a"]["body"] == "New message"
        assert (requests["/b"]["title"], requests["/b"]["body"]) == ("bob", "hello 1")
        (record,) = await caller.wait_for(BOB, "sent")
        assert (record.title, record.body) == ("", ""), "texts are kept for provider log only"


async def test_what_is_acked_or_read_is_not_told(
    start: Start, chat: ChatNode, empty: stores.Store
) -> None:
    push = start()
    await push.wait_ready()
    async with Caller(push) as caller:
        for account in (ALICE, BOB, CAROL):
            await caller.put_token(account)
            chat.device(account).notify = 5
        await caller.push(ALICE, 5, delay_ms=60_000)
        await caller.push(BOB, 5, delay_ms=60_000)
        await caller.cancel(ALICE, "phone", 5)
        await caller.cancel(BOB, "", 5)
        assert await asyncio.to_thread(jobs_left, empty) == 0
        chat.device(CAROL).acked = 5
        await caller.push(CAROL, 5)
        await caller.wait_for(CAROL, "void")
        for account in (ALICE, BOB, CAROL):
            assert not [one for one in await caller.records(account) if one.outcome == "sent"]


async def test_reading_elsewhere_takes_the_notification_away(start: Start, chat: ChatNode) -> None:
    push = start()
    await push.wait_ready()
    async with Caller(push) as caller:
        await caller.put_token(ALICE)
        device = chat.device(ALICE)
        device.notify = 2
        await caller.push(ALICE, 2)
        await caller.wait_for(ALICE, "sent")
        device.acked = 2
        await caller.cancel(ALICE, "", 2)
        newest, _ = await caller.wait_for(ALICE, "sent", count=2)
        assert not newest.visible
    assert '"read_up_to_timeline_seq": "2"' in push.log()


async def test_an_active_device_is_given_time(start: Start, chat: ChatNode) -> None:
    push = start(push_active_delay_seconds="2")
    await push.wait_ready()
    async with Caller(push) as caller:
        await caller.put_token(ALICE)
        device = chat.device(ALICE)
        device.notify, device.other_active = 1, True
        await caller.push(ALICE, 1)
        await caller.wait_for(ALICE, "sent")
        times = [asked for asked in chat.asked if (ALICE, "phone") in asked]
        assert len(times) >= 2, "it was asked, put off, and asked again"
