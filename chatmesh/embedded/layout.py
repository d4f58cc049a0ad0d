"""The data folder of an embedded mesh: what lies where, who may read it, who has it.

    DATA/                 0700
      lock                held (flock) by the supervisor and its guardian
      mesh.json           addresses, pids, versions of the running mesh; no secret in it
      processes.json      what must be ended when the supervisor dies
      postgres/ valkey/   the stores
      secrets/            passwords, development secret, hint key; kept over restarts
      certificates/       CA and certificates; made anew at each start
      logs/NAME.log       one file a process, the previous one as NAME.log.1
      spans.sqlite        the newest spans

Rules: only this module knows the names. Files with secrets are 0600 from their first byte on.
"""

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path

from chatmesh.embedded.errors import FolderInUse, FolderUnusable

VARIABLE = "CHATMESH_DATA"
LOG_ROTATE_BYTES = 8 << 20
_OF_NO_MESH = frozenset(("lost+found",))
"""What a new file system holds."""
GUARDIAN_WAIT_SECONDS = 45
"""How long the guardian of a killed mesh may need to end its PostgreSQL."""


def default_folder() -> Path:
    """CHATMESH_DATA, else ~/.chatmesh: the same for every command, wherever it is called."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".chatmesh"


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file at once with one that only its owner may read."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    scratch.replace(path)


class DataFolder:
    """Paths below one data folder, and its lock.

    Raises FolderUnusable when the folder cannot be made or used by this user.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - keeps symlinks
        self.lock_file = self.path / "lock"
        self.mesh_file = self.path / "mesh.json"
        self.processes_file = self.path / "processes.json"
        self.postgres = self.path / "postgres"
        self.valkey = self.path / "valkey"
        self.secrets = self.path / "secrets"
        self.certificates = self.path / "certificates"
        self.logs = self.path / "logs"
        self.spans_file = self.path / "spans.sqlite"
        self._lock: int | None = None

    def make(self) -> None:
        """Makes the folder and its private parts; an existing one is closed to others, unless it
        holds something else than a mesh."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self.path.stat().st_uid
            if owner != os.geteuid():
                raise FolderUnusable(
                    f"the data folder {self.path} belongs to user {owner}, you are "
                    f"{os.geteuid()}: name another by --data or {VARIABLE}"
                )
            if not self.secrets.is_dir() and any(
                entry.name not in _OF_NO_MESH for entry in self.path.iterdir()
            ):
                raise FolderUnusable(
                    f"{self.path} holds other things than a mesh, and a data folder is closed to "
                    f"all other users: name a new or empty folder by --data or {VARIABLE}"
                )
            for folder in (self.path, self.secrets, self.certificates, self.logs):
                folder.mkdir(mode=0o700, exist_ok=True)
                if stat.S_IMODE(folder.stat().st_mode) & 0o077:
                    folder.chmod(0o700)
        except OSError as error:
            raise FolderUnusable(
                f"cannot use the data folder {self.path}: {error.strerror}; "
                f"name another by --data or {VARIABLE}"
            ) from None

    def lock(self) -> int:
        """Takes the folder for this process; returns the descriptor that holds the lock.

        The guardian of a mesh that was killed holds the lock until it has ended everything: it is
        waited for. Raises FolderInUse while the holder lives.
        """
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + GUARDIAN_WAIT_SECONDS
        while not _try_lock(descriptor):
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            if _is_alive(holder) or time.monotonic() > deadline:
                os.close(descriptor)
                raise FolderInUse(
                    f"a mesh runs on {self.path} already (process {holder or 'unknown'}): stop it, "
                    f"or name another folder by --data or {VARIABLE} with --ports auto"
                )
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor
        return descriptor

    def unlock(self) -> None:
        """Gives the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_locked(self) -> bool:
        """Whether a mesh (or the guardian of a killed one) holds the folder now."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def log_file(self, name: str) -> Path:
        """The log of a process; moved aside first when it has grown large."""
        path = self.logs / f"{name}.log"
        with contextlib.suppress(OSError):
            if path.stat().st_size > LOG_ROTATE_BYTES:
                path.replace(path.with_suffix(".log.1"))
        return path

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The last lines of a process's log, for error texts."""
        try:
            with (self.logs / f"{name}.log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: str) -> bool:
    """Whether the process of a lock file lives; a zombie does not."""
    from chatmesh.embedded.processes import birth_of

    return pid.isdigit() and birth_of(int(pid)) is not None
