"""Test that steps behave like plain Python processes, also if they are forked.

Each script of `SCRIPTS` runs three times: by Python itself, by the supervisor and by the
fork server. Exit code, output and files must be the same. The tests run the template's own
programs, without a generated project.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import TEMPLATE

LOCAL = (
    TEMPLATE
    / "{{cookiecutter.project_slug}}/{{cookiecutter.package_name}}/runtime/local"
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="forks, and reads /proc"
)


def load_processes() -> ModuleType:
    """Import `processes.py` from the template."""
    spec = importlib.util.spec_from_file_location("processes", LOCAL / "processes.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["processes"] = module
    spec.loader.exec_module(module)
    return module


processes = load_processes()


@dataclass
class Outcome:
    """What is left of a step's process: its exit code, its output and its files."""

    code: int
    output: str
    files: dict[str, str]


SCRIPTS = {
    "ends well": "print('done')",
    "exits with a number": "import sys; sys.exit(3)",
    "exits with a large number": "import sys; sys.exit(259)",
    "exits with a text": "import sys; sys.exit('nothing to train on')",
    "exits with None": "import sys; sys.exit(None)",
    "exits with True": "import sys; sys.exit(True)",
    "exits by os._exit": "import os; print('lost', end=''); os._exit(7)",
    "raises": "def train():\n    raise ValueError('no rows')\ntrain()",
    "raises from another error": (
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n"
        "    raise RuntimeError('stop') from error"
    ),
    "raises a group of errors": "raise ExceptionGroup('two', [OSError(1), KeyError(2)])",
    "has a mistake in its syntax": "print('never')\ndef (\n",
    "imports what is not there": "import no_such_module",
    "interrupts itself": "raise KeyboardInterrupt",
    "has its own excepthook": (
        "import sys\nsys.excepthook = lambda *error: print('hook', error[1])\n"
        "raise OSError('mine')"
    ),
    "recurses for ever": "def f():\n    f()\ntry:\n    f()\nexcept RecursionError:\n    print('deep')",
    "exits by a subclass of SystemExit": "class End(SystemExit): pass\nraise End(6)",
    "exits in a thread": (
        "import sys, threading\nthread = threading.Thread(target=sys.exit, args=[3])\n"
        "thread.start()\nthread.join()\nprint('still there')"
    ),
    "raises in a thread": (
        "import threading\nthread = threading.Thread(target=lambda: 1 / 0, name='T')\n"
        "thread.start()\nthread.join()\nprint('still there')"
    ),
    "exits by os._exit in a thread": (
        "import os, threading, time\n"
        "threading.Thread(target=os._exit, args=[5]).start()\ntime.sleep(9)"
    ),
    "raises with a note": (
        "error = ValueError('x')\nerror.add_note('the note')\nraise error"
    ),
    "has a wrong command line": "import argparse; argparse.ArgumentParser().parse_args()",
    "ends by its own handler": (
        "import os, signal, sys\nsignal.signal(15, lambda *_: sys.exit(9))\n"
        "os.kill(os.getpid(), 15)"
    ),
    "sets an alarm": (
        "import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: print('ring'))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.1)\ntime.sleep(0.3)"
    ),
    "is killed": "import os\nos.kill(os.getpid(), 9)",
    "is terminated": "import os, time\nos.kill(os.getpid(), 15)\ntime.sleep(9)",
    "aborts": "import os; os.abort()",
    "reads a null pointer": "import ctypes; ctypes.string_at(0)",
    "reads its input": "import sys; print(repr(sys.stdin.read()))",
    "asks a question": "input('how many? ')",
    "stops at a breakpoint": "breakpoint()\nprint('after')",
    "writes without a newline": "print('a', end='')",
    "writes to both streams": (
        "import sys\nfor i in range(3):\n    print('out', i)\n"
        "    print('err', i, file=sys.stderr)"
    ),
    "writes bytes": r"import sys; sys.stdout.buffer.write(b'\xff\xfe\x00\r\n')",
    "writes umlauts": "print('ü 🐧')",
    "writes ten megabytes": "print('x' * 10_000_000)",
    "writes much while it imports": (
        "import sys\nfor _ in range(100_000):\n    print('0123456789')\nimport json"
    ),
    "writes what is no text": r"print('a\0b'); print('\udcff')",
    "writes to file descriptors": r"import os; os.write(2, b'raw'); os.write(1, b'out')",
    "closes its input": "import sys; sys.stdin.close(); print('done')",
    "detaches its output": "import sys; sys.stdout.detach().write(b'x')",
    "closes its output": "import sys; sys.stdout.close()",
    "closes file descriptor 1": "import os; os.close(1); os.open('x.txt', 65)",
    "leaves a file open": "file = open('open.txt', 'w'); file.write('whole')",
    "leaves a file open and fails": (
        "file = open('open.txt', 'w'); file.write('whole')\nraise OSError('late')"
    ),
    "leaves a file open in a function": (
        "def f():\n    f.file = open('open.txt', 'w')\n    f.file.write('whole')\nf()"
    ),
    "registers functions for its end": (
        "import atexit\natexit.register(print, 'first')\natexit.register(print, 'second')"
    ),
    "fails at its end": "import atexit\natexit.register(lambda: 1 / 0)",
    "deletes an object at its end": (
        "class Kept:\n    def __del__(self):\n        print('deleted')\nkept = Kept()"
    ),
    "has a thread that outlasts it": (
        "import threading, time\n"
        "def late():\n    time.sleep(0.3)\n    open('late.txt', 'w').write('late')\n"
        "threading.Thread(target=late).start()"
    ),
    "has a daemon thread": (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=[600], daemon=True).start()"
    ),
    "forks with unwritten output": (
        "import os, sys\nsys.stdout.write('once ')\nsys.stdout.flush()\n"
        "pid = os.fork()\nif pid == 0:\n    print('child')\n    os._exit(0)\n"
        "os.waitpid(pid, 0)\nprint('parent')"
    ),
    "waits for its children": (
        "import signal, subprocess\n"
        "print(signal.getsignal(signal.SIGCHLD))\n"
        "print(subprocess.run(['sh', '-c', 'exit 5']).returncode)"
    ),
    "leaves a child running": (
        "import subprocess\nsubprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)"
    ),
    "leaves a child with its output": (
        "import subprocess\nsubprocess.Popen(['sleep', '600'])\nprint('left')"
    ),
    "imports a module beside it": "import helper; print(helper.VALUE)",
    "has a module with the name of a package": (
        "import mlflow, yaml; print(yaml.VALUE)"
    ),
    "prints where it is": (
        "import os, sys\nprint(__name__, __file__, os.getcwd(), sys.argv, sys.path[0])\n"
        "print(vars(sys.modules['__main__']) is globals())"
    ),
    "prints its variables": (
        "import os\nprint(os.environ['GIVEN'], os.environ.get('REMOVED'))\n"
        "import subprocess\nsubprocess.run(['sh', '-c', 'echo $GIVEN $REMOVED'])"
    ),
    "prints its state": (
        "import gc, os, signal, sys, threading\n"
        "print(gc.isenabled(), gc.get_threshold(), sys.flags.utf8_mode, sys.flags)\n"
        "print([thread.name for thread in threading.enumerate()])\n"
        "print(sorted(os.listdir('/proc/self/fd')))\n"
        "print([str(signal.getsignal(one)) for one in signal.valid_signals()])\n"
        "print(os.getsid(0) == os.getpid() or 'of the caller')\n"
        "print(sys.stdin, sys.stdout, sys.stderr, os.umask(0))"
    ),
    "prints the names of its module": (
        "print(type(__builtins__), __builtins__.len([1]), __cached__, __spec__)\n"
        "print(type(__loader__), __loader__.get_source('__main__'))"
    ),
    "prints its limits": (
        "import locale, os, resource, shutil, sys, threading, time\n"
        "names = [name for name in dir(resource) if name.startswith('RLIMIT')]\n"
        "print([resource.getrlimit(getattr(resource, name)) for name in names])\n"
        "print(os.sched_getaffinity(0), os.getpriority(0, 0), os.isatty(1))\n"
        "print(sys.getrecursionlimit(), threading.stack_size(), time.tzname)\n"
        "print(locale.getlocale(), shutil.get_terminal_size(), sys.stdin.errors)"
    ),
    "prints its hooks": (
        "import sys\nprint(sys.excepthook, sys.displayhook, sys.breakpointhook)\n"
        "print(sys.unraisablehook, sys.gettrace(), sys.getprofile(), sys.warnoptions)"
    ),
    "works in a folder that is gone": (
        "import os\nos.mkdir('gone')\nos.chdir('gone')\nos.rmdir('../gone')\n"
        "try:\n    os.getcwd()\nexcept OSError as error:\n    print(error)"
    ),
    "sets up logging": (
        "import logging\nprint(logging.root.handlers, logging.root.level)\n"
        "logging.basicConfig(level='INFO')\nlogging.info('now')"
    ),
    "warns": "import warnings; warnings.warn('old', DeprecationWarning)",
    "logs": "import logging; logging.warning('%s rows', 3)",
    "uses a pool of processes": (
        "from multiprocessing import Pool\ndef double(x):\n    return 2 * x\n"
        "if __name__ == '__main__':\n    print(Pool(2).map(double, [1, 2]))"
    ),
    "spawns processes": (
        "import multiprocessing\ndef double(x):\n    return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "        print(pool.map(double, [1, 2]))"
    ),
    "chooses to spawn processes": (
        "import multiprocessing\ndef double(x):\n    return 2 * x\n"
        "if __name__ == '__main__':\n    multiprocessing.set_start_method('spawn')\n"
        "    with multiprocessing.Pool(1) as pool:\n        print(pool.map(double, [1]))"
    ),
    "shares memory": (
        "from multiprocessing.shared_memory import SharedMemory\n"
        "memory = SharedMemory(create=True, size=8)\nmemory.buf[0] = 7\n"
        "print(memory.buf[0])\nmemory.close()\nmemory.unlink()"
    ),
    "runs another program in its place": "import os; os.execvp('echo', ['echo', 'other'])",
    "starts a program by asyncio": (
        "import asyncio\nasync def main():\n"
        "    process = await asyncio.create_subprocess_exec('echo', 'hi', stdout=-1)\n"
        "    print(await process.communicate())\nasyncio.run(main())"
    ),
    "asks multiprocessing who it is": (
        "import multiprocessing\nprint(multiprocessing.current_process())\n"
        "print(multiprocessing.parent_process(), multiprocessing.get_start_method())"
    ),
    "uses an executor": (
        "from concurrent.futures import ProcessPoolExecutor\ndef double(x):\n"
        "    return 2 * x\nif __name__ == '__main__':\n"
        "    with ProcessPoolExecutor(2) as pool:\n        print(list(pool.map(double, [1])))"
    ),
    "pickles its own classes": (
        "import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass Row:\n"
        "    value: int\nprint(pickle.loads(pickle.dumps(Row(1))))"
    ),
    "inspects its source": "import inspect\ndef f():\n    pass\nprint(inspect.getsource(f))",
    "multiplies matrices while it imports": "import numpy; a = numpy.ones((900, 900)); print((a @ a).sum())",
    "queries a table": (
        "import polars as pl\nframe = pl.DataFrame({'a': range(100_000)})\n"
        "print(frame.lazy().group_by(pl.col('a') % 7).agg(pl.len()).collect()['len'].sum())"
    ),
    "fits on all cores": (
        "import numpy\nfrom sklearn.ensemble import HistGradientBoostingClassifier\n"
        "x = numpy.arange(4000.0).reshape(-1, 2)\n"
        "print(HistGradientBoostingClassifier(max_iter=5).fit(x, x[:, 0] > 9).score(x, x[:, 0] > 9))"
    ),
    "fits in worker processes": (
        "import numpy\nfrom sklearn.ensemble import RandomForestClassifier\n"
        "from joblib import parallel_backend\nx = numpy.arange(40.0).reshape(-1, 1)\n"
        "with parallel_backend('multiprocessing', n_jobs=2):\n"
        "    print(RandomForestClassifier(4, random_state=0).fit(x, x[:, 0] > 9).score(x, x[:, 0] > 9))"
    ),
    "reads Parquet": (
        "import pandas\npandas.DataFrame({'a': [1, 2]}).to_parquet('a.parquet')\n"
        "import os\nprint(pandas.read_parquet('a.parquet')['a'].sum()); os.unlink('a.parquet')"
    ),
    "draws a figure": (
        "from matplotlib.figure import Figure\nfigure = Figure()\n"
        "figure.subplots().plot([1, 2])\nprint(figure.get_size_inches())"
    ),
}


