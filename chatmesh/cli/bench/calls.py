"""Unary calls of the public API that a load needs before it begins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from chatmesh.cli.bench.h2 import connect
from chatmesh.cli.bench.loaders import RunFailed
from chatmesh.cli.bench.payload import KeySource
from chatmesh.cli.bench.plan import ImpossibleLoad
from chatmesh.v1 import conversations_pb2

CREATE_PATH: Final = "/chatmesh.v1.ConversationService/CreateConversation"
PATIENCE_SECONDS: Final = 60
_REFUSALS: Final = frozenset((3, 8, 9))
"""INVALID_ARGUMENT, RESOURCE_EXHAUSTED, FAILED_PRECONDITION: not made here."""


async def create_group(target: str, token: str, title: str, members: Sequence[str]) -> int:
    """Make a group of the caller and these users; its conversation id.

    Raises ImpossibleLoad when the mesh refuses it, RunFailed when there is no answer.
    """
    request = conversations_pb2.CreateConversationRequest(
        idempotency_key=KeySource().next(time.time_ns() // 1_000_000),
        title=title,
        member_user_ids=members,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            connection = await connect(target)
            try:
                answers, ended = await connection.call(
                    CREATE_PATH,
                    [("authorization", f"Bearer {token}")],
                    [request.SerializeToString()],
                )
            finally:
                connection.close()
    except TimeoutError:
        raise RunFailed(f"{target} made no group within {PATIENCE_SECONDS} s") from None
    if ended.code:
        failure = ImpossibleLoad if ended.code in _REFUSALS else RunFailed
        raise failure(
            f"no group of {len(members) + 1} members: gRPC status {ended.code} {ended.message}"
        )
    made = conversations_pb2.CreateConversationResponse.FromString(answers[0])
    return made.conversation.conversation_id
