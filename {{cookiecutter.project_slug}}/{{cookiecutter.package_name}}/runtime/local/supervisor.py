"""Run one step in a process of its own, and end it when the local run ends.

Protocol: this program reads the step's command from standard input, as one line of JSON
with `arguments` (the script and its arguments), `folder`, `environment` and `log`. It
prints two lines: the process id of the step, and its exit code once it has ended. The
output of the step goes to its log.

The local run holds the other end of standard input. When that end is closed, whether the
run has finished, was interrupted or was killed, the step and all that it has started are
killed. On Linux, the step is killed too if this program is.

The local run starts this program by its path. It imports nothing of the project, so that
it starts quickly.
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

# The option of Linux's prctl by which a process gets a signal when its parent ends. It is
# used in the same way in fork_server.py.
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the step whose command is read from standard input."""
    die_with_supervisor: Callable[[], None] | None = None
    if sys.platform != "win32":
        # If a caller ignored this signal, the step's exit code would be lost.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":
        die_with_supervisor = make_death_request(os.getpid())

    command = json.loads(sys.stdin.readline())
    with open(command["log"], "wb") as log:
        step = subprocess.Popen(
            [sys.executable, *command["arguments"]],
            cwd=command["folder"],
            env=command["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_supervisor,  # noqa: PLW1509 (No thread runs yet.)
        )
    print(step.pid, flush=True)
    threading.Thread(target=kill_step_when_run_ends, args=[step], daemon=True).start()

    exit_code = step.wait()
    kill_session(step.pid)
    print(exit_code, flush=True)
    # The thread still waits for the end of the run. `os._exit` ends this program all the
    # same, while a normal exit could block on the standard input that the thread reads.
    os._exit(0)


def make_death_request(supervisor: int) -> Callable[[], None]:
    """Return a function that makes Linux kill the calling process when its parent ends.

    `supervisor` is the process id of the parent.
    """
    # The function runs between fork and exec, where loading a library is not safe. So the
    # library is loaded here.
    prctl = ctypes.CDLL(None).prctl

    def die_with_parent() -> None:
        """Ask Linux to kill this process as soon as its parent process ends."""
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # If the parent was killed before this request, Linux sends no signal. Linux has then
        # given this process another parent.
        if os.getppid() != supervisor:
            os._exit(1)

    return die_with_parent


def kill_step_when_run_ends(step: subprocess.Popen[bytes]) -> None:
    """Wait until the local run ends, then kill the step and end this program."""
    # The run writes nothing more to standard input. So this call returns only when the run
    # closes it or ends.
    os.read(sys.stdin.fileno(), 1)
    step.kill()
    kill_session(step.pid)
    os._exit(1)


def kill_session(leader: int) -> None:
    """Kill all processes in the process group of the step, whose process id is `leader`.

    On Windows, which has no sessions, nothing is killed.
    """
    if sys.platform != "win32":
        with suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    main()
