"""Run one step in a process of its own, and end it when the local run ends.

Protocol: this program reads one line of JSON from standard input, the step's command,
with `arguments` (a script and what follows it), `folder`, `environment` and `log`. It
prints two lines: the number of the step's process, and its exit code once it has ended.
What the step prints goes to its log.

The local run holds the other end of standard input. When that end is closed, whether the
run has finished, was interrupted or was killed, the step and all that it has started are
killed.

The local run starts this program by its path. It imports nothing of the project, so that
it starts quickly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def main() -> None:
    """Run the step whose command is read from standard input."""
    # A caller that ignores this signal would hide the step's exit code.
    if sys.platform != "win32":
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

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
        )
    print(step.pid, flush=True)
    threading.Thread(target=kill_step_with_run, args=[step], daemon=True).start()

    exit_code = step.wait()
    kill_session(step.pid)
    print(exit_code, flush=True)
    # The usual end would wait for the thread, which still reads standard input.
    os._exit(0)


def kill_step_with_run(step: subprocess.Popen[bytes]) -> None:
    """Wait until the local run ends, then kill the step and end this program."""
    # The run writes nothing more to standard input, so this returns when it is closed.
    os.read(sys.stdin.fileno(), 1)
    step.kill()
    kill_session(step.pid)
    os._exit(1)


def kill_session(leader: int) -> None:
    """Kill all processes in the session that `leader` began; Windows has no sessions."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    main()
