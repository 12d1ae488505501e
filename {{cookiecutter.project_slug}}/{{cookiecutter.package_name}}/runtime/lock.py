"""Pin the packages of a project: `environment/*.in` name them, `*.txt` hold the versions.

`project.txt` pins the packages on this machine, and `steps.txt` those of the steps on
Azure ML. uv finds versions that go together, for every Python and platform at once. This
module needs only the standard library and uv.
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
    """A package whose pin has changed.

    `before` is empty if the package had no pin, and `after` if it has none any more.
    """

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

    # The new files are renamed to their final paths at the end. This needs a folder on the
    # same file system, so it is made inside `environment`.
    with tempfile.TemporaryDirectory(dir=environment, prefix=".lock-") as name:
        folder = Path(name)
        for file in files:
            # uv keeps the versions that it reads in the file that it writes.
            if file.exists() and not upgrade:
                shutil.copy(file, folder)

        project_source = (environment / "project.in").read_text("utf-8", "replace")
        uses_azureml_sdk = "-r driver.in" in project_source
        if uses_azureml_sdk:
            give_steps_versions_of_project(uv, environment, folder)
        else:
            give_project_versions_of_steps(uv, environment, folder)

        changes = []
        for file in files:
            changes += compare_pins(file, folder / file.name)
        for file in files:
            os.replace(folder / file.name, file)

    return changes


def give_steps_versions_of_project(
    uv: list[str], environment: Path, folder: Path
) -> None:
    """Pin the project's packages, then the steps' packages at the same versions.

    This is for projects with azureml-sdk. Both the project and the steps use this SDK, so
    the project's versions work for the steps too. The pins are written to `folder`.
    """
    project_pins = folder / PROJECT_PINS
    steps_pins = folder / STEPS_PINS
    compile_pins(uv, environment, ["project.in"], project_pins)
    compile_pins(uv, environment, STEPS_SOURCES, steps_pins, constraints=project_pins)


def give_project_versions_of_steps(
    uv: list[str], environment: Path, folder: Path
) -> None:
    """Pin the steps' packages, then the project's packages at the same versions.

    This is for projects with azure-ai-ml. On Azure ML, their steps still run with packages
    of the older azureml-sdk. The two SDKs need different versions of Azure's own packages
    and of OpenTelemetry, so the project gets its own versions of these. The pins are
    written to `folder`.
    """
    steps_pins = folder / STEPS_PINS
    compile_pins(uv, environment, STEPS_SOURCES, steps_pins)

    shared_pins = []
    for line in steps_pins.read_text(encoding="utf-8").splitlines():
        if not line.startswith(("azure", "opentelemetry")):
            shared_pins.append(line)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(shared_pins) + "\n", encoding="utf-8")

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
    """Have uv pin the packages of some source files, and write the pins to `output`.

    `sources` are names of files in the folder `environment`, such as `steps.in`. uv keeps
    versions that `output` holds already, where that is possible, and allows no other
    version of a package that the file `constraints` pins. Raises CommandError with uv's own
    explanation if there are no versions that go together.
    """
    command = [*uv, "pip", "compile", *OPTIONS, *sources, f"--output-file={output}"]
    if constraints:
        command.append(f"--constraint={constraints}")

    done = subprocess.run(
        command,
        cwd=environment,
        # Companies have certificate authorities of their own. pip trusts those of the
        # operating system, so uv is told to do the same.
        env={"UV_SYSTEM_CERTS": "1", **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # uv also writes the pins here, not only to the file.
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
    """Return the version or URL of each package in a file of pins, with its markers.

    A package may have several lines, for different Pythons. Their versions are then joined
    by commas. If the file is missing, the result is empty.
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
