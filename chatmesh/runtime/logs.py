"""Structured logs, set up once at process start.

Rules: configured before the first aio object exists and never again: grpcio can deadlock when
logging is reconfigured while aio objects are collected (grpc issue 43421). Change levels with
`set_level`. One line per event of note, never one per message. No content, token or user name.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Final, Literal, TextIO

import structlog

from chatmesh.runtime.tally import TALLY

MAX_CHAIN: Final = 8
MAX_FRAMES: Final = 20
MAX_TEXT_CHARACTERS: Final = 500
_PROGRAM_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BaseExceptionGroup,
    ImportError,
    OSError,
    RuntimeError,
    TypeError,
)

_configured = False


def configure(service: str, level: str, form: Literal["json", "console"]) -> None:
    """Send structlog's and the standard library's records to stderr, as JSON lines or for people.

    The second and later calls do nothing.
    """
    global _configured
    if _configured:
        return
    _configured = True
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor
    if form == "json":
        shared += [_ExceptionSummary(show_all_texts=level.lower() == "debug")]
        last = structlog.processors.JSONRenderer()
    else:
        last = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the other one shows locals
        )

    def add_service(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, add_service],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
    )
    handler = _CountingHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            add_service,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class _ExceptionSummary:
    """`exc_info` as `exception`: type, text and frames of each exception of the chain.

    Never local variables, which hold requests and tokens. The text only of kinds that describe the
    program: a ValueError, KeyError or database error may quote what a user wrote.
    """

    def __init__(self, *, show_all_texts: bool) -> None:
        self._show_all_texts = show_all_texts

    def __call__(
        self, _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        given = event.pop("exc_info", None)
        if isinstance(given, BaseException):
            error: BaseException | None = given
        elif isinstance(given, tuple):
            error = given[1]
        else:
            error = sys.exc_info()[1] if given else None
        if error is not None:
            event["exception"] = [
                self._summary(one) for one in itertools.islice(_chain(error), MAX_CHAIN)
            ]
        return event

    def _summary(self, error: BaseException) -> dict[str, object]:
        kind = type(error)
        frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
        shown = self._show_all_texts or _describes_the_program(error)
        return {
            "type": f"{kind.__module__}.{kind.__qualname__}",
            "text": str(error)[:MAX_TEXT_CHARACTERS] if shown else "(withheld)",
            "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        }


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, those of a group, and what caused it."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting.append(one.__cause__ or (None if one.__suppress_context__ else one.__context__))


def _describes_the_program(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    if package == "chatmesh" or package.endswith("_svc"):
        return True
    if package != "builtins":
        return package == "grpc"
    return isinstance(error, _PROGRAM_ERRORS)


class _CountingHandler(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        TALLY.log_lines += 1
        super().emit(record)


def set_level(level: str) -> None:
    """Change the level of all loggers at run time (never by reconfiguring)."""
    logging.getLogger().setLevel(level.upper())


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for the module `name`."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound


class LogBudget:
    """At most so many lines a second; what is above is counted, not written."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = 0
        self._used = 0
        self.suppressed = 0

    def take(self) -> bool:
        """Whether a line may be written now."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._used = second, 0
        self._used += 1
        if self._used > self._per_second:
            self.suppressed += 1
            return False
        return True
