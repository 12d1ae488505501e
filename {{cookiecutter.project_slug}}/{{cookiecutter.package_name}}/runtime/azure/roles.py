"""Assign the roles that replace the keys of storage accounts and container registries.

docs/azure.md explains which roles are needed, and why.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .check_results import WRONG, AzureNames, CheckFailed, CheckResult
from .login import get_token
from .resource_manager import ML_VERSION, ResourceManager

#: While Azure is busy, requests are repeated for at most this many seconds.
LONGEST_WAIT_SECONDS = 60.0
#: The version of the REST API of roles.
VERSION = "api-version=2022-04-01"
#: The version of the REST API of container registries.
REGISTRY_VERSION = "api-version=2023-07-01"


@dataclass(frozen=True)
class Role:
    """A role that Azure has built in. Its id is the same in every tenant."""

    name: str
    id: str


BLOB_DATA = Role(
    "Storage Blob Data Contributor", "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
)
QUEUE_DATA = Role(
    "Storage Queue Data Contributor", "974c5e8b-45b9-4653-ba55-5f855dd0fb88"
)
TABLE_DATA = Role(
    "Storage Table Data Contributor", "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3"
)
ACR_PULL = Role("AcrPull", "7f951dda-4ed3-4680-a7ca-43fe172d538d")
#: The ids of stronger roles, by the id of the weaker role that they include.
STRONGER_ROLES = {
    BLOB_DATA.id: ["b7e6dc6d-f1e8-4753-8033-0f276bb0955b"],  # Storage Blob Data Owner
    ACR_PULL.id: [
        "8311e382-0749-4cb8-b61a-304f252e45ec",  # AcrPush
        "b24988ac-6180-42a0-ab88-20f7382dd24c",  # Contributor
        "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",  # Owner
    ],
}

#: The login uploads data.
LOGIN_ROLES = (BLOB_DATA,)
#: Nodes read and write data. A parallel step keeps its mini-batches in queues and tables.
CLUSTER_ROLES = (BLOB_DATA, QUEUE_DATA, TABLE_DATA)
#: Nodes download the images of environments.
REGISTRY_ROLES = (ACR_PULL,)


@dataclass(frozen=True)
class NeededRoles:
    """Roles that the login or a cluster needs on one resource, whose path is `scope`."""

    scope: str
    roles: tuple[Role, ...]

    @property
    def resource_name(self) -> str:
        """The name of the resource."""
        return self.scope.rpartition("/")[2]


def read_claims(token: str) -> dict[str, Any]:
    """Return the claims in a token (a JWT): what it says about its owner, by name.

    An example is the claim "oid", the id of the owner. Returns an empty dict if the token
    cannot be read.
    """
    try:
        # A token has three parts with dots between them. The second part contains the claims
        # in base64 without padding. Python ignores the padding that is too much.
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    except (ValueError, IndexError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def find_principal(resource: Mapping[str, Any], identity: str) -> str:
    """Return the principal id of a resource's identity, or "" if the identity is missing.

    `identity` is "system" for the system-assigned identity, or the resource id of a
    user-assigned one. If `identity` is empty, the first user-assigned identity is used, or
    the system-assigned one if there is no other.
    """
    identities = resource.get("identity") or {}
    system_principal = str(identities.get("principalId") or "")
    user_identities = identities.get("userAssignedIdentities") or {}
    # Azure does not distinguish upper and lower case in resource ids.
    principal_by_resource_id = {
        resource_id.lower(): str(properties.get("principalId") or "")
        for resource_id, properties in user_identities.items()
    }

    if identity == "system":
        return system_principal
    if identity:
        return principal_by_resource_id.get(identity.lower(), "")
    if principal_by_resource_id:
        return next(iter(principal_by_resource_id.values()))
    return system_principal


def has_admin_account(azure: ResourceManager, registry: str) -> bool | None:
    """Return whether the container registry at a path has an admin account.

    With an admin account, nodes can download images without a role. Returns None if the
    login has no permission to see the registry. Raises CheckFailed on any other error.
    """
    resource = azure.get(registry, REGISTRY_VERSION, none_if=(403, 404))
    if resource is None:
        return None
    return resource["properties"].get("adminUserEnabled") is not False


def list_missing_roles(
    azure: ResourceManager, principal_id: str, needed: NeededRoles
) -> list[Role]:
    """Return those of the needed roles that a principal (a person or an identity) lacks.

    Roles that the principal has through a group, or that are assigned on the resource group
    or the subscription, count too. Raises CheckFailed if Azure refuses the request.
    """
    path = f"{needed.scope}/providers/Microsoft.Authorization/roleAssignments"
    query = f"{VERSION}&$filter=assignedTo('{principal_id}')"
    assigned_role_ids = {
        assignment["properties"]["roleDefinitionId"].rpartition("/")[2].lower()
        for assignment in azure.list_items(path, query)
    }
    missing_roles = []
    for role in needed.roles:
        sufficient_role_ids = {role.id, *STRONGER_ROLES.get(role.id, [])}
        if assigned_role_ids.isdisjoint(sufficient_role_ids):
            missing_roles.append(role)
    return missing_roles


def make_assign_command(principal_id: str, scope: str, role: Role) -> str:
    """Return the `az` command that assigns a role on the resource at the path `scope`."""
    return (
        f"az role assignment create --assignee-object-id {principal_id} "
        f'--role "{role.name}" --scope {scope}'
    )


@dataclass(frozen=True)
class RoleStatus:
    """A needed role, and whether this command has assigned it."""

    #: Who needs the role: "you", or the name of a cluster.
    owner: str
    role: Role
    resource_name: str
    is_new: bool = False
    #: The command with which an owner assigns the role, if the login may not do so.
    owner_command: str = ""


@dataclass(frozen=True)
class _Principal:
    """The login or a cluster's identity, to which roles are assigned."""

    #: "you", or the name of the cluster.
    owner: str
    #: The id on Azure. Empty if it is not known.
    id: str
    #: The kind as Azure names it: "User" or "ServicePrincipal".
    kind: str
    needed_roles: list[NeededRoles]


