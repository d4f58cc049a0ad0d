"""Commands to Redis, many in one round trip, alike for one server and for a Cluster.

Rules: nothing is repeated by itself but a script whose text the server does not know (it did not
run). Driver errors leave as StoreAway or StoreBroken, whose text may be logged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.exceptions import NoScriptError, RedisError, ResponseError

from chatmesh.runtime.redis import Client, burst

Argument = str | bytes | int
Command = tuple[Argument, ...]

_PRELUDE: Final = "record"
_NEEDS_PRELUDE: Final = frozenset(("attach", "detach", "set_state", "end_status"))


class StoreAway(Exception):
    """Redis did not answer; what was asked may or may not have happened."""


class StoreBroken(Exception):
    """Redis refused a command: full, read-only, or data of another release."""


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script, as the server runs it."""

    name: str
    text: str
    sha: str

    def command(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Command:
        """The command that runs it; all keys lie in one slot."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


def load(name: str) -> Script:
    """A script of the folder lua/ by name, its prelude before it."""
    names = (_PRELUDE, name) if name in _NEEDS_PRELUDE else (name,)
    folder = files("presence_svc.store") / "lua"
    text = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in names)
    # Redis names scripts by SHA-1; it is an address here, no protection
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


ATTACH: Final = load("attach")
DETACH: Final = load("detach")
SET_STATE: Final = load("set_state")
END_STATUS: Final = load("end_status")
BEAT: Final = load("beat")
FORGET: Final = load("forget")
POLL: Final = load("poll")
_BY_SHA: Final = {
    script.sha: script for script in (ATTACH, DETACH, SET_STATE, END_STATUS, BEAT, FORGET, POLL)
}


class Shards:
    """Runs commands on a client of either kind."""

    def __init__(self, client: Client) -> None:
        self._client: Any = client
        self.is_cluster = isinstance(client, RedisCluster)

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The commands' answers in order, in one round trip per server.

        Raises StoreAway, StoreBroken (some commands may have run all the same).
        """
        answers = await self._send(commands)
        again = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if again:
            await self._load({str(commands[at][1]) for at in again})
            repeated = await self._send([commands[at] for at in again])
            for at, answer in zip(again, repeated, strict=True):
                answers[at] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise _translated(answer)
        return answers

    async def run_one(self, command: Command) -> Any:
        """One command's answer. Raises as `run`."""
        return (await self.run((command,)))[0]

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        try:
            if len(commands) == 1:
                return [await self._client.execute_command(*commands[0])]
            if not self.is_cluster:
                return await burst(self._client, commands)
            pipeline = self._client.pipeline()
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers
        except NoScriptError as error:
            return [error]
        except (RedisError, OSError, TimeoutError) as error:
            raise _translated(error) from None

    async def _load(self, shas: set[str]) -> None:
        """The server was restarted or flushed its scripts: tell their texts, on every shard."""
        for sha in shas:
            try:
                await self._client.script_load(_BY_SHA[sha].text)
            except (RedisError, OSError, TimeoutError) as error:
                raise _translated(error) from None


def _translated(error: Exception) -> Exception:
    text = f"{type(error).__name__}: {str(error)[:200]}"
    # READONLY, CLUSTERDOWN, LOADING, BUSY are answers, but of a server that will be back
    if isinstance(error, ResponseError) and type(error) is ResponseError:
        return StoreBroken(text)
    return StoreAway(text)
