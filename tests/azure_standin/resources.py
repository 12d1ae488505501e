"""Login and Azure Resource Manager: subscription, resource groups, workspaces, computes."""

from __future__ import annotations

import re
import time
import urllib.parse
from pathlib import PurePosixPath

import jwt

from .identities import new_identity
from .state import Azure, Json, new_id
from .wire import (
    ARM_HOST,
    HISTORY_HOST,
    LOGIN_HOST,
    ML_HOST,
    MODELS_HOST,
    PIPELINES_HOST,
    REGION,
    STORAGE_ACCOUNT,
    Refusal,
    Reply,
    Request,
    now,
    route,
)

TENANT_ID = "11111111-1111-1111-1111-111111111111"
CLIENT_ID = "22222222-2222-2222-2222-222222222222"
CLIENT_SECRET = "secret-of-the-stand-in"
CLIENT_ASSERTION = "federated.token.of-the-stand-in"
SUBSCRIPTION_ID = "33333333-3333-3333-3333-333333333333"

PROVIDER = "Microsoft.MachineLearningServices"
_SUBSCRIPTION = "arm/subscriptions/{subscription}"
_GROUP = f"{_SUBSCRIPTION}/resourcegroups/{{group}}"
LOCATION = f"{_SUBSCRIPTION}/providers/{PROVIDER}/locations/{{location}}"
_SUCCEEDED = {"provisioningState": "Succeeded"}
_KEY = "stand-in" * 4


# Login


def token(audience: str) -> str:
    """Return a token with the claims of Azure AD's. Clients do not check its signature."""
    issued = int(time.time())
    claims = {"aud": audience, "tid": TENANT_ID, "oid": CLIENT_ID, "appid": CLIENT_ID}
    return jwt.encode(claims | {"iat": issued, "exp": issued + 3600}, _KEY)


def is_token(text: str) -> bool:
    """Return whether the stand-in has issued a token, and it has not expired."""
    try:
        jwt.decode(text, _KEY, ["HS256"], options={"verify_aud": False})
    except jwt.InvalidTokenError:
        return False
    return True


@route("GET login/{tenant}/v2.0/.well-known/openid-configuration")
def get_openid_configuration(azure: Azure, request: Request) -> Json:
    """Return the addresses of the login."""
    base = f"https://{request.host}/{request['tenant']}"
    return {
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "issuer": f"{base}/v2.0",
    }


@route("GET login/common/discovery/instance")
def discover_login(azure: Azure, request: Request) -> Json:
    """Return the hosts of the cloud. Clients ask for them after a failed login."""
    host = request.host
    tenant = f"https://{host}/{TENANT_ID}/v2.0/.well-known/openid-configuration"
    clouds = [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}]
    return {"tenant_discovery_endpoint": tenant, "metadata": clouds}


@route("POST login/{tenant}/oauth2/v2.0/token")
def log_in(azure: Azure, request: Request) -> Json:
    """Log a service principal in by its secret, or by a token of another issuer."""
    if request["tenant"] != TENANT_ID:
        message = "AADSTS900023: Specified tenant identifier is not valid."
        raise Refusal(400, message)
    fields = request.form_fields()
    has_secret = fields.get("client_secret") == CLIENT_SECRET
    has_assertion = fields.get("client_assertion") == CLIENT_ASSERTION
    is_right_client = fields.get("client_id") == CLIENT_ID
    if not is_right_client or not (has_secret or has_assertion):
        raise Refusal(401, "AADSTS7000215: Invalid client secret provided.")
    access = token(fields["scope"].removesuffix("/.default"))
    return {"token_type": "Bearer", "expires_in": 3599, "access_token": access}


@route("GET identity/metadata/identity/oauth2/token")
def get_identity_token(azure: Azure, request: Request) -> Json:
    """Return a token of the managed identity of this machine, if it has one."""
    if not azure.has_identity:
        raise Refusal(400, "Identity not found")
    seconds = 3600
    resource = request.query["resource"]
    return {
        "access_token": token(resource),
        "expires_in": str(seconds),
        "expires_on": str(int(time.time()) + seconds),
        "token_type": "Bearer",
        "resource": resource,
    }


# Addresses of the services


