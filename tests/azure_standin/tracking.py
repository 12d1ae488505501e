"""MLflow's tracking and model registry, at the addresses that azureml-mlflow uses."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timezone

from .history import get_or_create_experiment
from .state import Azure, Json, Run
from .wire import ML_HOST, Handler, Refusal, Request, route

_RUN_STATUS = {
    "NotStarted": "SCHEDULED",
    "Running": "RUNNING",
    "Completed": "FINISHED",
    "Failed": "FAILED",
    "Canceled": "KILLED",
}


def mlflow_route(target: str) -> Callable[[Handler], Handler]:
    """Let a function answer requests to MLflow's REST API, `METHOD path`.

    The address is the one that MLflow 2 and 3 use.
    """
    method, _, path = target.partition(" ")
    return route(f"{method} ml/mlflow/v2.0{{scope}}/api/2.0/mlflow/{path}")


def read_arguments(request: Request) -> Json:
    """Return the arguments of a request, which are its body or its query."""
    return request.json() if request.body else dict(request.query)


def not_found(kind: str, name: str) -> Refusal:
    """Return the error by which MLflow says that something does not exist."""
    return Refusal(404, f"{kind} {name} does not exist.", "RESOURCE_DOES_NOT_EXIST")


def to_milliseconds(timestamp: str | None) -> int | None:
    """Convert a time of Azure ML to MLflow's milliseconds since 1970."""
    if timestamp is None:
        return None
    moment = datetime.strptime(timestamp[:26], "%Y-%m-%dT%H:%M:%S.%f")
    return int(moment.replace(tzinfo=timezone.utc).timestamp() * 1000)


# Experiments


def describe_experiment(azure: Azure, request: Request, name: str) -> Json:
    """Return an experiment as MLflow sends it."""
    experiments = f"azureml://{ML_HOST}/mlflow/v2.0{request['scope']}/experiments"
    return {
        "experiment_id": azure.experiments[name]["experimentId"],
        "name": name,
        "lifecycle_stage": "active",
        "artifact_location": f"{experiments}/{name}",
    }


@mlflow_route("GET experiments/get-by-name")
def get_experiment_by_name(azure: Azure, request: Request) -> Json:
    """Return the experiment of a name."""
    name = request.query["experiment_name"]
    if name not in azure.experiments:
        raise not_found("Experiment", name)
    return {"experiment": describe_experiment(azure, request, name)}


@mlflow_route("POST experiments/create")
def create_experiment(azure: Azure, request: Request) -> Json:
    """Create an experiment."""
    experiment = get_or_create_experiment(azure, request.json()["name"])
    return {"experiment_id": experiment["experimentId"]}


# Runs


def find_run(azure: Azure, request: Request) -> Run:
    """Return the run that a request names, or refuse with 404."""
    run_id = read_arguments(request)["run_id"]
    if run_id not in azure.runs:
        raise not_found("Run", run_id)
    return azure.runs[run_id]


def describe_run(azure: Azure, request: Request, run: Run) -> Json:
    """Return a run as MLflow sends it, with the last value of each metric."""
    experiment = describe_experiment(azure, request, run.experiment)
    info = {
        "run_id": run.id,
        "run_uuid": run.id,
        "run_name": run.name,
        "experiment_id": experiment["experiment_id"],
        "status": _RUN_STATUS[run.status],
        "start_time": to_milliseconds(run.started or run.created),
        "end_time": to_milliseconds(run.ended),
        "artifact_uri": f"{experiment['artifact_location']}/runs/{run.id}/artifacts",
        "lifecycle_stage": "active",
    }
    last_metrics = {metric["key"]: metric for metric in run.metrics}
    data = {
        "metrics": list(last_metrics.values()),
        "params": list_pairs(run.parameters),
        "tags": list_pairs(run.tags),
    }
    return {"info": info, "data": data}


def list_pairs(values: dict[str, str]) -> list[Json]:
    """Return a dictionary as MLflow sends it, as a list of keys and values."""
    return [{"key": key, "value": value} for key, value in values.items()]


