"""Plays the demonstration on a running mesh: starts the devices, runs the steps, reads spans."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chatmesh.cli.demo.cast import Actor, NotSeen
from chatmesh.cli.demo.evidence import Evidence
from chatmesh.cli.demo.steps import STEPS, Scene, Step
from chatmesh.client import ChatmeshError
from chatmesh.embedded.running import RunningMesh
from chatmesh.embedded.spans import Span, spans_of_trace

SPAN_SECONDS: Final = 10.0
"""Processes export their spans in batches; the last ones come about so late."""
LOOK_AGAIN_SECONDS: Final = 0.1
WANTED_PROCESSES: Final = 7
"""Two chat nodes, sequencer, sync, presence, push, and at least one device."""
EXPORT_DELAY_MS: Final = "200"


@dataclass(slots=True)
class Played:
    """One step as it went. Times in ms; `span_ms` by hop name."""

    number: int
    flow: str
    title: str
    ok: bool = False
    observed: str = ""
    error: str = ""
    waited_ms: float = 0.0
    span_ms: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """The whole demonstration."""

    steps: list[Played]
    spans: list[Span] = field(default_factory=list)
    """Of the first message."""
    message_id: int = 0
    span_processes: int = 0

    @property
    def ok(self) -> bool:
        """Whether every step was seen."""
        return bool(self.steps) and all(step.ok for step in self.steps)


async def play(mesh: RunningMesh, tell: Callable[[Played], None]) -> Outcome:
    """Run all steps; after one that was not seen the rest is not tried."""
    async with AsyncExitStack() as stack:
        evidence = await stack.enter_async_context(Evidence(mesh))
        alice_phone, alice_laptop, bob_phone = await _actors(mesh, stack)
        scene = Scene(mesh, evidence, alice_phone, alice_laptop, bob_phone)
        outcome = Outcome([])
        for number, step in enumerate(STEPS, 1):
            played = await _play(number, step, scene)
            outcome.steps.append(played)
            tell(played)
            if not played.ok:
                return outcome
        outcome.message_id = scene.first["message_id"]
    traced = await _traced(mesh.folder.spans_file, scene, outcome)
    outcome.steps.append(traced)
    tell(traced)
    return outcome


async def _actors(mesh: RunningMesh, stack: AsyncExitStack) -> list[Actor]:
    """Alice's phone, Alice's laptop, Bob's phone; ended together."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": mesh.otlp_endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": EXPORT_DELAY_MS,
    }
    names = ("alice-phone", "alice-laptop", "bob-phone")
    starting = [
        Actor.start(name, mesh.folder.logs / f"demo-{name}.log", environment) for name in names
    ]
    actors = await asyncio.gather(*starting)

    async def end() -> None:
        await asyncio.gather(*(actor.end() for actor in actors))

    stack.push_async_callback(end)
    return list(actors)


async def _play(number: int, step: Step, scene: Scene) -> Played:
    played = Played(number, step.flow, step.title)
    began = time.monotonic()
    try:
        played.observed = await step.run(scene)
        played.ok = True
    except (NotSeen, ChatmeshError) as error:
        played.error = str(error)
    played.waited_ms = (time.monotonic() - began) * 1000
    return played


async def _traced(file: Path, scene: Scene, outcome: Outcome) -> Played:
    """The last step: every hop is one span of the message's trace, from every process."""
    played = Played(len(outcome.steps) + 1, "trace", "every hop is a span of one trace")
    began = time.monotonic()
    wanted = {name for step in STEPS for name in step.spans}
    while True:
        by_trace = [spans_of_trace(file, trace_id) for trace_id in scene.trace_ids]
        spans = [span for found in by_trace for span in found]
        missing = wanted - {span.name for span in spans}
        pids = {span.pid for span in spans}
        if not missing and len(pids) >= WANTED_PROCESSES:
            break
        if time.monotonic() - began > SPAN_SECONDS:
            played.error = f"spans came from {len(pids)} processes, missing hops: {missing or '-'}"
            break
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
    played.ok = not played.error
    played.observed = f"{len(spans)} spans from {len(pids)} processes in the span store"
    played.waited_ms = (time.monotonic() - began) * 1000
    outcome.spans, outcome.span_processes = by_trace[0], len(pids)
    for step, earlier in zip(STEPS, outcome.steps, strict=False):
        earlier.span_ms = {
            span.name: (span.end_ns - span.start_ns) / 1e6
            for span in reversed(spans)
            if span.name in step.spans
        }
    return played