def provide_roles(clusters: Sequence[AzureNames]) -> list[RoleStatus]:
    """Give the user and the clusters the roles to access the workspace without keys.

    `clusters` are the settings for the clusters, which are all in the same workspace.
    Returns the status of each role that the user or a cluster needs. If the login may not
    assign a role, the status of this role contains the command for an owner.

    Raises LoginError without a login, and CheckFailed if Azure responds with another error,
    or does not find the workspace or a cluster.
    """
    # The names of the workspace are the same for all clusters.
    workspace_names = clusters[0]
    token = get_token(workspace_names.cloud)
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    azure = ResourceManager(workspace_names, token, deadline)
    workspace = _get_existing(azure, workspace_names.workspace_path)
    storage_account = str(workspace["properties"]["storageAccount"])

    principals = [
        _make_login_principal(token, storage_account),
        *_list_cluster_principals(azure, workspace, clusters),
    ]
    statuses = []
    for principal in principals:
        if not principal.id:
            # The token does not contain the id of its owner, or the cluster lacks the
            # identity in the settings. `check --online` reports both.
            continue
        for needed in principal.needed_roles:
            statuses += _provide_roles_on(azure, principal, needed)
    return statuses


def _list_cluster_principals(
    azure: ResourceManager,
    workspace: Mapping[str, Any],
    clusters: Sequence[AzureNames],
) -> list[_Principal]:
    """Return the identity of each cluster in a workspace, with the roles that it needs.

    A cluster without the identity in the settings has an empty id. Raises CheckFailed if
    Azure does not find a cluster.
    """
    needed_roles = _list_cluster_roles(azure, workspace)
    principals = []
    for cluster in clusters:
        compute_path = f"{cluster.workspace_path}/computes/{cluster.compute_name}"
        compute = _get_existing(azure, compute_path)
        principals.append(
            _Principal(
                owner=cluster.compute_name,
                id=find_principal(compute, cluster.identity),
                kind="ServicePrincipal",
                needed_roles=needed_roles,
            )
        )
    return principals


