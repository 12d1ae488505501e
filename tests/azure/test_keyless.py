"""A workspace whose storage accepts no keys, from nothing to a schedule, for both SDKs.

The stand-in refuses keys and anonymous requests, and asks for the role of each identity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from azure_standin import Standin
from azure_standin.identities import (
    ACR_PULL,
    BLOB_DATA,
    QUEUE_DATA,
    principals_of,
)
from azure_standin.resources import CLIENT_ID, attach_registry
from azure_user import (
    ANSWERS,
    MONITOR,
    TOY_SCORE,
    Shell,
    User,
    list_states,
    read_lines,
)
from conftest import SDKS, Bake, Result

WORKSPACE = (
    f"/subscriptions/{Standin.subscription_id}/resourceGroups/group/providers/"
    "Microsoft.MachineLearningServices/workspaces/workspace"
)
IDENTITY = (
    f"/subscriptions/{Standin.subscription_id}/resourceGroups/group/providers/"
    "Microsoft.ManagedIdentity/userAssignedIdentities/reader"
)
SUBNET = (
    f"/subscriptions/{Standin.subscription_id}/resourceGroups/network/providers/"
    "Microsoft.Network/virtualNetworks/company/subnets/machine-learning"
)
#: Another cluster, with an identity of its own, for one of the steps.
SCORE_ELSEWHERE = """
computes:
  many:
    name: many-nodes
    vm_size: Standard_D2ds_v4
    max_nodes: 3
    identity: system
steps: {score: many}
"""
PREP = """
import pathlib, sys
for port in ("--prepared", "--report"):
    folder = pathlib.Path(sys.argv[sys.argv.index(port) + 1])
    (folder / "part.parquet").write_text("")
"""


@pytest.fixture(params=SDKS)
def user(request: pytest.FixtureRequest, bake: Bake, tmp_path: Path) -> Iterator[User]:
    """A project with the setting `compute.identity`, and a subscription without keys."""
    with Standin.running(tmp_path / "standin") as standin:
        standin.azure.is_keyless = True
        project = bake(**ANSWERS, azureml_sdk=request.param)
        standin.azure.python = project.interpreter
        user = User(project, standin, tmp_path / "home")
        project.set("compute", identity="system")
        project.edit("settings.yml", "keep_runs:", f"{SCORE_ELSEWHERE}keep_runs:")
        user.write("prep", PREP)
        user.write("monitor", MONITOR)
        user.write("score", TOY_SCORE)
        user.write("summarize", "print('done')")
        yield user


@pytest.fixture
def shell(user: User) -> Iterator[Shell]:
    with closing(Shell(user)) as shell:
        yield shell


def check(shell: Shell) -> dict[str, dict[str, str]]:
    """Return the rows of `check --online` by their names."""
    rows = json.loads(shell.run("check --online --json").out)["checks"]
    return {row["name"]: row for row in rows}


def cluster_principal(user: User, cluster_name: str) -> str:
    """Return the id of a cluster's identity."""
    resources = user.standin.azure.resources.items()
    (cluster,) = (
        resource
        for id, resource in resources
        if id.endswith(f"/computes/{cluster_name}")
    )
    (principal,) = principals_of(cluster)
    return principal


def take_role(user: User, principal: str, role: str) -> None:
    """Take a role from a person or an identity."""
    assignments = user.standin.azure.role_assignments
    for name, assignment in list(assignments.items()):
        properties = assignment["properties"]
        is_role = properties["roleDefinitionId"].endswith(role)
        if is_role and properties["principalId"] == principal:
            del assignments[name]


def assert_went_well(result: Result) -> None:
    assert (result.code, result.err) == (0, ""), result