@mlflow_route("POST runs/create")
def create_run(azure: Azure, request: Request) -> Json:
    """Start a run."""
    body = request.json()
    names = {
        experiment["experimentId"]: name
        for name, experiment in azure.experiments.items()
    }
    tags = {tag["key"]: tag["value"] for tag in body.get("tags", [])}
    run = azure.new_run(
        names[body["experiment_id"]],
        name=body.get("run_name", ""),
        type="azureml.mlflow",
        parent=tags.get("mlflow.parentRunId"),
        tags=tags,
    )
    run.begin()
    return {"run": describe_run(azure, request, run)}


@mlflow_route("GET runs/get")
def get_run(azure: Azure, request: Request) -> Json:
    """Return a run."""
    return {"run": describe_run(azure, request, find_run(azure, request))}


@mlflow_route("POST runs/search")
def search_runs(azure: Azure, request: Request) -> Json:
    """Return the runs of experiments whose tag has a value. Other filters are refused."""
    body = request.json()
    condition = re.fullmatch(r"tags\.(\w+) = '(\w+)'", body.get("filter", ""))
    if not condition:
        message = f"The stand-in cannot search for {body.get('filter')!r}."
        raise Refusal(501, message)
    tag, value = condition.groups()
    names = {
        name
        for name, experiment in azure.experiments.items()
        if experiment["experimentId"] in body["experiment_ids"]
    }
    runs = [
        describe_run(azure, request, run)
        for run in azure.runs.values()
        if run.experiment in names and run.tags.get(tag) == value
    ]
    return {"runs": runs}


@mlflow_route("POST runs/update")
def update_run(azure: Azure, request: Request) -> Json:
    """Set the status of a run that MLflow has started."""
    run = find_run(azure, request)
    mlflow_status = request.json().get("status")
    # Only the service itself sets the status of a step.
    if mlflow_status and run.type == "azureml.mlflow":
        statuses = {mlflow: status for status, mlflow in _RUN_STATUS.items()}
        run.end(statuses[mlflow_status])
    return {"run_info": describe_run(azure, request, run)["info"]}


@mlflow_route("POST runs/log-batch")
def log_batch(azure: Azure, request: Request) -> Json:
    """Record metrics, tags and parameters of a run."""
    run = find_run(azure, request)
    body = request.json()
    run.metrics += body.get("metrics", [])
    run.tags |= {tag["key"]: tag["value"] for tag in body.get("tags", [])}
    for parameter in body.get("params", []):
        record_parameter(run, parameter)
    return {}


@mlflow_route("POST runs/log-parameter")
def log_parameter(azure: Azure, request: Request) -> Json:
    """Record a parameter of a run."""
    record_parameter(find_run(azure, request), request.json())
    return {}


def record_parameter(run: Run, parameter: Json) -> None:
    """Record a parameter, whose value cannot be changed later."""
    key = parameter["key"]
    value = parameter["value"]
    if run.parameters.setdefault(key, value) != value:
        message = f"Parameter {key} was logged before with another value."
        raise Refusal(400, message, "INVALID_PARAMETER_VALUE")


@mlflow_route("POST runs/log-metric")
def log_metric(azure: Azure, request: Request) -> Json:
    """Record a value of a metric of a run."""
    body = request.json()
    keys = [key for key in ("key", "value", "timestamp", "step") if key in body]
    find_run(azure, request).metrics.append({key: body[key] for key in keys})
    return {}


@mlflow_route("POST runs/set-tag")
def set_tag(azure: Azure, request: Request) -> Json:
    """Set a tag of a run."""
    tag = request.json()
    find_run(azure, request).tags[tag["key"]] = tag["value"]
    return {}


@mlflow_route("GET metrics/get-history")
def get_metric_history(azure: Azure, request: Request) -> Json:
    """Return all values of a metric of a run."""
    key = request.query["metric_key"]
    metrics = find_run(azure, request).metrics
    return {"metrics": [metric for metric in metrics if metric["key"] == key]}


@mlflow_route("POST logged-models/search")
def search_logged_models(azure: Azure, request: Request) -> Json:
    """Refuse to list logged models. MLflow 3 requests them, but Azure has none."""
    raise Refusal(404, "There is no such endpoint.", "ENDPOINT_NOT_FOUND")


# Registered models


