"""provision, submit and publish, from the command line of generated projects.

The unmodified SDK talks over HTTPS to the stand-in for Azure (azure_standin/), which runs
what it has received. Whatever it is sent has left the project: no test looks inside.
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
from azure_standin import Fault, Standin, resources
from azure_standin.pipelines import fire_schedule
from azure_standin.truth import TRUTH, judge
from azure_user import (
    ANSWERS,
    MONITOR,
    SECRET,
    Shell,
    User,
    assert_all_finished,
    assert_broken_rules_are_reported,
    assert_one_sentence,
    assert_outputs_are_registered,
    reuse_is_the_same_here_and_there,
    status_judges_runs,
    trained_on_azure,
    words,
)
from conftest import Bake

#: No managed identity is found, neither the stand-in's nor that of the machine.
NO_IDENTITY = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")


@pytest.fixture
def user(bake: Bake, tmp_path: Path) -> Iterator[User]:
    """A project whose steps do nothing, in a workspace with a cluster."""
    with Standin.running(tmp_path / "standin") as standin:
        standin.create_workspace("workspace", "group", "cpu-cluster")
        user = User(bake(**ANSWERS), standin, tmp_path / "home")
        for step in ("prep", "train", "evaluate", "register", "monitor", "score"):
            user.write(step, "print('done')")
        yield user


@pytest.fixture(scope="module")
def trained(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    project = bake(**ANSWERS)
    with trained_on_azure(project, tmp_path_factory.mktemp("azure")) as user:
        yield user


def test_a_training_and_a_scoring_run_finish(trained: User) -> None:
    assert_all_finished(trained, next(iter(trained.standin.azure.jobs)), "finished")


def test_the_run_is_tracked_and_the_model_registered(trained: User) -> None:
    azure = trained.standin.azure
    steps = {run.name: run for run in azure.runs.values() if run.parent}
    assert steps["train"].parameters["max_iterations"] == "20"
    (tried,) = (run for run in azure.runs.values() if run.parent == steps["train"].id)
    assert tried.parameters["max_iterations"] == "20"
    assert {metric["key"] for metric in tried.metrics} == {"cv_log_loss", "seconds"}
    metrics = {one["key"]: one["value"] for one in steps["evaluate"].metrics}
    assert metrics["accuracy"] > 0.9
    assert "predictions.png" in azure.artifacts(steps["evaluate"])
    version = azure.models["penguins"][0]
    assert (version["version"], version["run_id"]) == ("1", steps["register"].id)
    assert "model/MLmodel" in azure.artifacts(steps["register"])


def test_named_outputs_are_registered(trained: User) -> None:
    assert_outputs_are_registered(trained)


def test_predictions_are_those_of_a_local_run(trained: User, tmp_path: Path) -> None:
    remote = trained.output("score", "predictions", tmp_path / "predictions")
    azure, project = trained.standin.azure, trained.project
    step = next(run for run in azure.runs.values() if run.name == "register")
    files = azure.files(f"azureml/{step.container}/model")
    azure.restore(files, tmp_path / "model")
    register = "import pathlib, register; register.register(pathlib.Path({!r}), {!r})"
    registered = project.python(
        "-c",
        register.format(str(tmp_path / "model"), "penguins"),
        PYTHONPATH=str(project.path / "steps" / "register"),
        MLFLOW_TRACKING_URI=f"sqlite:///{project.path}/mlruns/mlflow.db",
        _MLFLOW_SERVER_ARTIFACT_ROOT=(project.path / "mlruns/artifacts").as_uri(),
    )
    assert registered.code == 0, registered.err

    scoring = project.run("scoring")

    assert scoring.code == 0, scoring.err
    local = Path(scoring.json["steps"][-1]["outputs"]["predictions"])
    assert [file.name for file in sorted(local.iterdir())] == [
        file.name for file in sorted(remote.iterdir())
    ]
    rows = pd.read_parquet(remote)
    assert len(rows) > 40
    pd.testing.assert_frame_equal(rows, pd.read_parquet(local), check_exact=True)


def test_an_edited_step_is_all_that_is_uploaded_anew(trained: User) -> None:
    # prep is told of the target in training alone, and so is two modules.
    steps = ["evaluate", "monitor", "prep", "prep", "register", "score", "train"]
    assert sorted(trained.new_modules()) == steps
    before = len(trained.standin.requests)
    train = trained.project.path / "steps/train/train.py"
    page = (trained.project.path / "docs/change.md").read_text(encoding="utf-8")
    autolog = re.search(r"( +mlflow\.sklearn\.autolog.*?)```", page, re.DOTALL)
    assert autolog
    fit = "        pipeline.fit(features, answers)\n"
    trained.project.edit("steps/train/train.py", fit, autolog[1])

    result = trained.run("submit", "training", "--wait", "--set", "max_iterations=20")

    assert result.code == 0, result.err
    assert trained.new_modules(before) == ["train"]
    new = trained.standin.requests[before:]
    sent = [one.path for one in new if one.target.startswith("PUT blob/snapshots/")]
    files = {path.name for path in train.parent.glob("*.py")}
    assert {Path(path).name for path in sent} == files
    assert not [one for one in new if one.target.startswith("PUT blob/datastore/")]
    states = {line[1]: line[0] for line in words(result.out) if line[1:]}
    assert states["prep"] == "reused"
    assert [states[step] for step in ("train", "evaluate", "register")] == [
        *("finished", "finished", "finished")
    ]
    assert len(trained.standin.azure.models["penguins"]) == 1  # it is that one again

    # What autolog has logged is in the step's own run, and no request was refused.
    step = trained.newest_run()[1]["train"]
    assert step.parameters["model__learning_rate"] == "0.1"
    assert step.parameters["learning_rate"] == "0.1"
    names = [run.name for run in trained.standin.azure.runs.values()]
    assert names.count("train") == 2  # One for each submission.
    assert not [one for one in new if "/mlflow/" in one.path and one.status >= 400]


def test_the_same_steps_are_reused_here_and_on_azure(user: User) -> None:
    reuse_is_the_same_here_and_there(user)


def test_scoring_with_a_pinned_model(trained: User) -> None:
    models = trained.standin.azure.models["penguins"]
    models.append(models[0] | {"version": str(len(models) + 1)})
    before = len(trained.standin.requests)
    trained.project.set("scoring", model_version=1)

    result = trained.run("submit", "scoring", "--wait")

    assert result.code == 0, result.err
    asked = {
        request.query["version"]
        for request in trained.standin.requests[before:]
        if "model-versions/get" in request.path
    }
    assert asked == {"1"}


def test_data_that_breaks_rules(trained: User) -> None:
    assert_broken_rules_are_reported(trained)


def test_no_secret_leaves_the_project(trained: User) -> None:
    requests = trained.standin.requests
    headers = [request.headers.get("authorization", "") for request in requests]
    found = {header for header in headers if header.startswith("Bearer ")}
    tokens = {header.removeprefix("Bearer ") for header in found}
    assert tokens
    for request in requests:
        others = {k: v for k, v in request.headers.items() if k != "authorization"}
        said = f"{request.path} {request.query} {others}".encode() + request.body
        hidden = [] if request.service == "login" else [SECRET]
        for secret in (*hidden, *tokens):
            assert secret.encode() not in said, request.target
    for result in trained.results.values():
        for secret in (SECRET, "sig=", *tokens):
            assert secret not in result.out + result.err


@pytest.mark.skipif(TRUTH is None, reason="no specifications beside it")
def test_every_answer_is_of_the_specified_form(trained: User) -> None:
    assert trained.run("check", "--online").code == 0
    judged, faults = judge(trained.standin.requests)
    assert faults == []
    assert judged > 60


def test_provision_creates_what_is_missing_once(bake: Bake, tmp_path: Path) -> None:
    with Standin.running(tmp_path / "standin") as standin:
        user = User(bake(**ANSWERS), standin, tmp_path / "home")
        missing = user.run("provision")
        assert missing.code == 1
        assert "There is no workspace workspace in the resource group" in missing.err
        assert "provision --create-workspace" in missing.err
        assert not [id for id in standin.azure.resources if "groups/" in id]

        first = user.run("provision", "--create-workspace")
        assert (first.code, first.err) == (0, "")
        verbs = ["created", "created", "registered", "uploaded", "uploaded"]
        assert [line[0] for line in words(first.out)] == verbs
        cluster = next(
            r for id, r in standin.azure.resources.items() if "/computes/" in id
        )
        wanted = cluster["properties"]["properties"]
        assert wanted["vmSize"] == "STANDARD_D4DS_V4"
        assert wanted["scaleSettings"]["minNodeCount"] == 0
        assert wanted["scaleSettings"]["maxNodeCount"] == 2
        assert "PT" in wanted["scaleSettings"]["nodeIdleTimeBeforeScaleDown"]
        pins = (user.project.path / "environment/steps.txt").read_text().split("\n")
        environment = json.dumps(standin.azure.environments["penguins-steps"])
        assert all(json.dumps(pin)[1:-1] in environment for pin in pins if pin)
        data = [Path(path).name for path in standin.azure.files("datastore/penguins")]
        names = ["PAL0708.csv", "PAL0809.csv", "PAL0910.csv", "penguins.csv"]
        assert sorted(data) == names

        before = len(standin.requests)
        second = user.run("provision", "--create-workspace")
        assert second.code == 0
        assert {line[0] for line in words(second.out)} == {"unchanged"}
        writes = {one.method for one in standin.requests[before:]} - {"GET", "HEAD"}
        assert writes == {"POST"}  # to log in
        standin.verify()


def test_changed_data_goes_to_another_folder(user: User) -> None:
    assert user.run("provision").code == 0
    user.project.edit("data/sample/scoring/penguins.csv", "Torgersen", "Biscoe")
    changed = user.run("provision")
    assert [line[0] for line in words(changed.out)][-2:] == ["unchanged", "uploaded"]
    folders = {
        path.split("/")[0] for path in user.standin.azure.files("datastore/penguins")
    }
    assert len(folders) == 3


def test_provision_goes_on_without_data_that_is_not_here(
    user: User,
) -> None:
    user.project.set("data", training="data/customers")
    done = user.run("provision")
    assert (done.code, done.err) == (0, "")
    missing = "missing    data.training: there is no file in data/customers"
    assert missing in done.out.splitlines()
    assert words(done.out)[-1][0] == "uploaded"


def active(user: User) -> list[Any]:
    found = user.standin.azure.schedules.values()
    return [one for one in found if one["EntityStatus"] == "0"]


def test_publish_twice_and_a_changed_schedule(user: User) -> None:
    azure = user.standin.azure
    endpoints = azure.endpoints
    first = user.run("publish", "scoring")
    assert first.code == 0, first.err
    (endpoint,) = endpoints.values()
    assert (endpoint["Name"], endpoint["DefaultVersion"]) == ("penguins-scoring", "0")
    assert endpoint["Url"] in first.out
    assert not active(user)

    path = user.project.path / "settings.yml"
    plain = path.read_text(encoding="utf-8")
    weekly = re.sub(r"^# (schedules:| +\w+:)", r"\1", plain, flags=re.MULTILINE)
    path.write_text(weekly, encoding="utf-8")
    before = len(user.standin.requests)
    dry = user.run("publish", "scoring", "--dry-run")
    assert "would be published  penguins-scoring" in dry.out
    assert "would be scheduled  frequency Week, interval 1" in dry.out
    writes = {
        one.route for one in user.standin.requests[before:] if one.method != "GET"
    }
    assert writes == {"POST login/{tenant}/oauth2/v2.0/token"}

    second = user.run("publish", "scoring")
    assert second.code == 0, second.err
    assert (len(endpoints), endpoint["DefaultVersion"]) == (1, "1")
    (schedule,) = active(user)
    assert schedule["PipelineEndpointId"] == endpoint["Id"]
    assert schedule["Recurrence"]["Frequency"] == "Week"
    assert schedule["Recurrence"]["TimeZone"] == "W. Europe Standard Time"

    with closing(Shell(user)) as shell:
        scope = (
            endpoint["Url"].partition("/pipelines/v1.0")[2].partition("/PipelineR")[0]
        )
        status_judges_runs(user, shell, lambda: fire_schedule(azure, scope, schedule))

    third = user.run("publish", "scoring")
    assert "unchanged  schedule" in third.out
    assert active(user) == [schedule]
    assert endpoint["DefaultVersion"] == "2"

    # Published again with an older model, it keeps this one.
    older = weekly.replace("model_version: latest", "model_version: 1")
    path.write_text(older.replace("hours: [6]", "hours: [7]"), encoding="utf-8")
    before = len(user.standin.requests)
    assert user.run("publish", "scoring").code == 0
    (published,) = (
        one.json()
        for one in user.standin.requests[before:]
        if one.method == "POST" and one.path.endswith("/Pipelines/Create")
    )
    (model_version,) = (
        one["DefaultValue"]
        for one in published["GraphInterface"]["Parameters"]
        if one["Name"] == "model_version"
    )
    assert model_version == "1"
    (changed,) = active(user)
    assert changed["Recurrence"]["Schedule"]["Hours"] == [7]
    assert changed["Id"] != schedule["Id"]

    path.write_text(plain, encoding="utf-8")
    assert user.run("publish", "scoring").code == 0
    assert not active(user)
    user.standin.verify()


# What goes wrong


@pytest.fixture
def shell(user: User) -> Iterator[Shell]:
    with closing(Shell(user)) as shell:
        yield shell


@pytest.fixture
def cold_shell(user: User) -> Iterator[Shell]:
    """Whose SDK keeps its notes in the user's home, as it looks for that when imported."""
    with closing(Shell(user, COLD="1")) as shell:
        yield shell