def write_step(folder: Path, script: str) -> None:
    """Write a script, and modules that some scripts import, into a step's folder."""
    folder.mkdir()
    (folder / "step.py").write_text(script, encoding="utf-8")
    (folder / "helper.py").write_text("VALUE = 'beside'", encoding="utf-8")
    if "yaml" in script:
        (folder / "yaml.py").write_text("VALUE = 'beside'\nSafeLoader = object\n")


def collect_outcome(folder: Path, code: int, log: Path) -> Outcome:
    """Return what a process has left, with FOLDER in place of the folder's path."""
    output = log.read_bytes().decode("utf-8", "replace")
    files = {
        path.name: path.read_text(encoding="utf-8", errors="replace")
        for path in folder.glob("*.txt")
    }
    output = re.sub(r"0x[0-9a-f]+", "ADDRESS", output.replace(str(folder), "FOLDER"))
    return Outcome(code, output, files)


def list_running_in(folder: Path) -> list[int]:
    """Return the numbers of the processes that work in a folder, but not zombies."""
    numbers = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where = Path(os.readlink(process / "cwd"))
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if where == folder and state != "Z":
            numbers.append(int(process.name))
    return numbers


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for a condition to hold; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_until_ended(folder: Path) -> None:
    """Wait until no process works in a folder; AssertionError after five seconds."""
    wait_until(lambda: not list_running_in(folder), seconds=5)


