"""Run history: experiments, runs, and the artifacts and logs of runs."""

from __future__ import annotations

import re
from urllib.parse import quote

from .resources import workspace_of
from .state import Azure, Json, Run, new_id
from .wire import BLOB_HOST, REGION, SIGNATURE, Refusal, Request, error_of, now, route

_HISTORY = "ml/history/v1.0{scope}"
# Clients use the experiment's name until they know its id.
_RUN = f"{_HISTORY}/experiment(id)?s/{{experiment}}/runs/{{run}}"
_ARTIFACTS = "ml/artifact/v2.0{scope}/artifacts"


def page(values: list[Json]) -> Json:
    """Return values as the only page of a list."""
    return {"value": values, "continuationToken": None, "nextLink": None}


# Experiments and runs


def get_or_create_experiment(azure: Azure, name: str) -> Json:
    """Return the experiment of a name."""
    experiment = {"name": name, "experimentId": new_id(), "createdUtc": now()}
    return azure.experiments.setdefault(name, experiment)


@route(f"GET {_HISTORY}/experiments/{{name}}")
def get_experiment(azure: Azure, request: Request) -> Json:
    """Return an experiment by its name."""
    workspace_of(azure, request["scope"])
    if request["name"] not in azure.experiments:
        raise Refusal(404, f"Experiment {request['name']} was not found.")
    return azure.experiments[request["name"]]


@route(f"GET {_HISTORY}/experimentids/{{id}}")
def get_experiment_by_id(azure: Azure, request: Request) -> Json:
    """Return an experiment by its id."""
    for experiment in azure.experiments.values():
        if experiment["experimentId"] == request["id"]:
            return experiment
    raise Refusal(404, f"Experiment {request['id']} was not found.")


@route(f"POST {_HISTORY}/experiments/{{name}}")
def post_experiment(azure: Azure, request: Request) -> Json:
    return get_or_create_experiment(azure, request["name"])


@route(f"POST {_HISTORY}/experiments:query")
def query_experiments(azure: Azure, request: Request) -> Json:
    """Return the experiments. A filter can only be the name of one."""
    filter_text = request.json().get("filter") or ""
    name = re.search("name eq '?([^')]+)", filter_text, re.IGNORECASE)
    experiments = list(azure.experiments.values())
    if name:
        experiments = [each for each in experiments if each["name"] == name[1]]
    return page(experiments)


@route(f"POST {_HISTORY}/experiment(id)?s/{{experiment}}/runs:query")
def query_runs(azure: Azure, request: Request) -> Json:
    """Return the pipeline runs of an experiment with a tag or a property, newest first."""
    experiment_id = request["experiment"]
    if experiment_id in azure.experiments:
        # The request has the name of the experiment.
        experiment_id = azure.experiments[experiment_id]["experimentId"]
    conditions = re.findall(
        r'(Tags|Properties)/(azureml.pipelineid|pipeline) eq "([^"]+)"',
        request.json()["filter"],
    )
    matching_runs = []
    for run in reversed(azure.runs.values()):
        values = {"Tags": run.tags, "Properties": run.properties}
        matches = all(
            values[kind].get(name) == value for kind, name, value in conditions
        )
        if run.type == "azureml.PipelineRun" and not run.parent and matches:
            matching_runs.append(run_dto(azure, run))
    return page([run for run in matching_runs if run["experimentId"] == experiment_id])


#: Properties of a run that the stand-in leaves empty.
_EMPTY_PROPERTIES = (
    *("userId", "token", "warnings", "cancelationReason", "scheduleId", "description"),
    *("scriptName", "target", "runDefinition", "jobSpecification", "primaryMetricName"),
    *("createdFrom", "computeRequest", "compute", "retainForLifetimeOfWorkspace"),
    *("queueingInfo", "inputs", "outputs", "runTypeV2"),
)


def run_dto(azure: Azure, run: Run) -> Json:
    """Return a run as run history sends it."""
    name = None if run.type == "azureml.PipelineRun" else run.name
    return dict.fromkeys(_EMPTY_PROPERTIES) | {
        "parameters": {},
        "settings": {},
        "services": {},
        "inputDatasets": [],
        "outputDatasets": [],
        "uniqueChildRunComputeTargets": [],
        "revision": 1,
        "statusRevision": 1,
        "currentAttemptId": 1,
        "hidden": False,
        "runId": run.id,
        "runNumber": run.number,
        "rootRunId": run.parent or run.id,
        "parentRunId": run.parent,
        "experimentId": azure.experiments[run.experiment]["experimentId"],
        "status": run.status,
        "createdUtc": run.created,
        "startTimeUtc": run.started,
        "endTimeUtc": run.ended,
        "name": run.properties.get("azureml.moduleName", name),
        "displayName": run.name,
        "dataContainerId": f"dcid.{run.data_of or run.id}",
        "runType": run.type,
        "properties": run.properties,
        "tags": run.tags,
        "error": error_dto(run),
    }


def error_dto(run: Run) -> Json | None:
    """Return the error of a run, or None if it has not failed."""
    if run.error is None:
        return None
    return error_of("UserError", run.error)


def find_run(azure: Azure, request: Request) -> Run:
    """Return the run that a request names. Raises Refusal."""
    if request["run"] not in azure.runs:
        raise Refusal(404, f"Run {request['run']} was not found.")
    return azure.runs[request["run"]]


