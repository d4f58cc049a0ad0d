"""Runs the load of `bench ids` and looks through all that was given: no id twice, each rising."""

from __future__ import annotations

import array
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatmesh.cli.bench.processes import MeshProcesses
from chatmesh.embedded.running import RunningMesh
from chatmesh.runtime import engine

_MARGIN_SECONDS = 60


class LoadFailed(Exception):
    """A load process got no ids."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What came of requests of one size."""

    batch: int
    ids: int
    requests: int
    seconds: float
    sequencer_cpu_seconds: float
    unordered: int
    ranges: array.array[int]

    def to_json(self) -> dict[str, Any]:
        """Rates, over the whole and per second of the sequencer's CPU."""
        cpu = max(self.sequencer_cpu_seconds, 1e-9)
        return {
            "batch": self.batch,
            "ids_per_s": round(self.ids / self.seconds),
            "requests_per_s": round(self.requests / self.seconds),
            "ids_per_core_s": round(self.ids / cpu),
            "sequencer_cores": round(cpu / self.seconds, 3),
            "unordered": self.unordered,
        }


def measure(
    mesh: RunningMesh, batch: int, *, seconds: float, in_flight: int, processes: int
) -> Batch:
    """One size of requests, from so many processes. Raises LoadFailed, MeshDied."""
    targets = mesh.addresses_of("sequencer_svc")
    files = mesh.cli_certificates()
    watched = MeshProcesses(mesh)
    with tempfile.TemporaryDirectory(prefix="chatmesh-bench-") as folder, ExitStack() as stack:
        # the load imports gRPC before it can set the switch itself
        experiments = ",".join(engine.EVENT_ENGINE_OFF)
        environment = {**os.environ, engine.EXPERIMENTS_VARIABLE: experiments}
        before = watched.sample().cpu_s["sequencer_svc"]
        loads = []
        for number in range(processes):
            order: dict[str, Any] = {
                "target": targets[number % len(targets)],
                "ca": str(files.ca), "cert": str(files.certificate), "key": str(files.key),
                "batch": batch, "in_flight": in_flight, "seconds": seconds,
                "file": f"{folder}/{number}",
            }  # fmt: skip
            load = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "chatmesh.cli.bench.ids_load"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
                )
            )  # fmt: skip
            stack.callback(load.kill)
            loads.append((load, json.dumps(order) + "\n"))
        for load, line in loads:
            _start(load, line)
        results = [_result(load, seconds + _MARGIN_SECONDS) for load, _ in loads]
        cpu = watched.sample().cpu_s["sequencer_svc"] - before
        ranges = array.array("Q")
        for number in range(processes):
            ranges.frombytes(Path(f"{folder}/{number}").read_bytes())
    return Batch(
        batch=batch,
        ids=sum(one["ids"] for one in results),
        requests=sum(one["requests"] for one in results),
        seconds=max(one["seconds"] for one in results),
        sequencer_cpu_seconds=cpu,
        unordered=sum(one["unordered"] for one in results),
        ranges=ranges,
    )


def duplicated(batches: Iterable[Batch]) -> int:
    """How many ids were given more than once, over all of it."""
    ranges = sorted(
        pair for one in batches for pair in zip(one.ranges[::2], one.ranges[1::2], strict=True)
    )
    overlap = 0
    end = 0
    for first, count in ranges:
        overlap += max(0, min(end, first + count) - first)
        end = max(end, first + count)
    return overlap


def _start(load: subprocess.Popen[str], order: str) -> None:
    if load.stdin is None:
        raise LoadFailed("a load process has no input")
    load.stdin.write(order)
    load.stdin.flush()


def _result(load: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    try:
        output, _ = load.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise LoadFailed("a load process does not end") from None
    result: dict[str, Any] = json.loads(output) if output else {"failed": "a load process died"}
    if "failed" in result:
        raise LoadFailed(str(result["failed"]))
    return result
