"""A small XMPP client: enough to log in and exchange messages (RFC 6120, 6121).

Role: one stream over TCP: SASL PLAIN, resource binding, presence, chat messages with ids.
Rules: loopback only (no TLS), no roster, no acknowledgements. A stream that ends before it was told
to is a failure. Bytes are parsed by expat as they come; nothing is read by eye.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Final, cast
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

OPEN_SECONDS: Final = 60
_STREAM: Final = "http://etherx.jabber.org/streams"
_CLIENT: Final = "jabber:client"
_SASL: Final = "urn:ietf:params:xml:ns:xmpp-sasl"
_BIND: Final = "urn:ietf:params:xml:ns:xmpp-bind"
OnMessage = Callable[[str, str], None]
"""Sender's bare address and body."""


class XmppFailed(Exception):
    """The session ended, or was refused; the text names user and reason."""


class Stanza:
    """One element below the stream: name with namespace, attributes, texts of what is in it."""

    __slots__ = ("attributes", "name", "names", "texts")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.names: list[str] = []
        self.texts: dict[str, str] = {}


class StanzaReader:
    """Bytes of a stream → stanzas. A stream restarts after authentication: make a new one."""

    def __init__(self, on_stanza: Callable[[Stanza], None], on_end: Callable[[], None]) -> None:
        self._on_stanza = on_stanza
        self._on_end = on_end
        self._depth = 0
        self._now: Stanza | None = None
        self._inner: list[str] = []
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def feed(self, data: bytes) -> None:
        """More bytes. Raises expat.ExpatError when they are no XML."""
        self._parser.Parse(data, False)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 2:
            self._now = Stanza(name, attributes)
        elif self._depth > 2 and self._now is not None:
            self._now.names.append(name)
            self._inner.append(name)

    def _end(self, _name: str) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._on_end()
        elif self._depth == 1 and self._now is not None:
            stanza, self._now = self._now, None
            self._on_stanza(stanza)
        elif self._inner:
            self._inner.pop()

    def _text(self, data: str) -> None:
        if self._now is not None and self._inner:
            texts = self._now.texts
            texts[self._inner[-1]] = texts.get(self._inner[-1], "") + data


class XmppSession(asyncio.Protocol):
    """A session of one user."""

    def __init__(self, user: str, password: str, domain: str) -> None:
        self.user = user
        self.on_message: OnMessage = lambda _sender, _body: None
        self.on_failure: Callable[[str], None] = lambda _what: None
        self.after_read: Callable[[], None] = lambda: None
        self._password = password
        self._domain = domain
        self._transport: asyncio.Transport | None = None
        self._reader = StanzaReader(self._on_stanza, self._on_stream_end)
        self._restarting = False
        self._leaving = False
        self._sent = 0
        self._live: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, host: str, port: int) -> None:
        """Connect, log in, be available. Raises XmppFailed."""
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await asyncio.get_running_loop().create_connection(lambda: self, host, port)
                await self._live
        except TimeoutError:
            raise XmppFailed(f"{self.user}: no session within {OPEN_SECONDS} s") from None
        except OSError as error:
            raise XmppFailed(f"{self.user}: cannot connect: {error}") from None

    def send(self, to: str, bodies: list[str]) -> None:
        """Send messages to a user of the same domain, in this order, in one write."""
        stanzas = []
        for body in bodies:
            self._sent += 1
            stanzas.append(
                f"<message to={quoteattr(f'{to}@{self._domain}')} type='chat' "
                f"id='m{self._sent}'><body>{escape(body)}</body></message>"
            )
        self._write("".join(stanzas))

    def leave(self) -> None:
        """Close the stream."""
        self._leaving = True
        if self._transport is not None:
            self._write("</stream:stream>")
            self._transport.close()

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The stream begins."""
        self._transport = cast(asyncio.Transport, transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        """Stanzas, or pieces of them."""
        try:
            self._reader.feed(data)
        except expat.ExpatError as error:
            self._fail(f"was sent what is no XML: {error}")
            return
        if self._restarting:
            self._restarting = False
            self._reader = StanzaReader(self._on_stanza, self._on_stream_end)
            self._begin()
        self.after_read()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expected after `leave` only."""
        self._transport = None
        self._fail(f"lost its connection: {exc}" if exc else "was disconnected")

    # -- stanzas -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._write(
            f"<?xml version='1.0'?><stream:stream to={quoteattr(self._domain)} version='1.0' "
            f"xmlns='{_CLIENT}' xmlns:stream='{_STREAM}'>"
        )

    def _on_stanza(self, stanza: Stanza) -> None:
        name = stanza.name
        if name == f"{_CLIENT} message":
            body = stanza.texts.get(f"{_CLIENT} body")
            if stanza.attributes.get("type") == "error":
                self._fail(f"had a message refused: {stanza.names[-1:]}")
            elif body is not None:
                self.on_message(stanza.attributes.get("from", "").partition("/")[0], body)
        elif name == f"{_STREAM} features":
            self._on_features(stanza)
        elif name == f"{_SASL} success":
            self._restarting = True
        elif name == f"{_SASL} failure":
            self._fail(f"may not log in: {stanza.names}")
        elif name == f"{_CLIENT} iq" and stanza.attributes.get("id") == "bind":
            self._on_bound(stanza)
        elif name == f"{_STREAM} error":
            self._fail(f"was ended: {stanza.names}")

    def _on_features(self, stanza: Stanza) -> None:
        if f"{_BIND} bind" in stanza.names:
            self._write(
                f"<iq type='set' id='bind'><bind xmlns='{_BIND}'><resource>bench</resource>"
                "</bind></iq>"
            )
            return
        token = base64.b64encode(f"\0{self.user}\0{self._password}".encode()).decode()
        self._write(f"<auth xmlns='{_SASL}' mechanism='PLAIN'>{token}</auth>")

    def _on_bound(self, stanza: Stanza) -> None:
        if stanza.attributes.get("type") != "result":
            self._fail(f"gets no resource: {stanza.names}")
            return
        self._write("<presence/>")
        if not self._live.done():
            self._live.set_result(None)

    def _on_stream_end(self) -> None:
        self._fail("was ended by the server")

    def _write(self, text: str) -> None:
        if self._transport is not None:
            self._transport.write(text.encode())

    def _fail(self, what: str) -> None:
        if self._leaving:
            return
        self._leaving = True
        if self._live.done():
            self.on_failure(f"{self.user} {what}")
        else:
            self._live.set_exception(XmppFailed(f"{self.user} {what}"))
