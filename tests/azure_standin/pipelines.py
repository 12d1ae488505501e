"""The pipelines service: snapshots, modules, runs, published pipelines and schedules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from .execution import PipelineJob
from .history import get_or_create_experiment
from .resources import workspace_of
from .state import Azure, Json, Run, new_id
from .wire import BLOB_HOST, ML_HOST, SIGNATURE, Refusal, Reply, Request, now, route

_BASE = "ml/pipelines/v1.0{scope}"
_T = TypeVar("_T")


def entity(values: Json) -> Json:
    """A new entity of the service; its status 0 says that it is active."""
    dates = {"CreatedDate": now(), "LastModifiedDate": now()}
    return values | dates | {"Id": new_id(), "Etag": new_id(), "EntityStatus": "0"}


def find(entities: dict[str, _T], request: Request) -> _T:
    if request["id"] not in entities:
        raise Refusal(404, f"{request.path.rpartition('/')[2]} was not found.")
    return entities[request["id"]]


# Snapshots: the folders of the steps


@route("GET ml/content/v1.0{scope}/snapshots/latest/metadata")
def get_latest_snapshot(azure: Azure, request: Request) -> Json:
    """None to compare with: a client leaves out only what it remembers to have sent."""
    return {"id": None, "root": {}}


@route("POST ml/content/v2.0{scope}/snapshots/getblob")
def get_snapshot_blobs(azure: Azure, request: Request) -> Json:
    """A place to write to for each file."""
    folder = f"https://{BLOB_HOST}/snapshots/{new_id()}"
    places = {
        name: f"{folder}/{name}?sig={SIGNATURE}" for name in request.json()["FileNames"]
    }
    nodes = [{"fullName": name, "blobUri": uri} for name, uri in places.items()]
    return {"fileNodes": nodes}


@route("POST ml/content/v2.0{scope}/snapshots/{id}")
def create_snapshot(azure: Azure, request: Request) -> Json:
    """Keep which blob each file is in: one just written, else the parent's."""
    body = request.json()
    known = dict(azure.snapshots.get(body["ParentSnapshotId"], {}))
    for revision in body["FileRevisionList"]["FileNodes"]:
        blob = unquote(urlsplit(revision["BlobUri"]).path).lstrip("/")
        known[revision["FullName"]] = blob
    paths = list(files_of(body["DirTreeNode"]))
    missing = [path for path in paths if known.get(path) not in azure.blobs]
    if missing:
        raise Refusal(400, f"{missing} were not uploaded.", "UserError")
    azure.snapshots[request["id"]] = {path: known[path] for path in paths}
    return {"id": request["id"]}


def files_of(node: Json, folder: str = "") -> Iterator[str]:
    """The paths of the files in a snapshot's tree."""
    for name, child in node["children"].items():
        if child["type"] == "File":
            yield f"{folder}{name}"
        else:
            yield from files_of(child, f"{folder}{name}/")


# Data types and modules


@route(f"GET {_BASE}/DataTypes")
def get_data_types(azure: Azure, request: Request) -> list[Json]:
    workspace_of(azure, request["scope"])
    stores = ("Blob", "DataLake", "DataLakeGen2", "Files")
    bases = ("SqlDatabase", "PostgresDatabase", "MySqlDatabase")
    names = [f"Azure{store}Reference" for store in stores + bases]
    names += ["DBFSReference", "AzureMLDataset", "AnyFile", "AnyDirectory"]
    return [{"Id": name, "Name": name} for name in names]


@route(f"POST {_BASE}/Modules")
def create_module(azure: Azure, request: Request) -> Json:
    body = request.json()
    if body["StorageId"] not in azure.snapshots:
        raise Refusal(400, f"There is no snapshot {body['StorageId']}.", "UserError")
    # The upload state says "completed".
    module = entity(body | {"UploadState": "1"})
    azure.modules[module["Id"]] = module
    return module


