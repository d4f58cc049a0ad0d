"""`chatmesh export` and `chatmesh import` as somebody who moves a tenant uses them."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chatmesh.cli.transfer.checking import BadFile
from chatmesh.cli.transfer.writing import check
from tests.cli.running import chatmesh as run

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh

HERE, THERE = f"move-{os.getpid()}", f"moved-{os.getpid()}"


def chatmesh(
    *arguments: str | Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command, with patience for a machine that does much else."""
    return run(*arguments, code=code, timeout_seconds=150, text="", **environment)


def as_user(mesh: RunningMesh, user: str, tenant: str, *arguments: str) -> str:
    token = mesh.token(user, tenant=tenant)
    return chatmesh(*arguments, "--target", mesh.public[0], CHATMESH_TOKEN=token).stdout


@pytest.mark.mesh
def test_a_tenant_moves_and_its_people_read_on(running_mesh: RunningMesh, tmp_path: Path) -> None:
    at = ("--data", running_mesh.folder.path)
    for text in ("one", "two"):
        as_user(running_mesh, "alice", HERE, "send", "bob", text)
    file, again = tmp_path / "file.jsonl", tmp_path / "again.jsonl"
    said = chatmesh("export", "--tenant", HERE, "-o", file, *at)
    assert "2 users, 2 contacts, 0 blocks, 3 conversations, 4 members, 2 messages" in said.stderr
    assert chatmesh("export", "--tenant", HERE, *at).stdout == file.read_text()
    assert str(file) in chatmesh("export", "--tenant", HERE, "-o", file, *at, code=1).stderr
    assert chatmesh("import", file, "--check").stdout.startswith("good: 2 users")
    done = chatmesh("import", file, "--tenant", THERE, "--json", *at)
    assert json.loads(done.stdout)["messages"] == 2
    assert "nothing to do" in chatmesh("import", file, "--tenant", THERE, *at).stdout
    assert "not empty" in chatmesh("import", file, *at, code=1).stderr
    chatmesh("export", "--tenant", THERE, "-o", again, *at)
    times = [
        sorted(json.loads(line).get("created_at_ms", 0) for line in path.read_text().splitlines())
        for path in (file, again)
    ]
    assert times[0] == times[1], "ids that were replaced may be sorted in another order"

    heard = as_user(running_mesh, "bob", THERE, "tail", "--from", "oldest", "-n", "2")
    assert [line.rsplit(": ", 1)[1] for line in heard.splitlines()] == ["one", "two"]
    as_user(running_mesh, "bob", THERE, "send", "alice", "three")
    history = as_user(running_mesh, "alice", THERE, "history", "bob", "--json")
    seqs = [json.loads(line)["conversation_seq"] for line in history.splitlines()]
    assert seqs == [1, 2, 3]


HEADER = {"type": "export", "format": 1, "tenant": "t"}
END = dict.fromkeys(("users", "contacts", "blocks", "conversations", "members", "messages"), 0) | {
    "type": "end"
}


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "line 1: missing: the file has no end line, it is half a file"),
        ([HEADER], "line 2: missing: the file has no end line"),
        ([HEADER, "nonsense"], "line 2: "),
        ([END], "line 1: is no header"),
        ([{**HEADER, "format": 2}, END], "line 1: format: "),
        ([HEADER, {"type": "user"}, END], "line 2: user_id: Field required"),
        ([HEADER, {"type": "whatever"}, END], "line 2: "),
        ([HEADER, {**END, "users": 1}], "line 2: counts 1 users, the file has 0"),
        ([HEADER, END, END], "line 3: comes after the end"),
    ],
)
def test_what_is_no_export_is_refused_by_line(lines: list[object], why: str) -> None:
    content = "".join(json.dumps(line) + "\n" for line in lines)
    with pytest.raises(BadFile) as caught:
        check(io.BytesIO(content.encode()), lambda what, done, total: None)
    assert str(caught.value).startswith(why)


def test_a_broken_file_reaches_no_database(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(json.dumps(HEADER) + "\n")
    nowhere = "postgresql://nobody@127.0.0.1:1/"
    done = chatmesh("import", file, code=1, CHATMESH_POSTGRES_URL=nowhere)
    assert "line 2: missing: the file has no end line, it is half a file" in done.stderr
    assert "Nothing was imported" in done.stderr
