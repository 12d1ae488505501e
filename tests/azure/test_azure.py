"""Test provision, submit and publish of generated projects, with azureml-sdk.

The unmodified SDK talks over HTTPS to the stand-in for Azure (azure_standin/), which runs
the steps that it has received. The tests see only the commands' output and the requests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from azure_standin import Fault, Standin, resources
from azure_standin.pipelines import fire_schedule
from azure_standin.truth import TRUTH, judge
from azure_user import (
    ANSWERS,
    MONITOR,
    SECRET,
    STEPS,
    TOY_PREP,
    TOY_SCORE,
    Shell,
    User,
    assert_all_finished,
    assert_drift_ends_the_run,
    assert_log_of_failed_step_is_shown,
    assert_one_sentence,
    assert_output_of_entry_script_is_shown,
    assert_outputs_are_registered,
    assert_predictions_are_summed_up,
    assert_same_steps_are_reused,
    assert_search_is_tracked,
    assert_status_judges_runs,
    assert_violations_are_reported,
    enable_weekly_schedules,
    list_states,
    read_lines,
    states_by_step,
    train_and_score_on_azure,
)
from conftest import Bake
from toys import wait_until

#: With these variables, neither the stand-in's managed identity nor the machine's is found.
NO_IDENTITY = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")


@pytest.fixture
def user(bake: Bake, tmp_path: Path) -> Iterator[User]:
    """A user whose steps do nothing, in a workspace with a cluster."""
    with Standin.running(tmp_path / "standin") as standin:
        standin.create_workspace("workspace", "group", "cpu-cluster")
        user = User(bake(**ANSWERS), standin, tmp_path / "home")
        for step in STEPS:
            user.write(step, "print('done')")
        yield user


@pytest.fixture(scope="module")
def trained(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user who has trained and scored on Azure. The tests share this project."""
    project = bake(**ANSWERS)
    with train_and_score_on_azure(project, tmp_path_factory.mktemp("azure")) as user:
        yield user


def test_training_and_scoring_finish(trained: User) -> None:
    training_run = next(iter(trained.standin.azure.jobs))
    assert_all_finished(trained, training_run, finished="finished")


def test_training_is_tracked_and_its_model_is_registered(trained: User) -> None:
    azure = trained.standin.azure
    steps = {run.name: run for run in azure.runs.values() if run.parent}
    train = steps["train"]
    evaluate = steps["evaluate"]
    register = steps["register"]
    assert_search_is_tracked(azure, train)
    metrics = {metric["key"]: metric["value"] for metric in evaluate.metrics}
    assert metrics["accuracy"] > 0.9
    assert "predictions.png" in azure.artifacts(evaluate)
    version = azure.models["penguins"][0]
    assert (version["version"], version["run_id"]) == ("1", register.id)
    assert "model/MLmodel" in azure.artifacts(register)


def test_outputs_in_settings_are_registered(trained: User) -> None:
    assert_outputs_are_registered(trained)


def test_predictions_are_those_of_a_local_run(trained: User, tmp_path: Path) -> None:
    assert_predictions_are_summed_up(trained, tmp_path)
    remote = tmp_path / "predictions"
    azure = trained.standin.azure
    project = trained.project
    register_run = next(run for run in azure.runs.values() if run.name == "register")
    model_files = azure.files(f"azureml/{register_run.container}/model")
    azure.restore(model_files, tmp_path / "model")
    # The model that was trained on Azure is registered on this machine.
    code = "import pathlib, register; register.register(pathlib.Path({!r}), {!r})"
    registered = project.python(
        "-c",
        code.format(str(tmp_path / "model"), "penguins"),
        PYTHONPATH=str(project.path / "steps" / "register"),
        MLFLOW_TRACKING_URI=f"sqlite:///{project.path}/mlruns/mlflow.db",
        _MLFLOW_SERVER_ARTIFACT_ROOT=(project.path / "mlruns/artifacts").as_uri(),
    )
    assert registered.code == 0, registered.err

    scoring = project.run("scoring")

    assert scoring.code == 0, scoring.err
    local = Path(scoring.json["steps"][2]["outputs"]["predictions"])
    assert [file.name for file in sorted(local.iterdir())] == [
        file.name for file in sorted(remote.iterdir())
    ]
    rows = pd.read_parquet(remote)
    assert len(rows) > 40
    pd.testing.assert_frame_equal(rows, pd.read_parquet(local), check_exact=True)


