"""Show the messages of a local run on the screen, and its progress while a step runs."""

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

# The labels of the lines that say how a step ended, in rich's markup.
RAN = "[green]ran[/] "
REUSED = "[cyan]reused[/] "
FAILED = "[red]failed[/] "
REMOVED = "[dim]removed[/] "
#: Lines of a log with this prefix are also shown on the screen.
NOTE = "note: "
#: The last line of a log with this prefix is shown while the step runs. A slow step can
#: print how much it has done, and how long the rest will take.
STEP_PROGRESS = "progress: "
#: At most this many notes of a log are shown.
MOST_NOTES = 100
#: At most this many characters of a log's line are shown.
LONGEST_LINE = 10_000


@dataclass(frozen=True)
class LogSummary:
    """The lines of a step's log that are shown on the screen."""

    last_lines: list[str]
    #: Each note once, in the order of the log.
    notes: list[str]

    @property
    def last_line(self) -> str:
        """The last line, in which a step sums up its results. Empty if there is none."""
        return self.last_lines[-1] if self.last_lines else ""


def summarize_log(log: Path) -> LogSummary:
    """Return the last lines and the notes of a log, which may be of any size.

    Lines are cut off after LONGEST_LINE characters. Raises OSError if the log cannot be
    read.
    """
    last_lines: deque[str] = deque(maxlen=LOG_END)
    notes: list[str] = []
    with log.open(encoding="utf-8", errors="replace") as file:
        is_rest_of_line = False
        while line := file.readline(LONGEST_LINE):
            if not is_rest_of_line:
                text = line.rstrip("\n")
                last_lines.append(text)
                is_new_note = line.startswith(NOTE) and text not in notes
                if is_new_note and len(notes) < MOST_NOTES:
                    notes.append(text)
            is_rest_of_line = not line.endswith("\n")
    return LogSummary(list(last_lines), notes)


class Screen:
    """Prints the messages of a run, in colours if the output is a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def print(self, text: str, *, label: str = "", style: str = "none") -> None:
        """Print a label and a text.

        The label may contain rich's markup for colours, and `style` is a style of rich for
        the text. The text may quote data, so it is made harmless.
        """
        line = f"{label}[{style}]{escape(make_harmless(text))}[/]"
        self.console.print(line, highlight=False, soft_wrap=True)

    def print_notes(self, log: LogSummary) -> None:
        """Print the notes of a step's log, indented below the line of the step."""
        for note in log.notes:
            self.print(f"    {note}")

    @contextmanager
    def show_progress(
        self, text: str, step_folder: Path | None = None, last_duration: float = 0.0
    ) -> Iterator[None]:
        """Show a text and the elapsed time while the block runs, if there is a terminal.

        If `step_folder` is the folder of a step, the progress of the step is shown too. If
        `last_duration` is the seconds that the step took in its last run, an estimate of the
        time left is shown too.
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
    """Shows the progress of a step, from its log, its outputs and its last duration."""

    max_refresh = 1.0  # seconds

    def __init__(self, folder: Path | None, last_duration: float) -> None:
        super().__init__()
        self._folder = folder
        self._last_duration = last_duration
        # The seconds from the start of the step until its first mini-batch was done.
        self._first_batch = 0.0

    def render(self, task: Task) -> Text:
        """Return the text that rich shows in this column."""
        if self._folder is None:
            return Text("")
        elapsed = task.elapsed or 0.0
        parts = []
        log = self._folder / "log.txt"
        batches = _read_last_line(log, PROGRESS)
        if batches:
            self._first_batch = self._first_batch or elapsed
            parts.append(_describe_batches(batches, elapsed - self._first_batch))
        progress = make_harmless(_read_last_line(log, STEP_PROGRESS))
        if progress:
            parts.append(progress)
        size = _measure_files(self._folder / "outputs")
        if size and elapsed:
            parts.append(f"{decimal(size)} written, {decimal(int(size / elapsed))}/s")
        # The step's own estimate of the time left is more accurate.
        if self._last_duration > elapsed and not progress:
            parts.append(f"about {self._last_duration - elapsed:.0f} s left")
        return Text(", ".join(parts), "dim")


def _read_last_line(log: Path, start: str) -> str:
    """Return the last line of a log that begins with `start`, without this prefix.

    Returns an empty string if there is no such line near the end of the log, or if the log
    cannot be read.
    """
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LONGEST_LINE))
        # The step may not have written all of the last line yet, so it is left out.
        complete_lines = file.read().decode("utf-8", "replace").split("\n")[:-1]
        for line in reversed(complete_lines):
            if line.startswith(start):
                return line.removeprefix(start)
    return ""


def _describe_batches(progress: str, seconds: float) -> str:
    """Describe how many mini-batches are done, their speed, and the seconds left.

    `progress` is a text such as "3/10", and `seconds` is the time since the first mini-batch
    was done. The first mini-batch is left out of the speed, because it had to wait until its
    worker had started.
    """
    done, total = (int(number) for number in progress.split("/"))
    text = f"{done} of {total} mini-batches"
    if done > 1 and seconds:
        left = seconds * (total - done) / (done - 1)
        text += f", {(done - 1) / seconds:.1f} a second, {left:.0f} s left"
    return text


def _measure_files(folder: Path) -> int:
    """Return the total size in bytes of the files in a folder that a step writes to.

    If a file is removed before its size is read, the files after it are not counted.
    """
    size = 0
    with suppress(OSError):
        for file in folder.rglob("*"):
            if file.is_file():
                size += file.stat().st_size
    return size
