"""`chatmesh token USER`: a development token of the embedded mesh on this machine."""

from typing import Annotated

import typer

from chatmesh.cli import CommandError, DataOption

LONGEST_TTL_SECONDS = 10 * 366 * 86_400


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(token)


def token(
    user: Annotated[str, typer.Argument(help="User id, as the application knows the user.")],
    data: DataOption = None,
    tenant: Annotated[str, typer.Option(help="Tenant of the user.")] = "default",
    ttl_seconds: Annotated[float, typer.Option(help="How long the token is valid.")] = 43_200,
    scope: Annotated[
        list[str] | None, typer.Option(help="A scope; may be given several times.")
    ] = None,
) -> None:
    """Print a bearer token for a user of the embedded mesh.

    The key lies in the data folder, which `chatmesh up` makes, and stays the same over restarts.
    Send the token as metadata `authorization: Bearer TOKEN`.
    """
    from chatmesh.embedded import keys, tokens
    from chatmesh.embedded.layout import DataFolder, default_folder
    from chatmesh.runtime.identity import MAX_USER_ID_CHARACTERS, is_clean_text

    if not is_clean_text(user, MAX_USER_ID_CHARACTERS):
        raise CommandError(
            f"a user is 1 to {MAX_USER_ID_CHARACTERS} characters without controls", 2
        )
    if not 0 < ttl_seconds <= LONGEST_TTL_SECONDS:
        raise CommandError(
            f"--ttl-seconds is above 0 and at most {LONGEST_TTL_SECONDS}, ten years", 2
        )
    folder = DataFolder(data or default_folder())
    try:
        secret = keys.known_development_secret(folder).read_text()
    except FileNotFoundError:
        raise CommandError(
            f"no mesh with development tokens was ever started on {folder.path}: start one with "
            "`chatmesh up`, or name its folder by --data or CHATMESH_DATA"
        ) from None
    except OSError as error:
        raise CommandError(
            f"cannot read the data folder {folder.path}: {error.strerror}; "
            "name another by --data or CHATMESH_DATA"
        ) from None
    typer.echo(
        tokens.mint(secret, user, tenant=tenant, ttl_seconds=ttl_seconds, scopes=scope or ())
    )