def without_anything(user: User) -> None:
    shutil.rmtree(user.home, ignore_errors=True)  # what the SDK has noted there
    azure = user.standin.azure
    for id in [id for id in azure.resources if "/resourcegroups/" in id]:
        del azure.resources[id]
    azure.environments.clear()
    azure.blobs.clear()


def with_a_new_step(user: User) -> None:
    shutil.rmtree(user.home, ignore_errors=True)
    user.write("prep", f"print({time.time_ns()})")
    azure = user.standin.azure
    azure.experiments.clear()
    for name in azure.files("datastore").values():
        del azure.blobs[name]


def with_another_schedule(user: User) -> None:
    path = user.project.path / "settings.yml"
    text = path.read_text(encoding="utf-8").partition("schedules: {")[0]
    interval = time.time_ns() % 10_000 + 1
    schedule = f"{{frequency: Minute, interval: {interval}}}"
    line = f"schedules: {{training: {schedule}, scoring: {schedule}}}\n"
    path.write_text(f"{text}{line}", encoding="utf-8")


def without_an_endpoint(user: User) -> None:
    with_another_schedule(user)
    user.standin.azure.endpoints.clear()
    user.standin.azure.schedules.clear()


#: Asked only to say sooner that an endpoint of this name exists.
NOT_NEEDED = {"GET ml/pipelines/v1.0{scope}/PipelineEndpoints/Name"}


