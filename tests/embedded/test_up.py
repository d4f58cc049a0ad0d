"""`chatmesh up` as a person and as a script meet it: a whole mesh, ended by signals."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from chatmesh.embedded import ports, running
from chatmesh.embedded.services import SERVICES
from tests.embedded.holding import wait_gone

CHATMESH = str(Path(sys.executable).parent / "chatmesh")


@contextmanager
def up(data: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CHATMESH_")}
    process = subprocess.Popen(
        [CHATMESH, "up", "--data", str(data), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            _, err = process.communicate()
            print(err)  # what it said, beside a failure
            for log in sorted((data / "logs").glob("*.log")):
                print(f"-- {log.name}", *log.read_text().splitlines()[-5:], sep="\n")


def ready(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(f"up ended: {process.stderr.read() if process.stderr else ''}")
    document: dict[str, Any] = json.loads(line)
    return document


def everything_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_whole_mesh_serves_and_kill_9_leaves_nothing(tmp_path: Path) -> None:
    with up(tmp_path / "data", "--ports", "auto", "--json") as process:
        told = ready(process)
        assert len(told["public"]) == 2
        found = running.find(tmp_path / "data")
        assert found.public == told["public"]
        assert {each.service for each in found.processes} >= set(SERVICES)
        assert all(not ports.is_free(int(a.rpartition(":")[2])) for a in told["public"])
        children = everything_of(process)
        assert len(children) > len(found.processes)
        process.kill()
        process.wait()
        assert wait_gone(children) == []
    assert all(ports.is_free(int(address.rpartition(":")[2])) for address in told["public"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_order(tmp_path: Path, number: int) -> None:
    shape = ("--chat-nodes", "1", "--replicas", "2")
    with up(tmp_path / "data", "--ports", "auto", "--json", *shape) as process:
        started = Counter(each["service"] for each in ready(process)["processes"])
        assert [started[service] for service in ("chat_svc", "sync_svc", "push_svc")] == [1, 2, 2]
        children = everything_of(process)
        process.send_signal(number)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert out == ""
        assert err.splitlines()[-1] == "stopped"
        assert wait_gone(children) == []


def test_a_signal_while_starting_stops_it_too(tmp_path: Path) -> None:
    with up(tmp_path / "data", "--ports", "auto") as process:
        assert process.stderr is not None
        assert "Valkey" in process.stderr.readline()
        children = everything_of(process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
        assert out == ""
        assert wait_gone(children) == []


def test_a_taken_port_is_one_line_that_names_it(tmp_path: Path) -> None:
    port = ports._CHAT_PUBLIC
    try:
        taken = socket.create_server((ports.HOST, port))
    except OSError:
        taken = None  # somebody has it already: as good
    with up(tmp_path / "b") as process:
        _, err = process.communicate()
        assert process.returncode == 1
        assert f"chatmesh: port {port} on 127.0.0.1" in err.splitlines()[-1]
        assert "--ports auto" in err
    if taken is not None:
        taken.close()


def test_a_server_whose_settings_became_wrong_ends_it(tmp_path: Path) -> None:
    with up(tmp_path / "data", "--ports", "auto", "--json", "--chat-nodes", "1") as process:
        ready(process)
        (chat,) = (p for p in running.find(tmp_path / "data").processes if p.name == "chat-1")
        (tmp_path / "data" / "certificates" / "chat_svc.pem").unlink()
        os.kill(chat.pid, signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode == 1
    assert "chat-1 ended with code 2; it is not started again" in err
    assert "chatmesh: chat-1 did not start: its settings are wrong" in err
    assert "CHATMESH_MESH_TLS_CERT=" in err


def test_a_server_that_is_killed_comes_back_on_its_port(tmp_path: Path) -> None:
    with up(tmp_path / "data", "--ports", "auto", "--json") as process:
        ready(process)
        before = {each.name: each for each in running.find(tmp_path / "data").processes}
        os.kill(before["chat-1"].pid, signal.SIGKILL)
        assert process.stderr is not None
        while "chat-1 was ended by SIGKILL" not in process.stderr.readline():
            pass  # bounded by pytest's timeout
        while True:
            after = {each.name: each for each in running.find(tmp_path / "data").processes}
            if after["chat-1"].pid not in (0, before["chat-1"].pid):
                break
        assert after["chat-1"].public == before["chat-1"].public
        assert after["chat-2"].pid == before["chat-2"].pid
