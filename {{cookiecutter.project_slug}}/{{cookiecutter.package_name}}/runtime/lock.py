"""Pin the packages of a project: `environment/*.in` name them, `*.txt` hold the versions.

`project.txt` is what is installed on this machine, `steps.txt` what the steps run with on
Azure ML. uv finds versions that go together, for every Python and platform at once. Only
the standard library is needed here, and uv.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import CommandError

PROJECT_PINS = "project.txt"
STEPS_PINS = "steps.txt"
STEPS_SOURCES = ["steps.in", "driver.in"]
OPTIONS = [
    "--quiet",
    "--universal",  # The pins hold on every platform, with markers where they differ.
    "--python-version=3.11",  # The oldest Python that a project supports.
    "--no-python-downloads",  # To pin packages, no Python of that version is needed.
    "--fork-strategy=fewest",  # One version of a package for all Pythons, if there is one.
    "--no-strip-extras",  # azureml-dataset-runtime needs its extra `fuse` to mount data.
    "--no-emit-index-url",  # A private registry's address does not belong in the pins.
    "--no-annotate",
    "--no-header",
]


@dataclass(frozen=True)
class Change:
    """A package whose pin has changed; an empty version means that it has no pin."""

    file: str
    package: str
    before: str
    after: str

    def __str__(self) -> str:
        if not self.before:
            return f"{self.file}: {self.package} {self.after} was added"
        if not self.after:
            return f"{self.file}: {self.package} {self.before} was removed"
        return f"{self.file}: {self.package} {self.before} -> {self.after}"


def lock_packages(environment: Path, upgrade: bool = False) -> list[Change]:
    """Write the pins of both files in the folder `environment`, and return what changed.

    A version that is pinned already stays, unless another package needs a different one
    or `upgrade` asks for the newest versions of all. Raises CommandError if uv is missing or
    finds no versions that go together; both files are then as they were.
    """
    uv = find_uv()
    environment = environment.resolve()
    files = [environment / PROJECT_PINS, environment / STEPS_PINS]

    # Below `environment`, so that the new files can be renamed into their place.
    with tempfile.TemporaryDirectory(dir=environment, prefix=".lock-") as name:
        folder = Path(name)
        for file in files:
            # uv keeps the versions of a file that it replaces.
            if file.exists() and not upgrade:
                shutil.copy(file, folder)

        if "-r driver.in" in (environment / "project.in").read_text("utf-8", "replace"):
            lock_project_first(uv, environment, folder)
        else:
            lock_steps_first(uv, environment, folder)

        changes = []
        for file in files:
            changes += compare_pins(file, folder / file.name)
        for file in files:
            os.replace(folder / file.name, file)

    return changes


def lock_project_first(uv: list[str], environment: Path, folder: Path) -> None:
    """Pin a project of azureml-sdk, which limits the versions of the steps' packages."""
    project_pins = folder / PROJECT_PINS
    steps_pins = folder / STEPS_PINS
    compile_pins(uv, environment, ["project.in"], project_pins)
    compile_pins(uv, environment, STEPS_SOURCES, steps_pins, constraints=project_pins)


def lock_steps_first(uv: list[str], environment: Path, folder: Path) -> None:
    """Pin a project of azure-ai-ml, whose steps have packages of azureml-sdk on Azure.

    The project takes the versions of the steps, except those of Azure's own packages and
    of OpenTelemetry, of which the two SDKs need different versions.
    """
    steps_pins = folder / STEPS_PINS
    compile_pins(uv, environment, STEPS_SOURCES, steps_pins)

    shared = []
    for line in steps_pins.read_text(encoding="utf-8").splitlines():
        if not line.startswith(("azure", "opentelemetry")):
            shared.append(line)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(shared) + "\n", encoding="utf-8")

    compile_pins(
        uv, environment, ["project.in"], folder / PROJECT_PINS, constraints=constraints
    )


def find_uv() -> list[str]:
    """Return the command that runs uv. Raises CommandError if uv is not installed."""
    program = shutil.which("uv")
    if program:
        return [program]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    raise CommandError(
        "`lock` needs uv, which is not installed: run `pip install uv`, then try again."
    )


def compile_pins(
    uv: list[str],
    environment: Path,
    sources: list[str],
    output: Path,
    constraints: Path | None = None,
) -> None:
    """Have uv write the pins of `sources`, files in the folder `environment`, to `output`.

    Versions that `output` holds already are kept where that is possible. Raises CommandError
    with uv's own explanation if there are no versions that go together.
    """
    command = [*uv, "pip", "compile", *OPTIONS, *sources, f"--output-file={output}"]
    if constraints:
        command.append(f"--constraint={constraints}")

    done = subprocess.run(
        command,
        cwd=environment,
        # As pip does, since companies have certificate authorities of their own.
        env={"UV_SYSTEM_CERTS": "1", **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # The pins, which are in the file too.
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise CommandError(
            f"uv could not pin the packages of {' and '.join(sources)} in the folder "
            "environment/, so no file was changed. Correct what uv says, then try again:\n\n"
            f"{done.stderr.strip()}"
        )


def read_pins(file: Path) -> dict[str, str]:
    """Return what a file of pins says of each package: `1.2`, or a URL, with its markers.

    A package that has several lines, for different Pythons, has them joined by commas.
    """
    pins: dict[str, str] = {}
    if not file.exists():
        return pins

    for line in file.read_text(encoding="utf-8").splitlines():
        pin = re.match(r"([\w.-]+(?:\[.*?\])?)\s*(?:==|@)?\s*(.*)", line)
        if not pin:
            continue
        package, version = pin.groups()
        pins[package] = f"{pins[package]}, {version}" if package in pins else version
    return pins


def compare_pins(old: Path, new: Path) -> list[Change]:
    """Return the packages whose pins differ between two files, sorted by their names."""
    before = read_pins(old)
    after = read_pins(new)

    changes = []
    for package in sorted(before.keys() | after.keys()):
        old_version = before.get(package, "")
        new_version = after.get(package, "")
        if old_version != new_version:
            changes.append(Change(old.name, package, old_version, new_version))
    return changes
