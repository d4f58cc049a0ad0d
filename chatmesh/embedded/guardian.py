"""Outlives the supervisor by a moment and ends what it left.

Role: `python -m chatmesh.embedded.guardian`, started by the supervisor, waits on a pipe whose other
end only the supervisor holds. The kernel closes that end however the supervisor dies, kill -9
included; then everything in the process table is ended.
Rules: a clean stop is told by a word on the pipe. Holds the data folder's lock (inherited), so that
nobody starts on the folder before it has finished. Imports the standard library and its own table.
"""

import signal
import sys
from pathlib import Path

from chatmesh.embedded.processes import ProcessTable

DISMISSED = b"dismissed\n"


def main(processes_file: Path, mesh_file: Path) -> int:
    """Blocks until the pipe on standard input closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the end of the supervisor ends the guardian
    if sys.stdin.buffer.read().endswith(DISMISSED):
        return 0
    print("guardian: the supervisor is gone; ending its mesh", flush=True)
    table = ProcessTable(processes_file)
    table.load()
    table.end_all(hurry=True)
    mesh_file.unlink(missing_ok=True)
    print("guardian: all ended", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
