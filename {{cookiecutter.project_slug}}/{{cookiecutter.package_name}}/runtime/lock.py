"""Pin the packages of a project: write the versions to use into `environment/*.txt`.

`environment/*.in` lists the packages. `project.txt` pins the packages on this machine, and
`steps.txt` pins the packages of the steps on Azure ML. uv finds compatible versions for
every Python and platform at once. This module needs only the standard library and uv.
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
# The beginnings of the packages that the two SDKs need in different versions.
PACKAGES_OF_SDK = ("azure", "opentelemetry")
# A line such as `numpy==1.26.4 ; python_full_version < '3.12'`, or `package @ https://…`.
# Comments do not match.
PIN = re.compile(
    r"""
    ([\w.-]+ (?:\[.*?\])?)  # The name of the package, perhaps with extras.
    \s* (?:==|@)? \s*
    (.*)                    # The version or URL, and a marker if there is one.
    """,
    re.VERBOSE,
)
OPTIONS = [
    "--quiet",
    "--universal",  # The pins hold on every platform, with markers where they differ.
    "--python-version=3.11",  # The oldest Python that a project supports.
    "--no-python-downloads",  # uv can pin packages for a Python that is not installed.
    "--fork-strategy=fewest",  # If possible, one version of a package for all Pythons.
    "--no-strip-extras",  # azureml-dataset-runtime needs its extra `fuse` to mount data.
    "--no-emit-index-url",  # A private registry's address does not belong in the pins.
    "--no-annotate",
    "--no-header",
]


@dataclass(frozen=True)
class Change:
    """A package whose pin has changed.

    `before` and `after` are versions, such as `1.26.4`. `before` is "" if the package was
    not pinned before, and `after` is "" if the package is not pinned any more.
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
    """Write both files of pins in the folder `environment`, and return the changed pins.

    A version that is pinned already stays, unless another package needs a different version
    or `upgrade` asks for the newest version of every package. Raises CommandError if uv is
    missing or finds no compatible versions; both files then stay as they are.
    """
    uv_command = find_uv()
    environment = environment.resolve()
    pin_files = [environment / PROJECT_PINS, environment / STEPS_PINS]

    # The new files are renamed to their final paths at the end. Files can be renamed only
    # within a file system, so the temporary folder is made inside `environment`.
    with tempfile.TemporaryDirectory(dir=environment, prefix=".lock-") as temporary:
        new_pins_folder = Path(temporary)
        if not upgrade:
            # uv keeps the versions in an existing output file, so each new file begins as a
            # copy of the old one.
            for file in pin_files:
                if file.exists():
                    shutil.copy(file, new_pins_folder)

        # In projects with azureml-sdk, project.in includes driver.in, the packages of this
        # SDK that the steps need on Azure ML.
        project_source = (environment / "project.in").read_text("utf-8", "replace")
        uses_azureml_sdk = "-r driver.in" in project_source
        if uses_azureml_sdk:
            pin_project_first(uv_command, environment, new_pins_folder)
        else:
            pin_steps_first(uv_command, environment, new_pins_folder)

        return replace_pin_files(pin_files, new_pins_folder)


def replace_pin_files(pin_files: list[Path], new_pins_folder: Path) -> list[Change]:
    """Replace files of pins by the files of the same names in another folder.

    Returns the packages whose pins differ between the old and the new files.
    """
    changes = []
    for file in pin_files:
        changes += compare_pins(file, new_pins_folder / file.name)
    for file in pin_files:
        os.replace(new_pins_folder / file.name, file)
    return changes


def pin_project_first(
    uv_command: list[str], environment: Path, new_pins_folder: Path
) -> None:
    """Pin the project's packages, then the steps' packages at the same versions.

    This order is for projects with azureml-sdk. The project and its steps use the same SDK,
    so the versions that the project needs suit the steps too. `environment` is the folder
    with the lists of packages. Both files of pins are written to the folder
    `new_pins_folder`.
    """
    project_pins = new_pins_folder / PROJECT_PINS
    steps_pins = new_pins_folder / STEPS_PINS
    compile_pins(uv_command, environment, ["project.in"], project_pins)
    compile_pins(
        uv_command, environment, STEPS_SOURCES, steps_pins, constraints=project_pins
    )


