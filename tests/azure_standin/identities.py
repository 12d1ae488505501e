"""Identities and roles, for storage without keys and registries without an admin account."""

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
ACR_PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
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
    """Return why a step cannot get its image or its data, or an empty text."""
    cluster_id, cluster = next(
        (id, resource)
        for id, resource in azure.resources.items()
        if id.endswith(f"/computes/{cluster_name}".lower())
    )
    principals = principals_of(cluster)
    registry = find_closed_registry(azure, cluster_id.partition("/computes/")[0])
    may_pull = any(has_roles(azure, who, (ACR_PULL,), registry) for who in principals)
    if registry and not may_pull:
        # Quoted in an issue of Azure/azureml-examples (3463).
        return (
            f"Failed to pull Docker image {registry.rpartition('/')[2]}.azurecr.io/azureml/"
            "azureml_0. This error may occur because the compute could not authenticate "
            "with the Docker registry to pull the image. If using ACR please ensure the ACR "
            "has Admin user enabled or a Managed Identity with `AcrPull` access to the ACR "
            "is assigned to the compute."
        )
    roles = PARALLEL_STEP_ROLES if is_parallel else STEP_ROLES
    may_use_data = any(has_roles(azure, who, roles) for who in principals)
    if azure.is_keyless and not may_use_data:
        return (
            "AuthorizationPermissionMismatch: This request is not authorized to perform "
            "this operation using this permission."
        )
    return ""


def find_closed_registry(azure: Azure, workspace_id: str) -> str:
    """Return the id of a workspace's registry if it has no admin account, or ""."""
    properties = azure.resources[workspace_id]["properties"]
    registry = str(properties["containerRegistry"] or "").lower()
    if not registry or azure.resources[registry]["properties"]["adminUserEnabled"]:
        return ""
    return registry


# Roles


def has_roles(
    azure: Azure, principal: str, roles: tuple[str, ...], scope: str = ""
) -> bool:
    """Return whether a principal has all of some roles, at a resource or anywhere."""
    assigned = {
        assignment["properties"]["roleDefinitionId"].rpartition("/")[2]
        for id, assignment in azure.role_assignments.items()
        if assignment["properties"]["principalId"] == principal and id.startswith(scope)
    }
    return assigned.issuperset(roles)


@route(f"GET {_ASSIGNMENTS}")
def list_role_assignments(azure: Azure, request: Request) -> Json:
    """Return the assignments at a resource of the principal that the filter names."""
    principal = request.query["$filter"].partition("'")[2].rstrip("')")
    resource = request["resource"].lower()
    return {
        "value": [
            assignment
            for id, assignment in azure.role_assignments.items()
            if assignment["properties"]["principalId"] == principal
            and resource.startswith(
                id.partition("/providers/microsoft.authorization")[0]
            )
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