@route("GET arm/metadata/endpoints")
def get_clouds(azure: Azure, request: Request) -> list[Json]:
    """Return the addresses of the cloud."""
    manager = f"https://{ARM_HOST}/"
    login = f"https://{LOGIN_HOST}/"
    cloud = {
        "name": "AzureCloud",
        "resourceManager": manager,
        "authentication": {"loginEndpoint": login, "audiences": [manager]},
        "suffixes": {"storage": "core.windows.net"},
    }
    return [cloud]


@route("GET ml/discovery")
def discover(azure: Azure, request: Request) -> Json:
    """Return the addresses of the services of a workspace."""
    hosts = {
        "api": ML_HOST,
        "experimentation": HISTORY_HOST,
        "history": HISTORY_HOST,
        "hyperdrive": HISTORY_HOST,
        "modelmanagement": MODELS_HOST,
        "pipelines": PIPELINES_HOST,
        "studio": "ml.azure.com",
    }
    return {name: f"https://{host}" for name, host in hosts.items()}


# Resources, which are stored by their ids in lower case


def list_quotas() -> list[Json]:
    """Return the quotas of the region, with the nodes and cores that are in use."""
    family = "vmFamily/dedicatedCores"
    return [
        _usage("totalClusters", "TotalClusters", "Total Clusters", 200, 1),
        _usage(
            "totalDedicatedCores",
            "TotalDedicatedCores",
            "Total Cluster Dedicated Regional vCPUs",
            24,
        ),
        _usage(
            family,
            "standardDDSv4Family",
            "Standard DDSv4 Family Cluster Dedicated vCPUs",
            12,
            2,
        ),
        _usage(
            "vmFamily/lowPriorityCores",
            "standardDDSv4Family",
            "Standard DDSv4 Family Cluster LowPriority vCPUs",
            -1,
        ),
        _usage(
            family,
            "Standard NCASv3_T4 Family",
            "Standard  NCASv3_T4  Family Cluster Dedicated vCPUs",
            0,
        ),
    ]


def add_subscription(azure: Azure) -> None:
    """Add the subscription, and the VM sizes and quotas of the region."""
    subscription = f"/subscriptions/{SUBSCRIPTION_ID}"
    provider = f"{subscription}/providers/{PROVIDER}"
    resource_types = [{"resourceType": "workspaces", "locations": ["West Europe"]}]
    sizes = [
        _size("Standard_D2ds_v4", "standardDDSv4Family", 2),
        _size("Standard_D4ds_v4", "standardDDSv4Family", 4),
        _size("Standard_D4ds_v5", "standardDDSv4Family", 4, for_clusters=False),
        _size("Standard_NC4as_T4_v3", "Standard NCASv3_T4 Family", 4),
    ]
    resources: dict[str, Json] = {
        subscription: {
            "id": subscription,
            "subscriptionId": SUBSCRIPTION_ID,
            "tenantId": TENANT_ID,
            "displayName": "Stand-in",
            "state": "Enabled",
            "authorizationSource": "RoleBased",
            "managedByTenants": [],
        },
        provider: {
            "id": provider,
            "namespace": PROVIDER,
            "registrationState": "Registered",
            "registrationPolicy": "RegistrationRequired",
            "resourceTypes": resource_types,
        },
        f"{provider}/locations/{REGION}/vmSizes": {"value": sizes},
        f"{provider}/locations/{REGION}/usages": {"value": list_quotas()},
    }
    azure.resources |= {id.lower(): resource for id, resource in resources.items()}


def _size(name: str, family: str, cores: int, for_clusters: bool = True) -> Json:
    """Return a VM size as the service lists it."""
    kinds = ["AmlCompute", "ComputeInstance"] if for_clusters else ["ComputeInstance"]
    return {
        "name": name,
        "family": family,
        "vCPUs": cores,
        "gpus": 0,
        "osVhdSizeMB": 1047552,
        "maxResourceVolumeMB": 7168 * cores,
        "memoryGB": 3.5 * cores,
        "lowPriorityCapable": True,
        "premiumIO": True,
        "supportedComputeTypes": kinds,
    }


def _usage(kind: str, name: str, text: str, limit: int, used: int = 0) -> Json:
    """Return a quota as the service lists it. `text` is its localized name."""
    suffix = f"/usages/{name.replace(' ', '_')}" if kind.startswith("vmFamily") else ""
    return {
        "id": f"/subscriptions/{SUBSCRIPTION_ID}{suffix}",
        "type": f"{PROVIDER}/{kind}/usages",
        "unit": "Count",
        "currentValue": used,
        "limit": limit,
        "name": {"value": name, "localizedValue": text},
    }


