"""Test the notebooks of generated projects: how they are stored, and runs of all cells."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from azure_standin import Standin
from azure_user import ANSWERS
from conftest import SDKS, TEMPLATE, Bake, Project
from nbclient import NotebookClient

FENCED = re.compile(r"^```mermaid\n.*?^```\n", re.MULTILINE | re.DOTALL)
NAMES = ["01_workspace", "02_training_pipeline", "03_batch_scoring_pipeline"]
GENERATED = TEMPLATE / "{{cookiecutter.project_slug}}"
SKIPPED = "Skipped, because USE_AZURE is False in the first cell.\n"


class Executed:
    """A notebook that has been run in its folder, and the outputs of its cells."""

    def __init__(self, project: Project, name: str, **environment: str) -> None:
        path = project.path / "notebooks" / f"{name}.ipynb"
        self.notebook = nbformat.read(path, as_version=4)
        start = [project.interpreter, "-m", "ipykernel_launcher", "-f"]
        kernel = {"argv": [*start, "{connection_file}"], "language": "python"}
        specification = project.path / ".jupyter/kernels/project/kernel.json"
        specification.parent.mkdir(parents=True, exist_ok=True)
        specification.write_text(json.dumps(kernel | {"display_name": "project"}))
        os.environ["JUPYTER_PATH"] = str(project.path / ".jupyter")
        variables = {
            **os.environ,
            "PYTHONPATH": str(project.path),  # in place of an installation
            "IPYTHONDIR": str(project.path / ".ipython"),
            **environment,
        }
        folder = {"metadata": {"path": str(path.parent)}}
        NotebookClient(
            self.notebook, timeout=300, resources=folder, kernel_name="project"
        ).execute(env=variables)

    def outputs(self, code: str = "") -> Iterator[Any]:
        """Yield the outputs of all cells, or of those that contain some code."""
        for cell in self.notebook.cells:
            if code in cell.source:
                yield from cell.get("outputs", [])

    def text(self, code: str = "") -> str:
        """Return the text that the cells printed."""
        return "".join(
            output.text
            for output in self.outputs(code)
            if output.output_type == "stream"
        )

    def data(self, code: str, kind: str) -> str:
        """Return the picture or the HTML that a cell shows."""
        (content,) = (
            output.data[kind]
            for output in self.outputs(code)
            if kind in output.get("data", {})
        )
        return str(content)

    def assert_no_noise(self) -> None:
        """Check that the cells show no error, no warning and no log message."""
        for output in self.outputs():
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
        assert not re.search("warning|deprecat|traceback", self.text().lower())
        assert "\x1b" not in self.text()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((SDKS[0], "classification", ANSWERS), id="with Azure answers"),
        pytest.param((SDKS[1], "regression", {}), id="without Azure answers"),
    ],
)
def here(
    bake: Bake, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Project, list[Executed]]]:
    """Run the notebooks of a new project in their order, where nobody is logged in.

    Both SDKs and both tasks are tried. No request may reach Azure.
    """
    sdk, task, answers = request.param
    project = bake(project_name="Explored", azureml_sdk=sdk, task=task, **answers)
    folder = tmp_path_factory.mktemp("azure")
    with Standin.running(folder / "standin") as standin:
        variables = standin.environment(folder / "home")
        notebooks = [Executed(project, name, **variables) for name in NAMES]
        assert standin.requests == []
        standin.verify()
    yield project, notebooks


def test_notebooks_run_without_an_azure_account(
    here: tuple[Project, list[Executed]],
) -> None:
    project, notebooks = here
    workspace, training, scoring = notebooks
    for notebook in notebooks:
        notebook.assert_no_noise()
    assert [notebook.text().count(SKIPPED) for notebook in notebooks] == [2, 1, 2]
    settings = workspace.data("checks.check_settings(PROJECT)", "text/html")
    has_answers = project.sdk == SDKS[0]
    assert ("az account show --query id" in settings) == (not has_answers)

    for cell in ("counts.plot", "plt.subplots"):
        assert training.data(cell, "image/png")
    printed = training.text(
        'new_run(PROJECT, PIPELINES, "training").run()'
    ).splitlines()
    assert [line.split()[:2] for line in printed if line.startswith("ran")] == [
        ["ran", "prep"],
        ["ran", "train"],
        ["ran", "evaluate"],
        ["ran", "register"],
    ]
    report = training.data("report.html", "text/html")
    pictures = 5 if "ROC curve" in report else 4  # A regression has one fewer.
    assert report.count("data:image/svg+xml") == pictures
    assert "worse than the registered version 1" in training.text('decision["reason"]')
    assert "version 1</th>" in training.data("registered['version']", "text/html")

    # Tables name what their first column holds.
    assert "<th>column</th>" in training.data("prep.prepare(raw", "text/html")
    assert "<th>feature</th>" in scoring.data("moved =", "text/html")
    assert "<th>prediction</th>" in scoring.data("predictions.head()", "text/html")
    assert scoring.data("plt.legend", "image/png")


def test_notebooks_run_with_a_workspace(
    here: tuple[Project, list[Executed]], tmp_path: Path
) -> None:
    project, _ = here  # whose steps are reused
    if project.sdk != "azureml-sdk":
        pytest.skip("the same cells call what test_azure_v2.py calls")
    with Standin.running(tmp_path / "standin") as standin:
        standin.azure.python = project.interpreter
        standin.create_workspace("workspace", "group")
        config = {"subscription_id": standin.subscription_id, "resource_group": "group"}
        config["workspace_name"] = "workspace"
        (project.path / ".azureml/config.json").write_text(json.dumps(config))
        project.set("workspace", region="westeurope")
        with (project.path / "settings.yml").open("a", encoding="utf-8") as settings:
            settings.write("schedules: {scoring: {frequency: Week, interval: 1}}\n")
        for name in NAMES:
            project.edit(
                f"notebooks/{name}.ipynb", "USE_AZURE = False", "USE_AZURE = True"
            )
        variables = standin.environment(tmp_path / "home") | standin.credentials
        notebooks = [Executed(project, name, **variables) for name in NAMES]
        workspace, training, scoring = notebooks
        for notebook in notebooks:
            notebook.assert_no_noise()
            assert SKIPPED not in notebook.text()
        login = workspace.data("checks.check_azure(PROJECT)", "text/html")
        assert f"to the tenant {standin.credentials['AZURE_TENANT_ID']}" in login
        assert "created    cluster cpu-cluster" in workspace.text(
            "provision(PROJECT, PIPELINES)"
        )
        for notebook, steps in {
            training: ["prep", "train", "evaluate", "register"],
            scoring: ["prep", "monitor", "score", "summarize"],
        }.items():
            printed = notebook.text("submit(PROJECT")
            finished = re.findall(r"^finished +(\w+)$", printed, re.MULTILINE)
            assert sorted(finished) == sorted(steps)
            assert re.search("^finished +run ", printed, re.MULTILINE)
        assert "scheduled  frequency Week" in scoring.text("publish(PROJECT")

        published = scoring.text("publish(PROJECT")
        assert f"published  {project.package}-scoring" in published
        standin.verify()


def test_notebooks_show_the_pictures_of_the_command_draw(
    here: tuple[Project, list[Executed]],
) -> None:
    project, (_, training, scoring) = here
    printed = project.python("-m", project.package, "draw")
    assert printed.code == 0, printed.err
    notebooks = {"training": training, "scoring": scoring}
    assert len(FENCED.findall(printed.out)) == len(notebooks)
    for name, notebook in notebooks.items():
        picture = notebook.data("graph.draw", "text/markdown")
        assert FENCED.fullmatch(f"{picture}\n")
        assert f"`{name}`:\n\n{picture}\n" in printed.out


def test_picture_shows_each_step_and_each_edge_once(bake: Bake) -> None:
    """Whatever steps are called, each of them and each edge is there, once."""
    project = bake()
    code = """
