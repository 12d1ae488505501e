"""Guard the calls of an Azure SDK: its output, its requests and its errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CommandError
from ..harmless_text import make_harmless
from ..workspaces import WorkspaceConfig
from .errors import AzureError, LoginMissing
from .login import LoginError
from .request_guard import guard_requests
from .sdk_errors import explain_sdk_error
from .sdk_log import keep_sdk_output


class Printer:
    """Prints lines on the screen, even while standard output is redirected.

    The lines may quote Azure, so they are made harmless for the screen.
    """

    def __init__(self) -> None:
        self.screen = sys.stdout

    def __call__(self, text: str) -> None:
        """Print a text."""
        print(make_harmless(text), file=self.screen, flush=True)


@contextmanager
def guard_azure_calls(
    config: WorkspaceConfig, root: Path, debug: bool = False
) -> Iterator[Printer]:
    """Silence the SDK, limit its requests, and turn its errors into AzureError.

    This applies to the `with` block, which gets a printer that still reaches the screen. The
    SDK's output and tracebacks go to a log file in the project at `root`, or to the screen
    with `debug`.
    """
    printer = Printer()
    with keep_sdk_output(root, debug) as log_file, guard_requests():
        try:
            yield printer
        except Exception as error:
            if _is_for_user(error):
                raise
            # The errors of the SDKs share no base class but Exception.
            raise _make_azure_error(error, config, log_file) from error


def _is_for_user(error: Exception) -> bool:
    """Return whether an error can be shown to the user as it is.

    It must be an error of this project, whose message was written for the user. If it has
    another error as its cause, it cannot be shown yet: the traceback of the cause must go to
    the log first.
    """
    return isinstance(error, CommandError) and error.__cause__ is None


def _make_azure_error(
    error: Exception, config: WorkspaceConfig, log_file: str
) -> AzureError:
    """Log the traceback of an error, and return an error with a message for the user.

    The message names the log file, unless `log_file` is empty.
    """
    message = _choose_message(error, config)
    logging.getLogger(__name__).error(message, exc_info=error)
    if log_file:
        message = f"{message} Details are in {log_file}."
    return AzureError(message)


def _choose_message(error: Exception, config: WorkspaceConfig) -> str:
    """Return what an error means for the user, in whole sentences."""
    if isinstance(error, CommandError):
        return str(error)
    if isinstance(error, LoginError):
        # `provision` also logs in without the SDK, and then a missing login is a LoginError.
        # The user reads the same message as after a failed login of the SDK.
        return str(LoginMissing(error, config))
    return explain_sdk_error(error, config)
