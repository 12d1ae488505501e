"""A `python` for the tests, which need not import anew what takes seconds.

    warm.py SOCKET PYTHON [ARGUMENT...]

As a program it stands for PYTHON: a server that has imported the packages forks a process,
which gets the arguments, the variables, the folder and the open files of this one, and ends
as it does. Where that process would not be as one of PYTHON itself (options, another
encoding, a file with the name of a package, `COLD` among the variables), PYTHON is run.
"""

from __future__ import annotations

import atexit
import marshal
import os
import signal
import sys
from contextlib import suppress
from typing import Any

MODULES = """
azureml.core azureml.pipeline.core azureml.pipeline.steps
azure.ai.ml azure.ai.ml.dsl azure.ai.ml.parallel
azure.identity azure.storage.blob requests rich.progress yaml pebble pytest
IPython git mlflow mlflow.pyfunc mlflow.sklearn mlflow.store.tracking.sqlalchemy_store
mlflow.store.model_registry.sqlalchemy_store
polars pandas pyarrow.parquet scipy.stats
sqlalchemy.dialects.mssql sqlalchemy.dialects.mysql sqlalchemy.dialects.sqlite
sklearn.compose sklearn.ensemble
sklearn.inspection sklearn.metrics sklearn.pipeline sklearn.preprocessing
"""
# The first two are what a project's package sets before it imports an SDK.
VARIABLES = {
    "HBI_WORKSPACE_JOB": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONUTF8": "1",
}
# Variables that Python reads when it starts; these are taken over, or are as here.
READ_AT_START = ("PYTHON", "LC_ALL", "LD_")
TAKEN_OVER = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
status = 1  # the exit code of this process, unless what it runs has ended otherwise
MOST_FILES, MOST_BYTES, MOVED = 200, 2**20, 500


class Pythons:
    """A `python` for each of some real ones, as NAME/python in a folder; `close` ends them."""

    def __init__(self, real: dict[str, str]) -> None:
        import tempfile

        self.folder, self.servers = tempfile.mkdtemp(dir="/tmp"), list[Any]()
        for name, python in real.items():
            self._make(name, python)

    def _make(self, name: str, python: str) -> None:
        import shlex
        import socket
        import subprocess

        folder = os.path.join(self.folder, name)
        os.mkdir(folder)
        address, made = os.path.join(folder, "socket"), os.path.join(folder, "python")
        program = shlex.join([python, "-IS", __file__, address, python])
        with open(made, "w", encoding="utf-8") as script:
            script.write(f'#!/bin/sh\nexec {program} "$@"\n')
        os.chmod(made, 0o755)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(address)
        listener.listen(100)
        with listener:
            server = subprocess.Popen(
                [python, __file__, made, str(listener.fileno())],
                env={**os.environ, **VARIABLES, "HOME": folder},
                stdin=subprocess.PIPE,  # whose end is the server's
                pass_fds=[listener.fileno()],
            )
        self.servers.append(server)

    def close(self) -> None:
        import shutil

        for server in self.servers:
            server.communicate()
        shutil.rmtree(self.folder)


# What stands for a Python -----------------------------------------------------------------


def stand_for(address: str, python: str, *words: str) -> None:
    import socket

    files = [int(name) for name in os.listdir("/proc/self/fd")]
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    files = [one for one in files if is_open(one) and one != connection.fileno()]
    plain = words[words[:1] == ("-B",) :]
    call = marshal.dumps(([*plain], files, dict(os.environ), os.getcwd()))
    try:
        assert plain and (plain[0] in ("-m", "-c") or plain[0][0] != "-")
        assert "COLD" not in os.environ and len(files) < MOST_FILES
        connection.connect(address)
        socket.send_fds(connection, [call], files)
        answer = connection.recv(1)
        assert answer == b"y"
    except (AssertionError, OSError):
        os.execv(python, [python, *words])
    for file in files:  # which end when that process closes them
        os.close(file)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: connection.send(bytes([number])))
    code = int(connection.recv(100) or 1)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


# The server -------------------------------------------------------------------------------


