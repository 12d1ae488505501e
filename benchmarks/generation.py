"""How long a generation takes: ours, the same with two empty hooks, and kedro's."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .measure import TEMPLATE, Figures, measure, ratios

KEDRO = TEMPLATE / "build" / "benchmarks" / "bin" / "kedro"
# Makes a project in a folder `nodes`, of nothing but what kedro needs.
KEDRO_NEW = (
    KEDRO,
    "new",
    "--name=Nodes",
    "--tools=none",
    "--example=n",
    "--telemetry=no",
)


def figures(rounds: int) -> Figures:
    """Seconds, with the default answers, each into an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty, ours = folder / "empty", folder / "ours"
        for template in (empty, ours):
            template.mkdir()
            for part in ("cookiecutter.json", "this_*.py", "hooks", "templates", "{{*"):
                (path,) = TEMPLATE.glob(part)
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, template / path.name)
        for hook in (empty / "hooks").iterdir():
            hook.write_text("")
        commands: dict[str, list[object]] = {
            name: ["-m", "cookiecutter", template, "--no-input", "-o", "output"]
            for name, template in {"ours": ours, "two empty hooks": empty}.items()
        }
        commands["kedro new"] = [*KEDRO_NEW]
        found: Figures = {f"{name}, s": [] for name in commands}
        for round_ in range(5 * rounds + 1):
            for name, command in commands.items():
                work = folder / "work"
                work.mkdir()
                seconds = measure(work, *command).seconds
                shutil.rmtree(work)
                if round_:  # the first of each warms the disk's cache
                    found[f"{name}, s"].append(seconds)
    for other in ("two empty hooks", "kedro new"):
        found[f"ours / {other}"] = ratios(found["ours, s"], found[f"{other}, s"])
    return found
