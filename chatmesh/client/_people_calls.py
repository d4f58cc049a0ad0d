"""Contacts, privacy, devices and push by unary calls. Part of `Client`."""

from __future__ import annotations

from typing import Final, cast

from chatmesh.client import _people as p
from chatmesh.client._caller import Caller
from chatmesh.client._convert import enum_of, presence
from chatmesh.client._values import DeviceKind, MuteLevel, Presence
from chatmesh.v1 import contacts_pb2 as contacts
from chatmesh.v1 import devices_pb2 as devices
from chatmesh.v1.types_pb2 import MuteLevel as MuteNumber

_CONTACTS: Final = "ContactService"
_DEVICES: Final = "DeviceService"


class PeopleCalls(Caller):
    """Calls of ContactService and DeviceService. All raise exceptions of
    `chatmesh.client.errors`."""

    @property
    def device_id(self) -> str:
        """This device; empty until the server has named it."""
        raise NotImplementedError

    # -- contacts ----------------------------------------------------------------------------------

    async def contacts(self, state: p.ContactState = p.ContactState.UNKNOWN) -> list[p.Contact]:
        """The user's contacts, by user id; UNKNOWN = all but blocked."""
        found: list[p.Contact] = []
        page_token = ""
        while True:
            request = contacts.ListContactsRequest(
                state=cast("contacts.ContactState.ValueType", int(state)),
                page_size=1000, page_token=page_token,
            )  # fmt: skip
            answer: contacts.ListContactsResponse = await self._call(
                _CONTACTS, "ListContacts", request, contacts.ListContactsResponse
            )
            found += [_contact(one) for one in answer.contacts]
            page_token = answer.next_page_token
            if not page_token:
                return found

    async def update_contact(self, user_id: str, action: p.ContactAction) -> p.Contact | None:
        """Request, accept, decline, remove, block or unblock; None: no relation is left."""
        request = contacts.UpdateContactRequest(
            idempotency_key=self._new_key(),
            user_id=user_id,
            action=cast("contacts.UpdateContactRequest.Action.ValueType", int(action)),
        )
        answer: contacts.UpdateContactResponse = await self._call(
            _CONTACTS, "UpdateContact", request, contacts.UpdateContactResponse
        )
        return _contact(answer.contact) if answer.HasField("contact") else None

    async def block(self, user_id: str) -> None:
        """Block a user; they are not told."""
        await self.update_contact(user_id, p.ContactAction.BLOCK)

    async def unblock(self, user_id: str) -> None:
        """Unblock a user."""
        await self.update_contact(user_id, p.ContactAction.UNBLOCK)

    async def privacy(self, change: p.Privacy | None = None) -> p.Privacy:
        """Read, or change and read, who sees what of the user."""
        asked = change or p.Privacy()
        request = contacts.UpdatePrivacyRequest(
            privacy=contacts.PrivacySettings(
                presence=_audience(asked.presence),
                last_seen=_audience(asked.last_seen),
                typing=_audience(asked.typing),
                read_receipts=_audience(asked.read_receipts),
            )
        )
        answer: contacts.UpdatePrivacyResponse = await self._call(
            _CONTACTS, "UpdatePrivacy", request, contacts.UpdatePrivacyResponse
        )
        now = answer.privacy
        return p.Privacy(
            enum_of(p.Audience, now.presence), enum_of(p.Audience, now.last_seen),
            enum_of(p.Audience, now.typing), enum_of(p.Audience, now.read_receipts),
        )  # fmt: skip

    async def presence_of(self, *user_ids: str) -> list[Presence]:
        """Presence of 1 to 200 users, without watching them."""
        answer: contacts.GetPresenceResponse = await self._call(
            _CONTACTS, "GetPresence", contacts.GetPresenceRequest(user_ids=user_ids),
            contacts.GetPresenceResponse,
        )  # fmt: skip
        return [presence(one) for one in answer.presence]

    # -- devices -----------------------------------------------------------------------------------

    async def devices(self) -> list[p.Device]:
        """The user's devices, newest session first."""
        answer: devices.ListDevicesResponse = await self._call(
            _DEVICES, "ListDevices", devices.ListDevicesRequest(), devices.ListDevicesResponse
        )
        return [
            p.Device(
                one.device_id,
                enum_of(DeviceKind, one.kind),
                one.name,
                one.seen_at_ms,
                one.acked_timeline_seq,
                enum_of(p.PushProvider, one.push_provider),
                one.online,
            )
            for one in answer.devices
        ]

    async def register_push_token(
        self,
        provider: p.PushProvider,
        token: str,
        *,
        app: str = "",
        locale: str = "",
        privacy: p.PushPrivacy = p.PushPrivacy.DEFAULT,
        device_id: str = "",
    ) -> None:
        """Bind a push token to this device (or to another one of the user)."""
        bound = devices.PushToken(
            device_id=device_id or self.device_id,
            provider=cast("devices.PushProvider.ValueType", int(provider)),
            token=token, app=app, locale=locale,
            privacy=cast("devices.PushPrivacy.ValueType", int(privacy)),
        )  # fmt: skip
        await self._call(
            _DEVICES, "RegisterPushToken", devices.RegisterPushTokenRequest(token=bound),
            devices.RegisterPushTokenResponse,
        )  # fmt: skip

    async def unregister_push_token(self, device_id: str = "") -> None:
        """End the binding of this device (or of another one of the user)."""
        request = devices.UnregisterPushTokenRequest(device_id=device_id or self.device_id)
        await self._call(
            _DEVICES, "UnregisterPushToken", request, devices.UnregisterPushTokenResponse
        )

    async def sign_out(self, device_id: str | None = None, *, everywhere: bool = False) -> int:
        """Forget this device, another one, or all; how many were forgotten.

        Signing out the own device ends this client with DeviceRefused.
        """
        request = devices.SignOutRequest()
        if everywhere:
            request.all = True
        else:
            request.device_id = device_id or self.device_id
        answer: devices.SignOutResponse = await self._call(
            _DEVICES, "SignOut", request, devices.SignOutResponse
        )
        return answer.devices

    async def notification_settings(
        self,
        *,
        mute: MuteLevel = MuteLevel.UNCHANGED,
        quiet_start_minute: int | None = None,
        quiet_end_minute: int | None = None,
        time_zone: str = "",
    ) -> p.NotificationSettings:
        """Read, or change and read, how loud the account is."""
        request = devices.UpdateNotificationSettingsRequest(
            mute=cast("MuteNumber.ValueType", int(mute)), time_zone=time_zone
        )
        if quiet_start_minute is not None:
            request.quiet_start_minute = quiet_start_minute
        if quiet_end_minute is not None:
            request.quiet_end_minute = quiet_end_minute
        now: devices.UpdateNotificationSettingsResponse = await self._call(
            _DEVICES, "UpdateNotificationSettings", request,
            devices.UpdateNotificationSettingsResponse,
        )  # fmt: skip
        return p.NotificationSettings(
            enum_of(MuteLevel, now.mute), now.quiet_start_minute, now.quiet_end_minute,
            now.time_zone,
        )  # fmt: skip


def _contact(message: contacts.Contact) -> p.Contact:
    return p.Contact(message.user_id, enum_of(p.ContactState, message.state), message.changed_at_ms)


def _audience(value: p.Audience) -> contacts.Audience.ValueType:
    return cast("contacts.Audience.ValueType", int(value))
