"""Projects in odd places, moved, copied and run in odd ways.

Nothing is written outside a project, nothing is left running, and a user's mistake is a
sentence. Most projects here have toy steps, as only the run around them matters.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from textwrap import indent

import pytest
from conftest import Bake, Project, Result

TOY = """
{imports}
import sys
from pathlib import Path

print("toy", *sys.argv[1:])
{more}
for folder in (Path.cwd().parent / "outputs").iterdir():
    (folder / "part.txt").write_text("made", encoding="utf-8")
print("done")
"""
TOY_SCORE = """
def run(mini_batch):
    return mini_batch
"""
STEPS = ["prep", "train", "evaluate", "register"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ODD = "a b%20c #1 ü🐧 'q' \"r\" ?mark=1&x"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def start(
    project: Project,
    *arguments: str,
    cwd: Path | None = None,
    home: bool = True,
    **environment: str,
) -> subprocess.Popen[str]:
    """Start the command line of a project, from any folder and in any environment.

    With `COLD` its processes are what they are elsewhere (warm.py).
    """
    inherited = {k: v for k, v in os.environ.items() if home or k != "HOME"}
    return subprocess.Popen(
        [project.interpreter, "-m", project.package, *arguments],
        cwd=cwd or project.path,
        env={**inherited, "PYTHONPATH": str(project.path), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def end(process: subprocess.Popen[str]) -> Result:
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, out, err)


def run(project: Project, *arguments: str, **how: object) -> Result:
    return end(start(project, "run", *arguments, "--json", **how))  # type: ignore[arg-type]


ONE_BY_ONE = """
import contextlib, io, json, runpy, sys
said = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["", "run", *arguments]
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        try:
            runpy.run_module({package!r}, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            said.append([end.code, screen.getvalue()])
print(json.dumps(said))
"""


def run_one_by_one(project: Project, commands: list[list[str]]) -> list[Result]:
    """Runs in one process, which imports the SDK but once."""
    code = ONE_BY_ONE.format(package=project.package)
    result = project.python("-c", code, json.dumps(commands))
    assert result.code == 0, result.err
    return [Result(code, "", screen) for code, screen in result.json]


def log(result: Result, step: str) -> str:
    path = Path(result.json["folder"]) / step / "log.txt"
    return path.read_text(encoding="utf-8", errors="replace")


def statuses(result: Result) -> list[str]:
    return [step["status"] for step in result.json["steps"]]


def toy(project: Project, step: str, more: str = "", imports: str = "") -> None:
    """Make a step one that only prints its arguments, does `more` and writes a file."""
    text = TOY_SCORE if step == "score" else TOY.format(more=more, imports=imports)
    script = project.path / "steps" / step / f"{step}.py"
    script.write_text(text, encoding="utf-8")


def copy_of(project: Project, path: Path) -> Project:
    return Project(shutil.copytree(project.path, path, symlinks=True), project.package)


def files(folder: Path) -> dict[str, str]:
    """Return a hash of each file below a folder, but not of those that Python writes."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def fresh(bake: Bake) -> Project:
    """A project with toy steps that was never run; to be copied, not changed."""
    project = bake(project_name="Toy")
    for step in [*STEPS, "score"]:
        toy(project, step)
    return project


@pytest.fixture(scope="module")
def ready(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same, run once, so that it has its database; to be copied, not changed."""
    project = copy_of(fresh, tmp_path_factory.mktemp("ready") / "toy")
    result = run(project, "scoring")
    assert result.code == 0, result.err
    return project


@pytest.fixture
def project(ready: Project, tmp_path: Path) -> Project:
    """A copy of its own for a test."""
    return copy_of(ready, tmp_path / "toy")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk in memory, with options; or skips the test."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, check=False).returncode:
            pytest.skip("disks cannot be mounted here")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# Real training, where MLflow matters -------------------------------------------------


@pytest.fixture(scope="module")
def trained(
    bake: Bake, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, str, Path]:
    """A project trained in a folder with an odd name, then moved to another one.

    With no HOME, and where the locale is ASCII. With it the name of that run's folder,
    and the folder that holds the project alone.
    """
    folder = tmp_path_factory.mktemp("trained")
    baked = bake(project_name="Odd places")
    project = copy_of(baked, folder / ODD / "first ü")
    for table in project.path.glob("data/sample/*/*.csv"):
        text = table.read_text(encoding="utf-8")
        table.write_text(text.replace("Anvers", "Änvers 🐧"), encoding="utf-8")
    before = files(project.path)
    result = run(project, "training", home=False, **ASCII)
    assert result.code == 0, result.err
    assert [p.name for p in folder.iterdir()] == [ODD]
    assert [p.name for p in (folder / ODD).iterdir()] == ["first ü"]
    new = {Path(name).parts[0] for name in files(project.path).keys() - before.keys()}
    assert new == {"mlruns", "runs"}
    assert {p.name for p in (project.path / "mlruns").iterdir()} == {
        "artifacts",
        "mlflow.db",
    }
    moved = project.path.rename(folder / "moved%41?x#y")
    (folder / ODD).rmdir()
    return Project(moved, project.package), Path(result.json["folder"]).name, folder


def test_a_trained_project_in_an_odd_place_that_was_moved_scores(
    trained: tuple[Project, str, Path],
) -> None:
    project, name, folder = trained
    result = run(project, "scoring", home=False, **ASCII)
    assert result.code == 0, result.err
    again = ["--step", "evaluate", "--folder", str(project.path / "runs" / name)]
    result = run(project, "training", *again)
    assert result.code == 0, result.err
    # The registered model was loaded: it is this very one.
    assert "it is the registered version 1 again" in log(result, "evaluate")
    assert [p.name for p in folder.iterdir()] == [project.path.name]


def test_a_copy_leaves_its_original_alone(
    trained: tuple[Project, str, Path], tmp_path: Path
) -> None:
    original, name, _ = trained
    before = files(original.path)
    copy = copy_of(original, tmp_path / "copy")
    again = ["--step", "register", "--folder", str(copy.path / "runs" / name)]
    result = run(copy, "training", *again, "--set", "register=always")
    assert result.code == 0, result.err
    assert "registered as version 2" in log(result, "register")
    assert files(original.path) == before
    artifacts = (copy.path / "mlruns" / "artifacts").as_uri()
    database = copy.path / "mlruns" / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT source FROM model_versions")
        sources = [source for (source,) in rows]
    assert len(sources) == 2
    assert all(source.startswith(f"{artifacts}/") for source in sources)


def test_a_clone_that_has_mlruns_scores(
    trained: tuple[Project, str, Path], tmp_path: Path
) -> None:
    original, _, _ = trained
    for command in (
        ["init", "--quiet", "."],
        ["add", "."],
        ["add", "--force", "mlruns"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "all"],
        ["clone", "--quiet", ".", str(tmp_path / "clone")],
    ):
        subprocess.run(["git", *command], cwd=original.path, check=True)
    before = files(original.path)
    clone = Project(tmp_path / "clone", original.package)
    result = run(clone, "scoring")
    assert result.code == 0, result.err
    assert files(original.path) == before


# Places --------------------------------------------------------------------------------


def test_a_project_behind_a_link_run_from_another_folder(
    project: Project, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(project.path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = run(Project(link, project.package), "training", cwd=elsewhere)
    assert result.code == 0, result.err
    assert not list(elsewhere.iterdir())
    assert Path(result.json["folder"]).parent == project.path / "runs"


TRACKED = "import mlflow\nwith mlflow.start_run(): pass"


def test_runs_that_start_at_once(fresh: Project, tmp_path: Path) -> None:
    """Two runs work in a fresh project, where MLflow's database is made, and once it is there."""
    project = copy_of(fresh, tmp_path / "toy")
    toy(project, "train", TRACKED)
    database = project.path / "mlruns" / "mlflow.db"
    command = ["run", "training", "--fresh", "--json"]
    for finished in (2, 4):
        processes = [start(project, *command) for _ in range(2)]
        results = [end(process) for process in processes]
        assert [r.code for r in results] == [0, 0], [r.err for r in results]
        assert len({r.json["folder"] for r in results}) == 2
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT status, experiment_id FROM runs")
            runs = rows.fetchall()
        assert len(runs) == finished
        assert {status for status, _ in runs} == {"FINISHED"}
        assert len({experiment for _, experiment in runs}) == 1
    assert {p.name for p in database.parent.iterdir()} <= {"mlflow.db", "artifacts"}


def test_a_read_only_project_is_a_sentence(
    project: Project, mounted: Callable[[str], Path]
) -> None:
    disk = mounted("size=50m")
    moved = copy_of(project, disk / "toy")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    result = run(moved, "scoring")
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


def test_a_full_disk_is_a_sentence(
    project: Project, mounted: Callable[[str], Path]
) -> None:
    moved = copy_of(project, mounted("size=20m") / "toy")
    toy(moved, "prep", FILL)
    result = run(moved, "training", COLD="1")
    assert result.code == 1
    assert "is on is full." in result.err
    assert "Traceback" not in result.err
    state = Path(result.json["folder"]) / "run.json"
    assert "prep" not in json.loads(state.read_text(encoding="utf-8"))["done"]
    files_before = files(moved.path / "mlruns")

    result = run(moved, "training", COLD="1")
    assert result.code == 1
    assert "No space left on device" in result.err or "full" in result.err
    assert "Traceback" not in result.err
    assert files(moved.path / "mlruns") == files_before

    (state.parent / "prep" / "outputs" / "prepared" / "big").unlink()
    toy(moved, "prep")
    assert run(moved, "training", COLD="1").code == 0


def test_the_folder_of_a_run_that_is_removed_meanwhile(project: Project) -> None:
    toy(project, "train", "import shutil\nshutil.rmtree(Path.cwd().parents[1])")
    result = run(project, "training")
    assert result.code == 1
    assert statuses(result) == ["ran", "failed", "skipped", "skipped"]
    assert "Traceback" not in result.err.replace("    Traceback", "")


# What stands in the way ----------------------------------------------------------------


def refused(result: Result) -> str:
    """Return the one line with which a run is refused."""
    assert result.code == 1
    assert result.err.count("\n") == 1, result.err
    assert not result.out
    return result.err


def change_database(project: Project, query: str, *values: object) -> None:
    database = project.path / "mlruns" / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(query, values)


def test_an_experiment_that_was_deleted_can_be_restored(project: Project) -> None:
    change_database(project, "UPDATE experiments SET lifecycle_stage = 'deleted'")
    message = refused(run(project, "scoring"))
    assert "The MLflow experiment 'toy' was deleted" in message
    command = message.partition("Restore it: ")[2]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert run(project, "scoring").code == 0


SCHEMAS = {
    "newer": ("ffffffffffff", "was written by a newer MLflow than the one"),
    "older": ("0584bdc529eb", "-m mlflow db upgrade sqlite:///"),
}


@pytest.mark.parametrize(("schema", "message"), SCHEMAS.values(), ids=SCHEMAS)
def test_a_database_of_another_release_of_mlflow(
    project: Project, schema: str, message: str
) -> None:
    change_database(project, "UPDATE alembic_version SET version_num = ?", schema)
    error = refused(run(project, "scoring"))
    assert message in error
    assert str(project.path / "mlruns" / "mlflow.db") in error


@pytest.mark.parametrize("content", ["", "no database"], ids=["empty", "text"])
def test_a_file_in_place_of_the_database(project: Project, content: str) -> None:
    (project.path / "mlruns" / "mlflow.db").write_text(content)
    assert "is not a database of MLflow" in refused(run(project, "scoring"))


def test_a_path_that_is_too_long_for_sqlite(project: Project, tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["long" * 25] * 5)
    moved = copy_of(project, folder / "toy")
    assert "The project's path is too long" in refused(run(moved, "scoring"))


def test_steps_import_the_modules_beside_them(project: Project) -> None:
    """Also where Python is told not to look beside a script."""
    for step in ("prep", "train"):
        toy(project, step, imports="import helper_of_the_step")
        (project.path / "steps" / step / "helper_of_the_step.py").touch()
    result = run(project, "training", PYTHONSAFEPATH="1", COLD="1")
    assert result.code == 0, result.err


@linux
@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "text"])
def test_output_on_a_full_disk_is_a_sentence(
    project: Project, options: list[str]
) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [project.interpreter, "-m", project.package, "run", "scoring", *options],
            cwd=project.path,
            env={**os.environ, "PYTHONPATH": str(project.path), "COLD": "1"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "The output cannot be written: No space left on device."
    assert "Traceback" not in done.stderr


@linux
def test_temporary_files_that_cannot_be_written(
    project: Project, mounted: Callable[[str], Path]
) -> None:
    disk = mounted("ro")
    script = "import tempfile; tempfile._candidate_tempdir_list = lambda: [{!r}]"
    (project.path / "sitecustomize.py").write_text(script.format(str(disk)))
    message = refused(run(project, "scoring", COLD="1"))
    assert "Temporary files cannot be written" in message
    assert "TMPDIR" in message


MOUNT = 'mount -t tmpfs -o ro none /dev/shm && exec "$@"'


@linux
def test_a_machine_without_shared_memory(project: Project) -> None:
    unshared = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        MOUNT,
        "-",
    ]
    if subprocess.run([*unshared, "true"], check=False, capture_output=True).returncode:
        pytest.skip("/dev/shm cannot be taken away here")
    command = [project.interpreter, "-m", project.package, "run", "scoring", "--json"]
    done = subprocess.run(
        [*unshared, *command, "--fresh"],
        cwd=project.path,
        env={**os.environ, "PYTHONPATH": str(project.path), "COLD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Mount /dev/shm so that it can be written to." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_name_in_reads_model(project: Project) -> None:
    pipelines = f"{project.package}/pipelines.py"
    project.edit(pipelines, '["prep", "score"]', '["prep", "scores"]')
    message = refused(run(project, "scoring"))
    assert "reads_model of scoring names 'scores'" in message


def test_help_lists_the_pipelines(project: Project) -> None:
    result = project.python("-m", project.package, "run", "--help")
    assert result.code == 0
    assert "\npipelines:\n  training  " in result.out
    assert "\n  scoring   " in result.out


# What is left running ------------------------------------------------------------------


def running(project: Project) -> list[str]:
    """The command lines of all processes that work in a project."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            where = str((process / "cwd").readlink())
        except OSError:  # it has ended
            continue
        if str(project.path) in where and command:
            found.append(command)
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end_of_patience = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_of_patience
        time.sleep(0.05)


LONG = """
import subprocess
child = subprocess.Popen(["sleep", "600"], start_new_session={own})
Path("started").touch()
{end}
"""
# The first step of a run is a plain process, and the one after it is forked.
either = pytest.mark.parametrize("step", ["prep", "train"], ids=["plain", "forked"])


@linux
@either
@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)],
)
def test_a_run_that_is_ended_leaves_no_process(
    project: Project, sent: signal.Signals, code: int, step: str
) -> None:
    toy(project, step, LONG.format(own=False, end="child.wait()"))
    process = start(project, "run", "training", "--json", COLD="1")
    wait_until(lambda: bool([*project.path.glob(f"runs/*/{step}/code/started")]))
    assert any("sleep 600" in command for command in running(project))
    process.send_signal(sent)
    result = end(process)
    assert result.code == code
    assert "Traceback" not in result.err
    if sent != signal.SIGKILL:
        assert "The run was stopped. What has ended well is kept." in result.err
        assert f"To continue: python -m {project.package} run training" in result.err
    wait_until(lambda: not running(project))
    (folder,) = project.path.glob("runs/*-training")
    state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert list(state["done"]) == ([] if step == "prep" else ["prep"])


@linux
@either
def test_a_step_that_leaves_a_process_is_not_waited_for(
    project: Project, step: str
) -> None:
    toy(project, step, LONG.format(own=False, end=""))
    result = run(project, "training", COLD="1")
    assert result.code == 0, result.err
    wait_until(lambda: not running(project), seconds=10)


@either
def test_a_step_that_is_killed_says_so(project: Project, step: str) -> None:
    toy(project, step, "import os\nos.kill(os.getpid(), 9)")
    result = run(project, "training", COLD="1")
    assert result.code == 1
    assert "ended by signal 9" in result.err


# Workers of a parallel step ----------------------------------------------------------

ABOUT = """
facts = {
    "name": __name__,
    "file": __file__,
    "arguments": sys.argv,
    "folder": os.getcwd(),
    "path": sys.path,
    "variables": sorted(os.environ.items()),
    "input": sys.stdin.read(),
    "session": os.getsid(0) == os.getpid(),
    "threads": [one.name for one in threading.enumerate()],
    "main": vars(sys.modules["__main__"]) is globals(),
    "garbage": gc.isenabled(),
    "flags": str(sys.flags),
    "streams": [str(stream) for stream in (sys.stdout, sys.stderr)],
}
"""

WORKERS = f"""
import mlflow
import gc, glob, json, os, random, signal, sys, threading, uuid
import numpy

def init():
    drawn = [random.random(), str(uuid.uuid4()), numpy.random.random()]
{indent(ABOUT, "    ")}
    # polars and scikit-learn set variables of their own when they are imported.
    packages = ("_RJEM_", "KMP_")
    facts["variables"] = [v for v in facts["variables"] if not v[0].startswith(packages)]
    facts["registered"] = __name__ in sys.modules
    facts["interrupt"] = str(signal.getsignal(signal.SIGINT))
    with open(f"worker-{{os.getpid()}}.json", "w") as file:
        json.dump([drawn, facts], file)

def run(mini_batch):
    if len(glob.glob("worker-*")) < 3:
        os._exit(1)
    return mini_batch
"""


@linux
def test_workers_that_are_forked_are_as_those_that_begin_anew(
    project: Project,
) -> None:
    another = "    (folder / 'another.txt').write_text('made')"
    toy(project, "prep", f"for folder in Path().glob('../outputs/*'):\n{another}")
    script = project.path / "steps" / "score" / "score.py"
    script.write_text(WORKERS, encoding="utf-8")
    found = set[str]()
    for can in (True, False):
        if not can:
            runtime = f"{project.package}/runtime/local"
            for file in ("processes", "parallel_driver"):
                project.edit(f"{runtime}/{file}.py", 'sys.platform == "linux"', "False")
        result = run(project, "scoring", "--fresh", COLD="1")
        assert result.code == 0, result.err
        folder = Path(result.json["folder"])
        workers = [
            json.loads(file.read_text().replace(folder.name, "RUN"))
            for file in (folder / "score" / "code").glob("worker-*.json")
        ]
        # Two that died, and at least one that took their place.
        assert len(workers) >= 3
        numbers = {number for drawn, _ in workers for number in drawn}
        assert len(numbers) == 3 * len(workers)
        found.update(json.dumps(facts) for _, facts in workers)
    assert len(found) == 1


# What is on the screen -----------------------------------------------------------------

HARMFUL = r"""
print("note: \x1b[31mred\x1b[0m ##vso[task.complete] text")
print("::set-output name=a::b")
raise SystemExit(1)
"""


def test_text_of_a_step_is_no_command_for_a_terminal(project: Project) -> None:
    toy(project, "prep", HARMFUL)
    result = run(project, "training")
    assert result.code == 1
    for command in ("\x1b", "##vso[", "::set-output"):
        assert command not in result.err
    assert r"\x1b[31mred" in result.err


SAYS = r"""
print("note: ü🐧 [red]first[/] 'x'")
print("  note: not one")
print("note: second")
print("note: second")
sys.stdout.buffer.write(b"\xff\xfe\x00 not text \r\n")
"""


@pytest.mark.parametrize("environment", [{}, ASCII], ids=["UTF-8", "ASCII"])
def test_notes_are_on_the_screen(project: Project, environment: dict[str, str]) -> None:
    toy(project, "prep", SAYS)
    result = run(project, "training", **environment)
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    ran = [i for i, line in enumerate(lines) if line.startswith("ran ")]
    assert lines[ran[0]].endswith("done")
    assert [line.strip() for line in lines[ran[0] + 1 : ran[1]]] == [
        "note: ü🐧 [red]first[/] 'x'",
        "note: second",
    ]
    assert "note: not one" not in result.err
    assert "note: not one" in log(result, "prep")


def test_output_that_nobody_reads_any_more_ends_the_command(project: Project) -> None:
    process = start(project, "draw")
    assert process.stdout
    process.stdout.close()
    result = end(process)
    assert (result.code, result.err) == (1, "")


# A step alone --------------------------------------------------------------------------


FAULTY = """
def check(rows):
    raise ValueError(f"{rows} rows")
"""


def test_a_failing_step_is_named_by_its_file_in_steps(project: Project) -> None:
    toy(project, "train", "import faulty\nfaulty.check(0)")
    faulty = project.path / "steps" / "train" / "faulty.py"
    faulty.write_text(FAULTY, encoding="utf-8")
    result = run(project, "training")
    assert f'File "{Path("steps/train/faulty.py")}", line 3' in result.err
    assert "ValueError: 0 rows" in result.err
    assert "/code/" not in result.err.partition("The whole log")[0]


STOPS = """
import sys
from pathlib import Path
value = 41
breakpoint()
Path(sys.argv[sys.argv.index("--model") + 1], "part.txt").write_text("made")
"""


@linux
def test_a_step_is_debugged_in_the_terminal_from_its_own_folder(
    project: Project,
) -> None:
    """It runs in the newest run and stops at breakpoint(); no other run takes its results."""
    first = run(project, "training")
    script = project.path / "steps" / "train" / "train.py"
    script.write_text(STOPS, encoding="utf-8")
    before = files(project.path / "steps")
    done = subprocess.run(
        [project.interpreter, "-m", project.package]
        + ["run", "training", "--step", "train", "--debug"],
        cwd=project.path,
        env={**os.environ, "PYTHONPATH": str(project.path), "COLD": "1"},
        input="p value + 1\ncontinue\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = first.json["folder"]
    assert f"In the newest run: {folder}" in done.stdout
    assert "(Pdb) 42" in done.stdout
    assert str(script) in done.stdout
    assert files(project.path / "steps") == before
    assert Path(folder, "train", "outputs", "model", "part.txt").exists()
    alone = ["--step", "evaluate", "--folder", folder]
    assert run(project, "training", *alone).code == 0
    # Without a terminal it cannot pass the breakpoint, so it is not reused.
    assert statuses(run(project, "training"))[:2] == ["reused", "failed"]


@linux
def test_a_parallel_step_is_debugged_in_one_process(project: Project) -> None:
    script = "def run(mini_batch):\n    breakpoint()\n    return mini_batch\n"
    (project.path / "steps" / "score" / "score.py").write_text(script)
    done = subprocess.run(
        [project.interpreter, "-m", project.package]
        + ["run", "scoring", "--step", "score", "--debug"],
        cwd=project.path,
        env={**os.environ, "PYTHONPATH": str(project.path), "COLD": "1"},
        input="p len(mini_batch)\ncontinue\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(Pdb) 1" in done.stdout
    assert "files handled: 1, mini-batches: 1" in done.stdout


def test_a_step_of_a_pipeline_that_never_ran(project: Project) -> None:
    result = run(project, "training", "--step", "train")
    assert "There is no run of training" in refused(result)


def test_a_step_alone_takes_the_project_as_it_is_now(project: Project) -> None:
    first = run(project, "training", "--set", "max_iterations=7")
    folder = first.json["folder"]

    def alone(step: str, *more: str) -> Result:
        return run(project, "training", "--step", step, "--folder", folder, *more)

    project.edit("settings.yml", "learning_rate: 0.1", "learning_rate: 0.25")
    again = alone("train")
    assert again.code == 0, again.err
    assert "learning_rate 0.25" in log(again, "train")
    assert "max_iterations 7" in log(again, "train")  # it was set for this run
    again = alone("train", "--set", "max_iterations=8")
    assert "max_iterations 8" in log(again, "train")

    project.edit("settings.yml", "target: Species", "target: Island")
    refused = alone("evaluate")
    assert refused.code == 1
    assert "made with other settings" in refused.err
    assert "Species" in refused.err and "Island" in refused.err
    assert "--step prep" in refused.err
    assert alone("prep").code == 0
    assert "--step train" in alone("evaluate").err  # which is to run after it


def test_what_a_failed_step_has_written_is_not_taken(project: Project) -> None:
    toy(
        project, "train", "(Path.cwd().parent / 'outputs/model/x').touch()\nsys.exit(3)"
    )
    failed = run(project, "training")
    assert statuses(failed) == ["ran", "failed", "skipped", "skipped"]
    folder = failed.json["folder"]
    result = run(project, "training", "--step", "evaluate", "--folder", folder)
    assert result.code == 1
    assert "train has not ended well" in result.err


def test_a_folder_that_is_not_of_such_a_run(project: Project, tmp_path: Path) -> None:
    """Sentences; but the folder of a run may be moved."""
    (scoring,) = project.path.glob("runs/*-scoring")
    moved = tmp_path / "moved run"
    shutil.copytree(scoring, moved)
    content = (scoring / "run.json").read_text(encoding="utf-8")
    bad = ["", "[]", "null", "{}", content[:20], '{"pipeline": "scoring", "set": 1}']
    for i, text in enumerate(bad):
        (tmp_path / f"bad{i}").mkdir()
        (tmp_path / f"bad{i}" / "run.json").write_text(text, encoding="utf-8")
    others = [tmp_path, tmp_path / "nowhere", *tmp_path.glob("bad*")]
    results = run_one_by_one(
        project,
        [
            ["scoring", "--step", "score", "--folder", str(moved)],
            ["training", "--step", "train", "--folder", str(moved)],
            ["scoring", "--step", "other", "--folder", str(moved)],
            *(
                ["scoring", "--step", "score", "--folder", str(other)]
                for other in others
            ),
        ],
    )
    assert results[0].code == 0, results[0].err
    assert "a run of the pipeline scoring" in results[1].err
    assert "No step is called 'other'" in results[2].err
    assert all("is not the folder of a run" in result.err for result in results[3:])
    assert {(r.code, r.err.count("\n")) for r in results[1:]} == {(1, 1)}


# The command line ----------------------------------------------------------------------

WRONG = {  # what --set does not take, and what is said
    "training": {
        "register=sometimes": "must be one of unless_worse, always",
        "register=": "must be one of unless_worse, always",
        "learning_rate=fast": "learning_rate is 'fast', but must be like 0.1",
        "learning_rate=": "learning_rate is '', but must be like 0.1",
        "max_iterations=2.5": "max_iterations is '2.5', but must be like 200",
        "raw_data=": "raw_data is '', but must be like data/sample/training",
        "raw_data=nowhere": "nowhere",
        "target=Island": "The pipeline has no parameter 'target'",
        "=1": "The pipeline has no parameter ''",
        "register": "write --set NAME=VALUE",
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


def test_set_takes_what_the_rules_take(project: Project) -> None:
    toy(project, "prep", "sys.exit(0 if any(Path(sys.argv[2]).iterdir()) else 1)")
    cases = [(p, value, said) for p in WRONG for value, said in WRONG[p].items()]
    results = run_one_by_one(project, [[p, "--set", value] for p, value, _ in cases])
    for (_, value, said), result in zip(cases, results, strict=True):
        assert result.code == 1, value
        assert said in result.err, value
        is_data = value == "raw_data=nowhere"  # which prep itself says
        assert is_data or result.err.count("\n") == 1, result.err


def test_set_reaches_the_steps(project: Project) -> None:
    values = ["learning_rate=1e-3", "max_iterations=20", "register=always"]
    result = run(project, "training", *(w for v in values for w in ("--set", v)))
    assert result.code == 0, result.err
    assert "--hyperparameters learning_rate 0.001 max_iterations 20" in log(
        result, "train"
    )
    assert "--register always" in log(result, "register")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("settings.yml", "task: regression\ntask: classification\n"),
        ("settings.yml", "data:\n  seed: 1\n  'seed': 2\n"),
        (".azureml/config.json", '{"seed": 1, "task": 1, "task": 2}'),
    ],
)
def test_a_key_that_stands_twice_is_refused(
    project: Project, file: str, text: str
) -> None:
    (project.path / file).write_text(text, encoding="utf-8")
    result = project.python("-m", project.package, "check")
    assert result.code == 1
    name = "task" if text.count("task") > 1 else "seed"
    text_of_table = " ".join(result.out.split())  # The lines of a table are broken.
    assert f"{name} wrong is written twice" in text_of_table
    assert "delete one of the two" in text_of_table
    assert "Traceback" not in result.err


def test_each_of_two_projects_has_its_own_steps(bake: Bake) -> None:
    """One is installed, as its folder on the path has it; the other's notebook runs."""
    installed = bake(project_name="Installed one")
    other = bake(project_name="Other one")
    notebook = other.path / "notebooks" / "02_training_pipeline.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [line for c in cells if c["cell_type"] == "code" for line in c["source"]]
    wanted = ("sys.path", "import prep", "import train", "import evaluate")
    first, *imports = [line for line in code if line.startswith(wanted)]
    assert len(imports) == 4
    head = f"import sys\nfrom pathlib import Path\n{first}"
    head += f"from {other.package}.settings import PROJECT\n"
    tail = f"\nimport {other.package}\nprint({other.package}.__file__)"
    tail += "\nprint(prep.__file__, train.__file__, evaluate.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", head + "\n".join(imports) + tail],
        cwd=notebook.parent,
        env={**os.environ, "PYTHONPATH": str(installed.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count(str(other.path)) == 4
    assert str(installed.path) not in done.stdout


# The driver of a parallel step -----------------------------------------------------------


def drive(
    project: Project, folder: Path, script: str, *more: str, items: int = 3
) -> Result:
    """Run an entry script over some small files, as the local run does."""
    code, data = folder / "code", folder / "data"
    for path in (code, data):
        path.mkdir()
    (code / "entry.py").write_text(script, encoding="utf-8")
    for i in range(items):
        (data / f"{i} ü.txt").write_text(str(i), encoding="utf-8")
    (driver,) = (project.path / project.package).rglob("parallel_driver.py")
    arguments = "--scoring_module_name entry.py --input_fds_0 data"
    options = "--output_action summary_only --error_threshold 0 --run_max_try 1"
    done = subprocess.run(
        [sys.executable, str(driver), *arguments.split(), "--mini_batch_size", "2"]
        + ["--process_count_per_node", "1", *options.split(), *more],
        cwd=code,
        env={**os.environ, "data": str(data), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


AS_IN_THE_SERVICE = """
import argparse, sys, time
from dataclasses import dataclass

@dataclass
class Kept:
    names: list[str]

def init():
    global kept
    kept = Kept([])
    assert __name__ not in ("__main__", "entry"), __name__
    assert __name__ not in sys.modules
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model-name")
    args, others = parser.parse_known_args()
    assert args.model_name == "mine", args
    assert "--model" in others, others
    assert any(other.startswith("--aml_core_version") for other in others)

def run(mini_batch):
    return mini_batch

def shutdown():
    time.sleep(1)
    print("shut down", flush=True)
"""


def test_an_entry_script_is_loaded_as_in_the_service(
    fresh: Project, tmp_path: Path
) -> None:
    result = drive(fresh, tmp_path, AS_IN_THE_SERVICE, "--model-name", "mine")
    assert result.code == 0, result.out + result.err
    assert "shut down" in result.out
    assert "files handled: 3, mini-batches: 2" in result.out


def test_the_driver_is_not_kinder_than_the_service(
    fresh: Project, tmp_path: Path
) -> None:
    """A script that needs its module to be registered fails here too."""
    future = f"from __future__ import annotations\n{AS_IN_THE_SERVICE}"
    result = drive(fresh, tmp_path, future, "--model-name", "mine")
    assert result.code != 0
    assert "'NoneType' object has no attribute '__dict__'" in result.out + result.err


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "run() returned NoneType, not a list, a tuple or"),
        ("'ab'", "run() returned str, not a list, a tuple or"),
        ("iter(mini_batch)", "not a list, a tuple or"),
        ("{'a': 1}", "run() returned dict, not a list, a tuple or"),
        ("mini_batch[:1]", "run() returned 1 items for 2 files"),
        ("[]", "run() returned 0 items for 2 files"),
    ],
)
def test_a_run_that_returns_the_wrong_thing(
    fresh: Project, tmp_path: Path, returned: str, said: str
) -> None:
    script = f"def run(mini_batch):\n    return {returned}\n"
    result = drive(fresh, tmp_path, script, items=2)
    assert result.code != 0
    assert said in result.out
    assert "more failed than the settings allow" in result.err
    assert "Traceback" not in result.out + result.err


@pytest.mark.parametrize(
    "returned", ["tuple(mini_batch)", "pandas.DataFrame({'a': mini_batch, 'b': 1})"]
)
def test_a_run_that_returns_rows_of_another_kind(
    fresh: Project, tmp_path: Path, returned: str
) -> None:
    script = f"import pandas\ndef run(mini_batch):\n    return {returned}\n"
    result = drive(fresh, tmp_path, script)
    assert result.code == 0, result.out + result.err


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("def run(:\n", "SyntaxError"),
        ("import nothing_of_this_name\n", "nothing_of_this_name"),
        ("def init():\n    raise OSError('no model')\n", "no model"),
    ],
)
def test_an_entry_script_that_cannot_start(
    fresh: Project, tmp_path: Path, script: str, said: str
) -> None:
    result = drive(fresh, tmp_path, script)
    assert result.code != 0
    assert said in result.out
    assert "init() failed" in result.err


def test_an_input_without_files(fresh: Project, tmp_path: Path) -> None:
    result = drive(fresh, tmp_path, TOY_SCORE, items=0)
    assert result.code == 1
    assert "the input holds no files" in result.err
