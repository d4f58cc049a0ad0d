"""The machine and the versions a run was made with: without them a figure means nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any, Final

import psutil

import chatmesh

_PACKAGES: Final = ("grpcio", "protobuf", "uvloop", "psycopg", "redis", "hiredis")


def describe() -> dict[str, Any]:
    """Processor, cores this process may use, memory, system, Python and package versions."""
    return {
        "processor": _processor(),
        "cores": len(psutil.Process().cpu_affinity() or ())
        if hasattr(psutil.Process, "cpu_affinity")
        else os.cpu_count(),
        "memory_mib": psutil.virtual_memory().total >> 20,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "chatmesh": chatmesh.__version__,
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
