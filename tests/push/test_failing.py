"""Providers that fail, answers that are lost, kill -9 at each step.

No job is lost, and none is shown twice.
"""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from chatmesh.mesh.v1 import push_pb2 as pb
from chatmesh.testing import TcpProxy
from tests.push import hooks
from tests.push.conftest import Start
from tests.push.hooks import BackEnd
from tests.push.mesh import (
    ALICE,
    WEBHOOK,
    Caller,
    ChatNode,
    hooked,
    no_jobs_left,
    until,
)
from tests.runtime import stores


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
    "failpoint",
    [
        "push.commit.before",
        "push.commit.after",
        "push.claim.after",
        "push.sent.after",
        "push.record.before",
        "push.record.after",
    ],
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
        # the first passes each point once, alone; with the others comes the second passage, and the
        # stream says again what was not answered
        await caller.push(accounts[0], 1)
        await caller.wait_for(accounts[0], "sent")
        calls = [asyncio.create_task(caller.push(account, 1)) for account in accounts[1:]]
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
    assert len(back_end.requests) == 2


async def test_a_back_end_that_resets_after_it_took_one_shows_it_once(
    start: Start, chat: ChatNode, back_end: BackEnd
) -> None:
    async with TcpProxy(f"127.0.0.1:{back_end.port}") as proxy:

        def reset_the_first(request: hooks.Request) -> tuple[int, bytes]:
            if len(back_end.requests) == 1:
                proxy.cut_all()
            return 200, b"ok"

        back_end.judge = reset_the_first
        push = start(**hooked(back_end))
        await push.wait_ready()
        async with Caller(push) as caller:
            url = f"https://{hooks.HOST}:{proxy.port}/hook"
            await caller.put_token(ALICE, token=url, provider=WEBHOOK)
            chat.device(ALICE).notify = 1
            await caller.push(ALICE, 1)
            await caller.wait_for(ALICE, "sent")
            (record,) = [one for one in await caller.records(ALICE) if one.outcome == "retrying"]
            assert record.visible
        assert len(back_end.requests) == 2
        assert len({one.headers["webhook-id"] for one in back_end.requests}) == 1
