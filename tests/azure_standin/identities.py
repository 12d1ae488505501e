"""Identities and roles, for storage that accepts neither keys nor anonymous requests."""

from __future__ import annotations

import jwt

from .refusals import REFUSALS
from .state import Azure, Json, new_id
from .wire import Refusal, Reply, Request, route

_ASSIGNMENTS = "arm{resource:rest}/providers/Microsoft.Authorization/roleAssignments"
#: The roles for blobs, queues and tables, by their ids in every tenant.
BLOB_DATA = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
QUEUE_DATA = "974c5e8b-45b9-4653-ba55-5f855dd0fb88"
TABLE_DATA = "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3"
STEP_ROLES = (BLOB_DATA,)
PARALLEL_STEP_ROLES = (BLOB_DATA, QUEUE_DATA, TABLE_DATA)


def new_identity(sent: Json | None) -> Json | None:
    """Return the identity of a resource as Azure completes it, or None."""
    if not sent:
        return None
    identity: Json = {"type": sent["type"]}
    if "SystemAssigned" in sent["type"]:
        identity |= {"principalId": new_id(), "tenantId": new_id()}
    assigned = sent.get("userAssignedIdentities") or {}
    if assigned:
        identity["userAssignedIdentities"] = {
            name: {"principalId": new_id(), "clientId": new_id()} for name in assigned
        }
    return identity


def principals_of(resource: Json) -> list[str]:
    """Return the ids of all identities that a resource has."""
    identity = resource.get("identity") or {}
    principals = [identity.get("principalId")]
    for assigned in (identity.get("userAssignedIdentities") or {}).values():
        principals.append(assigned["principalId"])
    return [principal for principal in principals if principal]


# The login of a request about a blob


def check_blob_login(azure: Azure, request: Request) -> Reply | None:
    """Return the refusal of a request to an account without keys, or None."""
    if not azure.is_keyless or request.service != "blob":
        return None
    authorization = request.headers.get("authorization", "")
    if authorization.startswith("SharedKey"):
        return REFUSALS["keys switched off"].reply()
    if "sig" in request.query:
        # Azure ML itself signs such addresses by its identity, for code and for logs.
        return None
    if not authorization.startswith("Bearer "):
        return REFUSALS["anonymous"].reply()
    claims = jwt.decode(request.token, options={"verify_signature": False})
    if azure.blob_refusals_left > 0:  # A new role does not work at once.
        azure.blob_refusals_left -= 1
        return REFUSALS["no role for data"].reply()
    if not has_roles(azure, claims["oid"], (BLOB_DATA,)):
        return REFUSALS["no role for data"].reply()
    return None


def missing_of_step(azure: Azure, cluster_name: str, is_parallel: bool) -> str:
    """Return why a step cannot read and write its data, or an empty text."""
    if not azure.is_keyless:
        return ""
    (cluster,) = (
        resource
        for id, resource in azure.resources.items()
        if id.endswith(f"/computes/{cluster_name}".lower())
    )
    roles = PARALLEL_STEP_ROLES if is_parallel else STEP_ROLES
    for principal in principals_of(cluster):
        if has_roles(azure, principal, roles):
            return ""
    return (
        "AuthorizationPermissionMismatch: This request is not authorized to perform this "
        "operation using this permission."
    )


# Roles


def has_roles(azure: Azure, principal: str, roles: tuple[str, ...]) -> bool:
    """Return whether a principal has all of some roles."""
    assigned = {
        assignment["properties"]["roleDefinitionId"].rpartition("/")[2]
        for assignment in azure.role_assignments.values()
        if assignment["properties"]["principalId"] == principal
    }
    return assigned.issuperset(roles)


@route(f"GET {_ASSIGNMENTS}")
def list_role_assignments(azure: Azure, request: Request) -> Json:
    """Return the assignments of the principal that the filter names."""
    principal = request.query["$filter"].partition("'")[2].rstrip("')")
    return {
        "value": [
            assignment
            for assignment in azure.role_assignments.values()
            if assignment["properties"]["principalId"] == principal
        ]
    }


@route(f"PUT {_ASSIGNMENTS}/{{name}}")
def put_role_assignment(azure: Azure, request: Request) -> Reply:
    """Assign a role, if whoever is logged in may."""
    if not azure.may_assign_roles:
        action = "Microsoft.Authorization/roleAssignments/write"
        client = "22222222-2222-2222-2222-222222222222"
        raise Refusal(
            403,
            f"The client '{client}' with object id '{client}' does not have authorization "
            f"to perform action '{action}' over scope '{request.path}' or the scope is "
            "invalid. If access was recently granted, please refresh your credentials.",
            "AuthorizationFailed",
        )
    assignment = {
        "id": request.path,
        "name": request["name"],
        "type": "Microsoft.Authorization/roleAssignments",
        "properties": request.json()["properties"],
    }
    azure.role_assignments[request.path.lower()] = assignment
    return Reply(assignment, 201)
