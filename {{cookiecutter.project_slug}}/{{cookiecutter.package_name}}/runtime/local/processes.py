"""The processes that steps run in, each of which ends when the local run ends.

The first step of a run is a plain process. On Linux, the packages that steps import are
loaded meanwhile by `fork_server.py`, and the steps after it are forked from there. A
forked step behaves like a plain process; it only starts sooner. A first step that needs
these packages itself is forked, too, so that they are not loaded twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

# Set to False if a package of yours does not work in a forked process.
CAN_FORK = sys.platform == "linux"
#: Packages that most steps import, in versions that environment/steps.txt pins.
PRELOADED = (
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "sklearn.ensemble",
    "pandas",
    "polars",
    "matplotlib",
)
KILLED = 9  # the number of the signal that kills a process
LOCAL = Path(__file__).parent
# Isolated, as these programs need nothing but the standard library.
SUPERVISOR = (sys.executable, "-I", "-S", str(LOCAL / "supervisor.py"))
FORK_SERVER = (sys.executable, str(LOCAL / "fork_server.py"), *PRELOADED)


@dataclass(frozen=True)
class StepCommand:
    """The script, folder, environment and log of a step's process."""

    arguments: list[str]  # the script, and what follows it on the command line
    folder: str
    environment: dict[str, str]
    log: str = os.devnull


class StepProcesses:
    """Run the steps of one run, one after another; `close` ends what is left."""

    def __init__(self) -> None:
        # By the variables that the steps of a fork server declare.
        self._fork_servers: dict[frozenset[tuple[str, str]], _StepRunner] = {}

    def load_packages(
        self, environment: Mapping[str, str], variables: Mapping[str, str]
    ) -> None:
        """Start a fork server that imports packages for the steps with these `variables`.

        Some packages read environment variables when they are imported, so each set of
        variables needs a server of its own. `environment` has the variables that all steps
        have in common.
        """
        key = frozenset(variables.items())
        if CAN_FORK and key not in self._fork_servers:
            self._fork_servers[key] = _StepRunner(
                FORK_SERVER, {**environment, **variables}
            )

    def run(
        self,
        command: StepCommand,
        variables: Mapping[str, str],
        next_variables: Mapping[str, str] | None = None,
    ) -> int:
        """Run a step and return its exit code, negative if a signal ended it.

        `variables` are those that the step declares, `next_variables` those of the step
        after it, for which packages are loaded meanwhile.
        """
        self._close_unneeded_servers(variables, next_variables)
        # A fork server that is started now still loads packages, so it is for the steps
        # after this one.
        server = self._fork_servers.get(frozenset(variables.items()))
        if next_variables is not None:
            self.load_packages(command.environment, next_variables)
        if server is not None:
            code = server.run(command)
            if code is not None:
                return code
        supervisor = _StepRunner(SUPERVISOR, os.environ)
        try:
            code = supervisor.run(command)
        finally:
            supervisor.close()
        return -KILLED if code is None else code

    def _close_unneeded_servers(
        self, variables: Mapping[str, str], next_variables: Mapping[str, str] | None
    ) -> None:
        """End the fork servers that neither this step nor the next one is forked from."""
        needed = {frozenset(variables.items())}
        if next_variables is not None:
            needed.add(frozenset(next_variables.items()))
        for key in self._fork_servers.keys() - needed:
            self._fork_servers.pop(key).close()

    def close(self) -> None:
        """End the step that runs, if one does, and the fork servers."""
        while self._fork_servers:
            _, server = self._fork_servers.popitem()
            server.close()


class _StepRunner:
    """A supervisor or a fork server that has been started, and can run steps.

    It reads a step's command as a line of JSON. It answers with two lines: the number of
    the step's process, and its exit code once it has ended.
    """

    def __init__(
        self, program: tuple[str, ...], environment: Mapping[str, str]
    ) -> None:
        self._process = subprocess.Popen(
            program,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )

    def run(self, command: StepCommand) -> int | None:
        """Run a step and return its exit code, or None if it could not be started.

        If this program is killed, the step is killed too.
        """
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):
            print(json.dumps(asdict(command)), file=self._process.stdin, flush=True)
        step_pid = self._process.stdout.readline()
        if not step_pid:
            return None
        exit_code = self._process.stdout.readline()
        if exit_code:
            return int(exit_code)
        # The program was killed itself, and could not end the step.
        if sys.platform != "win32":
            with suppress(ProcessLookupError):
                os.killpg(int(step_pid), signal.SIGKILL)
        return -KILLED

    def close(self) -> None:
        """End the program, and with it the step that it runs."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        assert self._process.stdout
        self._process.stdout.close()
        self._process.wait()


def run_in_terminal(command: StepCommand) -> int:
    """Run a step with this terminal as its input and output; return its exit code.

    Ctrl-C is left to the step, whose debugger may take it.
    """
    handler = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.run(
            [sys.executable, *command.arguments],
            cwd=command.folder,
            env=command.environment,
            check=False,
        )
    finally:
        signal.signal(signal.SIGINT, handler)
    return process.returncode
