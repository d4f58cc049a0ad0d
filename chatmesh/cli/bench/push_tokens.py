"""Devices with a push token: made once, signed in by nobody afterwards.

Role: opens a device's session once, so that it exists, binds a token of the provider `log` to it
(push_svc writes what it would tell; nothing leaves the machine) and leaves, or stays.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

from chatmesh.cli.bench.device import Device, DeviceFailed
from chatmesh.cli.bench.h2 import connect
from chatmesh.cli.bench.plan import DevicePlan
from chatmesh.v1 import devices_pb2

REGISTER_PATH: Final = "/chatmesh.v1.DeviceService/RegisterPushToken"
APP: Final = "chatmesh-bench"


async def bind(plan: DevicePlan, tls: ssl.SSLContext | None) -> None:
    """Bind a token to a device that exists. Raises DeviceFailed, OSError."""
    token = devices_pb2.PushToken(
        device_id=plan.device_id,
        provider=devices_pb2.PUSH_PROVIDER_LOG,
        token=f"bench {plan.user} {plan.device_id}",
        app=APP,
    )
    request = devices_pb2.RegisterPushTokenRequest(token=token).SerializeToString()
    connection = await connect(plan.target, tls)
    try:
        metadata = [("authorization", f"Bearer {plan.token}")]
        _, ended = await connection.call(REGISTER_PATH, metadata, [request])
    finally:
        connection.close()
    if ended.code:
        raise DeviceFailed(
            f"no push token for {plan.user}: gRPC status {ended.code} {ended.message!r}"
        )


async def make_away(
    plan: DevicePlan, tls: ssl.SSLContext | None, on_failure: Callable[[str], None]
) -> None:
    """A device that was here once and can be pushed since. Raises DeviceFailed, OSError."""
    device = Device(plan, on_failure)
    await device.open(tls)
    await bind(plan, tls)
    await device.leave()
