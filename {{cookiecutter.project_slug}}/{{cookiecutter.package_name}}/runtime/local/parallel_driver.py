"""Run a parallel step on this machine, as Azure ML's own driver does on its machines.

The local run starts this program by its path, in the folder of the entry script, with the
command line of Azure ML's driver. The entry script is called in the same way: `init()`
once in each worker process, then `run(mini_batch)` with a list of file paths for each
mini-batch, and at the end `shutdown()`, if the script has such a function.

A mini-batch is tried again if `run()` raises an error or takes too long, or if its worker
process dies. Files that fail in every try, and files for which `run()` returns nothing,
count as failed. The step fails once more have failed than the command line allows.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import importlib.util
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from pathlib import Path
from types import ModuleType
from typing import Any

#: Lines of the log with this prefix report how many mini-batches are done.
PROGRESS = "mini-batches done: "
#: With this option, all mini-batches run in this process, so that a debugger can stop.
IN_ONE_PROCESS = "--in_one_process"
#: Azure ML's driver loads the entry script as a module of this name.
ENTRY_MODULE = "score_module"
#: Azure ML's driver adds these and more to the command line that the script sees.
ADDED_ARGUMENTS = [
    "--aml_core_version=1.61.0",
    "--dataprep_version=5.5.0",
    "--model",
    "model",
]

#: The paths of the files of a mini-batch.
MiniBatch = list[str]

# The entry script of this process. `load_entry_script` sets it.
entry_script: ModuleType


# The step as a whole --------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """How often and for how long a mini-batch is tried, and how much may fail."""

    tries: int
    #: The time that a call of run() or of shutdown() may take.
    run_seconds: int
    #: The time that loading the script and calling init() may take.
    init_seconds: int
    #: How many files may fail. -1 allows any number.
    failed_files: int
    #: How many mini-batches may fail. -1 allows any number.
    failed_batches: int
    #: The percentage of the mini-batches that may fail.
    failed_percent: float

    def are_exceeded(self, failed_files: int, failed_batches: int, total: int) -> bool:
        """Return whether too much has failed. `total` is the number of mini-batches."""
        if 0 <= self.failed_files < failed_files:
            return True
        if 0 <= self.failed_batches < failed_batches:
            return True
        return self.failed_percent < 100 * failed_batches / total


@dataclass
class Progress:
    """Which mini-batches and files are done, and which have failed."""

    #: The number of mini-batches.
    total: int
    #: All rows that run() has returned so far.
    rows: list[str] = field(default_factory=list)
    batches_done: int = 0
    batches_failed: int = 0
    #: The names of the failed files, for messages.
    failed_files: list[str] = field(default_factory=list)

    def count_done(self, batch: MiniBatch, rows: list[str]) -> None:
        """Count a mini-batch as done, and files without a row as failed."""
        self.batches_done += 1
        self.rows += rows
        missing_rows = len(batch) - len(rows)
        if missing_rows > 0:
            print(
                f"run() returned {len(rows)} items for {len(batch)} files, but it must"
                " return one item for each file."
            )
            # It is not known which of the files have no row.
            failed_file = f"one of {', '.join(list_names(batch))}"
            self.failed_files += [failed_file] * missing_rows

    def count_failed(self, batch: MiniBatch) -> None:
        """Count a mini-batch and all its files as failed."""
        self.batches_failed += 1
        self.failed_files += list_names(batch)

    def report(self, limits: Limits) -> None:
        """Print how many mini-batches are done. Exit if too much has failed."""
        print(f"{PROGRESS}{self.batches_done}/{self.total}", flush=True)
        if limits.are_exceeded(len(self.failed_files), self.batches_failed, self.total):
            sys.exit(
                "Parallel step: more failed than the settings allow (error_threshold"
                f" {limits.failed_files}): {', '.join(self.failed_files)}."
            )


def main() -> None:
    """Run the step that the command line describes."""
    # The entry script imports modules from its own folder, not from that of this file.
    sys.path[0] = os.getcwd()
    options, script_arguments = make_parser().parse_known_args()
    limits = Limits(
        tries=options.run_max_try,
        run_seconds=options.run_invocation_timeout,
        init_seconds=options.first_task_creation_timeout,
        failed_files=options.error_threshold,
        failed_batches=options.allowed_failed_count,
        failed_percent=options.allowed_failed_percent,
    )
    files = list_input_files(script_arguments)
    batches = split_into_batches(files, options.mini_batch_size)
    if not batches:
        sys.exit("Parallel step: the input holds no files.")

    script = options.scoring_module_name
    if options.in_one_process:
        progress = run_in_this_process(batches, script, limits)
    else:
        workers = min(options.process_count_per_node, len(batches))
        progress = run_in_workers(batches, script, workers, limits)

    print_summary(batches, progress)
    if options.output and options.output_action == "append_row":
        write_rows(progress.rows, options.output / options.append_row_file_name)


def make_parser() -> argparse.ArgumentParser:
    """Return a parser for the options of Azure ML's driver, with its default values."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--scoring_module_name", required=True)
    parser.add_argument("--mini_batch_size", type=parse_count, required=True)
    parser.add_argument("--error_threshold", type=int, default=-1)
    parser.add_argument("--allowed_failed_count", type=int, default=-1)
    parser.add_argument("--allowed_failed_percent", type=float, default=100)
    parser.add_argument("--run_invocation_timeout", type=int, default=60)
    parser.add_argument("--first_task_creation_timeout", type=parse_count, default=600)
    parser.add_argument("--run_max_try", type=int, default=3)
    parser.add_argument(
        "--process_count_per_node", type=parse_count, default=os.cpu_count()
    )
    parser.add_argument("--output_action", default="append_row")
    parser.add_argument("--append_row_file_name", default="parallel_run_step.txt")
    parser.add_argument("--output", type=Path)
    parser.add_argument(IN_ONE_PROCESS, action="store_true")
    return parser


