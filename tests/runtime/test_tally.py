"""The counts that the counting test of the message path stands on are made where things happen."""

import asyncio
import subprocess
import sys

from prometheus_client import generate_latest

from chatmesh.runtime import metrics, tally

COUNTED = """
import asyncio
from chatmesh.runtime import engine, logs, trace
from chatmesh.runtime.tally import TALLY
from opentelemetry.sdk.trace import SpanProcessor

async def nothing():
    pass

async def main():
    logs.configure("test", "info", "json")
    before = TALLY.tasks
    await asyncio.gather(nothing(), nothing())
    async with asyncio.TaskGroup() as group:
        group.create_task(nothing(), name="named")
    log = logs.logger("test")
    log.info("a line")
    log.debug("below the level: no line")
    tracer = trace.Tracer("test", [SpanProcessor()], 1.0)
    tracer.hop("one", tracer.root(), 1, 2)
    trace.Tracer("silent").hop("none", trace.new_root(True), 1, 2)
    print(TALLY.tasks - before, TALLY.log_lines, TALLY.spans)
    return 0

raise SystemExit(engine.run(main()))
"""


def test_tasks_lines_and_spans_are_counted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", "1", "1"]
    assert done.stderr.count("a line") == 1


async def test_the_factory_makes_ordinary_tasks() -> None:
    async def answer() -> int:
        return 42

    before = tally.TALLY.tasks
    loop = asyncio.get_running_loop()
    task = tally.counting_task_factory(loop, answer(), name="mine")
    assert await task == 42
    assert task.get_name() == "mine"
    assert tally.TALLY.tasks == before + 1


def test_every_count_is_exported() -> None:
    metrics.register_process_metrics()
    page = generate_latest(metrics.REGISTRY).decode()
    assert tally.HELP.keys() == set(tally.Tally.__slots__)
    for name in tally.HELP:
        assert f"chatmesh_tally_{name}_total {float(getattr(tally.TALLY, name))}" in page
