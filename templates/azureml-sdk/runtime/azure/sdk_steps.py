"""Read the steps of the Azure ML SDK: what each would run, with what, on Azure.

It reads what azureml-sdk itself keeps of a step, attributes that have been the same since
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
from ..steps import Argument, Input, Output, Parameter, Step


def build_steps(
    pipeline: PipelineDefinition,
    settings: Any,
    datasets: Mapping[str, FileDataset] | None = None,
    changing: Collection[str] = (),
) -> list[PipelineStep]:
    """The steps of a pipeline, on datasets of the workspace if there is one.

    Azure ML does not look into data: steps that read what is `changing` in its place
    are run each time.
    """
    # In a local run, folders of the project are read in the place of this.
    nowhere = Dataset.File.from_files("https://localhost/data", validate=False)
    found = datasets or dict.fromkeys(pipeline.data, nowhere)
    data = {name: PipelineParameter(name, found[name]) for name in pipeline.data}
    steps: list[Any] = pipeline.build(settings, data)
    for step in steps:
        if any(getattr(one.dataset, "name", "") in changing for one in step._inputs):
            step._allow_reuse = False
    return steps


def environments(pipelines: Pipelines, settings: Any) -> list[Environment]:
    """Each environment that steps of the pipelines run in."""
    steps = [step for one in pipelines.values() for step in build_steps(one, settings)]
    found = [step._runconfig.environment for step in steps]
    return list({environment.name: environment for environment in found}.values())


def read_steps(steps: Iterable[PipelineStep]) -> list[Step]:
    """The steps of a pipeline as the local run takes them."""
    return [_read_step(step) for step in steps]


def _read_step(step: Any) -> Step:
    folder = Path(step._source_directory).resolve()
    ignored = get_project_ignore_file(str(folder))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    sent = [file for file in files if not ignored.is_file_excluded(str(file))]
    unused = (step._runconfig_pipeline_params or {}).values()
    environment = Environment._serialize_to_dict(step._runconfig.environment)
    return Step(
        name=step.name,
        source_directory=folder,
        snapshot=[file.relative_to(folder) for file in sent],
        script=step._script_name,
        arguments=[_argument(argument) for argument in step._arguments],
        inputs={item.name: _source(item) for item in step._inputs},
        outputs=list(dict.fromkeys(output.name for output in step._outputs)),
        run_after=[other.name for other in step.run_after_steps],
        environment_variables=dict(step._runconfig.environment_variables),
        environment=json.dumps(environment),
        allow_reuse=step._allow_reuse,
        unused_parameters=[Parameter(one.name, one.default_value) for one in unused],
        is_parallel=isinstance(step, ParallelRunStep),
    )


def _source(item: Any) -> Parameter | tuple[str, str]:
    """Where an input comes from: a step's output port, or a pipeline parameter."""
    dataset = item.dataset
    if isinstance(dataset, PipelineParameter):
        return Parameter(dataset.name, None)
    if isinstance(dataset, OutputFileDatasetConfig):
        return dataset._origin.producer_step.name, dataset.name
    raise NotImplementedError(
        f"The input {item.name} is a {type(dataset).__name__}, which has no local files:"
        " make it a pipeline parameter, or an output of another step."
    )


def _argument(argument: Any) -> Argument:
    if isinstance(argument, PipelineParameter):
        return Parameter(argument.name, argument.default_value)
    match str(argument).split(":", 1):
        case ["DatasetConsumptionConfig", name]:
            return Input(name)
        case ["DatasetOutputConfig", name]:
            return Output(name)
    return str(argument)
