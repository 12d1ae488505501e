"""Azure as the online checks see it: a login service and a resource manager.

A loopback proxy (HTTPS_PROXY) that answers CONNECT by playing the host that is asked
for, over real TLS with a certificate of its own authority (REQUESTS_CA_BUNDLE). So the
code under test speaks to management.azure.com as ever, and no byte leaves the machine.
The answers have the form of the examples in Microsoft's REST reference.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
SECRET = "s3cret~never-to-be-seen"
ASSERTION = "federated.token.never-to-be-seen"
SUBSCRIPTION = "12345678-9abc-def0-1234-56789abcdef0"
LOGINS = ("login.microsoftonline.com", "login.microsoftonline.us")
MANAGERS = ("management.azure.com", "management.usgovcloudapi.net")

_PROVIDER = "Microsoft.MachineLearningServices"
_SUBSCRIPTION = f"/subscriptions/{SUBSCRIPTION}"
_WORKSPACE = (
    f"{_SUBSCRIPTION}/resourcegroups/rg-ml/providers/{_PROVIDER}/workspaces/ws-ml"
)
_LOCATION = f"{_SUBSCRIPTION}/providers/{_PROVIDER}/locations/westeurope"
PATHS = {
    "subscription": _SUBSCRIPTION,
    "provider": f"{_SUBSCRIPTION}/providers/{_PROVIDER}",
    "group": f"{_SUBSCRIPTION}/resourcegroups/rg-ml",
    "workspace": _WORKSPACE,
    "datastores": f"{_WORKSPACE}/datastores",
    "environment": f"{_WORKSPACE}/environments/penguins-steps",
    "compute": f"{_WORKSPACE}/computes/cpu-cluster",
    "sizes": f"{_LOCATION}/vmSizes",
    "usages": f"{_LOCATION}/usages",
}
VERSIONS = {
    "subscription": "2022-12-01",
    "provider": "2021-04-01",
    "group": "2021-04-01",
}


@dataclass
class Reply:
    """One answer: an object is sent as JSON, a text as it is."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    stall: bool = False  # accept the request and never answer
    trickle: bool = False  # answer with a byte now and then, for a minute


def token(tenant: str = TENANT) -> str:
    """An access token as far as a client can tell: a JWT that names its tenant."""
    parts = [{"alg": "none"}, {"tid": tenant, "aud": "https://management.azure.com/"}]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts]
    return b".".join([*(part.rstrip(b"=") for part in coded), b"signature"]).decode()


def usage(kind: str, name: str, limit: int, used: int = 0) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{SUBSCRIPTION}/usages/{name.replace(' ', '_')}",
        "type": f"{_PROVIDER}/{kind}/usages",
        "currentValue": used,
        "limit": limit,
        "name": {"localizedValue": name, "value": name},
        "unit": "Count",
    }


def healthy() -> dict[str, Reply]:
    """The answers where everything is as the settings say."""
    family = "Standard DSv2 Family Cluster"
    cluster = {
        "vmSize": "STANDARD_DS3_V2",
        "vmPriority": "Dedicated",
        "scaleSettings": {"maxNodeCount": 4, "minNodeCount": 0},
        "allocationState": "Steady",
        "currentNodeCount": 0,
    }
    return {
        "subscription": Reply(
            body={
                "id": _SUBSCRIPTION,
                "subscriptionId": SUBSCRIPTION,
                "tenantId": TENANT,
                "displayName": "Example Subscription",
                "state": "Enabled",
                "managedByTenants": [],
            }
        ),
        "provider": Reply(
            body={"namespace": _PROVIDER, "registrationState": "Registered"}
        ),
        "group": Reply(204),
        "workspace": Reply(
            body={
                "name": "ws-ml",
                "type": f"{_PROVIDER}/workspaces",
                "location": "westeurope",
                "properties": {"discoveryUrl": "https://example.com/discovery"},
            }
        ),
        "datastores": Reply(
            body={
                "value": [
                    {"name": "workspaceblobstore", "properties": {"isDefault": True}}
                ]
            }
        ),
        "environment": Reply(body={"name": "penguins", "properties": {}}),
        "compute": Reply(
            body={
                "name": "cpu-cluster",
                "location": "westeurope",
                "properties": {
                    "computeType": "AmlCompute",
                    "provisioningState": "Succeeded",
                    "properties": cluster,
                },
            }
        ),
        "sizes": Reply(
            body={
                "value": [
                    {"name": name, "family": "standardDSv2Family", "vCPUs": cores}
                    for name, cores in (("Standard_DS2_v2", 2), ("Standard_DS3_v2", 4))
                ]
            }
        ),
        "usages": Reply(
            body={
                "value": [
                    usage("totalCores", "Clusters", 1),
                    usage(
                        "dedicatedCores", "Total Cluster Dedicated Regional vCPUs", 24
                    ),
                    usage("vmFamily", f"{family} Dedicated vCPUs", 12, used=2),
                    usage("vmFamily", f"{family} LowPriority vCPUs", -1),
                    usage("vmFamily", "Standard NC Family Cluster Dedicated vCPUs", 0),
                ]
            }
        ),
    }


