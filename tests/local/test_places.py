"""Test projects in odd folders, moved, copied, cloned and linked, and on full disks.

A run works in all of these folders, and writes nothing outside its project. If it cannot
work, it explains this in a sentence.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Bake, Project, Result
from toys import (
    ASCII,
    COLD,
    copy_project,
    hash_files,
    list_statuses,
    read_log,
    read_refusal,
    run_pipeline,
    write_toy_step,
)

#: The name of a folder, with characters that mean something to URLs, shells and SQLite.
ODD = "a b%20c #1 ü🐧 'q' \"r\" ?mark=1&x"


@dataclass
class TrainedProject:
    """A project whose training pipeline has run, in a folder that holds nothing else."""

    project: Project
    run_name: str
    parent: Path


@pytest.fixture(scope="module")
def trained(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> TrainedProject:
    """A project that was trained in a folder with an odd name, then moved to another one.

    It was trained without a variable HOME, and with the locale of ASCII.
    """
    parent = tmp_path_factory.mktemp("trained")
    project = copy_project(bake(project_name="Odd places"), parent / ODD / "first ü")
    for table in project.path.glob("data/sample/*/*.csv"):
        text = table.read_text(encoding="utf-8")
        table.write_text(text.replace("Anvers", "Änvers 🐧"), encoding="utf-8")
    files_before = hash_files(project.path).keys()

    result = run_pipeline(project, "training", home=False, variables=ASCII)
    assert result.code == 0, result.err
    # Nothing was written outside mlruns/ and runs/, and no temporary folder is left.
    assert list_names(parent) == {ODD}
    assert list_names(parent / ODD) == {"first ü"}
    new_files = hash_files(project.path).keys() - files_before
    assert {Path(name).parts[0] for name in new_files} == {"mlruns", "runs"}
    assert list_names(project.path / "mlruns") == {"artifacts", "mlflow.db"}

    moved = project.path.rename(parent / "moved%41?x#y")
    (parent / ODD).rmdir()
    run_name = Path(result.json["folder"]).name
    return TrainedProject(Project(moved, project.package), run_name, parent)


def list_names(folder: Path) -> set[str]:
    """Return the names of the files and folders in a folder."""
    return {path.name for path in folder.iterdir()}


def run_step_again(project: Project, run_name: str, step: str, *options: str) -> Result:
    """Run a step of an earlier run again."""
    folder = str(project.path / "runs" / run_name)
    return run_pipeline(
        project, "training", "--step", step, "--folder", folder, *options
    )


def test_moved_project_uses_its_registered_model(trained: TrainedProject) -> None:
    project = trained.project
    result = run_pipeline(project, "scoring", home=False, variables=ASCII)
    assert result.code == 0, result.err
    result = run_step_again(project, trained.run_name, "evaluate")
    assert result.code == 0, result.err
    # The registered model could be loaded, and is the very same.
    assert (
        "the new model gives the same predictions as the registered version 1"
        in read_log(result, "evaluate")
    )
    assert list_names(trained.parent) == {project.path.name}


def test_copy_changes_nothing_in_its_original(
    trained: TrainedProject, tmp_path: Path
) -> None:
    original = trained.project
    files_before = hash_files(original.path)
    copy = copy_project(original, tmp_path / "copy")
    result = run_step_again(
        copy, trained.run_name, "register", "--set", "register=always"
    )
    assert result.code == 0, result.err
    assert "registered as version 2" in read_log(result, "register")
    assert hash_files(original.path) == files_before

    artifacts = (copy.path / "mlruns" / "artifacts").as_uri()
    database = copy.path / "mlruns" / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT source FROM model_versions").fetchall()
    assert len(rows) == 2
    assert all(source.startswith(f"{artifacts}/") for (source,) in rows)


def test_clone_with_mlruns_changes_nothing_in_its_original(
    trained: TrainedProject, tmp_path: Path
) -> None:
    original = trained.project
    commands = [
        ["init", "--quiet", "."],
        ["add", "."],
        ["add", "--force", "mlruns"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "all"],
        ["clone", "--quiet", ".", str(tmp_path / "clone")],
    ]
    for command in commands:
        subprocess.run(["git", *command], cwd=original.path, check=True)
    files_before = hash_files(original.path)
    clone = Project(tmp_path / "clone", original.package)
    result = run_pipeline(clone, "scoring")
    assert result.code == 0, result.err
    assert hash_files(original.path) == files_before


# Folders ------------------------------------------------------------------------------


def test_project_behind_a_link_runs_from_another_folder(
    toy_project: Project, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(toy_project.path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = run_pipeline(Project(link, toy_project.package), "training", cwd=elsewhere)
    assert result.code == 0, result.err
    assert not list(elsewhere.iterdir())
    assert Path(result.json["folder"]).parent == toy_project.path / "runs"


def test_path_that_is_too_long_for_sqlite_is_refused(
    toy_project: Project, tmp_path: Path
) -> None:
    folder = tmp_path.joinpath(*["long" * 25] * 5)
    moved = copy_project(toy_project, folder / "toy")
    assert "The project's path is too long" in read_refusal(
        run_pipeline(moved, "scoring")
    )


def test_run_ends_if_its_folder_is_removed(toy_project: Project) -> None:
    write_toy_step(
        toy_project, "train", "import shutil\nshutil.rmtree(Path.cwd().parents[1])"
    )
    result = run_pipeline(toy_project, "training")
    assert result.code == 1
    assert list_statuses(result) == ["ran", "failed", "skipped", "skipped"]
    assert "Traceback" not in result.err.replace("    Traceback", "")


def test_notebook_imports_the_steps_of_its_own_project(bake: Bake) -> None:
    """The notebook of a project imports its own steps, though another one is installed."""
    installed = bake(project_name="Installed one")
    project = bake(project_name="Other one")
    notebook = project.path / "notebooks" / "02_training_pipeline.ipynb"
    lines = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            lines += cell["source"]
    beginnings = ("sys.path", "import prep", "import train", "import evaluate")
    set_path, *imports = [line for line in lines if line.startswith(beginnings)]
    assert len(imports) == 4
    program = [
        "import sys\nfrom pathlib import Path\n",
        set_path,
        f"from {project.package}.settings import PROJECT\n",
        *imports,
        f"\nimport {project.package}\nprint({project.package}.__file__)",
        "\nprint(prep.__file__, train.__file__, evaluate.__file__)",
    ]
    process = subprocess.run(
        [sys.executable, "-c", "".join(program)],
        cwd=notebook.parent,
        env={**os.environ, "PYTHONPATH": str(installed.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.count(str(project.path)) == 4
    assert str(installed.path) not in process.stdout


# Disks --------------------------------------------------------------------------------


def test_read_only_project_is_refused_in_a_sentence(
    toy_project: Project, mount_disk: Callable[[str], Path]
) -> None:
    disk = mount_disk("size=50m")
    moved = copy_project(toy_project, disk / "toy")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    result = run_pipeline(moved, "scoring")
    assert result.code == 1
    assert "cannot be written" in result.err
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err


FILL = """
try:
    with open(Path.cwd().parent / "outputs" / "prepared" / "big", "wb") as file:
        while True:
            file.write(bytes(2**16))
except OSError as error:
    sys.exit(f"prep: {error}")
"""


def test_full_disk_ends_a_run_with_a_sentence(
    toy_project: Project, mount_disk: Callable[[str], Path]
) -> None:
    moved = copy_project(toy_project, mount_disk("size=20m") / "toy")
    write_toy_step(moved, "prep", FILL)
    result = run_pipeline(moved, "training", variables=COLD)
    assert result.code == 1
    assert "The disk that holds" in result.err
    assert "Traceback" not in result.err
    state = Path(result.json["folder"]) / "run.json"
    assert "prep" not in json.loads(state.read_text(encoding="utf-8"))["done"]
    files_before = hash_files(moved.path / "mlruns")

    result = run_pipeline(moved, "training", variables=COLD)
    assert result.code == 1
    assert "No space left on device" in result.err or "full" in result.err
    assert "Traceback" not in result.err
    assert hash_files(moved.path / "mlruns") == files_before

    (state.parent / "prep" / "outputs" / "prepared" / "big").unlink()
    write_toy_step(moved, "prep")
    assert run_pipeline(moved, "training", variables=COLD).code == 0
