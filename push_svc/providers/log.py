"""Provider `log`: notifications become lines of this server's log. For development.

What it "sent" is also in the record of pushes, with its text. Not offered unless the mesh is an
embedded one or the settings name it: texts of people do not belong into logs.
"""

from chatmesh.runtime.logs import logger
from push_svc.decide import Binding
from push_svc.providers import BadToken, Outcome, Sent
from push_svc.render import Notification

_log = logger(__name__)


class LogProvider:
    """Writes notifications down."""

    name = "log"
    shows_silent = True

    async def check_token(self, token: str, app: str) -> None:
        """Any token will do, but it must say something."""
        if not token:
            raise BadToken("the token is empty")

    async def send(self, notification: Notification, binding: Binding) -> Outcome:
        """Write one line."""
        _log.info(
            "notification" if notification.visible else "silent notification",
            title=notification.title,
            body=notification.body,
            badge=notification.badge,
            key=notification.key,
            data=notification.data,
        )
        return Sent()

    async def close(self) -> None:
        """Nothing is open."""