@pytest.mark.parametrize(
    ("command", "prepare", "which"),
    [
        ("provision --create-workspace", without_anything, ""),
        ("submit training", with_a_new_step, ""),
        # All but these are those of a submission.
        ("publish training", without_an_endpoint, "Pipelines|Endpoint|Schedule"),
        ("publish training", with_another_schedule, "Pipelines|Endpoint|Schedule"),
    ],
)
def test_every_route_failing_in_turn(
    user: User,
    cold_shell: Shell,
    command: str,
    prepare: Callable[[User], None],
    which: str,
) -> None:
    if prepare is with_another_schedule:
        without_an_endpoint(user)
        assert cold_shell.run(command).code == 0
    prepare(user)
    before = len(user.standin.requests)
    assert cold_shell.run(command).code == 0
    found = {request.route or "" for request in user.standin.requests[before:]}
    routes = sorted(route for route in found if re.search(which, route))
    assert len(routes) >= 5
    for route in routes:
        prepare(user)
        fault = Fault(route, 500, times=None)
        user.standin.faults.append(fault)
        failed = cold_shell.run(command)
        user.standin.faults.clear()
        assert fault.seen, route
        if route not in NOT_NEEDED:
            assert_one_sentence(failed)

        again = cold_shell.run(command)

        assert (again.code, again.err) == (0, ""), route
        if "publish" in command:
            assert len(active(user)) == 1
            (endpoint,) = user.standin.azure.endpoints.values()
            assert (
                int(endpoint["DefaultVersion"])
                == len(endpoint["PipelineVersionList"]) - 1
            )


