"""The checks of `check --online` that compare the settings with the resources on Azure.

Each check asks Azure's resource manager, and may return facts that later checks use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from . import login
from .check_results import (
    EMPTY,
    ML,
    OK,
    UNUSUAL,
    WRONG,
    CheckFailed,
    CheckResult,
    Facts,
)
from .resource_manager import ML_VERSION, ResourceManager
from .roles import find_principal

SUBSCRIPTION_VERSION = "api-version=2022-12-01"
RESOURCES_VERSION = "api-version=2021-04-01"


def check_subscription(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that the login can use the subscription.

    The subscription must be visible to the login, and must be enabled. It must belong to the
    tenant of the login, or be managed from that tenant. Raises CheckFailed if the
    subscription is not visible.
    """
    subscription = azure.get(facts.subscription_path, SUBSCRIPTION_VERSION)
    if subscription is None:
        result = CheckResult(
            WRONG,
            f"the login sees no subscription {facts.subscription_id}",
            "write the id of a subscription that `az account list --output table` shows",
            setting="subscription_id",
        )
        # Everything else on Azure is in the subscription, so no other check can run.
        raise CheckFailed(result, stops_all=True)

    tenant_id = subscription["tenantId"]
    managing_tenants = subscription.get("managedByTenants") or []
    allowed_tenant_ids = [tenant_id, *(other["tenantId"] for other in managing_tenants)]
    if facts.tenant_id and facts.tenant_id not in allowed_tenant_ids:
        return CheckResult(
            WRONG,
            f"the subscription belongs to the tenant {tenant_id}, but the login to the "
            f"tenant {facts.tenant_id}",
            login.log_in_command(facts.cloud, tenant_id),
        )

    state = subscription["state"]
    if state == "Disabled":
        return CheckResult(
            WRONG,
            "the subscription is disabled",
            "ask the owner of the subscription to enable it",
        )
    if state == "Deleted":
        return CheckResult(
            WRONG,
            "the subscription is deleted",
            "write the id of another subscription that `az account list --output table` "
            "shows",
            setting="subscription_id",
        )
    return CheckResult(OK, subscription.get("displayName", ""))


