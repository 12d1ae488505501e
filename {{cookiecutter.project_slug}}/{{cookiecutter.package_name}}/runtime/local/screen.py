"""Print the messages of a local run, and show the progress of a step while it runs."""

from __future__ import annotations

import threading
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
from .parallel_driver import BATCH_PROGRESS

# The first words of the lines that report how a step ended, in rich's markup.
RAN = "[green]ran[/] "
REUSED = "[cyan]reused[/] "
FAILED = "[red]failed[/] "
REMOVED = "[dim]removed[/] "
#: Lines of a step's log with this prefix are also printed on the screen.
NOTE = "note: "
#: A slow step can print lines with this prefix, about what it has done and how long the
#: rest will take. The newest of these lines is shown while the step runs.
STEP_PROGRESS = "progress: "
#: Not more than this many notes of a log are printed.
MAX_NOTES = 100
#: A line of a log is cut off after this many characters.
MAX_LINE_LENGTH = 10_000
#: If the output is not a terminal, such as the log of a CI job, a line is printed when a
#: step, or any other work of the run, has taken this many seconds.
SECONDS_BEFORE_FIRST_LINE = 10.0
#: After that line, the step's progress is printed not more often than this.
SECONDS_BETWEEN_LINES = 15.0


@dataclass(frozen=True)
class LogSummary:
    """The lines of a step's log that are printed on the screen when the step ends."""

    last_lines: list[str]
    #: The lines that begin with "note: ", each once, in the order of the log.
    notes: list[str]

    @property
    def last_line(self) -> str:
        """The last line, in which a step sums up its results. Empty if there is none."""
        return self.last_lines[-1] if self.last_lines else ""


def summarize_log(log: Path) -> LogSummary:
    """Return the last lines of a step's log, and all lines that begin with "note: ".

    The log may be of any size. Lines are cut off after MAX_LINE_LENGTH characters. Raises
    OSError if the log cannot be read.
    """
    last_lines: deque[str] = deque(maxlen=LOG_END)
    notes: list[str] = []
    with log.open(encoding="utf-8", errors="replace") as file:
        # A longer line is read in several pieces, of which only the first is kept.
        is_rest_of_line = False
        while piece := file.readline(MAX_LINE_LENGTH):
            if not is_rest_of_line:
                line = piece.rstrip("\n")
                last_lines.append(line)
                is_new_note = line.startswith(NOTE) and line not in notes
                if is_new_note and len(notes) < MAX_NOTES:
                    notes.append(line)
            is_rest_of_line = not piece.endswith("\n")
    return LogSummary(list(last_lines), notes)


class Screen:
    """Prints the messages of a run, in colors if the output is a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def print(self, text: str, *, label: str = "", style: str = "none") -> None:
        """Print a label and a text on one line.

        The label may contain rich's markup for colors. `style` is a style of rich for the
        text. The text may quote data, so characters that could control the terminal are
        replaced.
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
        """Show what is being done, and how far it is, during the `with` block.

        On a terminal, this is a line with the text and the elapsed time. If `step_folder`
        is the folder of a step that runs in the block, the line also has the step's
        progress. If `last_duration` is not 0, it is the seconds that the step took in its
        last run, and the line also has an estimate of the time left.

        If the output is not a terminal, a line is printed after some seconds, and the
        progress of a step from time to time.
        """
        if self.console.is_terminal:
            with Progress(
                SpinnerColumn(),
                "{task.description}",
                TimeElapsedColumn(),
                _StepProgress(step_folder, last_duration),
                console=self.console,
                transient=True,
            ) as progress:
                progress.add_task(text, total=None)
                yield
        else:
            with self._print_progress_lines(text, step_folder):
                yield

    @contextmanager
    def _print_progress_lines(
        self, text: str, step_folder: Path | None
    ) -> Iterator[None]:
        """Print lines about the work in the `with` block, from another thread."""
        block_has_ended = threading.Event()
        thread = threading.Thread(
            target=self._report_slow_work,
            args=[text, step_folder, block_has_ended],
            daemon=True,
        )
        thread.start()
        try:
            yield
        finally:
            block_has_ended.set()
            thread.join()

    def _report_slow_work(
        self, text: str, step_folder: Path | None, block_has_ended: threading.Event
    ) -> None:
        """Print that some work is not done yet, then a step's progress when it changes.

        `text` names the work, such as "train". Nothing is printed about work that is done
        within SECONDS_BEFORE_FIRST_LINE.
        """
        # If the output cannot be written, the next message of the run raises the error.
        with suppress(OSError):
            if block_has_ended.wait(SECONDS_BEFORE_FIRST_LINE):
                return
            seconds = SECONDS_BEFORE_FIRST_LINE
            self.print(f"{text}: still at work after {seconds:.0f} s")
            if step_folder is None:
                return

            printed_progress = ""
            while not block_has_ended.wait(SECONDS_BETWEEN_LINES):
                progress = _read_progress(step_folder / "log.txt")
                if progress and progress != printed_progress:
                    self.print(f"{text}: {progress}")
                    printed_progress = progress


