"""Imitate ParallelRunStep's driver: call an entry script with mini-batches of files.

The stand-in runs this script with the command line that the SDK wrote for the real driver.
It handles one mini-batch after another, in this process.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_logger = logging.getLogger(__name__)


#: The exit code of the real driver if too many mini-batches failed.
FAILED = 42


def main() -> int:
    """Run the entry script on all files of the input, and return an exit code."""
    args = parse_arguments()
    entry_script = load(Path(args.scoring_module_name))
    if hasattr(entry_script, "init"):
        entry_script.init()
    # The argument names an environment variable, which has the path of the input.
    folder = Path(os.environ[args.input_fds_0])
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    if not files:
        print("No mini-batch: the input has no files.", file=sys.stderr)
        return FAILED

    failed_files = 0
    failed_batches = 0
    rows = []
    for start in range(0, len(files), args.mini_batch_size):
        batch = files[start : start + args.mini_batch_size]
        results = run_with_retries(entry_script.run, batch, args.run_max_try)
        rows += [str(result) for result in results]
        if len(results) < len(batch):
            failed_batches += 1
            failed_files += len(batch) - len(results)
        failures = {
            "error_threshold": failed_files,
            "allowed_failed_count": failed_batches,
        }
        for limit, count in failures.items():
            # A limit of -1 allows any number of failures.
            if 0 <= getattr(args, limit) < count:
                print(f"{count} failed, more than {limit} allows.", file=sys.stderr)
                return FAILED
    if hasattr(entry_script, "shutdown"):
        entry_script.shutdown()
    if args.output_action == "append_row":
        lines = "".join(f"{row}\n" for row in rows)
        (args.output / args.append_row_file_name).write_text(lines)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the arguments that concern the driver. The others are the entry script's."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--scoring_module_name", required=True)
    parser.add_argument("--mini_batch_size", type=int, required=True)
    parser.add_argument("--input_fds_0", required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--output_action", default="append_row")
    parser.add_argument("--append_row_file_name", default="parallel_run_step.txt")
    parser.add_argument("--error_threshold", type=int, default=-1)
    parser.add_argument("--allowed_failed_count", type=int, default=-1)
    parser.add_argument("--run_max_try", type=int, default=3)
    args, _ = parser.parse_known_args()
    return args


def load(script: Path) -> Any:
    """Import the entry script as the service does, which is unlike an ordinary import.

    The module has another name, and `sys.modules` does not have it. If the script imports a
    module beside it, that fails. Then the script is imported by its name.
    """
    spec = importlib.util.spec_from_file_location("score_module", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError:
        sys.path.insert(0, str(script.parent.resolve()))
        return importlib.import_module(script.stem)
    return module


def run_with_retries(
    run: Callable[[list[str]], Any], batch: list[str], tries: int
) -> list[Any]:
    """Return the results for a mini-batch, which are empty if it failed in each try."""
    for _ in range(tries):
        try:
            return list(run(list(batch)))
        except Exception:
            _logger.exception("A mini-batch failed.")
    return []


if __name__ == "__main__":
    sys.exit(main())
