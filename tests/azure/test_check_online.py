"""Test `check --online`, and a generation with check_azure=online, against a stand-in.

The real credential classes and the real requests are used, over TLS, in processes of their
own. No test needs a network, and none is disturbed by one: see azure_standin/.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from azure_standin import Fault, Standin, resources
from azure_standin.state import Azure, Json
from conftest import PYTHONS, TEMPLATE

ANSWERS = {
    "azure_subscription_id": Standin.subscription_id,
    "azure_resource_group": "rg-ml",
    "azure_workspace_name": "ws-ml",
    "azure_region": "westeurope",
}
SERVICE_PRINCIPAL = {
    "AZURE_TENANT_ID": resources.TENANT_ID,
    "AZURE_CLIENT_ID": resources.CLIENT_ID,
    "AZURE_CLIENT_SECRET": resources.CLIENT_SECRET,
}
GROUP = f"/subscriptions/{Standin.subscription_id}/resourceGroups/rg-ml"
PROVIDER = f"/subscriptions/{Standin.subscription_id}/providers/{resources.PROVIDER}"
WORKSPACE = f"{GROUP}/providers/{resources.PROVIDER}/workspaces/ws-ml"
#: What is asked: the request for it, and the resource that answers it.
ASKED = {
    "subscription": ("GET arm/subscriptions/[^/]+$", PROVIDER.split("/prov")[0]),
    "provider": ("GET arm/subscriptions/[^/]+/providers/[^/]+$", PROVIDER),
    "group": ("GET arm.*/resourcegroups/[^/]+$", GROUP),
    "workspace": ("GET arm.*/workspaces/ws-ml$", WORKSPACE),
    "storage": ("GET arm.*/storageAccounts/", ""),
    "datastores": ("GET arm.*/datastores$", ""),
    "environment": ("GET arm.*/environments/penguins-steps$", ""),
    "compute": ("GET arm.*/computes/", f"{WORKSPACE}/computes/cpu-cluster"),
    "sizes": ("GET arm.*/vmSizes$", f"{PROVIDER}/locations/westeurope/vmSizes"),
    "usages": ("GET arm.*/usages$", f"{PROVIDER}/locations/westeurope/usages"),
}
#: The discard port, where none listens.
NO_NETWORK = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
ROWS = [
    *("login", "subscription", "provider", "resource group", "workspace"),
    *("storage", "default datastore", "container registry", "environment", "compute"),
    *("cluster's identity", "your roles", "cluster's roles", "VM size", "quota"),
]


def generate(
    folder: Path, answers: dict[str, str], env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    text = (TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8")
    assert answers.keys() <= json.loads(text).keys()
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
    command += [f"{key}={answer}" for key, answer in answers.items()]
    return subprocess.run(
        command,
        cwd=folder,
        env=env,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    done = generate(folder, ANSWERS)
    assert done.returncode == 0, done.stderr
    return folder / "penguins"


@dataclass
class Checker:
    """Runs the check command's logic in a project, with a played Azure around it."""

    project: Path
    standin: Standin
    env: dict[str, str]
    code: int = -1
    output: str = ""
    seconds: float = 0

    def __call__(self, before: str = "pass") -> dict[str, dict[str, str]]:
        """The rows by their names; `before` runs first in the process."""
        script = "import sys; from penguins.runtime.azure import checks; "
        script += "from penguins.__main__ import PROJECT, load_pipelines as load;"
        script += f"{before};"
        script += "sys.exit(checks.main(PROJECT, load, online=True, as_json=True))"
        start = time.monotonic()
        done = subprocess.run(
            [PYTHONS["azureml-sdk"], "-c", script],
            cwd=self.project,
            env=self.env,
            text=True,
            capture_output=True,
            timeout=100,
            check=False,
        )
        self.seconds = time.monotonic() - start
        self.code, self.output = done.returncode, done.stdout + done.stderr
        assert done.stderr == ""
        tokens = [request.token for request in self.standin.requests]
        hidden = [resources.CLIENT_SECRET, resources.CLIENT_ASSERTION, *tokens]
        for secret in filter(None, hidden):
            assert secret not in self.output
        return {row["name"]: row for row in json.loads(done.stdout)["checks"]}

    def answer(self, asked: str, reply: Fault) -> None:
        """Let the stand-in answer a request in another way."""
        reply.pattern = ASKED[asked][0]
        self.standin.faults.append(reply)

    @property
    def hosts(self) -> set[str]:
        """The hosts that were asked."""
        return {request.host for request in self.standin.requests}


