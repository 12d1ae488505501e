"""Prepare to run one step alone, in the folder of an earlier run (`run --step`)."""

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

#: A message names at most this number of changed settings.
MOST_NAMED_CHANGES = 3


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
            raise LocalRunError(f"{name} cannot run. {reason}")


def _find_obstacle(context: RunContext, step: Step) -> str:
    """Return why the results of a step cannot be used and what to run, or ""."""
    advice = f"Run it first, with --step {step.name}."
    results = context.record.done.get(step.name)
    if results is None:
        return f"{step.name} has not succeeded in {context.folder}. {advice}"
    outputs = context.find_outputs(step)
    if not all(Path(output).exists() for output in outputs.values()):
        return f"The outputs of {step.name} are gone. {advice}"
    arguments = describe_step(step, context.plan.values)
    if arguments == results.arguments:
        return ""

    inputs = list(step.inputs)
    changes = _list_changes(
        _name_values(results.arguments, inputs), _name_values(arguments, inputs)
    )
    named_changes = ", ".join(changes[:MOST_NAMED_CHANGES])
    if len(changes) > MOST_NAMED_CHANGES:
        named_changes += f", and {len(changes) - MOST_NAMED_CHANGES} more"
    if len(changes) > 1:
        command = f"{context.project.command} run {context.record.pipeline}"
        advice = f"Run: {command}"
    return f"{step.name} ran with other settings ({named_changes}). {advice}"


def _name_values(texts: Sequence[str], inputs: Sequence[str]) -> dict[str, str]:
    """Return the values of a step's arguments and inputs by their names.

    `texts` are the arguments and then the inputs as text, and `inputs` the names of the
    inputs. A JSON object, such as the text format of prep, is divided into its keys.
    """
    end_of_arguments = max(len(texts) - len(inputs), 0)
    words: dict[str, list[str]] = {}
    option = ""
    for text in texts[:end_of_arguments]:
        if text.startswith("--"):
            option = text.removeprefix("--").replace("-", "_")
            words[option] = []
        else:
            words.setdefault(option, []).append(text)

    values = dict(zip(inputs, texts[end_of_arguments:], strict=False))
    for name, words_of_option in words.items():
        value = " ".join(words_of_option)
        try:
            items = json.loads(value)
        except ValueError:
            items = None
        if isinstance(items, dict):
            for key, item in items.items():
                values[key] = json.dumps(item, ensure_ascii=False)
        else:
            values[name] = value
    return values


def _list_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Describe the values that have changed, such as "target: Species, now Island"."""
    changes: list[str] = []
    for name in dict.fromkeys([*before, *after]):
        old_value = before.get(name, "nothing")
        new_value = after.get(name, "nothing")
        if old_value != new_value:
            changes.append(f"{name}: {old_value}, now {new_value}")
    return changes
