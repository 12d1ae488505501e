"""Test `check --online`, and generations with check_azure=online.

The real credential classes send real requests over TLS to the stand-in for Azure
(azure_standin/), from processes of their own. No test needs a network.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
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


@dataclass(frozen=True)
class Answer:
    """An answer of Azure: a pattern of its request, and the resource that it describes."""

    pattern: str
    resource_id: str = ""


#: The answers that the check needs.
ANSWERS_OF_AZURE = {
    "subscription": Answer("GET arm/subscriptions/[^/]+$", PROVIDER.split("/prov")[0]),
    "provider": Answer("GET arm/subscriptions/[^/]+/providers/[^/]+$", PROVIDER),
    "group": Answer("GET arm.*/resourcegroups/[^/]+$", GROUP),
    "workspace": Answer("GET arm.*/workspaces/ws-ml$", WORKSPACE),
    "storage": Answer("GET arm.*/storageAccounts/"),
    "datastores": Answer("GET arm.*/datastores$"),
    "environment": Answer("GET arm.*/environments/penguins-steps$"),
    "compute": Answer("GET arm.*/computes/", f"{WORKSPACE}/computes/cpu-cluster"),
    "sizes": Answer("GET arm.*/vmSizes$", f"{PROVIDER}/locations/westeurope/vmSizes"),
    "usages": Answer("GET arm.*/usages$", f"{PROVIDER}/locations/westeurope/usages"),
}
#: The proxy is the discard port, on which nothing listens.
NO_NETWORK = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
#: The names of all checks, in their order.
ROWS = [
    *("login", "subscription", "provider", "resource group", "workspace"),
    *("storage", "default datastore", "container registry", "environment", "compute"),
    *("cluster's identity", "your roles", "cluster's roles", "VM size", "quota"),
]


def generate(
    folder: Path, answers: dict[str, str], env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run cookiecutter with this template in a folder, without questions."""
    # cookiecutter ignores answers to questions that it does not know.
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
    """The folder of a generated project, which the tests do not change."""
    folder = tmp_path_factory.mktemp("online")
    done = generate(folder, ANSWERS)
    assert done.returncode == 0, done.stderr
    return folder / "penguins"


#: Runs `check --online --json`. A line that prepares the process comes first.
CHECK_AS_JSON = """
import sys
from penguins.__main__ import PROJECT, load_pipelines
from penguins.runtime.azure import checks
{preparation}
sys.exit(checks.main(PROJECT, load_pipelines, online=True, as_json=True))
"""


@dataclass
class Checker:
    """Runs `check --online --json` in a project whose Azure is the stand-in."""

    project: Path
    standin: Standin
    env: dict[str, str]
    #: The exit code, the output and the duration of the last run.
    code: int = -1
    output: str = ""
    seconds: float = 0

    def run(self, preparation: str = "pass") -> dict[str, dict[str, str]]:
        """Run the check, and return its rows by their names.

        `preparation` is a line of Python that the process executes first.
        """
        script = CHECK_AS_JSON.format(preparation=preparation)
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

    def replace_answer(self, name: str, answer: Fault) -> None:
        """Let the stand-in give another answer to a request."""
        answer.pattern = ANSWERS_OF_AZURE[name].pattern
        self.standin.faults.append(answer)

    @property
    def hosts(self) -> set[str]:
        """The hosts that have received requests."""
        return {request.host for request in self.standin.requests}


@pytest.fixture
def checker(project: Path, tmp_path: Path) -> Iterator[Checker]:
    """The check of a project whose workspace and cluster exist.

    A service principal is logged in, and there is no `az`.
    """
    (tmp_path / "bin").mkdir()
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AZURE_", "IDENTITY_", "MSI_"))
        and key.lower() not in ("no_proxy", "https_proxy", "http_proxy", "all_proxy")
    }
    # The empty folder on PATH hides the `az` of this machine.
    env |= {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}
    with Standin.running(tmp_path / "standin") as standin:
        standin.create_workspace("ws-ml", "rg-ml", "cpu-cluster")
        standin.azure.environments["penguins-steps"].append({"version": "1"})
        env |= standin.environment(tmp_path)
        yield Checker(project, standin, env | SERVICE_PRINCIPAL)
        assert not standin.unknown_requests
        assert not standin.mistakes


