"""The driver of a parallel step on this machine.

It takes the command line of Azure ML's own driver and keeps the same contract with the
entry script: `init()` once in each worker process, `run(mini_batch)` with a list of file
paths for each mini-batch, and `shutdown()` at the end, if there is one. A mini-batch that
raises, takes too long or loses its worker is tried again. Items that fail for good, or
that `run` returned nothing for, count against the error threshold.

A program that is run by its path, in the folder of the entry script.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from pathlib import Path
from types import ModuleType
from typing import Any

#: Begins the lines of the log that say how many mini-batches are done.
PROGRESS = "mini-batches done: "
#: An option with which all mini-batches run in this process, for a debugger.
IN_ONE_PROCESS = "--in_one_process"
#: The name under which Azure ML's driver loads an entry script.
MODULE = "score_module"
#: Some of what that driver adds to the script's command line for its own use.
ADDED_ARGUMENTS = [
    "--aml_core_version=1.61.0",
    "--dataprep_version=5.5.0",
    "--model",
    "model",
]

Batch = list[str]  # the paths of files

script: ModuleType  # the entry script, in a worker


@dataclass(frozen=True)
class Limits:
    """How often a mini-batch is tried, for how long, and how much may fail."""

    tries: int
    seconds: int  # of one try
    failed_items: int  # -1 for any number
    failed_batches: int  # -1 for any number
    failed_percent: float  # of the mini-batches

    def are_exceeded(
        self, failed_items: int, failed_batches: int, batches: int
    ) -> bool:
        """Tell whether more items or mini-batches have failed than is allowed."""
        return (
            0 <= self.failed_items < failed_items
            or 0 <= self.failed_batches < failed_batches
            or self.failed_percent < 100 * failed_batches / batches
        )


@dataclass
class Progress:
    """What has become of the mini-batches so far."""

    batches: int
    rows: list[str] = field(default_factory=list)  # that run() has returned
    batches_done: int = 0
    failed_batches: int = 0
    failed_items: list[str] = field(default_factory=list)

    def add_returned(self, batch: Batch, returned: list[str]) -> None:
        """Count a mini-batch as done, and items without a row as failed."""
        self.batches_done += 1
        self.rows += returned
        missing = len(batch) - len(returned)
        if missing > 0:
            print(
                f"run() returned {len(returned)} items for {len(batch)} files, and must"
                " return one for each."
            )
            self.failed_items += [f"one of {', '.join(_names(batch))}"] * missing

    def add_failed(self, batch: Batch) -> None:
        """Count a mini-batch as failed for good."""
        self.failed_batches += 1
        self.failed_items += _names(batch)

    def check(self, limits: Limits) -> None:
        """Print how far the step has come, and exit if too much has failed."""
        print(f"{PROGRESS}{self.batches_done}/{self.batches}", flush=True)
        if limits.are_exceeded(
            len(self.failed_items), self.failed_batches, self.batches
        ):
            sys.exit(
                "Parallel step: more failed than the settings allow (error_threshold"
                f" {limits.failed_items}): {', '.join(self.failed_items)}."
            )


def main() -> None:
    """Run the step that the command line describes, as Azure ML's driver would."""
    sys.path[0] = os.getcwd()  # not the folder of this file
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--scoring_module_name", required=True)
    parser.add_argument("--mini_batch_size", type=_count, required=True)
    parser.add_argument("--error_threshold", type=int, default=-1)
    parser.add_argument("--allowed_failed_count", type=int, default=-1)
    parser.add_argument("--allowed_failed_percent", type=float, default=100)
    parser.add_argument("--run_invocation_timeout", type=int, default=60)
    parser.add_argument("--run_max_try", type=int, default=3)
    parser.add_argument("--process_count_per_node", type=_count, default=os.cpu_count())
    parser.add_argument("--output_action", default="append_row")
    parser.add_argument("--append_row_file_name", default="parallel_run_step.txt")
    parser.add_argument("--output", type=Path)
    parser.add_argument(IN_ONE_PROCESS, action="store_true")
    args, other_arguments = parser.parse_known_args()

    batches = list(split_inputs(other_arguments, args.mini_batch_size))
    if not batches:
        sys.exit("Parallel step: the input holds no files.")
    limits = Limits(
        tries=args.run_max_try,
        seconds=args.run_invocation_timeout,
        failed_items=args.error_threshold,
        failed_batches=args.allowed_failed_count,
        failed_percent=args.allowed_failed_percent,
    )
    if args.in_one_process:
        progress = run_in_this_process(batches, args.scoring_module_name, limits)
    else:
        workers = min(args.process_count_per_node, len(batches))
        progress = run_in_workers(batches, args.scoring_module_name, workers, limits)

    handled = sum(map(len, batches)) - len(progress.failed_items)
    failed = ", ".join(progress.failed_items)
    problem = f"; failed: {failed}" if failed else ""
    print(f"files handled: {handled}, mini-batches: {len(batches)}{problem}")
    if args.output and args.output_action == "append_row":
        unfinished = args.output / f".{args.append_row_file_name}"
        text = "".join(f"{row}\n" for row in progress.rows)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(args.output / args.append_row_file_name)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text}, but must be 1 or more")
    return int(text)


def split_inputs(arguments: list[str], mini_batch_size: int) -> Iterator[Batch]:
    """Split the files of all inputs that the command line names into mini-batches."""
    for option, name in pairwise(arguments):
        if option.startswith("--input_fds_"):
            # The folder of an input is in the environment variable of its name.
            paths = Path(os.environ[name]).rglob("*")
            files = sorted(str(path) for path in paths if path.is_file())
            for start in range(0, len(files), mini_batch_size):
                yield files[start : start + mini_batch_size]


