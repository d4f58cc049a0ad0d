"""Readiness: what a server needs, what of it is missing, and who is told.

A server with a missing peer or store starts, answers NOT_SERVING naming what is missing, and
recovers by itself. Readiness drives gRPC health, GET /readyz and the gate in front of every call.

Rules: changed from the event loop only; read from anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from chatmesh.runtime import faults
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import logger

_log = logger(__name__)

STOPPING = "stopping"
"""Name under which a stopping server is missing."""


class Component:
    """One thing that a server needs. Starts down."""

    def __init__(self, owner: Readiness, name: str, critical: bool) -> None:
        self._owner = owner
        self.name = name
        self.critical = critical
        self.why: str | None = "not connected yet"
        self._timer: asyncio.TimerHandle | None = None
        self._pending_why = ""

    @property
    def is_up(self) -> bool:
        """Whether it is there."""
        return self.why is None

    def up(self) -> None:
        """It is there."""
        self._cancel_timer()
        if self.why is not None:
            self.why = None
            _log.info("component up", component=self.name)
            self._owner.changed()

    def down(self, why: str, *, after_seconds: float = 0) -> None:
        """It is missing; `why` is for people and may hold no secret.

        With `after_seconds` a component that is up counts as missing only if it is not up again
        within that time: a planned change of a peer is not worth refusing calls.
        """
        if after_seconds > 0 and self.why is None:
            self._pending_why = why
            if self._timer is None:  # the first word counts: repeats must not put it off
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(after_seconds, self._down_after_all)
            return
        self._cancel_timer()
        if self.why != why:
            self.why = why
            _log.warning("component down", component=self.name, why=why)
            self._owner.changed()

    def _down_after_all(self) -> None:
        self._timer = None
        self.down(self._pending_why)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Readiness:
    """All components of one server."""

    def __init__(self) -> None:
        self._components: dict[str, Component] = {}
        self._listeners: list[Callable[[], None]] = []
        self._ready = asyncio.Event()
        self._ready.set()
        self._stopping = False

    def require(self, name: str, *, critical: bool = True) -> Component:
        """A component by name, made at the first call.

        One that is not critical is reported when missing, but the server serves without it.
        """
        component = self._components.get(name)
        if component is None:
            component = self._components[name] = Component(self, name, critical)
            self.changed()
        return component

    @property
    def is_ready(self) -> bool:
        """Whether calls are served."""
        return self._ready.is_set()

    def missing(self) -> dict[str, str]:
        """Critical components that are down, and why. Empty when ready."""
        lacking = {
            component.name: component.why
            for component in self._components.values()
            if component.critical and component.why is not None
        }
        if self._stopping:
            lacking[STOPPING] = "the server is stopping"
        return lacking

    def degraded(self) -> dict[str, str]:
        """Components that are down though the server serves without them, and why."""
        return {
            component.name: component.why
            for component in self._components.values()
            if not component.critical and component.why is not None
        }

    async def wait_ready(self) -> None:
        """Return once nothing is missing."""
        await self._ready.wait()

    def stop(self) -> None:
        """Not serving from now on: the first step of a graceful stop."""
        if not self._stopping:
            self._stopping = True
            self.changed()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change (and not now)."""
        self._listeners.append(listener)

    def changed(self) -> None:
        """Recompute and tell; for components."""
        if self.missing():
            self._ready.clear()
        else:
            self._ready.set()
        for listener in self._listeners:
            listener()

    def check(self) -> None:
        """Raise Fault UNAVAILABLE NOT_SERVING (SHUTTING_DOWN when stopping) unless ready."""
        if self._ready.is_set():
            return
        if self._stopping:
            raise Fault(grpc.StatusCode.UNAVAILABLE, faults.SHUTTING_DOWN, "the server is stopping")
        names = ", ".join(self.missing())
        raise Fault(
            grpc.StatusCode.UNAVAILABLE,
            faults.NOT_SERVING,
            f"not serving: missing {names}",
            {"missing": names},
        )
