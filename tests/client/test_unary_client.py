"""The client without a session."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import grpc
import pytest

from chatmesh.client import (
    AuthenticationFailed,
    Message,
    NotReachable,
    PreviousRefused,
    Sent,
    Text,
    UnaryClient,
    Unavailable,
)
from chatmesh.runtime.faults import Fault
from tests.client.peer import Peer

AWAY = Fault(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING", "wait")


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer() as running:
        yield running


def text(number: int) -> Message:
    return Message(Text(f"{number}"), to_user="bob")


async def test_many_go_in_order_and_in_batches(peer: Peer) -> None:
    async with UnaryClient(peer.address, token="alice") as back_end:
        outcomes = await back_end.send_many([text(number) for number in range(250)])
    assert [one.timeline_seq for one in outcomes if isinstance(one, Sent)] == list(range(1, 251))


async def test_stop_on_error_stops_later_batches_too(peer: Peer) -> None:
    key = b"r" * 16
    peer.refuse.add(key)
    messages = [text(1), Message(Text("x"), to_user="bob", key=key)]
    messages += [text(n) for n in range(200)]
    async with UnaryClient(peer.address, token="alice") as back_end:
        outcomes = await back_end.send_many(messages, stop_on_error=True)
    kinds = [type(one) for one in outcomes]
    assert (kinds[1], kinds[-1], len(kinds)) == (NotReachable, PreviousRefused, 202)
    assert len(peer.account("bob").timeline) < 100


async def test_an_unknown_outcome_is_repeated_under_the_same_key(peer: Peer) -> None:
    peer.unary_failures.append(AWAY)  # after the commit: the answer is lost
    async with UnaryClient(peer.address, token="alice") as back_end:
        sent = await back_end.send(text(1))
    assert sent.repeated
    assert len(peer.account("bob").timeline) == 1


async def test_a_server_that_stays_away_is_said(peer: Peer) -> None:
    peer.unary_failures += [AWAY] * 4
    async with UnaryClient(peer.address, token="alice") as back_end:
        with pytest.raises(Unavailable):
            await back_end.send(text(1))


async def test_another_target_takes_over(peer: Peer) -> None:
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
        for targets in (f"{nobody},{peer.address}", f"{peer.address},{nobody}"):
            async with UnaryClient(targets, token="alice") as back_end:
                assert (await back_end.send(text(1))).message_id


async def test_refusals_are_raised(peer: Peer) -> None:
    key = b"r" * 16
    peer.refuse.add(key)
    async with UnaryClient(peer.address, token="alice") as back_end:
        with pytest.raises(NotReachable):
            await back_end.send(Message(Text("x"), to_user="bob", key=key))


async def test_calls_are_made_for_another(peer: Peer) -> None:
    async with UnaryClient(peer.address, token="robot", on_behalf_of="carol") as back_end:
        await back_end.send(text(1))
    assert peer.account("bob").timeline[0].sender_user_id == "carol"


async def test_no_token_no_client(peer: Peer) -> None:
    with pytest.raises(AuthenticationFailed):
        async with UnaryClient(peer.address, token=""):
            pass
