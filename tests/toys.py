"""Projects with toy steps, for tests in which only the run around the steps matters.

A toy step prints its arguments and writes a small file into each of its outputs. The
fixtures are available to all tests, as `conftest.py` names this module as a plugin.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import Bake, Project, Result

STEPS = ["prep", "train", "evaluate", "register", "monitor", "score", "summarize"]
TOY_STEP = """
{imports}
import sys
from pathlib import Path

print("toy", *sys.argv[1:])
{body}
for folder in (Path.cwd().parent / "outputs").iterdir():
    (folder / "part.txt").write_text("made", encoding="utf-8")
print("done")
"""
#: The script of a parallel step.
TOY_SCORE = """
def run(mini_batch):
    return mini_batch
"""
PROCESSES = "{package}/runtime/local/processes.py"
#: How a run starts the process that steps are forked from: with packages, and without.
PRELOADING = ('"fork_server.py"), *PRELOADED)', '"fork_server.py"))')
#: The variables of a terminal whose locale has no umlauts.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
#: A call with this variable runs Python itself, and no fork of a prepared process.
COLD = {"COLD": "1"}
NO_VARIABLES: dict[str, str] = {}

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# Projects -------------------------------------------------------------------------------


def skip_preloading(project: Project) -> None:
    """Let runs of a project import no packages for their steps.

    Toy steps use no packages, and to import them takes more than two seconds for each run.
    Steps are still forked from the process that would have imported the packages.
    """
    project.edit(PROCESSES.format(package=project.package), *PRELOADING)


def restore_preloading(project: Project) -> None:
    """Let runs of a project import packages for their steps again."""
    with_packages, without_packages = PRELOADING
    file = PROCESSES.format(package=project.package)
    project.edit(file, without_packages, with_packages)


def write_toy_step(
    project: Project, step: str, body: str = "", imports: str = ""
) -> None:
    """Replace the script of a step by a toy with some lines of its own."""
    text = TOY_STEP.format(body=body, imports=imports)
    write_script(project, step, TOY_SCORE if step == "score" else text)


def write_script(project: Project, step: str, text: str) -> Path:
    """Replace the script of a step, and return its path."""
    script = project.path / "steps" / step / f"{step}.py"
    script.write_text(text, encoding="utf-8")
    return script


def copy_project(project: Project, path: Path) -> Project:
    """Copy a project, with its runs, to a path that does not exist yet."""
    copy = shutil.copytree(project.path, path, symlinks=True)
    return Project(copy, project.package)


@pytest.fixture(scope="session")
def new_toy_project(bake: Bake) -> Project:
    """A project with toy steps that has never run. To be copied, not changed."""
    project = bake(project_name="Toy")
    skip_preloading(project)
    for step in STEPS:
        write_toy_step(project, step)
    return project


@pytest.fixture(scope="session")
def scored_toy_project(
    new_toy_project: Project, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project with toy steps and one run of scoring. To be copied, not changed."""
    project = copy_project(new_toy_project, tmp_path_factory.mktemp("scored") / "toy")
    result = run_pipeline(project, "scoring")
    assert result.code == 0, result.err
    return project


@pytest.fixture
def toy_project(scored_toy_project: Project, tmp_path: Path) -> Project:
    """A project with toy steps and one run of scoring, for this test alone."""
    return copy_project(scored_toy_project, tmp_path / "toy")


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a small disk in memory, or skips the test if it cannot."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> Path:
        """Mount the disk with the options of `mount`, and return its folder."""
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, check=False).returncode:
            pytest.skip("disks cannot be mounted here")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# Commands -------------------------------------------------------------------------------


def start_command(
    project: Project,
    *arguments: str,
    cwd: Path | None = None,
    home: bool = True,
    variables: Mapping[str, str] = NO_VARIABLES,
) -> subprocess.Popen[str]:
    """Start a command of a project, in the project's folder or in another one.

    It has the environment variables of the tests and some more. With `home=False` it has no
    variable HOME.
    """
    environment = {**os.environ, "PYTHONPATH": str(project.path), **variables}
    if not home:
        environment.pop("HOME", None)
    return subprocess.Popen(
        list_command(project, *arguments),
        cwd=cwd or project.path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def list_command(project: Project, *arguments: str) -> list[str]:
    """Return the command line of a command of a project."""
    return [project.interpreter, "-m", project.package, *arguments]


def finish_command(process: subprocess.Popen[str]) -> Result:
    """Wait for a command to end; TimeoutExpired after five minutes."""
    out, err = process.communicate(timeout=300)
    return Result(process.returncode, out, err)


def run_pipeline(
    project: Project,
    *arguments: str,
    cwd: Path | None = None,
    home: bool = True,
    variables: Mapping[str, str] = NO_VARIABLES,
) -> Result:
    """Run a pipeline of a project. `json` of the result is what `--json` has printed."""
    command = ["run", *arguments, "--json"]
    process = start_command(project, *command, cwd=cwd, home=home, variables=variables)
    return finish_command(process)


RUN_IN_ONE_PROCESS = """
import contextlib, io, json, runpy, sys
results = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["", "run", *arguments]
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        try:
            runpy.run_module({package!r}, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            results.append([end.code, screen.getvalue()])
print(json.dumps(results))
"""


def run_in_one_process(project: Project, commands: list[list[str]]) -> list[Result]:
    """Call `run` several times in one process, which imports the SDK only once."""
    code = RUN_IN_ONE_PROCESS.format(package=project.package)
    result = project.python("-c", code, json.dumps(commands))
    assert result.code == 0, result.err
    return [Result(code, "", screen) for code, screen in result.json]


# What is left of a run ------------------------------------------------------------------


def read_log(result: Result, step: str) -> str:
    """Return what a step of a run has printed."""
    path = Path(result.json["folder"]) / step / "log.txt"
    return path.read_text(encoding="utf-8", errors="replace")


def list_statuses(result: Result) -> list[str]:
    """Return how each step of a run has ended."""
    return [step["status"] for step in result.json["steps"]]


def read_refusal(result: Result) -> str:
    """Return the sentence by which a run is refused, which must be its whole output."""
    assert result.code == 1
    assert result.err.count("\n") == 1, result.err
    assert not result.out
    return result.err


def hash_files(folder: Path) -> dict[str, str]:
    """Return a hash of each file below a folder, except for those that Python writes."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def list_running(project: Project) -> list[str]:
    """Return the command lines of all processes that work in a project's folder."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            folder = str((process / "cwd").readlink())
        except OSError:
            # The process has ended meanwhile.
            continue
        if str(project.path) in folder and command:
            commands.append(command)
    return commands


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition to hold; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
