"""Blob storage, and what names it: datastores and datasets; also environments."""

from __future__ import annotations

import base64
import json
import re
import uuid
from email.utils import formatdate
from xml.sax.saxutils import escape

from .resources import arm, workspace_of
from .state import ARTIFACTS, CONTAINER, Azure, Json, new_id
from .wire import STORAGE_ACCOUNT, Refusal, Reply, Request, route

ACCOUNT_KEY = base64.b64encode(
    b"the secret key of the storage account of the stand-in, of 64 bytes"[:64]
).decode()
_DATASET = "ml/dataset/v1.0{scope}"
_ENVIRONMENT = "ml/environment/v1.0{scope}/environments/{name}"


# Blobs


def blob_headers() -> dict[str, str]:
    return {"ETag": f'"{new_id()}"', "Last-Modified": formatdate(usegmt=True)}


@route("PUT blob/{container}/{path:rest}")
def put_blob(azure: Azure, request: Request) -> Reply:
    name, part = request.path.lstrip("/"), request.query.get("comp")
    if part == "metadata":
        start = "x-ms-meta-"
        azure.blob_metadata[name] = {
            key.removeprefix(start): value
            for key, value in request.headers.items()
            if key.startswith(start)
        }
        return Reply(b"", 200, blob_headers())
    if part == "block":
        azure.blocks[name, request.query["blockid"]] = request.body
    elif part == "blocklist":
        ids = re.findall(r"<(?:Latest|Uncommitted)>([^<]+)<", request.body.decode())
        azure.blobs[name] = b"".join(azure.blocks.pop((name, id)) for id in ids)
    else:
        azure.blobs[name] = request.body
    return Reply(b"", 201, blob_headers())


@route("GET blob/{container}/{path:rest}", "HEAD blob/{container}/{path:rest}")
def get_blob(azure: Azure, request: Request) -> Reply:
    content = azure.blobs.get(request.path.lstrip("/"))
    if content is None:
        raise Refusal(404, "The specified blob does not exist.", "BlobNotFound")
    headers = blob_headers() | {"x-ms-blob-type": "BlockBlob"}
    known = azure.blob_metadata.get(request.path.lstrip("/"), {})
    headers |= {f"x-ms-meta-{key}": value for key, value in known.items()}
    wanted = request.headers.get("x-ms-range") or request.headers.get("range")
    if wanted is None or request.method == "HEAD":
        return Reply(content, 200, headers)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, stop = int(first), min(int(last or len(content)) + 1, len(content))
    if start >= len(content):
        raise Refusal(416, "The range cannot be satisfied.", "InvalidRange")
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    return Reply(content[start:stop], 206, headers)


@route("GET blob/{container}")
def list_blobs(azure: Azure, request: Request) -> Reply:
    """The blobs below a prefix; with a delimiter, what is in folders as folders."""
    start = f"{request['container']}/{request.query.get('prefix', '')}"
    delimiter = request.query.get("delimiter")
    entries = {}
    for name, content in sorted(azure.blobs.items()):
        if not name.startswith(start):
            continue
        folder, found, _ = name[len(start) :].partition(delimiter or "\0")
        path = escape((start + folder + found if found else name).partition("/")[2])
        properties = f"<Content-Length>{len(content)}</Content-Length>"
        properties += "<BlobType>BlockBlob</BlobType>"
        entries[path] = (
            f"<BlobPrefix><Name>{path}</Name></BlobPrefix>"
            if found
            else f"<Blob><Name>{path}</Name><Properties>{properties}</Properties></Blob>"
        )
    body = f"<Blobs>{''.join(entries.values())}</Blobs><NextMarker/>"
    xml = f"<EnumerationResults>{body}</EnumerationResults>".encode()
    return Reply(xml, 200, blob_headers() | {"Content-Type": "application/xml"})


# The datastore


def uses_identities(workspace: Json) -> bool:
    """Return whether the datastores of a workspace are reached without a key."""
    mode = workspace["properties"].get("systemDatastoresAuthMode") or ""
    return str(mode).lower() == "identity"


@route(
    "GET ml/datastore/v1.0{scope}/default",
    "GET ml/datastore/v1.0{scope}/datastores/workspaceblobstore",
)
def get_datastore(azure: Azure, request: Request) -> Json:
    section = {
        "accountName": STORAGE_ACCOUNT,
        "containerName": CONTAINER,
        "endpoint": "core.windows.net",
        "protocol": "https",
    }
    if not uses_identities(workspace_of(azure, request["scope"])):
        section["accountKey"] = ACCOUNT_KEY
    names = {"name": "workspaceblobstore", "dataStoreType": "AzureBlob"}
    return names | {"azureStorageSection": section}


_DATASTORES = "arm{scope}/datastores"


