"""Guard all HTTP requests of the SDKs: each ends in time, and its token goes to one host.

The SDKs wait for some responses without a limit, and their own settings cannot change this
everywhere. But all of them send their requests through the adapter of the package requests.
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
from . import refusals
from .refusals import seconds_to_wait

if TYPE_CHECKING:
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter

#: An attempt fails after this many seconds without a byte in either direction.
LONGEST_SILENCE = 60.0
#: A request is not repeated later than this many times LONGEST_SILENCE after its first
#: attempt. The SDKs would continue, because several of their layers repeat requests.
SILENCES = 2.5
# The largest response, in bytes. Files that are downloaded are not limited.
LARGEST_RESPONSE = 20_000_000
CHUNK_BYTES = 1 << 16
# How often a request is sent if a storage account is too busy for it.
BLOB_TRIES = 4

LOGIN_HOSTS = {cloud.login for cloud in CLOUDS.values()}


class RequestFailed(Exception):
    """A request is given up. The message is a sentence that gives the reason.

    It does not derive from requests' errors, because the SDKs would retry after those.
    """

    def __init__(
        self, text: str, request: PreparedRequest, response: Response | None = None
    ) -> None:
        super().__init__(text)
        self.request = request
        self.response = response


class RequestGuard:
    """Sends requests within the limits, and keeps what has become of the latest ones."""

    def __init__(self, send: Callable[..., Response]) -> None:
        self.send_unguarded = send
        #: The time of the last response that was not a fault of the server.
        self.responded_at = time.monotonic()
        #: The last response that was an error. The SDKs may keep only a part of it.
        self.last_refusal: Response | None = None
        #: The last response of a login host that was an error. msal does not keep it.
        self.last_login_refusal: Response | None = None
        #: Whether the newest response of all was an error.
        self.is_refused_now = False
        #: The host that has not responded to the newest request, or "".
        self.silent_host = ""
        self.lock = threading.Lock()
        #: The time of the first attempt of each request that has not succeeded yet, by
        #: method and URL, and by method and host: if a server does not respond for one
        #: file, it will not for the next.
        self.first_attempts: dict[tuple[str | None, str | None], float] = {}

    def send(
        self, adapter: HTTPAdapter, request: PreparedRequest, **options: Any
    ) -> Response:
        """Send a request by an adapter, and return the response.

        `options` are those of `HTTPAdapter.send`. Raises RequestFailed, and what the
        adapter raises.
        """
        give_up_at = self._note_attempt(request) + SILENCES * LONGEST_SILENCE
        self._check_deadline(request, give_up_at)

        options["timeout"] = _shorten_timeout(options.get("timeout"))
        _limit_waiting(adapter)
        response = self._send_and_note_silence(adapter, request, options)
        _refuse_redirect(request, response)

        is_error = response.status_code >= 400
        if is_error or not options.get("stream"):
            _read_response(request, response, give_up_at)
        self._note_response(request, response)
        _raise_if_too_busy(request, response, give_up_at)
        return response

    def _note_attempt(self, request: PreparedRequest) -> float:
        """Return when a request, or one like it to the same host, was first attempted."""
        now = time.monotonic()
        with self.lock:
            return min(
                self.first_attempts.setdefault(key, now) for key in _keys(request)
            )

    def _check_deadline(self, request: PreparedRequest, give_up_at: float) -> None:
        """Raise RequestFailed if a request must not be repeated any more."""
        if time.monotonic() <= give_up_at:
            return
        host = _host(request)
        self.silent_host = host
        raise RequestFailed(
            f"No answer comes from {host}.", request, self._find_fault_of(host)
        )

    def _send_and_note_silence(
        self, adapter: HTTPAdapter, request: PreparedRequest, options: dict[str, Any]
    ) -> Response:
        """Send a request, and note in `silent_host` whether a response arrives."""
        import requests

        try:
            response = self._send_until_accepted(adapter, request, options)
        except requests.RequestException as error:
            error.request = request  # Errors of a proxy do not have it.
            self.silent_host = _host(request)
            raise
        self.silent_host = ""
        return response

    def _note_response(self, request: PreparedRequest, response: Response) -> None:
        """Keep a response that is an error, and note that a request has succeeded."""
        is_error = response.status_code >= 400
        self.is_refused_now = is_error
        if is_error:
            self.last_refusal = response
            if _host(request) in LOGIN_HOSTS:
                self.last_login_refusal = response

        # After 429 and after faults of the server, the request is sent again.
        if response.status_code < 500 and response.status_code != 429:
            with self.lock:
                for key in _keys(request):
                    self.first_attempts.pop(key, None)
                self.responded_at = time.monotonic()

    def _find_fault_of(self, host: str) -> Response | None:
        """Return the last refusal if it was a fault of a host, such as the status 500.

        A host with only such responses counts as one that does not respond.
        """
        refusal = self.last_refusal
        if refusal is None or urlsplit(refusal.url).hostname != host:
            return None
        is_fault = refusal.status_code >= 500 or refusal.status_code == 429
        return refusal if is_fault else None

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


def last_response_time() -> float:
    """Return the monotonic time of the last response that was no fault, or 0."""
    return _active_guard.responded_at if _active_guard else 0.0


def last_refusal() -> Response | None:
    """Return the last response that was an error, or None."""
    return _active_guard.last_refusal if _active_guard else None


def current_refusal() -> Response | None:
    """Return the newest response of all if it was an error, or else None."""
    is_refused = _active_guard is not None and _active_guard.is_refused_now
    return last_refusal() if is_refused else None


def silent_host() -> str:
    """Return the host that has not responded to the newest request of all, or ""."""
    return _active_guard.silent_host if _active_guard else ""


def quote_login_refusal() -> str:
    """Return a sentence that quotes the last refusal by a login host, or ""."""
    response = _active_guard.last_login_refusal if _active_guard else None
    if response is None:
        return ""
    error = refusals.read_error(
        response.status_code, response.headers, response.text, response.url
    )
    return refusals.quote(error)


@contextmanager
def guard_requests() -> Iterator[None]:
    """Send all requests of this process through a guard during the `with` block.

    Passwords in ~/.netrc are ignored, because requests would send them instead of a token.
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
        """Replace `HTTPAdapter.send`, with the same parameters."""
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
    """Return the keys of a request in `first_attempts`, for its URL and for its host."""
    return [(request.method, request.url), (request.method, _host(request))]


