"""Assign the roles for storage without keys and for registries without an admin account.

docs/azure.md says why.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .check_answers import WRONG, Answer, AzureNames, CheckFailed, Facts
from .login import get_token
from .resource_manager import ML_VERSION, ResourceManager

LONGEST_WAIT = 60.0  # Seconds, while Azure is busy.
VERSION = "api-version=2022-04-01"  # Of the REST API of roles.
REGISTRY_VERSION = "api-version=2023-07-01"  # Of the REST API of container registries.


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
#: The ids of roles that hold all of a role, by its id.
STRONGER_ROLES = {
    BLOB_DATA.id: ["b7e6dc6d-f1e8-4753-8033-0f276bb0955b"],  # Storage Blob Data Owner
    ACR_PULL.id: [
        "8311e382-0749-4cb8-b61a-304f252e45ec",  # AcrPush
        "b24988ac-6180-42a0-ab88-20f7382dd24c",  # Contributor
        "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",  # Owner
    ],
}

#: The login uploads data. A parallel step keeps its mini-batches in queues and tables.
LOGIN_ROLES = (BLOB_DATA,)
CLUSTER_ROLES = (BLOB_DATA, QUEUE_DATA, TABLE_DATA)
#: A node downloads the image of an environment.
REGISTRY_ROLES = (ACR_PULL,)


@dataclass(frozen=True)
class NeededRoles:
    """Roles that somebody needs at one resource, whose path is `scope`."""

    scope: str
    roles: tuple[Role, ...]

    @property
    def resource_name(self) -> str:
        """The name of the resource."""
        return self.scope.rpartition("/")[2]


def read_claims(token: str) -> dict[str, Any]:
    """Return what a token says about its owner, or nothing if it does not say."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    except (ValueError, IndexError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def find_principal(resource: Mapping[str, Any], identity: str) -> str:
    """Return the principal id of a resource's identity, or "" if it lacks this identity.

    `identity` is "system" for the system-assigned identity, or the resource id of a
    user-assigned one. If it is empty, any identity of the resource will do: the first
    user-assigned one or, without any, the system-assigned one.
    """
    identities = resource.get("identity") or {}
    system_principal = str(identities.get("principalId") or "")
    # Azure does not distinguish upper and lower case in resource ids.
    user_principals = {
        resource_id.lower(): str(properties.get("principalId") or "")
        for resource_id, properties in (
            identities.get("userAssignedIdentities") or {}
        ).items()
    }

    if identity == "system":
        return system_principal
    if identity:
        return user_principals.get(identity.lower(), "")
    if user_principals:
        return next(iter(user_principals.values()))
    return system_principal


def has_admin_account(azure: ResourceManager, registry: str) -> bool | None:
    """Return whether a container registry, whose path is given, has an admin account.

    By this account, nodes download images without a role. None means that the login may not
    see it. Raises CheckFailed.
    """
    resource = azure.get(registry, REGISTRY_VERSION, none_if=(403, 404))
    if resource is None:
        return None
    return resource["properties"].get("adminUserEnabled") is not False


def list_missing_roles(
    azure: ResourceManager, principal: str, needed: NeededRoles
) -> list[Role]:
    """Return those of the needed roles that a person or an identity does not have.

    Roles of its groups, and roles at what holds the resource, count too. Raises CheckFailed.
    """
    path = f"{needed.scope}/providers/Microsoft.Authorization/roleAssignments"
    query = f"{VERSION}&$filter=assignedTo('{principal}')"
    role_ids = {
        assignment["properties"]["roleDefinitionId"].rpartition("/")[2].lower()
        for assignment in azure.list_items(path, query)
    }
    missing = []
    for role in needed.roles:
        sufficient = {role.id, *STRONGER_ROLES.get(role.id, [])}
        if role_ids.isdisjoint(sufficient):
            missing.append(role)
    return missing


