"""Blob storage, the datastores and datasets that refer to it, and environments."""

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
    """Return the headers of all answers about blobs."""
    return {"ETag": f'"{new_id()}"', "Last-Modified": formatdate(usegmt=True)}


@route("PUT blob/{container}/{path:rest}")
def put_blob(azure: Azure, request: Request) -> Reply:
    """Write a blob, a block of it, the list of its blocks, or its metadata."""
    blob = request.path.lstrip("/")
    component = request.query.get("comp")
    if component == "metadata":
        prefix = "x-ms-meta-"
        azure.blob_metadata[blob] = {
            header.removeprefix(prefix): value
            for header, value in request.headers.items()
            if header.startswith(prefix)
        }
        return Reply(b"", 200, blob_headers())
    if component == "block":
        azure.blocks[blob, request.query["blockid"]] = request.body
    elif component == "blocklist":
        ids = re.findall(r"<(?:Latest|Uncommitted)>([^<]+)<", request.body.decode())
        azure.blobs[blob] = b"".join(azure.blocks.pop((blob, id)) for id in ids)
    else:
        azure.blobs[blob] = request.body
    return Reply(b"", 201, blob_headers())


@route("GET blob/{container}/{path:rest}", "HEAD blob/{container}/{path:rest}")
def get_blob(azure: Azure, request: Request) -> Reply:
    """Return a blob, or the range of its bytes that the request names."""
    blob = request.path.lstrip("/")
    content = azure.blobs.get(blob)
    if content is None:
        raise Refusal(404, "The specified blob does not exist.", "BlobNotFound")
    headers = blob_headers() | {"x-ms-blob-type": "BlockBlob"}
    for key, value in azure.blob_metadata.get(blob, {}).items():
        headers[f"x-ms-meta-{key}"] = value
    byte_range = request.headers.get("x-ms-range") or request.headers.get("range")
    if byte_range is None or request.method == "HEAD":
        return Reply(content, 200, headers)

    first, _, last = byte_range.removeprefix("bytes=").partition("-")
    start = int(first)
    stop = len(content)
    if last:
        stop = min(int(last) + 1, len(content))
    if start >= len(content):
        raise Refusal(416, "The range cannot be satisfied.", "InvalidRange")
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    return Reply(content[start:stop], 206, headers)


@route("GET blob/{container}")
def list_blobs(azure: Azure, request: Request) -> Reply:
    """Return the blobs below a prefix. With a delimiter, those in folders are one folder each."""
    prefix = f"{request['container']}/{request.query.get('prefix', '')}"
    delimiter = request.query.get("delimiter")
    entries = {}
    for blob, content in sorted(azure.blobs.items()):
        if not blob.startswith(prefix):
            continue
        rest = blob.removeprefix(prefix)
        if delimiter and delimiter in rest:
            folder = prefix + rest.partition(delimiter)[0] + delimiter
            path = escape(folder.partition("/")[2])
            entries[path] = f"<BlobPrefix><Name>{path}</Name></BlobPrefix>"
        else:
            path = escape(blob.partition("/")[2])
            properties = f"<Content-Length>{len(content)}</Content-Length>"
            properties += "<BlobType>BlockBlob</BlobType>"
            entries[path] = (
                f"<Blob><Name>{path}</Name><Properties>{properties}</Properties></Blob>"
            )
    body = f"<Blobs>{''.join(entries.values())}</Blobs><NextMarker/>"
    xml = f"<EnumerationResults>{body}</EnumerationResults>".encode()
    return Reply(xml, 200, blob_headers() | {"Content-Type": "application/xml"})


# Datastores


def uses_identities(workspace: Json) -> bool:
    """Return whether clients reach the datastores of a workspace without a key."""
    mode = workspace["properties"].get("systemDatastoresAuthMode") or ""
    return str(mode).lower() == "identity"


@route(
    "GET ml/datastore/v1.0{scope}/default",
    "GET ml/datastore/v1.0{scope}/datastores/workspaceblobstore",
)
def get_datastore(azure: Azure, request: Request) -> Json:
    """Return the default datastore, with its key, as the service of v1 does."""
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


def create_datastores(azure: Azure, scope: str) -> list[Json]:
    """Return the default datastore, if there is one, and that of the runs' artifacts."""
    workspace = workspace_of(azure, scope)
    datastores = [
        create_datastore(workspace, "workspaceartifactstore", ARTIFACTS, "None")
    ]
    if azure.default_datastore:
        identity = "WorkspaceSystemAssignedIdentity"
        default = create_datastore(
            workspace, azure.default_datastore, CONTAINER, identity, is_default=True
        )
        datastores.append(default)
    return datastores


def create_datastore(
    workspace: Json, name: str, container: str, identity: str, is_default: bool = False
) -> Json:
    """Return a datastore as ARM has it. The service reads it with `identity`."""
    credentials_type = "None" if uses_identities(workspace) else "AccountKey"
    properties = {
        "description": None,
        "tags": None,
        "properties": None,
        "datastoreType": "AzureBlob",
        "accountName": STORAGE_ACCOUNT,
        "endpoint": "core.windows.net",
        "protocol": "https",
        "credentials": {"credentialsType": credentials_type},
        "isDefault": is_default,
        "containerName": container,
        "serviceDataAccessAuthIdentity": identity,
    }
    return arm(f"{workspace['id']}/datastores/{name}", properties)


