"""Prepare to run a single step in the folder of an earlier run (`run --step`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import LocalRunError
from ..project import Project
from ..steps import Step
from .reuse import describe_step
from .run_context import RunContext
from .run_folder import list_runs
from .run_record import RunRecord

#: A message lists not more than this many changes.
MAX_LISTED_CHANGES = 3


def find_newest_run(project: Project[Any], pipeline: str) -> Path:
    """Return the folder of the newest run of a pipeline.

    Raises LocalRunError if the pipeline has no run yet.
    """
    runs = list_runs(project.root / "runs", pipeline)
    if not runs:
        raise LocalRunError(
            f"The pipeline {pipeline} has no run yet, and a single step needs the results"
            " of the steps before it. Run the whole pipeline first:"
            f" {project.command} run {pipeline}"
        )
    return runs[0].folder


def read_earlier_run(folder: Path, pipeline: str) -> RunRecord:
    """Return the record of an earlier run of a pipeline.

    Raises LocalRunError if `folder` is not the folder of a run of this pipeline, or if its
    record cannot be read.
    """
    try:
        record = RunRecord.read(folder)
    except (OSError, ValueError):
        raise LocalRunError(
            f"{folder} is not the folder of a run: it has no readable run.json."
        ) from None
    if record.pipeline != pipeline:
        raise LocalRunError(
            f"{folder} is the folder of a run of the pipeline {record.pipeline}, not of"
            f" {pipeline}."
        )
    return record


def check_step_can_run(context: RunContext, step_name: str) -> None:
    """Raise LocalRunError if a step cannot be run alone in the folder of an earlier run.

    A step cannot be run alone if the pipeline has no step with this name, or if a step that
    it depends on has no valid results in this run. Results are valid if their files exist,
    and if they were made with the current settings.
    """
    plan = context.plan
    if step_name not in plan.steps:
        raise LocalRunError(
            f"There is no step {step_name!r}. The steps are {', '.join(plan.steps)}."
        )
    for earlier_step in plan.list_steps_before(step_name):
        problem = _explain_unusable_results(context, plan.steps[earlier_step])
        if problem:
            raise LocalRunError(
                f"{step_name} cannot run alone. {problem} Run the whole pipeline, which"
                f" reuses the results of unchanged steps: {context.run_command}"
            )


def _explain_unusable_results(context: RunContext, step: Step) -> str:
    """Return a sentence that explains why the results of a step cannot be used.

    The results are those that the step has in this run. Returns an empty string if they can
    be used.
    """
    results = context.record.done.get(step.name)
    if results is None:
        return f"{step.name} has not succeeded in {context.folder}."

    outputs = context.find_outputs(step)
    if not all(Path(folder).exists() for folder in outputs.values()):
        return f"The outputs of {step.name} are gone."

    current_arguments = describe_step(step, context.plan.values)
    if results.arguments == current_arguments:
        return ""
    # Both lists hold the arguments of the step, followed by one text for each input.
    inputs = list(step.inputs)
    old_values = _name_values(results.arguments, inputs)
    new_values = _name_values(current_arguments, inputs)
    changes = _list_changes(old_values, new_values)
    return f"{step.name} ran with other settings ({_join_changes(changes)})."


def _name_values(
    arguments_and_sources: Sequence[str], inputs: Sequence[str]
) -> dict[str, str]:
    """Give names to the values that a step depends on, for a message about changes.

    `arguments_and_sources` holds the arguments of the step, followed by the source of each
    of the `inputs`. For example, ["--target", "Species", "data/sample"] and the input "raw"
    become {"target": "Species", "raw": "data/sample"}.
    """
    # If the step has got new inputs since the run, the run may have recorded fewer values
    # than there are inputs. The number of arguments must not be negative in that case.
    argument_count = max(len(arguments_and_sources) - len(inputs), 0)
    arguments = arguments_and_sources[:argument_count]
    sources = arguments_and_sources[argument_count:]

    value_by_name = dict(zip(inputs, sources, strict=False))
    for option, value in _group_by_option(arguments).items():
        value_by_name.update(_expand_json_object(option, value))
    return value_by_name


def _group_by_option(arguments: Sequence[str]) -> dict[str, str]:
    """Return the value of each option, such as {"target": "Species"} for --target Species.

    If several arguments follow an option, its value is all of them, separated by spaces.
    Arguments before the first option are the value of an option without a name.
    """
    values_by_option: dict[str, list[str]] = {}
    option = ""
    for argument in arguments:
        if argument.startswith("--"):
            option = argument.removeprefix("--").replace("-", "_")
            values_by_option[option] = []
        else:
            values_by_option.setdefault(option, []).append(argument)
    return {option: " ".join(values) for option, values in values_by_option.items()}


def _expand_json_object(option: str, value: str) -> dict[str, str]:
    """Split the value of an option into settings, if the value is a JSON object.

    Some options hold several settings as JSON. Each member of the object is returned by its
    key, as JSON text: the value '{"max_rows": 5, "seed": 7}' becomes {"max_rows": "5",
    "seed": "7"}. Any other value is returned unchanged by its option: the value "Species"
    of the option "target" becomes {"target": "Species"}.
    """
    try:
        members = json.loads(value)
    except ValueError:
        return {option: value}
    if not isinstance(members, dict):
        return {option: value}
    return {key: json.dumps(item, ensure_ascii=False) for key, item in members.items()}


def _join_changes(changes: Sequence[str]) -> str:
    """Return the first MAX_LISTED_CHANGES changes in one line, and how many more follow."""
    text = ", ".join(changes[:MAX_LISTED_CHANGES])
    unlisted_changes = len(changes) - MAX_LISTED_CHANGES
    if unlisted_changes > 0:
        text += f", and {unlisted_changes} more"
    return text


def _list_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return a text for each value that has changed, such as "target: Species, now Island".

    A missing value is shown as "nothing", such as "target: nothing, now Island" for a value
    that has been added.
    """
    changes: list[str] = []
    all_names = dict.fromkeys([*before, *after])
    for name in all_names:
        old_value = before.get(name, "nothing")
        new_value = after.get(name, "nothing")
        if old_value != new_value:
            changes.append(f"{name}: {old_value}, now {new_value}")
    return changes
