"""A mesh whose links and hints a random run may break, and one run over it from begin to end."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from chatmesh.embedded.supervisor import Mesh, MeshOptions
from chatmesh.testing import Recorder, TcpProxy, check, read_history
from tests.e2e.receiving import Receiver
from tests.faults import pockets
from tests.faults.compare import compare, converge, record_members
from tests.faults.guest import Guest
from tests.faults.hints import HintMangler
from tests.faults.people import Person
from tests.faults.run import Differs, Run
from tests.faults.steps import Step
from tests.service_process import free_port

PAUSE_SECONDS = 0.7
USERS = ("alice", "bob", "carol", "dave")


@dataclass
class WholeMesh:
    """Running, with a proxy before each node and mangled hints."""

    mesh: Mesh
    proxies: list[TcpProxy]
    mangler: HintMangler
    folder: Path
    seen: Counter[str] = field(default_factory=Counter)
    """Steps and faults by kind, over all runs."""
    _runs: count[int] = field(default_factory=count)

    # -- one run -----------------------------------------------------------------------------------

    async def run(
        self, seed: int, steps: Sequence[Step], *, mangling: bool = True, others: bool = False
    ) -> None:
        """Do the steps with users of their own; raises Differs when anything is not as the model
        says, or when the recorded history breaks an invariant.

        `others`: two devices in processes of their own receive as well, one by raw stubs; each user
        has a device in the pocket that is pushed, and a guest comes and goes before all eyes.
        """
        number = next(self._runs)
        folder = self.folder / f"run-{number}"
        names = [f"{user}-{number}" for user in USERS]
        with Recorder(folder / "devices.jsonl", "devices") as recorder:
            everybody = [
                Person(
                    name, [proxy.address for proxy in self.proxies], self.mesh.running, recorder,
                    Random(seed),
                )
                for name in (*names, f"guest-{number}")
            ]  # fmt: skip
            *people, guest = everybody
            receivers = self._receivers(names, folder) if others else []
            run = Run(people, self._breaks())
            if others:
                run.guest = Guest(guest, people, recorder)
            try:
                await self._all_of(run, steps, receivers, recorder, mangling=mangling)
            finally:
                self.mangler.mangling = False
                if run.guest is not None:
                    await run.guest.close()
                for person in everybody:
                    await person.close()
                for receiver in receivers:
                    await receiver.kill()
            self.seen += run.done
        report = check(read_history(await asyncio.to_thread(_files, folder)))
        if not report.ok:
            raise Differs(f"{report.violations}")
        for kind, times in report.counts.items():
            self.seen[f"recorded: {kind}"] += times

    async def _all_of(
        self,
        run: Run,
        steps: Sequence[Step],
        receivers: list[Receiver],
        recorder: Recorder,
        *,
        mangling: bool,
    ) -> None:
        await run.begin()
        if run.guest is not None:
            await pockets.put_away(run.people, recorder)
            await run.guest.begin()
        await asyncio.gather(*(receiver.start() for receiver in receivers))
        self.mangler.mangling = mangling
        await run.steps(steps)
        self.mangler.mangling = False
        for proxy in self.proxies:
            proxy.heal()
        await asyncio.to_thread(self.mesh.wait_ready)
        heads = await converge(run)
        for receiver in receivers:
            await receiver.reaches(heads[receiver.user])
            recorder.record(
                "final", user=receiver.user, device=receiver.device,
                timeline_seq=heads[receiver.user],
            )  # fmt: skip
        record_members(run, recorder)
        await compare(run)
        if run.guest is not None:
            await run.guest.is_seen_truly()
            await pockets.take_out(run, self.mesh.running, recorder)

    def _receivers(self, names: list[str], folder: Path) -> list[Receiver]:
        running = self.mesh.running
        return [
            Receiver(
                kind, target=",".join(running.public), token=running.token(user), user=user,
                device=f"other-{kind}", history=folder / f"{user}-{kind}.jsonl",
            )
            for kind, user in (("raw", names[0]), ("sdk", names[1]))
        ]  # fmt: skip

    # -- what breaks -------------------------------------------------------------------------------

    def _breaks(self) -> dict[str, Any]:
        return {
            "clients cut": self._cut_clients,
            "answers cut": self._cut_answers,
            "PostgreSQL connections killed": self._kill_connections,
            "node killed": self._kill_node,
            "sync killed": partial(self._kill, "sync"),
            "sync paused": self._pause_sync,
            "push killed": partial(self._kill, "push"),
            "presence killed": partial(self._kill, "presence"),
            "Valkey killed and emptied": self._empty_valkey,
        }

    async def _cut_clients(self, step: Step) -> None:
        self.proxies[step.one % len(self.proxies)].cut_all()

    async def _cut_answers(self, step: Step) -> None:
        self.proxies[step.one % len(self.proxies)].cut_after("down", step.other % 200)

    async def _kill_connections(self, _: Step) -> None:
        url = self.mesh.running.owner_url()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name like 'chatmesh_chat%'"
            )

    async def _kill_node(self, step: Step) -> None:
        await asyncio.to_thread(self.mesh.kill, f"chat-{1 + step.one % len(self.proxies)}")

    async def _kill(self, name: str, _: Step) -> None:
        await asyncio.to_thread(self.mesh.kill, name)

    async def _pause_sync(self, _: Step) -> None:
        await asyncio.to_thread(self.mesh.kill, "sync", signal.SIGSTOP)
        await asyncio.sleep(PAUSE_SECONDS)
        await asyncio.to_thread(self.mesh.kill, "sync", signal.SIGCONT)

    async def _empty_valkey(self, _: Step) -> None:
        await asyncio.to_thread(self.mesh.hold, "valkey", signal.SIGKILL)
        folder = self.mesh.folder.valkey
        await asyncio.to_thread(shutil.rmtree, folder)
        folder.mkdir(mode=0o700)
        await asyncio.to_thread(self.mesh.release, "valkey")


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


@asynccontextmanager
async def whole_mesh(chat_nodes: int = 2) -> AsyncIterator[WholeMesh]:
    """Start one; it is gone afterwards."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="chatmesh-whole-") as name:
        folder = Path(name)
        options = MeshOptions(
            data=folder / "data",
            ports="auto",
            chat_nodes=chat_nodes,
            environment={
                "chat_svc": {"CHATMESH_SYNC_TARGET": f"127.0.0.1:{port}"},
                "push_svc": {"CHATMESH_PUSH_ACTIVE_DELAY_SECONDS": "2"},  # the least there may be
            },
        )
        mesh = Mesh(options)
        await asyncio.to_thread(mesh.start)
        try:
            async with AsyncExitStack() as stack:
                mangler = HintMangler(port, mesh.running, Random(0))
                await stack.enter_async_context(mangler)
                proxies = [
                    await stack.enter_async_context(TcpProxy(target))
                    for target in mesh.running.public
                ]
                yield WholeMesh(mesh, proxies, mangler, folder)
        finally:
            await asyncio.to_thread(mesh.stop, hurry=True)
