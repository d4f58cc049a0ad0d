"""The life of one server process: start, background loops, and a stop in a written order.

The order of a graceful stop (SIGTERM, SIGINT, the parent's end, or a loop that died):

1. Readiness says NOT_SERVING: health, /readyz and new calls answer that the server is stopping.
2. The first listener (the public one, where there is one) accepts nothing new; at the same time
   the drains run: they tell open streams to leave, with a reason.
3. Calls that are still open get what is left of the grace, then they are cancelled; then the next
   listener (mesh) likewise: until here other servers could still reach this one.
4. Background loops are cancelled, until each has ended.
5. `run` returns, and the app's exit stack closes what it opened in reverse: peers, stores, traces.
6. The process exits: 0 after a stop that was asked for, 1 when a loop died or the app failed.

A second signal ends the process at once. So does a stop that takes longer than the grace plus a
margin, from a thread of its own: a blocked event loop cannot keep the process alive.

Rules: a background loop that ends for any reason but the stop ends the process (fail fast: a
restart heals, a server without its loop does not).
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, TypeVar

from google.protobuf.internal import api_implementation

from chatmesh.runtime import logs, metrics
from chatmesh.runtime.errors import StartupError
from chatmesh.runtime.probes import ProbeServer
from chatmesh.runtime.readiness import Readiness
from chatmesh.runtime.server import stop_all_running
from chatmesh.runtime.settings import ServerSettings, SettingsError, load, variable
from chatmesh.runtime.variables import strangers

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_SETTINGS: Final = 2

PARENT_FD_VARIABLE: Final = "CHATMESH_PARENT_FD"
"""Number of an inherited pipe's reading end; end of file on it means that the parent is gone."""
HARD_STOP_MARGIN_SECONDS: Final = 5.0

S = TypeVar("S", bound=ServerSettings)

_log = logs.logger(__name__)


class Listener(Protocol):
    """A GrpcServer, or what stops like one."""

    async def stop(self, grace_seconds: float) -> None:
        """Accept nothing new, let calls end, cancel the rest after the grace."""
        ...