def test_only_an_edited_step_is_uploaded_again(trained: User) -> None:
    """Edit the step train as the page on changes says, and submit training again."""
    # Only prep of training has the argument for the target, so prep is two modules.
    steps = ["evaluate", "monitor", "prep", "prep", "register"]
    steps += ["score", "summarize", "train"]
    assert sorted(trained.list_uploaded_steps()) == steps
    page = (trained.project.path / "docs/change.md").read_text(encoding="utf-8")
    code_on_page = re.search(r"( +mlflow\.sklearn\.autolog.*?)```", page, re.DOTALL)
    assert code_on_page
    fit = "        pipeline.fit(data.features, data.target)\n"
    trained.project.edit("steps/train/train.py", fit, code_on_page[1])
    request_count = len(trained.standin.requests)

    result = trained.run("submit", "training", "--wait", "--set", "max_iterations=20")

    assert result.code == 0, result.err
    assert trained.list_uploaded_steps(request_count) == ["train"]
    requests = trained.standin.requests[request_count:]
    uploaded_files = {
        Path(request.path).name
        for request in requests
        if request.target.startswith("PUT blob/snapshots/")
    }
    train_folder = trained.project.path / "steps" / "train"
    assert uploaded_files == {path.name for path in train_folder.glob("*.py")}
    uploads_of_data = [
        request
        for request in requests
        if request.target.startswith("PUT blob/datastore/")
    ]
    assert uploads_of_data == []
    assert states_by_step(result.out) == {
        **states_by_step(result.out),
        "prep": "reused",
        "train": "finished",
        "evaluate": "finished",
        "register": "finished",
    }
    # The model is the same as before, so it is not registered again.
    assert len(trained.standin.azure.models["penguins"]) == 1

    # autolog writes to the run of the step, and not to a run of its own.
    train = trained.newest_run()[1]["train"]
    assert train.parameters["model__learning_rate"] == "0.1"
    assert train.parameters["learning_rate"] == "0.1"
    names = [run.name for run in trained.standin.azure.runs.values()]
    assert names.count("train") == 2
    for request in requests:
        if "/mlflow/" in request.path:
            assert request.status < 400, request.target


def test_same_steps_are_reused_here_and_on_azure(user: User) -> None:
    assert_same_steps_are_reused(user)


def test_scoring_uses_the_model_version_in_settings(trained: User) -> None:
    versions = trained.standin.azure.models["penguins"]
    versions.append(versions[0] | {"version": str(len(versions) + 1)})
    request_count = len(trained.standin.requests)
    trained.project.set("scoring", model_version=1)

    result = trained.run("submit", "scoring", "--wait")

    assert result.code == 0, result.err
    requested_versions = {
        request.query["version"]
        for request in trained.standin.requests[request_count:]
        if "model-versions/get" in request.path
    }
    assert requested_versions == {"1"}


def test_drift_ends_the_run_before_anything_is_scored(trained: User) -> None:
    assert_drift_ends_the_run(trained)


def test_violations_of_rules_are_reported(trained: User) -> None:
    assert_violations_are_reported(trained)


def test_requests_and_output_have_no_secret(trained: User) -> None:
    requests = trained.standin.requests
    tokens = {request.token for request in requests} - {""}
    assert tokens
    for request in requests:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name != "authorization"
        }
        text = f"{request.path} {request.query} {headers}".encode() + request.body
        # Only a login may have the secret.
        secrets = tokens if request.service == "login" else {SECRET, *tokens}
        for secret in secrets:
            assert secret.encode() not in text, request.target
    for result in trained.results.values():
        for secret in (SECRET, "sig=", *tokens):
            assert secret not in result.out + result.err