@route(f"GET {_RUN}", f"GET {_HISTORY}/runs/{{run}}")
def get_run(azure: Azure, request: Request) -> Json:
    return run_dto(azure, find_run(azure, request))


@route(f"POST {_HISTORY}/rundata")
def get_run_data(azure: Azure, request: Request) -> Json:
    """Return a run with its outputs, each of which has the name of a data asset."""
    run_id = request.json()["runId"]
    run = azure.runs.get(run_id)
    if run is None:
        raise Refusal(404, f"Run {run_id} was not found.")

    workspace_id = workspace_of(azure, request["scope"])["properties"]["workspaceId"]
    data = f"azureml://locations/{REGION}/workspaces/{workspace_id}/data"
    outputs = {
        name: {
            "assetId": f"{data}/azureml_{run.id}_output_data_{name}/versions/1",
            "type": "UriFolder",
        }
        for name in ("default", *run.outputs)
    }
    return {
        "runMetadata": run_dto(azure, run) | {"inputs": {}, "outputs": outputs},
        "runDefinition": None,
        "jobSpecification": None,
        "systemSettings": None,
    }


@route(f"PATCH {_RUN}")
def patch_run(azure: Azure, request: Request) -> Json:
    """Add tags and properties to a run."""
    run = find_run(azure, request)
    body = request.json()
    run.tags |= body.get("tags") or {}
    run.properties |= body.get("properties") or {}
    return run_dto(azure, run)


@route(f"GET {_RUN}/details", f"GET {_HISTORY}/runs/{{run}}/details")
def get_run_details(azure: Azure, request: Request) -> Json:
    """Return a run with the addresses of its logs."""
    run = find_run(azure, request)
    logs = [
        path for path in azure.artifacts(run) if path.startswith(("logs/", "user_"))
    ]
    properties = (
        *("runId", "runNumber", "rootRunId", "parentRunId", "status"),
        *("startTimeUtc", "endTimeUtc", "properties", "tags", "error"),
    )
    whole_run = run_dto(azure, run)
    return {name: whole_run[name] for name in properties} | {
        "logFiles": {path: content_uri(run.container, path) for path in logs},
        "inputDatasets": [],
        "outputDatasets": [],
    }


@route(f"GET {_RUN}/children", f"GET {_HISTORY}/runs/{{run}}/children")
def get_children(azure: Azure, request: Request) -> Json:
    return page([run_dto(azure, run) for run in azure.children(request["run"])])


# Artifacts are the blobs `azureml/ORIGIN/CONTAINER/PATH`. Each run has a container. The
# functions below take ORIGIN/CONTAINER as `container_path`.


def content_uri(container_path: str, path: str) -> str:
    """Return the signed address at which an artifact is read and written."""
    artifact = f"{container_path}/{quote(path)}"
    return f"https://{BLOB_HOST}/azureml/{artifact}?sig={SIGNATURE}"


def artifact_dto(container_path: str, path: str) -> Json:
    """Return an artifact as the service lists it, without its address."""
    origin, _, container = container_path.partition("/")
    return {
        "origin": origin,
        "container": container,
        "path": path,
        "artifactId": f"{container_path}/{path}",
    }


def content_dto(container_path: str, path: str) -> Json:
    """Return an artifact with its address, and without its id."""
    origin, _, container = container_path.partition("/")
    return {
        "origin": origin,
        "container": container,
        "path": path,
        "contentUri": content_uri(container_path, path),
    }


@route(
    f"GET {_RUN}/artifacts",
    f"GET {_ARTIFACTS}/ExperimentRun/dcid.{{run}}",
)
def list_artifacts(azure: Azure, request: Request) -> Json:
    run = find_run(azure, request)
    return page([artifact_dto(run.container, path) for path in azure.artifacts(run)])


@route(
    f"GET {_ARTIFACTS}/prefix/contentinfo/ExperimentRun/dcid.{{run}}/{{prefix:rest}}"
)
def list_contents(azure: Azure, request: Request) -> Json:
    """Return the artifacts of a run whose paths begin with a prefix."""
    run = find_run(azure, request)
    prefix = request["prefix"]
    paths = [path for path in azure.artifacts(run) if path.startswith(prefix)]
    return page([content_dto(run.container, path) for path in paths])


@route(
    f"GET {_RUN}/artifacts/contentinfo",
    f"GET {_ARTIFACTS}/contentinfo/ExperimentRun/dcid.{{run}}/{{path:rest}}",
)
def get_artifact(azure: Azure, request: Request) -> Json:
    """Return the address of an artifact, whose path is in the request's path or query."""
    run = find_run(azure, request)
    path = request.values.get("path") or request.query["path"]
    if path not in azure.artifacts(run):
        raise Refusal(404, f"Artifact {path} was not found.")
    return content_dto(run.container, path)


@route(f"POST {_RUN}/artifacts/batch/metadata")
def create_artifacts(azure: Azure, request: Request) -> Json:
    """Return an address to write to for each artifact."""
    container = find_run(azure, request).container
    paths = [artifact["path"] for artifact in request.json()["paths"]]
    return {
        "artifacts": {path: artifact_dto(container, path) for path in paths},
        "artifactContentInformation": {
            path: content_dto(container, path) for path in paths
        },
        "errors": {},
    }
