"""One random run over a whole mesh: commands on real devices and on the small model side by side.

Messages that follow each other are under way together; their places, as answered, say in which
order the model says them. What changes who may do what is done while none is under way, but for
races, whose outcome the places tell, too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from chatmesh.runtime.faults import Fault
from chatmesh.testing.model import Chat, Model, Refused, Said
from chatmesh.v1 import contacts_pb2, conversations_pb2, session_pb2, types_pb2
from tests.faults.devices import RecordedDevice
from tests.faults.guest import Guest
from tests.faults.people import Person
from tests.faults.steps import CHANGES, FAULTS, SAYS, Step
from tests.raw import new_key

MAX_DEVICES = 6
"""A user's, below the limit of the mesh with one that only reads, one in the pocket, and the one
that comes in the end."""
UNDER_WAY = 24
"""Messages under way at most."""
Contact = contacts_pb2.UpdateContactRequest
TEXT = types_pb2.TextContent


class Differs(AssertionError):
    """The mesh did something that the model does not."""


@dataclass(eq=False)
class Talk:
    """A conversation: in the model, and its id on the mesh (0: no message yet)."""

    chat: Chat
    id: int = 0


@dataclass(frozen=True, eq=False)
class Saying:
    """A message under way, from one or two devices."""

    talk: Talk
    person: Person
    devices: tuple[RecordedDevice, ...]
    message: types_pb2.OutgoingMessage
    kind: str
    body: str
    target: int

    @property
    def key(self) -> bytes:
        return self.message.idempotency_key


@dataclass
class Run:
    """State of one run. `breaks` does the faults by name."""

    people: list[Person]
    breaks: dict[str, Any]
    model: Model = field(default_factory=Model)
    talks: list[Talk] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    guest: Guest | None = None
    ever_blocked: set[tuple[str, str]] = field(default_factory=set)
    """Who blocked whom at any time."""
    said: list[Saying] = field(default_factory=list)
    """What was accepted, for keys that come again."""
    _under_way: list[Saying] = field(default_factory=list)
    _texts: count[int] = field(default_factory=count)

    # -- the whole ---------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Two devices each, a group of all and one of some, direct conversations."""
        for _ in range(2):
            await asyncio.gather(*(person.new_device() for person in self.people))
        names = [person.name for person in self.people]
        for owner, members in ((0, names[1:]), (1, names[2:])):
            await self._make_group(self.people[owner], members)
        for one, other in ((0, 1), (1, 2), (2, 0), (3, 1)):
            self.talks.append(Talk(self.model.direct(names[one], names[other])))

    async def steps(self, steps: Sequence[Step]) -> None:
        """Run them all. Raises Differs."""
        for step in steps:
            if step.kind in SAYS:
                if len(self._under_way) >= UNDER_WAY:
                    await self.settle()
                await self._say(step)
            elif step.kind in FAULTS:
                if self._under_way:
                    await self.breaks[step.kind](step)
                    self.done[step.kind] += 1
            else:
                await self.settle()
                await self._change(step)
        await self.settle()

    # -- messages ----------------------------------------------------------------------------------

    async def _say(self, step: Step) -> None:
        talk = self.talks[step.one % len(self.talks)]
        person = self._one_of(talk, step.other)
        devices = person.here
        if not devices:
            return
        device = devices[step.third % len(devices)]
        if step.kind in ("an old key again", "other content under an old key"):
            saying = self._old(step, device)
        elif step.kind in ("edit", "delete", "reaction"):
            saying = self._about(step, talk, person, device)
        else:
            twice = step.kind == "the same key on two nodes"
            saying = self._text(talk, person, tuple(devices[:2]) if twice else (device,))
        if saying is None:
            return
        self.done[step.kind] += 1
        self._under_way.append(saying)
        await asyncio.gather(*(one.post([saying.message]) for one in saying.devices))

    def _one_of(self, talk: Talk, number: int) -> Person:
        """Mostly a member; in a group now and then somebody who is none."""
        people = self.people
        if talk.chat.direct or number % 8:
            people = [one for one in people if one.name in talk.chat.members] or people
        return people[number // 8 % len(people)]

    def _person(self, name: str) -> Person:
        return next(person for person in self.people if person.name == name)

    def _text(self, talk: Talk, person: Person, devices: tuple[RecordedDevice, ...]) -> Saying:
        body = f"{person.name} {next(self._texts)}"
        content = types_pb2.Content(text=TEXT(body=body))
        return self._saying(talk, person, devices, content, "text", body, 0)

    def _about(
        self, step: Step, talk: Talk, person: Person, device: RecordedDevice
    ) -> Saying | None:
        """An edit, deletion or reaction; at a message that nothing under way is about."""
        busy = {(one.talk, one.target) for one in self._under_way}
        seqs = [said.conversation_seq for said in talk.chat.events if said.kind == "text"]
        if not seqs or not talk.id:
            return None
        target = seqs[-1 - step.third % min(len(seqs), 12)]
        if (talk, target) in busy:
            return None
        said = talk.chat.events[target - 1]
        if step.kind != "reaction" and step.third % 5 and said.sender in talk.chat.members:
            person = self._person(said.sender)
            if not person.here:
                return None
            device = person.here[0]
        body = f"{person.name} {next(self._texts)}" if step.kind == "edit" else ""
        content = types_pb2.Content()
        if step.kind == "edit":
            content.edit.target_conversation_seq = target
            content.edit.text.body = body
        elif step.kind == "delete":
            content.delete.target_conversation_seq = target
        else:
            body = "+-!?"[step.third % 4]
            content.reaction.target_conversation_seq = target
            content.reaction.reaction = body
        return self._saying(talk, person, (device,), content, step.kind, body, target)

    def _old(self, step: Step, device: RecordedDevice) -> Saying | None:
        """A message that was accepted long ago, from any device of its sender."""
        if not self.said:
            return None
        old = self.said[step.third % len(self.said)]
        is_under_way = any(one.key == old.key for one in self._under_way)
        if old.kind != "text" or not old.person.here or is_under_way:
            return None
        devices = old.person.here
        device = devices[step.other % len(devices)]
        message = types_pb2.OutgoingMessage()
        message.CopyFrom(old.message)
        body = old.body
        if step.kind == "other content under an old key":
            body = f"{old.person.name} {next(self._texts)}"
            message.content.text.body = body
        for one in old.person.devices:
            one.results.pop(old.key, None)
        return Saying(old.talk, old.person, (device,), message, "text", body, 0)

    def _saying(
        self,
        talk: Talk,
        person: Person,
        devices: tuple[RecordedDevice, ...],
        content: types_pb2.Content,
        kind: str,
        body: str,
        target: int,
    ) -> Saying:
        message = types_pb2.OutgoingMessage(idempotency_key=new_key(), content=content)
        if talk.chat.direct:
            (other,) = talk.chat.members - {person.name}
            message.to_user_id = other
        else:
            message.conversation_id = talk.id
        return Saying(talk, person, devices, message, kind, body, target)

    async def settle(self) -> None:
        """Every message is answered, and the model says them in the order of their places."""
        answers = [
            (saying, result)
            for saying in self._under_way
            for device in saying.devices
            for result in await device.answered([saying.key])
        ]
        self._under_way.clear()
        for saying, result in sorted(answers, key=lambda one: one[1].conversation_seq):
            self._compare_answer(saying, result)
        await self._come_back()

    def _compare_answer(self, saying: Saying, result: session_pb2.SendResult) -> None:
        expected = self.expect(saying)
        told = result.problem.reason or (result.conversation_seq, result.message_no)
        if told != expected:
            raise Differs(f"{saying.person.name} {saying.kind}: {told}, but should be {expected}")
        if not result.HasField("problem"):
            saying.talk.id = saying.talk.id or result.conversation_id
            if result.conversation_id != saying.talk.id:
                raise Differs(f"{saying.person.name}: in another conversation")
            if not any(one.key == saying.key for one in self.said):
                self.said.append(saying)

    def expect(self, saying: Saying) -> str | tuple[int, int]:
        """What the model answers now."""
        try:
            said: Said = self.model.send(
                saying.person.name,
                saying.talk.chat,
                saying.key.hex(),
                saying.body,
                kind=saying.kind,
                target=saying.target,
            )
        except Refused as refused:
            return refused.reason
        return said.conversation_seq, said.message_no

    async def _come_back(self) -> None:
        """Devices that lost their connection find a node again."""
        lost = [
            device for person in self.people for device in person.here if device.end is not None
        ]
        await asyncio.gather(*(device.reopen() for device in lost))
        if self.guest is not None:
            await self.guest.come_back()

    # -- changes -----------------------------------------------------------------------------------

    async def _change(self, step: Step) -> None:
        assert step.kind in CHANGES, step.kind
        if "device" in step.kind:
            did = await self._move_device(step)
        elif step.kind in ("block", "unblock"):
            did = await self._block(step)
        elif step.kind == "read":
            did = await self._read(step)
        elif step.kind == "removal races sends":
            did = await self._race(step)
        elif step.kind == "guest comes or goes":
            did = self.guest is not None
            if self.guest is not None:
                await self.guest.turn()
        else:
            did = await self._members(step)
        self.done[step.kind] += did

    async def _move_device(self, step: Step) -> bool:
        person = self.people[step.one % len(self.people)]
        away = [one for one in person.devices if one.device_id in person.away]
        here = person.here
        if step.kind == "new device":
            if len(person.devices) < MAX_DEVICES:
                await person.new_device()
                return True
        elif step.kind == "device goes":
            if len(here) > 1:
                device = here[step.other % len(here)]
                person.away.add(device.device_id)
                await device.hang_up()
                return True
        elif step.kind == "device comes back":
            if away:
                person.away.discard(away[0].device_id)
                await away[0].reopen()
                return True
        else:
            device = (away or here)[0]
            person.away.discard(device.device_id)
            await device.hang_up()
            device.forget(1 + step.other % 9)
            await device.reopen()
            return True
        return False

    async def _block(self, step: Step) -> bool:
        one = self.people[step.one % len(self.people)]
        # few pairs, or nobody speaks to anybody in the end
        other = self.people[(step.one + 1) % len(self.people)]
        blocks = step.kind == "block"
        action = Contact.ACTION_BLOCK if blocks else Contact.ACTION_UNBLOCK
        if blocks == ((one.name, other.name) in self.model.blocks):
            return False
        request = Contact(idempotency_key=new_key(), user_id=other.name, action=action)
        await one.call(one.contacts, "UpdateContact", request)
        (self.model.block if blocks else self.model.unblock)(one.name, other.name)
        if blocks:
            self.ever_blocked.add((one.name, other.name))
        return True

    async def _read(self, step: Step) -> bool:
        talk = self.talks[step.one % len(self.talks)]
        person = self._one_of(talk, step.other)
        if not talk.id or person.name not in talk.chat.members:
            return False
        number = max(talk.chat.message_count - step.third % 4, 0)
        request = conversations_pb2.UpdateMemberStateRequest(
            conversation_id=talk.id, read_message_no=number
        )
        await person.call(person.conversations, "UpdateMemberState", request)
        self.model.mark_read(person.name, talk.chat, number)
        return True

    async def _make_group(self, owner: Person, members: Sequence[str]) -> None:
        request = conversations_pb2.CreateConversationRequest(
            idempotency_key=new_key(), title="group", member_user_ids=members
        )
        answer = await owner.call(owner.conversations, "CreateConversation", request)
        chat = self.model.group(owner.name, members)
        self.talks.append(Talk(chat, answer.conversation.conversation_id))

    async def _members(self, step: Step) -> bool:
        groups = [talk for talk in self.talks if not talk.chat.direct]
        talk = groups[step.one % len(groups)]
        actor, target = self._who(step, talk.chat)
        if target is actor and step.kind != "leave":
            return False
        told = await self._ask_members(step.kind, talk, actor, target)
        expected = self._expect_members(step.kind, talk, actor, target)
        if told != expected:
            raise Differs(f"{actor.name} {step.kind} {target.name}: {told}, not {expected}")
        return isinstance(told, int)

    def _who(self, step: Step, chat: Chat) -> tuple[Person, Person]:
        """Who does it to whom; now and then somebody who may not."""
        people = self.people
        if step.other % 5 == 0:
            actor = people[step.one % len(people)]
            return actor, actor if step.kind == "leave" else people[step.third % len(people)]
        adds = step.kind == "add"
        fit = [one for one in people if (one.name in chat.members) != adds]
        fit = [one for one in fit if one.name != chat.owner] or people
        target = fit[step.third % len(fit)]
        return target if step.kind == "leave" else self._person(chat.owner), target

    async def _ask_members(self, kind: str, talk: Talk, actor: Person, target: Person) -> str | int:
        """Position of the event (0: nothing changed), or why not."""
        request = conversations_pb2.ChangeMembersRequest(
            idempotency_key=new_key(),
            conversation_id=talk.id,
            change={
                "add": types_pb2.MEMBERSHIP_CHANGE_ADDED,
                "remove": types_pb2.MEMBERSHIP_CHANGE_REMOVED,
                "leave": types_pb2.MEMBERSHIP_CHANGE_LEFT,
            }[kind],
            user_ids=[target.name],
        )
        try:
            answer = await actor.call(actor.conversations, "ChangeMembers", request)
        except Fault as fault:
            return fault.reason
        return int(answer.event.conversation_seq)

    def _expect_members(self, kind: str, talk: Talk, actor: Person, target: Person) -> str | int:
        do = self.model.add if kind == "add" else self.model.remove
        try:
            said = do(actor.name, talk.chat, target.name)
        except Refused as refused:
            return refused.reason
        return said.conversation_seq if said is not None else 0

    async def _race(self, step: Step) -> bool:
        """A member writes and writes while the owner removes them: accepted below the removal's
        place, refused above it."""
        groups = [talk for talk in self.talks if not talk.chat.direct]
        talk = groups[step.one % len(groups)]
        names = sorted(talk.chat.members - {talk.chat.owner})
        if not names:
            return False
        target, owner = self._person(names[step.other % len(names)]), self._person(talk.chat.owner)
        if not target.here:
            return False
        sayings = [
            self._text(talk, target, (target.here[n % len(target.here)],)) for n in range(16)
        ]
        removing = asyncio.create_task(self._ask_members("remove", talk, owner, target))
        for saying in sayings:
            await saying.devices[0].post([saying.message])
        results = [(one, (await one.devices[0].answered([one.key]))[0]) for one in sayings]
        removed = await removing
        if not isinstance(removed, int):
            raise Differs(f"the owner could not remove: {removed}")
        before = [one for one in results if 0 < one[1].conversation_seq < removed]
        after = [one for one in results if one not in before]
        for saying, result in sorted(before, key=lambda one: one[1].conversation_seq):
            self._compare_answer(saying, result)
        expected = self._expect_members("remove", talk, owner, target)
        if removed != expected:
            raise Differs(f"{target.name} was removed at {removed}, should be {expected}")
        for saying, result in after:
            self._compare_answer(saying, result)
        return True
