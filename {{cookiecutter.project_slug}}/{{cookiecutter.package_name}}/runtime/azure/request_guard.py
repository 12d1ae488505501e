"""Guard all HTTP requests of the SDKs: each ends in time, and its token goes to one host.

The SDKs wait for some responses without a limit, and their own settings cannot change this
everywhere. But all of them send their requests through the method `HTTPAdapter.send` of the
package requests, so this method is replaced while the SDKs work.
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
SILENCES_UNTIL_GIVEN_UP = 2.5
#: The largest response, in bytes. Files that are downloaded are not limited.
LARGEST_RESPONSE = 20_000_000
CHUNK_BYTES = 1 << 16
#: A request is sent at most this many times if a storage account is too busy for it.
STORAGE_ATTEMPTS = 4

LOGIN_HOSTS = {cloud.login for cloud in CLOUDS.values()}


class RequestFailed(Exception):
    """The guard has given up a request. The message is a sentence that gives the reason.

    `response` is the last error response of the host, if there is one.

    This class does not derive from the errors of the package requests, because the SDKs
    would repeat the request after those.
    """

    def __init__(
        self, text: str, request: PreparedRequest, response: Response | None = None
    ) -> None:
        """Create the error with a text for the user, such as "The host does not respond."."""
        super().__init__(text)
        self.request = request
        self.response = response


class RequestGuard:
    """Sends requests within the limits, and keeps the latest error responses."""

    def __init__(self, send: Callable[..., Response]) -> None:
        """Create a guard that has not seen any request yet.

        `send` is the original method `HTTPAdapter.send` of the package requests, with which
        the guard sends the requests.
        """
        self.send_unguarded = send
        #: The time of the monotonic clock at which the last request was answered by
        #: something other than a temporary error.
        self.last_response_time = time.monotonic()
        #: The last response that was an error. The SDKs may keep only a part of it.
        self.last_error: Response | None = None
        #: The last error response of a login host. The login package, msal, does not keep it.
        self.last_login_error: Response | None = None
        #: Whether the newest response of all is `last_error`.
        self.is_newest_an_error = False
        #: The host of the newest request, if no response has arrived. Otherwise empty.
        self.silent_host = ""
        #: When each unanswered request was first sent, by the keys of the request (see
        #: `_list_keys`). The times are those of the monotonic clock.
        self.first_attempts: dict[tuple[str, str], float] = {}
        #: Protects `first_attempts`, because several threads of an SDK may send requests at
        #: the same time.
        self.lock = threading.Lock()

    def send(
        self, adapter: HTTPAdapter, request: PreparedRequest, **options: Any
    ) -> Response:
        """Send a request through an adapter, and return the response.

        `options` are those of `HTTPAdapter.send`. Raises RequestFailed if the host has not
        answered for too long, asks for too long a wait, redirects the login to another host,
        or sends a response that is too large or too slow. The errors of the adapter are
        raised unchanged.
        """
        first_attempt = self._note_attempt(request)
        give_up_at = first_attempt + SILENCES_UNTIL_GIVEN_UP * LONGEST_SILENCE
        self._raise_if_too_late(request, give_up_at)

        options["timeout"] = _shorten_timeout(options.get("timeout"))
        _limit_retry_wait(adapter)
        response = self._send_and_note_silence(adapter, request, options)
        _refuse_redirect(request, response)

        # The caller reads a downloaded file itself, in pieces. Any other response is read
        # here, and an error response also during a download, so that it can be explained.
        is_download = options.get("stream") and response.status_code < 400
        if not is_download:
            _read_response(request, response, give_up_at)
        self._note_response(request, response)
        _raise_if_too_busy(request, response, give_up_at)
        return response

    def _note_attempt(self, request: PreparedRequest) -> float:
        """Return when this request, or an earlier attempt at it, was first sent.

        A request without an earlier attempt is noted with the current time. Two requests
        count as attempts at the same thing if they share one of their two keys (see
        `_list_keys`). The result is the earliest of these times, on the monotonic clock.
        """
        now = time.monotonic()
        keys = _list_keys(request)
        with self.lock:
            for key in keys:
                self.first_attempts.setdefault(key, now)
            return min(self.first_attempts[key] for key in keys)

    def _raise_if_too_late(self, request: PreparedRequest, give_up_at: float) -> None:
        """Raise RequestFailed if the monotonic clock is past `give_up_at`.

        The request is then not sent again.
        """
        if time.monotonic() <= give_up_at:
            return
        host = _get_host(request)
        last_error = self.last_error
        if last_error is not None and _is_temporary_error_of(last_error, host):
            raise RequestFailed(
                f"The host {host} keeps responding with the status "
                f"{last_error.status_code}.",
                request,
                last_error,
            )
        self.silent_host = host
        raise RequestFailed(f"The host {host} does not respond.", request)

    def _send_and_note_silence(
        self, adapter: HTTPAdapter, request: PreparedRequest, options: dict[str, Any]
    ) -> Response:
        """Send a request, and note its host in `silent_host` if no response arrives."""
        import requests

        try:
            response = self._send_with_retries(adapter, request, options)
        except requests.RequestException as error:
            error.request = request  # The errors of a proxy do not contain the request.
            self.silent_host = _get_host(request)
            raise
        self.silent_host = ""
        return response

    def _send_with_retries(
        self, adapter: HTTPAdapter, request: PreparedRequest, options: dict[str, Any]
    ) -> Response:
        """Send a request, and repeat it while a storage account is too busy (429).

        The SDK of the storage service does not repeat requests after this status. Requests
        to other services are sent once here, because the SDKs repeat them.
        """
        from requests.utils import rewind_body

        is_for_storage = ".blob." in _get_host(request)
        attempts_left = STORAGE_ATTEMPTS if is_for_storage else 1
        while True:
            response = self.send_unguarded(adapter, request, **options)
            attempts_left -= 1
            if response.status_code != 429 or attempts_left == 0:
                return response
            seconds = seconds_to_wait(response.headers)
            if seconds > LONGEST_SILENCE:
                # No command waits so long, so the caller gets the error instead.
                return response

            response.close()
            time.sleep(seconds)
            # The attempt has read an uploaded file to its end. The next one must read it
            # from the beginning.
            if hasattr(request.body, "seek"):
                rewind_body(request)

    def _note_response(self, request: PreparedRequest, response: Response) -> None:
        """Keep an error response, and forget the attempts of an answered request."""
        is_error = response.status_code >= 400
        self.is_newest_an_error = is_error
        if is_error:
            self.last_error = response
            if _get_host(request) in LOGIN_HOSTS:
                self.last_login_error = response

        # After a temporary error, the SDK sends the request again, so the time of its first
        # attempt still counts. Any other response, even a 404, answers the request.
        if _is_temporary(response.status_code):
            return
        with self.lock:
            for key in _list_keys(request):
                self.first_attempts.pop(key, None)
            self.last_response_time = time.monotonic()


#: The guard that is in use. There is none outside `guard_requests`.
_active_guard: RequestGuard | None = None


def last_response_time() -> float:
    """Return when a request was last answered, or 0 if no guard is in use.

    The result is a time of the monotonic clock. Temporary errors, such as 500, do not count
    as answers.
    """
    return _active_guard.last_response_time if _active_guard else 0.0


def last_error_response() -> Response | None:
    """Return the last response that was an error, or None if there was none."""
    return _active_guard.last_error if _active_guard else None


def newest_response_if_error() -> Response | None:
    """Return the newest response of all if it was an error, and otherwise None."""
    if _active_guard is None or not _active_guard.is_newest_an_error:
        return None
    return _active_guard.last_error


def silent_host() -> str:
    """Return the host that has not responded to the newest request of all, or ""."""
    return _active_guard.silent_host if _active_guard else ""


def quote_login_refusal() -> str:
    """Return a sentence that quotes the last error response of a login host, or ""."""
    response = _active_guard.last_login_error if _active_guard else None
    if response is None:
        return ""
    error = refusals.read_error(
        response.status_code, response.headers, response.text, response.url
    )
    return refusals.quote(error)


@contextmanager
def guard_requests() -> Iterator[None]:
    """Send all requests of this process through a guard during the `with` block.

    Guards cannot be nested. Passwords in ~/.netrc are ignored, because the package requests
    would send them in place of a token.
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
        """Send a request through the guard.

        This function takes the place of the method `HTTPAdapter.send` of the package
        requests, so it has the same parameters.
        """
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
    # The SDKs create their adapters themselves, so the method of the class is replaced.
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