SUBMIT = "POST ml/pipelines/v1.0{scope}/PipelineRuns/Submit/{id}"


@pytest.mark.parametrize("times", [1, None])
def test_an_answer_to_a_submission_that_is_lost(
    user: User, shell: Shell, times: int | None
) -> None:
    fault = Fault(SUBMIT, lost=True, times=times)
    user.standin.faults.append(fault)
    result = shell.run("submit training")
    assert (result.code, result.err) == (0, "")
    assert fault.seen == (2 if times else 4)  # what the SDK tries by itself
    (run,) = user.standin.azure.jobs
    assert f"submitted  training, run {run}" in result.out
    assert ("although Azure's reply was lost" in result.out) == (times is None)


def test_a_submission_of_which_nothing_is_known(user: User, shell: Shell) -> None:
    asked = f"{SUBMIT}|GET ml/(history|pipelines).*[Rr]uns/[^/]+$"
    pattern = asked.replace("{scope}", ".*").replace("{id}", "")
    user.standin.faults.append(Fault(pattern, lost=True, times=None))
    result = shell.run("submit training")
    assert_one_sentence(result)
    (run,) = user.standin.azure.jobs
    assert f"look in the Studio for run {run} of the experiment penguins" in result.err


def test_a_lost_answer_makes_no_second_schedule(user: User, shell: Shell) -> None:
    with_another_schedule(user)
    routes = ["Schedules/Create", "Pipelines/Create", "PipelineEndpoints/Create"]
    for route in routes[:2]:
        user.standin.faults.append(Fault(f"POST ml/.*/{route}", lost=True))
    assert shell.run("publish training").code == 0
    assert all(fault.seen == 2 for fault in user.standin.faults)
    assert len(active(user)) == 1

    without_an_endpoint(user)
    user.standin.faults[:] = [Fault(f"POST ml/.*/{routes[2]}", lost=True)]
    result = shell.run("publish training")
    assert_one_sentence(result)
    assert "There is a pipeline endpoint penguins-training already" in result.err
    assert shell.run("publish training").code == 0
    assert (len(user.standin.azure.endpoints), len(active(user))) == (1, 1)


