"""After healing: every device, every answer of the mesh and every recorded history against the
model."""

from __future__ import annotations

import asyncio
from typing import Any

from chatmesh.testing import Recorder
from chatmesh.testing.model import Chat, Model, Reading, Said
from chatmesh.v1 import conversations_pb2, types_pb2
from tests.faults.devices import RecordedDevice
from tests.faults.people import Person
from tests.faults.run import Differs, Run, Talk

PAGE = 100


async def converge(run: Run) -> dict[str, int]:
    """Every device comes back and gets everything up to its head; heads by user."""
    heads: dict[str, int] = {}
    for person in run.people:
        person.away.clear()
        newest = await person.new_device()
        assert newest.welcome is not None
        heads[person.name] = newest.welcome.head_timeline_seq
    waiting = [
        _reaches(device, heads[person.name]) for person in run.people for device in person.devices
    ]
    await asyncio.gather(*waiting)
    return heads


async def _reaches(device: RecordedDevice, head: int) -> None:
    await device.through(lambda: bool(device.stored) and device.stored[-1].timeline_seq >= head)
    device.final(head)


def record_members(run: Run, recorder: Recorder) -> None:
    """Who was in which conversation, from where to where."""
    for talk in run.talks:
        for user, stays in talk.chat.stays.items():
            for first, last in stays:
                if talk.id:
                    recorder.record(
                        "members",
                        conversation_id=talk.id,
                        conversation_seq=first,
                        until_seq=last,
                        users=[user],
                    )


async def compare(run: Run) -> None:
    """Raises Differs."""
    for person in run.people:
        for device in person.devices:
            _compare_device(run, person, device)
        await _compare_lists(run, person)
        for talk in run.talks:
            if talk.id:
                await _compare_history(run.model, person, talk)


def _compare_device(run: Run, person: Person, device: RecordedDevice) -> None:
    """What it stored, as an application would show it."""
    # a device that came back with an older cursor has some positions twice; the last one counts
    stored = {entry.timeline_seq: entry.event for entry in device.stored}
    where = f"{person.name} {device.device_id}"
    if sorted(stored) != list(range(1, len(stored) + 1)):
        raise Differs(f"{where} has holes: {sorted(stored)}")
    by_talk: dict[int, list[types_pb2.Event]] = {}
    for _, event in sorted(stored.items()):
        by_talk.setdefault(event.conversation_id, []).append(event)
    known = {talk.id for talk in run.talks}
    for number, events in by_talk.items():
        # what one does with contacts is told to one's own devices
        if number not in known and any(not event.content.HasField("account") for event in events):
            raise Differs(f"{where} has a conversation that nobody began")
    for talk in run.talks:
        seqs = [event.conversation_seq for event in by_talk.get(talk.id, [])]
        due = [
            said.conversation_seq
            for said in talk.chat.events
            if talk.chat.may_read(person.name, said.conversation_seq)
        ]
        if seqs != due:
            raise Differs(f"{where}, conversation {talk.id}: has {seqs}, not {due}")
        shown = _fold(by_talk.get(talk.id, []))
        if not _same(
            shown, _seen_by(talk.chat, person.name), _readable(run.model, talk.chat, person.name)
        ):
            raise Differs(f"{where}, conversation {talk.id}: shows {shown}")


def _readable(model: Model, chat: Chat, user: str) -> list[Reading]:
    """How the messages of somebody's stays read now for them: by what happened in the stays, but
    that what is deleted is deleted for all."""
    now = {one.conversation_seq: one for one in model.reads_now(chat)}
    return [
        lived if now[lived.conversation_seq].body is not None else now[lived.conversation_seq]
        for lived in _seen_by(chat, user)
    ]


def _seen_by(chat: Chat, user: str) -> list[Reading]:
    """How they read by what happened during the stays alone."""
    events = [
        said if chat.may_read(user, said.conversation_seq) else Said(0, n, 0, "", "", "")
        for n, said in enumerate(chat.events, 1)
    ]
    return Model().reads_now(Chat(0, False, set(), "", events))


def _same(shown: list[Reading], seen: list[Reading], now: list[Reading]) -> bool:
    """Whether a device shows what was seen; where a deletion came after somebody had left, a device
    that read the message later shows that. An edit that came after it is shown by none."""
    return len(shown) == len(seen) == len(now) and all(
        one in (lived, newest) for one, lived, newest in zip(shown, seen, now, strict=True)
    )


def _fold(events: list[types_pb2.Event]) -> list[Reading]:
    """How a device shows a conversation: the model's own rule, over what it stored."""
    highest = max((event.conversation_seq for event in events), default=0)
    chat = Chat(0, False, set(), "")
    by_seq = {event.conversation_seq: event for event in events}
    for seq in range(1, highest + 1):
        event = by_seq.get(seq)
        chat.events.append(_said(seq, event) if event else Said(0, seq, 0, "", "", ""))
    erased = {event.conversation_seq for event in events if not event.content.WhichOneof("kind")}
    return [
        Reading(one.conversation_seq, one.sender, None, frozenset())
        if one.conversation_seq in erased
        else one
        for one in Model().reads_now(chat)
    ]


def _said(seq: int, event: types_pb2.Event) -> Said:
    kind = event.content.WhichOneof("kind") or ""
    content: Any = getattr(event.content, kind) if kind else None
    body, target = "", 0
    if kind == "edit":
        body, target = content.text.body, content.target_conversation_seq
    elif kind == "delete":
        target = content.target_conversation_seq
    elif kind == "reaction":
        body, target = content.reaction, content.target_conversation_seq
    elif event.message_no:
        # an erased message is still one
        kind, body = "text", event.content.text.body
    return Said(0, seq, event.message_no, event.sender_user_id, kind, body, target)


async def _compare_history(model: Model, person: Person, talk: Talk) -> None:
    """The pages of ListMessages, forward."""
    if person.name not in talk.chat.members:
        return
    shown: list[tuple[int, str, str | None]] = []
    request = conversations_pb2.ListMessagesRequest(
        conversation_id=talk.id, forward=True, page_size=PAGE, from_conversation_seq=0
    )
    while True:
        page = await person.call(person.conversations, "ListMessages", request)
        for event in page.messages:
            has_text = event.content.HasField("text")
            text = event.content.text.body if has_text else None
            shown.append((event.conversation_seq, event.sender_user_id, text))
        if not page.more:
            break
        request.from_conversation_seq = page.messages[-1].conversation_seq
    should = [
        (one.conversation_seq, one.sender, one.body)
        for one in _readable(model, talk.chat, person.name)
    ]
    if shown != should:
        raise Differs(f"{person.name} reads {shown} in {talk.id}, not {should}")


async def _compare_lists(run: Run, person: Person) -> None:
    """Unread and last positions, conversation by conversation."""
    request = conversations_pb2.ListConversationsRequest(page_size=PAGE)
    page = await person.call(person.conversations, "ListConversations", request)
    listed = {one.conversation_id: one for one in page.conversations}
    for talk in run.talks:
        if not talk.id or person.name not in talk.chat.members:
            continue
        one = listed[talk.id]
        told = one.last_conversation_seq, one.last_message_no, one.state.unread
        should = (
            len(talk.chat.events),
            talk.chat.message_count,
            run.model.unread(person.name, talk.chat),
        )
        if told != should:
            raise Differs(f"{person.name} is told {told} of {talk.id}, should be {should}")
