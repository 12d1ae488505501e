"""The pipelines of this project, built with azure-ai-ml.

    training:  raw data -> prep -> train -> evaluate -> register
    scoring:   raw data -> prep -> monitor -> score -> summarize

The table PIPELINES lists them. Below it are the functions that build their steps.

The same pipeline jobs are used for runs on this machine and for Azure ML. Neither needs a
workspace to build them. In the command of a step, `${{inputs.NAME}}` and `${{outputs.NAME}}`
stand for the folder or the value of an input or output. Azure ML reuses the results of an
earlier run as long as the files, the command and the inputs of a step stay the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from azure.ai.ml import Input, Output, command, dsl
from azure.ai.ml.entities import Command, Environment, Parallel, PipelineJob
from azure.ai.ml.parallel import RunFunction, parallel_run_function

from .runtime.arguments import build_arguments
from .runtime.azure.sdk_steps import build_command, declare_inputs
from .runtime.project import PipelineDefinition
from .settings import PROJECT, Settings

STEPS = PROJECT.root / "steps"

# The environment of the steps on Azure ML. Packages come from conda-forge only, because
# Anaconda's own channel needs a licence.
PYTHON_VERSION = "3.11"
BASE_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20260715.v1"
CONDA_CHANNEL = "conda-forge"

# Idle threads of OpenMP sleep instead of spinning, which leaves the cores to others.
ENVIRONMENT_VARIABLES = {"OMP_WAIT_POLICY": "PASSIVE"}

# The datasets that a pipeline reads, by name. Each is an input of the pipeline.
DataInputs = Mapping[str, Input]


def training(settings: Settings, data: DataInputs) -> PipelineJob:
    """Train and evaluate a model, and register it unless the registered model is better.

    `run --help` shows the first line of this docstring, which says what the pipeline does.
    The function itself only builds the steps, connects them, and returns the pipeline job.
    `data` maps `raw_data` to the input with the training data.
    """
    prep = build_prep_step(
        settings, "training", target=settings.data.target, group=settings.data.group
    )
    train = build_train_step(settings)
    evaluate = build_evaluate_step(settings)
    register_model = build_register_step(settings)

    @dsl.pipeline(name="training", experiment_name=settings.name)
    @declare_inputs(
        raw_data=Input(type="uri_folder"),
        on_violation=settings.data.on_violation,
        register=settings.training.register,
        **settings.training.parameter_values(),
    )
    def pipeline(
        raw_data: Input, on_violation: str, register: str, **hyperparameters: Any
    ) -> None:
        # Connect the steps: outputs of one step are inputs of another.
        prepared = prep(raw=raw_data, on_violation=on_violation).outputs.prepared
        trained = train(prepared=prepared, **hyperparameters).outputs
        evaluated = evaluate(model=trained.model, holdout=trained.holdout).outputs
        register_model(
            model=trained.model, evaluation=evaluated.evaluation, register=register
        )

    # The other inputs keep the defaults that are declared above.
    return pipeline(**data)


def scoring(settings: Settings, data: DataInputs) -> PipelineJob:
    """Predict the target of new data with the registered model.

    `run --help` shows the first line of this docstring, which says what the pipeline does.
    The function itself only builds the steps, connects them, and returns the pipeline job.
    `data` maps `raw_data` to the input with the new data.
    """
    default_version = str(settings.scoring.model_version)
    prep = build_prep_step(settings, "scoring", model_version=default_version)
    monitor = build_monitor_step(settings)
    score = build_score_step(settings)
    summarize = build_summarize_step(settings)

    @dsl.pipeline(name="scoring", experiment_name=settings.name)
    @declare_inputs(
        raw_data=Input(type="uri_folder"),
        on_violation=settings.data.on_violation,
        model_version=default_version,
        on_drift=settings.monitoring.on_drift,
    )
    def pipeline(
        raw_data: Input, on_violation: str, model_version: str, on_drift: str
    ) -> None:
        # Connect the steps: outputs of one step are inputs of another.
        prepared = prep(
            raw=raw_data, on_violation=on_violation, model_version=model_version
        ).outputs.prepared
        drift_report = monitor(
            prepared=prepared, model_version=model_version, on_drift=on_drift
        ).outputs.drift_report
        # score does not read the drift report. It only waits for the report, because monitor
        # may stop the pipeline.
        predictions = score(
            prepared=prepared, drift_report=drift_report, model_version=model_version
        ).outputs.predictions
        summarize(predictions=predictions, drift_report=drift_report)

    # The other inputs keep the defaults that are declared above.
    return pipeline(**data)


# All pipelines of this project, with what the commands need to know of each:
#   build          the function that builds the job
#   data           the setting below `data` in settings.yml for each dataset
#   reads_model    the steps that look up the registered model
#   model_version  the input with the version of this model; without this input, the steps
#                  look up the newest version
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
    pipeline: str,
    target: str | None = None,
    group: str | None = None,
    model_version: str | None = None,
) -> Command:
    """Build the step that reads CSV or Parquet files and writes one typed table.

    Training passes `target`, the column to predict, which the data must have. It may also
    pass `group`: the train step keeps all rows with the same value in this column together,
    either in the training data or in the rows that are held out.

    Scoring passes `model_version` instead, the version of the registered model. The step
    then reads the new data with the columns and types of this model's training data.
    """
    is_scoring = model_version is not None
    model_options: dict[str, str] = {}
    model_inputs: dict[str, Any] = {}
    if is_scoring:
        model_options["model_name"] = settings.name
        model_options["model_version"] = "${{inputs.model_version}}"
        model_inputs["model_version"] = model_version
    return command(
        name="prep",
        code=str(STEPS / "prep"),
        command=build_command(
            "prep.py",
            raw="${{inputs.raw}}",
            prepared="${{outputs.prepared}}",
            report="${{outputs.data_report}}",
            target=target,
            keys=settings.data.keys,
            ignore=settings.data.ignore,
            group=group,
            rows_per_part=settings.data.rows_per_part,
            text_format=settings.data.text_format(),
            expect=settings.data.expectations(),
            on_violation="${{inputs.on_violation}}",
            **model_options,
        ),
        inputs={
            "raw": Input(type="uri_folder"),
            "on_violation": settings.data.on_violation,
            **model_inputs,
        },
        outputs={
            "prepared": build_output(settings, pipeline, "prepared"),
            "data_report": Output(type="uri_folder"),
        },
        compute=settings.compute_of("prep").name,
        environment=build_environment(settings),
        environment_variables=ENVIRONMENT_VARIABLES,
        # For scoring, the registered model may have changed since the last run.
        is_deterministic=not is_scoring,
    )


def build_train_step(settings: Settings) -> Command:
    """Build the step that holds out rows for evaluation and trains on all others.

    Each hyperparameter in settings.yml becomes an input.
    """
    hyperparameters = settings.training.parameter_values()
    placeholders = {name: "${{inputs." + name + "}}" for name in hyperparameters}
    return command(
        name="train",
        code=str(STEPS / "train"),
        command=build_command(
            "train.py",
            prepared="${{inputs.prepared}}",
            model="${{outputs.model}}",
            holdout="${{outputs.holdout}}",
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
            hyperparameters=placeholders,
        ),
        inputs={"prepared": Input(type="uri_folder"), **hyperparameters},
        outputs={
            "model": Output(type="uri_folder"),
            "holdout": Output(type="uri_folder"),
        },
        compute=settings.compute_of("train").name,
        environment=build_environment(settings),
        environment_variables=ENVIRONMENT_VARIABLES,
    )


def build_evaluate_step(settings: Settings) -> Command:
    """Build the step that compares a new model with a baseline and the registered model."""
    return command(
        name="evaluate",
        code=str(STEPS / "evaluate"),
        command=build_command(
            "evaluate.py",
            model="${{inputs.model}}",
            holdout="${{inputs.holdout}}",
            evaluation="${{outputs.evaluation}}",
            model_name=settings.name,
            metric=settings.training.metric,
            margin=settings.training.margin,
        ),
        inputs={
            "model": Input(type="uri_folder"),
            "holdout": Input(type="uri_folder"),
        },
        outputs={"evaluation": Output(type="uri_folder")},
        compute=settings.compute_of("evaluate").name,
        environment=build_environment(settings),
        environment_variables=ENVIRONMENT_VARIABLES,
        # The step looks up the registered model, which may have changed since the last run.
        is_deterministic=False,
    )


def build_register_step(settings: Settings) -> Command:
    """Build the step that registers the model if the evaluation allows it."""
    return command(
        name="register",
        code=str(STEPS / "register"),
        command=build_command(
            "register.py",
            model="${{inputs.model}}",
            evaluation="${{inputs.evaluation}}",
            registration="${{outputs.registration}}",
            model_name=settings.name,
            register="${{inputs.register}}",
        ),
        inputs={
            "model": Input(type="uri_folder"),
            "evaluation": Input(type="uri_folder"),
            "register": settings.training.register,
        },
        outputs={"registration": Output(type="uri_folder")},
        compute=settings.compute_of("register").name,
        environment=build_environment(settings),
        environment_variables=ENVIRONMENT_VARIABLES,
        # The step looks up the registered model, which may have changed since the last run.
        is_deterministic=False,
    )


def build_monitor_step(settings: Settings) -> Command:
    """Build the step that compares new data with the training data of the model."""
    return command(
        name="monitor",
        code=str(STEPS / "monitor"),
        command=build_command(
            "monitor.py",
            prepared="${{inputs.prepared}}",
            drift_report="${{outputs.drift_report}}",
            model_name=settings.name,
            model_version="${{inputs.model_version}}",
            max_psi=settings.monitoring.max_psi,
            ignore=settings.monitoring.ignore,
            on_drift="${{inputs.on_drift}}",
        ),
        inputs={
            "prepared": Input(type="uri_folder"),
            "model_version": str(settings.scoring.model_version),
            "on_drift": settings.monitoring.on_drift,
        },
        outputs={"drift_report": Output(type="uri_folder")},
        compute=settings.compute_of("monitor").name,
        environment=build_environment(settings),
        environment_variables=ENVIRONMENT_VARIABLES,
        # The step looks up the registered model, which may have changed since the last run.
        is_deterministic=False,
    )


def build_score_step(settings: Settings) -> Parallel:
    """Build the parallel step that writes predictions with the registered model.

    The step does not read the drift report. It only waits for the report, because monitor
    may stop the pipeline if the new data has drifted.
    """
    compute = settings.compute_of("score")
    arguments = build_arguments(
        predictions="${{outputs.predictions}}",
        predictions_format=settings.scoring.format,
        model_name=settings.name,
        model_version="${{inputs.model_version}}",
    )
    return parallel_run_function(
        name="score",
        task=RunFunction(
            code=str(STEPS / "score"),
            entry_script="score.py",
            environment=build_environment(settings),
            # No argument may hold a space: the service splits the text at each space.
            program_arguments=" ".join(arguments),
        ),
        inputs={
            "prepared": Input(type="uri_folder"),
            "drift_report": Input(type="uri_folder"),
            "model_version": str(settings.scoring.model_version),
        },
        outputs={"predictions": build_output(settings, "scoring", "predictions")},
        input_data="${{inputs.prepared}}",
        compute=compute.name,
        instance_count=compute.max_nodes,
        max_concurrency_per_instance=settings.scoring.process_count_per_node,
        mini_batch_size=str(settings.scoring.mini_batch_size),
        retry_settings={
            "max_retries": settings.scoring.run_max_try,
            "timeout": settings.scoring.run_invocation_timeout,
        },
        error_threshold=settings.scoring.error_threshold,
        # The worker processes of a node share its cores, so each uses one thread.
        environment_variables={"OMP_NUM_THREADS": "1"},
        # The step looks up the registered model, which may have changed since the last run.
        is_deterministic=False,
    )


def build_summarize_step(settings: Settings) -> Command:
    """Build the step that summarizes the predictions and the drift report."""
    return command(
        name="summarize",
        code=str(STEPS / "summarize"),
        command=build_command(
            "summarize.py",
            predictions="${{inputs.predictions}}",
            drift_report="${{inputs.drift_report}}",
            summary="${{outputs.summary}}",
            task=settings.task,
        ),
        inputs={
            "predictions": Input(type="uri_folder"),
            "drift_report": Input(type="uri_folder"),
        },
        outputs={"summary": Output(type="uri_folder")},
        compute=settings.compute_of("summarize").name,
        environment=build_environment(settings),
        environment_variables=ENVIRONMENT_VARIABLES,
    )


def build_output(settings: Settings, pipeline: str, name: str) -> Output:
    """Build an output of a step, which becomes a data asset if the settings say so.

    `pipeline` is the name of the pipeline, and `name` is the name of the output. Azure ML
    gives each new asset the next version.
    """
    return Output(type="uri_folder", name=settings.asset_name(pipeline, name))


def build_environment(settings: Settings) -> Environment:
    """Build the environment of the steps on Azure ML from environment/steps.txt.

    The version of the environment is a hash of its content, so Azure ML gets a new version
    only if the content changes.
    """
    conda_file = {
        "name": "steps",
        "channels": [CONDA_CHANNEL],
        "dependencies": [
            f"python={PYTHON_VERSION}",
            "pip",
            {"pip": read_pinned_packages()},
        ],
    }
    content = json.dumps([BASE_IMAGE, conda_file]).encode()
    # The first digits of the hash are enough to tell versions apart.
    version = hashlib.sha256(content).hexdigest()[:12]
    return Environment(
        name=f"{settings.name}-steps",
        version=version,
        image=BASE_IMAGE,
        conda_file=conda_file,
    )


def read_pinned_packages() -> list[str]:
    """Return the lines of environment/steps.txt without comments and empty lines."""
    path = PROJECT.root / "environment" / "steps.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    packages = [line.partition("#")[0].strip() for line in lines]
    return [package for package in packages if package]
