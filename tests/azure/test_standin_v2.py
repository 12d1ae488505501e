"""Test the stand-in with the unmodified azure-ai-ml and two tiny pipelines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure_standin import Fault, Standin, parallel
from azure_standin.resources import arm
from azure_standin.truth import TRUTH, judge
from conftest import COLD, PYTHONS

PYTHON = Path(COLD["azure-ai-ml"])
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no azure-ai-ml beside it")

PREP = """
import argparse, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--raw", type=pathlib.Path)
parser.add_argument("--prepared", type=pathlib.Path)
parser.add_argument("--scale", type=int)
parser.add_argument("--note", default="no note")
args = parser.parse_args()
assert os.environ["FLAVOUR"] == "plain"
for file in args.raw.rglob("*.csv"):
    numbers = [args.scale * int(line) for line in file.read_text().split()]
    (args.prepared / file.name).write_text("\\n".join(map(str, numbers)))
print("prepared", args.scale, args.note)
"""
TRAIN = """
import pathlib, sys
import mlflow
files = pathlib.Path(sys.argv[1]).glob("*.csv")
numbers = [int(line) for file in files for line in file.read_text().split()]
model = pathlib.Path(sys.argv[2])
(model / "mean.txt").write_text(str(sum(numbers) / len(numbers)))
with mlflow.start_run() as run:
    mlflow.log_metric("mean", sum(numbers) / len(numbers))
    mlflow.log_artifacts(str(model), "model")
version = mlflow.register_model(f"{run.info.artifact_uri}/model", "mean").version
folder = mlflow.artifacts.download_artifacts(f"models:/mean/{version}")
assert (pathlib.Path(folder) / "mean.txt").exists()
assert mlflow.MlflowClient().get_model_version("by-arm", "7").name == "by-arm"
print("registered version", version)
"""
SCORE = """
import argparse, os, pathlib

def init():
    global mean, predictions
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--predictions", type=pathlib.Path)
    parser.add_argument("--fitted", type=pathlib.Path)
    args, _ = parser.parse_known_args()
    mean, predictions = float((args.fitted / "mean.txt").read_text()), args.predictions

def run(mini_batch):
    for file in map(pathlib.Path, mini_batch):
        numbers = [int(line) - mean for line in file.read_text().split()]
        (predictions / file.name).write_text("\\n".join(map(str, numbers)))
    print("scored", len(mini_batch))
    return mini_batch
"""
#: A client that uses the SDK as a project would.
CLIENT = """
import json, logging, os, pathlib, sys, time
logging.disable(logging.WARNING)
import requests
from azure.ai.ml import Input, MLClient, Output, command, dsl
from azure.ai.ml.entities import AmlCompute, BatchEndpoint, Data, Environment, JobSchedule, Model
from azure.ai.ml.entities import PipelineComponentBatchDeployment, RecurrencePattern
from azure.ai.ml.entities import RecurrenceTrigger, Workspace
from azure.ai.ml.parallel import RunFunction, parallel_run_function
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import EnvironmentCredential

credential = EnvironmentCredential()
client = MLClient(credential, os.environ["SUBSCRIPTION"], "group", "workspace")
folder = Input(type="uri_folder")

def provision():
    try:
        client.workspaces.get("workspace")
    except ResourceNotFoundError:
        group = f"/subscriptions/{client.subscription_id}/resourcegroups/group"
        token = credential.get_token("https://management.azure.com/.default").token
        requests.put(
            f"https://management.azure.com{group}?api-version=2021-04-01",
            json={"location": "westeurope"}, headers={"Authorization": f"Bearer {token}"},
        ).raise_for_status()
        wanted = Workspace(name="workspace", location="westeurope")
        client.workspaces.begin_create(wanted).result()
    try:
        client.compute.get("cpu-cluster")
    except ResourceNotFoundError:
        client.compute.begin_create_or_update(AmlCompute(
            name="cpu-cluster", size="STANDARD_D4DS_V4", min_instances=0, max_instances=2,
        )).result()
    client.environments.create_or_update(
        Environment(name="steps", version="1", image="image", conda_file="conda.yml"))
    data = client.data.create_or_update(Data(name="numbers", path="data", type="uri_folder"))
    cluster = client.compute.get("cpu-cluster")
    return dict(
        location=client.workspaces.get("workspace").location,
        size=[cluster.size, cluster.min_instances, cluster.max_instances],
        environments=[version.version for version in client.environments.list("steps")],
        conda=client.environments.get("steps", label="latest").conda_file,
        store=client.datastores.get_default().name,
        path=client.data.get("numbers", version=data.version).path,
        newest=client.data.get("numbers", label="latest").version)

