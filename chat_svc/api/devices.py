"""DeviceService: check, convert, call, convert. No rule lives here.

Nobody acts for somebody else here: a back end cannot bind a push token to a user.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

import grpc

from chat_svc.api import checks
from chat_svc.api.callers import Caller
from chat_svc.api.parts import Context, UnaryParts, caller_of, tell_self
from chat_svc.api.storeless import outlives_the_store
from chat_svc.core.audit import AuditAction, Note
from chat_svc.core.quiet import MINUTES_PER_DAY, zone_of
from chat_svc.store.accounts import NotificationSettings
from chatmesh import errors
from chatmesh.mesh.v1.push_pb2 import (
    DeleteTokensRequest,
    ListTokensRequest,
    PutTokenRequest,
)
from chatmesh.runtime import faults
from chatmesh.runtime.logs import logger
from chatmesh.v1 import devices_pb2 as pb
from chatmesh.v1.devices_pb2_grpc import DeviceServiceServicer
from chatmesh.v1.types_pb2 import DeviceKind, MuteLevel

MAX_PUSH_TOKEN_BYTES: Final = 4_096
MAX_APP_BYTES: Final = 255
MAX_LOCALE_BYTES: Final = 35
"""Longest tag that RFC 5646 section 4.4.1 asks to make room for."""
MAX_ZONE_BYTES: Final = 64

T = TypeVar("T")
_log = logger(__name__)


@outlives_the_store
class DeviceApi(DeviceServiceServicer):
    """Devices and how push reaches them."""

    def __init__(self, parts: UnaryParts) -> None:
        self._parts = parts
        self._devices = parts.store.devices

    async def RegisterPushToken(
        self, request: pb.RegisterPushTokenRequest, context: Context
    ) -> pb.RegisterPushTokenResponse:
        """Binds a token to a device of the caller."""
        who = await caller_of(self._parts, context, may_act=False)
        token = _token(request.token)
        if not await self._devices.has_device(who.account.id, token.device_id):
            raise errors.DEVICE_UNKNOWN()
        put = PutTokenRequest(account_id=who.account.id, token=token)
        answer = await _asked(self._parts.push.PutToken(put))
        await self._devices.set_push_devices(who.account.id, answer.push_devices)
        if answer.moved_from_account_id not in (0, who.account.id):
            await self._devices.set_push_devices(
                answer.moved_from_account_id, answer.moved_from_push_devices
            )
            await self._record(who, "RegisterPushToken token moved from another user")
        else:
            await self._record(who, "RegisterPushToken")
        return pb.RegisterPushTokenResponse()

    async def UnregisterPushToken(
        self, request: pb.UnregisterPushTokenRequest, context: Context
    ) -> pb.UnregisterPushTokenResponse:
        """Unbinds; also when there was none."""
        who = await caller_of(self._parts, context, may_act=False)
        device_id = checks.device_id(request.device_id)
        await self._delete_tokens(who.account.id, [device_id])
        await self._record(who, "UnregisterPushToken")
        return pb.UnregisterPushTokenResponse()

    async def ListDevices(
        self, request: pb.ListDevicesRequest, context: Context
    ) -> pb.ListDevicesResponse:
        """The caller's devices, newest session first."""
        who = await caller_of(self._parts, context, may_act=False)
        rows = await self._devices.list_devices(who.account.id)
        asked = ListTokensRequest(account_id=who.account.id)
        tokens = (await _asked(self._parts.push.ListTokens(asked))).tokens if rows else ()
        providers = {token.device_id: token.provider for token in tokens}
        return pb.ListDevicesResponse(
            devices=[
                pb.Device(
                    device_id=row.device_id,
                    kind=DeviceKind.ValueType(row.kind),
                    name=row.name,
                    seen_at_ms=row.seen_at_ms,
                    acked_timeline_seq=row.acked_seq,
                    push_provider=providers.get(
                        row.device_id, pb.PushProvider.PUSH_PROVIDER_UNSPECIFIED
                    ),
                    online=row.session_node > 0,
                )
                for row in rows
            ]
        )

    async def SignOut(self, request: pb.SignOutRequest, context: Context) -> pb.SignOutResponse:
        """Forgets devices. From the row's end on nothing of their sessions is honoured; ending
        the sessions and the tokens only makes it visible, so a peer that is away delays nothing."""
        parts = self._parts
        who = await caller_of(parts, context, may_act=False)
        if request.WhichOneof("which") == "device_id":
            wanted = [checks.device_id(request.device_id)]
        elif request.all:
            wanted = None
        else:
            raise errors.INVALID_FIELD("name a device, or all", field="which")
        gone = await self._devices.sign_out(who.account.id, wanted)
        if wanted is not None and not gone:
            raise errors.DEVICE_UNKNOWN()
        if gone:
            await self._record(who, f"SignOut devices={len(gone)}")
            await parts.end_sessions(who.account.id, gone)
            try:
                await self._delete_tokens(who.account.id, [device.device_id for device in gone])
            except faults.Fault as fault:
                # push asks for the device's state before it fires, and learns that it is gone
                _log.warning("push tokens of a signed-out device remain", reason=fault.reason)
            await tell_self(parts, who, "devices", "signed_out")
        return pb.SignOutResponse(devices=len(gone))

    async def UpdateNotificationSettings(
        self, request: pb.UpdateNotificationSettingsRequest, context: Context
    ) -> pb.UpdateNotificationSettingsResponse:
        """Reads, or sets what is set."""
        parts = self._parts
        who = await caller_of(parts, context, may_act=False)
        accounts = parts.store.accounts
        before = await accounts.notification_settings(who.account.id)
        wanted = _settings(request, before)
        if wanted != before:
            await accounts.set_notification_settings(who.account.id, wanted)
            await parts.tell_account(who.account.id)
            await tell_self(parts, who, "mutes", "updated")
        return pb.UpdateNotificationSettingsResponse(
            mute=MuteLevel.ValueType(wanted.mute),
            quiet_start_minute=wanted.quiet_start_minute,
            quiet_end_minute=wanted.quiet_end_minute,
            time_zone=wanted.time_zone,
        )

    async def _record(self, who: Caller, detail: str) -> None:
        """Which device stays out of the log: it is the user's, and goes when the user does."""
        note = Note(AuditAction.DEVICE, who.actor, who.user, detail=detail)
        await self._parts.record(who.account.tenant_id, note)

    async def _delete_tokens(self, account: int, device_ids: list[str]) -> None:
        request = DeleteTokensRequest(account_id=account, device_ids=device_ids)
        answer = await _asked(self._parts.push.DeleteTokens(request))
        await self._devices.set_push_devices(account, answer.push_devices)


