"""Refusals of the contract as exceptions of the SDK.

Role: joins a `Problem` message with the error table's advice for clients.
"""

from __future__ import annotations

from chatmesh import errors as table
from chatmesh.client import errors
from chatmesh.v1.types_pb2 import Problem


def from_problem(problem: Problem) -> errors.ChatmeshError:
    """The exception that a refusal inside a frame stands for."""
    row = table.BY_REASON.get(problem.reason)
    return errors.made(
        problem.reason or errors.code_name(problem.code),
        errors.code_name(problem.code),
        problem.message,
        problem.metadata,
        problem.retry_after_ms / 1000 if problem.retry_after_ms > 0 else None,
        row.client if row else "",
    )


def with_advice(
    reason: str,
    code: str,
    message: str,
    facts: dict[str, str] | None = None,
    retry_after_seconds: float | None = None,
) -> errors.ChatmeshError:
    """The exception for a reason that came as a status."""
    row = table.BY_REASON.get(reason)
    return errors.made(
        reason, code, message, facts or {}, retry_after_seconds, row.client if row else ""
    )
