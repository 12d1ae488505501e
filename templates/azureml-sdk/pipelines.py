"""The pipelines, as the steps that Azure ML is given, and the table that lists them.

    training:  raw data -> prep -> train -> evaluate -> register
    scoring:   raw data -> prep -> score

No step needs a workspace to be built: the local run reads these very objects. Azure ML
uses the results of a step again while its files, its arguments and its inputs stay the
same.
"""

from __future__ import annotations

from collections.abc import Mapping

from azureml.core import Environment, RunConfiguration
from azureml.data import OutputFileDatasetConfig
from azureml.data.dataset_consumption_config import DatasetConsumptionConfig
from azureml.pipeline.core import PipelineParameter, PipelineStep
from azureml.pipeline.steps import (
    ParallelRunConfig,
    ParallelRunStep,
    PythonScriptStep,
)

from .runtime.project import PipelineDefinition
from .settings import PROJECT, Settings

# Of the steps' environment on Azure ML.
PYTHON = "3.11"
IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20260715.v1"
CHANNEL = "conda-forge"  # alone: Anaconda's own channel needs a licence

# The data of a pipeline by name, each a pipeline parameter.
DataParameters = Mapping[str, PipelineParameter]


def training(settings: Settings, data: DataParameters) -> list[PipelineStep]:
    """prep -> train -> evaluate -> register, on raw data with the target."""
    options = settings.training
    runconfig = _runconfig(settings)
    prepared = OutputFileDatasetConfig("prepared")
    model = OutputFileDatasetConfig("model")
    holdout = OutputFileDatasetConfig("holdout")
    evaluation = OutputFileDatasetConfig("evaluation")
    registration = OutputFileDatasetConfig("registration")
    hyperparameters = {
        # As text, but for numbers: train reads it as Python would.
        name: PipelineParameter(
            name, value if type(value) in (int, float) else str(value)
        )
        for name, value in options.hyperparameters.items()
    }

    prep = _prep(settings, data["raw_data"], prepared, "--target", settings.data.target)
    train = PythonScriptStep(
        name="train",
        source_directory=_source("train"),
        script_name="train.py",
        arguments=[
            *("--prepared", prepared.as_input("prepared")),
            *("--model", model),
            *("--holdout", holdout),
            *("--task", settings.task),
            *("--target", settings.data.target),
            *("--keys", *settings.data.keys),
            *("--test-fraction", options.test_fraction),
            *("--seed", options.seed),
            "--hyperparameters",  # the last one, as it takes all that follows
            *(part for pair in hyperparameters.items() for part in pair),
        ],
        runconfig=runconfig,
        allow_reuse=True,
    )
    evaluate = PythonScriptStep(
        name="evaluate",
        source_directory=_source("evaluate"),
        script_name="evaluate.py",
        arguments=[
            *("--model", model.as_input("model")),
            *("--holdout", holdout.as_input("holdout")),
            *("--evaluation", evaluation),
            *("--task", settings.task),
            *("--target", settings.data.target),
            *("--model-name", settings.name),
        ],
        runconfig=runconfig,
        allow_reuse=False,  # the registered model, which it looks up, can change
    )
    register = PythonScriptStep(
        name="register",
        source_directory=_source("register"),
        script_name="register.py",
        arguments=[
            *("--model", model.as_input("model")),
            *("--evaluation", evaluation.as_input("evaluation")),
            *("--registration", registration),
            *("--model-name", settings.name),
            *("--register", PipelineParameter("register", options.register)),
        ],
        runconfig=runconfig,
        allow_reuse=False,
    )
    return [prep, train, evaluate, register]


def scoring(settings: Settings, data: DataParameters) -> list[PipelineStep]:
    """prep -> score, on raw data that needs no target."""
    options = settings.scoring
    model_version = PipelineParameter("model_version", str(options.model_version))
    prepared = OutputFileDatasetConfig("prepared")
    predictions = OutputFileDatasetConfig("predictions")

    prep = _prep(settings, data["raw_data"], prepared)
    score = ParallelRunStep(
        name="score",
        parallel_run_config=ParallelRunConfig(
            source_directory=_source("score"),
            entry_script="score.py",
            environment=environment(settings),
            compute_target=settings.compute.name,
            mini_batch_size=PipelineParameter(
                "mini_batch_size", str(options.mini_batch_size)
            ),
            node_count=PipelineParameter("node_count", settings.compute.max_nodes),
            process_count_per_node=PipelineParameter(
                "process_count_per_node", options.process_count_per_node
            ),
            run_max_try=options.run_max_try,
            run_invocation_timeout=options.run_invocation_timeout,
            error_threshold=options.error_threshold,
            output_action="summary_only",  # the script writes its files itself
            # The workers share the cores.
            environment_variables={"OMP_NUM_THREADS": "1"},
        ),
        inputs=[prepared.as_input("prepared")],
        output=predictions,
        arguments=[
            # Keys first, as Azure ML's driver adds arguments behind.
            *("--keys", *settings.data.keys),
            *("--predictions", predictions),
            *("--model-name", settings.name),
            *("--model-version", model_version),
        ],
        allow_reuse=False,  # the registered model, which it looks up, can change
    )
    return [prep, score]


#: A pipeline is a line here: what builds its steps, and the settings of `data` that it
#: reads, each under the name of its pipeline parameter.
PIPELINES = {
    "training": PipelineDefinition(training, data={"raw_data": "training"}),
    "scoring": PipelineDefinition(scoring, data={"raw_data": "scoring"}),
}


def _prep(
    settings: Settings,
    raw_data: PipelineParameter,
    prepared: OutputFileDatasetConfig,
    *target: str,
) -> PythonScriptStep:
    """The first step of both pipelines."""
    options = settings.data
    unusual = {
        "--encoding": options.encoding,
        "--decimal": options.decimal,
        "--thousands": options.thousands,
        "--units": options.units,
        "--date-format": options.date_format,
        "--missing": options.missing,
    }
    reading: list[str] = []
    for option, value in unusual.items():
        if value:
            reading += [option, *([value] if isinstance(value, str) else value)]
    return PythonScriptStep(
        name="prep",
        source_directory=_source("prep"),
        script_name="prep.py",
        arguments=[
            *("--raw", DatasetConsumptionConfig("raw", raw_data).as_mount()),
            *("--prepared", prepared),
            *("--report", OutputFileDatasetConfig("data_report")),
            *target,
            *("--keys", *options.keys),
            *("--ignore", *options.ignore),
            *("--rows-per-part", options.rows_per_part),
            *reading,
        ],
        inputs=[],
        runconfig=_runconfig(settings),
        allow_reuse=True,
    )


def _source(step: str) -> str:
    return str(PROJECT.root / "steps" / step)


def environment(settings: Settings) -> Environment:
    """The pinned packages that steps run with, here and on Azure ML."""
    found = Environment.from_pip_requirements(
        f"{settings.name}-steps", str(PROJECT.root / "environment" / "steps.txt")
    )
    found.docker.base_image = IMAGE
    conda = found.python.conda_dependencies
    conda.set_python_version(PYTHON)
    for channel in list(conda.conda_channels):
        conda.remove_channel(channel)
    conda.add_channel(CHANNEL)
    return found


def _runconfig(settings: Settings) -> RunConfiguration:
    runconfig = RunConfiguration()
    runconfig.target = settings.compute.name
    # Threads that wait for one another must not spin where others need the cores.
    runconfig.environment_variables = {"OMP_WAIT_POLICY": "PASSIVE"}
    runconfig.environment = environment(settings)
    return runconfig
