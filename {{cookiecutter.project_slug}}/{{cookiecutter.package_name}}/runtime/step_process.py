"""Run a command, and leave nothing of it behind: step_process.py COMMAND [ARGUMENT...]

The command and all that it starts are killed when this program's standard input ends:
when whoever holds the other end closes it, or is gone, however that came about.
A file that is run by its path, as it starts quickly then.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    process = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True
    )
    threading.Thread(target=_kill_at_end_of_input, args=[process], daemon=True).start()
    code = process.wait()
    _kill(process)  # what it may have left running would go on alone
    if code < 0:
        print(f"\nThe process was ended by signal {-code}.", flush=True)
    # Without the usual end, which would wait for the thread.
    os._exit(code if code >= 0 else 128 - code)


def _kill_at_end_of_input(process: "subprocess.Popen[bytes]") -> None:
    os.read(0, 1)
    _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if sys.platform == "win32":
        process.kill()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all of it has ended
        pass


if __name__ == "__main__":
    main()
