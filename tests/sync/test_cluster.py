"""The queue on a Redis Cluster of three primaries, of which one dies."""

from __future__ import annotations

import gc
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis

from chatmesh.embedded.binaries import valkey_program
from tests.service_process import free_port
from tests.sync.peers import Peers
from tests.sync.replica import Replicas, hint

SLOTS, PRIMARIES = 16_384, 3
BUS_OFFSET = 10_000
"""A cluster node's bus listens on its port plus this."""
BOB = 102


class Cluster:
    """Running."""

    def __init__(self, stack: ExitStack) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []
        while len(self.ports) < PRIMARIES:
            port = free_port()
            if port + BUS_OFFSET < 65_536 and port not in self.ports:
                self.ports.append(port)
        for port in self.ports:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cm-"))
            process = subprocess.Popen(
                [
                    str(valkey_program()),
                    *("--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
                    *("--cluster-enabled", "yes", "--save", ""),
                ],
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            self.processes.append(process)
        self._join(stack)
        self.url = f"redis+cluster://127.0.0.1:{self.ports[0]}"

    def _join(self, stack: ExitStack) -> None:
        clients = [redis.Redis(port=port, decode_responses=True) for port in self.ports]
        for at, client in enumerate(clients):
            stack.callback(client.close)
            while not _answers(client):
                assert self.processes[at].poll() is None
            first, last = at * SLOTS // PRIMARIES, (at + 1) * SLOTS // PRIMARIES - 1
            client.cluster("ADDSLOTSRANGE", first, last)
            client.cluster("MEET", "127.0.0.1", self.ports[0])
        while not all(_is_whole(client) for client in clients):
            pass  # they gossip ten times a second; each look is a round trip


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _is_whole(client: redis.Redis) -> bool:
    found = client.cluster("info")
    return found["cluster_state"] == "ok" and int(found["cluster_known_nodes"]) == PRIMARIES


@pytest.fixture(autouse=True)
def dropped_by_the_library() -> Iterator[None]:
    """The client library forgets a dead primary's connection unclosed; collected here, not later.

    Left to chance, the collector's warning would fail whichever test runs at that moment. Set up
    before all other fixtures, so that it ends after the replicas have closed their clients.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_batches_of_all_nodes_go_through_the_cluster_and_one_primary_may_die(
    replicas: Replicas, peers: Peers, cluster: Cluster
) -> None:
    senders = [await peers.node() for _ in range(4)]
    receiver = await peers.node()
    peers.presence.online(BOB, receiver)
    replica = await replicas.start(cluster.url)
    assert len(replica.parts.readers) == 4  # a blocking read lies within one slot
    sources = [await replicas.source(replica, sender) for sender in senders]
    for number in range(1, 11):
        for source in sources:
            await source.enqueue(source.batch(number, [hint(BOB, number)]))
    for source in sources:
        await source.until_done(*range(1, 11))
    assert sorted(receiver.places()) == sorted([(BOB, number) for number in range(1, 11)] * 4)
    cluster.processes[2].kill()
    for source in sources:
        await source.enqueue(source.batch(20, [hint(BOB, 20)]))
    for source in sources:
        await source.until_accepted(20)
