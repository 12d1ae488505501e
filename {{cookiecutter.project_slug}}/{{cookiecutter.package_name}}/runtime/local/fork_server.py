"""Import the pinned packages once, and fork a process from here for each step.

    fork_server.py PACKAGE...

Imports take longer than most steps' work, and all steps import the same packages. This
program imports them while an earlier step still runs. Then it reads one line of JSON from
standard input for each step: its `arguments` (a script and what follows it), `folder`,
`environment` and `log`. It forks a process, which runs the script from its first line, as
Python itself would; it prints the number of that process, and its exit code as soon as it
has ended. What the step prints goes to its log.

The local run holds the other end of standard input. When that end is closed, whether the
run has finished, was interrupted or was killed, the step and all that it has started are
killed.

Why this is not `multiprocessing`'s fork server: its processes end by `os._exit`, which
loses what a script has not yet written to its open files; it takes its environment from
the process of the run; it imports the main module of the run anew in each process; and a
step that uses `multiprocessing` itself would share it. Here the forked process returns to
the end of this file, so that Python ends it as any other.

It runs on Linux alone: elsewhere a process cannot fork, or not safely.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Call:
    """A step to run, as a line of standard input describes it."""

    arguments: list[str]  # the script, and what follows it on the command line
    folder: str
    environment: dict[str, str]
    log: str


def serve(packages: list[str]) -> Call:
    """Fork a process for each line of standard input, and return in that process only.

    The server itself never returns: it ends with its standard input.
    """
    assert sys.platform == "linux"
    # A caller that ignores this signal would hide the steps' exit codes.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    # The standard streams are for the steps, so the local run is spoken to by copies.
    calls = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    redirect_streams(os.devnull)
    preload(packages, calls.fileno())

    while line := calls.readline():
        step = os.fork()
        if step == 0:
            calls.close()
            answers.close()
            return Call(**json.loads(line))
        print(step, file=answers, flush=True)
        code = wait_for(step, calls.fileno())
        print(code, file=answers, flush=True)
    os._exit(0)


def redirect_streams(log: str) -> None:
    """Let standard output and errors go to a file, and standard input be empty."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)


def preload(packages: list[str], calls: int) -> None:
    """Import packages, and leave out those that cannot be imported.

    Ends this program if the local run ends meanwhile.
    """
    del sys.path[0]  # The folder of this file, which no step has on its path.
    end_of_run = select.poll()
    end_of_run.register(calls, select.POLLHUP)
    gc.disable()  # Imports leave no garbage behind, and looking for it takes long.
    for package in packages:
        if end_of_run.poll(0):
            os._exit(0)
        # The step that needs the package will tell why it cannot be imported.
        with suppress(Exception):
            __import__(package)
    gc.freeze()
    gc.enable()


def wait_for(step: int, calls: int) -> int:
    """Wait for a step to end, kill what it leaves running, and return its exit code.

    If the local run ends first, the step is killed and this program ends.
    """
    assert sys.platform == "linux"
    end_of_step = os.pidfd_open(step)
    ready, _, _ = select.select([end_of_step, calls], [], [])
    os.close(end_of_step)

    if end_of_step not in ready:
        os.kill(step, signal.SIGKILL)  # It may not lead its own session yet.
    with suppress(ProcessLookupError):
        os.killpg(step, signal.SIGKILL)
    if end_of_step not in ready:
        os._exit(1)
    _, status = os.waitpid(step, 0)
    return os.waitstatus_to_exitcode(status)


def become_step(call: Call, inherited: dict[str, str]) -> None:
    """Give this process the session, streams, folder and variables of a step.

    `inherited` are the variables that this program was started with.
    """
    os.setsid()
    redirect_streams(call.log)
    os.chdir(call.folder)

    # A file of the step may have the name of a module that is imported already. Only
    # a new Python finds the step's.
    own_modules = {name.partition(".")[0] for name in os.listdir()}
    if own_modules & sys.modules.keys():
        command = [sys.executable, *call.arguments]
        os.execve(sys.executable, command, call.environment)

    # Packages have set some variables while they were imported, and these stay.
    for name in inherited.keys() - call.environment.keys():
        os.environ.pop(name, None)
    for name, value in call.environment.items():
        if inherited.get(name) != value:
            os.environ[name] = value

    sys.argv = call.arguments
    sys.orig_argv = [sys.executable, *call.arguments]
    sys.path.insert(0, call.folder)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Else all steps would draw the same numbers.


def run_script(path: str) -> None:
    """Run a script as the main module, and show its errors as Python would."""
    main_module = ModuleType("__main__")
    main_module.__file__ = path
    sys.modules["__main__"] = main_module
    try:
        with open(path, "rb") as script:
            code = compile(script.read(), path, "exec", dont_inherit=True)
        exec(code, vars(main_module))  # noqa: S102 (Python runs scripts like this.)
    except SystemExit:
        raise
    except BaseException as error:
        # Shown here, without the lines of this file in its trace, and not again.
        if error.__traceback__:
            error.__traceback__ = error.__traceback__.tb_next
        sys.excepthook(type(error), error, error.__traceback__)
        sys.excepthook = lambda *_: None
        raise


if __name__ == "__main__":
    variables = dict(os.environ)
    step_call = serve(sys.argv[1:])
    become_step(step_call, variables)
    run_script(os.path.join(step_call.folder, step_call.arguments[0]))
