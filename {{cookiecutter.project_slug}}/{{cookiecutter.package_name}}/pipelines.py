"""The two pipelines, as the steps that Azure ML is given.

    training:  raw -> prep -> train -> evaluate -> register
    scoring:   raw -> prep -> score

No step needs a workspace to be built: the local run reads these very objects.

Azure ML uses the results of a step again while its files, its arguments and the names of
its inputs stay the same. So `reuse_prep=False` is for raw data that changes in its place.
"""

from __future__ import annotations

from azureml.core import Dataset, Environment, RunConfiguration
from azureml.data import FileDataset, OutputFileDatasetConfig
from azureml.data.dataset_consumption_config import DatasetConsumptionConfig
from azureml.pipeline.core import PipelineParameter, PipelineStep
from azureml.pipeline.steps import (
    ParallelRunConfig,
    ParallelRunStep,
    PythonScriptStep,
)

from .settings import ROOT, Settings

# Of the steps' environment on Azure ML.
PYTHON = "3.11"
IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20260715.v1"
CHANNEL = "conda-forge"  # alone: Anaconda's own channel needs a licence


def training(
    settings: Settings, raw: FileDataset | None = None, reuse_prep: bool = True
) -> list[PipelineStep]:
    """prep -> train -> evaluate -> register, on `raw` files with the target."""
    options = settings.training
    hyperparameters = {
        # As text, but for numbers: train reads it as Python would.
        name: PipelineParameter(
            name, value if type(value) in (int, float) else str(value)
        )
        for name, value in options.hyperparameters.items()
    }
    unless_worse = PipelineParameter("register", options.register)
    runconfig = _runconfig(settings)
    prepared = OutputFileDatasetConfig("prepared")
    model = OutputFileDatasetConfig("model")
    holdout = OutputFileDatasetConfig("holdout")
    evaluation = OutputFileDatasetConfig("evaluation")
    registration = OutputFileDatasetConfig("registration")

    prep = _prep(
        settings, raw, reuse_prep, prepared, ["--target", settings.data.target]
    )
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
            *("--register", unless_worse),
        ],
        runconfig=runconfig,
        allow_reuse=False,
    )
    return [prep, train, evaluate, register]


def scoring(
    settings: Settings, raw: FileDataset | None = None, reuse_prep: bool = True
) -> list[PipelineStep]:
    """prep -> score, on `raw` files that need no target."""
    options = settings.scoring
    model_version = PipelineParameter("model_version", str(options.model_version))
    mini_batch_size = PipelineParameter("mini_batch_size", str(options.mini_batch_size))
    node_count = PipelineParameter("node_count", settings.compute.max_nodes)
    processes = PipelineParameter(
        "process_count_per_node", options.process_count_per_node
    )
    prepared = OutputFileDatasetConfig("prepared")
    predictions = OutputFileDatasetConfig("predictions")

    prep = _prep(settings, raw, reuse_prep, prepared)
    score = ParallelRunStep(
        name="score",
        parallel_run_config=ParallelRunConfig(
            source_directory=_source("score"),
            entry_script="score.py",
            environment=environment(settings),
            compute_target=settings.compute.name,
            mini_batch_size=mini_batch_size,
            node_count=node_count,
            process_count_per_node=processes,
            run_max_try=options.run_max_try,
            run_invocation_timeout=options.run_invocation_timeout,
            error_threshold=options.error_threshold,
            output_action="summary_only",  # the script writes its files itself
            environment_variables={
                "OMP_NUM_THREADS": "1"
            },  # the workers share the cores
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


def _prep(
    settings: Settings,
    raw: FileDataset | None,
    reuse: bool,
    prepared: OutputFileDatasetConfig,
    target: list[str] | None = None,
) -> PythonScriptStep:
    """The first step of both pipelines."""
    if raw is None:  # a local run reads the files of the project in its place
        raw = Dataset.File.from_files("https://localhost/raw", validate=False)
    raw_input = DatasetConsumptionConfig("raw", PipelineParameter("raw_data", raw))
    return PythonScriptStep(
        name="prep",
        source_directory=_source("prep"),
        script_name="prep.py",
        arguments=[
            *("--raw", raw_input.as_mount()),
            *("--prepared", prepared),
            *("--report", OutputFileDatasetConfig("data_report")),
            *(target or []),
            *("--keys", *settings.data.keys),
            *("--ignore", *settings.data.ignore),
            *("--rows-per-part", settings.data.rows_per_part),
        ],
        inputs=[],
        runconfig=_runconfig(settings),
        allow_reuse=reuse,
    )


def _source(step: str) -> str:
    return str(ROOT / "steps" / step)


def environment(settings: Settings) -> Environment:
    """The pinned packages that steps run with, here and on Azure ML."""
    found = Environment.from_pip_requirements(
        f"{settings.name}-steps", str(ROOT / "environment" / "steps.txt")
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