def find_versions(azure: Azure, name: str) -> list[Json]:
    """Return the versions of a model, oldest first, or refuse with 404."""
    if name not in azure.models:
        raise not_found("Model", name)
    return azure.models[name]


@mlflow_route("POST registered-models/create")
def create_model(azure: Azure, request: Request) -> Json:
    """Create a registered model without versions."""
    name = request.json()["name"]
    if name in azure.models:
        message = f"Registered model {name} already exists."
        raise Refusal(400, message, "RESOURCE_ALREADY_EXISTS")
    azure.models[name] = []
    return {"registered_model": {"name": name}}


@mlflow_route("GET registered-models/get")
def get_model(azure: Azure, request: Request) -> Json:
    """Return a registered model with its newest version."""
    name = request.query["name"]
    versions = find_versions(azure, name)
    return {"registered_model": {"name": name, "latest_versions": versions[-1:]}}


@mlflow_route("POST registered-models/get-latest-versions")
def get_latest_versions(azure: Azure, request: Request) -> Json:
    """Return a list with the newest version of a registered model."""
    return {"model_versions": find_versions(azure, request.json()["name"])[-1:]}


@mlflow_route("POST model-versions/create")
def create_model_version(azure: Azure, request: Request) -> Json:
    """Register a version, whose number follows the highest one."""
    body = request.json()
    # Versions that were not registered by MLflow may have other names than numbers.
    numbers = [0]
    for registered in find_versions(azure, body["name"]):
        if registered["version"].isdigit():
            numbers.append(int(registered["version"]))
    version = keep_model(
        azure,
        body["name"],
        version=str(max(numbers) + 1),
        source=body["source"],
        run_id=body.get("run_id", ""),
        tags=body.get("tags", []),
    )
    return {"model_version": version}


def keep_model(
    azure: Azure,
    name: str,
    version: str,
    source: str,
    run_id: str = "",
    tags: list[Json] | None = None,
    details: Json | None = None,
) -> Json:
    """Register a version of a model, or replace it, and return it as MLflow sends it.

    `details` has the properties that only ARM has.
    """
    moment = int(time.time() * 1000)
    model = {
        "name": name,
        "version": version,
        "source": source,
        "run_id": run_id,
        "tags": tags or [],
        "status": "READY",
        "current_stage": "None",
        "creation_timestamp": moment,
        "last_updated_timestamp": moment,
    }
    other_versions = [
        registered
        for registered in azure.models.get(name, [])
        if registered["version"] != version
    ]
    azure.models[name] = [*other_versions, model]
    azure.model_details[name, version] = details or {}
    return model


def find_version(azure: Azure, request: Request) -> Json:
    """Return the version that a request names, or refuse with 404."""
    arguments = read_arguments(request)
    for version in find_versions(azure, arguments["name"]):
        if version["version"] == str(arguments["version"]):
            return version
    raise not_found("Model version", f"{arguments['name']}:{arguments['version']}")


@mlflow_route("GET model-versions/get")
def get_model_version(azure: Azure, request: Request) -> Json:
    """Return a version of a model."""
    return {"model_version": find_version(azure, request)}


@mlflow_route("GET model-versions/get-download-uri")
def get_download_uri(azure: Azure, request: Request) -> Json:
    """Return the address of the files of a version."""
    return {"artifact_uri": find_version(azure, request)["source"]}


@mlflow_route("POST model-versions/set-tag")
def set_version_tag(azure: Azure, request: Request) -> Json:
    """Add a tag to a version."""
    body = request.json()
    tag = {"key": body["key"], "value": body["value"]}
    find_version(azure, request)["tags"].append(tag)
    return {}


@mlflow_route("GET model-versions/search")
def search_model_versions(azure: Azure, request: Request) -> Json:
    """Return the versions of a model, newest first. Other searches are refused."""
    condition = request.query.get("filter", "")
    match = re.fullmatch(r"\s*name\s*=\s*['\"]([^'\"]+)['\"]\s*", condition)
    if not match:
        raise Refusal(501, f"The stand-in cannot search for {condition!r}.")
    versions = azure.models.get(match[1], [])
    return {"model_versions": versions[::-1]}
