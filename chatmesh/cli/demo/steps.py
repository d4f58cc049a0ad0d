"""The steps of the diagram, in order: what happens, and where its effect is seen.

Rules: a step returns the evidence in words; it raises NotSeen when there is none. No step believes
the service that it shows: the recipient's frame, the row, the queue's entry or the provider's
request is looked at from this process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from chatmesh.cli.demo.cast import Actor, Line, NotSeen
from chatmesh.cli.demo.evidence import Evidence
from chatmesh.client import ContactAction, UnaryClient
from chatmesh.embedded.running import RunningMesh
from chatmesh.ids import DEFAULT_LAYOUT
from chatmesh.runtime import trace

FIRST_TEXT: Final = "Hello Bob, are you there?"
SECOND_TEXT: Final = "See you at eight"
OFFLINE_SECONDS: Final = 20.0
"""Going offline is told late on purpose: who is back within 3 s was never away."""


@dataclass(slots=True)
class Scene:
    """What the steps share: the mesh, the devices, and what has been said so far."""

    mesh: RunningMesh
    evidence: Evidence
    alice_phone: Actor
    alice_laptop: Actor
    bob_phone: Actor
    first: Line = field(default_factory=dict)
    second: Line = field(default_factory=dict)
    trace_ids: list[str] = field(default_factory=list)

    @property
    def node_a(self) -> str:
        """Public address of the first chat node."""
        return self.mesh.public[0]

    @property
    def node_b(self) -> str:
        """Public address of the second chat node; the first again when there is one only."""
        return self.mesh.public[1 % len(self.mesh.public)]

    def open(self, actor: Actor, user: str, device: str, kind: str, target: str) -> int:
        """Let a device log in."""
        return actor.order(
            "open", target=target, token=self.mesh.token(user), device=device, kind=kind
        )

    def traceparent(self) -> str:
        """Context of a message that is traced whatever the mesh's ratio says."""
        root = trace.new_root(sampled=True)
        self.trace_ids.append(root[:16].hex())
        return trace.to_traceparent(root)


# -- login flow -----------------------------------------------------------------------------------


async def become_contacts(scene: Scene) -> str:
    """Alice asks, Bob accepts: now they may see each other's presence."""
    target = scene.node_a
    async with (
        UnaryClient(target, token=scene.mesh.token("alice")) as alice,
        UnaryClient(target, token=scene.mesh.token("bob")) as bob,
    ):
        await alice.update_contact("bob", ContactAction.REQUEST)
        await bob.update_contact("alice", ContactAction.ACCEPT)
        (contact,) = await alice.contacts()
    if (contact.user_id, contact.state.name) != ("bob", "ACCEPTED"):
        raise NotSeen(f"Alice's list says {contact.user_id} {contact.state.name}")
    return "Alice's contact list, read anew: bob ACCEPTED"


async def bob_logs_in(scene: Scene) -> str:
    """Bob's phone opens a session on chat node B."""
    after = scene.open(scene.bob_phone, "bob", "phone", "PHONE", scene.node_b)
    welcome = await scene.bob_phone.sees("connected", after=after)
    routes = await scene.evidence.routes("bob", {"phone"})
    _same(routes["phone"], welcome["chat_node"], "presence's route and the phone's node")
    return f"Bob's phone read welcome from {welcome['chat_node']}; presence_svc routes to it"


async def alice_logs_in(scene: Scene) -> str:
    """Alice's phone and laptop open sessions on chat node A; presence learns both."""
    devices = ((scene.alice_phone, "phone", "PHONE"), (scene.alice_laptop, "laptop", "DESKTOP"))
    for actor, device, kind in devices:
        after = scene.open(actor, "alice", device, kind, scene.node_a)
        await actor.sees("connected", after=after)
    routes = await scene.evidence.routes("alice", {"phone", "laptop"})
    return "presence_svc, asked by LookupSessions: " + ", ".join(
        f"{device} on {node}" for device, node in sorted(routes.items())
    )


async def bob_is_told(scene: Scene) -> str:
    """Presence tells Bob's node, Bob's node tells Bob."""
    await scene.bob_phone.sees(
        "presence", lambda line: line["user"] == "alice" and bool(line["online"])
    )
    return "frame at Bob's phone: alice is online"


# -- message flow ---------------------------------------------------------------------------------


