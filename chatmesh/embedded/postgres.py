"""A real PostgreSQL for one mesh: its cluster, its settings, its roles and database.

Role: prepares the cluster, says how to run it, provisions a server (this one or one of yours) with
the owner, the database and a role a service.
Rules: commits are durable here as in production (fsync, full_page_writes and synchronous_commit
stay on). It listens on a Unix socket in a private folder only, and asks for passwords even there.
The migrations, not this module, grant rights inside the database.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from chatmesh.embedded import keys
from chatmesh.embedded.binaries import PostgresPrograms, postgres_programs
from chatmesh.embedded.children import Command
from chatmesh.embedded.errors import StartFailed
from chatmesh.embedded.layout import DataFolder
from chatmesh.embedded.privilege import Privilege, choose

DATABASE = "chatmesh"
OWNER = "chatmesh"
SERVICE_ROLES: Mapping[str, str] = {
    "chat_svc": "chatmesh_chat",
    "sequencer_svc": "chatmesh_sequencer",
    "push_svc": "chatmesh_push",
}
"""Service → the role it logs in as. A service that is not here has no PostgreSQL."""
SOCKET_PORT = 5432
"""Only part of the socket's file name: nothing listens on TCP."""

BUILTIN_COLLATION_SINCE = 17
SETTINGS: Mapping[str, str] = {
    # durability: the promise P1, stated and not left to a default
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "commit_delay": "0",  # batches gather in the chat node, not here
    # size: one machine that does other things too
    "shared_buffers": "128MB",
    "max_connections": "200",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "min_wal_size": "128MB",
    "checkpoint_timeout": "15min",
    # many small statements: planning for long ones costs more than it gives
    "jit": "off",
    "random_page_cost": "1.1",
    # heads are updated all the time: keep HOT chains short
    "autovacuum_naptime": "15s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_insert_scale_factor": "0.1",
    "autovacuum_vacuum_cost_limit": "1000",
    "idle_in_transaction_session_timeout": "60s",
    "log_lock_waits": "on",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
}


