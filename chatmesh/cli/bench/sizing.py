"""`chatmesh bench sizing RUN`: what a number of users takes, computed from a run that was measured.

Rules: every figure comes from the run or from an option; what neither gives is told as missing, not
guessed. Costs are taken as proportional to messages, which holds as long as nothing is saturated:
measure at the load and the size of message that you expect.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import typer

from chatmesh.cli import CommandError, JsonOption

SECONDS_A_DAY: Final = 86_400
LEAST_PODS: Final = 2
"""With one, each replacement is an outage."""
SERVERS: Final = ("chat_svc", "sequencer_svc", "sync_svc", "presence_svc", "push_svc")
STORES: Final = ("postgres", "redis")
COLUMNS: Final = (
    "users", "messages/s at the peak", "server cores",
    "pods (chat, sequencer, sync, presence, push)", "server memory GiB", "PostgreSQL cores",
    "Redis cores", "PostgreSQL GB/day", "WAL GB/day",
)  # fmt: skip
DEFAULT_USERS: Final = (1_000, 10_000, 100_000, 1_000_000)

RunArgument = Annotated[
    pathlib.Path, typer.Argument(metavar="RUN", help="A file of `chatmesh bench messages --save`.")
]
UsersOption = Annotated[
    list[int] | None,
    typer.Option(min=1, help="Registered users; may be repeated.", show_default=False),
]
MessagesOption = Annotated[
    float, typer.Option(min=0.001, help="Messages that a user sends on an average day.")
]
PeakOption = Annotated[
    float, typer.Option(min=1, help="The busiest second's rate over the day's average.")
]
BusyOption = Annotated[
    float, typer.Option(min=0.05, max=1, help="Share of a core that a pod may use at the peak.")
]
OnlineOption = Annotated[
    float, typer.Option(min=0, max=1, help="Share of users with a session at the peak.")
]
SessionOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="KiB of chat-node memory a session takes, as measured. Without it memory counts the "
        "processes of the run, whose sessions are few.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Habits:
    """What users do, and how full pods may be."""

    messages_a_day: float
    peak: float
    busy: float
    online: float
    kib_a_session: float | None


@dataclass(frozen=True, slots=True)
class Size:
    """What one number of users takes. Cores are of the measured machine's kind, at the peak."""

    users: int
    messages_a_second: float
    pods: Mapping[str, int]
    server_cores: float
    postgres_cores: float | None
    redis_cores: float | None
    memory_gib: float
    """All server pods together."""
    database_gb_a_day: float
    wal_gb_a_day: float


def size_of(result: Mapping[str, Any], users: int, habits: Habits) -> Size:
    """Scale a run's result. Raises KeyError when the run has not what is needed."""
    a_day = users * habits.messages_a_day
    a_second = a_day / SECONDS_A_DAY * habits.peak
    cost: Mapping[str, float | None] = result["cpu_s_per_1000"]

    def cores(name: str) -> float | None:
        used = cost.get(name)
        return None if used is None else used * a_second / 1000

    needed = {name: cores(name) or 0.0 for name in SERVERS}
    pods = {name: max(LEAST_PODS, math.ceil(share / habits.busy)) for name, share in needed.items()}
    mib = sum(result["memory_mib"].get(name, 0.0) / _processes(result, name) * count
              for name, count in pods.items())  # fmt: skip
    if habits.kib_a_session is not None:
        mib += users * habits.online * habits.kib_a_session / 1024
    return Size(
        users=users,
        messages_a_second=a_second,
        pods=pods,
        server_cores=sum(needed.values()),
        postgres_cores=cores("postgres"),
        redis_cores=cores("redis"),
        memory_gib=mib / 1024,
        database_gb_a_day=a_day * result["pg_bytes_per_message"] / 1e9,
        wal_gb_a_day=a_day * result["wal_bytes_per_message"] / 1e9,
    )


def _processes(result: Mapping[str, Any], name: str) -> int:
    """How many processes the run's memory of a service is the sum of."""
    return int(result.get("processes", {}).get(name, 1))


def markdown(sizes: Sequence[Size], source: str, habits: Habits) -> str:
    """The table, with everything it was computed from."""
    sessions = (
        f", {habits.online:.0%} of users with a session of {habits.kib_a_session:g} KiB."
        if habits.kib_a_session is not None
        else ". Memory of sessions: not measured, not in the table (--kib-per-session)."
    )
    assumed = (
        f"Assumed: {habits.messages_a_day:g} messages a user and day, busiest second "
        f"{habits.peak:g} times the average, pods at most {habits.busy:.0%} of a core{sessions}"
    )
    head = " | ".join(COLUMNS)
    lines = [f"From {source}.", assumed, "", f"| {head} |"]
    lines.append("| " + " | ".join("---:" for _ in COLUMNS) + " |")
    for size in sizes:
        pods = ", ".join(str(size.pods[name]) for name in SERVERS)
        lines.append(
            f"| {size.users:,} | {size.messages_a_second:,.1f} | {size.server_cores:,.2f} | {pods} "
            f"| {size.memory_gib:,.1f} | {_number(size.postgres_cores)} "
            f"| {_number(size.redis_cores)} | {size.database_gb_a_day:,.2f} "
            f"| {size.wal_gb_a_day:,.2f} |"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.2f}"


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(sizing)


def sizing(
    run: RunArgument,
    users: UsersOption = None,
    messages_per_day: MessagesOption = 40,
    peak: PeakOption = 5,
    busy: BusyOption = 0.6,
    online: OnlineOption = 0.2,
    kib_per_session: SessionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cores, pods, memory and PostgreSQL a day for a number of users, from a measured run."""
    from chatmesh.cli.bench import saved

    try:
        read = saved.read(run)
        habits = Habits(messages_per_day, peak, busy, online, kib_per_session)
        result = {
            **read.result,
            "processes": {"chat_svc": read.load.get("chat_nodes", 1)},
        }
        sizes = [size_of(result, count, habits) for count in users or DEFAULT_USERS]
    except saved.NotARun as error:
        raise CommandError(str(error)) from None
    except KeyError as error:
        raise CommandError(f"{run} does not say {error}: save one with `bench messages`") from None
    if as_json:
        typer.echo(json.dumps([asdict(size) for size in sizes]))
        return
    machine = read.machine
    where = f"{machine.get('processor', 'unknown processor')}, {machine.get('cores')} cores"
    typer.echo(markdown(sizes, f"`{run.name}` ({where})", habits))
