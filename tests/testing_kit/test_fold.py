"""How it reads now: the vectors for all languages, in any order, and the SDK's events."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from chatmesh import client as sdk
from chatmesh import fold

VECTORS = json.loads((Path(__file__).parents[2] / "protos" / "reads_now.json").read_text())


def said(values: dict[str, Any]) -> fold.Said[str]:
    return fold.Said(**{**values, "effect": fold.Effect(values["effect"])})


def shown(reading: fold.Reading[str]) -> dict[str, Any]:
    return {
        "conversation_seq": reading.conversation_seq, "sender": reading.sender,
        "body": reading.body, "edited": reading.edited, "pinned": reading.pinned,
        "reactions": sorted(map(list, reading.reactions)),
    }  # fmt: skip


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_the_vectors_hold_in_any_order_and_repeated(case: dict[str, Any]) -> None:
    events = [said(values) for values in case["events"]]
    for seed in range(20):
        random.Random(seed).shuffle(events)
        mixed = events + events[: seed % len(events)]
        readings = fold.reads_now(mixed, case.get("now_ms", 0))
        assert [shown(reading) for reading in readings] == case["expected"]


def test_events_of_the_sdk() -> None:
    def event(seq: int, content: sdk.Content | None, message_no: int = 0, **more: Any) -> sdk.Event:
        return sdk.Event(
            7, seq, message_no, seq, "alice", 1, "bob", sdk.ConversationKind.DIRECT, content, **more
        )

    events = [
        event(1, sdk.Text("helo"), 1),
        event(2, sdk.Edit(1, sdk.Text("hello"))),
        event(3, sdk.Reaction(1, "+1", False)),
        event(4, sdk.Pin(1, False)),
        event(5, sdk.Data("a/b", b"x"), 2, expires_at_ms=10),
        event(6, sdk.Delete(8)),
        event(7, None, 3),
        event(9, sdk.ConversationChange(False, "title", None)),
    ]
    first, second, third = sdk.reads_now(events, now_ms=10)
    assert (first.body, first.edited, first.pinned) == (sdk.Text("hello"), True, True)
    assert first.reactions == {("alice", "+1")}
    assert (second.body, third.body) == (None, None)
    assert sdk.reads_now(events)[1].body == sdk.Data("a/b", b"x")


def test_an_alias_makes_one_too() -> None:
    """As the model and the SDK name them."""
    assert fold.Reading[str](1, "alice", "text") == fold.Reading(1, "alice", "text")
    message = fold.Effect.MESSAGE
    assert fold.Said[str](1, message) == fold.Said(1, message)
