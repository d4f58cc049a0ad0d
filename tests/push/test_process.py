"""Real processes: starts alone, tells once, waits, cancels, and loses no job to kill -9."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from chatmesh.mesh.v1 import push_pb2 as pb
from chatmesh.runtime import migrate
from chatmesh.v1 import devices_pb2
from tests.push import hooks
from tests.push.hooks import BackEnd
from tests.push.mesh import LOG, PATIENCE_SECONDS, WEBHOOK, Caller, ChatNode, Push, until
from tests.runtime import stores

ALICE, BOB, CAROL = 101, 202, 303
SECRET = "s" * 32

Start = Callable[..., Push]


@pytest.fixture
async def chat() -> AsyncIterator[ChatNode]:
    """A recording chat node."""
    node = ChatNode()
    await node.start()
    yield node
    await node.stop()


@pytest.fixture
async def start(empty: stores.Store, chat: ChatNode) -> AsyncIterator[Start]:
    """Starts replicas that end with the test."""
    started: list[Push] = []

    def one(url: str = "", target: str = "", **settings: str) -> Push:
        made = Push(url or empty.url, target or chat.address, **settings)
        started.append(made)
        return made

    yield one
    for push in started:
        await push.end()


@pytest.fixture
async def back_end(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with hooks.back_end(tmp_path) as made:
        yield made


def hooked(back_end: BackEnd, **settings: str) -> dict[str, str]:
    """Settings that allow webhooks to the local back end."""
    return {
        "push_webhook_secrets": json.dumps([SECRET]),
        "push_webhook_networks": json.dumps(["127.0.0.0/8"]),
        "push_extra_ca": str(back_end.ca),
        **settings,
    }


def jobs_left(store: stores.Store) -> int:
    """Rows of push_job."""
    with psycopg.connect(store.url) as connection:
        row = connection.execute("SELECT count(*) FROM push.push_job").fetchone()
        assert row is not None
        return int(row[0])


async def no_jobs_left(store: stores.Store) -> None:
    """Wait until every job has ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await asyncio.to_thread(jobs_left, store):  # noqa: ASYNC110 - another process's rows
            await asyncio.sleep(0.05)


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


async def test_a_token_that_is_gone_is_removed_and_the_chat_node_told(
    start: Start, chat: ChatNode, back_end: BackEnd, empty: stores.Store
) -> None:
    back_end.answers = [(410, {})]
    push = start(**hooked(back_end))
    await push.wait_ready()
    async with Caller(push) as caller:
        await caller.put_token(ALICE, token=back_end.url(), provider=WEBHOOK)
        assert (await caller.put_token(ALICE, "tablet")).push_devices == 2
        chat.device(ALICE).notify = 1
        await caller.push(ALICE, 1, device_ids=["phone"])
        await no_jobs_left(empty)
        await until(lambda: chat.counts.get(ALICE) == 1)
        chat.device(ALICE, "tablet").exists = False
        await caller.push(ALICE, 1)
        await until(lambda: chat.counts.get(ALICE) == 0)


async def test_failures_are_retried_and_refusals_become_dead_letters(
    start: Start, chat: ChatNode, back_end: BackEnd
) -> None:
    back_end.answers = [(500, {}), (429, {"retry-after": "1"}), (hooks.HANG, {}), (200, {})]
    push = start(**hooked(back_end))
    await push.wait_ready()
    async with Caller(push) as caller:
        await caller.put_token(ALICE, token=back_end.url(), provider=WEBHOOK)
        chat.device(ALICE).notify = 1
        await caller.push(ALICE, 1)
        requests = await back_end.wait_for(4)
        assert len({one.headers["webhook-id"] for one in requests}) == 1
        await caller.wait_for(ALICE, "sent")
        assert len(await caller.wait_for(ALICE, "retrying", count=3)) == 3
        back_end.answers = [(400, {})]
        chat.device(ALICE).notify = 2
        await caller.push(ALICE, 2)
        await caller.wait_for(ALICE, "failed")
        cli = Caller(push, "cli")
        listed = await cli.stub.ListDeadLetters(pb.ListDeadLettersRequest(), metadata=cli.metadata)
        (letter,) = listed.letters
        assert (letter.origin, letter.account_id, letter.timeline_seq) == ("push", ALICE, 2)
        assert letter.reason == "refused: HTTP 400"
        assert list(pb.PushTarget.FromString(letter.payload).device_ids) == ["phone"]
        retried = await cli.stub.RetryDeadLetters(
            pb.RetryDeadLettersRequest(), metadata=cli.metadata
        )
        assert retried.retried == 1
        await caller.wait_for(ALICE, "sent", count=2)


