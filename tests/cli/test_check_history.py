"""`chatmesh check-history` on files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from chatmesh.testing import Invariant
from chatmesh.testing.history import Operation
from tests.cli.running import chatmesh
from tests.testing_kit.histories import at, good


def write(path: Path, history: Sequence[Operation]) -> None:
    path.write_text("".join(f"{op.to_json()}\n" for op in history))


def test_a_good_history(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", good())
    done = chatmesh("check-history", tmp_path / "a.jsonl")
    assert f"{len(Invariant)} invariants hold" in done.stdout
    result = json.loads(chatmesh("check-history", tmp_path, "--json").stdout)
    assert (result["ok"], result["violations"]) == (True, [])


def test_a_broken_one_is_named_with_its_slice(tmp_path: Path) -> None:
    history = good()
    del history[at(history, "received", "bob", "phone", 3)]
    write(tmp_path / "a.jsonl", history)
    done = chatmesh("check-history", tmp_path / "a.jsonl", "--only", "i2", code=1)
    assert "I2 broken" in done.stdout
    assert "received position 4 too early: 3 was next" in done.stdout
    assert "a.jsonl:" in done.stdout
    result = json.loads(chatmesh("check-history", tmp_path, "--json", code=1).stdout)
    assert {one["invariant"] for one in result["violations"]} >= {"I1", "I2"}


def test_what_is_no_history_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("hello\n{}\n")
    assert "a.jsonl:1" in chatmesh("check-history", tmp_path, code=1).stderr
    (tmp_path / "a.jsonl").write_text("")
    assert "empty" in chatmesh("check-history", tmp_path, code=1).stderr
    assert "No such file" in chatmesh("check-history", tmp_path / "missing", code=1).stderr
    assert "I1" in chatmesh("check-history", tmp_path, "--only", "I99", code=2).stderr
