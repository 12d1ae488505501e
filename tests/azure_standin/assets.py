"""ARM's assets, by name and version: code, environments, data, models, components."""

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
#: The containers of the datastores that data and models are in.
_STORES = {"workspaceblobstore": CONTAINER, "workspaceartifactstore": ARTIFACTS}
#: The names of all that have none, which are not listed.
_ANONYMOUS = ("azureml_anonymous", "CliV2AnonymousEnvironment")
_PATHS = ("codeUri", "dataUri", "modelUri")
#: What every asset has, as far as nobody has said otherwise.
_PLAIN: Json = {
    "description": None,
    "tags": {},
    "properties": {},
    "isArchived": False,
    "isAnonymous": False,
}


# What there is


def versions(azure: Azure, scope: str, kind: str, name: str) -> list[Json]:
    """The versions of an asset as ARM gives them, oldest first."""
    place = f"{scope}/{kind}/{name}/versions"
    if kind == "models":
        return [model_dto(azure, scope, one) for one in azure.models.get(name, [])]
    # What v1 has registered is seen too, with no more than that it is there.
    ids = [f"{place}/{one['version']}" for one in azure.environments.get(name, [])]
    known = [arm(id, _PLAIN) for id in ids if kind == "environments"]
    return known + azure.below(place)


def version_of(azure: Azure, scope: str, kind: str, name: str, version: str) -> Json:
    for one in versions(azure, scope, kind, name):
        if one["name"] == version:
            return one
    message = f"Could not find asset with ID {scope}/{kind}/{name}/versions/{version}"
    raise Refusal(404, message, "UserError")


def blobs_of(azure: Azure, scope: str, uri: str) -> str:
    """The folder of blobs, or the blob, that the URI of a place or an asset means."""
    text = re.sub("^azureml:/*", "", uri).rstrip("/")
    if found := re.search(r"(?:^|/)datastores/([^/]+)/(?:paths/)?(.*)", text):
        return f"{_STORES[found[1]]}/{found[2]}"
    if found := re.search(r"/(data|models)/([^/]+)/versions/([^/]+)$", text):
        kept = version_of(azure, scope, *found.groups())["properties"]
    elif found := re.fullmatch("([^/:@]+)(?::([^/]+)|@latest)", text):
        newest = versions(azure, scope, "data", found[1])[-1:]
        version = found[2] or (newest[0]["name"] if newest else "latest")
        kept = version_of(azure, scope, "data", found[1], version)["properties"]
    else:
        raise ValueError(f"no place that the stand-in knows: {uri}")
    return blobs_of(azure, scope, kept.get("dataUri") or kept["modelUri"])


@route(f"GET {_VERSION}")
def get_version(azure: Azure, request: Request) -> Json:
    names = (request[part] for part in ("kind", "name", "version"))
    return version_of(azure, request["scope"], *names)


@route(f"GET {_ASSET}/versions")
def list_versions(azure: Azure, request: Request) -> Json:
    """The versions, newest first as they are asked for; code of a hash has any name."""
    scope, kind, name = request["scope"], request["kind"], request["name"]
    if hash := request.query.get("hash"):
        codes = azure.below(f"{scope}/codes")
        known = [
            code
            for code in codes
            if code["properties"]["properties"].get("hash_sha256") == hash
        ]
    else:
        known = versions(azure, scope, kind, name)
    if not known and kind in ("models", "environments", "components"):
        raise Refusal(404, f"Could not find {kind[:-1]}: {name}.", "UserError")
    if "desc" in request.query.get("$orderby", ""):
        known = known[::-1]
    return {"value": known[: int(request.query.get("$top", len(known)))]}


@route(f"GET {_ASSET}")
def get_container(azure: Azure, request: Request) -> Json:
    scope, kind, name = request["scope"], request["kind"], request["name"]
    known = versions(azure, scope, kind, name)
    if not known:
        raise Refusal(404, f"Could not find {kind.rstrip('s')}: {name}.", "UserError")
    return container_dto(scope, kind, name, known)


