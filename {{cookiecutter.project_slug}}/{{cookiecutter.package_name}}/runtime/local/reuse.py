"""Decide whether a step must run, or whether the results of an earlier run can be reused.

The rule is the same as for `allow_reuse` on Azure ML: the results of a step are reused
while its files, arguments, parameters, environment variables, packages and inputs stay the
same. The reuse key of a step is a hash of all these. An input of data stays the same while
the content of the data is the same. An input that is the output of another step stays the
same until that step runs again. So if a step runs, all steps that depend on it run too.

On Azure ML, a step that looks up the registered model is never reused, because the model
may have changed. In a local run, such a step is reused while the registered model stays the
same. `reads_model` in `pipelines.py` lists these steps.

If a run registers a new version, the results of its own steps stay reusable, although those
steps looked up the previous version. Otherwise, the next run would have to run `evaluate`
again, which would compare the newly registered model with itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..files import list_files
from ..steps import Argument, Parameter, Source, Step, Value
from .fingerprints import Fingerprints, hash_json, hash_listing
from .registered_models import ModelLookup, RegisteredModel
from .run_context import RunContext
from .run_folder import list_runs, lock_folder
from .run_record import StepRecord

#: Stands for the reuse key of results that no other run may use.
NOT_REUSABLE = ""


class StepReuse:
    """Reuses results of earlier runs, and records results for later runs."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._fingerprints = Fingerprints(context.runs / ".digests.db")
        self._models = ModelLookup(
            root=context.project.root,
            model=context.settings.name,
            version=context.plan.model_version,
            model_readers=context.plan.model_readers,
            fingerprints=self._fingerprints,
        )

    def find_model(self, step: Step) -> RegisteredModel:
        """Return the registered model that a step would look up now.

        Raises OSError or sqlite3.Error if the model cannot be read.
        """
        return self._models.find_model_for(step.name)

    def take_earlier_results(self, step: Step) -> StepRecord | None:
        """Reuse the results that a step had in an earlier run, if they are still valid.

        The results are recorded in this run and returned. Returns None if the step must
        run. Raises OSError or sqlite3.Error if the registered model cannot be read, or if
        the record cannot be written.
        """
        context = self._context
        # A step that looks up the registered model has `allow_reuse=False`, because Azure
        # ML does not notice that the model has changed. A local run does notice, because
        # it compares the models. So it may reuse the step all the same.
        reads_model = step.name in context.plan.model_readers
        may_be_reused = step.allow_reuse or reads_model
        if not may_be_reused:
            return None
        key = self.compute_key(step, step.source_directory)
        if key == NOT_REUSABLE:
            return None
        model = self.find_model(step)
        # Without the lock, another process could remove the earlier run before its results
        # are recorded here.
        with lock_folder(context.runs):
            results = find_results(context.runs, step.name, key, model.fingerprint)
            if results is not None:
                context.record_step(step.name, results)
        return results

    def compute_key(self, step: Step, code_folder: Path) -> str:
        """Return the reuse key of a step: a hash of all that its results depend on.

        `code_folder` is the folder with the step's files. Returns NOT_REUSABLE if a file of
        the step or of its data cannot be read. Shows on the screen that this work is going
        on, because hashing large data takes a while.
        """
        message = f"{step.name}: checking what has changed"
        with self._context.screen.show_progress(message):
            try:
                return _hash_step(
                    step,
                    values=self._context.plan.values,
                    inputs=self._describe_inputs(step),
                    code_hash=_hash_code(step, code_folder, self._fingerprints),
                )
            except OSError:
                return NOT_REUSABLE

    def record_results(
        self,
        step: Step,
        key: str,
        model_before: RegisteredModel,
        seconds: float,
        mlflow_run_id: str,
    ) -> None:
        """Record the results of a step that has run.

        `key` is the reuse key of the step, `seconds` is its duration, and `mlflow_run_id`
        is the id of the step's run in MLflow. `model_before` is the registered model as it
        was before the step ran. If a new model has been registered since then, it matters
        who has registered the new model:

        - If this run has registered it, the results of the steps before this step are
          recorded as valid for the new model too. Otherwise all these steps would run again
          in the next run, only because this run has registered its own model.
        - If another process has registered it, this step may have looked up either the old
          model or the new one. So the results of this step are recorded as not reusable.

        Raises OSError or sqlite3.Error if the registered model or the step's outputs cannot
        be read, or if the record cannot be written.
        """
        context = self._context
        model = self.find_model(step)
        if model.fingerprint != model_before.fingerprint:
            was_registered_by_this_run = model.run_name == context.folder.name
            if was_registered_by_this_run:
                self._mark_earlier_steps_valid(step, model_before, model)
            else:
                key = NOT_REUSABLE

        results = StepRecord(
            arguments=describe_step(step, context.plan.values),
            key=key,
            models=[model.fingerprint],
            files=hash_listing(context.step_folder(step) / "outputs"),
            seconds=seconds,
            mlflow_run=mlflow_run_id,
            data=self._hash_data(step),
        )
        context.record_step(step.name, results)

    def _describe_inputs(self, step: Step) -> dict[str, str]:
        """Return a description of each input of a step, by the name of the input.

        An input of data is described by a hash of its files. An input that is the output of
        another step is described by the execution of that step. So a description changes
        whenever the step might read something different, and then the reuse key of the step
        changes too. Raises OSError if a file of the data cannot be read.
        """
        description_by_input = {}
        for name, source in step.inputs.items():
            if isinstance(source, Parameter):
                # The source is a parameter that holds the path of data.
                files = list_files(self._context.find_source(source))
                description_by_input[name] = self._fingerprints.hash_files(files)
            else:
                # The source is an output of another step.
                producer, output = source
                execution_id = self._context.record.done[producer].id
                description_by_input[name] = f"{execution_id} {output}"
        return description_by_input

    def _hash_data(self, step: Step) -> dict[str, str]:
        """Return a fingerprint of each data input of a step, by the name of the input.

        The command `runs` uses the fingerprints to show which data has changed between two
        runs. Data that cannot be read is left out, so the command says nothing about it.
        """
        fingerprint_by_input: dict[str, str] = {}
        for name, source in step.inputs.items():
            # The data of a pipeline is passed as a Parameter. Every other input is the output
            # of an earlier step.
            is_data = isinstance(source, Parameter)
            if is_data:
                with suppress(OSError):
                    files = list_files(self._context.find_source(source))
                    fingerprint_by_input[name] = self._fingerprints.hash_files(files)
        return fingerprint_by_input

    def _mark_earlier_steps_valid(
        self, step: Step, old_model: RegisteredModel, new_model: RegisteredModel
    ) -> None:
        """Record that the results of the steps before `step` are valid for a new model.

        The results of a step list the registered models for which they are valid: they are
        reused only while one of these models is registered. Results that do not list the
        old model are outdated already, so the new model is not added to them. The record is
        changed in memory, and is written together with the results of `step`.
        """
        results_by_step = self._context.record.done
        for name in self._context.plan.list_steps_before(step.name):
            results = results_by_step.get(name)
            if results is None or old_model.fingerprint not in results.models:
                continue
            models = [*results.models, new_model.fingerprint]
            results_by_step[name] = results.model_copy(update={"models": models})


