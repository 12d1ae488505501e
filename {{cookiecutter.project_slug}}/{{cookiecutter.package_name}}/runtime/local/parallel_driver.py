"""Run a parallel step on this machine, as Azure ML's driver does on a cluster.

The local run starts this program by its path, in the folder of the entry script, with the
command line of Azure ML's driver. The entry script is called in the same way: `init()`
once in each worker process, then `run(mini_batch)` with a list of file paths for each
mini-batch, and at the end `shutdown()`, if the script has such a function.

A mini-batch is tried again if `run()` raises an error or takes too long, or if the worker
process dies. Files that fail in every try, and files for which `run()` returns nothing,
count as failed. The step fails as soon as there are more failed files or mini-batches than
the command line allows.
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
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pebble

#: Lines of the log with this prefix report how many mini-batches are done.
BATCH_PROGRESS = "mini-batches done: "
#: With this option, all mini-batches run in this process, so that a debugger can stop the
#: script.
IN_ONE_PROCESS = "--in_one_process"
#: Azure ML's driver loads the entry script as a module of this name.
ENTRY_MODULE = "score_module"
#: Azure ML's driver appends arguments such as these to the script's command line. They are
#: appended here too, so that a script that rejects unknown arguments fails in a local run
#: already, and not only on Azure ML.
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
    """The limits on the tries of each mini-batch, and on the failures of the whole step."""

    #: The number of times that a mini-batch is tried.
    max_tries: int
    #: The seconds that a call of run() or of shutdown() may take.
    run_seconds: int
    #: The seconds that loading the script and calling init() may take together.
    init_seconds: int
    #: How many files may fail. -1 allows any number.
    max_failed_files: int
    #: How many mini-batches may fail. -1 allows any number.
    max_failed_batches: int
    #: The percentage of the mini-batches that may fail.
    max_failed_percent: float

    def are_exceeded(
        self, failed_files: int, failed_batches: int, total_batches: int
    ) -> bool:
        """Return whether more files or mini-batches have failed than are allowed."""
        if 0 <= self.max_failed_files < failed_files:
            return True
        if 0 <= self.max_failed_batches < failed_batches:
            return True
        return self.max_failed_percent < 100 * failed_batches / total_batches


@dataclass
class Progress:
    """The mini-batches and files that are done, and those that have failed."""

    total_batches: int
    #: All rows that run() has returned so far.
    rows: list[str] = field(default_factory=list)
    batches_done: int = 0
    batches_failed: int = 0
    #: The names of the failed files, for messages.
    failed_files: list[str] = field(default_factory=list)

    def count_done(self, batch: MiniBatch, rows: list[str]) -> None:
        """Count a mini-batch as done, and one file as failed for each missing row.

        `rows` are the rows that the script's run() has returned. There should be one for
        each file of the mini-batch.
        """
        self.batches_done += 1
        self.rows += rows
        missing_rows = len(batch) - len(rows)
        if missing_rows > 0:
            print(
                f"run() returned {len(rows)} rows for {len(batch)} files, but it must"
                " return one row for each file."
            )
            # It is unknown which of the files have no row, so each failure names all files.
            failed_file = f"one of {', '.join(list_names(batch))}"
            self.failed_files += [failed_file] * missing_rows

    def count_failed(self, batch: MiniBatch) -> None:
        """Count a mini-batch and all its files as failed."""
        self.batches_failed += 1
        self.failed_files += list_names(batch)

    def report_or_exit(self, limits: Limits) -> None:
        """Print how many mini-batches are done. Exit if more failed than `limits` allow."""
        print(f"{BATCH_PROGRESS}{self.batches_done}/{self.total_batches}", flush=True)
        if limits.are_exceeded(
            len(self.failed_files), self.batches_failed, self.total_batches
        ):
            sys.exit(
                "Parallel step: more failed than the settings allow (error_threshold"
                f" {limits.max_failed_files}): {', '.join(self.failed_files)}."
            )


def main() -> None:
    """Process all files of the step's inputs with the entry script of the command line."""
    # Python puts the folder of this file first on sys.path. The entry script must import
    # modules from its own folder instead, which is the working directory.
    sys.path[0] = os.getcwd()
    options, script_arguments = make_parser().parse_known_args()
    limits = Limits(
        max_tries=options.run_max_try,
        run_seconds=options.run_invocation_timeout,
        init_seconds=options.first_task_creation_timeout,
        max_failed_files=options.error_threshold,
        max_failed_batches=options.allowed_failed_count,
        max_failed_percent=options.allowed_failed_percent,
    )
    files_of_inputs = list_input_files(script_arguments)
    batches = split_into_batches(files_of_inputs, options.mini_batch_size)
    if not batches:
        sys.exit("Parallel step: the inputs contain no files.")

    script = options.scoring_module_name
    if options.in_one_process:
        progress = run_in_this_process(batches, script, limits)
    else:
        worker_count = min(options.process_count_per_node, len(batches))
        progress = run_in_workers(batches, script, worker_count, limits)

    print_summary(batches, progress)
    if options.output and options.output_action == "append_row":
        write_rows(progress.rows, options.output / options.append_row_file_name)


