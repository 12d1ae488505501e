"""Make the pictures of README.md from a generated project, such as `make demo` leaves.

    make pictures

runs both pipelines in a copy of the project, records what they print as `terminal.svg`,
and takes `report.png` of the evaluation report with Chromium, if that is installed.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parent
SHOWN_FOLDER = "/home/ann/penguins"  # in place of the project's own folder
WIDTH = 112  # characters of the recorded terminal
REPORT_SIZE = (760, 1180)  # pixels of the page that are in the picture
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

RECORDED_RUNS = ["run training", "run scoring"]
# The report of a second model compares it with the first.
SECOND_RUN = "run training --set max_iterations=15"


def run_command(project: Path, arguments: str) -> str:
    """Run a command of the project, and return what it prints, with its colours."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(project),
        "FORCE_COLOR": "1",
        "TTY_INTERACTIVE": "0",  # Rich then shows no spinner.
        "COLUMNS": str(WIDTH),
    }
    done = subprocess.run(
        [sys.executable, "-m", project.name, *arguments.split()],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout.replace(str(project), SHOWN_FOLDER)


def record_terminal(project: Path, picture: Path) -> None:
    """Run all of RECORDED_RUNS, and draw the session as an SVG file."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    for arguments in RECORDED_RUNS:
        console.print(f"[bold]$ python -m {project.name} {arguments}")
        for line in run_command(project, arguments).splitlines():
            text = Text.from_ansi(line)
            if text.plain.strip():  # Rich prints empty lines in place of a spinner.
                console.print(text)
        console.print()
    drawing = console.export_svg(title=project.name)
    # The picture is drawn with a font of the reader's, and loads nothing.
    drawing = re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.DOTALL)
    picture.write_text(drawing, encoding="utf-8")


def photograph_report(project: Path, picture: Path) -> None:
    """Take a picture of the newest evaluation report; say so if there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"{picture.name} stays as it is: install Chromium to take it anew.")
        return
    reports = project.glob("runs/*/evaluate/outputs/evaluation/report.html")
    width, height = REPORT_SIZE
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",  # a container has no user namespaces
            "--disable-gpu",
            "--hide-scrollbars",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            max(reports).as_uri(),
        ],
        stderr=subprocess.DEVNULL,
        timeout=120,
        check=True,
    )


def main() -> None:
    """Make both pictures of the project that the command line names."""
    original = Path(sys.argv[1]).resolve()
    with TemporaryDirectory() as folder:
        project = Path(folder).resolve() / original.name
        without_runs = shutil.ignore_patterns("runs", "mlruns")
        shutil.copytree(original, project, ignore=without_runs)
        record_terminal(project, PICTURES / "terminal.svg")
        run_command(project, SECOND_RUN)
        photograph_report(project, PICTURES / "report.png")


if __name__ == "__main__":
    main()
