"""Kill random processes of local runs at random moments, and print what each leaves behind.

    python tests/local/kill_runs.py [--kills 100] [--seed 1] [--sdk azure-ai-ml]

It takes about 15 seconds a kill, and is no test: `test_processes.py` and
`test_step_processes.py` test a part of it. It runs on Linux only. Each line of the table
says which run was hit, when, by which signal and in which of its processes, and how it
ended. The faults follow below it, if there are any. After a kill,

- a run that was not hit itself ends with a message, and not with a traceback,
- no process of the run works on, and no file of the project grows,
- no temporary file stays behind, unless the run itself was killed by SIGKILL,
- each step that is recorded as done has the outputs that were recorded,
- MLflow's database is sound, and each registered model is whole,
- after three kills, the same command runs through, and the predictions are those of a run
  that was not disturbed.

The exit code is 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from urllib.request import url2pathname

import polars as pl
from cookiecutter.main import cookiecutter

sys.path[:0] = [str(Path(__file__).parents[1])]

from conftest import COLD, SDKS, TEMPLATE
from template_package import load
from toys import hash_files

fingerprints = load("runtime.local.fingerprints")
run_folder = load("runtime.local.run_folder")

#: All processes of a run have this variable, with a value that no other run has.
MARK = "KILLED_RUN"
#: What is left of a run may take this many seconds to end after a kill.
GRACE = 20.0
#: A run that takes longer hangs.
LONGEST_RUN = 300.0
HANGS = "the run hangs"
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
TARGETS = ("run", "helper", "step", "worker", "all")
#: azureml-sdk makes this folder for temporary files in each process.
FOLDER_OF_SDK = "azureml-logs"
#: The next runs of a project may be killed too, before one runs through.
KILLS_IN_A_PROJECT = 3
#: Files that a model needs to be used.
MODEL_FILES = {"MLmodel", "schema.json"}


@dataclass(frozen=True)
class Case:
    """A state of the project, and the command that is disturbed in it."""

    name: str
    state: str  # the name of a folder with the project in this state
    arguments: tuple[str, ...]
    edited_step: str = (
        ""  # a step whose file is changed, so that it and those after it run
    )


CASES = (
    Case("the first training", "new", ("training",)),
    Case("training from the start", "trained", ("training", "--fresh")),
    Case("training from evaluate on", "trained", ("training",), "evaluate"),
    Case("training from register on", "trained", ("training",), "register"),
    Case("the first scoring", "trained", ("scoring",)),
    Case("scoring from the start", "scored", ("scoring", "--fresh")),
    Case("scoring from score on", "scored", ("scoring",), "score"),
)


@dataclass(frozen=True)
class Kill:
    """What is killed, when, and by which signal."""

    case: Case
    moment: float  # seconds after the start of the run
    number: signal.Signals
    target: str  # the role of a process, or "all"
    mark: str  # the value of MARK in the processes of the run


@dataclass(frozen=True)
class Ending:
    """How a disturbed run has ended."""

    code: int
    output: str
    hit: tuple[str, ...]  # the roles of the processes that were killed


@dataclass(frozen=True)
class Process:
    """A process of a run, with its role in it."""

    pid: int
    role: str  # run, helper, database, step or worker
    command: str


# Processes ------------------------------------------------------------------------------


def list_processes(mark: str) -> list[Process]:
    """Return the processes of the run with a mark; zombies are left out."""
    commands: dict[int, str] = {}
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            status = (folder / "stat").read_text()
        except OSError:  # The process has ended meanwhile, or is another user's.
            continue
        if f"{MARK}={mark}".encode() in variables:
            pid = int(folder.name)
            commands[pid] = b" ".join(arguments).decode(errors="replace").strip()
            parents[pid] = int(status.rpartition(")")[2].split()[1])
    return [
        Process(pid, find_role(pid, commands, parents), command)
        for pid, command in commands.items()
    ]


def find_role(pid: int, commands: dict[int, str], parents: dict[int, int]) -> str:
    """Return what a process of a run is for, by its ancestors in the run."""
    depth = 0
    ancestor = pid
    while parents[ancestor] in commands:
        ancestor = parents[ancestor]
        depth += 1
    if depth == 1:
        is_helper = (
            "supervisor.py" in commands[pid] or "fork_server.py" in commands[pid]
        )
        return "helper" if is_helper else "database"
    return {0: "run", 2: "step"}.get(depth, "worker")


def start_run(
    project: Path, sdk: str, mark: str, *arguments: str
) -> subprocess.Popen[str]:
    """Start a run in a project, with temporary files in a folder beside the project."""
    temporary_files = project.parent / "tmp"
    temporary_files.mkdir(exist_ok=True)
    variables = {
        **os.environ,
        MARK: mark,
        "PYTHONPATH": str(project),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(temporary_files),
    }
    return subprocess.Popen(
        [COLD[sdk], "-m", "penguins", "run", *arguments],
        cwd=project,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


def disturb_run(project: Path, sdk: str, kill: Kill) -> Ending:
    """Start a run, kill one of its processes or all, and wait for it to end."""
    run = start_run(project, sdk, kill.mark, *kill.case.arguments)
    try:
        output, _ = run.communicate(timeout=kill.moment)
        return Ending(run.returncode, output, hit=())
    except subprocess.TimeoutExpired:
        pass

    processes = list_processes(kill.mark)
    targets = [process for process in processes if process.role == kill.target]
    if kill.target == "all":
        targets = processes
    elif targets:
        targets = [random.choice(targets)]
    else:
        targets = [random.choice(processes)]
    for process in targets:
        with suppress(ProcessLookupError):  # It has just ended.
            os.kill(process.pid, kill.number)
    try:
        output, _ = run.communicate(timeout=LONGEST_RUN)
    except subprocess.TimeoutExpired:
        output = HANGS
    return Ending(run.poll() or 0, output, tuple(process.role for process in targets))


# What is left ---------------------------------------------------------------------------


def find_faults(project: Path, kill: Kill, ending: Ending) -> Iterator[str]:
    """Yield what is wrong after a disturbed run."""
    if ending.output == HANGS:
        yield HANGS
    if "Traceback" in ending.output:
        yield f"traceback: {ending.output}"
    # Others may be replaced: a mini-batch whose worker was killed is tried again, and a
    # step without its fork server runs as a plain process.
    is_step_killed = ending.hit == ("step",)
    if is_step_killed and ending.code == 0:
        yield f"exit code 0: {ending.output}"

    deadline = time.monotonic() + GRACE
    while list_processes(kill.mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in list_processes(kill.mark):
        yield f"still running: {process.role} {process.command}"
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)

    files = hash_files(project)
    time.sleep(0.5)
    if hash_files(project) != files:
        yield "files still change"
    is_run_killed = kill.number == signal.SIGKILL and "run" in ending.hit
    if not is_run_killed:
        for path in (project.parent / "tmp").iterdir():
            if path.name != FOLDER_OF_SDK:
                yield f"temporary file: {path.name}"
    # The next kill in this project leaves files of its own.
    shutil.rmtree(project.parent / "tmp")
    yield from check_records(project)
    yield from check_registry(project)


def check_records(project: Path) -> Iterator[str]:
    """Yield which steps lack the outputs that are recorded for them."""
    runs = project / "runs"
    folders = set()
    for run in run_folder.list_runs(runs):
        folders.add(run.folder)
        for name, results in run.record.done.items():
            outputs = runs / (results.run or run.folder.name) / name / "outputs"
            if fingerprints.hash_listing(outputs) != results.files:
                yield f"{outputs} is not as recorded"
    if runs.exists():
        for folder in runs.iterdir():
            if folder.is_dir() and folder not in folders:
                yield f"{folder.name} has no record"


def check_registry(project: Path) -> Iterator[str]:
    """Yield what is wrong with MLflow's database and the registered models."""
    database = project / "mlruns" / "mlflow.db"
    if not database.exists():
        return
    with closing(sqlite3.connect(database)) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        sources = connection.execute("SELECT source FROM model_versions").fetchall()
    if verdict != "ok":
        yield f"database: {verdict}"
    for (source,) in sources:
        model = Path(url2pathname(urlsplit(source).path))
        names = {path.name for path in model.rglob("*")}
        if missing := MODEL_FILES - names:
            yield f"{model} lacks {missing}"