class Lifecycle:
    """What an app sees of its process."""

    def __init__(self, grace_seconds: float, on_stop: Callable[[], None] = lambda: None) -> None:
        """`on_stop` is called once, when the stop begins."""
        self.stopping = asyncio.Event()
        self.started = asyncio.Event()
        """Set when the app's listeners are up."""
        self.readiness = Readiness()
        self.failed = False
        self._grace_seconds = grace_seconds
        self._on_stop = on_stop
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._deadline: float | None = None

    def stop(self, why: str) -> None:
        """Begin the graceful stop. Further calls do nothing."""
        if self.stopping.is_set():
            return
        self._deadline = asyncio.get_running_loop().time() + self._grace_seconds
        _log.info("stopping", why=why)
        self._on_stop()
        self.readiness.stop()
        self.stopping.set()

    def remaining_grace_seconds(self) -> float:
        """What is left of the grace; all of it before the stop began."""
        if self._deadline is None:
            return self._grace_seconds
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def background(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop until the stop. If it ends before, the process ends with exit code 1."""
        if name in self._loops:
            raise ValueError(f"two background loops with the name {name!r}")
        task = asyncio.get_running_loop().create_task(run(), name=name)
        self._loops[name] = task
        task.add_done_callback(lambda done: self._ended(name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self.stopping.is_set():
            if error is not None:
                _log.warning("background loop failed while stopping", loop=name, exc_info=error)
            return
        self.failed = True
        metrics.counter(metrics.BACKGROUND_DEATHS).labels(name).inc()
        _log.critical("background loop died", loop=name, exc_info=error)
        self.stop(f"the background loop {name} died")

    async def run(
        self,
        listeners: Sequence[Listener] = (),
        drains: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """Wait for the stop, then do steps 1 to 4 of the order above.

        `listeners` in the order in which they stop (public before mesh). `drains` run beside the
        stop of the first one; each is given the remaining grace and then cancelled.
        """
        self.started.set()
        await self.stopping.wait()
        try:
            async with asyncio.TaskGroup() as group:
                for listener in listeners[:1]:
                    group.create_task(listener.stop(self.remaining_grace_seconds()))
                for drain in drains:
                    group.create_task(self._drain(drain))
            for listener in listeners[1:]:
                await listener.stop(self.remaining_grace_seconds())
        finally:
            await self.cancel_background()

    async def close(self) -> None:
        """Stop at once what is still running: the end of an app that failed."""
        self.stop("the app has ended")
        await stop_all_running()
        await self.cancel_background()

    async def _drain(self, drain: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(self.remaining_grace_seconds()):
                await drain()
        except TimeoutError:
            _log.warning("a drain did not end within the grace")
        except Exception:  # noqa: BLE001 - the other steps still have to happen
            _log.exception("a drain failed")

    async def cancel_background(self) -> None:
        """Cancel all background loops until each has ended: one cancel can be swallowed."""
        pending = [task for task in self._loops.values() if not task.done()]
        while pending:
            for task in pending:
                task.cancel()
            _, still = await asyncio.wait(pending, timeout=1)
            pending = list(still)


App = Callable[[Lifecycle], Awaitable[None]]


async def main(
    cls: type[S],
    app: Callable[[Lifecycle, S], Awaitable[None]],
    *,
    known: Collection[str] = (),
) -> int:
    """Load the settings and serve; the exit code. Wrong settings are told on stderr (code 2).

    `known` are the names of all variables that any server reads: one that resembles them is
    refused as misspelt, another one is warned of.
    """
    try:
        settings = load(cls, known=known)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETTINGS

    async def run(lifecycle: Lifecycle) -> None:
        if known:
            for stranger in strangers(os.environ, {*known, *map(variable, cls.model_fields)}):
                _log.warning("unknown variable", what=str(stranger))
        await app(lifecycle, settings)

    return await serve(run, settings)


async def serve(app: App, settings: ServerSettings, *, service: str = "") -> int:
    """Run an app until it is told to stop; the exit code.

    The app opens what it needs, starts its listeners and loops, and awaits `lifecycle.run(…)`.
    `service` is the name in logs; empty: the package that `python -m` runs.
    """
    service = service or _package_name()
    logs.configure(service, settings.log_level, settings.log_format)
    faulthandler.enable()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_loop_error)
    hard_stop = _hard_stop(settings.shutdown_grace_seconds)
    lifecycle = Lifecycle(settings.shutdown_grace_seconds, hard_stop.start)
    undo = _watch_signals(lifecycle)
    metrics_server: metrics.MetricsServer | None = None
    probes: ProbeServer | None = None
    try:
        _require_fast_protobuf()
        undo += _watch_parent(lifecycle)
        metrics.register_process_metrics()
        if settings.metrics_listen:
            metrics_server = metrics.MetricsServer(settings.metrics_listen, lifecycle.readiness)
            metrics_server.start()
        if settings.probe_listen:
            probes = ProbeServer(settings.probe_listen, lifecycle.readiness, lifecycle.started)
            await probes.start()
        lifecycle.background("loop lag", metrics.measure_loop_lag)
        code = await _run_app(app, lifecycle)
    except StartupError as error:
        _log.critical("cannot start", error=str(error))
        code = EXIT_FAILED
    finally:
        await lifecycle.close()
        if probes is not None:
            await probes.stop()
        if metrics_server is not None:
            metrics_server.stop()
        hard_stop.cancel()
        for step in undo:
            step()
    return EXIT_FAILED if lifecycle.failed else code


def _require_fast_protobuf() -> None:
    """The pure Python parser is slow and recurses without bound (CVE-2025-4565)."""
    kind = api_implementation.Type()
    if kind != "upb":
        raise StartupError(
            f"protobuf runs its {kind!r} implementation: install a wheel with upb, and unset "
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
        )


def _package_name() -> str:
    return Path(sys.argv[0]).resolve().parent.name


async def _run_app(app: App, lifecycle: Lifecycle) -> int:
    try:
        await app(lifecycle)
    except StartupError as error:
        _log.critical("cannot start", error=str(error))
        return EXIT_FAILED
    except Exception:  # noqa: BLE001 - logged; the exit code tells
        _log.critical("the app failed", exc_info=True)
        return EXIT_FAILED
    if not lifecycle.stopping.is_set():
        _log.critical("the app ended without being told to stop")
        return EXIT_FAILED
    return EXIT_OK


def _watch_signals(lifecycle: Lifecycle) -> list[Callable[[], object]]:
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if lifecycle.stopping.is_set():
            _exit_now(128 + number, f"second signal ({number.name}): leaving at once")
        lifecycle.stop(number.name)

    undo: list[Callable[[], object]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
        undo.append(lambda number=number: loop.remove_signal_handler(number))  # type: ignore[misc]
    return undo


def _watch_parent(lifecycle: Lifecycle) -> list[Callable[[], object]]:
    """The supervisor holds the writing end; the kernel closes it whatever kills the supervisor."""
    text = os.environ.get(PARENT_FD_VARIABLE, "")
    if not text:
        return []
    try:
        descriptor = int(text)
        os.set_inheritable(descriptor, False)
    except (ValueError, OSError):
        raise StartupError(f"{PARENT_FD_VARIABLE}={text!r} is not an open descriptor") from None
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        if os.read(descriptor, 64):
            return
        loop.remove_reader(descriptor)
        lifecycle.stop("the parent process is gone")

    loop.add_reader(descriptor, on_readable)
    return [lambda: loop.remove_reader(descriptor)]


def _hard_stop(grace_seconds: float) -> threading.Timer:
    limit = grace_seconds + HARD_STOP_MARGIN_SECONDS
    timer = threading.Timer(
        limit, _exit_now, (EXIT_FAILED, f"not stopped within {limit:g} s: leaving at once")
    )
    timer.daemon = True
    return timer


def _exit_now(code: int, why: str) -> NoReturn:
    sys.stderr.write(f"{why}\n")
    sys.stderr.flush()
    os._exit(code)


def _log_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _log.error("event loop error", error=context.get("message"), exc_info=context.get("exception"))