def provision_twice():
    return [provision(), provision()]

def build(name, version="1"):
    common = dict(environment=f"azureml:steps:{version}")
    prep = command(
        name="prep", code="prep", environment_variables={"FLAVOUR": "plain"},
        command="python prep.py --raw ${{inputs.raw}} --scale ${{inputs.scale}} "
        "$[[--note '${{inputs.note}}']] --prepared ${{outputs.prepared}}",
        inputs=dict(raw=folder, scale=Input(type="integer", default=3),
            note=Input(type="string", optional=True)),
        outputs=dict(prepared=Output(type="uri_folder")), **common)
    train = command(
        name="train", code="train", is_deterministic=False, inputs=dict(prepared=folder),
        command="python train.py ${{inputs.prepared}} ${{outputs.model}}",
        outputs=dict(model=Output(type="uri_folder")), **common)
    score = parallel_run_function(
        name="score", inputs=dict(ready=folder, fitted=Input(type="custom_model")),
        outputs=dict(predictions=Output(type="uri_folder"), rows=Output(type="uri_file")),
        input_data="${{inputs.ready}}", instance_count=1, max_concurrency_per_instance=1,
        mini_batch_size="1", error_threshold=0, mini_batch_error_threshold=0,
        retry_settings=dict(max_retries=2, timeout=60), is_deterministic=False,
        task=RunFunction(
            code="score", entry_script="score.py", append_row_to="${{outputs.rows}}",
            program_arguments="--predictions ${{outputs.predictions}} --fitted ${{inputs.fitted}}",
            **common))

    @dsl.pipeline(name="training", default_compute="cpu-cluster")
    def training(raw_data: folder, scale: int = 2):
        ready = prep(raw=raw_data, scale=scale)
        fitted = train(prepared=ready.outputs.prepared)
        return {"fitted": fitted.outputs.model}

    @dsl.pipeline(name="scoring", default_compute="cpu-cluster")
    def scoring(raw_data: folder, scale: int = 2):
        ready = prep(raw=raw_data, scale=scale, note="two words")
        model = Input(type="custom_model", path="mean@latest")
        scored = score(ready=ready.outputs.prepared, fitted=model)
        return {"predictions": scored.outputs.predictions}

    return training if name == "training" else scoring

def place(path):
    return Input(type="uri_folder", path=path)

RAW = place("azureml://datastores/workspaceblobstore/paths/raw/")

def outcome(name):
    while client.jobs.get(name).status not in ("Completed", "Failed", "Canceled"):
        time.sleep(0.2)
    job, steps = client.jobs.get(name), {}
    for child in client.jobs.list(parent_job_name=name):
        client.jobs.download(child.name, download_path=child.name)
        found = pathlib.Path(child.name, "artifacts")
        steps[child.display_name] = dict(
            name=child.name, status=child.status, properties=child.properties,
            logs={p.relative_to(found).as_posix(): p.read_text() for p in found.rglob("*.txt")})
    return dict(name=name, status=job.status, steps=steps)

def submit(name, raw=RAW, **values):
    job = build(name)(raw_data=raw, **values)
    if name == "scoring":
        job.outputs.predictions = Output(
            type="uri_folder",
            path="azureml://datastores/workspaceblobstore/paths/wanted/${{name}}/")
    sent = client.jobs.create_or_update(job, experiment_name=name, tags={"by": "test"})
    return outcome(sent.name)

