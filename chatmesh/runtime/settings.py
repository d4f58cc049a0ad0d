"""Typed settings from the environment: `CHATMESH_<FIELD>`, or `CHATMESH_<FIELD>_FILE`.

Role: `load()` reads every value of a settings class at once and reports all that is wrong together:
bad values, rules over several of them, and names that are misspelt.
Rules: secrets are SecretStr and never appear in an error; constructing a class directly reads no
environment (tests, tools). A field's docstring is its help and ends up in the error text. What
holds between fields is a method marked by `rule`, not a validator: a validator would not be asked
while any field is bad, and its fault would be told in a second round only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SecretStr,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from chatmesh.runtime import failpoints
from chatmesh.runtime.addresses import (
    check_address,
    check_postgres_url,
    check_redis_url,
    check_target,
    is_local,
)
from chatmesh.runtime.variables import FILE_SUFFIX, PREFIX, strangers

__all__ = [
    "Address",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "Target",
    "check_address",
    "check_readable",
    "is_local",
    "load",
    "rule",
    "variable",
]

_MAX_FILE_BYTES = 1 << 20
"""A setting is small; a path to something larger is a mistake (or /dev/zero)."""
_SHOWN_CHARACTERS = 60

SettingsT = TypeVar("SettingsT", bound="Settings")
RuleT = TypeVar("RuleT", bound=Callable[[Any], None])
_RULE = "_rule_needs"


class SettingsError(Exception):
    """One or more settings are wrong. Its text names each variable, the fault and the remedy."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = f"{len(problems)} settings are" if len(problems) > 1 else "1 setting is"
        super().__init__(f"{count} wrong:\n" + "\n".join(f"  {line}" for line in problems))


def rule(*needs: str) -> Callable[[RuleT], RuleT]:
    """Marks a method that raises ValueError when fields do not go together.

    `needs` are the fields that it looks at: it is not asked while one of them is bad by itself. Its
    text is one line and names the variables.
    """

    def mark(method: RuleT) -> RuleT:
        setattr(method, _RULE, frozenset(needs))
        return method

    return mark


class Settings(BaseSettings):
    """Base of all settings classes."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    bad_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that hold nothing because what was given is bad; `load()` alone sets it."""

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        broken = []
        for needs, method in self._rules():
            if needs & self.bad_fields:
                continue
            try:
                method(self)
            except ValueError as error:
                broken.append(str(error))
        if broken:
            raise ValueError("\n".join(broken))
        return self

    @classmethod
    def _rules(cls) -> Iterator[tuple[frozenset[str], Callable[[Any], None]]]:
        """Rules of this class and its bases, the bases' first."""
        for one in reversed(cls.__mro__):
            for method in vars(one).values():
                needs = getattr(method, _RULE, None)
                if needs is not None:
                    yield needs, method

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


def load(
    cls: type[SettingsT],
    environ: Mapping[str, str] | None = None,
    *,
    known: Collection[str] = (),
) -> SettingsT:
    """An instance of `cls` from the environment.

    `known` are the names of all variables that something reads. With them, a name that resembles
    one of those is wrong, too; others are left to the caller to warn of.
    Raises SettingsError listing every bad value: variable, what is wrong, what to do.
    """
    environ = os.environ if environ is None else environ
    values, unreadable = _read(cls, environ)
    problems = list(unreadable.values())
    settings: SettingsT | None = None
    bad = set(unreadable)
    try:
        settings = _holding(cls, bad)(**values)
    except ValidationError as error:
        fields = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
        problems += _problems(cls, error, values)
        if fields:  # its rules were not asked
            bad |= fields & cls.model_fields.keys()
            good = {name: value for name, value in values.items() if name not in bad}
            try:
                _holding(cls, bad)(**good)
            except ValidationError as second:
                problems += _problems(cls, second, values)
    if known:
        own = {*known, *map(variable, cls.model_fields)}
        problems += [str(one) for one in strangers(environ, own) if one.meant is not None]
    if wrong := failpoints.problem(environ):
        problems.append(wrong)
    if problems or settings is None:
        raise SettingsError(problems)
    return settings


def _holding(cls: type[SettingsT], bad: Collection[str]) -> type[SettingsT]:
    """The class itself, or one that wants nothing of bad fields and asks no rule about them."""
    if not bad:
        return cls
    # a class's own validators expect a value: nothing is not shown to them
    fields: Any = {name: (Any, Field(default=None, validate_default=False)) for name in bad}
    made: type[SettingsT] = create_model(cls.__name__, __base__=cls, **fields)
    made.bad_fields = frozenset(bad)
    return made


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


def _problems(cls: type[Settings], error: ValidationError, values: Mapping[str, Any]) -> list[str]:
    return [
        _problem(cls, detail["loc"], line, values)
        for detail in error.errors()
        for line in detail["msg"].splitlines()
    ]


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


Address = Annotated[str, AfterValidator(check_address)]
OptionalAddress = Annotated[str, AfterValidator(lambda text: check_address(text) if text else "")]
Target = Annotated[str, AfterValidator(check_target)]
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

    @field_validator("postgres_url")
    @classmethod
    def _postgres_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and url.get_secret_value():
            check_postgres_url(url.get_secret_value())
        return url

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and url.get_secret_value():
            check_redis_url(url.get_secret_value())
        return url

    @rule("mesh_tls_ca", "mesh_tls_cert", "mesh_tls_key")
    def _tls_files(self) -> None:
        files = (self.mesh_tls_ca, self.mesh_tls_cert, self.mesh_tls_key)
        if any(files) and not all(files):
            raise ValueError(
                "CHATMESH_MESH_TLS_CA, CHATMESH_MESH_TLS_CERT and CHATMESH_MESH_TLS_KEY: "
                "set all three or none"
            )

    @rule("mesh_tls_ca", "mesh_tls_cert", "mesh_tls_key", "mesh_listen", "mesh_insecure")
    def _tls_off_loopback(self) -> None:
        files = (self.mesh_tls_ca, self.mesh_tls_cert, self.mesh_tls_key)
        if not any(files) and not is_local(self.mesh_listen) and not self.mesh_insecure:
            raise ValueError(
                f"CHATMESH_MESH_LISTEN={self.mesh_listen!r} is reachable from other machines and "
                "has no TLS: set CHATMESH_MESH_TLS_CA, _CERT and _KEY, or listen on 127.0.0.1, "
                "or set CHATMESH_MESH_INSECURE=true inside an encrypted network"
            )


def check_readable(path: Path | None) -> Path | None:
    """The path, if it is a readable file or None; ValueError otherwise."""
    if path is not None:
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
    return path
