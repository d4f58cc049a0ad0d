"""Composition root of presence_svc: everything is opened here, and closed in reverse."""

from contextlib import AsyncExitStack

from chatmesh import variables
from chatmesh.mesh.v1 import callers_pb2, presence_pb2, presence_pb2_grpc
from chatmesh.runtime import redis
from chatmesh.runtime.callers import allowed_callers
from chatmesh.runtime.clock import SystemClock
from chatmesh.runtime.errors import StartupError
from chatmesh.runtime.lifecycle import Lifecycle
from chatmesh.runtime.lifecycle import main as lifecycle_main
from chatmesh.runtime.server import mesh_server
from chatmesh.runtime.trace import telemetry
from presence_svc.lease import LeaseTimes, Warmth
from presence_svc.observer import Observer
from presence_svc.reaper import Reaper
from presence_svc.servicer import PresenceServicer
from presence_svc.settings import PresenceSettings
from presence_svc.store.accounts import AccountStore
from presence_svc.store.nodes import NodeStore
from presence_svc.store.shards import Shards
from presence_svc.watch import Watches

MS_PER_DAY = 86_400_000


async def main() -> int:
    """Load the settings and serve until told to stop; the exit code."""
    return await lifecycle_main(PresenceSettings, serve, known=variables.NAMES)


async def serve(lifecycle: Lifecycle, settings: PresenceSettings) -> None:
    """Open Redis, start loops and listener, run.

    Raises StartupError when it cannot: bad URL, address taken.
    """
    clock = SystemClock()
    times = LeaseTimes(settings.presence_lease_seconds)
    redis_up = lifecycle.readiness.require("redis")
    leases_read = lifecycle.readiness.require("presence leases")
    async with AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(telemetry("presence_svc", settings))
        try:
            client = redis.client(settings.redis_url.get_secret_value(), readiness=redis_up)
        except ValueError as error:
            raise StartupError(f"CHATMESH_REDIS_URL: {error}") from None
        stack.push_async_callback(client.aclose)
        shards = Shards(client)
        accounts = AccountStore(shards, keep_ms=settings.presence_last_seen_days * MS_PER_DAY)
        nodes = NodeStore(shards, times)
        watches = Watches(settings.presence_debounce_seconds)
        warmth = Warmth(settings.presence_lease_seconds)
        observer = Observer(client, accounts, nodes, watches, warmth, clock)
        reaper = Reaper(nodes, accounts, observer, warmth, clock, leases_read)
        server = mesh_server(
            settings,
            lifecycle.readiness,
            callers=allowed_callers(
                presence_pb2.DESCRIPTOR.services_by_name.values(), callers_pb2.callers
            ),
            tracer=tracer,
        )
        servicer = PresenceServicer(
            settings=settings,
            nodes=nodes,
            accounts=accounts,
            watches=watches,
            observer=observer,
            reaper=reaper,
            clock=clock,
            tracer=tracer,
        )
        server.add(presence_pb2_grpc.add_PresenceServiceServicer_to_server, servicer)
        lifecycle.background("redis", lambda: redis.watch(client, redis_up))
        lifecycle.background("leases", reaper.watch)
        lifecycle.background("notices", observer.listen)
        lifecycle.background("observer", observer.observe)
        lifecycle.background("comparison", observer.look_after)
        await server.start()
        await lifecycle.run((server,), drains=(servicer.streams.leave,))