def resource_of(azure: Azure, id: str) -> Json:
    """Return the resource with an id. Raises Refusal if there is none."""
    if id.lower() in azure.resources:
        return azure.resources[id.lower()]
    kind, name = PurePosixPath(id.lower()).parts[-2:]
    code = "ResourceNotFound"
    if kind == "subscriptions":
        code = "SubscriptionNotFound"
    elif kind == "resourcegroups":
        code = "ResourceGroupNotFound"
    raise Refusal(404, f"The {kind[:-1]} '{name}' could not be found.", code)


def workspace_of(azure: Azure, scope: str) -> Json:
    """Return the workspace with a resource id. Raises Refusal if there is none."""
    return resource_of(azure, scope)


def arm(id: str, properties: Json) -> Json:
    """Return a resource of a workspace as ARM sends it, with the type that its id has."""
    # After the workspace, types and names alternate.
    types = id.partition("/workspaces/")[2].split("/")[1::2]
    return {
        "id": id,
        "name": id.rpartition("/")[2],
        "type": "/".join([PROVIDER, "workspaces", *types]),
        "properties": properties,
        "systemData": {
            "createdBy": CLIENT_ID,
            "createdByType": "Application",
            "createdAt": now(),
            "lastModifiedBy": CLIENT_ID,
            "lastModifiedByType": "Application",
            "lastModifiedAt": now(),
        },
    }


def location_of(request: Request) -> str:
    """Return the address of a resource that a request has created."""
    version = request.query["api-version"]
    return f"https://{ARM_HOST}{request.path}?api-version={version}"


@route("GET arm/subscriptions")
def list_subscriptions(azure: Azure, request: Request) -> Json:
    subscription = resource_of(azure, f"/subscriptions/{SUBSCRIPTION_ID}")
    return {"value": [subscription], "nextLink": ""}


@route(
    f"GET {_SUBSCRIPTION}",
    f"GET {_SUBSCRIPTION}/providers/{{provider}}",
    f"GET {_GROUP}",
    f"GET {_GROUP}/providers/Microsoft.Storage/storageAccounts/{{account}}",
    f"GET {_GROUP}/providers/Microsoft.ContainerRegistry/registries/{{registry}}",
    "GET arm{scope}",
    f"GET {LOCATION}/vmSizes",
)
def get_resource(azure: Azure, request: Request) -> Json:
    return resource_of(azure, request.path)


@route(f"GET {LOCATION}/usages")
def list_usages(azure: Azure, request: Request) -> Json:
    """Return a page of the quotas, with the address of the next page."""
    usages = resource_of(azure, request.path)["value"]
    start = int(request.query.get("$skiptoken", 0))
    end = start + azure.page_size
    page: Json = {"value": usages[start:end]}
    if usages[end:]:
        query = {"api-version": request.query["api-version"], "$skiptoken": end}
        address = f"https://{ARM_HOST}{request.path}"
        page["nextLink"] = f"{address}?{urllib.parse.urlencode(query)}"
    return page


@route("GET arm{scope}/computes/{name}")
def get_compute_of_arm(azure: Azure, request: Request) -> Json | Reply:
    """Return a cluster to clients of ARM."""
    compute = azure.resources.get(request.path.lower())
    # The recorded reply has no body.
    return compute or Reply(b"", 404)


@route(f"PUT {_GROUP}")
def put_group(azure: Azure, request: Request) -> Json:
    return create_group(azure, request.path, request.json()["location"])


def create_group(azure: Azure, id: str, location: str) -> Json:
    """Add a resource group if there is none, and return it."""
    group = {"id": id, "name": id.rpartition("/")[2], "location": location}
    return azure.resources.setdefault(id.lower(), group | {"properties": _SUCCEEDED})


