"""Test the recipes of docs/change.md: they work, and change only the files that they name."""

from __future__ import annotations

import ast
import json
import math
import re
from pathlib import Path

import pytest
import yaml
from azure_standin import Standin
from conftest import SDKS, Bake, Project

TABLE = "PIPELINES = {\n"
#: The call in `training` that the recipe "A step between two others" replaces, and the line
#: below which it adds the definition of the step.
STEP_RECIPE = {
    "azureml-sdk": (
        "        build_train_step(settings, prepared, model, holdout),\n",
        '    prepared = build_output(settings, "training", "prepared")\n',
    ),
    "azure-ai-ml": (
        "        trained = train(prepared=prepared, **hyperparameters).outputs\n",
        "    train = build_train_step(settings)\n",
    ),
}


def find_code_blocks(
    project: Project, heading: str, language: str = "python"
) -> list[str]:
    """Return the code blocks of a recipe."""
    page = (project.path / "docs" / "change.md").read_text(encoding="utf-8")
    recipe = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    assert recipe
    return re.findall(rf"```{language}\n(.*?)```", recipe, re.DOTALL)


class ChangedProject:
    """A project that a user changes, and the files that the user has changed."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.original_files = self._read_files()

    def _read_files(self) -> dict[str, bytes]:
        """Return the contents of all files, except for those that runs write."""
        generated = ("runs/", "mlruns/", "__pycache__")
        paths = [path for path in self.project.path.rglob("*") if path.is_file()]
        names = {path.relative_to(self.project.path).as_posix(): path for path in paths}
        return {
            name: path.read_bytes()
            for name, path in names.items()
            if not any(part in name for part in generated)
        }

    def list_changed_files(self) -> set[str]:
        """Return the files that are new or have changed."""
        return {
            name
            for name, content in self._read_files().items()
            if content != self.original_files.get(name)
        }

    def replace_function(self, file: str, function: str, code: str) -> None:
        """Replace a function in a Python file."""
        path = self.project.path / file
        text = path.read_text(encoding="utf-8")
        (old,) = (
            node
            for node in ast.parse(text).body
            if isinstance(node, ast.FunctionDef) and node.name == function
        )
        lines = text.splitlines(keepends=True)
        lines[old.lineno - 1 : old.end_lineno] = [code.strip() + "\n"]
        path.write_text("".join(lines), encoding="utf-8")

    def assert_tests_pass(self, *tests: str) -> None:
        """Check that some of the project's own tests pass."""
        done = self.project.python(
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
        )
        assert done.code == 0, done.out


@pytest.fixture
def changed(bake: Bake) -> ChangedProject:
    """A project before its first change."""
    return ChangedProject(bake())


@pytest.fixture(params=SDKS)
def changed_project_of_each_sdk(
    bake: Bake, request: pytest.FixtureRequest
) -> ChangedProject:
    """A project of each SDK before its first change."""
    return ChangedProject(bake(azureml_sdk=request.param))


def test_recipe_for_a_feature_from_two_columns_works(changed: ChangedProject) -> None:
    (code,) = find_code_blocks(changed.project, "A feature from two columns")
    changed.replace_function("steps/prep/prep.py", "features", code)
    run = changed.project.run("training", "--set", "max_iterations=5")
    assert run.code == 0, run.err
    report = Path(run.json["steps"][0]["outputs"]["data_report"], "report.json")
    assert json.loads(report.read_text())["columns"]["bill_shape"]["type"] == "number"
    scored = changed.project.run("scoring")
    assert scored.code == 0, scored.err
    assert changed.list_changed_files() == {"steps/prep/prep.py"}
    changed.assert_tests_pass("tests/test_prep.py")


def test_recipe_for_another_model_works(changed: ChangedProject) -> None:
    (code,) = find_code_blocks(changed.project, "Use another model")
    changed.replace_function("steps/train/train.py", "build_model", code)
    (values,) = find_code_blocks(changed.project, "Use another model", "yaml")
    forest = yaml.safe_load(values)["hyperparameters"]
    changed.project.set("training", hyperparameters={**forest, "bootstrap": True})
    run = changed.project.run("training", "--set", "n_estimators=30")
    assert run.code == 0, run.err
    assert changed.list_changed_files() == {"settings.yml", "steps/train/train.py"}
    changed.assert_tests_pass("tests/test_model.py")
    wrong = changed.project.run("training", "--set", "n_estimators=-3")
    assert wrong.code == 1
    assert "n_estimators" in wrong.err and "Traceback" not in wrong.err


def add_step(project: Project, name: str, script: str) -> None:
    """Add the folder of a step."""
    folder = project.path / "steps" / name
    folder.mkdir()
    (folder / f"{name}.py").write_text(script, encoding="utf-8")
    ignored = (project.path / "steps/prep/.amlignore").read_bytes()
    (folder / ".amlignore").write_bytes(ignored)


def test_recipe_for_a_step_between_two_others_works(
    changed_project_of_each_sdk: ChangedProject,
) -> None:
    changed = changed_project_of_each_sdk
    project = changed.project
    script, function, calls, definition, edges = find_code_blocks(
        project, "A step between two others"
    )
    add_step(project, "validate", script)
    pipelines = f"{project.package}/pipelines.py"
    train = "def build_train_step("
    project.edit(pipelines, train, f"{function}\n\n{train}")
    old_call, line_above = STEP_RECIPE[project.sdk]
    project.edit(pipelines, old_call, calls)
    project.edit(pipelines, line_above, line_above + definition, count=1)

    run = project.run("training", "--set", "max_iterations=5")
    assert run.code == 0, run.err
    names = [step["name"] for step in run.json["steps"]]
    assert names == ["prep", "validate", "train", "evaluate", "register"]
    new = {"steps/validate/validate.py", "steps/validate/.amlignore"}
    assert changed.list_changed_files() == new | {pipelines}
    old_edge = '        "prep.prepared -> train.prepared",\n'
    project.edit("tests/test_pipelines.py", old_edge, edges)
    changed.assert_tests_pass("tests/test_pipelines.py")


