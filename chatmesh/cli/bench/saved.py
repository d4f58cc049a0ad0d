"""Saved runs: a JSON file with the result, the load, the machine, the versions and the histogram.

Rules: additions only; `form` rises when a reader must do otherwise.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chatmesh.cli.bench import machine
from chatmesh.cli.bench.outcome import Outcome

FORM: Final = 1


class NotARun(Exception):
    """The file is no saved run; the text says so and why."""


@dataclass(frozen=True, slots=True)
class SavedRun:
    """One file, read."""

    path: Path
    load: Mapping[str, Any]
    machine: Mapping[str, Any]
    result: Mapping[str, Any]


def save(path: Path, outcome: Outcome, chat_nodes: int) -> None:
    """Write a run. Raises OSError."""
    content = {
        "form": FORM,
        "kind": "messages",
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": {**outcome.load.to_json(), "chat_nodes": chat_nodes},
        "machine": machine.describe(),
        "result": outcome.to_json(),
        "histogram": outcome.histogram.to_json(),
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> SavedRun:
    """Read a run. Raises NotARun."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["form"] != FORM:
            raise NotARun(f"{path} was saved by another version (form {content['form']})")
        return SavedRun(path, content["load"], content["machine"], content["result"])
    except OSError as error:
        raise NotARun(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise NotARun(f"{path} is not a run saved by `chatmesh bench … --save`") from None
