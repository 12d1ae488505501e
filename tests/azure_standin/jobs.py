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


# Long-running operations. Each has succeeded when its status is requested


def operation(azure: Azure, request: Request, kind: str) -> dict[str, str]:
    """Return the headers with the addresses of an operation's status and result."""
    workspace_id = workspace_of(azure, request["scope"])["properties"]["workspaceId"]
    operation_id = f"{kind}:{workspace_id}:{new_id()}"
    status = f"{location_id(request['scope'])}/mfeOperationsStatus/{operation_id}"
    version = request.query["api-version"]
    return {
        "Azure-AsyncOperation": f"https://{ARM_HOST}{status}?api-version={version}",
        "Location": location_of(request),
        "x-ms-async-operation-timeout": "PT30M",
    }


def location_id(scope: str) -> str:
    """Return the resource id of the region, in the subscription of a workspace."""
    subscription = scope.partition("/resourceGroups/")[0]
    return f"{subscription}/providers/{PROVIDER}/locations/{REGION}"


def accepted(azure: Azure, request: Request, answer: Json, kind: str) -> Reply:
    """Return the reply that a resource is being created."""
    headers = operation(azure, request, kind)
    creating = answer["properties"] | {"provisioningState": "Creating"}
    return Reply(answer | {"properties": creating}, 201, headers)


@route(f"GET {LOCATION}/mfeOperationsStatus/{{id}}")
def get_operation(azure: Azure, request: Request) -> Json:
    """Return a long operation, which has always succeeded."""
    return {
        "id": request.path,
        "name": request["id"],
        "status": "Succeeded",
        "startTime": now(),
        "endTime": now(),
        "percentComplete": 100.0,
    }


@route(f"GET {LOCATION}/mfeOperationResults/{{id}}")
def get_operation_result(azure: Azure, request: Request) -> Reply:
    return Reply(b"")


# Pipeline jobs


def new_job(
    azure: Azure, scope: str, name: str, definition: Json, properties: dict[str, str]
) -> ComponentJob:
    """Create a job that is not started yet.

    `properties` depend on whether the job was submitted or comes from an endpoint. Raises
    Refusal if the definition names a component or a cluster that does not exist.
    """
    _check_components(azure, definition)
    _check_clusters(azure, scope, definition)
    experiment = definition.get("experimentName") or "Default"
    get_or_create_experiment(azure, experiment)

    settings = definition.get("settings") or {}
    parameters = {
        name: pipeline_input["value"]
        for name, pipeline_input in (definition.get("inputs") or {}).items()
        if "value" in pipeline_input
    }
    properties_of_service = {
        "azureml.DevPlatv2": "true",
        "azureml.DatasetAccessMode": "Asset",
        "azureml.runsource": "azureml.PipelineRun",
        "runSource": "MFE",
        "runType": "HTTP",
        "azureml.parameters": json.dumps(parameters, separators=(",", ":")),
        "azureml.continue_on_step_failure": str(
            settings.get("continue_on_step_failure", True)
        ),
        "azureml.continue_on_failed_optional_input": "True",
        "azureml.enforceRerun": str(settings.get("force_rerun", False)),
        "azureml.defaultDataStoreName": azure.default_datastore,
        "azureml.pipelineComponent": "pipelinerun",
    }
    if compute := definition.get("computeId"):
        properties_of_service["azureml.defaultComputeName"] = last_part(compute)
    run = azure.new_run(
        experiment,
        id=name,
        name=definition.get("displayName") or name,
        properties={
            **(definition.get("properties") or {}),
            **properties_of_service,
            **properties,
        },
        tags=dict(definition.get("tags") or {}),
    )
    job = ComponentJob(azure, scope, run, definition)
    azure.component_jobs[name] = job
    return job


