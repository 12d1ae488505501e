"""A user of a generated project, whose Azure is the stand-in, and what this user sees."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from azure_standin import Standin
from azure_standin.state import Azure, Run
from azure_standin.storage import ACCOUNT_KEY
from azure_standin.wire import SIGNATURE
from conftest import Project, Result
from toys import skip_preloading

#: A step `prep` that writes an empty file into each of its outputs.
TOY_PREP = """
import pathlib, sys
for port in ("--prepared", "--report"):
    folder = pathlib.Path(sys.argv[sys.argv.index(port) + 1])
    (folder / "part.parquet").write_text("")
"""
#: A step `monitor` that compares nothing. It writes a file, because score reads its folder.
MONITOR = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--drift-report") + 1])
(folder / "drift.json").write_text("{}")
"""

#: A step `score` that predicts nothing. It writes a file, because summarize reads its folder.
TOY_SCORE = """
import pathlib, sys

def init():
    folder = pathlib.Path(sys.argv[sys.argv.index("--predictions") + 1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "part.parquet").write_text("")

def run(batch):
    return batch
"""
STEPS = ("prep", "train", "evaluate", "register", "monitor", "score", "summarize")

ANSWERS = {
    "azure_subscription_id": Standin.subscription_id,
    "azure_resource_group": "group",
    "azure_workspace_name": "workspace",
    "azure_region": "westeurope",
    "compute_name": "cpu-cluster",
    "vm_size": "STANDARD_D4DS_V4",
}
#: Rules for the sample data, which violates two of the three.
EXPECTATIONS = {
    "Sex": {"missing": 0.01},
    "Individual ID": {"unique": True},
    "Body Mass (g)": {"min": 1000, "max": 9000},
}
VIOLATIONS = (
    "note: violation: the column 'Sex' has no value in 10 of 301 rows (3.32%), but the"
    " share of such rows may be at most 0.01; the first is line 4 of PAL0708.csv.\n"
    "note: violation: the column 'Individual ID', which must be unique, repeats an earlier"
    " value in 120 of 301 rows; the first such value is 'N21A1', in line 2 of"
    " PAL0809.csv."
)
SECRET = "secret-of-the-stand-in"
#: Runs one command line after another in a single process. The SDK's waits are cut short.
SHELL = """
import contextlib, importlib, io, json, os, sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.01))
command = importlib.import_module(sys.argv[1] + ".__main__")
if "LONGEST_SILENCE" in os.environ:  # seconds, in place of a minute
    guard = importlib.import_module(sys.argv[1] + ".runtime.azure.request_guard")
    guard.LONGEST_SILENCE = float(os.environ["LONGEST_SILENCE"])
for line in sys.stdin:
    sys.argv[1:] = json.loads(line)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command.main(command.PROJECT, command.load_pipelines)
        except SystemExit as exit:
            code = exit.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass
class User:
    """A user of a project, with an Azure and a home folder."""

    project: Project
    standin: Standin
    home: Path
    results: dict[str, Result] = field(default_factory=dict)

    def environment(self, login: bool = True, **variables: str) -> dict[str, str]:
        """Return the environment of a process that can reach only the stand-in.

        Without `login`, nobody is logged in.
        """
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AZURE_")
        }
        standin_variables = self.standin.environment(self.home)
        credentials = self.standin.credentials if login else {}
        return {**inherited, **standin_variables, **credentials, **variables}

    def start(
        self, *command: str, login: bool = True, **variables: str
    ) -> subprocess.Popen[str]:
        """Start a command of the project, in a process of its own."""
        return subprocess.Popen(
            [self.project.interpreter, "-m", self.project.package, *command],
            cwd=self.project.path,
            env=self.environment(login, **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, login: bool = True, **variables: str) -> Result:
        """Run a command to its end."""
        environment = self.environment(login, **variables)
        module = "-m", self.project.package
        return self.project.python_with(environment, *module, *command)

    def write(self, step: str, text: str) -> None:
        """Replace the script of a step."""
        path = self.project.path / "steps" / step / f"{step}.py"
        path.write_text(text, encoding="utf-8")

    def list_uploaded_steps(self, since: int = 0) -> list[str]:
        """Return the steps that were uploaded, leaving out the first `since` requests."""
        return [
            request.json()["Name"]
            for request in self.standin.requests[since:]
            if re.search("POST ml/pipelines.*/Modules$", request.target)
        ]

    def newest_run(self) -> tuple[Run, dict[str, Run]]:
        """Return the newest pipeline run, and the runs of its steps by name."""
        azure = self.standin.azure
        job = [*azure.jobs.values(), *azure.component_jobs.values()][-1]
        steps = self.standin.azure.children(job.run.id)
        return job.run, {step.name: step for step in steps}

    def download_output(self, step: str, port: str, folder: Path) -> Path:
        """Download an output of a step of the newest run to a folder, and return this."""
        run = self.newest_run()[1][step]
        azure = self.standin.azure
        azure.restore(azure.files(run.outputs[port]), folder)
        return folder


class Shell:
    """Runs one command of a project after another, in one process."""

    def __init__(self, user: User, **variables: str) -> None:
        self.user = user
        self.process = subprocess.Popen(
            [user.project.interpreter, "-c", SHELL, user.project.package],
            cwd=user.project.path,
            env=user.environment() | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process."""
        with self.process:
            self.process.kill()

    def run(self, command: str) -> Result:
        """Run a command to its end."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(command.split()) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "The command has ended with an exception that it did not handle."
        return Result(*json.loads(answer))


@contextmanager
def train_and_score_on_azure(project: Project, folder: Path) -> Iterator[User]:
    """Provision a workspace for a project, and submit training and scoring.

    The project has rules for its data, and a search that tries only one combination.
    """
    search = {"tries": 1, "space": {"learning_rate": [0.2]}}
    project.set("training", search=search)
    project.set("data", expect=EXPECTATIONS, on_violation="warn")
    with Standin.running(folder / "standin") as standin:
        standin.azure.python = project.interpreter
        user = User(project, standin, folder / "home")
        with (project.path / "settings.yml").open("a", encoding="utf-8") as settings:
            settings.write("register_outputs: [prepared, predictions]\n")
        for command in (
            "provision --create-workspace",
            "submit training --wait --set max_iterations=20",
            "submit scoring --wait",
        ):
            user.results[command] = user.run(*command.split())
        yield user
        standin.verify()


def assert_all_finished(user: User, training_run: str, finished: str) -> None:
    """Check that all commands succeeded, and printed the run and that each step ended.

    `finished` is the SDK's own word for a run that has ended well.
    """
    for result in user.results.values():
        assert (result.code, result.err) == (0, ""), result.err
    _, training, scoring = user.results.values()
    submitted, link = training.out.splitlines()[1:3]
    assert submitted.split() == ["submitted", "training,", "run", training_run]
    assert link.startswith(f"https://ml.azure.com/runs/{training_run}?")

    finished_in_training = list_subjects(training.out, finished)
    finished_in_scoring = list_subjects(scoring.out, finished)
    assert finished_in_training == ["prep", "train", "evaluate", "register", "run"]
    assert finished_in_scoring == ["prep", "monitor", "score", "summarize", "run"]


def assert_search_is_tracked(azure: Azure, train: Run) -> None:
    """Check the run of the step train, and that of the only try of its search."""
    assert train.parameters["max_iterations"] == "20"
    (search_run,) = azure.children(train.id)
    assert search_run.parameters["max_iterations"] == "20"
    assert {metric["key"] for metric in search_run.metrics} == {
        "cv_log_loss",
        "seconds",
    }


def assert_outputs_are_registered(user: User) -> None:
    """Check that each output that the settings name is a data asset with one version."""
    azure = user.standin.azure
    version_counts = {
        name: len(versions) for name, versions in azure.data_assets.items()
    }
    assert version_counts == {
        "penguins-training-prepared": 1,
        "penguins-scoring-prepared": 1,
        "penguins-scoring-predictions": 1,
    }
    for (folder,) in azure.data_assets.values():
        files = azure.files(folder)
        assert files
        assert all(name.endswith(".parquet") for name in files)


def assert_violations_are_reported(user: User) -> None:
    """Check that the log of prep and MLflow have all violations of the rules.

    With `on_violation=stop`, the run ends in prep.
    """
    azure = user.standin.azure
    prep = next(run for run in azure.runs.values() if run.name == "prep")
    log = azure.blobs[azure.files(f"azureml/{prep.container}")["user_logs/std_log.txt"]]
    violations = [line for line in log.decode().splitlines() if "violation:" in line]
    assert sorted(violations) == sorted(VIOLATIONS.splitlines())
    figures = {metric["key"]: metric["value"] for metric in prep.metrics}
    assert figures["violations"] == 2
    assert figures["rows breaking Individual ID unique"] == 120

    stopped = user.run("submit", "training", "--wait", "--set", "on_violation=stop")
    assert stopped.code == 1
    assert ("failed", "prep") in read_lines(stopped.out)
    for line in VIOLATIONS.splitlines():
        assert line in stopped.out
    assert "prep: The data violates 2 rules of data.expect in settings" in stopped.out
    assert "train" not in user.newest_run()[1]


def assert_drift_ends_the_run(user: User) -> None:
    """Check that with `on_drift=stop`, drift ends a run before anything is scored."""
    sample = user.project.path / "data/sample/scoring/penguins.csv"
    drifted = user.project.path / "data/drifted/penguins.csv"
    rows = pd.read_csv(sample)
    rows["Flipper Length (mm)"] /= 10
    drifted.parent.mkdir()
    rows.to_csv(drifted, index=False)

    user.project.set("data", scoring="data/drifted")
    stopped = user.run("submit", "scoring", "--wait", "--set", "on_drift=stop")
    user.project.set("data", scoring="data/sample/scoring")

    assert stopped.code == 1
    assert ("failed", "monitor") in read_lines(stopped.out)
    assert "note: drift: 'Flipper Length (mm)': PSI" in stopped.out
    assert "drift in 1 of 12 features ('Flipper Length (mm)')" in stopped.out
    assert "Nothing is scored, because monitoring.on_drift is 'stop'" in stopped.out
    assert "or score it anyway with --set on_drift=warn." in stopped.out
    _, steps = user.newest_run()
    assert "score" not in steps
    assert "summarize" not in steps
    # The page that the message names can be read although the step has failed.
    assert "report.html" in user.standin.azure.artifacts(steps["monitor"])


def assert_predictions_are_summed_up(user: User, folder: Path) -> None:
    """Check that the summary counts the predictions, and has the result of monitor.

    The predictions are downloaded into the subfolder `predictions` of a folder.
    """
    predictions = user.download_output("score", "predictions", folder / "predictions")
    written = user.download_output("summarize", "summary", folder / "summary")
    summary = json.loads((written / "summary.json").read_text(encoding="utf-8"))
    rows = pd.read_parquet(predictions)
    counts = {group["label"]: group["rows"] for group in summary["classes"]}
    assert counts == rows["prediction"].value_counts().to_dict()
    assert (summary["rows"], summary["rows_without_prediction"]) == (len(rows), 0)
    assert (summary["model"], summary["version"]) == ("penguins", "1")
    assert "rows compared with version 1: no drift in 12" in summary["monitor"]
    assert (written / "report.html").exists()
    summarize = user.newest_run()[1]["summarize"]
    figures = {metric["key"]: metric["value"] for metric in summarize.metrics}
    assert figures["rows"] == len(rows)


def read_lines(output: str) -> list[tuple[str, ...]]:
    """Return the first two words of each line, such as ("finished", "prep")."""
    return [tuple(line.split()[:2]) for line in output.splitlines()]


def list_states(output: str) -> list[str]:
    """Return the first word of each line, such as "created"."""
    return [line[0] for line in read_lines(output) if line]


def list_subjects(output: str, state: str) -> list[str]:
    """Return the second word of each line that begins with `state`."""
    return [line[1] for line in read_lines(output) if line[:1] == (state,)]


def states_by_step(output: str) -> dict[str, str]:
    """Return the last state of each step that a followed run has printed."""
    return {line[1]: line[0] for line in read_lines(output) if len(line) == 2}


def assert_log_of_failed_step_is_shown(user: User, shell: Shell) -> None:
    """Check that a failed submission shows the last 20 lines of the step's log."""
    user.write("prep", "print(*range(50), sep='\\n')\nraise SystemExit('no rows')\n")
    failed = shell.run("submit training --wait")
    assert (failed.code, failed.err) == (1, "")
    assert ("failed", "prep") in read_lines(failed.out)
    end_of_log = failed.out.partition("The log user_logs/std_log.txt ends with:\n")[2]
    numbers = [f"    {number}" for number in range(31, 50)]
    assert end_of_log.splitlines()[:20] == [*numbers, "    no rows"]
    step = user.newest_run()[1]["prep"]
    assert f"All logs of the step: https://ml.azure.com/runs/{step.id}?" in failed.out


