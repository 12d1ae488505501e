"""Test the stand-in with the unmodified azureml-sdk and two tiny pipelines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from azure_standin import Fault, Standin, parallel
from conftest import PYTHONS

PREP = """
import argparse, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--raw", type=pathlib.Path)
parser.add_argument("--prepared", type=pathlib.Path)
parser.add_argument("--scale", type=int)
args = parser.parse_args()
assert os.environ["raw"] == str(args.raw) and os.environ["FLAVOUR"] == "plain"
for file in args.raw.rglob("*.csv"):
    numbers = [args.scale * int(line) for line in file.read_text().split()]
    (args.prepared / file.name).write_text("\\n".join(map(str, numbers)))
print("prepared", args.scale)
"""
TRAIN = """
import pathlib, sys
import matplotlib; matplotlib.use("Agg")
import matplotlib.pyplot, mlflow
files = pathlib.Path(sys.argv[1]).glob("*.csv")
numbers = [int(line) for file in files for line in file.read_text().split()]
model = pathlib.Path("model")
(model / "data").mkdir(parents=True)
(model / "MLmodel").write_text("flavors: {}")
(model / "data" / "mean.txt").write_text(str(sum(numbers) / len(numbers)))
with mlflow.start_run() as run:
    mlflow.log_params({"count": len(numbers)})
    mlflow.log_metrics({"mean": 1.0})
    mlflow.log_metric("mean", sum(numbers) / len(numbers), step=1)
    mlflow.set_tag("kind", "mean")
    mlflow.log_figure(matplotlib.pyplot.figure(), "figure.png")
    mlflow.log_artifacts(str(model), "model")
    mlflow.log_param("kind", "mean")
    with mlflow.start_run(nested=True, run_name="inner") as inner:
        mlflow.log_metric("depth", 1)
mlflow.register_model(f"{run.info.artifact_uri}/model", "mean")
client = mlflow.MlflowClient()
newest = client.search_model_versions("name='mean'")[0]
client.set_model_version_tag("mean", newest.version, "kind", "mean")
assert client.get_model_version("mean", newest.version).tags == {"kind": "mean"}
assert [metric.value for metric in client.get_metric_history(inner.info.run_id, "depth")] == [1]
assert client.get_run(inner.info.run_id).info.status == "FINISHED"
experiment = mlflow.get_experiment_by_name("training")
assert experiment.experiment_id == run.info.experiment_id
try:
    mlflow.register_model(f"runs:/{run.info.run_id}/model", "mean")
except mlflow.MlflowException as error:
    print("runs:/ is refused:", error.error_code)
folder = mlflow.artifacts.download_artifacts(f"models:/mean/{newest.version}")
assert (pathlib.Path(folder) / "data" / "mean.txt").exists()
print("registered version", newest.version)
"""
SCORE = """
import argparse, pathlib
import mlflow

def init():
    global mean, predictions
    parser = argparse.ArgumentParser()
    parser.add_argument("--predictions", type=pathlib.Path)
    predictions = parser.parse_known_args()[0].predictions
    folder = pathlib.Path(mlflow.artifacts.download_artifacts("models:/mean/latest"))
    mean = float((folder / "data" / "mean.txt").read_text())

def run(mini_batch):
    for file in map(pathlib.Path, mini_batch):
        numbers = [int(line) - mean for line in file.read_text().split()]
        (predictions / file.name).write_text("\\n".join(map(str, numbers)))
    print("scored", len(mini_batch))
    return mini_batch
"""
#: A client that uses the SDK as a project would, and prints the result of a function as JSON.
CLIENT = """
import json, os, pathlib, sys, time
from azureml.core import Dataset, Environment, Experiment, RunConfiguration, Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.data import OutputFileDatasetConfig
from azureml.data.dataset_consumption_config import DatasetConsumptionConfig
from azureml.pipeline.core import Pipeline, PipelineEndpoint, PipelineParameter
from azureml.pipeline.core import PublishedPipeline, Schedule, ScheduleRecurrence
from azureml.pipeline.steps import ParallelRunConfig, ParallelRunStep, PythonScriptStep

