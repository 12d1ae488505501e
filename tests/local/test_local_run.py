"""Test generated projects as their users run them: on this machine, on real data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import SDKS, Bake, Project
from sklearn import datasets
from toys import skip_preloading, wait_until


def find_output(result: dict[str, Any], step: str, port: str) -> Path:
    """Return the folder of an output of a run."""
    result_of_step = next(s for s in result["steps"] if s["name"] == step)
    return Path(result_of_step["outputs"][port])


def read_metrics(result: dict[str, Any]) -> Any:
    """Return the figures that the step evaluate has written."""
    path = find_output(result, "evaluate", "evaluation") / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8"))["metrics"]


def read_registration(result: dict[str, Any]) -> Any:
    """Return the decision of the step register."""
    path = find_output(result, "register", "registration") / "registration.json"
    return json.loads(path.read_text(encoding="utf-8"))


def read_predictions(result: dict[str, Any]) -> pd.DataFrame:
    """Return the predictions of a run."""
    return pd.read_parquet(find_output(result, "score", "predictions"))


@pytest.fixture(scope="session")
def trained(bake: Bake) -> tuple[Project, dict[str, Any]]:
    """A project whose training pipeline has run on the sample, and that run."""
    project = bake(project_name="Trained")
    result = project.run("training")
    assert result.code == 0, result.err
    return project, result.json


def test_sample_is_trained_on_and_scored(
    trained: tuple[Project, dict[str, Any]],
) -> None:
    """Train, score twice, and score data that has drifted."""
    project, training = trained
    assert_training_has_results(training)

    first = project.run("scoring")
    summary = find_output(first.json, "summarize", "summary")
    page = (summary / "report.html").as_uri()
    assert first.err.splitlines()[-1] == f"  {page}"
    assert_sample_is_scored(project, first.json)

    # MLflow has written a file beside the model when it was loaded, which changes nothing.
    again = project.run("scoring").json
    assert {step["status"] for step in again["steps"]} == {"reused"}
    assert_runs_and_models_are_listed(project, training, again)

    assert_drift_stops_scoring(project)
    assert not (project.path / "mlruns" / "0").exists()
    train_folder = find_output(training, "train", "model").parents[1]
    names = {path.name for path in train_folder.iterdir()}
    assert names == {"code", "outputs", "log.txt"}


def assert_training_has_results(training: dict[str, Any]) -> None:
    """Check that training has registered a good model, with a report that reads offline."""
    assert [(s["name"], s["status"]) for s in training["steps"]] == [
        ("prep", "ran"),
        ("train", "ran"),
        ("evaluate", "ran"),
        ("register", "ran"),
    ]
    assert read_registration(training)["version"] == "1"
    assert read_metrics(training)["accuracy"] > 0.9
    evaluation = find_output(training, "evaluate", "evaluation")
    report = (evaluation / "report.html").read_text(encoding="utf-8")
    assert report.count("data:image/svg+xml") >= 2
    assert "http" not in report.replace("http://www.w3.org", "")


def assert_sample_is_scored(project: Project, scoring: dict[str, Any]) -> None:
    """Check that each row of the sample has its keys, a prediction and probabilities."""
    drift = find_output(scoring, "monitor", "drift_report") / "drift.json"
    assert json.loads(drift.read_text(encoding="utf-8"))["drift"] == []
    summary = find_output(scoring, "summarize", "summary") / "summary.json"
    assert json.loads(summary.read_text(encoding="utf-8"))["rows"] == 43
    rows = pd.read_csv(project.path / "data/sample/scoring/penguins.csv")
    scored = read_predictions(scoring)
    keys = ["studyName", "Individual ID"]
    assert list(scored.columns[:3]) == [*keys, "prediction"]
    assert scored.columns[3:].str.startswith("probability_").all()
    assert scored[keys].equals(rows[keys])
    assert scored.filter(like="probability_").sum(axis=1).round(6).eq(1).all()


def assert_drift_stops_scoring(project: Project) -> None:
    """Check that with `on_drift=stop`, nothing is scored if a length is in centimetres."""
    rows = pd.read_csv(project.path / "data/sample/scoring/penguins.csv")
    rows["Flipper Length (mm)"] /= 10
    rows.to_csv(project.path / "drifted.csv", index=False)
    drifted = ("--set", "raw_data=drifted.csv", "--set", "on_drift=stop")
    stopped = project.run("scoring", *drifted)
    assert stopped.code == 1
    statuses = [step["status"] for step in stopped.json["steps"]]
    assert statuses == ["ran", "failed", "skipped", "skipped"]
    assert "drift in 1 of 12 features ('Flipper Length (mm)')" in stopped.err
    assert "Nothing is scored, because monitoring.on_drift is 'stop'" in stopped.err


def assert_runs_and_models_are_listed(
    project: Project, training: dict[str, Any], newest: dict[str, Any]
) -> None:
    """Check the tables of the commands `runs` and `models`."""
    name = Path(training["folder"]).name
    listed = project.python("-m", project.package, "runs")
    assert listed.code == 0, listed.err
    lines = listed.out.splitlines()
    assert lines[1].split()[0] == Path(newest["folder"]).name
    # All its steps were reused, and so were their results: rows and version.
    assert lines[1].split()[3:5] == ["43", "1"]
    assert lines[2] == "    no drift"
    row = next(index for index, line in enumerate(lines) if line.startswith(name))
    log_loss = f"{read_metrics(training)['log_loss']:.4g}"
    assert lines[row].split()[3:] == ["301", "1", log_loss]
    assert lines[row + 1] == "    better than the baseline"

    models = project.python("-m", project.package, "models")
    assert models.code == 0, models.err
    version, _, _, value, target, run = models.out.splitlines()[1].split()
    assert (version, value, target, run) == ("1", log_loss, "Species", name)
    assert "New models are compared with version 1." in models.out
    assert "scoring uses version 1, the newest" in models.out


def test_regression_predicts_masses_of_the_sample(bake: Bake) -> None:
    project = bake(task="regression")
    training = project.run("training")
    assert training.code == 0, training.err
    assert read_metrics(training.json)["r2"] > 0.7
    report = find_output(training.json, "prep", "data_report") / "report.json"
    assert json.loads(report.read_text())["dropped"] == {"no value in the target": 2}
    scored = read_predictions(project.run("scoring").json)
    assert len(scored) == 43
    assert scored["prediction"].between(2000, 7000).all()
    assert "probability" not in " ".join(scored.columns)


@pytest.mark.parametrize(
    ("table", "task", "file_type", "metric", "least"),
    [
        ("breast_cancer", "classification", "csv", "accuracy", 0.9),
        ("diabetes", "regression", "parquet", "r2", 0.2),
    ],
)
def test_other_tables_need_only_other_settings(
    bake: Bake, table: str, task: str, file_type: str, metric: str, least: float
) -> None:
    frame = getattr(datasets, f"load_{table}")(as_frame=True).frame
    project = bake(task=task)
    for name, rows in {
        "training": frame,
        "scoring": frame.drop(columns="target"),
    }.items():
        path = project.path / f"{name}.{file_type}"
        getattr(rows, f"to_{file_type}")(path, index=False)
        project.set("data", **{name: path.name})
    project.set("data", target="target", keys=[], ignore=[], rows_per_part=100)

    training = project.run("training")
    assert training.code == 0, training.err
    assert read_metrics(training.json)[metric] > least

    scoring = project.run("scoring").json
    parts = find_output(scoring, "score", "predictions")
    assert len(list(parts.iterdir())) == -(-len(frame) // 100)
    scored = read_predictions(scoring).sort_values("row", ignore_index=True)
    assert list(scored["row"]) == list(range(len(frame)))
    right = scored["prediction"] == frame["target"]
    assert task == "regression" or right.mean() > 0.9


def test_worse_model_is_not_registered(
    trained: tuple[Project, dict[str, Any]],
) -> None:
    project, _ = trained
    before = list_versions(project)
    worse = project.run("training", "--set", "max_iterations=1").json
    assert read_registration(worse)["registered"] is False
    assert "worse than the registered version" in read_registration(worse)["reason"]
    assert list_versions(project) == before


def list_versions(project: Project) -> list[int]:
    """Return the numbers of all registered versions of a project's model."""
    with closing(sqlite3.connect(project.path / "mlruns/mlflow.db")) as registry:
        rows = registry.execute("SELECT version FROM model_versions").fetchall()
    return [version for (version,) in rows]


