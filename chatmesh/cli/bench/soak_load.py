"""The load process of `bench soak`: as of `bench messages`, with a histogram for each slice.

`python -m chatmesh.cli.bench.soak_load`; what comes and goes is as in `load`, and besides

    out  {"event": "slice", "number": …, "delivered": …, "histogram": …}

after every CHATMESH_BENCH_SLICE_SECONDS of the measured time. The last slice comes with "done".
"""

from __future__ import annotations

import os
import sys
from typing import Final

from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.load import LoadRun, allow_descriptors, main, say
from chatmesh.cli.bench.outcome import Totals
from chatmesh.cli.bench.pace import Pacer
from chatmesh.runtime import engine

SLICE_VARIABLE: Final = "CHATMESH_BENCH_SLICE_SECONDS"


class SoakRun(LoadRun):
    """Says what each slice was like."""

    async def measure(self, start_ns: int, measure_ns: int, end_ns: int) -> Totals:
        """As of a run; the histogram of all of it is put together at its end."""
        seconds = float(os.environ[SLICE_VARIABLE])
        slices = int((end_ns - measure_ns) / 1e9 / seconds + 1e-6)
        whole = Histogram()
        number = before = 0

        def cut() -> None:
            nonlocal number, before
            if number >= slices:
                return  # waiting for the last messages is no slice
            part = self.histogram.take()
            whole.merge(part)
            say(
                event="slice", number=number, messages=self.period.delivered - before,
                delivered=self.delivered_in_all, histogram=part.to_json(),
            )  # fmt: skip
            number, before = number + 1, self.period.delivered

        pacer = Pacer(seconds, cut, measure_ns + int(seconds * 1e9))
        try:
            totals = await super().measure(start_ns, measure_ns, end_ns)
        finally:
            pacer.stop()
        while number < slices:
            cut()  # its end and the end of the run are one moment
        self.histogram.merge(whole)
        return totals


if __name__ == "__main__":
    allow_descriptors()
    sys.exit(engine.run(main(SoakRun)))
