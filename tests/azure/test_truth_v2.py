"""What azure-ai-ml's own tests recorded of the real service, asked of the stand-in again.

Each recorded request that is played is sent in its order. The answer must have the recorded
status, all recorded keys, the recorded values of the words that clients compare, and the
headers by which long operations are followed; and it must conform to the specification.
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
#: Requests that no client of ours sends, and why.
NOT_PLAYED = {
    r"^DELETE ": "deployments alone are deleted",
    r"^PUT .*/datastores/": "no datastore is added",
    r"^(GET|POST) .*/datastores/test_": "the one that was added",
    r"batch-ept-11a|batch-ept-23f.*(/deployments|/jobs\b)": "deployments of a model, "
    "without a pipeline",
    r"/(jobs|runs)/a3330be9|a2bb6fff|test_495987493621": "their jobs, and an import",
    r"dataversion/batchGetResolvedUris": "azure-ai-ml 1.35.2 asks for none",
    r"mferp/managementfrontend": "azure-ai-ml 1.35.2 asks the resource manager",
}
#: Recorded keys that the stand-in leaves out, and why.
LEFT_OUT = {
    r"\.(notebookInfo|imageBuildCompute|softDeleteEnabled|storageHnsEnabled)$": "the "
    "workspace's other resources",
    r"\.(linkedModelInventoryArmId|sdkTelemetryAppInsightsKey|sasGetterUri)$": "the same",
    r"\.enableDataIsolation$|^\$\.etag$": "the same",
    r"\.containerRegistry$": "the same",
    r"\.(userAccountCredentials|propertyBag|virtualMachineImage)$": "a cluster's",
    r"properties\.(errors|resourceId)$": "the same",
    r"\.enableBatchPrivateLink$": "the same",
    r"\.(catalog|gallery|labeling|quota-manager)$": "discovery of services not played",
    r"^\$(\.value\.\d+)?(\.runMetadata)?\.\w*([uU]tc|By|Uri|Uris|Uuid|[dD]uration|Time)$": "who, "
    "when and how long, of a run",
    r"\.(_aml_system_\w+|_azureml\.\w+|Process\w+File)$": "of the machine that ran it",
    r"\.uniqueChildRunComputeTargets\.\d": "the same",
    r"\.error\.(details|additionalInfo)\.\d": "no client reads it",
    r"componentSpec\.\$schema$": "the service filled it in, and does so no more",
    r"^\$\.runDefinition": "it is asked for, and not read",
    r"^\$(\.value\.\d+)?(\.runMetadata)?\.(compute|computeRequest|queueingInfo|target)$": "the "
    "machine that ran it",
    r"\.(runTypeV2|userId|retainForLifetimeOfWorkspace)$|\.runMetadata\.description$": "who, and "
    "what for",
}
#: The words that clients compare, whose recorded values must be answered.
COMPARED = {
    *("type", "jobType", "jobInputType", "jobOutputType", "mode", "isEnabled"),
    *("credentialsType", "secretsType", "datastoreType", "isDefault", "dataType"),
    *("computeType", "environmentType", "osType", "modelType", "authMode", "name"),
    *("actionType", "triggerType", "frequency", "weekDays", "jobServiceType"),
    *("is_deterministic", "optional", "isAnonymous", "condaFile", "command"),
    *("azureml.isreused", "azureml.reusedrunid", "StepType", "runType", "dataUri"),
    *("provisioningState", "runSource", "jobEndpointType", "dataContainerId"),
}
#: What no recording has: these answers are only judged by the specification.
NOT_RECORDED = {
    *("GET {kind}", "GET {kind}/{name}", "GET mfeOperationResults/{id}"),
    *("GET batchEndpoints", "GET jobs", "GET schedules", "POST jobs/{name}/cancel"),
    "POST {kind}/{name}/versions/{version}/startPendingUpload",
    "DELETE batchEndpoints/{name}/deployments/{deployment}",
}
MISSING = object()
HEADERS = ("Location", "Azure-AsyncOperation", "x-ms-async-operation-timeout")


class Replay:
    """A stand-in that is asked what a recording holds, and how it differs."""

    def __init__(self, standin: Standin):
        self.standin, self.azure = standin, standin.azure
        self.scope = standin.create_workspace("00000", "00000")
        #: What the service has named → what the stand-in has named instead.
        self.names: dict[str, str] = {}
        self.asked: list[Request] = []
        self.differences: list[str] = []

    def translate(self, text: str) -> str:
        """The workspace, hosts and names of a recording as those of the stand-in."""
        subscription = "/subscriptions/00000000-0000-0000-0000-000000000/"
        text = text.replace(
            subscription, f"/subscriptions/{resources.SUBSCRIPTION_ID}/"
        )
        text = re.sub(r"[\w-]+\.inference\.ml\.azure\.com", INFERENCE_DOMAIN, text)
        text = re.sub(r"\w+\.api\.azureml(-test)?\.ms", ML_HOST, text)
        text = re.sub(r"locations/\w+/", "locations/westeurope/", text)
        for name, own in self.names.items():
            text = text.replace(name, own)
        return text

    def run(self, recording: Path) -> None:
        for raw in json.loads(recording.read_text(encoding="utf-8"))["entries"]:
            entry = json.loads(self.translate(json.dumps(raw)))
            url = urlsplit(entry["uri"])
            title = f"{entry['method']} {url.netloc}{url.path}"
            asked = f"{title} {(entry['request'] or {}).get('runId', '')}"
            is_blob = url.netloc.endswith(".blob.core.windows.net")
            if is_blob or any(re.search(one, asked) for one in NOT_PLAYED):
                if entry["method"] == "DELETE":
                    self.azure.resources.pop(url.path.lower(), None)
                continue
            self.prepare(entry)
            query = {key.lower(): value for key, value in parse_qsl(url.query)}
            request = Request(entry["method"], url.netloc, unquote(url.path), query, {})
            request.headers["authorization"] = f"Bearer {resources.token('any')}"
            request.body = (
                json.dumps(entry["request"]).encode() if entry["request"] else b""
            )
            if service_of(url.netloc) == "inference":  # whose headers are not recorded
                ids = [id for id in self.azure.resources if "/deployments/" in id]
                request.headers["azureml-model-deployment"] = ids[-1].split("/")[-1]
            self.ask(entry, request, title)

    def ask(self, entry: Json, request: Request, title: str) -> None:
        reply = self.standin.answer(request)
        request.status, request.answer = reply.status, reply.content()
        self.asked.append(request)
        told = json.loads(request.answer) if request.answer else None
        if request.route is None or reply.status != entry["status"]:
            self.differences.append(f"{title}: {reply.status}, not {entry['status']}")
            return
        self.learn(entry, reply.headers, told)
        recorded = json.loads(self.translate(json.dumps(entry["response"])))
        missing = [
            name
            for name in HEADERS
            if name.lower() in {key.lower() for key in entry["headers"]}
            and name not in reply.headers
        ]
        self.differences += [f"{title}: no header {name}" for name in missing]
        self.differences += [f"{title}: {one}" for one in compare(recorded, told)]

    def prepare(self, entry: Json) -> None:
        """Have what a recording only reads, as it was there before."""
        path, recorded = urlsplit(entry["uri"]).path, entry["response"]
        if entry["method"] == "GET" and path.endswith("/children"):
            parent = path.split("/")[-2]
            for one in recorded["value"]:
                self.keep_run(one, parent)
        if "/jobs/" in path and (
            job := self.azure.component_jobs.get(path.split("/")[-1])
        ):
            self.advance(job.run, recorded["properties"])
        if entry["method"] == "PUT" and entry["status"] == 200 and "/versions/" in path:
            if "/models/" in path:
                given = recorded["properties"]
                keep_model(
                    self.azure, path.split("/")[-3], recorded["name"], given["modelUri"]
                )
            self.azure.resources[path.lower()] = recorded
        if entry["method"] == "PUT" and "/jobs/" in path:
            for name in re.findall(r"/computes/([\w-]+)", json.dumps(entry["request"])):
                self.keep_cluster(name, {"vmSize": "STANDARD_D4DS_V4"})
        if entry["method"] != "GET" or entry["status"] != 200:
            return
        if "hash" in entry["uri"]:
            for one in recorded["value"]:
                hash = dict(parse_qsl(urlsplit(entry["uri"]).query))["hash"]
                one["properties"]["properties"]["hash_sha256"] = hash
                self.azure.resources[one["id"].lower()] = one
        kind = path.split("/")[-2].lower()
        if kind == "computes" and path.lower() not in self.azure.resources:
            given = recorded["properties"]["properties"]
            keys = ("vmSize", "vmPriority", "scaleSettings")
            self.keep_cluster(path.split("/")[-1], {key: given[key] for key in keys})
        elif kind == "schedules" and path.lower() not in self.azure.resources:
            self.azure.resources[path.lower()] = recorded
        elif "/components/" in path and path.lower() not in self.azure.resources:
            self.azure.components[path.lower()] = recorded["properties"][
                "componentSpec"
            ]
            self.azure.resources[path.lower()] = recorded

    def keep_cluster(self, name: str, wanted: Json) -> None:
        if f"{self.scope}/computes/{name}".lower() not in self.azure.resources:
            resources.create_compute(self.azure, self.scope, name, "eastus", wanted)

    def advance(self, run: Run, recorded: Json) -> None:
        """Let a job have come as far as it had."""
        if recorded["status"] in ("Running", "Completed"):
            run.status = recorded["status"]
        stages = "azureml.pipelines.stages"
        outputs = recorded["outputs"] if run.status == "Completed" else {}
        run.outputs |= dict.fromkeys(outputs, "datastore/azureml/one")
        if stages in recorded["properties"]:
            run.properties[stages] = recorded["properties"][stages]

    def keep_run(self, recorded: Json, parent: str) -> None:
        container = recorded["dataContainerId"].removeprefix("dcid.")
        run = self.azure.new_run(
            self.azure.runs[parent].experiment,
            id=recorded["runId"],
            name=recorded["displayName"],
            parent=parent,
            type="azureml.StepRun",
            data_of="" if container == recorded["runId"] else container,
            tags={key: one for key, one in recorded["tags"].items() if key[0] != "_"},
            properties={
                key: one
                for key, one in recorded["properties"].items()
                if not re.search(r"^_|^Process", key)
            },
        )
        run.status, run.started = recorded["status"], recorded["startTimeUtc"]
        run.ended = recorded["endTimeUtc"]

    def learn(self, entry: Json, headers: dict[str, str], told: Any) -> None:
        """Ask later for what the stand-in has named, and let a job have ended."""
        recorded = entry["response"]
        if isinstance(recorded, dict) and isinstance(told, dict) and "id" in recorded:
            self.names[recorded["id"].split("/")[-1]] = told["id"].split("/")[-1]
            if "/batchEndpoints//jobs/" in recorded["id"]:
                self.names[recorded["properties"]["name"]] = told["properties"]["name"]
        for name, old in entry["headers"].items():
            if name.lower() == "azure-asyncoperation":
                new = next(
                    headers[key] for key in headers if key.lower() == name.lower()
                )
                pattern = r"OperationsStatus/([^?]+)"
                ids = [re.search(pattern, one) for one in (old, new)]
                assert ids[0] and ids[1]
                self.names[ids[0][1]] = ids[1][1]


def compare(recorded: Any, told: Any, where: str = "$") -> Iterator[str]:
    """What is recorded and not told, or told otherwise."""
    if any(re.search(one, where) for one in LEFT_OUT):
        return
    if told is MISSING:
        yield f"has no {where}"
    elif isinstance(recorded, dict) and isinstance(told, dict):
        for key, value in recorded.items():
            yield from compare(value, told.get(key, MISSING), f"{where}.{key}")
    elif isinstance(recorded, list) and isinstance(told, list):
        known = {name_of(one): one for one in told if isinstance(one, dict)}
        for index, value in enumerate(recorded):
            if known and name_of(value) not in known:
                continue  # one thing more that was there
            other = known[name_of(value)] if known else (told[index:] + [MISSING])[0]
            yield from compare(value, other, f"{where}.{index}")
    elif recorded is not None and type(recorded) is not type(told):
        yield f"{where} is {type(told).__name__}, not {type(recorded).__name__}"
    elif where.rpartition(".")[2] in COMPARED and recorded != told:
        yield f"{where} is {told!r}, not {recorded!r}"


def name_of(one: Json) -> str | None:
    return one.get("runId") or one.get("name")


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_requests_are_answered_as_recorded(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ComponentJob, "start", lambda self: None)
    replay = Replay(Standin(tmp_path / "standin"))
    replay.run(recording)

    assert not replay.differences, "\n".join(replay.differences)
    judged, faults = judge(replay.asked)
    assert faults == []
    assert judged <= len(replay.asked) > 0


def test_what_is_played_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All routes of v2 were asked above, but for those that no recording has."""
    monkeypatch.setattr(ComponentJob, "start", lambda self: None)
    asked = set()
    for recording in RECORDINGS:
        replay = Replay(Standin(tmp_path / recording.stem))
        replay.run(recording)
        asked |= {request.route for request in replay.asked}
    played = {
        target
        for target, _, handler in ROUTES
        if handler.__module__ in (assets.__name__, jobs.__name__)
    }
    names = {re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", one) for one in played - asked}
    assert {
        re.sub(r" arm.*(\{scope}|\{location})/", " ", one) for one in names
    } == NOT_RECORDED


def test_a_wrong_answer_is_found() -> None:
    recorded = {
        "type": "a",
        "properties": {"tags": {}, "list": [{"name": "b", "c": 1}]},
    }
    told = {"type": "b", "properties": {"tags": [], "list": [{"name": "b"}]}}
    assert list(compare(recorded, told)) == [
        "$.type is 'b', not 'a'",
        "$.properties.tags is list, not dict",
        "has no $.properties.list.0.c",
    ]
