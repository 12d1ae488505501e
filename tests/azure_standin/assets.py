"""The assets of a workspace in ARM: code, environments, data, models, and components.

An asset is a "container" with a name, which has versions.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any
from urllib.parse import urlsplit

import yaml

from .resources import arm, location_of, resource_of, workspace_of
from .state import ARTIFACTS, CONTAINER, Azure, Json, new_id
from .tracking import keep_model
from .wire import BLOB_HOST, SIGNATURE, Refusal, Reply, Request, route

_KIND = "(?P<kind>codes|environments|data|models|components)"
_KINDS = f"arm{{scope}}/{_KIND}"
_ASSET = f"{_KINDS}/{{name}}"
_VERSION = f"{_ASSET}/versions/{{version}}"
#: The datastores of data and models, with their containers of blobs.
_CONTAINER_OF_STORE = {
    "workspaceblobstore": CONTAINER,
    "workspaceartifactstore": ARTIFACTS,
}
#: Assets that were registered without a name. They are not listed.
_ANONYMOUS_NAMES = ("azureml_anonymous", "CliV2AnonymousEnvironment")
#: The properties with the location of an asset's files.
_URI_PROPERTIES = ("codeUri", "dataUri", "modelUri")
#: The properties of every asset, with their values if a request sets none.
_DEFAULTS: Json = {
    "description": None,
    "tags": {},
    "properties": {},
    "isArchived": False,
    "isAnonymous": False,
}


# Reading assets


def versions(azure: Azure, scope: str, kind: str, name: str) -> list[Json]:
    """Return the versions of an asset as ARM sends them, oldest first."""
    if kind == "models":
        models = azure.models.get(name, [])
        return [model_dto(azure, scope, model) for model in models]

    folder = f"{scope}/{kind}/{name}/versions"
    registered_by_v1 = []
    if kind == "environments":
        # The API of v1 registers other properties, which ARM does not show here.
        registered_by_v1 = [
            arm(f"{folder}/{environment['version']}", _DEFAULTS)
            for environment in azure.environments.get(name, [])
        ]
    return registered_by_v1 + azure.list_resources_below(folder)


def version_of(azure: Azure, scope: str, kind: str, name: str, version: str) -> Json:
    """Return a version of an asset. Raises Refusal if there is none."""
    for asset in versions(azure, scope, kind, name):
        if asset["name"] == version:
            return asset
    message = f"Could not find asset with ID {scope}/{kind}/{name}/versions/{version}"
    raise Refusal(404, message, "UserError")


def blobs_of(azure: Azure, scope: str, uri: str) -> str:
    """Return the blob, or the folder of blobs, of the URI of a path or of an asset."""
    text = re.sub("^azureml:/*", "", uri).rstrip("/")
    in_datastore = re.search(r"(?:^|/)datastores/([^/]+)/(?:paths/)?(.*)", text)
    if in_datastore:
        return f"{_CONTAINER_OF_STORE[in_datastore[1]]}/{in_datastore[2]}"

    asset_id = re.search(r"/(data|models)/([^/]+)/versions/([^/]+)$", text)
    data_name = re.fullmatch("([^/:@]+)(?::([^/]+)|@latest)", text)
    if asset_id:
        asset = version_of(azure, scope, *asset_id.groups())
    elif data_name:
        name, version = data_name.groups()
        if version is None:
            all_versions = versions(azure, scope, "data", name)
            version = all_versions[-1]["name"] if all_versions else "latest"
        asset = version_of(azure, scope, "data", name, version)
    else:
        raise ValueError(f"The stand-in does not know this kind of URI: {uri}")
    properties = asset["properties"]
    return blobs_of(azure, scope, properties.get("dataUri") or properties["modelUri"])


@route(f"GET {_VERSION}")
def get_version(azure: Azure, request: Request) -> Json:
    names = (request[part] for part in ("kind", "name", "version"))
    return version_of(azure, request["scope"], *names)


@route(f"GET {_ASSET}/versions")
def list_versions(azure: Azure, request: Request) -> Json:
    """Return versions in the requested order.

    If a request has a hash, all code with this hash is returned, whatever its name is.
    """
    scope, kind, name = request["scope"], request["kind"], request["name"]
    content_hash = request.query.get("hash")
    if content_hash:
        assets = [
            code
            for code in azure.list_resources_below(f"{scope}/codes")
            if code["properties"]["properties"].get("hash_sha256") == content_hash
        ]
    else:
        assets = versions(azure, scope, kind, name)
    if not assets and kind in ("models", "environments", "components"):
        raise Refusal(404, f"Could not find {kind[:-1]}: {name}.", "UserError")
    if "desc" in request.query.get("$orderby", ""):
        assets = assets[::-1]
    limit = int(request.query.get("$top", len(assets)))
    return {"value": assets[:limit]}


@route(f"GET {_ASSET}")
def get_container(azure: Azure, request: Request) -> Json:
    """Return an asset with its newest version."""
    scope, kind, name = request["scope"], request["kind"], request["name"]
    all_versions = versions(azure, scope, kind, name)
    if not all_versions:
        raise Refusal(404, f"Could not find {kind.rstrip('s')}: {name}.", "UserError")
    return container_dto(scope, kind, name, all_versions)


@route(f"GET {_KINDS}")
def list_containers(azure: Azure, request: Request) -> Json:
    """Return all assets of a kind."""
    scope, kind = request["scope"], request["kind"]
    # A dict keeps the order in which the assets were registered.
    names: dict[str, None] = {}
    for version in azure.list_resources_below(f"{scope}/{kind}"):
        path = version["id"].removeprefix(f"{scope}/{kind}/")
        names[path.partition("/")[0]] = None
    for name in _ANONYMOUS_NAMES:
        names.pop(name, None)
    if kind == "models":
        names |= dict.fromkeys(azure.models)
    if kind == "environments":
        names |= dict.fromkeys(azure.environments)

    containers = []
    for name in names:
        all_versions = versions(azure, scope, kind, name)
        if all_versions:
            containers.append(container_dto(scope, kind, name, all_versions))
    return {"value": containers}


def container_dto(scope: str, kind: str, name: str, all_versions: list[Json]) -> Json:
    """Return an asset as ARM sends it, with the number of its next version."""
    newest = all_versions[-1]
    latest_version = newest["name"]
    next_version = None
    if latest_version.isdigit():
        next_version = str(int(latest_version) + 1)

    properties = dict(_DEFAULTS)
    del properties["isAnonymous"]
    properties["latestVersion"] = latest_version
    properties["nextVersion"] = next_version
    if kind == "data":
        properties["dataType"] = newest["properties"]["dataType"]
    else:
        properties["provisioningState"] = "Succeeded"
    return arm(f"{scope}/{kind}/{name}", properties)


# Registering assets


def read_properties(azure: Azure, request: Request) -> Json:
    """Return the properties of a version that is to be registered, without nulls."""
    workspace_of(azure, request["scope"])
    properties = request.json()["properties"]
    return {name: value for name, value in properties.items() if value is not None}


def reply_to_put(request: Request, answer: Json, old: Json | None = None) -> Reply:
    """Return the reply to a registration: 201 if the version is new, or 200.

    `old` is the version before the registration. Raises Refusal if the location of its
    files would change.
    """
    if old is None:
        return Reply(answer, 201, {"Location": location_of(request)})
    if _find_uris(old) != _find_uris(answer):
        raise Refusal(400, "Asset paths cannot be updated.", "UserError")
    return Reply(answer, 200)


def _find_uris(asset: Json) -> list[str]:
    """Return the locations of an asset's files, in lower case."""
    return [str(asset["properties"].get(name)).lower() for name in _URI_PROPERTIES]