@pytest.mark.skipif(TRUTH is None, reason="no specifications beside it")
def test_answers_fit_the_specifications(trained: User) -> None:
    assert trained.run("check", "--online").code == 0
    judged, faults = judge(trained.standin.requests)
    assert faults == []
    assert judged > 60


# Provision ------------------------------------------------------------------------------


def test_provision_creates_missing_resources_once(bake: Bake, tmp_path: Path) -> None:
    with Standin.running(tmp_path / "standin") as standin:
        azure = standin.azure
        user = User(bake(**ANSWERS), standin, tmp_path / "home")
        refused = user.run("provision")
        assert refused.code == 1
        assert "There is no workspace workspace in the resource group" in refused.err
        assert "provision --create-workspace" in refused.err
        assert not [id for id in azure.resources if "groups/" in id]

        first = user.run("provision", "--create-workspace")
        assert (first.code, first.err) == (0, "")
        states = ["created", "created", "registered", "uploaded", "uploaded"]
        assert list_states(first.out) == states
        (cluster,) = [
            resource for id, resource in azure.resources.items() if "/computes/" in id
        ]
        properties = cluster["properties"]["properties"]
        scale = properties["scaleSettings"]
        assert properties["vmSize"] == "STANDARD_D4DS_V4"
        assert (scale["minNodeCount"], scale["maxNodeCount"]) == (0, 2)
        assert "PT" in scale["nodeIdleTimeBeforeScaleDown"]
        pins = (user.project.path / "environment/steps.txt").read_text().splitlines()
        environment = json.dumps(azure.environments["penguins-steps"])
        for pin in filter(None, pins):
            # In the environment, a quotation mark of a pin is escaped.
            assert json.dumps(pin).strip('"') in environment
        data_files = [Path(path).name for path in azure.files("datastore/penguins")]
        tables = ["PAL0708.csv", "PAL0809.csv", "PAL0910.csv", "penguins.csv"]
        assert sorted(data_files) == tables

        request_count = len(standin.requests)
        second = user.run("provision", "--create-workspace")
        assert second.code == 0
        assert set(list_states(second.out)) == {"unchanged"}
        methods = {request.method for request in standin.requests[request_count:]}
        # The only POST is the login.
        assert methods - {"GET", "HEAD"} == {"POST"}
        standin.verify()


def test_changed_data_is_uploaded_to_another_folder(user: User) -> None:
    assert user.run("provision").code == 0
    user.project.edit("data/sample/scoring/penguins.csv", "Torgersen", "Biscoe")
    changed = user.run("provision")
    assert list_states(changed.out)[-2:] == ["unchanged", "uploaded"]
    files = user.standin.azure.files("datastore/penguins")
    folders = {path.split("/")[0] for path in files}
    assert len(folders) == 3


def test_provision_continues_if_data_is_missing(user: User) -> None:
    user.project.set("data", training="data/customers")
    result = user.run("provision")
    assert (result.code, result.err) == (0, "")
    missing = "missing    data.training: there is no file in data/customers"
    assert missing in result.out.splitlines()
    assert list_states(result.out)[-1] == "uploaded"


# Publish --------------------------------------------------------------------------------


def list_active_schedules(user: User) -> list[Any]:
    """Return the schedules that are not disabled."""
    schedules = user.standin.azure.schedules.values()
    return [schedule for schedule in schedules if schedule["EntityStatus"] == "0"]


