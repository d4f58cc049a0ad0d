"""Spans go in over OTLP and come out by trace and by message; the ring stays bounded."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatmesh.embedded import ports
from chatmesh.embedded.spans import (
    Span,
    SpanStore,
    recent_traces,
    spans_of_trace,
    trace_of_message,
)
from chatmesh.runtime import trace


def span(number: int, **changes: object) -> Span:
    values: dict[str, object] = {
        "trace_id": f"{number:032x}",
        "span_id": f"{number:016x}",
        "parent_id": "",
        "name": "commit",
        "service": "chat_svc",
        "pid": 7,
        "start_ns": number,
        "end_ns": number + 1,
        **changes,
    }
    return Span(**values)  # type: ignore[arg-type]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., SpanStore]]:
    """Opens stores on one file; closed at the end."""
    with contextlib.ExitStack() as stores:

        def open_store(**options: int) -> SpanStore:
            store = SpanStore(tmp_path / "spans.sqlite", **options)
            stores.callback(store.close)
            return store

        yield open_store


Opened = Callable[..., SpanStore]


def test_a_trace_is_found_by_its_message_in_time_order(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "spans.sqlite"
    store = opened()
    store.add([span(2, trace_id="a" * 32), span(1, trace_id="a" * 32), span(3)])
    store.add([span(4, trace_id="a" * 32, attributes={"chatmesh.message_id": 1 << 62})])
    found = trace_of_message(path, 1 << 62)
    assert found == "a" * 32
    assert [each.start_ns for each in spans_of_trace(path, found)] == [1, 2, 4]


def test_a_batch_belongs_to_each_message_and_trace_it_links(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "spans.sqlite"
    store = opened()
    links = (("a" * 32, "1" * 16), ("b" * 32, "2" * 16))
    batch = span(9, links=links, attributes={"chatmesh.message_id": [10, 11]})
    store.add([batch, span(1, trace_id="a" * 32)])
    assert trace_of_message(path, 11) == batch.trace_id
    assert spans_of_trace(path, "b" * 32) == [
        span(9, links=links, attributes={"chatmesh.message_id": [10, 11]})
    ]
    assert len(spans_of_trace(path, "a" * 32)) == 2


def test_the_oldest_go_first_and_everything_of_them(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "spans.sqlite"
    store = opened(capacity=100)
    for number in range(1, 1001):
        attributes = {"chatmesh.message_id": number}
        store.add([span(number, attributes=attributes, links=(("c" * 32, "3" * 16),))])
    assert trace_of_message(path, 1) is None
    assert trace_of_message(path, 1000) == f"{1000:032x}"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in ("span", "message", "link"):
            query = f"SELECT count(*) FROM {table}"  # noqa: S608 - a name from the line above
            (count,) = connection.execute(query).fetchone()
            assert 90 <= count <= 100


def test_a_store_that_is_opened_again_goes_on_counting(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "spans.sqlite"
    first = opened(capacity=10)
    first.add(span(number) for number in range(1, 9))
    first.close()
    second = opened(capacity=10)
    second.add(span(number) for number in range(9, 20))
    assert recent_traces(path, 3) == [f"{number:032x}" for number in (19, 18, 17)]
    assert spans_of_trace(path, f"{1:032x}") == []


def test_no_file_is_no_spans(tmp_path: Path) -> None:
    assert spans_of_trace(tmp_path / "none", "a" * 32) == []
    assert trace_of_message(tmp_path / "none", 1) is None


class Settings:
    """What `telemetry` reads."""

    trace_sample_ratio = 1.0


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[str]:
    """The address of a receiver that stores into tmp_path; checked to end well."""
    address = f"{ports.HOST}:{ports.plan([], 'auto').spans}"
    command = [sys.executable, "-m", "chatmesh.embedded.span_receiver", "--listen", address]
    with subprocess.Popen(
        [*command, "--file", str(tmp_path / "spans.sqlite")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert address in process.stdout.readline()
        yield address
        process.terminate()
        assert process.wait(30) == 0


async def test_over_the_wire(
    tmp_path: Path, receiver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{receiver}")
    links = [trace.new_root(True)]
    async with trace.telemetry("test_svc", Settings()) as tracer:
        root = tracer.root()
        tracer.hop("write", root, 1_000, 2_000, {"chatmesh.message_id": "77"}, links)
    # telemetry flushes at its end, and an export is answered only after it is stored
    found = trace_of_message(tmp_path / "spans.sqlite", 77)
    assert found == root[:16].hex()
    (only,) = spans_of_trace(tmp_path / "spans.sqlite", found)
    assert (only.name, only.service, only.start_ns, only.end_ns) == (
        "write",
        "test_svc",
        1000,
        2000,
    )
    assert only.parent_id == root[16:24].hex()
    assert only.pid > 0
    assert only.links == ((links[0][:16].hex(), links[0][16:24].hex()),)
