"""What the benchmarks share: a process is measured, and figures become a table."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

TEMPLATE = Path(__file__).resolve().parents[1]
STEPS = TEMPLATE / "{{cookiecutter.project_slug}}" / "steps"

#: By what was measured: its value in each round.
Figures = dict[str, list[float]]


@dataclass
class Measured:
    """A process that has ended well."""

    seconds: float
    megabytes: float  # the most that it and all that it started held at a time
    result: Any  # its last line, if that is JSON


def measure(
    folder: Path, *command: object, variables: Mapping[str, str] | None = None
) -> Measured:
    """Run a command in a folder; its memory is looked at meanwhile, on Linux.

    That takes a twentieth of the time at the most. Pages of files are left out, as the
    system may take them back. Python's arguments are enough of a command. AssertionError,
    with all it printed, if it fails.
    """
    words = [str(word) for word in command]
    if words[0].startswith("-") or words[0].endswith(".py"):
        words.insert(0, sys.executable)
    environment = {**os.environ, "PYTHONPATH": str(folder), "DO_NOT_TRACK": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment |= variables or {}
    ended, peaks = Event(), [0.0]

    def watch(process: int) -> None:
        pause = 0.01
        while not ended.wait(pause):
            before = time.perf_counter()
            peaks.append(_memory(process))
            pause = max(0.01, 20 * (time.perf_counter() - before))

    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        with subprocess.Popen(
            words,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
        ) as process:
            Thread(target=watch, args=[process.pid]).start()
            try:
                process.wait()
            finally:
                ended.set()
            seconds = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    assert process.returncode == 0, text
    last = text.rstrip().rpartition("\n")[2]
    return Measured(seconds, max(peaks), json.loads(last) if last[:1] == "{" else None)


def _memory(process: int, parent: list[str] | None = None) -> float:
    """Megabytes that a process, and all that it has started, hold of their own now.

    What several share counts once. A process that is just being started has all of its
    `parent`'s (vfork), and counts nothing: their figures are the same.
    """
    folder = Path("/proc", str(process))
    try:
        status = (folder / "status").read_text()
        shares = (folder / "smaps_rollup").read_text()
        children = folder.glob("task/*/children")
        below = [int(child) for one in children for child in one.read_text().split()]
    except OSError:  # it has ended
        return 0.0
    held = re.findall(r"(?:VmPeak|VmSize|RssAnon):\s+(\d+) kB", status)
    own = re.search(r"Pss_Anon:\s+(\d+) kB", shares)
    if not own or held == parent:
        return 0.0
    return int(own[1]) / 1024 + sum(_memory(child, held) for child in below)


def generate(folder: Path, *answers: str) -> Path:
    """A project `benchmark` in a folder, from the template."""
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(folder)]
    answers = ("project_name=Benchmark", *answers)
    subprocess.run(
        [*command, str(TEMPLATE), *answers], check=True, stdout=subprocess.DEVNULL
    )
    return folder / "benchmark"


def ratios(first: list[float], second: list[float]) -> list[float]:
    """The ratio of the two in each round."""
    return [a / b for a, b in zip(first, second, strict=True)]


def show(figures: Figures) -> None:
    """Print a table of the figures."""
    print(f"{'':58} minimum    median   maximum")
    for title, values in figures.items():
        shown = min(values), statistics.median(values), max(values)
        print(f"{title:58}" + "".join(f"{value:10.2f}" for value in shown))