@route("PUT arm{scope}/(?P<kind>codes|environments|data)/{name}/versions/{version}")
def put_version(azure: Azure, request: Request) -> Reply:
    """Register a version of code, an environment or data."""
    properties = read_properties(azure, request)
    complete = _COMPLETE[request["kind"]]
    answer = arm(request.path, _DEFAULTS | complete(request["scope"], properties))
    key = request.path.lower()
    reply = reply_to_put(request, answer, azure.resources.get(key))
    azure.resources[key] = answer
    return reply


@route("PUT arm{scope}/components/{name}/versions/{version}")
def put_component(azure: Azure, request: Request) -> Reply:
    """Register a component. Its specification is also stored as it was sent, to be run."""
    properties = read_properties(azure, request)
    id = component_id(request.path, properties)
    spec = properties["componentSpec"]
    environment = re.search(
        "/workspaces/.*/environments/([^/]+)/versions/(.+)",
        spec.get("task", spec).get("environment", ""),
    )
    if environment:
        # Raises Refusal if the environment does not exist.
        version_of(azure, request["scope"], "environments", *environment.groups())

    spec.setdefault("version", id.rpartition("/")[2])
    azure.components[id.lower()] = spec
    answer = arm(id, _DEFAULTS | complete_component(properties))
    azure.resources[id.lower()] = answer
    return reply_to_put(request, answer)