def test_from_nothing_to_a_schedule(user: User, shell: Shell) -> None:
    user.standin.azure.blob_refusals_left = 1  # The new role does not work at once.
    user.project.set("workspace", image_build_compute="cpu-cluster")
    elsewhere = SUBNET.replace(Standin.subscription_id, "99999999-0000-4000-8000-1234")
    user.project.set("compute", subnet=elsewhere, public_ip=False)
    refused = shell.run("provision --create-workspace")
    assert (refused.code, len(user.standin.requests)) == (1, 0)
    assert (
        "compute.subnet is in the subscription 99999999-0000-4000-8000" in refused.err
    )
    user.project.set("compute", subnet=SUBNET)
    provisioned = shell.run("provision --create-workspace")
    assert_went_well(provisioned)
    lines = read_lines(provisioned.out)
    assert lines.count(("created", "cluster")) == 2
    assert lines.count(("assigned", "role")) == 7  # Yours, and three for each cluster.
    assert ("chosen", "cluster") in lines
    assert ("waiting", "until") in lines
    clusters = {
        resource["name"]: resource["properties"]["properties"]
        for id, resource in user.standin.azure.resources.items()
        if "/computes/" in id
    }
    assert clusters["cpu-cluster"]["subnet"] == {"id": SUBNET}
    assert clusters["cpu-cluster"]["enableNodePublicIp"] is False
    assert not clusters["many-nodes"]["subnet"]
    assert clusters["many-nodes"]["enableNodePublicIp"] is True

    rows = check(shell)
    for name in (
        "default datastore",
        "cluster's identity",
        "your roles",
        "cluster's roles",
        "computes.many: compute",
        "computes.many: cluster's identity",
        "computes.many: cluster's roles",
        "computes.many: VM size",
    ):
        assert rows[name]["status"] == "ok", rows[name]
    assert rows["storage"]["text"] == "standinstorage accepts no keys"
    # Each cluster fits, but 4 nodes of each of the same family do not.
    quota = rows["computes.many: quota"]
    assert (quota["status"], quota["key"]) == ("to review", "computes.many.max_nodes")
    assert "need 6 vCPUs, and the clusters above 8, of 12 allowed" in quota["text"]

    # Somebody switches off the admin account of the registry.
    registry = attach_registry(user.standin.azure, WORKSPACE, has_admin_account=False)
    rows = check(shell)
    for name in ("cluster's roles", "computes.many: cluster's roles"):
        assert rows[name]["status"] == "wrong"
        assert rows[name]["fix"].endswith(f'--role "AcrPull" --scope {registry}')
    states = list_states(shell.run("provision").out)
    assert states.count("assigned") == 2  # One for each cluster.
    assert check(shell)["cluster's roles"]["text"].endswith(
        "; AcrPull on standinregistry"
    )

    assert_went_well(shell.run("submit scoring --wait"))
    _, steps = user.newest_run()
    assert user.standin.azure.clusters == {
        steps["prep"].id: "cpu-cluster",
        steps["monitor"].id: "cpu-cluster",
        steps["score"].id: "many-nodes",
        steps["summarize"].id: "cpu-cluster",
    }
    settings = user.project.path / "settings.yml"
    schedule = "schedules: {scoring: {frequency: Day, interval: 1}}\n"
    settings.write_text(
        settings.read_text(encoding="utf-8") + schedule, encoding="utf-8"
    )
    published = shell.run("publish scoring")
    assert_went_well(published)
    assert "scheduled  schedule" in published.out or "scheduled" in published.out

    again = shell.run("provision")
    assert set(list_states(again.out)) == {"unchanged"}
    for request in user.standin.requests:
        if request.service != "blob" or "sig" in request.query:
            continue
        assert request.headers["authorization"].startswith("Bearer "), request.target
    workspace = next(
        resource
        for id, resource in user.standin.azure.resources.items()
        if id.endswith("/workspaces/workspace")
    )
    assert workspace["properties"]["systemDatastoresAuthMode"].lower() == "identity"
    assert workspace["properties"]["imageBuildCompute"] == "cpu-cluster"
    user.standin.verify()