def read_predictions(project: Path) -> pl.DataFrame:
    """Return the predictions of the newest run of scoring."""
    (newest, *_) = run_folder.list_runs(project / "runs", "scoring")
    folder = newest.folder
    used = newest.record.done["score"].run
    if used:
        folder = project / "runs" / used
    files = folder / "score" / "outputs" / "predictions" / "*.parquet"
    return pl.read_parquet(files)


def check_next_run(
    project: Path, sdk: str, case: Case, expected: pl.DataFrame
) -> Iterator[str]:
    """Yield what is wrong with the next run, and with the predictions after it."""
    pipeline = case.arguments[0]
    try:
        run_undisturbed(project, sdk, pipeline)
        if pipeline == "training":
            run_undisturbed(project, sdk, "scoring")
    except RuntimeError as error:
        yield f"the next run: {error}"
        return
    if not read_predictions(project).equals(expected):
        yield "other predictions"


# The states of the project -----------------------------------------------------------------


def run_undisturbed(project: Path, sdk: str, *arguments: str) -> float:
    """Run a pipeline, and return how many seconds it took; exit if it fails."""
    started = time.monotonic()
    run = start_run(project, sdk, "none", *arguments)
    output, _ = run.communicate(timeout=LONGEST_RUN)
    if run.returncode:
        raise RuntimeError(output)
    return time.monotonic() - started