def train_and_score():
    client.models.create_or_update(Model(name="by-arm", version="7", path="data"))
    try:
        client.models.create_or_update(Model(name="by-arm", version="7", path="train"))
    except HttpResponseError as error:
        assert "Asset paths cannot be updated." in str(error)
    else:
        raise AssertionError("one version is in two places")
    first = submit("training", scale=10)
    again = submit("training", raw=place("azureml:numbers:1"), scale=10)
    third = submit("training", raw=place("azureml:numbers:1"), scale=10)
    scored = submit("scoring", raw=place("numbers@latest"), scale=10)
    fitting = first["steps"]["fitted"]["name"]
    client.jobs.download(fitting, output_name="model", download_path="here")
    uri = f"azureml://jobs/{fitting}/outputs/artifacts/paths/model/"
    client.models.create_or_update(Model(name="of-a-job", version="1", path=uri))
    client.models.download("of-a-job", "1", download_path="downloaded")
    assert pathlib.Path("downloaded/of-a-job/model/mean.txt").exists()
    assert client.models.get("of-a-job", version="1").job_name == fitting
    models = client.models.list("mean")
    got = client.models.get("mean", label="latest")
    client.jobs.stream(third["name"])
    return dict(
        first=first, again=again, third=third, scored=scored,
        fitted=pathlib.Path("here/named-outputs/model/mean.txt").read_text(),
        versions=[model.version for model in models], path=got.path, newest=got.version,
        names=[model.name for model in client.models.list()])

def fail_and_cancel():
    failed = submit("training", scale=1)
    try:
        client.jobs.stream(failed["name"])
    except Exception as error:
        failed["error"] = str(error)
    sent = client.jobs.create_or_update(build("training")(raw_data=RAW, scale=2))
    while not list(client.jobs.list(parent_job_name=sent.name)):
        time.sleep(0.1)
    client.jobs.begin_cancel(sent.name).result()
    refused = []
    for version, cluster in (("9", "cpu-cluster"), ("1", "nope")):
        job = build("training", version)(raw_data=RAW)
        job.settings.default_compute = cluster
        try:
            client.jobs.create_or_update(job)
        except HttpResponseError as error:
            refused.append(error.message)
    return [failed, outcome(sent.name), refused]

def publish(*versions):
    client.batch_endpoints.begin_create_or_update(BatchEndpoint(name="daily")).result()
    for version in versions:
        component = client.components.create_or_update(
            build("training")(raw_data=RAW).component, version=version)
        client.batch_deployments.begin_create_or_update(PipelineComponentBatchDeployment(
            name=f"v{version}", endpoint_name="daily", component=component,
            settings={"default_compute": "cpu-cluster", "continue_on_step_failure": "False"},
        )).result()
        endpoint = client.batch_endpoints.get("daily")
        endpoint.defaults.deployment_name = f"v{version}"
        client.batch_endpoints.begin_create_or_update(endpoint).result()
    by_default = client.batch_endpoints.invoke("daily", inputs=dict(
        raw_data=place("azureml:numbers:1"), scale=Input(type="integer", default=7)))
    named = client.batch_endpoints.invoke("daily", deployment_name=f"v{versions[0]}", inputs=dict(
        raw_data=place("azureml:numbers:1")))
    trigger = RecurrenceTrigger(
        frequency="week", interval=1, schedule=RecurrencePattern(hours=[5], minutes=[0], week_days=["monday"]))
    states = []
    for _ in range(2):
        client.schedules.begin_create_or_update(JobSchedule(
            name="weekly", trigger=trigger, create_job=build("training")(raw_data=RAW))).result()
        states.append(client.schedules.get("weekly").is_enabled)
        client.schedules.begin_disable("weekly").result()
        states.append(client.schedules.get("weekly").is_enabled)
    client.schedules.begin_enable("weekly").result()
    states += [schedule.is_enabled for schedule in client.schedules.list()]
    return dict(
        default=client.batch_endpoints.get("daily").defaults.deployment_name,
        endpoints=[endpoint.name for endpoint in client.batch_endpoints.list()],
        deployments=[deployment.name for deployment in client.batch_deployments.list("daily")],
        got=client.batch_deployments.get("v1", "daily").name,
        frequency=client.schedules.get("weekly").trigger.frequency,
        states=states, jobs=[outcome(by_default.name), outcome(named.name)])

def lose():
    return submit("training", scale=1)

