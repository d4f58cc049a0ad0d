"""Presence asked for once: in the order asked, contacts only, and nothing tells who is who."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from chat_svc.node.audience import Audience
from chat_svc.node.resolver import Resolver
from chat_svc.store.accounts import Privacy
from chatmesh.mesh.v1.presence_pb2 import GetFactsRequest, GetFactsResponse, PresenceFact
from chatmesh.v1 import types_pb2
from tests.chat_node import parts

ALICE, BOB, CAROL = 1, 2, 3
ONLINE, OFFLINE = types_pb2.PRESENCE_STATE_ONLINE, types_pb2.PRESENCE_STATE_OFFLINE


class Rows:
    """Alice and Bob are contacts; Carol is a stranger to both."""

    def __init__(self) -> None:
        self.privacy_of: dict[int, Privacy] = {}
        self.asked: list[int] = []
        self.is_away = False

    async def contacts_of(self, accounts: Sequence[int], most: int) -> dict[int, list[int]]:
        raise AssertionError("whole lists are not read for this")

    async def contact_pairs(self, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        return {pair for pair in pairs if set(pair) == {ALICE, BOB}}

    async def privacy(self, accounts: Sequence[int]) -> dict[int, Privacy]:
        return {one: self.privacy_of.get(one, Privacy(2, 2, 2, 2)) for one in accounts}

    async def get_facts(self, request: GetFactsRequest) -> GetFactsResponse:
        if self.is_away:
            raise ConnectionError("presence is away")
        self.asked += request.account_ids
        return GetFactsResponse(
            facts=[
                PresenceFact(account_id=one, state=ONLINE, last_seen_ms=7, status_text="hi")
                for one in request.account_ids
            ]
        )


def audience(rows: Rows) -> Audience:
    resolver = Resolver(
        parts.ScriptedAccounts(),  # type: ignore[arg-type]
        parts.ScriptedConversations(),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        makes_unknown=False,
        makes_contacts=True,
    )
    return Audience(rows, rows, resolver, rows.get_facts)


async def test_each_is_answered_in_order_and_only_contacts_are_looked_up() -> None:
    rows = Rows()
    users = ["carol", "alice", "nobody", "bob", "alice"]
    found = await audience(rows).presence_of(parts.TENANT, BOB, users)
    assert [(one.user_id, one.state) for one in found] == [
        ("carol", OFFLINE),
        ("alice", ONLINE),
        ("nobody", OFFLINE),
        ("bob", ONLINE),
    ]
    assert rows.asked == [ALICE, BOB]
    stranger, _, unknown, _ = found
    stranger.user_id = unknown.user_id
    assert stranger == unknown


async def test_presence_that_is_away_is_away_for_strangers_too() -> None:
    rows = Rows()
    rows.is_away = True
    for viewer, user in ((ALICE, "bob"), (ALICE, "carol"), (ALICE, "nobody")):
        with pytest.raises(ConnectionError):
            await audience(rows).presence_of(parts.TENANT, viewer, [user])


async def test_privacy_holds() -> None:
    rows = Rows()
    rows.privacy_of = {ALICE: Privacy(1, 2, 2, 2)}
    (alice,) = await audience(rows).presence_of(parts.TENANT, BOB, ["alice"])
    assert (alice.state, alice.status_text, alice.last_seen_ms) == (OFFLINE, "", 7)
    (myself,) = await audience(rows).presence_of(parts.TENANT, ALICE, ["alice"])
    assert (myself.state, myself.status_text) == (ONLINE, "hi")


async def test_who_sees_somebody_type() -> None:
    rows = Rows()
    members = {ALICE: [ALICE, BOB, CAROL], CAROL: [ALICE, CAROL]}
    assert await audience(rows).sees_typing(members) == {ALICE: {BOB}, CAROL: set()}
    rows.privacy_of = {ALICE: Privacy(2, 2, 1, 2)}
    assert await audience(rows).sees_typing(members) == {ALICE: set(), CAROL: set()}
