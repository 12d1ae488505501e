"""The pipelines, as the jobs that Azure ML is given, and the table that lists them.

    training:  raw data -> prep -> train -> evaluate -> register
    scoring:   raw data -> prep -> score

No pipeline needs a workspace to be built: the local run reads these very jobs. Azure ML
uses the results of a step again while its files, its command and its inputs stay the
same.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Any
from urllib.parse import quote

from azure.ai.ml import Input, Output, command, dsl
from azure.ai.ml.entities import Command, Environment, PipelineJob
from azure.ai.ml.parallel import RunFunction, parallel_run_function

from .runtime.project import PipelineDefinition
from .settings import PROJECT, Settings

STEPS = PROJECT.root / "steps"
PYTHON = "3.11"  # of the steps, on Azure ML
IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20260715.v1"
CHANNEL = "conda-forge"  # the only one, as Anaconda's own channel needs a licence

FOLDER = Input(type="uri_folder")
NEW_FOLDER = Output(type="uri_folder")

# The data of a pipeline by name, each an input of the pipeline.
DataInputs = Mapping[str, Input]


def training(settings: Settings, data: DataInputs) -> PipelineJob:
    """prep -> train -> evaluate -> register, on raw data with the target."""
    options, target = settings.training, settings.data.target
    hyperparameters = {
        # Numbers stay numbers. Other values are text, which train reads as Python would.
        name: value if type(value) in (int, float) else str(value)
        for name, value in options.hyperparameters.items()
    }

    prep = _prep(settings, target)
    train = command(
        name="train",
        code=str(STEPS / "train"),
        command=_command_line(
            "train.py",
            prepared=_input("prepared"),
            model=_output("model"),
            holdout=_output("holdout"),
            task=settings.task,
            target=target,
            keys=settings.data.keys,
            test_fraction=options.test_fraction,
            seed=options.seed,
            # This option is the last one, as the step takes all words that follow it.
            hyperparameters=[
                word for name in hyperparameters for word in (name, _input(name))
            ],
        ),
        inputs={"prepared": FOLDER, **hyperparameters},
        outputs={"model": NEW_FOLDER, "holdout": NEW_FOLDER},
        **_surroundings(settings),
    )
    evaluate = command(
        name="evaluate",
        code=str(STEPS / "evaluate"),
        command=_command_line(
            "evaluate.py",
            model=_input("model"),
            holdout=_input("holdout"),
            evaluation=_output("evaluation"),
            model_name=settings.name,
        ),
        inputs={"model": FOLDER, "holdout": FOLDER},
        outputs={"evaluation": NEW_FOLDER},
        is_deterministic=False,  # the registered model, which it looks up, can change
        **_surroundings(settings),
    )
    registration = command(
        name="register",
        code=str(STEPS / "register"),
        command=_command_line(
            "register.py",
            model=_input("model"),
            evaluation=_input("evaluation"),
            registration=_output("registration"),
            model_name=settings.name,
            register=_input("register"),
        ),
        inputs={"model": FOLDER, "evaluation": FOLDER, "register": options.register},
        outputs={"registration": NEW_FOLDER},
        is_deterministic=False,
        **_surroundings(settings),
    )

    @dsl.pipeline(name="training", experiment_name=settings.name)
    @_takes(raw_data=FOLDER, register=options.register, **hyperparameters)
    def pipeline(raw_data, register, **hyperparameters):  # type: ignore[no-untyped-def]
        prepared = prep(raw=raw_data).outputs.prepared
        trained = train(prepared=prepared, **hyperparameters).outputs
        evaluated = evaluate(model=trained.model, holdout=trained.holdout).outputs
        registration(
            model=trained.model, evaluation=evaluated.evaluation, register=register
        )

    return pipeline(**data)


def scoring(settings: Settings, data: DataInputs) -> PipelineJob:
    """prep -> score, on raw data that needs no target."""
    options = settings.scoring

    prep = _prep(settings)
    score = parallel_run_function(
        name="score",
        task=RunFunction(
            code=str(STEPS / "score"),
            entry_script="score.py",
            environment=environment(settings),
            program_arguments=_program_arguments(
                # The service splits them at each space, quoted or not.
                keys=[quote(key) for key in settings.data.keys],
                predictions=_output("predictions"),
                model_name=settings.name,
                model_version=_input("model_version"),
            ),
        ),
        inputs={"prepared": FOLDER, "model_version": str(options.model_version)},
        outputs={"predictions": NEW_FOLDER},
        input_data=_input("prepared"),
        compute=settings.compute.name,
        instance_count=settings.compute.max_nodes,
        max_concurrency_per_instance=options.process_count_per_node,
        mini_batch_size=str(options.mini_batch_size),
        retry_settings={
            "max_retries": options.run_max_try,
            "timeout": options.run_invocation_timeout,
        },
        error_threshold=options.error_threshold,
        # The workers share the cores.
        environment_variables={"OMP_NUM_THREADS": "1"},
        is_deterministic=False,  # the registered model, which it looks up, can change
    )

    @dsl.pipeline(name="scoring", experiment_name=settings.name)
    @_takes(raw_data=FOLDER, model_version=str(options.model_version))
    def pipeline(raw_data, model_version):  # type: ignore[no-untyped-def]
        prepared = prep(raw=raw_data).outputs.prepared
        score(prepared=prepared, model_version=model_version)

    return pipeline(**data)


#: Each pipeline by its name: the function that builds its job; the settings of `data` that it
#: reads, by the name of the input; the steps that look up the registered model; and the
#: input that names the model's version, if it is not always the newest.
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


def _prep(settings: Settings, target: str | None = None) -> Command:
    """Build the first step of both pipelines."""
    options = settings.data
    return command(
        name="prep",
        code=str(STEPS / "prep"),
        command=_command_line(
            "prep.py",
            raw=_input("raw"),
            prepared=_output("prepared"),
            report=_output("data_report"),
            target=target,
            keys=options.keys,
            ignore=options.ignore,
            rows_per_part=options.rows_per_part,
            text_format=options.text_format(),
        ),
        inputs={"raw": FOLDER},
        outputs={"prepared": NEW_FOLDER, "data_report": NEW_FOLDER},
        **_surroundings(settings),
    )


def _command_line(script: str, **options: Any) -> str:
    """Return the shell command of a node that runs a script."""
    return shlex.join(["python", script, *_arguments(**options)])


def _program_arguments(**options: Any) -> str:
    """Return the arguments of an entry script, which the service splits at spaces."""
    return " ".join(_arguments(**options))


def _arguments(**options: Any) -> list[str]:
    """Return the words of a command: `a_b=1` becomes `--a-b 1`.

    Each item of a list becomes a word. Options that are None or an empty list are left out.
    """
    arguments: list[str] = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        if values and value is not None:
            arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    return arguments


def _input(name: str) -> str:
    """Return a placeholder, which the service replaces by an input's value or folder."""
    return "$" + 2 * "{" + f"inputs.{name}" + 2 * "}"