def test_publish_updates_the_endpoint_and_its_schedule(user: User) -> None:
    """Publish without a schedule, then with one, with another one, and without again."""
    azure = user.standin.azure
    endpoints = azure.endpoints
    settings_file = user.project.path / "settings.yml"
    settings = settings_file.read_text(encoding="utf-8")
    weekly = enable_weekly_schedules(settings)

    first = user.run("publish", "scoring")
    assert first.code == 0, first.err
    (endpoint,) = endpoints.values()
    assert (endpoint["Name"], endpoint["DefaultVersion"]) == ("penguins-scoring", "0")
    assert endpoint["Url"] in first.out
    assert not list_active_schedules(user)

    settings_file.write_text(weekly, encoding="utf-8")
    assert_dry_run_changes_nothing(user)

    second = user.run("publish", "scoring")
    assert second.code == 0, second.err
    assert (len(endpoints), endpoint["DefaultVersion"]) == (1, "1")
    (schedule,) = list_active_schedules(user)
    assert schedule["PipelineEndpointId"] == endpoint["Id"]
    assert schedule["Recurrence"]["Frequency"] == "Week"
    assert schedule["Recurrence"]["TimeZone"] == "W. Europe Standard Time"

    path_of_endpoint = endpoint["Url"].partition("/pipelines/v1.0")[2]
    scope = path_of_endpoint.partition("/PipelineRuns")[0]
    with closing(Shell(user)) as shell:
        assert_status_judges_runs(
            user, shell, lambda: fire_schedule(azure, scope, schedule)
        )

    third = user.run("publish", "scoring")
    assert "unchanged  schedule" in third.out
    assert list_active_schedules(user) == [schedule]
    assert endpoint["DefaultVersion"] == "2"

    older_model = weekly.replace("model_version: latest", "model_version: 1")
    an_hour_later = older_model.replace("hours: [6]", "hours: [7]")
    settings_file.write_text(an_hour_later, encoding="utf-8")
    request_count = len(user.standin.requests)
    assert user.run("publish", "scoring").code == 0
    assert find_published_model_version(user, request_count) == "1"
    (changed,) = list_active_schedules(user)
    assert changed["Recurrence"]["Schedule"]["Hours"] == [7]
    assert changed["Id"] != schedule["Id"]

    settings_file.write_text(settings, encoding="utf-8")
    assert user.run("publish", "scoring").code == 0
    assert not list_active_schedules(user)
    user.standin.verify()


def assert_dry_run_changes_nothing(user: User) -> None:
    """Check that `publish --dry-run` describes the changes, and only logs in."""
    request_count = len(user.standin.requests)
    result = user.run("publish", "scoring", "--dry-run")
    assert "would be published  penguins-scoring" in result.out
    assert "would be scheduled  frequency Week, interval 1" in result.out
    writing_routes = {
        request.route
        for request in user.standin.requests[request_count:]
        if request.method != "GET"
    }
    assert writing_routes == {"POST login/{tenant}/oauth2/v2.0/token"}


def find_published_model_version(user: User, request_count: int) -> str:
    """Return the version of the model that was published after some requests."""
    (request,) = [
        request
        for request in user.standin.requests[request_count:]
        if request.method == "POST" and request.path.endswith("/Pipelines/Create")
    ]
    parameters = {
        parameter["Name"]: parameter["DefaultValue"]
        for parameter in request.json()["GraphInterface"]["Parameters"]
    }
    return str(parameters["model_version"])


# Faults ---------------------------------------------------------------------------------


@pytest.fixture
def shell(user: User) -> Iterator[Shell]:
    """A shell that runs commands of the user's project."""
    with closing(Shell(user)) as shell:
        yield shell


@pytest.fixture
def cold_shell(user: User) -> Iterator[Shell]:
    """A shell whose SDK records uploads in the user's home.

    The SDK looks for the home when it is imported, so it must not have been imported before.
    """
    with closing(Shell(user, COLD="1")) as shell:
        yield shell


def forget_uploads(user: User) -> None:
    """Remove the files in which the SDK records its uploads."""
    shutil.rmtree(user.home, ignore_errors=True)


def remove_everything(user: User) -> None:
    """Remove everything from Azure, so that provision must create it."""
    forget_uploads(user)
    azure = user.standin.azure
    for id in [id for id in azure.resources if "/resourcegroups/" in id]:
        del azure.resources[id]
    azure.environments.clear()
    azure.blobs.clear()


