"""`chatmesh queue` against a real mesh: what is in Redis that nobody can handle, and what becomes
of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

from chatmesh.mesh.v1.hint_pb2 import Hint, HintBatch
from tests.cli.running import chatmesh

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh

pytestmark = [pytest.mark.mesh]

PATIENCE_SECONDS = 60
NOBODY = (1 << 62) + 77


@pytest.fixture
def data(running_mesh: RunningMesh) -> Path:
    return running_mesh.folder.path


def listed(data: Path, *arguments: str) -> dict[str, Any]:
    command: tuple[str | Path, ...] = (
        "queue",
        "dead-letters",
        "list",
        "--json",
        "--data",
        data,
        *arguments,
    )
    found: dict[str, Any] = json.loads(chatmesh(*command).stdout)
    return found


def wait_for(data: Path, after: int, reasons: set[str]) -> list[dict[str, Any]]:
    """The letters after one, once all these reasons are among them."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        letters: list[dict[str, Any]] = listed(data, "--after", str(after))["letters"]
        if reasons <= {letter["reason"] for letter in letters}:
            return letters
        assert time.monotonic() < deadline, letters


def test_poison_in_the_queue_is_listed_with_its_reason_and_tried_again(
    running_mesh: RunningMesh, data: Path
) -> None:
    before = max((one["number"] for one in listed(data, "--limit", "1000")["letters"]), default=0)
    client = redis.Redis.from_url(running_mesh.redis_url())
    client.xadd("{sync:0}:hints", {b"b": b"\xff\xff"})
    nameless = HintBatch(batch_id=700, node_id=9, format=1, hints=[Hint(timeline_seq=5)])
    client.xadd("{sync:1}:hints", {b"b": nameless.SerializeToString()})
    client.close()
    with psycopg.connect(running_mesh.owner_url(), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO push.dead_letter (origin, account_id, device_id, timeline_seq, reason,"
            " payload) VALUES ('push', %s, 'phone', 3, %s, '')",
            (NOBODY, "refused: \x1b[31mHTTP 400"),
        )
    odd, bare = "undecodable queue entry", "hint without an account or position"
    letters = wait_for(data, before, {odd, bare})
    assert [one["payload_bytes"] for one in letters if one["reason"] == odd] == [2]
    (hint,) = [one for one in letters if one["reason"] == bare]
    assert (hint["batch_id"], hint["node_id"], hint["origin"]) == ("700", 9, "sync")
    (refused,) = [one for one in letters if one["account_id"] == str(NOBODY)]
    text = chatmesh("queue", "dead-letters", "list", "--data", data, "--after", str(before)).stdout
    assert f"{hint['number']}  " in text
    assert "batch 700 of node 9" in text
    assert "\x1b" not in text, "a provider's words do not steer the terminal"
    numbers = [str(one["number"]) for one in (hint, refused)]
    retry = ("queue", "dead-letters", "retry", "--data", data)
    assert json.loads(chatmesh(*retry, *numbers, "--json").stdout) == {"retried": 1, "left": 1}
    left = {one["number"] for one in listed(data, "--after", str(before))["letters"]}
    assert hint["number"] in left
    assert refused["number"] not in left
    assert "stay" in chatmesh(*retry, "--all").stdout
    assert "0 became" in chatmesh(*retry, numbers[1]).stdout


def test_status_shows_streams_and_replicas(running_mesh: RunningMesh, data: Path) -> None:
    shown = json.loads(chatmesh("queue", "status", "--json", "--data", data).stdout)
    assert [one["stream"] for one in shown["streams"]] == [f"{{sync:{n}}}:hints" for n in range(4)]
    (replica,) = shown["replicas"]
    assert replica["redis_up"] is True
    text = chatmesh("queue", "status", "--data", data).stdout
    assert running_mesh.addresses_of("sync_svc")[0] in text
    assert "redis up" in text


def test_wrong_usage_and_a_mesh_that_is_away(tmp_path: Path) -> None:
    assert "--all" in chatmesh("queue", "dead-letters", "retry", code=2).stderr
    assert "--all" in chatmesh("queue", "dead-letters", "retry", "5", "--all", code=2).stderr
    chatmesh("queue", "dead-letters", "retry", "0", code=2)
    chatmesh("queue", "dead-letters", "list", "--limit", "0", code=2)
    assert "chatmesh up" in chatmesh("queue", "status", "--data", tmp_path, code=1).stderr
    nowhere = "127.0.0.1:1"
    away = chatmesh(
        "queue", "dead-letters", "list", code=1,
        CHATMESH_SYNC_TARGET=nowhere, CHATMESH_PUSH_TARGET=nowhere,
    )  # fmt: skip
    assert "push_svc: UNAVAILABLE" in away.stderr
    assert "Traceback" not in away.stderr
