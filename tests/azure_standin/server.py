"""The server of the stand-in: an HTTPS proxy that answers instead of Azure's hosts.

It records all requests, and tests can let it fail.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import struct
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

import trustme

# The routes register themselves when their modules are imported.
from . import assets, jobs, pipelines, resources, storage, tracking  # noqa: F401
from .identities import check_blob_login
from .refusals import Refusal as ServiceRefusal
from .resources import CLIENT_ID, CLIENT_SECRET, SUBSCRIPTION_ID, TENANT_ID
from .state import Azure
from .wire import (
    IDENTITY_HOST,
    REGION,
    SERVICES,
    Refusal,
    Reply,
    Request,
    error_reply,
    find_route,
    service_of,
)

_logger = logging.getLogger(__name__)
_POLL_SECONDS = 0.05


@dataclass
class Fault:
    """A fault of the service, for all requests that match a pattern or for some of them."""

    #: A route of the stand-in, or a regular expression that is searched in the target of a
    #: request, such as `PUT blob/…`.
    pattern: str
    #: The status of the error.
    status: int = 500
    #: The first request with the fault. The first matching request is number 1.
    nth: int = 1
    #: The number of requests with the fault, or None for all that follow.
    times: int | None = 1
    #: The header `Retry-After`, in seconds.
    retry_after: int | None = None
    #: The body of the error, in place of the service's own.
    body: Any = None
    #: An answer of the real service, in place of an error with `status`.
    refusal: ServiceRefusal | None = None
    headers: dict[str, str] = field(default_factory=dict)
    #: Send no answer, and cut the connection after these seconds.
    stall: float | None = None
    #: Send the answer slowly, byte by byte.
    trickle: bool = False
    #: Cut the connection halfway through the request.
    cut: bool = False
    #: Do what the request asks for, and cut the connection before the answer.
    lost: bool = False
    #: The number of requests that have matched so far.
    seen: int = 0

    def strikes(self, request: Request) -> bool:
        """Count a request if it matches, and return whether it gets the fault."""
        is_match = re.search(self.pattern, request.target)
        if not is_match and request.route != self.pattern:
            return False
        self.seen += 1
        if self.times is None:
            return self.nth <= self.seen
        return self.nth <= self.seen < self.nth + self.times

    def reply(self, request: Request) -> Reply:
        """Return the answer to a request that gets the fault."""
        if self.refusal:
            reply = self.refusal.reply()
        else:
            message = "The stand-in was told to fail here."
            reply = error_reply(request, self.status, message)
        if self.body is not None:
            reply.body = self.body
        if self.retry_after is not None:
            reply.headers["Retry-After"] = str(self.retry_after)
        reply.headers |= self.headers
        return reply


class Standin:
    """The parts of Azure that a project needs, on a port of 127.0.0.1.

    Start a process with the variables of `environment` to let it use the stand-in. `azure`
    has the state of all services, and `requests` all requests so far. Add to `faults` to let
    requests fail.
    """

    subscription_id = SUBSCRIPTION_ID

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.certificates))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*SERVICES).configure_cert(self._tls)
        self._server = _Proxy(("127.0.0.1", 0), _Handler)
        self._server.standin = self
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self.azure = Azure(folder / "runs", self.environment)
        resources.add_subscription(self.azure)
        self.requests: list[Request] = []
        self.refused_hosts: list[str] = []
        self.mistakes: list[str] = []
        self.faults: list[Fault] = []

    @property
    def certificates(self) -> Path:
        """Return the file with the certificate authority of the stand-in."""
        return self.folder / "ca.pem"

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[Standin]:
        """Start a stand-in that has its files in `folder`, and stop it at the end."""
        standin = cls(folder)
        serve = standin._server.serve_forever
        threading.Thread(target=serve, args=(_POLL_SECONDS,), daemon=True).start()
        try:
            yield standin
        finally:
            standin.stopping.set()
            standin.azure.stop()
            standin._server.shutdown()
            standin._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables that let a process reach the stand-in, and no other host.

        Use a new `home` for each stand-in, because the SDK records uploads there.
        """
        home.mkdir(parents=True, exist_ok=True)
        proxy = f"http://127.0.0.1:{self._server.server_port}"
        # Some libraries read these names in upper case, some in lower case.
        proxies = {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": ""}
        certificates = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
        # Telemetry would go to hosts that are not part of a workspace.
        telemetry_off = ("HBI_WORKSPACE_JOB", "MLFLOW_DISABLE_TELEMETRY")
        return {
            **proxies,
            **{name.upper(): value for name, value in proxies.items()},
            **dict.fromkeys(certificates, str(self.certificates)),
            **dict.fromkeys(telemetry_off, "true"),
            **dict.fromkeys(("HOME", "USERPROFILE"), str(home)),
        }

    @property
    def credentials(self) -> dict[str, str]:
        """Return the variables with the only service principal that may log in."""
        return {
            "AZURE_TENANT_ID": TENANT_ID,
            "AZURE_CLIENT_ID": CLIENT_ID,
            "AZURE_CLIENT_SECRET": CLIENT_SECRET,
        }

    @property
    def unknown_requests(self) -> list[str]:
        """Return the targets of the requests that no route has answered."""
        return [request.target for request in self.requests if request.route is None]

    def verify(self) -> None:
        """Raise AssertionError if a request was unknown, or the stand-in has made a mistake."""
        assert not self.unknown_requests, f"unknown requests: {self.unknown_requests}"
        assert not self.refused_hosts, f"requests to other hosts: {self.refused_hosts}"
        assert not self.mistakes, f"mistakes of the stand-in: {self.mistakes}"

    def received(self, pattern: str) -> list[Request]:
        """Return the requests whose target matches a regular expression, in their order."""
        return [
            request for request in self.requests if re.search(pattern, request.target)
        ]

    def create_workspace(self, name: str, resource_group: str, *clusters: str) -> str:
        """Add a workspace with clusters to the subscription; return its resource id."""
        group = f"/subscriptions/{self.subscription_id}/resourceGroups/{resource_group}"
        scope = f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{name}"
        resources.create_workspace(self.azure, scope)
        for cluster in clusters:
            properties = {
                "vmSize": "STANDARD_D4DS_V4",
                "vmPriority": "Dedicated",
                "scaleSettings": {
                    "minNodeCount": 0,
                    "maxNodeCount": 2,
                    "nodeIdleTimeBeforeScaleDown": "PT120S",
                },
            }
            resources.create_compute(self.azure, scope, cluster, REGION, properties)
        return scope

    def record(self, request: Request) -> Fault | None:
        """Record a request, and return the first fault that applies to it, if any does."""
        find_route(request)
        with self._lock:
            self.requests.append(request)
            # Each fault counts its requests, so all of them must see this one.
            faults = [fault for fault in self.faults if fault.strikes(request)]
        return faults[0] if faults else None

    def answer(self, request: Request) -> Reply:
        """Return the answer of the service that a request was sent to."""
        handler = find_route(request)
        try:
            if handler is None:
                raise Refusal(501, f"The stand-in has no route {request.target}.")
            if request.needs_token and not resources.is_token(request.token):
                raise Refusal(401, "The request has no token, or one of no use.")
            if request.service == "arm" and "api-version" not in request.query:
                raise Refusal(400, "No api-version.", "MissingApiVersionParameter")
            with self.azure.lock:
                refusal_of_blob = check_blob_login(self.azure, request)
                reply = refusal_of_blob or handler(self.azure, request)
        except Refusal as refusal:
            return error_reply(request, refusal.status, str(refusal), refusal.code)
        except Exception:
            _logger.exception("The stand-in has a mistake in %s.", request.route)
            self.mistakes.append(f"{request.target}: {traceback.format_exc()}")
            return error_reply(request, 500, "The stand-in has a mistake here.")
        return reply if isinstance(reply, Reply) else Reply(reply)


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    standin: Standin

    def handle_error(self, request: object, client_address: object) -> None:
        """Record an error, unless a client has closed its connection, as clients may."""
        if not isinstance(sys.exc_info()[1], OSError):
            self.standin.mistakes.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Send each answer at once, and do not wait for the client's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Proxy
    host: str | None = None
    timeout: ClassVar[float] = 600

    def do_CONNECT(self) -> None:
        """Open a tunnel to a host, and speak TLS in it."""
        standin = self.server.standin
        host = self.path.rpartition(":")[0]
        if service_of(host) is None:
            standin.refused_hosts.append(host)
            self.send_error(403, "The stand-in does not answer for this host")
            return
        self.send_response(200, "Connection established")
        self.end_headers()
        self.wfile.flush()
        self.request = standin._tls.wrap_socket(self.request, server_side=True)
        self.setup()
        self.host = host
        self.close_connection = False

    def finish(self) -> None:
        """Close the connection."""
        super().finish()
        # The server closes the socket that it accepted, which TLS has taken over.
        self.request.close()

    def _handle(self) -> None:
        """Answer a request, unless a fault applies to it."""
        standin = self.server.standin
        url = urlsplit(self.path)
        host = self.host or url.netloc
        if self.host is None and host != IDENTITY_HOST:
            # Only the managed identity answers requests in plain HTTP.
            standin.refused_hosts.append(host)
            self.send_error(403, "The stand-in speaks HTTPS only")
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = {name.lower(): value for name, value in parse_qsl(url.query)}
        request = Request(self.command, host, unquote(url.path), query, headers)
        fault = standin.record(request)
        if fault and fault.cut:
            self.rfile.read(int(headers.get("content-length", 0)) // 2)
            self._cut()
            return
        request.body = b"".join(self._read_body(headers))
        if fault and fault.stall is not None:
            standin.stopping.wait(fault.stall)
            self._cut()
            return
        if fault and fault.lost:
            standin.answer(request)
            self._cut()
            return
        reply = fault.reply(request) if fault else standin.answer(request)
        request.status = reply.status
        request.answer = reply.content()
        self._send(reply, slowly=bool(fault and fault.trickle))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _read_body(self, headers: dict[str, str]) -> Iterator[bytes]:
        """Yield the parts of a request's body."""
        if "chunked" not in headers.get("transfer-encoding", ""):
            yield self.rfile.read(int(headers.get("content-length", 0)))
            return
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, reply: Reply, slowly: bool = False) -> None:
        """Send an answer, at a byte every 0.2 seconds if it is to be slow."""
        content = reply.content()
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json"}
        if reply.status != 204:
            headers["Content-Length"] = str(len(content))
        for name, value in (headers | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if slowly:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                self.server.standin.stopping.wait(0.2)
        elif self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def _cut(self) -> None:
        """Break the connection."""
        # With a SO_LINGER of zero, the client sees a reset instead of an orderly end.
        self.request.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing. All requests are in `Standin.requests`."""
