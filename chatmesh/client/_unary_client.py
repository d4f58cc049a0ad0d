"""A client without a session: for back ends, bots and scripts that send and read, and receive
nothing by themselves.

Rules: no device, no store, no background task; every call stands alone. A call that a server left
unanswered is made again a few times under the same keys, at each target in turn; then it raises
Unavailable.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from chatmesh.client import _content as c
from chatmesh.client import _convert as convert
from chatmesh.client import _values as v
from chatmesh.client._conversation_calls import ConversationCalls
from chatmesh.client._keys import ServerTime
from chatmesh.client._people_calls import PeopleCalls
from chatmesh.client._problem import from_problem, with_advice
from chatmesh.client._tokens import TokenProvider, Tokens, subject
from chatmesh.client._transport import Tls, Transport
from chatmesh.client._user_calls import UserCalls
from chatmesh.client.errors import ChatmeshError
from chatmesh.runtime.clock import Clock, SystemClock
from chatmesh.v1 import session_pb2 as pb

BATCH_MESSAGES: Final = 100
"""Messages in one call: the default of `Limits.max_send_batch`."""


class UnaryClient(ConversationCalls, PeopleCalls, UserCalls):
    """Sends and reads by unary calls only. Use it as an async context manager.

    async with UnaryClient("127.0.0.1:7030", token=token) as back_end:
        await back_end.send(c.Message(Text("hello"), to_user="bob"))
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | TokenProvider,
        on_behalf_of: str = "",
        tls: Tls | None = None,
        allow_plaintext: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """Prepare a client; nothing is connected before the first call.

        Args:
            target, token, tls, allow_plaintext: as of `Client`.
            on_behalf_of: the user for whom all calls are made; the token needs the scope
                ``chatmesh.act_as``. Empty: the token's user.
            clock: time; for tests.
        """
        self._tokens = Tokens(token)
        self._transport = Transport(
            target, tls, allow_plaintext=allow_plaintext, on_behalf_of=on_behalf_of
        )
        self._time = ServerTime(clock or SystemClock())
        self._user = on_behalf_of
        self._calls = 0  # under way: they share the connection

    async def __aenter__(self) -> Self:
        """Fetch the token.

        Raises:
            AuthenticationFailed: there is none.
        """
        token = await self._tokens.fetch()
        self._user = self._user or subject(token)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self._transport.close()

    async def send(self, message: c.Message) -> v.Sent:
        """Send one message; returns when it is durable.

        Raises:
            ChatmeshError: refused: nothing was stored. Unavailable: the outcome is not known;
                send it again with the same `key` in the message.
        """
        (outcome,) = await self.send_many([message])
        if isinstance(outcome, ChatmeshError):
            raise outcome
        return outcome

    async def send_many(
        self, messages: Sequence[c.Message], *, stop_on_error: bool = False
    ) -> list[v.Sent | ChatmeshError]:
        """Send any number of messages in this order; one outcome each.

        With `stop_on_error` nothing is sent after the first refusal; the rest is PreviousRefused.
        """
        outgoing = [
            convert.outgoing_message(message, message.key or self._new_key())
            for message in messages
        ]
        outcomes: list[v.Sent | ChatmeshError] = []
        for start in range(0, len(outgoing), BATCH_MESSAGES):
            request = pb.SendMessagesRequest(
                messages=outgoing[start : start + BATCH_MESSAGES], stop_on_error=stop_on_error
            )
            answer: pb.SendMessagesResponse = await self._call(
                "ChatService", "SendMessages", request, pb.SendMessagesResponse
            )
            for result in answer.results:
                refused = result.HasField("problem")
                outcomes.append(from_problem(result.problem) if refused else convert.sent(result))
            if stop_on_error and any(isinstance(one, ChatmeshError) for one in outcomes):
                stopped = with_advice(
                    "PREVIOUS_REFUSED", "ABORTED", "an earlier message was refused"
                )
                outcomes += [stopped] * (len(messages) - len(outcomes))
                break
        return outcomes

    async def _call(self, service: str, method: str, request: Any, answer: type[Any]) -> Any:
        self._calls += 1
        try:
            return await super()._call(service, method, request, answer)
        finally:
            self._calls -= 1

    async def _away(self) -> None:
        if self._calls == 1:  # leaving the connection would end the others' calls
            await self._transport.move_on()

    @property
    def _me(self) -> str:
        return self._user

    @property
    def device_id(self) -> str:
        """Empty: there is no device; name one in the calls that need it."""
        return ""
