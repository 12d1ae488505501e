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
from contextlib import suppress


def main() -> None:
    process = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True
    )

    def kill() -> None:
        if sys.platform == "win32":
            process.kill()
            return
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)

    def kill_at_end_of_input() -> None:
        os.read(0, 1)
        kill()

    threading.Thread(target=kill_at_end_of_input, daemon=True).start()
    code = process.wait()
    kill()  # what it may have left running would go on alone
    if code < 0:
        print(f"\nThe process was ended by signal {-code}.", flush=True)
    # Without the usual end, which would wait for the thread.
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