def parse_count(text: str) -> int:
    """Parse a number. Raises ArgumentTypeError if it is less than 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text}, but must be 1 or more")
    return int(text)


def list_input_files(arguments: list[str]) -> list[list[str]]:
    """Return the paths of the files of each input that the command line names.

    An input is an option such as `--input_fds_0`, followed by the name of the environment
    variable that has the folder of the input.
    """
    inputs = []
    # Each argument is compared with the one after it, which may be the value of an option.
    for option, name in pairwise(arguments):
        if option.startswith("--input_fds_"):
            paths = Path(os.environ[name]).rglob("*")
            inputs.append(sorted(str(path) for path in paths if path.is_file()))
    return inputs


def split_into_batches(inputs: list[list[str]], batch_size: int) -> list[MiniBatch]:
    """Split the files of each input into mini-batches of up to `batch_size` files."""
    batches = []
    for files in inputs:
        for start in range(0, len(files), batch_size):
            batches.append(files[start : start + batch_size])
    return batches


def list_names(batch: MiniBatch) -> list[str]:
    """Return the names of a mini-batch's files, without their folders."""
    return [Path(file).name for file in batch]


def print_summary(batches: list[MiniBatch], progress: Progress) -> None:
    """Print how many files were handled, and the names of those that failed."""
    files = sum(len(batch) for batch in batches)
    handled = files - len(progress.failed_files)
    summary = f"files handled: {handled}, mini-batches: {len(batches)}"
    if progress.failed_files:
        summary += f"; failed: {', '.join(progress.failed_files)}"
    print(summary)


