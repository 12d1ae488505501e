"""What goes over the wire: requests, replies, the table of routes, error bodies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from .state import Azure

REGION = "westeurope"
LOGIN_HOST = "login.microsoftonline.com"
ARM_HOST = "management.azure.com"
#: The same two of a sovereign cloud.
US_LOGIN_HOST, US_ARM_HOST = "login.microsoftonline.us", "management.usgovcloudapi.net"
ML_HOST = f"{REGION}.api.azureml.ms"
#: Where discovery sends clients for run history and its like, for models, for pipelines.
HISTORY_HOST = f"{REGION}.experiments.azureml.net"
MODELS_HOST = f"{REGION}.modelmanagement.azureml.net"
PIPELINES_HOST = f"{REGION}.aether.ms"
#: Below it each batch endpoint has a host of its own.
INFERENCE_DOMAIN = f"{REGION}.inference.ml.azure.com"
#: Asked in plain HTTP for the managed identity of a machine.
IDENTITY_HOST = "169.254.169.254"
STORAGE_ACCOUNT = "standinstorage"
BLOB_HOST = f"{STORAGE_ACCOUNT}.blob.core.windows.net"
#: Of every address of a blob that needs no login (SAS).
SIGNATURE = "signature-of-the-stand-in"

#: The hosts that are played, and the service that each is. Any other host is refused.
SERVICES = {
    LOGIN_HOST: "login",
    US_LOGIN_HOST: "login",
    ARM_HOST: "arm",
    US_ARM_HOST: "arm",
    ML_HOST: "ml",
    HISTORY_HOST: "ml",
    MODELS_HOST: "ml",
    PIPELINES_HOST: "ml",
    BLOB_HOST: "blob",
    IDENTITY_HOST: "identity",
    f"*.{INFERENCE_DOMAIN}": "inference",
}


def service_of(host: str) -> str | None:
    """The service that a host is, None if it is not played."""
    return SERVICES.get(host) or SERVICES.get(f"*.{host.partition('.')[2]}")


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
    answer: bytes = b""

    @property
    def target(self) -> str:
        """Method, service and path as routes write them: `GET arm/subscriptions/…`."""
        return f"{self.method} {self.service}{self.path}"

    @property
    def service(self) -> str:
        return service_of(self.host) or "unknown"

    @property
    def needs_token(self) -> bool:
        """Blobs are signed, a login gives the token, and where things are all may ask."""
        open_to_all = ("/discovery", "/metadata/endpoints")
        return (
            self.service in ("arm", "ml", "inference") and self.path not in open_to_all
        )

    @property
    def token(self) -> str:
        """The bearer token, empty if there is none."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme == "Bearer" else ""

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
        if self.status == 204:
            return b""
        is_ready = isinstance(self.body, bytes)
        return self.body if is_ready else json.dumps(self.body).encode()


class Refusal(Exception):
    """Raised by a route to answer with an error in the shape of its service."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.code = status, code


Handler = Callable[["Azure", Request], Any]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


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
            ROUTES.append((target, re.compile(pattern + "/?", re.IGNORECASE), handler))
        return handler

    return register


def find_route(request: Request) -> Handler | None:
    """The handler of a request, whose `route` and `values` are set from the match."""
    for target, pattern, handler in ROUTES:
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


def error_reply(request: Request, status: int, message: str, code: str = "") -> Reply:
    """An error as the service words it: each has a shape of its own."""
    code = code or _CODES.get(status, "Error")
    if request.service == "blob":
        xml = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        headers = {"x-ms-error-code": code, "Content-Type": "application/xml"}
        return Reply(xml.encode(), status, headers)
    if request.service in ("login", "identity"):
        is_coded = message.startswith("AADSTS") or request.service == "identity"
        told = message if is_coded else f"AADSTS7000215: {message}"
        words = {"error": "invalid_request", "error_description": told}
        return Reply(words, status)
    if request.service in ("arm", "inference"):
        error: dict[str, Any] = {"code": code, "message": message}
        if code in ("UserError", "NotFound"):  # of the provider, and not of ARM itself
            error |= {"details": [], "additionalInfo": []}
        return Reply({"error": error}, status)
    if request.path.startswith("/mlflow/"):
        return Reply({"error_code": code, "message": message}, status)
    return Reply(error_of(code, message), status)


def error_of(code: str, message: str) -> dict[str, Any]:
    """An error of Azure ML's own services; run history keeps it with a run that failed."""
    empty = ("severity", "messageFormat", "messageParameters", "referenceCode")
    error: dict[str, Any] = dict.fromkeys((*empty, "detailsUri", "target"))
    error |= {"code": code, "message": message, "details": [], "innerError": None}
    correlation = {"operation": "0123456789abcdef0123456789abcdef", "request": "0"}
    return {
        "error": error | {"additionalInfo": None},
        "correlation": correlation,
        "environment": REGION,
        "location": REGION,
        "time": now(),
        "componentName": "standin",
    }


def now() -> str:
    """The time as Azure ML writes it: seven decimals and +00:00."""
    return f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%f}0+00:00"
