"""Hold the plan, the record and the folders of a local run, which all its modules use."""

from __future__ import annotations

import shlex
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
MIN_FREE_BYTES = 2**16


@dataclass(frozen=True)
class RunContext:
    """All that the modules of a local run share, such as the settings and the folders."""

    project: Project[Any]
    settings: ProjectSettings
    plan: RunPlan
    #: The folder of this run.
    folder: Path
    #: The pipeline and parameters of the run, and the results of its steps so far.
    record: RunRecord
    screen: Screen
    #: The folder for the temporary files of steps. It is removed when the run ends,
    #: together with the files of steps that were killed.
    temporary_files: TemporaryDirectory[str]

    @property
    def runs(self) -> Path:
        """The folder of all runs of the project."""
        return self.project.root / "runs"

    @property
    def run_command(self) -> str:
        """The command that runs the whole pipeline with the parameters of this run.

        An example is `python -m penguins run training --set max_iterations=7`.
        """
        arguments = ["run", self.record.pipeline]
        for name, value in self.record.set.items():
            arguments += ["--set", f"{name}={value}"]
        return f"{self.project.command} {shlex.join(arguments)}"

    def step_folder(self, step: Step) -> Path:
        """Return the folder of a step in this run."""
        return self.folder / step.name

    def find_source(self, source: Source) -> Path:
        """Return the path from which an input of a step is read.

        If the source of the input is a parameter, the value of the parameter is the path of
        data. Otherwise, the source consists of the name of a step and the name of one of
        its outputs, and the folder of that output is returned. If the step was reused, that
        folder belongs to an earlier run.
        """
        if isinstance(source, Parameter):
            return self.project.root / str(self.plan.values[source.name])
        step_name, output = source
        return self._find_run_folder(step_name) / step_name / "outputs" / output

    def _find_run_folder(self, step_name: str) -> Path:
        """Return the folder of the run in which a step's results were written."""
        results = self.record.done.get(step_name)
        if results is not None and results.run:
            return self.runs / results.run
        return self.folder

    def find_outputs(self, step: Step) -> dict[str, str]:
        """Return the folder of each output of a step, by the name of the output.

        If the step was reused, the folders belong to an earlier run.
        """
        return {
            output: str(self.find_source((step.name, output)))
            for output in step.outputs
        }

    def find_folders(self, step: Step) -> dict[str, str]:
        """Return the path of each input and output of a step.

        A key is the name of the input or output.
        """
        inputs = {
            name: str(self.find_source(source)) for name, source in step.inputs.items()
        }
        return {**inputs, **self.find_outputs(step)}

    def record_step(self, name: str, results: StepRecord) -> None:
        """Add the results of a step to the record of this run, and write the record."""
        self.record.done[name] = results
        self.record.write(self.folder)

    def forget_step(self, name: str) -> None:
        """Remove the results of a step from this run's record, and write the record."""
        self.record.done.pop(name, None)
        self.record.write(self.folder)


def explain_full_disks(folder: Path) -> str:
    """Return a message that names the full disks, or an empty string if none is full.

    Only the disks that a run writes to are checked: the disk of `folder`, and the disk of
    the system's folder for temporary files.
    """
    sentences = []
    for path in (folder, Path(tempfile.gettempdir())):
        try:
            free_bytes = shutil.disk_usage(path).free
        except OSError:
            # The free space of this disk is unknown.
            continue
        if free_bytes < MIN_FREE_BYTES:
            sentences.append(f"The disk that holds {path} is full.")
    return " ".join(sentences)
