"""Test provision, submit and publish of generated projects, with azure-ai-ml.

As in test_azure.py, the SDK talks to the stand-in for Azure (azure_standin/).
"""

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
from azure_standin.state import Json
from azure_standin.truth import TRUTH, judge
from azure_user import (
    ANSWERS,
    STEPS,
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
    states_by_step,
    train_and_score_on_azure,
)
from conftest import PYTHONS, Bake

SDK = "azure-ai-ml"


@pytest.fixture(scope="module")
def trained(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user who has trained and scored on Azure. The tests share this project."""
    project = bake(**ANSWERS, azureml_sdk=SDK)
    with train_and_score_on_azure(project, tmp_path_factory.mktemp("azure")) as user:
        yield user


@pytest.fixture(scope="module")
def user(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user whose steps do nothing, in a workspace with a cluster."""
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
    """A shell that runs commands of the user's project."""
    with closing(Shell(user)) as shell:
        yield shell


@pytest.fixture(autouse=True)
def clear_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove the faults after each test, because the tests share a stand-in."""
    yield
    if "user" in request.fixturenames:
        request.getfixturevalue("user").standin.faults.clear()


def test_training_and_scoring_finish(trained: User) -> None:
    training_run = next(iter(trained.standin.azure.component_jobs))
    assert_all_finished(trained, training_run, finished="completed")
    provision, *_ = trained.results.values()
    states = ["created", "created", "registered", "uploaded", "uploaded"]
    assert list_states(provision.out) == states


def test_training_is_tracked_and_its_model_is_registered(trained: User) -> None:
    azure = trained.standin.azure
    steps = {run.name: run for run in azure.runs.values() if run.parent}
    train = steps["train"]
    assert_search_is_tracked(azure, train)
    metrics = {metric["key"]: metric["value"] for metric in steps["evaluate"].metrics}
    assert metrics["accuracy"] > 0.9
    versions = [version["version"] for version in azure.models["penguins"]]
    assert versions == ["1"]


def test_outputs_in_settings_are_registered(trained: User) -> None:
    assert_outputs_are_registered(trained)


def test_predictions_are_those_of_a_local_run_with_azureml_sdk(
    trained: User, bake: Bake, tmp_path: Path
) -> None:
    """Compare each row. test_move compares local runs of both SDKs."""
    assert_predictions_are_summed_up(trained, tmp_path)
    remote = tmp_path / "predictions"
    rows = pd.read_parquet(remote)
    assert len(rows) > 40
    project = bake()
    computes = "{gpu: {name: gpu, vm_size: Standard_D2ds_v4, max_nodes: 1}}"
    with (project.path / "settings.yml").open("a", encoding="utf-8") as settings:
        settings.write(f"computes: {computes}\nsteps: {{train: gpu}}\n")
    training = project.run("training", "--set", "max_iterations=20")
    assert training.code == 0, training.err
    assert "train on gpu. In this run, all steps run on this machine" in training.err
    scoring = project.run("scoring")
    assert scoring.code == 0, scoring.err
    local = Path(scoring.json["steps"][2]["outputs"]["predictions"])
    pd.testing.assert_frame_equal(rows, pd.read_parquet(local), check_exact=True)


def test_unchanged_steps_are_reused(trained: User) -> None:
    again = trained.run("submit", "training", "--wait", "--set", "max_iterations=20")
    assert (again.code, again.err) == (0, "")
    states = states_by_step(again.out)
    assert (states["prep"], states["train"]) == ("reused", "reused")
    assert (states["evaluate"], states["register"]) == ("completed", "completed")


def test_same_steps_are_reused_here_and_on_azure(user: User) -> None:
    assert_same_steps_are_reused(user)


def test_drift_ends_the_run_before_anything_is_scored(trained: User) -> None:
    assert_drift_ends_the_run(trained)


def test_violations_of_rules_are_reported(trained: User) -> None:
    assert_violations_are_reported(trained)


def test_requests_and_output_have_no_secret(trained: User) -> None:
    secret = trained.standin.credentials["AZURE_CLIENT_SECRET"]
    for result in trained.results.values():
        assert secret not in result.out + result.err
    for request in trained.standin.requests:
        if request.service != "login":
            assert secret.encode() not in request.body


@pytest.mark.skipif(TRUTH is None, reason="no specifications beside it")
def test_answers_fit_the_specifications(trained: User) -> None:
    assert trained.run("check", "--online").code == 0
    judged, faults = judge(trained.standin.requests)
    assert faults == []
    assert judged > 60


def test_provision_again_changes_nothing(trained: User) -> None:
    request_count = len(trained.standin.requests)
    again = trained.run("provision")
    assert again.code == 0, again.err
    assert set(list_states(again.out)) == {"unchanged"}
    methods = {request.method for request in trained.standin.requests[request_count:]}
    assert "PUT" not in methods


# Publish --------------------------------------------------------------------------------


@pytest.fixture
def settings_file(user: User) -> Iterator[Path]:
    """The file settings.yml, which is as before after the test."""
    path = user.project.path / "settings.yml"
    settings = path.read_text(encoding="utf-8")
    yield path
    path.write_text(settings, encoding="utf-8")


def find_schedule(user: User) -> Json:
    """Return the only schedule of the workspace."""
    (schedule,) = [
        resource
        for id, resource in user.standin.azure.resources.items()
        if "/schedules/" in id
    ]
    return schedule


def list_deployments(user: User) -> list[Json]:
    """Return all deployments of batch endpoints, oldest first."""
    return [
        resource
        for id, resource in user.standin.azure.resources.items()
        if "/deployments/" in id
    ]


def test_publish_updates_the_endpoint_and_its_schedule(
    user: User, shell: Shell, settings_file: Path
) -> None:
    """Publish without a schedule, then with one, with an older model, and without again."""
    azure = user.standin.azure
    settings = settings_file.read_text(encoding="utf-8")
    weekly = enable_weekly_schedules(settings)

    first = shell.run("publish scoring")
    assert first.code == 0, first.err
    published = re.search(
        r"(penguins-scoring-\w+).*deployment (v\d+), now the default", first.out
    )
    assert published
    endpoint, deployment = published.groups()
    assert f"https://{endpoint}." in first.out

    settings_file.write_text(weekly, encoding="utf-8")
    assert_dry_run_changes_nothing(user, shell, endpoint)

    second = shell.run("publish scoring")
    assert second.code == 0, second.err
    assert f"(before: deployment {deployment})" in second.out
    schedule = find_schedule(user)
    assert schedule["properties"]["isEnabled"] is True
    trigger = schedule["properties"]["trigger"]
    assert (trigger["frequency"].lower(), trigger["interval"]) == ("week", 1)
    assert trigger["timeZone"] == "W. Europe Standard Time"

    older_model = weekly.replace("model_version: latest", "model_version: 1")
    settings_file.write_text(older_model, encoding="utf-8")
    assert "unchanged  schedule" in shell.run("publish scoring").out
    schedule = find_schedule(user)
    inputs = schedule["properties"]["action"]["jobDefinition"]["inputs"]
    assert inputs["model_version"]["value"] == "1"
    assert_status_judges_runs(user, shell, lambda: fire_schedule(azure, schedule))

    settings_file.write_text(settings, encoding="utf-8")
    last = shell.run("publish scoring --data folder/of/tomorrow")
    assert last.code == 0, last.err
    assert "disabled   schedule" in last.out
    assert find_schedule(user)["properties"]["isEnabled"] is False
    assert len(list_deployments(user)) == 4
    for resource in list_deployments(user):
        assert "cpu-cluster" in json.dumps(resource["properties"]), resource
    user.standin.verify()

    settings_file.write_text(weekly, encoding="utf-8")
    assert shell.run("publish scoring").code == 0
    assert find_schedule(user)["properties"]["isEnabled"] is True

    # azure-ai-ml itself refuses an endpoint with an underscore in its name.
    renamed = re.sub("(?m)^name: .*", "name: my_penguins", settings)
    settings_file.write_text(renamed, encoding="utf-8")
    planned = shell.run("publish scoring --dry-run").out
    assert re.search("would be published  my-penguins-scoring-[0-9a-f]{6},", planned)


def assert_dry_run_changes_nothing(user: User, shell: Shell, endpoint: str) -> None:
    """Check that `publish --dry-run` describes the changes, and writes nothing."""
    request_count = len(user.standin.requests)
    result = shell.run("publish scoring --dry-run")
    planned = f"would be published  {endpoint}, a new default (now: deployment v"
    assert planned in result.out
    assert "would be scheduled  frequency Week, interval 1" in result.out
    for request in user.standin.requests[request_count:]:
        reads = request.method in ("GET", "HEAD") or "listSecrets" in request.path
        assert reads or request.service == "login", request.target


def test_publish_deletes_the_oldest_deployments(user: User, shell: Shell) -> None:
    """Azure allows 20 deployments. Those that the project has not named are kept."""
    assert shell.run("publish scoring").code == 0
    newest = list_deployments(user)[-1]
    endpoint = newest["id"].rpartition("/")[0]
    old_names = [f"v202001010000000{number:02}" for number in range(10)]
    names_of_project = [deployment["name"] for deployment in list_deployments(user)]
    names_of_project += old_names
    for name in [*old_names, "by-hand"]:
        id = f"{endpoint}/{name}"
        copy = newest | {"id": id, "name": name}
        user.standin.azure.resources[id.lower()] = copy

    assert shell.run("publish scoring").code == 0

    names = {deployment["name"] for deployment in list_deployments(user)}
    (new_name,) = names - {*names_of_project, "by-hand"}
    assert names == {"by-hand", *sorted(names_of_project)[-9:], new_name}


# Faults ---------------------------------------------------------------------------------


@pytest.fixture
def restore_steps(user: User) -> Iterator[None]:
    """Let the steps do nothing again after the test."""
    yield
    for step in STEPS:
        user.write(step, "print('done')")


@pytest.mark.usefixtures("restore_steps")
def test_end_of_a_failed_steps_log_is_shown(user: User, shell: Shell) -> None:
    assert_log_of_failed_step_is_shown(user, shell)


@pytest.mark.usefixtures("restore_steps", "settings_file")
def test_failed_mini_batches_are_allowed_up_to_the_threshold(
    user: User, shell: Shell
) -> None:
    assert_output_of_entry_script_is_shown(user, shell)
    user.project.set("scoring", error_threshold=1)
    allowed = shell.run("submit scoring --wait")
    assert allowed.code == 0, allowed.out


def test_lost_answer_to_a_submission_is_requested_again(
    user: User, shell: Shell
) -> None:
    jobs_before = set(user.standin.azure.component_jobs)
    user.standin.faults.append(Fault("PUT arm.*/jobs/", lost=True))
    result = shell.run("submit training")
    assert result.code == 0, result.err
    (run,) = set(user.standin.azure.component_jobs) - jobs_before
    assert f"run {run}" in result.out


@pytest.mark.usefixtures("settings_file")
def test_missing_compute_is_named_before_a_submission(user: User, shell: Shell) -> None:
    user.project.set("compute", name="gpu-cluster")
    failed = shell.run("submit training")
    assert_one_sentence(failed)
    assert "gpu-cluster, which is not in workspace" in failed.err
    assert "provision` to create it" in failed.err


def assign_gpu_cluster(settings_file: Path, step: str) -> None:
    """Add a cluster to the settings, and let a step run on it."""
    settings = settings_file.read_text(encoding="utf-8")
    gpu = "{gpu: {name: gpu-cluster, vm_size: Standard_D2ds_v4, max_nodes: 1}}"
    settings_file.write_text(f"{settings}computes: {gpu}\nsteps: {{{step}: gpu}}\n")


def test_missing_compute_of_a_step_is_named(
    user: User, shell: Shell, settings_file: Path
) -> None:
    assign_gpu_cluster(settings_file, step="train")
    failed = shell.run("publish training")
    assert_one_sentence(failed)
    assert "computes.gpu.name is gpu-cluster, which is not in workspace" in failed.err


def test_compute_of_an_unknown_step_is_refused(
    user: User, shell: Shell, settings_file: Path
) -> None:
    assign_gpu_cluster(settings_file, step="trian")
    submitted = shell.run("submit training")
    message = "settings.yml: steps.trian is not the name of a step: write train.\n"
    assert (submitted.code, submitted.err) == (1, message)
    checked = shell.run("check")
    assert checked.code == 1
    assert "steps.trian" in checked.out


def test_missing_workspace_is_named(user: User) -> None:
    path = user.project.path / ".azureml/config.json"
    config = path.read_text(encoding="utf-8")
    path.write_text(config.replace('"workspace"', '"elsewhere"'), encoding="utf-8")
    failed = user.run("submit", "training")
    path.write_text(config, encoding="utf-8")
    assert_one_sentence(failed)
    assert "no workspace elsewhere in the resource group group" in failed.err


def test_wrong_secret_is_refused(user: User) -> None:
    failed = user.run("provision", AZURE_CLIENT_SECRET="wrong")
    assert_one_sentence(failed)
    assert "AADSTS7000215" in failed.err
