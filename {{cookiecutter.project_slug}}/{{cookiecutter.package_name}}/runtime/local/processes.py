"""The processes that steps run in, on this machine: one for each, started early if it can be.

What a script imports takes longer than what it does. So while the SDK is imported, and
while a step runs, the processes of those after it import what they will need, in
`step_process.py`.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import step_process

# Elsewhere a process cannot fork, or not safely once it has imported such packages.
# False if a package of yours does not work in a process that was forked.
CAN_START_EARLY = sys.platform == "linux"


@dataclass
class Process:
    """A step's process: what it prints, and what waits for its exit code."""

    output: IO[str]
    wait: Callable[[], int]


class Processes:
    """The processes of a run's steps; all are ended by `close`."""

    def __init__(self) -> None:
        self.early: subprocess.Popen[str] | None = None
        # What was started early: each step's imports, and the variables.
        self.started: tuple[Mapping[str, list[str]], Mapping[str, str]] = {}, {}
        # By a step's name: where to tell it to start, and what it prints.
        self.waiting: dict[str, tuple[IO[str], IO[str]]] = {}

    def start_early(
        self,
        statements: Mapping[str, list[str]],
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        """Start processes that wait for their steps, unless those that wait are the same.

        `statements` are each step's imports, to be run in a `folder` that has no modules,
        with the variables of an `environment` that is part of what each step is given.
        """
        started, variables = self.started
        is_same = statements.items() <= started.items() and environment == variables
        if is_same or not statements or not CAN_START_EARLY:
            return
        self.close()
        self.started = statements, environment
        steps, theirs = {}, list[int]()
        for name in statements:
            (told, tell), (output, out) = os.pipe(), os.pipe()
            steps[name] = statements[name], told, out
            theirs += [told, out]
            self.waiting[name] = (
                os.fdopen(tell, "w", encoding="utf-8"),
                os.fdopen(output, encoding="utf-8", errors="replace"),
            )
        self.early = subprocess.Popen(
            [sys.executable, step_process.__file__, "early", json.dumps(steps)],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,  # whose end is the end of all of them
            stdout=subprocess.PIPE,
            encoding="utf-8",
            pass_fds=theirs,
            start_new_session=True,
        )
        for end in theirs:
            os.close(end)

    @contextmanager
    def start(
        self,
        step: str,
        folder: Path,
        command: list[str],
        environment: Mapping[str, str],
    ) -> Iterator[Process]:
        """Have a step's process run `command`, a script and its arguments, in a folder."""
        if output := self._tell(step, [str(folder), command, dict(environment)]):
            with output:
                yield Process(output, lambda: self._wait(step))
            return
        # By its path, as the package may be installed from another project.
        supervisor = [sys.executable, "-I", "-S", step_process.__file__, "run"]
        with subprocess.Popen(
            [*supervisor, sys.executable, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,  # closed when this block ends, which ends the step
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process:
            assert process.stdout
            yield Process(process.stdout, process.wait)

    def _tell(self, step: str, what: list[Any]) -> IO[str] | None:
        """Tell a step's process what to run, if one waits; gives what it prints."""
        if step not in self.waiting:
            return None
        tell, output = self.waiting.pop(step)
        try:
            with tell:
                json.dump(what, tell)
        except BrokenPipeError:  # it is gone
            output.close()
            return None
        return output

    def _wait(self, step: str) -> int:
        assert self.early and self.early.stdout
        for line in self.early.stdout:
            name, _, code = line.rpartition(" ")
            if name == step:
                return int(code)
        return 1  # all of them were killed

    def close(self) -> None:
        """End what is left: steps that run, and those whose turn never came."""
        for pipes in self.waiting.values():
            for pipe in pipes:
                pipe.close()
        self.waiting.clear()
        if self.early:
            self.early.communicate()
            self.early, self.started = None, ({}, {})


def imports(script: Path) -> list[str]:
    """The statements with which a script, and the files beside it, import packages.

    Only those before anything but definitions, as it could change what a package does
    when it is imported.
    """
    found: dict[str, None] = {}
    with suppress(OSError, ValueError, SyntaxError):  # the step itself will say so
        _find_imports(script, set(), found)
    return list(found)


def _find_imports(script: Path, seen: set[Path], found: dict[str, None]) -> bool:
    """Add the statements of a file to those found; whether all of it has been read."""
    seen.add(script)
    imported: dict[ast.Import | ast.ImportFrom, str]
    for statement in ast.parse(script.read_bytes()).body:
        match statement:
            case ast.Import(names=aliases):
                imported = {ast.Import([one]): one.name for one in aliases}
            case ast.ImportFrom(module=str(name), level=0):
                imported = {statement: name}
            case ast.FunctionDef() | ast.ClassDef() | ast.Expr(value=ast.Constant()):
                continue
            case ast.Assign(targets=[ast.Name()]) | ast.AnnAssign(target=ast.Name()):
                continue
            case _:
                return False
        for one, name in imported.items():
            own = script.parent / name.partition(".")[0]
            file = own.with_suffix(".py")
            if own.exists():
                return False  # a package of the step's own
            if not file.exists():
                found[ast.unparse(one)] = None
            elif file not in seen and not _find_imports(file, seen, found):
                return False
    return True
