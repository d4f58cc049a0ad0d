"""Whom the doctor looks at: the servers of a running mesh, or what the environment describes."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from chatmesh.cli.doctor.findings import Finding, fail

STORED: Final = ("chat_svc", "sequencer_svc", "push_svc")
"""Services with a schema."""
DOCTORS_TENANT: Final = "chatmesh-doctor"


@dataclass(frozen=True, slots=True)
class Server:
    """One server and its settings; None: they are wrong."""

    name: str
    service: str
    settings: Any
    public: str = ""
    metrics: str = ""


@dataclass(slots=True)
class Subjects:
    """All of it."""

    servers: list[Server] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    """What was wrong already."""
    mesh: Any = None
    """The running mesh on this machine; None: only the environment is known."""

    def of(self, service: str) -> Server | None:
        """The first server of a service whose settings are right."""
        return next(
            (one for one in self.servers if one.service == service and one.settings is not None),
            None,
        )

    def secret_of(self, service: str, name: str) -> str:
        """A secret setting of a service, "" when it has none."""
        server = self.of(service)
        value = getattr(server.settings, name, None) if server else None
        return value.get_secret_value() if value is not None else ""


def find(data: pathlib.Path | None, services: list[str] | None) -> Subjects:
    """The environment's servers if it names a PostgreSQL, else the running mesh's.

    Raises CommandError, EmbeddedError.
    """
    from chatmesh.cli.config import environments

    from_environment = data is None and "CHATMESH_PUBLIC_LISTEN" in os.environ
    found = Subjects()
    if from_environment:
        for name, module, environ in environments(services or ["chat"], None, False, None):
            found.servers.append(_server(found, name, module, environ))
        return found
    from chatmesh.embedded import running

    found.mesh = running.find(data)
    processes = {one.name: one for one in found.mesh.processes}
    for name, module, environ in environments(services, None, True, data):
        process = processes[name]
        server = _server(found, name, module, environ)
        found.servers.append(Server(name, module, server.settings, process.public, process.metrics))
    return found


def _server(found: Subjects, name: str, module: str, environ: Mapping[str, str]) -> Server:
    from chatmesh.cli.config import settings_class
    from chatmesh.runtime.settings import SettingsError, load
    from chatmesh.variables import NAMES

    try:
        return Server(name, module, load(settings_class(module), environ, known=NAMES))
    except SettingsError as error:
        found.findings += [
            fail(f"settings {name}", problem, "correct it; `chatmesh config check` tells the same")
            for problem in error.problems
        ]
        return Server(name, module, None)
