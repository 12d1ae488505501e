"""The driver of a parallel step on this machine.

Takes the command line that Azure ML's own driver gets and keeps the same contract with
the entry script: `init()` once in each worker process, `run(mini_batch)` with a list of
file paths for each mini-batch, and `shutdown()` at the end, if there is one. A
mini-batch that raises, takes too long or loses its worker is tried again. Items that
fail for good, or that `run` returned nothing for, count against the error threshold.

A file that is run by its path, in the folder of the entry script.
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
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from pathlib import Path
from types import ModuleType
from typing import Any

PROGRESS = "mini-batches done: "  # begins the lines of the log that tell of progress

MODULE = "score_module"  # what Azure ML's driver loads an entry script as
# Of what that driver adds to the command line, or may add, for its own use.
ADDED = ["--aml_core_version=1.61.0", "--dataprep_version=5.5.0", "--model", "model"]

script: ModuleType  # the entry script, in a worker


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
    args, others = parser.parse_known_args()
    batches: list[list[str]] = []
    for option, name in pairwise(others):
        if option.startswith("--input_fds_"):
            # An input's folder is in the environment variable of its name.
            paths = Path(os.environ[name]).rglob("*")
            items = sorted(str(path) for path in paths if path.is_file())
            size = args.mini_batch_size
            batches += [items[i : i + size] for i in range(0, len(items), size)]
    if not batches:
        sys.exit("Parallel step: the input holds no files.")
    rows = run(batches, args)
    if args.output and args.output_action == "append_row":
        unfinished = args.output / f".{args.append_row_file_name}"
        unfinished.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        unfinished.replace(args.output / args.append_row_file_name)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text}, but must be 1 or more")
    return int(text)


def run(batches: list[list[str]], args: argparse.Namespace) -> list[str]:
    """Have worker processes run all mini-batches; returns the rows that they returned.

    Exits as soon as more has failed than the command line allows.
    """
    from pebble import ProcessPool  # here, as the local run looks at this file too

    rows: list[str] = []
    failed: list[str] = []  # files
    done = failed_batches = 0
    timeout, to_try = args.run_invocation_timeout, batches
    context = _Context()
    is_ready = context.Event()  # the pool: it hears of no worker that ended before
    pool = ProcessPool(
        min(args.process_count_per_node, len(batches)),
        initializer=_start_worker,
        initargs=(is_ready, args.scoring_module_name, sys.argv[1:]),
        context=context,
    )
    try:
        for count in range(1, args.run_max_try + 1):
            tries: dict[Future[list[str]], list[str]] = {}
            for batch in to_try:
                tries[pool.schedule(_run, [batch], timeout=timeout)] = batch
            is_ready.set()
            to_try = []
            for future in as_completed(tries):
                batch, error = tries[future], future.exception()
                names = [Path(item).name for item in batch]
                if isinstance(error, BrokenProcessPool):
                    sys.exit("Parallel step: init() failed, as said above.")
                if error is None:
                    done += 1
                    returned = future.result()
                    rows += returned
                    missing = len(batch) - len(returned)
                    if missing > 0:
                        of = f"{len(returned)} items for {len(batch)} files"
                        print(f"run() returned {of}, and must return one for each.")
                    failed += [f"one of {', '.join(names)}"] * missing
                else:
                    where = "" if names[0] in str(error) else f"{', '.join(names)}: "
                    print(f"Try {count} of {args.run_max_try} failed: {where}{error}")
                    if count < args.run_max_try:
                        to_try.append(batch)
                        continue
                    failed_batches += 1
                    failed += names
                print(f"{PROGRESS}{done}/{len(batches)}", flush=True)
                if (
                    0 <= args.error_threshold < len(failed)
                    or 0 <= args.allowed_failed_count < failed_batches
                    or args.allowed_failed_percent < 100 * failed_batches / len(batches)
                ):
                    limit = f"(error_threshold {args.error_threshold})"
                    text = f"more failed than the settings allow {limit}"
                    sys.exit(f"Parallel step: {text}: {', '.join(failed)}.")
    finally:
        pool.stop()
        pool.join()  # which has the workers end by themselves, in `shutdown()`
    handled = sum(map(len, batches)) - len(failed)
    problem = f"; failed: {', '.join(failed)}" if failed else ""
    print(f"files handled: {handled}, mini-batches: {len(batches)}{problem}")
    return rows


class _Context(SpawnContext):
    """How worker processes begin: forked, where that is safe, and else anew.

    Those that are forked share what this process has imported. A worker that takes the
    place of another begins anew, as the pool has threads by then.
    """

    def Process(self, *args: Any, **more: Any) -> BaseProcess:  # type: ignore[override]
        if sys.platform == "linux" and threading.active_count() == 1:
            return multiprocessing.get_context("fork").Process(*args, **more)
        return super().Process(*args, **more)


def _start_worker(is_ready: Event, entry_script: str, arguments: list[str]) -> None:
    """Load the entry script into this process, as Azure ML does, and call `init`."""
    global script
    is_ready.wait()
    sys.argv = [entry_script, *arguments, *ADDED]
    gc.disable()  # what is imported is no garbage, and looking for it takes long
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # else chance would be the same in all workers
    try:
        # As on Azure ML it may not be, it is not registered in sys.modules.
        spec = importlib.util.spec_from_file_location(MODULE, entry_script)
        assert spec and spec.loader
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        if hasattr(script, "init"):
            script.init()
    except Exception as error:
        print(_in_words(error), flush=True)
        logging.disable()  # the pool would tell it once more
        raise
    finally:
        gc.freeze()
        gc.enable()
    if hasattr(script, "shutdown"):
        Finalize(None, script.shutdown, exitpriority=1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _run(batch: list[str]) -> list[str]:
    """The rows that the entry script returns for a mini-batch, as text."""
    # The pool ends a worker by this signal: at once when it takes too long, but not
    # where it ends by itself, in `shutdown()`.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        result: Any = script.run(batch)
        pandas = sys.modules.get("pandas")
        if pandas and isinstance(result, pandas.DataFrame):
            result = result.to_csv(sep=" ", header=False, index=False).splitlines()
        if isinstance(result, (list, tuple)):
            return [str(row) for row in result]
    except Exception as error:  # noqa: BLE001 (whatever the script raises)
        # In words alone, as its class may be known in this process only.
        raise RuntimeError(_in_words(error)) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kinds = "a list, a tuple or a pandas.DataFrame"
    raise TypeError(f"run() returned {type(result).__name__}, not {kinds}.")


def _in_words(error: Exception) -> str:
    """What to tell of an error: the script's own classes speak for themselves."""
    if type(error).__module__ == MODULE:
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


if __name__ == "__main__":
    main()