class _StepProgress(ProgressColumn):
    """Shows the progress of a step, from its log, its outputs and its last duration."""

    max_refresh = 1.0  # seconds

    def __init__(self, step_folder: Path | None, last_duration: float) -> None:
        super().__init__()
        self._step_folder = step_folder
        self._last_duration = last_duration
        # The seconds from the start of the step until its first mini-batch was done.
        self._first_batch_time: float | None = None

    def render(self, task: Task) -> Text:
        """Return the step's progress, such as "3 of 10 mini-batches, 2 MB written, 1 MB/s".

        rich calls this method about once a second, and shows the text in one line with the
        elapsed time.
        """
        if self._step_folder is None:
            return Text("")
        seconds = task.elapsed or 0.0
        log = self._step_folder / "log.txt"
        batches = self._describe_finished_batches(log, seconds)
        step_message = make_harmless(_read_last_line(log, STEP_PROGRESS))
        written_bytes = _describe_written_bytes(self._step_folder, seconds)

        time_left = ""
        # The estimates that the other texts contain are more accurate than the last
        # duration.
        has_better_estimate = bool(batches or step_message)
        if self._last_duration > seconds and not has_better_estimate:
            time_left = f"about {self._last_duration - seconds:.0f} s left"
        texts = [batches, step_message, written_bytes, time_left]
        return Text(", ".join(text for text in texts if text), "dim")

    def _describe_finished_batches(self, log: Path, seconds: float) -> str:
        """Return how many mini-batches are done, how fast, and the seconds left.

        `seconds` is the time since the start of the step. Returns an empty string if no
        mini-batch is done.
        """
        batches_done = _read_last_line(log, BATCH_PROGRESS)
        if not batches_done:
            return ""
        if self._first_batch_time is None:
            self._first_batch_time = seconds
        return _describe_batches(batches_done, seconds - self._first_batch_time)


def _read_progress(log: Path) -> str:
    """Return what a step has printed about its progress, without control characters.

    This is the step's newest line that begins with "progress: ", or the number of
    mini-batches that are done, such as "3 of 10 mini-batches". Returns an empty string if
    there is neither.
    """
    step_message = _read_last_line(log, STEP_PROGRESS)
    if step_message:
        return make_harmless(step_message)
    batches_done = _read_last_line(log, BATCH_PROGRESS)
    if batches_done:
        return _describe_batches(batches_done, seconds=0)
    return ""


def _read_last_line(log: Path, prefix: str) -> str:
    """Return the last line with a certain prefix in a log, without this prefix.

    Only the last MAX_LINE_LENGTH bytes of the log are read. Returns an empty string if they
    contain no such line, or if the log cannot be read.
    """
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - MAX_LINE_LENGTH))
        # The last line may be incomplete, because the step is still writing it.
        complete_lines = file.read().decode("utf-8", "replace").split("\n")[:-1]
        for line in reversed(complete_lines):
            if line.startswith(prefix):
                return line.removeprefix(prefix)
    return ""


def _describe_batches(batches_done: str, seconds: float) -> str:
    """Return how many mini-batches are done, how fast, and the seconds left.

    `batches_done` is a text such as "3/10". `seconds` is the time since the first
    mini-batch was done. The first one does not count for the speed, because its time
    includes the start of the worker process. If only one is done, or if `seconds` is 0, the
    speed and the seconds left are left out.
    """
    done, total = (int(number) for number in batches_done.split("/"))
    text = f"{done} of {total} mini-batches"
    if done > 1 and seconds > 0:
        batches_per_second = (done - 1) / seconds
        seconds_left = (total - done) / batches_per_second
        text += f", {batches_per_second:.1f} per second, {seconds_left:.0f} s left"
    return text


def _describe_written_bytes(step_folder: Path, seconds: float) -> str:
    """Return how much a step has written to its outputs, and how fast.

    Returns an empty string if the step has written nothing yet.
    """
    size = _measure_files(step_folder / "outputs")
    if size == 0 or seconds == 0:
        return ""
    return f"{decimal(size)} written, {decimal(int(size / seconds))}/s"


def _measure_files(folder: Path) -> int:
    """Return the total size in bytes of the files in a folder that a step writes to.

    If the step removes a file in the meantime, files after it may not be counted.
    """
    size = 0
    with suppress(OSError):
        for file in folder.rglob("*"):
            if file.is_file():
                size += file.stat().st_size
    return size
