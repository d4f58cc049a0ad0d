"""Where a message's time went: steps that add up to its way, and sizes within a run."""

from __future__ import annotations

from pathlib import Path

from chatmesh.cli.bench import hops
from chatmesh.embedded.spans import Span, SpanStore

STEPS_US = {
    "chat.receive": (0, 60), "chat.ids": (60, 100), "chat.commit": (100, 900),
    "chat.enqueue": (950, 950), "sync.enqueue": (1_000, 1_200), "sync.queue": (1_200, 1_500),
    "sync.lookup": (1_500, 1_700), "chat.deliver": (1_900, 1_900), "chat.write": (2_000, 2_000),
}  # fmt: skip
"""(start, end) of each hop of one message, µs after it was received."""


def _spans(trace: str, steps: dict[str, tuple[int, int]], at_ns: int) -> list[Span]:
    return [
        Span(
            trace_id=trace,
            span_id=f"{trace[:8]}{number:08d}",
            parent_id="",
            name=name,
            service=name.partition(".")[0] + "_svc",
            pid=1,
            start_ns=at_ns + start * 1_000,
            end_ns=at_ns + end * 1_000,
        )
        for number, (name, (start, end)) in enumerate(steps.items())
    ]


def _stored(tmp_path: Path, *traces: list[Span]) -> Path:
    file = tmp_path / "spans.sqlite"
    store = SpanStore(file)
    try:
        for spans in traces:
            store.add(spans)
    finally:
        store.close()
    return file


def test_the_steps_of_a_message_add_up_to_its_way(tmp_path: Path) -> None:
    at_ns = 1_000_000_000
    file = _stored(tmp_path, _spans("a" * 32, STEPS_US, at_ns))
    found = hops.hops(file, 0, 2 * at_ns)
    assert [hop.name for hop in found] == list(STEPS_US)
    assert sum(hop.step_p50_us for hop in found) == 2_000
    steps = {hop.name: [hop.step_p50_us, hop.own_p50_us] for hop in found}
    assert steps["chat.commit"] == [800, 800]
    assert steps["chat.enqueue"] == [50, 0]
    assert steps["sync.enqueue"] == [250, 200]


def test_only_whole_ways_within_the_run_count(tmp_path: Path) -> None:
    at_ns = 10_000_000_000
    half = {name: STEPS_US[name] for name in ("chat.receive", "chat.commit")}
    file = _stored(
        tmp_path,
        _spans("a" * 32, STEPS_US, at_ns),
        _spans("b" * 32, half, at_ns),
        _spans("c" * 32, STEPS_US, at_ns * 3),
    )
    assert {hop.messages for hop in hops.hops(file, at_ns, 2 * at_ns)} == {1}


def test_of_several_devices_the_first_is_followed(tmp_path: Path) -> None:
    at_ns = 1_000_000_000
    spans = _spans("a" * 32, STEPS_US, at_ns)
    late = _spans("d" * 32, {"chat.write": (9_000, 9_000)}, at_ns)[0]
    later = Span(**{**{name: getattr(late, name) for name in late.__slots__}, "trace_id": "a" * 32})
    found = hops.hops(_stored(tmp_path, [*spans, later]), 0, 2 * at_ns)
    assert next(hop for hop in found if hop.name == "chat.write").step_p50_us == 100


def test_no_spans_are_no_hops(tmp_path: Path) -> None:
    assert hops.hops(tmp_path / "none.sqlite", 0, 1) == []


def test_sizes_are_those_of_the_run_alone() -> None:
    before = {("chat_svc", "commit"): (10.0, 40.0), ("sync_svc", "sync.read"): (3.0, 3.0)}
    after = {
        ("chat_svc", "commit"): (30.0, 240.0),
        ("sync_svc", "sync.read"): (3.0, 3.0),
        ("sync_svc", "sync.gather"): (2.0, 9.0),
    }
    assert hops.sizes(before, after) == [
        hops.Sizes("chat_svc", "commit", 20, 10.0),
        hops.Sizes("sync_svc", "sync.gather", 2, 4.5),
    ]
