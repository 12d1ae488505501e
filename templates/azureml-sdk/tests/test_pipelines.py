"""The graphs that Azure ML would be given, built by the SDK itself, offline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from azureml.pipeline.core import Pipeline

from {{ cookiecutter.package_name }}.pipelines import (
    PIPELINES,
)
from {{ cookiecutter.package_name }}.runtime.sdk_steps import (
    build_steps,
    read_steps,
)
from {{ cookiecutter.package_name }}.settings import (
    PROJECT,
    Settings,
)

BuildPipeline = Callable[[str, Settings], Pipeline]

SETTINGS = PROJECT.settings()
SETTINGS = replace(SETTINGS, compute=replace(SETTINGS.compute, name="cpu-cluster"))


def edges(pipeline: Pipeline) -> set[str]:
    return {
        f"{edge.source_port.node.name}.{edge.source_port.name}"
        f" -> {edge.dest_port.node.name}.{edge.dest_port.name}"
        for edge in pipeline.graph.edges
    }


def test_training_graph(build_pipeline: BuildPipeline) -> None:
    pipeline = build_pipeline("training", SETTINGS)

    assert pipeline.validate() == []
    assert edges(pipeline) == {
        "raw.data -> prep.raw",
        "prep.prepared -> train.prepared",
        "train.model -> evaluate.model",
        "train.holdout -> evaluate.holdout",
        "train.model -> register.model",
        "evaluate.evaluation -> register.evaluation",
    }
    hyperparameters = SETTINGS.training.hyperparameters
    assert set(pipeline.graph.params) == {"raw_data", "register", *hyperparameters}


def test_scoring_graph(build_pipeline: BuildPipeline) -> None:
    pipeline = build_pipeline("scoring", SETTINGS)

    assert pipeline.validate() == []
    scored = "prep.prepared -> score.prepared"
    assert edges(pipeline) == {"raw.data -> prep.raw", scored}
    work = {"mini_batch_size", "node_count", "process_count_per_node"}
    assert set(pipeline.graph.params) == {"raw_data", "model_version", *work}


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_run_on_the_cluster(build_pipeline: BuildPipeline, name: str) -> None:
    for node in build_pipeline(name, SETTINGS).graph.module_nodes:
        assert node.get_param("Target").get_value() == "cpu-cluster"


def test_an_unknown_cluster_is_refused(build_pipeline: BuildPipeline) -> None:
    elsewhere = replace(SETTINGS, compute=replace(SETTINGS.compute, name="another"))
    with pytest.raises(ValueError, match="another does not exist"):
        build_pipeline("training", elsewhere)


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
        assert Path(step.script) in files or step.is_parallel
        assert all(file.suffix == ".py" for file in files), files