async def _asked(call: Awaitable[T]) -> T:
    """The answer of push_svc; its refusal is passed on as its own reason."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise faults.from_rpc_error(error) from None


def _token(token: pb.PushToken) -> pb.PushToken:
    """The token rebuilt field by field: nothing unknown goes on.

    Raises:
        Fault: BAD_DEVICE_ID, PROVIDER_UNKNOWN, PUSH_TOKEN_INVALID, INVALID_FIELD.
    """
    checks.device_id(token.device_id)
    if not token.provider or token.provider not in pb.PushProvider.values():
        raise errors.PROVIDER_UNKNOWN()
    if not 0 < len(token.token.encode()) <= MAX_PUSH_TOKEN_BYTES or "\0" in token.token:
        raise errors.PUSH_TOKEN_INVALID()
    for field, most in (("app", MAX_APP_BYTES), ("locale", MAX_LOCALE_BYTES)):
        text = getattr(token, field)
        if len(text.encode()) > most or "\0" in text:
            raise errors.INVALID_FIELD(field=f"token.{field}")
    if token.privacy not in pb.PushPrivacy.values():
        raise errors.INVALID_FIELD(field="token.privacy")
    return pb.PushToken(
        device_id=token.device_id,
        provider=token.provider,
        token=token.token,
        app=token.app,
        locale=token.locale,
        privacy=token.privacy,
    )


def _settings(
    request: pb.UpdateNotificationSettingsRequest, before: NotificationSettings
) -> NotificationSettings:
    """Raises Fault: INVALID_FIELD."""
    if request.mute not in MuteLevel.values():
        raise errors.INVALID_FIELD(field="mute")
    start, end, zone = before.quiet_start_minute, before.quiet_end_minute, before.time_zone
    if request.HasField("quiet_start_minute") or request.HasField("quiet_end_minute"):
        zone = request.time_zone
        start = request.quiet_start_minute if request.HasField("quiet_start_minute") else start
        end = request.quiet_end_minute if request.HasField("quiet_end_minute") else end
    elif request.time_zone:
        zone = request.time_zone
    for field, minute in (("quiet_start_minute", start), ("quiet_end_minute", end)):
        if not 0 <= minute < MINUTES_PER_DAY:
            raise errors.INVALID_FIELD("a minute of the day is 0 to 1,439", field=field)
    if len(zone) > MAX_ZONE_BYTES or zone_of(zone) is None:
        raise errors.INVALID_FIELD("there is no such time zone", field="time_zone")
    return NotificationSettings(request.mute or before.mute, start, end, zone)
