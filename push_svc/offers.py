"""The registry of providers: which ones a deployment's settings make available.

A provider that is not configured is not there: a token for it is refused, never taken and lost.
"""

from collections.abc import Callable, Mapping
from typing import Final

from chatmesh.runtime.errors import StartupError
from push_svc.decide import Provider
from push_svc.providers import Provider as ProviderPort
from push_svc.providers.log import LogProvider
from push_svc.settings import PushSettings

_NUMBERS: Final[Mapping[str, Provider]] = {
    "fcm": Provider.FCM,
    "apns": Provider.APNS,
    "web_push": Provider.WEB_PUSH,
    "webhook": Provider.WEBHOOK,
    "log": Provider.LOG,
}


def offered(settings: PushSettings) -> dict[int, ProviderPort]:
    """The providers of a deployment, by their number in the contract.

    Raises StartupError when one is named that is not configured, or a key cannot be used.
    """
    named = settings.push_providers
    makers = _configured(settings)
    missing = [name for name in named or () if name not in makers]
    if missing:
        raise StartupError(
            f"CHATMESH_PUSH_PROVIDERS names {', '.join(missing)}, which is not configured: see "
            "the settings CHATMESH_PUSH_FCM_…, _APNS_…, _VAPID_… and _WEBHOOK_…"
        )
    chosen = makers if named is None else {name: makers[name] for name in named}
    try:
        return {int(_NUMBERS[name]): make(settings) for name, make in chosen.items()}
    except ImportError:
        raise StartupError(
            "push providers need the extra `push`: pip install 'chatmesh[push]'"
        ) from None


def _configured(settings: PushSettings) -> dict[str, Callable[[PushSettings], ProviderPort]]:
    makers: dict[str, Callable[[PushSettings], ProviderPort]] = {}
    if settings.push_fcm_account is not None:
        makers["fcm"] = _fcm
    if settings.push_apns_key is not None:
        makers["apns"] = _apns
    if settings.push_vapid_key is not None:
        makers["web_push"] = _web_push
    if settings.push_webhook_secrets:
        makers["webhook"] = _webhook
    if settings.embedded or "log" in (settings.push_providers or ()):
        makers["log"] = lambda _settings: LogProvider()
    return makers


def _fcm(settings: PushSettings) -> ProviderPort:
    from push_svc.providers.fcm import FcmProvider
    from push_svc.providers.http import KnownHost

    account = settings.push_fcm_account
    host = KnownHost(timeout_seconds=settings.push_send_seconds, ca=settings.push_extra_ca)
    try:
        return FcmProvider(
            account.get_secret_value() if account else "", settings.push_fcm_url, host
        )
    except ValueError as error:
        raise StartupError(f"CHATMESH_PUSH_FCM_ACCOUNT: {error}") from None


def _apns(settings: PushSettings) -> ProviderPort:
    from push_svc.providers.apns import ApnsProvider
    from push_svc.providers.http import KnownHost

    key = settings.push_apns_key
    host = KnownHost(timeout_seconds=settings.push_send_seconds, ca=settings.push_extra_ca)
    try:
        return ApnsProvider(
            key.get_secret_value() if key else "",
            settings.push_apns_key_id,
            settings.push_apns_team_id,
            settings.push_apns_url,
            host,
        )
    except ValueError:
        raise StartupError("CHATMESH_PUSH_APNS_KEY: not the text of a .p8 file") from None


def _web_push(settings: PushSettings) -> ProviderPort:
    from push_svc.providers.egress import Egress
    from push_svc.providers.http import NamedHosts
    from push_svc.providers.web_push import WebPushProvider, vapid_key

    key = settings.push_vapid_key
    hosts = NamedHosts(
        Egress(networks=settings.push_webhook_networks),
        timeout_seconds=settings.push_send_seconds,
        ca=settings.push_extra_ca,
    )
    try:
        private = vapid_key(key.get_secret_value() if key else "")
    except ValueError as error:
        raise StartupError(f"CHATMESH_PUSH_VAPID_KEY: {error}") from None
    return WebPushProvider(private, settings.push_vapid_subject, hosts)


def _webhook(settings: PushSettings) -> ProviderPort:
    from push_svc.providers.egress import Egress
    from push_svc.providers.http import NamedHosts
    from push_svc.providers.webhook import WebhookProvider

    hosts = NamedHosts(
        Egress(settings.push_webhook_hosts, settings.push_webhook_networks),
        timeout_seconds=settings.push_send_seconds,
        ca=settings.push_extra_ca,
    )
    return WebhookProvider(
        [secret.get_secret_value() for secret in settings.push_webhook_secrets], hosts
    )
