"""Login and Azure Resource Manager: subscription, resource groups, workspaces, computes."""

from __future__ import annotations

import time

import jwt

from .state import Azure, Json, new_id, now
from .wire import ARM_HOST, LOGIN_HOST, ML_HOST, REGION, Refusal, Reply, Request, route

TENANT_ID = "11111111-1111-1111-1111-111111111111"
CLIENT_ID = "22222222-2222-2222-2222-222222222222"
CLIENT_SECRET = "secret-of-the-stand-in"
SUBSCRIPTION_ID = "33333333-3333-3333-3333-333333333333"

_PROVIDER = "Microsoft.MachineLearningServices"
_SUBSCRIPTION = "arm/subscriptions/{subscription}"
_GROUP = f"{_SUBSCRIPTION}/resourcegroups/{{group}}"
_SUCCEEDED = {"provisioningState": "Succeeded"}


# Login


def token(audience: str) -> str:
    """A token like Azure AD's: clients read audience and expiry, not the signature."""
    issued = int(time.time())
    claims = {"aud": audience, "tid": TENANT_ID, "oid": CLIENT_ID, "appid": CLIENT_ID}
    return jwt.encode(claims | {"iat": issued, "exp": issued + 3600}, "stand-in" * 4)


@route("GET login/{tenant}/v2.0/.well-known/openid-configuration")
def get_openid_configuration(azure: Azure, request: Request) -> Json:
    base = f"https://{LOGIN_HOST}/{request['tenant']}"
    return {
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "issuer": f"{base}/v2.0",
    }


@route("GET login/common/discovery/instance")
def discover_login(azure: Azure, request: Request) -> Json:
    """Asked for after a failed login."""
    names = {"preferred_network": LOGIN_HOST, "preferred_cache": LOGIN_HOST}
    tenant = f"https://{LOGIN_HOST}/{TENANT_ID}/v2.0/.well-known/openid-configuration"
    clouds = [names | {"aliases": [LOGIN_HOST]}]
    return {"tenant_discovery_endpoint": tenant, "metadata": clouds}


@route("POST login/{tenant}/oauth2/v2.0/token")
def log_in(azure: Azure, request: Request) -> Json:
    form = request.form()
    if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
        raise Refusal(401, "Invalid client secret provided.")
    access = token(form["scope"].removesuffix("/.default"))
    return {"token_type": "Bearer", "expires_in": 3599, "access_token": access}


# Where things are


@route("GET arm/metadata/endpoints")
def get_clouds(azure: Azure, request: Request) -> list[Json]:
    manager, login = f"https://{ARM_HOST}/", f"https://{LOGIN_HOST}/"
    cloud = {
        "name": "AzureCloud",
        "resourceManager": manager,
        "authentication": {"loginEndpoint": login, "audiences": [manager]},
        "suffixes": {"storage": "core.windows.net"},
    }
    return [cloud]


@route("GET ml/discovery")
def discover(azure: Azure, request: Request) -> Json:
    names = ("api", "experimentation", "history", "hyperdrive", "modelmanagement")
    services = {name: f"https://{ML_HOST}" for name in names}
    return services | {"studio": "https://ml.azure.com"}


# Subscription, resource groups and workspaces


@route("GET arm/subscriptions")
def list_subscriptions(azure: Azure, request: Request) -> Json:
    names = {"subscriptionId": SUBSCRIPTION_ID, "displayName": "Stand-in"}
    state = {"state": "Enabled", "tenantId": TENANT_ID}
    return {"value": [{"id": f"/subscriptions/{SUBSCRIPTION_ID}"} | names | state]}


@route(f"GET {_SUBSCRIPTION}/providers/{{provider}}")
def get_provider(azure: Azure, request: Request) -> Json:
    kinds = [{"resourceType": "workspaces", "locations": ["West Europe"]}]
    state = {"registrationState": "Registered", "resourceTypes": kinds}
    return {"id": request.path, "namespace": request["provider"]} | state


@route(f"GET {_GROUP}")
def get_group(azure: Azure, request: Request) -> Json:
    if request.path.lower() not in azure.resources:
        message = f"Resource group '{request['group']}' could not be found."
        raise Refusal(404, message, "ResourceGroupNotFound")
    return azure.resources[request.path.lower()]


@route(f"PUT {_GROUP}")
def put_group(azure: Azure, request: Request) -> Json:
    return create_group(azure, request.path, request.json()["location"])