@route(f"GET {_DATASTORES}")
def list_datastores(azure: Azure, request: Request) -> Json:
    """Return all datastores of a workspace, or the default one."""
    datastores = create_datastores(azure, request["scope"])
    if request.query.get("isdefault", "").lower() == "true":
        datastores = [store for store in datastores if store["properties"]["isDefault"]]
    return {"value": datastores}


@route(f"GET {_DATASTORES}/{{name}}")
def get_datastore_of_arm(azure: Azure, request: Request) -> Json:
    """Return a datastore, without its key."""
    for datastore in create_datastores(azure, request["scope"]):
        if datastore["name"] == request["name"]:
            return datastore
    raise Refusal(404, f"Could not find datastore: {request['name']}.", "UserError")


@route(f"POST {_DATASTORES}/{{name}}/listSecrets")
def list_secrets(azure: Azure, request: Request) -> Json:
    """Return the key of a datastore."""
    get_datastore_of_arm(azure, request)
    return {"secretsType": "AccountKey", "key": ACCOUNT_KEY}


# Datasets


def keep_dataset(azure: Azure, dataflow: str, kind: str) -> Json:
    """Save a dataset. The same definition has the same id, so that steps are reused."""
    id = str(uuid.uuid5(uuid.NAMESPACE_URL, dataflow))
    dataset = {"id": id, "datasetType": kind, "dataflowJson": dataflow}
    return azure.datasets.setdefault(id, dataset | {"properties": {}})


def dataset_definition(dataset: Json) -> str:
    """Return the definition of a dataset, which is MLTable YAML."""
    return str(json.loads(dataset["dataflowJson"])["meta"]["RsDataflow"])


def dataset_folder(dataset: Json) -> str:
    """Return the folder of blobs that a dataset refers to."""
    definition = dataset_definition(dataset)
    path = re.search(r"/datastores/[^/]+/paths/([^\"\s]+)", definition)
    if not path:
        raise ValueError(f"The dataset is not a folder of the datastore: {definition}")
    return f"{CONTAINER}/{path[1].removesuffix('**').rstrip('/')}"


@route(f"POST {_DATASET}/saveddatasets")
def save_dataset(azure: Azure, request: Request) -> Json:
    """Save a dataset that has no name."""
    body = request.json()
    return keep_dataset(azure, body["dataflowJson"], body["datasetType"])


@route("GET ml/data/v1.0{scope}/dataversion/unregistered-{id}/versions/1")
def get_data_version(azure: Azure, request: Request) -> Json:
    """Return the definition of a dataset that has no name."""
    return {"legacyDataflow": dataset_definition(azure.datasets[request["id"]])}


@route(f"POST {_DATASET}/datasets")
def register_dataset(azure: Azure, request: Request) -> Json:
    """Register a dataset by a name, or a new version of it."""
    body = request.json()
    name = body["name"]
    may_update = request.query.get("updatedefinitionifexists", "").lower() == "true"
    registered = azure.registered_datasets.get(name)
    if registered and not may_update:
        raise Refusal(409, f"There is already a dataset named {name}.")

    latest = body["latest"]
    saved = keep_dataset(azure, latest["dataflow"], body["datasetType"])
    latest["savedDatasetId"] = saved["id"]
    if registered:
        latest["versionId"] = str(int(registered["latest"]["versionId"]) + 1)
        body["datasetId"] = registered["datasetId"]
    else:
        latest["versionId"] = "1"
        body["datasetId"] = new_id()
    azure.registered_datasets[name] = body
    return azure.registered_datasets[name]


@route(f"GET {_DATASET}/datasets/query/name={{name}}")
def get_dataset(azure: Azure, request: Request) -> Json:
    """Return a registered dataset."""
    if request["name"] not in azure.registered_datasets:
        raise Refusal(404, f"There is no dataset {request['name']}.")
    return azure.registered_datasets[request["name"]]


# Environments


@route(f"GET {_ENVIRONMENT}", f"GET {_ENVIRONMENT}/versions/{{version}}")
def get_environment(azure: Azure, request: Request) -> Json:
    """Return a version of an environment, by default the newest."""
    versions = azure.environments[request["name"]]
    version = request.values.get("version") or str(len(versions))
    for environment in versions:
        if environment["version"] == version:
            return environment
    raise Refusal(404, f"There is no environment {request['name']}.")


@route(f"PUT {_ENVIRONMENT}")
def put_environment(azure: Azure, request: Request) -> Json:
    """Register an environment as a new version, unless it equals the newest version.

    The SDK sends keys such as `Docker`, and expects `docker` in the answer.
    """
    versions = azure.environments[request["name"]]
    body = {key[0].lower() + key[1:]: value for key, value in request.json().items()}
    if versions:
        newest = versions[-1]
        if newest == body | {"version": newest["version"]}:
            return newest
    environment = body | {"version": str(len(versions) + 1)}
    versions.append(environment)
    return environment
