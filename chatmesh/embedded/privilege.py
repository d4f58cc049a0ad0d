"""How PostgreSQL, which refuses to run as root, runs when we are root.

First choice: a user namespace, in which root is seen as an ordinary user. No user is made, no
folder is opened, all files stay root's. Where namespaces are refused (many containers): an existing
unprivileged user, if it can reach the programs and the data.
Rules: an ordinary user needs none of this.
"""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatmesh.embedded.errors import NoPrivilege

NOBODY = 65534
"""The overflow uid of Linux: what a file's owner outside a user namespace reads as."""
_CANDIDATES = ("postgres", "nobody")
Way = Literal["plain", "namespace", "user"]


@dataclass(frozen=True, slots=True)
class Privilege:
    """How a program that refuses root is started."""

    way: Way
    prefix: tuple[str, ...] = ()
    account: tuple[int, int] | None = None

    def argv(self, command: Sequence[str]) -> list[str]:
        """The command with what must stand before it."""
        return [*self.prefix, *command]

    def own(self, folder: Path) -> None:
        """Makes a folder belong to whom the program runs as."""
        if self.account is not None:
            os.chown(folder, *self.account)


def choose(program: str, data: Path, ways: Sequence[Way] = ("namespace", "user")) -> Privilege:
    """The first way that works here for `program` with data below `data`.

    Raises NoPrivilege, saying what to do, when we are root and none works.
    """
    if os.geteuid() != 0:
        return Privilege("plain")
    tried: list[str] = []
    for way in ways:
        if way == "namespace":
            privilege = Privilege(
                "namespace",
                ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--"),
            )
            if _works(privilege, program):
                return privilege
            tried.append("user namespaces are refused here")
        elif way == "user":
            for name in _CANDIDATES:
                try:
                    entry = pwd.getpwnam(name)
                except KeyError:
                    continue
                privilege = Privilege("user", account=(entry.pw_uid, entry.pw_gid))
                missing = _unreachable(privilege, program, data)
                if missing is None:
                    return privilege
                tried.append(f"user {name} cannot reach {missing}")
    raise NoPrivilege(
        f"PostgreSQL does not run as root, and no other way works here ({'; '.join(tried)}): run "
        "chatmesh as an ordinary user, or put data folder and virtual environment where that user "
        "can reach them, or set CHATMESH_POSTGRES_URL to a server of yours"
    )


def _works(privilege: Privilege, program: str) -> bool:
    uid, gid = privilege.account or (None, None)
    try:
        done = subprocess.run(
            privilege.argv([program, "--version"]),
            capture_output=True,
            timeout=20,
            check=False,
            user=uid,
            group=gid,
            extra_groups=[] if privilege.account else None,
            cwd="/",
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _unreachable(privilege: Privilege, program: str, data: Path) -> str | None:
    """What the account cannot reach: the program, or a folder above the data; None if nothing."""
    if not _works(privilege, program):
        return program
    for folder in reversed(data.parent.parents):
        # the data folder, in which `data` lies, is ours to open; the folders above it are not
        if (
            not folder.stat().st_mode & 0o001
            and folder.stat().st_uid != (privilege.account or (0,))[0]
        ):
            return str(folder)
    return None
