"""Test one project in several workspaces on Azure, with both SDKs."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
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
    """A project whose steps do nothing, for the workspaces test, which is there, and prod.

    That of config.json is nowhere.
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
    shell = Shell(user)
    yield shell
    shell.process.kill()
    shell.process.wait()


def copy_contents(standin: Standin, workspace: str) -> Any:
    """Return all that a workspace holds: resources, published pipelines, schedules."""
    azure = standin.azure
    resources = {
        id: one for id, one in azure.resources.items() if f"/{workspace}" in id
    }
    endpoints = [one for one in azure.endpoints.values() if workspace in one["Url"]]
    ids = [one["Id"] for one in endpoints]
    schedules = azure.schedules.values()
    due = [one for one in schedules if one["PipelineEndpointId"] in ids]
    return copy.deepcopy((resources, endpoints, due))


def test_a_publish_in_prod_leaves_test_as_it_was(user: User, shell: Shell) -> None:
    standin = user.standin
    first = shell.run("publish scoring --workspace test")
    assert (first.code, first.err) == (0, "")
    assert ("scheduled", "schedule") not in read_lines(first.out)
    lost = shell.run("publish scoring --workspace prod")
    assert_one_sentence(lost)
    assert "no workspace ml-prod in the resource group group-of-prod: " in lost.err
    assert "provision --create-workspace --workspace prod` creates it" in lost.err
    assert "or correct .azureml/prod.json" in lost.err
    before = copy_contents(standin, "ml-test")
    requests_before = len(standin.requests)
    assert before[0]

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
    assert copy_contents(standin, "ml-test") == before
    sent = standin.requests[requests_before:]
    texts = [f"{one.target} {one.query}".encode() + one.body for one in sent]
    assert not [text for text in texts if b"ml-test" in text or b"cpu-cluster" in text]
    assert [text for text in texts if b"prod-cluster" in text]

    # What Azure says is told of each workspace, with the file to mend it in.
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
