"""What differs on Azure for projects of azure-ai-ml, tried as in test_azure.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from azure_standin import Fault, Standin
from azure_standin.jobs import fire_schedule
from azure_standin.truth import TRUTH, judge
from azure_user import (
    ANSWERS,
    MONITOR,
    Shell,
    User,
    assert_all_finished,
    assert_one_sentence,
    assert_outputs_are_registered,
    assert_same_steps_are_reused,
    assert_status_judges_runs,
    assert_violations_are_reported,
    list_states,
    read_lines,
    train_and_score_on_azure,
)
from conftest import PYTHONS, Bake

SDK = "azure-ai-ml"
STEPS = ("prep", "train", "evaluate", "register", "monitor", "score")


@pytest.fixture(scope="module")
def trained(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    project = bake(**ANSWERS, azureml_sdk=SDK)
    with train_and_score_on_azure(project, tmp_path_factory.mktemp("azure")) as user:
        yield user


@pytest.fixture(scope="module")
def user(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A project whose steps do nothing, in a workspace with a cluster."""
    folder = tmp_path_factory.mktemp("azure")
    with Standin.running(folder / "standin") as standin:
        standin.azure.python = PYTHONS[SDK]
        standin.create_workspace("workspace", "group", "cpu-cluster")
        user = User(bake(**ANSWERS, azureml_sdk=SDK), standin, folder / "home")
        for step in STEPS:
            user.write(step, "print('done')")
        yield user


@pytest.fixture(scope="module")
def shell(user: User) -> Iterator[Shell]:
    with closing(Shell(user)) as shell:
        yield shell


@pytest.fixture(autouse=True)
def no_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "user" in request.fixturenames:
        request.getfixturevalue("user").standin.faults.clear()


def test_a_training_and_a_scoring_run_finish(trained: User) -> None:
    run = next(iter(trained.standin.azure.component_jobs))
    assert_all_finished(trained, run, "completed")
    provision, *_ = trained.results.values()
    assert list_states(provision.out) == [
        *("created", "created", "registered", "uploaded", "uploaded"),
    ]


def test_the_run_is_tracked_and_the_model_registered(trained: User) -> None:
    azure = trained.standin.azure
    steps = {run.name: run for run in azure.runs.values() if run.parent}
    assert steps["train"].parameters["max_iterations"] == "20"
    (tried,) = (run for run in azure.runs.values() if run.parent == steps["train"].id)
    assert tried.parameters["max_iterations"] == "20"
    assert {metric["key"] for metric in tried.metrics} == {"cv_log_loss", "seconds"}
    metrics = {one["key"]: one["value"] for one in steps["evaluate"].metrics}
    assert metrics["accuracy"] > 0.9
    assert [one["version"] for one in azure.models["penguins"]] == ["1"]


def test_named_outputs_are_registered(trained: User) -> None:
    assert_outputs_are_registered(trained)


def test_predictions_are_those_of_azureml_sdk(
    trained: User, bake: Bake, tmp_path: Path
) -> None:
    """Row for row, of the same data and settings: those are a local run's (test_azure).

    That the two are the same here too, `test_move` holds.
    """
    remote = trained.output("score", "predictions", tmp_path / "predictions")
    rows = pd.read_parquet(remote)
    assert len(rows) > 40
    project = bake()
    clusters = "{gpu: {name: gpu, vm_size: Standard_D2ds_v4, max_nodes: 1}}"
    with (project.path / "settings.yml").open("a", encoding="utf-8") as file:
        file.write(f"computes: {clusters}\nsteps: {{train: gpu}}\n")
    training = project.run("training", "--set", "max_iterations=20")
    assert training.code == 0, training.err
    assert "train on gpu. Here, this machine takes the place of all" in training.err
    scoring = project.run("scoring")
    assert scoring.code == 0, scoring.err
    local = Path(scoring.json["steps"][-1]["outputs"]["predictions"])
    pd.testing.assert_frame_equal(rows, pd.read_parquet(local), check_exact=True)


def test_unchanged_steps_are_reused(trained: User) -> None:
    again = trained.run("submit", "training", "--wait", "--set", "max_iterations=20")
    assert (again.code, again.err) == (0, "")
    lines = [line for line in read_lines(again.out) if len(line) > 1]
    states = {name: state for state, name in lines}
    assert (states["prep"], states["train"]) == ("reused", "reused")
    assert (states["evaluate"], states["register"]) == ("completed", "completed")


