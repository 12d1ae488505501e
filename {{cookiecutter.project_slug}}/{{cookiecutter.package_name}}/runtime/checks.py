"""`check`: are the settings right, and, with `--online`, does Azure agree with them?

Online it asks the cloud's resource manager (REST) as whoever is logged in: by the
variables AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET (or
AZURE_FEDERATED_TOKEN_FILE), by a managed identity, or in `az`. It only reads, never
prompts for a login, and ends within LIMIT seconds whatever Azure does. The template's
hook uses this module too.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import difflib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .project import (
    CONFIG,
    SETTINGS,
    Project,
    ProjectSettings,
    SettingsError,
    WorkspaceConfig,
)
from .rules import CLOUDS

LIMIT = 60.0  # seconds for everything online
TIMEOUT = 10.0  # seconds for one request
OK, EMPTY, WRONG, UNASKED = "ok", "to fill in", "wrong", "could not ask"
COMMAND = f"python -m {Path(__file__).resolve().parents[1].name}"
ML = "Microsoft.MachineLearningServices"
ML_VERSION = "2024-04-01"  # of its REST API
#: What a step's identity takes on a storage account that accepts no keys.
ROLES = ("Blob", "Table", "Queue")  # Storage ... Data Contributor
CONNECTION_FIX = "check the network, HTTPS_PROXY and REQUESTS_CA_BUNDLE"

Answer = tuple[str, ...]  # the fields of a Check after its name


@dataclasses.dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    status: str
    text: str
    fix: str = ""
    file: str = ""  # with key: the setting that the fix is for, if it is for one
    key: str = ""


class Failed(Exception):
    """An Answer that ends a check early; with `stop` no further one can be made."""

    def __init__(self, *answer: str, stop: bool = False) -> None:
        super().__init__(*answer)
        self.stop = stop


def main(project: Project[Any], online: bool, as_json: bool) -> int:
    """Print the checks; 1 when something is wrong, else 0."""
    checks = offline(project) + (ask(project) if online else [])
    if as_json:
        print(json.dumps({"checks": [dataclasses.asdict(check) for check in checks]}))
    else:
        _show(checks)
    return int(any(check.status == WRONG for check in checks))


def _show(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colors = {OK: "green", EMPTY: "yellow", WRONG: "bold red", UNASKED: "yellow"}
    table = Table(box=None, show_header=False)
    for check in checks:
        table.add_row(
            check.name, Text(check.status, colors[check.status]), Text(check.text)
        )
    console = Console(highlight=False)
    console.print(table)
    for check in checks:  # under the table, whose columns would cut a command in pieces
        if check.fix:
            where = f"{check.file}: {check.key}".strip(": ") or check.name
            console.print(Text(f"\n{where}: {check.fix}"), soft_wrap=True)
    found = [check.status for check in checks]
    counts = [f"{found.count(status)} {status}" for status in colors if status in found]
    console.print("\n" + ", ".join(counts))


def offline(project: Project[Any]) -> list[Check]:
    """What the rules say about the settings, and whether the data is there."""
    statuses = {"wrong": WRONG, "empty": EMPTY, "unusual": OK}
    checks = [
        Check(p.key or p.file, statuses[p.kind], p.text, p.fix, p.file, p.key)
        for p in project.problems()
    ]
    for file in (SETTINGS, CONFIG):
        if file not in [check.file for check in checks]:
            checks.append(Check(file, OK, "complete, and right by the rules"))
    with contextlib.suppress(SettingsError):
        for key, path in project.data().items():
            if (project.root / path).exists():
                checks.append(Check(key, OK, path))
            else:
                fix = "put the data there, or write where it is"
                missing = f"{path} is missing"
                checks.append(Check(key, WRONG, missing, fix, SETTINGS, key))
    return checks


def ask(project: Project[Any]) -> list[Check]:
    """What Azure says about the settings."""
    try:
        azure = _Azure(project.settings(), project.workspace_config(needs=()))
    except SettingsError:
        return [Check("Azure", UNASKED, "not asked while settings are wrong")]
    checks: list[Check] = []

    def work() -> None:
        for check in azure.checks():
            checks.append(check)  # noqa: PERF402 (one by one, for who waits below)

    # A thread, as no time-out covers the look-up of a name or a body that trickles in.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(LIMIT)
    done = list(checks)
    if thread.is_alive():
        done.append(
            Check("Azure", UNASKED, f"no answer in {LIMIT:.0f} s", "try again later")
        )
    return done


class _Azure:
    """Asks the resource manager. The REST calls are those of Microsoft's reference."""

    def __init__(self, settings: ProjectSettings, workspace: WorkspaceConfig) -> None:
        import requests

        self.settings, self.compute, self.config = settings, settings.compute, workspace
        self.login_host, self.host = CLOUDS[workspace.cloud]
        self.log_in = log_in_command(workspace.cloud)
        self.http, self.unreachable = requests.Session(), requests.RequestException
        self.end = time.monotonic() + LIMIT
        self.subscription = f"/subscriptions/{workspace.subscription_id}"
        self.group = f"{self.subscription}/resourcegroups/{workspace.resource_group}"
        self.provider = f"{self.subscription}/providers/{ML}"
        machine_learning = f"{self.group}/providers/{ML}"
        self.workspace = f"{machine_learning}/workspaces/{workspace.workspace_name}"
        # What one check finds out for later ones.
        self.tenant = ""
        self.workspace_exists = False
        self.storage = ""  # the resource id of the workspace's storage account
        self.region = workspace.region  # the workspace's own, once that is known
        self.size: dict[str, Any] = {}

    def checks(self) -> Iterator[Check]:
        """All checks in turn, with a row for each even where Azure gives no answer."""
        stopped = ""
        for name, check in {
            "login": self.check_login,
            "subscription": self.check_subscription,
            "provider": self.check_provider,
            "resource group": self.check_group,
            "workspace": self.check_workspace,
            "storage": self.check_storage,
            "default datastore": self.check_datastore,
            "environment": self.check_environment,
            "compute": self.check_compute,
            "VM size": self.check_size,
            "quota": self.check_quota,
        }.items():
            if stopped:
                yield Check(name, UNASKED, f"not asked, as {stopped}")
                continue
            try:
                yield Check(name, *check())
            except Failed as failed:
                yield Check(name, *failed.args)
                stopped = failed.args[1] if failed.stop else ""
            except (AttributeError, IndexError, KeyError, TypeError, ValueError):
                yield Check(
                    name, UNASKED, "Azure's answer is not of the documented form"
                )

    def get(
        self,
        path: str,
        version: str,
        query: Mapping[str, str] | None = None,
        method: str = "GET",
        absent: tuple[int, ...] = (404,),
    ) -> Any:
        """What Azure answers, None for an `absent` status; Failed for other errors."""
        while True:
            left = self.end - time.monotonic()
            try:
                reply = self.http.request(
                    method,
                    f"https://{self.host}{path}",
                    params={**(query or {}), "api-version": version},
                    timeout=max(0.1, min(TIMEOUT, left)),
                    allow_redirects=False,  # the token is for this host alone
                )
            except self.unreachable as error:
                text = f"{self.host} cannot be reached ({type(error).__name__})"
                raise Failed(UNASKED, text, CONNECTION_FIX, stop=True) from None
            wait = _seconds_to_wait(reply.headers)
            if reply.status_code != 429 or wait > self.end - time.monotonic():
                break
            time.sleep(wait)
        code = reply.status_code
        if code in absent:
            return None
        if code not in (200, 204):
            is_wrong = code == 401 or (code == 403 and path == self.workspace)
            answer = explain(code, reply.headers, path, self.log_in)
            status = WRONG if is_wrong else UNASKED
            raise Failed(status, *answer, stop=code in (401, 429))
        return reply.json() if method == "GET" else {}

    def items(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """The items of a list of Azure ML, of all its pages."""
        while True:
            page = self.get(path, ML_VERSION, query) or {"value": []}
            yield from page["value"]
            if not page.get("nextLink"):
                return
            query = dict(parse_qsl(urlsplit(page["nextLink"]).query))

    def need(self, **values: object) -> None:
        for name, value in values.items():
            if not value:
                raise Failed(UNASKED, f"not asked, without {name.replace('_', ' ')}")

    def az(self, command: str, *values: object) -> str:
        """An az command, ready to paste, with each {} replaced by a value."""
        quoted = [shlex.quote(str(value)) for value in values]
        group, name = (
            shlex.quote(self.config.resource_group),
            self.config.workspace_name,
        )
        workspace = f"--resource-group {group} --workspace-name {name}"
        command = command.format(*quoted, workspace=workspace)
        return f"az {command} --subscription {self.config.subscription_id}"

    def check_login(self) -> Answer:
        token = _token(self.login_host, self.host, self.log_in)
        self.http.headers["Authorization"] = f"Bearer {token}"
        with contextlib.suppress(ValueError, IndexError):  # only a JWT tells its tenant
            claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
            self.tenant = claims.get("tid", "")
        return OK, f"of tenant {self.tenant}" if self.tenant else "there is one"

    def check_subscription(self) -> Answer:
        self.need(subscription_id=self.config.subscription_id)
        found = self.get(self.subscription, "2022-12-01")
        if not found:
            text = f"the login sees no subscription {self.config.subscription_id}"
            fix = "write one that `az account list --output table` shows"
            raise Failed(WRONG, text, fix, CONFIG, "subscription_id", stop=True)
        others = [one["tenantId"] for one in found.get("managedByTenants") or []]
        if self.tenant and self.tenant not in [found["tenantId"], *others]:
            text = f"it is of tenant {found['tenantId']}, the login of {self.tenant}"
            return WRONG, text, f"{self.log_in} --tenant {found['tenantId']}"
        if found["state"] in ("Disabled", "Deleted"):
            return WRONG, f"it is {found['state']}", "have its owner enable it"
        return OK, found.get("displayName", "")

    def check_provider(self) -> Answer:
        self.need(subscription_id=self.config.subscription_id)
        found = self.get(self.provider, "2021-04-01")
        text = f"Azure ML is {found['registrationState']} in the subscription"
        if found["registrationState"] in ("Registered", "Registering"):
            return OK, text
        fix = self.az("provider register --namespace {}", ML)
        return WRONG, text, fix

    def check_group(self) -> Answer:
        name = self.config.resource_group
        self.need(subscription_id=self.config.subscription_id, resource_group=name)
        if self.get(self.group, "2021-04-01", method="HEAD") is not None:
            return OK, name
        region = self.region or "REGION"
        fix = self.az("group create --name {} --location {}", name, region)
        return WRONG, f"there is no resource group {name}", fix

    def check_workspace(self) -> Answer:
        name = self.config.workspace_name
        self.need(subscription_id=self.config.subscription_id)
        self.need(resource_group=self.config.resource_group, workspace_name=name)
        found = self.get(self.workspace, ML_VERSION)
        if not found:
            fix = f"{COMMAND} provision, or " + self.az(
                "ml workspace create --name {} --resource-group {} --location {}",
                name,
                self.config.resource_group,
                self.region or "REGION",
            )
            return WRONG, f"there is no workspace {name} in the resource group", fix
        self.workspace_exists = True
        self.storage = found["properties"].get("storageAccount") or ""
        self.region = found["location"].replace(" ", "").lower()
        if self.config.region not in ("", self.region):
            text = f"the workspace is in {self.region}, not in {self.config.region}"
            return WRONG, text, f"write {self.region}", SETTINGS, "workspace.region"
        kind = found.get("kind") or "Default"
        if kind != "Default":
            fix = "pipelines belong into a workspace of the kind Default"
            return OK, f"{name}, in {self.region}, is of the kind {kind}", fix
        return OK, f"{name}, in {self.region}"

    def check_storage(self) -> Answer:
        self.need(workspace=self.workspace_exists, storage_account=self.storage)
        found = self.get(self.storage, "2022-05-01", absent=(403, 404))
        name = self.storage.rpartition("/")[2]
        if not found:
            return UNASKED, f"the login may not see whether {name} accepts keys"
        if found["properties"].get("allowSharedKeyAccess") is not False:
            return OK, f"{name} accepts keys"
        roles = [f"Storage {kind} Data Contributor" for kind in ROLES]
        fix = f"give the cluster's identity and yours on it {', '.join(roles)}"
        return OK, f"{name} accepts no keys, so steps need roles on it", fix

    def check_datastore(self) -> Answer:
        self.need(workspace=self.workspace_exists)
        for store in self.items(f"{self.workspace}/datastores", isDefault="true"):
            return OK, store["name"]
        fix = "make one the default in the Studio, of those that this shows: "
        fix += self.az("ml datastore list {workspace}")
        return WRONG, "the workspace has no default datastore", fix

    def check_environment(self) -> Answer:
        self.need(workspace=self.workspace_exists)
        name = f"{self.settings.name}-steps"
        if self.get(f"{self.workspace}/environments/{name}", ML_VERSION):
            return OK, name
        return EMPTY, f"{name} is not in the workspace yet", f"{COMMAND} provision"

    def check_compute(self) -> Answer:
        wanted, name = self.compute, self.compute.name
        self.need(workspace=self.workspace_exists, compute_name=name)
        found = self.get(f"{self.workspace}/computes/{name}", ML_VERSION)
        if not found:
            fix = f"{COMMAND} provision, or " + self.az(
                "ml compute create --name {} --type AmlCompute --size {} "
                "--max-instances {} {workspace}",
                name,
                wanted.vm_size or "SIZE",
                wanted.max_nodes,
            )
            return WRONG, f"there is no compute {name}", fix
        compute = found["properties"]
        kind, state = compute["computeType"], compute["provisioningState"]
        if kind != "AmlCompute":
            text = f"{name} is a {kind}, not a compute cluster (AmlCompute)"
            return WRONG, text, "write another's name", SETTINGS, "compute.name"
        if state in ("Failed", "Canceled", "Deleting"):
            fix = self.az("ml compute show --name {} {workspace}", name)
            return WRONG, f"{name} is {state}", fix
        size = compute["properties"]["vmSize"]
        if wanted.vm_size and size.lower() != wanted.vm_size.lower():
            text = f"the nodes of {name} are {size}, not {wanted.vm_size}"
            return WRONG, text, f"write {size}", SETTINGS, "compute.vm_size"
        most = compute["properties"]["scaleSettings"]["maxNodeCount"]
        if most < wanted.max_nodes:
            fix = "ml compute update --name {} --max-instances {} {workspace}"
            fix = f"write {most}, or " + self.az(fix, name, wanted.max_nodes)
            text = f"{name} has {most} nodes at the most, not {wanted.max_nodes}"
            return WRONG, text, fix, SETTINGS, "compute.max_nodes"
        return OK, f"{name}, up to {most} nodes"

    def check_size(self) -> Answer:
        name = self.compute.vm_size
        self.need(subscription_id=self.config.subscription_id, region=self.region)
        self.need(VM_size=name)
        path = f"{self.provider}/locations/{self.region}/vmSizes"
        sizes = {size["name"].lower(): size for size in self.items(path)}
        for_clusters = {
            key: size["name"]
            for key, size in sizes.items()
            if "AmlCompute" in size["supportedComputeTypes"]
        }
        if name.lower() in for_clusters:
            self.size = sizes[name.lower()]
            return OK, f"{name}, {self.size['vCPUs']} vCPUs"
        near = difflib.get_close_matches(name.lower(), for_clusters, 3)
        fix = f"write {', '.join(for_clusters[key] for key in near) or 'another'}"
        what = f"{name} for clusters" if name.lower() in sizes else name
        text = f"Azure ML has no {what} in {self.region}"
        return WRONG, text, fix, SETTINGS, "compute.vm_size"

    def check_quota(self) -> Answer:
        self.need(a_VM_size_that_Azure_knows=self.size)
        cores, nodes = self.size["vCPUs"], self.compute.max_nodes
        family = self.size["family"].lower()
        limits = []
        for usage in self.items(f"{self.provider}/locations/{self.region}/usages"):
            kind = usage["type"].removeprefix(f"{ML}/")
            is_family = usage["name"]["value"].lower() == family
            if kind == "totalDedicatedCores/usages" or (
                kind == "vmFamily/dedicatedCores/usages" and is_family
            ):
                limits.append(usage)
        if not limits:
            return UNASKED, f"Azure names no quota of {self.size['family']}"
        limited = [usage for usage in limits if usage["limit"] >= 0]
        needs = f"{nodes} nodes need {nodes * cores} vCPUs"
        if not limited:
            return OK, f"{needs}, without a limit"
        least = min(limited, key=lambda usage: usage["limit"])
        limit, name = least["limit"], least["name"]["localizedValue"]
        text = f"{needs}, of {limit} allowed, {least['currentValue']} in use ({name})"
        if nodes * cores <= limit:
            return OK, text
        more = "ask for more quota in the Studio"
        if limit >= cores:
            fix = f"write {limit // cores}, or {more}"
            return WRONG, text, fix, SETTINGS, "compute.max_nodes"
        fix = f"write a smaller one, or {more}"
        return WRONG, text, fix, SETTINGS, "compute.vm_size"


def log_in_command(cloud: str) -> str:
    """How a person logs in."""
    switch = "" if cloud == "AzureCloud" else f"az cloud set --name {cloud} && "
    return f"{switch}az login"


def explain(
    code: int, headers: Mapping[str, str], path: str, log_in: str
) -> tuple[str, str]:
    """What an error of Azure's means, for a request about `path`, and how to mend it."""
    if code == 401:
        named = headers.get("WWW-Authenticate", "")
        tenant = re.search(r'https://[^/"]+/([0-9a-f-]{36})', named)
        fix = f"{log_in} --tenant {tenant[1]}" if tenant else log_in
        return "Azure does not accept the login", fix
    if code == 403:
        fix = f"ask for a role on {path}, such as AzureML Data Scientist"
        return "the login has no right to it", fix
    if code == 429:
        wait = _seconds_to_wait(headers)
        return f"Azure is busy, and asks to wait {wait} s", "try again later"
    return f"Azure answers with error {code}", "try again later"


def _seconds_to_wait(headers: Mapping[str, str]) -> int:
    after = headers.get("Retry-After", "")
    return max(1, int(after)) if after.isdecimal() else 5


def credential(login: str) -> Any:
    """Whoever is logged in, asked without a prompt; needs azure-identity."""
    from azure.identity import DefaultAzureCredential

    logging.getLogger("azure").setLevel(logging.CRITICAL)  # explain_login says it all
    os.environ.setdefault("AZURE_AUTHORITY_HOST", login)  # federated tokens need it
    return DefaultAzureCredential(
        authority=login,
        exclude_shared_token_cache_credential=True,
        exclude_powershell_credential=True,
        exclude_developer_cli_credential=True,
        process_timeout=int(2 * TIMEOUT),
        connection_timeout=5,
        read_timeout=TIMEOUT,
        retry_total=1,
    )


def explain_login(answer: str, login: str, log_in: str) -> Failed:
    """What it means that no token was given, from the text of an error about it."""
    code = re.search(r"AADSTS(\d+)", answer)
    variables = "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
    if code:
        why = f"https://{login}/error?code={code[1]} tells why"
        fix = f"{log_in}, or correct {variables} ({why})"
        return Failed(WRONG, f"Azure refuses it with {code[0]}", fix, stop=True)
    text = "there is no login, or no answer to it"
    return Failed(UNASKED, text, f"{log_in}, or set {variables}", stop=True)


def _token(login: str, manager: str, log_in: str) -> str:
    """A token for the resource manager; Failed where there is none."""
    try:
        import azure.identity  # noqa: F401 (what credential() needs)
        from azure.core.exceptions import AzureError
    except ImportError:  # in the template's hook, which runs where cookiecutter does
        answer = _ask_for_token(login, manager)
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found = json.loads(answer)
            return str(found.get("access_token") or found["accessToken"])
    else:
        try:
            return str(credential(login).get_token(f"https://{manager}/.default").token)
        except (AzureError, ValueError) as error:  # ValueError: no tenant's id
            answer = str(error)
    raise explain_login(answer, login, log_in)


def _ask_for_token(login: str, manager: str) -> str:
    """What the login service or else az answers: JSON with a token, or an error."""
    import requests

    names = ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET", "FEDERATED_TOKEN_FILE")
    tenant, client, secret, file = (os.environ.get(f"AZURE_{name}") for name in names)
    form = {"grant_type": "client_credentials", "client_id": client or ""}
    form["scope"] = f"https://{manager}/.default"
    try:
        if tenant and client and (secret or file):
            if secret:
                form["client_secret"] = secret
            elif file:
                jwt = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
                form["client_assertion_type"] = jwt
                form["client_assertion"] = Path(file).read_text(encoding="utf-8")
            url = f"https://{login}/{tenant}/oauth2/v2.0/token"
            return requests.post(url, form, timeout=TIMEOUT).text
        az = [shutil.which("az") or "az", "account", "get-access-token"]
        done = subprocess.run(
            [*az, "--output", "json", "--resource", f"https://{manager}/"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * TIMEOUT,
        )
        return done.stdout or done.stderr
    except (OSError, subprocess.SubprocessError):  # those of requests are OSErrors
        return ""
