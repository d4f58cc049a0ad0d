"""Typed settings from the environment: `CHATMESH_<FIELD>`, or `CHATMESH_<FIELD>_FILE`.

Role: `load()` reads every value of a settings class at once and reports all bad ones together.
Rules: secrets are SecretStr and never appear in an error; constructing a class directly reads no
environment (tests, tools). A field's docstring is its help and ends up in the error text.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "CHATMESH_"
FILE_SUFFIX = "_FILE"
_MAX_FILE_BYTES = 1 << 20
"""A setting is small; a path to something larger is a mistake (or /dev/zero)."""
_SHOWN_CHARACTERS = 60

SettingsT = TypeVar("SettingsT", bound="Settings")


class SettingsError(Exception):
    """One or more settings are wrong. Its text names each variable, the fault and the remedy."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = f"{len(problems)} settings are" if len(problems) > 1 else "1 setting is"
        super().__init__(f"{count} wrong:\n" + "\n".join(f"  {line}" for line in problems))


class Settings(BaseSettings):
    """Base of all settings classes."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given: the environment is read by `load()`, which can report all faults."""
        return (init_settings,)


def load(cls: type[SettingsT], environ: Mapping[str, str] | None = None) -> SettingsT:
    """An instance of `cls` from the environment.

    Raises SettingsError listing every bad value: variable, what is wrong, what to do.
    """
    values, unreadable = _read(cls, os.environ if environ is None else environ)
    problems = list(unreadable.values())
    settings: SettingsT | None = None
    try:
        settings = cls(**values)
    except ValidationError as error:
        for detail in error.errors():
            location = detail["loc"]
            if location and location[0] in unreadable:
                continue
            problems.append(_problem(cls, location, detail["msg"], values))
    if problems or settings is None:
        raise SettingsError(problems)
    return settings


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def _read(cls: type[Settings], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, field in cls.model_fields.items():
        key = variable(name)
        file_key = key + FILE_SUFFIX
        if key in environ and file_key in environ:
            problems[name] = f"{key} and {file_key} are both set: unset one of them"
            continue
        if key in environ:
            text, origin = environ[key], key
        elif file_key in environ:
            origin = file_key
            try:
                text = _file_text(environ[file_key])
            except (OSError, ValueError) as error:
                problems[name] = f"{file_key}: cannot read {environ[file_key]!r}: {error}"
                continue
        else:
            continue
        if text == "" and not _takes_text(field.annotation):
            continue  # an empty variable is an unset one, except where text is wanted
        if _takes_json(field.annotation):
            try:
                values[name] = json.loads(text)
            except ValueError as error:
                problems[name] = f"{origin} is not valid JSON ({error}). {_help(cls, name)}"
            continue
        values[name] = text
    return values, problems


def _file_text(path: str) -> str:
    with Path(path).open("rb") as file:
        raw = file.read(_MAX_FILE_BYTES + 1)
    if len(raw) > _MAX_FILE_BYTES:
        raise ValueError(f"more than {_MAX_FILE_BYTES} bytes")
    return raw.decode("utf-8").rstrip("\r\n")


def _takes_text(annotation: Any) -> bool:
    return annotation is str


def _takes_json(annotation: Any) -> bool:
    """Lists, tuples, dicts and models arrive as JSON; everything else as plain text."""
    origin = getattr(annotation, "__origin__", annotation)
    if origin in (list, tuple, dict, set, frozenset):
        return True
    if isinstance(origin, type) and issubclass(origin, BaseModel):
        return True
    return any(
        _takes_json(argument)
        for argument in getattr(annotation, "__args__", ())
        if argument is not type(None) and argument is not Ellipsis
    )


def _problem(
    cls: type[Settings], location: tuple[int | str, ...], message: str, values: Mapping[str, Any]
) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not location:  # a rule over several fields names its variables itself
        return message
    name = str(location[0])
    if name not in cls.model_fields:
        return f"{variable(name)}: {message}"
    place = variable(name) + "".join(f"[{part}]" for part in location[1:])
    shown = ""
    if isinstance(values.get(name), str) and "Secret" not in str(cls.model_fields[name].annotation):
        shown = f"={values[name][:_SHOWN_CHARACTERS]!r}"
    return f"{place}{shown}: {message}. {_help(cls, name)}".rstrip()


def _help(cls: type[Settings], name: str) -> str:
    return " ".join((cls.model_fields[name].description or "").split())


# --- addresses -------------------------------------------------------------------------------


def check_address(text: str) -> str:
    """`HOST:PORT`, `[V6]:PORT` or `unix:/absolute/path`; ValueError otherwise."""
    if text.startswith("unix:"):
        if not text.removeprefix("unix:").startswith("/"):
            raise ValueError("a unix socket needs an absolute path, as unix:/run/x.sock")
        return text
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("must be HOST:PORT or unix:/path")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{port!r} is not a port between 0 and 65535")
    return text


def is_local(address: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Address = Annotated[str, AfterValidator(check_address)]
OptionalAddress = Annotated[str, AfterValidator(lambda text: check_address(text) if text else "")]
LogLevel = Literal["debug", "info", "warning", "error"]


class ServerSettings(Settings):
    """What every server has."""

    mesh_listen: Address
    """Address of the mesh listener: HOST:PORT or unix:/path."""

    metrics_listen: OptionalAddress = ""
    """Address of the HTTP port with /metrics and /readyz; empty for none."""

    probe_listen: OptionalAddress = ""
    """Address of a plain gRPC port that answers health checks alone (services startup, liveness,
    readiness), for probes that have no certificate; empty for none."""

    mesh_tls_ca: Path | None = None
    """PEM file of the authority of all mesh certificates. Set all three TLS files or none."""

    mesh_tls_cert: Path | None = None
    """PEM file of this server's certificate (chain). Set all three TLS files or none."""

    mesh_tls_key: Path | None = None
    """PEM file of the certificate's key. Set all three TLS files or none."""

    mesh_insecure: bool = False
    """true allows a mesh listener in plain text off loopback. Only inside an encrypted network."""

    mesh_server_name: str = ""
    """The name to expect in the certificates of peers; empty: the host of each target."""

    postgres_url: SecretStr | None = None
    """postgresql:// URL of the database."""

    redis_url: SecretStr | None = None
    """redis://, rediss://, unix:// or redis+cluster:// URL of Valkey or Redis."""

    postgres_durable: bool = True
    """false accepts a PostgreSQL that may lose acknowledged commits (fsync off). Only for tests."""

    log_level: LogLevel = "info"
    """One of debug, info, warning, error."""

    log_format: Literal["json", "console"] = "json"
    """json for machines, console for people."""

    trace_sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of traces begun here that are recorded, 0 to 1."""

    shutdown_grace_seconds: float = Field(default=25, ge=0, le=3600)
    """How long a stop may take before the process ends anyway, in seconds."""

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("mesh_tls_ca", "mesh_tls_cert", "mesh_tls_key")
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        return check_readable(path)

    @model_validator(mode="after")
    def _tls(self) -> Self:
        files = (self.mesh_tls_ca, self.mesh_tls_cert, self.mesh_tls_key)
        if any(files) and not all(files):
            raise ValueError(
                "CHATMESH_MESH_TLS_CA, CHATMESH_MESH_TLS_CERT and CHATMESH_MESH_TLS_KEY: "
                "set all three or none"
            )
        if not any(files) and not is_local(self.mesh_listen) and not self.mesh_insecure:
            raise ValueError(
                f"CHATMESH_MESH_LISTEN={self.mesh_listen!r} is reachable from other machines and "
                "has no TLS: set CHATMESH_MESH_TLS_CA, _CERT and _KEY, or listen on 127.0.0.1, "
                "or set CHATMESH_MESH_INSECURE=true inside an encrypted network"
            )
        return self


def check_readable(path: Path | None) -> Path | None:
    """The path, if it is a readable file or None; ValueError otherwise."""
    if path is not None:
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
    return path
