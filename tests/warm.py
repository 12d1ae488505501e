"""A `python` for the tests, which starts with the packages of the SDKs already imported.

    warm.py SOCKET PYTHON [ARGUMENT...]

This program replaces PYTHON. It sends its arguments, environment variables, folder and open
files to a server, which has imported the packages. The server forks a process that runs the
call, and this program ends as that process does.

Some calls would behave differently in a forked process: those with other options, with
another encoding, with a file that is named like a package, or with the variable `COLD`.
For these, this program runs PYTHON itself.
"""

from __future__ import annotations

import atexit
import marshal
import os
import signal
import sys
from contextlib import suppress
from typing import Any

#: The packages that the server imports. Those of the other SDK are missing.
PACKAGES = """
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
#: The variables of the server. A project's package sets the first two before it imports an
#: SDK.
SERVER_VARIABLES = {
    "HBI_WORKSPACE_JOB": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONUTF8": "1",
}
#: Python reads the variables with these prefixes when it starts. A call must have the same
#: values as the server, except for the variables that a forked process can adopt.
PREFIXES_READ_AT_START = ("PYTHON", "LC_ALL", "LD_")
ADOPTED_VARIABLES = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
#: The limits of a call: its open files, and the bytes of its message.
MAX_FILES = 200
MAX_BYTES = 2**20
#: A forked process first moves the files of the call behind this number.
FREE_FILE_NUMBER = 500

#: The exit code of this process, if the call does not end otherwise.
exit_code = 1


class Pythons:
    """A `python` for each of some real ones, as NAME/python in a folder; `close` ends them."""

    def __init__(self, real_pythons: dict[str, str]) -> None:
        import tempfile

        self.folder = tempfile.mkdtemp(dir="/tmp")
        self.servers = list[Any]()
        for name, real_python in real_pythons.items():
            self._start_server(name, real_python)

    def _start_server(self, name: str, real_python: str) -> None:
        """Write the script NAME/python, and start its server."""
        import shlex
        import socket
        import subprocess

        folder = os.path.join(self.folder, name)
        os.mkdir(folder)
        address = os.path.join(folder, "socket")
        command = shlex.join([real_python, "-IS", __file__, address, real_python])
        python = os.path.join(folder, "python")
        with open(python, "w", encoding="utf-8") as script:
            script.write(f'#!/bin/sh\nexec {command} "$@"\n')
        os.chmod(python, 0o755)

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(address)
        listener.listen(100)
        with listener:
            server = subprocess.Popen(
                [real_python, __file__, python, str(listener.fileno())],
                env={**os.environ, **SERVER_VARIABLES, "HOME": folder},
                # The server ends when its input is closed.
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )
        self.servers.append(server)

    def close(self) -> None:
        """End the servers."""
        import shutil

        for server in self.servers:
            server.communicate()
        shutil.rmtree(self.folder)


# The program that replaces Python ---------------------------------------------------------


def replace_python(address: str, python: str, *arguments: str) -> None:
    """Let the server run a call, and end as it does; or run `python` instead."""
    import socket

    open_files = list_open_files()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not send_call(connection, address, arguments, open_files):
        os.execv(python, [python, *arguments])

    # Otherwise a pipe would stay open after the forked process has closed its end.
    for file in open_files:
        os.close(file)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: connection.send(bytes([number])))
    code = int(connection.recv(100) or 1)
    if code < 0:
        # A signal has ended the call, and the same signal ends this process.
        with suppress(OSError):  # SIGKILL has no handler that could be reset.
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def list_open_files() -> list[int]:
    """Return the numbers of the open files of this process."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    # The list has the file by which the folder was read, and which is closed now.
    return [number for number in numbers if is_open(number)]


def is_open(file: int) -> bool:
    """Return whether a file number is open."""
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def send_call(
    connection: Any, address: str, arguments: tuple[str, ...], open_files: list[int]
) -> bool:
    """Send a call to the server, and return whether the server runs it."""
    import socket

    # With the option -B, Python writes no bytecode, and behaves the same otherwise.
    command = list(arguments[1:] if arguments[:1] == ("-B",) else arguments)
    has_unknown_option = not command or (
        command[0].startswith("-") and command[0] not in ("-m", "-c")
    )
    if has_unknown_option or "COLD" in os.environ or len(open_files) >= MAX_FILES:
        return False
    call = marshal.dumps((command, open_files, dict(os.environ), os.getcwd()))
    try:
        connection.connect(address)
        socket.send_fds(connection, [call], open_files)
        return bool(connection.recv(1) == b"y")
    except OSError:
        return False


# The server -------------------------------------------------------------------------------


def serve(listener_file: int) -> Any:
    """Fork a process for each call. Only in that process, return the call to run."""
    import select
    import socket

    listener = socket.socket(fileno=listener_file)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    has_imported = False
    standard_input = 0
    while select.select([listener, standard_input], [], [])[0] == [listener]:
        connection, _ = listener.accept()
        if not has_imported:
            import_packages()
            has_imported = True
        is_forked_process = os.fork() == 0
        if is_forked_process:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return answer(connection)
        connection.close()
    sys.exit()


def import_packages() -> None:
    """Import the packages, and prepare the process to be forked."""
    import gc
    import importlib
    import inspect
    import threading

    for name in PACKAGES.split():
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    # This finds the files of all modules once. The SDKs do it in each process.
    inspect.stack()
    # All processes share the memory of what was imported, as nothing is collected in it.
    gc.freeze()
    assert threading.active_count() == 1


