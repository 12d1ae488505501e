"""ARM's pipeline jobs, batch endpoints and schedules, and the host of an endpoint."""

from __future__ import annotations

import json
from typing import Any

from .history import get_or_create_experiment
from .job_execution import ComponentJob
from .resources import LOCATION, PROVIDER, arm, location_of, resource_of, workspace_of
from .state import Azure, Json, Run, new_id
from .wire import (
    ARM_HOST,
    INFERENCE_DOMAIN,
    ML_HOST,
    REGION,
    Refusal,
    Reply,
    Request,
    now,
    route,
)

_JOB = "arm{scope}/jobs/{name}"
_ENDPOINT = "arm{scope}/batchEndpoints/{name}"
_DEPLOYMENT = f"{_ENDPOINT}/deployments/{{deployment}}"
_SCHEDULE = "arm{scope}/schedules/{name}"


# Operations that take a while, of which all are done when somebody asks


def operation(azure: Azure, request: Request, kind: str) -> dict[str, str]:
    """Headers that say where to ask whether what was begun is done."""
    workspace = workspace_of(azure, request["scope"])["properties"]["workspaceId"]
    place = f"{request['scope'].partition('/resourceGroups/')[0]}/providers/{PROVIDER}"
    status = (
        f"{place}/locations/{REGION}/mfeOperationsStatus/{kind}:{workspace}:{new_id()}"
    )
    version = request.query["api-version"]
    return {
        "Azure-AsyncOperation": f"https://{ARM_HOST}{status}?api-version={version}",
        "Location": location_of(request),
        "x-ms-async-operation-timeout": "PT30M",
    }


def accepted(azure: Azure, request: Request, answer: Json, kind: str) -> Reply:
    headers = operation(azure, request, kind)
    creating = answer["properties"] | {"provisioningState": "Creating"}
    return Reply(answer | {"properties": creating}, 201, headers)


@route(f"GET {LOCATION}/mfeOperationsStatus/{{id}}")
def get_operation(azure: Azure, request: Request) -> Json:
    names = {"id": request.path, "name": request["id"], "status": "Succeeded"}
    times = {"startTime": now(), "endTime": now(), "percentComplete": 100.0}
    return names | times


@route(f"GET {LOCATION}/mfeOperationResults/{{id}}")
def get_operation_result(azure: Azure, request: Request) -> Reply:
    return Reply(b"")


# Pipeline jobs


def new_job(
    azure: Azure, scope: str, name: str, definition: Json, properties: dict[str, str]
) -> ComponentJob:
    """A job, not yet started; `properties` are those that its origin adds."""
    unknown = [
        node["componentId"]
        for node in definition["jobs"].values()
        if node["componentId"].lower() not in azure.components
    ]
    if unknown:
        raise Refusal(400, f"There are no components {unknown}.", "UserError")
    settings = definition.get("settings") or {}
    places = [definition.get("computeId"), settings.get("default_compute")]
    places += [node.get("computeId") for node in definition["jobs"].values()]
    for cluster in {place.rpartition("/")[2] for place in places if place}:
        if f"{scope}/computes/{cluster}".lower() not in azure.resources:
            raise Refusal(400, f"Compute {cluster} was not found.", "UserError")
    experiment = definition.get("experimentName") or "Default"
    get_or_create_experiment(azure, experiment)
    inputs = (definition.get("inputs") or {}).items()
    texts = {key: one["value"] for key, one in inputs if "value" in one}
    told = {
        "azureml.DevPlatv2": "true",
        "azureml.DatasetAccessMode": "Asset",
        "azureml.runsource": "azureml.PipelineRun",
        "runSource": "MFE",
        "runType": "HTTP",
        "azureml.parameters": json.dumps(texts, separators=(",", ":")),
        "azureml.continue_on_step_failure": str(
            settings.get("continue_on_step_failure", True)
        ),
        "azureml.continue_on_failed_optional_input": "True",
        "azureml.enforceRerun": str(settings.get("force_rerun", False)),
        "azureml.defaultDataStoreName": azure.default_datastore,
        "azureml.pipelineComponent": "pipelinerun",
    }
    if compute := definition.get("computeId"):
        told["azureml.defaultComputeName"] = compute.rpartition("/")[2]
    run = azure.new_run(
        experiment,
        id=name,
        name=definition.get("displayName") or name,
        properties=(definition.get("properties") or {}) | told | properties,
        tags=dict(definition.get("tags") or {}),
    )
    job = ComponentJob(azure, scope, run, definition)
    azure.component_jobs[name] = job
    return job


