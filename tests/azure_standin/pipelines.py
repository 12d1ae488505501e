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
_Entity = TypeVar("_Entity")
#: The status of an entity that is active.
_ACTIVE = "0"


def create_entity(values: Json) -> Json:
    """Return a new active entity of the service."""
    return values | {
        "Id": new_id(),
        "Etag": new_id(),
        "EntityStatus": _ACTIVE,
        "CreatedDate": now(),
        "LastModifiedDate": now(),
    }


def find_entity(entities: dict[str, _Entity], request: Request) -> _Entity:
    """Return the entity whose id is in the path of a request, or refuse with 404."""
    if request["id"] not in entities:
        raise Refusal(404, f"{request.path.rpartition('/')[2]} was not found.")
    return entities[request["id"]]


# Snapshots of the steps' folders


@route("GET ml/content/v1.0{scope}/snapshots/latest/metadata")
def get_latest_snapshot(azure: Azure, request: Request) -> Json:
    """Return no snapshot, so that a client omits only files that it remembers to have sent."""
    return {"id": None, "root": {}}


@route("POST ml/content/v2.0{scope}/snapshots/getblob")
def get_snapshot_blobs(azure: Azure, request: Request) -> Json:
    """Return the address of a new blob for each file."""
    folder = f"https://{BLOB_HOST}/snapshots/{new_id()}"
    nodes = []
    for name in request.json()["FileNames"]:
        uri = f"{folder}/{name}?sig={SIGNATURE}"
        nodes.append({"fullName": name, "blobUri": uri})
    return {"fileNodes": nodes}


@route("POST ml/content/v2.0{scope}/snapshots/{id}")
def create_snapshot(azure: Azure, request: Request) -> Json:
    """Record the blob of each file: a new one, or that of the parent snapshot."""
    body = request.json()
    blobs = dict(azure.snapshots.get(body["ParentSnapshotId"], {}))
    for revision in body["FileRevisionList"]["FileNodes"]:
        blob = unquote(urlsplit(revision["BlobUri"]).path).lstrip("/")
        blobs[revision["FullName"]] = blob
    paths = list(list_files(body["DirTreeNode"]))
    missing = [path for path in paths if blobs.get(path) not in azure.blobs]
    if missing:
        raise Refusal(400, f"{missing} were not uploaded.", "UserError")
    azure.snapshots[request["id"]] = {path: blobs[path] for path in paths}
    return {"id": request["id"]}


def list_files(node: Json, folder: str = "") -> Iterator[str]:
    """Yield the paths of the files in a snapshot's tree."""
    for name, child in node["children"].items():
        if child["type"] == "File":
            yield f"{folder}{name}"
        else:
            yield from list_files(child, f"{folder}{name}/")


# Data types and modules


@route(f"GET {_BASE}/DataTypes")
def get_data_types(azure: Azure, request: Request) -> list[Json]:
    """Return the names of all data types."""
    workspace_of(azure, request["scope"])
    stores = ("Blob", "DataLake", "DataLakeGen2", "Files")
    bases = ("SqlDatabase", "PostgresDatabase", "MySqlDatabase")
    names = [f"Azure{store}Reference" for store in stores + bases]
    names += ["DBFSReference", "AzureMLDataset", "AnyFile", "AnyDirectory"]
    return [{"Id": name, "Name": name} for name in names]


@route(f"POST {_BASE}/Modules")
def create_module(azure: Azure, request: Request) -> Json:
    """Create a module, which is the definition of a step."""
    body = request.json()
    if body["StorageId"] not in azure.snapshots:
        raise Refusal(400, f"There is no snapshot {body['StorageId']}.", "UserError")
    # This state of the upload means "completed".
    module = create_entity(body | {"UploadState": "1"})
    azure.modules[module["Id"]] = module
    return module


@route(f"GET {_BASE}/Modules/Hash/{{hash}}")
def get_module_by_hash(azure: Azure, request: Request) -> Json | None:
    """Return the module with this fingerprint, which the SDK reuses, or None."""
    for module in azure.modules.values():
        if module["IdentifierHash"] == request["hash"]:
            return describe_module(module)
    return None


@route(f"GET {_BASE}/Modules/{{id}}")
def get_module(azure: Azure, request: Request) -> Json:
    """Return a module."""
    return describe_module(find_entity(azure.modules, request))