class Azure:
    """The two services, with what they answer and a record of what they were asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Reply | list[Reply]] = dict(healthy())
        self.tenant = TENANT  # of the tokens that the login service gives
        self.managed_identity = False
        self.asked: list[tuple[str, str, str]] = []  # host, method and path
        self.port = 0

    def answer(self, host: str, method: str, path: str, form: str, auth: str) -> Reply:
        url = urlsplit(path)
        self.asked.append((host, method, url.path))
        if host in LOGINS:
            return self._login(host, url.path, parse_qs(form))
        if host == "instance metadata":
            if not self.managed_identity:
                return Reply(400, {"error": "invalid_request"})
            body = {"access_token": token(self.tenant), "expires_in": "3600"}
            body |= {"expires_on": str(int(time.time()) + 3600), "token_type": "Bearer"}
            body |= {"resource": parse_qs(url.query)["resource"][0]}
            return Reply(body=body)
        if auth != f"Bearer {token(self.tenant)}":
            return Reply(401, {"error": {"code": "AuthenticationFailed"}})
        query = parse_qs(url.query)
        for name, known in PATHS.items():
            if url.path == known:
                if query["api-version"] != [VERSIONS.get(name, "2024-04-01")]:
                    return Reply(400, {"error": {"code": "InvalidApiVersionParameter"}})
                found = self.answers[name]
                if isinstance(found, list):  # one after the other, the last for ever
                    found = found.pop(0) if len(found) > 1 else found[0]
                return found
        return Reply(404, {"error": {"code": "ResourceNotFound"}})

    def _login(self, host: str, path: str, form: dict[str, list[str]]) -> Reply:
        base = f"https://{host}/{TENANT}"
        if path.endswith("/openid-configuration"):
            body = {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "issuer": f"{base}/v2.0",
            }
            return Reply(body=body | {"authorization_endpoint": f"{base}/authorize"})
        if path.endswith("/discovery/instance"):
            where = f"{base}/v2.0/.well-known/openid-configuration"
            return Reply(body={"tenant_discovery_endpoint": where, "metadata": []})
        if not path.startswith(f"/{TENANT}/"):
            text = "AADSTS900023: Specified tenant identifier is not valid."
            return Reply(400, {"error": "invalid_request", "error_description": text})
        if form.get("client_secret") == [SECRET] or form.get("client_assertion") == [
            ASSERTION
        ]:
            body = {"access_token": token(self.tenant), "token_type": "Bearer"}
            return Reply(body={**body, "expires_in": 3600})
        text = "AADSTS7000215: Invalid client secret provided."
        return Reply(401, {"error": "invalid_client", "error_description": text})


@contextmanager
def play(folder: Path) -> Iterator[tuple[Azure, dict[str, str]]]:
    """The services, and the environment variables that lead to them."""
    authority, azure = trustme.CA(), Azure()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*LOGINS, *MANAGERS).configure_cert(tls)
    authority.cert_pem.write_to_path(folder / "ca.pem")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        host = "instance metadata"  # which is asked without a proxy and without TLS

        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.host = self.path.partition(":")[0]
            if self.host not in LOGINS + MANAGERS:
                azure.asked.append((self.host, "CONNECT", ""))
                raise ConnectionError(f"{self.host} is no host of Azure's")
            self.connection = tls.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", buffering=0)
            self.close_connection = False

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            form = self.rfile.read(length).decode()
            auth = self.headers.get("Authorization", "")
            reply = azure.answer(self.host, self.command, self.path, form, auth)
            if reply.stall:
                stopped.wait(60)
                self.close_connection = True
                return
            text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            body = b"" if reply.body is None else text.encode()
            if reply.trickle:
                body = b" " * 300
            self.send_response(reply.status)
            for header, value in reply.headers.items():
                self.send_header(header, value)
            if reply.status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for byte in body if reply.trickle else ():
                self.wfile.write(bytes([byte]))
                stopped.wait(0.2)
            if self.command != "HEAD" and not reply.trickle:
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients that hang up, which some tests make them do

    stopped, server = threading.Event(), Server(("127.0.0.1", 0), Handler)
    azure.port = server.server_port
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}
    )
    thread.start()
    try:
        here = f"http://127.0.0.1:{server.server_port}"
        yield azure, {
            "HTTPS_PROXY": here,
            "REQUESTS_CA_BUNDLE": str(folder / "ca.pem"),
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": here,
        }
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
