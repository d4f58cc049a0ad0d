"""Finds the mesh that runs on a data folder: what every command but `up` begins with.

Rules: reads mesh.json, which holds no secret; secrets are read from their own files when asked for.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatmesh.embedded import certificates, keys, tokens
from chatmesh.embedded.errors import FolderUnusable, NotRunning
from chatmesh.embedded.layout import VARIABLE, DataFolder, default_folder


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process of the mesh. Addresses are HOST:PORT, "" where there is none."""

    name: str
    service: str
    pid: int
    public: str
    mesh: str
    metrics: str
    log: Path


@dataclass(frozen=True, slots=True)
class RunningMesh:
    """A mesh as mesh.json describes it."""

    folder: DataFolder
    version: str
    pid: int
    started_at_ms: int
    processes: tuple[ProcessInfo, ...]
    otlp_endpoint: str

    @property
    def public(self) -> list[str]:
        """Public addresses, one a chat node."""
        return [process.public for process in self.processes if process.public]

    def addresses_of(self, service: str) -> list[str]:
        """Mesh addresses of a service's replicas, by module name."""
        return [process.mesh for process in self.processes if process.service == service]

    def token(self, user_id: str, **options: Any) -> str:
        """A development token; options as of `tokens.mint`."""
        secret = keys.development_secret(self.folder).read_text()
        return tokens.mint(secret, user_id, **options)

    def cli_certificates(self) -> certificates.CertificateFiles:
        """The command line's identity on the mesh."""
        return certificates.files_of(self.folder.certificates, certificates.CLI)

    def owner_url(self) -> str:
        """URL of the PostgreSQL owner, with its password, for measurements and migrations."""
        return (self.folder.secrets / "postgres-url").read_text()

    def redis_url(self) -> str:
        """URL of Valkey or Redis, with its password."""
        return (self.folder.secrets / "redis-url").read_text()


def find(data: Path | None = None) -> RunningMesh:
    """The mesh on a data folder (default: CHATMESH_DATA, else ~/.chatmesh).

    Raises NotRunning, saying how to start one, or FolderUnusable.
    """
    folder = DataFolder(data or default_folder())
    hint = f"start one with `chatmesh up`, or name its folder by --data or {VARIABLE}"
    try:
        content = json.loads(folder.mesh_file.read_bytes())
    except FileNotFoundError:
        raise NotRunning(f"no mesh runs on {folder.path}: {hint}") from None
    except OSError as error:
        raise FolderUnusable(
            f"cannot read the data folder {folder.path}: {error.strerror}; "
            f"name another by --data or {VARIABLE}"
        ) from None
    except ValueError:
        content = None
    if not folder.is_locked():
        raise NotRunning(f"the mesh on {folder.path} has ended: {hint}")
    try:
        return describe(folder, content or {})
    except (KeyError, TypeError, AttributeError):
        raise FolderUnusable(
            f"{folder.mesh_file} is not what this release of chatmesh writes: stop the mesh on "
            f"{folder.path} and start it again, or name another folder by --data or {VARIABLE}"
        ) from None


def describe(folder: DataFolder, content: dict[str, Any]) -> RunningMesh:
    """mesh.json as values."""
    return RunningMesh(
        folder=folder,
        version=content["version"],
        pid=content["pid"],
        started_at_ms=content["started_at_ms"],
        processes=tuple(
            ProcessInfo(**{**raw, "log": Path(raw["log"])}) for raw in content["processes"]
        ),
        otlp_endpoint=content["otlp_endpoint"],
    )