called, arguments = json.loads(sys.argv[1])
pathlib.Path("found.json").write_text(json.dumps(globals()[called](*arguments)))
"""


class Project:
    """A folder with the two pipelines, and a home that knows only the stand-in."""

    def __init__(self, folder: Path, standin: Standin):
        self.folder, self.standin = folder, standin
        for name, text in {"prep": PREP, "train": TRAIN, "score": SCORE}.items():
            self.write(f"{name}/{name}.py", text)
        self.write("client.py", CLIENT)
        self.write("conda.yml", "dependencies:\n- python=3.11\n")
        self.write("data/one.csv", "1\n2\n")
        self.write("data/two.csv", "6\n")
        self.variables = {"PATH": os.environ["PATH"]}
        self.variables |= standin.environment(folder / "home") | standin.credentials
        self.variables["SUBSCRIPTION"] = standin.subscription_id

    def write(self, path: str, text: str) -> None:
        """Write a file of the project."""
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def call(self, command: str, *arguments: object) -> Any:
        """Call a function of the client, which must succeed, and return its result."""
        done = subprocess.run(
            [PYTHONS["azure-ai-ml"], "client.py", json.dumps([command, arguments])],
            check=False,
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return json.loads((self.folder / "found.json").read_text())


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Standin]:
    """A stand-in without a workspace."""
    with Standin.running(tmp_path / "standin") as running:
        running.azure.python = PYTHONS["azureml-sdk"]
        yield running


@pytest.fixture
def project(tmp_path: Path, standin: Standin) -> Iterator[Project]:
    """A project whose workspace is provisioned; at the end, all requests must be known."""
    scope = standin.create_workspace("workspace", "group", "cpu-cluster")
    project = Project(tmp_path / "project", standin)
    standin.azure.upload(project.folder / "data", "datastore/raw")
    uri = "azureml://datastores/workspaceblobstore/paths/raw/"
    id = f"{scope}/data/numbers/versions/1"
    data = arm(id, {"dataUri": uri, "dataType": "uri_folder"})
    standin.azure.resources[id.lower()] = data
    id = f"{scope}/environments/steps/versions/1"
    standin.azure.resources[id.lower()] = arm(id, {"image": "image"})
    yield project
    standin.verify()
    if TRUTH:
        judged, faults = judge(standin.requests)
        assert judged > 10
        assert faults == []


def test_sdk_provisions_a_workspace_twice(tmp_path: Path, standin: Standin) -> None:
    first, second = Project(tmp_path / "project", standin).call("provision_twice")

    assert (first["location"], first["store"]) == ("westeurope", "workspaceblobstore")
    assert first["size"] == ["STANDARD_D4DS_V4", 0, 2]
    assert first["environments"] == second["environments"] == ["1"]
    assert first["conda"] == {"dependencies": ["python=3.11"]}
    assert [first["newest"], second["newest"]] == ["1", "2"]
    assert first["path"] == second["path"]
    assert len(standin.received("PUT arm.*/deployments/")) == 1
    assert len(standin.received("PUT arm.*/computes/")) == 1
    assert len(standin.received("PUT blob/.*/one.csv")) == 2  # the second its metadata
    standin.verify()


def test_sdk_trains_and_scores(standin: Standin, project: Project) -> None:
    result = project.call("train_and_score")

    first, again, third = result["first"], result["again"], result["third"]
    assert [job["status"] for job in (first, again, third)] == ["Completed"] * 3
    logs = {name: step["logs"] for name, step in first["steps"].items()}
    assert logs["ready"]["user_logs/std_log.txt"] == "prepared 10 no note\n"
    assert "registered version 1" in logs["fitted"]["user_logs/std_log.txt"]
    assert logs["fitted"]["model/mean.txt"] == result["fitted"] == "30.0"
    run = standin.azure.runs[first["steps"]["fitted"]["name"]]
    assert [(metric["key"], metric["value"]) for metric in run.metrics] == [
        ("mean", 30.0)
    ]
    # The data is the same, so prep does not run again. The step train is not deterministic.
    reused = third["steps"]["ready"]["properties"]
    assert reused["azureml.reusedrunid"] == first["steps"]["ready"]["name"]
    assert reused["azureml.reusedpipelinerunid"] == first["name"]
    assert third["steps"]["ready"]["logs"] == first["steps"]["ready"]["logs"]
    assert "azureml.isreused" not in third["steps"]["fitted"]["properties"]

    scored = result["scored"]
    assert scored["status"] == "Completed", scored
    log = scored["steps"]["ready"]["logs"]["user_logs/std_log.txt"]
    assert log == "prepared 10 two words\n"
    name = scored["steps"]["score"]["name"]
    files = standin.azure.files(f"datastore/wanted/{name}")
    texts = {
        path: standin.azure.blobs[blob].decode().split() for path, blob in files.items()
    }
    assert texts == {"one.csv": ["-20.0", "-10.0"], "two.csv": ["30.0"]}
    rows = standin.azure.files(f"datastore/azureml/{name}/rows")
    assert standin.azure.blobs[rows["rows"]].count(b".csv") == 2

    assert result["versions"] == ["1", "2", "3"]
    assert result["newest"] == "3"
    name = third["steps"]["fitted"]["name"]
    assert result["path"].endswith(f"/ExperimentRun/dcid.{name}/model")
    assert set(result["names"]) == {"mean", "by-arm", "of-a-job"}
    # All jobs use one upload of each folder.
    assert len(standin.received("PUT blob/.*/prep.py")) == 2
    secret = standin.credentials["AZURE_CLIENT_SECRET"].encode()
    routes = {request.route for request in standin.requests if secret in request.body}
    assert routes == {"POST login/{tenant}/oauth2/v2.0/token"}


def test_job_fails_with_its_step_and_can_be_cancelled(
    standin: Standin, project: Project
) -> None:
    fails = (
        "import sys, time\nif sys.argv[4] == '1':\n    raise SystemExit('no rows')\n"
    )
    project.write("prep/prep.py", f"{fails}time.sleep(60)")
    failed, cancelled, refused = project.call("fail_and_cancel")

    assert failed["status"] == "Failed"
    assert "Pipeline has failed child jobs" in failed["error"]
    assert {name: step["status"] for name, step in failed["steps"].items()} == {
        "ready": "Failed"
    }
    assert failed["steps"]["ready"]["logs"]["user_logs/std_log.txt"] == "no rows\n"
    assert cancelled["status"] == "Canceled"
    assert cancelled["steps"]["ready"]["status"] == "Canceled"
    assert "environments/steps/versions/9" in refused[0]
    assert "Compute nope was not found" in refused[1]


def test_sdk_publishes_deployments_and_a_schedule(
    standin: Standin, project: Project
) -> None:
    project.write("train/train.py", "print('trained')")
    result = project.call("publish", "1", "2")

    assert (result["default"], result["got"]) == ("v2", "v1")
    assert (result["endpoints"], result["deployments"]) == (["daily"], ["v1", "v2"])
    # A schedule that is sent again without `is_enabled` stays as it was: disabled.
    assert result["states"] == [True, False, False, False, True]
    assert result["frequency"] == "week"
    by_default, named = result["jobs"]
    assert (by_default["status"], named["status"]) == ("Completed", "Completed")
    logs = [job["steps"]["ready"]["logs"] for job in result["jobs"]]
    texts = [log["user_logs/std_log.txt"] for log in logs]
    assert texts == ["prepared 7 no note\n", "prepared 2 no note\n"]
    tags = [standin.azure.runs[job["name"]].tags for job in result["jobs"]]
    assert [tag["azureml.deploymentname"] for tag in tags] == ["v2", "v1"]


def test_lost_answer_starts_no_second_job(standin: Standin, project: Project) -> None:
    project.write("train/train.py", "import sys\nprint(sys.prefix)")
    standin.azure.python = str(PYTHON)
    standin.faults.append(Fault("PUT arm{scope}/jobs/{name}", lost=True))
    job = project.call("lose")

    assert job["status"] == "Completed"
    assert len(standin.received("PUT arm.*/jobs/")) == 2
    assert len(standin.azure.component_jobs) == 1
    log = job["steps"]["fitted"]["logs"]["user_logs/std_log.txt"]
    assert log == f"{PYTHON.parent.parent}\n"


@pytest.mark.parametrize(("allowed", "code"), [(-1, 0), (1, 0), (0, 42)])
def test_mini_batches_may_fail_up_to_a_number(
    tmp_path: Path, allowed: int, code: int
) -> None:
    script = tmp_path / "entry.py"
    script.write_text(
        "def run(batch):\n    assert 'one' not in batch[0]\n    return batch\n"
    )
    (tmp_path / "data").mkdir()
    for name in ("one", "two"):
        (tmp_path / "data" / name).touch()
    command = [sys.executable, parallel.__file__]
    command += ["--scoring_module_name", str(script)]
    command += ["--input_fds_0", "FOLDER_OF_THE_INPUT"]
    command += ["--mini_batch_size", "1"]
    command += ["--allowed_failed_count", str(allowed)]
    command += ["--output_action", "summary_only"]
    process = subprocess.run(
        command,
        check=False,
        env={"FOLDER_OF_THE_INPUT": str(tmp_path / "data")},
        capture_output=True,
    )
    assert process.returncode == code, process.stderr