def change_step_and_data(user: User) -> None:
    """Change a step and remove the data, so that submit must upload both."""
    forget_uploads(user)
    user.write("prep", f"print({time.time_ns()})")
    azure = user.standin.azure
    azure.experiments.clear()
    for blob in azure.files("datastore").values():
        del azure.blobs[blob]


def change_schedule(user: User) -> None:
    """Set a schedule that has not been published before."""
    path = user.project.path / "settings.yml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    schedule = {"frequency": "Minute", "interval": time.time_ns() % 10_000 + 1}
    settings["schedules"] = {"training": schedule, "scoring": schedule}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")


def remove_endpoints(user: User) -> None:
    """Remove all endpoints and their schedules, so that publish must create them."""
    change_schedule(user)
    user.standin.azure.endpoints.clear()
    user.standin.azure.schedules.clear()


#: Without this route, publish still works. Its message on an error only comes later.
OPTIONAL_ROUTE = "GET ml/pipelines/v1.0{scope}/PipelineEndpoints/Name"
#: The other routes of publish are those of a submission.
ROUTES_OF_PUBLISH = "Pipelines|Endpoint|Schedule"


@pytest.mark.parametrize(
    ("command", "prepare", "routes_pattern"),
    [
        pytest.param(
            "provision --create-workspace", remove_everything, "", id="provision"
        ),
        pytest.param("submit training", change_step_and_data, "", id="submit"),
        pytest.param(
            "publish training", remove_endpoints, ROUTES_OF_PUBLISH, id="publish"
        ),
        pytest.param(
            "publish training",
            change_schedule,
            ROUTES_OF_PUBLISH,
            id="publish again",
        ),
    ],
)
def test_command_recovers_from_an_error_of_each_route(
    user: User,
    cold_shell: Shell,
    command: str,
    prepare: Callable[[User], None],
    routes_pattern: str,
) -> None:
    if prepare is change_schedule:
        remove_endpoints(user)
        assert cold_shell.run(command).code == 0
    prepare(user)
    request_count = len(user.standin.requests)
    assert cold_shell.run(command).code == 0
    requests = user.standin.requests[request_count:]
    requested_routes = {request.route or "" for request in requests}
    routes = [route for route in requested_routes if re.search(routes_pattern, route)]
    assert len(routes) >= 5

    for route in sorted(routes):
        prepare(user)
        fault = Fault(route, 500, times=None)
        user.standin.faults.append(fault)
        failed = cold_shell.run(command)
        user.standin.faults.clear()
        assert fault.seen, route
        if route != OPTIONAL_ROUTE:
            assert_one_sentence(failed)

        again = cold_shell.run(command)

        assert (again.code, again.err) == (0, ""), route
        if "publish" in command:
            assert len(list_active_schedules(user)) == 1
            (endpoint,) = user.standin.azure.endpoints.values()
            newest_version = len(endpoint["PipelineVersionList"]) - 1
            assert endpoint["DefaultVersion"] == str(newest_version)


SUBMIT = "POST ml/pipelines/v1.0{scope}/PipelineRuns/Submit/{id}"


def test_lost_answer_to_a_submission_is_requested_again(
    user: User, shell: Shell
) -> None:
    fault = Fault(SUBMIT, lost=True, times=1)
    user.standin.faults.append(fault)
    result = shell.run("submit training")
    assert (result.code, result.err) == (0, "")
    assert fault.seen == 2
    (run,) = user.standin.azure.jobs
    assert f"submitted  training, run {run}" in result.out
    assert "although Azure's response was lost" not in result.out


def test_run_is_found_if_all_answers_to_its_submission_are_lost(
    user: User, shell: Shell
) -> None:
    fault = Fault(SUBMIT, lost=True, times=None)
    user.standin.faults.append(fault)
    result = shell.run("submit training")
    assert (result.code, result.err) == (0, "")
    # The SDK itself tries four times.
    assert fault.seen == 4
    (run,) = user.standin.azure.jobs
    assert f"submitted  training, run {run}" in result.out
    assert "although Azure's response was lost" in result.out