def add_drift_pipeline(project: Project) -> None:
    """Add the pipeline `drift`, as the recipe "A pipeline of its own" says."""
    script, function, entry = find_code_blocks(project, "A pipeline of its own")
    add_step(project, "compare", script)
    pipelines = f"{project.package}/pipelines.py"
    text = (project.path / pipelines).read_text(encoding="utf-8")
    comment = text[: text.index(TABLE)].rpartition("\n\n\n")[2]
    project.edit(pipelines, comment + TABLE, f"{function}\n\n{comment}{TABLE}{entry}")


def test_recipe_for_another_pipeline_works(
    changed_project_of_each_sdk: ChangedProject,
) -> None:
    changed = changed_project_of_each_sdk
    project = changed.project
    add_drift_pipeline(project)
    run = project.run("drift")
    assert run.code == 0, run.err
    drift = Path(run.json["steps"][0]["outputs"]["drift"], "drift.txt")
    assert drift.read_text() == "3 1"
    new = {"steps/compare/compare.py", "steps/compare/.amlignore"}
    assert changed.list_changed_files() == new | {f"{project.package}/pipelines.py"}
    assert project.run("drift", "--set", "now=data/sample/training").code == 0
    drawn = project.python("-m", project.package, "draw")
    assert drawn.code == 0, drawn.err
    assert "`drift`:" in drawn.out and '("now") --> ' in drawn.out
    unknown = project.run("drifft")
    assert "The pipelines are: drift, training, scoring." in unknown.err
    for tool in (["black", "--check", "--quiet"], ["ruff", "check"]):
        checked = project.python("-m", *tool, f"{project.package}/pipelines.py")
        assert checked.code == 0, checked.out + checked.err
    changed.assert_tests_pass("tests/test_pipelines.py")


SHOW_SWEEP = """
import json, sweep
job = sweep.build_sweep(sweep.PROJECT.settings())
print(job._validate()._to_dict()["result"])
job._to_rest_object()  # raises an error if it cannot be sent
print(json.dumps(job._to_dict()))
"""


def test_recipe_for_a_search_on_many_nodes_is_valid_for_the_sdk(bake: Bake) -> None:
    """The SDK itself validates the sweep, and writes what it would send."""
    project = bake(azureml_sdk="azure-ai-ml")
    page = (project.path / "docs" / "models.md").read_text(encoding="utf-8")
    recipe = page.partition("### Search on many nodes\n")[2]
    (script,) = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    (project.path / "sweep.py").write_text(script, encoding="utf-8")
    space = {
        "learning_rate": {"low": 0.01, "high": 0.5, "log": True},
        "max_leaf_nodes": {"low": 4, "high": 6},
        "l2_regularization": [0, 1.5, None],
    }
    project.set("training", search={"tries": 20, "space": space}, metric="roc_auc")
    done = project.python("-c", SHOW_SWEEP)
    assert done.code == 0, done.err
    result, text = done.out.strip().splitlines()[-2:]
    assert result == "Succeeded"
    *_, sweep = json.loads(text)["jobs"].values()
    assert sweep["objective"] == {"goal": "maximize", "primary_metric": "cv_roc_auc"}
    assert sweep["limits"]["max_total_trials"] == 20
    assert "max_leaf_nodes '${{inputs.max_leaf_nodes}}'" in sweep["trial"]["command"]
    drawn = sweep["search_space"]
    assert drawn["learning_rate"] == {
        "type": "loguniform",
        "min_value": pytest.approx(math.log(0.01)),
        "max_value": pytest.approx(math.log(0.5)),
    }
    assert drawn["max_leaf_nodes"] == {"type": "choice", "values": ["4", "5", "6"]}
    assert drawn["l2_regularization"]["values"] == ["0", "1.5", "None"]
    for tool in (["black", "--check", "--quiet"], ["ruff", "check"]):
        checked = project.python("-m", *tool, "sweep.py")
        assert checked.code == 0, checked.out + checked.err


def test_added_pipeline_runs_on_azure(bake: Bake, tmp_path: Path) -> None:
    with Standin.running(tmp_path / "standin") as standin:
        standin.create_workspace("workspace", "group", "cpu-cluster")
        project = bake(
            azure_subscription_id=standin.subscription_id,
            azure_resource_group="group",
            azure_workspace_name="workspace",
            azure_region="westeurope",
        )
        add_drift_pipeline(project)
        variables = standin.environment(tmp_path / "home") | standin.credentials
        command = ("-m", project.package)
        for words in (
            ["provision"],
            ["submit", "drift", "--wait"],
            ["publish", "drift", "--data", "now=folder/of/tomorrow"],
        ):
            done = project.python(*command, *words, **variables)
            assert done.code == 0, done.err
        (endpoint,) = standin.azure.endpoints.values()
        assert endpoint["Name"] == "penguins-drift"
        wrong = project.python(
            *(*command, "publish", "drift", "--data", "folder"), **variables
        )
        assert "--data folder: write before=folder or now=folder." in wrong.err
        standin.verify()
