"""The steps of a pipeline, described in the same way for both SDKs, and its parameters.

`azure/sdk_steps.py` makes these descriptions from the objects of the SDK. The local run and
the commands for Azure read them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CommandError
from .project import Pipelines, Project
from .rule import Problem
from .settings_models import ProjectSettings

#: How many lines of a failed step's log are printed, from its end.
LOG_END = 20

Value = str | int | float | bool | Path


@dataclass(frozen=True)
class Parameter:
    """A pipeline parameter, with its default value.

    A data parameter, whose value is the folder of a dataset, has the default None.
    """

    name: str
    default: Value | None


class Input(str):
    """The name of an input, as an argument of a step.

    In the command line, the folder of the input takes the place of the name.
    """


class Output(str):
    """The name of an output, as an argument of a step.

    In the command line, the folder of the output takes the place of the name.
    """


Argument = str | Input | Output | Parameter

#: What an input reads: a data parameter, or an output of a step. The output is described by
#: the names of the step and of the output, such as `("prep", "prepared")`.
Source = Parameter | tuple[str, str]


@dataclass(frozen=True)
class Step:
    """A step of a pipeline: its script, its arguments, its inputs and its outputs."""

    name: str
    #: The folder with the code of the step.
    source_directory: Path
    #: The files in this folder that are uploaded to Azure ML, by their paths in it.
    snapshot: list[Path]
    script: str
    arguments: list[Argument]
    inputs: dict[str, Source]
    outputs: list[str]
    #: The steps to wait for, in addition to the steps that write the inputs.
    run_after: list[str]
    environment_variables: dict[str, str]
    #: A description of the environment on Azure ML. It changes with each pinned package.
    environment: str
    allow_reuse: bool
    #: Parameters that have no effect on one machine, such as the number of nodes.
    unused_parameters: list[Parameter]
    is_parallel: bool

    def dependencies(self) -> set[str]:
        """Return the names of the steps that must end before this step starts."""
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
    """Return a problem for each name below `steps` in the settings that is not a step.

    The name may be that of a step in any pipeline. Raises SettingsError if the settings are
    wrong.
    """
    settings = project.settings()
    if not settings.steps:
        return []

    step_names = _list_step_names(pipelines, settings)
    problems = []
    for name in settings.steps:
        if name in step_names:
            continue
        key = f"steps.{name}"
        similar = difflib.get_close_matches(name, step_names, n=1)
        problems.append(
            Problem(
                file=project.file_of(key),
                key=key,
                text="is not the name of a step",
                fix=f"write {' or '.join(similar or step_names)}",
            )
        )
    return problems


def _list_step_names(pipelines: Pipelines, settings: ProjectSettings) -> list[str]:
    """Return the names of the steps of all pipelines, each name only once."""
    # This module is imported only when it is needed, because it imports the SDK.
    from .azure.sdk_steps import build_steps, read_steps

    names: list[str] = []
    for pipeline in pipelines.values():
        for step in read_steps(build_steps(pipeline, settings)):
            if step.name not in names:
                names.append(step.name)
    return names


class PipelineError(CommandError):
    """A pipeline, or the value of a pipeline parameter, is wrong."""


def find_parameter_values(
    project: Project[Any],
    steps: Iterable[Step],
    data: Mapping[str, Value],
    overrides: Mapping[str, Any],
) -> dict[str, Value]:
    """Return a dict from the name of each pipeline parameter to its value.

    `data` maps the data parameters to their folders, and `overrides` maps parameters to
    values from the command line. Raises PipelineError for an override with an unknown name
    or a wrong value, and SettingsError for an override that breaks the rule of the setting
    of the same name.
    """
    value_by_name: dict[str, Value] = {}
    for step in steps:
        for parameter in step.parameters():
            # Only data parameters have no default.
            if parameter.default is None:
                value_by_name[parameter.name] = data[parameter.name]
            else:
                value_by_name[parameter.name] = parameter.default

    for name, override in overrides.items():
        if name not in value_by_name:
            raise _make_unknown_parameter_error(name, list(value_by_name))
        value = project.parse_parameter(name, override)
        default = value_by_name[name]
        value_by_name[name] = _convert_to_type_of(default, name, value, project.root)
    return value_by_name


def _convert_to_type_of(default: Value, name: str, value: Any, root: Path) -> Value:
    """Convert the value of the parameter `name` to the type of its default.

    `root` is the folder of the project. Raises PipelineError if the value is empty or cannot
    be converted, or if it is the path of a folder that contains the whole project.
    """
    message = f"{name} is {value!r}, but must be a value such as {default}."
    if value == "":
        raise PipelineError(message)
    if isinstance(default, bool):
        # bool("false") would be True.
        text = str(value).lower()
        if text not in ("true", "false"):
            raise PipelineError(f"{name} is {value!r}, but must be true or false.")
        return text == "true"

    if isinstance(default, Path) and _contains(root / str(value), root):
        # Results of earlier runs are stored in the project, so `prep` would read them as
        # data.
        raise PipelineError(
            f"{name} is {value!r}, a folder that contains the whole project. Give the"
            f" folder that contains only the data, such as {default}."
        )
    try:
        return type(default)(value)
    except ValueError:
        raise PipelineError(message) from None


def _contains(folder: Path, path: Path) -> bool:
    """Return whether a path is in a folder or is the folder itself.

    Both are resolved first, so that a folder such as `data/../..` can be compared.
    """
    # Path.resolve() raises RuntimeError for a link that leads to itself, and realpath does
    # not.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _make_unknown_parameter_error(name: str, parameters: list[str]) -> PipelineError:
    """Return an error that lists the `parameters`, and suggests the most similar name."""
    return PipelineError(
        f"The pipeline has no parameter {name!r}.{suggest_similar_name(name, parameters)}"
        f" It has: {', '.join(sorted(parameters))}."
    )


def suggest_similar_name(name: str, names: Iterable[str]) -> str:
    """Return a sentence that suggests the most similar of `names`, after a space.

    For example, returns " Did you mean training?" for the name trainin. Returns "" if no
    name is similar.
    """
    similar = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {similar[0]}?" if similar else ""