def test_message_names_a_run_that_cannot_be_found(user: User, shell: Shell) -> None:
    submit = SUBMIT.replace("{scope}", ".*").replace("{id}", "")
    get_run = "GET ml/(history|pipelines).*[Rr]uns/[^/]+$"
    user.standin.faults.append(Fault(f"{submit}|{get_run}", lost=True, times=None))
    result = shell.run("submit training")
    assert_one_sentence(result)
    (run,) = user.standin.azure.jobs
    assert f"Look in the Studio for run {run} of the experiment penguins" in result.err


def test_lost_answer_to_publish_creates_no_second_schedule(
    user: User, shell: Shell
) -> None:
    change_schedule(user)
    for route in ("Schedules/Create", "Pipelines/Create"):
        user.standin.faults.append(Fault(f"POST ml/.*/{route}", lost=True))
    assert shell.run("publish training").code == 0
    assert all(fault.seen == 2 for fault in user.standin.faults)
    assert len(list_active_schedules(user)) == 1

    remove_endpoints(user)
    fault = Fault("POST ml/.*/PipelineEndpoints/Create", lost=True)
    user.standin.faults[:] = [fault]
    result = shell.run("publish training")
    assert_one_sentence(result)
    assert "There is a pipeline endpoint penguins-training already" in result.err
    assert shell.run("publish training").code == 0
    assert len(user.standin.azure.endpoints) == 1
    assert len(list_active_schedules(user)) == 1


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("PUT blob/datastore/", id="data"),
        pytest.param("PUT blob/snapshots/", id="code"),
    ],
)
def test_submit_can_be_repeated_after_an_upload_is_cut(
    user: User, shell: Shell, pattern: str
) -> None:
    change_step_and_data(user)
    fault = Fault(pattern, cut=True, nth=2, times=None)
    user.standin.faults.append(fault)
    failed = shell.run("submit training")
    assert_one_sentence(failed)
    assert "cannot be reached" in failed.err
    assert "submitted" not in failed.out

    user.standin.faults.clear()
    request_count = len(user.standin.requests)
    again = shell.run("submit training")
    assert again.code == 0
    if "datastore" in pattern:
        # The first file had arrived, and is not sent again.
        assert "uploaded   2 of 3 data files" in again.out
    assert len(user.standin.requests) > request_count


def test_short_faults_of_azure_are_no_errors(user: User, shell: Shell) -> None:
    user.standin.faults += [
        Fault("GET arm{scope}", 429, retry_after=2),
        Fault("GET ml/.*/default", 503),
        Fault("PUT blob/datastore/", cut=True),
        Fault("PUT blob/snapshots/", cut=True),
    ]
    result = shell.run("submit training")
    assert (result.code, result.err) == (0, "")
    assert all(fault.seen > 1 for fault in user.standin.faults)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        pytest.param(
            Fault("POST login/.*/token", 401),
            "Azure refuses the login (AADSTS7000215): ",
            id="login is refused",
        ),
        pytest.param(
            Fault("GET arm{scope}", 200, body=b"<html>"),
            "The SDK reports an error",
            id="workspace is HTML",
        ),
        pytest.param(
            Fault("GET arm/subscriptions", 200, body=b'{"value": []}'),
            "sees no subscription",
            id="no subscription",
        ),
        pytest.param(
            Fault("GET ml/.*/default", 401),
            "does not accept the login. Run `az login`",
            id="datastore answers 401",
        ),
        pytest.param(
            Fault("GET ml/.*/default", 403),
            "Ask the owner for the role AzureML Data",
            id="datastore answers 403",
        ),
        pytest.param(
            Fault("POST ml/.*WithGraph", 429, retry_after=7),
            "asks you to wait 7 s. Run the",
            id="too many requests",
        ),
    ],
)
def test_message_explains_an_error_of_azure(
    user: User, shell: Shell, fault: Fault, sentence: str
) -> None:
    fault.times = None
    user.standin.faults.append(fault)
    failed = shell.run("submit training")
    assert_one_sentence(failed)
    assert sentence in failed.err