def job_dto(job: ComponentJob) -> Json:
    """A job as ARM gives it, as far as its run has come."""
    run, definition = job.run, job.definition
    inputs = {
        name: {"description": None} | mode_of(one, "ReadOnlyMount") | one
        for name, one in (definition.get("inputs") or {}).items()
    }
    unsaid = ("description", "uri", "assetName", "assetVersion", "autoDeleteSetting")
    outputs = {
        name: dict.fromkeys(unsaid) | mode_of(one | {"uri": ""}, "ReadWriteMount") | one
        for name, one in (definition.get("outputs") or {}).items()
    }
    unset = ("identity", "componentId", "notificationSetting", "secretsConfiguration")
    told = dict.fromkeys((*unset, "computeId", "sourceJobId"))
    status = "Preparing" if run.status == "NotStarted" else run.status
    if run.status == "Running" and run.cancel.is_set():
        status = "CancelRequested"
    answers = {
        "description": definition.get("description"),
        "tags": run.tags,
        "properties": run.properties,
        "displayName": run.name,
        "status": status,
        "experimentName": run.experiment,
        "services": services(job.scope, run),
        "isArchived": definition.get("isArchived", False),
        "jobType": "Pipeline",
        "settings": definition.get("settings"),
        "jobs": definition["jobs"],
        "inputs": inputs,
        "outputs": outputs,
    }
    if run.properties["runSource"] == "BatchDeployment":
        answers |= dict.fromkeys(("settings", "jobs", "inputs", "outputs"))
    known = {key: definition[key] for key in told if key in definition}
    answer = arm(f"{job.scope}/jobs/{run.id}", told | known | answers)
    answer["systemData"]["createdAt"] = run.created
    return answer


def mode_of(given: Json, mode: str) -> Json:
    return {"mode": mode} if "uri" in given else {}


def services(scope: str, run: Run) -> Json:
    """Where a job can be looked at."""
    _, _, subscription, _, group, *_, workspace = scope.split("/")
    place = (
        f"/subscriptions/{subscription}/resourcegroups/{group}/workspaces/{workspace}"
    )
    endpoints = {
        "Tracking": f"azureml://{ML_HOST}/mlflow/v1.0{scope}?",
        "Studio": f"https://ml.azure.com/runs/{run.id}?wsid={place}",
    }
    unsaid = dict.fromkeys(("port", "status", "errorMessage", "properties", "nodes"))
    return {
        kind: unsaid | {"jobServiceType": kind, "endpoint": endpoint}
        for kind, endpoint in endpoints.items()
    }


@route(f"PUT {_JOB}")
def put_job(azure: Azure, request: Request) -> Reply:
    """Submit a job; if there is one of that name, it only changes what is said of it."""
    scope, name, sent = request["scope"], request["name"], request.json()["properties"]
    workspace_of(azure, scope)
    if known := azure.component_jobs.get(name):
        known.run.tags = dict(sent.get("tags") or {})
        for word in ("description", "isArchived"):
            known.definition[word] = sent.get(word)
        return Reply(job_dto(known), 200)
    if sent["jobType"] != "Pipeline":
        raise Refusal(400, f"No {sent['jobType']} job is played.", "UserError")
    job = new_job(azure, scope, name, sent, {})
    answer = job_dto(job)
    job.start()
    return Reply(answer, 201, {"Location": location_of(request)})


@route(f"GET {_JOB}")
def get_job(azure: Azure, request: Request) -> Json:
    """A job; of a child ARM says only that it is there."""
    name = request["name"]
    if job := azure.component_jobs.get(name):
        return job_dto(job)
    if name not in azure.runs:
        raise Refusal(404, f"Run {name} was not found.", "UserError")
    child = arm(f"{request['scope']}/jobs/{name}", {})
    del child["properties"]
    return child


