"""Run each step in a process that ends when the local run ends.

The first step of a run is a plain process. On Linux, `fork_server.py` imports the packages
of the steps while the first step runs, and the later steps are forked from that server. A
forked step behaves like a plain process, but starts sooner. If the first step looks up the
registered model, it needs MLflow, which is one of these packages. In that case, the first
step is forked too, so that MLflow is not imported twice.
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
    """Starts the processes of steps, and the fork servers from which they are forked.

    `common_environment` holds the environment variables that all steps of the run have.
    """

    def __init__(self, common_environment: Mapping[str, str]) -> None:
        self._common_environment = common_environment
        # The fork servers, by the environment variables that their steps declare.
        self._fork_servers: dict[frozenset[tuple[str, str]], _StepLauncher] = {}

    def start_fork_server(self, step_variables: Mapping[str, str]) -> None:
        """Start a process that imports packages, and from which steps can be forked.

        `step_variables` are the environment variables that a step declares. Some packages
        read such variables when they are imported. So there is a separate server for each
        set of variables, and only the steps that declare exactly this set use it. Does
        nothing if there is a server for these variables already, or if this system cannot
        fork processes.
        """
        key = frozenset(step_variables.items())
        if not CAN_FORK or key in self._fork_servers:
            return
        environment = {**self._common_environment, **step_variables}
        self._fork_servers[key] = _StepLauncher(FORK_SERVER, environment)

    def run(
        self,
        command: StepCommand,
        step_variables: Mapping[str, str],
        next_step_variables: Mapping[str, str] | None = None,
    ) -> int:
        """Run a step and return its exit code, which is negative if a signal ended it.

        `step_variables` are the environment variables that the step declares, and
        `next_step_variables` are those that the next step declares, or None if there is no
        next step. While the step runs, a fork server imports the packages of the next step.
        """
        self._close_unneeded_servers(step_variables, next_step_variables)
        # This step must not wait for a server that has only just begun to import packages.
        # So its server is looked up before the one for the next step is started.
        server = self._fork_servers.get(frozenset(step_variables.items()))
        if next_step_variables is not None:
            self.start_fork_server(next_step_variables)

        exit_code = None
        if server is not None:
            exit_code = server.run(command)
        # The exit code is None if there is no server, or if the server was killed before it
        # started the step.
        if exit_code is None:
            exit_code = self._run_plain_process(command)
        return exit_code

    def _run_plain_process(self, command: StepCommand) -> int:
        """Run a step in a new Python process, and return its exit code.

        Returns KILLED if the process could not be started, because its supervisor was
        killed.
        """
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
        """Run a step, wait until it has ended, and return its exit code.

        Returns None if the program was killed before it started the step, and KILLED if the
        program was killed while the step ran. The program replies with two lines: the
        step's process id, and the exit code once the step has ended. A missing line means
        that the program was killed.
        """
        assert self._process.stdin
        assert self._process.stdout
        # If the program was killed, it can neither receive the command nor reply. The line
        # that is read below is then empty.
        with suppress(BrokenPipeError):
            print(json.dumps(asdict(command)), file=self._process.stdin, flush=True)
        step_pid = self._process.stdout.readline()
        if not step_pid:
            return None

        exit_code = self._process.stdout.readline()
        if exit_code:
            return int(exit_code)

        # The program was killed while the step ran, so the step and its child processes may
        # be left. They are a process group, which Windows does not have.
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
    process. The exit code is negative if a signal ended the step.
    """
    # If this process ignored Ctrl-C by SIG_IGN, the step would inherit that and ignore
    # Ctrl-C too. A handler is not inherited, so this process gets a handler that does
    # nothing.
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