def pin_steps_first(
    uv_command: list[str], environment: Path, new_pins_folder: Path
) -> None:
    """Pin the steps' packages, then the project's packages at the same versions.

    This order is for projects with azure-ai-ml. On Azure ML, their steps need packages of
    the older azureml-sdk. The two SDKs need different versions of Azure's own packages and
    of OpenTelemetry, so only these packages may have other versions in the project than in
    the steps. `environment` is the folder with the lists of packages. Both files of pins are
    written to the folder `new_pins_folder`.
    """
    steps_pins = new_pins_folder / STEPS_PINS
    compile_pins(uv_command, environment, STEPS_SOURCES, steps_pins)

    shared_pins = [
        line
        for line in steps_pins.read_text(encoding="utf-8").splitlines()
        if not line.startswith(PACKAGES_OF_SDK)
    ]
    constraints = new_pins_folder / "constraints.txt"
    constraints.write_text("\n".join(shared_pins) + "\n", encoding="utf-8")

    project_pins = new_pins_folder / PROJECT_PINS
    compile_pins(
        uv_command, environment, ["project.in"], project_pins, constraints=constraints
    )


def find_uv() -> list[str]:
    """Return the first words of a command that calls uv, such as `["/usr/bin/uv"]`.

    Raises CommandError if uv is not installed.
    """
    program = shutil.which("uv")
    if program:
        return [program]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    raise CommandError(
        "`lock` needs uv, which is not installed: run `pip install uv`, then try again."
    )


def compile_pins(
    uv_command: list[str],
    environment: Path,
    sources: list[str],
    output: Path,
    constraints: Path | None = None,
) -> None:
    """Pin the packages that the files `sources` list, and write the pins to `output`.

    `sources` are names of files in the folder `environment`, such as `steps.in`. uv finds
    the versions, and where possible keeps the versions that `output` already has. A package
    that is pinned in the file `constraints` gets the version in that file. Raises
    CommandError, with uv's explanation, if no versions are compatible.
    """
    command = [
        *uv_command,
        "pip",
        "compile",
        *OPTIONS,
        *sources,
        f"--output-file={output}",
    ]
    if constraints is not None:
        command.append(f"--constraint={constraints}")

    uv_process = subprocess.run(
        command,
        cwd=environment,
        # Some companies have their own certificate authorities. With this variable, uv
        # trusts the authorities that the operating system trusts, as pip does.
        env={"UV_SYSTEM_CERTS": "1", **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # uv prints the pins, in addition to writing the file.
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if uv_process.returncode != 0:
        # The pins of the project are replaced only after uv has succeeded.
        raise CommandError(
            f"uv could not pin the packages of {' and '.join(sources)} in the folder "
            "environment/, so no file was changed. Fix what uv reports below, then try "
            f"again:\n\n{uv_process.stderr.strip()}"
        )


def read_pins(file: Path) -> dict[str, str]:
    """Return the pins in a file, as a dict from package to version or URL.

    A version may be followed by a condition, as in `1.26.4 ; python_full_version < '3.12'`.
    If a package has several lines, for different versions of Python, the versions are joined
    by commas. If the file does not exist, the dict is empty.
    """
    if not file.exists():
        return {}

    versions_by_package: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        pin = PIN.match(line)
        if pin is None:
            continue
        package, version = pin.groups()
        versions_by_package.setdefault(package, []).append(version)
    return {
        package: ", ".join(versions)
        for package, versions in versions_by_package.items()
    }


def compare_pins(old_file: Path, new_file: Path) -> list[Change]:
    """Return the packages whose pins differ between two files, sorted by package.

    If a package is in only one of the files, its version in the other file is "".
    """
    old_pins = read_pins(old_file)
    new_pins = read_pins(new_file)

    changes = []
    for package in sorted(old_pins.keys() | new_pins.keys()):
        old_version = old_pins.get(package, "")
        new_version = new_pins.get(package, "")
        if old_version != new_version:
            changes.append(Change(old_file.name, package, old_version, new_version))
    return changes
