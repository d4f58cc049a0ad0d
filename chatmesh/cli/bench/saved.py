"""Saved runs: a JSON file with kind, load, machine, versions, result and histogram.

Rules: additions only; `form` rises when a reader must do otherwise. Files without a kind are of
`messages`, which was the only one; a kind without latencies has no histogram.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chatmesh.cli.bench import machine
from chatmesh.cli.bench.result import Result

FORM: Final = 1


class NotARun(Exception):
    """The file is no saved run; the text says so and why."""


@dataclass(frozen=True, slots=True)
class SavedRun:
    """One file, read."""

    path: Path
    kind: str
    load: Mapping[str, Any]
    machine: Mapping[str, Any]
    result: Mapping[str, Any]
    histogram: Mapping[str, Any] | None
    """As of `Histogram.from_json`; None for a kind without latencies."""


def save(path: Path, result: Result) -> None:
    """Write a run. Raises OSError."""
    content = {
        "form": FORM,
        "kind": result.kind,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": dict(result.load),
        "machine": machine.describe(),
        "result": dict(result.figures),
        "histogram": None if result.histogram is None else result.histogram.to_json(),
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> SavedRun:
    """Read a run. Raises NotARun."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["form"] != FORM:
            raise NotARun(f"{path} was saved by another version (form {content['form']})")
        return SavedRun(
            path,
            str(content.get("kind", "messages")),
            content["load"],
            content["machine"],
            content["result"],
            content.get("histogram"),
        )
    except OSError as error:
        raise NotARun(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise NotARun(f"{path} is not a run saved by `chatmesh bench … --save`") from None
