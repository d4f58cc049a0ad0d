"""Addresses, targets and URLs as settings give them: what is well formed, told without connecting.

Rules: imports no gRPC, and the drivers only where a URL is looked at; a text never holds a word of
a URL, which may hold a password.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit, urlunsplit

MAX_PORT: Final = 65_535
POSTGRES_SCHEMES: Final = ("postgresql", "postgres")
REDIS_SCHEMES: Final = ("redis", "rediss", "unix")
CLUSTER_SCHEMES: Final = {"redis+cluster": "redis", "rediss+cluster": "rediss"}

_NOT_POSTGRES: Final = "not a PostgreSQL URL (postgresql://user@host/database)"
_NOT_REDIS: Final = "not a Redis URL (redis://, rediss://, unix:// or redis+cluster://)"


def check_address(text: str) -> str:
    """`HOST:PORT`, `[V6]:PORT` or `unix:/absolute/path`; ValueError otherwise."""
    if text.startswith("unix:"):
        if not text.removeprefix("unix:").startswith("/"):
            raise ValueError("a unix socket needs an absolute path, as unix:/run/x.sock")
        return text
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("must be HOST:PORT or unix:/path")
    if not _is_port(port):
        raise ValueError(f"{port!r} is not a port between 0 and {MAX_PORT}")
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


def resolve_target(target: str) -> tuple[str, str | None]:
    """gRPC's target for ours, and the authority to expect when gRPC cannot tell it.

    Raises ValueError for a comma list that is not of addresses of one family.
    """
    if "," not in target:
        return target, None
    parts = [part.strip() for part in target.split(",") if part.strip()]
    versions = set()
    for part in parts:
        host, colon, port = part.rpartition(":")
        try:
            versions.add(ipaddress.ip_address(host.strip("[]")).version)
        except ValueError:
            colon = ""
        if not colon or not _is_port(port):
            raise ValueError(f"{part!r} of the target list is not IP:port")
    if len(versions) != 1:
        raise ValueError("a target list must not mix IPv4 and IPv6")
    return f"ipv{versions.pop()}:{','.join(parts)}", parts[0]


def check_target(target: str) -> str:
    """A gRPC target (`host:port`, `dns:///name:port`, …) or a comma list of IP:port.

    Raises ValueError for what could never be resolved.
    """
    if not target or any(character.isspace() for character in target.replace(", ", ",")):
        raise ValueError("must be a gRPC target: HOST:PORT, dns:///NAME:PORT or a list of IP:PORT")
    resolve_target(target)
    if "," not in target and "://" not in target:
        check_address(target)
    return target


def check_postgres_url(url: str) -> str:
    """A postgresql:// URL; ValueError otherwise."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    if url.partition("://")[0] not in POSTGRES_SCHEMES:
        raise ValueError(_NOT_POSTGRES)
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ValueError(_NOT_POSTGRES) from None
    ports = str(given.get("port") or "")  # one for each host
    if not all(_is_port(port) for port in ports.split(",") if port):
        raise ValueError(f"its port is not a number up to {MAX_PORT}")
    return url


def check_redis_url(url: str) -> str:
    """A redis://, rediss://, unix:// or redis+cluster:// URL; ValueError otherwise."""
    from redis.asyncio.connection import parse_url

    try:
        parse_url(plain_redis_url(url))
    except ValueError:
        if urlsplit(url).scheme not in (*REDIS_SCHEMES, *CLUSTER_SCHEMES):
            raise ValueError(_NOT_REDIS) from None
        raise ValueError("its port, database or an option is not what Redis takes") from None
    return url


def plain_redis_url(url: str) -> str:
    """The URL as the driver knows it: without our mark of a cluster.

    Raises ValueError for another kind of URL.
    """
    parts = urlsplit(url)
    if parts.scheme in CLUSTER_SCHEMES:
        return urlunsplit(parts._replace(scheme=CLUSTER_SCHEMES[parts.scheme]))
    if parts.scheme not in REDIS_SCHEMES:
        raise ValueError(_NOT_REDIS)
    return url


def is_cluster(url: str) -> bool:
    """Whether a Redis URL names a cluster."""
    return urlsplit(url).scheme in CLUSTER_SCHEMES


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= MAX_PORT
