"""The requests and replies of the stand-in, the table of its routes, and error bodies."""

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
#: The same two hosts in Azure's cloud for the government of the USA.
US_LOGIN_HOST = "login.microsoftonline.us"
US_ARM_HOST = "management.usgovcloudapi.net"
ML_HOST = f"{REGION}.api.azureml.ms"
#: Discovery sends clients to these hosts: for run history and data, models, and pipelines.
HISTORY_HOST = f"{REGION}.experiments.azureml.net"
MODELS_HOST = f"{REGION}.modelmanagement.azureml.net"
PIPELINES_HOST = f"{REGION}.aether.ms"
#: Each batch endpoint has a host below this domain.
INFERENCE_DOMAIN = f"{REGION}.inference.ml.azure.com"
#: Answers plain HTTP requests for tokens of a machine's managed identity.
IDENTITY_HOST = "169.254.169.254"
STORAGE_ACCOUNT = "standinstorage"
BLOB_HOST = f"{STORAGE_ACCOUNT}.blob.core.windows.net"
#: The signature in each address of a blob that needs no login (SAS).
SIGNATURE = "signature-of-the-stand-in"

#: The hosts that the stand-in answers for, and their services. It refuses all other hosts.
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
    """Return the service of a host, or None if the stand-in does not answer for it."""
    return SERVICES.get(host) or SERVICES.get(f"*.{host.partition('.')[2]}")


#: The pattern of `{scope}` in a route, the resource id of a workspace.
_SCOPE = (
    r"(?P<scope>/subscriptions/[^/]+/resourceGroups/[^/]+"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/[^/]+)"
)


@dataclass
class Request:
    """A request as it was received.

    `route` is the entry of the route table that it matches, or None. The names of headers
    and query parameters are in lower case, because the services ignore their case.
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
        """Return method, service and path as in a route: `GET arm/subscriptions/…`."""
        return f"{self.method} {self.service}{self.path}"

    @property
    def service(self) -> str:
        """Return the service of the request's host."""
        return service_of(self.host) or "unknown"

    @property
    def needs_token(self) -> bool:
        """Return whether the request must have a token.

        Requests for blobs have a signature or a key, and a login has no token yet.
        """
        public_paths = ("/discovery", "/metadata/endpoints")
        has_tokens = self.service in ("arm", "ml", "inference")
        return has_tokens and self.path not in public_paths

    @property
    def token(self) -> str:
        """Return the bearer token, which is empty if the request has none."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme == "Bearer" else ""

    def json(self) -> Any:
        """Return the body, which is JSON, or an empty dictionary if there is none."""
        return json.loads(self.body) if self.body else {}

    def form_fields(self) -> dict[str, str]:
        """Return the body, which is a form, as the values of its fields."""
        return dict(parse_qsl(self.body.decode()))

    def __getitem__(self, name: str) -> str:
        """Return the part of the path that `{name}` in the route matches."""
        return self.values[name]


@dataclass
class Reply:
    """An answer that is not JSON, or has headers or another status than 200."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        """Return the body as bytes."""
        if self.status == 204:
            return b""
        if isinstance(self.body, bytes):
            return self.body
        return json.dumps(self.body).encode()


class Refusal(Exception):
    """Raised by a route to answer with an error in the format of its service."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


Handler = Callable[["Azure", Request], Any]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(*targets: str) -> Callable[[Handler], Handler]:
    """Let a function answer the requests of some targets, `METHOD service/path/{name}`.

    `{scope}` matches a workspace's resource id, `{name}` a part of a path, and `{name:rest}`
    several parts. The rest of a target is a regular expression. What the function returns is
    sent as JSON, unless it is a Reply.
    """

    def register(handler: Handler) -> Handler:
        """Add a function to the table of routes."""
        for target in targets:
            pattern = target.replace(".", r"\.").replace("{scope}", _SCOPE)
            pattern = re.sub(r"\{(\w+):rest\}", r"(?P<\1>.+)", pattern)
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
            ROUTES.append((target, re.compile(pattern + "/?", re.IGNORECASE), handler))
        return handler

    return register


def find_route(request: Request) -> Handler | None:
    """Return the handler of a request, or None; set the request's `route` and `values`."""
    for target, pattern, handler in ROUTES:
        match = pattern.fullmatch(request.target)
        if match:
            request.route = target
            request.values = match.groupdict()
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
    """Return an error in the format of the service that the request was sent to."""
    code = code or _CODES.get(status, "Error")
    if request.service == "blob":
        xml = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        headers = {"x-ms-error-code": code, "Content-Type": "application/xml"}
        return Reply(xml.encode(), status, headers)
    if request.service in ("login", "identity"):
        if request.service == "login" and not message.startswith("AADSTS"):
            message = f"AADSTS7000215: {message}"
        body = {"error": "invalid_request", "error_description": message}
        return Reply(body, status)
    if request.service in ("arm", "inference"):
        error: dict[str, Any] = {"code": code, "message": message}
        # Errors of the provider have more keys than those of ARM itself.
        if code in ("UserError", "NotFound"):
            error |= {"details": [], "additionalInfo": []}
        return Reply({"error": error}, status)
    if request.path.startswith("/mlflow/"):
        return Reply({"error_code": code, "message": message}, status)
    return Reply(error_of(code, message), status)


def error_of(code: str, message: str) -> dict[str, Any]:
    """Return an error of Azure ML's own services, as in the run history of a failed run."""
    error: dict[str, Any] = {
        "code": code,
        "severity": None,
        "message": message,
        "messageFormat": None,
        "messageParameters": None,
        "referenceCode": None,
        "detailsUri": None,
        "target": None,
        "details": [],
        "innerError": None,
        "additionalInfo": None,
    }
    correlation = {"operation": "0123456789abcdef0123456789abcdef", "request": "0"}
    return {
        "error": error,
        "correlation": correlation,
        "environment": REGION,
        "location": REGION,
        "time": now(),
        "componentName": "standin",
    }


def now() -> str:
    """Return the time as Azure ML writes it, with seven decimals and +00:00."""
    return f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%f}0+00:00"