async def alice_sends(scene: Scene) -> str:
    """Alice's phone sends; her node answers with positions."""
    after = scene.alice_phone.order(
        "send", to="bob", text=FIRST_TEXT, traceparent=scene.traceparent()
    )
    scene.first = await scene.alice_phone.sees("sent", after=after)
    return (
        f"result at Alice's phone: message {scene.first['message_id']}, number "
        f"{scene.first['conversation_seq']} of the conversation"
    )


async def id_is_the_sequencers(scene: Scene) -> str:
    """The id was made by a sequencer that holds its worker number."""
    decoded = DEFAULT_LAYOUT.decode(scene.first["message_id"])
    row = await scene.evidence.worker(decoded.worker)
    if decoded.created_at_ms >= row["window_end_ms"]:
        raise NotSeen(f"the id's time lies after worker {decoded.worker}'s window")
    return f"worker {decoded.worker} of the id is held by {row['holder']} in PostgreSQL"


async def message_is_stored(scene: Scene) -> str:
    """Event and both timelines were committed before the answer."""
    first = scene.first
    row = await scene.evidence.event(
        first["conversation_id"], first["conversation_seq"], first["message_id"]
    )
    _same(row["timelines"].get("alice"), first["timeline_seq"], "Alice's timeline")
    if "bob" not in row["timelines"]:
        raise NotSeen("Bob's timeline has no row for the message")
    places = ", ".join(f"{user} {seq}" for user, seq in sorted(row["timelines"].items()))
    return f"rows in PostgreSQL: event {first['message_id']}, timelines {places}"


async def hint_is_queued(scene: Scene) -> str:
    """The node handed the batch to sync_svc, which put it into the queue."""
    return f"entry in Valkey: {await scene.evidence.queued(scene.first['message_id'])}"


async def bob_receives(scene: Scene) -> str:
    """sync_svc asked presence, delivered to chat node B, and that wrote to Bob's phone."""
    entry = await _entry(scene.bob_phone, scene.first)
    _same(entry["text"], FIRST_TEXT, "text")
    connected = await scene.bob_phone.sees("connected")
    return f"frame at Bob's phone on {connected['chat_node']}: {entry['sender']}: {entry['text']}"


async def laptop_has_it(scene: Scene) -> str:
    """Alice's own message reaches her other device, at the same position."""
    entry = await _entry(scene.alice_laptop, scene.first)
    _same(entry["timeline_seq"], scene.first["timeline_seq"], "position")
    return f"frame at Alice's laptop: position {entry['timeline_seq']}"


async def bob_acks(scene: Scene) -> str:
    """Bob's phone stored the entry and acked; his cursor moved."""
    entry = await _entry(scene.bob_phone, scene.first)
    await scene.evidence.acked("bob", "phone", entry["timeline_seq"], entry["message_id"])
    return f"row in PostgreSQL: Bob's phone has stored up to {entry['timeline_seq']}"


async def receipts_come_back(scene: Scene) -> str:
    """Delivered, then read: Alice's phone shows both."""
    first = scene.first

    def is_bobs(line: Line) -> bool:
        place: tuple[str, int] = line["user"], line["conversation_id"]
        return place == ("bob", first["conversation_id"])

    await scene.alice_phone.sees(
        "receipt",
        lambda line: (
            is_bobs(line) and line["delivered_conversation_seq"] >= first["conversation_seq"]
        ),
    )
    scene.bob_phone.order(
        "read", conversation_id=first["conversation_id"], message_no=first["message_no"]
    )
    await scene.alice_phone.sees(
        "receipt",
        lambda line: is_bobs(line) and line["read_message_no"] >= first["message_no"],
    )
    return "frames at Alice's phone: delivered, then read"


# -- offline --------------------------------------------------------------------------------------


async def bob_goes_offline(scene: Scene) -> str:
    """Bob's phone leaves a push token and goes; presence forgets the route, Alice is told."""
    after = scene.bob_phone.order("push", token="token-of-bobs-phone")  # noqa: S106 - of the demo
    await scene.bob_phone.sees("push token registered", after=after)
    mark = len(scene.alice_phone.seen)
    scene.bob_phone.order("close")
    await scene.bob_phone.sees("closed", after=after)
    await scene.evidence.routes("bob", set())
    await scene.alice_phone.sees(
        "presence",
        lambda line: line["user"] == "bob" and not line["online"],
        after=mark,
        within_seconds=OFFLINE_SECONDS,
    )
    return "presence_svc has no route of bob; frame at Alice's phone: bob is offline"


