"""A real Valkey for one mesh, on a Unix socket in a private folder, with a password.

Rules: append-only file on (written every second), never evicts, no snapshots. What it holds may be
lost whole at any time; the mesh heals it.
"""

from pathlib import Path

import redis

from chatmesh.embedded import keys
from chatmesh.embedded.binaries import valkey_program
from chatmesh.embedded.children import Command
from chatmesh.embedded.layout import DataFolder, write_private

MAX_MEMORY_MIB = 1024
"""When full it refuses writes (noeviction) and sync handles batches from memory."""
SOCKET = "valkey.sock"


class EmbeddedValkey:
    """The server below a data folder. `prepare()` first, then run `command()`."""

    def __init__(self, folder: DataFolder, sockets: Path) -> None:
        """Raises NotInstalled."""
        self._program = valkey_program()
        self._folder = folder
        self._socket = sockets / SOCKET
        self._password = keys.valkey_password(folder)
        self._config = folder.secrets / "valkey.conf"

    def prepare(self) -> None:
        """Writes the configuration: it holds the password, so it is no argument."""
        self._folder.valkey.mkdir(mode=0o700, exist_ok=True)
        lines = (
            "port 0",
            f'unixsocket "{self._socket}"',
            "unixsocketperm 700",
            f"requirepass {self._password.read_text()}",
            f'dir "{self._folder.valkey}"',
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            f"maxmemory {MAX_MEMORY_MIB}mb",
            "maxmemory-policy noeviction",
            "daemonize no",
            "databases 1",
            "loglevel notice",
        )
        write_private(self._config, ("\n".join(lines) + "\n").encode())

    def command(self) -> Command:
        """How to run the server in the foreground."""
        return Command(
            argv=[str(self._program), str(self._config)],
            environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            folder=self._folder.valkey,
        )

    def url(self) -> str:
        """URL with the password."""
        return f"unix://:{self._password.read_text()}@{self._socket}"

    def is_ready(self) -> bool:
        """Whether it answers (after it has read its append-only file)."""
        return answers(self.url())


def answers(url: str) -> bool:
    """Whether the server of a URL answers a PING now."""
    client = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
