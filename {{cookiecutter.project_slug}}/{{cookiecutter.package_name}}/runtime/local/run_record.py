"""Read and write the record of a run: the file `run.json` in the run's folder.

A user may have edited the file, so all values are checked when the file is read. For
example, the name of a run must not be a path that leads out of the folder of runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field

RECORD = "run.json"


def check_run_name(name: str) -> str:
    """Return `name` if it is empty or the name of a folder below `runs/`.

    Raises ValueError for any other path, such as "..", "a/b" or "C:".
    """
    has_forbidden_character = bool(set(name) & set("/\\:\0"))
    if name in (".", "..") or has_forbidden_character:
        raise ValueError(f"{name!r} is not the name of a run")
    return name


#: The id of a run in MLflow, or an empty string.
MlflowRunId = Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")]


class StepRecord(BaseModel):
    """The results of a step that has succeeded, and all that the results depend on."""

    model_config = ConfigDict(frozen=True, strict=True)

    #: The arguments of the step, followed by the sources of its inputs, as text. If they
    #: have changed, a message shows the differences. Version 1.0.0 of the template called
    #: this field `words`.
    arguments: list[str] = Field(validation_alias=AliasChoices("arguments", "words"))
    #: The reuse key of the step. Empty if no other run may use these results.
    key: str
    #: The fingerprints of the registered models for which the results are valid.
    models: list[str]
    #: The fingerprint of the files in the step's outputs.
    files: str
    #: The duration of the step.
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    #: The name of the run whose folder holds the outputs. Empty if this run has executed the
    #: step itself.
    run: Annotated[str, AfterValidator(check_run_name)] = ""
    #: The id of the step's run in MLflow. Empty if version 1.0.0 has run the step.
    mlflow_run: MlflowRunId = ""
    #: The fingerprint of the data of each input, by the name of the input.
    data: dict[str, str] = {}
    #: A unique id of this execution of the step.
    id: str = Field(default_factory=lambda: uuid4().hex)


class RunRecord(BaseModel):
    """The pipeline and parameters of a run, and the steps that have succeeded."""

    model_config = ConfigDict(strict=True)

    pipeline: str
    #: The parameters that the command line has set (`--set`), with their values as text.
    set: dict[str, str] = {}
    #: The names of the pipeline's steps, in the order in which they run. Version 1.0.0 of
    #: the template did not record them.
    steps: list[str] = []
    #: The results of each step that has succeeded, by the step's name.
    done: dict[str, StepRecord] = {}
    #: The id of the run in MLflow. Empty if MLflow does not have the run.
    mlflow_run: MlflowRunId = ""
    #: The start of the run in nanoseconds since 1970. It is later than the start of all
    #: earlier runs, even if the clock was set back.
    started: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def find_unfinished_steps(self) -> list[str]:
        """Return the names of the steps that have not succeeded, in the order of the run."""
        return [step for step in self.steps if step not in self.done]

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read the record of the run in a folder.

        Raises OSError if the file of the record does not exist or cannot be read, and
        ValueError if the file is not the record of a run.
        """
        path = folder / RECORD
        text = path.read_text(encoding="utf-8")
        record = cls.model_validate_json(text)
        # Version 1.0.0 of the template did not record the start of a run. The time of the
        # file takes its place.
        if "started" not in record.model_fields_set:
            record.started = path.stat().st_mtime_ns
        return record

    def write(self, folder: Path) -> None:
        """Write the record into the folder of its run.

        The new file takes the place of the old one when it is complete, so no other process
        reads half a record. Raises OSError if the file cannot be written.
        """
        unfinished_file = folder / f".{RECORD}"
        text = json.dumps(self.model_dump(), indent=2)
        unfinished_file.write_text(text, encoding="utf-8")
        unfinished_file.replace(folder / RECORD)
