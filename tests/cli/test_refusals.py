"""What a user in a hurry gets wrong before anything runs: one line that says what to do."""

import os
from pathlib import Path

import pytest

from chatmesh.embedded import running
from chatmesh.embedded.errors import FolderUnusable, NotRunning
from chatmesh.embedded.layout import DataFolder
from tests.cli.running import chatmesh

ELSEWHERE = ("--target", "example.org:1")


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("history", "--target", "127.0.0.1:1", "--as", "alice"), 2, "--as"),
        (("send", "bob", "hi", *ELSEWHERE), 1, "--ca FILE"),
        (("tail", "--target", "127.0.0.1:1, 10.0.0.1:1"), 1, "--ca FILE"),
        (("tail", *ELSEWHERE, "--ca", "/nonexistent"), 2, "--ca"),
    ],
)
def test_a_server_of_yours(arguments: tuple[str, ...], code: int, why: str) -> None:
    refused = chatmesh(*arguments, CHATMESH_TOKEN="x", code=code)
    assert why in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_span_store_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "spans.sqlite").write_text("no database at all, " * 100)
    refused = chatmesh("trace", "1", "--data", tmp_path, code=1)
    assert "--data" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    for arguments in (("trace", "1"), ("token", "alice"), ("send", "--as", "alice", "bob", "hi")):
        refused = chatmesh(*arguments, "--data", tmp_path / "closed", code=1)
        assert "--data" in refused.stderr


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"version": 1, "processes": [{}]}'])
def test_a_description_of_another_release(tmp_path: Path, content: str) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.make()
    folder.lock()
    try:
        folder.mesh_file.write_text(content)
        with pytest.raises(FolderUnusable, match="start it again"):
            running.find(folder.path)
    finally:
        folder.unlock()
    with pytest.raises(NotRunning, match="chatmesh up"):
        running.find(folder.path)
