"""Settings of push_svc: stores, the chat nodes it asks, providers, privacy, delays."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from chatmesh.runtime.settings import ServerSettings, Target, check_readable, rule
from push_svc.decide import Privacy, Provider
from push_svc.policies import MAX_RULES, PolicyRule, unreachable

ProviderName = Literal["log", "webhook", "web_push", "apns", "fcm"]
PrivacyName = Literal["id", "sender", "full"]


def _https(url: str) -> str:
    if not url.startswith("https://"):
        raise ValueError("must be an https:// URL")
    return url


HttpsUrl = Annotated[str, AfterValidator(_https)]

PRIVACY: Final = {"id": Privacy.ID_ONLY, "sender": Privacy.SENDER, "full": Privacy.FULL}
MIN_SECRET_BYTES: Final = 32


class PushSettings(ServerSettings):
    """Environment: CHATMESH_<FIELD>."""

    postgres_url: SecretStr
    """postgresql:// URL of the database."""

    chat_target: Target = "127.0.0.1:7031"
    """gRPC target of the chat nodes' mesh listeners; any of them answers for any device."""

    embedded: bool = False
    """true in an embedded mesh on one machine: allows the provider `log`."""

    push_providers: tuple[ProviderName, ...] | None = None
    """JSON list of providers to offer; none: all that are configured, `log` only with
    CHATMESH_EMBEDDED=true (it writes texts of messages into a log)."""

    push_privacy: PrivacyName = "id"
    """What notifications show where a device asked for nothing: id, sender or full."""

    push_log_privacy: PrivacyName = "full"
    """The same for provider `log`, which shows it to nobody outside."""

    push_policies: tuple[PolicyRule, ...] = ()
    """JSON list of rules {"tenant", "device_kind", "policy"}, the first that fits counts: ack (the
    default: what a device has not acked), always (also while another device is active), mentions,
    none. Without tenant or device_kind a rule fits every one."""

    push_active_delay_seconds: float = Field(default=5, ge=2, le=300)
    """How long a push waits while another device of the user is active."""

    push_summary_over: int = Field(default=3, ge=1, le=5)
    """More new messages than this are told by their number alone."""

    push_ttl_seconds: int = Field(default=86_400, ge=0, le=2_419_200)
    """How long a provider keeps a notification for a device that is away; at most 28 days."""

    push_claim_seconds: float = Field(default=20, ge=1, le=600)
    """After this the jobs of a push_svc that died are taken by others."""

    push_send_seconds: float = Field(default=10, gt=0, le=120)
    """Deadline of one request to a provider; below push_claim_seconds."""

    push_give_up_seconds: float = Field(default=86_400, ge=60, le=2_419_200)
    """A job that could not be delivered for this long becomes a dead letter."""

    push_log_days: int = Field(default=7, ge=1, le=366)
    """How long the record of pushes is kept."""

    push_webhook_secrets: tuple[SecretStr, ...] = ()
    """JSON list of one or two secrets of at least 32 bytes that sign webhooks; two while they are
    rotated, the newer one first. None: no webhooks."""

    push_webhook_hosts: tuple[str, ...] = ()
    """JSON list of the only host names that webhooks may go to; empty: any public one."""

    push_webhook_networks: tuple[str, ...] = ()
    """JSON list of private networks (CIDR) that webhooks may go to all the same."""

    push_vapid_key: SecretStr | None = None
    """Private key of Web Push (VAPID): PEM, or 32 bytes in base64url. None: no Web Push."""

    push_vapid_subject: str = ""
    """mailto: or https: URL where push services reach you; needed for Web Push."""

    push_apns_key: SecretStr | None = None
    """Text of the .p8 file of an APNs authentication key. None: no APNs."""

    push_apns_key_id: str = ""
    """Key ID of that key, 10 characters."""

    push_apns_team_id: str = ""
    """Team ID of the developer account, 10 characters."""

    push_apns_url: HttpsUrl = "https://api.push.apple.com"
    """https://api.sandbox.push.apple.com for development builds."""

    push_fcm_account: SecretStr | None = None
    """JSON of a Firebase service account's key. None: no FCM."""

    push_fcm_url: HttpsUrl = "https://fcm.googleapis.com"
    """Where FCM's HTTP v1 API is."""

    push_extra_ca: Path | None = None
    """PEM file of an authority to trust besides the public ones when calling providers."""

    @field_validator("push_extra_ca")
    @classmethod
    def _ca_readable(cls, path: Path | None) -> Path | None:
        return check_readable(path)

    @field_validator("push_webhook_networks")
    @classmethod
    def _networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            ip_network(value)
        return values

    @field_validator("push_webhook_secrets")
    @classmethod
    def _secrets(cls, values: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if len(values) > 2:
            raise ValueError("at most two secrets: the new one and the one it replaces")
        if any(len(value.get_secret_value().encode()) < MIN_SECRET_BYTES for value in values):
            raise ValueError(f"a secret has at least {MIN_SECRET_BYTES} bytes")
        return values

    @field_validator("push_policies")
    @classmethod
    def _policies(cls, values: tuple[PolicyRule, ...]) -> tuple[PolicyRule, ...]:
        if len(values) > MAX_RULES:
            raise ValueError(f"at most {MAX_RULES} rules")
        if hidden := unreachable(values):
            raise ValueError(f"rule {hidden[0]} is never reached: an earlier one fits all of its")
        return values

    @rule("push_vapid_key", "push_vapid_subject")
    def _vapid(self) -> None:
        if self.push_vapid_key is not None and not self.push_vapid_subject.startswith(
            ("mailto:", "https:")
        ):
            raise ValueError(
                "CHATMESH_PUSH_VAPID_SUBJECT must be a mailto: or https: URL: push services write "
                "there when something is wrong"
            )

    @rule("push_apns_key", "push_apns_key_id", "push_apns_team_id")
    def _apns(self) -> None:
        if self.push_apns_key is not None and not (
            self.push_apns_key_id and self.push_apns_team_id
        ):
            raise ValueError("CHATMESH_PUSH_APNS_KEY needs CHATMESH_PUSH_APNS_KEY_ID and _TEAM_ID")

    @rule("push_claim_seconds", "push_send_seconds")
    def _claims(self) -> None:
        if self.push_claim_seconds <= self.push_send_seconds:
            raise ValueError(
                "CHATMESH_PUSH_CLAIM_SECONDS must be above CHATMESH_PUSH_SEND_SECONDS: a job must "
                "not be taken by another replica while its request is still under way"
            )

    def default_privacy(self, provider: int) -> Privacy:
        """What applies to a device that asked for nothing."""
        is_log = provider == Provider.LOG
        return PRIVACY[self.push_log_privacy if is_log else self.push_privacy]
