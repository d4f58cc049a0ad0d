"""Composition root of sequencer_svc.

The stop, after what `lifecycle` does: streams are told to leave, the listener ends, the loops end,
then the worker is given back with its true position.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack

from chatmesh.mesh.v1 import callers_pb2, sequencer_pb2, sequencer_pb2_grpc
from chatmesh.runtime.callers import allowed_callers
from chatmesh.runtime.clock import SystemClock
from chatmesh.runtime.errors import StartupError
from chatmesh.runtime.lifecycle import Lifecycle
from chatmesh.runtime.postgres import Lane
from chatmesh.runtime.server import mesh_server
from chatmesh.runtime.trace import telemetry
from sequencer_svc.servicer import NEXT_IDS, SequencerServicer
from sequencer_svc.settings import SequencerSettings
from sequencer_svc.store.workers import PACKAGE, WorkerStore
from sequencer_svc.watch import Watch
from sequencer_svc.worker import Policy, Worker

ROLE = "chatmesh_sequencer"
_SERVICE = sequencer_pb2.DESCRIPTOR.services_by_name["SequencerService"]


async def app(lifecycle: Lifecycle, settings: SequencerSettings) -> None:
    """Serve until told to stop. Raises StartupError when this process may not give ids."""
    if settings.postgres_url is None:
        raise StartupError("CHATMESH_POSTGRES_URL is not set")
    clock = SystemClock()
    readiness = lifecycle.readiness
    async with AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(telemetry(PACKAGE, settings))
        database = readiness.require("postgresql")
        lane = await stack.enter_async_context(
            Lane(
                settings.postgres_url.get_secret_value(),
                role_name=ROLE,
                name="workers",
                readiness=database,
                durable=settings.postgres_durable,
            )
        )
        policy = Policy(
            holder=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            window_ms=round(settings.sequencer_window_seconds * 1000),
            fixed_worker=settings.sequencer_worker,
        )
        worker = Worker(WorkerStore(lane), settings.layout, policy, clock, readiness, database)
        servicer = SequencerServicer(worker, tracer, readiness)
        server = mesh_server(
            settings,
            readiness,
            callers=_callers(settings.sequencer_extra_callers),
            tracer=tracer,
            ungated=[NEXT_IDS],
        )
        server.add(sequencer_pb2_grpc.add_SequencerServiceServicer_to_server, servicer)
        await server.start()

        async def hold_worker() -> None:
            await worker.run()
            if worker.fatal is not None:
                lifecycle.stop(str(worker.fatal))

        lifecycle.background("worker", hold_worker)
        lifecycle.background("watch", Watch(worker, clock).run)
        await lifecycle.run([server], [servicer.leave])
        await worker.give_back()
        if worker.fatal is not None:
            raise worker.fatal


def _callers(extra: tuple[str, ...]) -> Mapping[str, frozenset[str]]:
    named = allowed_callers([_SERVICE], callers_pb2.callers)
    return {method: callers | set(extra) for method, callers in named.items()}
