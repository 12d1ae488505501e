"""Steps of a pipeline, as both SDKs' steps are read, and the values of its parameters.

The local run and the commands for Azure work on these, so neither needs the other.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CommandError
from .project import Project

LOG_END = 20  # lines of a failed step's log that are shown

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
    """A step of either SDK: what it runs, with what, and where that comes from."""

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
        """Return the steps that must have ended before this one."""
        producers = {
            source[0] for source in self.inputs.values() if isinstance(source, tuple)
        }
        return producers | set(self.run_after)

    def parameters(self) -> list[Parameter]:
        """Return the pipeline parameters that this step names."""
        named = (*self.arguments, *self.inputs.values(), *self.unused_parameters)
        return [value for value in named if isinstance(value, Parameter)]


class PipelineError(CommandError):
    """Report a pipeline, or a value of one of its parameters, that cannot be run."""


def parameter_values(
    project: Project[Any],
    steps: Iterable[Step],
    data: Mapping[str, Value],
    overrides: Mapping[str, Any],
) -> dict[str, Value]:
    """Return the value of each pipeline parameter.

    `data` says where the files of data parameters are, `overrides` are the values from
    the command line. Raises PipelineError for an override that is wrong.
    """
    values: dict[str, Value] = {}
    for step in steps:
        for parameter in step.parameters():
            if parameter.default is None:
                values[parameter.name] = data[parameter.name]
            else:
                values[parameter.name] = parameter.default
    for name, override in overrides.items():
        if name not in values:
            raise _unknown_parameter(name, values)
        value = project.read_parameter(name, override)
        values[name] = _convert(project.root, name, value, values[name])
    return values


def _convert(root: Path, name: str, value: Any, default: Value) -> Value:
    """Convert the value of a parameter to the type of its default.

    Raises PipelineError if it cannot be converted.
    """
    # An empty path is the project's own folder, which holds more than data.
    is_whole_project = isinstance(default, Path) and root.is_relative_to(
        root / str(value)
    )
    try:
        if value != "" and not is_whole_project:
            return type(default)(value)
    except ValueError:
        pass
    raise PipelineError(f"{name} is {value!r}, but must be like {default}.")


def _unknown_parameter(name: str, values: Mapping[str, Value]) -> PipelineError:
    """Return an error that names the parameters there are, and the nearest one."""
    close = difflib.get_close_matches(name, values, 1)
    suggestion = f" Did you mean {close[0]}?" if close else ""
    return PipelineError(
        f"The pipeline has no parameter {name!r}.{suggestion} It has:"
        f" {', '.join(sorted(values))}."
    )
