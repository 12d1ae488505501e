"""What a local run shows on the screen: its messages, and progress while a step runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TimeElapsedColumn,
)
from rich.text import Text

from ..harmless_text import make_harmless
from ..steps import LOG_END
from .parallel_driver import PROGRESS

#: Lines of a log that begin like this are shown on the screen too.
NOTE = "note: "
LONGEST_LINE = 10_000  # characters of a log's line that are shown


@dataclass(frozen=True)
class LogSummary:
    """What is shown of a step's log."""

    last_lines: list[str]
    notes: list[str]  # each one once


def summarize_log(log: Path) -> LogSummary:
    """Read the end and the notes of a log, of any size.

    Raises OSError if there is no log.
    """
    last_lines: deque[str] = deque(maxlen=LOG_END)
    notes: dict[str, None] = {}
    with log.open(encoding="utf-8", errors="replace") as file:
        is_continued = False
        while line := file.readline(LONGEST_LINE):
            # The rest of a longer line is left out.
            if not is_continued:
                # What a step prints can hold text from data.
                text = make_harmless(line.rstrip("\n"))
                last_lines.append(text)
                if line.startswith(NOTE):
                    notes[text] = None
            is_continued = not line.endswith("\n")
    return LogSummary(list(last_lines), list(notes))


class Screen:
    """Prints what a run has to say, in colours where there is a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def print(self, text: str, *, label: str = "", style: str = "none") -> None:
        """Print a text as it is, in a style of rich, behind a label.

        The label may have rich's markup for colours; markup in the text is not read.
        """
        line = f"{label}[{style}]{escape(text)}[/]"
        self.console.print(line, highlight=False, soft_wrap=True)

    @contextmanager
    def show_progress(
        self, text: str, step_folder: Path | None = None, last_duration: float = 0.0
    ) -> Iterator[None]:
        """Show that something is under way, where there is a terminal.

        With the folder of a step, also show how far the step has come; with the seconds
        that it took last time, how long it may still take.
        """
        with Progress(
            SpinnerColumn(),
            "{task.description}",
            TimeElapsedColumn(),
            _StepProgress(step_folder, last_duration),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as progress:
            progress.add_task(text, total=None)
            yield


class _StepProgress(ProgressColumn):
    """Shows how far a step has come, by its log, its outputs and its last duration."""

    max_refresh = 1.0  # seconds

    def __init__(self, folder: Path | None, last_duration: float) -> None:
        super().__init__()
        self._folder = folder
        self._last_duration = last_duration
        self._first_batch = 0.0  # seconds until the first mini-batch was done

    def render(self, task: Task) -> Text:
        if self._folder is None:
            return Text("")
        elapsed = task.elapsed or 0.0
        parts = []
        progress = _read_progress(self._folder / "log.txt")
        if progress:
            self._first_batch = self._first_batch or elapsed
            parts.append(_describe_batches(progress, elapsed - self._first_batch))
        size = _measure_files(self._folder / "outputs")
        if size and elapsed:
            parts.append(f"{decimal(size)} written, {decimal(int(size / elapsed))}/s")
        if self._last_duration > elapsed:
            parts.append(f"about {self._last_duration - elapsed:.0f} s left")
        return Text(", ".join(parts), "dim")


def _read_progress(log: Path) -> str:
    """Return how many mini-batches are done by the end of a log, such as "3/10"."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LONGEST_LINE))
        # What follows the last line break is not complete yet.
        complete_lines = file.read().decode("utf-8", "replace").split("\n")[:-1]
        for line in reversed(complete_lines):
            if line.startswith(PROGRESS):
                return line.removeprefix(PROGRESS)
    return ""


def _describe_batches(progress: str, seconds: float) -> str:
    """Describe how many mini-batches are done, and how fast.

    `seconds` have passed since the first one was done, which has waited for its worker.
    """
    done, total = (int(number) for number in progress.split("/"))
    text = f"{done} of {total} mini-batches"
    if done > 1 and seconds:
        left = seconds * (total - done) / (done - 1)
        text += f", {(done - 1) / seconds:.1f} a second, {left:.0f} s left"
    return text


def _measure_files(folder: Path) -> int:
    """Return the bytes of all files below a folder that is being written to."""
    size = 0
    # A file may be gone by the time that it is looked at.
    with suppress(OSError):
        for file in folder.rglob("*"):
            size += file.stat().st_size if file.is_file() else 0
    return size
