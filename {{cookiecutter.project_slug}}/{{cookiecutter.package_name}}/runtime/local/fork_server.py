"""Import packages once, and fork a process for each step, which then has them already.

    fork_server.py PACKAGE...

All steps import the same packages, and the imports take longer than the work of most steps.
This program imports the packages while an earlier step still runs, and then forks a process
for each step. The process runs the step's script from the first line, as Python would.

Protocol: for each step, the local run writes the step's command to standard input, as one
line of JSON with `arguments` (the script and its arguments), `folder`, `environment` and
`log`. This program prints two lines: the process id of the step, and its exit code once it
has ended. The output of the step goes to its log.

The local run holds the other end of standard input. It is closed when the run finishes, is
interrupted or is killed. This program then kills the step and all processes that the step
has started. If this program itself is killed, Linux kills the step.

The fork server of `multiprocessing` is not used, for four reasons:

- Its processes end by `os._exit`, which loses what a script has not yet written to its open
  files. Here, the forked process returns to the end of this file, so that Python shuts it
  down normally.
- It takes its environment variables from the process of the run.
- It imports the main module of the run again in each process.
- A step that uses `multiprocessing` itself would share the server.

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
# With this option of Linux's `prctl`, a process gets a signal when its parent ends.
# supervisor.py uses it in the same way.
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class StepRequest:
    """A step to run. It has the fields of `StepCommand` in processes.py."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    log: str


def serve_until_forked(packages: list[str]) -> StepRequest:
    """Import packages, then fork a process for each step that the local run requests.

    Each forked process returns from this function with the step that the process must run.
    The fork server itself never returns: it ends when the local run closes the standard
    input of the server.
    """
    assert sys.platform == "linux"
    # The caller may ignore the signal SIGCHLD, and this process would inherit that. The
    # exit codes of the steps would then be lost, so the default is restored.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    # The steps inherit standard input and output, but must neither read commands nor print
    # among the replies. So the server duplicates both streams for itself, and redirects the
    # original streams to the null device.
    commands = os.fdopen(os.dup(STANDARD_INPUT), encoding="utf-8")
    replies = os.fdopen(os.dup(STANDARD_OUTPUT), "w", encoding="utf-8")
    redirect_streams(os.devnull)
    import_packages(packages, commands.fileno())

    server_pid = os.getpid()
    while line := commands.readline():
        # From here on, two processes run this code: `fork` returns 0 in the new process,
        # and the id of the new process in the server.
        step_pid = os.fork()
        is_forked_process = step_pid == 0
        if is_forked_process:
            request_kill_when_parent_ends(server_pid)
            # Only the server may read commands and write replies.
            commands.close()
            replies.close()
            return StepRequest(**json.loads(line))

        # Only the server gets here.
        print(step_pid, file=replies, flush=True)
        exit_code = wait_for_step(step_pid, commands.fileno())
        print(exit_code, file=replies, flush=True)
    os._exit(0)