def assert_output_of_entry_script_is_shown(user: User, shell: Shell) -> None:
    """Check that a failed submission shows the error of score's entry script."""
    user.write("prep", TOY_PREP)
    user.write("monitor", MONITOR)
    failing = TOY_SCORE.replace("return batch", "raise ValueError('no model')")
    user.write("score", failing)
    failed = shell.run("submit scoring --wait")
    assert failed.code == 1
    assert "The log logs/user/error.txt ends with:" in failed.out
    assert "ValueError: no model" in failed.out
    assert (
        "The output and the errors of the entry script are in logs/user/." in failed.out
    )


def assert_one_sentence(result: Result) -> None:
    """Check that a command has failed with a sentence, and without a traceback."""
    assert result.code == 1
    assert re.fullmatch(r"([A-Z]|[.\w/]+: ).{20,900}\.\n", result.err), result
    assert "Traceback" not in result.out + result.err
    assert SECRET not in result.out + result.err


def assert_no_secret(user: User, text: str) -> None:
    """Check that a text has no secret of the login, and no token, key or signature."""
    tokens = {request.token for request in user.standin.requests} - {""}
    assert tokens
    for secret in (SECRET, SIGNATURE, ACCOUNT_KEY, *tokens):
        assert secret not in text


TOY_STEP = """
from pathlib import Path

for folder in Path("../outputs").iterdir():
    folder.joinpath("part.txt").write_text("made")
print("done")
"""


