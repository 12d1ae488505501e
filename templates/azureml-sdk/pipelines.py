"""The pipelines, as the steps that Azure ML is given, and the table that lists them.

    training:  raw data -> prep -> train -> evaluate -> register
    scoring:   raw data -> prep -> score

No step needs a workspace to be built: the local run reads these very objects. Azure ML
uses the results of a step again while its files, its arguments and its inputs stay the
same.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any
from urllib.parse import quote

from azureml.core import Environment, RunConfiguration
from azureml.data import OutputFileDatasetConfig
from azureml.data.dataset_consumption_config import DatasetConsumptionConfig
from azureml.pipeline.core import PipelineParameter, PipelineStep
from azureml.pipeline.steps import ParallelRunConfig, ParallelRunStep, PythonScriptStep

from .runtime.project import PipelineDefinition
from .settings import PROJECT, Settings

STEPS = PROJECT.root / "steps"
PYTHON = "3.11"  # of the steps, on Azure ML
IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20260715.v1"
CHANNEL = "conda-forge"  # the only one, as Anaconda's own channel needs a licence

# The data of a pipeline by name, each a pipeline parameter.
DataParameters = Mapping[str, PipelineParameter]


def training(settings: Settings, data: DataParameters) -> list[PipelineStep]:
    """prep -> train -> evaluate -> register, on raw data with the target."""
    options, target = settings.training, settings.data.target
    prepared = OutputFileDatasetConfig("prepared")
    model = OutputFileDatasetConfig("model")
    holdout = OutputFileDatasetConfig("holdout")
    evaluation = OutputFileDatasetConfig("evaluation")
    hyperparameters = {
        # Numbers stay numbers. Other values are text, which train reads as Python would.
        name: PipelineParameter(
            name, value if type(value) in (int, float) else str(value)
        )
        for name, value in options.hyperparameters.items()
    }

    prep = _prep(settings, data["raw_data"], prepared, target)
    train = PythonScriptStep(
        name="train",
        source_directory=str(STEPS / "train"),
        script_name="train.py",
        arguments=_arguments(
            prepared=prepared.as_input("prepared"),
            model=model,
            holdout=holdout,
            task=settings.task,
            target=target,
            keys=settings.data.keys,
            test_fraction=options.test_fraction,
            seed=options.seed,
            # This option is the last one, as the step takes all words that follow it.
            hyperparameters=[*chain.from_iterable(hyperparameters.items())],
        ),
        runconfig=_runconfig(settings),
        allow_reuse=True,
    )
    evaluate = PythonScriptStep(
        name="evaluate",
        source_directory=str(STEPS / "evaluate"),
        script_name="evaluate.py",
        arguments=_arguments(
            model=model.as_input("model"),
            holdout=holdout.as_input("holdout"),
            evaluation=evaluation,
            model_name=settings.name,
        ),
        runconfig=_runconfig(settings),
        allow_reuse=False,  # the registered model, which it looks up, can change
    )
    register = PythonScriptStep(
        name="register",
        source_directory=str(STEPS / "register"),
        script_name="register.py",
        arguments=_arguments(
            model=model.as_input("model"),
            evaluation=evaluation.as_input("evaluation"),
            registration=OutputFileDatasetConfig("registration"),
            model_name=settings.name,
            register=PipelineParameter("register", options.register),
        ),
        runconfig=_runconfig(settings),
        allow_reuse=False,
    )
    return [prep, train, evaluate, register]


def scoring(settings: Settings, data: DataParameters) -> list[PipelineStep]:
    """prep -> score, on raw data that needs no target."""
    options = settings.scoring
    prepared = OutputFileDatasetConfig("prepared")
    predictions = OutputFileDatasetConfig("predictions")

    prep = _prep(settings, data["raw_data"], prepared)
    score = ParallelRunStep(
        name="score",
        parallel_run_config=ParallelRunConfig(
            source_directory=str(STEPS / "score"),
            entry_script="score.py",
            environment=environment(settings),
            compute_target=settings.compute.name,
            node_count=PipelineParameter("node_count", settings.compute.max_nodes),
            process_count_per_node=PipelineParameter(
                "process_count_per_node", options.process_count_per_node
            ),
            mini_batch_size=PipelineParameter(
                "mini_batch_size", str(options.mini_batch_size)
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
        arguments=_arguments(
            keys=[quote(key) for key in settings.data.keys],
            predictions=predictions,
            model_name=settings.name,
            model_version=PipelineParameter(
                "model_version", str(options.model_version)
            ),
        ),
        allow_reuse=False,  # the registered model, which it looks up, can change
    )
    return [prep, score]


#: Each pipeline by its name: the function that builds its steps; the settings of `data` that
#: it reads, by the name of the pipeline parameter; the steps that look up the registered
#: model; and the parameter that names the model's version, if it is not always the newest.
PIPELINES = {
    "training": PipelineDefinition(
        training,
        data={"raw_data": "training"},
        reads_model=["evaluate", "register"],
    ),
    "scoring": PipelineDefinition(
        scoring,
        data={"raw_data": "scoring"},
        reads_model=["score"],
        model_version="model_version",
    ),
}


def _prep(
    settings: Settings,
    raw_data: PipelineParameter,
    prepared: OutputFileDatasetConfig,
    target: str | None = None,
) -> PythonScriptStep:
    """Build the first step of both pipelines."""
    options = settings.data
    return PythonScriptStep(
        name="prep",
        source_directory=str(STEPS / "prep"),
        script_name="prep.py",
        arguments=_arguments(
            raw=DatasetConsumptionConfig("raw", raw_data).as_mount(),
            prepared=prepared,
            report=OutputFileDatasetConfig("data_report"),
            target=target,
            keys=options.keys,
            ignore=options.ignore,
            rows_per_part=options.rows_per_part,
            text_format=options.text_format(),
        ),
        inputs=[],
        runconfig=_runconfig(settings),
        allow_reuse=True,
    )


def _arguments(**options: Any) -> list[Any]:
    """Return a command line: `a_b=1` becomes `--a-b 1`.

    Each item of a list becomes a word. Options that are None or an empty list are left out.
    """
    arguments: list[Any] = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        if values and value is not None:
            arguments += [f"--{name.replace('_', '-')}", *values]
    return arguments


def environment(settings: Settings) -> Environment:
    """Return the environment of the steps on Azure ML, with the pinned packages."""
    steps_environment = Environment.from_pip_requirements(
        f"{settings.name}-steps", str(PROJECT.root / "environment" / "steps.txt")
    )
    steps_environment.docker.base_image = IMAGE
    conda = steps_environment.python.conda_dependencies
    conda.set_python_version(PYTHON)
    for channel in list(conda.conda_channels):
        conda.remove_channel(channel)
    conda.add_channel(CHANNEL)
    return steps_environment


def _runconfig(settings: Settings) -> RunConfiguration:
    """Return where and in which environment a step runs that is not parallel."""
    runconfig = RunConfiguration()
    runconfig.target = settings.compute.name
    # Threads that wait must not spin, as other steps need the cores.
    runconfig.environment_variables = {"OMP_WAIT_POLICY": "PASSIVE"}
    runconfig.environment = environment(settings)
    return runconfig