@route("GET arm{scope}/jobs")
def list_jobs(azure: Azure, request: Request) -> Json:
    names = list(azure.component_jobs)
    if schedule := request.query.get("scheduleid"):
        names = azure.runs_of_schedules[schedule]
    return {"value": [job_dto(azure.component_jobs[name]) for name in names][::-1]}


@route(f"POST {_JOB}/cancel")
def cancel_job(azure: Azure, request: Request) -> Reply:
    """Its end is waited for at the place that is told."""
    name = request["name"]
    if name not in azure.component_jobs:
        raise Refusal(404, f"Run {name} was not found.", "UserError")
    azure.component_jobs[name].run.cancel.set()
    place = f"{request['scope'].partition('/resourceGroups/')[0]}/providers/{PROVIDER}"
    result = f"{place}/locations/{REGION}/mfeOperationResults/jc:{name}"
    version = request.query["api-version"]
    location = f"https://{ARM_HOST}{result}?api-version={version}"
    return Reply(b"", 202, {"Location": location})


# Batch endpoints and what is deployed to them


def put_resource(azure: Azure, request: Request, answer: Json, kind: str) -> Reply:
    azure.resources[request.path.lower()] = answer
    return accepted(azure, request, answer, kind)


@route(f"PUT {_ENDPOINT}")
def put_endpoint(azure: Azure, request: Request) -> Reply:
    workspace_of(azure, request["scope"])
    sent, name = request.json(), request["name"]
    given = sent["properties"]
    own = {
        "BatchEndpointCreationApiVersion": request.query["api-version"],
        "azureml.onlineendpointid": request.path.lower().replace("batch", "online"),
    }
    properties = {
        "description": given.get("description"),
        "properties": (given.get("properties") or {}) | own,
        "scoringUri": f"https://{name}.{INFERENCE_DOMAIN}/jobs",
        "swaggerUri": None,
        "authMode": "AADToken",
        "defaults": given.get("defaults") or {"deploymentName": None},
        "provisioningState": "Succeeded",
    }
    nobody = dict.fromkeys(
        ("principalId", "tenantId"), f"{0:08}-0000-0000-0000-{0:012}"
    )
    answer = arm(request.path, properties) | {
        "tags": sent.get("tags") or {},
        "location": sent["location"],
        "identity": {"type": "None"} | nobody,
    }
    reply = put_resource(azure, request, answer, "be")
    reply.body["properties"]["scoringUri"] = None
    operation = {"AzureAsyncOperationUri": reply.headers["Azure-AsyncOperation"]}
    properties["properties"] |= operation
    return reply


@route(f"GET {_ENDPOINT}")
def get_endpoint(azure: Azure, request: Request) -> Json:
    return find_endpoint(azure, request.path)


def find_endpoint(azure: Azure, id: str) -> Json:
    if id.lower() not in azure.resources:
        raise Refusal(404, "The specified resource was not found.", "NotFound")
    return azure.resources[id.lower()]


@route("GET arm{scope}/batchEndpoints")
def list_endpoints(azure: Azure, request: Request) -> Json:
    known = azure.below(f"{request['scope']}/batchEndpoints")
    return {"value": [one for one in known if one["type"].endswith("batchEndpoints")]}


@route(f"DELETE {_DEPLOYMENT}")
def delete_deployment(azure: Azure, request: Request) -> Reply:
    """As the deletion of an endpoint was recorded."""
    endpoint = find_endpoint(azure, request.path.partition("/deployments/")[0])
    if endpoint["properties"]["defaults"]["deploymentName"] == request["deployment"]:
        raise Refusal(400, "The deployment is the endpoint's default.", "UserError")
    del azure.resources[request.path.lower()]
    return Reply(None, 202, operation(azure, request, "bd"))


