"""Devices that lie in a pocket all through a random run: what waits for them is told by push.

Each user has one: it was here once, has a token of the provider `log`, and stays away. In the end
it is told of the newest message that its user owes a look; what that is, the model says. What
push_svc wrote that it told goes into the history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chatmesh.cli.bench import sync_record
from chatmesh.embedded.running import RunningMesh
from chatmesh.testing import Recorder
from chatmesh.v1 import devices_pb2
from tests.faults.people import Person
from tests.faults.run import Run

DEVICE = "pocket"
PATIENCE_SECONDS = 90
"""Long: nothing is timed, but a test that waits for ever tells nothing."""


async def put_away(people: Sequence[Person], recorder: Recorder) -> None:
    """One device each is here once, and then in the pocket."""
    for person in people:
        device = person.device(DEVICE)
        await device.reopen()
        token = devices_pb2.PushToken(
            device_id=DEVICE,
            provider=devices_pb2.PUSH_PROVIDER_LOG,
            token=f"pocket of {person.name}",
            app="faults",
        )
        request = devices_pb2.RegisterPushTokenRequest(token=token)
        await person.call(person.device_calls, "RegisterPushToken", request)
        recorder.record("token", user=person.name, device=DEVICE)
        await device.hang_up()


async def take_out(run: Run, mesh: RunningMesh, recorder: Recorder) -> None:
    """Wait until all is told, and record what was told. The devices have converged."""
    names = [person.name for person in run.people]
    owed = {person.name: owed_position(run, person) for person in run.people}
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            pushes = await asyncio.to_thread(sync_record.shown, mesh, names)
            told = dict.fromkeys(names, 0)
            for push in pushes:
                told[push.user] = max(told[push.user], push.timeline_seq)
            if all(told[name] >= owed[name] for name in names):
                break
            await asyncio.sleep(0.2)
    for push in pushes:
        recorder.record(
            "pushed", user=push.user, device=push.device_id, timeline_seq=push.timeline_seq
        )
    for name in names:
        recorder.record("away", user=name, device=DEVICE, timeline_seq=owed[name])


def owed_position(run: Run, person: Person) -> int:
    """Position of the newest message that the user has not read and is to be told of; 0: none.

    Only what was loud all along counts: not what was deleted, said before the user came back into
    a group, or by somebody whom they have blocked.
    """
    places = {
        (entry.event.conversation_id, entry.event.conversation_seq): entry.timeline_seq
        for device in person.devices
        for entry in device.stored
    }
    owed = 0
    for talk in run.talks:
        if not talk.id or person.name not in talk.chat.members:
            continue
        first, _ = talk.chat.stays[person.name][-1]
        for reading in run.model.reads_now(talk.chat):
            said = talk.chat.events[reading.conversation_seq - 1]
            if (
                reading.sender != person.name
                and reading.body is not None
                and reading.conversation_seq >= first
                and said.message_no > talk.chat.read.get(person.name, 0)
                and (person.name, reading.sender) not in run.ever_blocked
            ):
                owed = max(owed, places[talk.id, reading.conversation_seq])
    return owed
