"""Asks stores that are not the mesh's own what the servers will ask: `check()`.

Role: a server that refuses its store is NOT_SERVING and says why for as long as it takes; whoever
runs `chatmesh up` should read that reason at once instead. The checks are the servers' own, run in
a process of their own (`python -m chatmesh.embedded.store_checks`), since they are asynchronous and
import gRPC, which must not happen in the process that holds a mesh.
Rules: URLs go by environment, never by argument; a text never holds a password.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from chatmesh.embedded.errors import StartFailed

POSTGRES_URL = "CHATMESH_POSTGRES_URL"
REDIS_URL = "CHATMESH_REDIS_URL"
DURABLE = "CHATMESH_POSTGRES_DURABLE"
_REFUSED = 3


def check(folder: Path, *, postgres_url: str | None = None, redis_url: str | None = None) -> None:
    """Looks at the stores that are given. Raises StartFailed with the reason of a refusal."""
    environment = {k: v for k, v in os.environ.items() if k not in (POSTGRES_URL, REDIS_URL)}
    if postgres_url is not None:
        environment[POSTGRES_URL] = postgres_url
    if redis_url is not None:
        environment[REDIS_URL] = redis_url
    done = subprocess.run(
        [sys.executable, "-m", "chatmesh.embedded.store_checks"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == _REFUSED:
        raise StartFailed(done.stdout.strip())
    if done.returncode != 0:
        raise StartFailed(f"the stores could not be checked: {done.stderr.strip()}")


async def _check_postgres(url: str, *, durable: bool) -> None:
    import psycopg

    from chatmesh.runtime import pgsession

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await pgsession.set_up(connection, "", durable)


async def _check_redis(url: str) -> None:
    from chatmesh.runtime import redis

    client = redis.client(url)
    try:
        await redis.check(client)
    finally:
        await client.aclose()


async def _check_all() -> int:
    import psycopg
    from redis.exceptions import RedisClusterException, RedisError

    from chatmesh.runtime.errors import StoreRefused

    postgres_url, redis_url = os.environ.get(POSTGRES_URL), os.environ.get(REDIS_URL)
    try:
        if redis_url:
            await _check_redis(redis_url)
        if postgres_url:
            durable = os.environ.get(DURABLE, "").lower() not in ("false", "0", "no", "off")
            await _check_postgres(postgres_url, durable=durable)
    except StoreRefused as refusal:
        print(refusal)
    except (RedisError, RedisClusterException, OSError) as error:
        print(f"Redis of {REDIS_URL} cannot be used: {error}")
    except ValueError as error:
        print(f"{REDIS_URL}: {error}")
    except psycopg.Error as error:
        print(f"PostgreSQL of {POSTGRES_URL} cannot be used: {str(error).strip()}")
    else:
        return 0
    return _REFUSED


if __name__ == "__main__":
    from chatmesh.runtime import engine

    engine.prepare()
    sys.exit(asyncio.run(_check_all()))
