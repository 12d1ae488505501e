"""Test that a project can be installed wherever the pages say, and its command `lock`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import tomllib
from conftest import COLD, SDKS, TEMPLATE, Bake, Project

TOOLS = Path(sys.executable).parent
PLATFORMS = {
    "Linux x86-64": "x86_64-unknown-linux-gnu",
    "Linux Arm": "aarch64-unknown-linux-gnu",
    "Windows": "x86_64-pc-windows-msvc",
    "Mac Intel": "x86_64-apple-darwin",
    "Mac Apple chip": "aarch64-apple-darwin",
}
PYTHONS = {
    "azureml-sdk": ["3.11"],
    "azure-ai-ml": ["3.11", "3.12", "3.13", "3.14"],
}
# This is published as source code only, and is pure Python.
SOURCE_PACKAGES = ["fusepy"]


@dataclass(frozen=True)
class Target:
    """An SDK, a Python and a platform that a project can be installed with."""

    sdk: str
    python: str
    platform: str

    def __str__(self) -> str:
        return f"{self.sdk}, Python {self.python}, {self.platform}"


def list_targets() -> list[Target]:
    """Return all targets that README.md names."""
    targets = []
    for sdk in SDKS:
        for python, platform in product(PYTHONS[sdk], PLATFORMS):
            targets.append(Target(sdk, python, platform))
    return targets


TARGETS = list_targets()


def run_uv(
    *arguments: str | Path, cwd: Path = TEMPLATE
) -> subprocess.CompletedProcess[str]:
    """Run uv, and skip the test if it cannot reach the package index."""
    environment = {
        **os.environ,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "1",
    }
    environment.pop("UV_PYTHON", None)
    process = subprocess.run(
        [sys.executable, "-m", "uv", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if "error sending request" in process.stderr:
        pytest.skip("the package index cannot be reached")
    return process


def find_wheels(target: Target) -> subprocess.CompletedProcess[str]:
    """Run uv, which fails if a pin has no wheel for the target. Nothing is installed."""
    return run_uv(
        "pip",
        "compile",
        "--no-deps",
        "--only-binary=:all:",
        *(f"--no-binary={package}" for package in SOURCE_PACKAGES),
        f"--python-version={target.python}",
        f"--python-platform={PLATFORMS[target.platform]}",
        TEMPLATE / "templates" / target.sdk / "environment" / "project.txt",
    )


Wheels = dict[Target, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheels() -> Wheels:
    """The results of uv for all targets. uv runs in threads, as it waits for the index."""
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(TARGETS, pool.map(find_wheels, TARGETS), strict=True))


# Pythons and platforms ---------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_every_pin_has_a_wheel(target: Target, wheels: Wheels) -> None:
    result = wheels[target]
    if target.sdk == "azureml-sdk" and target.platform == "Mac Apple chip":
        # This is why a Python for Intel chips runs there, through Rosetta.
        assert result.returncode != 0
        assert "azureml-dataprep-native" in result.stderr
    else:
        assert result.returncode == 0, result.stderr


def read_required_python(project: Project) -> str:
    """Return the Pythons that a project accepts, such as `>=3.11,<3.12`."""
    pyproject = (project.path / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(pyproject)["project"]["requires-python"])


@pytest.mark.parametrize("sdk", SDKS)
def test_the_pages_name_the_pythons_that_are_tested(bake: Bake, sdk: str) -> None:
    oldest = PYTHONS[sdk][0]
    newest = PYTHONS[sdk][-1]
    project = bake(azureml_sdk=sdk)
    next_minor = int(newest.removeprefix("3.")) + 1
    assert read_required_python(project) == f">={oldest},<3.{next_minor}"

    shown = oldest if oldest == newest else f"{oldest} to {newest}"
    page = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    assert f"\n| `{sdk}` | {shown} |" in page

    readme = (project.path / "README.md").read_text(encoding="utf-8")
    assert f"{sdk} needs Python {shown}." in readme
    accepted = {f'"{read_required_python(project)}"', oldest}
    if sdk == "azureml-sdk":
        accepted.add("cpython-3.11-macos-x86_64")
    commands = re.findall(r'uv venv --python ("[^"]*"|[^\s`]+)', readme)
    assert commands
    assert set(commands) <= accepted

    workflow = (TEMPLATE / ".github" / "workflows" / "test.yml").read_text()
    if sdk == "azure-ai-ml":
        assert f"OTHER_PYTHON={newest}" in workflow


FAKE_UNAME = """#!/bin/sh
case "$1" in -s) echo {system} ;; -m) echo {machine} ;; esac
"""
FAKE_UV = """#!/bin/sh
[ "$1" = venv ] && echo "$UV_PYTHON" >> "$LOG"
exit 0
"""


def run_make(folder: Path, system: str, machine: str, *arguments: str) -> str:
    """Run `make` as on a machine; return the Pythons that it requests of uv, one a line."""
    programs = folder / "programs"
    programs.mkdir()
    scripts = {
        "uname": FAKE_UNAME.format(system=system, machine=machine),
        "uv": FAKE_UV,
        "cookiecutter": "#!/bin/sh\nexit 1\n",  # Nothing is to be generated or installed.
        "black": "#!/bin/sh\nexit 1\n",
    }
    for name, script in scripts.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)

    shutil.copy(TEMPLATE / "Makefile", folder)
    (folder / "tests").mkdir()
    (folder / ".venv").mkdir()
    for file in ("tests/requirements.txt", "tests/azure-ai-ml.txt"):
        (folder / file).touch()

    log = folder / "log"
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "LOG": str(log),
    }
    for name in ("UV_PYTHON", "MAKEFLAGS"):
        environment.pop(name, None)
    subprocess.run(
        ["make", f"TOOLS={programs}", f"BIN={programs}"]
        + ["--old-file=build/tools/made", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
    )
    return log.read_text()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(
    ("system", "machine", "sdk_python"),
    [
        pytest.param("Darwin", "arm64", "cpython-3.11-macos-x86_64", id="Apple chip"),
        pytest.param("Darwin", "x86_64", "3.11", id="Mac with an Intel chip"),
        pytest.param("Linux", "aarch64", "3.11", id="Linux on Arm"),
        pytest.param("Linux", "x86_64", "3.11", id="Linux"),
    ],
)
def test_make_chooses_the_python_of_the_machine(
    tmp_path: Path, bake: Bake, system: str, machine: str, sdk_python: str
) -> None:
    other_python = read_required_python(bake(azureml_sdk="azure-ai-ml"))
    expected = {
        "demo": f"{sdk_python}\n",
        "demo SDK=azure-ai-ml": f"{other_python}\n",
        "test": f"{sdk_python}\n{other_python}\n",
        "demo UV_PYTHON=/opt/python": "/opt/python\n",
    }
    for arguments, pythons in expected.items():
        folder = tmp_path / re.sub(r"\W", "-", arguments)
        folder.mkdir()
        requested = run_make(folder, system, machine, *arguments.split())
        assert requested == pythons, arguments


# Installation -------------------------------------------------------------------------------


def normalize(name: str) -> str:
    """Return a distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("slug", ["pebble", "Azure_Core", "x-", "x_", "3D--scans__"])