@route(f"PUT {_DEPLOYMENT}")
def put_deployment(azure: Azure, request: Request) -> Reply:
    find_endpoint(azure, request.path.partition("/deployments/")[0])
    sent = request.json()
    given = {key: one for key, one in sent["properties"].items() if one is not None}
    component = component_of(given)
    if azure.components.get(component.lower(), {}).get("type") != "pipeline":
        raise Refusal(400, f"There is no pipeline component {component}.", "UserError")
    unset = ("description", "codeConfiguration", "environmentId", "model", "compute")
    properties = dict.fromkeys((*unset, "environmentVariables", "outputFileName")) | {
        "properties": {},
        "errorThreshold": 0,
        "retrySettings": {"maxRetries": 0, "timeout": "PT0S"},
        "miniBatchSize": 0,
        "loggingLevel": "Info",
        "maxConcurrencyPerInstance": 0,
        "outputAction": "SummaryOnly",
        "resources": {"instanceCount": 1, "instanceType": None, "properties": None},
    }
    properties |= given | {"provisioningState": "Succeeded"}
    tags = (sent.get("tags") or {}) | {"ComponentDeployment.ComponentId": component}
    more = {"tags": tags, "location": sent["location"]}
    return put_resource(azure, request, arm(request.path, properties) | more, "bd")


def component_of(deployment: Json) -> str:
    """The id of the component that a deployment runs, as one version or another says it."""
    if configuration := deployment.get("deploymentConfiguration"):
        return str(configuration["componentId"]["assetId"])
    return str(deployment["properties"]["ComponentDeployment.ComponentId"])


@route(f"GET {_DEPLOYMENT}")
def get_deployment(azure: Azure, request: Request) -> Json:
    return find_endpoint(azure, request.path)


@route(f"GET {_ENDPOINT}/deployments")
def list_deployments(azure: Azure, request: Request) -> Json:
    return {"value": azure.below(request.path)}


@route("POST inference/jobs")
def invoke(azure: Azure, request: Request) -> Reply:
    """Start the pipeline of the deployment that is named, else of the default."""
    name = request.host.partition(".")[0]
    ids = [id for id in azure.resources if id.endswith(f"/batchendpoints/{name}")]
    if not ids:
        raise Refusal(404, "The specified resource was not found.", "NotFound")
    endpoint = azure.resources[ids[0]]
    default = endpoint["properties"]["defaults"]["deploymentName"]
    wanted = request.headers.get("azureml-model-deployment") or default
    if not wanted:
        raise Refusal(400, "The endpoint has no default deployment.", "UserError")
    id, given = f"{endpoint['id']}/deployments/{wanted}", request.json()["properties"]
    deployment = find_endpoint(azure, id)["properties"]
    component = azure.components[component_of(deployment).lower()]
    configuration = deployment.get("deploymentConfiguration") or {}
    sent = given.get("inputData") or {}
    definition = {
        "description": f"Pipeline submission for endpoint: {name}, deployment: {wanted}.",
        "experimentName": (given.get("properties") or {}).get("experimentName") or name,
        "displayName": f"invoked_{new_id()[:8]}",
        "tags": {"azureml.deploymentname": wanted},
        "settings": configuration.get("settings"),
        "jobs": component["jobs"],
        "inputs": inputs_of(component, sent),
    }
    origin = {
        "azureml.runLineageType": "batchDeployment",
        "runSource": "BatchDeployment",
        "azureml.sourcepipelinerunid": new_id(),
    }
    scope = endpoint["id"].partition("/batchEndpoints/")[0]
    job = new_job(azure, scope, new_id(), definition, origin)
    answer = invoked_dto(job, sent)
    job.start()
    place = f"https://{ML_HOST}/mferp/managementfrontend{id}"
    location = {"Location": f"{place}?api-version=2020-09-01-dataplanepreview"}
    return Reply(answer, 201, location)


def inputs_of(component: Json, sent: Json) -> Json:
    """The inputs of an invoked pipeline: what was sent, else its component's defaults."""
    declared = component.get("inputs") or {}
    inputs: Json = {
        name: {"jobInputType": "literal", "value": str(one["default"])}
        for name, one in declared.items()
        if one.get("default") is not None
    }
    return inputs | sent


