"""The load process of `bench idle`: sessions that say nothing but what keeps them alive.

`python -m chatmesh.cli.bench.idle_load` is started by the command; see `answering`:

    in   {"devices": […], "ca": …}              devices as in `plan.DevicePlan`
         {"do": "open", "count": …}             so many more of them
         {"do": "idle", "seconds": …}           stay; it fails when a session ends meanwhile
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from chatmesh.cli.bench.answering import Crew, serve
from chatmesh.cli.bench.device import Device
from chatmesh.cli.bench.load import CONNECTING_AT_ONCE, say
from chatmesh.cli.bench.plan import DevicePlan

ACK_SECONDS: Final = 1.0
SAY_EVERY: Final = 100
"""Sessions between two lines of progress."""


class IdleWork:
    """All sessions."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._crew = Crew(order["ca"])
        self._plans = [DevicePlan(**one) for one in order["devices"]]

    async def do(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Open more of them, or stay."""
        if order["do"] == "open":
            begun = len(self._crew.devices)
            wanted = self._plans[begun : begun + int(order["count"])]
            for start in range(0, len(wanted), SAY_EVERY):
                some = [Device(plan, self._crew.fail) for plan in wanted[start : start + SAY_EVERY]]
                await self._crew.open(some, CONNECTING_AT_ONCE)
                self._crew.keep_alive(ACK_SECONDS)
                say(event="tick", delivered=0, live=len(self._crew.devices))
        else:
            await self._crew.sleep(float(order["seconds"]))
        return {"live": len(self._crew.devices)}

    async def leave(self) -> None:
        """End all sessions."""
        await self._crew.leave()


if __name__ == "__main__":
    sys.exit(serve(IdleWork))