def datastores(azure: Azure, scope: str) -> list[Json]:
    """The default datastore, if there is one, and that of the runs' artifacts."""
    default, access = azure.default_datastore, "WorkspaceSystemAssignedIdentity"
    is_by_identity = uses_identities(workspace_of(azure, scope))
    known = {"workspaceartifactstore": (ARTIFACTS, "None")}
    known |= {default: (CONTAINER, access)} if default else {}
    id = f"{workspace_of(azure, scope)['id']}/datastores"
    section = {
        "description": None,
        "tags": None,
        "properties": None,
        "datastoreType": "AzureBlob",
        "accountName": STORAGE_ACCOUNT,
        "endpoint": "core.windows.net",
        "protocol": "https",
        "credentials": {"credentialsType": "None" if is_by_identity else "AccountKey"},
    }
    return [
        arm(
            f"{id}/{name}",
            section
            | {
                "isDefault": name == default,
                "containerName": container,
                "serviceDataAccessAuthIdentity": access,
            },
        )
        for name, (container, access) in known.items()
    ]


@route(f"GET {_DATASTORES}")
def list_datastores(azure: Azure, request: Request) -> Json:
    wants_default = request.query.get("isdefault", "").lower() == "true"
    known = datastores(azure, request["scope"])
    return {
        "value": [
            one for one in known if one["properties"]["isDefault"] or not wants_default
        ]
    }


@route(f"GET {_DATASTORES}/{{name}}")
def get_datastore_of_arm(azure: Azure, request: Request) -> Json:
    for one in datastores(azure, request["scope"]):
        if one["name"] == request["name"]:
            return one
    raise Refusal(404, f"Could not find datastore: {request['name']}.", "UserError")


@route(f"POST {_DATASTORES}/{{name}}/listSecrets")
def list_secrets(azure: Azure, request: Request) -> Json:
    get_datastore_of_arm(azure, request)
    return {"secretsType": "AccountKey", "key": ACCOUNT_KEY}


# Datasets


def keep_dataset(azure: Azure, dataflow: str, kind: str) -> Json:
    """Save a dataset; the same definition has the same id, so that steps are reused."""
    id = str(uuid.uuid5(uuid.NAMESPACE_URL, dataflow))
    dataset = {"id": id, "datasetType": kind, "dataflowJson": dataflow}
    return azure.datasets.setdefault(id, dataset | {"properties": {}})


def dataset_definition(dataset: Json) -> str:
    """The MLTable YAML of a dataset."""
    return str(json.loads(dataset["dataflowJson"])["meta"]["RsDataflow"])


def dataset_folder(dataset: Json) -> str:
    """The folder of blobs that a dataset stands for."""
    text = dataset_definition(dataset)
    found = re.search(r"/datastores/[^/]+/paths/([^\"\s]+)", text)
    if not found:
        raise ValueError(f"not a folder of the datastore: {text}")
    return f"{CONTAINER}/{found[1].removesuffix('**').rstrip('/')}"


@route(f"POST {_DATASET}/saveddatasets")
def save_dataset(azure: Azure, request: Request) -> Json:
    body = request.json()
    return keep_dataset(azure, body["dataflowJson"], body["datasetType"])


@route("GET ml/data/v1.0{scope}/dataversion/unregistered-{id}/versions/1")
def get_data_version(azure: Azure, request: Request) -> Json:
    return {"legacyDataflow": dataset_definition(azure.datasets[request["id"]])}


@route(f"POST {_DATASET}/datasets")
def register_dataset(azure: Azure, request: Request) -> Json:
    body = request.json()
    old = azure.registered_datasets.get(body["name"])
    if old and request.query.get("updatedefinitionifexists", "").lower() != "true":
        raise Refusal(409, f"There is already a dataset named {body['name']}.")
    latest = body["latest"]
    saved = keep_dataset(azure, latest["dataflow"], body["datasetType"])
    latest["savedDatasetId"] = saved["id"]
    latest["versionId"] = str(int(old["latest"]["versionId"]) + 1 if old else 1)
    body["datasetId"] = old["datasetId"] if old else new_id()
    azure.registered_datasets[body["name"]] = body
    return azure.registered_datasets[body["name"]]


@route(f"GET {_DATASET}/datasets/query/name={{name}}")
def get_dataset(azure: Azure, request: Request) -> Json:
    if request["name"] not in azure.registered_datasets:
        raise Refusal(404, f"There is no dataset {request['name']}.")
    return azure.registered_datasets[request["name"]]


# Environments


@route(f"GET {_ENVIRONMENT}", f"GET {_ENVIRONMENT}/versions/{{version}}")
def get_environment(azure: Azure, request: Request) -> Json:
    versions = azure.environments[request["name"]]
    wanted = request.values.get("version") or str(len(versions))
    for environment in versions:
        if environment["version"] == wanted:
            return environment
    raise Refusal(404, f"There is no environment {request['name']}.")


@route(f"PUT {_ENVIRONMENT}")
def put_environment(azure: Azure, request: Request) -> Json:
    """Register an environment; if it equals the newest version, it is that version.

    The SDK writes `Docker` and the like in what it sends, and reads them as `docker`.
    """
    versions, sent = azure.environments[request["name"]], request.json()
    body = {name[0].lower() + name[1:]: value for name, value in sent.items()}
    if not versions or versions[-1] != body | {"version": versions[-1]["version"]}:
        versions.append(body | {"version": str(len(versions) + 1)})
    return versions[-1]
