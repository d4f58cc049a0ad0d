"""Commands cost no task each, and bursts answer in order, refusals included."""

from __future__ import annotations

import asyncio
import signal

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from chatmesh.runtime import redis as runtime_redis
from chatmesh.runtime.tally import TALLY, counting_task_factory
from tests.runtime import stores


async def test_commands_and_bursts_make_no_tasks(valkey: stores.Store) -> None:
    client = runtime_redis.client(valkey.url)
    assert isinstance(client, Redis)
    loop = asyncio.get_running_loop()
    try:
        await client.ping()
        loop.set_task_factory(counting_task_factory)
        before = TALLY.tasks
        for number in range(20):
            await client.xadd("tasks", {"n": number})
        await client.xread({"tasks": "0"}, block=10)
        await runtime_redis.burst(client, [("PING",), ("XLEN", "tasks")])
        assert TALLY.tasks == before
    finally:
        loop.set_task_factory(None)
        await client.aclose()


async def test_a_burst_answers_in_order_with_refusals_among_them(valkey: stores.Store) -> None:
    client = runtime_redis.client(valkey.url)
    assert isinstance(client, Redis)
    try:
        await client.delete("number", "text")
        answers = await runtime_redis.burst(
            client,
            [("SET", "text", b"x"), ("INCR", "text"), ("INCRBY", "number", 7), ("GET", "text")],
        )
        assert answers[0] is True  # as the library's own method answers
        assert isinstance(answers[1], ResponseError)
        assert answers[2:] == [7, b"x"]
        assert await client.get("number") == b"7"  # the next command gets its own answer
    finally:
        await client.aclose()


async def test_a_burst_that_times_out_drops_its_connection(valkey: stores.Store) -> None:
    client = runtime_redis.client(valkey.url, timeout_seconds=0.2)
    assert isinstance(client, Redis)
    try:
        await client.set("late", 1)
        valkey.signal(signal.SIGSTOP)
        try:
            with pytest.raises((RedisError, TimeoutError)):
                await runtime_redis.burst(client, [("GET", "late"), ("GET", "late")])
        finally:
            valkey.signal(signal.SIGCONT)
        assert await client.ping()  # and not one of the late answers
    finally:
        await client.aclose()