@dataclass
class Edit:
    """An edit of a project, and which of prep and train must run after it."""

    description: str
    apply: Callable[[], None]
    steps_that_run: list[str]


def assert_same_steps_are_reused(user: User) -> None:
    """Check that the same steps run here and on Azure after edits of all kinds.

    Evaluate and register are left out, because only local runs know whether the registered
    model has changed.
    """
    project = user.project
    pipelines = f"{project.package}/pipelines.py"
    pins = "environment/steps.txt"
    table = "data/sample/training/PAL0708.csv"
    rate = "learning_rate: 0.1"
    edits = [
        Edit("nothing", lambda: None, []),
        Edit("code", lambda: user.write("train", f"{TOY_STEP}# 1"), ["train"]),
        Edit(
            "data",
            lambda: project.edit(table, "PAL0708,1,", "PAL0708,2,"),
            ["prep", "train"],
        ),
        Edit(
            "hyperparameter",
            lambda: project.edit("settings.yml", rate, f"{rate}1"),
            ["train"],
        ),
        Edit(
            "packages",
            lambda: project.edit(pins, "polars==", "polars==0"),
            ["prep", "train"],
        ),
        Edit(
            "variable",
            lambda: project.edit(pipelines, "PASSIVE", "ACTIVE"),
            ["prep", "train"],
        ),
        Edit("code as before", lambda: user.write("train", TOY_STEP), ["train"]),
    ]
    skip_preloading(project)
    for step in ("prep", "train", "evaluate", "register"):
        user.write(step, TOY_STEP)
    run_here_and_on_azure(user)

    for edit in edits:
        edit.apply()
        local, remote = run_here_and_on_azure(user)
        statuses = {step["name"]: step["status"] for step in local.json["steps"]}
        states = states_by_step(remote.out)
        steps_here = [step for step in ("prep", "train") if statuses[step] != "reused"]
        steps_on_azure = [
            step for step in ("prep", "train") if states[step] != "reused"
        ]
        assert steps_here == edit.steps_that_run, edit.description
        assert steps_on_azure == edit.steps_that_run, edit.description