def test_a_project_can_have_any_slug(bake: Bake, slug: str) -> None:
    project = bake(project_slug=slug, package_name="penguins")
    pyproject = (project.path / "pyproject.toml").read_text(encoding="utf-8")
    metadata = tomllib.loads(pyproject)["project"]
    name = metadata["name"]
    # What the packaging standard allows as a name.
    assert re.fullmatch(r"(?i)[a-z0-9]|[a-z0-9][a-z0-9._-]*[a-z0-9]", name)
    assert normalize(name).endswith("-pipelines")
    # A command that is called `python` or `mlflow` would replace theirs.
    assert [normalize(script) for script in metadata["scripts"]] == [normalize(name)]


def test_no_package_is_named_as_a_project_may_be() -> None:
    """Every project's name ends in `-pipelines`, so none can depend on itself."""
    files = [*TEMPLATE.glob("templates/*/environment/project.txt")]
    files.append(TEMPLATE / "{{cookiecutter.project_slug}}/environment/steps.txt")
    names = re.findall(r"(?m)^[\w.-]+", "\n".join(file.read_text() for file in files))
    assert len(names) > 300
    assert [name for name in names if normalize(name).endswith("-pipelines")] == []


@pytest.mark.parametrize("sdk", SDKS)
def test_uv_sync_accepts_a_project(bake: Bake, sdk: str) -> None:
    """The slug is the name of a package that the project depends on."""
    project = bake(azureml_sdk=sdk, project_slug="pebble", package_name="penguins")
    python = f"--python={COLD[sdk]}"
    locked = run_uv("lock", python, cwd=project.path)
    assert locked.returncode == 0, locked.stderr

    # All that is left is to install it.
    planned = run_uv("sync", "--locked", "--dry-run", python, cwd=project.path)
    assert planned.returncode == 0, planned.stderr
    assert "pebble-pipelines" in planned.stderr