def assign_role(
    azure: ResourceManager, principal: str, kind: str, scope: str, role: Role
) -> None:
    """Give a role at a resource to a principal of the kind ServicePrincipal or User.

    Raises CheckFailed if the login may not do this.
    """
    subscription = "/".join(scope.split("/")[:3])
    definition = (
        f"{subscription}/providers/Microsoft.Authorization/roleDefinitions/{role.id}"
    )
    # The same assignment always has the same name, so that it is made once.
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{scope}/{principal}/{role.id}".lower())
    azure.put(
        f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}",
        VERSION,
        {
            "properties": {
                "roleDefinitionId": definition,
                "principalId": principal,
                "principalType": kind,
            }
        },
    )


def command_to_assign(principal: str, scope: str, role: Role) -> str:
    """Return the `az` command that gives a role at a resource."""
    return (
        f"az role assignment create --assignee-object-id {principal} "
        f'--role "{role.name}" --scope {scope}'
    )


@dataclass(frozen=True)
class RoleStatus:
    """A role that somebody needs, and whether this command has given it to them.

    If the login may not give it, `command` is what an owner runs.
    """

    owner: str  # "you", or the name of the cluster.
    role: Role
    resource_name: str
    is_new: bool = False
    command: str = ""


def provide_roles(clusters: Sequence[AzureNames]) -> list[RoleStatus]:
    """Assign to the user and the clusters the roles that replace keys, if the login may.

    Raises CheckFailed if Azure does not describe a resource, and LoginError.
    """
    names = clusters[0]  # All are in the same workspace.
    token = get_token(names.cloud)
    claims = read_claims(token)
    azure = ResourceManager(names, token, time.monotonic() + LONGEST_WAIT)
    workspace_path = Facts(**asdict(names)).workspace_path
    workspace = _get_existing(azure, workspace_path)
    properties = workspace["properties"]
    storage = str(properties["storageAccount"])
    cluster_needs = [NeededRoles(storage, CLUSTER_ROLES)]
    # Azure ML creates the registry when it builds the first image.
    registry = properties.get("containerRegistry")
    if registry and has_admin_account(azure, registry) is False:
        cluster_needs.append(NeededRoles(registry, REGISTRY_ROLES))

    login_kind = "ServicePrincipal" if claims.get("idtyp") == "app" else "User"
    principals = [
        _Principal(
            owner="you",
            id=str(claims.get("oid", "")),
            kind=login_kind,
            needs=[NeededRoles(storage, LOGIN_ROLES)],
        )
    ]
    for cluster in clusters:
        path = f"{workspace_path}/computes/{cluster.compute_name}"
        principal_id = find_principal(_get_existing(azure, path), cluster.identity)
        principals.append(
            _Principal(
                owner=cluster.compute_name,
                id=principal_id,
                kind="ServicePrincipal",
                needs=cluster_needs,
            )
        )
    statuses = []
    for principal in principals:
        if not principal.id:
            continue
        for needed in principal.needs:
            statuses += _provide_roles_at(azure, principal, needed)
    return statuses


def _get_existing(azure: ResourceManager, path: str) -> Any:
    """Return a resource of Azure ML. Raises CheckFailed if Azure does not find it."""
    resource = azure.get(path, ML_VERSION)
    if resource is None:
        answer = Answer(
            WRONG,
            f"Azure does not find {path.rpartition('/')[2]}, which needs roles.",
            "It may have been created a moment ago: run the command again.",
        )
        raise CheckFailed(answer)
    return resource


@dataclass(frozen=True)
class _Principal:
    """Somebody who needs roles, and the kind that Azure calls it."""

    owner: str
    id: str
    kind: str
    needs: list[NeededRoles]


def _provide_roles_at(
    azure: ResourceManager, principal: _Principal, needed: NeededRoles
) -> list[RoleStatus]:
    """Give a principal the roles that it needs at one resource, as far as the login may."""
    missing = list_missing_roles(azure, principal.id, needed)
    statuses = []
    for role in needed.roles:
        status = RoleStatus(principal.owner, role, needed.resource_name)
        if role in missing:
            try:
                assign_role(azure, principal.id, principal.kind, needed.scope, role)
                status = replace(status, is_new=True)
            except CheckFailed:
                command = command_to_assign(principal.id, needed.scope, role)
                status = replace(status, command=command)
        statuses.append(status)
    return statuses
