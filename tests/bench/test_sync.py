"""`bench sync` and `bench push`: what they count, what they refuse, and real runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chatmesh.cli import CommandError
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.outcome import Totals
from chatmesh.cli.bench.plan import ImpossibleLoad
from chatmesh.cli.bench.sync_outcome import Drain, HintOutcome, PushCounts
from chatmesh.cli.bench.sync_plan import AwayLoad
from chatmesh.cli.bench.sync_record import Shown, after_ack, twice
from chatmesh.cli.main import build
from tests.cli.running import chatmesh

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh

PATIENCE_SECONDS = 240
NONE = PushCounts(neither=0, visible_twice=0, pushed_after_ack=0, pushed_online=0)
ZEROS = ("lost", "duplicated", "out_of_order", *dataclasses.asdict(NONE))


def shown(seq: int, device_id: str = "phone", user: str = "bob", at_ms: int = 10) -> Shown:
    return Shown(user, device_id, seq, seq * 10, at_ms)


def test_what_was_told_twice_is_counted() -> None:
    assert twice([shown(3), shown(5), shown(5, "tablet"), shown(4, user="carol")]) == 0
    assert twice([shown(3), shown(3)]) == 1
    assert twice([shown(5), shown(3), shown(6)]) == 1, "something older after something newer"


def test_what_was_told_after_its_ack_is_counted() -> None:
    acks = {"bob": [(3, 5), (7, 20)]}
    assert after_ack([shown(3)], acks, "phone") == 1
    assert after_ack([shown(4), shown(3, user="carol")], acks, "phone") == 0, "4 was acked later"
    assert after_ack([shown(7, at_ms=21)], acks, "phone") == 1
    assert after_ack([shown(3, "tablet")], acks, "phone") == 0, "the tablet acked nothing"


def outcome(counts: PushCounts = NONE, *, drain: Drain | None = None, **totals: int) -> HintOutcome:
    return HintOutcome(
        seconds=2,
        totals=Totals(delivered=4, delivered_in_all=5, **totals),
        counts=counts,
        hints=8,
        pushes=6,
        pushes_in_all=7,
        after_accepted=Histogram(),
        push_after_accepted=Histogram(),
        memory_mib={},
        settings={},
        drain=drain,
    )


def test_figures_have_the_names_that_were_asked_for() -> None:
    made = outcome().to_json()
    assert (made["hints_per_s"], made["pushes_per_s"]) == (4, 3)
    assert {"p50", "p99"} <= made["accepted_to_stream_ms"].keys()
    assert not any(made[name] for name in ZEROS)
    drained = outcome(drain=Drain(100, 10, 2.0, 8, 10, 50.0))
    assert drained.to_json()["drain"]["hints_per_s"] == 50
    assert "100 hints in 10 batches" in "\n".join(drained.lines())


def test_a_run_fails_by_any_count_and_by_a_storm() -> None:
    assert outcome().passed
    for name in dataclasses.asdict(NONE):
        assert not outcome(dataclasses.replace(NONE, **{name: 1})).passed, name
    assert not outcome(lost=1).passed
    assert not outcome(duplicated=1).passed
    assert not outcome(out_of_order=1).passed
    assert outcome(drain=Drain(100, 10, 2.0, 20, 10, 50.0)).passed
    assert not outcome(drain=Drain(100, 10, 2.0, 21, 10, 50.0)).passed, "more than twice"


def test_impossible_loads_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ImpossibleLoad, match="--away-rate"):
        AwayLoad(1, 0)
    for command, option in (
        (("push", "--users", "0"), "--users"),
        (("sync", "--backlog", "10", "--window", "2"), "--rate"),
        (("sync", "--backlog", "-1"), "--backlog"),
        (("sync", "--backlog", "10", "--data", str(tmp_path)), "--data"),
        (("push", "--chat-nodes", "2", "--data", str(tmp_path)), "--chat-nodes"),
    ):
        with pytest.raises(CommandError, match=option) as refused:
            build()(("bench", *command), standalone_mode=False)
        assert refused.value.exit_code == 2


@pytest.mark.mesh
def test_a_run_leaves_nobody_untold(running_mesh: RunningMesh) -> None:
    push = chatmesh(
        *("bench", "push", "--data", running_mesh.folder.path, "--json", "--seconds", "1"),
        *("--warmup", "0.2", "--users", "5", "--rate", "30", "--pairs", "2"),
        timeout_seconds=PATIENCE_SECONDS,
    )
    result = json.loads(push.stdout)
    assert result["delivered"] > 0
    assert result["hints_per_s"] > 0
    assert result["accepted_to_stream_ms"]["p99"] > 0
    assert result["pushed"] >= 5, "each of those who are away was told"
    assert not any(result[name] for name in ZEROS)
