"""The graphs that Azure ML would be given, built by the SDK itself, offline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from azureml.pipeline.core import Pipeline, PipelineStep

from {{ cookiecutter.package_name }} import (
    pipelines,
    sdk_steps,
    settings,
)

BuildPipeline = Callable[[partial[list[PipelineStep]]], Pipeline]

PROJECT = settings.read()
PROJECT = replace(PROJECT, compute=replace(PROJECT.compute, name="cpu-cluster"))


def edges(pipeline: Pipeline) -> set[str]:
    return {
        f"{edge.source_port.node.name}.{edge.source_port.name}"
        f" -> {edge.dest_port.node.name}.{edge.dest_port.name}"
        for edge in pipeline.graph.edges
    }


def test_training_graph(build_pipeline: BuildPipeline) -> None:
    pipeline = build_pipeline(partial(pipelines.training, PROJECT))

    assert pipeline.validate() == []
    assert edges(pipeline) == {
        "raw.data -> prep.raw",
        "prep.prepared -> train.prepared",
        "train.model -> evaluate.model",
        "train.holdout -> evaluate.holdout",
        "train.model -> register.model",
        "evaluate.evaluation -> register.evaluation",
    }
    assert set(pipeline.graph.params) == {
        "raw_data",
        "register",
        *PROJECT.training.hyperparameters,
    }


def test_scoring_graph(build_pipeline: BuildPipeline) -> None:
    pipeline = build_pipeline(partial(pipelines.scoring, PROJECT))

    assert pipeline.validate() == []
    assert edges(pipeline) == {
        "raw.data -> prep.raw",
        "prep.prepared -> score.prepared",
    }
    assert set(pipeline.graph.params) == {
        "raw_data",
        "model_version",
        "mini_batch_size",
        "node_count",
        "process_count_per_node",
    }


def test_every_step_runs_on_the_cluster(build_pipeline: BuildPipeline) -> None:
    for steps in (pipelines.training, pipelines.scoring):
        for node in build_pipeline(partial(steps, PROJECT)).graph.module_nodes:
            assert node.get_param("Target").get_value() == "cpu-cluster"


def test_an_unknown_cluster_is_refused(build_pipeline: BuildPipeline) -> None:
    elsewhere = replace(PROJECT, compute=replace(PROJECT.compute, name="another"))
    with pytest.raises(ValueError, match="another does not exist"):
        build_pipeline(partial(pipelines.training, elsewhere))


def test_building_twice_gives_the_same_steps() -> None:
    """Else Azure ML would never use a step's results again."""
    first, second = (
        sdk_steps.read_steps(pipelines.training(PROJECT)) for _ in range(2)
    )
    assert first == second


def test_steps_are_sent_without_caches_and_hidden_files(tmp_path: Path) -> None:
    prep = sdk_steps.read_steps(pipelines.training(PROJECT))[0]
    assert prep.snapshot == [Path("prep.py")]