async def bob_is_pushed(scene: Scene) -> str:
    """Alice sends; nobody is there to take it, so push_svc notifies the phone."""
    after = scene.alice_phone.order(
        "send", to="bob", text=SECOND_TEXT, traceparent=scene.traceparent()
    )
    scene.second = await scene.alice_phone.sees("sent", after=after)
    record = await scene.evidence.pushed("bob", scene.second["message_id"])
    line = await scene.evidence.notification_line(scene.second["message_id"])
    return (
        f"request to provider log for device {record.device_id}: "
        f"{line.get('title', '')!r} {line.get('body', '')!r}, badge {line.get('badge')}"
    )


async def bob_catches_up(scene: Scene) -> str:
    """Bob's phone comes back, resumes from its cursor and gets what it missed, once."""
    after = scene.open(scene.bob_phone, "bob", "phone", "PHONE", scene.node_b)
    connected = await scene.bob_phone.sees("connected", after=after)
    entry = await _entry(scene.bob_phone, scene.second)
    await scene.bob_phone.sees("caught up", after=after)
    again = [line for line in scene.bob_phone.seen[after:] if line["saw"] == "entry"]
    _same(len(again), connected["head"] - connected["start"], "number of entries after resuming")
    return (
        f"frame at Bob's phone: resumed after {connected['start']}, got {entry['timeline_seq']} "
        f"({entry['text']!r}), caught up"
    )


async def all_are_equal(scene: Scene) -> str:
    """Alice's devices hold the same timeline, Bob has every message of it, and no hint is owed."""
    await _entry(scene.alice_laptop, scene.second)
    await _entry(scene.alice_phone, scene.second)
    phone, laptop = scene.alice_phone.entries(), scene.alice_laptop.entries()
    _same(phone, laptop, "timelines of Alice's phone and laptop")
    bobs = set(scene.bob_phone.entries().values())
    missing = {scene.first["message_id"], scene.second["message_id"]} - bobs
    if missing:
        raise NotSeen(f"Bob's phone lacks {missing}")
    for said in (scene.first, scene.second):
        await scene.evidence.settled(said["message_id"])
    return (
        f"stores of the three devices: {len(phone)} entries at Alice's, equal; Bob has both; "
        "no outbox row is left in PostgreSQL"
    )


async def _entry(actor: Actor, sent: Line) -> Line:
    return await actor.sees("entry", lambda line: line["message_id"] == sent["message_id"])


def _same(left: object, right: object, what: str) -> None:
    if left != right:
        raise NotSeen(f"{what} differ: {left} and {right}")


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered step. `spans`: hops whose time it is, in any of the traced messages."""

    flow: str
    title: str
    run: Callable[[Scene], Awaitable[str]]
    spans: tuple[str, ...] = ()


STEPS: Final = (
    Step("login", "Alice and Bob become contacts", become_contacts),
    Step("login", "Bob's phone logs in on chat node B", bob_logs_in),
    Step("login", "Alice's phone and laptop log in on chat node A", alice_logs_in),
    Step("login", "Bob is told that Alice is online", bob_is_told),
    Step("message", "Alice's phone sends to Bob and is answered", alice_sends, ("client.send",)),
    Step("message", "its id came from the sequencer", id_is_the_sequencers, ("chat.ids",)),
    Step("message", "it is stored, in one commit", message_is_stored, ("chat.commit",)),
    Step("message", "its hint went through the sync queue", hint_is_queued, ("sync.queue",)),
    Step("message", "Bob's phone shows it, from the other chat node", bob_receives,
         ("sync.lookup", "presence.lookup", "sync.deliver", "chat.deliver", "chat.write")),
    Step("message", "Alice's laptop has her own message too", laptop_has_it),
    Step("message", "Bob's phone has stored it, his cursor moved", bob_acks, ("chat.ack",)),
    Step("message", "delivered and read receipts come back", receipts_come_back),
    Step("offline", "Bob's phone goes offline, Alice is told", bob_goes_offline),
    Step("offline", "Alice sends, Bob's phone is pushed", bob_is_pushed,
         ("push.job", "push.state", "push.send")),
    Step("offline", "Bob's phone returns and catches up", bob_catches_up),
    Step("offline", "all devices hold the same, nothing is owed", all_are_equal),
)  # fmt: skip
