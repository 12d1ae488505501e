"""Test that MLflow shows the rows that a local run writes into its database.

A local run writes them without MLflow. These tests read them with MLflow itself. A step
continues its row as it does on Azure ML.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from step_tracking import track_in
from template_package import load

tracked_runs = load("runtime.local.tracked_runs")


@pytest.fixture
def tracked(tmp_path: Path) -> Iterator[Any]:
    """The runs of an experiment in a database that MLflow has made."""
    with track_in(tmp_path, "penguins"):
        yield tracked_runs.TrackedRuns(tmp_path / "mlflow.db", "penguins")


def run_step(
    tracked: Any, name: str, parent: str, monkeypatch: Any, **metrics: float
) -> str:
    """Run a step that logs metrics, a parameter and a tag; return the id of its run."""
    with tracked.track(name, {"mlflow.parentRunId": parent, "run": "folder"}) as step:
        monkeypatch.setenv("MLFLOW_RUN_ID", step.id)
        with mlflow.start_run() as run:
            assert run.info.run_id == step.id
            mlflow.log_metrics(metrics)
            mlflow.log_param("step", name)
            mlflow.set_tag("verdict", f"from {name}")
        assert "MLFLOW_RUN_ID" not in os.environ
        step.status = "FINISHED"
    return str(step.id)


def test_pipeline_is_the_parent_of_its_steps(
    tracked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracked.track("2026-11-30-training", {"pipeline": "training"}) as run:
        train = run_step(tracked, "train", run.id, monkeypatch, rows=240, loss=0.5)
        evaluate = run_step(tracked, "evaluate", run.id, monkeypatch, loss=0.25)
        run.status = "FINISHED"
        tracked.set_results(run.id, {"seed": "42"}, [train, evaluate])

    rows = mlflow.search_runs(experiment_names=["penguins"]).set_index("run_id")
    parent = rows.loc[run.id]
    assert parent["tags.mlflow.runName"] == "2026-11-30-training"
    assert parent["status"] == "FINISHED"
    assert parent["tags.pipeline"] == "training"
    assert parent["params.seed"] == "42"
    # Where two steps have logged the same name, the later one counts.
    assert (parent["metrics.rows"], parent["metrics.loss"]) == (240, 0.25)
    assert (parent["params.step"], parent["tags.verdict"]) == (
        "evaluate",
        "from evaluate",
    )
    assert rows.loc[[train, evaluate], "tags.mlflow.parentRunId"].eq(run.id).all()
    assert rows.loc[[train, evaluate], "tags.mlflow.runName"].tolist() == [
        "train",
        "evaluate",
    ]
    assert parent["artifact_uri"].endswith(f"/artifacts/{run.id}/artifacts")
    assert mlflow.MlflowClient().get_metric_history(run.id, "loss")[0].value == 0.25


def test_run_that_is_stopped_is_shown_as_killed(tracked: Any) -> None:
    with pytest.raises(KeyboardInterrupt), tracked.track("stopped", {}) as run:
        raise KeyboardInterrupt
    shown = mlflow.get_run(run.id).info
    assert shown.status == "KILLED"
    assert shown.end_time >= shown.start_time


def test_step_that_runs_again_belongs_to_the_same_run(tracked: Any) -> None:
    with tracked.track("a run", {}) as run:
        run.status = "FAILED"
    with tracked.track("a run", {}, run.id) as again:
        assert mlflow.get_run(run.id).info.status == "RUNNING"
        again.status = "FINISHED"
    assert again.id == run.id
    assert mlflow.get_run(run.id).info.status == "FINISHED"
    assert len(mlflow.search_runs(experiment_names=["penguins"])) == 1


def test_tags_of_git_tell_whether_changes_are_uncommitted(tmp_path: Path) -> None:
    assert tracked_runs.find_git_tags(tmp_path) == {}
    user = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    file = tmp_path / "settings.yml"
    file.write_text("seed: 1", encoding="utf-8")
    for command in (["init", "-q"], ["add", "."], [*user, "commit", "-qm", "Work"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    tags = tracked_runs.find_git_tags(tmp_path)
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tags["azureml.git.dirty"] == "False"

    file.write_text("seed: 2", encoding="utf-8")
    assert tracked_runs.find_git_tags(tmp_path) == {**tags, "azureml.git.dirty": "True"}
