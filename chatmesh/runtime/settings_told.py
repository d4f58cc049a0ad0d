"""Settings told to people: each field's value, where it came from, and what it may be.

Role: what `chatmesh config` and the reference page show. Rules: no secret leaves this module; of a
secret URL only scheme, hosts and path are told. Whether a field holds a secret is asked of its
type, nested models included, so that a new secret is hidden without being listed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr, TypeAdapter

from chatmesh.runtime.settings import Settings, SettingsError, load, variable
from chatmesh.runtime.variables import FILE_SUFFIX

Origin = Literal["default", "env", "file", "unset"]

HIDDEN: Final = "(hidden)"
_NOT_SET: Final = "(not set)"


@dataclass(frozen=True, slots=True)
class Told:
    """One setting as it may be shown."""

    name: str
    """The variable, without …_FILE."""
    value: str
    """Text for people; secrets hidden. What is wrong is shown as it was given."""
    origin: Origin
    """`unset`: it has no default and nobody gave it."""
    file: str
    """Where it was read from; empty unless `origin` is file."""


def told(cls: type[Settings], environ: Mapping[str, str]) -> list[Told]:
    """Every setting of a class in the order of the class, whether they are right or not."""
    try:
        settings: Settings | None = load(cls, environ)
    except SettingsError:
        settings = None
    return [_told(cls, name, settings, environ) for name in cls.model_fields]


def _told(
    cls: type[Settings], name: str, settings: Settings | None, environ: Mapping[str, str]
) -> Told:
    field = cls.model_fields[name]
    key = variable(name)
    file = environ.get(key + FILE_SUFFIX, "")
    origin: Origin = "env" if key in environ else "file" if file else "default"
    if origin == "env" and environ[key] == "" and field.annotation is not str:
        origin = "default"  # an empty variable is an unset one, except where text is wanted
    if origin == "default" and field.is_required():
        return Told(key, _NOT_SET, "unset", "")
    if settings is not None:
        value = _shown(name, field.annotation, getattr(settings, name))
    elif origin == "default":
        value = _shown(name, field.annotation, default_of(cls, name))
    elif origin == "file":
        value = "(in the file)"
    else:
        value = HIDDEN if holds_secret(field.annotation) else environ[key]
    return Told(key, value, origin, file if origin == "file" else "")


def default_of(cls: type[Settings], name: str) -> Any:
    """A field's default; None for one that has none."""
    field = cls.model_fields[name]
    if field.is_required():
        return None
    return field.get_default(call_default_factory=True, validated_data={})


def holds_secret(annotation: Any) -> bool:
    """Whether a type is or contains a secret."""
    if isinstance(annotation, TypeVar):
        return False
    if get_origin(annotation) is None and isinstance(annotation, type):
        if issubclass(annotation, SecretStr):
            return True
        if issubclass(annotation, BaseModel):
            return any(holds_secret(field.annotation) for field in annotation.model_fields.values())
    return any(holds_secret(argument) for argument in get_args(annotation))


def _shown(name: str, annotation: Any, value: Any) -> str:
    if value is None:
        return _NOT_SET
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        return url_without_secrets(secret) if name.endswith("_url") else HIDDEN
    plain = plain_of(value)  # nested secrets come as asterisks
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def plain_of(value: Any) -> Any:
    """A setting's value as JSON has it; secrets within become asterisks."""
    return TypeAdapter(Any).dump_python(value, mode="json")


def url_without_secrets(url: str) -> str:
    """Scheme, hosts and path of a URL; nothing of its user, password and options."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    tail = f"{parts.path}?{parts.query}#{parts.fragment}"
    if not parts.scheme or "@" in tail:  # a password with a character of URLs in it
        return HIDDEN
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def kind_of(annotation: Any) -> str:
    """What a setting may be, in a word or a list of words, for the reference."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return _KINDS.get(annotation.__name__, annotation.__name__)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin in (tuple, list, set, frozenset):
        return "JSON list"
    if origin is dict:
        return "JSON object"
    if hasattr(annotation, "__metadata__"):
        return kind_of(arguments[0])
    kinds = [kind_of(one) for one in arguments if one is not type(None) and one is not Ellipsis]
    return " or ".join(dict.fromkeys(kinds)) or "text"


_KINDS: Final = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "Path": "path",
    "PosixPath": "path",
    "SecretStr": "secret",
}


def environment_of_file(text: str) -> dict[str, str]:
    """NAME=VALUE lines, as of `docker run --env-file`: no quotes, # begins a comment line.

    Raises ValueError with the number of a line that is none.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        name, equals, value = bare.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"line {number} is not NAME=VALUE")
        found[name] = value
    return found
