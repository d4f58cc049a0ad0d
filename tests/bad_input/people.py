"""Who every row is run with: a stranger with a session to spoil, and two friends who talk on."""

from dataclasses import dataclass, field

import grpc

from chatmesh.cli.bench.h2 import GrpcConnection
from tests.raw import RawSession


@dataclass(slots=True)
class Stranger:
    """A user of their own for one row, with a peer who exists."""

    user: str
    token: str
    peer: str
    channel: grpc.aio.Channel
    connection: GrpcConnection
    """To the same node, for single calls."""

    def session(self) -> RawSession:
        """A session of theirs, not opened yet."""
        return RawSession(self.channel, self.token)


@dataclass(slots=True)
class Friends:
    """Two sessions, one on each chat node, that must not notice anything."""

    alice: RawSession
    bob: RawSession
    bob_user: str
    said: list[str] = field(default_factory=list)

    async def talk(self) -> None:
        """One more message arrives, as the next entry and the only one."""
        text = f"message {len(self.said) + 1}"
        self.said.append(text)
        await self.alice.send(
            f'send {{ messages {{ idempotency_key: "$key" to_user_id: "{self.bob_user}" '
            f'content {{ text {{ body: "{text}" }} }} }} }}'
        )
        await self.bob.until(
            lambda frame: any(entry.event.content.text.body == text for entry in frame.entries)
        )
        seqs = [entry.timeline_seq for frame in self.bob.seen for entry in frame.entries]
        assert [body for _, body in self.bob.entries()] == self.said
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        await self.bob.send(f"ack {{ up_to_timeline_seq: {seqs[-1]} }}")
        for session in (self.alice, self.bob):
            assert session.end is None, "a session of others ended"
            assert not any(frame.closed for frame in session.seen)