names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
auth = ServicePrincipalAuthentication(*(os.environ[name] for name in names))
place = dict(subscription_id=os.environ["SUBSCRIPTION"], resource_group="group")
environment = Environment.from_pip_requirements("steps", "requirements.txt")

def connect():
    return Workspace.get("workspace", auth=auth, **place)

def provision():
    ws = Workspace.create(
        "workspace", auth=auth, location="westeurope", create_resource_group=True,
        exist_ok=True, show_output=True, **place)
    sizes = AmlCompute.provisioning_configuration("STANDARD_D4DS_V4", min_nodes=0, max_nodes=2)
    ComputeTarget.create(ws, "cpu-cluster", sizes).wait_for_completion()
    environment.register(ws)
    version = Environment.get(ws, "steps").version
    store = ws.get_default_datastore()
    store.upload("data", "raw", overwrite=True, show_progress=False)
    files = Dataset.File.from_files((store, "raw"), validate=False)
    files.register(ws, "numbers", create_new_version=True)
    store.download("copy", prefix="raw", show_progress=False)
    copied = sorted(path.name for path in pathlib.Path("copy").rglob("*.csv"))
    found = [connect().location, list(ws.compute_targets), version, copied]
    return found + [Dataset.get_by_name(ws, "numbers").version]

def build(ws, name):
    config = RunConfiguration()
    config.environment = environment
    config.environment_variables = {"FLAVOUR": "plain"}
    common = dict(compute_target="cpu-cluster", runconfig=config)
    files = Dataset.File.from_files((ws.get_default_datastore(), "raw"), validate=False)
    raw = DatasetConsumptionConfig("raw", PipelineParameter("raw_data", files)).as_mount()
    prepared = OutputFileDatasetConfig("prepared")
    prep = PythonScriptStep(
        "prep.py", name="prep", source_directory="prep", inputs=[raw], outputs=[prepared],
        arguments=["--raw", raw, "--prepared", prepared, "--scale", PipelineParameter("scale", 2)],
        **common)
    ready = prepared.as_input("prepared")
    if name == "training":
        return Pipeline(ws, [prep, PythonScriptStep(
            "train.py", name="train", source_directory="train", inputs=[ready], arguments=[ready],
            allow_reuse=False, **common)])
    predictions = OutputFileDatasetConfig("predictions")
    parallel = ParallelRunConfig(
        environment=environment, entry_script="score.py", source_directory="score",
        error_threshold=0, output_action="summary_only", compute_target="cpu-cluster",
        mini_batch_size=PipelineParameter("mini_batch_size", "1"), run_invocation_timeout=60,
        node_count=PipelineParameter("node_count", 1), run_max_try=2,
        process_count_per_node=PipelineParameter("process_count_per_node", 1))
    return Pipeline(ws, [prep, ParallelRunStep(
        name="score", parallel_run_config=parallel, inputs=[ready], output=predictions,
        arguments=["--predictions", predictions], allow_reuse=False)])

def outcome(run):
    while run.get_status() in ("NotStarted", "Running"):
        if os.environ.get("CANCEL") and list(run.get_steps()):
            run.cancel()
        time.sleep(0.2)
    steps = {}
    for step in run.get_steps():
        logs = {}
        for path in step.get_details()["logFiles"]:
            assert path in step.get_file_names()
            step.download_file(path, "log.txt")
            logs[path] = pathlib.Path("log.txt").read_text()
        steps[step.name] = dict(status=step.get_status(), logs=logs, id=step.id)
    error = run.get_details().get("error")
    return dict(id=run.id, status=run.get_status(), steps=steps, error=error)

def submit(name, **values):
    ws = connect()
    experiment = Experiment(ws, name)
    run = experiment.submit(build(ws, name), pipeline_parameters=values, tags={"by": "test"})
    return outcome(ws.get_run(run.id))