@pytest.fixture
def check(project: Path, tmp_path: Path) -> Iterator[Checker]:
    (tmp_path / "bin").mkdir()
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AZURE_", "IDENTITY_", "MSI_"))
        and key.lower() not in ("no_proxy", "https_proxy", "http_proxy", "all_proxy")
    }
    env |= {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}  # with no az
    with Standin.running(tmp_path / "standin") as standin:
        standin.create_workspace("ws-ml", "rg-ml", "cpu-cluster")
        standin.azure.environments["penguins-steps"].append({"version": "1"})
        env |= standin.environment(tmp_path)
        yield Checker(project, standin, env | SERVICE_PRINCIPAL)
        assert not standin.unknown_requests
        assert not standin.mistakes


def statuses(rows: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: rows[name]["status"] for name in ROWS}


def test_all_is_well(check: Checker) -> None:
    assert set(statuses(check()).values()) == {"ok"}
    assert check.code == 0
    assert check.hosts == {"login.microsoftonline.com", "management.azure.com"}
    requests = check.standin.received(" arm/")
    assert {request.method for request in requests} == {"GET"}


def reply(status: int = 200, body: Any = None, **options: Any) -> Fault:
    """Return an answer other than the healthy one; it stays the same for each request."""
    return Fault("", status, body=body, **{"times": None, **options})


def healthy(asked: str) -> Json:
    """Return the answer of an Azure in which everything is as the settings say."""
    azure = Azure(Path(), lambda home: {})
    resources.fill(azure)
    resources.create_workspace(azure, WORKSPACE)
    scale = {"maxNodeCount": 2, "minNodeCount": 0}
    wanted = {"vmSize": "STANDARD_D4DS_V4", "scaleSettings": scale}
    resources.create_compute(azure, WORKSPACE, "cpu-cluster", "westeurope", wanted)
    return resources.resource_of(azure, ASKED[asked][1])


def body(asked: str, **changes: Any) -> Fault:
    """The healthy answer with values changed: a__b=1 changes {"a": {"b": …}}."""
    answer = healthy(asked)
    for keys, value in changes.items():
        *path, last = keys.split("__")
        place = answer
        for key in path:
            place = place[key]
        place[last] = value
    return reply(body=answer)


FAMILY = "vmFamily/dedicatedCores/usages"
TOTAL = "totalDedicatedCores/usages"
ID = Standin.subscription_id
OTHER = "99999999-2222-3333-4444-555555555555"
INNER = "properties__properties__"


def for_instances_only() -> list[Json]:
    """The sizes where Standard_D4ds_v4 is offered for compute instances alone."""
    small, wanted, *_ = healthy("sizes")["value"]
    return [small, wanted | {"supportedComputeTypes": ["ComputeInstance"]}]


def quota(total: int, family: int) -> Fault:
    """The healthy usages with other limits; other families' stay as they are."""
    usages = healthy("usages")
    for usage in usages["value"]:
        kind = usage["type"].removeprefix(f"{resources.PROVIDER}/")
        if kind == TOTAL:
            usage["limit"] = total
        if kind == FAMILY and usage["name"]["value"] == "standardDDSv4Family":
            usage["limit"] = family
    return reply(body=usages)