@pytest.mark.parametrize("pattern", ["PUT blob/datastore/", "PUT blob/snapshots/"])
def test_a_connection_cut_during_an_upload(
    user: User, shell: Shell, pattern: str
) -> None:
    with_a_new_step(user)
    fault = Fault(pattern, cut=True, nth=2, times=None)
    user.standin.faults.append(fault)
    failed = shell.run("submit training")
    assert_one_sentence(failed)
    assert "cannot be reached" in failed.err
    assert "submitted" not in failed.out

    user.standin.faults.clear()
    before = len(user.standin.requests)
    again = shell.run("submit training")
    assert again.code == 0
    if "datastore" in pattern:  # what had arrived is not sent again
        assert "uploaded   2 of 3 data files" in again.out
    assert user.standin.requests[before:]


def test_a_short_trouble_is_no_error(user: User, shell: Shell) -> None:
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
        (Fault("POST login/.*/token", 401), "Azure refuses the login (AADSTS7000215)."),
        (Fault("GET arm{scope}", 200, body=b"<html>"), "The SDK gives up"),
        (
            Fault("GET arm/subscriptions", 200, body=b'{"value": []}'),
            "sees no subscription",
        ),
        (Fault("GET ml/.*/default", 401), "does not accept the login. Run `az login`"),
        (Fault("GET ml/.*/default", 403), "Ask the owner for the role AzureML Data"),
        (Fault("POST ml/.*WithGraph", 429, retry_after=7), "asks to wait 7 s. Run the"),
    ],
    ids=lambda value: (
        f"{value.pattern} {value.status}" if isinstance(value, Fault) else ""
    ),
)
def test_a_sentence_says_what_is_wrong(
    user: User, shell: Shell, fault: Fault, sentence: str
) -> None:
    fault.times = None
    user.standin.faults.append(fault)
    failed = shell.run("submit training")
    assert_one_sentence(failed)
    assert sentence in failed.err


