"""The results of a local run, as `run --json` prints them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class StepResult:
    """How a step ended."""

    name: str
    status: str  # ran, reused, failed or skipped
    seconds: float = 0.0
    outputs: dict[str, str] = field(default_factory=dict)  # folders by port


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    pipeline: str
    status: str  # completed or failed
    folder: str
    steps: list[StepResult]

    def list_reports(self) -> list[Path]:
        """Return the pages that the steps have written for people, in the steps' order."""
        reports = []
        for step in self.steps:
            for folder in step.outputs.values():
                report = Path(folder) / "report.html"
                if report.is_file():
                    reports.append(report)
        return reports

    def output(self, port: str) -> Path:
        """Return the folder that a step has written to a port.

        Raises KeyError if no step has such a port.
        """
        folders = {}
        for step in self.steps:
            folders.update(step.outputs)
        return Path(folders[port])
