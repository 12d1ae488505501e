"""`check`: are the settings right, and, with `--online`, does Azure agree with them?

Online it asks the cloud's resource manager (REST) as whoever is logged in: by the
variables AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET (or
AZURE_FEDERATED_TOKEN_FILE), by a managed identity, or in `az`. It only reads, never
prompts, and ends within LIMIT seconds, of each workspace. The template's hook uses this
module too.
"""

from __future__ import annotations

import base64
import difflib
import json
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .. import COMMAND
from ..errors import SettingsError
from ..rules import CLOUDS
from ..workspaces import CONFIG, NEEDED, SETTINGS
from .login import (
    CONNECTION_FIX,
    TIMEOUT,
    UNASKED,
    WRONG,
    credential,
    explain,
    explain_login,
    log_in_command,
    seconds_to_wait,
)

if TYPE_CHECKING:  # The template's hook has no pydantic, which settings need.
    from ..project import Project

LIMIT = 60.0  # seconds for everything online, of one workspace
OK, EMPTY = "ok", "to fill in"
ML = "Microsoft.MachineLearningServices"
VERSION = "api-version=2024-04-01"  # of its REST API
IN_WORKSPACE = "--resource-group {resource_group} --workspace-name {workspace_name}"

Answer = tuple[str, ...]  # the fields of a Check after its name
GetToken = Callable[[str, str], str]  # of the login's host, for a scope


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    status: str
    text: str
    fix: str = ""
    file: str = ""  # with key: the setting that the fix is for, if it is for one
    key: str = ""


class Failed(Exception):
    """An Answer that ends a check early."""


class Stopped(Failed):
    """One after which no further check can be made."""


def main(project: Project[Any], online: bool, as_json: bool) -> int:
    """Print the checks, of all workspaces if none is named.

    Returns 1 if something is wrong, or Azure could not be asked about a workspace.
    """
    projects = [project] if project.files.name else project.everywhere()
    checks, is_asked = offline(*projects), True
    for one in projects if online else []:
        start = f"{one.files.name or 'config'}: " if projects[1:] else ""
        rows = ask(one)
        checks += [replace(row, name=start + row.name) for row in rows]
        answered = {row.name for row in rows if row.status != UNASKED}
        empty = {problem.key for problem in one.problems() if problem.kind == "empty"}
        # Without a name of the workspace, there is nothing to ask.
        is_asked &= "workspace" in answered or not empty.isdisjoint(NEEDED)
    if as_json:
        print(json.dumps({"checks": [vars(check) for check in checks]}))
    else:
        _show(checks)
    return int(not is_asked or any(check.status == WRONG for check in checks))


