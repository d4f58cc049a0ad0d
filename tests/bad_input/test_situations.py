"""Every situation of tests/bad_input.toml against a real mesh: refused, and nothing changed."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import grpc
import psycopg
import pytest

from chatmesh.embedded.running import RunningMesh
from chatmesh.v1 import session_pb2
from tests.bad_input.people import Friends
from tests.bad_input.situations import SITUATIONS, Scene
from tests.bad_input.table import Row, rows
from tests.raw import RawSession, end_of

pytestmark = pytest.mark.mesh
STATUS = {code.value[0]: code.name for code in grpc.StatusCode}
_numbers = itertools.count(1)

_STATE = """
SELECT coalesce(sum(h.seq), 0), coalesce(sum(h.account_version), 0),
  (SELECT coalesce(sum(c.last_conversation_seq), 0) FROM chat.conversation c
    JOIN chat.member m ON m.conversation = c.id WHERE m.account = ANY (%(accounts)s)),
  (SELECT count(*) FROM chat.member m WHERE m.account = ANY (%(accounts)s) AND NOT m.gone),
  (SELECT count(*) FROM chat.event e WHERE e.sender = ANY (%(accounts)s)),
  (SELECT count(*) FROM chat.hidden d WHERE d.account = ANY (%(accounts)s))
FROM chat.timeline_head h WHERE h.account = ANY (%(accounts)s)
"""


@pytest.fixture
async def scene(running_mesh: RunningMesh, channels: list[grpc.aio.Channel]) -> Scene:
    number = next(_numbers)
    names = [f"{who}-{number}" for who in ("wrong", "right", "third")]
    for name in names:
        async with RawSession(channels[0], running_mesh.token(name)) as session:
            await session.hello()
    return Scene(running_mesh, channels[0], *names)


async def state(scene: Scene) -> tuple[int, ...]:
    """Everything of the three that a refused call must leave as it was."""
    async with await psycopg.AsyncConnection.connect(scene.mesh.owner_url()) as connection:
        cursor = await connection.execute(
            "SELECT array_agg(id) FROM chat.account WHERE external_id = ANY (%s)",
            ([scene.me, scene.other, scene.third],),
        )
        (accounts,) = await cursor.fetchone() or (None,)
        assert len(accounts) == 3
        cursor = await connection.execute(_STATE, {"accounts": accounts})
        found = await cursor.fetchone()
        assert found is not None
        return tuple(int(value) for value in found)


async def refusal(wrong: Callable[[], Awaitable[object]]) -> tuple[str, str]:
    """Status and reason of what it does."""
    try:
        result = await wrong()
    except grpc.aio.AioRpcError as error:
        end = end_of(error)
        return end.status, end.reason
    assert isinstance(result, session_pb2.SendResult), "it was let through"
    assert {field.name for field, _ in result.ListFields()} <= {"idempotency_key", "problem"}
    return STATUS[result.problem.code], result.problem.reason


@pytest.mark.parametrize("row", rows("situation"), ids=lambda row: row.input)
async def test_a_situation_is_refused_and_changes_nothing(
    row: Row, scene: Scene, friends: Friends
) -> None:
    wrong = await SITUATIONS[row.input](scene)
    before = await state(scene)
    assert await refusal(wrong) == (row.status, row.reason)
    assert await state(scene) == before
    await friends.talk()


def test_every_situation_is_in_the_table() -> None:
    assert [row.input for row in rows("situation")] == list(SITUATIONS)
