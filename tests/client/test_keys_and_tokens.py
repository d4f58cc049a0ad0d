"""Idempotency keys in the server's time, and when a token is renewed."""

import base64
import json
import uuid

import pytest

from chatmesh.client._keys import ServerTime, uuid7
from chatmesh.client._tokens import Tokens, expiry_seconds
from chatmesh.client.errors import AuthenticationFailed
from chatmesh.testing.clock import VirtualClock


def jwt(claims: dict[str, object]) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{body}.sig"


def test_uuid7_is_one_and_carries_its_time() -> None:
    key = uuid.UUID(bytes=uuid7(1_790_000_000_123))
    assert (key.version, key.variant) == (7, uuid.RFC_4122)
    assert key.int >> 80 == 1_790_000_000_123
    assert len({uuid7(5) for _ in range(1000)}) == 1000


def test_the_rfcs_own_vector() -> None:
    random = (0xCC3 << 68 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    made = uuid7(0x017F22E279B0, random)
    assert str(uuid.UUID(bytes=made)).startswith("017f22e2-79b0-7")


def test_server_time_ignores_steps_of_the_devices_clock() -> None:
    clock = VirtualClock(wall_ms=1_000_000)
    time = ServerTime(clock)
    assert time.now_ms() == 1_000_000
    time.heard(1_790_000_000_000)
    clock.step_wall(-3_600_000)
    clock.advance(2.5)
    assert time.now_ms() == 1_790_000_002_500
    time.heard(0)
    assert time.now_ms() == 1_790_000_002_500


def test_expiry_is_read_from_a_jwt_and_from_nothing_else() -> None:
    assert expiry_seconds(jwt({"exp": 1234})) == 1234.0
    for token in ("", "opaque", "a.b.c", jwt({}), jwt({"exp": "x"}), "e30.W10.s"):
        assert expiry_seconds(token) is None


async def test_a_fixed_token_is_never_renewed() -> None:
    tokens = Tokens(jwt({"exp": 100}))
    assert not tokens.can_renew
    assert await tokens.fetch() == jwt({"exp": 100})
    assert tokens.renew_after_seconds(0) is None


async def test_a_provider_is_asked_in_time() -> None:
    async def provide() -> str:
        return jwt({"exp": 1000})

    tokens = Tokens(provide)
    await tokens.fetch()
    assert tokens.renew_after_seconds(900_000) == pytest.approx(80.0)
    assert tokens.renew_after_seconds(997_000) == pytest.approx(1.0)
    assert tokens.renew_after_seconds(2_000_000) == 0.0


async def test_an_empty_token_is_refused_here() -> None:
    with pytest.raises(AuthenticationFailed):
        await Tokens("").fetch()
