"""One server of each kind replaced under SDK load, drained and by kill -9; counts, no times.

`chatmesh drill` replaces all of them and judges the gaps, too; that needs a machine of its own.
"""

from collections.abc import Iterator

import pytest

from chatmesh.cli.drill.outcome import Outcome, Plan
from chatmesh.cli.drill.replacing import servers_of
from chatmesh.cli.drill.run import drill, run, two_of_each
from chatmesh.embedded import services
from chatmesh.testing.mesh import RunningChat, start_mesh

pytestmark = pytest.mark.mesh


@pytest.fixture(scope="module")
def mesh() -> Iterator[RunningChat]:
    with start_mesh(trace_sample_ratio=None, **two_of_each()) as started:
        yield started


async def replace_one_of_each(mesh: RunningChat, plan: Plan) -> Outcome:
    folder = mesh.mesh.folder.path
    everyone = servers_of(folder, [])
    first = {server.service: server for server in reversed(everyone)}
    assert first.keys() == services.SERVICES.keys()
    before = {server.name: mesh.mesh.pid(server.name) for server in first.values()}
    outcome = await run(plan, mesh.mesh.running, list(first.values()), lambda _: None)
    after = {name: mesh.mesh.pid(name) for name in before}
    assert not set(before.values()) & set(after.values()), "each was replaced"
    return outcome


@pytest.mark.timeout(400)
async def test_drained_servers_are_replaced_and_nobody_notices(mesh: RunningChat) -> None:
    outcome = await replace_one_of_each(mesh, Plan("rolling", pairs=4, rate=40))
    assert outcome.counting_faults() == [], outcome.to_json()
    assert outcome.traffic.sent > 0
    assert len(outcome.replacements) == len(services.SERVICES)


@pytest.mark.timeout(400)
async def test_killed_servers_are_replaced_and_nothing_is_lost(mesh: RunningChat) -> None:
    outcome = await replace_one_of_each(mesh, Plan("kill", pairs=4, rate=40))
    assert outcome.counting_faults() == [], outcome.to_json()
    assert outcome.traffic.reconnects > 0, "nobody was on the node that was killed"


def test_an_unknown_service_is_wrong_usage() -> None:
    from chatmesh.cli.drill.run import DrillFailed

    with pytest.raises(DrillFailed, match="choose from chat_svc") as refused:
        drill(Plan("kill", 1, 1), None, ["mail_svc"], lambda _: None)
    assert refused.value.exit_code == 2