def _list_keys(request: PreparedRequest) -> list[tuple[str, str]]:
    """Return the two keys of a request: its method and URL, and its method and host.

    Unanswered requests that share a key also share one time limit. With the second key, a
    host that has not responded to one upload does not get the whole time again for the next
    upload, which has another URL.
    """
    method = request.method or ""
    return [(method, request.url or ""), (method, _get_host(request))]


def _get_host(request: PreparedRequest) -> str:
    """Return the host that a request is sent to."""
    return urlsplit(request.url or "").hostname or ""


def _is_temporary(status: int) -> bool:
    """Return whether an HTTP status is temporary: the same request may succeed later.

    The temporary statuses are 429 (the server is busy) and the server's own errors, which
    begin at 500.
    """
    return status == 429 or status >= 500


def _is_temporary_error_of(response: Response, host: str) -> bool:
    """Return whether a response is a temporary error that this host has sent."""
    is_of_host = urlsplit(response.url).hostname == host
    return is_of_host and _is_temporary(response.status_code)


def _shorten_timeout(timeout: Any) -> tuple[float, float]:
    """Return the time-outs for connecting and for reading, each at most LONGEST_SILENCE.

    `timeout` is in the format of the package requests: one number of seconds for both, a
    tuple with one number for each, or None for no limit.
    """
    if isinstance(timeout, tuple):
        connect_timeout, read_timeout = timeout
    else:
        connect_timeout = read_timeout = timeout
    return _limit_seconds(connect_timeout), _limit_seconds(read_timeout)


