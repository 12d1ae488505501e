"""Plan a local run: the order of the steps, and the values of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ..azure import sdk_steps
from ..project import PipelineDefinition, Project
from ..settings_models import ProjectSettings
from ..steps import PipelineError, Step, Value, find_parameter_values


@dataclass(frozen=True)
class RunPlan:
    """The steps of a run, and the values of the pipeline's parameters."""

    pipeline: str
    #: The steps by name. Each step comes after the steps that it depends on.
    steps: Mapping[str, Step]
    #: The value of each parameter, by name.
    values: Mapping[str, Value]
    #: The names of the steps that look up the registered model.
    model_readers: frozenset[str]
    #: The version of the model that these steps look up: a number, or "latest".
    model_version: str

    def list_steps_before(self, name: str) -> list[str]:
        """Return the names of all steps that a step depends on, directly or indirectly.

        If `evaluate` reads from `train`, and `train` reads from `prep`, the steps before
        `evaluate` are `prep` and `train`. The names are in the order in which the steps
        run.
        """
        needed = set(self.steps[name].dependencies())
        # Each step comes after its dependencies. So if the steps are visited from the last
        # to the first, the dependencies of a needed step are still to be visited.
        for earlier_step in reversed(list(self.steps)):
            if earlier_step in needed:
                needed |= self.steps[earlier_step].dependencies()
        return [step for step in self.steps if step in needed]


def make_plan(
    project: Project[Any],
    settings: ProjectSettings,
    pipeline_name: str,
    definition: PipelineDefinition,
    overrides: Mapping[str, str],
) -> RunPlan:
    """Plan a run of a pipeline: sort its steps, and find the values of its parameters.

    `definition` is the pipeline as pipelines.py defines it. `overrides` holds the value of
    each parameter that the command line sets, as text, by the name of the parameter. Raises
    PipelineError if the definition is not valid, or if a parameter does not exist or does
    not accept its value. Raises SettingsError if the rules for a setting forbid the value.
    """
    steps = sdk_steps.read_steps(sdk_steps.build_steps(definition, settings))
    _check_model_readers(pipeline_name, definition, steps)

    # `definition.data` maps each parameter for data, such as `raw_data`, to the name of the
    # setting that holds the path of the data.
    data_paths = {
        parameter: Path(getattr(settings.data, setting_name))
        for parameter, setting_name in definition.data.items()
    }
    values = find_parameter_values(project, steps, data_paths, overrides)

    # `definition.model_version` is the name of the parameter that holds the version of the
    # model, if the pipeline has such a parameter.
    model_version = "latest"
    if definition.model_version is not None:
        model_version = str(values[definition.model_version])
    return RunPlan(
        pipeline=pipeline_name,
        steps=order_steps(steps),
        values=values,
        model_readers=frozenset(definition.reads_model),
        model_version=model_version,
    )


def order_steps(steps: Sequence[Step]) -> dict[str, Step]:
    """Return steps by name. Each step comes after all steps that it depends on."""
    step_by_name = {step.name: step for step in steps}
    sorter = TopologicalSorter({step.name: step.dependencies() for step in steps})
    return {name: step_by_name[name] for name in sorter.static_order()}


def _check_model_readers(
    pipeline_name: str, definition: PipelineDefinition, steps: Sequence[Step]
) -> None:
    """Raise PipelineError if `reads_model` names a step that the pipeline does not have.

    In pipelines.py, `reads_model` lists the steps that look up the registered model.
    """
    step_names = {step.name for step in steps}
    for reader in definition.reads_model:
        if reader not in step_names:
            raise PipelineError(
                f"pipelines.py: reads_model of {pipeline_name} names {reader!r}, but its"
                f" steps are {', '.join(sorted(step_names))}."
            )
