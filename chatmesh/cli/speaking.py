"""How commands that speak as a user find a server and a token.

Two ways: the embedded mesh of a data folder (its addresses from mesh.json, tokens minted with its
development secret), or any deployment by `--target` and a token from the environment. Tokens are
never taken from the command line, where other users of the machine can read them.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatmesh.cli import CommandError

if TYPE_CHECKING:
    from chatmesh.client import Tls

TOKEN_VARIABLE = "CHATMESH_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_FILE_VARIABLE = "CHATMESH_TOKEN_FILE"  # noqa: S105 - the name of a variable
LARGEST_ID = (1 << 63) - 1

AsOption = Annotated[
    str,
    typer.Option(
        "--as", metavar="USER", help="Speak as this user (embedded mesh).", show_default=False
    ),
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="HOST:PORT",
        help=f"A server of yours; {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE} gives the token.",
        show_default=False,
    ),
]
CaOption = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--ca", metavar="FILE", help="With --target: TLS, trusting this CA.", show_default=False
    ),
]


@dataclass(frozen=True, slots=True)
class Speaker:
    """Where to connect, and as whom."""

    target: str
    token: str
    tls: Tls | None
    allow_plaintext: bool = False


def speaker(user: str, target: str, data: pathlib.Path | None, ca: pathlib.Path | None) -> Speaker:
    """What a command's options come to.

    Raises CommandError or an EmbeddedError that says what to do.
    """
    from chatmesh.client import Tls
    from chatmesh.runtime.addresses import is_local

    if target:
        if user:
            raise CommandError(
                f"--as is for the embedded mesh: with --target the token of {TOKEN_VARIABLE} says "
                "who speaks; leave one of the two out", 2,
            )  # fmt: skip
        token = _token_from_environment()
        if ca is None and not all(is_local(one.strip()) for one in target.split(",")):
            raise CommandError(
                f"{target} is on another machine and the token would travel in plain text: name "
                "the CA of its certificate by --ca FILE (a public one: your system's bundle, as "
                "/etc/ssl/certs/ca-certificates.crt)"
            )
        if ca is not None and not ca.is_file():
            raise CommandError(f"--ca {ca}: there is no such file", 2)
        return Speaker(target, token, Tls(ca=ca) if ca else None)
    if not user:
        raise CommandError("who speaks? name a user by --as, or a server of yours by --target", 2)
    check_utf8(user, "--as")
    from chatmesh.embedded import running

    mesh = running.find(data)
    addresses = mesh.public
    if not addresses:
        raise CommandError(f"the mesh on {mesh.folder.path} has no chat node yet: wait, try again")
    return Speaker(",".join(addresses), mesh.token(user), None)


def _token_from_environment() -> str:
    token = os.environ.get(TOKEN_VARIABLE, "")
    file = os.environ.get(TOKEN_FILE_VARIABLE, "")
    if file:
        try:
            token = pathlib.Path(file).read_text().strip()
        except OSError as error:
            raise CommandError(f"{TOKEN_FILE_VARIABLE}={file}: {error.strerror}") from None
    if not token:
        raise CommandError(
            f"--target needs a token: put it into {TOKEN_VARIABLE}, or its file's path into "
            f"{TOKEN_FILE_VARIABLE}"
        )
    return token


def destination(text: str) -> tuple[str, int]:
    """A user and 0, or "" and the number of `#ID`. Raises CommandError."""
    if not text:
        raise CommandError("name a user, or a conversation as # and its number", 2)
    check_utf8(text, "a user")
    if not text.startswith("#"):
        return text, 0
    number = text[1:]
    if not (number.isascii() and number.isdigit() and 0 < int(number) <= LARGEST_ID):
        raise CommandError(f"{text!r} is no conversation: write # and its number", 2)
    return "", int(number)


def check_utf8(text: str, what: str) -> None:
    """Refuses an argument that no server could read. Raises CommandError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CommandError(f"{what} must be UTF-8, not {text!r}", 2) from None


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command's coroutine; what the SDK refuses becomes one line on stderr."""
    from chatmesh.client import ChatmeshError
    from chatmesh.runtime import engine

    async def main() -> int:
        await work
        return 0

    try:
        engine.run(main())
    except ChatmeshError as error:
        raise CommandError(str(error)) from None
