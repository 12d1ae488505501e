"""The stand-in answers azure-ai-ml's recorded requests as the real service did.

The recordings are those of azure-ai-ml's own tests. Each recorded request that the stand-in
supports is sent to it, in the recorded order. Its answer must have the recorded status, all
recorded keys, the recorded values that clients compare, and the headers by which clients
follow long operations. It must also conform to the specification.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from azure_standin import Standin, assets, jobs, resources
from azure_standin.job_execution import ComponentJob
from azure_standin.state import Json, Run
from azure_standin.tracking import keep_model
from azure_standin.truth import TRUTH, judge
from azure_standin.wire import INFERENCE_DOMAIN, ML_HOST, ROUTES, Request, service_of

pytestmark = pytest.mark.skipif(TRUTH is None, reason="no recordings beside it")
RECORDINGS = sorted((TRUTH / "recordings").glob("*.json")) if TRUTH else []
#: Patterns of requests that generated projects never send, and the reason.
SKIPPED_REQUESTS = {
    r"^DELETE ": "projects delete only deployments",
    r"^PUT .*/datastores/": "projects add no datastore",
    r"^(GET|POST) .*/datastores/test_": "this datastore was added by the recorded test",
    r"batch-ept-11a|batch-ept-23f.*(/deployments|/jobs\b)": "deployments of a model "
    "instead of a pipeline",
    r"/(jobs|runs)/a3330be9|a2bb6fff|test_495987493621": "the jobs of these deployments, and an import",
    r"dataversion/batchGetResolvedUris": "azure-ai-ml 1.35.2 sends none",
    r"mferp/managementfrontend": "azure-ai-ml 1.35.2 sends it to the resource manager",
}
#: Patterns of recorded keys that the stand-in leaves out.
OMITTED_KEYS = [
    # Other resources and properties of the workspace.
    r"\.(notebookInfo|imageBuildCompute|softDeleteEnabled|storageHnsEnabled)$",
    r"\.(linkedModelInventoryArmId|sdkTelemetryAppInsightsKey|sasGetterUri)$",
    r"\.enableDataIsolation$|^\$\.etag$",
    r"\.containerRegistry$",
    # Properties of a cluster that projects do not set.
    r"\.(userAccountCredentials|propertyBag|virtualMachineImage)$",
    r"properties\.(errors|resourceId)$",
    r"\.enableBatchPrivateLink$",
    # The addresses of services that the stand-in does not have.
    r"\.(catalog|gallery|labeling|quota-manager)$",
    # Who started a run, when, and how long it took.
    r"^\$(\.value\.\d+)?(\.runMetadata)?\.\w*([uU]tc|By|Uri|Uris|Uuid|[dD]uration|Time)$",
    r"\.(runTypeV2|userId|retainForLifetimeOfWorkspace)$|\.runMetadata\.description$",
    # The machine that ran it.
    r"\.(_aml_system_\w+|_azureml\.\w+|Process\w+File)$",
    r"\.uniqueChildRunComputeTargets\.\d",
    r"^\$(\.value\.\d+)?(\.runMetadata)?\.(compute|computeRequest|queueingInfo|target)$",
    # No client reads these.
    r"\.error\.(details|additionalInfo)\.\d",
    r"^\$\.runDefinition",
    # The service used to fill this in, and no longer does.
    r"componentSpec\.\$schema$",
]
#: The keys whose values clients compare. The stand-in must answer the recorded values.
COMPARED_KEYS = {
    *("type", "jobType", "jobInputType", "jobOutputType", "mode", "isEnabled"),
    *("credentialsType", "secretsType", "datastoreType", "isDefault", "dataType"),
    *("computeType", "environmentType", "osType", "modelType", "authMode", "name"),
    *("actionType", "triggerType", "frequency", "weekDays", "jobServiceType"),
    *("is_deterministic", "optional", "isAnonymous", "condaFile", "command"),
    *("azureml.isreused", "azureml.reusedrunid", "StepType", "runType", "dataUri"),
    *("provisioningState", "runSource", "jobEndpointType", "dataContainerId"),
}
#: Routes that no recording has. Only the specification checks their answers.
UNRECORDED_ROUTES = {
    *("GET {kind}", "GET {kind}/{name}", "GET mfeOperationResults/{id}"),
    *("GET batchEndpoints", "GET jobs", "GET schedules", "POST jobs/{name}/cancel"),
    "POST {kind}/{name}/versions/{version}/startPendingUpload",
    "DELETE batchEndpoints/{name}/deployments/{deployment}",
}
#: The headers by which clients follow long operations.
OPERATION_HEADERS = ("Location", "Azure-AsyncOperation", "x-ms-async-operation-timeout")
#: Stands for a value that the stand-in does not answer. None is a value that it may answer.
MISSING = object()


class Replay:
    """Sends recorded requests to a stand-in, and lists how its answers differ."""

    def __init__(self, standin: Standin) -> None:
        self.standin = standin
        self.azure = standin.azure
        self.scope = standin.create_workspace("00000", "00000")
        #: A name that the service has chosen → the name that the stand-in has chosen.
        self.names: dict[str, str] = {}
        self.requests: list[Request] = []
        self.differences: list[str] = []

    def run(self, recording: Path) -> None:
        """Send all requests of a recording."""
        for raw_entry in json.loads(recording.read_text(encoding="utf-8"))["entries"]:
            entry = json.loads(self.translate(json.dumps(raw_entry)))
            url = urlsplit(entry["uri"])
            if must_skip(entry):
                if entry["method"] == "DELETE":
                    self.azure.resources.pop(url.path.lower(), None)
                continue
            self.prepare(entry)
            self.send(entry, self.build_request(entry))

    def translate(self, text: str) -> str:
        """Replace the workspace, hosts and names of a recording by those of the stand-in."""
        recorded_subscription = "/subscriptions/00000000-0000-0000-0000-000000000/"
        subscription = f"/subscriptions/{resources.SUBSCRIPTION_ID}/"
        text = text.replace(recorded_subscription, subscription)
        text = re.sub(r"[\w-]+\.inference\.ml\.azure\.com", INFERENCE_DOMAIN, text)
        text = re.sub(r"\w+\.api\.azureml(-test)?\.ms", ML_HOST, text)
        text = re.sub(r"locations/\w+/", "locations/westeurope/", text)
        for recorded_name, name in self.names.items():
            text = text.replace(recorded_name, name)
        return text

    def build_request(self, entry: Json) -> Request:
        """Return the request of an entry, with a token of the stand-in."""
        url = urlsplit(entry["uri"])
        request = Request(
            method=entry["method"],
            host=url.netloc,
            path=unquote(url.path),
            query={key.lower(): value for key, value in parse_qsl(url.query)},
            headers={"authorization": f"Bearer {resources.token('any')}"},
        )
        if entry["request"]:
            request.body = json.dumps(entry["request"]).encode()
        if service_of(url.netloc) == "inference":
            # The recording lacks the header that names the deployment. It is the newest.
            ids = [id for id in self.azure.resources if "/deployments/" in id]
            request.headers["azureml-model-deployment"] = ids[-1].split("/")[-1]
        return request

    def send(self, entry: Json, request: Request) -> None:
        """Send a request, and compare the answer with the recorded one."""
        reply = self.standin.answer(request)
        request.status = reply.status
        request.answer = reply.content()
        self.requests.append(request)

        title = f"{request.method} {request.host}{request.path}"
        if request.route is None or reply.status != entry["status"]:
            self.differences.append(f"{title}: {reply.status}, not {entry['status']}")
            return

        answer = json.loads(request.answer) if request.answer else None
        self.record_names(entry, reply.headers, answer)
        recorded_headers = {name.lower() for name in entry["headers"]}
        for name in OPERATION_HEADERS:
            if name.lower() in recorded_headers and name not in reply.headers:
                self.differences.append(f"{title}: no header {name}")
        recorded_answer = json.loads(self.translate(json.dumps(entry["response"])))
        for difference in list_differences(recorded_answer, answer):
            self.differences.append(f"{title}: {difference}")

    # What was in the workspace before a request ------------------------------------------

    def prepare(self, entry: Json) -> None:
        """Create what must exist before a request, as the recorded workspace had it."""
        path = urlsplit(entry["uri"]).path
        recorded = entry["response"]
        is_read = entry["method"] == "GET"
        is_update = entry["method"] == "PUT" and entry["status"] == 200
        if is_read and path.endswith("/children"):
            parent = path.split("/")[-2]
            for run in recorded["value"]:
                self.create_run(run, parent)
        if "/jobs/" in path:
            job = self.azure.component_jobs.get(path.split("/")[-1])
            if job:
                self.advance_run(job.run, recorded["properties"])
        if is_update and "/versions/" in path:
            self.create_version(path, recorded)
        if entry["method"] == "PUT" and "/jobs/" in path:
            for name in re.findall(r"/computes/([\w-]+)", json.dumps(entry["request"])):
                self.create_cluster(name, {"vmSize": "STANDARD_D4DS_V4"})
        if is_read and entry["status"] == 200:
            self.create_resource(entry["uri"], recorded)

    def create_version(self, path: str, recorded: Json) -> None:
        """Create the version of an asset that a request updates."""
        if "/models/" in path:
            name = path.split("/")[-3]
            uri = recorded["properties"]["modelUri"]
            keep_model(self.azure, name, recorded["name"], uri)
        self.azure.resources[path.lower()] = recorded

    def create_resource(self, uri: str, recorded: Json) -> None:
        """Create the resource that a request reads, unless an earlier one has created it."""
        url = urlsplit(uri)
        path = url.path
        if "hash" in uri:
            for version in recorded["value"]:
                code_hash = dict(parse_qsl(url.query))["hash"]
                version["properties"]["properties"]["hash_sha256"] = code_hash
                self.azure.resources[version["id"].lower()] = version
        if path.lower() in self.azure.resources:
            return

        kind = path.split("/")[-2].lower()
        if kind == "computes":
            properties = recorded["properties"]["properties"]
            keys = ("vmSize", "vmPriority", "scaleSettings")
            cluster = {key: properties[key] for key in keys}
            self.create_cluster(path.split("/")[-1], cluster)
        elif kind == "schedules":
            self.azure.resources[path.lower()] = recorded
        elif "/components/" in path:
            specification = recorded["properties"]["componentSpec"]
            self.azure.components[path.lower()] = specification
            self.azure.resources[path.lower()] = recorded

    def create_cluster(self, name: str, properties: Json) -> None:
        """Create a cluster, unless there is one of this name."""
        if f"{self.scope}/computes/{name}".lower() not in self.azure.resources:
            resources.create_compute(self.azure, self.scope, name, "eastus", properties)

    def create_run(self, recorded: Json, parent: str) -> None:
        """Create the run of a step, as run history had recorded it."""
        run_id = recorded["runId"]
        container = recorded["dataContainerId"].removeprefix("dcid.")
        tags = {key: value for key, value in recorded["tags"].items() if key[0] != "_"}
        properties = {
            key: value
            for key, value in recorded["properties"].items()
            if not re.search(r"^_|^Process", key)
        }
        run = self.azure.new_run(
            self.azure.runs[parent].experiment,
            id=run_id,
            name=recorded["displayName"],
            parent=parent,
            type="azureml.StepRun",
            data_of="" if container == run_id else container,
            tags=tags,
            properties=properties,
        )
        run.status = recorded["status"]
        run.started = recorded["startTimeUtc"]
        run.ended = recorded["endTimeUtc"]

    def advance_run(self, run: Run, recorded: Json) -> None:
        """Set the run of a job to the status that it had when it was recorded."""
        if recorded["status"] in ("Running", "Completed"):
            run.status = recorded["status"]
        if run.status == "Completed":
            for name in recorded["outputs"]:
                run.outputs[name] = "datastore/azureml/output"
        stages = "azureml.pipelines.stages"
        if stages in recorded["properties"]:
            run.properties[stages] = recorded["properties"][stages]

    # Names -------------------------------------------------------------------------------

    def record_names(self, entry: Json, headers: dict[str, str], answer: Any) -> None:
        """Record which names the stand-in has chosen, for the requests that follow."""
        recorded = entry["response"]
        if isinstance(recorded, dict) and isinstance(answer, dict) and "id" in recorded:
            self.names[recorded["id"].split("/")[-1]] = answer["id"].split("/")[-1]
            if "/batchEndpoints//jobs/" in recorded["id"]:
                recorded_name = recorded["properties"]["name"]
                self.names[recorded_name] = answer["properties"]["name"]

        header = "azure-asyncoperation"
        lower_case_headers = {name.lower(): url for name, url in headers.items()}
        for name, recorded_url in entry["headers"].items():
            if name.lower() == header:
                recorded_id = find_operation_id(recorded_url)
                self.names[recorded_id] = find_operation_id(lower_case_headers[header])


def must_skip(entry: Json) -> bool:
    """Return whether a recorded request is one that generated projects never send."""
    url = urlsplit(entry["uri"])
    if url.netloc.endswith(".blob.core.windows.net"):
        return True
    run_id = (entry["request"] or {}).get("runId", "")
    description = f"{entry['method']} {url.netloc}{url.path} {run_id}"
    return any(re.search(pattern, description) for pattern in SKIPPED_REQUESTS)


def find_operation_id(url: str) -> str:
    """Return the id of a long operation from the URL at which its status is read."""
    match = re.search(r"OperationsStatus/([^?]+)", url)
    assert match, url
    return match[1]


def list_differences(recorded: Any, answer: Any, path: str = "$") -> Iterator[str]:
    """Yield a sentence on each recorded value that an answer lacks, or has otherwise."""
    if any(re.search(pattern, path) for pattern in OMITTED_KEYS):
        return
    if answer is MISSING:
        yield f"has no {path}"
    elif isinstance(recorded, dict) and isinstance(answer, dict):
        for key, value in recorded.items():
            yield from list_differences(
                value, answer.get(key, MISSING), f"{path}.{key}"
            )
    elif isinstance(recorded, list) and isinstance(answer, list):
        yield from list_differences_of_items(recorded, answer, path)
    elif recorded is not None and type(recorded) is not type(answer):
        yield f"{path} is {type(answer).__name__}, not {type(recorded).__name__}"
    elif path.rpartition(".")[2] in COMPARED_KEYS and recorded != answer:
        yield f"{path} is {answer!r}, not {recorded!r}"


def list_differences_of_items(
    recorded: list[Any], answer: list[Any], path: str
) -> Iterator[str]:
    """Compare the items of two lists: by name if they have names, else by position.

    The recorded workspace had more named items than the stand-in. These are left out.
    """
    answers_by_name = {
        read_name(item): item for item in answer if isinstance(item, dict)
    }
    for index, item in enumerate(recorded):
        item_path = f"{path}.{index}"
        if answers_by_name:
            if read_name(item) in answers_by_name:
                item_of_same_name = answers_by_name[read_name(item)]
                yield from list_differences(item, item_of_same_name, item_path)
        elif index < len(answer):
            yield from list_differences(item, answer[index], item_path)
        else:
            yield from list_differences(item, MISSING, item_path)


def read_name(item: Json) -> str | None:
    """Return the name of an item of a list, or None if it has none."""
    return item.get("runId") or item.get("name")


@pytest.fixture
def without_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs that are submitted not run, as recorded requests say how they went on."""
    monkeypatch.setattr(ComponentJob, "start", lambda self: None)