def test_what_is_wrong_here_is_said_before_anything_is_sent(
    user: User, shell: Shell
) -> None:
    for command, text in {
        "submit training --set learning_rte=1": "Did you mean learning_rate?",
        "submit training --set learning_rate=x": "learning_rate is 'x', but must be like",
        "submit training --set x": "write --set NAME=VALUE.",
    }.items():
        failed = shell.run(command)
        assert (failed.code, failed.out) == (1, "")
        assert text in failed.err
    user.project.set("data", training="data/nowhere")
    failed = shell.run("submit training")
    assert (
        "settings.yml: data.training is data/nowhere, but there is no file"
        in failed.err
    )
    user.project.set("training", test_fraction=2)
    for command in ("provision", "submit training", "publish training"):
        assert "training.test_fraction is 2" in shell.run(command).err
    user.project.set("training", test_fraction=0.2)
    path = user.project.path / "settings.yml"
    weekly = (
        "schedules: {scoring: {frequency: Week, interval: 1, "
        "time_zone: W Europe Standard Time}}"
    )
    path.write_text(f"{path.read_text(encoding='utf-8')}{weekly}\n", encoding="utf-8")
    failed = shell.run("publish scoring")
    assert (
        "which is not a Windows time zone. Write W. Europe Standard Time" in failed.err
    )
    assert not user.standin.requests


def test_a_compute_that_does_not_exist(user: User, shell: Shell) -> None:
    user.project.set("compute", name="gpu-cluster")
    failed = shell.run("submit training")
    assert_one_sentence(failed)
    assert "gpu-cluster, which is not in workspace" in failed.err
    assert "provision` creates it" in failed.err
    assert not user.standin.azure.jobs


def test_without_a_login(user: User) -> None:
    started = time.monotonic()
    failed = user.run("submit", "training", login=False, **NO_IDENTITY)
    assert time.monotonic() - started < 30
    assert_one_sentence(failed)
    assert "You are not logged in. Run `az login`. " in failed.err
    assert not user.standin.requests


def test_whoever_is_logged_in_with_az(user: User, tmp_path: Path) -> None:
    token = resources.token("https://management.core.windows.net/")
    answer = {"accessToken": token, "expires_on": int(time.time()) + 3600}
    az = tmp_path / "bin" / "az"
    az.parent.mkdir()
    az.write_text(f"#!/bin/sh\necho >> {tmp_path}/asked\necho '{json.dumps(answer)}'\n")
    az.chmod(0o755)
    path = f"{az.parent}{os.pathsep}{os.environ['PATH']}"

    result = user.run("submit", "training", PATH=path, login=False, **NO_IDENTITY)

    assert result.code == 0, result.err
    assert len((tmp_path / "asked").read_text()) == 1  # not at each request
    user.standin.verify()


def test_another_cloud_has_other_hosts(user: User, shell: Shell) -> None:
    user.project.set("workspace", cloud="AzureUSGovernment")
    assert shell.run("submit training").code == 0
    hosts = {request.host for request in user.standin.requests}
    assert "login.microsoftonline.us" in hosts
    assert not hosts & {"login.microsoftonline.com", "management.azure.com"}


def test_a_step_that_fails(user: User, shell: Shell) -> None:
    user.write(
        "prep", "print('\\n'.join(map(str, range(50)))); raise SystemExit('no rows')"
    )
    failed = shell.run("submit training --wait")
    assert (failed.code, failed.err) == (1, "")
    assert ("failed", "prep") in words(failed.out)
    shown = failed.out.partition("Its user_logs/std_log.txt ends:\n")[2].splitlines()
    assert shown[:20] == [f"    {number}" for number in range(31, 50)] + ["    no rows"]
    step = user.newest_run()[1]["prep"]
    assert f"All its logs: https://ml.azure.com/runs/{step.id}?" in failed.out


