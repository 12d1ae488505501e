"""Decide whether a step must run, or whether what an earlier run has made can be used.

The rule is that of `allow_reuse` on Azure ML: a step's results are used again while its
files, arguments, parameters, variables, environment and inputs are the same. Its reuse
key says all of this in short. Data is the same if it holds the same. What another step
has made is the same only if the same execution made it, so whatever follows a step that
runs, runs too.

A step that looks up the registered model does not allow reuse on Azure ML, as the model
can change. `pipelines.py` declares such steps by `reads_model`. Here their results are
used again while the registered model is the same. A version that a step has registered
itself counts as the one that it looked up: once `evaluate` has compared a model and
`register` has registered it, nothing is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..files import list_files
from ..steps import Argument, Parameter, Source, Step, Value
from . import tracking
from .fingerprints import Fingerprints, hash_json, hash_listing
from .run_folder import RunRecord, StepRecord, list_runs

#: Stands in place of a reuse key: no other run uses these results.
NOT_REUSABLE = ""
#: Stands for the fingerprint of a registered model where none is registered.
NO_MODEL = "none"


@dataclass(frozen=True)
class RegisteredModel:
    """The registered model that a step looks up."""

    fingerprint: str  # empty for a step that looks up none
    run: str  # the local run that has registered it, or an empty text


@dataclass(frozen=True)
class ModelReader:
    """Finds the registered model that steps look up, as `reads_model` declares."""

    root: Path
    model: str
    version: str  # a number, or "latest"
    steps: frozenset[str]
    fingerprints: Fingerprints

    def find(self, step: str) -> RegisteredModel:
        """Return the registered model that a step looks up now.

        Raises OSError and sqlite3.Error if it cannot be read.
        """
        if step not in self.steps:
            return RegisteredModel("", "")
        version = tracking.find_model_version(self.root, self.model, self.version)
        if version is None:
            return RegisteredModel(NO_MODEL, "")
        files = list_files(version.files) if version.files else {}
        files.pop(tracking.LOADED_MARK, None)
        content = self.fingerprints.hash_files(files)
        return RegisteredModel(f"{version.identity} {content}", version.run)


def describe_value(value: Argument | Source, values: Mapping[str, Value]) -> str:
    """Return an argument or the source of an input as text, with parameters' values."""
    return str(values[value.name] if isinstance(value, Parameter) else value)


def describe_step(step: Step, values: Mapping[str, Value]) -> list[str]:
    """Return the arguments and inputs of a step as text.

    The project's own path is not part of them, so that the project can be moved.
    """
    return [
        describe_value(value, values)
        for value in (*step.arguments, *step.inputs.values())
    ]


def compute_key(
    step: Step,
    code: Path,
    values: Mapping[str, Value],
    inputs: Mapping[str, str],
    fingerprints: Fingerprints,
) -> str:
    """Return the reuse key of a step whose files are in the folder `code`.

    `inputs` says by name what each input holds. Raises OSError if a file of the step
    cannot be read.
    """
    files = {file.as_posix(): code / file for file in step.snapshot}
    # The type of an argument is part of it, as a text may read like an output's name.
    arguments = [
        [type(argument).__name__, describe_value(argument, values)]
        for argument in (*step.arguments, *step.unused_parameters)
    ]
    return hash_json(
        [
            step.name,
            step.script,
            step.is_parallel,
            step.outputs,
            arguments,
            dict(inputs),
            fingerprints.hash_files(files),
            step.environment,
            step.environment_variables,
        ]
    )


def find_results(runs: Path, step: str, key: str, model: str) -> StepRecord | None:
    """Return what the newest run with this key has made of a step, if it is unchanged.

    `model` is the fingerprint of the registered model that the step looks up.
    """
    for run in list_runs(runs):
        results = run.record.done.get(step)
        if results is None or results.key != key or model not in results.models:
            continue
        results = replace(results, run=results.run or run.folder.name)
        with suppress(OSError):
            if hash_listing(runs / results.run / step / "outputs") == results.files:
                return results
    return None


def record_results(
    record: RunRecord,
    step: str,
    results: StepRecord,
    before: RegisteredModel,
    after: RegisteredModel,
    steps_before: set[str],
    run: str,
) -> None:
    """Add what a step has made to the record of its run.

    `before` and `after` are the registered model as it was before and after the step.
    If the step has registered a model itself, what the `steps_before` it have made holds
    for that model too. If somebody else has registered one meanwhile, the results are
    not used again.
    """
    if after.fingerprint != before.fingerprint and after.run != run:
        results = replace(results, key=NOT_REUSABLE)
    elif after.fingerprint != before.fingerprint:
        for name in steps_before & record.done.keys():
            earlier = record.done[name]
            if before.fingerprint in earlier.models:
                models = [*earlier.models, after.fingerprint]
                record.done[name] = replace(earlier, models=models)
    record.done[step] = replace(results, models=[after.fingerprint])
