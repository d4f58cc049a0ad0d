"""Network policies are the diagram's arrows: no more than the contract allows, no less than runs.

Three sources are compared: the policies, the callers that the mesh contract names, and the calls
that spans of a running mesh show.
"""

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from chatmesh.client import Client
from chatmesh.embedded import spans
from chatmesh.embedded.running import RunningMesh
from chatmesh.mesh.v1 import (
    callers_pb2,
    node_pb2,
    presence_pb2,
    push_pb2,
    sequencer_pb2,
    sync_pb2,
)
from chatmesh.runtime.trace import CALLER
from tests.k8s.rendering import (
    DEPLOYED,
    NAME,
    SERVERS,
    Manifest,
    literals,
    of_kind,
    port_of,
    servers,
)

OVERLAYS = ("base", *DEPLOYED)
CONTRACTS = {
    "chat": node_pb2, "presence": presence_pb2, "push": push_pb2, "sequencer": sequencer_pb2,
    "sync": sync_pb2,
}  # fmt: skip
OPERATOR = "cli"
"""Calls from outside the cluster by port-forward; no pod."""
STORES = {"chat": {"postgres"}, "sequencer": {"postgres"}, "push": {"postgres"},
          "presence": {"redis"}, "sync": {"redis"}}  # fmt: skip


def contract() -> set[tuple[str, str]]:
    """(caller, callee) that the mesh contract allows."""
    arrows = set()
    for callee, module in CONTRACTS.items():
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                for caller in method.GetOptions().Extensions[callers_pb2.callers]:
                    if caller != OPERATOR:
                        arrows.add((caller.removesuffix("_svc"), callee))
    return arrows


def selected(selector: Manifest) -> set[str]:
    """Names of the pods that a selector means."""
    names = set()
    if NAME in selector.get("matchLabels", {}):
        names.add(selector["matchLabels"][NAME])
    for expression in selector.get("matchExpressions", []):
        assert (expression["key"], expression["operator"]) == (NAME, "In")
        names |= set(expression["values"])
    return names


def arrows(overlay: str, direction: str) -> Iterator[tuple[str, str, int]]:
    """(from, to, port) between named pods, as the policies of one direction allow them."""
    side = "from" if direction == "ingress" else "to"
    for policy in of_kind(overlay, "NetworkPolicy").values():
        for here in selected(policy["spec"]["podSelector"]):
            for rule in policy["spec"].get(direction) or []:
                for peer in rule.get(side, []):
                    for there in selected(peer.get("podSelector", {})):
                        for port in rule["ports"]:
                            pair = (there, here) if direction == "ingress" else (here, there)
                            yield (*pair, port["port"])


@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_mesh_arrows_are_the_contracts(overlay: str, direction: str) -> None:
    mesh = {
        name: port_of(literals(pod)["CHATMESH_MESH_LISTEN"])
        for name, pod in servers(overlay).items()
    }
    allowed = {each for each in arrows(overlay, direction) if {each[0], each[1]} <= set(SERVERS)}
    assert allowed == {(caller, callee, mesh[callee]) for caller, callee in contract()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_not_allowed_is_denied(overlay: str) -> None:
    deny = of_kind(overlay, "NetworkPolicy")["deny-all"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("overlay", DEPLOYED)
def test_only_who_uses_a_store_reaches_it(overlay: str) -> None:
    ports = {"postgres": 5432, "redis": 6379}
    for store, port in ports.items():
        reached = set()
        for policy in of_kind(overlay, "NetworkPolicy").values():
            for rule in policy["spec"].get("egress") or []:
                if port in [each["port"] for each in rule["ports"]]:
                    reached |= selected(policy["spec"]["podSelector"])
        users = {server for server, used in STORES.items() if store in used}
        assert reached == (users | {"migrate"} if store == "postgres" else users), store


@pytest.mark.parametrize("overlay", DEPLOYED)
def test_the_stores_in_that_table_are_the_stores_in_the_pods(overlay: str) -> None:
    for name, pod in servers(overlay).items():
        names = {each["name"] for each in pod.container["env"]}
        given = {
            store for store in ("postgres", "redis") if f"CHATMESH_{store.upper()}_URL" in names
        }
        assert given == STORES[name], name


@pytest.mark.parametrize("overlay", DEPLOYED)
def test_only_the_public_port_is_open_to_everybody(overlay: str) -> None:
    public = port_of(literals(servers(overlay)["chat"])["CHATMESH_PUBLIC_LISTEN"])
    for name, policy in of_kind(overlay, "NetworkPolicy").items():
        for rule in policy["spec"].get("ingress") or []:
            if not rule.get("from"):
                assert (name, [each["port"] for each in rule["ports"]]) == ("chat", [public])


@pytest.mark.mesh
async def test_calls_that_spans_show_are_arrows(running_mesh: RunningMesh) -> None:
    suffix = uuid.uuid4().hex[:8]
    alice, bob = f"k8s-alice-{suffix}", f"k8s-bob-{suffix}"
    trace_id = uuid.uuid4().hex
    async with (
        Client(running_mesh.public[0], token=running_mesh.token(alice), device_id="p") as sender,
        Client(running_mesh.public[1], token=running_mesh.token(bob), device_id="p") as receiver,
    ):
        await sender.send(to_user=bob, text="traced", traceparent=f"00-{trace_id}-{'1' * 16}-01")
        async for entry in receiver.entries():
            if entry.text == "traced":
                break
        seen: set[tuple[str, str]] = set()
        async with asyncio.timeout(60):  # exporters send in their own time
            while not seen >= {("chat", "sync"), ("sync", "chat"), ("sync", "presence")}:
                await asyncio.sleep(0.2)
                found = await asyncio.to_thread(
                    spans.spans_of_trace, running_mesh.folder.spans_file, trace_id
                )
                seen = _calls(found)
    assert seen <= contract()
    assert seen <= {(caller, callee) for caller, callee, _ in arrows("base", "egress")}


def _calls(found: list[spans.Span]) -> set[tuple[str, str]]:
    """(caller, callee): whom the certificate named, else whose span the message's context was."""
    by_id = {span.span_id: span for span in found}
    calls = set()
    for span in found:
        parent = by_id.get(span.parent_id)
        caller = span.attributes.get(CALLER) or (parent.service if parent else span.service)
        if caller != span.service or CALLER in span.attributes:
            calls.add((str(caller).removesuffix("_svc"), span.service.removesuffix("_svc")))
    return calls
