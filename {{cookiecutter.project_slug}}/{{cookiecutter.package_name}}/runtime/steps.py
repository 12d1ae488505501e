"""Steps of a pipeline, as both SDKs' steps are read, and the values of its parameters.

The local run and the commands for Azure work on these, so neither needs the other.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .project import CommandError, Project

LOG_END = 20  # lines of a failed step's log to show

Value = str | int | float | bool | Path


@dataclass(frozen=True)
class Parameter:
    """A pipeline parameter; one without a default stands for data."""

    name: str
    default: Value | None


class Input(str):
    """In an argument's place: the name of an input, whose folder is meant."""


class Output(str):
    """In an argument's place: the name of an output, whose folder is meant."""


Argument = str | Input | Output | Parameter
Source = Parameter | tuple[str, str]  # data, or a step and its output port


@dataclass(frozen=True)
class Step:
    """Describe a step of either SDK: what it runs, with what, and where that comes from."""

    name: str
    source_directory: Path
    snapshot: list[Path]
    script: str
    arguments: list[Argument]
    inputs: dict[str, Source]
    outputs: list[str]
    run_after: list[str]  # steps to wait for beside those that inputs come from
    environment_variables: dict[str, str]
    environment: str  # what it runs in on Azure ML, with the pins, as some text
    allow_reuse: bool
    unused_parameters: list[Parameter]  # without a meaning on one machine
    is_parallel: bool

    def dependencies(self) -> set[str]:
        """The steps that must have ended before this one."""
        producers = {s[0] for s in self.inputs.values() if isinstance(s, tuple)}
        return producers | set(self.run_after)


class PipelineError(CommandError):
    """Report a pipeline, or a value of one of its parameters, that cannot be run."""


def parameter_values(
    project: Project[Any],
    steps: list[Step],
    data: Mapping[str, Value],
    values: Mapping[str, Any],
) -> dict[str, Value]:
    """The value of each pipeline parameter; PipelineError for one that is wrong."""
    root, found = project.root, dict[str, Value]()
    for step in steps:
        for p in (*step.arguments, *step.inputs.values(), *step.unused_parameters):
            if isinstance(p, Parameter):
                found[p.name] = data[p.name] if p.default is None else p.default
    for name, value in values.items():
        if name not in found:
            close = difflib.get_close_matches(name, found, 1)
            meant = f" Did you mean {close[0]}?" if close else ""
            text = f"The pipeline has no parameter {name!r}.{meant}"
            raise PipelineError(f"{text} It has: {', '.join(sorted(found))}.")
        default, value = found[name], project.parameter_value(name, value)
        # A path of nothing is the project's folder, which holds more than data.
        is_all = isinstance(default, Path) and root.is_relative_to(root / str(value))
        try:
            if value == "" or is_all:
                raise ValueError
            found[name] = type(default)(value)
        except ValueError:
            text = f"{name} is {value!r}, but must be like {default}."
            raise PipelineError(text) from None
    return found