@route(f"GET {_BASE}/Modules/Hash/{{hash}}")
def get_module_by_hash(azure: Azure, request: Request) -> Json | None:
    """The module of a fingerprint, which the SDK then uses again; None if it is new."""
    for module in azure.modules.values():
        if module["IdentifierHash"] == request["hash"]:
            return with_interface(module)
    return None


@route(f"GET {_BASE}/Modules/{{id}}")
def get_module(azure: Azure, request: Request) -> Json:
    return with_interface(find(azure.modules, request))


def with_interface(module: Json) -> Json:
    """A module with its interface also in the words that a graph has for it."""
    structured = module["StructuredInterface"]
    parameters, metadata = (
        [
            {"Name": one["Name"], "DefaultValue": one.get("DefaultValue")}
            for one in structured[kind]
        ]
        for kind in ("Parameters", "MetadataParameters")
    )
    ports = {
        "Inputs": [
            {"Name": port["Name"], "DataTypesIds": port["DataTypeIdsList"]}
            for port in structured["Inputs"]
        ],
        "Outputs": [
            {"Name": port["Name"], "DataTypeId": port["DataTypeId"]}
            for port in structured["Outputs"]
        ],
    }
    interface = {"Parameters": parameters, "MetadataParameters": metadata}
    return {"Data": module, "Interface": interface | {"Ports": ports}}


# Pipeline runs. The codes of a run's status and of a node's are not the same.

_RUN_STATUS = ("NotStarted", "Running", "Failed", "Completed", "Canceled")
_NODE_STATUS = ("NotStarted", "Queued", "Running", "Failed", "Completed", "Canceled")


def status_code(azure: Azure, run: Run, codes: tuple[str, ...]) -> int | str:
    """A number, or the name that the SDK's model has for it: not run history's."""
    if azure.names_states:
        return run.status.replace("Completed", "Finished")
    return codes.index(run.status)


def save_graph(azure: Azure, body: Json) -> str:
    """Keep a graph and its interface; gives the graph's id."""
    unknown = {node["ModuleId"] for node in body["Graph"]["ModuleNodes"]}
    unknown -= azure.modules.keys()
    if unknown:
        raise Refusal(400, f"There are no modules {unknown}.", "UserError")
    id = new_id()
    azure.graphs[id] = {name: body[name] for name in ("Graph", "GraphInterface")}
    return id


def new_job(
    azure: Azure, scope: str, experiment: str, graph_id: str, info: Json
) -> PipelineJob:
    """A run of a saved graph, not yet started; `info` is what submission says of it."""
    get_or_create_experiment(azure, experiment)
    saved = azure.graphs[graph_id]
    interface, given = saved["GraphInterface"], info.get("ParameterAssignments") or {}
    parameters = {one["Name"]: one["DefaultValue"] for one in interface["Parameters"]}
    if unknown := given.keys() - parameters.keys():
        raise Refusal(400, f"The pipeline has no parameters {unknown}.", "UserError")
    datasets = {
        one["Name"]: one["DefaultValue"] for one in interface["DataPathParameterList"]
    }
    datasets |= info.get("DataSetDefinitionValueAssignments") or {}
    ids = {name: one["SavedDataSetReference"]["Id"] for name, one in datasets.items()}
    properties = (info.get("Properties") or {}) | {
        "azureml.runsource": "azureml.PipelineRun"
    }
    tags = info.get("tags") or {}
    run = azure.new_run(experiment, properties=properties, tags=tags)
    job = PipelineJob(
        azure, scope, run, graph_id, saved["Graph"], parameters | given, ids
    )
    azure.jobs[run.id] = job
    return job


def job_dto(job: PipelineJob) -> Json:
    return {
        "Id": job.run.id,
        "Status": {"StatusCode": status_code(job.azure, job.run, _RUN_STATUS)},
        "GraphId": job.graph_id,
        "RunHistoryExperimentName": job.run.experiment,
        "ParameterAssignments": job.parameters,
    }


