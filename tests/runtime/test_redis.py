"""Redis against a real Valkey: no repeats, no eviction, no answer for another's command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import RedisError

from chatmesh.runtime import redis as runtime_redis
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.readiness import Component, Readiness
from tests.runtime import stores


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Any]:
    made = runtime_redis.client(url, **options)
    try:
        yield made
    finally:
        await made.aclose()


async def test_a_command_that_times_out_is_not_repeated(valkey: stores.Store) -> None:
    async with (
        connected(valkey.url, timeout_seconds=0.2) as client,
        connected(valkey.url) as other,
    ):
        await other.delete("s")
        await other.xadd("s", {"n": 0})
        await client.ping()
        await other.execute_command("CLIENT", "PAUSE", "700", "WRITE")
        with pytest.raises((RedisError, TimeoutError)):
            await client.xadd("s", {"n": 1})
        await other.execute_command("CLIENT", "UNPAUSE")
        assert await other.xlen("s") <= 2, "one XADD made two entries"


async def test_a_cancelled_command_does_not_answer_the_next(valkey: stores.Store) -> None:
    async with connected(valkey.url) as client, connected(valkey.url) as other:
        for number in range(200):
            await other.set(f"k{number}", str(number))

        async def get(number: int) -> bool:
            return bool(await client.get(f"k{number}") == str(number).encode())

        for round_ in range(20):
            tasks = [asyncio.create_task(get(number)) for number in range(round_, 200, 20)]
            for _ in range(round_ % 5):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(
                result is True or isinstance(result, asyncio.CancelledError) for result in results
            ), results


async def test_protocol_and_bytes(valkey: stores.Store) -> None:
    async with connected(valkey.url) as client:
        await client.delete("h")
        await client.hset("h", mapping={"a": 1})
        assert await client.hgetall("h") == {b"a": b"1"}
        assert (await client.execute_command("HELLO"))[b"proto"] == 3


@pytest.mark.parametrize("url", ["http://x", "postgresql://x", "localhost:6379"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not a Redis URL"):
        runtime_redis.client(url)


async def wait_for(component: Component, up: bool, word: str = "") -> None:
    changed = asyncio.Event()
    component._owner.on_change(changed.set)
    while component.is_up is not up or word not in (component.why or ""):
        changed.clear()
        await changed.wait()


async def test_a_server_that_may_evict_is_refused(valkey: stores.Store) -> None:
    component = Readiness().require("redis")
    async with connected(valkey.url, readiness=component) as client:
        assert not component.is_up
        watching = asyncio.create_task(runtime_redis.watch(client, component))
        async with asyncio.timeout(30):
            await wait_for(component, up=True)
            await client.config_set("maxmemory-policy", "allkeys-lru")
            try:
                with pytest.raises(StoreRefused, match="allkeys-lru"):
                    await runtime_redis.check(client)
                await wait_for(component, up=False, word="noeviction")
            finally:
                await client.config_set("maxmemory-policy", "noeviction")
            await wait_for(component, up=True)
        watching.cancel()
        await asyncio.wait((watching,))


def test_a_server_that_goes_and_comes_is_noticed() -> None:
    async def check(store: stores.Store) -> None:
        component = Readiness().require("redis")
        async with connected(store.url, readiness=component) as client:
            watching = asyncio.create_task(runtime_redis.watch(client, component))
            async with asyncio.timeout(60):
                await wait_for(component, up=True)
                await asyncio.to_thread(store.signal, signal.SIGKILL)
                await wait_for(component, up=False)
                await asyncio.to_thread(store.stop)
                await asyncio.to_thread(store.start)
                await wait_for(component, up=True)
            watching.cancel()
            await asyncio.wait((watching,))

    with stores.valkey() as store:
        asyncio.run(check(store))


async def test_blocking_reads_have_their_own_client(valkey: stores.Store) -> None:
    blocking = runtime_redis.blocking_client(valkey.url)
    async with connected(valkey.url) as client:
        await client.delete("b")
        await client.xgroup_create("b", "g", id="0", mkstream=True)

        async def take() -> Any:
            return await blocking.xreadgroup(
                "g", "c", {"b": ">"}, count=10, block=runtime_redis.BLOCK_MS, noack=True
            )

        read = asyncio.create_task(take())
        assert await client.ping()
        await client.xadd("b", {"x": 1})
        async with asyncio.timeout(20):
            assert await read
        assert await blocking.xreadgroup("g", "c", {"b": ">"}, block=1) in ({}, [], None)
    await blocking.aclose()