def _limit_seconds(seconds: float | None) -> float:
    """Return a time-out of at most LONGEST_SILENCE. None stands for no limit."""
    if seconds is None:
        return LONGEST_SILENCE
    return min(seconds, LONGEST_SILENCE)


def _limit_retry_wait(adapter: HTTPAdapter) -> None:
    """Limit how long an adapter waits if it repeats a request by itself."""
    adapter.max_retries.retry_after_max = int(LONGEST_SILENCE)


def _refuse_redirect(request: PreparedRequest, response: Response) -> None:
    """Raise RequestFailed if a redirect would send a token or a secret to another host.

    A redirect to the same host is allowed, except from a login host: the body of a login
    request is a secret, and no login host of Azure needs a redirect.
    """
    if not response.is_redirect:
        return
    host = _get_host(request)
    target = urlsplit(urljoin(request.url or "", response.headers["Location"]))
    stays_on_host = target.scheme == "https" and target.hostname == host
    if stays_on_host and host not in LOGIN_HOSTS:
        return
    response.close()
    raise RequestFailed(
        f"The host {host} redirects to {target.hostname}, but the login must not be sent "
        "there.",
        request,
    )


def _raise_if_too_busy(
    request: PreparedRequest, response: Response, give_up_at: float
) -> None:
    """Raise RequestFailed if a server is busy and asks for a wait that is too long.

    The wait is too long if it ends after `give_up_at`, a time of the monotonic clock.
    """
    is_busy = response.status_code in (429, 503)
    seconds = seconds_to_wait(response.headers)
    if is_busy and time.monotonic() + seconds > give_up_at:
        raise RequestFailed(
            f"The host {_get_host(request)} is busy and asks for a wait of {seconds} s.",
            request,
            response,
        )


def _read_response(
    request: PreparedRequest, response: Response, give_up_at: float
) -> None:
    """Read the body of a response into memory, and let `response.raw` read it from there.

    Raises RequestFailed if the body is too large or arrives too slowly, and
    requests.ConnectionError if the connection fails. After an error, the connection is
    closed.
    """
    # These packages are slow to import, and `check` does not always need them.
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
    # `read1` returns the bytes that have arrived. Older versions of urllib3 have only
    # `read`, which waits for a whole chunk.
    read = getattr(response.raw, "read1", response.raw.read)
    host = _get_host(request)
    body = bytearray()
    while chunk := read(CHUNK_BYTES, decode_content=True):
        body += chunk
        if len(body) > LARGEST_RESPONSE:
            megabytes = LARGEST_RESPONSE // 1_000_000
            raise RequestFailed(
                f"A response from {host} is larger than {megabytes} MB.", request
            )
        if time.monotonic() > give_up_at:
            raise RequestFailed(f"A response from {host} arrives too slowly.", request)
    return bytes(body)
