"""Run each step in a process that ends when the local run ends.

The first step of a run is a plain process. On Linux, `fork_server.py` imports the packages
of the steps while the first step runs, and the later steps are forked from that server. A
forked step behaves like a plain process, but starts sooner. If the first step needs these
packages too, it is also forked, so that they are not imported twice.
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

# Only Linux can fork a process safely. Set this to False if a package of your steps does
# not work in a forked process.
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
# The supervisor needs only the standard library. Python starts sooner without other
# packages (-S) and without the user's variables and folders (-I).
SUPERVISOR = (sys.executable, "-I", "-S", str(LOCAL / "supervisor.py"))
FORK_SERVER = (sys.executable, str(LOCAL / "fork_server.py"), *PRELOADED)


@dataclass(frozen=True)
class StepCommand:
    """The command that starts the process of a step: arguments, folder, variables, log."""

    #: The script, followed by its arguments.
    arguments: list[str]
    #: The folder in which the process starts.
    folder: str
    #: All environment variables of the process.
    environment: dict[str, str]
    #: The file for the output of the process.
    log: str = os.devnull


class StepProcesses:
    """Starts the processes of steps, and the fork servers from which they are forked."""

    def __init__(self) -> None:
        # The fork servers, by the environment variables that their steps declare.
        self._fork_servers: dict[frozenset[tuple[str, str]], _StepLauncher] = {}

    def start_fork_server(
        self, common_environment: Mapping[str, str], step_variables: Mapping[str, str]
    ) -> None:
        """Start a process that imports packages, and from which steps can be forked.

        The server is for all steps that declare exactly the environment variables
        `step_variables`, because some packages read environment variables when they are
        imported. `common_environment` holds the variables that all steps have. Does nothing
        if there is a server for these steps already, or if this system cannot fork
        processes.
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
        `next_step_variables` those that the step after it declares. While the step runs, a
        fork server imports the packages of the next step.
        """
        self._close_unneeded_servers(step_variables, next_step_variables)
        # The server is looked up before another one is started. A server that has just been
        # started is still importing packages, so only the next step can use it.
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
        """Run a step in a new Python process, and return its exit code."""
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
        """End all fork servers except those of this step and of the next step."""
        needed_keys = {frozenset(step_variables.items())}
        if next_step_variables is not None:
            needed_keys.add(frozenset(next_step_variables.items()))
        for key in self._fork_servers.keys() - needed_keys:
            server = self._fork_servers.pop(key)
            server.close()

    def close(self) -> None:
        """End the fork servers, and the step that is running, if there is one."""
        while self._fork_servers:
            _, server = self._fork_servers.popitem()
            server.close()


class _StepLauncher:
    """A program that starts steps: supervisor.py or fork_server.py.

    The program reads the command of a step as a line of JSON. It replies with two lines:
    the process id of the step, and later the exit code of the step.
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
        """Run a step and return its exit code, or None if the step could not be started.

        The program that starts the step replies with two lines: the step's process id, and
        the exit code once the step has ended. A missing line means that the program was
        killed.
        """
        assert self._process.stdin
        assert self._process.stdout
        # If the program was killed, it cannot receive the command. Its reply is then empty.
        with suppress(BrokenPipeError):
            print(json.dumps(asdict(command)), file=self._process.stdin, flush=True)
        step_pid = self._process.stdout.readline()
        if not step_pid:
            return None

        exit_code = self._process.stdout.readline()
        if exit_code:
            return int(exit_code)

        # The program was killed before it could end the step and its child processes.
        if sys.platform != "win32":
            with suppress(ProcessLookupError):
                os.killpg(int(step_pid), signal.SIGKILL)
        return KILLED

    def close(self) -> None:
        """End the program, and the step that it runs."""
        assert self._process.stdin
        # The program kills the step and ends when its standard input is closed.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        assert self._process.stdout
        self._process.stdout.close()
        self._process.wait()


def run_in_terminal(command: StepCommand) -> int:
    """Run a step attached to this terminal, and return its exit code.

    Ctrl-C interrupts the step, or goes to the step's debugger, but does not end this
    process.
    """
    # If this process ignored the signal (SIG_IGN), the step would inherit that, and Ctrl-C
    # would not reach it. A handler is not inherited.
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