def create_workspace(
    azure: Azure, scope: str, location: str = REGION, datastores_mode: str = "accesskey"
) -> None:
    """Add a workspace to the subscription, with its group and storage account."""
    group = scope.partition("/providers/")[0]
    create_group(azure, group, location)
    providers = f"{group}/providers"
    storage = f"{providers}/Microsoft.Storage/storageAccounts/{STORAGE_ACCOUNT}"
    name = scope.rpartition("/")[2]
    keys = {
        "allowSharedKeyAccess": not azure.is_keyless,
        "supportsHttpsTrafficOnly": True,
    }
    azure.resources[storage.lower()] = {
        "id": storage,
        "name": STORAGE_ACCOUNT,
        "type": "Microsoft.Storage/storageAccounts",
        "location": location,
        "kind": "StorageV2",
        "sku": {"name": "Standard_LRS", "tier": "Standard"},
        "properties": _SUCCEEDED | keys,
    }
    properties = _SUCCEEDED | {
        "friendlyName": name,
        "description": "",
        "storageAccount": storage,
        "keyVault": f"{providers}/Microsoft.Keyvault/vaults/standin",
        "applicationInsights": f"{providers}/Microsoft.insights/components/standin",
        "containerRegistry": None,
        "hbiWorkspace": False,
        "tenantId": TENANT_ID,
        "v1LegacyMode": False,
        "systemDatastoresAuthMode": datastores_mode,
        "imageBuildCompute": None,
        "publicNetworkAccess": "Enabled",
        "privateLinkCount": 0,
        "workspaceId": new_id(),
        "creationTime": now(),
        "discoveryUrl": f"https://{ML_HOST}/discovery",
        "mlFlowTrackingUri": f"azureml://{ML_HOST}/mlflow/v1.0{scope}",
    }
    who = {"principalId": new_id(), "tenantId": TENANT_ID}
    azure.resources[scope.lower()] = arm(scope, properties) | {
        "location": location,
        "kind": "Default",
        "sku": {"name": "Basic", "tier": "Basic"},
        "identity": {"type": "SystemAssigned"} | who,
        "tags": {},
    }


def attach_registry(azure: Azure, scope: str, has_admin_account: bool) -> str:
    """Give a workspace a container registry, and return the id of the registry."""
    group = scope.partition("/providers/")[0]
    id = f"{group}/providers/Microsoft.ContainerRegistry/registries/standinregistry"
    azure.resources[id.lower()] = {
        "id": id,
        "name": "standinregistry",
        "type": "Microsoft.ContainerRegistry/registries",
        "location": REGION,
        "sku": {"name": "Premium", "tier": "Premium"},
        "properties": _SUCCEEDED
        | {
            "loginServer": "standinregistry.azurecr.io",
            "adminUserEnabled": has_admin_account,
        },
    }
    azure.resources[scope.lower()]["properties"]["containerRegistry"] = id
    return id


@route(f"PUT {_GROUP}/providers/Microsoft.Resources/deployments/{{name}}")
def put_deployment(azure: Azure, request: Request) -> Json | Reply:
    """Create the workspaces of a deployment, as the SDKs do. Other resources are ignored."""
    group = request.path.partition("/providers/")[0].replace("groups/", "Groups/")
    resource_of(azure, group)
    deployment = request.json()["properties"]
    parameters = deployment["parameters"] or {}

    def resolve(text: str) -> str:
        """Return the value of a text, which may be the name of a parameter."""
        parameter = re.fullmatch(r"\[parameters\('(\w+)'\)\]", text)
        return str(parameters[parameter[1]]["value"]) if parameter else text

    for resource in deployment["template"]["resources"]:
        if resource["type"] != f"{PROVIDER}/workspaces":
            continue
        name = resolve(resource["name"])
        if name in azure.failing_deployments:
            return _begin_failing_deployment(request, name)
        scope = f"{group}/providers/{resource['type']}/{name}"
        mode = resource["properties"].get("systemDatastoresAuthMode") or "accesskey"
        create_workspace(azure, scope, resolve(resource["location"]), resolve(mode))
    return {"id": request.path, "name": request["name"], "properties": _SUCCEEDED}


def _begin_failing_deployment(request: Request, workspace: str) -> Reply:
    """Accept a deployment that will fail: its status says so."""
    status = f"https://{ARM_HOST}{request.path}/operationStatuses/{workspace}"
    query = f"api-version={request.query['api-version']}"
    answer = {
        "id": request.path,
        "name": request["name"],
        "properties": {"provisioningState": "Accepted"},
    }
    return Reply(answer, 201, {"Azure-AsyncOperation": f"{status}?{query}"})