@route(f"POST {_BASE}/PipelineRuns/Unsubmitted/CreationInfoWithGraph")
def create_pipeline_run(azure: Azure, request: Request) -> Json:
    body, experiment = request.json(), request.query["experimentname"]
    graph_id = save_graph(azure, body)
    job = new_job(azure, request["scope"], experiment, graph_id, body["CreationInfo"])
    return job_dto(job)


@route(f"POST {_BASE}/PipelineRuns/Submit/{{id}}")
def submit_pipeline_run(azure: Azure, request: Request) -> Reply:
    find(azure.jobs, request).start()
    return Reply(b"")


@route(f"GET {_BASE}/PipelineRuns/{{id}}")
def get_pipeline_run(azure: Azure, request: Request) -> Json:
    return job_dto(find(azure.jobs, request))


@route(f"DELETE {_BASE}/PipelineRuns/{{id}}/Execution")
def cancel_pipeline_run(azure: Azure, request: Request) -> Reply:
    find(azure.jobs, request).run.cancel.set()
    return Reply(b"")


@route(f"POST {_BASE}/PipelineRuns/{{id}}/Graph/Node/StatusCode")
def get_node_status(azure: Azure, request: Request) -> int | str:
    (node,) = request.json()
    for run in azure.children(request["id"]):
        if run.tags["azureml.nodeid"] == node:
            return status_code(azure, run, _NODE_STATUS)
    return 0


# Published pipelines and the endpoints that hold their versions


@route(f"POST {_BASE}/Pipelines/Create")
def publish_pipeline(azure: Azure, request: Request) -> Json:
    body = request.json()
    names = ("Name", "Description", "Version", "Properties")
    values = {name: body.get(name) for name in names}
    pipeline = entity(values | {"GraphId": save_graph(azure, body)})
    azure.pipelines[pipeline["Id"]] = pipeline
    return pipeline


@route(f"GET {_BASE}/Pipelines")
def list_pipelines(azure: Azure, request: Request) -> list[Json]:
    return list(azure.pipelines.values())


@route(f"GET {_BASE}/Pipelines/{{id}}")
def get_pipeline(azure: Azure, request: Request) -> Json:
    return find(azure.pipelines, request)


@route(f"POST {_BASE}/PipelineEndpoints/Create")
def create_endpoint(azure: Azure, request: Request) -> Json:
    body = request.json()
    if any(one["Name"] == body["Name"] for one in endpoints_of(azure, request)):
        raise Refusal(409, f"There is a pipeline endpoint {body['Name']} already.")
    first = {"Version": "0", "PipelineId": body["PipelineId"]}
    endpoint = entity(body | {"DefaultVersion": "0", "PipelineVersionList": [first]})
    path = f"PipelineRuns/PipelineEndpointSubmit/Id/{endpoint['Id']}"
    endpoint["Url"] = f"https://{ML_HOST}/pipelines/v1.0{request['scope']}/{path}"
    azure.endpoints[endpoint["Id"]] = endpoint
    return endpoint


def endpoints_of(azure: Azure, request: Request) -> list[Json]:
    """Those of the workspace, whose names another one may have too."""
    base = f"{request['scope']}/".lower()
    return [one for one in azure.endpoints.values() if base in one["Url"].lower()]


@route(f"GET {_BASE}/PipelineEndpoints")
def list_endpoints(azure: Azure, request: Request) -> list[Json]:
    return endpoints_of(azure, request)


@route(f"GET {_BASE}/PipelineEndpoints/Name")
def get_endpoint_by_name(azure: Azure, request: Request) -> Json:
    for endpoint in endpoints_of(azure, request):
        if endpoint["Name"] == request.query["name"]:
            return endpoint
    raise Refusal(404, f"There is no pipeline endpoint {request.query['name']}.")


@route(f"GET {_BASE}/PipelineEndpoints/Id/{{id}}")
def get_endpoint(azure: Azure, request: Request) -> Json:
    return find(azure.endpoints, request)


