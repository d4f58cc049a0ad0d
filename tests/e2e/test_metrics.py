"""What operators watch is on `/metrics` of the servers that know it."""

from __future__ import annotations

import asyncio
import os
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chatmesh.client import Client
from chatmesh.embedded.running import RunningMesh

pytestmark = pytest.mark.mesh

EVERYWHERE = {"chatmesh_rpc_handled", "chatmesh_rpc_seconds", "chatmesh_rpc_open",
              "chatmesh_event_loop_lag_seconds"}  # fmt: skip
"""Rate, errors and duration of each RPC, and whether the loop keeps up."""
OF_SERVICE = {
    "chat_svc": {"chatmesh_sessions", "chatmesh_batch_size", "chatmesh_commit_seconds",
                 "chatmesh_outbox_rows", "chatmesh_outbox_age_seconds", "chatmesh_holes_filled"},
    "sync_svc": {"chatmesh_batch_size", "chatmesh_sync_lag_seconds"},
    "push_svc": {"chatmesh_push_pending"},
    "presence_svc": set[str](),
    "sequencer_svc": set[str](),
}  # fmt: skip


def families(address: str) -> set[str]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    return {family.name for family in text_string_to_metric_families(page)}


async def test_each_server_shows_what_it_is_watched_by(running_mesh: RunningMesh) -> None:
    alice, bob = f"metrics-alice-{os.getpid()}", f"metrics-bob-{os.getpid()}"
    token = running_mesh.token(alice)
    async with Client(running_mesh.public[0], token=token, device_id="phone") as client:
        await client.send(to_user=bob, text="counted")
    seen: dict[str, set[str]] = {}
    for process in running_mesh.processes:
        if process.metrics:
            wanted = EVERYWHERE | OF_SERVICE[process.service]
            missing = seen.setdefault(process.service, set())
            missing |= wanted - await asyncio.to_thread(families, process.metrics)
    assert seen == {service: set() for service in OF_SERVICE}
