"""push_svc as a process: starts alone, stops cleanly, shares work, tells what is set wrong."""

from __future__ import annotations

import asyncio
import signal

import grpc
import pytest

from chatmesh.runtime import migrate
from tests.push.conftest import Start
from tests.push.hooks import BackEnd
from tests.push.mesh import (
    ALICE,
    WEBHOOK,
    Caller,
    ChatNode,
    Push,
    hooked,
    jobs_left,
    no_jobs_left,
    until,
)
from tests.runtime import stores


async def test_starts_without_postgres_and_without_schema_and_recovers(chat: ChatNode) -> None:
    with stores.postgres() as own:
        own.stop()
        push = Push(own.url, chat.address)
        try:
            await push.wait_ready(False)
            async with Caller(push) as caller:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await caller.put_token(ALICE)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "postgres" in (refused.value.details() or "")
                await asyncio.to_thread(own.start)
                await asyncio.to_thread(migrate.apply, own.url, "push_svc", "pre")
                await push.wait_ready()
                await caller.put_token(ALICE)
                chat.device(ALICE).notify = 5
                await caller.push(ALICE, 5)
                await caller.wait_for(ALICE, "sent")
        finally:
            await push.end()


async def test_without_a_chat_node_jobs_are_kept_and_taken(
    start: Start, chat: ChatNode, empty: stores.Store
) -> None:
    await chat.stop()
    push = start()
    await push.wait_ready()
    async with Caller(push) as caller:
        await caller.put_token(ALICE)
        chat.device(ALICE).notify = 5
        assert (await caller.push(ALICE, 5)).jobs == 1
        await until(lambda: "no chat node answers" in push.log())
        assert await asyncio.to_thread(jobs_left, empty) == 1
        await chat.start()
        await caller.wait_for(ALICE, "sent")


async def test_two_replicas_share_the_work(
    start: Start, chat: ChatNode, back_end: BackEnd, empty: stores.Store
) -> None:
    first, second = start(**hooked(back_end)), start(**hooked(back_end))
    await first.wait_ready()
    await second.wait_ready()
    accounts = range(1, 61)
    async with Caller(first) as one, Caller(second, "sync_svc") as other:
        for account in accounts:
            await one.put_token(account, token=back_end.url(f"/{account}"), provider=WEBHOOK)
            chat.device(account).notify = 1
        await asyncio.gather(
            *(caller.push(account, 1) for account in accounts for caller in (one, other))
        )
        await no_jobs_left(empty)
    assert sorted(one.path for one in back_end.requests) == sorted(
        f"/{account}" for account in accounts
    )


async def test_stops_cleanly_with_open_streams(start: Start, chat: ChatNode) -> None:
    push = start()
    await push.wait_ready()
    async with Caller(push) as caller:
        await caller.put_token(ALICE)
        await caller.push(ALICE, 1, delay_ms=60_000)
        began = asyncio.get_running_loop().time()
        push.process.send_signal(signal.SIGTERM)
        assert await push.wait_end() == 0
        print(f"stopped in {asyncio.get_running_loop().time() - began:.2f} s")
    assert "Traceback" not in push.log()


async def test_bad_settings_are_told(start: Start) -> None:
    push = start(
        push_webhook_secrets='["short"]',
        push_webhook_networks='["nonsense"]',
        push_claim_seconds="1",
    )
    assert await push.wait_end() == 2
    log = push.log()
    assert "at least 32 bytes" in log
    assert "CHATMESH_PUSH_WEBHOOK_NETWORKS" in log
    unconfigured = start(push_providers='["webhook"]')
    assert await unconfigured.wait_end() == 1
    assert "webhook, which is not configured" in unconfigured.log()
    keys = start(push_vapid_key="?", push_vapid_subject="mailto:ops@example.com")
    assert await keys.wait_end() == 1
    assert "CHATMESH_PUSH_VAPID_KEY" in keys.log()
    halves = start(push_vapid_key="?", push_apns_key="?", push_apns_url="http://plain")
    assert await halves.wait_end() == 2
    assert "CHATMESH_PUSH_APNS_URL" in halves.log()
