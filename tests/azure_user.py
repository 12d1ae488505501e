"""Whoever works with a generated project on Azure, which the stand-in plays."""

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

from azure_standin import Standin
from azure_standin.state import Run
from azure_standin.storage import ACCOUNT_KEY
from azure_standin.wire import SIGNATURE
from conftest import Project, Result

#: A step `monitor` that compares nothing. It leaves a file, because score reads its folder.
MONITOR = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--drift-report") + 1])
(folder / "drift.json").write_text("{}")
"""

ANSWERS = {
    "azure_subscription_id": Standin.subscription_id,
    "azure_resource_group": "group",
    "azure_workspace_name": "workspace",
    "azure_region": "westeurope",
    "compute_name": "cpu-cluster",
    "vm_size": "STANDARD_D4DS_V4",
}
#: Rules for the sample, which breaks two of the three.
EXPECTATIONS = {
    "Sex": {"missing": 0.01},
    "Individual ID": {"unique": True},
    "Body Mass (g)": {"min": 1000, "max": 9000},
}
BROKEN_RULES = (
    "note: violation: the column 'Sex' has no value in 10 of 301 rows (3.32%), more than"
    " the share of 0.01 that may be missing; the first is line 4 of PAL0708.csv.\n"
    "note: violation: the column 'Individual ID', which must be unique, repeats an earlier"
    " value in 120 of 301 rows; the first such value is 'N21A1', in line 2 of"
    " PAL0809.csv."
)
SECRET = "secret-of-the-stand-in"
#: Answers one command line after another, without the start of a process for each. What
#: the SDK does between two tries takes no time.
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
    """A project, with an Azure around it for whoever works on it."""

    project: Project
    standin: Standin
    home: Path
    results: dict[str, Result] = field(default_factory=dict)

    def environment(self, login: bool = True, **variables: str) -> dict[str, str]:
        """The variables of a process that knows no other Azure, and no other login."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AZURE_")}
        played = self.standin.environment(self.home)
        credentials = self.standin.credentials if login else {}
        return {**inherited, **played, **credentials, **variables}

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
        path = self.project.path / "steps" / step / f"{step}.py"
        path.write_text(text, encoding="utf-8")

    def new_modules(self, since: int = 0) -> list[str]:
        """The steps that were uploaded, from a request on."""
        return [
            request.json()["Name"]
            for request in self.standin.requests[since:]
            if re.search("POST ml/pipelines.*/Modules$", request.target)
        ]

    def newest_run(self) -> tuple[Run, dict[str, Run]]:
        """The pipeline run that was submitted last, and its steps' runs by name."""
        azure = self.standin.azure
        job = [*azure.jobs.values(), *azure.component_jobs.values()][-1]
        steps = self.standin.azure.children(job.run.id)
        return job.run, {step.name: step for step in steps}

    def output(self, step: str, port: str, folder: Path) -> Path:
        """What a step of the newest run has written to the datastore."""
        run = self.newest_run()[1][step]
        azure = self.standin.azure
        azure.restore(azure.files(run.outputs[port]), folder)
        return folder


class Shell:
    """Runs one command of a project after another, in one process."""

    def __init__(self, user: User, **variables: str):
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
        with self.process:
            self.process.kill()

    def run(self, command: str) -> Result:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(command.split()) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the command has raised something else than an error of its own"
        return Result(*json.loads(answer))


@contextmanager
def trained_on_azure(project: Project, folder: Path) -> Iterator[User]:
    """A project, provisioned, trained and scored with on Azure.

    It has a search of a single try, which is that of its hyperparameters as they are, and
    rules for its data.
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


def assert_all_finished(user: User, run: str, word: str) -> None:
    """All commands went well, and told of `run` and each step, in the SDK's own word."""
    for result in user.results.values():
        assert (result.code, result.err) == (0, ""), result.err
    _, training, scoring = user.results.values()
    submitted, link = training.out.splitlines()[1:3]
    assert submitted.split() == ["submitted", "training,", "run", run]
    assert link.startswith(f"https://ml.azure.com/runs/{run}?")
    for text, steps in {
        training.out: ["prep", "train", "evaluate", "register"],
        scoring.out: ["prep", "monitor", "score"],
    }.items():
        finished = [line[1] for line in words(text) if line[0] == word]
        assert finished == [*steps, "run"]


def assert_outputs_are_registered(user: User) -> None:
    """The outputs that the settings name are data assets, each with one version."""
    azure = user.standin.azure
    assert {name: len(versions) for name, versions in azure.data_assets.items()} == {
        "penguins-training-prepared": 1,
        "penguins-scoring-prepared": 1,
        "penguins-scoring-predictions": 1,
    }
    for (folder,) in azure.data_assets.values():
        assert all(name.endswith(".parquet") for name in azure.files(folder))
        assert azure.files(folder)