def list_active_schedules(ws, endpoint):
    schedules = Schedule.list(ws, pipeline_endpoint_id=endpoint.id)
    return [schedule for schedule in schedules if schedule.status == "Active"]

def publish(name, frequency):
    ws = connect()
    pipeline = build(ws, name).publish(name)
    endpoints = [each for each in PipelineEndpoint.list(ws) if each.name == name]
    if endpoints:
        endpoint = endpoints[0]
        endpoint.add_default(pipeline)
    else:
        endpoint = PipelineEndpoint.publish(ws, name, pipeline=pipeline, description="")
    old_schedules = list_active_schedules(ws, endpoint)
    Schedule.create_for_pipeline_endpoint(
        ws, name, pipeline_endpoint_id=endpoint.id, experiment_name=name,
        recurrence=ScheduleRecurrence(frequency, 1), wait_for_provisioning=True)
    for schedule in old_schedules:
        schedule.disable(wait_for_provisioning=True)
    endpoint = PipelineEndpoint.get(ws, name=name)
    active_schedules = list_active_schedules(ws, endpoint)
    assert endpoint.list_pipelines()[-1].id == pipeline.id
    assert pipeline.id in [published.id for published in PublishedPipeline.list(ws)]
    assert PublishedPipeline.get(ws, pipeline.id).name == name
    assert len(Schedule.list(ws, pipeline_id=pipeline.id)) == 0 < len(Schedule.list(ws))
    result = outcome(endpoint.submit(name, pipeline_parameters={"scale": 5}))
    frequencies = [schedule.recurrence.frequency for schedule in active_schedules]
    return [endpoint.default_version, frequencies, result]

