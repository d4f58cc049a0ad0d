"""The one form of every kind of run: what was asked, what came, whether it passed.

Role: shown, saved, compared and printed as `--json` without knowing which kind it is.
Rules: pure. `figures` is what `--json` prints; a figure is a number under a name, and names of
groups (services, quantiles) are mappings. Counts of what must not be are named in MUST_BE_NONE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from chatmesh.cli.bench.latency import Histogram

MUST_BE_NONE: Final = (
    "lost", "duplicated", "out_of_order", "neither", "visible_twice", "pushed_after_ack",
    "pushed_online", "unordered",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A whole run of any kind."""

    kind: str
    """The subcommand's name."""
    load: Mapping[str, Any]
    figures: Mapping[str, Any]
    headline: str = ""
    lines: Sequence[str] = ()
    """What a person reads below it; without lines the figures themselves are shown."""
    histogram: Histogram | None = None
    passed: bool = True
    failure: str = "the run failed: see what must be 0 above"