@route("PUT arm{scope}/models/{name}/versions/{version}")
def put_model(azure: Azure, request: Request) -> Reply:
    """Register a version of a model."""
    scope, name, version = request["scope"], request["name"], request["version"]
    properties = read_properties(azure, request)
    uri, job = resolve_job_output(azure, scope, properties["modelUri"])
    properties["jobName"] = properties.get("jobName") or job
    old_versions = {
        model["name"]: model for model in versions(azure, scope, "models", name)
    }
    answer = arm(request.path, _DEFAULTS | properties | {"modelUri": uri})
    reply = reply_to_put(request, answer, old_versions.get(version))
    keep_model(azure, name, version, uri, job or "", details=properties)
    reply.body = version_of(azure, scope, "models", name, version)
    return reply


@route(f"POST {_VERSION}/startPendingUpload")
def start_upload(azure: Azure, request: Request) -> Json:
    """Return the address of a new container for the files of an asset."""
    workspace = workspace_of(azure, request["scope"])
    name = f"{workspace['properties']['workspaceId'][:10]}-{new_id()}"
    uri = f"https://{BLOB_HOST}:443/{name}"
    credential = {"credentialType": "SAS", "sasUri": f"{uri}?sig={SIGNATURE}"}
    reference = {
        "blobUri": uri,
        "storageAccountArmId": workspace["properties"]["storageAccount"],
        "credential": credential,
    }
    return {
        "blobReferenceForConsumption": reference,
        "pendingUploadId": request.json().get("pendingUploadId") or new_id(),
        "pendingUploadType": request.json()["pendingUploadType"],
    }


def code_files(azure: Azure, id: str) -> dict[str, str]:
    """Return the blobs of a code asset, by their paths in its folder."""
    uri = resource_of(azure, id.removeprefix("azureml:"))["properties"]["codeUri"]
    return azure.files(urlsplit(uri).path.strip("/"))


def complete_code(scope: str, properties: Json) -> Json:
    """Return the properties of a code asset as ARM stores them."""
    return properties | {
        "isAnonymous": False,
        "provisioningState": "Succeeded",
        "properties": numbers_to_text(properties.get("properties", {})),
    }


def complete_environment(scope: str, properties: Json) -> Json:
    """Return the properties of an environment as ARM stores them.

    The conda file is stored as JSON, even if it was sent as YAML.
    """
    if "condaFile" in properties:
        conda = yaml.safe_load(properties["condaFile"])
        properties = properties | {"condaFile": json.dumps(conda, indent=2)}
    return properties | {
        "environmentType": "UserCreated",
        "osType": "Linux",
        "autoRebuild": "Disabled",
        "autoDeleteSetting": None,
        "provisioningState": "Succeeded",
        "stage": "Logged",
        "intellectualProperty": None,
    }


def complete_data(scope: str, properties: Json) -> Json:
    """Return the properties of a data asset as ARM stores them.

    A path in a datastore gets its workspace, and a folder ends with a slash.
    """
    datastores = f"{workspace_uri(scope)}/datastores/"
    uri = re.sub("^azureml://datastores/", datastores, properties["dataUri"])
    if properties["dataType"] == "uri_folder":
        uri = uri.rstrip("/") + "/"
    return properties | {"dataUri": uri}


