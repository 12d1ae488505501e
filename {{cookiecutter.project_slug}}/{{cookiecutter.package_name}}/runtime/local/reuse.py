"""Decide whether a step must run, or whether the results of an earlier run can be reused.

The rule is the same as for `allow_reuse` on Azure ML: the results of a step are reused
while its files, arguments, parameters, environment variables, packages and inputs stay the
same. The reuse key of a step is a hash of all these. Two inputs of data are the same if
they have the same content. Two outputs of another step are the same only if one execution
of that step has written both. So if a step runs, all steps that depend on it run too.

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
        # On Azure ML, a step that looks up the registered model must not be reused, because
        # the model is not one of its inputs. Here, the model is compared as well.
        reads_model = step.name in context.plan.model_readers
        if not step.allow_reuse and not reads_model:
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
        the step or of its data cannot be read.
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
        mlflow_run: str,
    ) -> None:
        """Record the results of a step that has run.

        `key` is the reuse key of the step, and `mlflow_run` is the id of the step's run in
        MLflow. `model_before` is the registered model as it was before the step ran. If a
        new model has been registered since then, it matters who has registered it:

        - If this run has registered it, the results of the steps before this step are
          recorded as valid for the new model too.
        - If another process has registered it, nobody knows which of the two models this
          step has looked up. So the results of this step are recorded as not reusable.
        """
        context = self._context
        model = self.find_model(step)
        if model.fingerprint != model_before.fingerprint:
            was_registered_by_this_run = model.run == context.folder.name
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
            mlflow_run=mlflow_run,
            data=self._hash_data(step),
        )
        context.record_step(step.name, results)

    def _describe_inputs(self, step: Step) -> dict[str, str]:
        """Return a description of each input of a step, which goes into the reuse key.

        The description changes if the step could read something else: for data, it is a
        hash of the files; for the output of another step, it names the execution of that
        step.
        """
        description_by_input = {}
        for name, source in step.inputs.items():
            if isinstance(source, Parameter):
                files = list_files(self._context.find_source(source))
                description_by_input[name] = self._fingerprints.hash_files(files)
            else:
                # The source is an output of another step.
                producer, output = source
                execution_id = self._context.record.done[producer].id
                description_by_input[name] = f"{execution_id} {output}"
        return description_by_input

    def _hash_data(self, step: Step) -> dict[str, str]:
        """Return a fingerprint of each input of data that a step reads, by input name.

        Data that cannot be read is left out. The command `runs` then cannot tell whether it
        has changed.
        """
        fingerprint_by_input: dict[str, str] = {}
        for name, source in step.inputs.items():
            is_data = isinstance(source, Parameter)
            if is_data:
                with suppress(OSError):
                    files = list_files(self._context.find_source(source))
                    fingerprint_by_input[name] = self._fingerprints.hash_files(files)
        return fingerprint_by_input

    def _mark_earlier_steps_valid(
        self, step: Step, old_model: RegisteredModel, new_model: RegisteredModel
    ) -> None:
        """Record that the results of all steps before `step` are valid for a new model.

        Results that are not valid for the old model stay as they are.
        """
        done = self._context.record.done
        for name in self._context.plan.list_steps_before(step.name):
            results = done.get(name)
            if results is None or old_model.fingerprint not in results.models:
                continue
            models = [*results.models, new_model.fingerprint]
            done[name] = results.model_copy(update={"models": models})


def find_results(
    runs: Path, step_name: str, key: str, model_fingerprint: str
) -> StepRecord | None:
    """Return the newest results of a step with the reuse key `key`, or None.

    `model_fingerprint` stands for the registered model that the step looks up now. The
    results must be valid for this model, and their files must not have changed since the
    step wrote them.
    """
    for run in list_runs(runs):
        results = run.record.done.get(step_name)
        if results is None or results.key != key:
            continue
        if model_fingerprint not in results.models:
            continue
        # If this run has itself reused the results, their files are in an earlier run.
        run_with_files = results.run or run.folder.name
        # The files may have been removed.
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

    `values` holds the values of the pipeline's parameters, `inputs` a description of the
    content of each input, and `code_hash` is a hash of the step's files.
    """
    # An argument may be a plain string, or stand for an output with the same name. So the
    # type of each argument is hashed too.
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
