"""Run history: experiments, runs, and the artifacts and logs of runs."""

from __future__ import annotations

import re
from urllib.parse import quote

from .resources import workspace_of
from .state import Azure, Json, Run, new_id
from .wire import BLOB_HOST, REGION, SIGNATURE, Refusal, Request, error_of, now, route

_HISTORY = "ml/history/v1.0{scope}"
# Clients name the experiment as long as they do not know its id.
_RUN = f"{_HISTORY}/experiment(id)?s/{{experiment}}/runs/{{run}}"
_ARTIFACTS = "ml/artifact/v2.0{scope}/artifacts"


def page(values: list[Json]) -> Json:
    return {"value": values, "continuationToken": None, "nextLink": None}


# Experiments and runs


def get_or_create_experiment(azure: Azure, name: str) -> Json:
    experiment = {"name": name, "experimentId": new_id(), "createdUtc": now()}
    return azure.experiments.setdefault(name, experiment)


@route(f"GET {_HISTORY}/experiments/{{name}}")
def get_experiment(azure: Azure, request: Request) -> Json:
    workspace_of(azure, request["scope"])
    if request["name"] not in azure.experiments:
        raise Refusal(404, f"Experiment {request['name']} was not found.")
    return azure.experiments[request["name"]]


@route(f"GET {_HISTORY}/experimentids/{{id}}")
def get_experiment_by_id(azure: Azure, request: Request) -> Json:
    known = azure.experiments.values()
    return next(one for one in known if one["experimentId"] == request["id"])


@route(f"POST {_HISTORY}/experiments/{{name}}")
def post_experiment(azure: Azure, request: Request) -> Json:
    return get_or_create_experiment(azure, request["name"])


@route(f"POST {_HISTORY}/experiments:query")
def query_experiments(azure: Azure, request: Request) -> Json:
    """The experiments; a filter can only name one."""
    name = re.search(
        "name eq '?([^')]+)", request.json().get("filter") or "", re.IGNORECASE
    )
    known = list(azure.experiments.values())
    return page([one for one in known if name is None or one["name"] == name[1]])


@route(f"POST {_HISTORY}/experiment(id)?s/{{experiment}}/runs:query")
def query_runs(azure: Azure, request: Request) -> Json:
    """The pipeline runs of an experiment with a tag or a property, the newest first."""
    named = azure.experiments.get(request["experiment"])
    experiment = named["experimentId"] if named else request["experiment"]
    filter = request.json()["filter"]
    wanted = re.findall(
        r'(Tags|Properties)/(azureml.pipelineid|pipeline) eq "([^"]+)"', filter
    )
    runs = []
    for run in reversed(azure.runs.values()):
        values = {"Tags": run.tags, "Properties": run.properties}
        is_wanted = all(values[kind].get(name) == value for kind, name, value in wanted)
        if run.type == "azureml.PipelineRun" and not run.parent and is_wanted:
            runs.append(run_dto(azure, run))
    return page([run for run in runs if run["experimentId"] == experiment])


#: What run history has of a run beside, none of which is known here.
_UNSAID = (
    *("userId", "token", "warnings", "cancelationReason", "scheduleId", "description"),
    *("scriptName", "target", "runDefinition", "jobSpecification", "primaryMetricName"),
    *("createdFrom", "computeRequest", "compute", "retainForLifetimeOfWorkspace"),
    *("queueingInfo", "inputs", "outputs", "runTypeV2"),
)


def run_dto(azure: Azure, run: Run) -> Json:
    """A run as run history gives it."""
    unnamed = None if run.type == "azureml.PipelineRun" else run.name
    lists = ("inputDatasets", "outputDatasets", "uniqueChildRunComputeTargets")
    return dict.fromkeys(_UNSAID) | {
        **{key: {} for key in ("parameters", "settings", "services")},
        **{key: [] for key in lists},
        **dict.fromkeys(("revision", "statusRevision", "currentAttemptId"), 1),
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
        "name": run.properties.get("azureml.moduleName", unnamed),
        "displayName": run.name,
        "dataContainerId": f"dcid.{run.data_of or run.id}",
        "runType": run.type,
        "properties": run.properties,
        "tags": run.tags,
        "error": error_dto(run),
    }


def error_dto(run: Run) -> Json | None:
    if run.error is None:
        return None
    return error_of("UserError", run.error)


