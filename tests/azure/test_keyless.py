"""Test a workspace whose storage accepts no keys, with both SDKs.

The stand-in refuses keys and anonymous requests, and checks the roles of each identity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

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
    TOY_PREP,
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
#: A second cluster, which has its own identity, and on which the step score runs.
SECOND_CLUSTER = """
computes:
  many:
    name: many-nodes
    vm_size: Standard_D2ds_v4
    max_nodes: 3
    identity: system
steps: {score: many}
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
        project.edit("settings.yml", "keep_runs:", f"{SECOND_CLUSTER}keep_runs:")
        user.write("prep", TOY_PREP)
        user.write("monitor", MONITOR)
        user.write("score", TOY_SCORE)
        user.write("summarize", "print('done')")
        yield user


@pytest.fixture
def shell(user: User) -> Iterator[Shell]:
    """A shell that runs commands of the user's project."""
    with closing(Shell(user)) as shell:
        yield shell


def check_online(shell: Shell) -> dict[str, dict[str, str]]:
    """Run `check --online`, and return its rows by their names."""
    rows = json.loads(shell.run("check --online --json").out)["checks"]
    return {row["name"]: row for row in rows}


def assert_succeeded(result: Result) -> None:
    """Check that a command has ended without an error and without a warning."""
    assert (result.code, result.err) == (0, ""), result


def read_clusters(user: User) -> dict[str, Any]:
    """Return the properties of all clusters by their names."""
    return {
        resource["name"]: resource["properties"]["properties"]
        for id, resource in user.standin.azure.resources.items()
        if "/computes/" in id
    }


def find_principal(user: User, cluster_name: str) -> str:
    """Return the id of a cluster's identity."""
    resources = user.standin.azure.resources.items()
    (cluster,) = (
        resource
        for id, resource in resources
        if id.endswith(f"/computes/{cluster_name}")
    )
    (principal,) = principals_of(cluster)
    return principal


def remove_role(user: User, principal: str, role: str) -> None:
    """Remove the assignments of a role to a person or an identity."""
    assignments = user.standin.azure.role_assignments
    for name, assignment in list(assignments.items()):
        properties = assignment["properties"]
        is_role = properties["roleDefinitionId"].endswith(role)
        if is_role and properties["principalId"] == principal:
            del assignments[name]


# From nothing to a schedule -------------------------------------------------------------


def test_keyless_workspace_is_provisioned_used_and_scheduled(
    user: User, shell: Shell
) -> None:
    """Follow a user from a subscription without a workspace to a daily schedule."""
    assert_subnet_of_another_subscription_is_refused(user, shell)
    assert_provision_creates_two_clusters_and_their_roles(user, shell)
    assert_clusters_have_the_network_of_the_settings(user)
    assert_check_finds_everything_but_the_common_quota(shell)
    assert_provision_adds_the_roles_for_a_registry(user, shell)
    assert_score_runs_on_the_second_cluster(user, shell)
    assert_scoring_is_published_with_a_schedule(user, shell)

    again = shell.run("provision")
    assert set(list_states(again.out)) == {"unchanged"}
    assert_workspace_uses_identities(user)
    assert_no_request_has_a_key(user)
    user.standin.verify()


def assert_subnet_of_another_subscription_is_refused(user: User, shell: Shell) -> None:
    """Check that `provision` refuses such a subnet before it sends a request."""
    other_subscription = "99999999-0000-4000-8000-1234"
    subnet = SUBNET.replace(Standin.subscription_id, other_subscription)
    user.project.set("compute", subnet=subnet, public_ip=False)
    refused = shell.run("provision --create-workspace")
    assert refused.code == 1
    assert user.standin.requests == []
    message = "compute.subnet is in the subscription 99999999-0000-4000-8000"
    assert message in refused.err


def assert_provision_creates_two_clusters_and_their_roles(
    user: User, shell: Shell
) -> None:
    """Check what `provision` creates, and that it waits until a new role is in effect."""
    user.standin.azure.blob_refusals_left = 1
    user.project.set("workspace", image_build_compute="cpu-cluster")
    user.project.set("compute", subnet=SUBNET)
    provisioned = shell.run("provision --create-workspace")
    assert_succeeded(provisioned)
    lines = read_lines(provisioned.out)
    assert lines.count(("created", "cluster")) == 2
    # One role is the user's own, and each cluster has three.
    assert lines.count(("assigned", "role")) == 7
    assert ("chosen", "cluster") in lines
    assert ("waiting", "until") in lines


def assert_clusters_have_the_network_of_the_settings(user: User) -> None:
    """Check that only the first cluster is in the subnet and has no public address."""
    clusters = read_clusters(user)
    assert clusters["cpu-cluster"]["subnet"] == {"id": SUBNET}
    assert clusters["cpu-cluster"]["enableNodePublicIp"] is False
    assert not clusters["many-nodes"]["subnet"]
    assert clusters["many-nodes"]["enableNodePublicIp"] is True


def assert_check_finds_everything_but_the_common_quota(shell: Shell) -> None:
    """Check the rows of `check --online`.

    Each cluster fits into the quota, but 4 nodes of each, of the same family, do not.
    """
    rows = check_online(shell)
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
    quota = rows["computes.many: quota"]
    assert (quota["status"], quota["key"]) == ("to review", "computes.many.max_nodes")
    assert (
        "need 6 vCPUs, and the clusters above need 8 more, but 12 are allowed"
        in quota["text"]
    )


