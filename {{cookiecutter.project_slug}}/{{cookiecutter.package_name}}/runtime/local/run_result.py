"""Describe how a local run and its steps ended, as `run --json` prints it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class StepResult:
    """How a step of a run ended."""

    name: str
    #: "ran", "reused", "failed" or "skipped".
    status: str
    #: The duration of the step. 0 if it did not run.
    seconds: float = 0.0
    #: The folder of each output of the step, by the name of the output.
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    pipeline: str
    #: "completed" or "failed".
    status: str
    #: The folder of the run.
    folder: str
    steps: list[StepResult]

    def list_reports(self) -> list[Path]:
        """Return the paths of the HTML reports that the steps have written."""
        reports = []
        for step in self.steps:
            for folder in step.outputs.values():
                report = Path(folder) / "report.html"
                if report.is_file():
                    reports.append(report)
        return reports

    def output(self, port: str) -> Path:
        """Return the folder of the output called `port`, such as "predictions".

        If several steps have an output with this name, that of the last step is returned.
        Raises KeyError if no step has an output with this name.
        """
        folder_by_output = {}
        for step in self.steps:
            folder_by_output.update(step.outputs)
        return Path(folder_by_output[port])
