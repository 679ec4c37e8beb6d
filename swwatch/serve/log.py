"""Structured logs: one JSON object a line on stderr. No frame, question, spoken word or token is ever passed to it."""

import json
import logging
import sys
import traceback
import warnings
from datetime import UTC, datetime

logger = logging.getLogger("swwatch.serve")


class JsonLines(logging.Formatter):
    """time, level, event, and whatever the caller gave as `fields`; a traceback under "trace"; whose line it is where
    it is not ours under "from". Args: always: more fields of every line."""

    def __init__(self, **always):
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **self._always,
            **getattr(record, "fields", {}),
        }
        if record.name != logger.name:
            line["from"] = record.name
        if record.exc_info:
            line["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def log(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields) -> None:
    """Write one line; `error` adds its traceback."""
    logger.log(level, event, extra={"fields": fields}, exc_info=error)


def to_stderr(level: str = "info", **always) -> None:
    """Send our lines, and the warnings of everything that we use, to stderr in the one form. Args: as of JsonLines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(**always))
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of pictures that clients send, which say what they like
    for name, least in (("", "WARNING"), ("swwatch.serve", level.upper())):
        target = logging.getLogger(name)
        target.handlers, target.propagate = [handler], False
        target.setLevel(least)
