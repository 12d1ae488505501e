"""Build the steps of a pipeline by azureml-sdk, and read what each would run on Azure ML.

It reads attributes that azureml-sdk itself keeps of a step. They have been the same since
its version 1.20.
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


def build_steps(
    pipeline: PipelineDefinition,
    settings: Any,
    datasets: Mapping[str, FileDataset] | None = None,
    changing: Collection[str] = (),
) -> list[PipelineStep]:
    """Build the steps of a pipeline.

    Without `datasets` they are for reading only: a local run has folders in their place.
    Azure ML does not look into data, so steps that read data named in `changing` are run
    each time.
    """
    if datasets is None:
        placeholder = Dataset.File.from_files("https://localhost/data", validate=False)
        datasets = dict.fromkeys(pipeline.data, placeholder)
    data = {name: PipelineParameter(name, datasets[name]) for name in pipeline.data}
    steps: list[Any] = pipeline.build(settings, data)
    for step in steps:
        names = [getattr(item.dataset, "name", "") for item in step._inputs]
        if not set(names).isdisjoint(changing):
            step._allow_reuse = False
    return steps


def environments(pipelines: Pipelines, settings: Any) -> list[Environment]:
    """Return each environment that steps of the pipelines run in, once."""
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
    """Return an argument; the SDK writes inputs and outputs as texts with a prefix."""
    if isinstance(argument, PipelineParameter):
        return Parameter(argument.name, argument.default_value)
    match str(argument).split(":", 1):
        case ["DatasetConsumptionConfig", name]:
            return Input(name)
        case ["DatasetOutputConfig", name]:
            return Output(name)
    return str(argument)