@route(f"GET {_KINDS}")
def list_containers(azure: Azure, request: Request) -> Json:
    scope, kind = request["scope"], request["kind"]
    place = f"{scope}/{kind}/"
    ids = [one["id"] for one in azure.below(f"{scope}/{kind}")]
    names = dict.fromkeys(id[len(place) :].partition("/")[0] for id in ids)
    names = {name: None for name in names if name not in _ANONYMOUS}
    more = {"models": azure.models, "environments": azure.environments}
    names |= dict.fromkeys(more.get(kind, {}))
    known = {name: versions(azure, scope, kind, name) for name in names}
    return {
        "value": [container_dto(scope, kind, *one) for one in known.items() if one[1]]
    }


def container_dto(scope: str, kind: str, name: str, known: list[Json]) -> Json:
    newest = known[-1]["name"]
    properties = {key: _PLAIN[key] for key in _PLAIN if key != "isAnonymous"}
    properties |= {
        "latestVersion": newest,
        "nextVersion": str(int(newest) + 1) if newest.isdigit() else None,
    }
    if kind == "data":
        properties["dataType"] = known[-1]["properties"]["dataType"]
    else:
        properties["provisioningState"] = "Succeeded"
    return arm(f"{scope}/{kind}/{name}", properties)


# What is registered


def given_of(azure: Azure, request: Request) -> Json:
    """What is said of a version that is to be registered."""
    workspace_of(azure, request["scope"])
    sent = request.json()["properties"]
    return {key: value for key, value in sent.items() if value is not None}


def registered(request: Request, answer: Json, old: Json | None = None) -> Reply:
    """201 and where a version is, 200 if it was there: then it must be in one place."""
    if old is None:
        return Reply(answer, 201, {"Location": location_of(request)})
    paths = [
        [str(one["properties"].get(key)).lower() for key in _PATHS]
        for one in (old, answer)
    ]
    if paths[0] != paths[1]:
        raise Refusal(400, "Asset paths cannot be updated.", "UserError")
    return Reply(answer, 200)


@route("PUT arm{scope}/(?P<kind>codes|environments|data)/{name}/versions/{version}")
def put_version(azure: Azure, request: Request) -> Reply:
    given, id = given_of(azure, request), request.path
    complete = _COMPLETE[request["kind"]](request["scope"], given)
    answer = arm(id, _PLAIN | complete)
    reply = registered(request, answer, azure.resources.get(id.lower()))
    azure.resources[id.lower()] = answer
    return reply


@route("PUT arm{scope}/components/{name}/versions/{version}")
def put_component(azure: Azure, request: Request) -> Reply:
    """Register a component, which is kept as it was sent too: that is what runs."""
    given, scope = given_of(azure, request), request["scope"]
    id, spec = component_id(request.path, given), given["componentSpec"]
    environment = spec.get("task", spec).get("environment", "")
    if found := re.search(
        "/workspaces/.*/environments/([^/]+)/versions/(.+)", environment
    ):
        version_of(azure, scope, "environments", *found.groups())
    spec.setdefault("version", id.rpartition("/")[2])
    azure.components[id.lower()] = spec
    answer = arm(id, _PLAIN | complete_component(given))
    azure.resources[id.lower()] = answer
    return registered(request, answer)


@route("PUT arm{scope}/models/{name}/versions/{version}")
def put_model(azure: Azure, request: Request) -> Reply:
    given, scope, name = given_of(azure, request), request["scope"], request["name"]
    uri, job = of_a_job(azure, scope, given["modelUri"])
    given["jobName"] = given.get("jobName") or job
    known = {one["name"]: one for one in versions(azure, scope, "models", name)}
    old = known.get(request["version"])
    answer = arm(request.path, _PLAIN | given | {"modelUri": uri})
    reply = registered(request, answer, old)
    keep_model(azure, name, request["version"], uri, job or "", details=given)
    reply.body = version_of(azure, scope, "models", name, request["version"])
    return reply


@route(f"POST {_VERSION}/startPendingUpload")
def start_upload(azure: Azure, request: Request) -> Json:
    """A container of its own for a folder of code."""
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
    """The files of a code asset: path in its folder → blob."""
    uri = resource_of(azure, id.removeprefix("azureml:"))["properties"]["codeUri"]
    return azure.files(urlsplit(uri).path.strip("/"))


def complete_code(scope: str, given: Json) -> Json:
    properties = texts(given.get("properties", {}))
    done = {"isAnonymous": False, "provisioningState": "Succeeded"}
    return given | done | {"properties": properties}


