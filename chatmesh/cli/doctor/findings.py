"""What the doctor found: one line each, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Holds no secret."""

    level: Level
    subject: str
    """What was looked at: `postgres durability`, `delivery chat-1 to chat-2`."""
    text: str
    """What was found."""
    remedy: str = ""
    """What to do; empty when nothing is to be done."""


def ok(subject: str, text: str) -> Finding:
    """As it should be."""
    return Finding("ok", subject, text)


def warn(subject: str, text: str, remedy: str) -> Finding:
    """Works, and may hurt one day."""
    return Finding("warn", subject, text, remedy)


def fail(subject: str, text: str, remedy: str) -> Finding:
    """Breaks a promise, or does not work."""
    return Finding("fail", subject, text, remedy)


def document(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """For `--json`."""
    return [asdict(one) for one in findings]
