"""Measure everything side by side, print a table, and write it as JSON.

    python -m benchmarks [--only NAME] [--rounds N] [--json FILE]

Each benchmark is a module here, and can be run alone by its name; what it compares, it
runs in turns, so that a busy machine is busy for both.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from datetime import date
from os import cpu_count
from pathlib import Path

from . import generation, local_run, prep, scoring
from .measure import Figures, show

BENCHMARKS: dict[str, Callable[[int], Figures]] = {
    "generation": generation.figures,
    "local_run": local_run.figures,
    "prep": prep.figures,
    "scoring": scoring.figures,
    "own_model": scoring.own_model,
    "training": scoring.training,
}


def main() -> None:
    """Run them one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[str, Figures] = {}
    for name in args.only or BENCHMARKS:
        print(f"\n{name}", flush=True)
        found[name] = BENCHMARKS[name](args.rounds)
        show(found[name])
    if args.json:
        about = {"date": f"{date.today()}", "cores": cpu_count()}
        about |= {"python": platform.python_version(), "rounds": args.rounds}
        args.json.write_text(json.dumps({**about, "figures": found}, indent=2))


if __name__ == "__main__":
    main()