def make_parser() -> argparse.ArgumentParser:
    """Return a parser for the options of Azure ML's driver, with the same defaults.

    An option of the type `parse_count` must be at least 1.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--scoring_module_name", required=True)
    parser.add_argument("--mini_batch_size", type=parse_count, required=True)
    # -1 allows any number of failed files and of failed mini-batches.
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
    """Convert the value of an option to a whole number of at least 1.

    Raises ValueError or ArgumentTypeError, which argparse shows, for any other text.
    """
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"is {text}, but must be 1 or more")
    return count


def list_input_files(arguments: list[str]) -> list[list[str]]:
    """Return a list of file paths for each input on the command line.

    An input is an option such as `--input_fds_0`, followed by the name of an environment
    variable. The variable holds the folder of the input.
    """
    files_of_inputs = []
    for option, variable in pairwise(arguments):
        if option.startswith("--input_fds_"):
            folder = Path(os.environ[variable])
            files = [str(path) for path in folder.rglob("*") if path.is_file()]
            files_of_inputs.append(sorted(files))
    return files_of_inputs


def split_into_batches(
    files_of_inputs: list[list[str]], batch_size: int
) -> list[MiniBatch]:
    """Split the files of each input into mini-batches of up to `batch_size` files."""
    batches = []
    for files in files_of_inputs:
        for start in range(0, len(files), batch_size):
            batches.append(files[start : start + batch_size])
    return batches


def list_names(batch: MiniBatch) -> list[str]:
    """Return the names of a mini-batch's files, without their folders."""
    return [Path(file).name for file in batch]


def print_summary(batches: list[MiniBatch], progress: Progress) -> None:
    """Print how many files were handled, and the names of the failed files."""
    total_files = sum(len(batch) for batch in batches)
    files_handled = total_files - len(progress.failed_files)
    summary = f"files handled: {files_handled}, mini-batches: {len(batches)}"
    if progress.failed_files:
        summary += f"; failed: {', '.join(progress.failed_files)}"
    print(summary)


def write_rows(rows: list[str], path: Path) -> None:
    """Write the rows that `run()` has returned to a file, one on each line.

    The file appears under its name only when it is complete.
    """
    unfinished_file = path.with_name(f".{path.name}")
    unfinished_file.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    unfinished_file.replace(path)


def run_in_this_process(
    batches: list[MiniBatch], script: str, limits: Limits
) -> Progress:
    """Run all mini-batches in this process, one after another and without time limits.

    Returns what is done and what has failed. Exits as soon as more files or mini-batches
    have failed than the limits allow.
    """
    load_entry_script(script, sys.argv[1:])
    progress = Progress(len(batches))
    try:
        for batch in batches:
            _run_with_retries(batch, progress, limits.max_tries)
            progress.report_or_exit(limits)
    finally:
        if hasattr(entry_script, "shutdown"):
            entry_script.shutdown()
    return progress


def _run_with_retries(batch: MiniBatch, progress: Progress, max_tries: int) -> None:
    """Try a mini-batch up to `max_tries` times in this process.

    Counts the mini-batch as done or failed in `progress`.
    """
    for attempt in range(1, max_tries + 1):
        try:
            rows = call_run(batch)
        except Exception as error:  # noqa: BLE001 (The script may raise anything.)
            print_failed_try(batch, error, attempt, max_tries)
        else:
            progress.count_done(batch, rows)
            return
    progress.count_failed(batch)


def print_failed_try(
    batch: MiniBatch, error: BaseException, attempt: int, max_tries: int
) -> None:
    """Print why an attempt at a mini-batch failed, with the names of the files."""
    names = list_names(batch)
    reason = str(error)
    # The script's own message may name the file already.
    if names[0] not in reason:
        reason = f"{', '.join(names)}: {reason}"
    print(f"Try {attempt} of {max_tries} failed: {reason}")


# Worker processes, as seen from the step ------------------------------------------------