def run_here_and_on_azure(user: User) -> tuple[Result, Result]:
    """Train on this machine and on Azure, and return both results."""
    local = user.project.run("training")
    assert local.code == 0, local.err
    # Each shell imports pipelines.py, which may have been edited.
    with closing(Shell(user)) as shell:
        remote = shell.run("submit training --wait")
    assert remote.code == 0, remote.err
    return local, remote


def enable_weekly_schedules(settings: str) -> str:
    """Return the text of settings.yml with the schedules that it has as a comment."""
    return re.sub(r"^# (schedules:| +\w+:)", r"\1", settings, flags=re.MULTILINE)


def assert_status_judges_runs(
    user: User, shell: Shell, start_scheduled_run: Callable[[], Run]
) -> None:
    """Check that `status` exits with 1 if the last run of a weekly schedule is not well.

    `start_scheduled_run` starts this run, and does not wait for its end.
    """
    result = shell.run("status")
    assert (result.code, result.err) == (0, "")
    assert "scheduled  frequency Week, interval 1" in result.out

    run = start_scheduled_run()
    while not run.ended:
        time.sleep(0.05)

    result = run_status(shell, run, status="Completed", day="2099-01-01")
    assert result.code == 0, result
    assert "completed" in list_states(result.out)
    assert run.id in result.out

    result = run_status(shell, run, status="Failed", day="2099-01-01")
    assert result.code == 1, result
    assert "failed" in list_states(result.out)
    assert run.id in result.out

    result = run_status(shell, run, status="Completed", day="2020-01-01")
    assert result.code == 1, result
    assert "overdue" in list_states(result.out)
    assert "no run since 2020-01-01 06:30 UTC." in result.out


def run_status(shell: Shell, run: Run, status: str, day: str) -> Result:
    """Run the command `status` after setting the status and the day of a run."""
    run.status = status
    run.created = f"{day}T06:30:00.0000000+00:00"
    run.started = run.created
    result = shell.run("status")
    assert result.err == ""
    return result
