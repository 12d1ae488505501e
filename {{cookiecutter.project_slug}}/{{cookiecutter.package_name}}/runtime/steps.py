"""The steps of a pipeline, described in the same way for both SDKs, and its parameters.

`azure/sdk_steps.py` makes these descriptions from the objects of the SDK. The local run and
the commands for Azure read them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CommandError
from .project import Pipelines, Project
from .rule import Problem

#: How many lines of a failed step's log are printed, from its end.
LOG_END = 20

Value = str | int | float | bool | Path


@dataclass(frozen=True)
class Parameter:
    """A pipeline parameter. If it has no default, its value is the folder of a dataset."""

    name: str
    default: Value | None


class Input(str):
    """The name of an input. As an argument of a step, it stands for the input's folder."""


class Output(str):
    """The name of an output. As an argument of a step, it stands for the output's folder."""


Argument = str | Input | Output | Parameter

#: Where an input comes from: a data parameter, or the names of a step and of its output.
Source = Parameter | tuple[str, str]


@dataclass(frozen=True)
class Step:
    """What a step runs, with which arguments, inputs and outputs."""

    name: str
    #: The folder that Azure ML receives, and the files in it that are not ignored.
    source_directory: Path
    snapshot: list[Path]
    script: str
    arguments: list[Argument]
    inputs: dict[str, Source]
    outputs: list[str]
    #: Steps to wait for, in addition to those that the inputs come from.
    run_after: list[str]
    environment_variables: dict[str, str]
    #: The environment on Azure ML as text, which changes whenever a pinned package does.
    environment: str
    allow_reuse: bool
    #: Parameters that have no effect on one machine, such as the number of nodes.
    unused_parameters: list[Parameter]
    is_parallel: bool

    def dependencies(self) -> set[str]:
        """Return the names of the steps that must end before this one starts."""
        names = set(self.run_after)
        for source in self.inputs.values():
            if isinstance(source, tuple):
                step, _ = source
                names.add(step)
        return names

    def parameters(self) -> list[Parameter]:
        """Return the pipeline parameters that this step uses."""
        candidates = [
            *self.arguments,
            *self.inputs.values(),
            *self.unused_parameters,
        ]
        return [value for value in candidates if isinstance(value, Parameter)]


def find_unknown_steps(project: Project[Any], pipelines: Pipelines) -> list[Problem]:
    """Return a problem for each name in the setting `steps` that is no step of a pipeline.

    Raises SettingsError if the settings are wrong.
    """
    settings = project.settings()
    if not settings.steps:
        return []
    # Only now, as this imports the SDK.
    from .azure.sdk_steps import build_steps, read_steps

    names = [
        step.name
        for pipeline in pipelines.values()
        for step in read_steps(build_steps(pipeline, settings))
    ]
    problems = []
    for name in settings.steps:
        if name in names:
            continue
        key = f"steps.{name}"
        similar = difflib.get_close_matches(name, names, n=1)
        choices = similar or dict.fromkeys(names)
        text = "is not the name of a step"
        fix = f"write {' or '.join(choices)}"
        problems.append(Problem(project.file_of(key), key, text, fix))
    return problems


class PipelineError(CommandError):
    """A pipeline, or the value of a pipeline parameter, is wrong."""


def parameter_values(
    project: Project[Any],
    steps: Iterable[Step],
    data: Mapping[str, Value],
    overrides: Mapping[str, Any],
) -> dict[str, Value]:
    """Return the value of each pipeline parameter.

    `data` has the folders of the data parameters, and `overrides` the values from the
    command line. Raises PipelineError for an override with an unknown name or a wrong
    value, and SettingsError for one that breaks the rule of the setting with its name.
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

    Raises PipelineError if the value cannot be converted, or if it is the path of a folder
    that contains the whole project.
    """
    error = PipelineError(f"{name} is {value!r}, but must be like {default}.")
    if value == "":
        raise error
    if isinstance(default, Path) and root.is_relative_to(root / str(value)):
        raise error
    try:
        return type(default)(value)
    except ValueError:
        raise error from None


def _unknown_parameter(name: str, values: Mapping[str, Value]) -> PipelineError:
    """Return an error that lists the parameters, and suggests the most similar name."""
    similar = difflib.get_close_matches(name, values, n=1)
    suggestion = f" Did you mean {similar[0]}?" if similar else ""
    parameters = ", ".join(sorted(values))
    return PipelineError(
        f"The pipeline has no parameter {name!r}.{suggestion} It has: {parameters}."
    )
