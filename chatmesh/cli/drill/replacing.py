"""Ends server processes of a running mesh and sees their successors serve.

Role: works on any mesh that has a supervisor, in this process or another: a process is ended by a
signal, the supervisor starts it again on the same ports and writes its pid into mesh.json.
Rules: blocking; raises NotReplaced instead of waiting for ever.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from chatmesh.embedded import running, services
from chatmesh.embedded.ports import ServerPorts
from chatmesh.embedded.processes import birth_of
from chatmesh.embedded.running import ProcessInfo

BACK_SECONDS: Final = 90.0
"""From the signal to a successor that serves: a drain, a start, a loaded machine."""
POLL_SECONDS: Final = 0.05


class NotReplaced(Exception):
    """A process did not end, or none took its place; the text says which, and where its log is."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """When it was asked to end, and when its successor served (CLOCK_MONOTONIC)."""

    begin_ns: int
    ready_ns: int


def servers_of(folder: Path, wanted: list[str]) -> list[ProcessInfo]:
    """Servers in the order in which they are replaced: sequencer first, chat nodes last.

    `wanted` names services; empty: all.
    """
    found = [
        process
        for process in running.find(folder).processes
        if process.service in services.SERVICES and (not wanted or process.service in wanted)
    ]
    return sorted(found, key=lambda process: -services.SERVICES[process.service].stage)


def replace(folder: Path, process: ProcessInfo, how: Literal["rolling", "kill"]) -> Replaced:
    """End one process and wait until its successor serves. Blocking. Raises NotReplaced."""
    old = _current(folder, process.name)
    begin_ns = time.monotonic_ns()
    try:
        os.kill(old.pid, signal.SIGTERM if how == "rolling" else signal.SIGKILL)
    except ProcessLookupError:
        raise NotReplaced(f"{process.name} is down; its log: {process.log}") from None
    born = birth_of(old.pid)
    deadline = time.monotonic() + BACK_SECONDS
    while not _is_back(folder, old, born):
        if time.monotonic() > deadline:
            raise NotReplaced(
                f"{process.name} was not replaced within {BACK_SECONDS:g} s; its log: {process.log}"
            )
        time.sleep(POLL_SECONDS)
    return Replaced(begin_ns, time.monotonic_ns())


def _current(folder: Path, name: str) -> ProcessInfo:
    for process in running.find(folder).processes:
        if process.name == name:
            return process
    raise NotReplaced(f"{name} is no process of the mesh any more")


def _is_back(folder: Path, old: ProcessInfo, born: str | None) -> bool:
    now = _current(folder, old.name)
    if now.pid in (0, old.pid) and (born is None or birth_of(old.pid) in (born, None)):
        return False
    return services.is_ready(_ports(now))


def _ports(process: ProcessInfo) -> ServerPorts:
    def port(address: str) -> int:
        return int(address.rpartition(":")[2])

    return ServerPorts(
        port(process.mesh), port(process.metrics), port(process.public) if process.public else None
    )