@route(
    f"GET {_GROUP}/providers/Microsoft.Resources/deployments/{{name}}"
    "/operationStatuses/{workspace}"
)
def get_deployment_status(azure: Azure, request: Request) -> Json:
    """Return the failure of a deployment."""
    return {
        "status": "Failed",
        "error": azure.failing_deployments[request["workspace"]],
    }


@route("PATCH arm{scope}")
def patch_workspace(azure: Azure, request: Request) -> Json:
    """Change properties of a workspace."""
    workspace = workspace_of(azure, request["scope"])
    for name, value in (request.json().get("properties") or {}).items():
        if value is not None:
            workspace["properties"][name] = value
    return workspace


@route(
    f"GET {_SUBSCRIPTION}/providers/Microsoft.Resources/deployments",
    f"GET {_GROUP}/deployments/{{name}}/operations",
)
def list_deployments(azure: Azure, request: Request) -> Json:
    return {"value": []}


# Computes


@route("GET ml/rp/workspaces{scope}/computes")
def list_computes(azure: Azure, request: Request) -> Json:
    return {"value": azure.list_resources_below(f"{request['scope']}/computes")}


@route("GET ml/rp/workspaces{scope}/computes/{name}")
def get_compute(azure: Azure, request: Request) -> Json:
    """Return a cluster to azureml-sdk."""
    id = f"{request['scope']}/computes/{request['name']}"
    if id.lower() not in azure.resources:
        raise Refusal(404, f"There is no compute {request['name']}.", "ComputeNotFound")
    return resource_of(azure, id)


@route("PUT arm{scope}/computes/{name}")
def put_compute(azure: Azure, request: Request) -> Reply:
    """Create or change a cluster."""
    scope = request["scope"]
    body = request.json()
    sent = body["properties"]["properties"]
    compute = create_compute(azure, scope, request["name"], body["location"], sent)
    identity = new_identity(body.get("identity"))
    if identity:
        compute["identity"] = identity
    compute["properties"]["description"] = body["properties"].get("description")
    subscription = scope.partition("/resourceGroups/")[0]
    region = f"{subscription}/providers/{PROVIDER}/locations/{REGION}"
    status = f"https://{ARM_HOST}{region}/computeOperationsStatus/{new_id()}"
    query = f"api-version={request.query['api-version']}&service=new"
    creating = compute["properties"] | {"provisioningState": "Creating"}
    answer = compute | {"properties": creating}
    return Reply(answer, 201, {"Azure-AsyncOperation": f"{status}?{query}"})


@route(f"GET {LOCATION}/computeOperationsStatus/{{id}}")
def get_compute_operation(azure: Azure, request: Request) -> Json:
    return {"status": "Succeeded", "percentComplete": 100.0}


def create_compute(
    azure: Azure, scope: str, name: str, location: str, sent: Json
) -> Json:
    """Add a cluster without running nodes to a workspace.

    `sent` are the properties of the cluster, which replace their defaults.
    """
    counts = ("preparing", "running", "idle", "unusable", "leaving", "preempted")
    cluster: Json = {
        "subnet": None,
        "allocationState": "Steady",
        "allocationStateTransitionTime": now(),
        "currentNodeCount": 0,
        "targetNodeCount": 0,
        "nodeStateCounts": {f"{count}NodeCount": 0 for count in counts},
        "errors": None,
        "osType": "Linux",
        "remoteLoginPortPublicAccess": "Enabled",
        "isolatedNetwork": False,
        "enableNodePublicIp": True,
    }
    cluster |= {name: value for name, value in sent.items() if value is not None}
    cluster["vmSize"] = cluster["vmSize"].upper()
    properties = _SUCCEEDED | {
        "computeType": "AmlCompute",
        "computeLocation": location,
        "isAttachedCompute": False,
        "disableLocalAuth": False,
        "provisioningErrors": None,
        "resourceId": None,
        "description": None,
        "createdOn": now(),
        "modifiedOn": now(),
        "properties": cluster,
    }
    compute = {
        "id": f"{scope}/computes/{name}",
        "name": name,
        "type": f"{PROVIDER}/workspaces/computes",
        "location": location,
        "tags": {},
        "properties": properties,
    }
    azure.resources[f"{scope}/computes/{name}".lower()] = compute
    return compute
