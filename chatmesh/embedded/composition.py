"""What makes up a mesh, and in which order it comes up.

Role: `Composition.start()` turns options into parts and hands them to the keeper, one after the
other: Valkey and the servers without PostgreSQL first, PostgreSQL meanwhile, then the rest, and
migrations while they start: a server waits for its schema. Before any of it, settings and stores of
yours are looked at: what is wrong is told at once. What `supervisor.Mesh` offers to its users is
not known here.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chatmesh.embedded import certificates, keys, services, store_checks
from chatmesh.embedded.children import Command
from chatmesh.embedded.errors import StartFailed
from chatmesh.embedded.layout import DataFolder, default_folder, write_private
from chatmesh.embedded.parts import Keeper, Part
from chatmesh.embedded.ports import HOST, Mode, PortPlan, ServerPorts, is_free
from chatmesh.embedded.postgres import (
    SERVICE_ROLES,
    EmbeddedPostgres,
    as_role,
    make_roles,
    role_passwords,
)
from chatmesh.embedded.processes import STORE_STAGE, ProcessTable
from chatmesh.embedded.store_checks import POSTGRES_URL, REDIS_URL
from chatmesh.embedded.valkey import EmbeddedValkey
from chatmesh.runtime.addresses import check_postgres_url, check_redis_url
from chatmesh.runtime.settings import SettingsError
from chatmesh.runtime.variables import FILE_SUFFIX

STORE_SECONDS = 60
"""PostgreSQL may have to recover from a kill first."""
SERVERS_SECONDS = 120
"""Far more than they take; a loaded machine is slow, a broken one is told by deaths."""
_BEFORE_POSTGRES = ("presence_svc", "sync_svc")
# stand for URLs that are not known yet, or are bad themselves, while the rest is looked at
_WELL_FORMED_POSTGRES = "postgresql://localhost/chatmesh"
_WELL_FORMED_REDIS = "redis://localhost"


def _given(name: str) -> str | None:
    """A URL of the environment, also by file; an empty one is none. Raises StartFailed."""
    file = os.environ.get(name + FILE_SUFFIX)
    if not file:
        return os.environ.get(name) or None
    try:
        return Path(file).read_text().strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise StartFailed(f"{name}{FILE_SUFFIX}: cannot read {file!r}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshOptions:
    """What a mesh should be."""

    data: Path = field(default_factory=default_folder)
    chat_nodes: int = 2
    ports: Mode = "fixed"
    replicas: Mapping[str, int] = field(default_factory=dict)
    """By module name (`sync_svc`); 1 where absent. Chat nodes have their own field."""
    postgres_url: str | None = field(default_factory=lambda: _given(POSTGRES_URL))
    """URL of a PostgreSQL of yours, as its owner; None runs the embedded one."""
    redis_url: str | None = field(default_factory=lambda: _given(REDIS_URL))
    """URL of a Redis or Valkey of yours; None runs the embedded one."""
    trace_sample_ratio: float | None = None
    """Share of messages traced, 0 to 1; None leaves the servers' default."""
    postgres_settings: Mapping[str, str] = field(default_factory=dict)
    """Over the embedded PostgreSQL's own settings."""
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Variables by process name (`chat-1`), by module, or "*" for every server."""
    servers: bool = True
    """False starts the stores and the span receiver only."""

    def processes(self) -> list[tuple[str, str]]:
        """(name, module) of every server. Raises StartFailed for a mesh without chat nodes."""
        if not self.servers:
            return []
        if self.chat_nodes < 1:
            raise StartFailed("a mesh has at least one chat node")
        return services.process_names({**self.replicas, "chat_svc": self.chat_nodes})


class Composition:
    """One start of one mesh."""

    def __init__(
        self,
        options: MeshOptions,
        folder: DataFolder,
        plan: PortPlan,
        keeper: Keeper,
        report: Callable[[str], None],
    ) -> None:
        self._options = options
        self._folder = folder
        self._plan = plan
        self._keeper = keeper
        self._report = report
        self._processes = options.processes()
        self.otlp_endpoint = ""

    def start(self, table: ProcessTable) -> None:
        """Starts every part and waits until all serve. Raises an EmbeddedError."""
        sockets = Path(tempfile.mkdtemp(prefix="chatmesh-"))  # short: a socket's path has 107 bytes
        table.add_folder(sockets)
        certificates.issue(self._folder.certificates, services.SERVICES)
        self.otlp_endpoint = os.environ.get(services.OTLP_ENDPOINT) or self._own_spans()
        self._check_settings()
        store_checks.check(
            self._folder.path,
            postgres_url=self._options.postgres_url,
            redis_url=self._options.redis_url,
        )
        redis_url = self._start_valkey(sockets)
        self._start_spans()
        postgres, owner_url = self._find_postgres(sockets)
        write_private(self._folder.secrets / "postgres-url", owner_url.encode())
        write_private(self._folder.secrets / "redis-url", redis_url.encode())
        around = self._around(owner_url, redis_url)
        self._start_servers(_BEFORE_POSTGRES, around)
        if postgres is not None:
            self._start_postgres(postgres)
        else:
            self._report(f"using PostgreSQL of {POSTGRES_URL}")
            make_roles(owner_url, self._role_passwords(owner_url))
        if postgres is not None and self._options.postgres_settings:
            store_checks.check(self._folder.path, postgres_url=owner_url)
        if self._processes:
            # they wait for their schema; reading their code and migrating take turns at the disk
            self._start_servers(services.SERVICES.keys() - set(_BEFORE_POSTGRES), around)
            self._migrate(owner_url)
            self._report(f"waiting for {len(self._processes)} servers")
        self._keeper.wait_ready(self._keeper.names(), SERVERS_SECONDS)

    def _check_settings(self) -> None:
        """Raises StartFailed with all that is wrong in the environment of any server."""
        problems: list[str] = []
        urls = [_WELL_FORMED_POSTGRES, _WELL_FORMED_REDIS]
        given = (
            (POSTGRES_URL, self._options.postgres_url, check_postgres_url),
            (REDIS_URL, self._options.redis_url, check_redis_url),
        )
        for place, (name, url, check) in enumerate(given):
            if url is None:
                continue
            try:
                urls[place] = check(url)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        around = self._around(*urls)
        for name, module in self._processes:
            environment = self._command(name, module, self._plan.servers[name], around).environment
            problems += services.settings_problems(module, environment)
        if problems:
            raise StartFailed(str(SettingsError(list(dict.fromkeys(problems)))))

    def _start_valkey(self, sockets: Path) -> str:
        if self._options.redis_url is not None:
            self._report(f"using Redis of {REDIS_URL}")
            return self._options.redis_url
        self._report("starting Valkey")
        valkey = EmbeddedValkey(self._folder, sockets)
        valkey.prepare()
        self._keeper.start(
            Part(
                name="valkey",
                command=valkey.command,
                is_ready=valkey.is_ready,
                stage=STORE_STAGE,
                grace_seconds=10,
            )
        )
        return valkey.url()

    def _own_spans(self) -> str:
        return f"http://{HOST}:{self._plan.spans}"

    def _start_spans(self) -> None:
        """Starts the span receiver, unless the environment names another."""
        if self.otlp_endpoint != self._own_spans():
            return
        port = self._plan.spans
        arguments = ["--listen", f"{HOST}:{port}", "--file", str(self._folder.spans_file)]
        argv = [sys.executable, "-m", "chatmesh.embedded.span_receiver", *arguments]
        self._keeper.start(
            Part(
                name="spans",
                command=lambda: Command(argv=argv, folder=self._folder.path),
                is_ready=lambda: not is_free(port),
                stage=services.SPANS_STAGE,
                grace_seconds=5,
            )
        )

    def _find_postgres(self, sockets: Path) -> tuple[EmbeddedPostgres | None, str]:
        if self._options.postgres_url is not None:
            return None, self._options.postgres_url
        settings = self._options.postgres_settings
        postgres = EmbeddedPostgres(self._folder, sockets, settings=settings)
        return postgres, postgres.owner_url()

    def _start_postgres(self, postgres: EmbeddedPostgres) -> None:
        first = not self._folder.postgres.exists()
        self._report("making a PostgreSQL cluster" if first else "starting PostgreSQL")
        postgres.prepare()
        self._keeper.start(
            Part(
                name="postgres",
                command=postgres.command,
                is_ready=postgres.is_ready,
                stage=STORE_STAGE + 1,
                stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint
                grace_seconds=30,
            )
        )
        self._keeper.wait_ready(["postgres"], STORE_SECONDS)
        postgres.provision()

    def _around(self, owner_url: str, redis_url: str) -> services.Surroundings:
        names: dict[str, list[str]] = {module: [] for module in services.SERVICES}
        for name, module in self._processes:
            names[module].append(name)
        passwords = self._role_passwords(owner_url)
        real_issuers = "CHATMESH_ISSUERS" in os.environ or "CHATMESH_ISSUERS_FILE" in os.environ
        return services.Surroundings(
            folder=self._folder.path,
            certificates=self._folder.certificates,
            postgres_urls={
                module: as_role(owner_url, role, passwords[role])
                for module, role in SERVICE_ROLES.items()
            },
            redis_url=redis_url,
            hint_key=keys.hint_key(self._folder),
            development_secret=None if real_issuers else keys.development_secret(self._folder),
            trace_sample_ratio=self._options.trace_sample_ratio,
            plan=self._plan,
            names=names,
            otlp_endpoint=self.otlp_endpoint,
        )

    def _role_passwords(self, owner_url: str) -> dict[str, str]:
        embedded = self._options.postgres_url is None
        return role_passwords(self._folder, None if embedded else owner_url)

    def _migrate(self, owner_url: str) -> None:
        from chatmesh.runtime import migrate

        self._report("migrating")
        for stage in migrate.STAGES:
            for module in SERVICE_ROLES:
                migrate.apply(owner_url, module, stage)

    def _start_servers(self, modules: Collection[str], around: services.Surroundings) -> None:
        for name, module in self._processes:
            if module in modules:
                self._keeper.start(self._server(name, module, self._plan.servers[name], around))

    def _server(
        self, name: str, module: str, ports: ServerPorts, around: services.Surroundings
    ) -> Part:
        command = self._command(name, module, ports, around)
        return Part(
            name=name,
            command=lambda: command,
            is_ready=lambda: services.is_ready(ports),
            what_is_missing=lambda: services.what_is_missing(ports),
            stage=services.SERVICES[module].stage,
            grace_seconds=services.STOP_GRACE_SECONDS + 5,
            hopeless_code=services.WRONG_SETTINGS_CODE,
        )

    def _command(
        self, name: str, module: str, ports: ServerPorts, around: services.Surroundings
    ) -> Command:
        given = self._options.environment
        overrides = {
            key: value for at in ("*", module, name) for key, value in given.get(at, {}).items()
        }
        return services.command_of(name, module, ports, around, overrides)
