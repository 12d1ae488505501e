"""What goes over the wire: requests, replies, the table of routes, error bodies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from .state import Azure

REGION = "westeurope"
LOGIN_HOST = "login.microsoftonline.com"
ARM_HOST = "management.azure.com"
ML_HOST = f"{REGION}.api.azureml.ms"
STORAGE_ACCOUNT = "standinstorage"
BLOB_HOST = f"{STORAGE_ACCOUNT}.blob.core.windows.net"

#: The hosts that are played, and the service that each is. Any other host is refused.
SERVICES = {LOGIN_HOST: "login", ARM_HOST: "arm", ML_HOST: "ml", BLOB_HOST: "blob"}

#: What `{scope}` stands for in a route: the resource id of a workspace.
_SCOPE = (
    r"(?P<scope>/subscriptions/[^/]+/resourceGroups/[^/]+"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/[^/]+)"
)


@dataclass
class Request:
    """One request as it was received.

    `route` is the entry of the route table that it matches, None if there is none. Headers
    and query parameters have names in lower case: the services do not tell cases apart.
    """

    method: str
    host: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    route: str | None = None
    values: dict[str, str] = field(default_factory=dict)
    status: int = 0

    @property
    def target(self) -> str:
        """Method, service and path as routes write them: `GET arm/subscriptions/…`."""
        return f"{self.method} {SERVICES[self.host]}{self.path}"

    @property
    def service(self) -> str:
        return SERVICES[self.host]

    @property
    def needs_token(self) -> bool:
        """Blobs are signed, a login gives the token, and where things are all may ask."""
        open_to_all = ("/discovery", "/metadata/endpoints")
        return self.service in ("arm", "ml") and self.path not in open_to_all

    @property
    def has_token(self) -> bool:
        return self.headers.get("authorization", "").startswith("Bearer ")

    def json(self) -> Any:
        return json.loads(self.body) if self.body else {}

    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))

    def __getitem__(self, name: str) -> str:
        """The part of the path that stands where the route says `{name}`."""
        return self.values[name]


@dataclass
class Reply:
    """An answer that is more than JSON with status 200."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        is_ready = isinstance(self.body, bytes)
        return self.body if is_ready else json.dumps(self.body).encode()


class Refusal(Exception):
    """Raised by a route to answer with an error in the shape of its service."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.code = status, code


Handler = Callable[["Azure", Request], Any]
_ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(*targets: str) -> Callable[[Handler], Handler]:
    """Answer the requests of these targets, `METHOD service/path/{name}`.

    `{scope}` is a workspace's resource id; `{name:rest}` may hold slashes; all else is read
    as a regular expression. What a handler returns is sent as JSON, unless it is a Reply.
    """

    def register(handler: Handler) -> Handler:
        for target in targets:
            pattern = target.replace(".", r"\.").replace("{scope}", _SCOPE)
            pattern = re.sub(r"\{(\w+):rest\}", r"(?P<\1>.+)", pattern)
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
            _ROUTES.append((target, re.compile(pattern + "/?", re.IGNORECASE), handler))
        return handler

    return register


def find_route(request: Request) -> Handler | None:
    """The handler of a request, whose `route` and `values` are set from the match."""
    for target, pattern, handler in _ROUTES:
        if match := pattern.fullmatch(request.target):
            request.route, request.values = target, match.groupdict()
            return handler
    return None


_CODES = {
    400: "BadRequest",
    401: "InvalidAuthenticationToken",
    403: "AuthorizationFailed",
    404: "ResourceNotFound",
    429: "TooManyRequests",
    500: "InternalServerError",
    501: "NotImplemented",
}


def error_reply(service: str, status: int, message: str, code: str = "") -> Reply:
    """An error as the service words it: each has a shape of its own."""
    code = code or _CODES.get(status, "Error")
    if service == "blob":
        xml = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        headers = {"x-ms-error-code": code, "Content-Type": "application/xml"}
        return Reply(xml.encode(), status, headers)
    if service == "login":
        text = f"AADSTS7000215: {message}"
        return Reply({"error": "invalid_client", "error_description": text}, status)
    words = {"code": code, "message": message}
    if service == "arm":
        return Reply({"error": words}, status)
    # MLflow's clients read error_code and message, all others read error.
    error: dict[str, Any] = words | {"details": []}
    return Reply({"error": error, "error_code": code, "message": message}, status)
