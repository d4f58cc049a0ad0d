"""Keeps the processes of a mesh running: starts, restarts with a growing pause, holds, releases.

Role: `Keeper` knows parts (a name, how to run it, how to see that it works) and nothing of what
they are. One thread of its own reacts to deaths; its callers may be any thread.
Rules: a part that dies is started again on the same ports after a jittered pause that doubles up to
MAX_PAUSE_SECONDS and is forgotten after STEADY_SECONDS of life. A part that is held stays down, and
so does one that ended with the code by which it says that another start is in vain.
"""

import queue
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from chatmesh.embedded.children import Child, Command, Guard, ParentPipe, start
from chatmesh.embedded.errors import StartFailed, UnknownPart
from chatmesh.embedded.layout import DataFolder
from chatmesh.embedded.processes import STORE_STAGE, ProcessTable, end_in_order

FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 20.0
HOPELESS_DEATHS = 3
"""A part that died this often before it was ever ready will not come up."""
READY_POLL_SECONDS = 0.03
GUARD_POLL_SECONDS = 0.5
PATIENCE_SECONDS = 15.0
"""After so long a wait tells what it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process to keep."""

    name: str
    command: Callable[[], Command]
    is_ready: Callable[[], bool]
    what_is_missing: Callable[[], str] = lambda: ""
    stage: int
    stop_signal: int = signal.SIGTERM
    grace_seconds: float
    hopeless_code: int | None = None
    """An exit code that says: to start it again is in vain."""


@dataclass(slots=True)
class _State:
    part: Part
    child: Child | None = None
    held: bool = False
    was_ready: bool = False
    hopeless: bool = False
    deaths: int = 0
    """In a row, without STEADY_SECONDS of life in between."""
    started_at: float = 0.0
    due_at: float | None = None


