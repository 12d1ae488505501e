"""Test the processes of runs: they work side by side, and leave no process behind."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from textwrap import indent

import pytest
from conftest import Project
from toys import (
    COLD,
    copy_project,
    finish_command,
    list_running,
    on_linux,
    restore_preloading,
    run_pipeline,
    start_command,
    wait_until,
    write_script,
    write_toy_step,
)

STARTS_MLFLOW_RUN = "import mlflow\nwith mlflow.start_run(): pass"


def test_runs_can_start_at_the_same_time(
    new_toy_project: Project, tmp_path: Path
) -> None:
    """The first two runs of a project make MLflow's database, and the next two use it."""
    project = copy_project(new_toy_project, tmp_path / "toy")
    write_toy_step(project, "train", STARTS_MLFLOW_RUN)
    database = project.path / "mlruns" / "mlflow.db"
    command = ["run", "training", "--fresh", "--json"]
    for run_count in (2, 4):
        processes = [start_command(project, *command) for _ in range(2)]
        results = [finish_command(process) for process in processes]
        for result in results:
            assert result.code == 0, result.err
        assert results[0].json["folder"] != results[1].json["folder"]
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT status, experiment_id FROM runs")
            mlflow_runs = rows.fetchall()
        # Each has the run of the pipeline and those of its four steps.
        assert len(mlflow_runs) == 5 * run_count
        assert {status for status, _ in mlflow_runs} == {"FINISHED"}
        assert len({experiment for _, experiment in mlflow_runs}) == 1
    names = {path.name for path in database.parent.iterdir()}
    assert names <= {"mlflow.db", "artifacts"}


def test_steps_import_the_modules_beside_them(toy_project: Project) -> None:
    """They do so even if a variable tells Python not to look there."""
    for step in ("prep", "train"):
        write_toy_step(toy_project, step, imports="import helper_of_the_step")
        (toy_project.path / "steps" / step / "helper_of_the_step.py").touch()
    result = run_pipeline(
        toy_project, "training", variables={**COLD, "PYTHONSAFEPATH": "1"}
    )
    assert result.code == 0, result.err


# The end of a run and of a step -------------------------------------------------------


STARTS_A_CHILD = """
import subprocess, tempfile
tempfile.mkdtemp()
child = subprocess.Popen(["sleep", "600"])
Path("started").touch()
"""


# The first step of a run is a plain process, and the one after it is forked.
in_either_process = pytest.mark.parametrize(
    "step", ["prep", "train"], ids=["plain", "forked"]
)


@on_linux
@in_either_process
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["killed", "interrupted", "terminated"],
)
def test_run_that_is_stopped_leaves_no_process(
    toy_project: Project,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
    step: str,
) -> None:
    # Packages are imported while the first step runs.
    restore_preloading(toy_project)
    write_toy_step(toy_project, step, f"{STARTS_A_CHILD}child.wait()")
    temporary_files = tmp_path / "tmp"
    temporary_files.mkdir()
    variables = {**COLD, "TMPDIR": str(temporary_files)}
    process = start_command(
        toy_project, "run", "training", "--json", variables=variables
    )
    wait_until(lambda: bool([*toy_project.path.glob(f"runs/*/{step}/code/started")]))
    wait_until(
        lambda: any("sleep 600" in command for command in list_running(toy_project))
    )
    process.send_signal(number)
    result = finish_command(process)
    assert result.code == code
    assert "Traceback" not in result.err
    if number != signal.SIGKILL:
        assert (
            "The run was stopped. The results of finished steps are kept." in result.err
        )
        assert "To continue, run: python -m toy run training" in result.err
        # Not even azureml-sdk leaves a folder for its logs.
        assert list(temporary_files.iterdir()) == []
    wait_until(lambda: not list_running(toy_project))
    (folder,) = toy_project.path.glob("runs/*-training")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    steps_before = [] if step == "prep" else ["prep"]
    assert list(record["done"]) == steps_before