@pytest.mark.parametrize(
    ("asked", "other", "row", "text", "fix"),
    [
        (
            "subscription",
            reply(404),
            "subscription",
            ID,
            "az account list",
        ),
        (
            "subscription",
            reply(
                401, headers={"WWW-Authenticate": f'Bearer uri="https://x.net/{OTHER}"'}
            ),
            "subscription",
            "not accept the login",
            f"az login --tenant {OTHER}",
        ),
        (
            "subscription",
            body("subscription", tenantId=OTHER),
            "subscription",
            f"of tenant {OTHER}, the login of {resources.TENANT_ID}",
            f"az login --tenant {OTHER}",
        ),
        (
            "subscription",
            body("subscription", state="Disabled"),
            "subscription",
            "Disabled",
            "",
        ),
        (
            "provider",
            body("provider", registrationState="NotRegistered"),
            "provider",
            "NotRegistered",
            (
                "az provider register --namespace Microsoft.MachineLearningServices "
                f"--subscription {ID}"
            ),
        ),
        (
            "group",
            reply(404),
            "resource group",
            "no resource group rg-ml",
            f"az group create --name rg-ml --location westeurope --subscription {ID}",
        ),
        (
            "workspace",
            reply(404),
            "workspace",
            "no workspace ws-ml",
            (
                "python -m penguins provision, or az ml workspace create --name ws-ml "
                "--resource-group rg-ml --location westeurope"
            ),
        ),
        ("workspace", reply(403), "workspace", "no right", "AzureML Data Scientist"),
        (
            "workspace",
            body("workspace", location="northeurope"),
            "workspace",
            "is in northeurope, not in westeurope",
            "write northeurope",
        ),
        (
            "datastores",
            reply(body={"value": []}),
            "default datastore",
            "no default",
            "az ml",
        ),
        (
            "compute",
            reply(404),
            "compute",
            "no compute cpu-cluster",
            (
                "az ml compute create --name cpu-cluster --type AmlCompute --size Standard_D4ds_v4 "
                "--max-instances 2 --resource-group rg-ml --workspace-name ws-ml"
            ),
        ),
        (
            "compute",
            body("compute", properties__computeType="ComputeInstance"),
            "compute",
            "ComputeInstance",
            "another's name",
        ),
        (
            "compute",
            body("compute", properties__provisioningState="Failed"),
            "compute",
            "Failed",
            "az ml compute show --name cpu-cluster",
        ),
        (
            "compute",
            body("compute", **{f"{INNER}vmSize": "STANDARD_D2_V2"}),
            "compute",
            "STANDARD_D2_V2, not Standard_D4ds_v4",
            "write STANDARD_D2_V2",
        ),
        (
            "compute",
            body("compute", **{f"{INNER}scaleSettings": {"maxNodeCount": 1}}),
            "compute",
            "1 nodes at most, not 2",
            "write 1, or az ml compute update --name cpu-cluster --max-instances 2",
        ),
        (
            "sizes",
            body("sizes", value=healthy("sizes")["value"][:1]),
            "VM size",
            "no Standard_D4ds_v4 in westeurope",
            "write Standard_D2ds_v4",
        ),
        (
            "usages",
            quota(24, 7),
            "quota",
            "8 vCPUs, of 7",
            "write 1, or ask for more quota",
        ),
        (
            "usages",
            quota(7, 24),
            "quota",
            "8 vCPUs, of 7",
            "write 1, or ask for more quota",
        ),
        (
            "sizes",
            body("sizes", value=for_instances_only()),
            "VM size",
            "no Standard_D4ds_v4 for clusters in westeurope",
            "write Standard_D2ds_v4",
        ),
        (
            "usages",
            quota(24, 0),
            "quota",
            "8 vCPUs, of 0",
            "write a size of another family",
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_mends_it(
    check: Checker, asked: str, other: Fault, row: str, text: str, fix: str
) -> None:
    check.answer(asked, other)
    checked = check()[row]
    assert checked["status"] == "wrong"
    assert text in checked["text"]
    assert fix in checked["fix"]
    assert checked["fix"]
    assert check.code == 1


def test_enough_quota_where_it_is_unlimited_or_on_a_second_page(check: Checker) -> None:
    usages = healthy("usages")["value"]
    for usage in usages:
        usage["limit"] = -1
    check.answer("usages", reply(body={"value": usages}, times=1))
    assert check()["quota"]["text"] == "2 nodes need 8 vCPUs, without a limit"
    check.standin.azure.page_size = 2
    assert "of 12 allowed, 2 in use" in check()["quota"]["text"]
    assert len(check.standin.received("usages$")) == 1 + 3


def test_a_quota_that_is_not_named_is_no_fault(check: Checker) -> None:
    check.answer("usages", reply(body={"value": healthy("usages")["value"][:1]}))
    row = check()["quota"]
    assert row["status"] == "could not ask"
    assert row["text"] == "Azure names no quota of standardDDSv4Family"


@pytest.mark.parametrize("kind", ["Hub", "Project"])
def test_a_workspace_of_another_kind_is_to_review(check: Checker, kind: str) -> None:
    check.answer("workspace", body("workspace", kind=kind))
    row = check()["workspace"]
    assert row["status"] == "to review"
    assert check.code == 0
    assert row["text"].endswith(f"is of the kind {kind}")
    assert "of the kind Default" in row["fix"]


def test_storage_without_keys_needs_an_identity_and_roles(check: Checker) -> None:
    id = f"{GROUP}/providers/Microsoft.Storage/storageAccounts/standinstorage".lower()
    storage = check.standin.azure.resources[id]
    storage["properties"]["allowSharedKeyAccess"] = False
    rows = check()
    assert rows["storage"]["status"] == "to review"
    assert rows["storage"]["fix"].startswith(
        "write compute.identity: system, then run "
    )
    for name in ("default datastore", "cluster's identity", "your roles"):
        assert rows[name]["status"] == "wrong"
    assert '--role "Storage Blob Data Contributor"' in rows["your roles"]["fix"]
    assert check.code == 1


def test_a_registry_without_an_admin_account_needs_an_identity_and_a_role(
    check: Checker,
) -> None:
    azure = check.standin.azure
    registry = resources.attach_registry(azure, WORKSPACE, has_admin_account=False)
    rows = check()
    assert rows["container registry"]["status"] == "to review"
    assert "write compute.identity: system" in rows["container registry"]["fix"]
    assert rows["cluster's identity"]["status"] == "wrong"
    assert (
        rows["cluster's roles"]["text"] == "not asked, as the cluster has no identity"
    )
    assert rows["your roles"]["status"] == "ok"

    resources.attach_registry(azure, WORKSPACE, has_admin_account=True)
    rows = check()
    assert rows["container registry"]["text"] == "standinregistry has an admin account"
    assert set(statuses(rows).values()) == {"ok"}

    del azure.resources[registry.lower()]  # As if the login may not see it.
    assert check()["container registry"]["status"] == "could not ask"
    assert check.code == 0


def test_storage_that_may_not_be_seen_is_no_fault(check: Checker) -> None:
    check.answer("storage", reply(403))
    row = check()["storage"]
    assert (row["status"], row["fix"]) == ("could not ask", "")
    assert check.code == 0


def test_a_workspace_that_names_no_storage(check: Checker) -> None:
    workspace = check.standin.azure.resources[WORKSPACE.lower()]
    del workspace["properties"]["storageAccount"]
    row = check()["storage"]
    assert row["text"] == "not asked, without storage account"
    assert not check.standin.received("storageAccounts")
    assert check.code == 0


def test_an_environment_that_is_not_there_yet_is_no_fault(check: Checker) -> None:
    check.answer("environment", reply(404))
    row = check()["environment"]
    assert (row["status"], row["fix"]) == ("to fill in", "python -m penguins provision")
    assert check.code == 0


@pytest.mark.parametrize(
    "other",
    [
        reply(500, {"error": {"code": "InternalServerError"}}),
        reply(403, {"error": {"code": "AuthorizationFailed"}}),
        reply(200, b"<html>Sign in to the hotel's network</html>"),
        reply(200, ["a list"]),
        reply(200, {"value": None}),
        reply(302, headers={"Location": "https://example.com/"}),
        reply(429, retry_after=3600),
    ],
    ids=lambda other: f"{other.status} {other.body}",
)
def test_what_azure_does_not_answer_could_not_be_asked(
    check: Checker, other: Fault
) -> None:
    check.answer("usages", other)
    rows = check()
    assert rows["quota"]["status"] == "could not ask"
    assert rows["compute"]["status"] == "ok"
    assert check.code == 0
    assert check.seconds < 20
    assert check.hosts == {"login.microsoftonline.com", "management.azure.com"}
    assert not check.standin.refused_hosts


def test_retry_after_is_honoured(check: Checker) -> None:
    check.answer("workspace", reply(429, retry_after=2, times=1))
    assert set(statuses(check()).values()) == {"ok"}
    assert check.seconds > 2


def test_a_connection_that_stalls_ends_in_time(check: Checker) -> None:
    check.answer("workspace", reply(stall=60))
    rows = check("from penguins.runtime.azure import login; login.TIMEOUT = 1")
    assert rows["resource group"]["status"] == "ok"
    assert rows["workspace"]["text"].startswith(
        "management.azure.com cannot be reached"
    )
    assert rows["workspace"]["status"] == "could not ask"
    assert skipped(rows) == ROWS[5:]
    assert check.code == 1
    assert check.seconds < 15


@pytest.mark.parametrize(
    "other", [reply(429, retry_after=1), reply(body=b" " * 300, trickle=True)]
)
def test_everything_ends_within_the_limit(check: Checker, other: Fault) -> None:
    check.answer("compute", other)
    rows = check(
        "from penguins.runtime.azure import online_checks; online_checks.LIMIT = 4"
    )
    assert rows["workspace"]["status"] == "ok"
    assert list(rows.values())[-1]["status"] == "could not ask"
    assert check.code == 0
    assert check.seconds < 15


def skipped(rows: dict[str, dict[str, str]]) -> list[str]:
    """The checks that were not made, which one row lists, before the reason."""
    row = rows["not asked"]
    assert row["status"] == "could not ask"
    return row["text"].partition(": ")[0].split(", ")


def test_no_network(check: Checker) -> None:
    check.env |= NO_NETWORK
    rows = check()
    assert rows["login"]["status"] == "could not ask"
    assert rows["login"]["text"] == "login.microsoftonline.com cannot be reached."
    assert "HTTPS_PROXY" in rows["login"]["fix"]
    assert skipped(rows) == ROWS[1:]
    assert check.code == 1
    assert check.seconds < 30


def test_a_certificate_that_is_not_trusted(check: Checker) -> None:
    del check.env["REQUESTS_CA_BUNDLE"]
    rows = check()
    assert rows["login"]["text"] == "login.microsoftonline.com cannot be reached."
    assert "REQUESTS_CA_BUNDLE" in rows["login"]["fix"]
    assert skipped(rows) == ROWS[1:]


def test_wrong_secret(check: Checker) -> None:
    check.env["AZURE_CLIENT_SECRET"] = "wr0ng~secret"
    rows = check()
    assert rows["login"]["status"] == "wrong"
    assert "AADSTS7000215" in rows["login"]["text"]
    assert "AZURE_CLIENT_SECRET" in rows["login"]["fix"]
    assert "wr0ng~secret" not in check.output
    assert check.code == 1


def test_tenant_that_is_none(check: Checker) -> None:
    check.env["AZURE_TENANT_ID"] = "no tenant"
    rows = check()
    assert rows["login"]["status"] in ("could not ask", "wrong")
    assert "AZURE_TENANT_ID" in rows["login"]["fix"]
    assert skipped(rows) == ROWS[1:]


def test_without_az_and_a_login_both_are_said(check: Checker) -> None:
    for name in SERVICE_PRINCIPAL:
        del check.env[name]
    rows = check()
    assert rows["login"]["status"] == "could not ask"
    assert "the Azure CLI (`az`) was not found." in rows["login"]["text"]
    assert "install the Azure CLI (https://" in rows["login"]["fix"]
    assert "`az extension add --name ml`" in rows["login"]["fix"]
    assert rows["not asked"]["text"].endswith(", quota: without a login")
    assert skipped(rows) == ROWS[1:]
    assert check.code == 1
    assert check.seconds < 15


NOT_LOGGED_IN = "ERROR: Please run 'az login' to setup account."
EXPIRED = (
    "ERROR: AADSTS700082: The refresh token has expired due to inactivity. "
    "To re-authenticate, please run: az login"
)


@pytest.mark.skipif(os.name == "nt", reason="az is played by a shell script")
@pytest.mark.parametrize(
    ("stderr", "status", "text"),
    [
        (NOT_LOGGED_IN, "could not ask", "You are not logged in. Run `az login`."),
        (
            EXPIRED,
            "wrong",
            "Your login has expired (AADSTS700082). Run `az login`.",
        ),
    ],
    ids=["not logged in", "expired"],
)
def test_az_without_a_token(
    check: Checker, stderr: str, status: str, text: str
) -> None:
    put_az(check, f"echo {shlex.quote(stderr)} >&2; exit 1")
    rows = check()
    assert (rows["login"]["status"], rows["login"]["text"]) == (status, text)
    assert "install" not in rows["login"]["fix"]
    assert skipped(rows) == ROWS[1:]
    assert check.code == 1


def test_federated_token(check: Checker, tmp_path: Path) -> None:
    (tmp_path / "federated").write_text(resources.CLIENT_ASSERTION)
    check.env["AZURE_FEDERATED_TOKEN_FILE"] = str(tmp_path / "federated")
    del check.env["AZURE_CLIENT_SECRET"]
    assert set(statuses(check()).values()) == {"ok"}


def test_managed_identity(check: Checker) -> None:
    for name in SERVICE_PRINCIPAL:
        del check.env[name]
    check.standin.azure.has_identity = True
    assert set(statuses(check()).values()) == {"ok"}


def put_az(check: Checker, script: str) -> None:
    for name in SERVICE_PRINCIPAL:
        del check.env[name]
    az = Path(check.env["PATH"]) / "az"
    az.write_text(f"#!/bin/sh\n{script}\n")
    az.chmod(0o755)


def logged_in() -> str:
    access = resources.token("https://management.azure.com/")
    answer = {"accessToken": access, "expires_on": 4102444800}
    return f"echo {shlex.quote(json.dumps(answer))}"


@pytest.mark.skipif(os.name == "nt", reason="az is played by a shell script")
def test_az(check: Checker) -> None:
    put_az(check, logged_in())
    assert set(statuses(check()).values()) == {"ok"}


@pytest.mark.skipif(os.name == "nt", reason="az is played by a shell script")
def test_az_that_hangs(check: Checker) -> None:
    put_az(check, "exec /bin/sleep 100")
    rows = check("from penguins.runtime.azure import login; login.TIMEOUT = 1")
    assert rows["login"]["text"] == "`az` did not answer within 2 s."
    assert skipped(rows) == ROWS[1:]
    assert check.seconds < 15


def test_sovereign_cloud(check: Checker, tmp_path: Path) -> None:
    done = generate(tmp_path, ANSWERS)
    assert done.returncode == 0, done.stderr
    check.project = tmp_path / "penguins"
    settings = check.project / "settings.yml"
    text = settings.read_text(encoding="utf-8")
    assert "cloud: AzureCloud" in text
    settings.write_text(text.replace("cloud: AzureCloud", "cloud: AzureUSGovernment"))
    assert set(statuses(check()).values()) == {"ok"}
    assert check.hosts == {"login.microsoftonline.us", "management.usgovcloudapi.net"}
    del check.env["AZURE_CLIENT_SECRET"]
    login = check()["login"]
    advice = f"{login['text']} {login['fix']}".lower()
    assert "run `az cloud set --name azureusgovernment && az login`." in advice


def test_table_for_people(check: Checker) -> None:
    check.answer("compute", reply(404))
    script = (
        "import sys; from penguins.runtime.azure import checks; "
        "from penguins.__main__ import PROJECT, load_pipelines; "
        "sys.exit(checks.main(PROJECT, load_pipelines, online=True, as_json=False))"
    )
    done = subprocess.run(
        [PYTHONS["azureml-sdk"], "-c", script],
        cwd=check.project,
        env=check.env | {"COLUMNS": "60"},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert (
        "--size Standard_D4ds_v4 --max-instances 2 --resource-group rg-ml"
        in done.stdout
    )
    assert "1 wrong" in done.stdout


def test_generation_online(check: Checker, tmp_path: Path) -> None:
    done = generate(tmp_path, ANSWERS | {"check_azure": "online"}, check.env)
    assert done.returncode == 0, done.stderr
    assert check.standin.received("GET arm.*/usages$")
    assert done.stderr == ""


def test_generation_where_azure_contradicts_a_setting(
    check: Checker, tmp_path: Path
) -> None:
    check.answer("workspace", body("workspace", location="northeurope"))
    done = generate(tmp_path, ANSWERS | {"check_azure": "online"}, check.env)
    assert done.returncode != 0
    assert "azure_region" in done.stderr
    assert "is in northeurope, not in westeurope: write northeurope." in done.stderr
    assert not (tmp_path / "penguins").exists()


@pytest.mark.parametrize("what", ["nothing there", "no login", "no network"])
def test_generation_is_not_lost_where_azure_has_no_answer(
    check: Checker, tmp_path: Path, what: str
) -> None:
    if what == "nothing there":
        for asked in ("group", "workspace", "compute"):
            check.answer(asked, reply(404))
    elif what == "no login":
        del check.env["AZURE_CLIENT_SECRET"]
    else:
        check.env |= NO_NETWORK
    done = generate(tmp_path, ANSWERS | {"check_azure": "online"}, check.env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "penguins" / "settings.yml").exists()
    assert {
        "nothing there": "az group create --name rg-ml",
        "no login": "az login",
        "no network": "login",
    }[what] in done.stderr


def generate_without_azure_identity(
    check: Checker, tmp_path: Path
) -> subprocess.CompletedProcess[str]:
    """Generate as if cookiecutter were alone: azure-identity and pydantic are hidden."""
    (tmp_path / "hidden" / "azure").mkdir(parents=True, exist_ok=True)
    (tmp_path / "hidden" / "azure" / "__init__.py").touch()
    (tmp_path / "hidden" / "pydantic.py").write_text("raise ImportError")
    check.env["PYTHONPATH"] = str(tmp_path / "hidden")
    start = time.monotonic()
    done = generate(tmp_path, ANSWERS | {"check_azure": "online"}, check.env)
    check.seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "penguins" / "settings.yml").exists()
    tokens = [request.token for request in check.standin.requests]
    hidden = [resources.CLIENT_SECRET, resources.CLIENT_ASSERTION, *tokens]
    for secret in filter(None, hidden):
        assert secret not in done.stdout + done.stderr
    return done


@pytest.mark.skipif(os.name == "nt", reason="az is played by a shell script")
def test_generation_without_azure_identity_asks_az(
    check: Checker, tmp_path: Path
) -> None:
    put_az(check, logged_in())
    done = generate_without_azure_identity(check, tmp_path)
    assert done.stderr == ""
    for pattern, _ in ASKED.values():
        assert check.standin.received(pattern), pattern


@pytest.mark.parametrize("has_variables", [True, False], ids=["variables", "nothing"])
def test_generation_without_azure_identity_or_a_login(
    check: Checker, tmp_path: Path, has_variables: bool
) -> None:
    if not has_variables:
        for name in SERVICE_PRINCIPAL:
            del check.env[name]
    done = generate_without_azure_identity(check, tmp_path)
    assert "login: " in done.stderr
    assert "az login" in done.stderr
    assert "install the Azure CLI (https://" in done.stderr
    assert "You can also install azure-identity and set AZURE_TENANT_ID" in done.stderr
    assert not check.standin.requests


@pytest.mark.skipif(os.name == "nt", reason="az is played by a shell script")
def test_generation_without_azure_identity_and_az_that_refuses(
    check: Checker, tmp_path: Path
) -> None:
    put_az(check, "echo 'AADSTS700082: The refresh token has expired.' >&2; exit 1")
    done = generate_without_azure_identity(check, tmp_path)
    assert "Your login has expired (AADSTS700082). Run `az login`." in done.stderr


#: Python imports this as the module sitecustomize when it starts.
WAIT_A_TENTH_OF_THE_LIMIT = """
import subprocess

run = subprocess.run

def run_with_a_tenth_of_the_limit(*args, timeout=None, **options):
    if timeout is not None:
        timeout /= 10
    return run(*args, timeout=timeout, **options)

subprocess.run = run_with_a_tenth_of_the_limit
"""


@pytest.mark.skipif(os.name == "nt", reason="az is played by a shell script")
def test_generation_without_azure_identity_and_az_that_hangs(
    check: Checker, tmp_path: Path
) -> None:
    put_az(check, "exec /bin/sleep 100")
    # The limit is 20 seconds, and each test that waits so long delays the whole suite.
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(WAIT_A_TENTH_OF_THE_LIMIT)
    done = generate_without_azure_identity(check, tmp_path)
    assert "`az` did not answer within 20 s." in done.stderr
    assert not check.standin.requests
    assert 2 < check.seconds < 35
