"""Helpers of the benchmarks: they measure a process, and print a table of figures."""

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

#: The value of each figure in each round, by the title of the figure.
Figures = dict[str, list[float]]


@dataclass
class Measured:
    """The measurements of a process that succeeded."""

    seconds: float
    megabytes: float  # The peak memory of the process and its children together.
    result: Any  # The JSON in its last line of output, or None.


def measure(
    folder: Path, *command: object, variables: Mapping[str, str] | None = None
) -> Measured:
    """Run a command in a folder, and measure its time and, on Linux, its memory.

    A command that begins with an option or a script is run by this Python. Reading the
    memory takes at most a twentieth of the time. Pages of files are not counted, because
    the system can take them back. Raises AssertionError with the output if the command fails.
    """
    arguments = [str(argument) for argument in command]
    if arguments[0].startswith("-") or arguments[0].endswith(".py"):
        arguments.insert(0, sys.executable)
    environment = {**os.environ, "PYTHONPATH": str(folder), "DO_NOT_TRACK": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment |= variables or {}
    ended = Event()
    peaks = [0.0]

    def watch(process: int) -> None:
        pause = 0.01
        while not ended.wait(pause):
            before = time.perf_counter()
            peaks.append(_memory(process))
            pause = max(0.01, 20 * (time.perf_counter() - before))

    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        with subprocess.Popen(
            arguments,
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
    last_line = text.rstrip().rpartition("\n")[2]
    result = json.loads(last_line) if last_line.startswith("{") else None
    return Measured(seconds, max(peaks), result)


def _memory(process: int, parent: list[str] | None = None) -> float:
    """Return the megabytes of anonymous memory of a process and its children.

    Memory that several processes share counts once. A process that is just being started
    (vfork) shows the figures of its `parent`, and is not counted.
    """
    folder = Path("/proc", str(process))
    try:
        status = (folder / "status").read_text()
        shares = (folder / "smaps_rollup").read_text()
        children = folder.glob("task/*/children")
        child_ids = [int(i) for file in children for i in file.read_text().split()]
    except OSError:
        return 0.0  # The process has ended.

    sizes = re.findall(r"(?:VmPeak|VmSize|RssAnon):\s+(\d+) kB", status)
    anonymous = re.search(r"Pss_Anon:\s+(\d+) kB", shares)
    if anonymous is None or sizes == parent:
        return 0.0
    return int(anonymous[1]) / 1024 + sum(_memory(child, sizes) for child in child_ids)


def generate(folder: Path, *answers: str) -> Path:
    """Generate the project `benchmark` in a folder, and return the project's folder."""
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(folder)]
    answers = ("project_name=Benchmark", *answers)
    subprocess.run(
        [*command, str(TEMPLATE), *answers], check=True, stdout=subprocess.DEVNULL
    )
    return folder / "benchmark"


def ratios(first: list[float], second: list[float]) -> list[float]:
    """Return the ratio of two figures in each round."""
    return [a / b for a, b in zip(first, second, strict=True)]


def show(figures: Figures) -> None:
    """Print a table of the figures."""
    print(f"{'':58} minimum    median   maximum")
    for title, values in figures.items():
        columns = [min(values), statistics.median(values), max(values)]
        print(f"{title:58}" + "".join(f"{value:10.2f}" for value in columns))