def workspace_uri(scope: str) -> str:
    """Return the URI of a workspace, from its resource id."""
    _, _, subscription, _, group, *_, workspace = scope.split("/")
    return (
        f"azureml://subscriptions/{subscription}/resourcegroups/{group}"
        f"/workspaces/{workspace}"
    )


#: The functions that complete the properties of a version, by the kind of the asset.
_COMPLETE = {
    "codes": complete_code,
    "environments": complete_environment,
    "data": complete_data,
}


# Components


def component_id(id: str, properties: Json) -> str:
    """Return the id of a component. If it has no name, the id is a hash of its contents."""
    if not properties.get("isAnonymous"):
        return id
    text = json.dumps(properties["componentSpec"] | {"version": ""}, sort_keys=True)
    return f"{id.rpartition('/')[0]}/{uuid.uuid5(uuid.NAMESPACE_URL, text)}"


def complete_component(properties: Json) -> Json:
    """Return the properties of a component as ARM stores them.

    The values of its specification are text. The description is only in the specification.
    """
    spec = dict(numbers_to_text(properties["componentSpec"]))
    for name in ("_source", "jobs", "sourceJobId"):
        spec.pop(name, None)
    if spec["type"] == "command":
        spec["resources"] = {"instance_count": "1"} | spec.get("resources", {})
    else:
        spec.pop("resources", None)
    if spec["type"] == "pipeline":
        spec["is_deterministic"] = "False"
    for kind in ("inputs", "outputs"):
        if kind in spec:
            spec[kind] = {name: dict(port) for name, port in spec[kind].items()}
        for port in spec.get(kind, {}).values():
            port.pop("mode", None)
    for port in spec.get("inputs", {}).values():
        port.setdefault("optional", "False")
    return properties | {"description": None, "componentSpec": spec}


def numbers_to_text(value: Any) -> Any:
    """Return a JSON value with text in place of each number, true and false."""
    if isinstance(value, dict):
        return {name: numbers_to_text(member) for name, member in value.items()}
    if isinstance(value, list):
        return [numbers_to_text(member) for member in value]
    return value if value is None else str(value)


# Models, which MLflow registers and shows as well


def resolve_job_output(azure: Azure, scope: str, uri: str) -> tuple[str, str | None]:
    """Return the path in a datastore of a URI that names an output of a job, and the job.

    Any other URI is returned as it is, without a job. Raises Refusal if there is no such
    job.
    """
    match = re.match("azureml://jobs/([^/]+)/outputs/([^/]+)(?:/paths)?/?(.*)", uri)
    if not match:
        return uri, None

    job, output, path = match.groups()
    if job not in azure.runs:
        raise Refusal(400, f"Run {job} was not found.", "UserError")
    run = azure.runs[job]
    folder = run.outputs.get(output, f"{ARTIFACTS}/{run.container}")
    container, _, blob = f"{folder}/{path}".partition("/")
    store_of_container = {
        container: store for store, container in _CONTAINER_OF_STORE.items()
    }
    store = store_of_container[container]
    return f"{workspace_uri(scope)}/datastores/{store}/paths/{blob}", job


def model_dto(azure: Azure, scope: str, model: Json) -> Json:
    """Return a version in MLflow's registry as ARM sends it, with its details from ARM."""
    name, version, uri = model["name"], model["version"], model["source"]
    details = azure.model_details.get((name, version), {})
    artifact = re.search(r"/runs/([^/]+)/artifacts/(.+)", uri)
    if artifact:
        store = f"{workspace_uri(scope)}/datastores/workspaceartifactstore/paths"
        uri = f"{store}/ExperimentRun/dcid.{artifact[1]}/{artifact[2]}"
    properties = {
        "flavors": {},
        "modelType": "mlflow_model",
        "jobName": model["run_id"] or None,
        "stage": None,
        "provisioningState": "Succeeded",
        "tags": {tag["key"]: tag["value"] for tag in model["tags"]},
    }
    id = f"{scope}/models/{name}/versions/{version}"
    return arm(id, _DEFAULTS | properties | details | {"modelUri": uri})
