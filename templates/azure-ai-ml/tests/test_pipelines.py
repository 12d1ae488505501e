"""The pipelines as Azure ML would receive them, built by the SDK without Azure.

The SDK does not notice a name that does not exist, or a missing script. `read_steps` does.
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

CLUSTER = "cpu-cluster"


def choose_cluster(settings: Settings, name: str) -> Settings:
    """Return the settings with another compute cluster."""
    compute = settings.compute.model_copy(update={"name": name})
    return settings.model_copy(update={"compute": compute})


SETTINGS = choose_cluster(PROJECT.settings(), CLUSTER)


def build_job(name: str, settings: Settings) -> PipelineJob:
    return build_steps(PIPELINES[name], settings)


def list_edges(job: PipelineJob) -> set[str]:
    """Return the edges of the graph, such as "train.model -> evaluate.model"."""
    edges = set()
    for step in read_steps(job):
        for port, source in step.inputs.items():
            start = ".".join(source) if isinstance(source, tuple) else source.name
            edges.add(f"{start} -> {step.name}.{port}")
    return edges


def test_training_graph() -> None:
    job = build_job("training", SETTINGS)

    assert list_edges(job) == {
        "raw_data -> prep.raw",
        "prep.prepared -> train.prepared",
        "train.model -> evaluate.model",
        "train.holdout -> evaluate.holdout",
        "train.model -> register.model",
        "evaluate.evaluation -> register.evaluation",
    }
    hyperparameters = SETTINGS.training.hyperparameters
    assert set(job.inputs) == {
        "raw_data",
        "on_violation",
        "register",
        *hyperparameters,
    }


def test_scoring_graph() -> None:
    job = build_job("scoring", SETTINGS)

    assert list_edges(job) == {
        "raw_data -> prep.raw",
        "prep.prepared -> monitor.prepared",
        "prep.prepared -> score.prepared",
        "monitor.drift_report -> score.drift_report",
        "score.predictions -> summarize.predictions",
        "monitor.drift_report -> summarize.drift_report",
    }
    assert set(job.inputs) == {
        "raw_data",
        "on_violation",
        "model_version",
        "on_drift",
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_jobs_are_valid(name: str) -> None:
    result = build_job(name, SETTINGS)._validate()
    assert result.passed, result.error_messages


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_run_on_their_cluster(name: str) -> None:
    for step, node in build_job(name, SETTINGS).jobs.items():
        assert node.compute == SETTINGS.compute_of(step).name


@pytest.mark.parametrize("name", PIPELINES)
def test_all_data_is_passed_as_folders(name: str) -> None:
    """The SDK would also accept a folder where a file is expected, which Azure ML refuses."""
    for node in build_job(name, SETTINGS).jobs.values():
        inputs = node.component.inputs.values()
        data = [port for port in inputs if port.default is None]
        for port in [*data, *node.component.outputs.values()]:
            assert port.type == "uri_folder"


@pytest.mark.parametrize("name", PIPELINES)
def test_arguments_of_a_parallel_step_hold_no_space(name: str) -> None:
    """Azure ML splits these arguments at each space, even between quotes."""
    for node in build_job(name, SETTINGS).jobs.values():
        if node.type == "parallel":
            arguments = node.task.program_arguments.split()
            assert not any("'" in text or '"' in text for text in arguments)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_built_twice_has_the_same_steps(name: str) -> None:
    """If it had not, Azure ML would never reuse the results of a step."""
    first = read_steps(build_job(name, SETTINGS))
    second = read_steps(build_job(name, SETTINGS))
    assert first == second


@pytest.mark.parametrize("name", PIPELINES)
def test_azure_ml_receives_only_code(name: str) -> None:
    """The `.amlignore` of a step leaves out caches, which would prevent its reuse."""
    for step in read_steps(build_job(name, SETTINGS)):
        cache = step.source_directory / "__pycache__" / "x.pyc"
        cache.parent.mkdir(exist_ok=True)
        cache.touch()
        try:
            steps = read_steps(build_job(name, SETTINGS))
        finally:
            cache.unlink()

        snapshots = {other.name: other.snapshot for other in steps}
        files = snapshots[step.name]
        assert Path(step.script) in files
        assert all(file.suffix == ".py" for file in files), files
