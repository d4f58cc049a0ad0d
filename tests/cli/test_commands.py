"""`send`, `tail`, `history` and `trace` against the running mesh, as scripts use them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.running import chatmesh

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh

pytestmark = [pytest.mark.mesh]

ALICE, BOB = f"cli-alice-{os.getpid()}", f"cli-bob-{os.getpid()}"


@pytest.fixture
def data(running_mesh: RunningMesh) -> Path:
    return running_mesh.folder.path


def test_a_pipe_of_lines_arrives_in_order_and_reads_as_it_was(data: Path, tmp_path: Path) -> None:
    at = ("--data", data)
    first = chatmesh("send", "--as", ALICE, BOB, "hello Bob", *at)
    assert first.stdout.strip().isdigit()
    lines = [f"line {number}" for number in range(250)]
    piped = chatmesh("send", "--as", ALICE, BOB, "-", "--json", *at, text="\n".join(lines))
    answers = [json.loads(line) for line in piped.stdout.splitlines()]
    assert [answer["conversation_seq"] for answer in answers] == list(range(2, 252))

    store = ("--store", tmp_path / "bob.db")
    tail = ("tail", "--as", BOB, "--from", "oldest", *store, *at)
    heard = chatmesh(*tail, "-n", "100").stdout.splitlines()
    assert heard[0].endswith(f" {ALICE}: hello Bob")
    heard += chatmesh(*tail, "-n", "151").stdout.splitlines()
    assert [line.rsplit(": ", 1)[1] for line in heard] == ["hello Bob", *lines]

    said = chatmesh("history", "--as", BOB, ALICE, "--limit", "240", "--json", *at).stdout
    texts = [json.loads(line)["text"] for line in said.splitlines()]
    assert texts == lines[-240:]
    listed = json.loads(chatmesh("history", "--as", BOB, "--json", *at).stdout)
    assert (listed["name"], listed["unread"]) == (ALICE, 251)
    by_id = chatmesh("history", "--as", BOB, f"#{listed['conversation_id']}", "--limit", "1", *at)
    assert by_id.stdout.rstrip().endswith("line 249")


def test_what_was_said_is_found(data: Path) -> None:
    at, word = ("--data", data), f"needle{os.getpid()}"
    chatmesh("send", "--as", ALICE, BOB, f"a {word} in \u202ehay", *at)
    chatmesh("send", "--as", ALICE, f"{BOB}-other", f"{word} elsewhere", *at)
    deadline = time.monotonic() + 60
    while len(found := chatmesh("search", "--as", ALICE, word, *at).stdout.splitlines()) < 2:
        assert time.monotonic() < deadline, "the index is filled behind the commit"
    assert found[0].endswith(f"{ALICE}: [{word}] elsewhere")
    assert found[1].endswith(f"{ALICE}: a [{word}] in \\u202ehay")
    (one,) = chatmesh("search", "--as", ALICE, "--in", BOB, word, "--json", *at).stdout.splitlines()
    assert json.loads(one)["highlight"] == f"a \ue000{word}\ue001 in \u202ehay"
    assert chatmesh("search", "--as", f"{BOB}-nobody", word, *at).stdout == ""
    refused = chatmesh("search", "--as", ALICE, '"open', *at, code=1)
    assert "QUERY_INVALID" in refused.stderr


def test_control_characters_never_reach_the_terminal(data: Path) -> None:
    bad = chatmesh(
        "send", "--as", ALICE, BOB, "-", "--data", data, text="\x1b[31mred\nfine\n", code=1
    )
    assert "CONTENT_INVALID" in bad.stderr
    assert len(bad.stdout.split()) == 1, "the other line went all the same"
    chatmesh("send", "--as", ALICE, BOB, "abc\u202edef", "--data", data)
    shown = chatmesh("history", "--as", BOB, ALICE, "--limit", "1", "--data", data)
    assert "abc\\u202edef" in shown.stdout


def test_a_message_can_be_traced(data: Path, tmp_path: Path) -> None:
    reader = f"cli-traced-{os.getpid()}"
    chatmesh("send", "--as", ALICE, reader, "first", "--data", data)
    # whoever has a device is told by a hint: a hop of sync's
    store = ("--store", tmp_path / "reader.db")
    chatmesh("tail", "--as", reader, "--from", "oldest", "-n", "1", *store, "--data", data)
    sent = chatmesh("send", "--as", ALICE, reader, "traced", "--trace", "--data", data)
    message_id = sent.stdout.strip()
    traced = json.loads(
        chatmesh("trace", message_id, "--json", "--wait-seconds", "30", "--data", data).stdout
    )
    names = {hop["name"] for hop in traced["hops"]}
    assert {"chat.commit", "sync.queue"} <= names
    assert "chat.commit" in chatmesh("trace", message_id, "--data", data).stdout
    unknown = chatmesh("trace", "1", "--wait-seconds", "0", "--data", data, code=1)
    assert "no spans of message 1" in unknown.stderr


def test_a_token_of_yours_reaches_a_server_of_yours(
    running_mesh: RunningMesh, tmp_path: Path
) -> None:
    target = ("--target", running_mesh.public[0])
    token = running_mesh.token(ALICE)
    chatmesh("send", BOB, "by token", *target, CHATMESH_TOKEN=token)
    (tmp_path / "token").write_text(f"{token}\n")
    said = chatmesh(
        "history", BOB, "--limit", "1", *target, CHATMESH_TOKEN_FILE=str(tmp_path / "token")
    )
    assert "by token" in said.stdout
    refused = chatmesh("history", BOB, *target, CHATMESH_TOKEN="no.to.ken", code=1)
    assert "TOKEN_" in refused.stderr


def test_errors_say_what_to_do(data: Path, tmp_path: Path) -> None:
    assert "--as" in chatmesh("send", BOB, "hi", "--data", data, code=2).stderr
    nothing = chatmesh("send", "--as", ALICE, BOB, "hi", "--data", tmp_path, code=1)
    assert "chatmesh up" in nothing.stderr
    assert "CHATMESH_TOKEN" in chatmesh("history", "--target", "127.0.0.1:1", code=1).stderr
    plain = chatmesh("history", "--target", "example.org:1", CHATMESH_TOKEN="x", code=1)
    assert "plain text" in plain.stderr
    strange = chatmesh("history", "--as", ALICE, "#x", "--data", data, code=2)
    assert "#" in strange.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("send", "--as", ALICE, BOB, ""), "empty"),
        (("send", "--as", ALICE, "", "hi"), "name a user"),
        (("send", "--as", ALICE, "#-1", "hi"), "no conversation"),
        (("send", "--as", ALICE, f"#{1 << 63}", "hi"), "no conversation"),
        (("send", "--as", ALICE, "b\udcff", "hi"), "UTF-8"),
        (("send", "--as", "a\udcff", BOB, "hi"), "UTF-8"),
        (("history", "--as", BOB, "#-1"), "no conversation"),
        (("history", "--as", BOB, ALICE, "--before", str(1 << 63)), "before"),
        (("token", ""), "128"),
        (("token", "x" * 129), "128"),
        (("token", "a\nb"), "128"),
        (("token", ALICE, "--ttl-seconds", "nan"), "years"),
        (("token", ALICE, "--ttl-seconds", "0"), "above 0"),
        (("token", ALICE, "--ttl-seconds", "-1"), "above 0"),
        (("token", ALICE, "--ttl-seconds", "1e300"), "years"),
    ],
)
def test_what_no_server_could_take_is_wrong_usage(
    data: Path, arguments: tuple[str, ...], why: str
) -> None:
    refused = chatmesh(*arguments, "--data", data, code=2)
    assert why in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_trace_to_nobody_says_why_it_is_short(data: Path) -> None:
    nobody = f"cli-nobody-{os.getpid()}"
    sent = chatmesh("send", "--as", ALICE, nobody, "hi", "--trace", "--data", data).stdout.strip()
    told = json.loads(
        chatmesh("trace", sent, "--json", "--wait-seconds", "30", "--data", data).stdout
    )
    assert {hop["name"] for hop in told["hops"]} >= {"chat.ids", "chat.commit"}
    assert "has no device yet" in told["note"]


def test_a_mistyped_folder_is_not_made(tmp_path: Path) -> None:
    refused = chatmesh("token", ALICE, "--data", tmp_path / "typo", code=1)
    assert "was ever started" in refused.stderr
    assert not (tmp_path / "typo").exists()


def test_protos_wants_a_folder() -> None:
    assert "DIR is empty" in chatmesh("protos", "", code=2).stderr


def test_a_strange_variable_is_a_warning(data: Path) -> None:
    told = chatmesh("token", ALICE, "--data", data, CHATMESH_TOKN="x")
    assert "warning: CHATMESH_TOKN: no setting has this name; did you mean CHATMESH_TOKEN?" in (
        told.stderr
    )
    assert len(told.stdout.split()) == 1


def test_help_flows_with_the_terminal() -> None:
    from chatmesh.cli.main import flowing

    text = "One\ntwo.\n\nThree\nfour.\n\n\b\nExamples:\n  five"
    assert flowing(text) == "One two.\n\nThree four.\n\n\b\nExamples:\n  five"


def test_closed_standard_input_is_told(data: Path) -> None:
    code = "import os, sys; os.close(0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = ("-m", "chatmesh.cli.main", "send", "--as", ALICE, BOB, "-", "--data", str(data))
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, "standard input is closed" in done.stderr) == (2, True)


def test_a_pipe_whose_server_is_away_says_what_went() -> None:
    away = chatmesh(
        "send", BOB, "-", "--target", "127.0.0.1:1", text="a\nb\n", code=1,
        CHATMESH_TOKEN="x.eyJzdWIiOiJ4In0.x",
    )  # fmt: skip
    assert "0 messages were answered" in away.stderr


@pytest.mark.parametrize("command", ["send", "tail", "history", "trace", "check-history", "demo"])
def test_help_teaches_by_examples(command: str) -> None:
    help_text = chatmesh(command, "--help").stdout
    assert "Examples:" in help_text
    assert f"chatmesh {command}" in help_text
