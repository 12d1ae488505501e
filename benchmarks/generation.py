"""How long a generation takes, against the same template with two empty hooks.

    python benchmarks/generation.py [ROUNDS]

Both are generated in turns by the cookiecutter command of the Python that runs this, with
the default answers, each into an empty folder. Prints the medians and their ratio.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[1]


def seconds(template: Path, output: Path) -> float:
    command = [sys.executable, "-m", "cookiecutter", str(template), "--no-input"]
    start = time.perf_counter()
    subprocess.run([*command, "-o", str(output)], check=True, capture_output=True)
    taken = time.perf_counter() - start
    shutil.rmtree(output)
    return taken


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty, ours = folder / "empty", folder / "ours"
        for template in (empty, ours):
            template.mkdir()
            for part in ("cookiecutter.json", "hooks", "templates", "{{*"):
                (path,) = TEMPLATE.glob(part)
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, template / path.name)
        for hook in (empty / "hooks").iterdir():
            hook.write_text("")
        times: dict[Path, list[float]] = {ours: [], empty: []}
        for round_ in range(rounds + 1):
            for template, taken in times.items():
                taken.append(seconds(template, folder / "output"))
            if round_ == 0:  # the first of each warms the disk's cache
                for taken in times.values():
                    taken.clear()
    hooks, none = (statistics.median(times[template]) for template in (ours, empty))
    print(f"with hooks         {hooks:.3f} s (median of {rounds})")
    print(f"with empty hooks   {none:.3f} s")
    print(f"ratio              {hooks / none:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
