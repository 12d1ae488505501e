"""Run each step in a process that ends when the local run ends.

The first step of a run is a plain process. On Linux, `fork_server.py` loads the packages
that steps import while this process runs, and the later steps are forked from there. A
forked step behaves like a plain process, but starts sooner. A first step that needs these
packages itself is forked as well, so that they are not loaded twice.
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

# Only Linux can fork a process safely. Set this to False if a package of your steps does not
# work in a forked process.
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
# The exit code of a process that was ended by the signal SIGKILL.
KILLED = -9
LOCAL = Path(__file__).parent
# Isolated, because the supervisor needs only the standard library.
SUPERVISOR = (sys.executable, "-I", "-S", str(LOCAL / "supervisor.py"))
FORK_SERVER = (sys.executable, str(LOCAL / "fork_server.py"), *PRELOADED)


@dataclass(frozen=True)
class StepCommand:
    """What is needed to start the process of a step."""

    #: The script, followed by its arguments.
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    log: str = os.devnull


class StepProcesses:
    """Runs the steps of a run one after another, and the fork servers that this needs."""

    def __init__(self) -> None:
        # The fork servers by the environment variables that their steps declare.
        self._fork_servers: dict[frozenset[tuple[str, str]], _StepLauncher] = {}

    def start_fork_server(
        self, common_environment: Mapping[str, str], step_variables: Mapping[str, str]
    ) -> None:
        """Start a fork server for the steps that declare `step_variables`.

        It loads their packages in advance. This function does nothing if there is already
        such a server, or if this system cannot fork processes. Some packages read
        environment variables when they are imported, so steps share a server only if they
        declare the same variables. `common_environment` has the variables that all steps
        have.
        """
        key = frozenset(step_variables.items())
        if not CAN_FORK or key in self._fork_servers:
            return
        environment = {**common_environment, **step_variables}
        self._fork_servers[key] = _StepLauncher(FORK_SERVER, environment)

    def run(
        self,
        command: StepCommand,
        step_variables: Mapping[str, str],
        next_step_variables: Mapping[str, str] | None = None,
    ) -> int:
        """Run a step and return its exit code, which is negative if a signal ended it.

        `step_variables` are the environment variables that the step declares, and
        `next_step_variables` those of the step after it. While the step runs, packages are
        loaded for the next one.
        """
        self._close_unneeded_servers(step_variables, next_step_variables)
        # The server is looked up first: one that is started now is still loading packages,
        # so it is for the next step.
        server = self._fork_servers.get(frozenset(step_variables.items()))
        if next_step_variables is not None:
            self.start_fork_server(command.environment, next_step_variables)

        exit_code = None
        if server is not None:
            exit_code = server.run(command)
        if exit_code is None:
            exit_code = self._run_plain_process(command)
        return exit_code

    def _run_plain_process(self, command: StepCommand) -> int:
        """Run a step in a process that is not forked, and return its exit code."""
        supervisor = _StepLauncher(SUPERVISOR, os.environ)
        try:
            exit_code = supervisor.run(command)
        finally:
            supervisor.close()
        return KILLED if exit_code is None else exit_code

    def _close_unneeded_servers(
        self,
        step_variables: Mapping[str, str],
        next_step_variables: Mapping[str, str] | None,
    ) -> None:
        """End the fork servers that neither this step nor the next one is forked from."""
        needed = {frozenset(step_variables.items())}
        if next_step_variables is not None:
            needed.add(frozenset(next_step_variables.items()))
        for key in self._fork_servers.keys() - needed:
            self._fork_servers.pop(key).close()

    def close(self) -> None:
        """End the fork servers, and the step that is running."""
        while self._fork_servers:
            _, server = self._fork_servers.popitem()
            server.close()


class _StepLauncher:
    """A running supervisor or fork server, which starts the processes of steps.

    It reads the command of a step as a line of JSON. It replies with two lines: the process
    id of the step, and later the exit code of the step.
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
        """Run a step and return its exit code, or None if it could not be started."""
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

        # The supervisor or fork server was killed, and could not end the step.
        if sys.platform != "win32":
            with suppress(ProcessLookupError):
                os.killpg(int(step_pid), signal.SIGKILL)
        return KILLED

    def close(self) -> None:
        """End the supervisor or fork server, and with it the step that it runs."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        assert self._process.stdout
        self._process.stdout.close()
        self._process.wait()


def run_in_terminal(command: StepCommand) -> int:
    """Run a step with this terminal as its input and output, and return its exit code.

    Ctrl-C ends only the step, or is handled by its debugger.
    """
    earlier_handler = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.run(
            [sys.executable, *command.arguments],
            cwd=command.folder,
            env=command.environment,
            check=False,
        )
    finally:
        signal.signal(signal.SIGINT, earlier_handler)
    return process.returncode
