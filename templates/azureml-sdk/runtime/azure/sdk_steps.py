"""Build the steps of a pipeline with azureml-sdk, and describe them for the local run.

The description is read from private attributes of azureml-sdk's steps, for which the SDK
has no public interface. They have been the same since its version 1.20.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from azureml._project.ignore_file import get_project_ignore_file
from azureml.core import Dataset, Environment
from azureml.data import FileDataset, OutputFileDatasetConfig
from azureml.pipeline.core import PipelineParameter, PipelineStep
from azureml.pipeline.steps import ParallelRunStep

from ..project import PipelineDefinition, Pipelines
from ..steps import Argument, Input, Output, Parameter, PipelineError, Source, Step

# A pipeline cannot be built without data. If it is built only to describe its steps, this
# address takes the place of the data. Nothing is read from it.
PLACEHOLDER_ADDRESS = "https://localhost/data"


def build_steps(
    pipeline: PipelineDefinition,
    settings: Any,
    datasets: Mapping[str, FileDataset] | None = None,
    changing_inputs: Collection[str] = (),
) -> list[PipelineStep]:
    """Build the steps of a pipeline with azureml-sdk.

    `datasets` maps each data parameter of the pipeline to its data. Without `datasets`, the
    steps can be described by read_steps, but not submitted.

    `changing_inputs` are the data parameters whose files may change from run to run. The
    steps that read these parameters are always run again, because Azure ML does not notice
    changed files and would reuse earlier results.
    """
    if datasets is None:
        placeholder = Dataset.File.from_files(PLACEHOLDER_ADDRESS, validate=False)
        datasets = dict.fromkeys(pipeline.data, placeholder)
    data = {name: PipelineParameter(name, datasets[name]) for name in pipeline.data}
    steps: list[Any] = pipeline.build(settings, data)

    for step in steps:
        if _reads_any_parameter(step, changing_inputs):
            # Always run this step. The SDK has no public way to change a built step.
            step._allow_reuse = False
    return steps


def _reads_any_parameter(step: Any, data_parameters: Collection[str]) -> bool:
    """Return whether one of a step's inputs is one of the `data_parameters`."""
    for step_input in step._inputs:
        dataset = step_input.dataset
        if isinstance(dataset, PipelineParameter) and dataset.name in data_parameters:
            return True
    return False


def list_environments(pipelines: Pipelines, settings: Any) -> list[Environment]:
    """Return the environments of the steps of all pipelines, each only once."""
    environment_by_name: dict[str, Environment] = {}
    for pipeline in pipelines.values():
        for step in build_steps(pipeline, settings):
            environment = step._runconfig.environment
            environment_by_name[environment.name] = environment
    return list(environment_by_name.values())


def read_steps(steps: Iterable[PipelineStep]) -> list[Step]:
    """Describe the steps of a pipeline for the local run."""
    return [_read_step(step) for step in steps]


def _read_step(step: Any) -> Step:
    """Describe a step: its files, its command line, its inputs and its outputs."""
    # The SDK has no public way to read a built step, so its private attributes are read.
    folder = Path(step._source_directory).resolve()
    environment = Environment._serialize_to_dict(step._runconfig.environment)
    # These parameters set the number of nodes, which means nothing on one machine.
    node_count_parameters = (step._runconfig_pipeline_params or {}).values()
    return Step(
        name=step.name,
        source_directory=folder,
        snapshot=_list_snapshot(folder),
        script=step._script_name,
        arguments=[_read_argument(argument) for argument in step._arguments],
        inputs={
            step_input.name: _find_source(step_input) for step_input in step._inputs
        },
        outputs=list(dict.fromkeys(output.name for output in step._outputs)),
        run_after=[other.name for other in step.run_after_steps],
        environment_variables=dict(step._runconfig.environment_variables),
        environment=json.dumps(environment),
        allow_reuse=step._allow_reuse,
        unused_parameters=[
            Parameter(parameter.name, parameter.default_value)
            for parameter in node_count_parameters
        ],
        is_parallel=isinstance(step, ParallelRunStep),
    )


def _list_snapshot(folder: Path) -> list[Path]:
    """Return the files in a step's folder that are uploaded, as paths relative to the folder.

    Files that .amlignore or .gitignore excludes are left out.
    """
    ignore_file = get_project_ignore_file(str(folder))
    snapshot = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not ignore_file.is_file_excluded(str(path)):
            snapshot.append(path.relative_to(folder))
    return snapshot


def _find_source(step_input: Any) -> Source:
    """Return what an input of a step reads: a data parameter, or an output of another step.

    An output is a tuple of the name of its step and its own name. Raises PipelineError for
    any other data, which has no files on this machine.
    """
    dataset = step_input.dataset
    if isinstance(dataset, PipelineParameter):
        # A data parameter has no default.
        return Parameter(dataset.name, default=None)
    if isinstance(dataset, OutputFileDatasetConfig):
        return dataset._origin.producer_step.name, dataset.name
    raise PipelineError(
        f"pipelines.py: the input {step_input.name} is a {type(dataset).__name__}, which "
        "has no files on this machine: make it a pipeline parameter, or an output of "
        "another step."
    )


def _read_argument(argument: Any) -> Argument:
    """Return an argument of a step's script in the form that the local run expects.

    The SDK writes an input as "DatasetConsumptionConfig:NAME", and an output as
    "DatasetOutputConfig:NAME".
    """
    if isinstance(argument, PipelineParameter):
        return Parameter(argument.name, argument.default_value)
    match str(argument).split(":", 1):
        case ["DatasetConsumptionConfig", name]:
            return Input(name)
        case ["DatasetOutputConfig", name]:
            return Output(name)
    return str(argument)
