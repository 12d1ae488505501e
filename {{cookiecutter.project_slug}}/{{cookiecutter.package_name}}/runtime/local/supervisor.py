"""Run one step in a process of its own, and end it when the local run ends.

Reads one line of JSON from standard input: the step's `arguments` (a script and what
follows it), `folder`, `environment` and `log`. Prints the number of the step's process,
and its exit code as soon as it has ended. What the step prints goes to its log.

The local run holds the other end of standard input. When that end is closed, whether the
run has finished, was interrupted or was killed, the step and all that it has started are
killed.

A program that is run by its path, so that it starts quickly: it imports nothing of the
project.
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
    """Run the step that standard input describes."""
    # A caller that ignores this signal would hide the step's exit code.
    if sys.platform != "win32":
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    call = json.loads(sys.stdin.readline())
    with open(call["log"], "wb") as log:
        step = subprocess.Popen(
            [sys.executable, *call["arguments"]],
            cwd=call["folder"],
            env=call["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    print(step.pid, flush=True)
    threading.Thread(target=end_with_the_run, args=[step], daemon=True).start()

    code = step.wait()
    kill_session(step.pid)
    print(code, flush=True)
    # The usual end would wait for the thread, which still reads standard input.
    os._exit(0)


def end_with_the_run(step: subprocess.Popen[bytes]) -> None:
    """Wait for the end of standard input, then kill the step and end this program."""
    os.read(0, 1)
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