def request_kill_when_parent_ends(parent_pid: int) -> None:
    """Ask Linux to kill this process as soon as its parent process ends.

    Ends this process at once if the parent has ended already.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # If the parent was killed before this request, Linux sends no signal. In that case,
    # this process has a new parent by now.
    if os.getppid() != parent_pid:
        os._exit(1)


def redirect_streams(log: str) -> None:
    """Send standard output and standard error to a file, and make standard input empty."""
    empty_input = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(empty_input, STANDARD_INPUT)
    os.dup2(output, STANDARD_OUTPUT)
    os.dup2(output, STANDARD_ERROR)
    os.close(empty_input)
    os.close(output)


def import_packages(packages: list[str], commands_fd: int) -> None:
    """Import packages into the fork server, and skip those that cannot be imported.

    `commands_fd` is the file descriptor from which the server reads commands. If the local
    run closes its end between two imports, this function ends the fork server.
    """
    end_of_run = select.poll()
    end_of_run.register(commands_fd, select.POLLHUP)

    # The garbage collector would search the objects that the imports create, again and
    # again. This takes time and finds nothing, because the objects stay in use. So the
    # collector is turned off during the imports. `freeze` then excludes these objects from
    # later searches, also in the forked steps.
    gc.disable()
    for package in packages:
        if end_of_run.poll(0):
            os._exit(0)
        # If an import fails, a step that needs the package tries it again, and shows the
        # error in its log.
        with suppress(Exception):
            __import__(package)
    gc.freeze()
    gc.enable()


def wait_for_step(step_pid: int, commands_fd: int) -> int:
    """Wait until a step ends, kill the processes that it leaves, and return its exit code.

    The exit code is negative if a signal ended the step. If the local run ends before the
    step, this function kills the step and ends the fork server. `commands_fd` is the file
    descriptor from which the server reads commands. The local run holds its other end.
    """
    assert sys.platform == "linux"
    step_fd = os.pidfd_open(step_pid)
    # `select` waits until one of the two can be read: `step_fd` when the step has ended, and
    # `commands_fd` when the run has closed its end, because the run sends no command while
    # a step runs.
    ready, _, _ = select.select([step_fd, commands_fd], [], [])
    step_has_ended = step_fd in ready
    os.close(step_fd)

    if not step_has_ended:
        # The run has ended. A step that has just been forked may not have its own process
        # group yet, so its process is killed before the group.
        os.kill(step_pid, signal.SIGKILL)
        kill_process_group(step_pid)
        os._exit(1)

    # After `waitpid`, Linux may give the step's id to a new process, and the wrong group
    # would be killed. So the group is killed first.
    kill_process_group(step_pid)
    _, status = os.waitpid(step_pid, 0)
    return os.waitstatus_to_exitcode(status)


def kill_process_group(step_pid: int) -> None:
    """Kill a step and all processes that it has started, if there are any left."""
    with suppress(ProcessLookupError):
        os.killpg(step_pid, signal.SIGKILL)


def become_step(request: StepRequest, server_variables: dict[str, str]) -> None:
    """Give the forked process the session, streams, folder and variables of a step.

    `server_variables` are the environment variables that the fork server was started with.
    If the step has a file with the name of a module that the server has imported, this
    process is replaced by a new Python process that runs the step, and this function does
    not return.
    """
    os.setsid()
    redirect_streams(request.log)
    os.chdir(request.folder)
    if has_name_of_imported_module(request.folder):
        # The server has imported another module of this name, and in this process, `import`
        # would return that module. A new Python process imports the step's file instead.
        command_line = [sys.executable, *request.arguments]
        os.execve(sys.executable, command_line, request.environment)

    update_variables(server_variables, request.environment)
    sys.argv = request.arguments
    sys.orig_argv = [sys.executable, *request.arguments]
    sys.path.insert(0, request.folder)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        # Without a new seed, all forked steps would draw the same random numbers.
        numpy.random.seed()


def has_name_of_imported_module(folder: str) -> bool:
    """Return whether a file or folder in `folder` has the name of an imported module.

    The file `pandas.py` and the folder `pandas` both have the name of the module `pandas`.
    """
    names = {entry.partition(".")[0] for entry in os.listdir(folder)}
    return bool(names & sys.modules.keys())


def update_variables(
    server_variables: dict[str, str], step_variables: dict[str, str]
) -> None:
    """Change the environment variables of this process from the server's to the step's.

    The packages that the server has imported may have set or changed variables. The step
    needs these values, as if it had imported the packages itself. So the step's variables
    are compared with `server_variables`, which the server was started with, and not with
    the present ones. Only the variables that differ are changed.
    """
    for name in server_variables.keys() - step_variables.keys():
        os.environ.pop(name, None)
    for name, value in step_variables.items():
        if server_variables.get(name) != value:
            os.environ[name] = value


def run_script(path: str) -> None:
    """Run a script as the main module, and print and raise its errors as Python does."""
    main_module = ModuleType("__main__")
    # Python gives these names to the main module, in addition to those of every module.
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
        # The script has called `sys.exit`, which is not an error.
        raise
    except BaseException as error:
        # The traceback begins with a line of this file, which does not help the script's
        # author. So the error is printed here, without this line.
        if error.__traceback__:
            error.__traceback__ = error.__traceback__.tb_next
        sys.excepthook(type(error), error, error.__traceback__)
        # The error is raised so that Python ends with exit code 1. Before it ends, Python
        # calls `excepthook` again, which would print the error a second time. The new hook
        # prints nothing.
        sys.excepthook = lambda *_: None
        raise


if __name__ == "__main__":
    # Python puts the folder of this file first on sys.path, but steps must not import
    # modules from there.
    del sys.path[0]
    variables_at_start = dict(os.environ)
    step_request = serve_until_forked(sys.argv[1:])
    # Only the forked process of a step gets here.
    become_step(step_request, variables_at_start)
    run_script(os.path.join(step_request.folder, step_request.arguments[0]))
