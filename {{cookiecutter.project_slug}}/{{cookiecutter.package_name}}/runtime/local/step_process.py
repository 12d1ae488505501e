"""Run the processes of steps, and leave nothing of them behind.

    step_process.py run COMMAND [ARGUMENT...]
    step_process.py early STEPS

The command, or all of the steps, and whatever they start are killed when this program's
standard input ends: when whoever holds the other end closes it, or is gone, however that
came about.

What a script imports takes longer than what it does. So `early` imports what all of the
given steps do, once, and forks a process for each, which imports what else its own script
does, and nothing more. There it waits. When its turn comes it is given what every step is
given: a folder, a command line and environment variables; and its script runs as it always
does. Where an import was not what it would have been, Python starts anew in that process.
STEPS is JSON: by the name of a step its import statements, and the file descriptors by
which it is told to start and that it prints to.

A file that is run by its path, as it starts quickly then.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType, TracebackType

Steps = dict[str, tuple[list[str], int, int]]

status = 1  # the exit code of this process, unless its script has ended otherwise


def main(what: str, *words: str) -> None:
    if what == "early":
        early(json.loads(words[0]))
        return
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)

    def end() -> None:
        process.kill()  # which does nothing where it has ended
        kill(process.pid)

    at_end_of_input(end)
    code, text = exit_code(process.wait())
    end()  # what it may have left running would go on alone
    print(text, end="", flush=True)
    # Without the usual end, which would wait for the thread.
    os._exit(code)


def at_end_of_input(act: Callable[[], None]) -> None:
    """Have something done as soon as standard input ends."""

    def wait() -> None:
        os.read(0, 1)
        act()

    threading.Thread(target=wait, daemon=True).start()


def kill(process: int) -> None:
    """Kill all that runs in the session of a process, where there are sessions."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process, signal.SIGKILL)


def exit_code(code: int) -> tuple[int, str]:
    """A process's exit code as a shell gives it, and what to print if a signal ended it."""
    if code >= 0:
        return code, ""
    return 128 - code, f"\nThe process was ended by signal {-code}.\n"


def early(steps: Steps) -> None:
    """Import, fork, and print the exit code of each process that has ended."""
    if sys.platform != "linux":
        raise NotImplementedError
    first, *others = (statements for statements, _, _ in steps.values())
    common = [one for one in first if all(one in other for other in others)]
    ends = {end for _, *both in steps.values() for end in both} | {answers := os.dup(1)}
    processes: dict[int, tuple[str, int]] = {}

    def kill_all() -> None:
        for process in [*processes]:
            kill(process)
        os._exit(0)

    at_end_of_input(kill_all)
    atexit.register(leave)  # before all others: it is called after them
    given = dict(os.environ)
    sys.argv = [""]
    del sys.path[0]  # the folder of this file
    print_to(memory := os.memfd_create("printed"))
    gc.disable()  # what is imported is no garbage, and looking for it takes long
    is_sure = imported(common)
    printed = os.pread(memory, 2**20, 0)
    os.close(memory)
    for name, (statements, told, out) in steps.items():
        with warnings.catch_warnings():
            # It warns of threads: of Python's, one waits here and no other is left out.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if process:
            processes[process] = name, out
            os.close(told)
            continue
        os.setsid()
        print_to(out)
        os.write(1, printed)
        for end in ends - {told}:
            with suppress(OSError):  # it is closed
                os.close(end)
        is_sure &= imported([one for one in statements if one not in common])
        gc.freeze()
        gc.enable()
        return run_when_told(told, given, is_sure)

    while processes:
        process, ended = os.wait()
        name, out = processes.pop(process)
        kill(process)  # what it may have left running would go on alone
        code, text = exit_code(os.waitstatus_to_exitcode(ended))
        with suppress(OSError):
            os.write(out, text.encode())
        os.close(out)
        os.write(answers, f"{name} {code}\n".encode())
    os._exit(0)


def print_to(end: int) -> None:
    for stream in (1, 2):
        os.dup2(end, stream)


def imported(statements: list[str]) -> bool:
    """Run import statements; whether all is as in a process of the script's own."""
    threads = threading.active_count()
    for statement in statements:
        try:
            exec(statement, {})  # noqa: S102 (the step does so too)
        except BaseException:  # noqa: BLE001 (whatever it is, the step will say so)
            return False
    return threading.active_count() == threads  # as a fork would not have the others


def run_when_told(told: int, given: dict[str, str], is_sure: bool) -> None:
    """Run the script that this process is told to, as Python runs one by its path.

    `given` are the environment variables that the imports were run with.
    """
    with os.fdopen(told) as file:
        text = file.read()
    if not text:
        os._exit(0)  # its turn never came
    folder, command, environment = json.loads(text)
    os.chdir(folder)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    # A file of the step's own may have the name of a module that a package imports.
    own = {name.partition(".")[0] for name in os.listdir()}
    if not is_sure or own & sys.modules.keys():
        os.execve(sys.executable, [sys.executable, *command], environment)
    os.environ.update(environment.items() - given.items())  # packages set some too
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # else chance would be the same in all steps
    sys.argv = command
    sys.path.insert(0, folder)
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__file__ = os.path.join(folder, command[0])

    def show(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        while trace and trace.tb_frame.f_code.co_filename != main.__file__:
            trace = trace.tb_next  # what is not the step's own
        sys.__excepthook__(kind, error.with_traceback(trace), trace)

    sys.excepthook = show
    with open(main.__file__, "rb") as script:
        code = compile(script.read(), main.__file__, "exec", dont_inherit=True)
    global status
    try:
        exec(code, vars(main))  # noqa: S102 (it is what Python does)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except KeyboardInterrupt:
        atexit.unregister(leave)  # as Python itself ends by that signal
        raise


def leave() -> None:
    """End, but leave what is imported as it is: to take it apart takes long."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # it is closed
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
