"""`chatmesh doctor`: looks at a mesh and says what is wrong with it and what to do.

Rules: changes nothing but for the message that it sends to see delivery, and its users, which it
deletes. A line each; exit code 1 when something fails. No secret is printed.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatmesh.cli import CommandError, DataOption, JsonOption
from chatmesh.cli.speaking import CaOption

if TYPE_CHECKING:
    from chatmesh.cli.doctor.findings import Finding
    from chatmesh.cli.doctor.subjects import Subjects

ADMIN_SCOPE = "chatmesh.admin"
_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(doctor)


def doctor(
    services: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SERVICE]...",
            help="Whose settings to read: chat, presence, push, sequencer, sync. Default: all of "
            "the running mesh; chat where the environment is read.",
            show_default=False,
        ),
    ] = None,
    production: Annotated[
        bool, typer.Option("--production", help="The checklist for real people, too.")
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="HOST:PORT",
            help="A chat node to send through, once per node; CHATMESH_TOKEN gives the token.",
            show_default=False,
        ),
    ] = None,
    ca: CaOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at stores, durability, schemas, clocks, certificates, servers, and deliver a message.

    The mesh that runs on this machine is looked at, unless the environment is that of a chat node
    (CHATMESH_PUBLIC_LISTEN is set). Every pair of chat nodes passes a real message each way.

    \b
    Examples:
      chatmesh doctor
      chatmesh doctor --production --json
      CHATMESH_TOKEN=… chatmesh doctor chat push --target a:7030 --target b:7030 --ca ca.pem
    """
    from chatmesh.cli.doctor import subjects as who
    from chatmesh.runtime import engine, logs

    logs.configure("doctor", "error", "console")
    subjects = who.find(data, services)
    found: list[Finding] = list(subjects.findings)

    async def look() -> int:
        found.extend(await _look(subjects, production))
        found.extend(await _delivery(subjects, target or [], ca))
        return 0

    engine.run(look())
    _tell(found, as_json)
    failed = sum(one.level == "fail" for one in found)
    if failed:
        raise CommandError(f"{failed} of {len(found)} checks failed")


async def _look(subjects: Subjects, production: bool) -> list[Finding]:
    from chatmesh.cli.doctor import servers, stores
    from chatmesh.cli.doctor.production import checklist

    facts = stores.StoreFacts()
    found = await stores.look_at_postgres(subjects, facts)
    found += await stores.look_at_redis(subjects, facts)
    found += servers.look_at_certificates(subjects, datetime.datetime.now(datetime.UTC))
    found += await servers.look_at_servers(subjects)
    if production:
        found += checklist(subjects, facts, os.environ)
    return found


async def _delivery(
    subjects: Subjects, targets: list[str], ca: pathlib.Path | None
) -> list[Finding]:
    from chatmesh.cli.doctor.delivery import Place, look_at_delivery, places_of
    from chatmesh.cli.doctor.findings import warn
    from chatmesh.cli.speaking import speaker
    from chatmesh.client import Tls

    tls = Tls(ca=ca) if ca else None
    if targets:
        token = speaker("", targets[0], None, ca).token
        places = [Place(one, one, "", token) for one in targets]
        return await look_at_delivery(places, tls=tls)
    if subjects.mesh is None:
        remedy = "name each chat node by --target, and a token by CHATMESH_TOKEN"
        return [warn("delivery", "not tried", remedy)]
    places = places_of(subjects.mesh)
    async with _admin(subjects.mesh, places[0].target) as admin:
        return await look_at_delivery(places, tls=tls, admin=admin)


@asynccontextmanager
async def _admin(mesh: Any, target: str) -> AsyncIterator[Any]:
    from chatmesh.cli.doctor.subjects import DOCTORS_TENANT
    from chatmesh.client import UnaryClient

    token = mesh.token("doctor", tenant=DOCTORS_TENANT, scopes=(ADMIN_SCOPE,))
    async with UnaryClient(target, token=token) as client:
        yield client


def _tell(found: list[Finding], as_json: bool) -> None:
    from chatmesh.cli.doctor.findings import document
    from chatmesh.cli.plain import shown

    if as_json:
        good = all(one.level != "fail" for one in found)
        typer.echo(json.dumps({"good": good, "findings": document(found)}, ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"{_MARKS[one.level]} {one.subject}: {shown(one.text)}")
        if one.remedy:
            typer.echo(f"     {one.remedy}")
