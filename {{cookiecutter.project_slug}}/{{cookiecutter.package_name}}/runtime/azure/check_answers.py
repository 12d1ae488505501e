"""The inputs and the results of the checks of `check --online`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

ML = "Microsoft.MachineLearningServices"
#: The part of a command of `az ml` that names the workspace, for `Facts.az`.
IN_WORKSPACE = "--resource-group {resource_group} --workspace-name {workspace_name}"

# The status of a row.
OK = "ok"
EMPTY = "to fill in"
UNUSUAL = "to review"  # Allowed, but it may not be meant.
WRONG = "wrong"
UNASKED = "could not ask"


@dataclass(frozen=True)
class AzureNames:
    """The settings for Azure, or the answers to the template's questions about it.

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
    #: The identity of the cluster: "system", or the id of an identity.
    identity: str = ""
    #: The key of the cluster in the settings.
    compute_key: str = "compute"
    #: The command that creates what is missing, such as `python -m penguins provision`.
    provision_command: str = "provision"


@dataclass(frozen=True)
class Row:
    """A row of the table: the name of a check, its result, and how to fix a problem."""

    name: str
    status: str
    text: str
    fix: str = ""
    #: The field of AzureNames to change. Empty if the fix is something else.
    setting: str = ""
    #: The key of the cluster that was checked.
    compute_key: str = "compute"

    def __str__(self) -> str:
        """Return the text and the fix as whole sentences."""
        if self.text.endswith("."):
            return f"{self.text} {self.fix}"
        return f"{self.text}: {self.fix}."


@dataclass(frozen=True)
class Answer:
    """The result of one check."""

    status: str
    text: str
    fix: str = ""
    #: The field of AzureNames to change. Empty if the fix is something else.
    setting: str = ""
    #: New values for fields of Facts, for the checks after this one.
    facts: Mapping[str, Any] = field(default_factory=dict)


class CheckFailed(Exception):
    """A check has ended early, with an answer.

    If `stops_all`, all checks after it are skipped.
    """

    def __init__(self, answer: Answer, stops_all: bool = False) -> None:
        super().__init__(answer.text)
        self.answer = answer
        self.stops_all = stops_all


@dataclass(frozen=True)
class Facts(AzureNames):
    """The settings for Azure, and what the checks have found out so far."""

    #: The tenant of the login. Empty if the token does not contain it.
    tenant_id: str = ""
    #: The id of the login. Empty if the token does not contain it.
    login_id: str = ""
    #: The path of the workspace. Empty if it does not exist.
    workspace: str = ""
    #: The path of the workspace's storage account.
    storage_account: str = ""
    #: Whether data is reached without keys.
    needs_identity: bool = False
    #: The path of the workspace's container registry. Empty if it has none yet.
    container_registry: str = ""
    #: Whether nodes need a role to download images.
    needs_pull_role: bool = False
    #: Whether the cluster exists.
    compute_exists: bool = False
    #: The principal id of the cluster's identity.
    cluster_principal: str = ""
    #: What Azure says about the VM size in the region of the workspace.
    size_in_region: Mapping[str, Any] | None = None
    #: The vCPUs of the clusters that have been checked, by the family of their VM sizes.
    cores: Mapping[str, int] = field(default_factory=dict)

    def with_cluster(self, names: AzureNames) -> Facts:
        """Return the facts for the checks of another cluster in the same workspace."""
        return replace(
            self,
            compute_key=names.compute_key,
            compute_name=names.compute_name,
            vm_size=names.vm_size,
            max_nodes=names.max_nodes,
            identity=names.identity,
            compute_exists=False,
            cluster_principal="",
            size_in_region=None,
        )

    @property
    def subscription(self) -> str:
        """The path of the subscription."""
        return f"/subscriptions/{self.subscription_id}"

    @property
    def workspace_path(self) -> str:
        """The path of the workspace, whether it exists or not."""
        return (
            f"{self.subscription}/resourceGroups/{self.resource_group}/providers/{ML}"
            f"/workspaces/{self.workspace_name}"
        )

    @property
    def location(self) -> str:
        """The path of the region in the subscription."""
        return f"{self.subscription}/providers/{ML}/locations/{self.region}"

    def az(self, command: str) -> str:
        """Return an `az` command for the subscription.

        A field's name in braces, such as {workspace_name}, is replaced by its value.
        """
        values = {name: shlex.quote(str(value)) for name, value in asdict(self).items()}
        values["region"] = self.region or "REGION"
        values["vm_size"] = self.vm_size or "SIZE"
        return f"az {command.format_map(values)} --subscription {values['subscription_id']}"
