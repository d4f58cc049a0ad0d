"""The process engine: the switch that must be set before grpc is imported, and the event loop.

Role: `prepare()` is the first call of every `__main__`; `run()` is the last.
Rules: imports no grpc, directly or through others.

Why the switch: since 1.7x grpcio drives its sockets through its own "event engine" threads. Each
frame then crosses two more threads; with it off, streams cost 26 to 38 % less CPU (measured with
grpcio 1.85). It is an experiment flag, not an official option: grpcio is pinned and a test asserts
that the flag still has its effect.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any

from chatmesh.runtime.tally import counting_task_factory

EXPERIMENTS_VARIABLE = "GRPC_EXPERIMENTS"
EVENT_ENGINE_OFF = ("-event_engine_client", "-event_engine_listener")

VERBOSITY_VARIABLE = "GRPC_VERBOSITY"
"""gRPC's C core writes its own lines to stderr, past our log format; only errors are wanted."""


def switch_is_set() -> bool:
    """Whether the environment holds the whole engine switch."""
    present = os.environ.get(EXPERIMENTS_VARIABLE, "").split(",")
    return all(flag in present for flag in EVENT_ENGINE_OFF)


def prepare() -> None:
    """Set the engine switch. Safe to call twice.

    Raises RuntimeError when grpc was already imported without the switch: by then the C core may
    have read its flags, and the process would run with the slow engine without anybody noticing.
    """
    if switch_is_set():
        return
    if "grpc" in sys.modules:
        raise RuntimeError(
            "grpc was imported before chatmesh.runtime.engine.prepare(): call prepare() first, "
            f"or set {EXPERIMENTS_VARIABLE}={','.join(EVENT_ENGINE_OFF)} in the environment"
        )
    given = [flag for flag in os.environ.get(EXPERIMENTS_VARIABLE, "").split(",") if flag]
    wanted = [*given, *(flag for flag in EVENT_ENGINE_OFF if flag not in given)]
    os.environ[EXPERIMENTS_VARIABLE] = ",".join(wanted)
    os.environ.setdefault(VERBOSITY_VARIABLE, "ERROR")


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` on one event loop (uvloop when installed) and return its exit code."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.get_loop().set_task_factory(counting_task_factory)
        return runner.run(main)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # the extra `fast` is not installed, or Windows
        return None
    return uvloop.new_event_loop