def find_results(
    runs: Path, step_name: str, key: str, model_fingerprint: str
) -> StepRecord | None:
    """Return the newest results that a step may reuse, or None if there are none.

    The results must have the reuse key `key`. They must be valid for the registered model
    that the step looks up now, which has the fingerprint `model_fingerprint`. Their files
    must not have changed since the step wrote them. `runs` is the folder of all runs.
    """
    for run in list_runs(runs):
        results = run.record.done.get(step_name)
        if results is None or results.key != key:
            continue
        if model_fingerprint not in results.models:
            continue
        # If this run has itself reused the results, their files are in the folder of an
        # earlier run, which `results.run` names.
        run_with_files = results.run or run.folder.name
        # If the files have been removed, listing them raises OSError.
        with suppress(OSError):
            outputs = runs / run_with_files / step_name / "outputs"
            if hash_listing(outputs) == results.files:
                return results.model_copy(update={"run": run_with_files})
    return None


def describe_value(value: Argument | Source, values: Mapping[str, Value]) -> str:
    """Return an argument or the source of an input as text.

    A parameter is replaced by its value, which `values` holds by the parameter's name.
    """
    if isinstance(value, Parameter):
        return str(values[value.name])
    return str(value)


def describe_step(step: Step, values: Mapping[str, Value]) -> list[str]:
    """Return the arguments of a step and then the sources of its inputs, as text.

    The text does not contain the path of the project, so results stay reusable after the
    project has been moved.
    """
    return [
        describe_value(value, values)
        for value in (*step.arguments, *step.inputs.values())
    ]


def _hash_code(step: Step, code_folder: Path, fingerprints: Fingerprints) -> str:
    """Return a fingerprint of the files of a step, which are in `code_folder`."""
    files = {file.as_posix(): code_folder / file for file in step.snapshot}
    return fingerprints.hash_files(files)


def _hash_step(
    step: Step,
    *,
    values: Mapping[str, Value],
    inputs: Mapping[str, str],
    code_hash: str,
) -> str:
    """Return the hash of everything that the results of a step depend on.

    `values` holds the values of the pipeline's parameters, `inputs` holds a description of
    the content of each input, and `code_hash` is a hash of the step's files.
    """
    # The string "model" and the output called "model" have the same text, although they are
    # different arguments. So the type of each argument is hashed too. The unused parameters,
    # such as the number of nodes, have no effect on this machine. They are hashed because
    # Azure ML compares all parameters of a step.
    arguments = [
        [type(argument).__name__, describe_value(argument, values)]
        for argument in (*step.arguments, *step.unused_parameters)
    ]
    # The order is part of the hash: another order would make all earlier results unusable.
    return hash_json(
        [
            step.name,
            step.script,
            step.is_parallel,
            step.outputs,
            arguments,
            dict(inputs),
            code_hash,
            step.environment,
            step.environment_variables,
        ]
    )
