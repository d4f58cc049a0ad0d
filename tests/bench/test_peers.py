"""The load on another server: its XMPP client, what is refused, what is said without a server."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.peers import ejabberd
from benchmarks.peers.__main__ import loads_of, result_of
from benchmarks.peers.side_by_side import Measured, ratios
from benchmarks.peers.xmpp import Stanza, StanzaReader, XmppFailed, XmppSession

ROOT = Path(__file__).parents[2]
BEGIN = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' version='1.0' id='1' "
    "xmlns:stream='http://etherx.jabber.org/streams' from='localhost'>"
)
MECHANISMS = (
    "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>"
    "<mechanism>PLAIN</mechanism></mechanisms></stream:features>"
)
BIND = "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>"
SUCCESS = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
FAILURE = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"
BOUND = "<iq type='result' id='bind'/>"
MESSAGE = (
    "<message from='ann@localhost/x' type='chat' id='m1'><body>1 &lt; 2 &amp; ü</body>"
    "<stanza-id xmlns='urn:xmpp:sid:0' id='9'/></message>"
)


def test_stanzas_are_the_same_however_the_bytes_are_cut() -> None:
    found: list[Stanza] = []
    reader = StanzaReader(found.append, lambda: None)
    for byte in (BEGIN + MECHANISMS + MESSAGE).encode():
        reader.feed(bytes((byte,)))
    features, message = found
    assert features.names[-1] == "urn:ietf:params:xml:ns:xmpp-sasl mechanism"
    assert message.attributes["from"] == "ann@localhost/x"
    assert message.texts["jabber:client body"] == "1 < 2 & ü"


@asynccontextmanager
async def server(login: str) -> AsyncIterator[tuple[int, list[str]]]:
    """Says the server's lines of a login, then one message; its port and what it heard."""
    heard: list[str] = []
    answers = [BEGIN + MECHANISMS, login, BEGIN + BIND, BOUND, MESSAGE]
    ends = ("version='1.0' xmlns=", "</auth>", "version='1.0' xmlns=", "</iq>", "<presence/>")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer, end in zip(answers, ends, strict=True):
            text = ""
            while end not in text and (data := await reader.read(4_096)):
                text += data.decode()
            heard.append(text)
            writer.write(answer.encode())
        while data := await reader.read(4_096):
            heard.append(data.decode())
        writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield int(listening.sockets[0].getsockname()[1]), heard
    finally:
        listening.close()
        await listening.wait_closed()


async def test_a_session_logs_in_and_gets_its_messages() -> None:
    got: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
    async with server(SUCCESS) as (port, heard):
        session = XmppSession("bob", "secret", "localhost")
        session.on_message = lambda sender, body: got.set_result((sender, body))
        await session.open("127.0.0.1", port)
        async with asyncio.timeout(30):
            assert await got == ("ann@localhost", "1 < 2 & ü")
        session.leave()
    token = base64.b64encode(b"\0bob\0secret").decode()
    assert f"mechanism='PLAIN'>{token}</auth>" in heard[1]


async def test_a_session_that_may_not_log_in_says_so() -> None:
    async with server(FAILURE) as (port, _):
        session = XmppSession("bob", "wrong", "localhost")
        with pytest.raises(XmppFailed, match=r"bob may not log in: .*not-authorized"):
            await session.open("127.0.0.1", port)
        session.leave()


def test_ratios_are_ours_over_theirs() -> None:
    mine, other = Measured(200, 2, 4, 0.5, 0.1), Measured(100, 4, 8, 1.0, 0.1)
    assert ratios({"a": mine}, {"a": other}) == {
        "a": {"delivered_per_s": 2, "p50_ms": 0.5, "p99_ms": 0.5, "cpu_s_per_1000": 0.5}
    }


def test_without_the_package_only_ours_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ejabberd, "PROGRAM", str(tmp_path / "none"))
    absent = ejabberd.missing()
    assert absent is not None
    assert "apt-get install ejabberd" in absent
    loads = loads_of(1, 1, 1, 40, 1, 0)
    mine = {"figures": {"1x1": Measured(1, 1, 1, 1, 1)}, "settings": {}}
    result = result_of(loads, mine, None, absent)
    assert result.figures["ejabberd"] is None
    assert "nothing to compare with" in result.lines[-1]


def test_what_cannot_be_is_refused_before_anything_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", "--rate", "0"],
        capture_output=True, text=True, check=False, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "--rate" in done.stderr