def make_states(folder: Path, sdk: str) -> None:
    """Make the project in each of its states, in folders named after them."""
    cookiecutter(
        str(TEMPLATE),
        no_input=True,
        output_dir=str(folder / "new"),
        extra_context={"azureml_sdk": sdk},
    )
    settings = folder / "new" / "penguins" / "settings.yml"
    text = settings.read_text(encoding="utf-8")
    text = text.replace("max_iterations: 200", "max_iterations: 20")
    # Several mini-batches keep more than one worker busy.
    text = text.replace("rows_per_part: 100000", "rows_per_part: 10")
    settings.write_text(text, encoding="utf-8")
    for state, earlier, pipeline in (
        ("trained", "new", "training"),
        ("scored", "trained", "scoring"),
    ):
        shutil.copytree(folder / earlier, folder / state)
        run_undisturbed(folder / state / "penguins", sdk, pipeline)


@contextmanager
def copy_state(folder: Path, case: Case) -> Iterator[Path]:
    """Copy the project in the state of a case, and yield its path."""
    with TemporaryDirectory(dir=folder) as copy:
        project = Path(copy) / "penguins"
        shutil.copytree(folder / case.state / "penguins", project)
        if case.edited_step:
            name = case.edited_step
            with (project / "steps" / name / f"{name}.py").open("a") as script:
                script.write("\n# Changed.\n")
        yield project


# The kills ----------------------------------------------------------------------------------


def measure_cases(folder: Path, sdk: str) -> dict[str, float]:
    """Return how many seconds each case takes without a kill, by its name."""
    seconds = {}
    for case in CASES:
        with copy_state(folder, case) as project:
            seconds[case.name] = run_undisturbed(project, sdk, *case.arguments)
    return seconds


def choose_kills(count: int, seconds: dict[str, float]) -> Iterator[list[Kill]]:
    """Yield the kills in each of several projects, at random moments."""
    cases = cycle(CASES)
    for first in range(0, count, KILLS_IN_A_PROJECT):
        case = next(cases)
        yield [
            Kill(
                case,
                moment=random.uniform(0.2, seconds[case.name]),
                number=random.choice(SIGNALS),
                target=random.choice(TARGETS),
                mark=f"{os.getpid()}-{number}",
            )
            for number in range(first, min(first + KILLS_IN_A_PROJECT, count))
        ]


def main() -> None:
    """Kill as many runs as the command line says, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sdk", choices=SDKS, default="azure-ai-ml")
    args = parser.parse_args()
    random.seed(args.seed)

    hits = 0
    fault_count = 0
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_states(folder, args.sdk)
        expected = read_predictions(folder / "scored" / "penguins")
        seconds = measure_cases(folder, args.sdk)
        for kills in choose_kills(args.kills, seconds):
            with copy_state(folder, kills[0].case) as project:
                for kill in kills:
                    ending = disturb_run(project, args.sdk, kill)
                    faults = list(find_faults(project, kill, ending))
                    show_kill(kill, ending, faults)
                    if ending.hit:
                        hits += 1
                    fault_count += len(faults)
                case = kills[0].case
                faults = list(check_next_run(project, args.sdk, case, expected))
                show_faults(faults)
                fault_count += len(faults)
    print(f"{hits} runs were hit, and {fault_count} faults were found.")
    sys.exit(1 if fault_count else 0)


def show_kill(kill: Kill, ending: Ending, faults: list[str]) -> None:
    """Print a line of the table, and the faults below it."""
    hit = ", ".join(ending.hit) or "had ended"
    print(
        f"{kill.case.name:25} {kill.moment:5.1f} s  {kill.number.name}  {hit:24}"
        f" exit code {ending.code}",
        flush=True,
    )
    show_faults(faults)


def show_faults(faults: list[str]) -> None:
    """Print faults, each on a line."""
    for fault in faults:
        print(f"    FAULT: {fault}", flush=True)


if __name__ == "__main__":
    main()
