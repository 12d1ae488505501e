"""Test one project in several workspaces on Azure, with both SDKs."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from azure_standin import Standin
from azure_user import ANSWERS, Shell, User, assert_one_sentence, read_lines
from conftest import PYTHONS, SDKS, Bake

PROD = """
compute:
  name: prod-cluster
workspace:
  region: westeurope
schedules:
  scoring: {frequency: Day, interval: 1, hours: [6]}
"""


@pytest.fixture(params=SDKS)
def user(request: pytest.FixtureRequest, bake: Bake, tmp_path: Path) -> Iterator[User]:
    """A project for several workspaces, whose steps do nothing.

    Azure has the workspace of .azureml/test.json. The workspaces of prod.json and config.json
    do not exist yet.
    """
    with Standin.running(tmp_path / "standin") as standin:
        standin.azure.python = PYTHONS[request.param]
        standin.create_workspace("ml-test", "group", "cpu-cluster")
        project = bake(**ANSWERS, azureml_sdk=request.param)
        for step in ("prep", "monitor", "score", "summarize"):
            (project.path / f"steps/{step}/{step}.py").write_text("print('done')")
        config = json.loads((project.path / ".azureml/config.json").read_text())
        for name, group in {"test": "group", "prod": "group-of-prod"}.items():
            config |= {"workspace_name": f"ml-{name}", "resource_group": group}
            (project.path / f".azureml/{name}.json").write_text(json.dumps(config))
        (project.path / "settings.prod.yml").write_text(PROD)
        yield User(project, standin, tmp_path / "home")
        standin.verify()


@pytest.fixture
def shell(user: User) -> Iterator[Shell]:
    """A shell that runs commands of the user's project."""
    with closing(Shell(user)) as shell:
        yield shell


@dataclass
class Contents:
    """Everything that a workspace holds."""

    resources: dict[str, Any]
    endpoints: list[Any]
    schedules: list[Any]


def copy_contents(standin: Standin, workspace: str) -> Contents:
    """Return a copy of everything that a workspace holds."""
    azure = standin.azure
    resources = {
        id: resource
        for id, resource in azure.resources.items()
        if f"/{workspace}" in id
    }
    endpoints = [
        endpoint
        for endpoint in azure.endpoints.values()
        if workspace in endpoint["Url"]
    ]
    endpoint_ids = [endpoint["Id"] for endpoint in endpoints]
    schedules = [
        schedule
        for schedule in azure.schedules.values()
        if schedule["PipelineEndpointId"] in endpoint_ids
    ]
    return copy.deepcopy(Contents(resources, endpoints, schedules))


def test_publish_in_one_workspace_changes_nothing_in_another(
    user: User, shell: Shell
) -> None:
    standin = user.standin
    published_in_test = shell.run("publish scoring --workspace test")
    assert (published_in_test.code, published_in_test.err) == (0, "")
    assert ("scheduled", "schedule") not in read_lines(published_in_test.out)
    assert_missing_workspace_is_named(shell)
    contents_of_test = copy_contents(standin, "ml-test")
    assert contents_of_test.resources
    request_count = len(standin.requests)

    provisioned = shell.run("provision --create-workspace --workspace prod")
    published = shell.run("publish scoring --workspace prod")

    assert (provisioned.code, provisioned.err) == (0, "")
    assert (published.code, published.err) == (0, "")
    assert provisioned.out.splitlines()[:2] == [
        "created    workspace ml-prod, in westeurope",
        "created    cluster prod-cluster, up to 2 nodes of STANDARD_D4DS_V4",
    ]
    assert "frequency Day, interval 1, hours [6]" in published.out
    assert "(before: none)" in published.out
    assert copy_contents(standin, "ml-test") == contents_of_test
    texts = [
        f"{request.target} {request.query}".encode() + request.body
        for request in standin.requests[request_count:]
    ]
    assert not [text for text in texts if b"ml-test" in text or b"cpu-cluster" in text]
    assert [text for text in texts if b"prod-cluster" in text]

    assert_check_names_the_file_of_each_workspace(user, shell)


def assert_missing_workspace_is_named(shell: Shell) -> None:
    """Check that `publish` names the command that creates prod, and the file to correct."""
    refused = shell.run("publish scoring --workspace prod")
    assert_one_sentence(refused)
    assert (
        "no workspace ml-prod in the resource group group-of-prod. Run" in refused.err
    )
    assert "provision --create-workspace --workspace prod` to create it" in refused.err
    assert "or correct .azureml/prod.json" in refused.err


def assert_check_names_the_file_of_each_workspace(user: User, shell: Shell) -> None:
    """Check that `check --online` has rows for each workspace, and where to correct a value."""
    (user.project.path / "settings.prod.yml").write_text(
        PROD.replace("westeurope", "northeurope")
    )
    checked = shell.run("check --online --json")
    assert checked.code == 1
    rows = {row["name"]: row for row in checked.json["checks"]}
    assert rows["config: workspace"]["status"] == "wrong"
    assert rows["test: workspace"]["status"] == "ok"
    assert rows["test: compute"]["text"] == "cpu-cluster, up to 2 nodes"
    region = rows["prod: workspace"]
    assert (region["file"], region["fix"]) == ("settings.prod.yml", "write westeurope")
    assert rows["prod: compute"]["text"] == "prod-cluster, up to 2 nodes"
