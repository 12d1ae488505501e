"""The jobs that Azure ML would be given, built and checked by the SDK itself, offline.

The SDK lets a name pass that is nowhere, and a script that is not there: `read_steps`
does not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from azure.ai.ml.entities import PipelineJob

from {{ cookiecutter.package_name }}.pipelines import (
    PIPELINES,
)
from {{ cookiecutter.package_name }}.runtime.azure.sdk_steps import (
    build_steps,
    read_steps,
)
from {{ cookiecutter.package_name }}.settings import (
    PROJECT,
    Settings,
)

SETTINGS = PROJECT.settings()
COMPUTE = SETTINGS.compute.model_copy(update={"name": "cpu-cluster"})
SETTINGS = SETTINGS.model_copy(update={"compute": COMPUTE})


def build_pipeline(name: str, settings: Settings) -> PipelineJob:
    return build_steps(PIPELINES[name], settings)


def edges(job: PipelineJob) -> set[str]:
    found = set()
    for step in read_steps(job):
        for port, source in step.inputs.items():
            start = ".".join(source) if isinstance(source, tuple) else source.name
            found.add(f"{start} -> {step.name}.{port}")
    return found


def test_training_graph() -> None:
    job = build_pipeline("training", SETTINGS)

    assert edges(job) == {
        "raw_data -> prep.raw",
        "prep.prepared -> train.prepared",
        "train.model -> evaluate.model",
        "train.holdout -> evaluate.holdout",
        "train.model -> register.model",
        "evaluate.evaluation -> register.evaluation",
    }
    hyperparameters = SETTINGS.training.hyperparameters
    assert set(job.inputs) == {"raw_data", "register", *hyperparameters}


def test_scoring_graph() -> None:
    job = build_pipeline("scoring", SETTINGS)

    assert edges(job) == {"raw_data -> prep.raw", "prep.prepared -> score.prepared"}
    assert set(job.inputs) == {"raw_data", "model_version"}


@pytest.mark.parametrize("name", PIPELINES)
def test_jobs_are_valid(name: str) -> None:
    result = build_pipeline(name, SETTINGS)._validate()
    assert result.passed, result.error_messages


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_run_on_the_cluster(name: str) -> None:
    for node in build_pipeline(name, SETTINGS).jobs.values():
        assert node.compute == "cpu-cluster"


@pytest.mark.parametrize("name", PIPELINES)
def test_inputs_and_outputs_fit(name: str) -> None:
    """The SDK lets a folder be bound to a file, and a text to a number."""
    nodes = build_pipeline(name, SETTINGS).jobs
    kinds = {
        port.type
        for node in nodes.values()
        for port in [
            *node.component.outputs.values(),
            *(one for one in node.component.inputs.values() if one.default is None),
        ]
    }
    assert kinds == {"uri_folder"}


@pytest.mark.parametrize("name", PIPELINES)
def test_words_of_a_parallel_step_hold_no_space(name: str) -> None:
    """The service splits them at each space, quoted or not."""
    data = SETTINGS.data.model_copy(update={"keys": ["two words", 'a "quote"']})
    settings = SETTINGS.model_copy(update={"data": data})
    for node in build_pipeline(name, settings).jobs.values():
        if node.type == "parallel":
            words = node.task.program_arguments.split()
            assert "two%20words" in words
            assert not any("'" in word or '"' in word for word in words)


@pytest.mark.parametrize("name", PIPELINES)
def test_building_twice_gives_the_same_steps(name: str) -> None:
    """Else Azure ML would never use a step's results again."""
    first = read_steps(build_steps(PIPELINES[name], SETTINGS))
    assert first == read_steps(build_steps(PIPELINES[name], SETTINGS))


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_are_sent_without_caches_and_hidden_files(name: str) -> None:
    """A step's `.amlignore` sees to it; without one, nothing would be used again."""
    for step in read_steps(build_steps(PIPELINES[name], SETTINGS)):
        cache = step.source_directory / "__pycache__" / "x.pyc"
        cache.parent.mkdir(exist_ok=True)
        cache.touch()
        sent = read_steps(build_steps(PIPELINES[name], SETTINGS))
        (files,) = (one.snapshot for one in sent if one.name == step.name)
        cache.unlink()
        assert Path(step.script) in files
        assert all(file.suffix == ".py" for file in files), files
