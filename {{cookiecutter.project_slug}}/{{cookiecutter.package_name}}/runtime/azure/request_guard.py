"""Guard every HTTP request of the SDKs: it ends in time, and its token goes nowhere else.

The SDKs wait for some answers without an end, and their own settings cannot limit all of
them. But all of them send their requests through the adapter of the package requests.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from ..rules import CLOUDS
from .refusals import seconds_to_wait

if TYPE_CHECKING:
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter

#: Seconds without a byte, in either direction, after which a try of a request has failed.
LONGEST_SILENCE = 60.0
#: A request is not tried again once so many of these times have passed since its first try.
#: The SDKs would go on, as several of their layers each try several times.
SILENCES = 2.5
LARGEST_ANSWER = 20_000_000  # bytes; files that are downloaded are not limited
CHUNK_BYTES = 1 << 16
BLOB_TRIES = 4  # of a request that a storage account is too busy for

LOGIN_HOSTS = {cloud.login for cloud in CLOUDS.values()}


class RequestFailed(Exception):
    """A request is given up; the text says why, in a sentence.

    The class is no error of requests, as the SDKs would try the request again after one.
    """

    def __init__(
        self, text: str, request: PreparedRequest, response: Response | None = None
    ) -> None:
        super().__init__(text)
        self.request = request
        self.response = response


class RequestGuard:
    """Sends requests within the limits, and knows when the last answer has come."""

    def __init__(self, send: Callable[..., Response]) -> None:
        self.send_unguarded = send
        self.answered_at = time.monotonic()
        #: The last answer that was an error. The SDKs may keep only a part of it.
        self.last_refusal: Response | None = None
        self.lock = threading.Lock()
        #: When each request was first tried that has not been answered well since, by its
        #: method and address. A server that is silent to one file is silent to the next,
        #: so the method and the host count, too.
        self.first_tries: dict[tuple[str | None, str | None], float] = {}

    def send(
        self, adapter: HTTPAdapter, request: PreparedRequest, **options: Any
    ) -> Response:
        """Send a request by an adapter, and return the answer.

        `options` are those of `HTTPAdapter.send`. Raises RequestFailed, and what the
        adapter raises.
        """
        import requests

        give_up_at = self._note_try(request) + SILENCES * LONGEST_SILENCE
        if time.monotonic() > give_up_at:
            raise RequestFailed(f"No answer comes from {_host(request)}.", request)

        options["timeout"] = _shorten_timeout(options.get("timeout"))
        _limit_waiting(adapter)
        try:
            response = self._send_until_accepted(adapter, request, options)
        except requests.RequestException as error:
            error.request = request  # Errors of a proxy do not have it.
            raise
        _refuse_redirect(request, response)
        is_busy = response.status_code in (429, 503)
        seconds = seconds_to_wait(response.headers)
        if is_busy and time.monotonic() + seconds > give_up_at:
            raise RequestFailed(
                f"Azure is busy, and {_host(request)} asks to wait {seconds} s.",
                request,
                response,
            )
        if not options.get("stream"):
            _read_answer(request, response, give_up_at)
            if response.status_code >= 400:
                self.last_refusal = response
        if response.status_code < 500 and not is_busy:
            self._note_answer(request)
        return response

    def _note_try(self, request: PreparedRequest) -> float:
        """Return when a request, or one like it to the same host, was first tried."""
        now = time.monotonic()
        with self.lock:
            return min(self.first_tries.setdefault(key, now) for key in _keys(request))

    def _note_answer(self, request: PreparedRequest) -> None:
        with self.lock:
            for key in _keys(request):
                self.first_tries.pop(key, None)
            self.answered_at = time.monotonic()

    def _send_until_accepted(
        self, adapter: HTTPAdapter, request: PreparedRequest, options: dict[str, Any]
    ) -> Response:
        """Send a request, and again while a storage account answers 429.

        The SDK of the storage service does not try again after this status.
        """
        from requests.utils import rewind_body

        response = self.send_unguarded(adapter, request, **options)
        for _ in range(1, BLOB_TRIES):
            seconds = seconds_to_wait(response.headers)
            is_throttled = response.status_code == 429 and ".blob." in _host(request)
            if not is_throttled or seconds > LONGEST_SILENCE:
                break
            response.close()
            time.sleep(seconds)
            if hasattr(request.body, "seek"):
                rewind_body(request)
            response = self.send_unguarded(adapter, request, **options)
        return response


#: The guard of this process while there is one.
_active_guard: RequestGuard | None = None


def last_answer_time() -> float:
    """Return when a request was last answered well, by the monotonic clock, or 0."""
    return _active_guard.answered_at if _active_guard else 0.0


def last_refusal() -> Response | None:
    """Return the last answer that was an error, while there is a guard."""
    return _active_guard.last_refusal if _active_guard else None


@contextmanager
def guard_requests() -> Iterator[None]:
    """Let all requests of this process go through a guard.

    Passwords of ~/.netrc are ignored: requests would send them in place of a token.
    """
    from requests.adapters import HTTPAdapter

    global _active_guard
    send_unguarded = HTTPAdapter.send
    guard = RequestGuard(send_unguarded)
    _active_guard = guard

    def send(
        self: HTTPAdapter,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        return guard.send(
            self,
            request,
            stream=stream,
            timeout=timeout,
            verify=verify,
            cert=cert,
            proxies=proxies,
        )

    earlier_netrc = os.environ.get("NETRC")
    os.environ["NETRC"] = os.devnull
    # The SDKs create their sessions and adapters themselves, so the class is changed.
    HTTPAdapter.send = send  # type: ignore[method-assign]
    try:
        yield
    finally:
        HTTPAdapter.send = send_unguarded  # type: ignore[method-assign]
        _active_guard = None
        if earlier_netrc is None:
            del os.environ["NETRC"]
        else:
            os.environ["NETRC"] = earlier_netrc


def _keys(request: PreparedRequest) -> list[tuple[str | None, str | None]]:
    """Return what the tries of a request are counted by."""
    return [(request.method, request.url), (request.method, _host(request))]


def _host(request: PreparedRequest) -> str:
    return urlsplit(request.url or "").hostname or ""


def _shorten_timeout(timeout: Any) -> tuple[float, float]:
    """Return a time-out for connecting and one for reading, neither above the limit."""
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    return (
        LONGEST_SILENCE if connect is None else min(connect, LONGEST_SILENCE),
        LONGEST_SILENCE if read is None else min(read, LONGEST_SILENCE),
    )


def _limit_waiting(adapter: HTTPAdapter) -> None:
    """Let an adapter that tries again by itself not wait for as long as a server asks."""
    adapter.max_retries.retry_after_max = int(LONGEST_SILENCE)


def _refuse_redirect(request: PreparedRequest, response: Response) -> None:
    """Raise RequestFailed if a token or a secret would follow a redirect."""
    if not response.is_redirect:
        return
    host = _host(request)
    target = urlsplit(urljoin(request.url or "", response.headers["Location"]))
    if target.scheme == "https" and target.hostname == host and host not in LOGIN_HOSTS:
        return
    response.close()
    raise RequestFailed(
        f"An answer of {host} redirects to {target.hostname}, where the login must not "
        "go.",
        request,
    )


def _read_answer(
    request: PreparedRequest, response: Response, give_up_at: float
) -> None:
    """Read the body of an answer into memory, and let `response.raw` read it from there.

    `give_up_at` is a time of `time.monotonic()`. Raises RequestFailed if the body is too
    large, or if it has not arrived by then.
    """
    import requests
    from urllib3 import HTTPResponse
    from urllib3.exceptions import HTTPError

    # read1 returns what has arrived. Older versions of urllib3 can only wait for a chunk.
    read = getattr(response.raw, "read1", response.raw.read)
    content = bytearray()
    try:
        while chunk := read(CHUNK_BYTES, decode_content=True):
            content += chunk
            if len(content) > LARGEST_ANSWER:
                raise RequestFailed(
                    f"An answer of {_host(request)} has more than "
                    f"{LARGEST_ANSWER // 1_000_000} MB.",
                    request,
                )
            if time.monotonic() > give_up_at:
                raise RequestFailed(
                    f"An answer of {_host(request)} comes too slowly.", request
                )
    except HTTPError as error:
        response.close()
        raise requests.ConnectionError(error, request=request) from error
    except RequestFailed:
        response.close()
        raise
    response.raw = HTTPResponse(io.BytesIO(bytes(content)), preload_content=False)
