"""MLflow's tracking and model registry, as azureml-mlflow reaches them."""

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


def mlflow(target: str) -> Callable[[Handler], Handler]:
    """A route of MLflow's REST API, in the address that MLflow 2 and 3 use."""
    method, _, path = target.partition(" ")
    return route(f"{method} ml/mlflow/v2.0{{scope}}/api/2.0/mlflow/{path}")


def arguments(request: Request) -> Json:
    return request.json() if request.body else dict(request.query)


def missing(kind: str, name: str) -> Refusal:
    return Refusal(404, f"{kind} {name} does not exist.", "RESOURCE_DOES_NOT_EXIST")


def milliseconds(moment: str | None) -> int | None:
    if moment is None:
        return None
    time = datetime.strptime(moment[:26], "%Y-%m-%dT%H:%M:%S.%f")
    return int(time.replace(tzinfo=timezone.utc).timestamp() * 1000)


# Experiments


def experiment_dto(azure: Azure, request: Request, name: str) -> Json:
    location = f"azureml://{ML_HOST}/mlflow/v2.0{request['scope']}/experiments/{name}"
    state = {"lifecycle_stage": "active", "artifact_location": location}
    id = azure.experiments[name]["experimentId"]
    return {"experiment_id": id, "name": name} | state


@mlflow("GET experiments/get-by-name")
def get_experiment_by_name(azure: Azure, request: Request) -> Json:
    name = request.query["experiment_name"]
    if name not in azure.experiments:
        raise missing("Experiment", name)
    return {"experiment": experiment_dto(azure, request, name)}


@mlflow("POST experiments/create")
def create_experiment(azure: Azure, request: Request) -> Json:
    experiment = get_or_create_experiment(azure, request.json()["name"])
    return {"experiment_id": experiment["experimentId"]}


# Runs


def find_run(azure: Azure, request: Request) -> Run:
    id = arguments(request)["run_id"]
    if id not in azure.runs:
        raise missing("Run", id)
    return azure.runs[id]


def run_dto(azure: Azure, request: Request, run: Run) -> Json:
    experiment = experiment_dto(azure, request, run.experiment)
    info = {
        "run_id": run.id,
        "run_uuid": run.id,
        "run_name": run.name,
        "experiment_id": experiment["experiment_id"],
        "status": _RUN_STATUS[run.status],
        "start_time": milliseconds(run.started or run.created),
        "end_time": milliseconds(run.ended),
        "artifact_uri": f"{experiment['artifact_location']}/runs/{run.id}/artifacts",
        "lifecycle_stage": "active",
    }
    data = {
        "metrics": list({metric["key"]: metric for metric in run.metrics}.values()),
        "params": [
            {"key": key, "value": run.parameters[key]} for key in run.parameters
        ],
        "tags": [{"key": key, "value": run.tags[key]} for key in run.tags],
    }
    return {"info": info, "data": data}


@mlflow("POST runs/create")
def create_run(azure: Azure, request: Request) -> Json:
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
    return {"run": run_dto(azure, request, run)}


@mlflow("GET runs/get")
def get_run(azure: Azure, request: Request) -> Json:
    return {"run": run_dto(azure, request, find_run(azure, request))}


@mlflow("POST runs/search")
def search_runs(azure: Azure, request: Request) -> Json:
    """Return the runs of experiments whose tag has a value. Other filters are refused."""
    body = request.json()
    condition = re.fullmatch(r"tags\.(\w+) = '(\w+)'", body.get("filter", ""))
    if not condition:
        raise Refusal(501, f"The stand-in plays no search for {body.get('filter')!r}.")
    tag, value = condition.groups()
    ids = {azure.experiments[name]["experimentId"]: name for name in azure.experiments}
    names = {ids[id] for id in body["experiment_ids"]}
    runs = [
        run_dto(azure, request, run)
        for run in azure.runs.values()
        if run.experiment in names and run.tags.get(tag) == value
    ]
    return {"runs": runs}


@mlflow("POST runs/update")
def update_run(azure: Azure, request: Request) -> Json:
    run = find_run(azure, request)
    status = request.json().get("status")
    # Only the service itself sets the status of a step.
    if status and run.type == "azureml.mlflow":
        run.end(next(name for name, word in _RUN_STATUS.items() if word == status))
    return {"run_info": run_dto(azure, request, run)["info"]}


@mlflow("POST runs/log-batch")
def log_batch(azure: Azure, request: Request) -> Json:
    run = find_run(azure, request)
    body = request.json()
    run.metrics += body.get("metrics", [])
    run.tags |= {tag["key"]: tag["value"] for tag in body.get("tags", [])}
    for parameter in body.get("params", []):
        record_parameter(run, parameter)
    return {}