def test_an_identity_of_your_own(user: User, shell: Shell) -> None:
    user.project.set("compute", identity=IDENTITY)
    assert_went_well(shell.run("provision --create-workspace"))
    assert check(shell)["cluster's identity"]["text"] == "cpu-cluster has reader"
    assert_went_well(shell.run("submit scoring --wait"))


def test_roles_that_an_owner_must_give(user: User, shell: Shell) -> None:
    azure = user.standin.azure
    azure.may_assign_roles = False
    refused = shell.run("provision --create-workspace")
    commands = re.findall("an owner runs (az role assignment create .*)", refused.out)
    assert len(commands) == 7
    assert commands[0].startswith(
        f"az role assignment create --assignee-object-id {CLIENT_ID} --role "
        '"Storage Blob Data Contributor" --scope /subscriptions/'
    )
    assert refused.code == 1
    assert "The login has no role for the data of the storage account" in refused.err
    rows = check(shell)
    assert rows["your roles"]["status"] == rows["cluster's roles"]["status"] == "wrong"
    assert rows["your roles"]["fix"] == commands[0]


@pytest.mark.parametrize(
    ("role", "row", "message"),
    [
        pytest.param(
            BLOB_DATA,
            "your roles",
            "The login has no role for the data of the storage account standinstorage.",
            id="your role for blobs",
        ),
        pytest.param(
            BLOB_DATA,
            "cluster's roles",
            "AuthorizationPermissionMismatch",
            id="the cluster's role for blobs",
        ),
        pytest.param(
            QUEUE_DATA,
            "computes.many: cluster's roles",
            "AuthorizationPermissionMismatch",
            id="the cluster's role for queues",
        ),
        pytest.param(
            ACR_PULL,
            "cluster's roles",
            "Failed to pull Docker image",
            id="the cluster's role for images",
        ),
    ],
)
def test_a_role_that_is_missing_is_named_by_the_check(
    user: User, shell: Shell, role: str, row: str, message: str
) -> None:
    assert_went_well(shell.run("provision --create-workspace"))
    owners = {
        "your roles": CLIENT_ID,
        "cluster's roles": cluster_principal(user, "cpu-cluster"),
        "computes.many: cluster's roles": cluster_principal(user, "many-nodes"),
    }
    owner = owners[row]
    if role == ACR_PULL:
        attach_registry(user.standin.azure, WORKSPACE, has_admin_account=False)
    take_role(user, owner, role)
    rows = check(shell)
    assert rows[row]["status"] == "wrong"
    assert f"--assignee-object-id {owner} " in rows[row]["fix"]
    data = user.project.path / "data/sample/scoring/penguins.csv"
    data.write_bytes(data.read_bytes() + b"\n")
    failed = shell.run("submit scoring --wait")
    assert failed.code == 1
    assert message in failed.out + failed.err


def test_a_cluster_without_an_identity(user: User, shell: Shell) -> None:
    assert_went_well(shell.run("provision --create-workspace"))
    for id, resource in user.standin.azure.resources.items():
        if id.endswith("/computes/cpu-cluster"):
            resource.pop("identity")
    identity = check(shell)["cluster's identity"]
    assert identity["status"] == "wrong"
    assert identity["fix"].startswith("az ml compute update --name cpu-cluster ")
    assert identity["fix"].endswith(" --identity-type SystemAssigned")
    failed = shell.run("submit scoring --wait")
    assert failed.code == 1
    assert "AuthorizationPermissionMismatch" in failed.out


def test_datastores_that_still_use_keys(user: User, shell: Shell) -> None:
    user.standin.create_workspace("workspace", "group", "cpu-cluster", "many-nodes")
    rows = check(shell)
    assert rows["default datastore"]["status"] == "wrong"
    assert rows["default datastore"]["fix"].startswith(
        "az ml workspace update --name workspace --resource-group group "
        "--system-datastores-auth-mode identity"
    )
    failed = shell.run("submit scoring")
    assert failed.code == 1
    assert "The storage account standinstorage accepts no keys." in failed.err
    assert "403 KeyBasedAuthenticationNotPermitted" in failed.err
