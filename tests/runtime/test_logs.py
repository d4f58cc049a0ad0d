"""Logs: what of an exception is written, and how often."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from chatmesh.runtime import logs
from chatmesh.runtime.errors import StoreRefused


def summary(raising: Callable[[], object], *, show_all_texts: bool = False) -> list[dict[str, Any]]:
    try:
        raising()
    except BaseException as error:  # noqa: BLE001 - whatever it is
        event = logs._ExceptionSummary(show_all_texts=show_all_texts)(
            None, "error", {"exc_info": error}
        )
        assert "exc_info" not in event
        found: list[dict[str, Any]] = json.loads(json.dumps(event["exception"]))
        return found
    raise AssertionError("nothing was raised")


def fail(error: BaseException, cause: BaseException | None = None) -> Callable[[], object]:
    def raising() -> None:
        token = "canary in a local"  # noqa: F841 - it must not be written
        raise error from cause

    return raising


@pytest.mark.parametrize(
    "error",
    [
        ValueError("canary"),
        KeyError("canary"),
        UnicodeEncodeError("utf-8", "canary", 0, 1, "canary"),
        psycopg.errors.UniqueViolation("Key (id)=(canary) already exists"),
    ],
)
def test_texts_that_may_quote_a_user_are_withheld(error: Exception) -> None:
    written = summary(fail(error))
    assert written[0]["text"] == "(withheld)"
    assert "canary" not in json.dumps(written)
    assert written[0]["frames"][-1].endswith(" raising")
    assert "canary" in json.dumps(summary(fail(error), show_all_texts=True))


@pytest.mark.parametrize("error", [RuntimeError("said"), StoreRefused("said"), OSError("said")])
def test_texts_that_describe_the_program_are_written(error: Exception) -> None:
    written = summary(fail(error))
    assert written[0]["text"] == "said"
    assert "canary" not in json.dumps(written)


def test_causes_and_groups_are_followed() -> None:
    group = ExceptionGroup("several", [ValueError("x"), RuntimeError("in the group")])
    written = summary(fail(TypeError("outer"), cause=group))
    assert [one["type"].rpartition(".")[2] for one in written] == [
        "TypeError",
        "ExceptionGroup",
        "ValueError",
        "RuntimeError",
    ]


def test_a_budget_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    budget = logs.LogBudget(per_second=2)
    assert [budget.take() for _ in range(4)] == [True, True, False, False]
    assert budget.suppressed == 2
    now[0] += 1
    assert budget.take()


def test_the_level_can_be_changed() -> None:
    root = logging.getLogger()
    before = root.level
    try:
        logs.set_level("error")
        assert root.level == logging.ERROR
    finally:
        root.setLevel(before)
