"""Plan a local run: its steps in their order, and the values of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ..azure import sdk_steps
from ..project import PipelineDefinition, Project
from ..settings_models import ProjectSettings
from ..steps import PipelineError, Step, Value, parameter_values


@dataclass(frozen=True)
class RunPlan:
    """The steps of a run, and the values that its parameters have."""

    pipeline: str
    steps: Mapping[str, Step]  # each one after the steps that it depends on
    values: Mapping[str, Value]
    model_readers: frozenset[str]  # the steps that look up the registered model
    model_version: str  # the version that they look up: a number, or "latest"

    def list_steps_before(self, name: str) -> list[str]:
        """Return the steps that a step depends on, directly or not, in their order."""
        needed = set(self.steps[name].dependencies())
        for earlier in reversed(list(self.steps)):
            if earlier in needed:
                needed |= self.steps[earlier].dependencies()
        return [step for step in self.steps if step in needed]


def make_plan(
    project: Project[Any],
    settings: ProjectSettings,
    name: str,
    pipeline: PipelineDefinition,
    overrides: Mapping[str, str],
) -> RunPlan:
    """Plan a run of a pipeline.

    `overrides` are parameters from the command line, with their values as text. Raises
    PipelineError and SettingsError if the pipeline or a value is wrong.
    """
    steps = sdk_steps.read_steps(sdk_steps.build_steps(pipeline, settings))
    data = {
        parameter: Path(getattr(settings.data, setting))
        for parameter, setting in pipeline.data.items()
    }
    values = parameter_values(project, steps, data, overrides)
    _check_model_readers(name, pipeline, steps)

    model_version = "latest"
    if pipeline.model_version is not None:
        model_version = str(values[pipeline.model_version])
    return RunPlan(
        pipeline=name,
        steps=order_steps(steps),
        values=values,
        model_readers=frozenset(pipeline.reads_model),
        model_version=model_version,
    )


def order_steps(steps: Sequence[Step]) -> dict[str, Step]:
    """Return steps by their names, each one after the steps that it depends on."""
    by_name = {step.name: step for step in steps}
    order = TopologicalSorter({step.name: step.dependencies() for step in steps})
    return {name: by_name[name] for name in order.static_order()}


def _check_model_readers(
    name: str, pipeline: PipelineDefinition, steps: Sequence[Step]
) -> None:
    """Raise PipelineError if `reads_model` names a step that the pipeline does not have."""
    step_names = {step.name for step in steps}
    for reader in pipeline.reads_model:
        if reader not in step_names:
            raise PipelineError(
                f"pipelines.py: reads_model of {name} names {reader!r}, but its steps are"
                f" {', '.join(sorted(step_names))}."
            )
