"""Run the benchmarks, print a table of the figures, and write them as JSON.

    python -m benchmarks [--only NAME] [--rounds N] [--json FILE]

A benchmark runs the programs that it compares in turns, so that a busy machine slows down
all of them.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from datetime import date
from os import cpu_count
from pathlib import Path

from . import generation, local_run, monitoring, prep, scoring
from .measure import Figures, show

BENCHMARKS: dict[str, Callable[[int], Figures]] = {
    "generation": generation.measure_generation,
    "local_run": local_run.measure_local_run,
    "prep": prep.measure_prep,
    "scoring": scoring.measure_scoring,
    "own_model": scoring.measure_own_model,
    "training": scoring.measure_training,
    "monitoring": monitoring.measure_monitoring,
}


def main() -> None:
    """Run the benchmarks that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    figures: dict[str, Figures] = {}
    for name in args.only or BENCHMARKS:
        print(f"\n{name}", flush=True)
        figures[name] = BENCHMARKS[name](args.rounds)
        show(figures[name])

    if args.json:
        content = {
            "date": str(date.today()),
            "cores": cpu_count(),
            "python": platform.python_version(),
            "rounds": args.rounds,
            "figures": figures,
        }
        args.json.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
