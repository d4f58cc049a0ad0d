"""The table behaviour → field of protos/README.md names what the contract has, and every call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor

import chatmesh.v1
from chatmesh import errors
from tests.contract.descriptors import files, public_methods

PAGE = Path(__file__).parents[2] / "protos" / "README.md"
NOT_OF_DESCRIPTORS = {
    "slim_echo": "a capability of Hello",
    "hidden": "a subject of AccountContent",
    "chatmesh.admin": "a scope",
    "chatmesh-on-behalf-of": "metadata",
    "traceparent": "metadata",
}


def rows() -> list[str]:
    """The second column."""
    table = PAGE.read_text(encoding="utf-8").split("## Behaviour → field")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [line.split(" | ", 1)[1] for line in lines[2:]]


def named() -> list[str]:
    return sorted({name.replace("[]", "") for row in rows() for name in re.findall("`(.+?)`", row)})


def names_of_message(message: Descriptor) -> Iterator[str]:
    """It, its fields alone and behind its name, and what lies within it."""
    yield message.name
    for oneof in message.oneofs:
        yield f"{message.name}.{oneof.name}"
    for field in message.fields:
        yield from (field.name, f"{message.name}.{field.name}")
        for inner in field.message_type.fields if field.message_type is not None else ():
            yield f"{message.name}.{field.name}.{inner.name}"
    for nested in message.nested_types:
        yield from names_of_message(nested)
    for enum in message.enum_types:
        yield from names_of_enum(enum, message.name)


def names_of_enum(enum: EnumDescriptor, outer: str = "") -> Iterator[str]:
    yield enum.name
    for value in enum.values:
        yield from (value.name, f"{outer}.{value.name}")


def names() -> set[str]:
    """Everything that a row may name."""
    known = set(errors.BY_REASON)
    for file in files(chatmesh.v1):
        known.update(file.services_by_name)
        for message in file.message_types_by_name.values():
            known.update(names_of_message(message))
        for enum in file.enum_types_by_name.values():
            known.update(names_of_enum(enum))
    for method in public_methods().values():
        known.add(method.name)
        for message in (method.input_type, method.output_type):  # a call's field by the call's name
            known.update(f"{method.name}.{field.name}" for field in message.fields)
    return known


@pytest.mark.parametrize("name", named())
def test_what_a_row_names_is_in_the_contract(name: str) -> None:
    if name.endswith("*"):
        assert any(known.startswith(name[:-1]) for known in names())
    else:
        assert name in names() or name in NOT_OF_DESCRIPTORS


def test_rows_are_found() -> None:
    assert len(rows()) > 40
    assert len(named()) > 80


def test_every_call_is_of_a_behaviour() -> None:
    table = "\n".join(rows())
    left_out = [
        path
        for path, method in public_methods().items()
        if f"`{method.name}" not in table and f"`{method.containing_service.name}`" not in table
    ]
    assert left_out == []