def _output(name: str) -> str:
    """Return a placeholder, which the service replaces by the folder of an output."""
    return "$" + 2 * "{" + f"outputs.{name}" + 2 * "}"


def _takes(**inputs: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare the inputs of a pipeline. The SDK reads them from its function's signature.

    Each is an `Input` for data, or else a value, which is the input's default.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        data = {
            name: value for name, value in inputs.items() if isinstance(value, Input)
        }
        function.__annotations__ = data
        parameters = [
            Parameter(
                name,
                Parameter.POSITIONAL_OR_KEYWORD,
                default=Parameter.empty if name in data else value,
            )
            for name, value in inputs.items()
        ]
        function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def environment(settings: Settings) -> Environment:
    """Return the environment of the steps on Azure ML, with the pinned packages."""
    pins = (PROJECT.root / "environment" / "steps.txt").read_text(encoding="utf-8")
    lines = [line.partition("#")[0].strip() for line in pins.splitlines()]
    packages = [f"python={PYTHON}", "pip", {"pip": [line for line in lines if line]}]
    conda = {"name": "steps", "channels": [CHANNEL], "dependencies": packages}
    content = hashlib.sha256(json.dumps([IMAGE, conda]).encode()).hexdigest()[:12]
    name = f"{settings.name}-steps"
    return Environment(name=name, version=content, image=IMAGE, conda_file=conda)


def _surroundings(settings: Settings) -> dict[str, Any]:
    """Return what all steps have in common that are not parallel."""
    return {
        "compute": settings.compute.name,
        "environment": environment(settings),
        # Threads that wait must not spin, as other steps need the cores.
        "environment_variables": {"OMP_WAIT_POLICY": "PASSIVE"},
    }