def assert_broken_rules_are_reported(user: User) -> None:
    """With `warn`, they are in the log of prep and in MLflow. `stop` ends the run there."""
    azure = user.standin.azure
    prep = next(run for run in azure.runs.values() if run.name == "prep")
    log = azure.blobs[azure.files(f"azureml/{prep.container}")["user_logs/std_log.txt"]]
    violations = [line for line in log.decode().splitlines() if "violation:" in line]
    assert sorted(violations) == sorted(BROKEN_RULES.splitlines())
    figures = {metric["key"]: metric["value"] for metric in prep.metrics}
    assert figures["violations"] == 2
    assert figures["rows against Individual ID unique"] == 120

    stopped = user.run("submit", "training", "--wait", "--set", "on_violation=stop")
    assert stopped.code == 1
    assert ("failed", "prep") in words(stopped.out)
    for line in BROKEN_RULES.splitlines():
        assert line in stopped.out
    assert "prep: The data violates 2 rules of data.expect in settings" in stopped.out
    assert "train" not in user.newest_run()[1]


def words(text: str) -> list[tuple[str, ...]]:
    """The first two words of each line."""
    return [tuple(line.split()[:2]) for line in text.splitlines()]


def assert_one_sentence(result: Result) -> None:
    assert result.code == 1
    assert re.fullmatch(r"([A-Z]|[.\w/]+: ).{20,900}\.\n", result.err), result
    assert "Traceback" not in result.out + result.err
    assert SECRET not in result.out + result.err


def assert_no_secret(user: User, text: str) -> None:
    """Neither the login's secret, nor a token, key or signature of Azure is in a text."""
    headers = [one.headers.get("authorization", "") for one in user.standin.requests]
    tokens = {header.partition("Bearer ")[2] for header in headers} - {""}
    assert tokens
    for secret in (SECRET, SIGNATURE, ACCOUNT_KEY, *tokens):
        assert secret not in text


WRITES = """
from pathlib import Path

for folder in Path("../outputs").iterdir():
    folder.joinpath("part.txt").write_text("made")
print("done")
"""


def reuse_is_the_same_here_and_there(user: User) -> None:
    """After edits of all kinds the same steps run on this machine and on the stand-in.

    But for those that look up the registry, which Azure knows nothing of.
    """
    project = user.project
    pipelines, pins = f"{project.package}/pipelines.py", "environment/steps.txt"
    table, pin = "data/sample/training/PAL0708.csv", "polars=="
    rate = "learning_rate: 0.1"
    changes: list[tuple[Callable[[], None], list[str]]] = [
        (lambda: None, []),
        (lambda: user.write("train", f"{WRITES}# 1"), ["train"]),
        (lambda: project.edit(table, "PAL0708,1,", "PAL0708,2,"), ["prep", "train"]),
        (lambda: project.edit("settings.yml", rate, f"{rate}1"), ["train"]),
        (lambda: project.edit(pins, pin, f"{pin}0"), ["prep", "train"]),
        (lambda: project.edit(pipelines, "PASSIVE", "ACTIVE"), ["prep", "train"]),
        (lambda: user.write("train", WRITES), ["train"]),
    ]

    def run() -> tuple[Result, Result]:
        with closing(Shell(user)) as shell:  # anew, as it has imported pipelines.py
            here, there = project.run("training"), shell.run("submit training --wait")
        assert (here.code, there.code) == (0, 0), here.err + there.err
        return here, there

    for step in ("prep", "train", "evaluate", "register"):
        user.write(step, WRITES)
    run()
    for number, (change, runs) in enumerate(changes):
        change()
        here, there = run()
        states = {line[1]: line[0] for line in words(there.out) if line[1:]}
        remote = [one for one in ("prep", "train") if states[one] != "reused"]
        local = [s["name"] for s in here.json["steps"][:2] if s["status"] != "reused"]
        assert (number, local, remote) == (number, runs, runs)


def status_judges_runs(user: User, shell: Shell, fire: Callable[[], Run]) -> None:
    """`status` exits with 1 if the run that a weekly schedule has started is not well.

    `fire` starts this run, and does not wait for its end.
    """
    before = shell.run("status")
    assert (before.code, before.err) == (0, "")
    assert "scheduled  frequency Week, interval 1" in before.out

    run = fire()
    while not run.ended:
        time.sleep(0.05)
    for status, created, word in (
        ("Completed", "2099-01-01", "completed"),
        ("Failed", "2099-01-01", "failed"),
        ("Completed", "2020-01-01", "overdue"),
    ):
        run.status = status
        run.created = f"{created}T06:30:00.0000000+00:00"
        run.started = run.created
        result = shell.run("status")
        assert result.err == ""
        assert result.code == (0 if word == "completed" else 1), result
        assert f"{run.id}" in result.out or word == "overdue"
        assert any(line.startswith(word) for line in result.out.splitlines())
    assert "no run since 2020-01-01 06:30 UTC." in result.out