def check_provider(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that Azure ML is registered in the subscription."""
    provider = azure.get(f"{facts.subscription_path}/providers/{ML}", RESOURCES_VERSION)
    state = provider["registrationState"]
    text = f"Azure ML is {state} in the subscription"
    if state in ("Registered", "Registering"):
        return CheckResult(OK, text)
    return CheckResult(WRONG, text, facts.az(f"provider register --namespace {ML}"))


def check_resource_group(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that the resource group exists."""
    path = f"{facts.subscription_path}/resourcegroups/{facts.resource_group}"
    if azure.get(path, RESOURCES_VERSION) is not None:
        return CheckResult(OK, facts.resource_group)
    return CheckResult(
        WRONG,
        f"there is no resource group {facts.resource_group}",
        facts.az("group create --name {resource_group} --location {region}"),
    )


def check_workspace(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that the workspace exists, and that its region and its kind are right.

    The new facts are that the workspace exists, its region, its storage account and its
    container registry.
    """
    workspace = azure.get(facts.workspace_path, ML_VERSION, status_if_forbidden=WRONG)
    if workspace is None:
        create_command = facts.az(
            "ml workspace create --name {workspace_name} "
            "--resource-group {resource_group} --location {region}"
        )
        return CheckResult(
            WRONG,
            f"there is no workspace {facts.workspace_name} in the resource group",
            f"{facts.provision_command}, or {create_command}",
        )

    # Azure may write "West Europe" for westeurope.
    region = workspace["location"].replace(" ", "").lower()
    new_facts = {
        "workspace_exists": True,
        "storage_account": workspace["properties"].get("storageAccount") or "",
        "container_registry": workspace["properties"].get("containerRegistry") or "",
        "region": region,
    }
    result = _check_region_and_kind(workspace, region, facts)
    return replace(result, new_facts=new_facts)


def _check_region_and_kind(
    workspace: Mapping[str, Any], region: str, facts: Facts
) -> CheckResult:
    """Check that a workspace is in the region of the settings, and of the kind Default.

    Only this kind is meant for pipelines. `region` is the region of the workspace, spelled as
    in the settings (westeurope).
    """
    if facts.region and facts.region != region:
        return CheckResult(
            WRONG,
            f"the workspace is in {region}, not in {facts.region}",
            f"write {region}",
            setting="region",
        )

    name = facts.workspace_name
    # The workspace may be of another kind, such as Hub, which is not meant for pipelines.
    kind = workspace.get("kind") or "Default"
    if kind != "Default":
        return CheckResult(
            UNUSUAL,
            f"{name}, in {region}, is of the kind {kind}",
            "use a workspace of the kind Default, because other kinds are not meant for "
            "pipelines",
        )
    return CheckResult(OK, f"{name}, in {region}")


def check_environment(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that the environment of the steps is registered in the workspace."""
    name = facts.environment_name
    if azure.get(f"{facts.workspace_path}/environments/{name}", ML_VERSION):
        return CheckResult(OK, name)
    # This is no error yet, because `provision` registers the environment.
    return CheckResult(
        EMPTY, f"{name} is not in the workspace yet", facts.provision_command
    )


def check_compute(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that the compute of the settings exists, is a cluster, and is usable.

    Its VM size and its number of nodes must fit the settings. The new facts are that the
    cluster exists, and the principal id of its identity.
    """
    name = facts.compute_name
    compute = azure.get(f"{facts.workspace_path}/computes/{name}", ML_VERSION)
    if not compute:
        create_command = facts.az_in_workspace(
            "ml compute create --name {compute_name} --type AmlCompute "
            "--size {vm_size} --max-instances {max_nodes}"
        )
        return CheckResult(
            WRONG,
            f"there is no compute {name}",
            f"{facts.provision_command}, or {create_command}",
        )

    properties = compute["properties"]
    kind = properties["computeType"]
    if kind != "AmlCompute":
        return CheckResult(
            WRONG,
            f"{name} is a {kind}, not a compute cluster (AmlCompute)",
            "write the name of a compute cluster instead",
            setting="compute_name",
        )
    state = properties["provisioningState"]
    if state in ("Failed", "Canceled", "Deleting"):
        return CheckResult(
            WRONG,
            f"the state of {name} is {state}",
            facts.az_in_workspace("ml compute show --name {compute_name}"),
        )

    # The inner properties are those of this kind of compute, which is a cluster.
    cluster_properties = properties["properties"]
    result = _check_cluster(cluster_properties, facts)
    # Later checks can use the cluster even if it differs from the settings.
    new_facts = {
        "compute_exists": True,
        "cluster_principal": find_principal(compute, facts.identity),
    }
    return replace(result, new_facts=new_facts)


def _check_cluster(cluster_properties: Mapping[str, Any], facts: Facts) -> CheckResult:
    """Check that a cluster has the VM size and at least the nodes of the settings.

    `cluster_properties` are the properties in Azure's response that only clusters have.
    """
    name = facts.compute_name
    vm_size = cluster_properties["vmSize"]
    if facts.vm_size and vm_size.lower() != facts.vm_size.lower():
        return CheckResult(
            WRONG,
            f"the nodes of {name} are of the size {vm_size}, not {facts.vm_size}",
            f"write {vm_size}",
            setting="vm_size",
        )

    max_nodes = cluster_properties["scaleSettings"]["maxNodeCount"]
    if max_nodes < facts.max_nodes:
        update_command = facts.az_in_workspace(
            "ml compute update --name {compute_name} --max-instances {max_nodes}"
        )
        return CheckResult(
            WRONG,
            f"{name} can have at most {max_nodes} nodes, not {facts.max_nodes}",
            f"write {max_nodes}, or run {update_command}",
            setting="max_nodes",
        )
    return CheckResult(OK, f"{name}, up to {max_nodes} nodes")