VARIABLES = {"GIVEN": "a value", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def build_environment() -> dict[str, str]:
    """Return the variables of a step."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return {**inherited, **VARIABLES}


def run_plainly(folder: Path, log: Path) -> int:
    """Run a step by Python itself, in a session that is killed afterwards."""
    with log.open("wb") as file:
        step = subprocess.Popen(
            [sys.executable, "step.py", "--target", "a b"],
            cwd=folder,
            env=build_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = step.wait(60)
    try:
        os.killpg(step.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return code


def build_command(folder: Path, log: Path) -> Any:
    """Return the command that runs the step in a folder."""
    arguments = ["step.py", "--target", "a b"]
    return processes.StepCommand(arguments, str(folder), build_environment(), str(log))


@pytest.fixture(scope="module")
def forked() -> Iterator[Any]:
    """Step processes whose fork server is ready, with a variable that steps lack."""
    runner = processes.StepProcesses(
        {**build_environment(), "GIVEN": "another", "REMOVED": "x"}
    )
    runner.start_fork_server({})
    yield runner
    runner.close()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_step_behaves_like_a_plain_process(
    tmp_path: Path, forked: Any, script: str
) -> None:
    log = tmp_path / "log.txt"
    runners: dict[str, Callable[[Path], int]] = {
        "python": lambda folder: run_plainly(folder, log),
        "supervisor": lambda folder: processes.StepProcesses({}).run(
            build_command(folder, log), {}
        ),
        "forked": lambda folder: forked.run(build_command(folder, log), {}),
    }
    outcomes = {}
    for name, run in runners.items():
        folder = tmp_path / name
        write_step(folder, script)
        started = time.monotonic()
        outcomes[name] = collect_outcome(folder, run(folder), log)
        assert time.monotonic() - started < 60, name
        wait_until_ended(folder)
    assert outcomes["supervisor"] == outcomes["python"]
    assert outcomes["forked"] == outcomes["python"]


#: Starts a step by a fork server (`True`) or by a supervisor, as a run does.
RUN = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("processes", sys.argv[1])
processes = sys.modules["processes"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(processes)
processes.FORK_SERVER = processes.FORK_SERVER[:2]  # Without packages it is quick.
command = processes.StepCommand(**json.loads(sys.argv[2]))
runner = processes.StepProcesses(command.environment)
if sys.argv[3] == "True":
    runner.start_fork_server({})
print(runner.run(command, {}), flush=True)
runner.close()
"""
CHILD = "import subprocess, time\nsubprocess.Popen(['sleep', '600'])\ntime.sleep(600)"

fork_or_not = pytest.mark.parametrize(
    "in_fork", [True, False], ids=["forked", "supervised"]
)


def start_run(folder: Path, log: Path, in_fork: bool) -> subprocess.Popen[str]:
    """Start a process that runs the step in a folder, as the local run would."""
    call = json.dumps(vars(build_command(folder, log)))
    return subprocess.Popen(
        [sys.executable, "-c", RUN, LOCAL / "processes.py", call, str(in_fork)],
        stdout=subprocess.PIPE,
        text=True,
    )


def list_children(process: int) -> list[int]:
    """Return the numbers of the processes that a process has started."""
    tasks = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in tasks.read_text().split()]