def test_the_same_steps_are_reused_here_and_on_azure(user: User) -> None:
    assert_same_steps_are_reused(user)


def test_data_that_breaks_rules(trained: User) -> None:
    assert_violations_are_reported(trained)


def test_no_secret_leaves_the_project(trained: User) -> None:
    secret = trained.standin.credentials["AZURE_CLIENT_SECRET"]
    for result in trained.results.values():
        assert secret not in result.out + result.err
    for request in trained.standin.requests:
        assert request.service == "login" or secret.encode() not in request.body


@pytest.mark.skipif(TRUTH is None, reason="no specifications beside it")
def test_every_answer_is_of_the_specified_form(trained: User) -> None:
    assert trained.run("check", "--online").code == 0
    judged, faults = judge(trained.standin.requests)
    assert faults == []
    assert judged > 60


def test_provision_again_changes_nothing(trained: User) -> None:
    before = len(trained.standin.requests)
    again = trained.run("provision")
    assert again.code == 0, again.err
    assert set(list_states(again.out)) == {"unchanged"}
    writes = [one for one in trained.standin.requests[before:] if one.method == "PUT"]
    assert writes == []


def test_publish_twice_and_a_changed_schedule(user: User, shell: Shell) -> None:
    azure, path = user.standin.azure, user.project.path / "settings.yml"
    first = shell.run("publish scoring")
    assert first.code == 0, first.err
    name = re.search(r"penguins-scoring-\w+", first.out)[0]  # type: ignore[index]
    assert f"https://{name}." in first.out
    default = re.search(r"deployment (v\d+), now the default", first.out)

    plain = path.read_text(encoding="utf-8")
    weekly = re.sub(r"^# (schedules:| +\w+:)", r"\1", plain, flags=re.MULTILINE)
    path.write_text(weekly, encoding="utf-8")
    before = len(user.standin.requests)
    dry = shell.run("publish scoring --dry-run")
    assert f"would be published  {name}, a new default (now: deployment v" in dry.out
    assert "would be scheduled  frequency Week, interval 1" in dry.out
    new = user.standin.requests[before:]
    writes = {one.route for one in new if one.method not in ("GET", "HEAD")}
    assert {route for route in writes if route and "listSecrets" not in route} <= {
        "POST login/{tenant}/oauth2/v2.0/token"
    }

    second = shell.run("publish scoring")
    assert second.code == 0, second.err
    assert default and f"(before: deployment {default[1]})" in second.out
    (schedule,) = (one for id, one in azure.resources.items() if "/schedules/" in id)
    assert schedule["properties"]["isEnabled"] is True
    trigger = schedule["properties"]["trigger"]
    assert (trigger["frequency"].lower(), trigger["interval"]) == ("week", 1)
    assert trigger["timeZone"] == "W. Europe Standard Time"
    # Published again with an older model, the schedule scores with it.
    older = weekly.replace("model_version: latest", "model_version: 1")
    path.write_text(older, encoding="utf-8")
    assert "unchanged  schedule" in shell.run("publish scoring").out
    (schedule,) = (one for id, one in azure.resources.items() if "/schedules/" in id)
    inputs = schedule["properties"]["action"]["jobDefinition"]["inputs"]
    assert inputs["model_version"]["value"] == "1"
    assert_status_judges_runs(user, shell, lambda: fire_schedule(azure, schedule))

    path.write_text(plain, encoding="utf-8")
    last = shell.run("publish scoring --data folder/of/tomorrow")
    assert last.code == 0, last.err
    assert "disabled   schedule" in last.out
    (schedule,) = (one for id, one in azure.resources.items() if "/schedules/" in id)
    assert schedule["properties"]["isEnabled"] is False
    deployments = [id for id in azure.resources if "/deployments/" in id]
    assert len(deployments) == 4
    for deployment in deployments:
        configuration = azure.resources[deployment]["properties"]
        assert "cpu-cluster" in json.dumps(configuration), configuration
    user.standin.verify()

    path.write_text(weekly, encoding="utf-8")
    assert shell.run("publish scoring").code == 0
    path.write_text(plain, encoding="utf-8")
    (schedule,) = (one for id, one in azure.resources.items() if "/schedules/" in id)
    assert schedule["properties"]["isEnabled"] is True

    # Azure allows 20: the oldest go, but for those that others have made.
    newest = azure.resources[deployments[-1]]
    endpoint = newest["id"].rpartition("/")[0]
    old = [f"v{number}" for number in range(20200101000000000, 20200101000000010)]
    for name in [*old, "by-hand"]:
        id = f"{endpoint}/{name}"
        azure.resources[id.lower()] = newest | {"id": id, "name": name}
    assert shell.run("publish scoring").code == 0
    left = {id.rpartition("/")[2] for id in azure.resources if "/deployments/" in id}
    assert len(left) == 11 and "by-hand" in left and old[-1] in left
    assert old[4] not in left