def find_run(azure: Azure, request: Request) -> Run:
    if request["run"] not in azure.runs:
        raise Refusal(404, f"Run {request['run']} was not found.")
    return azure.runs[request["run"]]


@route(f"GET {_RUN}", f"GET {_HISTORY}/runs/{{run}}")
def get_run(azure: Azure, request: Request) -> Json:
    return run_dto(azure, find_run(azure, request))


@route(f"POST {_HISTORY}/rundata")
def get_run_data(azure: Azure, request: Request) -> Json:
    """A run with its outputs, each of which has the name of a data asset."""
    run = azure.runs.get(request.json()["runId"])
    if run is None:
        raise Refusal(404, f"Run {request.json()['runId']} was not found.")
    workspace = workspace_of(azure, request["scope"])["properties"]["workspaceId"]
    place = f"azureml://locations/{REGION}/workspaces/{workspace}/data"
    outputs = {
        name: {
            "assetId": f"{place}/azureml_{run.id}_output_data_{name}/versions/1",
            "type": "UriFolder",
        }
        for name in ("default", *run.outputs)
    }
    known = run_dto(azure, run) | {"inputs": {}, "outputs": outputs}
    unset = dict.fromkeys(("runDefinition", "jobSpecification", "systemSettings"))
    return {"runMetadata": known} | unset


@route(f"PATCH {_RUN}")
def patch_run(azure: Azure, request: Request) -> Json:
    run, body = find_run(azure, request), request.json()
    run.tags |= body.get("tags") or {}
    run.properties |= body.get("properties") or {}
    return run_dto(azure, run)


@route(f"GET {_RUN}/details", f"GET {_HISTORY}/runs/{{run}}/details")
def get_run_details(azure: Azure, request: Request) -> Json:
    run = find_run(azure, request)
    logs = [
        path for path in azure.artifacts(run) if path.startswith(("logs/", "user_"))
    ]
    told = (
        *("runId", "runNumber", "rootRunId", "parentRunId", "status"),
        *("startTimeUtc", "endTimeUtc", "properties", "tags", "error"),
    )
    known = run_dto(azure, run)
    return {key: known[key] for key in told} | {
        "logFiles": {path: content_uri(run.container, path) for path in logs},
        "inputDatasets": [],
        "outputDatasets": [],
    }


@route(f"GET {_RUN}/children", f"GET {_HISTORY}/runs/{{run}}/children")
def get_children(azure: Azure, request: Request) -> Json:
    return page([run_dto(azure, run) for run in azure.children(request["run"])])


# Artifacts: blobs `azureml/ORIGIN/CONTAINER/PATH`, where a run is a container


def content_uri(place: str, path: str) -> str:
    """Where an artifact is read and written, signed as the service does it."""
    return f"https://{BLOB_HOST}/azureml/{place}/{quote(path)}?sig={SIGNATURE}"


def artifact_dto(place: str, path: str) -> Json:
    origin, _, container = place.partition("/")
    names = {"origin": origin, "container": container, "path": path}
    return names | {"artifactId": f"{place}/{path}"}


def content_dto(place: str, path: str) -> Json:
    """Where an artifact is, which is not said where artifacts are listed."""
    names = artifact_dto(place, path)
    del names["artifactId"]
    return names | {"contentUri": content_uri(place, path)}


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
    run, prefix = find_run(azure, request), request["prefix"]
    paths = [path for path in azure.artifacts(run) if path.startswith(prefix)]
    return page([content_dto(run.container, path) for path in paths])


@route(
    f"GET {_RUN}/artifacts/contentinfo",
    f"GET {_ARTIFACTS}/contentinfo/ExperimentRun/dcid.{{run}}/{{path:rest}}",
)
def get_artifact(azure: Azure, request: Request) -> Json:
    """Where an artifact can be read; its path stands in the address or in the query."""
    run = find_run(azure, request)
    path = request.values.get("path") or request.query["path"]
    if path not in azure.artifacts(run):
        raise Refusal(404, f"Artifact {path} was not found.")
    return content_dto(run.container, path)


@route(f"POST {_RUN}/artifacts/batch/metadata")
def create_artifacts(azure: Azure, request: Request) -> Json:
    """A place to write to for each artifact."""
    place = find_run(azure, request).container
    paths = [one["path"] for one in request.json()["paths"]]
    return {
        "artifacts": {path: artifact_dto(place, path) for path in paths},
        "artifactContentInformation": {
            path: content_dto(place, path) for path in paths
        },
        "errors": {},
    }
