"""Run one step in a separate process, and kill it when the local run ends.

Protocol: this program reads the step's command from standard input, as one line of JSON
with `arguments` (the script and its arguments), `folder`, `environment` and `log`. It
prints two lines: the process id of the step, and its exit code once it has ended. The
output of the step goes to its log.

The local run holds the other end of standard input. It is closed when the run finishes, is
interrupted or is killed. This program then kills the step and all processes that the step
has started. If this program itself is killed, Linux kills the step.

The local run starts this program by its path. It imports none of the project's modules, so
that it starts quickly.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

# With this option of Linux's `prctl`, a process gets a signal when its parent ends.
# fork_server.py uses it in the same way.
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the step that standard input describes, and print its process id and exit code.

    Standard input holds a line of JSON with the step's `arguments`, `folder`, `environment`
    and `log`.
    """
    if sys.platform != "win32":
        # The local run may ignore the signal SIGCHLD, and this process would inherit that.
        # The exit code of the step would then be lost, so the default is restored.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    command = json.loads(sys.stdin.readline())
    step = start_step(**command)
    print(step.pid, flush=True)
    threading.Thread(target=kill_step_when_run_ends, args=[step], daemon=True).start()

    exit_code = step.wait()
    kill_process_group(step.pid)
    print(exit_code, flush=True)
    # The thread still waits for the end of the run, by reading standard input. A normal exit
    # of Python could wait for that reading to end, so `os._exit` ends this program at once.
    os._exit(0)


def start_step(
    arguments: list[str], folder: str, environment: dict[str, str], log: str
) -> subprocess.Popen[bytes]:
    """Start the process of a step in `folder`, and write its output to the file `log`.

    `arguments` are the script and its arguments. On Linux, the step is killed if this
    program is killed.
    """
    request_kill: Callable[[], None] | None = None
    if sys.platform == "linux":
        request_kill = make_kill_request(parent_pid=os.getpid())
    with open(log, "wb") as log_file:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=request_kill,  # noqa: PLW1509 (No thread runs yet.)
        )


def make_kill_request(parent_pid: int) -> Callable[[], None]:
    """Return a function that asks Linux to kill the calling process when its parent ends.

    A new process must call the function between `fork` and `exec`. `parent_pid` is the
    process id of the parent.
    """
    # It is not safe to load a library between `fork` and `exec`, so the library is loaded
    # here.
    prctl = ctypes.CDLL(None).prctl

    def request_kill_when_parent_ends() -> None:
        """Ask Linux to kill this process as soon as its parent process ends."""
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # If the parent was killed before this request, Linux sends no signal. In that case,
        # this process has a new parent by now.
        if os.getppid() != parent_pid:
            os._exit(1)

    return request_kill_when_parent_ends


def kill_step_when_run_ends(step: subprocess.Popen[bytes]) -> None:
    """Wait until the local run ends, then kill the step and end this program."""
    # The run has written its only line to standard input. So this call returns only when
    # the run closes its end of standard input, or ends itself.
    os.read(sys.stdin.fileno(), 1)
    step.kill()
    kill_process_group(step.pid)
    os._exit(1)


def kill_process_group(step_pid: int) -> None:
    """Kill a step and all processes that it has started, if there are any left.

    Does nothing on Windows, which has no process groups of this kind.
    """
    if sys.platform != "win32":
        with suppress(ProcessLookupError):
            os.killpg(step_pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