@pytest.fixture(scope="module")
def installed_copy(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project's package that was installed with `pip install .`."""
    project = bake()
    folder = tmp_path_factory.mktemp("site-packages")
    done = run_uv("pip", "install", "--no-deps", "--target", folder, project.path)
    assert done.returncode == 0, done.stderr
    return folder


def test_an_installed_copy_has_every_file_of_the_package(
    bake: Bake, installed_copy: Path
) -> None:
    package = bake().path / "penguins"
    code = {file.relative_to(package) for file in package.rglob("*.py")}
    installed = installed_copy / "penguins"
    copied = {file.relative_to(installed) for file in installed.rglob("*.py")}
    assert copied == code
    assert (installed / "runtime" / "py.typed").exists()
    # The project's tests, steps and folders are no packages of it.
    top = {
        path.parts[0]
        for path in (
            f.relative_to(installed_copy) for f in installed_copy.rglob("*.py")
        )
    }
    assert top == {"penguins"}


@pytest.mark.parametrize(
    "command", ["run training", "check", "lock", "draw", "provision", "submit training"]
)
def test_a_command_of_an_installed_copy_says_where_to_run_it(
    installed_copy: Path, tmp_path: Path, command: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penguins", *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed_copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "Run the command in the project's folder" in done.stderr
    assert "pip install -e ." in done.stderr


def test_in_the_project_an_installed_copy_does_no_harm(
    bake: Bake, installed_copy: Path
) -> None:
    result = bake().python("-m", "penguins", "draw", PYTHONPATH=str(installed_copy))
    assert result.code == 0, result.err
    assert "prep" in result.out


def test_a_command_works_outside_the_project_folder(bake: Bake, tmp_path: Path) -> None:
    project = bake()
    done = subprocess.run(
        [project.interpreter, "-m", project.package, "run", "training", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(project.path)},  # As `pip install -e .`
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not [*tmp_path.iterdir()]
    assert (project.path / "runs").exists()


def test_git_ignores_what_a_build_leaves(bake: Bake) -> None:
    project = bake()
    subprocess.run(["git", "init", "--quiet"], cwd=project.path, check=True)
    left = ["build/lib/penguins/__init__.py", "dist/penguins.whl", ".venv/bin/python"]
    done = subprocess.run(
        ["git", "check-ignore", *left],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == left


# lock ---------------------------------------------------------------------------------------

# Prints the environment of each step on Azure ML.
SHOW_ENVIRONMENTS = """
from penguins.pipelines import PIPELINES
from penguins.runtime.azure import sdk_steps
from penguins.settings import PROJECT

for pipeline in PIPELINES.values():
    steps = sdk_steps.build_steps(pipeline, PROJECT.settings())
    print([step.environment for step in sdk_steps.read_steps(steps)])
"""
WITH_UV = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"


def read_pins(project: Project) -> dict[str, list[str]]:
    """Return the lines of both files of pins."""
    folder = project.path / "environment"
    names = ("project.txt", "steps.txt")
    return {name: (folder / name).read_text().splitlines() for name in names}


def require_package(project: Project, package: str) -> None:
    """Write one more package of the steps into steps.in."""
    file = project.path / "environment" / "steps.in"
    file.write_text(f"{file.read_text()}{package}\n")


@pytest.mark.parametrize("sdk", SDKS)
def test_lock_adds_a_package_and_changes_no_other(bake: Bake, sdk: str) -> None:
    project = bake(azureml_sdk=sdk)
    pins = read_pins(project)
    environments = project.python("-c", SHOW_ENVIRONMENTS)
    assert environments.code == 0, environments.err

    require_package(project, "humanize")
    result = project.python("-m", "penguins", "lock", PATH=WITH_UV)
    assert result.code == 0, result.err

    for name, lines in read_pins(project).items():
        (line,) = [line for line in lines if line not in pins[name]]
        assert re.fullmatch(r"humanize==[\d.]+", line)
        assert [other for other in lines if other != line] == pins[name]
        version = line.removeprefix("humanize==")
        assert f"{name}: humanize {version} was added\n" in result.out
    assert "pip install -e ." in result.out
    assert "python -m penguins provision" in result.out
    changed = project.python("-c", SHOW_ENVIRONMENTS)
    assert changed.code == 0, changed.err
    assert changed.out != environments.out

    again = project.python("-m", "penguins", "lock", PATH=WITH_UV)
    assert again.code == 0, again.err
    assert again.out.startswith("Nothing has changed")


@pytest.mark.parametrize("sdk", SDKS)
def test_lock_changes_nothing_if_no_versions_go_together(bake: Bake, sdk: str) -> None:
    project = bake(azureml_sdk=sdk)
    pins = read_pins(project)
    require_package(project, "numpy==99")
    files = sorted((project.path / "environment").iterdir())

    result = project.python("-m", "penguins", "lock", PATH=WITH_UV)
    assert result.code == 1
    assert "no file was changed" in result.err
    assert "requirements are unsatisfiable" in result.err  # uv says so.
    assert read_pins(project) == pins
    assert sorted((project.path / "environment").iterdir()) == files


def test_lock_replaces_a_version_only_if_it_must(bake: Bake) -> None:
    project = bake(azureml_sdk="azure-ai-ml")
    before = set(read_pins(project)["steps.txt"])
    (pin,) = [line for line in before if line.startswith("pillow==")]
    require_package(project, pin.replace("==", "!="))

    result = project.python("-m", "penguins", "lock", PATH=WITH_UV)
    assert result.code == 0, result.err
    after = set(read_pins(project)["steps.txt"])
    assert before - after == {pin}
    assert re.search(r"(?m)^steps.txt: pillow [\d.]+ -> [\d.]+$", result.out)


def test_lock_upgrades_when_asked_to(bake: Bake) -> None:
    project = bake(azureml_sdk="azure-ai-ml")
    for name in ("project.txt", "steps.txt"):
        file = project.path / "environment" / name
        older = re.sub(r"(?m)^idna==.*$", "idna==3.6", file.read_text())
        file.write_text(older)

    locked = project.python("-m", "penguins", "lock", PATH=WITH_UV)
    assert locked.code == 0, locked.err
    assert locked.out.startswith("Nothing has changed")

    upgraded = project.python("-m", "penguins", "lock", "--upgrade", PATH=WITH_UV)
    assert upgraded.code == 0, upgraded.err
    assert re.search(r"(?m)^project.txt: idna 3.6 -> ", upgraded.out)
    assert re.search(r"(?m)^steps.txt: idna 3.6 -> ", upgraded.out)


def test_lock_says_how_to_install_uv(bake: Bake, tmp_path: Path) -> None:
    project = bake(azureml_sdk="azure-ai-ml")
    result = project.python("-m", "penguins", "lock", PATH=str(tmp_path))
    assert result.code == 1
    assert "pip install uv" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("sdk", SDKS)
def test_pins_name_nothing_but_packages(sdk: str) -> None:
    """The extra `fuse` is needed, because azureml-sdk prints warnings without it."""
    folder = TEMPLATE / "templates" / sdk / "environment"
    steps = TEMPLATE / "{{cookiecutter.project_slug}}" / "environment" / "steps.txt"
    for file in (folder / "project.txt", steps):
        lines = file.read_text().splitlines()
        assert all(re.match(r"[a-z0-9.-]+(\[\w+\])?==", line) for line in lines)
    assert "azureml-dataset-runtime[fuse]==" in steps.read_text()
