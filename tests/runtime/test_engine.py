"""The engine switch: set before grpc, refused after it, and with an effect that can be seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from chatmesh.runtime import engine

CALLS = 100

# Makes CALLS health calls within one process and prints how often threads of gRPC's event engine
# were woken for them.
PROBE = f"""
import asyncio, os
PREPARE
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

def wakeups():
    total = 0
    for task in os.listdir("/proc/self/task"):
        base = f"/proc/self/task/{{task}}"
        if open(f"{{base}}/comm").read().strip() != "event_engine":
            continue
        for line in open(f"{{base}}/status"):
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total

async def main():
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{{port}}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest())
        before = wakeups()
        for _ in range({CALLS}):
            await stub.Check(health_pb2.HealthCheckRequest())
        print(os.environ.get("GRPC_EXPERIMENTS", ""), wakeups() - before)
    await server.stop(0)
    return 0

RUN
"""


def run_python(
    code: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != engine.EXPERIMENTS_VARIABLE}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**clean, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_the_switch_takes_the_event_engine_off_the_path() -> None:
    plain = run_python(PROBE.replace("PREPARE", "").replace("RUN", "asyncio.run(main())"))
    prepare = "from chatmesh.runtime import engine; engine.prepare()"
    switched = run_python(PROBE.replace("PREPARE", prepare).replace("RUN", "engine.run(main())"))
    assert plain.returncode == 0, plain.stderr
    assert switched.returncode == 0, switched.stderr
    experiments, wakeups = switched.stdout.split()
    assert experiments == ",".join(engine.EVENT_ENGINE_OFF)
    assert int(plain.stdout) > 2 * CALLS, "the probe no longer sees the engine at all"
    assert int(wakeups) < CALLS, "the engine's threads still carry the calls"


def test_prepare_after_grpc_is_refused() -> None:
    done = run_python("import grpc; from chatmesh.runtime import engine; engine.prepare()")
    assert done.returncode != 0
    assert "before chatmesh.runtime.engine.prepare()" in done.stderr


def test_prepare_keeps_other_experiments_and_is_idempotent() -> None:
    code = (
        "from chatmesh.runtime import engine; engine.prepare(); engine.prepare(); import grpc, os; "
        "engine.prepare(); print(os.environ['GRPC_EXPERIMENTS'])"
    )
    done = run_python(code, {engine.EXPERIMENTS_VARIABLE: "tcp_frame_size_tuning"})
    assert done.stdout.strip() == "tcp_frame_size_tuning," + ",".join(engine.EVENT_ENGINE_OFF)


def test_engine_imports_no_grpc() -> None:
    done = run_python("import sys; import chatmesh.runtime.engine; print('grpc' in sys.modules)")
    assert done.stdout.strip() == "False"


def test_run_returns_the_exit_code_on_uvloop() -> None:
    code = (
        "from chatmesh.runtime import engine\n"
        "import asyncio\n"
        "async def main():\n"
        "    print(type(asyncio.get_running_loop()).__module__)\n"
        "    return 7\n"
        "raise SystemExit(engine.run(main()))\n"
    )
    done = run_python(code)
    assert done.returncode == 7
    assert done.stdout.split(".")[0].strip() in ("uvloop", "asyncio")
