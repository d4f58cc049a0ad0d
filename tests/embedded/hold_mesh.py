"""A process that holds a mesh of stores and span receiver, for tests that kill it.

Prints one JSON line when ready: the pids of everything, the shared memory files, the socket folder.
Runs until SIGTERM. Arguments: the data folder.
"""

import json
import os
import signal
import sys
from pathlib import Path

import psutil

from chatmesh.embedded.errors import EmbeddedError
from chatmesh.embedded.supervisor import Mesh, MeshOptions


def shared_memory_files(pids: list[int]) -> list[str]:
    """The files below /dev/shm that these processes have mapped; PostgreSQL makes some."""
    found: set[str] = set()
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            continue  # a short-lived child of PostgreSQL
        for region in maps.splitlines():
            path = region.split(maxsplit=5)[-1]
            if path.startswith("/dev/shm/"):
                found.add(path.removesuffix(" (deleted)"))
    return sorted(found)


def main() -> int:
    """Starts, tells, waits, stops."""
    read_end, write_end = os.pipe()  # an Event set by a handler can deadlock
    signal.signal(signal.SIGTERM, lambda *_: os.write(write_end, b"!"))
    mesh = Mesh(MeshOptions(data=Path(sys.argv[1]), ports="auto", servers=False))
    try:
        mesh.start()
    except EmbeddedError as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
        return 1
    pids = {name: mesh.pids(name) for name in mesh.names()}
    flat = [pid for group in pids.values() for pid in group]
    table = json.loads(mesh.folder.processes_file.read_text())
    children = psutil.Process().children()
    guardian = next(child.pid for child in children if child.pid not in flat)
    memory = shared_memory_files(flat) if Path("/proc/self/maps").exists() else []
    print(
        json.dumps(
            {
                "pids": pids,
                "guardian": guardian,
                "folders": table["folders"],
                "shared_memory": memory,
                "owner_url": mesh.running.owner_url(),
            }
        ),
        flush=True,
    )
    os.read(read_end, 1)
    mesh.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
