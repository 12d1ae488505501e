"""Limit the time that a call of an SDK may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import ParamSpec, TypeVar

from . import request_guard
from .errors import CallTooLong

#: Seconds that a call may take while Azure responds. Azure needs minutes for a new workspace
#: or a new cluster. The SDKs themselves would wait for them without a limit.
LONGEST_CALL = 30 * 60
#: A call may go without any response for this many times `request_guard.LONGEST_SILENCE`.
#: Single requests end earlier, so this limit is for an SDK that waits without sending any.
SILENCE_FACTOR = 7
#: The limits of a call are checked at this interval, in seconds.
POLL_SECONDS = 0.5

P = ParamSpec("P")
T = TypeVar("T")


def call_with_limit(
    task: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call a function of an SDK, and return its result.

    Raises CallTooLong if Azure has not responded to any request for a while, or if the call
    takes longer than LONGEST_CALL. `task` completes the sentence "Azure was asked …" in the
    message, such as "to publish the pipeline".
    """
    future: Future[T] = Future()

    def call() -> None:
        """Store the result or the error of the call in the future."""
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 (it is raised again below)
            future.set_exception(error)

    # The call runs in a daemon thread, which cannot keep the process from ending.
    threading.Thread(target=call, daemon=True).start()
    started_at = time.monotonic()
    while True:
        wait([future], timeout=POLL_SECONDS)
        if future.done():
            return future.result()
        _raise_if_too_long(task, started_at)


def _raise_if_too_long(task: str, started_at: float) -> None:
    """Raise CallTooLong if a call has reached one of its limits.

    `task` is what the call does, such as "to publish the pipeline". `started_at` is the time
    of the monotonic clock at which the call began.
    """
    now = time.monotonic()
    last_response_time = max(started_at, request_guard.last_response_time())
    silence_limit = SILENCE_FACTOR * request_guard.LONGEST_SILENCE
    if now - last_response_time > silence_limit:
        raise CallTooLong(
            f"Azure was asked {task}, but has not responded for "
            f"{_format_seconds(silence_limit)}. Check in the Studio how far this has got, "
            "then run the command again."
        )
    if now - started_at > LONGEST_CALL:
        raise CallTooLong(
            f"Azure was asked {task}, but has not finished after "
            f"{_format_seconds(LONGEST_CALL)}. Check in the Studio how far this has got, "
            "then run the command again."
        )


def _format_seconds(seconds: float) -> str:
    """Return a time such as "5 seconds" or "30 minutes"."""
    if seconds < 60:
        return f"{seconds:g} seconds"
    return f"{seconds / 60:g} minutes"