def invoked_dto(job: ComponentJob, sent: Json) -> Json:
    """A job as the endpoint that it was begun by gives it: in words of its own."""
    unset = ("target", "instanceCount", "location", "instanceType", "properties")
    unsaid = dict.fromkeys(("port", "properties"))
    properties = {
        "provisioningState": "Succeeded",
        "inputData": {
            key: {"description": None} | mode_of(one, "ReadOnlyMount") | one
            for key, one in sent.items()
        },
        "compute": dict.fromkeys(unset) | {"isLocal": False},
        "output": {"datastoreId": None, "path": None},
        "status": "Preparing",
        "interactionEndpoints": {
            kind: unsaid | {"jobEndpointType": kind, "endpoint": one["endpoint"]}
            for kind, one in services(job.scope, job.run).items()
        },
        "tags": dict(job.run.tags),
        "properties": dict(job.run.properties),
        "name": job.run.name,
    }
    answer = arm(f"{job.scope}/batchEndpoints//jobs/{job.run.id}", properties)
    return answer | {"type": f"{PROVIDER}/workspaces/batchEndpoints/jobs"}


# Schedules, which are kept and never come due


@route(f"PUT {_SCHEDULE}")
def put_schedule(azure: Azure, request: Request) -> Reply:
    workspace_of(azure, request["scope"])
    sent = request.json()["properties"]
    kept: dict[str, Any] = {"description": None, "tags": {}, "properties": {}}
    earlier = azure.resources.get(request.path.lower())
    is_enabled = earlier["properties"]["isEnabled"] if earlier else True
    kept |= {"displayName": None, "isEnabled": is_enabled}
    kept |= {key: one for key, one in sent.items() if one is not None}
    kept["trigger"] = trigger_dto(sent["trigger"])
    kept["provisioningState"] = "Succeeded"
    action = kept["action"]
    if definition := action.get("jobDefinition"):
        kept["action"] = action | {"jobDefinition": definition_dto(definition)}
    answer = arm(request.path, kept)
    reply = put_resource(azure, request, answer, "s")
    reply.body = {"properties": reply.body["properties"]}
    return reply


def fire_schedule(azure: Azure, schedule: Json) -> Run:
    """Start the run that a schedule would start when it is due."""
    scope, _, name = schedule["id"].partition("/schedules/")
    definition = schedule["properties"]["action"]["jobDefinition"]
    job = new_job(azure, scope, f"{name}-{new_id()}", definition, {})
    azure.runs_of_schedules[name].append(job.run.id)
    job.start()
    return job.run


def trigger_dto(sent: Json) -> Json:
    """A trigger, with its words as the service writes them."""
    trigger = {"endTime": None, **sent}
    if frequency := sent.get("frequency"):
        trigger["frequency"] = frequency.capitalize()
    if schedule := sent.get("schedule"):
        days = [day.capitalize() for day in schedule.get("weekDays") or []]
        more = {"weekDays": days or None, "monthDays": schedule.get("monthDays")}
        trigger["schedule"] = schedule | more
    return trigger


def definition_dto(sent: Json) -> Json:
    unset = ("description", "displayName", "services", "computeId", "identity")
    more = ("componentId", "notificationSetting", "secretsConfiguration")
    unsaid = dict.fromkeys((*unset, *more, "sourceJobId"))
    states = {"status": "NotStarted", "experimentName": "Default", "isArchived": False}
    inputs = {
        name: {"description": None} | one
        for name, one in (sent.get("inputs") or {}).items()
    }
    plain: Json = {"tags": {}, "properties": {}, "outputs": {}, "settings": None}
    return unsaid | states | plain | sent | {"inputs": inputs}


@route(f"GET {_SCHEDULE}")
def get_schedule(azure: Azure, request: Request) -> Json:
    schedule = resource_of(azure, request.path)
    return {key: schedule[key] for key in ("name", "properties", "systemData")}


@route("GET arm{scope}/schedules")
def list_schedules(azure: Azure, request: Request) -> Json:
    return {"value": azure.below(f"{request['scope']}/schedules")}
