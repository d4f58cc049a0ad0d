"""Where a webhook may go: https, to public addresses, resolved once and connected to as resolved.

Server-side request forgery is the threat (a user names the URL): so the address that was checked is
the one that is connected to, redirects are not followed, and every form of a private address is
refused: v4, v6, v4 inside v6, names and numbers that resolve to one.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from push_svc.providers import BadToken

MAX_URL_BYTES: Final = 2_048
RESOLVE_SECONDS: Final = 5.0
_NAT64: Final = ip_network("64:ff9b::/96")
_6TO4: Final = ip_network("2002::/16")
_UNICAST: Final = ip_network("2000::/3")
"""All IPv6 addresses that IANA gives out. What lies outside is local in some way that the standard
library calls global: site-local (fec0::/10), NAT64 of one's own (64:ff9b:1::/48), SIIT."""
_SPECIAL: Final = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
"""IANA's special-purpose registries, as far as Python 3.11 does not know them."""

Address = IPv4Address | IPv6Address


class Unresolvable(Exception):
    """The name has no address now."""


@dataclass(frozen=True, slots=True)
class Url:
    """A webhook's URL, taken apart."""

    host: str
    port: int
    path: str
    """With the query."""

    @property
    def authority(self) -> str:
        """Host and port as the `Host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"


class Egress:
    """The rules of one deployment."""

    def __init__(self, hosts: Sequence[str] = (), networks: Sequence[str] = ()) -> None:
        """`hosts`: the only ones; none: all public ones. `networks`: allowed though private."""
        self._hosts = frozenset(host.lower() for host in hosts)
        self._networks = tuple(ip_network(network) for network in networks)

    def parse(self, url: str) -> Url:
        """Take a URL apart. Raises BadToken, which holds none of it."""
        if (
            len(url.encode()) > MAX_URL_BYTES
            or not url.isascii()
            or not url.isprintable()
            or " " in url
        ):
            raise BadToken(f"the URL is not ASCII or above {MAX_URL_BYTES} bytes")
        try:
            parts = urlsplit(url)
            port = parts.port or 443
        except ValueError:
            raise BadToken("the URL cannot be parsed") from None
        host = (parts.hostname or "").rstrip(".")
        self._check_parts(parts, host)
        query = f"?{parts.query}" if parts.query else ""
        return Url(host, port, (parts.path or "/") + query)

    async def resolve(self, url: Url) -> Address:
        """The address to connect to. Raises BadToken for a private one, Unresolvable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError):
            raise Unresolvable("the host has no address") from None
        addresses = [ip_address(str(where[0]).partition("%")[0]) for *_, where in found]
        if not addresses:
            raise Unresolvable("the host has no address")
        # one private address among public ones is a trick or a mistake: refuse all
        if not all(self.allows(address) for address in addresses):
            raise BadToken("the host is not a public one")
        return addresses[0]

    def allows(self, address: Address) -> bool:
        """Whether an address may be connected to."""
        inner = embedded_v4(address)
        if inner is not None:
            return self.allows(inner)
        if any(address in network for network in self._networks):
            return True
        if address.version == 6 and address not in _UNICAST:
            return False
        is_special = any(address in network for network in _SPECIAL)
        return address.is_global and not (address.is_multicast or is_special)

    def _check_parts(self, parts: SplitResult, host: str) -> None:
        if parts.scheme != "https":
            raise BadToken("the URL is not https")
        if not host or parts.username is not None or parts.password is not None:
            raise BadToken("the URL has no host, or a user in it")
        if parts.fragment or "\\" in parts.netloc:
            raise BadToken("the URL has a fragment or a backslash")
        if self._hosts and host.lower() not in self._hosts:
            raise BadToken("the host is not an allowed one")


def embedded_v4(address: Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped, 6to4, Teredo, NAT64, compatible."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _6TO4:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    is_compatible = int(address) >> 32 == 0 and int(address) > 1
    if address in _NAT64 or is_compatible:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None