@pytest.mark.parametrize(
    "failpoint", ["push.commit.before", "push.commit.after", "push.claim.after", "push.sent.after"]
)
async def test_kill_at_each_step_loses_no_job_and_shows_nothing_twice(
    start: Start, chat: ChatNode, back_end: BackEnd, empty: stores.Store, failpoint: str
) -> None:
    push = start(**hooked(back_end), failpoints=f"{failpoint}:kill@2")
    await push.wait_ready()
    accounts = range(1, 13)
    async with Caller(push) as caller:
        for account in accounts:
            await caller.put_token(account, token=back_end.url(f"/{account}"), provider=WEBHOOK)
            chat.device(account).notify = 1
        # one after the other, so that the second passage of each point comes; the stream says
        # again what was not answered
        calls = []
        for account in accounts:
            calls.append(asyncio.create_task(caller.push(account, 1)))
            await asyncio.sleep(0.02)
        assert await push.wait_end() == -signal.SIGKILL
        push.start(failpoints="")
        await push.wait_ready()
        for call in calls:
            await call
        await no_jobs_left(empty)
    shown: dict[str, set[str]] = {}
    for request in back_end.requests:
        shown.setdefault(request.path, set()).add(request.headers["webhook-id"])
    assert set(shown) == {f"/{account}" for account in accounts}, "never neither"
    assert all(len(ids) == 1 for ids in shown.values()), "one id each: shown once"
    repeated = len(back_end.requests) - len(accounts)
    print(f"{failpoint}: {repeated} requests repeated under the same id")


async def test_a_request_whose_answer_is_lost_is_repeated_under_its_id(
    start: Start, chat: ChatNode, back_end: BackEnd
) -> None:
    """The back end took it, the answer never came, and meanwhile more has arrived."""
    back_end.answers = [(hooks.HANG, {})]
    push = start(**hooked(back_end))
    await push.wait_ready()
    async with Caller(push) as caller:
        await caller.put_token(ALICE, token=back_end.url(), provider=WEBHOOK)
        chat.device(ALICE).notify = 1
        await caller.push(ALICE, 1)
        await back_end.wait_for(1)
        chat.device(ALICE).notify = 2
        await caller.push(ALICE, 2)
        first, second = (await back_end.wait_for(2))[:2]
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert json.loads(second.body)["data"]["count"] == "2"
        await caller.wait_for(ALICE, "sent")
    await asyncio.sleep(0)
    assert len(back_end.requests) == 2


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


async def test_tokens_move_and_are_listed_without_themselves(start: Start, chat: ChatNode) -> None:
    push = start()
    await push.wait_ready()
    async with Caller(push) as caller:
        await caller.put_token(ALICE, token="T", locale="de-AT", app="demo")
        listed = await caller.stub.ListTokens(
            pb.ListTokensRequest(account_id=ALICE), metadata=caller.metadata
        )
        (token,) = listed.tokens
        assert (token.device_id, token.token, token.locale) == ("phone", "", "de-AT")
        moved = await caller.put_token(BOB, "bobs", token="T")
        assert (moved.moved_from_account_id, moved.moved_from_push_devices) == (ALICE, 0)
        left = await caller.stub.DeleteTokens(
            pb.DeleteTokensRequest(account_id=BOB), metadata=caller.metadata
        )
        assert left.push_devices == 0


async def test_bad_input(start: Start, chat: ChatNode, back_end: BackEnd) -> None:
    push = start(**hooked(back_end, push_webhook_networks="[]"))
    await push.wait_ready()
    async with Caller(push) as caller:
        for fields, reason in (
            ({"provider": devices_pb2.PUSH_PROVIDER_FCM}, "provider"),
            ({"provider": devices_pb2.PUSH_PROVIDER_UNSPECIFIED}, "provider"),
            ({"provider": 99}, "provider"),
            ({"provider": WEBHOOK, "token": back_end.url()}, "public"),
            ({"provider": WEBHOOK, "token": "https://[::ffff:127.0.0.1]/"}, "public"),
            ({"provider": WEBHOOK, "token": "http://example.com/"}, "https"),
            ({"token": "x" * 4_097}, "4096 bytes"),
            ({"app": "x" * 256}, "255"),
            ({"locale": "not a tag"}, "BCP 47"),
            ({"device_id": "a b"}, "device_id"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await caller.put_token(ALICE, **fields)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, fields
            assert reason in (refused.value.details() or ""), fields
        for target in (
            pb.PushTarget(account_id=0, timeline_seq=1),
            pb.PushTarget(account_id=1, timeline_seq=0),
            pb.PushTarget(account_id=1 << 63, timeline_seq=1),
            pb.PushTarget(account_id=1, timeline_seq=1, delay_ms=-1),
            pb.PushTarget(account_id=1, timeline_seq=1, device_ids=["a,b"]),
        ):
            call: Any = caller.stub.Push(metadata=caller.metadata)
            await call.write(pb.PushRequest(request_id=1, targets=[target]))
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await call.read()
            assert ended.value.code() is grpc.StatusCode.INVALID_ARGUMENT, target
        assert (await caller.push(CAROL, 1)).jobs == 0, "other streams are untouched"
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await Caller(push, "presence_svc").put_token(ALICE)
        assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_log_provider_is_for_embedded_meshes(start: Start) -> None:
    push = start(embedded="false")
    await push.wait_ready()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await Caller(push).put_token(ALICE)
    assert "not configured here" in (refused.value.details() or "")


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
