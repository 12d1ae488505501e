"""Keep what the Azure SDKs print, warn of and log, without any secret.

It goes to a file that git ignores, or with `--debug` to the screen.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

LOG_FILE = "runs/azure.log"  # from the project's folder on; git ignores all of runs/
MAX_BYTES = 5_000_000  # of the file; one older file, azure.log.1, is kept beside it

MASK = "***"
#: What is masked: the named group, or else all that matches.
SECRETS = (
    re.compile(r"eyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"),  # a token (JWT)
    re.compile(r"(?i)\bbearer\s+(?P<secret>[^\s'\",]+)"),
    re.compile(r"(?i)[?&;\s\"']sig=(?P<secret>[^&\s'\"]+)"),  # of a SAS address
    re.compile(r"(?i)accountkey=(?P<secret>[^;\s'\"]+)"),  # of a connection string
    re.compile(r"(?<![\w+/])[\w+/]{86}=="),  # the key of a storage account
    re.compile(
        r"(?i)['\"]?\w*(?:secret|password|assertion|token|key|sas)['\"]?\s*[:=]\s*"
        r"['\"](?P<secret>[^'\"]+)['\"]"
    ),
    re.compile(
        r"(?i)\b(?:client_secret|client_assertion|refresh_token|access_token)="
        r"(?P<secret>[^&\s'\"]+)"
    ),
)
#: Variables whose values are secrets, whatever they look like.
SECRET_VARIABLES = ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PASSWORD")

printed = logging.getLogger("printed by the SDK")


def mask_secrets(text: str) -> str:
    """Replace tokens, keys, passwords and signatures of addresses by asterisks."""
    for variable in SECRET_VARIABLES:
        value = os.environ.get(variable)
        if value:
            text = text.replace(value, MASK)
    for pattern in SECRETS:
        text = pattern.sub(_mask_match, text)
    return text


def _mask_match(match: re.Match[str]) -> str:
    if "secret" not in match.re.groupindex:
        return MASK
    start, end = match.span("secret")
    return match.string[match.start() : start] + MASK + match.string[end : match.end()]


class _MaskingFormatter(logging.Formatter):
    """Format a record, with its traceback, and mask the secrets in all of it."""

    def format(self, record: logging.LogRecord) -> str:
        return mask_secrets(super().format(record))


class _PrintedLines(io.TextIOBase):
    """A file for what is printed: each line becomes a record of the log."""

    def __init__(self) -> None:
        self.rest = ""

    def write(self, text: str) -> int:
        # Progress bars print one line again and again, and begin with a return.
        *lines, self.rest = (self.rest + text.replace("\r", "\n")).split("\n")
        for line in filter(str.strip, lines):
            printed.info(line.rstrip())
        return len(text)

    def writable(self) -> bool:
        return True


class _LogFile(logging.handlers.RotatingFileHandler):
    """The log file. A full disk must not stop the command that is logged."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the record."""


@contextmanager
def keep_sdk_output(root: Path, debug: bool = False) -> Iterator[str]:
    """Write what is printed, warned of and logged to a file; yield the file's name.

    With `debug` it goes to standard error, with more detail, and the name is empty. So
    it is where the file cannot be written: then nothing is kept.
    """
    handler = _open_handler(root, debug)
    lines = _PrintedLines()
    with (
        _log_to(handler, logging.DEBUG if debug else logging.INFO),
        redirect_stdout(lines),
        redirect_stderr(lines),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        try:
            yield LOG_FILE if isinstance(handler, _LogFile) else ""
        finally:
            lines.write("\n")


@contextmanager
def show_log() -> Iterator[None]:
    """Write what is logged to standard error, with all detail, without any secret."""
    with _log_to(logging.StreamHandler(sys.stderr), logging.DEBUG):
        yield


@contextmanager
def _log_to(handler: logging.Handler, level: int) -> Iterator[None]:
    """Let one handler have all that is logged; close it at the end."""
    handler.setFormatter(
        _MaskingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    root_logger = logging.getLogger()
    identity_logger = logging.getLogger("azure.identity")
    earlier_handlers = root_logger.handlers
    earlier_level = root_logger.level
    earlier_identity_level = identity_logger.level
    root_logger.handlers = [handler]
    root_logger.setLevel(level)
    # `login.credential` would silence it otherwise.
    identity_logger.setLevel(level)
    try:
        with _without_handlers_of_the_sdks():
            yield
    finally:
        root_logger.handlers = earlier_handlers
        root_logger.setLevel(earlier_level)
        identity_logger.setLevel(earlier_identity_level)
        handler.close()


@contextmanager
def _without_handlers_of_the_sdks() -> Iterator[None]:
    """Pass on what the SDKs' loggers would print on the screen themselves."""
    loggers = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith("azure") and isinstance(logger, logging.Logger)
    ]
    earlier = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
        logger.propagate = True
    try:
        yield
    finally:
        for logger, handlers, propagate in earlier:
            logger.handlers = handlers
            logger.propagate = propagate


def _open_handler(root: Path, debug: bool) -> logging.Handler:
    """Return a handler for the screen or the log file, or one that keeps nothing."""
    if debug:
        return logging.StreamHandler(sys.stderr)
    path = root / LOG_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _LogFile(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8")
    except OSError:
        return logging.NullHandler()