def create_group(azure: Azure, id: str, location: str) -> Json:
    group = {"id": id, "name": id.rpartition("/")[2], "location": location}
    return azure.resources.setdefault(id.lower(), group | {"properties": _SUCCEEDED})


def create_workspace(azure: Azure, scope: str, location: str = REGION) -> None:
    """Put a workspace, and the group that it is in, into the subscription."""
    create_group(azure, scope.partition("/providers/")[0], location)
    azure.resources[scope.lower()] = {
        "id": scope,
        "name": scope.rpartition("/")[2],
        "type": f"{_PROVIDER}/workspaces",
        "location": location,
        "tags": {},
        "properties": _SUCCEEDED
        | {
            "workspaceId": new_id(),
            "discoveryUrl": f"https://{ML_HOST}/discovery",
            "creationTime": now(),
        },
    }


def workspace_of(azure: Azure, scope: str) -> Json:
    if scope.lower() not in azure.resources:
        name = scope.partition("/providers/")[2]
        raise Refusal(404, f"The Resource '{name}' was not found.")
    return azure.resources[scope.lower()]


@route("GET arm{scope}")
def get_workspace(azure: Azure, request: Request) -> Json:
    return workspace_of(azure, request["scope"])


@route(f"PUT {_GROUP}/providers/Microsoft.Resources/deployments/{{name}}")
def put_deployment(azure: Azure, request: Request) -> Json:
    """The way in which the SDK creates a workspace: no other resource of it is made."""
    group = request.path.partition("/providers/")[0].replace("groups/", "Groups/")
    for resource in request.json()["properties"]["template"]["resources"]:
        if resource["type"] == f"{_PROVIDER}/workspaces":
            scope = f"{group}/providers/{resource['type']}/{resource['name']}"
            create_workspace(azure, scope, resource["location"])
    return {"id": request.path, "name": request["name"], "properties": _SUCCEEDED}


@route(
    f"GET {_SUBSCRIPTION}/providers/Microsoft.Resources/deployments",
    f"GET {_GROUP}/deployments/{{name}}/operations",
)
def list_deployments(azure: Azure, request: Request) -> Json:
    return {"value": []}


# Computes


@route("GET ml/rp/workspaces{scope}/computes")
def list_computes(azure: Azure, request: Request) -> Json:
    prefix = f"{request['scope']}/computes/".lower()
    known = azure.resources.items()
    return {"value": [compute for id, compute in known if id.startswith(prefix)]}


@route("GET ml/rp/workspaces{scope}/computes/{name}")
def get_compute(azure: Azure, request: Request) -> Json:
    id = f"{request['scope']}/computes/{request['name']}".lower()
    if id not in azure.resources:
        raise Refusal(404, f"There is no compute {request['name']}.", "ComputeNotFound")
    return azure.resources[id]


@route("PUT arm{scope}/computes/{name}")
def put_compute(azure: Azure, request: Request) -> Reply:
    body, scope = request.json(), request["scope"]
    wanted = body["properties"]["properties"]
    compute = create_compute(azure, scope, request["name"], body["location"], wanted)
    place = f"{scope.partition('/resourceGroups/')[0]}/providers/{_PROVIDER}/locations"
    status = f"{place}/{REGION}/computeOperationsStatus/{new_id()}"
    return Reply(compute, 201, {"Azure-AsyncOperation": f"https://{ARM_HOST}{status}"})


@route(
    f"GET {_SUBSCRIPTION}/providers/{_PROVIDER}"
    "/locations/{location}/computeOperationsStatus/{id}"
)
def get_compute_operation(azure: Azure, request: Request) -> Json:
    return {"status": "Succeeded"}


def create_compute(
    azure: Azure, scope: str, name: str, location: str, wanted: Json
) -> Json:
    """Put a cluster, with no node running, into the workspace."""
    cluster: Json = {
        "subnet": None,
        "allocationState": "Steady",
        "allocationStateTransitionTime": now(),
        "currentNodeCount": 0,
        "targetNodeCount": 0,
        "nodeStateCounts": {},
        "errors": None,
    }
    properties = _SUCCEEDED | {
        "computeType": "AmlCompute",
        "isAttachedCompute": False,
        "provisioningErrors": None,
        "resourceId": None,
        "description": None,
        "createdOn": now(),
        "properties": cluster | wanted,
    }
    id = f"{scope}/computes/{name}"
    names = {"id": id, "name": name, "location": location, "tags": {}}
    azure.resources[id.lower()] = names | {"properties": properties}
    return azure.resources[id.lower()]
