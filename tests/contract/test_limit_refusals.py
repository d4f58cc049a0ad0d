"""A refusal by a limit says which limit, at every place in the code that gives one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatmesh import errors, limits
from chatmesh.mesh.v1 import callers_pb2, node_pb2, presence_pb2, push_pb2, sequencer_pb2, sync_pb2
from chatmesh.v1 import contacts_pb2, conversations_pb2, session_pb2

ROOT = Path(__file__).parents[2]
SERVICES = ("chat_svc", "presence_svc", "push_svc", "sequencer_svc", "sync_svc")
REASONS = (
    "BATCH_TOO_LARGE",
    "CONTENT_TOO_LARGE",
    "RATE_LIMITED",
    "SENDS_IN_FLIGHT",
    "LIMIT_EXCEEDED",
    "OUTBOX_FULL",
    "COUNT_INVALID",
)
"""The rows of the error table that are refusals by a limit."""
VALUE_UNKNOWN = {"max_reactions"}
"""The database refuses these and does not repeat the value; `welcome.limits` has it."""
PROTOS = (callers_pb2, node_pb2, presence_pb2, push_pb2, sequencer_pb2, sync_pb2, contacts_pb2,
          conversations_pb2, session_pb2)  # fmt: skip
FIELDS = {
    field.name
    for module in PROTOS
    for message in module.DESCRIPTOR.message_types_by_name.values()
    for field in message.fields
}


def refusals() -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    """(place, reason, keyword arguments) of each `errors.REASON(…)` of the services."""
    for service in SERVICES:
        for file in sorted((ROOT / service).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id == "errors"
                ):
                    given = {word.arg: word.value for word in node.keywords if word.arg}
                    place = f"{file.relative_to(ROOT)}:{node.lineno}"
                    yield place, node.func.attr, given


def names_of(value: ast.expr) -> list[str]:
    """The literal names that an expression may be."""
    if isinstance(value, ast.Constant):
        return [str(value.value)]
    if isinstance(value, ast.IfExp):
        return names_of(value.body) + names_of(value.orelse)
    return []


ALL = list(refusals())


@pytest.mark.parametrize("reason", REASONS)
def test_each_names_its_limit_and_value(reason: str) -> None:
    assert reason in errors.BY_REASON
    found = [(place, given) for place, name, given in ALL if name == reason]
    assert found, f"nothing gives {reason}"
    for place, given in found:
        assert "limit" in given, place
        if not (set(names_of(given["limit"])) & VALUE_UNKNOWN):
            assert "value" in given, place


def test_names_are_those_of_the_table() -> None:
    known = {*limits.BY_NAME, *limits.FIXED, *FIELDS}
    for place, reason, given in ALL:
        if "limit" not in given:
            continue
        limit = given["limit"]
        if isinstance(limit, ast.Name):
            continue  # a shared check: its callers name the field
        names = names_of(limit)
        assert names, f"{place}: {reason} names no limit"
        assert set(names) <= known, f"{place}: {names}"
        assert "value" in given or set(names) <= VALUE_UNKNOWN, place


def test_no_fixed_limit_is_named_twice() -> None:
    assert not limits.FIXED.keys() & limits.BY_NAME.keys()
