"""The record of a run, in the file `run.json` of its folder.

Somebody may have edited the file. So all values are checked when it is read, and none of
them can be a path outside of the folder of runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field

RECORD = "run.json"


def check_run_name(name: str) -> str:
    """Return the name of a run, which may be empty. Raises ValueError for other paths."""
    if name and (name in (".", "..") or set(name) & set("/\\:\0")):
        raise ValueError(f"{name!r} is not the name of a run")
    return name


#: The id of a run in MLflow, or an empty text.
MlflowRunId = Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")]


class StepRecord(BaseModel):
    """The results of a step that has succeeded, and what they were made from."""

    model_config = ConfigDict(frozen=True, strict=True)

    #: The arguments and inputs of the step as text, to show what has changed. Version 1.0.0
    #: called them `words`.
    arguments: list[str] = Field(validation_alias=AliasChoices("arguments", "words"))
    #: The reuse key of the step; empty if no other run may use these results.
    key: str
    #: The fingerprints of the registered models for which the results hold.
    models: list[str]
    #: The fingerprint of the step's outputs.
    files: str
    #: How long the step took.
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    #: The run whose folder has the outputs; empty if it is the run of this record.
    run: Annotated[str, AfterValidator(check_run_name)] = ""
    #: The id of the step's run in MLflow; empty if an older version has run the step.
    mlflow_run: MlflowRunId = ""
    #: The fingerprints of the data that the step has read, by the names of its inputs.
    data: dict[str, str] = {}
    #: A unique id of this execution of the step.
    id: str = Field(default_factory=lambda: uuid4().hex)


class RunRecord(BaseModel):
    """The pipeline and parameters of a run, and the steps that have succeeded."""

    model_config = ConfigDict(strict=True)

    pipeline: str
    #: The parameters that the command line has set, with their values as text.
    set: dict[str, str] = {}
    #: The names of the pipeline's steps, in their order. Version 1.0.0 did not record them.
    steps: list[str] = []
    #: The results of each step that has succeeded, by the step's name.
    done: dict[str, StepRecord] = {}
    #: The id of the run in MLflow; empty if it has none.
    mlflow_run: MlflowRunId = ""
    #: Nanoseconds since 1970, and more than those of all earlier runs.
    started: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def find_unfinished_steps(self) -> list[str]:
        """Return the steps that failed or never ran."""
        return [step for step in self.steps if step not in self.done]

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read the record of the run in a folder.

        Raises OSError if there is none, and ValueError if it is not the record of a run.
        """
        path = folder / RECORD
        text = path.read_text(encoding="utf-8")
        record = cls.model_validate_json(text)
        if "started" not in record.model_fields_set:
            # Version 1.0.0 did not record when a run was started.
            record.started = path.stat().st_mtime_ns
        return record

    def write(self, folder: Path) -> None:
        """Write the record into the folder of its run, whole or not at all."""
        unfinished = folder / f".{RECORD}"
        text = json.dumps(self.model_dump(), indent=2)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / RECORD)