def serve(file: int) -> Any:
    """Fork a process for each call; gives in that one what it is to run."""
    import gc
    import importlib
    import inspect
    import select
    import socket
    import threading

    listener = socket.socket(fileno=file)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    is_warm = False
    while select.select([listener, 0], [], [])[0] == [listener]:
        connection, _ = listener.accept()
        if not is_warm:
            for name in MODULES.split():
                with suppress(ModuleNotFoundError):  # it is the other SDK's
                    importlib.import_module(name)
            inspect.stack()  # looks up the files of all modules, as the SDKs have it do
            gc.freeze()  # what is imported stays as it is, in memory that all share
            assert threading.active_count() == 1
            is_warm = True
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return answer(connection)
        connection.close()
    sys.exit()


def answer(connection: Any) -> Any:
    """Fork, and see to the process: it is killed as soon as nobody waits for it."""
    import select
    import socket

    message, files, _, _ = socket.recv_fds(connection, MOST_BYTES, MOST_FILES)
    words, numbers, variables, folder = marshal.loads(message)
    if not is_the_same(words, variables, folder):
        os._exit(0)
    connection.send(b"y")
    if not (process := os.fork()):
        os.setsid()
        os.close(connection.detach())
        for file, number in zip(files, numbers, strict=True):
            os.dup2(file, MOVED + number)
        os.closerange(0, MOVED)
        for number in numbers:
            os.dup2(MOVED + number, number)
        os.closerange(MOVED, 2 * MOVED)
        return words, variables, folder
    for file in files:
        os.close(file)
    ended = os.pidfd_open(process)
    while ended not in (ready := select.select([ended, connection], [], [])[0]):
        assert ready == [connection]
        if number := connection.recv(1):
            os.kill(process, number[0])
            continue
        for kill in (os.kill, os.killpg):
            with suppress(ProcessLookupError):
                kill(process, signal.SIGKILL)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(OSError):  # nobody waits
        connection.send(str(code).encode())
    os._exit(0)


def is_the_same(words: list[str], variables: dict[str, str], folder: str) -> bool:
    """Tell whether a process that is forked here behaves like one of its own."""
    mine, theirs = (
        {k: v for k, v in one.items() if k.startswith(READ_AT_START)}
        for one in (os.environ, {"PYTHONUTF8": "1", **variables})
    )
    others = mine.items() ^ theirs.items()
    own = folder
    if words[0][0] != "-":
        own = os.path.dirname(os.path.join(folder, words[0]))
    names = {name.partition(".")[0] for name in os.listdir(own)}
    return {name for name, _ in others} <= TAKEN_OVER and not names & sys.modules.keys()


def run(
    executable: str, words: list[str], variables: dict[str, str], folder: str
) -> None:
    """Run what the words say, as Python does."""
    import runpy
    import time
    from multiprocessing import util
    from types import ModuleType

    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    sys.executable = executable
    util.spawnv_passfds = run_in_a_fork  # type: ignore[assignment]
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in variables
    # Anew, as they know what kind of file theirs is.
    lines = 1 if os.isatty(1) else -1
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", lines, "utf-8", closefd=False)
    sys.stdout.reconfigure(write_through="PYTHONUNBUFFERED" in variables)
    sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    path = variables.get("PYTHONPATH", "")
    sys.path[:1] = [folder, *filter(None, path.split(os.pathsep))]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = ModuleType("__main__")
    if words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        code = compile(words[1], "<string>", "exec", dont_inherit=True)
    else:
        sys.argv = words
        main.__file__ = os.path.abspath(words[0])
        sys.path[0] = os.path.dirname(main.__file__)
        with open(main.__file__, "rb") as script:
            code = compile(script.read(), main.__file__, "exec", dont_inherit=True)
    exec(code, vars(main))  # noqa: S102


def run_in_a_fork(_: bytes, words: list[str], files: list[int]) -> int:
    """What multiprocessing has a new Python do, whose parent waits for it by its number."""
    from types import ModuleType

    sys.stdout.flush()
    if process := os.fork():
        return process
    global status
    status = 1
    try:
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in {0, 1, 2, *files}:
                with suppress(OSError):
                    os.close(int(name))
        sys.argv = words[words.index("-c") :]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(sys.argv.pop(1), vars(main))  # noqa: S102
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        leave()
    raise AssertionError


def main(place: str, what: str, *words: str) -> None:
    if not what.isdecimal():
        stand_for(place, what, *words)
    atexit.register(leave)  # before all others: it is called after them
    call = serve(int(what))
    global status
    try:
        run(place, *call)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except KeyboardInterrupt:
        atexit.unregister(leave)  # as Python itself ends by that signal
        raise


def leave() -> None:
    """End, but leave what is imported as it is: to take it apart takes a fifth of a second."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # it is closed
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
