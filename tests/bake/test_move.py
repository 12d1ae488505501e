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
    project = bake(**ANSWERS)
    training = project.run("training", "--set", "max_iterations=20")
    assert training.code == 0, training.err
    project.edit(
        "steps/prep/prep.py",
        "def main() -> None:\n",
        f"{NOTE}\n\ndef main() -> None:\n",
    )
    project.edit("settings.yml", "seed: 42", "seed: 43")
    before = project.run("scoring")
    assert before.code == 0, before.err
    models = {path.relative_to(project.path) for path in project.path.rglob("MLmodel")}
    assert models

    project.edit(".cookiecutter.json", SDKS[0], SDKS[1])
    binaries = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    moved = subprocess.run(
        ["sh", "-e", "-c", read_commands_of_page(project)],
        cwd=project.path,
        env=os.environ | binaries | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert moved.returncode == 0, moved.stderr
    answers = json.loads((project.path / ".cookiecutter.json").read_text())
    assert answers["cookiecutter"]["azureml_sdk"] == SDKS[1]
    project.sdk = SDKS[1]

    text = (project.path / project.package / "pipelines.py").read_text(encoding="utf-8")
    assert "azure.ai.ml" in text and "azureml.core" not in text
    fresh = tmp_path / project.path.name
    cookiecutter(
        str(TEMPLATE),
        no_input=True,
        output_dir=str(tmp_path),
        extra_context={**ANSWERS, "azureml_sdk": SDKS[1]},
    )
    for path in fresh.rglob("*"):
        here = project.path / path.relative_to(fresh)
        ours = here.name in ("prep.py", "settings.yml")
        assert path.is_dir() or ours or here.read_bytes() == path.read_bytes(), here
    assert NOTE in (project.path / "steps/prep/prep.py").read_text(encoding="utf-8")
    assert "seed: 43" in (project.path / "settings.yml").read_text(encoding="utf-8")

    after = project.run("scoring")
    assert after.code == 0, after.err
    assert "this step is ours" in after.err
    assert all((project.path / model).exists() for model in models)
    old, new = (read_predictions(run) for run in (before, after))
    pd.testing.assert_frame_equal(old, new, check_exact=True)
    again = project.run("training", "--set", "max_iterations=20")
    assert again.code == 0, again.err
    assert "registered" in again.err