command, arguments = json.loads(sys.argv[1])
values = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
print(json.dumps(globals()[command](*arguments, **values)))
"""


class Project:
    """A folder with the two pipelines, and a home that knows only the stand-in."""

    def __init__(self, folder: Path, standin: Standin):
        self.folder, self.standin = folder, standin
        for name, text in {"prep": PREP, "train": TRAIN, "score": SCORE}.items():
            self.write(f"{name}/{name}.py", text)
        self.write("client.py", CLIENT)
        self.write("requirements.txt", "azureml-defaults")
        self.write("data/one.csv", "1\n2\n")
        self.write("data/two.csv", "6\n")
        self.variables = {
            name: os.environ[name]
            for name in ("PATH", "SYSTEMROOT")
            if name in os.environ
        }
        self.variables |= standin.environment(folder / "home") | standin.credentials
        self.variables["SUBSCRIPTION"] = standin.subscription_id

    def write(self, path: str, text: str) -> None:
        """Write a file of the project."""
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def run(
        self, command: str, *arguments: object, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Call a function of the client in a process of its own."""
        call = [PYTHONS["azureml-sdk"], "client.py", json.dumps([command, arguments])]
        return subprocess.run(
            call,
            check=False,
            cwd=self.folder,
            env=self.variables | variables,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def call(self, command: str, *arguments: object, **variables: str) -> Any:
        """Call a function of the client, which must succeed, and return its result."""
        done = self.run(command, *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Standin]:
    """A stand-in without a workspace."""
    with Standin.running(tmp_path / "standin") as running:
        running.azure.python = PYTHONS["azureml-sdk"]
        yield running


@pytest.fixture
def project(tmp_path: Path, standin: Standin) -> Iterator[Project]:
    """A project whose workspace is provisioned; at the end, all requests must be known."""
    standin.create_workspace("workspace", "group", "cpu-cluster")
    project = Project(tmp_path / "project", standin)
    standin.azure.upload(project.folder / "data", "datastore/raw")
    yield project
    standin.verify()


def list_uploaded_modules(standin: Standin) -> list[str]:
    """Return the names of all steps that were uploaded."""
    return sorted(
        request.json()["Name"]
        for request in standin.received("POST ml/pipelines.*/Modules$")
    )


def test_sdk_provisions_a_workspace_twice(tmp_path: Path, standin: Standin) -> None:
    project = Project(tmp_path / "project", standin)

    copied = ["one.csv", "two.csv"]

    first = project.call("provision")
    assert first == ["westeurope", ["cpu-cluster"], "1", copied, 1]
    assert list(standin.azure.files("datastore/raw")) == copied
    assert len(standin.received("PUT arm.*/deployments/")) == 1
    second = project.call("provision")
    assert second == ["westeurope", ["cpu-cluster"], "1", copied, 2]
    assert len(standin.received("PUT arm.*/deployments/")) == 1
    standin.verify()


def test_sdk_trains_and_scores(standin: Standin, project: Project) -> None:
    trained = project.call("submit", "training", {"scale": 10})

    assert trained["status"] == "Finished", trained
    assert "prepared 10" in trained["steps"]["prep"]["logs"]["user_logs/std_log.txt"]
    assert (
        "registered version 1"
        in trained["steps"]["train"]["logs"]["user_logs/std_log.txt"]
    )
    run = standin.azure.runs[trained["steps"]["train"]["id"]]
    assert run.parameters == {"count": "3", "kind": "mean"}
    assert run.tags["kind"] == "mean"
    assert [(metric["key"], metric["value"]) for metric in run.metrics] == [
        ("mean", 1.0),
        ("mean", 30.0),
    ]
    assert {"figure.png", "model/MLmodel", "model/data/mean.txt"} <= set(
        standin.azure.artifacts(run)
    )
    assert list_uploaded_modules(standin) == ["prep", "train"]

    scored = project.call("submit", "scoring", {"scale": 10, "mini_batch_size": "2"})

    assert scored["status"] == "Finished", scored
    outputs = standin.azure.files(
        f"datastore/dataset/{scored['steps']['score']['id']}/predictions"
    )
    texts = {
        path: standin.azure.blobs[blob].decode().split()
        for path, blob in outputs.items()
    }
    assert texts == {"one.csv": ["-20.0", "-10.0"], "two.csv": ["30.0"]}
    assert (
        "scored 2"
        in scored["steps"]["score"]["logs"][
            "logs/user/stdout/10.0.0.4/process000.stdout.txt"
        ]
    )
    assert list_uploaded_modules(standin) == ["prep", "score", "train"]
    # The module, its values and its data are the same, so the result of the training is reused.
    assert standin.azure.runs[scored["steps"]["prep"]["id"]].properties[
        "azureml.reusedrunid"
    ]

    project.write("train/train.py", TRAIN + "# edited")
    again = project.call("submit", "training", {"scale": 10})

    assert again["status"] == "Finished", again
    assert list_uploaded_modules(standin) == ["prep", "score", "train", "train"]
    assert (
        "registered version 2"
        in again["steps"]["train"]["logs"]["user_logs/std_log.txt"]
    )
    secret = standin.credentials["AZURE_CLIENT_SECRET"].encode()
    assert {
        request.route for request in standin.requests if secret in request.body
    } == {"POST login/{tenant}/oauth2/v2.0/token"}


def test_failed_step_fails_the_run_and_has_its_log(
    standin: Standin, project: Project
) -> None:
    project.write("train/train.py", "raise SystemExit('no rows')")
    failed = project.call("submit", "training")

    assert (failed["status"], failed["steps"]["train"]["status"]) == (
        "Failed",
        "Failed",
    )
    assert "Step train failed" in failed["error"]["error"]["message"]
    logs = failed["steps"]["train"]["logs"]
    assert {name: log for name, log in logs.items() if log} == {
        "user_logs/std_log.txt": "no rows\n"
    }


def test_failed_parallel_step_has_the_log_of_its_workers(
    standin: Standin, project: Project
) -> None:
    project.write(
        "score/score.py", "def run(mini_batch):\n    raise ValueError('no model')"
    )
    failed = project.call("submit", "scoring")

    assert failed["status"] == "Failed"
    logs = failed["steps"]["score"]["logs"]
    assert logs["user_logs/std_log.txt"] == "SystemExit: 42\n"
    assert logs["logs/user/error.txt"].count("ValueError: no model") == 2


def test_canceled_run_cancels_its_steps(standin: Standin, project: Project) -> None:
    standin.azure.endless_steps.add("prep")
    cancelled = project.call("submit", "training", CANCEL="yes")

    assert cancelled["status"] == "Canceled"
    assert {name: step["status"] for name, step in cancelled["steps"].items()} == {
        "prep": "Canceled"
    }


def test_second_publish_adds_a_version_to_the_endpoint(
    standin: Standin, project: Project
) -> None:
    project.write("train/train.py", "print('trained')")

    version, frequencies, result = project.call("publish", "training", "Day")
    assert (version, frequencies, result["status"]) == ("0", ["Day"], "Finished")
    assert "prepared 5" in result["steps"]["prep"]["logs"]["user_logs/std_log.txt"]
    version, frequencies, result = project.call("publish", "training", "Week")
    assert (version, frequencies, result["status"]) == ("1", ["Week"], "Finished")
    assert len(standin.azure.endpoints) == 1
    assert len(standin.azure.pipelines) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("POST login/.*/token", 401), "AADSTS7000215"),
        (Fault("GET arm{scope}", 403), "AuthorizationFailed"),
        (Fault("GET arm{scope}", 404), "Workspace not found"),
        (Fault("GET arm{scope}", 200, body=b"<html>"), "JSON is invalid"),
        (Fault("CreationInfoWithGraph", 500), "Internal Server Error"),
    ],
    ids=lambda value: value.pattern if isinstance(value, Fault) else None,
)
def test_sdk_gets_the_faults_of_the_standin(
    standin: Standin, project: Project, fault: Fault, message: str
) -> None:
    standin.faults.append(fault)
    done = project.run("submit", "training")

    assert done.returncode == 1
    assert message in done.stderr
    assert fault.seen == 1


