"""Test that a project of azureml-sdk moves to azure-ai-ml as docs/updating.md says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
from conftest import SDKS, TEMPLATE, Bake, Project, Result
from cookiecutter.main import cookiecutter

ANSWERS = {"project_name": 'Früher: 7 "Wale"', "task": "regression"}
NOTE = 'print("note: this step is ours")\n'


def read_commands_of_page(project: Project) -> str:
    """Return the commands of the page, with the path of this template in them."""
    page = (project.path / "docs" / "updating.md").read_text(encoding="utf-8")
    section = page.partition("## Move to azure-ai-ml\n")[2]
    lines = re.findall(r"^    (.*\n)", section, re.MULTILINE)
    assert [line.split()[0] for line in lines] == [
        "rm",
        "rm",
        "rm",
        "cookiecutter",
        "--output-dir",
    ]
    return "".join(lines).replace("TEMPLATE", str(TEMPLATE))


def read_predictions(run: Result) -> pd.DataFrame:
    """Return the predictions of a run of the pipeline `scoring`."""
    outputs = {step["name"]: step["outputs"] for step in run.json["steps"]}
    return pd.read_parquet(outputs["score"]["predictions"])


def test_steps_settings_data_runs_and_models_stay(bake: Bake, tmp_path: Path) -> None:
    """Train and score with azureml-sdk, move, and do both again with azure-ai-ml."""
    project = bake(**ANSWERS)
    training = project.run("training", "--set", "max_iterations=20")
    assert training.code == 0, training.err
    edit_step_and_settings(project)
    before = project.run("scoring")
    assert before.code == 0, before.err
    models = {path.relative_to(project.path) for path in project.path.rglob("MLmodel")}
    assert models

    move_to_other_sdk(project, tmp_path)
    assert_files_are_those_of_a_new_project(project, tmp_path)

    after = project.run("scoring")
    assert after.code == 0, after.err
    assert "this step is ours" in after.err
    assert all((project.path / model).exists() for model in models)
    pd.testing.assert_frame_equal(
        read_predictions(before), read_predictions(after), check_exact=True
    )
    again = project.run("training", "--set", "max_iterations=20")
    assert again.code == 0, again.err
    assert "registered" in again.err


def edit_step_and_settings(project: Project) -> None:
    """Let the step prep print a note, and choose another seed."""
    main = "def main() -> None:\n"
    project.edit("steps/prep/prep.py", main, f"{NOTE}\n\n{main}")
    project.edit("settings.yml", "seed: 42", "seed: 43")


def move_to_other_sdk(project: Project, home: Path) -> None:
    """Follow the page: change the answer, and run its commands."""
    project.edit(".cookiecutter.json", SDKS[0], SDKS[1])
    tools = Path(sys.executable).parent
    moved = subprocess.run(
        ["sh", "-e", "-c", read_commands_of_page(project)],
        cwd=project.path,
        env={
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert moved.returncode == 0, moved.stderr
    answers = json.loads((project.path / ".cookiecutter.json").read_text())
    assert answers["cookiecutter"]["azureml_sdk"] == SDKS[1]
    project.sdk = SDKS[1]


def assert_files_are_those_of_a_new_project(project: Project, folder: Path) -> None:
    """Check that all files are as in a new project, except for those that were edited."""
    pipelines = project.path / project.package / "pipelines.py"
    text = pipelines.read_text(encoding="utf-8")
    assert "azure.ai.ml" in text and "azureml.core" not in text

    cookiecutter(
        str(TEMPLATE),
        no_input=True,
        output_dir=str(folder),
        extra_context={**ANSWERS, "azureml_sdk": SDKS[1]},
    )
    new_project = folder / project.path.name
    for path in new_project.rglob("*"):
        moved_path = project.path / path.relative_to(new_project)
        is_edited = path.name in ("prep.py", "settings.yml")
        if path.is_file() and not is_edited:
            assert moved_path.read_bytes() == path.read_bytes(), moved_path
    assert NOTE in (project.path / "steps/prep/prep.py").read_text(encoding="utf-8")
    assert "seed: 43" in (project.path / "settings.yml").read_text(encoding="utf-8")