from pathlib import Path
from penguins.runtime.graph import draw
from penguins.runtime.steps import Parameter, Step

def step(name, inputs, outputs, run_after=(), parallel=True):
    rest = (outputs, run_after, {}, "", True, [], parallel)
    return Step(name, Path(), [], "", [], inputs, *rest)

first = 'a < b & "c"] #1;'
print(draw([
    step(first, {"x": Parameter("data", None), "y": Parameter("more", None)}, ["1"]),
    step("end", {"1": (first, "1"), "2": (first, "1")}, ["data", "3"], (), False),
    step("third", {"2": ("end", "data"), "1": (first, "1")}, []),
    step("last", {}, [], ["third", first]),
    step("alone", {}, [], (), False),
]))
"""
    drawn = project.python("-c", code)
    assert drawn.code == 0, drawn.err
    fence, kind, *lines, end = drawn.out.splitlines()
    assert (fence, kind, end) == ("```mermaid", "flowchart LR", "```")
    first = "a #60; b #38; #34;c#34;#93; #35;1#59;"
    shapes = {"[[": "]]", "[": "]", "(": ")"}
    nodes: dict[str, str] = {}
    edges = []
    for line in lines:
        ends = []
        for text in line.strip().split(" --> "):
            node = re.fullmatch(r'(n\d+)(\[\[|\[|\()"([\w #;]+)"([\])]+)', text)
            assert node, line
            number, left, name, right = node.groups()
            assert shapes[left] == right
            assert nodes.setdefault(number, left + name) == left + name
            ends.append(left + name)
        edges.append(ends)
    assert sorted(edges) == sorted(
        [
            ["(data", f"[[{first}"],
            ["(more", f"[[{first}"],
            [f"[[{first}", "(1"],
            ["(1", "[end"],
            ["[end", "(data"],
            ["[end", "(3"],
            ["(data", "[[third"],
            ["(1", "[[third"],
            ["[[third", "[[last"],
            [f"[[{first}", "[[last"],
            ["[alone"],
        ]
    )
    # The data called `data` that is read is not the output of that name.
    assert len(nodes) == 10


def test_command_draw_follows_changes_of_the_pipelines(bake: Bake) -> None:
    project = bake()
    project.edit("penguins/pipelines.py", '"holdout"', '"kept_back"')
    drawn = project.python("-m", "penguins", "draw")
    assert drawn.code == 0, drawn.err
    assert '("kept_back")' in drawn.out and '("holdout")' not in drawn.out


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_stored_without_outputs(bake: Bake, name: str) -> None:
    project = bake()
    path = project.path / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
    stripped = project.python("-m", "nbstripout", "--verify", str(path))
    assert stripped.code == 0, stripped.out + stripped.err
    # The file itself: with what is missing for notebooks, black skips them in a folder.
    formatted = project.python("-m", "black", "--check", str(path))
    assert "1 file would be left unchanged" in formatted.err


@pytest.mark.parametrize("name", NAMES)
def test_package_name_is_the_only_answer_in_notebooks(bake: Bake, name: str) -> None:
    project = bake(
        project_name='"Quoted" \\ {name}', description="'''", author_name='"'
    )
    path = f"notebooks/{name}.ipynb"
    text = (GENERATED / path).read_text(encoding="utf-8")
    rendered = text.replace("{{ cookiecutter.package_name }}", project.package)
    assert (project.path / path).read_text(encoding="utf-8") == rendered
