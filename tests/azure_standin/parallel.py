"""Stands for ParallelRunStep's driver: calls an entry script with mini-batches of files.

One process, one mini-batch after another; run by the execution as a script, with the whole command
line that the SDK made for the real driver.
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


def main() -> int:
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

    entry = load(Path(args.scoring_module_name))
    if hasattr(entry, "init"):
        entry.init()
    # The input is named, not pointed to: its folder is in the environment.
    files = sorted(
        str(path)
        for path in Path(os.environ[args.input_fds_0]).rglob("*")
        if path.is_file()
    )
    if not files:
        print("No mini-batch: the input has no files.", file=sys.stderr)
        return 42
    failed, failed_batches, rows = 0, 0, []
    for start in range(0, len(files), args.mini_batch_size):
        batch = files[start : start + args.mini_batch_size]
        results = attempt(entry.run, batch, args.run_max_try)
        failed_batches += len(results) < len(batch)
        failed += max(len(batch) - len(results), 0)
        rows += [str(result) for result in results]
        allowed = {"error_threshold": failed, "allowed_failed_count": failed_batches}
        for name, count in allowed.items():
            if 0 <= getattr(args, name) < count:
                print(f"{count} failed, more than {name} allows.", file=sys.stderr)
                return 42
    if hasattr(entry, "shutdown"):
        entry.shutdown()
    if args.output_action == "append_row":
        (args.output / args.append_row_file_name).write_text(
            "".join(f"{row}\n" for row in rows)
        )
    return 0


def load(script: Path) -> Any:
    """The entry script as a module, loaded no more kindly than the service is known to.

    By its path, under another name and in no table of modules; if a module is missing
    then, as a neighbour of its is, by name.
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


def attempt(run: Callable[[list[str]], Any], batch: list[str], tries: int) -> list[Any]:
    """What `run` returns for a mini-batch; nothing if it raised in every try."""
    for _ in range(tries):
        try:
            return list(run(list(batch)))
        except Exception:
            _logger.exception("A mini-batch failed.")
    return []


if __name__ == "__main__":
    sys.exit(main())