def assert_provision_adds_the_roles_for_a_registry(user: User, shell: Shell) -> None:
    """Check `check` and `provision` after the registry's admin account was switched off."""
    registry = attach_registry(user.standin.azure, WORKSPACE, has_admin_account=False)
    rows = check_online(shell)
    for name in ("cluster's roles", "computes.many: cluster's roles"):
        assert rows[name]["status"] == "wrong"
        assert rows[name]["fix"].endswith(f'--role "AcrPull" --scope {registry}')

    states = list_states(shell.run("provision").out)
    # Each of the two clusters gets the role.
    assert states.count("assigned") == 2
    roles = check_online(shell)["cluster's roles"]["text"]
    assert roles.endswith("; AcrPull on standinregistry")


def assert_score_runs_on_the_second_cluster(user: User, shell: Shell) -> None:
    """Check that scoring succeeds, and on which cluster each of its steps runs."""
    assert_succeeded(shell.run("submit scoring --wait"))
    _, steps = user.newest_run()
    assert user.standin.azure.clusters == {
        steps["prep"].id: "cpu-cluster",
        steps["monitor"].id: "cpu-cluster",
        steps["score"].id: "many-nodes",
        steps["summarize"].id: "cpu-cluster",
    }


def assert_scoring_is_published_with_a_schedule(user: User, shell: Shell) -> None:
    """Check that `publish` creates the schedule of the settings."""
    settings = user.project.path / "settings.yml"
    text = settings.read_text(encoding="utf-8")
    schedule = "schedules: {scoring: {frequency: Day, interval: 1}}\n"
    settings.write_text(text + schedule, encoding="utf-8")
    published = shell.run("publish scoring")
    assert_succeeded(published)
    assert "scheduled  frequency Day, interval 1" in published.out


def assert_workspace_uses_identities(user: User) -> None:
    """Check how the workspace gets at its storage, and where it builds images."""
    workspace = next(
        resource
        for id, resource in user.standin.azure.resources.items()
        if id.endswith("/workspaces/workspace")
    )
    assert workspace["properties"]["systemDatastoresAuthMode"].lower() == "identity"
    assert workspace["properties"]["imageBuildCompute"] == "cpu-cluster"


def assert_no_request_has_a_key(user: User) -> None:
    """Check that each request for a blob has a token, unless its address is signed."""
    for request in user.standin.requests:
        if request.service != "blob" or "sig" in request.query:
            continue
        assert request.headers["authorization"].startswith("Bearer "), request.target


# Identities and roles -------------------------------------------------------------------


def test_cluster_can_have_an_identity_of_the_user(user: User, shell: Shell) -> None:
    user.project.set("compute", identity=IDENTITY)
    assert_succeeded(shell.run("provision --create-workspace"))
    identity = check_online(shell)["cluster's identity"]
    assert identity["text"] == "cpu-cluster has the identity reader"
    assert_succeeded(shell.run("submit scoring --wait"))


def test_provision_shows_an_owner_the_commands_that_assign_roles(
    user: User, shell: Shell
) -> None:
    azure = user.standin.azure
    azure.may_assign_roles = False
    refused = shell.run("provision --create-workspace")
    commands = re.findall(
        "an owner can assign it with (az role assignment create .*)", refused.out
    )
    assert len(commands) == 7
    assert commands[0].startswith(
        f"az role assignment create --assignee-object-id {CLIENT_ID} --role "
        '"Storage Blob Data Contributor" --scope /subscriptions/'
    )
    assert refused.code == 1
    assert "The login has no role for the data of the storage account" in refused.err
    rows = check_online(shell)
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
def test_check_names_a_missing_role_without_which_scoring_fails(
    user: User, shell: Shell, role: str, row: str, message: str
) -> None:
    assert_succeeded(shell.run("provision --create-workspace"))
    owners = {
        "your roles": CLIENT_ID,
        "cluster's roles": find_principal(user, "cpu-cluster"),
        "computes.many: cluster's roles": find_principal(user, "many-nodes"),
    }
    owner = owners[row]
    if role == ACR_PULL:
        attach_registry(user.standin.azure, WORKSPACE, has_admin_account=False)
    remove_role(user, owner, role)

    rows = check_online(shell)

    assert rows[row]["status"] == "wrong"
    assert f"--assignee-object-id {owner} " in rows[row]["fix"]
    # Data that has changed must be uploaded, for which the user needs a role, too.
    data = user.project.path / "data/sample/scoring/penguins.csv"
    data.write_bytes(data.read_bytes() + b"\n")
    failed = shell.run("submit scoring --wait")
    assert failed.code == 1
    assert message in failed.out + failed.err


def test_check_names_a_cluster_without_an_identity(user: User, shell: Shell) -> None:
    assert_succeeded(shell.run("provision --create-workspace"))
    for id, resource in user.standin.azure.resources.items():
        if id.endswith("/computes/cpu-cluster"):
            resource.pop("identity")
    identity = check_online(shell)["cluster's identity"]
    assert identity["status"] == "wrong"
    assert identity["fix"].startswith("az ml compute update --name cpu-cluster ")
    assert identity["fix"].endswith(" --identity-type SystemAssigned")
    failed = shell.run("submit scoring --wait")
    assert failed.code == 1
    assert "AuthorizationPermissionMismatch" in failed.out


def test_check_names_datastores_that_still_use_keys(user: User, shell: Shell) -> None:
    user.standin.create_workspace("workspace", "group", "cpu-cluster", "many-nodes")
    rows = check_online(shell)
    assert rows["default datastore"]["status"] == "wrong"
    assert rows["default datastore"]["fix"].startswith(
        "az ml workspace update --name workspace --resource-group group "
        "--system-datastores-auth-mode identity"
    )
    failed = shell.run("submit scoring")
    assert failed.code == 1
    assert "The storage account standinstorage accepts no keys." in failed.err
    assert "403 KeyBasedAuthenticationNotPermitted" in failed.err
