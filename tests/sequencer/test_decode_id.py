"""`chatmesh decode-id`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from chatmesh.ids import DEFAULT_LAYOUT, PROJECT_EPOCH_MS, SnowflakeLayout


def decode_id(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chatmesh.cli.main", "decode-id", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_shows_time_worker_and_sequence() -> None:
    value = DEFAULT_LAYOUT.encode(PROJECT_EPOCH_MS + 86_400_001, 7, 42)
    done = decode_id(str(value))
    assert done.stdout == f"{value}  2026-01-02T00:00:00.001Z  worker 7  sequence 42\n"
    assert done.returncode == 0


def test_json_and_another_split() -> None:
    layout = SnowflakeLayout(45, 6, 12, 0)
    value = layout.encode(1_700_000_000_123, 63, 4095)
    done = decode_id(str(value), "0", "--split", "45/6/12", "--epoch-ms", "0", "--json")
    first, zero = json.loads(done.stdout)
    assert first == {
        "id": str(value),
        "time": "2023-11-14T22:13:20.123Z",
        "created_at_ms": 1_700_000_000_123,
        "worker": 63,
        "sequence": 4095,
    }
    assert zero["created_at_ms"] == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["x"], "is not an id"),
        (["1_0"], "is not an id"),
        (["\u0661"], "is not an id"),
        ([str(1 << 63)], "ids lie within"),
        (["1", "--split", "41/10"], "is not of the form"),
        (["1", "--split", "41/10/13"], "must add up to 63"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], text: str) -> None:
    done = decode_id(*arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
