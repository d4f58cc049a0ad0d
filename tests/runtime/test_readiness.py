"""Readiness: who is missing, who is told, and how long a change is forgiven."""

from __future__ import annotations

import asyncio

import pytest

from chatmesh.runtime import faults
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.readiness import Readiness


async def test_components_start_down_and_make_ready() -> None:
    readiness = Readiness()
    assert readiness.is_ready
    one, two = readiness.require("one"), readiness.require("two")
    assert readiness.require("one") is one
    changes: list[dict[str, str]] = []
    readiness.on_change(lambda: changes.append(readiness.missing()))
    waiting = asyncio.create_task(readiness.wait_ready())
    one.up()
    one.up()
    two.down("no route")
    assert not waiting.done()
    two.up()
    async with asyncio.timeout(10):
        await waiting
    assert changes == [{"two": "not connected yet"}, {"two": "no route"}, {}]
    readiness.check()
    two.down("gone")
    with pytest.raises(Fault) as caught:
        readiness.check()
    assert caught.value.reason == faults.NOT_SERVING
    assert caught.value.metadata == {"missing": "two"}


async def test_a_short_absence_is_forgiven() -> None:
    readiness = Readiness()
    peer = readiness.require("peer")
    peer.down("first")
    peer.up()
    changes: asyncio.Queue[bool] = asyncio.Queue()
    readiness.on_change(lambda: changes.put_nowait(readiness.is_ready))
    peer.down("restarting", after_seconds=60)
    assert readiness.is_ready
    peer.up()
    peer.down("restarting", after_seconds=0.01)
    peer.down("refused", after_seconds=60)  # a repeat does not put it off
    async with asyncio.timeout(10):
        assert await changes.get() is False
    assert readiness.missing() == {"peer": "refused"}


async def test_what_is_not_critical_only_degrades() -> None:
    readiness = Readiness()
    readiness.require("cache", critical=False)
    assert readiness.is_ready
    assert readiness.degraded() == {"cache": "not connected yet"}


async def test_a_stopping_server_says_so() -> None:
    readiness = Readiness()
    readiness.stop()
    readiness.stop()
    assert not readiness.is_ready
    with pytest.raises(Fault) as caught:
        readiness.check()
    assert caught.value.reason == faults.SHUTTING_DOWN