class EmbeddedPostgres:
    """The cluster below a data folder. `prepare()` first, then run `command()`."""

    def __init__(
        self,
        folder: DataFolder,
        sockets: Path,
        *,
        settings: Mapping[str, str] | None = None,
        programs: PostgresPrograms | None = None,
        privilege: Privilege | None = None,
    ) -> None:
        """`settings` override SETTINGS; `programs` and `privilege` are found when not given.

        Raises NotInstalled, NoPrivilege.
        """
        self.programs = programs or postgres_programs()
        self._folder = folder
        self._sockets = sockets
        self._settings = {**SETTINGS, **(settings or {})}
        self._privilege = privilege or choose(self.programs.program("postgres"), folder.postgres)

    def prepare(self) -> None:
        """Makes the cluster if there is none; closes it to a server of another major version.

        A cluster appears under its name only when it is complete. Raises StartFailed.
        """
        cluster = self._folder.postgres
        if self._privilege.account is not None:
            self._folder.path.chmod(0o711)  # to be passed through, not to be read
        self._privilege.own(self._sockets)
        if not (cluster / "PG_VERSION").exists():
            self._initialise(cluster)
        major = (cluster / "PG_VERSION").read_text().strip()
        if major != str(self.programs.major):
            raise StartFailed(
                f"{cluster} was made by PostgreSQL {major}, this is {self.programs.major}: install "
                f"{major}, or move the data with pg_dump, or name another folder by --data"
            )

    def command(self) -> Command:
        """How to run the server in the foreground."""
        settings = {**self._settings, "unix_socket_directories": str(self._sockets)}
        if self.programs.has_statements:
            settings["shared_preload_libraries"] = "pg_stat_statements"
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        program = self.programs.program("postgres")
        return Command(
            argv=self._privilege.argv([program, "-D", str(self._folder.postgres), *arguments]),
            environment=_environment(),
            folder=self._folder.postgres,
            account=self._privilege.account,
        )

    def owner_url(self) -> str:
        """URL of the owner, who may do everything; for migrations and measurements."""
        return self.url_of(OWNER)

    def url_of(self, role: str) -> str:
        """URL of one role, with its password."""
        password = keys.postgres_password(self._folder, role).read_text()
        place = quote(str(self._sockets), safe="")
        return f"postgresql://{role}:{password}@/{DATABASE}?host={place}&port={SOCKET_PORT}"

    def is_ready(self) -> bool:
        """Whether it takes connections (also while the database is not made yet)."""
        return accepts(_with_database(self.owner_url(), "postgres"))

    def provision(self) -> None:
        """Makes database and roles where they are missing; passwords become the kept ones."""
        with psycopg.connect(_with_database(self.owner_url(), "postgres"), autocommit=True) as made:
            if not made.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)
            ).fetchone():
                made.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        make_roles(self.owner_url(), role_passwords(self._folder, None))
        if self.programs.has_statements:
            with psycopg.connect(self.owner_url(), autocommit=True) as made:
                made.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def _initialise(self, cluster: Path) -> None:
        unfinished = cluster.with_name("postgres.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._privilege.own(unfinished)
        # initdb wants the password in a file that its own user can read: the socket folder is
        # private to that user, and goes away with the mesh
        password = self._sockets / "initdb-password"
        password.touch(mode=0o600)
        password.write_text(keys.postgres_password(self._folder, OWNER).read_text())
        self._privilege.own(password)
        locale = ["--locale=C"]
        if self.programs.major >= BUILTIN_COLLATION_SINCE:
            # the same order of texts on every machine, without ICU and without its environment
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        uid, gid = self._privilege.account or (None, None)
        command = [self.programs.program("initdb"), "-D", str(unfinished), "-U", OWNER]
        command += ["--encoding=UTF8", *locale, "--auth=scram-sha-256", f"--pwfile={password}"]
        done = subprocess.run(
            self._privilege.argv(command),
            env=_environment(),
            cwd=unfinished,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=[] if self._privilege.account else None,
        )
        password.unlink()
        if done.returncode != 0:
            raise StartFailed(f"PostgreSQL could not make its cluster:\n{done.stdout.strip()}")
        unfinished.rename(cluster)


def accepts(url: str) -> bool:
    """Whether the server of a URL takes a connection now."""
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def make_roles(owner_url: str, passwords: Mapping[str, str]) -> None:
    """Makes login roles that own nothing, or sets their passwords.

    Raises StartFailed when the owner may not.
    """
    try:
        with psycopg.connect(owner_url, autocommit=True) as connection:
            for role, password in passwords.items():
                known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
                verb = "ALTER" if known.fetchone() else "CREATE"
                connection.execute(
                    sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
                        sql.SQL(verb), sql.Identifier(role), sql.Literal(password)
                    )
                )
            database = sql.Identifier(connection.info.dbname)
            connection.execute(
                sql.SQL("REVOKE TEMPORARY, CREATE ON DATABASE {} FROM PUBLIC").format(database)
            )
    except psycopg.errors.InsufficientPrivilege as error:
        raise StartFailed(
            f"the user of CHATMESH_POSTGRES_URL may not make roles ({error.diag.message_primary}): "
            "give it CREATEROLE and the database"
        ) from None


def as_role(owner_url: str, role: str, password: str) -> str:
    """The owner's URL with another user, for a server of yours."""
    parts = urlsplit(owner_url)
    place = parts.netloc.rpartition("@")[2]
    login = f"{quote(role, safe='')}:{quote(password, safe='')}"
    query = urlencode([(k, v) for k, v in parse_qsl(parts.query) if k not in ("user", "password")])
    return urlunsplit(parts._replace(netloc=f"{login}@{place}", query=query))


def role_passwords(folder: DataFolder, owner_url: str | None) -> dict[str, str]:
    """Role → password. On a server of yours they follow from the owner's password, so that two
    meshes with databases on one server, whose roles are the same, do not lock each other out.
    """
    shared = "" if owner_url is None else conninfo_to_dict(owner_url).get("password") or ""
    passwords = {}
    for role in SERVICE_ROLES.values():
        if shared:
            key = hashlib.blake2s(str(shared).encode()).digest()
            passwords[role] = hashlib.blake2s(role.encode(), key=key).hexdigest()
        else:
            passwords[role] = keys.postgres_password(folder, role).read_text()
    return passwords


def _with_database(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def _environment() -> dict[str, str]:
    """PostgreSQL needs nothing of ours: no locale, no PG… variable that would change it."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
