"""What the checks of `check --online` start from, and what they return."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

#: The provider of Azure ML, which is a part of the path of each of its resources.
ML = "Microsoft.MachineLearningServices"

# The statuses of results.
OK = "ok"
EMPTY = "to fill in"
#: The value is allowed, but may be a mistake.
UNUSUAL = "to review"
WRONG = "wrong"
NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class AzureNames:
    """The settings for Azure and one cluster, or the answers to the template's questions.

    All values except the cloud may be empty. Checks that need an empty value are skipped.
    """

    subscription_id: str
    resource_group: str
    workspace_name: str
    region: str
    compute_name: str
    vm_size: str
    max_nodes: int
    environment_name: str
    cloud: str = "AzureCloud"
    #: The identity of the cluster: "system", or the resource id of an identity.
    identity: str = ""
    #: The key in settings.yml that describes the cluster, such as `computes.gpu`.
    compute_key: str = "compute"
    #: The command that creates what is missing, such as `python -m penguins provision`.
    provision_command: str = "provision"

    @property
    def subscription_path(self) -> str:
        """The path of the subscription in Azure's REST API."""
        return f"/subscriptions/{self.subscription_id}"

    @property
    def workspace_path(self) -> str:
        """The path of the workspace in Azure's REST API, even if it does not exist."""
        return (
            f"{self.subscription_path}/resourceGroups/{self.resource_group}/providers/"
            f"{ML}/workspaces/{self.workspace_name}"
        )

    @property
    def region_path(self) -> str:
        """The path under which Azure's REST API lists what Azure ML offers in the region."""
        return f"{self.subscription_path}/providers/{ML}/locations/{self.region}"

    def az(self, command: str) -> str:
        """Return an `az` command for the subscription, with the names filled in.

        The name of a field in braces is replaced by its value, quoted for the shell:
        "group show --name {resource_group}" becomes
        "az group show --name penguins --subscription 1234". An empty region or VM size
        becomes a word in capitals, which the user must replace.
        """
        values = {name: shlex.quote(str(value)) for name, value in asdict(self).items()}
        values["region"] = self.region or "REGION"
        values["vm_size"] = self.vm_size or "SIZE"
        arguments = command.format_map(values)
        return f"az {arguments} --subscription {values['subscription_id']}"

    def az_in_workspace(self, command: str) -> str:
        """Return an `az` command with the options that name the workspace.

        `command` may contain the names of fields in braces, which the method `az` fills in.
        """
        options = "--resource-group {resource_group} --workspace-name {workspace_name}"
        return self.az(f"{command} {options}")


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    status: str
    text: str
    #: How to solve the problem. Empty if there is nothing to do.
    fix: str = ""
    #: The field of AzureNames to change. Empty if the fix changes something else.
    setting: str = ""
    #: What later checks can use: new values of fields of Facts.
    new_facts: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the text and the fix as one message."""
        if self.text.endswith("."):
            return f"{self.text} {self.fix}"
        return f"{self.text}: {self.fix}."


@dataclass(frozen=True)
class NamedResult:
    """The result of a check, with the name of the check in the table of results."""

    name: str
    result: CheckResult
    #: The key of the cluster that was checked.
    compute_key: str = "compute"


class CheckFailed(Exception):
    """A check has ended early, with a result.

    If `stops_all` is true, all checks after it are skipped.
    """

    def __init__(
        self, result: CheckResult, stops_all: bool = False, message: str = ""
    ) -> None:
        """Create the error for a result.

        `message` describes the problem for commands that show no table of results. Without
        `message`, the text and the fix of the result describe it.
        """
        super().__init__(message or str(result))
        self.result = result
        self.stops_all = stops_all


@dataclass(frozen=True)
class Facts(AzureNames):
    """The settings for Azure, and what earlier checks have learned about Azure.

    If the workspace exists, `region` is its region, and not the one in the settings.
    """

    #: The tenant of the login. Empty if the token does not contain it.
    tenant_id: str = ""
    #: The principal id of the login. Empty if the token does not contain it.
    login_id: str = ""
    workspace_exists: bool = False
    #: The path of the workspace's storage account.
    storage_account: str = ""
    #: Whether data can only be reached by an identity with roles, and not by a key.
    needs_identity: bool = False
    #: The path of the workspace's container registry. Empty if there is none yet.
    container_registry: str = ""
    #: Whether nodes can only download images by an identity with a role.
    needs_pull_role: bool = False
    compute_exists: bool = False
    #: The principal id of the cluster's identity. Empty if the cluster has none.
    cluster_principal: str = ""
    #: The family of the VM size, which quotas name. Empty until the size was checked.
    vm_family: str = ""
    #: The vCPUs of one node. 0 until the VM size was checked.
    cores_per_node: int = 0
    #: How many vCPUs the clusters checked so far need, by the family of their VM size.
    cores_by_family: Mapping[str, int] = field(default_factory=dict)

    def with_cluster(self, names: AzureNames) -> Facts:
        """Return the facts with which another cluster of the same workspace is checked.

        What is known about the workspace stays. What was learned about the previous cluster
        is unknown again.
        """
        return replace(
            self,
            compute_key=names.compute_key,
            compute_name=names.compute_name,
            vm_size=names.vm_size,
            max_nodes=names.max_nodes,
            identity=names.identity,
            # The checks of the new cluster find these facts again.
            compute_exists=False,
            cluster_principal="",
            vm_family="",
            cores_per_node=0,
        )
