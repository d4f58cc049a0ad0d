"""Starting processes that can be ended, always: sessions of their own, no inherited descriptors.

Role: `start()` runs one command; `Guard` keeps the guardian alive.
Rules: a child waits behind a gate until it stands in the process table. So there is no moment in
which a kill -9 of this process leaves a child that nobody knows: while the gate is shut, the
child ends by itself when its starter does.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatmesh.embedded.guardian import DISMISSED
from chatmesh.embedded.layout import DataFolder
from chatmesh.embedded.processes import Entry, ProcessTable, birth_of

PARENT_FD_VARIABLE = "CHATMESH_PARENT_FD"
# A shell reads one line from the gate and becomes the command, under the same pid. On the way it
# raises the limit of open files, which is 1,024 by default: a chat node has one a session.
_GATE_SCRIPT = """
read -r go || exit 0
files=$(ulimit -H -n)
if [ "$files" = unlimited ] || [ "$files" -gt 65536 ]; then files=65536; fi
ulimit -S -n "$files" 2>/dev/null
exec "$@" </dev/null
"""
_GATE = ("/bin/sh", "-c", _GATE_SCRIPT, "sh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run: argv, whole environment, working folder, and as whom (uid, gid) if not as us."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: Path
    account: tuple[int, int] | None = None
    watches_parent: bool = False
    """The command reads CHATMESH_PARENT_FD and stops by itself at its end of file."""


class ParentPipe:
    """A pipe whose write end only this process holds: its end of file is this process's end."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()

    def close(self) -> None:
        """Ends the pipe: whoever watches it stops."""
        os.close(self.read_end)
        os.close(self._write_end)


class Child:
    """A started process. `ended` is set when it is gone; then `returncode` is valid."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], entry: Entry) -> None:
        self.name = name
        self.entry = entry
        self.ended = threading.Event()
        self._process = process

    @property
    def pid(self) -> int:
        """Process id; also the id of its group and session."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the signal that ended it; None while it runs."""
        return self._process.returncode

    def send(self, number: int) -> None:
        """Signals the process itself, not its group; nothing when it has ended."""
        self._process.send_signal(number)

    def _watch(self, on_end: Callable[["Child"], None]) -> None:
        self._process.wait()
        self.ended.set()
        on_end(self)


def start(
    name: str,
    command: Command,
    *,
    log: Path,
    table: ProcessTable,
    stage: int,
    stop_signal: int,
    grace_seconds: float,
    parent: ParentPipe,
    on_end: Callable[[Child], None],
) -> Child:
    """Starts a command, notes it in the table, then lets it run.

    `on_end` is called from a thread of its own when the process has ended and was reaped.
    """
    environment = dict(command.environment)
    descriptors: tuple[int, ...] = ()
    if command.watches_parent:
        environment[PARENT_FD_VARIABLE] = str(parent.read_end)
        descriptors = (parent.read_end,)
    uid, gid = command.account or (None, None)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*_GATE, *command.argv],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=command.folder,
            start_new_session=True,
            close_fds=True,
            pass_fds=descriptors,
            user=uid,
            group=gid,
            extra_groups=[] if command.account else None,
        )
    entry = Entry(
        name=name,
        pid=process.pid,
        birth=birth_of(process.pid) or "",
        stage=stage,
        stop_signal=stop_signal,
        grace_seconds=grace_seconds,
    )
    table.add(entry)
    gate = process.stdin
    assert gate is not None  # noqa: S101 - stdin=PIPE above
    try:
        gate.write(b"go\n")
        gate.close()
    except BrokenPipeError:
        pass  # it died behind the gate; on_end tells
    child = Child(name, process, entry)
    threading.Thread(target=child._watch, args=(on_end,), name=f"wait-{name}", daemon=True).start()
    return child


class Guard:
    """Keeps one guardian process alive while the mesh runs."""

    def __init__(self, folder: DataFolder, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._process = self._start()

    @property
    def pid(self) -> int:
        """The guardian's process id."""
        return self._process.pid

    def ensure(self) -> bool:
        """Starts another guardian if the last one was killed; whether it did."""
        if self._process.poll() is None:
            return False
        self._process = self._start()
        return True

    def dismiss(self) -> None:
        """A clean stop: the guardian ends without touching anything."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.write(DISMISSED)
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # it was killed
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._folder.log_file("guardian").open("ab") as output:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "chatmesh.embedded.guardian",
                    str(self._folder.processes_file),
                    str(self._folder.mesh_file),
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self._folder.path,
                start_new_session=True,
                close_fds=True,
                pass_fds=(self._lock,),
            )