def test_sdk_recovers_from_short_faults(standin: Standin, project: Project) -> None:
    project.write("train/train.py", "print('trained')")
    standin.faults += [
        Fault("GET arm{scope}", 429, retry_after=1),
        Fault("POST ml/.*/CreationInfoWithGraph", stall=0.5),
        Fault("PUT blob/snapshots/.*/train.py", cut=True),
    ]

    assert project.call("submit", "training")["status"] == "Finished"
    assert [fault.seen for fault in standin.faults] == [2, 2, 2]


def test_unknown_requests_and_hosts_are_refused(
    tmp_path: Path, standin: Standin
) -> None:
    variables = standin.environment(tmp_path / "home")
    proxies = {"https": variables["HTTPS_PROXY"]}
    options: Any = {
        "proxies": proxies,
        "verify": variables["REQUESTS_CA_BUNDLE"],
        "timeout": 10,
    }
    unknown = requests.post(
        "https://management.azure.com/subscriptions/x/locks", **options
    )

    assert unknown.status_code == 501
    assert "POST arm/subscriptions/x/locks" in unknown.json()["error"]["message"]
    with pytest.raises(AssertionError, match="POST arm/subscriptions/x/locks"):
        standin.verify()
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get("https://example.org/", **options)
    assert standin.refused_hosts == ["example.org"]


def test_entry_script_is_loaded_as_azure_loads_it(tmp_path: Path) -> None:
    script = tmp_path / "entry_script.py"
    (tmp_path / "neighbour_of_it.py").write_text("one = 1")
    script.write_text("name = __name__")
    assert parallel.load(script).name == "score_module"
    assert not {"score_module", "entry_script"} & sys.modules.keys()
    script.write_text("from neighbour_of_it import one\nname = __name__")
    assert parallel.load(script).name == "entry_script"
    lookup = "from dataclasses import dataclass\n@dataclass\nclass A:\n    one: int\n"
    script.write_text(f"from __future__ import annotations\n{lookup}")
    with pytest.raises(AttributeError):
        parallel.load(script)