def _show(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colors = {OK: "green", EMPTY: "yellow", WRONG: "bold red", UNASKED: "yellow"}
    console, table = Console(highlight=False), Table(box=None, show_header=False)
    for row in checks:
        table.add_row(row.name, Text(row.status, colors[row.status]), Text(row.text))
    console.print(table)
    for row in checks:  # under the table, whose columns would cut a command in pieces
        if row.fix:
            where = f"{row.file}: {row.key}".strip(": ") or row.name
            console.print(Text(f"\n{where}: {row.fix}"), soft_wrap=True)
    found = [row.status for row in checks]
    counts = [f"{found.count(status)} {status}" for status in colors if status in found]
    console.print("\n" + ", ".join(counts))


def offline(*projects: Project[Any]) -> list[Check]:
    """What the rules say about the settings, and whether the data is there."""
    statuses = {"wrong": WRONG, "empty": EMPTY, "unusual": OK}
    # Of what is the same in several workspaces, each is told once.
    found = dict.fromkeys(p for project in projects for p in project.problems())
    checks = [
        Check(_row(p.file, p.key), statuses[p.kind], p.text, p.fix, p.file, p.key)
        for p in found
    ]
    told = [check.file for check in checks]
    fix = "put the data there, or write where it is"
    for project in projects:
        for file in project.sources:
            if file not in told and (project.root / file).exists():
                checks.append(Check(file, OK, "complete, and right by the rules"))
        with suppress(SettingsError):
            for key, path in project.data().items():
                file = project.file_of(key)
                answer: Answer = (WRONG, f"{path} is missing", fix, file, key)
                if (project.root / path).exists():
                    answer = (OK, path)
                checks.append(Check(_row(file, key), *answer))
    return [*dict.fromkeys(checks)]


def _row(file: str, key: str) -> str:
    """What a row is called: by the key, and in the files of a named workspace by both."""
    if key and file in ("", SETTINGS, CONFIG):
        return key
    return f"{file}: {key}".strip(": ")


def ask(project: Project[Any], get_token: GetToken | None = None) -> list[Check]:
    """What Azure says about the settings; without `get_token`, asks azure-identity."""
    try:
        azure = _Azure(project, get_token)
    except SettingsError:
        return [Check("Azure", UNASKED, "not asked while settings are wrong")]
    # A thread, as no time-out covers the look-up of a name or a body that trickles in.
    thread = threading.Thread(target=azure.make_checks, daemon=True)
    thread.start()
    thread.join(LIMIT)
    text, fix = f"no answer in {LIMIT:.0f} s", "try again later"
    late = [Check("Azure", UNASKED, text, fix)] if thread.is_alive() else []
    return azure.checks + late


class _Azure:
    """Asks the resource manager. The REST calls are those of Microsoft's reference.

    Each check is given what is known by the names of its parameters, and adds to that.
    """

    def __init__(self, project: Project[Any], get_token: GetToken | None) -> None:
        import requests

        settings, self.config = project.settings(), project.workspace_config(needs=())
        self.compute, self.get_token = settings.compute, get_token
        self.provision = f"{COMMAND} provision{project.files.option}"
        self.file = {SETTINGS: project.files.settings, CONFIG: project.files.config}
        name, size = self.compute.name, self.compute.vm_size
        self.known: dict[str, Any] = vars(self.config) | vars(self.compute)
        self.known |= {"compute_name": name, "VM_size": size}
        self.environment, self.tenant = f"{settings.name}-steps", ""
        self.http, self.end = requests.Session(), time.monotonic() + LIMIT
        self.checks: list[Check] = []

    def make_checks(self) -> None:
        """All checks in turn, with a row for each even where Azure gives no answer."""
        stopped: list[str] = []
        for name in [name for name in vars(_Azure) if name.startswith("check_")]:
            check, row = getattr(self, name), name.removeprefix("check_")
            needs = {need: self.known.get(need) for need in signature(check).parameters}
            reasons = stopped + [f"without {need}" for need in needs if not needs[need]]
            try:
                if reasons:
                    raise Failed(UNASKED, f"not asked, {reasons[0].replace('_', ' ')}")
                answer = check(**needs)
            except Failed as failed:
                answer = failed.args
                if isinstance(failed, Stopped):
                    stopped = [f"as {answer[1]}"]
            except (AttributeError, LookupError, TypeError, ValueError):
                answer = (UNASKED, "Azure's answer is not of the documented form")
            made = Check(row.replace("_", " "), *answer)
            self.checks.append(replace(made, file=self.file.get(made.file, "")))

    def get(self, path: str, forbidden: str = UNASKED) -> Any:
        """What Azure answers, None for what is not there; Failed for other errors.

        `forbidden` is a check's status without a right to it; "" for as if it were not there.
        """
        host = CLOUDS[self.config.cloud][1]
        while True:
            try:  # The token is for this host alone: no redirect is followed.
                url = f"https://{host}{path}"
                reply = self.http.get(url, timeout=TIMEOUT, allow_redirects=False)
            except OSError as error:  # as all of requests' are
                text = f"{host} cannot be reached ({type(error).__name__})"
                raise Stopped(UNASKED, text, CONNECTION_FIX) from None
            code, wait = reply.status_code, seconds_to_wait(reply.headers)
            if code != 429 or time.monotonic() + wait > self.end:
                break
            time.sleep(wait)
        if code == 200:
            return reply.json()
        status = {401: WRONG, 403: forbidden, 404: ""}.get(code, UNASKED)
        if not status:
            return None
        what = path.partition("?")[0]
        explained = explain(code, reply.headers, what, self.config.cloud)
        raise (Stopped if code in (401, 429) else Failed)(status, *explained)

    def items(self, path: str, query: str = VERSION) -> Iterator[dict[str, Any]]:
        """The items of a list of Azure ML, of all its pages."""
        while query:
            page = self.get(f"{path}?{query}") or {"value": []}
            yield from page["value"]
            query = urlsplit(page.get("nextLink") or "").query

    def az(self, *words: str) -> str:
        """An az command, ready to paste, with what is known in place of {its name}."""
        values = {"region": "REGION", "VM_size": "SIZE"}  # while they are not known
        values |= {key: shlex.quote(str(one)) for key, one in self.known.items() if one}
        command = " ".join(["az", *words, "--subscription {subscription_id}"])
        return command.format_map(values)

    def check_login(self) -> Answer:
        cloud = self.config.cloud
        login, manager = CLOUDS[cloud]
        scope = f"https://{manager}/.default"
        try:
            if self.get_token:
                token = self.get_token(login, scope)
            else:
                token = credential(login).get_token(scope).token
        except Exception as error:
            raise Stopped(*explain_login(str(error), cloud)) from error
        self.http.headers["Authorization"] = f"Bearer {token}"
        with suppress(ValueError, IndexError):  # only a JWT tells its tenant
            claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
            self.tenant = claims.get("tid", "")
        return OK, f"of tenant {self.tenant}" if self.tenant else "there is one"

    def check_subscription(self, subscription_id: str) -> Answer:
        found = self.get(f"/subscriptions/{subscription_id}?api-version=2022-12-01")
        if not found:
            text = f"the login sees no subscription {subscription_id}"
            fix = "write one that `az account list --output table` shows"
            raise Stopped(WRONG, text, fix, CONFIG, "subscription_id")
        tenant, others = found["tenantId"], found.get("managedByTenants") or []
        if self.tenant not in ["", tenant, *(one["tenantId"] for one in others)]:
            text = f"it is of tenant {tenant}, the login of {self.tenant}"
            return WRONG, text, log_in_command(self.config.cloud, tenant)
        if found["state"] in ("Disabled", "Deleted"):
            return WRONG, f"it is {found['state']}", "have its owner enable it"
        return OK, found.get("displayName", "")

    def check_provider(self, subscription_id: str) -> Answer:
        path = f"/subscriptions/{subscription_id}/providers/{ML}"
        state = self.get(f"{path}?api-version=2021-04-01")["registrationState"]
        text = f"Azure ML is {state} in the subscription"
        if state in ("Registered", "Registering"):
            return OK, text
        return WRONG, text, self.az(f"provider register --namespace {ML}")

    def check_resource_group(self, subscription_id: str, resource_group: str) -> Answer:
        path = f"/subscriptions/{subscription_id}/resourcegroups/{resource_group}"
        found = self.get(f"{path}?api-version=2021-04-01")
        if found is not None:
            return OK, resource_group
        fix = self.az("group create --name {resource_group} --location {region}")
        return WRONG, f"there is no resource group {resource_group}", fix

    def check_workspace(
        self, subscription_id: str, resource_group: str, workspace_name: str
    ) -> Answer:
        name, wanted = workspace_name, self.config.region
        group = f"/subscriptions/{subscription_id}/resourcegroups/{resource_group}"
        path = f"{group}/providers/{ML}/workspaces/{name}"
        found = self.get(f"{path}?{VERSION}", forbidden=WRONG)
        if not found:
            where = "--resource-group {resource_group} --location {region}"
            create = self.az("ml workspace create --name {workspace_name}", where)
            fix = f"{self.provision}, or {create}"
            return WRONG, f"there is no workspace {name} in the resource group", fix
        self.known["workspace"] = path
        self.known["storage_account"] = found["properties"].get("storageAccount")
        region = self.known["region"] = found["location"].replace(" ", "").lower()
        if wanted not in ("", region):
            text = f"the workspace is in {region}, not in {wanted}"
            return WRONG, text, f"write {region}", SETTINGS, "workspace.region"
        kind = found.get("kind") or "Default"
        if kind != "Default":
            fix = "pipelines belong into a workspace of the kind Default"
            return OK, f"{name}, in {region}, is of the kind {kind}", fix
        return OK, f"{name}, in {region}"

    def check_storage(self, workspace: str, storage_account: str) -> Answer:
        name = storage_account.rpartition("/")[2]
        found = self.get(f"{storage_account}?api-version=2022-05-01", forbidden="")
        if not found:
            return UNASKED, f"the login may not see whether {name} accepts keys"
        if found["properties"].get("allowSharedKeyAccess") is not False:
            return OK, f"{name} accepts keys"
        kinds = ("Blob", "Table", "Queue")
        roles = ", ".join(f"Storage {kind} Data Contributor" for kind in kinds)
        fix = f"give the cluster's identity and yours on it {roles}"
        return OK, f"{name} accepts no keys, so steps need roles on it", fix

    def check_default_datastore(self, workspace: str) -> Answer:
        for store in self.items(f"{workspace}/datastores", f"{VERSION}&isDefault=true"):
            return OK, store["name"]
        fix = "make one the default in the Studio, of those that this shows: "
        fix += self.az("ml datastore list", IN_WORKSPACE)
        return WRONG, "the workspace has no default datastore", fix

    def check_environment(self, workspace: str) -> Answer:
        name = self.environment
        if self.get(f"{workspace}/environments/{name}?{VERSION}"):
            return OK, name
        return EMPTY, f"{name} is not in the workspace yet", self.provision

    def check_compute(self, workspace: str, compute_name: str) -> Answer:
        name, wanted = compute_name, self.compute
        found = self.get(f"{workspace}/computes/{name}?{VERSION}")
        if not found:
            create = "ml compute create --name {compute_name} --type AmlCompute"
            nodes = "--size {VM_size} --max-instances {max_nodes}"
            fix = f"{self.provision}, or {self.az(create, nodes, IN_WORKSPACE)}"
            return WRONG, f"there is no compute {name}", fix
        compute = found["properties"]
        kind, state = compute["computeType"], compute["provisioningState"]
        if kind != "AmlCompute":
            text = f"{name} is a {kind}, not a compute cluster (AmlCompute)"
            return WRONG, text, "write another's name", SETTINGS, "compute.name"
        if state in ("Failed", "Canceled", "Deleting"):
            fix = self.az("ml compute show --name {compute_name}", IN_WORKSPACE)
            return WRONG, f"{name} is {state}", fix
        size = compute["properties"]["vmSize"]
        if wanted.vm_size and size.lower() != wanted.vm_size.lower():
            text = f"the nodes of {name} are {size}, not {wanted.vm_size}"
            return WRONG, text, f"write {size}", SETTINGS, "compute.vm_size"
        most = compute["properties"]["scaleSettings"]["maxNodeCount"]
        if most < wanted.max_nodes:
            text = f"{name} has {most} nodes at the most, not {wanted.max_nodes}"
            fix = "ml compute update --name {compute_name} --max-instances {max_nodes}"
            fix = f"write {most}, or {self.az(fix, IN_WORKSPACE)}"
            return WRONG, text, fix, SETTINGS, "compute.max_nodes"
        return OK, f"{name}, up to {most} nodes"

    def check_VM_size(self, subscription_id: str, region: str, VM_size: str) -> Answer:
        location = f"/subscriptions/{subscription_id}/providers/{ML}/locations/{region}"
        name = VM_size.lower()
        sizes = {one["name"].lower(): one for one in self.items(f"{location}/vmSizes")}
        kinds = {key: size["supportedComputeTypes"] for key, size in sizes.items()}
        fit = [key for key in sizes if "AmlCompute" in kinds[key]]
        if name in fit:
            size = self.known["a_VM_size_that_Azure_knows"] = sizes[name]
            self.known["location"] = location
            return OK, f"{VM_size}, {size['vCPUs']} vCPUs"
        near = [sizes[key]["name"] for key in difflib.get_close_matches(name, fit, 3)]
        what = f"{VM_size} for clusters" if name in sizes else VM_size
        text, fix = f"Azure ML has no {what} in {region}", ", ".join(near) or "another"
        return WRONG, text, f"write {fix}", SETTINGS, "compute.vm_size"

    def check_quota(self, a_VM_size_that_Azure_knows: dict[str, Any]) -> Answer:
        size, nodes = a_VM_size_that_Azure_knows, self.compute.max_nodes
        cores, family = size["vCPUs"], size["family"]
        limits = []
        for usage in self.items(f"{self.known['location']}/usages"):
            kind = usage["type"].removeprefix(f"{ML}/")
            is_family = usage["name"]["value"].lower() == family.lower()
            if kind == "totalDedicatedCores/usages" or (
                kind == "vmFamily/dedicatedCores/usages" and is_family
            ):
                limits.append(usage)
        if not limits:
            return UNASKED, f"Azure names no quota of {family}"
        text = f"{nodes} nodes need {nodes * cores} vCPUs"
        limited = [usage for usage in limits if usage["limit"] >= 0]
        if not limited:
            return OK, f"{text}, without a limit"
        least = min(limited, key=lambda usage: usage["limit"])
        limit, name = least["limit"], least["name"]["localizedValue"]
        text += f", of {limit} allowed, {least['currentValue']} in use ({name})"
        if nodes * cores <= limit:
            return OK, text
        fix, key = "write a smaller one", "compute.vm_size"
        if limit >= cores:
            fix, key = f"write {limit // cores}", "compute.max_nodes"
        return WRONG, text, f"{fix}, or ask for more quota in the Studio", SETTINGS, key
