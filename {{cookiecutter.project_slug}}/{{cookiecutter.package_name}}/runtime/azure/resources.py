"""Descriptions of the resources and runs in a workspace, the same for both SDKs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import IO, Any, Literal

from azure.storage.blob import ContainerClient

#: The tag that names the pipeline of a run.
PIPELINE_TAG = "pipeline"
#: At most this many bytes of a log are read, from its end.
LOG_END_BYTES = 1 << 20


@dataclass(frozen=True)
class Cluster:
    """A compute cluster that exists on Azure."""

    vm_size: str
    max_nodes: int


@dataclass(frozen=True)
class RegisteredEnvironment:
    """An environment of the workspace, and whether this command has registered it."""

    name: str
    version: str
    is_new: bool


@dataclass(frozen=True)
class Datastore:
    """A datastore of the workspace, and a client of its container of blobs."""

    name: str
    container: ContainerClient


@dataclass(frozen=True)
class StepStatus:
    """The state of a step in a run, such as "running" or "reused"."""

    run_id: str
    name: str
    state: str


@dataclass(frozen=True)
class Endpoint:
    """An endpoint under which a pipeline is published."""

    name: str
    #: The default version or deployment, such as "version 3".
    version: str
    url: str
    sdk_endpoint: Any


@dataclass(frozen=True)
class Publication:
    """A pipeline that was published under an endpoint."""

    pipeline_name: str
    experiment: str
    endpoint: Endpoint
    sdk_pipeline: Any


@dataclass(frozen=True)
class ScheduleChange:
    """A schedule, and whether it is new, is kept as it was, or is disabled."""

    status: Literal["scheduled", "unchanged", "disabled"]
    description: str


@dataclass(frozen=True)
class PastRun:
    """A run of a pipeline, which may have ended."""

    id: str
    #: The state in lower case, such as "running" or "failed".
    state: str
    started: datetime
    url: str


@dataclass(frozen=True)
class ActiveSchedule:
    """A schedule that is not disabled."""

    description: str
    created: datetime
    #: The newest run that the schedule has started, if there is one.
    newest_run: PastRun | None


@dataclass(frozen=True)
class Failure:
    """The reason why a step of a run, or the run as a whole, has failed."""

    #: The name of the step. Empty for the run as a whole, which has no logs.
    step: str
    #: The reason that Azure gives. Empty if it gives none.
    reason: str
    url: str
    #: The names of the logs.
    logs: list[str]
    #: Downloads a log by its name, and returns its end.
    read_log: Callable[[str], str]
    #: Whether it is a parallel step, which runs its script in several processes.
    is_parallel: bool


def read_time(text: str) -> datetime:
    """Parse a time of Azure, such as 2026-11-29T05:00:01.1234567Z, to whole seconds.

    Azure's times are in UTC.
    """
    # Azure writes more decimals than Python can parse, so they are cut off.
    seconds = text[: len("2026-11-29T05:00:01")]
    return datetime.fromisoformat(seconds).replace(tzinfo=timezone.utc)


def read_end(file: IO[bytes]) -> str:
    """Return the last LOG_END_BYTES of a log file as text."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LOG_END_BYTES))
    return file.read().decode("utf-8", "replace")