def read_statuses(rows: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the status of each check by its name."""
    return {name: rows[name]["status"] for name in ROWS}


def test_check_is_ok_if_azure_has_what_the_settings_name(checker: Checker) -> None:
    assert set(read_statuses(checker.run()).values()) == {"ok"}
    assert checker.code == 0
    assert checker.hosts == {"login.microsoftonline.com", "management.azure.com"}
    requests = checker.standin.received(" arm/")
    assert {request.method for request in requests} == {"GET"}


def make_answer(status: int = 200, body: Any = None, **options: Any) -> Fault:
    """Return an answer that each request gets in place of the healthy one."""
    return Fault("", status, body=body, **{"times": None, **options})


def build_healthy_answer(name: str) -> Json:
    """Return an answer of an Azure that has everything that the settings name."""
    azure = Azure(Path(), lambda home: {})
    resources.add_subscription(azure)
    resources.create_workspace(azure, WORKSPACE)
    scale = {"maxNodeCount": 2, "minNodeCount": 0}
    properties = {"vmSize": "STANDARD_D4DS_V4", "scaleSettings": scale}
    resources.create_compute(azure, WORKSPACE, "cpu-cluster", "westeurope", properties)
    return resources.resource_of(azure, ANSWERS_OF_AZURE[name].resource_id)


def change_answer(name: str, **changes: Any) -> Fault:
    """Return the healthy answer with other values: a__b=1 changes {"a": {"b": …}}."""
    answer = build_healthy_answer(name)
    for keys, value in changes.items():
        *parents, last = keys.split("__")
        section = answer
        for key in parents:
            section = section[key]
        section[last] = value
    return make_answer(body=answer)


FAMILY = "vmFamily/dedicatedCores/usages"
TOTAL = "totalDedicatedCores/usages"
ID = Standin.subscription_id
OTHER = "99999999-2222-3333-4444-555555555555"
#: The properties of a cluster, as a part of the keys of `change_answer`.
CLUSTER = "properties__properties__"


def list_sizes_for_instances() -> list[Json]:
    """Return the VM sizes of a region that has Standard_D4ds_v4 for instances only."""
    smaller_size, size, *_ = build_healthy_answer("sizes")["value"]
    return [smaller_size, size | {"supportedComputeTypes": ["ComputeInstance"]}]


def limit_quota(total: int, family: int) -> Fault:
    """Return the answer on usages with other limits of the region and of the VM family."""
    usages = build_healthy_answer("usages")
    for usage in usages["value"]:
        kind = usage["type"].removeprefix(f"{resources.PROVIDER}/")
        if kind == TOTAL:
            usage["limit"] = total
        if kind == FAMILY and usage["name"]["value"] == "standardDDSv4Family":
            usage["limit"] = family
    return make_answer(body=usages)


@dataclass(frozen=True)
class Mismatch:
    """An answer of Azure that contradicts the settings, and the row that must say so."""

    answer_name: str
    answer: Fault
    row: str
    #: Parts of what the row says is wrong, and of its fix.
    text: str
    fix: str


MISMATCHES = {
    "subscription does not exist": Mismatch(
        "subscription", make_answer(404), "subscription", ID, "az account list"
    ),
    "login is for another tenant": Mismatch(
        "subscription",
        make_answer(
            401, headers={"WWW-Authenticate": f'Bearer uri="https://x.net/{OTHER}"'}
        ),
        "subscription",
        "not accept the login",
        f"az login --tenant {OTHER}",
    ),
    "subscription is of another tenant": Mismatch(
        "subscription",
        change_answer("subscription", tenantId=OTHER),
        "subscription",
        f"belongs to the tenant {OTHER}, but the login to the tenant {resources.TENANT_ID}",
        f"az login --tenant {OTHER}",
    ),
    "subscription is disabled": Mismatch(
        "subscription",
        change_answer("subscription", state="Disabled"),
        "subscription",
        "the subscription is disabled",
        "",
    ),
    "provider is not registered": Mismatch(
        "provider",
        change_answer("provider", registrationState="NotRegistered"),
        "provider",
        "NotRegistered",
        (
            "az provider register --namespace Microsoft.MachineLearningServices "
            f"--subscription {ID}"
        ),
    ),
    "resource group does not exist": Mismatch(
        "group",
        make_answer(404),
        "resource group",
        "no resource group rg-ml",
        f"az group create --name rg-ml --location westeurope --subscription {ID}",
    ),
    "workspace does not exist": Mismatch(
        "workspace",
        make_answer(404),
        "workspace",
        "no workspace ws-ml",
        (
            "python -m penguins provision, or az ml workspace create --name ws-ml "
            "--resource-group rg-ml --location westeurope"
        ),
    ),
    "workspace is forbidden": Mismatch(
        "workspace",
        make_answer(403),
        "workspace",
        "no permission",
        "AzureML Data Scientist",
    ),
    "workspace is in another region": Mismatch(
        "workspace",
        change_answer("workspace", location="northeurope"),
        "workspace",
        "is in northeurope, not in westeurope",
        "write northeurope",
    ),
    "no default datastore": Mismatch(
        "datastores",
        make_answer(body={"value": []}),
        "default datastore",
        "no default",
        "az ml",
    ),
    "compute does not exist": Mismatch(
        "compute",
        make_answer(404),
        "compute",
        "no compute cpu-cluster",
        (
            "az ml compute create --name cpu-cluster --type AmlCompute --size Standard_D4ds_v4 "
            "--max-instances 2 --resource-group rg-ml --workspace-name ws-ml"
        ),
    ),
    "compute is no cluster": Mismatch(
        "compute",
        change_answer("compute", properties__computeType="ComputeInstance"),
        "compute",
        "ComputeInstance",
        "the name of a compute cluster instead",
    ),
    "compute has failed": Mismatch(
        "compute",
        change_answer("compute", properties__provisioningState="Failed"),
        "compute",
        "Failed",
        "az ml compute show --name cpu-cluster",
    ),
    "compute has another VM size": Mismatch(
        "compute",
        change_answer("compute", **{f"{CLUSTER}vmSize": "STANDARD_D2_V2"}),
        "compute",
        "STANDARD_D2_V2, not Standard_D4ds_v4",
        "write STANDARD_D2_V2",
    ),
    "compute has fewer nodes": Mismatch(
        "compute",
        change_answer("compute", **{f"{CLUSTER}scaleSettings": {"maxNodeCount": 1}}),
        "compute",
        "at most 1 nodes, not 2",
        "write 1, or run az ml compute update --name cpu-cluster --max-instances 2",
    ),
    "VM size is not in the region": Mismatch(
        "sizes",
        change_answer("sizes", value=build_healthy_answer("sizes")["value"][:1]),
        "VM size",
        "no Standard_D4ds_v4 in westeurope",
        "write Standard_D2ds_v4",
    ),
    "VM size is not for clusters": Mismatch(
        "sizes",
        change_answer("sizes", value=list_sizes_for_instances()),
        "VM size",
        "no Standard_D4ds_v4 for clusters in westeurope",
        "write Standard_D2ds_v4",
    ),
    "quota of the family is too small": Mismatch(
        "usages",
        limit_quota(24, 7),
        "quota",
        "8 vCPUs, of 7",
        "write 1, or ask for more quota",
    ),
    "quota of the region is too small": Mismatch(
        "usages",
        limit_quota(7, 24),
        "quota",
        "8 vCPUs, of 7",
        "write 1, or ask for more quota",
    ),
    "quota of the family is 0": Mismatch(
        "usages",
        limit_quota(24, 0),
        "quota",
        "8 vCPUs, of 0",
        "write a size of another family",
    ),
}


@pytest.mark.parametrize("mismatch", MISMATCHES.values(), ids=MISMATCHES)
def test_check_names_what_is_wrong_and_its_fix(
    checker: Checker, mismatch: Mismatch
) -> None:
    checker.replace_answer(mismatch.answer_name, mismatch.answer)
    row = checker.run()[mismatch.row]
    assert row["status"] == "wrong"
    assert mismatch.text in row["text"]
    assert mismatch.fix in row["fix"]
    assert row["fix"]
    assert checker.code == 1


def test_quota_may_be_unlimited_or_on_a_second_page(checker: Checker) -> None:
    usages = build_healthy_answer("usages")["value"]
    for usage in usages:
        usage["limit"] = -1
    checker.replace_answer("usages", make_answer(body={"value": usages}, times=1))
    assert checker.run()["quota"]["text"] == "2 nodes need 8 vCPUs, without a limit"
    checker.standin.azure.page_size = 2
    assert "of 12 allowed, 2 in use" in checker.run()["quota"]["text"]
    assert len(checker.standin.received("usages$")) == 1 + 3


def test_quota_that_azure_does_not_name_is_no_error(checker: Checker) -> None:
    checker.replace_answer(
        "usages",
        make_answer(body={"value": build_healthy_answer("usages")["value"][:1]}),
    )
    row = checker.run()["quota"]
    assert row["status"] == "not checked"
    assert row["text"] == "Azure lists no quota for standardDDSv4Family"


@pytest.mark.parametrize("kind", ["Hub", "Project"])
def test_workspace_of_another_kind_must_be_reviewed(
    checker: Checker, kind: str
) -> None:
    checker.replace_answer("workspace", change_answer("workspace", kind=kind))
    row = checker.run()["workspace"]
    assert row["status"] == "to review"
    assert checker.code == 0
    assert row["text"].endswith(f"is of the kind {kind}")
    assert "of the kind Default" in row["fix"]


def test_storage_without_keys_needs_an_identity_and_roles(checker: Checker) -> None:
    id = f"{GROUP}/providers/Microsoft.Storage/storageAccounts/standinstorage".lower()
    storage = checker.standin.azure.resources[id]
    storage["properties"]["allowSharedKeyAccess"] = False
    rows = checker.run()
    assert rows["storage"]["status"] == "to review"
    assert rows["storage"]["fix"].startswith(
        "write compute.identity: system, then run "
    )
    for name in ("default datastore", "cluster's identity", "your roles"):
        assert rows[name]["status"] == "wrong"
    assert '--role "Storage Blob Data Contributor"' in rows["your roles"]["fix"]
    assert checker.code == 1


def test_registry_without_an_admin_account_needs_an_identity_and_a_role(
    checker: Checker,
) -> None:
    azure = checker.standin.azure
    registry = resources.attach_registry(azure, WORKSPACE, has_admin_account=False)
    rows = checker.run()
    assert rows["container registry"]["status"] == "to review"
    assert "write compute.identity: system" in rows["container registry"]["fix"]
    assert rows["cluster's identity"]["status"] == "wrong"
    assert rows["cluster's roles"]["text"] == "not checked: the cluster has no identity"
    assert rows["your roles"]["status"] == "ok"

    resources.attach_registry(azure, WORKSPACE, has_admin_account=True)
    rows = checker.run()
    assert rows["container registry"]["text"] == "standinregistry has an admin account"
    assert set(read_statuses(rows).values()) == {"ok"}

    del azure.resources[registry.lower()]  # As if the login may not see it.
    assert checker.run()["container registry"]["status"] == "not checked"
    assert checker.code == 0


def test_storage_that_the_login_may_not_see_is_no_error(checker: Checker) -> None:
    checker.replace_answer("storage", make_answer(403))
    row = checker.run()["storage"]
    assert (row["status"], row["fix"]) == ("not checked", "")
    assert checker.code == 0


def test_storage_is_not_requested_if_the_workspace_names_none(checker: Checker) -> None:
    workspace = checker.standin.azure.resources[WORKSPACE.lower()]
    del workspace["properties"]["storageAccount"]
    row = checker.run()["storage"]
    assert row["text"] == "not checked: the workspace names no storage account"
    assert not checker.standin.received("storageAccounts")
    assert checker.code == 0


def test_environment_that_does_not_exist_yet_is_no_error(checker: Checker) -> None:
    checker.replace_answer("environment", make_answer(404))
    row = checker.run()["environment"]
    assert (row["status"], row["fix"]) == ("to fill in", "python -m penguins provision")
    assert checker.code == 0


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            make_answer(500, {"error": {"code": "InternalServerError"}}), id="error"
        ),
        pytest.param(
            make_answer(403, {"error": {"code": "AuthorizationFailed"}}), id="forbidden"
        ),
        pytest.param(
            make_answer(200, b"<html>Sign in to the hotel's network</html>"), id="HTML"
        ),
        pytest.param(make_answer(200, ["a list"]), id="list"),
        pytest.param(make_answer(200, {"value": None}), id="null"),
        pytest.param(
            make_answer(302, headers={"Location": "https://example.com/"}),
            id="redirect",
        ),
        pytest.param(make_answer(429, retry_after=3600), id="busy for an hour"),
    ],
)
def test_check_goes_on_if_azure_does_not_answer_a_request(
    checker: Checker, answer: Fault
) -> None:
    checker.replace_answer("usages", answer)
    rows = checker.run()
    assert rows["quota"]["status"] == "not checked"
    assert rows["compute"]["status"] == "ok"
    assert checker.code == 0
    assert checker.seconds < 20
    assert checker.hosts == {"login.microsoftonline.com", "management.azure.com"}
    assert not checker.standin.refused_hosts


def test_check_waits_as_long_as_azure_asks_it_to(checker: Checker) -> None:
    checker.replace_answer("workspace", make_answer(429, retry_after=2, times=1))
    assert set(read_statuses(checker.run()).values()) == {"ok"}
    assert checker.seconds > 2


def test_check_gives_up_a_connection_that_stalls(checker: Checker) -> None:
    checker.replace_answer("workspace", make_answer(stall=60))
    rows = checker.run("from penguins.runtime.azure import login; login.TIMEOUT = 1")
    assert rows["resource group"]["status"] == "ok"
    assert rows["workspace"]["text"].startswith(
        "The host management.azure.com cannot be reached"
    )
    assert rows["workspace"]["status"] == "not checked"
    assert list_skipped_checks(rows) == ROWS[5:]
    assert checker.code == 1
    assert checker.seconds < 15


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(make_answer(429, retry_after=1), id="always busy"),
        pytest.param(make_answer(body=b" " * 300, trickle=True), id="trickles in"),
    ],
)
def test_check_ends_within_its_time_limit(checker: Checker, answer: Fault) -> None:
    checker.replace_answer("compute", answer)
    rows = checker.run(
        "from penguins.runtime.azure import online_checks; online_checks.LIMIT_SECONDS = 4"
    )
    assert rows["workspace"]["status"] == "ok"
    assert list(rows.values())[-1]["status"] == "not checked"
    assert checker.code == 0
    assert checker.seconds < 15


def list_skipped_checks(rows: dict[str, dict[str, str]]) -> list[str]:
    """Return the checks that could not be made, which one row lists before the reason."""
    row = rows["not checked"]
    assert row["status"] == "not checked"
    return row["text"].partition(": ")[0].split(", ")


def test_check_explains_that_azure_cannot_be_reached(checker: Checker) -> None:
    checker.env |= NO_NETWORK
    rows = checker.run()
    assert rows["login"]["status"] == "not checked"
    assert (
        rows["login"]["text"] == "The host login.microsoftonline.com cannot be reached."
    )
    assert "HTTPS_PROXY" in rows["login"]["fix"]
    assert list_skipped_checks(rows) == ROWS[1:]
    assert checker.code == 1
    assert checker.seconds < 30


def test_check_names_the_variable_for_certificates_that_are_not_trusted(
    checker: Checker,
) -> None:
    del checker.env["REQUESTS_CA_BUNDLE"]
    rows = checker.run()
    assert (
        rows["login"]["text"] == "The host login.microsoftonline.com cannot be reached."
    )
    assert "REQUESTS_CA_BUNDLE" in rows["login"]["fix"]
    assert list_skipped_checks(rows) == ROWS[1:]


def test_check_explains_a_wrong_secret_and_does_not_show_it(checker: Checker) -> None:
    checker.env["AZURE_CLIENT_SECRET"] = "wr0ng~secret"
    rows = checker.run()
    assert rows["login"]["status"] == "wrong"
    assert "AADSTS7000215" in rows["login"]["text"]
    assert "AZURE_CLIENT_SECRET" in rows["login"]["fix"]
    assert "wr0ng~secret" not in checker.output
    assert checker.code == 1


def test_check_names_the_variable_with_a_wrong_tenant(checker: Checker) -> None:
    checker.env["AZURE_TENANT_ID"] = "no tenant"
    rows = checker.run()
    assert rows["login"]["status"] in ("not checked", "wrong")
    assert "AZURE_TENANT_ID" in rows["login"]["fix"]
    assert list_skipped_checks(rows) == ROWS[1:]


def test_check_explains_how_to_install_az_and_to_log_in(checker: Checker) -> None:
    for name in SERVICE_PRINCIPAL:
        del checker.env[name]
    rows = checker.run()
    assert rows["login"]["status"] == "not checked"
    assert "the Azure CLI (`az`) was not found." in rows["login"]["text"]
    assert "install the Azure CLI (https://" in rows["login"]["fix"]
    assert "`az extension add --name ml`" in rows["login"]["fix"]
    assert rows["not checked"]["text"].endswith(", quota: there is no login")
    assert list_skipped_checks(rows) == ROWS[1:]
    assert checker.code == 1
    assert checker.seconds < 15


NOT_LOGGED_IN = "ERROR: Please run 'az login' to setup account."
EXPIRED = (
    "ERROR: AADSTS700082: The refresh token has expired due to inactivity. "
    "To re-authenticate, please run: az login"
)


@pytest.mark.skipif(os.name == "nt", reason="this az is a shell script")
@pytest.mark.parametrize(
    ("stderr", "status", "text"),
    [
        (NOT_LOGGED_IN, "not checked", "You are not logged in. Run `az login`."),
        (
            EXPIRED,
            "wrong",
            "Your login has expired (AADSTS700082). Run `az login`.",
        ),
    ],
    ids=["not logged in", "expired"],
)
def test_check_explains_why_az_has_no_token(
    checker: Checker, stderr: str, status: str, text: str
) -> None:
    install_az(checker, f"echo {shlex.quote(stderr)} >&2; exit 1")
    rows = checker.run()
    assert (rows["login"]["status"], rows["login"]["text"]) == (status, text)
    assert "install" not in rows["login"]["fix"]
    assert list_skipped_checks(rows) == ROWS[1:]
    assert checker.code == 1


def test_check_logs_in_with_a_federated_token(checker: Checker, tmp_path: Path) -> None:
    (tmp_path / "federated").write_text(resources.CLIENT_ASSERTION)
    checker.env["AZURE_FEDERATED_TOKEN_FILE"] = str(tmp_path / "federated")
    del checker.env["AZURE_CLIENT_SECRET"]
    assert set(read_statuses(checker.run()).values()) == {"ok"}


def test_check_logs_in_with_a_managed_identity(checker: Checker) -> None:
    for name in SERVICE_PRINCIPAL:
        del checker.env[name]
    checker.standin.azure.has_identity = True
    assert set(read_statuses(checker.run()).values()) == {"ok"}


def install_az(checker: Checker, script: str) -> None:
    """Put an `az` on PATH, and remove the variables of the service principal."""
    for name in SERVICE_PRINCIPAL:
        del checker.env[name]
    az = Path(checker.env["PATH"]) / "az"
    az.write_text(f"#!/bin/sh\n{script}\n")
    az.chmod(0o755)


def write_token_command() -> str:
    """Return a shell command that prints a token as `az` does after a login."""
    access = resources.token("https://management.azure.com/")
    answer = {"accessToken": access, "expires_on": 4102444800}
    return f"echo {shlex.quote(json.dumps(answer))}"


@pytest.mark.skipif(os.name == "nt", reason="this az is a shell script")
def test_check_uses_the_login_of_az(checker: Checker) -> None:
    install_az(checker, write_token_command())
    assert set(read_statuses(checker.run()).values()) == {"ok"}


@pytest.mark.skipif(os.name == "nt", reason="this az is a shell script")
def test_check_gives_up_an_az_that_hangs(checker: Checker) -> None:
    install_az(checker, "exec /bin/sleep 100")
    rows = checker.run("from penguins.runtime.azure import login; login.TIMEOUT = 1")
    assert rows["login"]["text"] == "`az` did not answer within 2 s."
    assert list_skipped_checks(rows) == ROWS[1:]
    assert checker.seconds < 15


def test_check_uses_the_hosts_of_another_cloud(
    checker: Checker, tmp_path: Path
) -> None:
    checker.project = shutil.copytree(checker.project, tmp_path / "penguins")
    settings = checker.project / "settings.yml"
    text = settings.read_text(encoding="utf-8")
    assert "cloud: AzureCloud" in text
    settings.write_text(text.replace("cloud: AzureCloud", "cloud: AzureUSGovernment"))
    assert set(read_statuses(checker.run()).values()) == {"ok"}
    assert checker.hosts == {"login.microsoftonline.us", "management.usgovcloudapi.net"}
    del checker.env["AZURE_CLIENT_SECRET"]
    login = checker.run()["login"]
    advice = f"{login['text']} {login['fix']}".lower()
    assert "run `az cloud set --name azureusgovernment && az login`." in advice


def test_check_prints_a_table_with_whole_commands(checker: Checker) -> None:
    checker.replace_answer("compute", make_answer(404))
    script = (
        "import sys; from penguins.runtime.azure import checks; "
        "from penguins.__main__ import PROJECT, load_pipelines; "
        "sys.exit(checks.main(PROJECT, load_pipelines, online=True, as_json=False))"
    )
    done = subprocess.run(
        [PYTHONS["azureml-sdk"], "-c", script],
        cwd=checker.project,
        env=checker.env | {"COLUMNS": "60"},
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


def test_generation_checks_the_answers_with_azure(
    checker: Checker, tmp_path: Path
) -> None:
    done = generate(tmp_path, ANSWERS | {"check_azure": "online"}, checker.env)
    assert done.returncode == 0, done.stderr
    assert checker.standin.received("GET arm.*/usages$")
    assert done.stderr == ""


def test_generation_refuses_an_answer_that_azure_contradicts(
    checker: Checker, tmp_path: Path
) -> None:
    checker.replace_answer(
        "workspace", change_answer("workspace", location="northeurope")
    )
    done = generate(tmp_path, ANSWERS | {"check_azure": "online"}, checker.env)
    assert done.returncode != 0
    assert "azure_region" in done.stderr
    assert "is in northeurope, not in westeurope: write northeurope." in done.stderr
    assert not (tmp_path / "penguins").exists()


@pytest.mark.parametrize("state", ["nothing there", "no login", "no network"])
def test_generation_succeeds_if_azure_cannot_confirm_the_answers(
    checker: Checker, tmp_path: Path, state: str
) -> None:
    if state == "nothing there":
        for resource in ("group", "workspace", "compute"):
            checker.replace_answer(resource, make_answer(404))
    elif state == "no login":
        del checker.env["AZURE_CLIENT_SECRET"]
    else:
        checker.env |= NO_NETWORK
    done = generate(tmp_path, ANSWERS | {"check_azure": "online"}, checker.env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "penguins" / "settings.yml").exists()
    messages = {
        "nothing there": "az group create --name rg-ml",
        "no login": "az login",
        "no network": "login",
    }
    assert messages[state] in done.stderr


def generate_without_azure_identity(
    checker: Checker, tmp_path: Path
) -> subprocess.CompletedProcess[str]:
    """Generate with cookiecutter alone, as azure-identity and pydantic are hidden."""
    (tmp_path / "hidden" / "azure").mkdir(parents=True, exist_ok=True)
    (tmp_path / "hidden" / "azure" / "__init__.py").touch()
    (tmp_path / "hidden" / "pydantic.py").write_text("raise ImportError")
    checker.env["PYTHONPATH"] = str(tmp_path / "hidden")
    start = time.monotonic()
    done = generate(tmp_path, ANSWERS | {"check_azure": "online"}, checker.env)
    checker.seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "penguins" / "settings.yml").exists()
    tokens = [request.token for request in checker.standin.requests]
    hidden = [resources.CLIENT_SECRET, resources.CLIENT_ASSERTION, *tokens]
    for secret in filter(None, hidden):
        assert secret not in done.stdout + done.stderr
    return done


@pytest.mark.skipif(os.name == "nt", reason="this az is a shell script")
def test_generation_without_azure_identity_uses_az(
    checker: Checker, tmp_path: Path
) -> None:
    install_az(checker, write_token_command())
    done = generate_without_azure_identity(checker, tmp_path)
    assert done.stderr == ""
    for answer in ANSWERS_OF_AZURE.values():
        assert checker.standin.received(answer.pattern), answer.pattern


@pytest.mark.parametrize("has_variables", [True, False], ids=["variables", "nothing"])
def test_generation_without_azure_identity_explains_how_to_log_in(
    checker: Checker, tmp_path: Path, has_variables: bool
) -> None:
    if not has_variables:
        for name in SERVICE_PRINCIPAL:
            del checker.env[name]
    done = generate_without_azure_identity(checker, tmp_path)
    assert "login: " in done.stderr
    assert "az login" in done.stderr
    assert "install the Azure CLI (https://" in done.stderr
    assert "You can also install azure-identity and set AZURE_TENANT_ID" in done.stderr
    assert not checker.standin.requests


@pytest.mark.skipif(os.name == "nt", reason="this az is a shell script")
def test_generation_without_azure_identity_explains_an_expired_login(
    checker: Checker, tmp_path: Path
) -> None:
    install_az(
        checker, "echo 'AADSTS700082: The refresh token has expired.' >&2; exit 1"
    )
    done = generate_without_azure_identity(checker, tmp_path)
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


@pytest.mark.skipif(os.name == "nt", reason="this az is a shell script")
def test_generation_without_azure_identity_gives_up_an_az_that_hangs(
    checker: Checker, tmp_path: Path
) -> None:
    install_az(checker, "exec /bin/sleep 100")
    # The limit is 20 seconds, and each test that waits so long delays the whole suite.
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(WAIT_A_TENTH_OF_THE_LIMIT)
    done = generate_without_azure_identity(checker, tmp_path)
    assert "`az` did not answer within 20 s." in done.stderr
    assert not checker.standin.requests
    assert 2 < checker.seconds < 35
