"""The plan, the record and the folders of a local run, which all its modules share."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..project import Project
from ..settings_models import ProjectSettings
from ..steps import Parameter, Source, Step
from .plan import RunPlan
from .run_record import RunRecord, StepRecord
from .screen import Screen

#: A disk with fewer free bytes counts as full.
LEAST_FREE = 2**16


@dataclass(frozen=True)
class RunContext:
    """A run, with its plan, what it has recorded so far, and its folders."""

    project: Project[Any]
    settings: ProjectSettings
    plan: RunPlan
    #: The folder of this run.
    folder: Path
    record: RunRecord
    screen: Screen
    #: Where the steps write temporary files. It is removed when the run ends, with what
    #: steps that were killed have left in it.
    temporary_files: TemporaryDirectory[str]

    @property
    def runs(self) -> Path:
        """The folder of all runs of the project."""
        return self.project.root / "runs"

    def step_folder(self, step: Step) -> Path:
        """Return the folder of a step in this run."""
        return self.folder / step.name

    def find_source(self, source: Source) -> Path:
        """Return the path of data, or the folder of a step's output.

        The output is in the folder of an earlier run if its results are reused.
        """
        if isinstance(source, Parameter):
            return self.project.root / str(self.plan.values[source.name])
        step, port = source
        return self._run_folder_of(step) / step / "outputs" / port

    def _run_folder_of(self, step: str) -> Path:
        """Return the folder of the run that a step's results are from."""
        results = self.record.done.get(step)
        if results is not None and results.run:
            return self.runs / results.run
        return self.folder

    def find_outputs(self, step: Step) -> dict[str, str]:
        """Return the folders of a step's outputs by their ports."""
        return {port: str(self.find_source((step.name, port))) for port in step.outputs}

    def find_folders(self, step: Step) -> dict[str, str]:
        """Return the folders of a step's inputs and outputs by their names."""
        inputs = {
            name: str(self.find_source(source)) for name, source in step.inputs.items()
        }
        return {**inputs, **self.find_outputs(step)}

    def record_step(self, name: str, results: StepRecord) -> None:
        """Write the results of a step into the record of this run."""
        self.record.done[name] = results
        self.record.write(self.folder)

    def forget_step(self, name: str) -> None:
        """Remove the results of a step from the record of this run."""
        self.record.done.pop(name, None)
        self.record.write(self.folder)


def explain_full_disks(folder: Path) -> str:
    """Return a sentence for each full disk that a run writes to, or an empty string.

    The disks are those of `folder` and of temporary files.
    """
    sentences = []
    for path in (folder, Path(tempfile.gettempdir())):
        try:
            free = shutil.disk_usage(path).free
        except OSError:
            continue
        if free < LEAST_FREE:
            sentences.append(f"The disk that {path} is on is full.")
    return " ".join(sentences)
