"""Prepare to run one step alone, in the folder of an earlier run (`run --step`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import LocalRunError
from ..project import Project
from ..steps import Step
from .reuse import describe_step
from .run_context import RunContext
from .run_folder import list_runs
from .run_record import RunRecord, StepRecord


def find_newest_run(project: Project[Any], pipeline: str) -> Path:
    """Return the folder of the newest run of a pipeline.

    Raises LocalRunError if there is none.
    """
    runs = list_runs(project.root / "runs", pipeline)
    if not runs:
        raise LocalRunError(
            f"There is no run of {pipeline} in which a step could be run: run all of it"
            f" first, with {project.command} run {pipeline}."
        )
    return runs[0].folder


def read_earlier_run(folder: Path, pipeline: str) -> RunRecord:
    """Return the record of an earlier run of a pipeline.

    Raises LocalRunError if the folder is not the folder of such a run.
    """
    try:
        record = RunRecord.read(folder)
    except (OSError, ValueError):
        raise LocalRunError(f"{folder} is not the folder of a run.") from None
    if record.pipeline != pipeline:
        raise LocalRunError(
            f"{folder} is the folder of a run of the pipeline {record.pipeline}."
        )
    return record


def check_step_can_run(context: RunContext, name: str) -> None:
    """Raise LocalRunError unless all steps before a step have results in this run.

    The results must have been made with the settings as they are now.
    """
    plan = context.plan
    if name not in plan.steps:
        raise LocalRunError(
            f"No step is called {name!r}: there are {', '.join(plan.steps)}."
        )
    for earlier in plan.list_steps_before(name):
        reason = _find_obstacle(context, plan.steps[earlier])
        if reason:
            raise LocalRunError(
                f"{name} cannot run. {reason} Run it first, with --step {earlier}."
            )


def _find_obstacle(context: RunContext, step: Step) -> str:
    """Return a sentence on why the results of a step cannot be used, or "" if they can."""
    results = context.record.done.get(step.name)
    if results is None:
        return f"{step.name} has not succeeded in {context.folder}."
    outputs = context.find_outputs(step)
    if not all(Path(output).exists() for output in outputs.values()):
        return f"The outputs of {step.name} are gone."
    arguments = describe_step(step, context.plan.values)
    if arguments == results.arguments:
        return ""
    difference = _describe_difference(results, arguments)
    return f"{step.name} ran with other settings ({difference})."


def _describe_difference(results: StepRecord, arguments: list[str]) -> str:
    """Describe which arguments have changed, such as "Species is Island now"."""
    old = [argument for argument in results.arguments if argument not in arguments]
    new = [argument for argument in arguments if argument not in results.arguments]
    return f"{' '.join(old) or 'nothing'} is {' '.join(new) or 'nothing'} now"
