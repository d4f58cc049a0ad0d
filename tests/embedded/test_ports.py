"""Ports: the plan that the README states, free ones on demand, a clear word when one is taken."""

import socket

import pytest

from chatmesh.embedded import ports
from chatmesh.embedded.errors import PortTaken
from chatmesh.embedded.services import process_names


def test_the_fixed_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: True)
    servers = ports.plan(process_names({"chat_svc": 2}), "fixed").servers
    assert {name: (each.public, each.mesh) for name, each in servers.items()} == {
        "chat-1": (7030, 7031),
        "chat-2": (7032, 7033),
        "presence": (None, 7011),
        "sequencer": (None, 7021),
        "sync": (None, 7041),
        "push": (None, 7051),
    }


@pytest.mark.parametrize("mode", ["fixed", "auto"])
def test_no_port_twice(mode: ports.Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: True)
    many = {"chat_svc": 30, "sync_svc": 4, "presence_svc": 4, "push_svc": 3, "sequencer_svc": 3}
    plan = ports.plan(process_names(many), mode)
    listed = [port for each in plan.servers.values() for _, port in each.listed()]
    assert len(set(listed)) == len(listed)
    assert plan.spans not in listed


def test_a_taken_port_is_named_with_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((ports.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setitem(ports._MESH_PORT, "sync_svc", port)
        monkeypatch.setattr(ports, "is_free", lambda asked: asked != port)
        with pytest.raises(
            PortTaken, match=rf"port {port} on 127.0.0.1 \(sync, mesh\).*--ports auto"
        ):
            ports.plan(process_names({"chat_svc": 1}), "fixed")


def test_free_is_what_can_be_bound() -> None:
    with socket.create_server((ports.HOST, 0)) as taken:
        assert not ports.is_free(taken.getsockname()[1])


def test_auto_avoids_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: port % 2 == 0)
    plan = ports.plan(process_names({"chat_svc": 2}), "auto")
    assert all(port % 2 == 0 for each in plan.servers.values() for _, port in each.listed())
