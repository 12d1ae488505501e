"""Test that a run that cannot start explains this in a sentence, and not in a traceback."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Project
from toys import (
    COLD,
    list_command,
    on_linux,
    read_log,
    read_refusal,
    run_in_one_process,
    run_pipeline,
    write_toy_step,
)

# MLflow's database --------------------------------------------------------------------


def change_database(project: Project, query: str, *values: object) -> None:
    """Change MLflow's database, as its commands or another release would."""
    database = project.path / "mlruns" / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(query, values)


def test_deleted_experiment_can_be_restored(toy_project: Project) -> None:
    change_database(toy_project, "UPDATE experiments SET lifecycle_stage = 'deleted'")
    message = read_refusal(run_pipeline(toy_project, "scoring"))
    assert "The MLflow experiment 'toy' was deleted" in message
    command = message.partition("To restore it, run: ")[2]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert run_pipeline(toy_project, "scoring").code == 0


#: Versions of the database's schema, with the message about each.
SCHEMAS = {
    "newer": ("ffffffffffff", "was written by a newer MLflow than the one"),
    "older": ("0584bdc529eb", "-m mlflow db upgrade sqlite:///"),
}


@pytest.mark.parametrize(("schema", "message"), SCHEMAS.values(), ids=SCHEMAS)
def test_database_of_another_mlflow_is_refused(
    toy_project: Project, schema: str, message: str
) -> None:
    change_database(toy_project, "UPDATE alembic_version SET version_num = ?", schema)
    error = read_refusal(run_pipeline(toy_project, "scoring"))
    assert message in error
    assert str(toy_project.path / "mlruns" / "mlflow.db") in error


@pytest.mark.parametrize("content", ["", "no database"], ids=["empty", "text"])
def test_file_that_is_no_database_is_refused(
    toy_project: Project, content: str
) -> None:
    (toy_project.path / "mlruns" / "mlflow.db").write_text(content)
    message = read_refusal(run_pipeline(toy_project, "scoring"))
    assert "is not an MLflow database" in message


# The machine --------------------------------------------------------------------------


