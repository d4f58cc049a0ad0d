"""Named places where a test may kill, pause or fail a real process (as etcd's gofail).

`CHATMESH_FAILPOINTS="commit.after:kill;enqueue.before:pause=2;x:error;y:kill@3"`: at the named
point the process kills itself with SIGKILL, pauses (seconds; only the task that came by), stops
itself with SIGSTOP, or raises FailpointError. `@n` acts at the n-th passage only; without it, at
every one.

Rules: costs nothing measurable when the variable is unset; never set in production.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE = "CHATMESH_FAILPOINTS"
_ACTIONS = ("kill", "stop", "pause", "error")


class FailpointError(RuntimeError):
    """Raised by a failpoint with the action `error`."""


@dataclass(slots=True)
class _Point:
    action: str
    seconds: float
    at: int  # 0 = every passage
    passages: int = 0


def parse(text: str) -> dict[str, _Point]:
    """Failpoints by name. ValueError says which part is wrong."""
    points: dict[str, _Point] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, colon, action = part.partition(":")
        action, _, at = action.partition("@")
        action, _, seconds = action.partition("=")
        if not name or not colon or action not in _ACTIONS:
            raise ValueError(f"{VARIABLE}: {part!r} is not NAME:{{{'|'.join(_ACTIONS)}}}[@N]")
        try:
            points[name] = _Point(action, float(seconds or 0), int(at or 0))
        except ValueError:
            raise ValueError(f"{VARIABLE}: {part!r} has a bad number") from None
    return points


def problem(environ: Mapping[str, str]) -> str | None:
    """What is wrong with the variable; None: nothing."""
    try:
        parse(environ.get(VARIABLE, ""))
    except ValueError as error:
        return str(error)
    return None


# A variable that cannot be read is told with the settings, which are looked at before anything is
# served; here, at import, it would be a traceback.
_points: dict[str, _Point] = {} if problem(os.environ) else parse(os.environ.get(VARIABLE, ""))


def arm(text: str) -> None:
    """Replace all failpoints of this process (for tests inside one process)."""
    _points.clear()
    _points.update(parse(text))


async def hit(name: str) -> None:
    """Pass the failpoint `name`. Raises FailpointError when it is armed with `error`."""
    if not _points:
        return
    point = _points.get(name)
    if point is None:
        return
    point.passages += 1
    if point.at and point.passages != point.at:
        return
    match point.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "pause":
            await asyncio.sleep(point.seconds)
        case _:
            raise FailpointError(name)
