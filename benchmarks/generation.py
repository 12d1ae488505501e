"""The time to generate a project: this template, the same with empty hooks, and kedro."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .measure import TEMPLATE, Figures, measure, ratios

KEDRO = TEMPLATE / "build" / "benchmarks" / "bin" / "kedro"
# Creates the smallest kedro project, in a folder `nodes`.
KEDRO_NEW = (
    KEDRO,
    "new",
    "--name=Nodes",
    "--tools=none",
    "--example=n",
    "--telemetry=no",
)


def measure_generation(rounds: int) -> Figures:
    """Return the seconds for the default answers, each time in an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty = folder / "empty"
        ours = folder / "ours"
        for template in (empty, ours):
            template.mkdir()
            for part in ("cookiecutter.json", "this_*.py", "hooks", "templates", "{{*"):
                (path,) = TEMPLATE.glob(part)
                if path.is_dir():
                    shutil.copytree(path, template / path.name)
                else:
                    shutil.copy(path, template / path.name)
        for hook in (empty / "hooks").iterdir():
            hook.write_text("")
        commands: dict[str, list[object]] = {
            name: ["-m", "cookiecutter", template, "--no-input", "-o", "output"]
            for name, template in {"ours": ours, "two empty hooks": empty}.items()
        }
        commands["kedro new"] = [*KEDRO_NEW]
        figures: Figures = {f"{name}, s": [] for name in commands}
        for round_number in range(5 * rounds + 1):
            for name, command in commands.items():
                work = folder / "work"
                work.mkdir()
                seconds = measure(work, *command).seconds
                shutil.rmtree(work)
                # The first round of each command only fills the disk's cache.
                if round_number > 0:
                    figures[f"{name}, s"].append(seconds)
    for reference in ("two empty hooks", "kedro new"):
        reference_seconds = figures[f"{reference}, s"]
        figures[f"ours / {reference}"] = ratios(figures["ours, s"], reference_seconds)
    return figures
