"""What cannot be is wrong usage before anything starts; what is counted decides; files are told."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from chatmesh.cli import CommandError
from chatmesh.cli.bench import groups_run, resume_run, saved
from chatmesh.cli.bench.compare import figures
from chatmesh.cli.bench.growth_run import Growth, GrowthLoad, result_of
from chatmesh.cli.bench.idle_run import Look, per_connection
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.meter import Usage
from chatmesh.cli.bench.output import Output
from chatmesh.cli.bench.result import Result
from chatmesh.cli.bench.trend import last_over_first, slope_per_hour
from chatmesh.cli.main import build

USAGE = Usage(("chat_svc", "redis"), {"chat_svc": 2.0, "redis": 1.0, "client": 0.5}, {})


@functools.cache
def app() -> Any:
    """The command line, made once."""
    return build()


def refused(*arguments: str) -> CommandError:
    with pytest.raises(CommandError) as error:
        app()(("bench", *arguments), standalone_mode=False)
    return error.value


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("idle", "--connections", "0"), "--connections"),
        (("idle", "--connections", "20001"), "--connections"),
        (("idle", "--warm", "0"), "--warm"),
        (("idle", "--seconds", "nan"), "--seconds"),
        (("idle", "--tls", "--data", "."), "--tls"),
        (("idle", "--chat-nodes", "2", "--data", "."), "--chat-nodes"),
        (("groups", "--members", "1"), "--members"),
        (("groups", "--members", "1001"), "--members"),
        (("groups", "--members", "3", "--senders", "4"), "--senders"),
        (("groups", "--window", "0"), "--window"),
        (("groups", "--size", "39"), "--size"),
        (("groups", "--warmup", "-1"), "--warmup"),
        (("resume", "--devices", "0"), "--devices"),
        (("resume", "--behind", "0"), "--behind"),
        (("resume", "--devices", "20000", "--behind", "100000"), "--behind"),
        (("growth", "--only", "weather"), "--only"),
        (("growth", "--preload", "0"), "--preload"),
        (("growth", "--idle-users", "2000", "--idle-factor", "10"), "--idle-factor"),
        (("growth", "--chat-nodes", "2"), "--chat-nodes"),
        (("growth", "--runs", "0"), "--runs"),
        (("growth", "--window", "0"), "--window"),
        (("soak", "--minutes", "0"), "--minutes"),
        (("soak", "--rate", "0"), "--rate"),
        (("soak", "--minutes", "1", "--slice", "30"), "--slice"),
        (("soak", "--pairs", "0"), "--pairs"),
        (("groups", "--save", "no/such/folder/run.json"), "--save"),
        (("ids", "--html", "no/such/folder/run.html"), "--html"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    arguments: tuple[str, ...], named: str
) -> None:
    error = refused(*arguments)
    assert error.exit_code == 2
    assert named in str(error)


def test_an_idle_connection_is_the_difference_of_two_looks() -> None:
    few = Look({"chat_svc": 1_000, "spans": 5, "redis": 90}, 500, {"chat_svc": 0.1, "redis": 0.0})
    many = Look(
        {"chat_svc": 1_400, "spans": 900, "redis": 98}, 900, {"chat_svc": 0.3, "redis": 0.1}
    )
    cost = per_connection(few, many, connections=4, seconds=2)
    assert cost["kib_per_connection"] == 100, "what belongs to no other mesh is not counted"
    assert cost["kib_per_connection_by_store"] == {"redis": 2}
    assert cost["redis_bytes_per_connection"] == 100
    assert cost["cpu_ms_per_connection_per_s"] == pytest.approx(25)


def groups_result(**totals: int) -> Result:
    done = {"totals": {"delivered": 10, **totals}, "histogram": Histogram().to_json()}
    return groups_run.result_of(groups_run.GroupLoad(3, 1, 1, 40, 2, 0), 2, USAGE, done, {})


def test_a_group_that_lost_a_delivery_does_not_pass() -> None:
    assert groups_result().passed
    assert groups_result().figures["deliveries_per_s"] == 5
    assert groups_result().figures["cpu_s_per_1000_deliveries"]["mesh_total"] == 300
    assert not groups_result(lost=1).passed
    assert not groups_result(duplicated=1).passed
    assert not groups_result(out_of_order=1).passed
    assert not groups_result(delivered=0).passed


def resume_result(**changes: int) -> Result:
    done: dict[str, Any] = {
        "seconds": 2.0, "caught_up": 3, "lost": 0, "duplicated": 0, "out_of_order": 0,
        "histogram": Histogram().to_json(), **changes,
    }  # fmt: skip
    return resume_run.result_of(resume_run.ResumeLoad(3, 10, 40), 2, USAGE, {}, done, {})


def test_a_resume_that_missed_an_entry_does_not_pass() -> None:
    assert resume_result().passed
    assert resume_result().figures["entries_per_s"] == 15
    for name in ("lost", "duplicated", "out_of_order"):
        assert not resume_result(**{name: 1}).passed, name
    assert not resume_result(caught_up=2).passed


def test_growth_is_the_ratio_of_medians() -> None:
    load = GrowthLoad(1, 1, 40, 1, 0, 3, 1, 1, 2, 4)
    growth = Growth(load, lambda _: None, lambda *_: None)
    growth.costs = {"idle": {"few": [1.0, 2.0, 9.0], "many": [3.0, 0.1, 3.0]}}
    assert result_of(load, growth, {}).figures["cost_ratio"] == {"idle": 1.5}


def test_a_slope_is_an_hours_and_one_slice_decides_nothing() -> None:
    assert slope_per_hour([1, 2, 3, 4], 1_800) == pytest.approx(2)
    assert slope_per_hour([5, 5, 5], 30) == 0
    assert slope_per_hour([5], 30) == 0
    assert last_over_first([1, 1, 1, 7, 2, 2, 2]) == pytest.approx(2)
    assert last_over_first([]) is None


def test_a_histogram_that_is_taken_begins_anew() -> None:
    histogram = Histogram()
    histogram.record(1_000_000)
    taken = histogram.take()
    histogram.record(5_000_000)
    assert (taken.count, histogram.count) == (1, 1)
    assert taken.max_ns == 1_000_000
    assert histogram.max_ns == 5_000_000


def test_files_of_the_old_form_are_read_and_kinds_are_not_mixed(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    content = {
        "form": 1,
        "load": {},
        "machine": {},
        "result": {"delivered": 4, "profile": {"x": []}},
    }
    old.write_text(json.dumps(content))
    run = saved.read(old)
    assert (run.kind, run.histogram) == ("messages", None)
    assert list(figures(run.result, run.result)) == [("delivered", 4, 4)]
    other = tmp_path / "ids.json"
    saved.save(other, Result(kind="ids", load={}, figures={"ids": 1}))
    error = refused("compare", str(old), str(other))
    assert error.exit_code == 2
    assert "two kinds" in str(error)


def test_a_run_that_failed_is_saved_and_ends_with_code_1(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    result = Result(kind="groups", load={}, figures={"lost": 1}, passed=False, failure="lost")
    with pytest.raises(CommandError, match="lost") as error:
        Output(save=file).deliver(result)
    assert error.value.exit_code == 1
    assert saved.read(file).result == {"lost": 1}
