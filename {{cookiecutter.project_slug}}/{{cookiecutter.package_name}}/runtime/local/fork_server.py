"""Import the pinned packages once, and fork a process from here for each step.

    fork_server.py PACKAGE...

Imports take longer than most steps' work, and all steps import the same packages. This
program imports them while an earlier step still runs, and then forks a process for each
step, which runs the step's script from its first line, as Python itself would.

Protocol: for each step, the local run writes the step's command to standard input, as one
line of JSON with `arguments` (the script and its arguments), `folder`, `environment` and
`log`. This program prints two lines: the process id of the step, and its exit code once it
has ended. The output of the step goes to its log.

The local run holds the other end of standard input. When that end is closed, whether the
run has finished, was interrupted or was killed, the step and all that it has started are
killed. The step is killed too if this program is.

The fork server of `multiprocessing` is not used, for four reasons. Its processes end by
`os._exit`, which loses what a script has not yet written to its open files. It takes its
environment from the process of the run. It imports the main module of the run again in each
process. And a step that uses `multiprocessing` itself would share it. Here, the forked
process returns to the end of this file, so that Python shuts it down normally.

It runs only on Linux, because other systems cannot fork a process safely.
"""

from __future__ import annotations

import builtins
import ctypes
import gc
import json
import os
import select
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from types import ModuleType

# The file descriptors of the standard streams.
STANDARD_INPUT = 0
STANDARD_OUTPUT = 1
STANDARD_ERROR = 2
# The option of Linux's prctl by which a process gets a signal when its parent ends. It is
# used in the same way in supervisor.py.
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class StepRequest:
    """A step to run. It has the fields of `StepCommand` in processes.py."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    log: str


def serve(packages: list[str]) -> StepRequest:
    """Import packages, then fork a process for each step that is requested.

    This function returns only in the forked processes, with the step to run. The fork
    server itself ends when its standard input is closed.
    """
    assert sys.platform == "linux"
    # If a caller ignored this signal, the steps' exit codes would be lost.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    # Forked steps inherit standard input and output, and must neither read commands nor
    # print among the replies. So the server uses duplicates of both, and redirects the
    # streams themselves.
    commands = os.fdopen(os.dup(STANDARD_INPUT), encoding="utf-8")
    replies = os.fdopen(os.dup(STANDARD_OUTPUT), "w", encoding="utf-8")
    redirect_streams(os.devnull)
    preload(packages, commands.fileno())

    server_pid = os.getpid()
    while line := commands.readline():
        step_pid = os.fork()
        is_forked_process = step_pid == 0
        if is_forked_process:
            die_with_parent(server_pid)
            commands.close()
            replies.close()
            return StepRequest(**json.loads(line))
        print(step_pid, file=replies, flush=True)
        exit_code = wait_for_step(step_pid, commands.fileno())
        print(exit_code, file=replies, flush=True)
    os._exit(0)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process as soon as its parent process ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # If the parent was killed before this request, Linux sends no signal. This process then
    # has another parent already.
    if os.getppid() != parent:
        os._exit(1)


def redirect_streams(log: str) -> None:
    """Send standard output and errors to a file, and make standard input empty."""
    empty_input = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(empty_input, STANDARD_INPUT)
    os.dup2(output, STANDARD_OUTPUT)
    os.dup2(output, STANDARD_ERROR)
    os.close(empty_input)
    os.close(output)


def preload(packages: list[str], commands: int) -> None:
    """Import packages into the fork server, and skip those that cannot be imported.

    `commands` is the file descriptor from which commands are read. If the local run ends
    meanwhile, it closes the other end, and this function ends the fork server.
    """
    # Python has put the folder of this file first on sys.path, where no step has it.
    del sys.path[0]
    end_of_run = select.poll()
    end_of_run.register(commands, select.POLLHUP)
    # Imports create many objects that stay, and the garbage collector would spend time
    # looking for unused ones among them.
    gc.disable()
    for package in packages:
        if end_of_run.poll(0):
            os._exit(0)
        # The step that needs the package imports it again, and shows the error.
        with suppress(Exception):
            __import__(package)
    gc.freeze()
    gc.enable()


def wait_for_step(step_pid: int, commands: int) -> int:
    """Wait for a step to end, kill what it leaves running, and return its exit code.

    If the local run ends first, the step is killed and the fork server ends.
    """
    assert sys.platform == "linux"
    end_of_step = os.pidfd_open(step_pid)
    # The run sends no command while a step runs, so `commands` becomes readable only when
    # the run closes it.
    ready, _, _ = select.select([end_of_step, commands], [], [])
    os.close(end_of_step)

    step_has_ended = end_of_step in ready
    if not step_has_ended:
        # The session of the step is killed below. But a step that has just been forked may
        # not be in its own session yet, so its process is killed first.
        os.kill(step_pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(step_pid, signal.SIGKILL)
    if not step_has_ended:
        os._exit(1)
    _, status = os.waitpid(step_pid, 0)
    return os.waitstatus_to_exitcode(status)


def become_step(command: StepRequest, server_variables: dict[str, str]) -> None:
    """Give the forked process the session, streams, folder and variables of a step.

    `server_variables` are the variables that the fork server was started with.
    """
    os.setsid()
    redirect_streams(command.log)
    os.chdir(command.folder)

    # If a file of the step has the name of a module that is imported already, `import`
    # would return that module. A new Python process imports the step's file instead.
    step_modules = {name.partition(".")[0] for name in os.listdir()}
    if step_modules & sys.modules.keys():
        command_line = [sys.executable, *command.arguments]
        os.execve(sys.executable, command_line, command.environment)

    # Some packages set environment variables when they are imported, and would do so in the
    # step too. So these variables stay. Only those are changed whose value in the step's
    # command is not the one that the server was started with.
    for name in server_variables.keys() - command.environment.keys():
        os.environ.pop(name, None)
    for name, value in command.environment.items():
        if server_variables.get(name) != value:
            os.environ[name] = value

    sys.argv = command.arguments
    sys.orig_argv = [sys.executable, *command.arguments]
    sys.path.insert(0, command.folder)
    if numpy := sys.modules.get("numpy"):
        # Otherwise all forked steps would draw the same random numbers.
        numpy.random.seed()


def run_script(path: str) -> None:
    """Run a script as the main module, and show its errors as Python would."""
    main_module = ModuleType("__main__")
    # Python gives these names to the main module, beside those that every module has.
    vars(main_module).update(
        __file__=path,
        __cached__=None,
        __loader__=SourceFileLoader("__main__", path),
        __builtins__=builtins,
    )
    sys.modules["__main__"] = main_module
    try:
        with open(path, "rb") as script:
            code = compile(script.read(), path, "exec", dont_inherit=True)
        exec(code, vars(main_module))  # noqa: S102 (Python runs scripts like this.)
    except SystemExit:
        raise
    except BaseException as error:
        # The trace is shown without the lines of this file. The hook is replaced, as
        # Python would otherwise show the error a second time.
        if error.__traceback__:
            error.__traceback__ = error.__traceback__.tb_next
        sys.excepthook(type(error), error, error.__traceback__)
        sys.excepthook = lambda *_: None
        raise


if __name__ == "__main__":
    variables_at_start = dict(os.environ)
    step_request = serve(sys.argv[1:])
    # From here on, this is the forked process of a step.
    become_step(step_request, variables_at_start)
    run_script(os.path.join(step_request.folder, step_request.arguments[0]))
