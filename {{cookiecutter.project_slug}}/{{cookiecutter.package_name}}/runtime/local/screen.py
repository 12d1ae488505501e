"""Print the messages of a local run, and show the progress of a step while it runs."""

from __future__ import annotations

import re
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

# A line that reports how a step ended begins with one of these labels, in rich's markup.
RAN = "[green]ran[/] "
REUSED = "[cyan]reused[/] "
FAILED = "[red]failed[/] "
REMOVED = "[dim]removed[/] "
#: In the lines that report how a step ended, the step's name is padded to this width. A
#: space follows.
STEP_NAME_WIDTH = 9
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
    #: The different lines that begin with "note: ", in the order of the log.
    notes: list[str]

    @property
    def last_line(self) -> str:
        """The last line, in which a step sums up its results. Empty if there is none."""
        return self.last_lines[-1] if self.last_lines else ""


def summarize_log(log: Path) -> LogSummary:
    """Return the last LOG_END lines of a step's log, and its notes.

    The notes are the lines that begin with "note: ". A note that occurs several times is
    returned once, and notes after the first MAX_NOTES are left out. Lines are cut off after
    MAX_LINE_LENGTH characters. Raises OSError if the log cannot be read.
    """
    last_lines: deque[str] = deque(maxlen=LOG_END)
    notes: list[str] = []
    # A log may be larger than the memory, or have a single long line. So it is read in
    # pieces of at most MAX_LINE_LENGTH characters, and of a longer line only the first
    # piece is kept.
    with log.open(encoding="utf-8", errors="replace") as file:
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
        """Print a label, followed by a text.

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
        """Show what is being done, and how far it has got, during the `with` block.

        On a terminal, a line shows `text`, which names the work, and the elapsed time. If
        `step_folder` is the folder of a step that runs in the block, the line also shows
        the step's progress. `last_duration` is the number of seconds that the step took in
        its last run, or 0 if it is unknown. If it is known, the line also shows an estimate
        of the time left.

        If the output is not a terminal, a line is printed if the work takes long, and then
        the progress of a step is printed from time to time.
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
        """Report the progress of the `with` block in plain lines, from another thread.

        `text` names the work of the block. If `step_folder` is the folder of a step that
        runs in the block, the progress in its log is printed too.
        """
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
        """Print that some work takes long, and then its progress if the work is a step.

        `text` names the work, such as "train". The event `block_has_ended` is set when the
        work is done. Nothing is printed if this happens within SECONDS_BEFORE_FIRST_LINE.
        The progress is read from the log in `step_folder`, the folder of the step. It is
        printed each time it has changed, but at most every SECONDS_BETWEEN_LINES.
        """
        # An error in this thread would not end the run. If the output cannot be written,
        # the run itself fails when it prints its next message.
        with suppress(OSError):
            if block_has_ended.wait(SECONDS_BEFORE_FIRST_LINE):
                return
            self.print(f"{text}: still at work after {SECONDS_BEFORE_FIRST_LINE:.0f} s")
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
        # The seconds from the start of the step until its first mini-batch was done. None
        # while no mini-batch is done.
        self._first_batch_time: float | None = None

    def render(self, task: Task) -> Text:
        """Return the step's progress, such as "3 of 10 mini-batches, 2 MB written, 1 MB/s".

        rich calls this method about once a second, and shows the text in one line with the
        elapsed time. The text is empty if there is no step.
        """
        if self._step_folder is None:
            return Text("")
        seconds = task.elapsed or 0.0
        log = self._step_folder / "log.txt"
        batch_progress = self._describe_batch_progress(log, seconds)
        step_message = make_harmless(_read_last_line(log, STEP_PROGRESS))
        output_size = _describe_output_size(self._step_folder, seconds)

        time_left = ""
        # The last duration is only a rough estimate. It is not shown if the step reports
        # its own progress.
        reports_own_progress = bool(batch_progress or step_message)
        if self._last_duration > seconds and not reports_own_progress:
            time_left = f"about {self._last_duration - seconds:.0f} s left"
        texts = [batch_progress, step_message, output_size, time_left]
        return Text(", ".join(text for text in texts if text), "dim")

    def _describe_batch_progress(self, log: Path, seconds: float) -> str:
        """Return the number of finished mini-batches, their speed and the seconds left.

        An example is "3 of 10 mini-batches, 1.5 per second, 5 s left". `seconds` is the
        time since the start of the step. Returns an empty string if no mini-batch is done.
        The speed is measured from the first call that sees a finished mini-batch, so the
        time of this call is stored.
        """
        counts = _read_batch_counts(log)
        if not counts:
            return ""
        if self._first_batch_time is None:
            self._first_batch_time = seconds
        texts = [
            _describe_batch_counts(counts),
            _describe_batch_speed(counts, seconds - self._first_batch_time),
        ]
        return ", ".join(text for text in texts if text)


