"""Every limit of the table is a setting of the node, and one that clients meet is in `welcome`."""

from dataclasses import fields

from chat_svc.core.limits import Limits
from chat_svc.settings import ChatSettings
from chatmesh import limits as table
from chatmesh.v1 import types_pb2

OF_THE_NODE_ALONE = {
    "commit_rows": "how much work one commit is",
    "outbox_rows": "clients meet OUTBOX_FULL, whatever the number",
    "sessions_per_node": "clients go to another node",
    "away_seconds": "clients are told the state",
    "watched_contacts": "nothing that a client can change",
    "presence_per_second": "a pace, not a bound",
}
"""No client can act on these."""


def test_one_table_is_read_everywhere() -> None:
    names = {limit.name for limit in table.ALL}
    assert {field.name for field in fields(Limits)} == names
    settings = {name for name in ChatSettings.model_fields if name.startswith("limit_")}
    assert settings == {f"limit_{name}" for name in names}
    for limit in table.ALL:
        assert limit.low <= limit.default <= limit.high, limit.name


def test_clients_are_told_every_limit_that_they_meet() -> None:
    names = {limit.name for limit in table.ALL}
    told = {field.name for field in types_pb2.Limits.DESCRIPTOR.fields}
    assert told == names - OF_THE_NODE_ALONE.keys()


def test_what_is_told_is_what_is_in_force() -> None:
    values = {name: number for number, name in enumerate(table.BY_NAME, 1)}
    told = Limits(**values).public()
    assert {field.name: value for field, value in told.ListFields()} == {
        name: value for name, value in values.items() if name not in OF_THE_NODE_ALONE
    }