def describe_module(module: Json) -> Json:
    """Return a module, and its interface in the format that graphs use."""
    structured = module["StructuredInterface"]
    inputs = [
        {"Name": port["Name"], "DataTypesIds": port["DataTypeIdsList"]}
        for port in structured["Inputs"]
    ]
    outputs = [
        {"Name": port["Name"], "DataTypeId": port["DataTypeId"]}
        for port in structured["Outputs"]
    ]
    interface = {
        "Parameters": list_defaults(structured["Parameters"]),
        "MetadataParameters": list_defaults(structured["MetadataParameters"]),
        "Ports": {"Inputs": inputs, "Outputs": outputs},
    }
    return {"Data": module, "Interface": interface}


def list_defaults(parameters: list[Json]) -> list[Json]:
    """Return the names and default values of parameters."""
    return [
        {"Name": parameter["Name"], "DefaultValue": parameter.get("DefaultValue")}
        for parameter in parameters
    ]


# Pipeline runs. The status of a run and that of a node have different codes.

_RUN_STATUS = ("NotStarted", "Running", "Failed", "Completed", "Canceled")
_NODE_STATUS = ("NotStarted", "Queued", "Running", "Failed", "Completed", "Canceled")


def encode_status(azure: Azure, run: Run, codes: tuple[str, ...]) -> int | str:
    """Return the status of a run as a number, or as the name that the SDK has for it."""
    if azure.names_states:
        return run.status.replace("Completed", "Finished")
    return codes.index(run.status)


def save_graph(azure: Azure, body: Json) -> str:
    """Save a graph and its interface, and return the graph's id."""
    modules = {node["ModuleId"] for node in body["Graph"]["ModuleNodes"]}
    unknown = modules - azure.modules.keys()
    if unknown:
        raise Refusal(400, f"There are no modules {unknown}.", "UserError")
    id = new_id()
    azure.graphs[id] = {key: body[key] for key in ("Graph", "GraphInterface")}
    return id


def create_job(
    azure: Azure, scope: str, experiment: str, graph_id: str, submission: Json
) -> PipelineJob:
    """Create a run of a saved graph, with the parameters of the submission."""
    get_or_create_experiment(azure, experiment)
    saved = azure.graphs[graph_id]
    interface = saved["GraphInterface"]

    parameters = {
        parameter["Name"]: parameter["DefaultValue"]
        for parameter in interface["Parameters"]
    }
    assignments = submission.get("ParameterAssignments") or {}
    unknown = assignments.keys() - parameters.keys()
    if unknown:
        raise Refusal(400, f"The pipeline has no parameters {unknown}.", "UserError")

    datasets = {
        parameter["Name"]: parameter["DefaultValue"]
        for parameter in interface["DataPathParameterList"]
    }
    datasets |= submission.get("DataSetDefinitionValueAssignments") or {}
    dataset_ids = {
        name: dataset["SavedDataSetReference"]["Id"]
        for name, dataset in datasets.items()
    }

    properties = dict(submission.get("Properties") or {})
    properties["azureml.runsource"] = "azureml.PipelineRun"
    tags = submission.get("tags") or {}
    job = PipelineJob(
        azure,
        scope,
        run=azure.new_run(experiment, properties=properties, tags=tags),
        graph_id=graph_id,
        graph=saved["Graph"],
        parameters=parameters | assignments,
        datasets=dataset_ids,
    )
    azure.jobs[job.run.id] = job
    return job


def describe_job(job: PipelineJob) -> Json:
    """Return a pipeline run as the service sends it."""
    return {
        "Id": job.run.id,
        "Status": {"StatusCode": encode_status(job.azure, job.run, _RUN_STATUS)},
        "GraphId": job.graph_id,
        "RunHistoryExperimentName": job.run.experiment,
        "ParameterAssignments": job.parameters,
    }


@route(f"POST {_BASE}/PipelineRuns/Unsubmitted/CreationInfoWithGraph")
def create_pipeline_run(azure: Azure, request: Request) -> Json:
    """Create a run of a graph. The next request submits it."""
    body = request.json()
    job = create_job(
        azure,
        request["scope"],
        experiment=request.query["experimentname"],
        graph_id=save_graph(azure, body),
        submission=body["CreationInfo"],
    )
    return describe_job(job)


@route(f"POST {_BASE}/PipelineRuns/Submit/{{id}}")
def submit_pipeline_run(azure: Azure, request: Request) -> Reply:
    """Start a run."""
    find_entity(azure.jobs, request).start()
    return Reply(b"")


