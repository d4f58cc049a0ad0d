"""The command line: quick, quiet on stdout, one line for expected failures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chatmesh.embedded import keys
from chatmesh.embedded.layout import DataFolder

CHATMESH = str(Path(sys.executable).parent / "chatmesh")
HEAVY = ("grpc", "psycopg", "redis", "pydantic_settings", "opentelemetry", "yoyo")


def chatmesh(*arguments: str | Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CHATMESH_")}
    return subprocess.run(
        [CHATMESH, *map(str, arguments)],
        env={**environment, **changes},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from chatmesh.cli import main; main.build(); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_token_is_the_only_thing_on_stdout_and_its_key_stays_private(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.make()
    secret = keys.development_secret(folder)
    done = chatmesh("token", "alice", "--data", folder.path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.stdout)
    assert done.stderr == ""
    assert secret.stat().st_mode & 0o777 == 0o600


def test_the_data_folder_may_come_from_the_environment(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "named")
    folder.make()
    keys.development_secret(folder)
    done = chatmesh("token", "alice", CHATMESH_DATA=str(folder.path))
    assert done.returncode == 0
    assert done.stdout


def test_an_expected_failure_is_one_line_and_code_1(tmp_path: Path) -> None:
    done = chatmesh("migrate", "--data", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("chatmesh: no mesh runs on")
    assert len(done.stderr.splitlines()) == 1


def test_wrong_usage_is_code_2() -> None:
    assert chatmesh("up", "--chat-nodes", "0").returncode == 2
    assert chatmesh("no-such-command").returncode == 2


def test_a_folder_that_cannot_be_made_is_told() -> None:
    done = chatmesh("up", "--data", "/proc/nowhere", "--ports", "auto")
    assert done.returncode == 1
    assert "cannot use the data folder /proc/nowhere" in done.stderr


@pytest.mark.parametrize("command", ["up", "token", "migrate", "protos"])
def test_each_command_explains_itself(command: str) -> None:
    done = chatmesh(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
