"""Looks at stores of yours before anything is started, as the servers will.

Role: a server with a refused or unreachable store starts and waits, as it must in a deployment; on
one machine a person wants to know at once instead. `check()` runs the servers' own checks in a
process of its own (`python -m chatmesh.embedded.store_checks`), since they are asynchronous and
import gRPC, which must not happen in the process that holds a mesh.
Rules: URLs go by environment, never by argument; a text never holds a password. All that is wrong
is told at once, and soon: a store gets PATIENCE_SECONDS to be reached.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path

from chatmesh.embedded.errors import StartFailed

POSTGRES_URL = "CHATMESH_POSTGRES_URL"
REDIS_URL = "CHATMESH_REDIS_URL"
DURABLE = "CHATMESH_POSTGRES_DURABLE"
PATIENCE_SECONDS = 5.0
"""For a store that is being started by the same script; a longer wait only hides a wrong URL."""
RETRY_SECONDS = 0.2
ANSWER_SECONDS = 60
"""For the process that looks, start included: far more than it takes on a loaded machine."""
_REFUSED = 3


def check(folder: Path, *, postgres_url: str | None = None, redis_url: str | None = None) -> None:
    """Looks at the stores that are given. Raises StartFailed with the reason of each refusal."""
    if postgres_url is None and redis_url is None:
        return
    environment = {k: v for k, v in os.environ.items() if k not in (POSTGRES_URL, REDIS_URL)}
    if postgres_url is not None:
        environment[POSTGRES_URL] = postgres_url
    if redis_url is not None:
        environment[REDIS_URL] = redis_url
    try:
        done = subprocess.run(
            [sys.executable, "-m", "chatmesh.embedded.store_checks"],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise StartFailed(f"the stores of yours do not answer in {ANSWER_SECONDS} s") from None
    if done.returncode == _REFUSED:
        raise StartFailed(done.stdout.strip())
    if done.returncode != 0:
        raise StartFailed(f"the stores could not be checked: {done.stderr.strip()}")


async def _check_postgres(url: str, *, durable: bool) -> None:
    import psycopg

    from chatmesh.runtime import pgsession

    seconds = str(max(2, int(PATIENCE_SECONDS)))
    text = pgsession.connection_string(url, "chatmesh up", connect_timeout=seconds)
    async with await psycopg.AsyncConnection.connect(text, autocommit=True) as connection:
        await pgsession.set_up(connection, "", durable)


async def _check_redis(url: str) -> None:
    from chatmesh.runtime import redis

    client = redis.client(url)
    try:
        await redis.check(client)
    finally:
        await client.aclose()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".?") or type(error).__name__


async def _reached(
    look: Callable[[], Awaitable[None]], *, failures: tuple[type[Exception], ...]
) -> str:
    """Why a store cannot be reached after some patience; empty when it can."""
    why = f"no answer in {PATIENCE_SECONDS:g} s"
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    await look()
                    return ""
                except failures as error:
                    why = _one_line(error)
                await asyncio.sleep(RETRY_SECONDS)
    except TimeoutError:
        return why


async def _redis_problem(url: str) -> str:
    from redis.exceptions import RedisClusterException, RedisError

    from chatmesh.runtime.errors import StoreRefused

    try:
        why = await _reached(
            lambda: _check_redis(url), failures=(RedisError, RedisClusterException, OSError)
        )
    except StoreRefused as refusal:
        return str(refusal)
    except ValueError as error:
        return f"{REDIS_URL}: {error}"
    return why and (
        f"Redis of {REDIS_URL} cannot be used: {why}. Start it or correct the URL; unset "
        f"{REDIS_URL} to let chatmesh run a Valkey of its own"
    )


async def _postgres_problem(url: str) -> str:
    import psycopg

    from chatmesh.runtime.errors import StoreRefused

    durable = os.environ.get(DURABLE, "").lower() not in ("false", "0", "no", "off")
    try:
        why = await _reached(
            lambda: _check_postgres(url, durable=durable), failures=(psycopg.OperationalError,)
        )
    except StoreRefused as refusal:
        return str(refusal)
    except ValueError as error:
        return f"{POSTGRES_URL}: {error}"
    except psycopg.Error as error:
        why = _one_line(error)
    return why and (
        f"PostgreSQL of {POSTGRES_URL} cannot be reached: {why}. Start it or correct the URL; "
        f"unset {POSTGRES_URL} to let chatmesh run a PostgreSQL of its own"
    )


async def _check_all() -> int:
    looks: list[Coroutine[object, object, str]] = []
    postgres_url, redis_url = os.environ.get(POSTGRES_URL), os.environ.get(REDIS_URL)
    if postgres_url:
        looks.append(_postgres_problem(postgres_url))
    if redis_url:
        looks.append(_redis_problem(redis_url))
    problems = [text for text in await asyncio.gather(*looks) if text]
    print("\n".join(problems), flush=True)
    return _REFUSED if problems else 0


async def _main() -> None:
    code = await _check_all()
    os._exit(code)  # a name server that does not answer keeps a thread of the loop for minutes


if __name__ == "__main__":
    from chatmesh.runtime import engine

    engine.prepare()
    asyncio.run(_main())