@route(f"PUT {_BASE}/PipelineEndpoints/{{id}}")
def put_endpoint(azure: Azure, request: Request) -> Json:
    endpoint = find(azure.endpoints, request)
    endpoint.update(request.json())
    return endpoint


@route(f"GET {_BASE}/PipelineEndpoints/{{id}}/pipelines")
def list_pipelines_of_endpoint(azure: Azure, request: Request) -> list[Json]:
    versions = find(azure.endpoints, request)["PipelineVersionList"]
    return [azure.pipelines[version["PipelineId"]] for version in versions]


@route(f"POST {_BASE}/PipelineRuns/PipelineEndpointSubmit/Id/{{id}}")
def submit_endpoint(azure: Azure, request: Request) -> Json:
    """Start the pipeline of the version that is asked for, else of the default."""
    endpoint, info = find(azure.endpoints, request), request.json()
    wanted = request.query.get("pipelineversion") or endpoint["DefaultVersion"]
    versions = endpoint["PipelineVersionList"]
    ids = {version["Version"]: version["PipelineId"] for version in versions}
    if wanted not in ids:
        raise Refusal(404, f"The endpoint has no version {wanted}.")
    graph_id = azure.pipelines[ids[wanted]]["GraphId"]
    job = new_job(azure, request["scope"], info["ExperimentName"], graph_id, info)
    job.run.properties["azureml.pipelineid"] = ids[wanted]
    job.start()
    return job_dto(job)


# Schedules, which are kept and never come due


@route(f"POST {_BASE}/Schedules/Create")
def create_schedule(azure: Azure, request: Request) -> Json:
    # The provisioning status says "completed".
    schedule = entity(request.json() | {"ProvisioningStatus": "0"})
    azure.schedules[schedule["Id"]] = schedule
    return schedule


@route(f"GET {_BASE}/Schedules")
def list_schedules(azure: Azure, request: Request) -> list[Json]:
    return list(azure.schedules.values())


@route(
    f"GET {_BASE}/Schedules/Pipeline/{{pipeline}}",
    f"GET {_BASE}/Schedules/PipelineEndpoint/{{endpoint}}",
)
def list_schedules_of(azure: Azure, request: Request) -> list[Json]:
    fields = {"pipeline": "PipelineId", "endpoint": "PipelineEndpointId"}
    kind = "pipeline" if "pipeline" in request.values else "endpoint"
    schedules = azure.schedules.values()
    return [one for one in schedules if one.get(fields[kind]) == request[kind]]


@route(f"GET {_BASE}/PipelineRuns/Schedule/{{id}}/Last")
def get_last_run_of_schedule(azure: Azure, request: Request) -> Json | Reply:
    schedule = find(azure.schedules, request)
    run_ids = azure.runs_of_schedules.get(schedule["Id"])
    if not run_ids:
        return Reply(b"", 204)
    return job_dto(azure.jobs[run_ids[-1]])


def fire_schedule(azure: Azure, scope: str, schedule: Json) -> Run:
    """Start the run that a schedule would start when it is due."""
    endpoint = azure.endpoints[schedule["PipelineEndpointId"]]
    version = endpoint["PipelineVersionList"][int(endpoint["DefaultVersion"])]
    graph_id = azure.pipelines[version["PipelineId"]]["GraphId"]
    experiment = schedule["PipelineSubmissionInfo"]["ExperimentName"]
    job = new_job(azure, scope, experiment, graph_id, {})
    job.run.properties["azureml.pipelineid"] = version["PipelineId"]
    azure.runs_of_schedules[schedule["Id"]].append(job.run.id)
    job.start()
    return job.run


@route(f"GET {_BASE}/Schedules/{{id}}")
def get_schedule(azure: Azure, request: Request) -> Json:
    return find(azure.schedules, request)


@route(f"PUT {_BASE}/Schedules/{{id}}")
def put_schedule(azure: Azure, request: Request) -> Json:
    schedule = find(azure.schedules, request)
    schedule.update(request.json())
    return schedule