class Keeper:
    """All parts of one mesh."""

    def __init__(
        self,
        folder: DataFolder,
        table: ProcessTable,
        guard: Guard,
        report: Callable[[str], None],
        on_restart: Callable[[], None],
        on_hopeless: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_hopeless` is called, from the keeper's thread, with the story of a part that says
        that another start is in vain."""
        self._folder = folder
        self._table = table
        self._guard = guard
        self._report = report
        self._on_restart = on_restart
        self._on_hopeless = on_hopeless
        self._states: dict[str, _State] = {}
        self._lock = threading.RLock()
        self._ended: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        self._stopping = False
        self._parent = ParentPipe()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def start(self, part: Part) -> None:
        """Starts a part and keeps it from now on."""
        with self._lock:
            state = self._states[part.name] = _State(part)
            self._run(state)

    def names(self) -> list[str]:
        """All parts, in the order they were started."""
        with self._lock:
            return list(self._states)

    def pid(self, name: str) -> int | None:
        """The process id of a part now; None while it is down. Raises UnknownPart."""
        with self._lock:
            child = self._living(name)
            return child.pid if child else None

    def send(self, name: str, number: int) -> int:
        """Signals a part's process and returns its pid. Raises UnknownPart, also if it is down.

        After SIGKILL the process is gone when this returns, so that `wait_ready` looks at the next.
        """
        with self._lock:
            child = self._living(name)
            if child is None:
                raise UnknownPart(f"{name} is down")
            child.send(number)
        if number == signal.SIGKILL:
            child.ended.wait()
        return child.pid

    def hold(self, name: str, number: int | None = None) -> None:
        """Ends a part by its own stop signal or another, waits, and keeps it down until `release`.

        A process that outlives its grace is killed.
        """
        with self._lock:
            state = self._state(name)
            state.held = True
            state.due_at = None
            child = state.child
            if child is None:
                return
            child.send(state.part.stop_signal if number is None else number)
            child.send(signal.SIGCONT)  # a stopped process takes no other signal
        if not child.ended.wait(state.part.grace_seconds):
            child.send(signal.SIGKILL)
            child.ended.wait()

    def release(self, name: str) -> None:
        """Starts a held part again at once."""
        with self._lock:
            state = self._state(name)
            state.held = state.hopeless = False
            state.deaths = 0
            if state.child is None or state.child.ended.is_set():
                self._run(state)
        self._on_restart()

    def wait_ready(self, names: list[str], timeout_seconds: float) -> None:
        """Waits until all these parts work.

        Raises StartFailed, with the end of the log, when one dies again and again, or in time.
        """
        deadline = time.monotonic() + timeout_seconds
        word_at = time.monotonic() + PATIENCE_SECONDS
        waiting = list(names)
        while waiting:
            waiting = [name for name in waiting if not self._look(name)]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise StartFailed(self._why(waiting[0], f"not ready after {timeout_seconds:g} s"))
            if time.monotonic() > word_at:
                word_at = time.monotonic() + PATIENCE_SECONDS
                missing = self._state(waiting[0]).part.what_is_missing()
                self._report(f"still waiting for {', '.join(waiting)}: {missing or 'no answer'}")
            time.sleep(READY_POLL_SECONDS)

    def stop(self, *, hurry: bool = False) -> None:
        """Ends all parts stage by stage, and the keeping of them."""
        with self._lock:
            self._stopping = True
        self._ended.put(None)
        self._thread.join()
        end_in_order(self._table.entries(), hurry=hurry)
        for state in self._states.values():
            if state.child is not None:
                state.child.ended.wait()
        self._parent.close()

    def hurry(self) -> None:
        """From another thread during `stop`: kills every server at once; stores keep their time."""
        for state in self._states.values():
            if state.child is not None and state.part.stage < STORE_STAGE:
                state.child.send(signal.SIGKILL)

    def _state(self, name: str) -> _State:
        try:
            return self._states[name]
        except KeyError:
            raise UnknownPart(
                f"no part {name!r}; there are {', '.join(self._states) or 'none'}"
            ) from None

    def _living(self, name: str) -> Child | None:
        child = self._state(name).child
        return None if child is None or child.ended.is_set() else child

    def _run(self, state: _State) -> None:
        """Under the lock."""
        part = state.part
        state.due_at = None
        state.started_at = time.monotonic()
        state.child = start(
            part.name,
            part.command(),
            log=self._folder.log_file(part.name),
            table=self._table,
            stage=part.stage,
            stop_signal=part.stop_signal,
            grace_seconds=part.grace_seconds,
            parent=self._parent,
            on_end=self._ended.put,
        )

    def _look(self, name: str) -> bool:
        with self._lock:
            state = self._state(name)
            part, child = state.part, state.child
            if state.hopeless:
                raise StartFailed(self._why(name, "its settings are wrong"))
            if state.deaths >= HOPELESS_DEATHS and not state.was_ready:
                raise StartFailed(self._why(name, "it ended again and again"))
        if child is None or child.ended.is_set() or not part.is_ready():
            return False
        state.was_ready = True
        return True

    def _why(self, name: str, what: str) -> str:
        missing = self._state(name).part.what_is_missing()
        text = f"{name} did not start: {what}"
        if missing:
            text += f"; it waits for {missing}"
        log = self._folder.logs / f"{name}.log"
        return f"{text}. The end of {log}:\n{self._folder.log_tail(name)}"

    def _keep(self) -> None:
        """The keeper's thread: deaths come in, due parts go out. It must outlive a full disk."""
        while True:
            try:
                child = self._ended.get(timeout=self._pause())
            except queue.Empty:
                child = None
            try:
                with self._lock:
                    if self._stopping:
                        return
                    if child is not None:
                        self._died(child)
                    restarted = self._run_due()
                    if self._guard.ensure():
                        self._report("guardian ended; started another")
                if restarted:
                    self._on_restart()
            except OSError as error:
                self._report(f"keeping the mesh running: {error}")

    def _run_due(self) -> bool:
        """Under the lock: starts what has waited its pause; whether there was any."""
        now = time.monotonic()
        due = [s for s in self._states.values() if s.due_at is not None and s.due_at <= now]
        for state in due:
            try:
                self._run(state)
            except OSError as error:  # no more processes, no memory, disk full: try again
                self._report(f"{state.part.name} cannot be started: {error}")
                state.due_at = now + MAX_PAUSE_SECONDS
        return bool(due)

    def _pause(self) -> float:
        with self._lock:
            due = [state.due_at for state in self._states.values() if state.due_at is not None]
        return min([GUARD_POLL_SECONDS, *(max(0.0, at - time.monotonic()) for at in due)])

    def _died(self, child: Child) -> None:
        """Under the lock."""
        state = self._states[child.name]
        if state.child is not child:
            return  # an older run, already replaced
        state.child = None
        self._table.remove(child.name)
        if state.held:
            return
        if child.returncode is not None and child.returncode == state.part.hopeless_code:
            state.hopeless = True
            self._report(f"{child.name} {_how(child.returncode)}; it is not started again")
            self._on_hopeless(self._why(child.name, "its settings are wrong"))
            return
        if time.monotonic() - state.started_at > STEADY_SECONDS:
            state.deaths = 0
        state.deaths += 1
        pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (state.deaths - 1))
        pause *= random.uniform(0.5, 1.5)
        state.due_at = time.monotonic() + pause
        self._report(f"{child.name} {_how(child.returncode)}; starts again in {pause:.1f} s")


def _how(returncode: int | None) -> str:
    if returncode is None or returncode >= 0:
        return f"ended with code {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"