def _host(request: PreparedRequest) -> str:
    """Return the host that a request is sent to."""
    return urlsplit(request.url or "").hostname or ""


def _shorten_timeout(timeout: Any) -> tuple[float, float]:
    """Return the time-outs for connecting and for reading, limited to LONGEST_SILENCE.

    `timeout` is one number for both, a tuple of two, or None for no limit.
    """
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    return _limit_seconds(connect), _limit_seconds(read)


def _limit_seconds(seconds: float | None) -> float:
    """Return a time-out of at most LONGEST_SILENCE."""
    if seconds is None:
        return LONGEST_SILENCE
    return min(seconds, LONGEST_SILENCE)


def _limit_waiting(adapter: HTTPAdapter) -> None:
    """Limit how long an adapter waits before it repeats a request by itself."""
    adapter.max_retries.retry_after_max = int(LONGEST_SILENCE)


def _refuse_redirect(request: PreparedRequest, response: Response) -> None:
    """Raise RequestFailed if a redirect would send a token or a secret to another host."""
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


def _raise_if_too_busy(
    request: PreparedRequest, response: Response, give_up_at: float
) -> None:
    """Raise RequestFailed if a server asks to wait beyond the time `give_up_at`."""
    is_busy = response.status_code in (429, 503)
    seconds = seconds_to_wait(response.headers)
    if is_busy and time.monotonic() + seconds > give_up_at:
        raise RequestFailed(
            f"Azure is busy, and {_host(request)} asks to wait {seconds} s.",
            request,
            response,
        )


def _read_response(
    request: PreparedRequest, response: Response, give_up_at: float
) -> None:
    """Read the body of a response into memory, and let `response.raw` read it from there.

    Raises RequestFailed if the body is too large or too slow, and closes the connection.
    """
    import requests
    from urllib3 import HTTPResponse
    from urllib3.exceptions import HTTPError

    try:
        body = _read_body(request, response, give_up_at)
    except HTTPError as error:
        response.close()
        raise requests.ConnectionError(error, request=request) from error
    except RequestFailed:
        response.close()
        raise
    response.raw = HTTPResponse(io.BytesIO(body), preload_content=False)


def _read_body(
    request: PreparedRequest, response: Response, give_up_at: float
) -> bytes:
    """Return the body of a response.

    Raises RequestFailed if it has more than LARGEST_RESPONSE bytes, or if it has not
    arrived at the time `give_up_at` of the monotonic clock.
    """
    # read1 returns what has arrived. Older versions of urllib3 can only wait for a chunk.
    read = getattr(response.raw, "read1", response.raw.read)
    body = bytearray()
    while chunk := read(CHUNK_BYTES, decode_content=True):
        body += chunk
        if len(body) > LARGEST_RESPONSE:
            raise RequestFailed(
                f"An answer of {_host(request)} has more than "
                f"{LARGEST_RESPONSE // 1_000_000} MB.",
                request,
            )
        if time.monotonic() > give_up_at:
            raise RequestFailed(
                f"An answer of {_host(request)} comes too slowly.", request
            )
    return bytes(body)
