"""Who needs which role on a storage account that accepts no keys; docs/azure.md says why."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .check_answers import AzureNames, CheckFailed, Facts
from .login import get_token
from .resource_manager import ML_VERSION, ResourceManager

LONGEST_WAIT = 60.0  # Seconds, while Azure is busy.
VERSION = "api-version=2022-04-01"  # Of the REST API of roles.


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
#: Roles that hold more than one of these, by its id.
STRONGER_ROLES = {BLOB_DATA.id: ["b7e6dc6d-f1e8-4753-8033-0f276bb0955b"]}  # Data Owner.

#: The login uploads data. A parallel step keeps its mini-batches in queues and tables.
LOGIN_ROLES = (BLOB_DATA,)
CLUSTER_ROLES = (BLOB_DATA, QUEUE_DATA, TABLE_DATA)


def read_claims(token: str) -> dict[str, Any]:
    """Return what a token says about its owner, or nothing if it does not say."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    except (ValueError, IndexError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def find_principal(resource: Mapping[str, Any], identity: str) -> str:
    """Return the id of a resource's identity, or an empty text if it has none.

    `identity` is "system", the id of a user-assigned identity, or empty: then it is
    whichever the resource has.
    """
    block = resource.get("identity") or {}
    if identity == "system":
        return str(block.get("principalId") or "")
    assigned = block.get("userAssignedIdentities") or {}
    for identity_id, properties in assigned.items():
        if not identity or identity_id.lower() == identity.lower():
            return str(properties.get("principalId") or "")
    return "" if identity else str(block.get("principalId") or "")


def list_missing_roles(
    azure: ResourceManager, principal: str, scope: str, roles: tuple[Role, ...]
) -> list[Role]:
    """Return those of some roles that a person or an identity has not at a resource.

    Roles of its groups, and roles at what holds the resource, count too. Raises CheckFailed.
    """
    path = f"{scope}/providers/Microsoft.Authorization/roleAssignments"
    query = f"{VERSION}&$filter=assignedTo('{principal}')"
    role_ids = {
        assignment["properties"]["roleDefinitionId"].rpartition("/")[2].lower()
        for assignment in azure.list_items(path, query)
    }
    missing = []
    for role in roles:
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
    account: str  # The name of the storage account.
    is_new: bool = False
    command: str = ""


def provide_roles(clusters: Sequence[AzureNames]) -> list[RoleStatus]:
    """Give you and the clusters the roles for data without keys, as far as the login may.

    Raises CheckFailed if Azure does not answer what is there, and LoginError.
    """
    names = clusters[0]  # All are in the same workspace.
    token = get_token(names.cloud)
    claims = read_claims(token)
    azure = ResourceManager(names, token, time.monotonic() + LONGEST_WAIT)
    workspace_path = Facts(**asdict(names)).workspace_path
    workspace = azure.get(workspace_path, ML_VERSION)
    storage = str(workspace["properties"]["storageAccount"])

    login_kind = "ServicePrincipal" if claims.get("idtyp") == "app" else "User"
    principals = [
        _Principal("you", str(claims.get("oid", "")), login_kind, LOGIN_ROLES)
    ]
    for cluster in clusters:
        path = f"{workspace_path}/computes/{cluster.compute_name}"
        principal_id = find_principal(azure.get(path, ML_VERSION), cluster.identity)
        principals.append(
            _Principal(
                cluster.compute_name, principal_id, "ServicePrincipal", CLUSTER_ROLES
            )
        )
    statuses = []
    for principal in principals:
        if principal.id:
            statuses += _provide_roles_of(azure, principal, storage)
    return statuses


@dataclass(frozen=True)
class _Principal:
    """Somebody who needs roles, and the kind that Azure calls it."""

    owner: str
    id: str
    kind: str
    roles: tuple[Role, ...]


def _provide_roles_of(
    azure: ResourceManager, principal: _Principal, storage: str
) -> list[RoleStatus]:
    missing = list_missing_roles(azure, principal.id, storage, principal.roles)
    account = storage.rpartition("/")[2]
    statuses = []
    for role in principal.roles:
        status = RoleStatus(principal.owner, role, account)
        if role in missing:
            try:
                assign_role(azure, principal.id, principal.kind, storage, role)
                status = replace(status, is_new=True)
            except CheckFailed:
                command = command_to_assign(principal.id, storage, role)
                status = replace(status, command=command)
        statuses.append(status)
    return statuses