def _read_progress(log: Path) -> str:
    """Return the progress that a step has printed into its log, or an empty string.

    If the step has printed lines that begin with "progress: ", the newest of them is
    returned. Control characters in this line are replaced. Otherwise, the number of
    finished mini-batches is returned, such as "3 of 10 mini-batches".
    """
    step_message = _read_last_line(log, STEP_PROGRESS)
    if step_message:
        return make_harmless(step_message)
    counts = _read_batch_counts(log)
    if counts:
        return _describe_batch_counts(counts)
    return ""


def _read_batch_counts(log: Path) -> str:
    """Return the newest counts of mini-batches in a log, such as "3/10".

    Returns an empty string if there are none, or if a step has printed something else after
    the same words.
    """
    counts = _read_last_line(log, BATCH_PROGRESS)
    return counts if re.fullmatch("[0-9]{1,9}/[0-9]{1,9}", counts) else ""


def _read_last_line(log: Path, prefix: str) -> str:
    """Return the last line of a log that begins with `prefix`, without the prefix.

    Only the last MAX_LINE_LENGTH bytes of the log are read. Returns an empty string if
    these bytes contain no line with the prefix, or if the log cannot be read.
    """
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - MAX_LINE_LENGTH))
        # The last line may be incomplete, because the step is still writing it.
        complete_lines = file.read().decode("utf-8", "replace").split("\n")[:-1]
        for line in reversed(complete_lines):
            if line.startswith(prefix):
                return line.removeprefix(prefix)
    return ""


def _describe_batch_counts(counts: str) -> str:
    """Return how many mini-batches are done: "3/10" becomes "3 of 10 mini-batches"."""
    done, total = counts.split("/")
    return f"{done} of {total} mini-batches"


def _describe_batch_speed(counts: str, seconds: float) -> str:
    """Return the speed and the time left, such as "1.5 per second, 5 s left".

    `counts` is the number of finished mini-batches and the total number, such as "3/10".
    `seconds` is the time since the first mini-batch was done. The speed is that of the
    mini-batches after the first one, because the first one includes the start of the worker
    process. Returns an empty string if these are not enough for a measurement.
    """
    done, total = (int(number) for number in counts.split("/"))
    if done < 2 or seconds <= 0:
        return ""
    batches_per_second = (done - 1) / seconds
    seconds_left = (total - done) / batches_per_second
    return f"{batches_per_second:.1f} per second, {seconds_left:.0f} s left"


def _describe_output_size(step_folder: Path, seconds: float) -> str:
    """Return how many bytes a step has written to its outputs, in all and per second.

    An example is "2 MB written, 1 MB/s". `seconds` is the time since the start of the step.
    Returns an empty string if the step has written nothing yet.
    """
    size = _measure_files(step_folder / "outputs")
    if size == 0 or seconds == 0:
        return ""
    return f"{decimal(size)} written, {decimal(int(size / seconds))}/s"


def _measure_files(folder: Path) -> int:
    """Return the total size in bytes of the files in a folder that a step writes to.

    If the step removes a file while this function measures the files, the total may be too
    small.
    """
    size = 0
    with suppress(OSError):
        for file in folder.rglob("*"):
            if file.is_file():
                size += file.stat().st_size
    return size
