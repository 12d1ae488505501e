"""Decide whether a step must run, or whether the results of an earlier run can be used.

The rule is that of `allow_reuse` on Azure ML: results are used again while the step's
files, arguments, parameters, environment variables, packages and inputs are the same. The
reuse key of a step is a hash of all these. Data counts as the same if its content is the
same. The output of another step counts as the same only if the same execution has written
it. So if a step runs, all steps that follow it run too.

A step that looks up the registered model has no `allow_reuse` on Azure ML, as the model
may change. In a local run, its results are used again while the registered model is the
same. `pipelines.py` declares these steps by `reads_model`.

If a run registers a new version, the results of its own steps stay reusable, although
those steps looked up the previous version. Otherwise, the next run would have to run
`evaluate` again, which would compare the newly registered model with itself.
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
    """Take over results of earlier runs, and record results so that later runs can."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._fingerprints = Fingerprints(context.runs / ".digests.db")
        self._models = ModelLookup(
            root=context.project.root,
            model=context.settings.name,
            version=context.plan.model_version,
            steps=context.plan.model_readers,
            fingerprints=self._fingerprints,
        )

    def find_model(self, step: Step) -> RegisteredModel:
        """Return the registered model that a step would look up now.

        Raises OSError or sqlite3.Error if it cannot be read.
        """
        return self._models.find(step.name)

    def take_earlier_results(self, step: Step) -> StepRecord | None:
        """Record the results of an earlier run as those of a step, and return them.

        Returns None if the step must run. Raises OSError or sqlite3.Error if the
        registered model cannot be read, or the record cannot be written.
        """
        context = self._context
        may_reuse = step.allow_reuse or step.name in context.plan.model_readers
        if not may_reuse:
            return None
        key = self.compute_key(step, step.source_directory)
        if key == NOT_REUSABLE:
            return None
        model = self.find_model(step)
        # Without the lock, another run could remove the earlier run before its results are
        # recorded.
        with lock_folder(context.runs):
            results = find_results(context.runs, step.name, key, model.fingerprint)
            if results is not None:
                context.record_step(step.name, results)
        return results

    def compute_key(self, step: Step, code: Path) -> str:
        """Return the reuse key of a step whose files are in the folder `code`.

        Returns NOT_REUSABLE if a file of the step or of its data cannot be read.
        """
        message = f"{step.name}: looking for what has changed"
        with self._context.screen.show_progress(message):
            try:
                return _hash_step(
                    step,
                    self._context.plan.values,
                    inputs=self._describe_inputs(step),
                    code=_hash_code(step, code, self._fingerprints),
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

        `key` is the reuse key of the step, `mlflow_run` is the id of its run in MLflow, and
        `model_before` is the registered model as it was before the step ran. The registered
        model may have changed in the meantime:

        - If this run has registered the new model, the results of the earlier steps stay
          reusable. They are recorded as valid for the new model too.
        - If something else has registered it, this step may have looked up either model.
          Its results are then recorded as not reusable.
        """
        context = self._context
        model = self.find_model(step)
        recorded_key = key
        if model.fingerprint != model_before.fingerprint:
            if model.run == context.folder.name:
                self._extend_earlier_results(step, model_before, model)
            else:
                recorded_key = NOT_REUSABLE

        results = StepRecord(
            arguments=describe_step(step, context.plan.values),
            key=recorded_key,
            models=[model.fingerprint],
            files=hash_listing(context.step_folder(step) / "outputs"),
            seconds=seconds,
            mlflow_run=mlflow_run,
            data=self._hash_data(step),
        )
        context.record_step(step.name, results)

    def _describe_inputs(self, step: Step) -> dict[str, str]:
        """Return a description of each input of a step, for the reuse key.

        Data is described by a hash of its files. The output of another step is described by
        the id of the execution that wrote it.
        """
        inputs = {}
        for name, source in step.inputs.items():
            if isinstance(source, Parameter):
                files = list_files(self._context.find_source(source))
                inputs[name] = self._fingerprints.hash_files(files)
            else:
                producer, port = source
                execution = self._context.record.done[producer].id
                inputs[name] = f"{execution} {port}"
        return inputs

    def _hash_data(self, step: Step) -> dict[str, str]:
        """Return the fingerprints of the data that a step reads, by the names of inputs.

        Data that cannot be read is left out.
        """
        data: dict[str, str] = {}
        for name, source in step.inputs.items():
            if isinstance(source, Parameter):
                with suppress(OSError):
                    files = list_files(self._context.find_source(source))
                    data[name] = self._fingerprints.hash_files(files)
        return data

    def _extend_earlier_results(
        self, step: Step, old_model: RegisteredModel, new_model: RegisteredModel
    ) -> None:
        """Record that the results of all steps before `step` are valid for a new model."""
        for name in self._context.plan.list_steps_before(step.name):
            self._extend_to_model(name, old_model.fingerprint, new_model.fingerprint)

    def _extend_to_model(self, step: str, old_model: str, new_model: str) -> None:
        """Record that the results of a step are valid for a new registered model too.

        This changes nothing unless they are valid for the old model. `old_model` and
        `new_model` are fingerprints.
        """
        results = self._context.record.done.get(step)
        if results is not None and old_model in results.models:
            models = [*results.models, new_model]
            self._context.record.done[step] = results.model_copy(
                update={"models": models}
            )


def find_results(runs: Path, step: str, key: str, model: str) -> StepRecord | None:
    """Return the newest results of a step with the same reuse key, or None.

    `model` is the fingerprint of the registered model that the step looks up. The results
    must be valid for this model. Results are skipped if their files were changed or removed
    after the step had written them.
    """
    for run in list_runs(runs):
        results = run.record.done.get(step)
        if results is None or results.key != key or model not in results.models:
            continue
        # This run may have reused the results of an earlier run, which has the files.
        run_with_files = results.run or run.folder.name
        with suppress(OSError):
            outputs = runs / run_with_files / step / "outputs"
            if hash_listing(outputs) == results.files:
                return results.model_copy(update={"run": run_with_files})
    return None


def describe_value(value: Argument | Source, values: Mapping[str, Value]) -> str:
    """Return an argument or the source of an input as text.

    A parameter is replaced by its value from `values`.
    """
    return str(values[value.name] if isinstance(value, Parameter) else value)


def describe_step(step: Step, values: Mapping[str, Value]) -> list[str]:
    """Return the arguments and inputs of a step as text.

    They do not contain the path of the project, so results stay reusable after the project
    has been moved.
    """
    return [
        describe_value(value, values)
        for value in (*step.arguments, *step.inputs.values())
    ]


def _hash_code(step: Step, code: Path, fingerprints: Fingerprints) -> str:
    """Return a fingerprint of a step's snapshot, whose files are in the folder `code`."""
    files = {file.as_posix(): code / file for file in step.snapshot}
    return fingerprints.hash_files(files)


def _hash_step(
    step: Step, values: Mapping[str, Value], inputs: Mapping[str, str], code: str
) -> str:
    """Return the hash of everything that the results of a step depend on."""
    # A plain string may equal the name of an output. The type tells them apart.
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
            code,
            step.environment,
            step.environment_variables,
        ]
    )