def run_in_workers(
    batches: list[Batch], entry_script: str, workers: int, limits: Limits
) -> Progress:
    """Run all mini-batches in worker processes.

    Exits as soon as more has failed than the limits allow.
    """
    # Imported here, as the local run imports this file for its names.
    from pebble import ProcessPool

    context = _WorkerContext()
    try:
        is_ready = context.Event()
        pool = ProcessPool(
            workers,
            initializer=_start_worker,
            initargs=(is_ready, entry_script, sys.argv[1:]),
            context=context,
        )
    except OSError as error:
        sys.exit(
            "Parallel step: worker processes cannot be started, as they cannot share"
            f" memory here ({error}). Mount /dev/shm so that it can be written to."
        )
    progress = Progress(len(batches))
    to_try = batches
    try:
        for attempt in range(1, limits.tries + 1):
            tries: dict[Future[list[str]], Batch] = {}
            for batch in to_try:
                future = pool.schedule(_run_batch, [batch], timeout=limits.seconds)
                tries[future] = batch
            # The pool does not hear of workers that end before the first batch is there.
            is_ready.set()
            to_try = []
            for ended in as_completed(tries):
                failure = _find_error(ended)
                batch = tries[ended]
                if failure is None:
                    progress.add_returned(batch, ended.result())
                elif _may_try_again(batch, failure, attempt, limits.tries):
                    to_try.append(batch)
                    continue
                else:
                    progress.add_failed(batch)
                progress.check(limits)
    finally:
        # Workers end by themselves, after `shutdown()`.
        pool.stop()
        pool.join()
    return progress


def run_in_this_process(
    batches: list[Batch], entry_script: str, limits: Limits
) -> Progress:
    """Run all mini-batches here, one after another and without a time limit."""
    load_script(entry_script, sys.argv[1:])
    progress = Progress(len(batches))
    with closing(_Shutdown()):
        for batch in batches:
            for attempt in range(1, limits.tries + 1):
                try:
                    progress.add_returned(batch, call_run(batch))
                    break
                except Exception as error:  # noqa: BLE001 (whatever the script raises)
                    if not _may_try_again(batch, error, attempt, limits.tries):
                        progress.add_failed(batch)
            progress.check(limits)
    return progress


class _Shutdown:
    """Calls `shutdown()` of the entry script, if there is one."""

    def close(self) -> None:
        if hasattr(script, "shutdown"):
            script.shutdown()


def _find_error(future: Future[list[str]]) -> BaseException | None:
    """Return why a mini-batch failed, or None; exit if workers cannot start."""
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        sys.exit("Parallel step: init() failed, as said above.")
    return error


def _may_try_again(
    batch: Batch, error: BaseException, attempt: int, tries: int
) -> bool:
    """Print why a try of a mini-batch failed; tell whether there is another one."""
    names = _names(batch)
    text = str(error) if names[0] in str(error) else f"{', '.join(names)}: {error}"
    print(f"Try {attempt} of {tries} failed: {text}")
    return attempt < tries


def _names(batch: Batch) -> list[str]:
    return [Path(item).name for item in batch]


class _WorkerContext(SpawnContext):
    """Forks worker processes where that is safe, and starts them anew elsewhere.

    Forked workers share what this process has imported. A worker that takes the place of
    another starts anew, as the pool has threads by then.
    """

    def Process(self, *args: Any, **more: Any) -> BaseProcess:  # type: ignore[override]
        if sys.platform == "linux" and threading.active_count() == 1:
            return multiprocessing.get_context("fork").Process(*args, **more)
        return super().Process(*args, **more)


# In a worker ------------------------------------------------------------------------


def _start_worker(is_ready: Event, entry_script: str, arguments: list[str]) -> None:
    """Load the entry script into a worker process, and call its `init()`."""
    is_ready.wait()
    try:
        load_script(entry_script, arguments)
    except Exception as error:
        print(_describe(error), flush=True)
        logging.disable()  # The pool would print it once more.
        raise
    if hasattr(script, "shutdown"):
        Finalize(None, script.shutdown, exitpriority=1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def load_script(entry_script: str, arguments: list[str]) -> None:
    """Load the entry script into this process as Azure ML does, and call `init()`."""
    global script
    sys.argv = [entry_script, *arguments, *ADDED_ARGUMENTS]
    gc.disable()  # Imports leave no garbage behind, and looking for it takes long.
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Else all workers would draw the same numbers.
    try:
        # Not registered in sys.modules, as it may not be on Azure ML.
        spec = importlib.util.spec_from_file_location(MODULE, entry_script)
        assert spec and spec.loader
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        if hasattr(script, "init"):
            script.init()
    finally:
        gc.freeze()
        gc.enable()


def _run_batch(batch: Batch) -> list[str]:
    """Run a mini-batch in a worker; raise RuntimeError with whatever the script raises."""
    # The pool ends a worker by this signal: at once when a mini-batch takes too long,
    # but not while the worker ends by itself, in `shutdown()`.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        return call_run(batch)
    except WrongReturnError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever the script raises)
        # As text, because only this process may know the error's class.
        raise RuntimeError(_describe(error)) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class WrongReturnError(TypeError):
    """Report that `run()` has returned something of the wrong type."""


def call_run(batch: Batch) -> list[str]:
    """Return the rows that the script's `run()` returns for a mini-batch, as text.

    Raises WrongReturnError if it returns no list, tuple or pandas.DataFrame.
    """
    returned: Any = script.run(batch)
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
    """Describe an error by its traceback, or by its own text if the script defines it."""
    if type(error).__module__ == MODULE:
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


if __name__ == "__main__":
    main()
