"""Ending processes: in order, by force where asking does not help, never the wrong one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatmesh.embedded import processes
from chatmesh.embedded.processes import Entry, ProcessTable, birth_of, end_in_order

WAITS = "import signal, sys; print('up', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITS
CHATTY = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'a')"
    ".write(sys.argv[2]), sys.exit(0))); " + WAITS
)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []
    yield children
    for child in children:
        child.kill()
        child.communicate()


def run(started: list[subprocess.Popen[str]], code: str, *arguments: str, stage: int = 0) -> Entry:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(child)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    birth = birth_of(child.pid)
    assert birth is not None
    return Entry(f"p{child.pid}", child.pid, birth, stage, signal.SIGTERM, 0.3)


def test_birth_tells_a_process_from_a_zombie_and_from_nothing() -> None:
    own = birth_of(os.getpid())
    assert own is not None
    assert birth_of(os.getpid()) == own
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, nobody has reaped it
    assert birth_of(child.pid) is None
    child.wait()
    assert birth_of(child.pid) is None


def test_stages_end_one_after_the_other(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    said = tmp_path / "said"
    late = run(started, CHATTY, str(said), "late ", stage=2)
    early = run(started, CHATTY, str(said), "early ", stage=1)
    end_in_order([late, early])
    assert said.read_text() == "early late "


def test_who_does_not_listen_is_killed(started: list[subprocess.Popen[str]]) -> None:
    end_in_order([run(started, STUBBORN)])
    assert started[0].wait() == -signal.SIGKILL


def test_a_process_that_only_has_the_pid_is_left_alone(
    started: list[subprocess.Popen[str]],
) -> None:
    entry = run(started, WAITS)
    other = Entry("other", entry.pid, "another birth", 0, signal.SIGTERM, 0.3)
    end_in_order([other])
    assert birth_of(entry.pid) == entry.birth


def test_the_table_outlives_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "processes.json"
    outside = tmp_path / "sockets"
    outside.mkdir()
    table = ProcessTable(path)
    table.add(Entry("a", 2**22 + 1, "gone", 0, signal.SIGTERM, 1))
    table.add(Entry("b", 2**22 + 2, "gone", 0, signal.SIGTERM, 1))
    table.remove("a")
    table.add_folder(outside)
    read = ProcessTable(path)
    read.load()
    assert [entry.name for entry in read.entries()] == ["b"]
    read.end_all()
    assert not outside.exists()
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{", '{"processes": [{"name": 1}], "folders": []}'])
def test_a_broken_table_counts_as_empty(tmp_path: Path, content: str) -> None:
    path = tmp_path / "processes.json"
    path.write_text(content)
    table = ProcessTable(path)
    table.load()
    assert table.entries() == []


def test_births_are_read_without_proc_too() -> None:
    assert processes._birth_without_proc(os.getpid()) is not None
    assert processes._birth_without_proc(2**22 + 1) is None
