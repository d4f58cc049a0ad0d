"""Somebody who comes and goes all through a random run, and whom all see online or not.

A contact of everybody, in no conversation: blocks and members change nothing of what is shown. The
guest sees the others, who have some device connected all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from chatmesh.testing import Recorder
from chatmesh.v1 import contacts_pb2
from tests.faults.devices import RecordedDevice
from tests.faults.people import Person
from tests.raw import new_key

Contact = contacts_pb2.UpdateContactRequest
DEVICE = "guest"
PATIENCE_SECONDS = 90
"""Long: nothing is timed, but a test that waits for ever tells nothing."""


class Guest:
    """See the module's text."""

    def __init__(self, person: Person, others: Sequence[Person], recorder: Recorder) -> None:
        self._person = person
        self._others = others
        self._recorder = recorder
        self._device: RecordedDevice = person.device(DEVICE)
        self.is_here = False

    async def begin(self) -> None:
        """Make friends, and be here. The others are here already."""
        for other in self._others:
            self._recorder.record("came", user=other.name, device="any")
            other.friends.add(self._person.name)
            self._person.friends.add(other.name)
            for asker, asked in ((self._person, other), (other, self._person)):
                await asker.call(
                    asker.contacts,
                    "UpdateContact",
                    Contact(
                        idempotency_key=new_key(),
                        user_id=asked.name,
                        action=Contact.ACTION_REQUEST,  # of both: accepted
                    ),
                )
        await self.turn()

    async def turn(self) -> None:
        """Go, or come back."""
        if self.is_here:
            await self._device.hang_up()
            self._recorder.record("went", user=self._person.name, device=DEVICE)
        else:
            self._recorder.record("came", user=self._person.name, device=DEVICE)
            await self._device.reopen()
        self.is_here = not self.is_here

    async def come_back(self) -> None:
        """The connection may have been lost."""
        if self.is_here and self._device.end is not None:
            await self._device.reopen()

    async def is_seen_truly(self) -> None:
        """Everybody's connected devices are told what is true of the guest, and the guest of them;
        what they were told last is for the checker."""
        await self.come_back()
        name, here = self._person.name, self.is_here
        waits = [
            _is_shown(device, name, here) for other in self._others for device in other.devices
        ]
        if here:
            waits += [_is_shown(self._device, other.name, True) for other in self._others]
            self._recorder.record("final", user=name, device=DEVICE, timeline_seq=0)
        await asyncio.gather(*waits)

    async def close(self) -> None:
        """Hang up."""
        await self._device.hang_up()


async def _is_shown(device: RecordedDevice, user: str, online: bool) -> None:
    """Wait for it, longer than the minute in which a node looks after what it may have missed."""

    def is_so() -> bool:
        return device.shown_now().get(user, False) == online

    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_so():
            if device.end is not None:
                await device.reopen()
            with contextlib.suppress(TimeoutError):
                await device.until(lambda: is_so() or device.end is not None)