@pytest.mark.usefixtures("without_job_runs")
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_requests_get_the_recorded_answers(
    recording: Path, tmp_path: Path
) -> None:
    replay = Replay(Standin(tmp_path / "standin"))
    replay.run(recording)

    assert not replay.differences, "\n".join(replay.differences)
    judged, faults = judge(replay.requests)
    assert faults == []
    assert judged <= len(replay.requests)
    assert replay.requests


@pytest.mark.usefixtures("without_job_runs")
def test_recordings_cover_the_routes_of_v2(tmp_path: Path) -> None:
    requested_routes = set()
    for recording in RECORDINGS:
        replay = Replay(Standin(tmp_path / recording.stem))
        replay.run(recording)
        requested_routes |= {request.route for request in replay.requests}

    routes_of_v2 = {
        route
        for route, _, handler in ROUTES
        if handler.__module__ in (assets.__name__, jobs.__name__)
    }
    unrecorded_routes = set()
    for route in routes_of_v2 - requested_routes:
        # Names of values are enough, without their patterns and the scope before them.
        route = re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", route)
        route = re.sub(r" arm.*(\{scope}|\{location})/", " ", route)
        unrecorded_routes.add(route)
    assert unrecorded_routes == UNRECORDED_ROUTES


def test_differences_of_answers_are_listed() -> None:
    recorded = {
        "type": "a",
        "properties": {"tags": {}, "list": [{"name": "b", "c": 1}]},
    }
    answer = {"type": "b", "properties": {"tags": [], "list": [{"name": "b"}]}}
    assert list(list_differences(recorded, answer)) == [
        "$.type is 'b', not 'a'",
        "$.properties.tags is list, not dict",
        "has no $.properties.list.0.c",
    ]