def complete_environment(scope: str, given: Json) -> Json:
    """The conda file is kept as JSON, whatever was sent."""
    if "condaFile" in given:
        conda = yaml.safe_load(given["condaFile"])
        given = given | {"condaFile": json.dumps(conda, indent=2)}
    return given | {
        "environmentType": "UserCreated",
        "osType": "Linux",
        "autoRebuild": "Disabled",
        "autoDeleteSetting": None,
        "provisioningState": "Succeeded",
        "stage": "Logged",
        "intellectualProperty": None,
    }


def complete_data(scope: str, given: Json) -> Json:
    """A place in a datastore is named in full, a folder with a slash at its end."""
    uri = re.sub(
        "^azureml://datastores/", f"{long_uri(scope)}/datastores/", given["dataUri"]
    )
    if given["dataType"] == "uri_folder":
        uri = uri.rstrip("/") + "/"
    return given | {"dataUri": uri}


def long_uri(scope: str) -> str:
    _, _, subscription, _, group, *_, workspace = scope.split("/")
    place = (
        f"subscriptions/{subscription}/resourcegroups/{group}/workspaces/{workspace}"
    )
    return f"azureml://{place}"


_COMPLETE = {
    "codes": complete_code,
    "environments": complete_environment,
    "data": complete_data,
}


# Components


def component_id(id: str, given: Json) -> str:
    """The id of a component: one without a name is known by what it says."""
    if not given.get("isAnonymous"):
        return id
    text = json.dumps(given["componentSpec"] | {"version": ""}, sort_keys=True)
    return f"{id.rpartition('/')[0]}/{uuid.uuid5(uuid.NAMESPACE_URL, text)}"


def complete_component(given: Json) -> Json:
    """The description goes with the specification, whose values become texts."""
    spec = dict(texts(given["componentSpec"]))
    for own in ("_source", "jobs", "sourceJobId"):
        spec.pop(own, None)
    if spec["type"] == "command":
        spec["resources"] = {"instance_count": "1"} | spec.get("resources", {})
    else:
        spec.pop("resources", None)
    if spec["type"] == "pipeline":
        spec["is_deterministic"] = "False"
    ports = {
        kind: {name: dict(port) for name, port in spec[kind].items()}
        for kind in ("inputs", "outputs")
        if kind in spec
    }
    for port in [port for kind in ports.values() for port in kind.values()]:
        port.pop("mode", None)
    for port in ports.get("inputs", {}).values():
        port.setdefault("optional", "False")
    return given | {"description": None, "componentSpec": spec | ports}


def texts(value: Any) -> Any:
    """The same with a text for each number and truth."""
    if isinstance(value, dict):
        return {key: texts(one) for key, one in value.items()}
    if isinstance(value, list):
        return [texts(one) for one in value]
    return value if value is None else str(value)


# Models, which are MLflow's too


def of_a_job(azure: Azure, scope: str, uri: str) -> tuple[str, str | None]:
    """The place and the job of a URI that names an output of a job."""
    found = re.match("azureml://jobs/([^/]+)/outputs/([^/]+)(?:/paths)?/?(.*)", uri)
    if not found:
        return uri, None
    name, output, path = found.groups()
    if name not in azure.runs:
        raise Refusal(400, f"Run {name} was not found.", "UserError")
    run = azure.runs[name]
    folder = run.outputs.get(output, f"{ARTIFACTS}/{run.container}")
    container, _, rest = f"{folder}/{path}".partition("/")
    stores = {container: store for store, container in _STORES.items()}
    return f"{long_uri(scope)}/datastores/{stores[container]}/paths/{rest}", name


def model_dto(azure: Azure, scope: str, model: Json) -> Json:
    """A version of MLflow's registry as ARM gives it, with what ARM was told of it."""
    name, version, uri = model["name"], model["version"], model["source"]
    details = azure.model_details.get((name, version), {})
    if found := re.search(r"/runs/([^/]+)/artifacts/(.+)", uri):
        store = f"{long_uri(scope)}/datastores/workspaceartifactstore/paths"
        uri = f"{store}/ExperimentRun/dcid.{found[1]}/{found[2]}"
    kept = {
        "flavors": {},
        "modelType": "mlflow_model",
        "jobName": model["run_id"] or None,
        "stage": None,
        "provisioningState": "Succeeded",
        "tags": {tag["key"]: tag["value"] for tag in model["tags"]},
    }
    properties = _PLAIN | kept | details | {"modelUri": uri}
    return arm(f"{scope}/models/{name}/versions/{version}", properties)