def start_training(project: Project, output: int) -> subprocess.Popen[str]:
    """Start `run training` in a session of its own, to which signals can be sent."""
    return subprocess.Popen(
        [sys.executable, "-m", project.package, "run", "training"],
        cwd=project.path,
        env={**os.environ, "PYTHONPATH": str(project.path)},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_search_that_is_stopped_is_continued(bake: Bake) -> None:
    """Check that another search runs `train` again, but not `prep`."""
    project = bake()
    few_trees = {"max_iterations": 5}
    space = {"learning_rate": {"low": 0.05, "high": 0.5}}
    search = {"tries": 500, "space": space}
    project.set("training", hyperparameters=few_trees, search=search)
    with start_training(project, subprocess.PIPE) as process:
        wait_for_log(project, "progress: 3 of 500 tries")
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To continue, run: python -m" in printed

    # The next search is so short that it need not start worker processes again.
    project.set("training", search={**search, "tries": 2})
    result = project.run("training")
    assert result.code == 0, result.err
    statuses = [step["status"] for step in result.json["steps"]]
    assert statuses == ["reused", "ran", "ran", "ran"]
    log = find_output(result.json, "train", "model").parents[1] / "log.txt"
    assert "tries are taken from an earlier search" in log.read_text()


def wait_for_log(project: Project, text: str) -> None:
    """Wait until a step of a run has written a text to its log."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        logs = project.path.glob("runs/*/*/log.txt")
        if any(text in log.read_text(encoding="utf-8") for log in logs):
            return
        time.sleep(0.2)
    raise TimeoutError(f"no log has {text!r}")


# Prints for each step whether it is the same with a search and without one.
COMPARE_STEPS = """
import json
from penguins.pipelines import PIPELINES
from penguins.runtime.azure import sdk_steps
from penguins.settings import PROJECT

def build(settings):
    steps = sdk_steps.build_steps(PIPELINES["training"], settings)
    return sdk_steps.read_steps(steps)

settings = PROJECT.settings()
training = settings.training.model_copy(update={"search": None})
pairs = zip(build(settings), build(settings.model_copy(update={"training": training})))
print(json.dumps({a.name: str(a) == str(b) for a, b in pairs}))
"""


@pytest.mark.parametrize("sdk", SDKS)
def test_search_changes_only_the_step_train(bake: Bake, sdk: str) -> None:
    """Azure ML, too, therefore reuses `prep` when the search space changes."""
    project = bake(azureml_sdk=sdk)
    space = {"learning_rate": [0.1, 0.2]}
    project.set("training", search={"tries": 2, "space": space})
    compared = project.python("-c", COMPARE_STEPS)
    assert compared.code == 0, compared.err
    is_same = {"prep": True, "train": False, "evaluate": True, "register": True}
    assert compared.json == is_same


def test_exception_in_a_step_ends_the_run(bake: Bake) -> None:
    project = bake()
    fault = "        raise RuntimeError('broken on purpose')\n"
    head = "            hyperparameters=parse_hyperparameters(args.hyperparameters),\n"
    head += "            search=search,\n        )\n"
    project.edit("steps/train/train.py", head, head + fault)
    result = project.run("training")
    assert result.code == 1
    assert "RuntimeError: broken on purpose" in result.err
    statuses = [step["status"] for step in result.json["steps"]]
    assert statuses == ["ran", "failed", "skipped", "skipped"]
    assert not (project.path / "mlruns" / "artifacts").exists()

    # When the step is fixed, the command in the message runs the pipeline to its end.
    again = result.err.split("results of unchanged steps: python ")[1].splitlines()[0]
    project.edit("steps/train/train.py", fault, "")
    repaired = project.python(*again.split())
    assert repaired.code == 0, repaired.err
    assert "reused prep" in repaired.out


FAILS_ONCE = """
    import os, tempfile
    mark = Path(scorer.predictions).parent / Path(mini_batch[0]).name
    if not mark.exists():
        mark.touch()
        {fault}
"""


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("raise OSError('once')", "OSError: once"),
        ("os._exit(9)", "Abnormal termination"),
        ("import time; time.sleep(60)", "Task timeout"),
    ],
    ids=["raises", "dies", "hangs"],
)
def test_failed_mini_batch_is_tried_again(
    trained: tuple[Project, dict[str, Any]], fault: str, why: str
) -> None:
    project, _ = trained
    project.set("data", rows_per_part=15)
    project.set("scoring", run_invocation_timeout=3)
    head = "def run(mini_batch: list[str]) -> list[str]:\n"
    script = project.path / "steps" / "score" / "score.py"
    original = script.read_text(encoding="utf-8")
    try:
        project.edit(
            "steps/score/score.py", head, head + FAILS_ONCE.format(fault=fault)
        )
        result = project.run("scoring")
    finally:
        script.write_text(original, encoding="utf-8")
    assert result.code == 0, result.err
    scored = read_predictions(result.json)
    assert len(scored) == 43
    assert not scored.duplicated(["studyName", "Individual ID"]).any()
    path = Path(result.json["folder"]) / "score" / "log.txt"
    log = path.read_text(encoding="utf-8")
    assert (log.count("Try 1 of 3 failed"), log.count(why)) == (3, 3)


@pytest.mark.parametrize(("threshold", "code"), [(0, 1), (1, 0), (-1, 0)])
def test_error_threshold_decides_whether_scoring_fails(
    trained: tuple[Project, dict[str, Any]], threshold: int, code: int
) -> None:
    project, _ = trained
    project.set("data", rows_per_part=15)
    options = {"run_max_try": 2, "process_count_per_node": 1}
    project.set("scoring", error_threshold=threshold, **options)
    head = "def run(mini_batch: list[str]) -> list[str]:\n"
    script = project.path / "steps" / "score" / "score.py"
    original = script.read_text(encoding="utf-8")
    always = "    if '00001' in mini_batch[0]:\n        raise OSError('always')\n"
    try:
        project.edit("steps/score/score.py", head, head + always)
        result = project.run("scoring")
    finally:
        script.write_text(original, encoding="utf-8")
        options = {"run_max_try": 3, "process_count_per_node": 2}
        project.set("scoring", error_threshold=0, **options)
    assert result.code == code, result.err
    log = Path(result.json["folder"]) / "score" / "log.txt"
    assert "failed" in log.read_text(encoding="utf-8").splitlines()[-1]
    assert "part-00001.parquet" in log.read_text(encoding="utf-8").splitlines()[-1]
    if code == 0:
        assert len(read_predictions(result.json)) == 28


#: Files of raw data, and the message about them.
BAD_DATA = {
    "an empty folder": ({}, "holds no file that ends in .csv"),
    "an empty file": ({"a.csv": ""}, "a.csv is empty"),
    "a ragged line": (
        {"a.csv": "x,Species\n1,a,2\n"},
        "a.csv, line 2: the row has 3 values",
    ),
    "no target": ({"a.csv": "x,y\n1,2\n"}, "a.csv has no column 'Species'"),
    "one class": (
        {"a.csv": "x,Species\n1,a\n2,a\n"},
        "The target 'Species' has the same value, 'a', in all 2 rows",
    ),
    "a changed type": (
        {"a.csv": "x,Species\n1,a\n", "b.csv": "x,Species\nred,a\n"},
        "'x' has different types: integer in a.csv and text in b.csv",
    ),
    "a false name": (
        {"a.parquet": "x,y\n1,2\n"},
        "a.parquet is not a complete Parquet",
    ),
}


@pytest.fixture(scope="module")
def project_for_bad_data(bake: Bake) -> Project:
    """A project whose training data is in the folder `own`."""
    project = bake()
    project.set("data", training="own", keys=[], ignore=[])
    skip_preloading(project)  # These runs end in prep or soon after it.
    return project


@pytest.mark.parametrize(("files", "message"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_is_explained_in_a_sentence(
    project_for_bad_data: Project, files: dict[str, str], message: str
) -> None:
    project = project_for_bad_data
    folder = project.path / "own"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    result = project.run("training")
    assert result.code == 1
    assert message in result.err
    assert "Traceback" not in result.err
    assert {p.name: p.read_text() for p in folder.iterdir()} == files


def test_run_succeeds_after_runs_were_killed_in_different_steps(
    trained: tuple[Project, dict[str, Any]],
) -> None:
    project, _ = trained
    before = list_versions(project)
    for step in ("prep", "train", "evaluate"):
        kill_training_in_step(project, step)
    assert list_versions(project) == before
    result = project.run("scoring")
    assert result.code == 0, result.err


def kill_training_in_step(project: Project, step: str) -> None:
    """Start a training that reuses no results, and kill it while it is in a step."""
    earlier_runs = set(project.path.glob("runs/*"))
    process = subprocess.Popen(
        [project.interpreter, "-m", project.package, "run", "training", "--fresh"],
        cwd=project.path,
        env={**os.environ, "PYTHONPATH": str(project.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with process:
        wait_until(
            lambda: any(
                folder.parents[1] not in earlier_runs
                for folder in project.path.glob(f"runs/*/{step}/code")
            )
        )
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "max_iteration=3"], "Did you mean max_iterations?"),
        (
            ["--set", "max_iterations=many"],
            "max_iterations is 'many', but must be a value such as 200",
        ),
        (["--set", "raw_data=/"], "a folder that contains the whole project."),
        (["--set", "nothing"], "write --set NAME=VALUE"),
        (["--set", "raw_data=data/sampel"], "Did you mean 'sample'?"),
        (["--folder", "nowhere"], "--folder needs --step NAME"),
        (["--debug"], "--debug needs --step NAME"),
        (["--step", "train", "--debug"], "--debug and --json cannot be combined"),
        (["--step", "train", "--folder", "nowhere"], "is not the folder of a run"),
    ],
)
def test_wrong_command_line_is_explained(
    trained: tuple[Project, dict[str, Any]], arguments: list[str], message: str
) -> None:
    project, _ = trained
    result = project.run("training", *arguments)
    assert result.code == 1
    assert message in result.err
    assert "Traceback" not in result.err


def test_help_imports_neither_sdk_nor_rich(
    trained: tuple[Project, dict[str, Any]],
) -> None:
    project, _ = trained
    result = project.python("-X", "importtime", "-m", project.package, "--help")
    assert result.code == 0
    assert "azureml" not in result.err and "azure.ai" not in result.err
    assert "rich" not in result.err


#: The tests of a project that depend on its SDK.
TESTS_OF_THE_SDK = ["tests/test_pipelines.py", "tests/test_settings.py"]


@pytest.mark.parametrize(
    ("task", "sdk", "files"),
    [
        ("classification", "azureml-sdk", []),
        ("regression", "azure-ai-ml", []),
        # The steps and their tests are the same for both, and other tests run these.
        ("classification", "azure-ai-ml", TESTS_OF_THE_SDK),
        ("regression", "azureml-sdk", TESTS_OF_THE_SDK),
    ],
)
def test_tests_of_a_project_pass(
    bake: Bake, task: str, sdk: str, files: list[str]
) -> None:
    project = bake(task=task, azureml_sdk=sdk)
    tests = project.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert tests.code == 0, tests.out
