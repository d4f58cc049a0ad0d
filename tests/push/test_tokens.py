"""Tokens: moved, listed without themselves, refused when they are none."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from chatmesh.mesh.v1 import push_pb2 as pb
from chatmesh.v1 import devices_pb2
from tests.push.conftest import Start
from tests.push.hooks import BackEnd
from tests.push.mesh import (
    ALICE,
    BOB,
    CAROL,
    WEBHOOK,
    Caller,
    ChatNode,
    hooked,
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