def run_in_workers(
    batches: list[MiniBatch], script: str, worker_count: int, limits: Limits
) -> Progress:
    """Run all mini-batches in worker processes, and try those that fail again.

    Returns what is done and what has failed. Exits if the workers cannot be started, or as
    soon as more files or mini-batches have failed than the limits allow.
    """
    # The package pebble is imported here, and not at the top, because the local run also
    # imports this file and does not need the package.
    import pebble

    # If a worker failed before the first mini-batch is scheduled, the pool would not notice
    # and would wait forever. So the workers wait for an event before they load the script.
    context = _WorkerContext()
    workers_may_start = _make_start_event(context)
    pool = pebble.ProcessPool(
        worker_count,
        initializer=_start_worker,
        initargs=(workers_may_start, script, sys.argv[1:], limits.init_seconds),
        context=context,
    )
    try:
        progress = _try_batches(pool, batches, limits, workers_may_start)
        # `pool.join()` kills a worker that does not end within this time. The script's
        # `shutdown()` may take as long as its `run()`. If the step has failed instead, this
        # line is not reached, and the default of pebble, 3 seconds, applies.
        pebble.CONSTS.term_timeout = limits.run_seconds
    finally:
        # Idle workers call `shutdown()` and end.
        pool.stop()
        pool.join()
    return progress


def _try_batches(
    pool: pebble.ProcessPool,
    batches: list[MiniBatch],
    limits: Limits,
    workers_may_start: Event,
) -> Progress:
    """Run mini-batches in a pool of workers, and try those that fail again.

    Sets the event `workers_may_start` as soon as mini-batches are scheduled. Returns what
    is done and what has failed. Exits if a worker cannot load the script, or as soon as
    more files or mini-batches have failed than the limits allow.
    """
    progress = Progress(len(batches))
    batches_to_try = batches
    for attempt in range(1, limits.max_tries + 1):
        batch_by_future = _schedule_batches(pool, batches_to_try, limits.run_seconds)
        # From now on, the pool notices workers that fail, so the workers may load the
        # script.
        workers_may_start.set()
        batches_to_try = _collect_results(batch_by_future, progress, limits, attempt)
        if not batches_to_try:
            break
    return progress


def _schedule_batches(
    pool: pebble.ProcessPool, batches: list[MiniBatch], run_seconds: int
) -> dict[Future[list[str]], MiniBatch]:
    """Schedule mini-batches in a pool of workers.

    Returns a dict. Each key is a future, which will hold the rows of a mini-batch, and the
    value is this mini-batch. A future fails if its mini-batch takes more than
    `run_seconds`.
    """
    batch_by_future: dict[Future[list[str]], MiniBatch] = {}
    for batch in batches:
        future = pool.schedule(_run_batch, [batch], timeout=run_seconds)
        batch_by_future[future] = batch
    return batch_by_future


def _collect_results(
    batch_by_future: Mapping[Future[list[str]], MiniBatch],
    progress: Progress,
    limits: Limits,
    attempt: int,
) -> list[MiniBatch]:
    """Wait for scheduled mini-batches, count them, and return those to try again.

    `attempt` is the number of this try, from 1 on. `progress` counts the mini-batches that
    are done, and those that have failed in the last try. Exits if a worker could not load
    the script, or as soon as more files or mini-batches have failed than the limits allow.
    """
    batches_to_retry = []
    for future in as_completed(batch_by_future):
        batch = batch_by_future[future]
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            sys.exit(
                "Parallel step: init() failed, or took more than"
                f" {limits.init_seconds} s. The lines above show where."
            )

        if error is None:
            progress.count_done(batch, future.result())
            progress.report_or_exit(limits)
            continue

        print_failed_try(batch, error, attempt, limits.max_tries)
        if attempt < limits.max_tries:
            batches_to_retry.append(batch)
        else:
            progress.count_failed(batch)
            progress.report_or_exit(limits)
    return batches_to_retry


def _make_start_event(context: SpawnContext) -> Event:
    """Return an event that all workers wait for before they load the script.

    Exits if processes cannot share memory on this machine.
    """
    try:
        return context.Event()
    except OSError as error:
        sys.exit(
            "Parallel step: worker processes cannot be started, because they cannot share"
            f" memory on this machine ({error}). Mount /dev/shm so that it is writable."
        )


class _WorkerContext(SpawnContext):
    """Creates worker processes: by `fork` if that is safe, and by `spawn` otherwise.

    A forked worker already has the modules that this process has imported. Once the pool
    has started its threads, forking is not safe, so workers that replace others are
    spawned.
    """

    def Process(self, *args: Any, **options: Any) -> BaseProcess:  # type: ignore[override]
        """Return a new process that is not started yet."""
        can_fork_safely = sys.platform == "linux" and threading.active_count() == 1
        if can_fork_safely:
            return multiprocessing.get_context("fork").Process(*args, **options)
        return super().Process(*args, **options)


# Inside a worker process ----------------------------------------------------------------


