"""How a node's life begins: PostgreSQL, its schema, the database's history, then a node id.

Until this is done the node is NOT_SERVING and says what it waits for; it waits as long as it takes.
Also what is told when a store comes back: a new connection may lead to another history.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from chat_svc.node.hints import HintSigner
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.readiness import Component, Readiness

RETRY_SECONDS: Final = 0.5

_log = logger(__name__)
_budget = LogBudget(per_second=1)


def needed_once(readiness: Readiness, name: str) -> Component:
    """A component that must be there at the start; once it was, the node serves without it, too.

    Sequencer and presence: new messages wait for ids, routes are healed by comparison; reads,
    deliveries and repeats go on. Refusing all sessions would help nobody.
    """
    component = readiness.require(name)

    def look() -> None:
        if component.critical and component.is_up:
            component.critical = False

    readiness.on_change(look)
    return component


async def read_history(
    read: Callable[[], Awaitable[bytes]],
    signer: HintSigner,
    schema: Component,
    clock: Clock,
) -> None:
    """Wait for the database with the right schema, and key the hints' digests to its history.

    Args:
        read: checks the schema and gives the database's history id, 16 bytes.
    """
    while True:
        try:
            signer.begin(await read())
        except StoreRefused as refused:
            schema.down(str(refused))
        except Exception as error:  # noqa: BLE001 - PostgreSQL is away; its own component says so
            if _budget.take():
                _log.warning("history not read", error=type(error).__name__)
        else:
            schema.up()
            return
        await clock.sleep(RETRY_SECONDS)


def when_back(readiness: Readiness, component: Component, act: Callable[[], None]) -> None:
    """Call ``act`` each time the component comes up."""
    was_up = component.is_up

    def look() -> None:
        nonlocal was_up
        if component.is_up and not was_up:
            act()
        was_up = component.is_up

    readiness.on_change(look)