def test_wrong_options_are_refused_before_any_request(user: User, shell: Shell) -> None:
    messages = {
        "submit training --set learning_rte=1": "Did you mean learning_rate?",
        "submit training --set learning_rate=x": "learning_rate is 'x', but must be a value such as",
        "submit training --set x": "write --set NAME=VALUE.",
    }
    for command, message in messages.items():
        failed = shell.run(command)
        assert (failed.code, failed.out) == (1, "")
        assert message in failed.err
    assert not user.standin.requests


def test_wrong_settings_are_refused_before_any_request(
    user: User, shell: Shell
) -> None:
    user.project.set("data", training="data/sampel")
    failed = shell.run("submit training")
    assert (
        "settings.yml: data.training is data/sampel, but there is no file there. Did you"
        " mean data/sample?" in failed.err
    )
    user.project.set("training", test_fraction=2)
    for command in ("provision", "submit training", "publish training"):
        assert "training.test_fraction is 2" in shell.run(command).err
    user.project.set("training", test_fraction=0.2)
    schedule = "{frequency: Week, interval: 1, time_zone: W Europe Standard Time}"
    with (user.project.path / "settings.yml").open("a", encoding="utf-8") as settings:
        settings.write(f"schedules: {{scoring: {schedule}}}\n")
    failed = shell.run("publish scoring")
    assert "which is not a Windows time zone. Use W. Europe Standard Time" in failed.err
    assert not user.standin.requests


def test_missing_compute_is_named_before_a_submission(user: User, shell: Shell) -> None:
    user.project.set("compute", name="gpu-cluster")
    failed = shell.run("submit training")
    assert_one_sentence(failed)
    assert "gpu-cluster, which is not in workspace" in failed.err
    assert "provision` to create it" in failed.err
    assert not user.standin.azure.jobs


def test_message_without_a_login_says_how_to_log_in(user: User) -> None:
    started = time.monotonic()
    failed = user.run("submit", "training", login=False, **NO_IDENTITY)
    assert time.monotonic() - started < 30
    assert_one_sentence(failed)
    assert "You are not logged in" in failed.err
    assert "un `az login`. " in failed.err
    assert not user.standin.requests


def test_login_with_az_is_used_and_its_token_is_kept(
    user: User, tmp_path: Path
) -> None:
    token = resources.token("https://management.core.windows.net/")
    answer = {"accessToken": token, "expires_on": int(time.time()) + 3600}
    # Each call of this `az` adds a line to a file.
    calls = tmp_path / "calls"
    az = tmp_path / "bin" / "az"
    az.parent.mkdir()
    az.write_text(f"#!/bin/sh\necho >> {calls}\necho '{json.dumps(answer)}'\n")
    az.chmod(0o755)
    path = f"{az.parent}{os.pathsep}{os.environ['PATH']}"

    result = user.run("submit", "training", PATH=path, login=False, **NO_IDENTITY)

    assert result.code == 0, result.err
    assert calls.read_text().count("\n") == 1
    user.standin.verify()


def test_cloud_for_governments_has_other_hosts(user: User, shell: Shell) -> None:
    user.project.set("workspace", cloud="AzureUSGovernment")
    assert shell.run("submit training").code == 0
    hosts = {request.host for request in user.standin.requests}
    assert "login.microsoftonline.us" in hosts
    assert not hosts & {"login.microsoftonline.com", "management.azure.com"}


def test_end_of_a_failed_steps_log_is_shown(user: User, shell: Shell) -> None:
    assert_log_of_failed_step_is_shown(user, shell)


def test_error_of_a_step_that_never_started_is_shown(user: User, shell: Shell) -> None:
    user.standin.azure.stillborn_steps["prep"] = "The image could not be built."
    failed = shell.run("submit training --wait")
    assert (failed.code, failed.err) == (1, "")
    assert "prep has failed: The image could not be built.\n" in failed.out
    assert "The log logs/azureml/executionlogs.txt ends with:\n" in failed.out


