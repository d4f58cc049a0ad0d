"""Structured logs, set up once at process start.

Rules: configured before the first aio object exists and never again: grpcio can deadlock when
logging is reconfigured while aio objects are collected (grpc issue 43421). Change levels with
`set_level`. One line per event of note, never one per message. No content, token or user name.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Literal, TextIO

import structlog

from chatmesh.runtime.tally import TALLY

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
        shared += [structlog.processors.dict_tracebacks]
        last = structlog.processors.JSONRenderer()
    else:
        last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())

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