@route(f"GET {_BASE}/PipelineRuns/{{id}}")
def get_pipeline_run(azure: Azure, request: Request) -> Json:
    """Return a run."""
    return describe_job(find_entity(azure.jobs, request))


@route(f"DELETE {_BASE}/PipelineRuns/{{id}}/Execution")
def cancel_pipeline_run(azure: Azure, request: Request) -> Reply:
    """Cancel a run."""
    find_entity(azure.jobs, request).run.cancel.set()
    return Reply(b"")


@route(f"POST {_BASE}/PipelineRuns/{{id}}/Graph/Node/StatusCode")
def get_node_status(azure: Azure, request: Request) -> int | str:
    """Return the status of a node of a run."""
    (node_id,) = request.json()
    for run in azure.children(request["id"]):
        if run.tags["azureml.nodeid"] == node_id:
            return encode_status(azure, run, _NODE_STATUS)
    return _NODE_STATUS.index("NotStarted")


# Published pipelines, and the endpoints that have their versions


@route(f"POST {_BASE}/Pipelines/Create")
def publish_pipeline(azure: Azure, request: Request) -> Json:
    """Publish a pipeline."""
    body = request.json()
    keys = ("Name", "Description", "Version", "Properties")
    values = {key: body.get(key) for key in keys}
    pipeline = create_entity(values | {"GraphId": save_graph(azure, body)})
    azure.pipelines[pipeline["Id"]] = pipeline
    return pipeline


@route(f"GET {_BASE}/Pipelines")
def list_pipelines(azure: Azure, request: Request) -> list[Json]:
    """Return all published pipelines."""
    return list(azure.pipelines.values())


@route(f"GET {_BASE}/Pipelines/{{id}}")
def get_pipeline(azure: Azure, request: Request) -> Json:
    """Return a published pipeline."""
    return find_entity(azure.pipelines, request)


@route(f"POST {_BASE}/PipelineEndpoints/Create")
def create_endpoint(azure: Azure, request: Request) -> Json:
    """Create an endpoint, whose first version is a published pipeline."""
    body = request.json()
    names = {endpoint["Name"] for endpoint in endpoints_of_workspace(azure, request)}
    if body["Name"] in names:
        raise Refusal(409, f"There is a pipeline endpoint {body['Name']} already.")
    version = {"Version": "0", "PipelineId": body["PipelineId"]}
    versions = {"DefaultVersion": "0", "PipelineVersionList": [version]}
    endpoint = create_entity(body | versions)
    path = f"PipelineRuns/PipelineEndpointSubmit/Id/{endpoint['Id']}"
    endpoint["Url"] = f"https://{ML_HOST}/pipelines/v1.0{request['scope']}/{path}"
    azure.endpoints[endpoint["Id"]] = endpoint
    return endpoint


@route(f"GET {_BASE}/PipelineEndpoints")
def list_endpoints(azure: Azure, request: Request) -> list[Json]:
    """Return the endpoints of a workspace."""
    return endpoints_of_workspace(azure, request)


def endpoints_of_workspace(azure: Azure, request: Request) -> list[Json]:
    """Return the endpoints of a workspace. Other workspaces may use the same names."""
    scope = f"{request['scope']}/".lower()
    return [
        endpoint
        for endpoint in azure.endpoints.values()
        if scope in endpoint["Url"].lower()
    ]


@route(f"GET {_BASE}/PipelineEndpoints/Name")
def get_endpoint_by_name(azure: Azure, request: Request) -> Json:
    """Return the endpoint of a name."""
    for endpoint in endpoints_of_workspace(azure, request):
        if endpoint["Name"] == request.query["name"]:
            return endpoint
    raise Refusal(404, f"There is no pipeline endpoint {request.query['name']}.")


@route(f"GET {_BASE}/PipelineEndpoints/Id/{{id}}")
def get_endpoint(azure: Azure, request: Request) -> Json:
    """Return an endpoint."""
    return find_entity(azure.endpoints, request)


@route(f"PUT {_BASE}/PipelineEndpoints/{{id}}")
def put_endpoint(azure: Azure, request: Request) -> Json:
    """Change an endpoint."""
    endpoint = find_entity(azure.endpoints, request)
    endpoint.update(request.json())
    return endpoint