def _start_worker(
    workers_may_start: Event, script: str, arguments: list[str], init_seconds: int
) -> None:
    """Wait until mini-batches are scheduled, then load the entry script into this worker.

    If loading takes more than `init_seconds`, a traceback is printed and the process ends.
    Errors of the script are printed and raised. After loading, the functions that this
    worker calls when it ends are registered.
    """
    workers_may_start.wait()
    # A signal handler of Python would not run while native code, such as that of numpy, is
    # busy. `faulthandler` ends the process from a thread of its own.
    faulthandler.dump_traceback_later(init_seconds, exit=True)
    try:
        load_entry_script(script, arguments)
    except Exception as error:
        print(_describe_error(error), flush=True)
        # The pool would log the same error again.
        logging.disable()
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
    _prepare_worker_exit()


def _prepare_worker_exit() -> None:
    """Arrange that this worker, when it ends, calls `shutdown()` and closes open files."""
    # Functions with a higher priority are called first when the process ends.
    if hasattr(entry_script, "shutdown"):
        Finalize(None, entry_script.shutdown, exitpriority=1)
    # A forked worker ends without closing the files that the script has left open, so their
    # last lines would be lost. Deleting the script's variables closes the files.
    Finalize(None, vars(entry_script).clear, exitpriority=0)
    # At the end, the pool sends SIGTERM to idle workers, which would interrupt their
    # `shutdown()`. So they ignore the signal.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def load_entry_script(script: str, arguments: list[str]) -> None:
    """Import a script as the global module `entry_script`, and call its `init()`.

    `arguments` is the command line of this driver. The script finds it in `sys.argv`,
    followed by the arguments that Azure ML appends.
    """
    global entry_script
    sys.argv = [script, *arguments, *ADDED_ARGUMENTS]
    _reseed_numpy()
    with _without_garbage_collection():
        entry_script = _import_script(script)
        if hasattr(entry_script, "init"):
            entry_script.init()


def _reseed_numpy() -> None:
    """Give numpy a new random seed, if numpy has been imported.

    If numpy was imported before this worker was forked, all workers have the same seed, and
    would draw the same random numbers.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Turn the garbage collector off during the `with` block, which imports packages.

    The objects that imports create stay in use, so it would be a waste of time to search
    them for garbage. They are excluded from later searches, too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import_script(script: str) -> ModuleType:
    """Import the file of a script as a module, and return the module.

    Azure ML does not add the module to `sys.modules`, so this function does not add it
    either. A script that looks itself up in `sys.modules` fails in both places.
    """
    spec = importlib.util.spec_from_file_location(ENTRY_MODULE, script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run_batch(batch: MiniBatch) -> list[str]:
    """Call the script's `run()` with a mini-batch in this worker, and return its rows.

    Raises WrongReturnError if `run()` returns a value of the wrong type, and RuntimeError
    with the text of the error if `run()` raises an error.
    """
    # If a mini-batch takes too long, the pool sends SIGTERM. During the call of `run()`,
    # the signal has its default effect, which is to end the worker at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        return call_run(batch)
    except WrongReturnError:
        # An error is pickled and sent to the parent process, which must be able to import
        # the class of the error. It can import this class, which this file defines.
        raise
    except Exception as error:  # noqa: BLE001 (The script may raise anything.)
        # The parent process may be unable to import the class of the script's error. So
        # only the text of the error is sent.
        raise RuntimeError(_describe_error(error)) from None
    finally:
        # SIGTERM is ignored again, so that it cannot interrupt the script's `shutdown()`.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class WrongReturnError(TypeError):
    """`run()` has returned a value of the wrong type."""


def call_run(batch: MiniBatch) -> list[str]:
    """Call the script's `run()` with a mini-batch, and return the rows as text.

    The rows of a DataFrame become lines in which spaces separate the values, as on Azure
    ML. Raises WrongReturnError unless `run()` returns a list, a tuple or a DataFrame.
    """
    returned: Any = entry_script.run(batch)
    # Only a script that has imported pandas can return a DataFrame.
    pandas = sys.modules.get("pandas")
    if pandas and isinstance(returned, pandas.DataFrame):
        returned = returned.to_csv(sep=" ", header=False, index=False).splitlines()
    if not isinstance(returned, (list, tuple)):
        raise WrongReturnError(
            f"run() returned {type(returned).__name__}, not a list, a tuple or a"
            " pandas.DataFrame."
        )
    return [str(row) for row in returned]


def _describe_error(error: Exception) -> str:
    """Return the text of an error that the entry script has raised.

    If the script defines the error's class, this is the message alone, because the author
    wrote it for the user. Otherwise it is the whole traceback.
    """
    if type(error).__module__ == ENTRY_MODULE:
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


if __name__ == "__main__":
    main()