def test_a_step_that_fails(user: User, shell: Shell) -> None:
    failing = "print('\\n'.join(map(str, range(50)))); raise SystemExit('no rows')"
    user.write("prep", failing)
    failed = shell.run("submit training --wait")
    user.write("prep", "print('done')")
    assert (failed.code, failed.err) == (1, "")
    assert ("failed", "prep") in read_lines(failed.out)
    shown = failed.out.partition("Its user_logs/std_log.txt ends:\n")[2].splitlines()
    assert shown[:20] == [f"    {number}" for number in range(31, 50)] + ["    no rows"]
    step = user.newest_run()[1]["prep"]
    assert f"All its logs: https://ml.azure.com/runs/{step.id}?" in failed.out


def test_a_mini_batch_that_fails(user: User, shell: Shell) -> None:
    """With as many as may fail, and one more."""
    prep = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--prepared") + 1])
(folder / "part.parquet").write_text("")
"""
    user.write("prep", prep)
    user.write("monitor", MONITOR)
    user.write("score", "def run(batch):\n    raise ValueError('no model')")
    failed = shell.run("submit scoring --wait")
    user.project.set("scoring", error_threshold=1)
    allowed = shell.run("submit scoring --wait")
    user.project.set("scoring", error_threshold=0)
    for step in ("prep", "monitor", "score"):
        user.write(step, "print('done')")
    assert failed.code == 1
    assert "Its logs/user/error.txt ends:" in failed.out
    assert "ValueError: no model" in failed.out
    assert "The folder logs/user/ has what the entry script printed" in failed.out
    assert allowed.code == 0, allowed.out


def test_an_answer_to_a_submission_that_is_lost(user: User, shell: Shell) -> None:
    before = set(user.standin.azure.component_jobs)
    user.standin.faults.append(Fault("PUT arm.*/jobs/", lost=True))
    done = shell.run("submit training")
    assert done.code == 0, done.err
    (run,) = set(user.standin.azure.component_jobs) - before
    assert f"run {run}" in done.out


def test_a_compute_that_does_not_exist(user: User, shell: Shell) -> None:
    user.project.set("compute", name="gpu-cluster")
    failed = shell.run("submit training")
    user.project.set("compute", name="cpu-cluster")
    assert_one_sentence(failed)
    assert "gpu-cluster, which is not in workspace" in failed.err
    assert "provision` creates it" in failed.err

    path = user.project.path / "settings.yml"
    text = path.read_text(encoding="utf-8")
    gpu = "{gpu: {name: gpu-cluster, vm_size: Standard_D2ds_v4, max_nodes: 1}}"
    path.write_text(f"{text}computes: {gpu}\nsteps: {{trian: gpu}}\n")
    misspelt = shell.run("submit training")
    checked = shell.run("check")
    path.write_text(f"{text}computes: {gpu}\nsteps: {{train: gpu}}\n")
    failed = shell.run("publish training")
    path.write_text(text, encoding="utf-8")
    message = "settings.yml: steps.trian is not the name of a step: write train.\n"
    assert (misspelt.code, misspelt.err) == (1, message)
    assert checked.code == 1
    assert "steps.trian" in checked.out
    assert_one_sentence(failed)
    assert "computes.gpu.name is gpu-cluster, which is not in workspace" in failed.err


def test_no_workspace_and_no_login(user: User) -> None:
    path = user.project.path / ".azureml/config.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"workspace"', '"elsewhere"'), encoding="utf-8")
    failed = user.run("submit", "training")
    path.write_text(text, encoding="utf-8")
    assert_one_sentence(failed)
    assert "no workspace elsewhere in the resource group group" in failed.err
    wrong = user.run("provision", AZURE_CLIENT_SECRET="wrong")
    assert_one_sentence(wrong)
    assert "AADSTS7000215" in wrong.err
