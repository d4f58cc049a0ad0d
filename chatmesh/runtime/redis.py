"""Redis or Valkey: clients that never repeat a command by themselves.

Since 8.0 the client library retries each command ten times: one XADD could make two entries
(seen). Here retries are off and callers decide. The protocol is fixed to RESP3, because replies
differ between the protocols.

A server that may evict keys is refused: leases and queues would vanish one by one.

Rules: blocking reads have a client of their own (`blocking_client`); a cancelled command drops its
connection, so that its answer is never taken for another's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from chatmesh.runtime.addresses import is_cluster, plain_redis_url
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.logs import logger
from chatmesh.runtime.readiness import Component

CONNECT_TIMEOUT_SECONDS: Final = 2.0
COMMAND_TIMEOUT_SECONDS: Final = 2.0
"""A command on a live server takes under a millisecond; after this the server is away."""
MAX_CONNECTIONS: Final = 16
BLOCK_MS: Final = 2_000
"""What blocking reads ask for; must stay below their socket timeout."""
BLOCKING_TIMEOUT_SECONDS: Final = 5.0
PROBE_UP_SECONDS: Final = 2.0
PROBE_DOWN_SECONDS: Final = 0.3

Client: TypeAlias = "Redis | RedisCluster"
Argument: TypeAlias = str | bytes | int

_log = logger(__name__)


class _TasklessWrites(AbstractConnection):
    """Bounds a write by a timeout without a task of its own.

    The library uses asyncio.wait_for, which before Python 3.12 makes a task for each command (and
    may swallow a cancellation).
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send. Raises redis' TimeoutError, and drops the connection, when it takes too long."""
        seconds = self.socket_timeout
        if seconds is None or not self.is_connected:
            await super().send_packed_command(command, check_health)
            return
        self.socket_timeout = None  # one command at a time: nobody reads meanwhile
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                await super().send_packed_command(command, check_health)
        except TimeoutError:
            if not scope.expired():
                raise
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = seconds


class _TcpConnection(_TasklessWrites, Connection):
    """redis://"""


class _TlsConnection(_TasklessWrites, SSLConnection):
    """rediss://"""


class _UnixConnection(_TasklessWrites, UnixDomainSocketConnection):
    """unix://"""


_TASKLESS: Final[dict[type[AbstractConnection], type[AbstractConnection]]] = {
    Connection: _TcpConnection,
    SSLConnection: _TlsConnection,
    UnixDomainSocketConnection: _UnixConnection,
}


def client(
    url: str,
    *,
    readiness: Component | None = None,
    timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
) -> Client:
    """A client for short commands; connects at first use. Bytes in, bytes out.

    `url`: redis://, rediss://, unix:// or redis+cluster:// (rediss+cluster://). With `readiness`
    it starts as down; run `watch` in the background to keep it true.
    Raises ValueError for another URL, without a word of it.
    """
    if readiness is not None:
        readiness.down("Redis: not connected yet")
    return _client(url, timeout_seconds)


def blocking_client(url: str, *, timeout_seconds: float = BLOCKING_TIMEOUT_SECONDS) -> Client:
    """A client for XREADGROUP BLOCK; blocks must be shorter than `timeout_seconds`."""
    return _client(url, timeout_seconds)


def _client(url: str, timeout_seconds: float) -> Client:
    plain = plain_redis_url(url)
    options: dict[str, Any] = {
        "protocol": 3,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "max_connections": MAX_CONNECTIONS,
    }
    if is_cluster(url):
        return RedisCluster.from_url(plain, **options)
    made = Redis.from_url(plain, **options)
    pool: Any = made.connection_pool
    pool.connection_class = _TASKLESS[pool.connection_class]
    return made


async def burst(client: Redis, commands: Sequence[Sequence[Argument]]) -> list[Any]:
    """Commands in one write, their answers in order; a refused one's answer is its ResponseError.

    A command's name is its first argument, in upper case. The library's pipelines do the same with
    a task or two more each. Raises RedisError, OSError when the outcome of all is unknown.
    """
    pool: Any = client.connection_pool
    callbacks: Any = client.response_callbacks
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(connection.pack_commands(commands))
        answers: list[Any] = []
        for command in commands:
            try:
                answer = await connection.read_response()
            except ResponseError as error:
                answers.append(error)
                continue
            shape = callbacks.get(command[0])
            answers.append(answer if shape is None else shape(answer))
        return answers
    except BaseException:
        await connection.disconnect(nowait=True)  # an answer may be on its way to the next caller
        raise
    finally:
        await pool.release(connection)


async def check(client: Client) -> None:
    """Raise StoreRefused when the server may evict keys; RedisError when it cannot be reached."""
    answer: Any = await client.info("memory")
    # a cluster answers by node
    nodes = answer if isinstance(client, RedisCluster) else {"": answer}
    for node in nodes.values() if "maxmemory_policy" not in answer else [answer]:
        policy = node.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreRefused(
                f"Redis has maxmemory-policy {policy} and may evict leases and queues: "
                "set it to noeviction"
            )


async def watch(client: Client, readiness: Component) -> None:
    """Keep `readiness` true for ever; run in the background.

    The policy is looked at each time, because it can be changed at run time.
    """
    while True:
        pause = PROBE_DOWN_SECONDS
        try:
            await check(client)
        except StoreRefused as error:
            readiness.down(str(error))
        except (RedisError, OSError, TimeoutError) as error:
            readiness.down(f"Redis: {type(error).__name__}")
        else:
            readiness.up()
            pause = PROBE_UP_SECONDS
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))