@mlflow("POST runs/log-parameter")
def log_parameter(azure: Azure, request: Request) -> Json:
    record_parameter(find_run(azure, request), request.json())
    return {}


def record_parameter(run: Run, parameter: Json) -> None:
    key, value = parameter["key"], parameter["value"]
    if run.parameters.setdefault(key, value) != value:
        message = f"Parameter {key} was logged before with another value."
        raise Refusal(400, message, "INVALID_PARAMETER_VALUE")


@mlflow("POST runs/log-metric")
def log_metric(azure: Azure, request: Request) -> Json:
    body = request.json()
    names = [name for name in ("key", "value", "timestamp", "step") if name in body]
    find_run(azure, request).metrics.append({name: body[name] for name in names})
    return {}


@mlflow("POST runs/set-tag")
def set_tag(azure: Azure, request: Request) -> Json:
    find_run(azure, request).tags[request.json()["key"]] = request.json()["value"]
    return {}


@mlflow("GET metrics/get-history")
def get_metric_history(azure: Azure, request: Request) -> Json:
    metrics, key = find_run(azure, request).metrics, request.query["metric_key"]
    return {"metrics": [metric for metric in metrics if metric["key"] == key]}


@mlflow("POST logged-models/search")
def search_logged_models(azure: Azure, request: Request) -> Json:
    """Azure has no logged models, for which MLflow 3 asks all the same."""
    raise Refusal(404, "There is no such endpoint.", "ENDPOINT_NOT_FOUND")


# Registered models


def find_versions(azure: Azure, name: str) -> list[Json]:
    if name not in azure.models:
        raise missing("Model", name)
    return azure.models[name]


@mlflow("POST registered-models/create")
def create_model(azure: Azure, request: Request) -> Json:
    name = request.json()["name"]
    if name in azure.models:
        message = f"Registered model {name} already exists."
        raise Refusal(400, message, "RESOURCE_ALREADY_EXISTS")
    azure.models[name] = []
    return {"registered_model": {"name": name}}


@mlflow("GET registered-models/get")
def get_model(azure: Azure, request: Request) -> Json:
    name = request.query["name"]
    versions = find_versions(azure, name)
    return {"registered_model": {"name": name, "latest_versions": versions[-1:]}}


@mlflow("POST registered-models/get-latest-versions")
def get_latest_versions(azure: Azure, request: Request) -> Json:
    return {"model_versions": find_versions(azure, request.json()["name"])[-1:]}


@mlflow("POST model-versions/create")
def create_model_version(azure: Azure, request: Request) -> Json:
    body = request.json()
    numbers = [one["version"] for one in find_versions(azure, body["name"])]
    version = max((int(one) for one in numbers if one.isdigit()), default=0) + 1
    tags, run_id = body.get("tags", []), body.get("run_id", "")
    kept = keep_model(
        azure, body["name"], str(version), body["source"], run_id, tags=tags
    )
    return {"model_version": kept}


def keep_model(
    azure: Azure,
    name: str,
    version: str,
    source: str,
    run_id: str = "",
    tags: list[Json] | None = None,
    details: Json | None = None,
) -> Json:
    """Register a version, or put it in the place of the same; gives it as MLflow has it.

    `details` are what ARM has of it beside.
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
    others = [one for one in azure.models.get(name, []) if one["version"] != version]
    azure.models[name] = [*others, model]
    azure.model_details[name, version] = details or {}
    return model


def find_version(azure: Azure, request: Request) -> Json:
    values = arguments(request)
    for version in find_versions(azure, values["name"]):
        if version["version"] == str(values["version"]):
            return version
    raise missing("Model version", f"{values['name']}:{values['version']}")


@mlflow("GET model-versions/get")
def get_model_version(azure: Azure, request: Request) -> Json:
    return {"model_version": find_version(azure, request)}


@mlflow("GET model-versions/get-download-uri")
def get_download_uri(azure: Azure, request: Request) -> Json:
    return {"artifact_uri": find_version(azure, request)["source"]}


@mlflow("POST model-versions/set-tag")
def set_version_tag(azure: Azure, request: Request) -> Json:
    tag = {name: request.json()[name] for name in ("key", "value")}
    find_version(azure, request)["tags"].append(tag)
    return {}


@mlflow("GET model-versions/search")
def search_model_versions(azure: Azure, request: Request) -> Json:
    """The versions of one model, newest first: no other search is played."""
    text = request.query.get("filter", "")
    match = re.fullmatch(r"\s*name\s*=\s*['\"]([^'\"]+)['\"]\s*", text)
    if not match:
        raise Refusal(501, f"The stand-in plays no search for {text!r}.")
    return {"model_versions": azure.models.get(match[1], [])[::-1]}