def _check_components(azure: Azure, definition: Json) -> None:
    """Raise Refusal if a node of a pipeline has a component that does not exist."""
    ids = [node["componentId"] for node in definition["jobs"].values()]
    missing = [id for id in ids if id.lower() not in azure.components]
    if missing:
        raise Refusal(400, f"There are no components {missing}.", "UserError")


def _check_clusters(azure: Azure, scope: str, definition: Json) -> None:
    """Raise Refusal if a job or one of its nodes has a cluster that does not exist."""
    settings = definition.get("settings") or {}
    ids = [definition.get("computeId"), settings.get("default_compute")]
    ids += [node.get("computeId") for node in definition["jobs"].values()]
    for cluster in {last_part(id) for id in ids if id}:
        if f"{scope}/computes/{cluster}".lower() not in azure.resources:
            raise Refusal(400, f"Compute {cluster} was not found.", "UserError")


def last_part(id: str) -> str:
    """Return the name at the end of a resource id."""
    return id.rpartition("/")[2]


def job_dto(job: ComponentJob) -> Json:
    """Return a job as ARM sends it, with the status of its run."""
    run = job.run
    definition = job.definition
    inputs = {
        name: {"description": None} | default_mode(sent, "ReadOnlyMount") | sent
        for name, sent in (definition.get("inputs") or {}).items()
    }
    outputs = {}
    for name, sent in (definition.get("outputs") or {}).items():
        outputs[name] = {
            "description": None,
            "uri": None,
            "assetName": None,
            "assetVersion": None,
            "autoDeleteSetting": None,
            "mode": "ReadWriteMount",
            **sent,
        }

    status = "Preparing" if run.status == "NotStarted" else run.status
    if run.status == "Running" and run.cancel.is_set():
        status = "CancelRequested"

    # These are null if the definition has no value for them.
    optional = (
        *("identity", "componentId", "notificationSetting", "secretsConfiguration"),
        *("computeId", "sourceJobId"),
    )
    properties = {name: definition.get(name) for name in optional} | {
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
        properties |= dict.fromkeys(("settings", "jobs", "inputs", "outputs"))
    answer = arm(f"{job.scope}/jobs/{run.id}", properties)
    answer["systemData"]["createdAt"] = run.created
    return answer


def default_mode(sent: Json, mode: str) -> Json:
    """Return the default mode of an input that is a file or a folder."""
    return {"mode": mode} if "uri" in sent else {}


def services(scope: str, run: Run) -> Json:
    """Return the addresses at which a job can be viewed."""
    _, _, subscription, _, group, *_, workspace = scope.split("/")
    workspace_id = (
        f"/subscriptions/{subscription}/resourcegroups/{group}/workspaces/{workspace}"
    )
    endpoints = {
        "Tracking": f"azureml://{ML_HOST}/mlflow/v1.0{scope}?",
        "Studio": f"https://ml.azure.com/runs/{run.id}?wsid={workspace_id}",
    }
    empty = dict.fromkeys(("port", "status", "errorMessage", "properties", "nodes"))
    return {
        kind: empty | {"jobServiceType": kind, "endpoint": endpoint}
        for kind, endpoint in endpoints.items()
    }


@route(f"PUT {_JOB}")
def put_job(azure: Azure, request: Request) -> Reply:
    """Submit a job, or change the tags and the description of a job that exists."""
    scope, name = request["scope"], request["name"]
    sent = request.json()["properties"]
    workspace_of(azure, scope)
    existing = azure.component_jobs.get(name)
    if existing:
        existing.run.tags = dict(sent.get("tags") or {})
        existing.definition["description"] = sent.get("description")
        existing.definition["isArchived"] = sent.get("isArchived")
        return Reply(job_dto(existing), 200)

    if sent["jobType"] != "Pipeline":
        message = f"The stand-in runs no job of type {sent['jobType']}."
        raise Refusal(400, message, "UserError")
    job = new_job(azure, scope, name, sent, {})
    answer = job_dto(job)
    job.start()
    return Reply(answer, 201, {"Location": location_of(request)})


@route(f"GET {_JOB}")
def get_job(azure: Azure, request: Request) -> Json:
    """Return a job. Of a child, ARM sends only the id and the name."""
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
    """Return all jobs, or those of a schedule, newest first."""
    names = list(azure.component_jobs)
    if schedule := request.query.get("scheduleid"):
        names = azure.runs_of_schedules[schedule]
    return {"value": [job_dto(azure.component_jobs[name]) for name in names][::-1]}


@route(f"POST {_JOB}/cancel")
def cancel_job(azure: Azure, request: Request) -> Reply:
    """Cancel a job, and return the address at which clients wait for its end."""
    name = request["name"]
    if name not in azure.component_jobs:
        raise Refusal(404, f"Run {name} was not found.", "UserError")
    azure.component_jobs[name].run.cancel.set()
    result = f"{location_id(request['scope'])}/mfeOperationResults/jc:{name}"
    version = request.query["api-version"]
    location = f"https://{ARM_HOST}{result}?api-version={version}"
    return Reply(b"", 202, {"Location": location})


# Batch endpoints and their deployments


def put_resource(azure: Azure, request: Request, answer: Json, kind: str) -> Reply:
    """Store a resource, and return the reply that it is being created."""
    azure.resources[request.path.lower()] = answer
    return accepted(azure, request, answer, kind)


@route(f"PUT {_ENDPOINT}")
def put_endpoint(azure: Azure, request: Request) -> Reply:
    """Create or change a batch endpoint."""
    workspace_of(azure, request["scope"])
    name = request["name"]
    body = request.json()
    sent = body["properties"]
    properties_of_service = {
        "BatchEndpointCreationApiVersion": request.query["api-version"],
        "azureml.onlineendpointid": request.path.lower().replace("batch", "online"),
    }
    properties = {
        "description": sent.get("description"),
        "properties": (sent.get("properties") or {}) | properties_of_service,
        "scoringUri": f"https://{name}.{INFERENCE_DOMAIN}/jobs",
        "swaggerUri": None,
        "authMode": "AADToken",
        "defaults": sent.get("defaults") or {"deploymentName": None},
        "provisioningState": "Succeeded",
    }
    zeros = "00000000-0000-0000-0000-000000000000"
    answer = arm(request.path, properties) | {
        "tags": body.get("tags") or {},
        "location": body["location"],
        "identity": {"type": "None", "principalId": zeros, "tenantId": zeros},
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
    """Return an endpoint or a deployment. Raises Refusal if there is none."""
    if id.lower() not in azure.resources:
        raise Refusal(404, "The specified resource was not found.", "NotFound")
    return azure.resources[id.lower()]


@route("GET arm{scope}/batchEndpoints")
def list_endpoints(azure: Azure, request: Request) -> Json:
    """Return the batch endpoints of a workspace."""
    # Below the endpoints there are also their deployments.
    resources = azure.list_resources_below(f"{request['scope']}/batchEndpoints")
    endpoints = [each for each in resources if each["type"].endswith("batchEndpoints")]
    return {"value": endpoints}


@route(f"DELETE {_DEPLOYMENT}")
def delete_deployment(azure: Azure, request: Request) -> Reply:
    """Delete a deployment. The reply is like the recorded one of an endpoint."""
    endpoint = find_endpoint(azure, request.path.partition("/deployments/")[0])
    if endpoint["properties"]["defaults"]["deploymentName"] == request["deployment"]:
        raise Refusal(400, "The deployment is the endpoint's default.", "UserError")
    del azure.resources[request.path.lower()]
    return Reply(None, 202, operation(azure, request, "bd"))


@route(f"PUT {_DEPLOYMENT}")
def put_deployment(azure: Azure, request: Request) -> Reply:
    """Create or change a deployment of a batch endpoint."""
    find_endpoint(azure, request.path.partition("/deployments/")[0])
    body = request.json()
    sent = {
        name: value for name, value in body["properties"].items() if value is not None
    }
    component = component_of(sent)
    if azure.components.get(component.lower(), {}).get("type") != "pipeline":
        raise Refusal(400, f"There is no pipeline component {component}.", "UserError")
    empty = ("description", "codeConfiguration", "environmentId", "model", "compute")
    properties = dict.fromkeys((*empty, "environmentVariables", "outputFileName")) | {
        "properties": {},
        "errorThreshold": 0,
        "retrySettings": {"maxRetries": 0, "timeout": "PT0S"},
        "miniBatchSize": 0,
        "loggingLevel": "Info",
        "maxConcurrencyPerInstance": 0,
        "outputAction": "SummaryOnly",
        "resources": {"instanceCount": 1, "instanceType": None, "properties": None},
    }
    properties |= sent | {"provisioningState": "Succeeded"}
    answer = arm(request.path, properties) | {
        "tags": {
            **(body.get("tags") or {}),
            "ComponentDeployment.ComponentId": component,
        },
        "location": body["location"],
    }
    return put_resource(azure, request, answer, "bd")


def component_of(deployment: Json) -> str:
    """Return the id of the component that a deployment runs.

    Its place depends on the version of the API with which the deployment was sent.
    """
    if configuration := deployment.get("deploymentConfiguration"):
        return str(configuration["componentId"]["assetId"])
    return str(deployment["properties"]["ComponentDeployment.ComponentId"])


@route(f"GET {_DEPLOYMENT}")
def get_deployment(azure: Azure, request: Request) -> Json:
    return find_endpoint(azure, request.path)


@route(f"GET {_ENDPOINT}/deployments")
def list_deployments(azure: Azure, request: Request) -> Json:
    return {"value": azure.list_resources_below(request.path)}


@route("POST inference/jobs")
def invoke(azure: Azure, request: Request) -> Reply:
    """Start the pipeline of the named deployment, or of the default deployment."""
    name = request.host.partition(".")[0]
    ids = [id for id in azure.resources if id.endswith(f"/batchendpoints/{name}")]
    if not ids:
        raise Refusal(404, "The specified resource was not found.", "NotFound")
    endpoint = azure.resources[ids[0]]
    default = endpoint["properties"]["defaults"]["deploymentName"]
    deployment_name = request.headers.get("azureml-model-deployment") or default
    if not deployment_name:
        raise Refusal(400, "The endpoint has no default deployment.", "UserError")
    id = f"{endpoint['id']}/deployments/{deployment_name}"
    deployment = find_endpoint(azure, id)["properties"]
    component = azure.components[component_of(deployment).lower()]
    configuration = deployment.get("deploymentConfiguration") or {}
    sent = request.json()["properties"]
    inputs = sent.get("inputData") or {}
    experiment = (sent.get("properties") or {}).get("experimentName")
    definition = {
        "description": f"Pipeline submission for endpoint: {name}, "
        f"deployment: {deployment_name}.",
        "experimentName": experiment or name,
        "displayName": f"invoked_{new_id()[:8]}",
        "tags": {"azureml.deploymentname": deployment_name},
        "settings": configuration.get("settings"),
        "jobs": component["jobs"],
        "inputs": add_default_inputs(component, inputs),
    }
    origin = {
        "azureml.runLineageType": "batchDeployment",
        "runSource": "BatchDeployment",
        "azureml.sourcepipelinerunid": new_id(),
    }
    scope = endpoint["id"].partition("/batchEndpoints/")[0]
    job = new_job(azure, scope, new_id(), definition, origin)
    answer = invoked_job_dto(job, inputs)
    job.start()
    address = f"https://{ML_HOST}/mferp/managementfrontend{id}"
    location = f"{address}?api-version=2020-09-01-dataplanepreview"
    return Reply(answer, 201, {"Location": location})


def add_default_inputs(component: Json, inputs: Json) -> Json:
    """Return the inputs of an invoked pipeline, with the defaults of its component."""
    defaults: Json = {
        name: {"jobInputType": "literal", "value": str(declared["default"])}
        for name, declared in (component.get("inputs") or {}).items()
        if declared.get("default") is not None
    }
    return defaults | inputs


def invoked_job_dto(job: ComponentJob, inputs: Json) -> Json:
    """Return a job as the endpoint that has started it sends it."""
    empty = ("target", "instanceCount", "location", "instanceType", "properties")
    properties = {
        "provisioningState": "Succeeded",
        "inputData": {
            name: {"description": None} | default_mode(sent, "ReadOnlyMount") | sent
            for name, sent in inputs.items()
        },
        "compute": dict.fromkeys(empty) | {"isLocal": False},
        "output": {"datastoreId": None, "path": None},
        "status": "Preparing",
        "interactionEndpoints": {
            kind: {
                "jobEndpointType": kind,
                "endpoint": service["endpoint"],
                "port": None,
                "properties": None,
            }
            for kind, service in services(job.scope, job.run).items()
        },
        "tags": dict(job.run.tags),
        "properties": dict(job.run.properties),
        "name": job.run.name,
    }
    answer = arm(f"{job.scope}/batchEndpoints//jobs/{job.run.id}", properties)
    return answer | {"type": f"{PROVIDER}/workspaces/batchEndpoints/jobs"}


# Schedules. They are stored, but never start a job


@route(f"PUT {_SCHEDULE}")
def put_schedule(azure: Azure, request: Request) -> Reply:
    """Create or change a schedule."""
    workspace_of(azure, request["scope"])
    sent = request.json()["properties"]
    existing = azure.resources.get(request.path.lower())
    is_enabled = existing["properties"]["isEnabled"] if existing else True
    properties: dict[str, Any] = {
        "description": None,
        "tags": {},
        "properties": {},
        "displayName": None,
        "isEnabled": is_enabled,
    }
    properties |= {name: value for name, value in sent.items() if value is not None}
    properties["trigger"] = trigger_dto(sent["trigger"])
    properties["provisioningState"] = "Succeeded"
    definition = sent["action"].get("jobDefinition")
    if definition:
        complete_definition = {"jobDefinition": definition_dto(definition)}
        properties["action"] = sent["action"] | complete_definition
    answer = arm(request.path, properties)
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
    """Return a trigger as the service sends it, with capitals in its words."""
    trigger = {"endTime": None, **sent}
    if frequency := sent.get("frequency"):
        trigger["frequency"] = frequency.capitalize()
    if schedule := sent.get("schedule"):
        days = [day.capitalize() for day in schedule.get("weekDays") or []]
        trigger["schedule"] = {
            **schedule,
            "weekDays": days or None,
            "monthDays": schedule.get("monthDays"),
        }
    return trigger


def definition_dto(sent: Json) -> Json:
    """Return the definition of a scheduled job with all properties that it may have."""
    empty = (
        *("description", "displayName", "services", "computeId", "identity"),
        *("componentId", "notificationSetting", "secretsConfiguration", "sourceJobId"),
    )
    defaults: Json = dict.fromkeys(empty) | {
        "status": "NotStarted",
        "experimentName": "Default",
        "isArchived": False,
        "tags": {},
        "properties": {},
        "outputs": {},
        "settings": None,
    }
    inputs = {
        name: {"description": None} | pipeline_input
        for name, pipeline_input in (sent.get("inputs") or {}).items()
    }
    return defaults | sent | {"inputs": inputs}


@route(f"GET {_SCHEDULE}")
def get_schedule(azure: Azure, request: Request) -> Json:
    schedule = resource_of(azure, request.path)
    return {key: schedule[key] for key in ("name", "properties", "systemData")}


@route("GET arm{scope}/schedules")
def list_schedules(azure: Azure, request: Request) -> Json:
    return {"value": azure.list_resources_below(f"{request['scope']}/schedules")}
