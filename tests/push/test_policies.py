"""Policies by tenant and kind of device: which rule counts, what each one tells."""

from __future__ import annotations

from typing import Any

import pytest

from chatmesh.runtime.settings import SettingsError, load
from chatmesh.v1 import types_pb2
from push_svc.decide import Fire, Policy, State, Void, Wait, decide
from push_svc.policies import KIND_NAMES, How, PolicyRule, how_to_tell, unreachable
from push_svc.settings import PushSettings
from tests.push.parts import binding, entry, job, state

PHONE, WEB = types_pb2.DEVICE_KIND_PHONE, types_pb2.DEVICE_KIND_WEB


def rule(policy: How, tenant: str = "", kind: Any = None) -> PolicyRule:
    return PolicyRule(tenant=tenant, device_kind=kind, policy=policy)


RULES = (
    rule(How.NONE, "acme", "bot"),
    rule(How.ALWAYS, "acme"),
    rule(How.MENTIONS, kind="web"),
)


@pytest.mark.parametrize(
    ("tenant", "kind", "how"),
    [
        ("default", PHONE, How.ACK),
        ("default", WEB, How.MENTIONS),
        ("acme", WEB, How.ALWAYS),
        ("acme", types_pb2.DEVICE_KIND_BOT, How.NONE),
        ("other", types_pb2.DEVICE_KIND_BOT, How.ACK),
        ("other", 99, How.ACK),
        ("Acme", PHONE, How.ACK),
    ],
)
def test_the_first_rule_that_fits_counts(tenant: str, kind: int, how: How) -> None:
    assert how_to_tell(RULES, tenant, kind) is how


def test_kinds_are_those_of_the_contract() -> None:
    names = [name.removeprefix("DEVICE_KIND_").lower() for name in types_pb2.DeviceKind.keys()]  # noqa: SIM118
    assert tuple(names) == KIND_NAMES


MENTION = entry(4, mention=True)
AMONG = (entry(3), MENTION, entry(5))
WAITING: dict[str, Any] = {"pending": AMONG, "pending_count": 3, "pending_mentions": 1}


# what waits, whether another device is active → what each policy does
@pytest.mark.parametrize(
    ("how", "now", "told"),
    [
        (How.ACK, state(5), [1, 2, 3, 4, 5]),
        (How.ACK, state(5, other_device_active=True), "wait"),
        (How.ACK, state(5, acked_seq=5), "acked"),
        (How.ALWAYS, state(5), [1, 2, 3, 4, 5]),
        (How.ALWAYS, state(5, other_device_active=True), [1, 2, 3, 4, 5]),
        (How.ALWAYS, state(5, acked_seq=5), "acked"),
        (How.ALWAYS, state(5, visible=False), "muted or read"),
        (How.MENTIONS, state(5), "muted or read"),
        (How.MENTIONS, state(5, **WAITING), [4]),
        (How.MENTIONS, state(5, **WAITING, other_device_active=True), "wait"),
        (How.MENTIONS, state(5, acked_seq=5), "acked"),
        (How.NONE, state(5), "policy"),
        (How.NONE, state(5, **WAITING), "policy"),
    ],
)
def test_what_each_policy_tells(how: How, now: State, told: Any) -> None:
    match decide(job(5), now, Policy(5, how)):
        case Void(reason):
            assert reason == told
        case Wait(seconds):
            assert told == "wait"
            assert seconds == 5
        case Fire() as fire:
            assert [one.timeline_seq for one in fire.entries] == told
            assert fire.count == len(told)
            assert fire.told_seq == 5, "what the policy leaves out is not asked about again"
        case other:
            pytest.fail(f"{other}")


def test_no_policy_tells_twice() -> None:
    told = job(5, binding=binding(pushed_seq=5, badge=5))
    for how in How:
        assert isinstance(decide(told, state(5, **WAITING), Policy(5, how)), Void), how


def test_mentions_are_counted_by_themselves() -> None:
    now = state(9, pending=(MENTION, entry(9)), pending_count=40, pending_mentions=3)
    fire = decide(job(9), now, Policy(5, How.MENTIONS))
    assert isinstance(fire, Fire)
    assert fire.count == 3


def test_a_rule_that_none_reaches_is_found() -> None:
    assert unreachable(RULES) == []
    assert unreachable((rule(How.ACK, "acme"), rule(How.NONE, "acme", "web"))) == [1]
    assert unreachable((rule(How.NONE), rule(How.ACK, "acme"), rule(How.ACK, kind="web"))) == [1, 2]
    assert unreachable((rule(How.ACK, kind="web"), rule(How.NONE, "acme"))) == []


NEEDED = {
    "CHATMESH_MESH_LISTEN": "127.0.0.1:0",
    "CHATMESH_POSTGRES_URL": "postgresql://localhost/x",
}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"policy": "sometimes"}]', "'ack', 'always', 'mentions' or 'none'"),
        ('[{"policy": "ack", "device_kind": "toaster"}]', "'phone'"),
        ('[{"policy": "ack", "tenants": "acme"}]', "Extra inputs"),
        ('[{"policy": "none"}, {"tenant": "acme", "policy": "ack"}]', "rule 1 is never reached"),
        ('[{"tenant": " acme", "policy": "ack"}]', "no space"),
        ('{"policy": "ack"}', "CHATMESH_PUSH_POLICIES"),
        ("none", "not valid JSON"),
    ],
)
def test_policies_that_are_none_are_told(text: str, why: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        load(PushSettings, {**NEEDED, "CHATMESH_PUSH_POLICIES": text})
    assert "CHATMESH_PUSH_POLICIES" in str(wrong.value)
    assert why in str(wrong.value)


def test_policies_are_read() -> None:
    text = '[{"tenant": "acme", "device_kind": "web", "policy": "mentions"}]'
    settings = load(PushSettings, {**NEEDED, "CHATMESH_PUSH_POLICIES": text})
    assert settings.push_policies == (rule(How.MENTIONS, "acme", "web"),)