@fork_or_not
def test_step_dies_with_a_run_that_is_killed(tmp_path: Path, in_fork: bool) -> None:
    write_step(tmp_path / "step", CHILD)
    run = start_run(tmp_path / "step", tmp_path / "log.txt", in_fork)
    wait_until(lambda: len(list_running_in(tmp_path / "step")) == 2)
    run.kill()
    wait_until_ended(tmp_path / "step")


@fork_or_not
def test_step_dies_with_its_supervisor(tmp_path: Path, in_fork: bool) -> None:
    """Check that the run reports this, and does not run the step again."""
    write_step(tmp_path / "step", f"open('starts.txt', 'a').write('x')\n{CHILD}")
    run = start_run(tmp_path / "step", tmp_path / "log.txt", in_fork)
    wait_until(lambda: len(list_running_in(tmp_path / "step")) == 2)
    (supervisor,) = list_children(run.pid)
    os.kill(supervisor, signal.SIGKILL)
    output, _ = run.communicate(timeout=30)
    assert output == "-9\n"
    assert (tmp_path / "step" / "starts.txt").read_text() == "x"
    wait_until_ended(tmp_path / "step")


@fork_or_not
def test_step_dies_with_its_supervisor_although_the_run_is_stopped(
    tmp_path: Path, in_fork: bool
) -> None:
    """Kill the supervisor while the run is stopped, as if both were killed together."""
    write_step(tmp_path / "step", "import time\ntime.sleep(600)")
    run = start_run(tmp_path / "step", tmp_path / "log.txt", in_fork)
    wait_until(lambda: len(list_running_in(tmp_path / "step")) == 1)
    (supervisor,) = list_children(run.pid)
    run.send_signal(signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    wait_until_ended(tmp_path / "step")
    run.kill()
    run.communicate()


@fork_or_not
def test_caller_that_ignores_its_children_sees_the_exit_code(
    tmp_path: Path, in_fork: bool
) -> None:
    write_step(tmp_path / "step", "raise SystemExit(3)")
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        run = start_run(tmp_path / "step", tmp_path / "log.txt", in_fork)
    finally:
        signal.signal(signal.SIGCHLD, handler)
    output, _ = run.communicate(timeout=30)
    assert output == "3\n"


def test_step_runs_although_the_fork_server_is_gone(tmp_path: Path) -> None:
    write_step(tmp_path / "step", "print('done')")
    runner = processes.StepProcesses(build_environment())
    runner.start_fork_server({})
    (server,) = runner._fork_servers.values()
    os.kill(server._process.pid, signal.SIGKILL)
    code = runner.run(build_command(tmp_path / "step", tmp_path / "log.txt"), {})
    runner.close()
    assert code == 0
    assert (tmp_path / "log.txt").read_text() == "done\n"


def test_steps_with_other_variables_have_a_fork_server_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = (*processes.FORK_SERVER[:2], "colorsys")
    monkeypatch.setattr(processes, "FORK_SERVER", server)
    write_step(tmp_path / "step", "import sys; print('colorsys' in sys.modules)")
    one_thread = {"OMP_NUM_THREADS": "1"}
    runner = processes.StepProcesses(build_environment())
    are_forked = []
    for variables, next_variables in [({}, {}), ({}, one_thread), (one_thread, None)]:
        log = tmp_path / "log.txt"
        runner.run(build_command(tmp_path / "step", log), variables, next_variables)
        are_forked.append(log.read_text().strip())
    servers_left = len(runner._fork_servers)
    runner.close()
    assert are_forked == ["False", "True", "True"]
    assert servers_left == 1


def test_fork_server_does_not_get_the_variables_of_the_step_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages read such variables while the server imports them for the next step."""
    (tmp_path / "reader_of_variables.py").write_text(
        "import os\nvalue = os.environ.get('READ_BY_PACKAGE', 'not set')"
    )
    server = (*processes.FORK_SERVER[:2], "reader_of_variables")
    monkeypatch.setattr(processes, "FORK_SERVER", server)
    write_step(
        tmp_path / "step", "import reader_of_variables as r; print(r.value, 'is seen')"
    )
    common = {**build_environment(), "PYTHONPATH": str(tmp_path)}
    first_variables = {"READ_BY_PACKAGE": "1"}
    log = tmp_path / "log.txt"
    runner = processes.StepProcesses(common)
    seen = []
    runs: list[tuple[dict[str, str], dict[str, str] | None]]
    runs = [(first_variables, {}), ({}, None)]
    for variables, next_variables in runs:
        environment = {**common, **variables}
        command = processes.StepCommand(
            ["step.py"], str(tmp_path / "step"), environment, str(log)
        )
        runner.run(command, variables, next_variables)
        seen.append(log.read_text().strip())
    runner.close()
    assert seen == ["1 is seen", "not set is seen"]


def test_steps_draw_different_random_numbers(tmp_path: Path, forked: Any) -> None:
    draw = "import random, uuid, numpy\nprint(random.random(), uuid.uuid4(), numpy.random.random())"
    write_step(tmp_path / "step", draw)
    drawn = set[str]()
    for number in range(3):
        log = tmp_path / f"{number}.txt"
        assert forked.run(build_command(tmp_path / "step", log), {}) == 0
        drawn.update(log.read_text().split())
    assert len(drawn) == 9


def test_step_with_variables_of_its_own_is_not_forked(
    tmp_path: Path, forked: Any
) -> None:
    """Packages may read such variables while they are imported."""
    write_step(tmp_path / "step", "print(open('/proc/self/cmdline').read())")
    log = tmp_path / "log.txt"
    forked.run(build_command(tmp_path / "step", log), {})
    assert "fork_server.py" in log.read_text()
    forked.run(build_command(tmp_path / "step", log), {"OMP_NUM_THREADS": "1"})
    assert "fork_server.py" not in log.read_text()
