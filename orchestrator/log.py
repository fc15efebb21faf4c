"""Logging: structured lines on stderr, for people or for machines; one per request, plan and node event."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class RequestLog:
    """The one line per request: its own short way to stderr, because it is written thousands of times a second.

    Same fields and formats as every other line.
    """

    def __init__(self) -> None:
        self._form = "console"
        self._enabled = True

    def configure(self, *, form: str, level: str) -> None:
        """See `configure`."""
        self._form = form
        self._enabled = LEVELS[level] <= logging.INFO

    def write(self, names: Sequence[str], requests: Sequence[tuple[object, ...]]) -> None:
        """Write one line per request, all of them at once: the names of what it holds, and these values of each."""
        if not self._enabled or not requests:
            return
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._form == "json":
            line = {"timestamp": stamp, "level": "info", "event": "request"}
            lines = [json.dumps({**line, **dict(zip(names, values, strict=True))}) + "\n" for values in requests]
        else:
            template = f"{stamp} [info     ] request " + " ".join([f"{name}=%s" for name in names]) + "\n"
            lines = [template % values for values in requests]
        sys.stderr.write("".join(lines))


requests = RequestLog()


class _Form:
    """Level and renderer of all loggers; loggers that exist already follow a change."""

    def __init__(self) -> None:
        self.level = logging.INFO
        self.renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()

    def choose(self, _: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Drop what is below the level."""
        if LEVELS.get(method, logging.ERROR) < self.level:
            raise structlog.DropEvent
        return event

    def render(self, logger: object, method: str, event: structlog.typing.EventDict) -> Any:
        """One line."""
        return self.renderer(logger, method, event)


_form = _Form()


def configure(*, form: str, level: str) -> None:
    """Set up logging for this process; again, to change it.

    Args:
        form: "console" or "json".
        level: "debug", "info", "warning" or "error".
    """
    requests.configure(form=form, level=level)
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if form == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    _form.level, _form.renderer = LEVELS[level], renderer
    structlog.configure(
        processors=[
            _form.choose,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _form.render,
        ],
        # Loggers are cached with this, so it lets through what a later change may want.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
