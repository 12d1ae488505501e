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
from ..steps import Argument, Input, Output, Parameter, PipelineError, Step

# A pipeline cannot be built without data. This address takes the place of the data where a
# pipeline is built only to describe its steps. Nothing is read from it.
PLACEHOLDER_ADDRESS = "https://localhost/data"


def build_steps(
    pipeline: PipelineDefinition,
    settings: Any,
    datasets: Mapping[str, FileDataset] | None = None,
    changing: Collection[str] = (),
) -> list[PipelineStep]:
    """Build the steps of a pipeline with azureml-sdk.

    `datasets` are the data to read, by the names of the pipeline's parameters for data.
    Without them, the steps can be described by read_steps, but not submitted.

    `changing` are the names of parameters whose files may change from run to run. Azure ML
    does not notice changed files and would reuse earlier results, so the steps that read
    these parameters are always run again.
    """
    if datasets is None:
        placeholder = Dataset.File.from_files(PLACEHOLDER_ADDRESS, validate=False)
        datasets = dict.fromkeys(pipeline.data, placeholder)
    data = {name: PipelineParameter(name, datasets[name]) for name in pipeline.data}
    steps: list[Any] = pipeline.build(settings, data)
    for step in steps:
        input_names = {getattr(item.dataset, "name", "") for item in step._inputs}
        reads_changing_data = not input_names.isdisjoint(changing)
        if reads_changing_data:
            # The step is built already, and has no public way to change this.
            step._allow_reuse = False
    return steps


def environments(pipelines: Pipelines, settings: Any) -> list[Environment]:
    """Return the environments of the steps of all pipelines, each only once."""
    by_name: dict[str, Environment] = {}
    for pipeline in pipelines.values():
        for step in build_steps(pipeline, settings):
            environment = step._runconfig.environment
            by_name[environment.name] = environment
    return list(by_name.values())


def read_steps(steps: Iterable[PipelineStep]) -> list[Step]:
    """Describe the steps of a pipeline for the local run."""
    return [_read_step(step) for step in steps]


def _read_step(step: Any) -> Step:
    """Describe a step: its files, its command line, its inputs and its outputs."""
    folder = Path(step._source_directory).resolve()
    ignore_file = get_project_ignore_file(str(folder))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    snapshot = [
        file.relative_to(folder)
        for file in files
        if not ignore_file.is_file_excluded(str(file))
    ]
    unused_parameters = [
        Parameter(parameter.name, parameter.default_value)
        for parameter in (step._runconfig_pipeline_params or {}).values()
    ]
    environment = Environment._serialize_to_dict(step._runconfig.environment)
    return Step(
        name=step.name,
        source_directory=folder,
        snapshot=snapshot,
        script=step._script_name,
        arguments=[_read_argument(argument) for argument in step._arguments],
        inputs={item.name: _find_source(item) for item in step._inputs},
        outputs=list(dict.fromkeys(output.name for output in step._outputs)),
        run_after=[other.name for other in step.run_after_steps],
        environment_variables=dict(step._runconfig.environment_variables),
        environment=json.dumps(environment),
        allow_reuse=step._allow_reuse,
        unused_parameters=unused_parameters,
        is_parallel=isinstance(step, ParallelRunStep),
    )


def _find_source(item: Any) -> Parameter | tuple[str, str]:
    """Return the pipeline parameter, or the step and its output, that an input reads."""
    dataset = item.dataset
    if isinstance(dataset, PipelineParameter):
        return Parameter(dataset.name, None)
    if isinstance(dataset, OutputFileDatasetConfig):
        return dataset._origin.producer_step.name, dataset.name
    raise PipelineError(
        f"pipelines.py: the input {item.name} is a {type(dataset).__name__}, which has "
        "no files on this machine: make it a pipeline parameter, or an output of another "
        "step."
    )


def _read_argument(argument: Any) -> Argument:
    """Return an argument of a step's script as the local run reads it.

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
