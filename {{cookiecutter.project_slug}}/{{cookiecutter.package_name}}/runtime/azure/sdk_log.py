"""Keep the output, warnings and log records of the Azure SDKs, with secrets masked.

They are written to a file that git ignores, or to the screen with `--debug`.
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

#: The path of the log file in the project. Git ignores all of runs/.
LOG_FILE = "runs/azure.log"
#: A log file of this size is renamed to azure.log.1, and a new one is begun.
MAX_BYTES = 5_000_000

MASK = "***"
#: Patterns of secrets. If a pattern has a group named `secret`, only this group is masked;
#: otherwise the whole match is.
SECRETS = (
    re.compile(r"eyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"),  # A token (JWT).
    re.compile(r"(?i)\bbearer\s+(?P<secret>[^\s'\",]+)"),
    re.compile(
        r"(?i)[?&;\s\"']sig=(?P<secret>[^&\s'\"]+)"
    ),  # The signature of a SAS address.
    re.compile(r"(?i)accountkey=(?P<secret>[^;\s'\"]+)"),  # In a connection string.
    re.compile(r"(?<![\w+/])[\w+/]{86}=="),  # The key of a storage account.
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

sdk_output_logger = logging.getLogger("printed by the SDK")


def mask_secrets(text: str) -> str:
    """Replace tokens, keys, passwords and the signatures in addresses by asterisks."""
    for variable in SECRET_VARIABLES:
        value = os.environ.get(variable)
        if value:
            text = text.replace(value, MASK)
    for pattern in SECRETS:
        text = pattern.sub(_mask_match, text)
    return text


def _mask_match(match: re.Match[str]) -> str:
    """Return the matched text with the secret in it replaced by MASK.

    Only the group `secret` is replaced: "sig=abc" becomes "sig=***". If the pattern has no
    such group, the whole match is the secret.
    """
    if "secret" not in match.re.groupindex:
        return MASK
    start, end = match.span("secret")
    return match.string[match.start() : start] + MASK + match.string[end : match.end()]


class _MaskingFormatter(logging.Formatter):
    """Format a record, with its traceback, and mask the secrets in all of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, without secrets."""
        return mask_secrets(super().format(record))


class _PrintedLines(io.TextIOBase):
    """A file that takes the place of standard output, and logs each printed line."""

    def __init__(self) -> None:
        self.unfinished_line = ""

    def write(self, text: str) -> int:
        """Log the lines that the text completes, and keep the rest for the next call."""
        # A progress bar prints a carriage return and then its line once more. So a carriage
        # return ends a line here too.
        unlogged = self.unfinished_line + text.replace("\r", "\n")
        *lines, self.unfinished_line = unlogged.split("\n")
        for line in lines:
            if line.strip():
                sdk_output_logger.info(line.rstrip())
        return len(text)

    def writable(self) -> bool:
        """Return True, because the base class takes a file for read-only otherwise."""
        return True


class _LogFile(logging.handlers.RotatingFileHandler):
    """The log file. If it cannot be written, as on a full disk, the command continues."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the record that could not be written, without a message."""


@contextmanager
def keep_sdk_output(root: Path, debug: bool = False) -> Iterator[str]:
    """Write all output, warnings and log records to the log file, and yield its name.

    With `debug`, they are written to standard error instead, with more detail. If the log
    file cannot be opened, they are dropped. With `debug` or without a log file, the yielded
    name is empty.
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
            # Complete a last line that the SDK has left without a line break, so that it is
            # logged too.
            lines.write("\n")


@contextmanager
def show_log() -> Iterator[None]:
    """Write all log records to standard error, in full detail, with secrets masked."""
    with _log_to(logging.StreamHandler(sys.stderr), logging.DEBUG):
        yield


@contextmanager
def _log_to(handler: logging.Handler, level: int) -> Iterator[None]:
    """Send all log records of at least `level` to this handler only.

    At the end, the handler is closed, and the loggers are as they were before.
    """
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
    # With a level of its own, this logger is not silenced by `login.credential`.
    identity_logger.setLevel(level)
    try:
        with _detach_sdk_handlers():
            yield
    finally:
        root_logger.handlers = earlier_handlers
        root_logger.setLevel(earlier_level)
        identity_logger.setLevel(earlier_identity_level)
        handler.close()


@contextmanager
def _detach_sdk_handlers() -> Iterator[None]:
    """Detach the handlers with which the loggers of the SDKs print on the screen.

    Their records go to the handlers of the root logger instead. At the end, the handlers
    are attached again.
    """
    sdk_loggers = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith("azure") and isinstance(logger, logging.Logger)
    ]
    earlier_states = [
        (logger, logger.handlers, logger.propagate) for logger in sdk_loggers
    ]
    for logger in sdk_loggers:
        logger.handlers = []
        logger.propagate = True
    try:
        yield
    finally:
        for logger, handlers, propagate in earlier_states:
            logger.handlers = handlers
            logger.propagate = propagate


def _open_handler(root: Path, debug: bool) -> logging.Handler:
    """Return a handler that writes to the screen with `debug`, or else to the log file.

    If the log file cannot be opened, the handler drops all records.
    """
    if debug:
        return logging.StreamHandler(sys.stderr)
    path = root / LOG_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _LogFile(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8")
    except OSError:
        return logging.NullHandler()
