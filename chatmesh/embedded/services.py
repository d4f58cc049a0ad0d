"""What the supervisor must know of each server: its module, its order, its environment.

Rules: this is all the knowledge of servers that chatmesh.embedded has. It starts modules by name
and imports nothing of them but their settings (`MODULE.settings`), by name as well, to tell what is
wrong in the environment before anything is started.
"""

import http.client
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatmesh.embedded import certificates
from chatmesh.embedded.children import Command
from chatmesh.embedded.ports import HOST, PortPlan, ServerPorts, is_free
from chatmesh.runtime.settings import ServerSettings, SettingsError, load
from chatmesh.variables import NAMES

WRONG_SETTINGS_CODE = 2
"""The exit code of a server whose settings are wrong: to start it again would be in vain."""
STOP_GRACE_SECONDS = 10
"""How long a server may drain when the whole mesh stops; nobody is left to go to."""
OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
READY_TIMEOUT_SECONDS = 2
# a variable of a single server that its neighbours must not inherit from our own environment
_OURS = (
    "POSTGRES_URL",
    "REDIS_URL",
    "MESH_LISTEN",
    "PUBLIC_LISTEN",
    "METRICS_LISTEN",
    "PROBE_LISTEN",
    "PARENT_FD",
)


@dataclass(frozen=True, slots=True)
class Service:
    """One kind of server. Lower stages stop first."""

    module: str
    short: str
    stage: int
    has_postgres: bool
    has_redis: bool


SERVICES: Mapping[str, Service] = {
    service.module: service
    for service in (
        Service("chat_svc", "chat", 0, has_postgres=True, has_redis=True),
        Service("sync_svc", "sync", 1, has_postgres=False, has_redis=True),
        Service("push_svc", "push", 2, has_postgres=True, has_redis=False),
        Service("presence_svc", "presence", 3, has_postgres=False, has_redis=True),
        Service("sequencer_svc", "sequencer", 4, has_postgres=True, has_redis=False),
    )
}
SPANS_STAGE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all servers of one mesh share. URLs hold passwords."""

    folder: Path
    certificates: Path
    postgres_urls: Mapping[str, str]
    """By module; only services that have a role."""
    redis_url: str
    hint_key: Path
    development_secret: Path | None
    """None when CHATMESH_ISSUERS names real ones."""
    trace_sample_ratio: float | None
    plan: PortPlan
    names: Mapping[str, Sequence[str]]
    """Module → the names of its replicas."""
    otlp_endpoint: str


def process_names(replicas: Mapping[str, int]) -> list[tuple[str, str]]:
    """(name, module) of every server: chat-1, chat-2, …, sync, sync-2, …, push, …."""
    names: list[tuple[str, str]] = []
    for module, service in SERVICES.items():
        for number in range(1, replicas.get(module, 1) + 1):
            numbered = module == "chat_svc" or number > 1
            names.append((f"{service.short}-{number}" if numbered else service.short, module))
    return names


def command_of(
    name: str,
    module: str,
    ports: ServerPorts,
    around: Surroundings,
    overrides: Mapping[str, str],
) -> Command:
    """How to run one server. `overrides` are variables that win over everything."""
    return Command(
        argv=[sys.executable, "-m", module],
        environment={**_environment(name, module, ports, around), **overrides},
        folder=around.folder,
        watches_parent=True,
    )


def settings_problems(module: str, environment: Mapping[str, str]) -> list[str]:
    """What is wrong with a server's environment, by the server's own rules; empty: nothing."""
    settings = importlib.import_module(f"{module}.settings")
    problems: list[str] = []
    for value in vars(settings).values():
        if not (isinstance(value, type) and issubclass(value, ServerSettings)):
            continue
        if value.__module__ != settings.__name__:
            continue  # a base
        try:
            load(value, environment, known=NAMES)
        except SettingsError as error:
            problems += error.problems
    return problems


def is_ready(ports: ServerPorts) -> bool:
    """Whether a server says on /readyz that it serves, and listens on all its ports."""
    return _readyz(ports)[0] == 200 and not any(is_free(port) for _, port in ports.listed())


def what_is_missing(ports: ServerPorts) -> str:
    """What a server that does not serve says it waits for; empty when it does not answer."""
    status, text = _readyz(ports)
    return "" if status in (0, 200) else text


def _readyz(ports: ServerPorts) -> tuple[int, str]:
    """Status and text; status 0 when nobody answers."""
    connection = http.client.HTTPConnection(HOST, ports.metrics, timeout=READY_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(2048).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def _environment(
    name: str, module: str, ports: ServerPorts, around: Surroundings
) -> dict[str, str]:
    service = SERVICES[module]
    files = certificates.files_of(around.certificates, module)
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not any(key in (f"CHATMESH_{name}", f"CHATMESH_{name}_FILE") for name in _OURS)
    }
    ours = {
        "MESH_LISTEN": f"{HOST}:{ports.mesh}",
        "METRICS_LISTEN": f"{HOST}:{ports.metrics}",
        "MESH_TLS_CA": str(files.ca),
        "MESH_TLS_CERT": str(files.certificate),
        "MESH_TLS_KEY": str(files.key),
        "EMBEDDED": "true",
    }
    # what somebody set on purpose stays
    wished = {"SHUTDOWN_GRACE_SECONDS": str(STOP_GRACE_SECONDS)}
    if around.trace_sample_ratio is not None:
        wished["TRACE_SAMPLE_RATIO"] = str(around.trace_sample_ratio)
    for target in SERVICES.values():
        ours[f"{target.short.upper()}_TARGET"] = ",".join(
            f"{HOST}:{around.plan.servers[name].mesh}" for name in around.names[target.module]
        )
    if service.has_postgres:
        ours["POSTGRES_URL"] = around.postgres_urls[module]
    if service.has_redis:
        ours["REDIS_URL"] = around.redis_url
    wished["NODE_NAME"] = name
    if ports.public is not None:
        ours["PUBLIC_LISTEN"] = f"{HOST}:{ports.public}"
        ours["HINT_KEY_FILE"] = str(around.hint_key)
        if around.development_secret is not None:
            ours["DEV_SECRET_FILE"] = str(around.development_secret)
    return {
        **{f"CHATMESH_{name}": value for name, value in wished.items()},
        OTLP_ENDPOINT: around.otlp_endpoint,
        # `chatmesh trace` right after a send: OpenTelemetry's own 5 s are long for a person
        "OTEL_BSP_SCHEDULE_DELAY": "1000",
        "PYTHONFAULTHANDLER": "1",
        **inherited,
        **{f"CHATMESH_{name}": value for name, value in ours.items()},
    }
