"""What cannot be is refused before anything starts, and says which option it was."""

from typing import Any

import pytest
from typer.testing import CliRunner

from chatmesh.cli.bench.plan import ImpossibleLoad, Load, place_pairs, refuse_by_limits, user_names
from chatmesh.cli.main import build

POSSIBLE: dict[str, Any] = {
    "pairs": 10, "window": 20, "rate": None, "size_bytes": 200, "seconds": 1.0,
    "warmup_seconds": 0.0,
}  # fmt: skip
LIMITS = {
    "max_content_bytes": 65_536, "max_sends_in_flight": 256, "frames_per_second": 200,
    "max_send_batch": 100,
}  # fmt: skip


def test_possible_load_survives_its_way_to_the_load_process() -> None:
    load = Load(**POSSIBLE)
    assert Load.from_json(load.to_json()) == load


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pairs": 0}, "--pairs"),
        ({"pairs": 20_001}, "--pairs"),
        ({"size_bytes": 39}, "--size"),
        ({"size_bytes": 262_145}, "--size"),
        ({"seconds": 0}, "--seconds"),
        ({"seconds": float("inf")}, "--seconds"),
        ({"warmup_seconds": -1}, "--warmup"),
        ({"window": 0}, "--window"),
        ({"window": 4_097}, "--window"),
        ({"window": None}, "--window"),
        ({"rate": 100.0}, "--window"),
        ({"window": None, "rate": 0.0}, "--rate"),
        ({"window": None, "rate": float("nan")}, "--rate"),
        ({"window": None, "rate": 1e9}, "--rate"),
        ({"window": None, "rate": 0.5}, "sends nothing"),
        ({"processes": 11}, "--processes"),
        ({"ack_ms": 0}, "--ack-ms"),
    ],
)
def test_impossible_loads_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ImpossibleLoad, match=named):
        Load(**{**POSSIBLE, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size_bytes": 65_537}, "--size"),
        ({"window": 257}, "--window"),
        ({"window": None, "rate": 200_001.0}, "--rate"),
    ],
)
def test_loads_beyond_the_limits_in_force_are_refused(changes: dict[str, Any], named: str) -> None:
    refuse_by_limits(Load(**POSSIBLE), LIMITS)
    with pytest.raises(ImpossibleLoad, match=named):
        refuse_by_limits(Load(**{**POSSIBLE, **changes}), LIMITS)


def test_receiver_is_on_another_node_than_its_sender() -> None:
    names = user_names("r", 5)
    tokens = {user: f"token of {user}" for pair in names for user in pair}
    pairs = place_pairs(names, tokens, ["a:1", "b:2"])
    assert [(pair.sender.target, pair.receiver.target) for pair in pairs[:2]] == [
        ("a:1", "b:2"),
        ("b:2", "a:1"),
    ]
    assert pairs[4].sender.token == "token of bench-r-s4"


def test_command_refuses_with_exit_code_2_and_starts_nothing() -> None:
    result = CliRunner().invoke(build(), ["bench", "messages", "--rate", "0"])
    assert type(result.exception).__name__ == "CommandError"
    assert getattr(result.exception, "exit_code", None) == 2
    assert result.output == ""
