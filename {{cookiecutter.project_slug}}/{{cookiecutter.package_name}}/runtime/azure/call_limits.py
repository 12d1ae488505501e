"""Limit the time that a call of an SDK may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from . import request_guard
from .errors import CallTooLong

#: Seconds that a call may take while Azure replies. Azure needs minutes for a new workspace
#: or a new cluster. The SDKs themselves would wait for them without a limit.
LONGEST_CALL = 30 * 60
#: A call may go without any response for this many times LONGEST_SILENCE. Single requests
#: end earlier, so this limit is for an SDK that waits without sending requests.
SILENCE_FACTOR = 7
# A call is checked at this interval, in seconds.
POLL_SECONDS = 0.5

P = ParamSpec("P")
T = TypeVar("T")


def call_with_limit(
    purpose: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call a function of an SDK, and return its result.

    Raises CallTooLong if Azure has answered no request for a while, or if the call takes
    longer than LONGEST_CALL. `purpose` is for the message, such as "to publish".
    """
    future: Future[T] = Future()

    def call() -> None:
        """Store the result or the error of the call in the future."""
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 (it is raised again below)
            future.set_exception(error)

    # As a daemon, the thread cannot keep the process from ending.
    threading.Thread(target=call, daemon=True).start()
    started = time.monotonic()
    while True:
        try:
            return future.result(POLL_SECONDS)
        except TimeoutError:
            if future.done():  # The function itself has raised it.
                raise
        _check_limits(purpose, started)


def _check_limits(purpose: str, started: float) -> None:
    """Raise CallTooLong if a call that began at `started` has reached a limit."""
    now = time.monotonic()
    last_response = max(started, request_guard.last_response_time())
    longest_silence = SILENCE_FACTOR * request_guard.LONGEST_SILENCE
    if now - last_response > longest_silence:
        raise CallTooLong(
            f"Azure was asked {purpose}, and has not answered for "
            f"{_format_seconds(longest_silence)}: look in the Studio how far it has got, "
            "then run the command again."
        )
    if now - started > LONGEST_CALL:
        raise CallTooLong(
            f"Azure has taken more than {_format_seconds(LONGEST_CALL)} {purpose}: look in "
            "the Studio how far it has got, then run the command again."
        )


def _format_seconds(seconds: float) -> str:
    """Return a time such as "5 seconds" or "30 minutes"."""
    if seconds < 60:
        return f"{seconds:g} seconds"
    return f"{seconds / 60:g} minutes"
