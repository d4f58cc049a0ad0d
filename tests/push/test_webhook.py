"""Webhooks against a real HTTPS server: signatures, outcomes, and where none may go."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from push_svc.decide import Provider
from push_svc.providers import BadToken, Gone, Outcome, Refused, Retry, Sent
from push_svc.providers.egress import MAX_URL_BYTES, Egress, Unresolvable, embedded_v4
from push_svc.providers.http import NamedHosts
from push_svc.providers.retry_after import seconds_of
from push_svc.providers.webhook import (
    WebhookProvider,
    judge,
    secret_bytes,
    signature,
)
from push_svc.render import Notification
from tests.push import hooks
from tests.push.hooks import BackEnd
from tests.push.parts import binding

OLD, NEW = "o" * 32, "whsec_" + base64.b64encode(b"n" * 32).decode()
NOTE = Notification("key-1", "collapse-1", True, "bob", "héllo", 3, True, 60, {"kind": "message"})
LOCAL = Egress(networks=("127.0.0.0/8", "::1/128"))


@pytest.fixture
async def provider(back_end: BackEnd) -> AsyncIterator[WebhookProvider]:
    made = WebhookProvider([NEW, OLD], NamedHosts(LOCAL, timeout_seconds=1, ca=back_end.ca))
    yield made
    await made.close()


async def send(provider: WebhookProvider, url: str) -> Outcome:
    return await provider.send(NOTE, binding(provider=Provider.WEBHOOK, token=url))


async def test_a_signed_request(provider: WebhookProvider, back_end: BackEnd) -> None:
    await provider.check_token(back_end.url("/a/b?user=7"), "")
    assert await send(provider, back_end.url("/a/b?user=7")) == Sent()
    (request,) = back_end.requests
    assert request.path == "/a/b"
    assert request.headers["host"] == f"localhost:{back_end.port}"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {
        "id": "key-1",
        "visible": True,
        "title": "bob",
        "body": "héllo",
        "badge": 3,
        "collapse_key": "collapse-1",
        "high_priority": True,
        "ttl_seconds": 60,
        "data": {"kind": "message"},
    }
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    signed = b".".join(
        (
            request.headers["webhook-id"].encode(),
            request.headers["webhook-timestamp"].encode(),
            request.body,
        )
    )
    for key, given in zip(
        (b"n" * 32, b"o" * 32), request.headers["webhook-signature"].split(" "), strict=True
    ):
        wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert given == "v1," + wanted


def test_the_vector_of_standard_webhooks() -> None:
    """From the specification's reference libraries."""
    secret = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    given = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
    assert given == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (204, {}, Sent()),
        (410, {}, Gone("410 Gone")),
        (404, {}, Refused("HTTP 404")),
        (400, {}, Refused("HTTP 400")),
        (301, {"location": "http://169.254.169.254/"}, Refused("HTTP 301")),
        (307, {"location": "https://example.com/"}, Refused("HTTP 307")),
        (429, {"retry-after": "17"}, Retry("HTTP 429", 17, provider_failed=False)),
        (503, {}, Retry("HTTP 503")),
        (500, {"retry-after": "nonsense"}, Retry("HTTP 500")),
    ],
)
async def test_outcomes(
    provider: WebhookProvider,
    back_end: BackEnd,
    status: int,
    headers: dict[str, str],
    outcome: Outcome,
) -> None:
    back_end.answers = [(status, headers)]
    assert await send(provider, back_end.url()) == outcome
    assert len(back_end.requests) == 1, "redirects are not followed"


async def test_no_answer_is_tried_again(provider: WebhookProvider, back_end: BackEnd) -> None:
    back_end.answers = [(hooks.HANG, {})]
    assert await send(provider, back_end.url()) == Retry("no answer in time")
    assert isinstance(await send(provider, "https://localhost:1/"), Retry)
    assert isinstance(await send(provider, "https://no-such-host.invalid/"), Retry)


async def test_a_certificate_of_somebody_else_is_not_believed(
    provider: WebhookProvider, back_end: BackEnd
) -> None:
    stranger = WebhookProvider([OLD], NamedHosts(LOCAL, timeout_seconds=5))
    assert isinstance(await send(stranger, back_end.url()), Retry)
    await stranger.close()
    # the address has a certificate for localhost, but the URL names 127.0.0.2
    assert isinstance(await send(provider, f"https://127.0.0.2:{back_end.port}/"), Retry)
    assert back_end.requests == []


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "255.255.255.255", "224.0.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1",  # noqa: S104
    "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
    "2002:7f00:1::", "::127.0.0.1", "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "fec0::1", "64:ff9b:1::a00:1", "::ffff:0:7f00:1", "3fff::1", "5f00::1", "192.88.99.1",
    "192.0.0.8",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_in_every_form(address: str) -> None:
    assert not Egress().allows(ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_public_addresses(address: str) -> None:
    assert Egress().allows(ip_address(address))


def test_named_networks_are_allowed_in_every_form() -> None:
    egress = Egress(networks=("10.9.0.0/16",))
    assert egress.allows(ip_address("10.9.1.1"))
    assert egress.allows(ip_address("::ffff:10.9.1.1"))
    assert not egress.allows(ip_address("10.8.1.1"))
    assert str(embedded_v4(ip_address("::ffff:10.9.1.1"))) == "10.9.1.1"
    assert embedded_v4(ip_address("::1")) is None


BAD_URLS = [
    "", "http://example.com/", "ftp://example.com/", "https://", "https:///path", "example.com",
    "https://user@example.com/", "https://user:pass@example.com/", "https://example.com/#x",
    "https://example.com:99999/", "https://exa mple.com/", "https://example.com/\r\nx: y",
    "https://[::1/", "https://exämple.com/", "https://a\\@b/", "javascript:alert(1)",
    "https://example.com/" + "x" * MAX_URL_BYTES,
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(BadToken) as refused:
        Egress().parse(url)
    assert len(url) < 8 or url not in str(refused.value)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]",
             "[::ffff:127.0.0.1]", "localhost."],
)  # fmt: skip
async def test_hosts_that_lead_inside(host: str) -> None:
    egress = Egress()
    with pytest.raises((BadToken, Unresolvable)):
        await egress.resolve(egress.parse(f"https://{host}/"))
    provider = WebhookProvider([OLD], NamedHosts(egress, timeout_seconds=1))
    with pytest.raises(BadToken):
        await provider.check_token(f"https://{host}/", "")
    assert not isinstance(await send(provider, f"https://{host}/"), Sent)
    await provider.close()


def test_only_named_hosts() -> None:
    egress = Egress(hosts=("Hooks.Example.com",))
    assert egress.parse("https://hooks.example.com:8443/x?y=1").authority == (
        "hooks.example.com:8443"
    )
    with pytest.raises(BadToken):
        egress.parse("https://other.example.com/")


def test_retry_after() -> None:
    assert seconds_of("120") == 120
    assert seconds_of(None) is None
    assert seconds_of("-5") is None
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert judge(200, None) == Sent()
