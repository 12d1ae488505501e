"""Pin the packages of a project anew: `environment/*.in` say which, `*.txt` which versions.

`project.txt` is what is installed on this machine, `steps.txt` what the steps run with on
Azure ML. uv finds versions that go together, for every Python and platform at once.
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

PROJECT_PINS = "project.txt"
STEPS_PINS = "steps.txt"
CONSTRAINTS = "constraints.txt"
OPTIONS = [
    "--quiet",
    "--universal",  # The pins hold on every platform, with markers where they differ.
    "--python-version=3.11",  # The oldest Python that a project supports.
    "--fork-strategy=fewest",
    "--no-strip-extras",  # azureml-dataset-runtime needs its extra `fuse` to mount data.
    "--no-emit-index-url",  # A private registry's address does not belong into the pins.
    "--no-annotate",
    "--no-header",
]


class LockError(Exception):
    """Report that no pins could be made; the files are as they were."""


@dataclass(frozen=True)
class Change:
    """A package whose pin has changed; an empty version means that there is no pin."""

    file: str
    package: str
    before: str
    after: str

    def __str__(self) -> str:
        if not self.before:
            return f"{self.file}: {self.package} {self.after} is new"
        if not self.after:
            return f"{self.file}: {self.package} {self.before} is gone"
        return f"{self.file}: {self.package} {self.before} -> {self.after}"


def lock_packages(environment: Path, upgrade: bool = False) -> list[Change]:
    """Write the pins of both files in the folder `environment`, and return what changed.

    Versions that are pinned already stay, unless a package that is new needs another one
    or `upgrade` asks for the newest of all. Raises LockError if uv is missing or finds no
    versions that go together; the files are then as they were.
    """
    uv = find_uv()

    with tempfile.TemporaryDirectory(dir=environment, prefix=".lock-") as name:
        copy = Path(name)
        for file in environment.iterdir():
            if file.suffix in (".in", ".txt"):
                shutil.copy(file, copy)

        includes_driver = "-r driver.in" in (copy / "project.in").read_text("utf-8")
        if includes_driver:
            # azureml-sdk limits the versions of the steps' packages, so it comes first.
            compile_pins(uv, copy, PROJECT_PINS, ["project.in"], upgrade)
            shutil.copy(copy / PROJECT_PINS, copy / CONSTRAINTS)
            compile_pins(uv, copy, STEPS_PINS, ["steps.in", "driver.in"], upgrade)
        else:
            (copy / CONSTRAINTS).write_text("")
            compile_pins(uv, copy, STEPS_PINS, ["steps.in", "driver.in"], upgrade)
            shared = constrain_shared_packages((copy / STEPS_PINS).read_text("utf-8"))
            (copy / CONSTRAINTS).write_text(shared, encoding="utf-8")
            compile_pins(uv, copy, PROJECT_PINS, ["project.in"], upgrade)

        changes = []
        for file_name in (PROJECT_PINS, STEPS_PINS):
            before = read_pins(environment / file_name)
            after = read_pins(copy / file_name)
            changes += compare_pins(file_name, before, after)
        for file_name in (PROJECT_PINS, STEPS_PINS):
            os.replace(copy / file_name, environment / file_name)
    return changes


def find_uv() -> list[str]:
    """Return the command that runs uv. Raises LockError if it is not installed."""
    program = shutil.which("uv")
    if program:
        return [program]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    raise LockError("`lock` needs uv, which is not installed: run `pip install uv`.")


def compile_pins(
    uv: list[str], folder: Path, output: str, sources: list[str], upgrade: bool
) -> None:
    """Have uv write the pins of `sources` to `output`, all of them files in `folder`.

    Raises LockError with uv's own explanation if there are none that go together.
    """
    command = [*uv, "pip", "compile", *OPTIONS, *sources, f"--output-file={output}"]
    if (folder / CONSTRAINTS).exists():
        command.append(f"--constraint={CONSTRAINTS}")
    if upgrade:
        command.append("--upgrade")
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise LockError(
            f"uv found no versions for environment/{' and environment/'.join(sources)}, "
            f"so no file was changed. uv says:\n\n{done.stderr.strip()}"
        )


def constrain_shared_packages(steps_pins: str) -> str:
    """Return the pins of the steps that azure-ai-ml on this machine must share.

    Azure's own packages are left out, as the two SDKs need different versions of them, and
    so is OpenTelemetry, which azure-ai-ml needs in a version of its own.
    """
    lines = steps_pins.splitlines(keepends=True)
    own = ("azure", "opentelemetry")
    return "".join(line for line in lines if not line.startswith(own))


def read_pins(file: Path) -> dict[str, str]:
    """Return the versions in a file of pins by package; several are joined by commas."""
    pins: dict[str, str] = {}
    if not file.exists():
        return pins
    for line in file.read_text(encoding="utf-8").splitlines():
        pin = re.match(r"([\w.-]+)(?:\[.*?\])?==([^\s;]+)", line)
        if pin:
            package, version = pin.groups()
            pins[package] = f"{pins[package]}, {version}" if package in pins else version
    return pins


def compare_pins(
    file: str, before: dict[str, str], after: dict[str, str]
) -> list[Change]:
    """Return the packages whose pins differ, in the order of their names."""
    changes = []
    for package in sorted(before.keys() | after.keys()):
        old = before.get(package, "")
        new = after.get(package, "")
        if old != new:
            changes.append(Change(file, package, old, new))
    return changes
