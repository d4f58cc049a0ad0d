"""Metrics: one definition each, and the HTTP port."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request

import pytest

from chatmesh.runtime import metrics
from chatmesh.runtime.errors import AddressTaken
from chatmesh.runtime.metrics import MetricsServer, Spec
from chatmesh.runtime.readiness import Readiness


def specs() -> list[Spec]:
    return [value for value in vars(metrics).values() if isinstance(value, Spec)]


def test_names_are_distinct_and_of_one_style() -> None:
    names = [spec.name for spec in specs()]
    assert len(set(names)) == len(names)
    assert all(name.startswith("chatmesh_") for name in names)
    assert all(spec.help for spec in specs())


def test_a_metric_is_made_once_and_keeps_its_kind() -> None:
    assert metrics.gauge(metrics.SESSIONS) is metrics.gauge(metrics.SESSIONS)
    with pytest.raises(TypeError, match="not a counter"):
        metrics.counter(metrics.SESSIONS)


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own server
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_the_http_port() -> None:
    readiness = Readiness()
    store = readiness.require("postgres")
    readiness.require("redis", critical=False)
    metrics.histogram(metrics.BATCH_SIZE).labels("test").observe(3)
    server = MetricsServer("127.0.0.1:0", readiness)
    server.start()
    base = f"http://{server.address}"
    try:
        status, text = await asyncio.to_thread(get, f"{base}/metrics")
        assert status == 200
        assert 'chatmesh_batch_size_bucket{le="4.0",path="test"}' in text
        status, text = await asyncio.to_thread(get, f"{base}/readyz")
        assert status == 503
        assert json.loads(text) == {
            "ready": False,
            "missing": {"postgres": "not connected yet"},
            "degraded": {"redis": "not connected yet"},
        }
        store.up()
        assert (await asyncio.to_thread(get, f"{base}/readyz?x"))[0] == 200
        assert await asyncio.to_thread(get, f"{base}/livez") == (200, "ok\n")
        assert (await asyncio.to_thread(get, f"{base}/etc/passwd"))[0] == 404
    finally:
        server.stop()


def test_a_taken_port_is_told() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(AddressTaken),
    ):
        MetricsServer(f"127.0.0.1:{taken.getsockname()[1]}")


async def test_loop_lag_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "LAG_INTERVAL_SECONDS", 0)

    def count() -> float:
        return metrics.REGISTRY.get_sample_value("chatmesh_event_loop_lag_seconds_count") or 0

    measuring = asyncio.create_task(metrics.measure_loop_lag())
    async with asyncio.timeout(10):
        before = count()
        while count() < before + 3:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0)
    measuring.cancel()
    await asyncio.wait((measuring,))