def answer(connection: Any) -> Any:
    """Fork the process of a call, and return the call there. Here, wait for its end.

    The process is killed as soon as the program that waits for it has ended.
    """
    import socket

    message, files, _, _ = socket.recv_fds(connection, MAX_BYTES, MAX_FILES)
    command, file_numbers, variables, folder = marshal.loads(message)
    if not can_run(command, variables, folder):
        os._exit(0)
    connection.send(b"y")
    process = os.fork()
    is_forked_process = process == 0
    if is_forked_process:
        os.setsid()
        os.close(connection.detach())
        take_over_files(files, file_numbers)
        return command, variables, folder
    for file in files:
        os.close(file)
    wait_for_end(process, connection)
    os._exit(0)


def take_over_files(files: list[int], numbers: list[int]) -> None:
    """Give received files the numbers that they have in the call, and close all others."""
    for file, number in zip(files, numbers, strict=True):
        os.dup2(file, FREE_FILE_NUMBER + number)
    os.closerange(0, FREE_FILE_NUMBER)
    for number in numbers:
        os.dup2(FREE_FILE_NUMBER + number, number)
    os.closerange(FREE_FILE_NUMBER, 2 * FREE_FILE_NUMBER)


def wait_for_end(process: int, connection: Any) -> None:
    """Pass signals on to a process, and send its exit code. Kill it if nobody waits."""
    import select

    end_of_process = os.pidfd_open(process)
    while True:
        ready = select.select([end_of_process, connection], [], [])[0]
        if end_of_process in ready:
            break
        number = connection.recv(1)
        if number:
            os.kill(process, number[0])
            continue
        for kill in (os.kill, os.killpg):
            with suppress(ProcessLookupError):
                kill(process, signal.SIGKILL)
        return
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(OSError):
        connection.send(str(code).encode())


def can_run(command: list[str], variables: dict[str, str], folder: str) -> bool:
    """Return whether a process that is forked here behaves like a new one."""
    variables_here = read_at_start(dict(os.environ))
    variables_of_call = read_at_start({"PYTHONUTF8": "1", **variables})
    different = {name for name, _ in variables_here ^ variables_of_call}
    if not different <= ADOPTED_VARIABLES:
        return False
    # A file in this folder could replace a package that was imported already.
    import_folder = folder
    is_script = not command[0].startswith("-")
    if is_script:
        import_folder = os.path.dirname(os.path.join(folder, command[0]))
    names = {name.partition(".")[0] for name in os.listdir(import_folder)}
    return not names & sys.modules.keys()


def read_at_start(variables: dict[str, str]) -> set[tuple[str, str]]:
    """Return the variables that Python reads when it starts, with their values."""
    return {
        (name, value)
        for name, value in variables.items()
        if name.startswith(PREFIXES_READ_AT_START)
    }


# The forked process -----------------------------------------------------------------------


def run(
    executable: str, command: list[str], variables: dict[str, str], folder: str
) -> None:
    """Run a call as Python does: a module, some code, or a script."""
    import runpy
    from types import ModuleType

    adopt_environment(executable, variables, folder)
    open_standard_streams(variables)
    python_path = variables.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [folder, *filter(None, python_path)]
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = ModuleType("__main__")
    if command[0] == "-c":
        sys.argv = ["-c", *command[2:]]
        sys.path[0] = ""
        code = compile(command[1], "<string>", "exec", dont_inherit=True)
    else:
        sys.argv = command
        main.__file__ = os.path.abspath(command[0])
        sys.path[0] = os.path.dirname(main.__file__)
        with open(main.__file__, "rb") as script:
            code = compile(script.read(), main.__file__, "exec", dont_inherit=True)
    exec(code, vars(main))  # noqa: S102


def adopt_environment(executable: str, variables: dict[str, str], folder: str) -> None:
    """Give this process what a new one reads from its environment when it starts."""
    import time
    from multiprocessing import util

    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    numpy = sys.modules.get("numpy")
    if numpy:
        numpy.random.seed()
    sys.executable = executable
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in variables
    util.spawnv_passfds = run_in_fork  # type: ignore[assignment]


def open_standard_streams(variables: dict[str, str]) -> None:
    """Open the standard streams again, as they depend on the kind of their files."""
    line_buffering, default_buffering = 1, -1
    buffering = line_buffering if os.isatty(1) else default_buffering
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", buffering, "utf-8", closefd=False)
    sys.stdout.reconfigure(write_through="PYTHONUNBUFFERED" in variables)
    sys.stderr = os.fdopen(
        2, "w", line_buffering, "utf-8", "backslashreplace", closefd=False
    )


def run_in_fork(_: bytes, command: list[str], files: list[int]) -> int:
    """Run what multiprocessing would start a new Python for, in a fork of this process.

    Returns the number of the process, which multiprocessing waits for.
    """
    from types import ModuleType

    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    global exit_code
    exit_code = 1
    try:
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in {0, 1, 2, *files}:
                with suppress(OSError):
                    os.close(int(name))
        sys.argv = command[command.index("-c") :]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(sys.argv.pop(1), vars(main))  # noqa: S102
        exit_code = 0
    except SystemExit as end:
        exit_code = int(end.code or 0)
    finally:
        leave()
    raise AssertionError


def main(first: str, second: str, *arguments: str) -> None:
    """Replace Python, or serve: `main(address, python, ...)` or `main(python, file)`."""
    is_server = second.isdecimal()
    if not is_server:
        replace_python(first, second, *arguments)
    # The function that is registered first is called last, after all others.
    atexit.register(leave)
    command, variables, folder = serve(int(second))
    global exit_code
    try:
        run(first, command, variables, folder)
        exit_code = 0
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except KeyboardInterrupt:
        # Python ends by this signal, and not with an exit code.
        atexit.unregister(leave)
        raise


def leave() -> None:
    """End at once. To destroy all imported modules would take a fifth of a second."""
    for stream in (sys.stdout, sys.stderr):
        # The call may have closed its streams.
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
