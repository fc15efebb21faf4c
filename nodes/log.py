"""The agent's log: one line per change of state, on stderr, for people or as JSON."""

from __future__ import annotations

import sys

import structlog


def set_up_log(form: str) -> None:
    """Configure structlog for this process.

    Args:
        form: "console" or "json".
    """
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    if form == "json":
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