def test_a_step_that_dies_before_its_script_runs(user: User, shell: Shell) -> None:
    user.standin.azure.stillborn_steps["prep"] = "The image could not be built."
    failed = shell.run("submit training --wait")
    assert (failed.code, failed.err) == (1, "")
    assert "prep has failed: The image could not be built.\n" in failed.out
    assert "Its logs/azureml/executionlogs.txt ends:\n" in failed.out


def test_states_that_are_names_instead_of_numbers(user: User, shell: Shell) -> None:
    user.standin.azure.names_states = True
    user.write("prep", "raise SystemExit('no rows')")
    failed = shell.run("submit training --wait")
    assert failed.code == 1
    assert ("failed", "prep") in words(failed.out)
    prep = """
import pathlib, sys
for port in ("--prepared", "--report"):
    folder = pathlib.Path(sys.argv[sys.argv.index(port) + 1])
    (folder / "part.parquet").write_text("")
"""
    user.write("prep", prep)
    user.write("monitor", MONITOR)
    user.write("score", "def run(batch):\n    return batch")
    scored = shell.run("submit scoring --wait")
    assert scored.code == 0, scored
    assert scored.out.splitlines()[-1].startswith("finished   run")


def test_an_environment_of_another_image_is_registered_anew(user: User) -> None:
    assert user.run("provision").code == 0
    (first,) = user.standin.azure.environments["penguins-steps"]
    assert "openmpi4.1.0-ubuntu22.04:20260715.v1" in json.dumps(first)
    assert '"conda-forge"' in json.dumps(first)
    assert "anaconda" not in json.dumps(first)
    same = user.run("provision")
    assert ("unchanged", "environment") in words(same.out)
    package = user.project.package
    user.project.edit(f"{package}/pipelines.py", ":20260715.v1", ":20260801.v1")
    again = user.run("provision")
    assert ("registered", "environment") in words(again.out)
    assert len(user.standin.azure.environments["penguins-steps"]) == 2


@pytest.mark.parametrize("kind", ["PythonScriptStep", "ParallelRunStep"])
def test_a_mini_batch_that_fails(user: User, shell: Shell, kind: str) -> None:
    user.standin.azure.parallel_step_type = kind
    prep = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--prepared") + 1])
(folder / "part.parquet").write_text("")
"""
    user.write("prep", prep)
    user.write("monitor", MONITOR)
    user.write("score", "def run(batch):\n    raise ValueError('no model')")
    failed = shell.run("submit scoring --wait")
    assert failed.code == 1
    assert "Its logs/user/error.txt ends:" in failed.out
    assert "ValueError: no model" in failed.out
    assert "The folder logs/user/ has what the entry script printed" in failed.out


def test_a_run_that_is_cancelled(user: User) -> None:
    user.standin.azure.endless_steps.add("prep")
    process = user.start("submit", "training", "--wait")
    wait_for(lambda: user.standin.azure.jobs and user.newest_run()[1])
    user.newest_run()[0].cancel.set()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "")
    assert out.splitlines()[-1] == f"canceled   run {user.newest_run()[0].id}"


def test_a_run_that_never_ends_goes_on_without_its_watcher(user: User) -> None:
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
        f"The run goes on. Follow it at https://ml.azure.com/runs/{run.id}"
    )
    assert run.status == "Running"
    assert not run.cancel.is_set()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_wait_outlives_a_bad_connection(user: User, shell: Shell) -> None:
    status = "GET ml/pipelines.*/PipelineRuns/[^/]+$"
    user.standin.faults.append(Fault(status, 503, times=6))
    result = shell.run("submit training --wait")
    assert result.out.splitlines()[-1].startswith(
        "All its logs"
    )  # its steps do nothing
    assert user.standin.faults[0].seen > 6

    user.standin.faults[:] = [Fault(status, 503, times=None)]
    result = shell.run("submit training --wait")
    assert_one_sentence(result)
    assert result.out.splitlines()[-1].startswith(
        "The run goes on. Follow it at https:"
    )


def test_help_waits_for_no_import(user: User) -> None:
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