@on_linux
@in_either_process
def test_run_does_not_wait_for_processes_that_a_step_leaves(
    toy_project: Project, step: str
) -> None:
    write_toy_step(toy_project, step, STARTS_A_CHILD)
    result = run_pipeline(toy_project, "training", variables=COLD)
    assert result.code == 0, result.err
    wait_until(lambda: not list_running(toy_project), seconds=10)


@in_either_process
def test_message_names_the_signal_that_killed_a_step(
    toy_project: Project, step: str
) -> None:
    write_toy_step(toy_project, step, "import os\nos.kill(os.getpid(), 9)")
    result = run_pipeline(toy_project, "training", variables=COLD)
    assert result.code == 1
    assert "ended by signal 9" in result.err


# Workers of a parallel step -----------------------------------------------------------


#: All that a worker can see of its process.
COLLECT_FACTS = """
facts = {
    "name": __name__,
    "file": __file__,
    "arguments": sys.argv,
    "folder": os.getcwd(),
    "path": sys.path,
    "variables": sorted(os.environ.items()),
    "input": sys.stdin.read(),
    "session": os.getsid(0) == os.getpid(),
    "threads": [thread.name for thread in threading.enumerate()],
    "main": vars(sys.modules["__main__"]) is globals(),
    "garbage": gc.isenabled(),
    "flags": str(sys.flags),
    "streams": [str(stream) for stream in (sys.stdout, sys.stderr)],
}
"""


#: Each worker writes down what it sees. The first two die in their first mini-batch.
WRITES_DOWN_FACTS = f"""
import mlflow
import gc, glob, json, os, random, signal, sys, threading, uuid
import numpy

def init():
    drawn = [random.random(), str(uuid.uuid4()), numpy.random.random()]
{indent(COLLECT_FACTS, "    ")}
    # polars and scikit-learn set variables of their own when they are imported, and each
    # run has a folder of its own for temporary files.
    others = ("_RJEM_", "KMP_", "TMPDIR")
    facts["variables"] = [v for v in facts["variables"] if not v[0].startswith(others)]
    facts["registered"] = __name__ in sys.modules
    facts["interrupt"] = str(signal.getsignal(signal.SIGINT))
    with open(f"worker-{{os.getpid()}}.json", "w") as file:
        json.dump([drawn, facts], file)

def run(mini_batch):
    if len(glob.glob("worker-*")) < 3:
        os._exit(1)
    return mini_batch
"""


@on_linux
def test_forked_workers_are_like_spawned_ones(toy_project: Project) -> None:
    writes_second_file = (
        "for folder in Path().glob('../outputs/*'):\n"
        "    (folder / 'another.txt').write_text('made')"
    )
    write_toy_step(toy_project, "prep", writes_second_file)
    write_script(toy_project, "score", WRITES_DOWN_FACTS)
    restore_preloading(toy_project)
    facts = set[str]()
    for can_fork in (True, False):
        if not can_fork:
            for module in ("processes", "parallel_driver"):
                file = f"{toy_project.package}/runtime/local/{module}.py"
                toy_project.edit(file, 'sys.platform == "linux"', "False")
        result = run_pipeline(toy_project, "scoring", "--fresh", variables=COLD)
        assert result.code == 0, result.err

        folder = Path(result.json["folder"])
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        mlflow_run = record["done"]["score"]["mlflow_run"]
        random_numbers = []
        worker_count = 0
        for file_of_worker in (folder / "score" / "code").glob("worker-*.json"):
            text = file_of_worker.read_text().replace(folder.name, "RUN")
            text = text.replace(mlflow_run, "RUN IN MLFLOW")
            drawn, facts_of_worker = json.loads(text)
            random_numbers += drawn
            facts.add(json.dumps(facts_of_worker))
            worker_count += 1
        # Two workers died, and at least one took their place.
        assert worker_count >= 3
        assert len(set(random_numbers)) == len(random_numbers)
    assert len(facts) == 1