def _make_login_principal(token: str, storage_account: str) -> _Principal:
    """Return the principal of the login, which needs roles on the storage account."""
    claims = read_claims(token)
    is_app = claims.get("idtyp") == "app"
    return _Principal(
        owner="you",
        id=str(claims.get("oid", "")),
        kind="ServicePrincipal" if is_app else "User",
        needed_roles=[NeededRoles(storage_account, LOGIN_ROLES)],
    )


def _list_cluster_roles(
    azure: ResourceManager, workspace: Mapping[str, Any]
) -> list[NeededRoles]:
    """Return the roles that a cluster needs on the resources of a workspace."""
    properties = workspace["properties"]
    cluster_roles = [NeededRoles(str(properties["storageAccount"]), CLUSTER_ROLES)]
    # There is no registry before Azure ML builds the first image.
    registry = properties.get("containerRegistry")
    if registry and has_admin_account(azure, registry) is False:
        cluster_roles.append(NeededRoles(registry, REGISTRY_ROLES))
    return cluster_roles


def _get_existing(azure: ResourceManager, path: str) -> Any:
    """Return the Azure ML resource whose roles are assigned, such as a compute cluster.

    Raises CheckFailed if it does not exist.
    """
    resource = azure.get(path, ML_VERSION)
    if resource is None:
        name = path.rpartition("/")[2]
        result = CheckResult(
            WRONG,
            f"Azure does not find {name}, so its roles cannot be assigned.",
            f"If {name} was created a moment ago, run the command again.",
        )
        raise CheckFailed(result)
    return resource


def _provide_roles_on(
    azure: ResourceManager, principal: _Principal, needed: NeededRoles
) -> list[RoleStatus]:
    """Assign to a principal the roles that it lacks on one resource.

    Returns a status for each needed role. Raises CheckFailed if Azure responds with an error
    other than the lack of a permission to assign the role.
    """
    missing_roles = list_missing_roles(azure, principal.id, needed)
    statuses = []
    for role in needed.roles:
        status = RoleStatus(principal.owner, role, needed.resource_name)
        if role in missing_roles:
            if _assign_role(azure, principal, needed.scope, role):
                status = replace(status, is_new=True)
            else:
                command = make_assign_command(principal.id, needed.scope, role)
                status = replace(status, owner_command=command)
        statuses.append(status)
    return statuses


def _assign_role(
    azure: ResourceManager, principal: _Principal, scope: str, role: Role
) -> bool:
    """Assign a role on the resource at the path `scope` to a principal.

    Returns False if the login may not assign roles. Raises CheckFailed on any other error.
    """
    # A scope such as /subscriptions/ID/resourceGroups/… begins with the subscription.
    subscription_path = "/".join(scope.split("/")[:3])
    role_path = (
        f"{subscription_path}/providers/Microsoft.Authorization/roleDefinitions/"
        f"{role.id}"
    )
    # The same assignment always has the same name, so a repeated call does not create a
    # second one.
    assignment_name = uuid.uuid5(
        uuid.NAMESPACE_URL, f"{scope}/{principal.id}/{role.id}".lower()
    )
    return azure.put(
        f"{scope}/providers/Microsoft.Authorization/roleAssignments/{assignment_name}",
        VERSION,
        {
            "properties": {
                "roleDefinitionId": role_path,
                "principalId": principal.id,
                "principalType": principal.kind,
            }
        },
        # Somebody may have assigned the role a moment ago, under another name.
        code_if_exists="RoleAssignmentExists",
    )