@on_linux
@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "text"])
def test_output_to_a_full_disk_is_refused_in_a_sentence(
    toy_project: Project, options: list[str]
) -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            list_command(toy_project, "run", "scoring", *options),
            cwd=toy_project.path,
            env={**os.environ, **COLD, "PYTHONPATH": str(toy_project.path)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert process.returncode == 1
    last_line = process.stderr.splitlines()[-1]
    assert last_line == "The output cannot be written: No space left on device."
    assert "Traceback" not in process.stderr


@on_linux
def test_missing_folder_for_temporary_files_is_explained(
    toy_project: Project, mount_disk: Callable[[str], Path]
) -> None:
    disk = mount_disk("ro")
    script = "import tempfile; tempfile._candidate_tempdir_list = lambda: [{!r}]"
    (toy_project.path / "sitecustomize.py").write_text(script.format(str(disk)))
    message = read_refusal(run_pipeline(toy_project, "scoring", variables=COLD))
    assert "Temporary files cannot be written" in message
    assert "TMPDIR" in message


#: Runs a command on a machine without shared memory; needs the rights to mount.
WITHOUT_SHARED_MEMORY = [
    *("unshare", "--mount", "sh", "-c"),
    'mount -t tmpfs -o ro none /dev/shm && exec "$@"',
    "sh",
]


@on_linux
def test_missing_shared_memory_is_explained(toy_project: Project) -> None:
    attempt = subprocess.run(
        [*WITHOUT_SHARED_MEMORY, "true"], check=False, capture_output=True
    )
    if attempt.returncode != 0:
        pytest.skip("/dev/shm cannot be taken away here")
    command = list_command(toy_project, "run", "scoring", "--fresh", "--json")
    process = subprocess.run(
        [*WITHOUT_SHARED_MEMORY, *command],
        cwd=toy_project.path,
        env={**os.environ, **COLD, "PYTHONPATH": str(toy_project.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "Mount /dev/shm so that it is writable." in process.stderr
    assert "Traceback" not in process.stderr


# The project and the command line -----------------------------------------------------


def test_wrong_name_in_reads_model_is_refused(toy_project: Project) -> None:
    pipelines = f"{toy_project.package}/pipelines.py"
    toy_project.edit(pipelines, '"monitor", "score"]', '"monitor", "scores"]')
    message = read_refusal(run_pipeline(toy_project, "scoring"))
    assert "reads_model of scoring names 'scores'" in message


#: Files in which a key is written twice, with the key.
REPEATED_KEYS = {
    "YAML": ("settings.yml", "task: regression\ntask: classification\n", "task"),
    "section": ("settings.yml", "data:\n  seed: 1\n  'seed': 2\n", "seed"),
    "JSON": (".azureml/config.json", '{"seed": 1, "task": 1, "task": 2}', "task"),
}


@pytest.mark.parametrize(
    ("file", "text", "key"), REPEATED_KEYS.values(), ids=REPEATED_KEYS
)
def test_duplicate_key_is_refused(
    toy_project: Project, file: str, text: str, key: str
) -> None:
    (toy_project.path / file).write_text(text, encoding="utf-8")
    result = toy_project.python("-m", toy_project.package, "check")
    assert result.code == 1
    # The message is broken into the lines of a table.
    output = " ".join(result.out.split())
    assert f"{key} wrong is written twice" in output
    assert "delete one of the two" in output
    assert "Traceback" not in result.err


NO_RECORDS = {
    "empty": "",
    "list": "[]",
    "null": "null",
    "mapping": "{}",
    "cut-off": '{"pipeline": "scor',
    "wrong-type": '{"pipeline": "scoring", "set": 1}',
}


def test_folder_that_is_not_that_of_a_run_is_refused(
    toy_project: Project, tmp_path: Path
) -> None:
    """A folder that was moved is still the folder of a run."""
    (scoring_run,) = toy_project.path.glob("runs/*-scoring")
    moved_run = tmp_path / "moved run"
    shutil.copytree(scoring_run, moved_run)
    wrong_folders = [tmp_path, tmp_path / "nowhere"]
    for name, content in NO_RECORDS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content, encoding="utf-8")
        wrong_folders.append(tmp_path / name)

    commands = [
        ["scoring", "--step", "score", "--folder", str(moved_run)],
        ["training", "--step", "train", "--folder", str(moved_run)],
        ["scoring", "--step", "other", "--folder", str(moved_run)],
        ["scorin"],
    ]
    for folder in wrong_folders:
        commands.append(["scoring", "--step", "score", "--folder", str(folder)])
    results = run_in_one_process(toy_project, commands)

    moved, other_pipeline, other_step, no_pipeline, *wrong = results
    assert moved.code == 0, moved.err
    assert "a run of the pipeline scoring" in other_pipeline.err
    assert "There is no step 'other'" in other_step.err
    assert (
        "Did you mean scoring? The pipelines are: training, scoring." in no_pipeline.err
    )
    for result in wrong:
        assert "is not the folder of a run" in result.err
    for result in results[1:]:
        assert (result.code, result.err.count("\n")) == (1, 1)


#: Values that `--set` does not accept, with a part of the message, by pipeline.
WRONG_VALUES = {
    "training": {
        "register=sometimes": "must be one of unless_worse, always",
        "register=": "must be one of unless_worse, always",
        "learning_rate=fast": "learning_rate is 'fast', but must be a value such as 0.1",
        "learning_rate=": "learning_rate is '', but must be a value such as 0.1",
        "max_iterations=2.5": "max_iterations is '2.5', but must be a value such as 200",
        "raw_data=": "raw_data is '', but must be a value such as data/sample/training",
        "raw_data=nowhere": "nowhere",
        "target=Island": "The pipeline has no parameter 'target'",
        "=1": "The pipeline has no parameter ''",
        "register": "write --set NAME=VALUE",
        # The bytes of an argument that is not UTF-8, as Python passes them on.
        "register=\udcff": "are not UTF-8",
        "": "write --set NAME=VALUE",
    },
    "scoring": {
        "process_count_per_node=0": "must be a whole number, 1 or more",
        "process_count_per_node=two": "must be a whole number, 1 or more",
        "process_count_per_node=true": "must be a whole number, 1 or more",
        "mini_batch_size=0": "must be a whole number, 1 or more",
        "mini_batch_size=-1": "must be a whole number, 1 or more",
        "mini_batch_size=1.5": "must be a whole number, 1 or more",
        "mini_batch_size=10KB": "must be a whole number, 1 or more",
        "mini_batch_size=[1": "must be a whole number, 1 or more",
        "node_count=0": "must be a whole number, 1 or more",
        "node_count=nan": "must be a whole number, 1 or more",
        "model_version=x": "must be latest, or a version's number",
        "model_version=0": "must be latest, or a version's number",
        "model_version=-3": "must be latest, or a version's number",
        "model_version=": "must be latest, or a version's number",
        "proces_count_per_node=1": "Did you mean process_count_per_node?",
    },
}


def test_set_refuses_wrong_values(toy_project: Project) -> None:
    # `prep` itself refuses a folder without files.
    fails_without_data = "sys.exit(0 if any(Path(sys.argv[2]).iterdir()) else 1)"
    write_toy_step(toy_project, "prep", fails_without_data)
    commands = []
    messages = []
    for pipeline, messages_by_value in WRONG_VALUES.items():
        for value, message in messages_by_value.items():
            commands.append([pipeline, "--set", value])
            messages.append(message)

    results = run_in_one_process(toy_project, commands)
    for command, message, result in zip(commands, messages, results, strict=True):
        assert result.code == 1, command
        assert message in result.err, command
        if command[-1] != "raw_data=nowhere":
            assert result.err.count("\n") == 1, result.err


def test_set_reaches_the_steps(toy_project: Project) -> None:
    options = ["--set", "learning_rate=1e-3", "--set", "max_iterations=20"]
    options += ["--set", "register=always"]
    result = run_pipeline(toy_project, "training", *options)
    assert result.code == 0, result.err
    arguments = read_log(result, "train")
    assert "--hyperparameters learning_rate 0.001 max_iterations 20" in arguments
    assert "--register always" in read_log(result, "register")