def write_rows(rows: list[str], path: Path) -> None:
    """Write all rows that `run()` has returned into a file, one on each line."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    unfinished.replace(path)


def run_in_this_process(
    batches: list[MiniBatch], script: str, limits: Limits
) -> Progress:
    """Run all mini-batches here, one after another and without time limits."""
    load_entry_script(script, sys.argv[1:])
    progress = Progress(len(batches))
    try:
        for batch in batches:
            _run_until_it_succeeds(batch, progress, limits.tries)
            progress.report(limits)
    finally:
        if hasattr(entry_script, "shutdown"):
            entry_script.shutdown()
    return progress


def _run_until_it_succeeds(batch: MiniBatch, progress: Progress, tries: int) -> None:
    """Try a mini-batch up to `tries` times in this process, and count it."""
    for attempt in range(1, tries + 1):
        try:
            rows = call_run(batch)
        except Exception as error:  # noqa: BLE001 (The script may raise anything.)
            print_failed_try(batch, error, attempt, tries)
        else:
            progress.count_done(batch, rows)
            return
    progress.count_failed(batch)


def print_failed_try(
    batch: MiniBatch, error: BaseException, attempt: int, tries: int
) -> None:
    """Print why an attempt at a mini-batch failed, with the names of its files."""
    names = list_names(batch)
    reason = str(error)
    if names[0] not in reason:
        reason = f"{', '.join(names)}: {reason}"
    print(f"Try {attempt} of {tries} failed: {reason}")


# Worker processes, as seen from the step ------------------------------------------------


def run_in_workers(
    batches: list[MiniBatch], script: str, workers: int, limits: Limits
) -> Progress:
    """Run all mini-batches in worker processes.

    Exits if workers cannot be started, or once more has failed than the limits allow.
    """
    # Imported here, because the local run also imports this file, and needs no pool.
    import pebble

    # The pool does not notice workers that fail before the first mini-batch is scheduled. So
    # the workers wait for this event before they load the script.
    context = _WorkerContext()
    is_ready = _make_start_event(context)
    pool = pebble.ProcessPool(
        workers,
        initializer=_start_worker,
        initargs=(is_ready, script, sys.argv[1:], limits.init_seconds),
        context=context,
    )
    progress = Progress(len(batches))
    batches_to_try = batches
    try:
        for attempt in range(1, limits.tries + 1):
            running: dict[Future[list[str]], MiniBatch] = {}
            for batch in batches_to_try:
                task = pool.schedule(_run_batch, [batch], timeout=limits.run_seconds)
                running[task] = batch
            is_ready.set()
            batches_to_try = _collect_results(running, progress, limits, attempt)
        # `shutdown()` may take as long as `run()` before the pool kills its worker.
        pebble.CONSTS.term_timeout = limits.run_seconds
    finally:
        # Idle workers call `shutdown()` and end.
        pool.stop()
        pool.join()
    return progress


def _collect_results(
    running: Mapping[Future[list[str]], MiniBatch],
    progress: Progress,
    limits: Limits,
    attempt: int,
) -> list[MiniBatch]:
    """Wait for scheduled mini-batches, count them, and return those to try again.

    Exits if a worker could not load the script. `progress.report` exits as soon as more
    has failed than the limits allow.
    """
    batches_to_try = []
    for future in as_completed(running):
        batch = running[future]
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            sys.exit(
                "Parallel step: init() failed, or took more than"
                f" {limits.init_seconds} s, as the lines above say."
            )
        if error is None:
            progress.count_done(batch, future.result())
            progress.report(limits)
            continue

        print_failed_try(batch, error, attempt, limits.tries)
        if attempt < limits.tries:
            batches_to_try.append(batch)
        else:
            progress.count_failed(batch)
            progress.report(limits)
    return batches_to_try


def _make_start_event(context: SpawnContext) -> Event:
    """Return an event for which all workers wait before they start their work.

    Exits if processes cannot share memory on this machine.
    """
    try:
        return context.Event()
    except OSError as error:
        sys.exit(
            "Parallel step: worker processes cannot be started, as they cannot share"
            f" memory here ({error}). Mount /dev/shm so that it can be written to."
        )


class _WorkerContext(SpawnContext):
    """Makes worker processes: forks them if that is safe, and spawns them otherwise.

    Forked workers already have what this process has imported. Once the pool has started its
    threads, forking is not safe, so workers that replace others are spawned.
    """

    def Process(self, *args: Any, **options: Any) -> BaseProcess:  # type: ignore[override]
        """Return a new process that is not started yet."""
        if sys.platform == "linux" and threading.active_count() == 1:
            return multiprocessing.get_context("fork").Process(*args, **options)
        return super().Process(*args, **options)


# Inside a worker process ----------------------------------------------------------------


def _start_worker(
    is_ready: Event, script: str, arguments: list[str], init_seconds: int
) -> None:
    """Wait for `is_ready`, then load the entry script into this worker.

    If loading takes more than `init_seconds`, a traceback is printed and the process ends.
    Errors of the script are printed and raised.
    """
    is_ready.wait()
    # This works even while native code runs that never returns to Python.
    faulthandler.dump_traceback_later(init_seconds, exit=True)
    try:
        load_entry_script(script, arguments)
    except Exception as error:
        print(_describe(error), flush=True)
        # Otherwise the pool would log the same error again.
        logging.disable()
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()

    if hasattr(entry_script, "shutdown"):
        Finalize(None, entry_script.shutdown, exitpriority=1)
    # A forked worker ends without closing the files that the script has left open, so their
    # last lines would be lost. Deleting the script's variables closes them.
    Finalize(None, vars(entry_script).clear, exitpriority=0)
    # The pool ends an idle worker by this signal too, but should let it call `shutdown()`.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def load_entry_script(script: str, arguments: list[str]) -> None:
    """Import a script as the module `entry_script`, and call its `init()`."""
    global entry_script
    sys.argv = [script, *arguments, *ADDED_ARGUMENTS]
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        # Otherwise all forked workers would draw the same random numbers.
        numpy.random.seed()

    # Imports create many objects that stay, and the garbage collector would spend time
    # looking for unused ones among them.
    gc.disable()
    try:
        entry_script = _import_script(script)
        if hasattr(entry_script, "init"):
            entry_script.init()
    finally:
        gc.freeze()
        gc.enable()


def _import_script(script: str) -> ModuleType:
    """Import the file of a script as a module, and return the module.

    The module is not added to `sys.modules`, because it may be missing there on Azure ML. A
    script that needs this should fail here too.
    """
    spec = importlib.util.spec_from_file_location(ENTRY_MODULE, script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run_batch(batch: MiniBatch) -> list[str]:
    """Return the rows of a mini-batch.

    Raises WrongReturnError if `run()` returns a value of the wrong type, and RuntimeError
    for any error that it raises.
    """
    # The pool sends SIGTERM if a mini-batch takes too long, which ends the worker at once.
    # Between mini-batches the signal is ignored, so that a worker can finish `shutdown()`.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        return call_run(batch)
    except WrongReturnError:
        raise
    except Exception as error:  # noqa: BLE001 (The script may raise anything.)
        # The error's class may be one that only this process can import.
        raise RuntimeError(_describe(error)) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class WrongReturnError(TypeError):
    """`run()` has returned a value of the wrong type."""


def call_run(batch: MiniBatch) -> list[str]:
    """Call the script's `run()` with a mini-batch, and return its rows as text.

    Raises WrongReturnError unless it returns a list, a tuple or a DataFrame.
    """
    returned: Any = entry_script.run(batch)
    pandas = sys.modules.get("pandas")
    if pandas and isinstance(returned, pandas.DataFrame):
        returned = returned.to_csv(sep=" ", header=False, index=False).splitlines()
    if not isinstance(returned, (list, tuple)):
        raise WrongReturnError(
            f"run() returned {type(returned).__name__}, not a list, a tuple or a"
            " pandas.DataFrame."
        )
    return [str(row) for row in returned]


def _describe(error: Exception) -> str:
    """Return an error's traceback, or only its message if the script defines its class."""
    if type(error).__module__ == ENTRY_MODULE:
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


if __name__ == "__main__":
    main()
