"""ejabberd of Debian's package, with users and message archive (XEP-0313) in PostgreSQL.

Role: says whether it is there; writes its configuration and schema, starts it in the foreground in
a folder of its own, waits until it takes sessions, ends it.
Rules: nothing of a configured ejabberd of this machine is read or written: configuration, spool,
logs, node name and ports are its own, and the name service of Erlang (epmd) is not started.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

PROGRAM: Final = "/usr/sbin/ejabberdctl"
SCHEMA: Final = Path("/usr/share/ejabberd/sql/pg.sql")
DRIVERS: Final = Path("/usr/lib/erlang/lib")
"""Below it, the Erlang libraries of Debian's packages."""
DOMAIN: Final = "localhost"
DATABASE: Final = "ejabberd"
START_SECONDS: Final = 90
STOP_SECONDS: Final = 30
HOW_TO_INSTALL: Final = "apt-get install ejabberd erlang-p1-pgsql"

_CONFIGURATION: Final = """\
loglevel: warning
hosts: ["{domain}"]
listen:
  - port: {port}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    starttls_required: false
    max_stanza_size: 1048576
auth_method: sql
auth_password_format: plain
default_db: sql
new_sql_schema: false
sql_type: pgsql
sql_server: "{server}"
sql_port: 5432
sql_database: "{database}"
sql_username: "{user}"
sql_password: "{password}"
acl:
  local:
    user_regexp: ""
access_rules:
  local:
    allow: local
  c2s:
    allow: all
shaper_rules:
  max_user_sessions: 10
  max_user_offline_messages: 100000
modules:
  mod_disco: {{}}
  mod_offline: {{}}
  mod_roster: {{}}
  mod_mam:
    default: always
    db_type: sql
"""


class EjabberdFailed(Exception):
    """It did not start, or ended; the text says where its log is."""


@dataclass(frozen=True, slots=True)
class Ejabberd:
    """A running one."""

    host: str
    port: int
    domain: str
    password: str
    """Of every user."""
    pid: int
    log: Path
    version: str

    def check(self) -> None:
        """Raises EjabberdFailed when it has ended."""
        if not psutil.pid_exists(self.pid):
            raise EjabberdFailed(f"ejabberd ended during the run; its log: {self.log}")


def missing() -> str | None:
    """What is not there, for people; None when all is."""
    if not Path(PROGRAM).exists() or not SCHEMA.exists():
        return f"ejabberd is not installed ({HOW_TO_INSTALL})"
    found = any(DRIVERS.glob("p1_pgsql-*/ebin/p1_pgsql.app"))
    return None if found else f"ejabberd has no driver for PostgreSQL ({HOW_TO_INSTALL})"


def version() -> str:
    """As the package says it."""
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f=${Version}", "ejabberd"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return asked.stdout.strip() or "unknown"


@contextmanager
def running(folder: Path, owner_url: str, server: str, users: Sequence[str]) -> Iterator[Ejabberd]:
    """Start it on a new database of the PostgreSQL at `server`. Raises EjabberdFailed.

    `owner_url` makes the database; `server` is the address where PostgreSQL listens for TCP.
    """
    password = secrets.token_urlsafe(18)
    _make_database(owner_url, users, password)
    port = _free_port()
    owner = conninfo_to_dict(owner_url)
    configuration = folder / "ejabberd.yml"
    configuration.write_text(
        _CONFIGURATION.format(
            domain=DOMAIN, port=port, server=server, database=DATABASE, user=owner["user"],
            password=owner["password"],
        )
    )  # fmt: skip
    for name in ("spool", "logs"):
        (folder / name).mkdir()
    (folder / "ejabberdctl.cfg").write_text(f"ERL_DIST_PORT={_free_port()}\n")
    _own(folder)
    log = folder / "logs" / "ejabberd.log"
    command = [
        PROGRAM, "--node", f"bench{os.getpid()}@localhost", "--config", str(configuration),
        "--ctl-config", str(folder / "ejabberdctl.cfg"), "--spool", str(folder / "spool"),
        "--logs", str(folder / "logs"), "foreground",
    ]  # fmt: skip
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            _wait(process, port, log)
            yield Ejabberd("127.0.0.1", port, DOMAIN, password, process.pid, log, version())
        finally:
            _stop(process)


def _make_database(owner_url: str, users: Sequence[str], password: str) -> None:
    """With the schema of the package, and the users in it."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    with psycopg.connect(make_conninfo(owner_url, dbname=DATABASE), autocommit=True) as made:
        made.execute(re.sub(r"^\s*--.*$", "", SCHEMA.read_text(), flags=re.MULTILINE).encode())
        made.execute(
            "INSERT INTO users (username, password) SELECT unnest(%s::text[]), %s",
            (list(users), password),
        )


def archived(owner_url: str) -> int:
    """Rows of the archive: each message has one for its sender and one for its recipient."""
    with psycopg.connect(make_conninfo(owner_url, dbname=DATABASE)) as connection:
        row = connection.execute("SELECT count(*) FROM archive").fetchone()
        return int(row[0]) if row else 0


def _own(folder: Path) -> None:
    """ejabberd runs as its own user when this is root's process."""
    if os.geteuid() != 0:
        return
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, "ejabberd")


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EjabberdFailed(f"ejabberd did not start (code {process.returncode}): {log}")
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.2)
    raise EjabberdFailed(f"ejabberd takes no sessions after {START_SECONDS} s: {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Its whole tree: `ejabberdctl` is a shell around the Erlang machine."""
    try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        if one.is_running() and one.name().startswith("beam"):
            one.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for one in alive:
        one.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
