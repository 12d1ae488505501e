"""The pipelines of this project, built with azureml-sdk.

    training:  raw data -> prep -> train -> evaluate -> register
    scoring:   raw data -> prep -> monitor -> score -> summarize

The table PIPELINES lists them. Below it are the functions that build their steps.

The same step objects are used for runs on this machine and for Azure ML. Neither needs a
workspace to build them. Azure ML reuses the results of an earlier run as long as the files,
the arguments and the inputs of a step stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from azureml.core import Environment, RunConfiguration
from azureml.data import OutputFileDatasetConfig
from azureml.data.dataset_consumption_config import DatasetConsumptionConfig
from azureml.pipeline.core import PipelineParameter, PipelineStep
from azureml.pipeline.steps import ParallelRunConfig, ParallelRunStep, PythonScriptStep

from .runtime.arguments import build_arguments
from .runtime.project import PipelineDefinition
from .settings import PROJECT, Settings

STEPS = PROJECT.root / "steps"

# The environment of the steps on Azure ML. Packages come from conda-forge only, because
# Anaconda's own channel needs a licence.
PYTHON_VERSION = "3.11"
BASE_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20260715.v1"
CONDA_CHANNEL = "conda-forge"

# The datasets that a pipeline reads, by name. Each is a pipeline parameter.
DataParameters = Mapping[str, PipelineParameter]


def training(settings: Settings, data: DataParameters) -> list[PipelineStep]:
    """Train and evaluate a model, and register it unless the registered model is better.

    `run --help` shows the first line of this docstring, which says what the pipeline does.
    The function itself only builds the steps of the pipeline and returns them. `data` maps
    `raw_data` to the pipeline parameter with the training data.
    """
    # This output becomes a registered dataset if the settings say so.
    prepared = build_output(settings, "training", "prepared")
    model = OutputFileDatasetConfig("model")
    holdout = OutputFileDatasetConfig("holdout")
    evaluation = OutputFileDatasetConfig("evaluation")

    return [
        build_prep_step(
            settings,
            data["raw_data"],
            prepared,
            target=settings.data.target,
            group=settings.data.group,
        ),
        build_train_step(settings, prepared, model, holdout),
        build_evaluate_step(settings, model, holdout, evaluation),
        build_register_step(settings, model, evaluation),
    ]


def scoring(settings: Settings, data: DataParameters) -> list[PipelineStep]:
    """Predict the target of new data with the registered model.

    `run --help` shows the first line of this docstring, which says what the pipeline does.
    The function itself only builds the steps of the pipeline and returns them. `data` maps
    `raw_data` to the pipeline parameter with the new data.
    """
    # These two outputs become registered datasets if the settings say so.
    prepared = build_output(settings, "scoring", "prepared")
    predictions = build_output(settings, "scoring", "predictions")
    drift_report = OutputFileDatasetConfig("drift_report")
    model_version = PipelineParameter(
        "model_version", str(settings.scoring.model_version)
    )

    return [
        build_prep_step(
            settings, data["raw_data"], prepared, model_version=model_version
        ),
        build_monitor_step(settings, prepared, drift_report, model_version),
        build_score_step(settings, prepared, drift_report, predictions, model_version),
        build_summarize_step(settings, predictions, drift_report),
    ]


# All pipelines of this project, with what the commands need to know of each:
#   build          the function that builds the steps
#   data           the setting below `data` in settings.yml for each dataset
#   reads_model    the steps that look up the registered model
#   model_version  the pipeline parameter with the version of this model; without this
#                  parameter, the steps look up the newest version
PIPELINES = {
    "training": PipelineDefinition(
        build=training,
        data={"raw_data": "training"},
        reads_model=["evaluate", "register"],
    ),
    "scoring": PipelineDefinition(
        build=scoring,
        data={"raw_data": "scoring"},
        reads_model=["prep", "monitor", "score"],
        model_version="model_version",
    ),
}


def build_prep_step(
    settings: Settings,
    raw_data: PipelineParameter,
    prepared: OutputFileDatasetConfig,
    target: str | None = None,
    group: str | None = None,
    model_version: PipelineParameter | None = None,
) -> PythonScriptStep:
    """Build the step that reads CSV or Parquet files and writes one typed table.

    Training passes `target`, the column to predict, which the data must have. It may also
    pass `group`: the train step keeps all rows with the same value in this column together,
    either in the training data or in the rows that are held out.

    Scoring passes `model_version` instead, the version of the registered model. The step
    then reads the new data with the columns and types of this model's training data.
    """
    is_scoring = model_version is not None
    return PythonScriptStep(
        name="prep",
        source_directory=str(STEPS / "prep"),
        script_name="prep.py",
        arguments=build_arguments(
            raw=DatasetConsumptionConfig("raw", raw_data).as_mount(),
            prepared=prepared,
            report=OutputFileDatasetConfig("data_report"),
            target=target,
            keys=settings.data.keys,
            ignore=settings.data.ignore,
            group=group,
            rows_per_part=settings.data.rows_per_part,
            text_format=settings.data.text_format(),
            expect=settings.data.expectations(),
            on_violation=PipelineParameter("on_violation", settings.data.on_violation),
            model_name=settings.name if is_scoring else None,
            model_version=model_version,
        ),
        runconfig=build_run_configuration(settings, step="prep"),
        # For scoring, the registered model may have changed since the last run.
        allow_reuse=not is_scoring,
    )


def build_train_step(
    settings: Settings,
    prepared: OutputFileDatasetConfig,
    model: OutputFileDatasetConfig,
    holdout: OutputFileDatasetConfig,
) -> PythonScriptStep:
    """Build the step that holds out rows for evaluation and trains on all others.

    Each hyperparameter in settings.yml becomes a pipeline parameter.
    """
    hyperparameters = {
        name: PipelineParameter(name, value)
        for name, value in settings.training.parameter_values().items()
    }
    return PythonScriptStep(
        name="train",
        source_directory=str(STEPS / "train"),
        script_name="train.py",
        arguments=build_arguments(
            prepared=prepared.as_input("prepared"),
            model=model,
            holdout=holdout,
            task=settings.task,
            target=settings.data.target,
            keys=settings.data.keys,
            group=settings.data.group,
            test_fraction=settings.training.test_fraction,
            # How rows are held out: from a date on, or at random.
            **settings.training.holdout_arguments(),
            seed=settings.training.seed,
            search=settings.training.search_as_json(),
            # This option must come last: train.py reads all following arguments as names and
            # values of hyperparameters.
            hyperparameters=hyperparameters,
        ),
        runconfig=build_run_configuration(settings, step="train"),
        allow_reuse=True,
    )


def build_evaluate_step(
    settings: Settings,
    model: OutputFileDatasetConfig,
    holdout: OutputFileDatasetConfig,
    evaluation: OutputFileDatasetConfig,
) -> PythonScriptStep:
    """Build the step that compares a new model with a baseline and the registered model."""
    return PythonScriptStep(
        name="evaluate",
        source_directory=str(STEPS / "evaluate"),
        script_name="evaluate.py",
        arguments=build_arguments(
            model=model.as_input("model"),
            holdout=holdout.as_input("holdout"),
            evaluation=evaluation,
            model_name=settings.name,
            metric=settings.training.metric,
            margin=settings.training.margin,
        ),
        runconfig=build_run_configuration(settings, step="evaluate"),
        # The step looks up the registered model, which may have changed since the last run.
        allow_reuse=False,
    )


def build_register_step(
    settings: Settings,
    model: OutputFileDatasetConfig,
    evaluation: OutputFileDatasetConfig,
) -> PythonScriptStep:
    """Build the step that registers the model if the evaluation allows it."""
    return PythonScriptStep(
        name="register",
        source_directory=str(STEPS / "register"),
        script_name="register.py",
        arguments=build_arguments(
            model=model.as_input("model"),
            evaluation=evaluation.as_input("evaluation"),
            registration=OutputFileDatasetConfig("registration"),
            model_name=settings.name,
            register=PipelineParameter("register", settings.training.register),
        ),
        runconfig=build_run_configuration(settings, step="register"),
        # The step looks up the registered model, which may have changed since the last run.
        allow_reuse=False,
    )


def build_monitor_step(
    settings: Settings,
    prepared: OutputFileDatasetConfig,
    drift_report: OutputFileDatasetConfig,
    model_version: PipelineParameter,
) -> PythonScriptStep:
    """Build the step that compares new data with the training data of the model."""
    return PythonScriptStep(
        name="monitor",
        source_directory=str(STEPS / "monitor"),
        script_name="monitor.py",
        arguments=build_arguments(
            prepared=prepared.as_input("prepared"),
            drift_report=drift_report,
            model_name=settings.name,
            model_version=model_version,
            max_psi=settings.monitoring.max_psi,
            ignore=settings.monitoring.ignore,
            on_drift=PipelineParameter("on_drift", settings.monitoring.on_drift),
        ),
        runconfig=build_run_configuration(settings, step="monitor"),
        # The step looks up the registered model, which may have changed since the last run.
        allow_reuse=False,
    )


def build_score_step(
    settings: Settings,
    prepared: OutputFileDatasetConfig,
    drift_report: OutputFileDatasetConfig,
    predictions: OutputFileDatasetConfig,
    model_version: PipelineParameter,
) -> ParallelRunStep:
    """Build the parallel step that writes predictions with the registered model.

    The step does not read the drift report. It only waits for the report, because monitor
    may stop the pipeline if the new data has drifted.
    """
    return ParallelRunStep(
        name="score",
        parallel_run_config=build_parallel_run_config(settings),
        inputs=[prepared.as_input("prepared")],
        side_inputs=[drift_report.as_input("drift_report")],
        output=predictions,
        arguments=build_arguments(
            predictions=predictions,
            predictions_format=settings.scoring.format,
            model_name=settings.name,
            model_version=model_version,
        ),
        # The step looks up the registered model, which may have changed since the last run.
        allow_reuse=False,
    )


def build_summarize_step(
    settings: Settings,
    predictions: OutputFileDatasetConfig,
    drift_report: OutputFileDatasetConfig,
) -> PythonScriptStep:
    """Build the step that summarizes the predictions and the drift report."""
    return PythonScriptStep(
        name="summarize",
        source_directory=str(STEPS / "summarize"),
        script_name="summarize.py",
        arguments=build_arguments(
            predictions=predictions.as_input("predictions"),
            drift_report=drift_report.as_input("drift_report"),
            summary=OutputFileDatasetConfig("summary"),
            task=settings.task,
        ),
        runconfig=build_run_configuration(settings, step="summarize"),
        allow_reuse=True,
    )


def build_parallel_run_config(settings: Settings) -> ParallelRunConfig:
    """Build the configuration of the step score, which scores mini-batches in parallel.

    The configuration says where the step runs, how large the mini-batches are, and how often
    a failed mini-batch is tried again.
    """
    scoring = settings.scoring
    compute = settings.compute_of("score")
    return ParallelRunConfig(
        source_directory=str(STEPS / "score"),
        entry_script="score.py",
        environment=build_environment(settings),
        compute_target=compute.name,
        node_count=PipelineParameter("node_count", compute.max_nodes),
        process_count_per_node=PipelineParameter(
            "process_count_per_node", scoring.process_count_per_node
        ),
        mini_batch_size=PipelineParameter(
            "mini_batch_size", str(scoring.mini_batch_size)
        ),
        run_max_try=scoring.run_max_try,
        run_invocation_timeout=scoring.run_invocation_timeout,
        error_threshold=scoring.error_threshold,
        # score.py writes the predictions itself.
        output_action="summary_only",
        # The worker processes of a node share its cores, so each uses one thread.
        environment_variables={"OMP_NUM_THREADS": "1"},
    )


def build_output(
    settings: Settings, pipeline: str, name: str
) -> OutputFileDatasetConfig:
    """Build an output of a step, which becomes a registered dataset if the settings say so.

    `pipeline` is the name of the pipeline, and `name` is the name of the output.
    """
    output = OutputFileDatasetConfig(name)
    asset_name = settings.asset_name(pipeline, name)
    if asset_name is None:
        return output
    return output.register_on_complete(asset_name)


def build_run_configuration(settings: Settings, step: str) -> RunConfiguration:
    """Build the configuration of a step that runs a script.

    The configuration names the cluster and the environment, and sets environment variables.
    """
    run_configuration = RunConfiguration()
    run_configuration.target = settings.compute_of(step).name
    run_configuration.environment = build_environment(settings)
    # Idle threads of OpenMP sleep instead of spinning, which leaves the cores to others.
    run_configuration.environment_variables = {"OMP_WAIT_POLICY": "PASSIVE"}
    return run_configuration


def build_environment(settings: Settings) -> Environment:
    """Build the environment of the steps on Azure ML from environment/steps.txt.

    That file pins the packages that pip installs.
    """
    environment = Environment.from_pip_requirements(
        name=f"{settings.name}-steps",
        file_path=str(PROJECT.root / "environment" / "steps.txt"),
    )
    environment.docker.base_image = BASE_IMAGE

    conda = environment.python.conda_dependencies
    conda.set_python_version(PYTHON_VERSION)
    # The SDK adds Anaconda's own channel, which needs a licence.
    for channel in list(conda.conda_channels):
        conda.remove_channel(channel)
    conda.add_channel(CONDA_CHANNEL)
    return environment
