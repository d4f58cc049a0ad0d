"""Random histories on PostgreSQL against the pure model; and functions broken on purpose, found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat_svc.store.commit import CommitStatus
from tests.chat_store.model import check
from tests.chat_store.world import World

HISTORIES_TO_FIND = 40
"""A broken function must be found within so many histories."""


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(random=st.randoms(use_true_random=False), steps=st.integers(1, 12), most=st.integers(1, 8))
async def test_histories_match_the_model(
    world: World, random: Random, steps: int, most: int
) -> None:
    await check(world, random, steps=steps, most=most)


async def test_long_histories_hold_every_kind_of_step_and_answer(world: World) -> None:
    seen: dict[str, int] = {}
    for seed in range(6):
        counts = await check(world, Random(seed), steps=60, most=12)
        for what, count in counts.items():
            seen[what] = seen.get(what, 0) + count
    print(seen)
    rare = {"STALE", "EDIT_WINDOW_OVER", "TOO_MANY_REACTIONS"}
    wanted = {status.name for status in CommitStatus} - rare
    assert wanted | {"batch", "batch of one", "BLOCK", "UNBLOCK", "membership"} <= set(seen)


async def release(world: World, holder: psycopg.AsyncConnection[Any]) -> None:
    """Commit the holder's transaction once some session waits for its lock."""
    waiting: list[Any] = []
    while not waiting:
        waiting = await world.ask(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
    await holder.commit()


async def block_between(world: World, batch: int) -> CommitStatus:
    """The recipient's block is committed while the send waits for the recipient's head."""
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    async with await psycopg.AsyncConnection.connect(world.url) as blocker:
        await blocker.execute(
            "UPDATE chat.timeline_head SET blocks = blocks + 1 WHERE account = %s", (two.id,)
        )
        await blocker.execute("INSERT INTO chat.block VALUES (%s, %s, 0)", (two.id, one.id))
        rows = [world.row(one, conversation) for _ in range(batch)]
        outcomes, _ = await asyncio.gather(world.commit(*rows), release(world, blocker))
        return outcomes[0].status


async def removal_between(world: World, batch: int) -> CommitStatus:
    """The sender is removed while the send waits for the conversation."""
    owner, one = await world.users(2)
    conversation = await world.group(owner, one)
    async with await psycopg.AsyncConnection.connect(world.url) as remover:
        await remover.execute(
            "UPDATE chat.conversation SET govern_version = 9 WHERE id = %s", (conversation,)
        )
        await remover.execute(
            "UPDATE chat.member SET gone = true WHERE conversation = %s AND account = %s",
            (conversation, one.id),
        )
        rows = [world.row(one, conversation) for _ in range(batch)]
        outcomes, _ = await asyncio.gather(world.commit(*rows), release(world, remover))
        return outcomes[0].status


@pytest.mark.parametrize("batch", [1, 2])
async def test_what_happens_while_a_lock_is_waited_for_counts(world: World, batch: int) -> None:
    assert await block_between(world, batch) == CommitStatus.NOT_REACHABLE
    assert await removal_between(world, batch) == CommitStatus.NOT_A_MEMBER


async def histories_differ(world: World) -> bool:
    """Whether the model finds something."""
    for seed in range(HISTORIES_TO_FIND):
        try:
            await check(world, Random(seed), steps=10, most=6)
        except (AssertionError, psycopg.Error):
            return True
    return False


async def block_is_missed(world: World) -> bool:
    """Whether a block that came in time is not seen."""
    return await block_between(world, 2) != CommitStatus.NOT_REACHABLE


def replaced(old: str, new: str) -> Callable[[str], str]:
    """A change of the function's text that really changes it."""

    def change(source: str) -> str:
        assert old in source
        return source.replace(old, new)

    return change


def checks_first(source: str) -> str:
    """The checks in front of the locks."""
    start, rest = source.split("  -- locks\n")
    locks, rest = rest.split("  -- checks\n")
    checks, rest = rest.split("  -- numbers and writes\n")
    moved = "  v_now_ms := chat.now_ms();\n  v_low_key := (SELECT k FROM unnest(p_key) k ORDER BY"
    moved += (
        " k LIMIT 1);\n  v_high_key := (SELECT k FROM unnest(p_key) k ORDER BY k DESC LIMIT 1);\n"
    )
    return start + moved + checks + locks + rest


BROKEN: dict[str, tuple[Callable[[str], str], Callable[[World], Awaitable[bool]]]] = {
    "a conversation_seq is skipped": (
        replaced("row_number() OVER w AS seq", "row_number() OVER w + (t.n = 3)::integer AS seq"),
        histories_differ,
    ),
    "a timeline_seq is repeated across batches": (
        replaced("h SET seq = x.seq", "h SET seq = x.seq - (mod(x.seq, 7) = 0)::integer"),
        histories_differ,
    ),
    "an earlier key is ignored": (
        replaced("WHEN k.sender IS NOT NULL THEN", "WHEN k.message_id = -1 THEN"),
        histories_differ,
    ),
    "other content under a key is accepted": (
        replaced("THEN 2 ELSE 1 END", "THEN 1 ELSE 1 END"),
        histories_differ,
    ),
    "those who left still write": (
        replaced("AND m.account = t.sender\n      AND NOT m.gone", "AND m.account = t.sender"),
        histories_differ,
    ),
    "those who left still receive": (
        replaced("= m.conversation AND NOT a.gone", "= m.conversation"),
        histories_differ,
    ),
    "a silent message is not counted": (
        replaced("sum(t.flags & 1) OVER w", "sum((t.flags & 3) / 3) OVER w"),
        histories_differ,
    ),
    "the order of a batch is lost": (
        replaced("BY t.conversation ORDER BY t.n", "BY t.conversation ORDER BY t.n DESC"),
        histories_differ,
    ),
    "blocks work one way only": (
        replaced("OR b.owner = o.account AND b.blocked = t.sender", ""),
        histories_differ,
    ),
    "checks come before the locks": (checks_first, block_is_missed),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(BROKEN))
async def test_a_function_broken_on_purpose_is_found(spoiled: World, fault: str) -> None:
    change, finds = BROKEN[fault]
    ((source,),) = await spoiled.ask("SELECT pg_get_functiondef('chat.commit_1'::regproc)")
    try:
        await spoiled.ask(change(source))
        assert await finds(spoiled)
    finally:
        await spoiled.ask(source)