@route(f"GET {_BASE}/PipelineEndpoints/{{id}}/pipelines")
def list_pipelines_of_endpoint(azure: Azure, request: Request) -> list[Json]:
    """Return the published pipelines that are versions of an endpoint."""
    versions = find_entity(azure.endpoints, request)["PipelineVersionList"]
    return [azure.pipelines[version["PipelineId"]] for version in versions]


@route(f"POST {_BASE}/PipelineRuns/PipelineEndpointSubmit/Id/{{id}}")
def submit_endpoint(azure: Azure, request: Request) -> Json:
    """Start a version of an endpoint: the requested one, or the default."""
    endpoint = find_entity(azure.endpoints, request)
    submission = request.json()
    number = request.query.get("pipelineversion") or endpoint["DefaultVersion"]
    pipeline_ids = {
        version["Version"]: version["PipelineId"]
        for version in endpoint["PipelineVersionList"]
    }
    if number not in pipeline_ids:
        raise Refusal(404, f"The endpoint has no version {number}.")
    pipeline_id = pipeline_ids[number]
    job = create_job(
        azure,
        request["scope"],
        experiment=submission["ExperimentName"],
        graph_id=azure.pipelines[pipeline_id]["GraphId"],
        submission=submission,
    )
    job.run.properties["azureml.pipelineid"] = pipeline_id
    job.start()
    return describe_job(job)


# Schedules, which start a run only if a test calls `fire_schedule`


@route(f"POST {_BASE}/Schedules/Create")
def create_schedule(azure: Azure, request: Request) -> Json:
    """Create a schedule."""
    # This provisioning status means "completed".
    schedule = create_entity(request.json() | {"ProvisioningStatus": "0"})
    azure.schedules[schedule["Id"]] = schedule
    return schedule


@route(f"GET {_BASE}/Schedules")
def list_schedules(azure: Azure, request: Request) -> list[Json]:
    """Return all schedules."""
    return list(azure.schedules.values())


@route(f"GET {_BASE}/Schedules/Pipeline/{{pipeline}}")
def list_schedules_of_pipeline(azure: Azure, request: Request) -> list[Json]:
    """Return the schedules of a published pipeline."""
    return [
        schedule
        for schedule in azure.schedules.values()
        if schedule.get("PipelineId") == request["pipeline"]
    ]


@route(f"GET {_BASE}/Schedules/PipelineEndpoint/{{endpoint}}")
def list_schedules_of_endpoint(azure: Azure, request: Request) -> list[Json]:
    """Return the schedules of an endpoint."""
    return [
        schedule
        for schedule in azure.schedules.values()
        if schedule.get("PipelineEndpointId") == request["endpoint"]
    ]


@route(f"GET {_BASE}/PipelineRuns/Schedule/{{id}}/Last")
def get_last_run_of_schedule(azure: Azure, request: Request) -> Json | Reply:
    """Return the newest run of a schedule, or 204 if it has none."""
    schedule = find_entity(azure.schedules, request)
    run_ids = azure.runs_of_schedules.get(schedule["Id"])
    if not run_ids:
        return Reply(b"", 204)
    return describe_job(azure.jobs[run_ids[-1]])


def fire_schedule(azure: Azure, scope: str, schedule: Json) -> Run:
    """Start the run that a schedule would start when it is due."""
    endpoint = azure.endpoints[schedule["PipelineEndpointId"]]
    version = endpoint["PipelineVersionList"][int(endpoint["DefaultVersion"])]
    pipeline_id = version["PipelineId"]
    job = create_job(
        azure,
        scope,
        experiment=schedule["PipelineSubmissionInfo"]["ExperimentName"],
        graph_id=azure.pipelines[pipeline_id]["GraphId"],
        submission={},
    )
    job.run.properties["azureml.pipelineid"] = pipeline_id
    azure.runs_of_schedules[schedule["Id"]].append(job.run.id)
    job.start()
    return job.run


@route(f"GET {_BASE}/Schedules/{{id}}")
def get_schedule(azure: Azure, request: Request) -> Json:
    """Return a schedule."""
    return find_entity(azure.schedules, request)


@route(f"PUT {_BASE}/Schedules/{{id}}")
def put_schedule(azure: Azure, request: Request) -> Json:
    """Change a schedule."""
    schedule = find_entity(azure.schedules, request)
    schedule.update(request.json())
    return schedule
