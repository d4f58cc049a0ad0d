"""`chatmesh chat` as a shell calls it: what it teaches, and what it says when it cannot start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.running import chatmesh

WITHOUT_TEXTUAL = """
import sys
sys.modules["textual"] = None
sys.argv = ["chatmesh", *sys.argv[1:]]
from chatmesh.cli.main import main
main()
"""


def test_help_teaches_by_examples() -> None:
    text = chatmesh("chat", "--help").stdout
    for words in ("chatmesh chat --as alice bob", "--store", "--target", "Examples:", "F1"):
        assert words in text


def test_who_and_where_must_be_said(tmp_path: Path) -> None:
    assert "--as" in chatmesh("chat", "bob", code=2).stderr
    assert "no conversation" in chatmesh("chat", "--as", "alice", "#x", code=2).stderr
    nothing = chatmesh("chat", "--as", "alice", "bob", "--data", tmp_path, code=1)
    assert "chatmesh up" in nothing.stderr
    assert "Traceback" not in nothing.stderr


def test_a_missing_extra_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TEXTUAL, "chat", "bob", "--target", "127.0.0.1:1"],
        capture_output=True, text=True, check=False, timeout=60,
        env={"CHATMESH_TOKEN": "x.eyJzdWIiOiJ4In0.x", "HOME": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'chatmesh[tui]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_terminal_is_said() -> None:
    told = chatmesh(
        "chat", "bob", "--target", "127.0.0.1:1", code=2, CHATMESH_TOKEN="x.eyJzdWIiOiJ4In0.x"
    )
    assert "terminal" in told.stderr


def test_other_commands_do_not_pay_for_it() -> None:
    code = (
        "import sys; from chatmesh.cli.main import build; build(); "
        "print([n for n in ('textual', 'grpc', 'chatmesh.client') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
