"""What a workspace has and does, described the same way for both SDKs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import IO, Generic, TypeVar

#: The tag that names the pipeline of a run.
PIPELINE_TAG = "pipeline"
LOG_END_BYTES = 1 << 20  # of a log that are read

RunType = TypeVar("RunType")


@dataclass(frozen=True)
class Cluster:
    """A compute cluster, as it is on Azure."""

    vm_size: str
    max_nodes: int


@dataclass(frozen=True)
class RegisteredEnvironment:
    """An environment of the workspace, and whether this command has registered it."""

    name: str
    version: str
    is_new: bool


@dataclass(frozen=True)
class StepStatus:
    """How far a step of a run has got, such as "running" or "reused"."""

    run_id: str
    name: str
    state: str


@dataclass(frozen=True)
class StartedRun(Generic[RunType]):
    """A run that Azure has started.

    If `answer_was_lost`, Azure's answer to the submission never arrived, and the run was
    found by its id.
    """

    run: RunType
    answer_was_lost: bool = False


@dataclass(frozen=True)
class ScheduleChange:
    """What was done to a schedule: "scheduled", "unchanged" or "disabled"."""

    status: str
    description: str


@dataclass(frozen=True)
class PastRun:
    """A run that was started at some time, and its state in lower case."""

    id: str
    state: str
    started: datetime
    url: str


@dataclass(frozen=True)
class ActiveSchedule:
    """A schedule that is not disabled, and the newest run that it has started, if any."""

    description: str
    created: datetime
    newest_run: PastRun | None


@dataclass(frozen=True)
class Failure:
    """A step of a run that has failed, or the run itself, which has no logs."""

    step: str  # empty for the run itself
    reason: str  # empty if Azure gives none
    url: str
    logs: list[str]
    read_log: Callable[[str], str]  # takes a name of `logs`
    is_parallel: bool


def read_time(text: str) -> datetime:
    """Return a time as Azure writes it, such as 2026-11-29T05:00:01.1234567Z, in UTC."""
    # Azure writes seven decimals, and sometimes Z in place of +00:00.
    seconds = text[: len("2026-11-29T05:00:01")]
    return datetime.fromisoformat(seconds).replace(tzinfo=timezone.utc)


def read_end(file: IO[bytes]) -> str:
    """Return the end of a log, which can be too large to be read as a whole."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LOG_END_BYTES))
    return file.read().decode("utf-8", "replace")