def test_states_of_runs_may_be_names(user: User, shell: Shell) -> None:
    user.standin.azure.names_states = True
    user.write("prep", "raise SystemExit('no rows')")
    failed = shell.run("submit training --wait")
    assert failed.code == 1
    assert ("failed", "prep") in read_lines(failed.out)

    user.write("prep", TOY_PREP)
    user.write("monitor", MONITOR)
    user.write("score", TOY_SCORE)
    scored = shell.run("submit scoring --wait")
    assert scored.code == 0, scored
    assert scored.out.splitlines()[-1].startswith("finished   run")


def test_environment_with_another_image_is_registered_again(user: User) -> None:
    assert user.run("provision").code == 0
    (environment,) = user.standin.azure.environments["penguins-steps"]
    definition = json.dumps(environment)
    assert "openmpi4.1.0-ubuntu22.04:20260715.v1" in definition
    assert '"conda-forge"' in definition
    assert "anaconda" not in definition

    unchanged = user.run("provision")
    assert ("unchanged", "environment") in read_lines(unchanged.out)

    pipelines = f"{user.project.package}/pipelines.py"
    user.project.edit(pipelines, ":20260715.v1", ":20260801.v1")
    changed = user.run("provision")
    assert ("registered", "environment") in read_lines(changed.out)
    assert len(user.standin.azure.environments["penguins-steps"]) == 2


@pytest.mark.parametrize("step_type", ["PythonScriptStep", "ParallelRunStep"])
def test_output_of_a_failed_entry_script_is_shown(
    user: User, shell: Shell, step_type: str
) -> None:
    """Azure calls a parallel step by either of the two names."""
    user.standin.azure.parallel_step_type = step_type
    assert_output_of_entry_script_is_shown(user, shell)


def test_canceled_run_ends_the_command(user: User) -> None:
    user.standin.azure.endless_steps.add("prep")
    process = user.start("submit", "training", "--wait")
    wait_until(lambda: bool(user.standin.azure.jobs) and bool(user.newest_run()[1]))
    run = user.newest_run()[0]
    run.cancel.set()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "")
    assert out.splitlines()[-1] == f"canceled   run {run.id}"


def test_run_continues_after_its_command_is_interrupted(user: User) -> None:
    user.standin.azure.endless_steps.add("prep")
    process = user.start("submit", "training", "--wait")
    assert process.stdout
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("running    prep") for line in lines)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    run = user.newest_run()[0]
    assert out.startswith(
        f"The run continues on Azure ML: https://ml.azure.com/runs/{run.id}"
    )
    assert run.status == "Running"
    assert not run.cancel.is_set()


def test_waiting_survives_a_bad_connection(user: User, shell: Shell) -> None:
    get_status = "GET ml/pipelines.*/PipelineRuns/[^/]+$"
    fault = Fault(get_status, 503, times=6)
    user.standin.faults.append(fault)
    result = shell.run("submit training --wait")
    # The run itself fails in the end, because its steps write nothing.
    assert result.out.splitlines()[-1].startswith("All logs of the step")
    assert fault.seen > 6

    user.standin.faults[:] = [Fault(get_status, 503, times=None)]
    result = shell.run("submit training --wait")
    assert_one_sentence(result)
    last_line = result.out.splitlines()[-1]
    assert last_line.startswith("The run continues on Azure ML: https:")


def test_help_does_not_import_the_sdk(user: User) -> None:
    code = f"""
import sys
sys.argv = ["project", "--help"]
try:
    import runpy; runpy.run_module("{user.project.package}", run_name="__main__")
except SystemExit:
    print(*sorted({{"azureml", "rich", "azure"}} & sys.modules.keys()))
"""
    shown = user.project.python("-c", code, COLD="1")
    assert shown.out.splitlines()[-1] == ""
    for command in ("provision", "submit", "publish"):
        assert command in shown.out
