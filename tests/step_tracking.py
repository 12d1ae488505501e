"""MLflow for tests that call the functions of the steps in their own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from threadpoolctl import threadpool_limits


@contextmanager
def track_in(folder: Path, experiment: str) -> Iterator[None]:
    """Let MLflow keep its runs, models and files in an empty folder."""
    uri_before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment(experiment, (folder / "artifacts").as_uri())
    mlflow.set_experiment(experiment)
    # The tables of these tests are so small that a second thread only costs time.
    with threadpool_limits(1):
        yield
    mlflow.set_tracking_uri(uri_before)
