"""Helpers of all tests: they generate projects from the template, and run commands in them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import warm
import yaml
from pytest_cookies.plugin import Cookies
from pytest_cookies.plugin import Result as Generated

#: These modules have fixtures.
pytest_plugins = ["toys", "reuse_toys"]
TEMPLATE = Path(__file__).parents[1]
#: The files and folders of this repository that cookiecutter reads.
TEMPLATE_PARTS = (
    "cookiecutter.json",
    "this_template_needs_cookiecutter_2_2_3_or_newer.py",
    "hooks",
    "templates",
    "{{cookiecutter.project_slug}}",
)
# Some tests import steps from the template. Bytecode would be copied into each project.
sys.dont_write_bytecode = True
# With several threads each, tests that run side by side take four times as long, because
# waiting threads spin. scikit-learn's own tests set this, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
#: The files with the longest tests, the longest first. Their numbers of tests do not show it.
SLOW_FILES = (
    "test_azure.py",
    "test_local_run.py",
    "test_places.py",
    "test_workflows.py",
    "test_updates.py",
    "test_notebooks.py",
    "test_recipes.py",
    "test_reuse.py",
    "test_azure_v2.py",
    "test_move.py",
    "test_figures.py",
    "test_search.py",
    "test_model_recipes.py",
)
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
SDKS: list[str] = QUESTIONS["azureml_sdk"]
#: The Python of each SDK. The two SDKs cannot be installed into one environment.
COLD = {
    "azureml-sdk": sys.executable,
    "azure-ai-ml": str(TEMPLATE / "build" / "azure-ai-ml" / "bin" / "python"),
}
#: The Python that projects run with, by SDK. On Linux, it forks from a process that has
#: imported the packages already (see warm.py). All test processes share these processes:
#: the first one starts them, and tells the others by the variable WARM.
PYTHONS = COLD
started_pythons = None
if sys.platform == "linux":
    if "WARM" not in os.environ:
        started_pythons = warm.Pythons(COLD)
        os.environ["WARM"] = started_pythons.folder
    PYTHONS = {sdk: f"{os.environ['WARM']}/{sdk}/python" for sdk in SDKS}


def committer(home: Path) -> dict[str, str]:
    """Return the environment of somebody who commits, with the tests' tools on PATH."""
    tools = Path(sys.executable).parent
    return {
        **os.environ,
        "GIT_AUTHOR_NAME": "Ann",
        "GIT_AUTHOR_EMAIL": "ann@example.com",
        "GIT_COMMITTER_NAME": "Ann",
        "GIT_COMMITTER_EMAIL": "ann@example.com",
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
    }


@dataclass
class Result:
    """The exit code of a command, and its output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON in the last line of standard output."""
        return json.loads(self.out.splitlines()[-1])


@dataclass
class Project:
    """A generated project."""

    path: Path
    package: str
    sdk: str = SDKS[0]

    @property
    def interpreter(self) -> str:
        return PYTHONS[self.sdk]

    def python(self, *arguments: str, **environment: str) -> Result:
        """Run Python in the project, with its packages importable as if it were installed."""
        variables = {**os.environ, "PYTHONPATH": str(self.path), **environment}
        return self.python_with(variables, *arguments)

    def python_with(self, variables: Mapping[str, str], *arguments: str) -> Result:
        """Run Python in the project with exactly these environment variables."""
        process = subprocess.run(
            [self.interpreter, *arguments],
            cwd=self.path,
            env=variables,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        return Result(process.returncode, process.stdout, process.stderr)

    def run(self, *arguments: str) -> Result:
        """Run a pipeline on this machine. The output of `--json` is `json` of the result."""
        return self.python("-m", self.package, "run", *arguments, "--json")

    def set(self, section: str, **values: Any) -> None:
        """Change values of a section of settings.yml."""
        path = self.path / "settings.yml"
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings[section].update(values)
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")

    def edit(self, file: str, old: str, new: str, count: int = -1) -> None:
        """Replace a text in a file, at most `count` times. The file must contain it."""
        path = self.path / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, count), encoding="utf-8")


def pytest_configure() -> None:
    """Let tests interrupt the processes that they start.

    A shell starts a background job with SIGINT ignored, and all processes of the job would
    inherit this.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """End the processes that the projects' Python forks from."""
    if started_pythons:
        started_pythons.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files that take longest first, so that no core is idle at the end.

    Tests that need no generated project come last: most are quick, and fill the gaps.
    """
    ranks = {name: rank for rank, name in enumerate(SLOW_FILES)}
    test_counts = Counter(item.path for item in items)

    def order(item: pytest.Item) -> tuple[int, bool, int, Path]:
        """Return the key by which a test is sorted."""
        return (
            ranks.get(item.path.name, len(SLOW_FILES)),
            item.path.parent.name == "unit",
            -test_counts[item.path],
            item.path,
        )

    items.sort(key=order)


Bake = Callable[..., Project]


@pytest.fixture(scope="session")
def bake(cookies_session: Cookies) -> Bake:
    """Return a function that generates a project; questions without answer use the default.

    For the same answers, the project is generated once. Each call returns a new copy of it.
    """

    @cache
    def generate(answers: frozenset[tuple[str, str]]) -> Generated:
        """Generate a project, or return the one that was generated before."""
        result = cookies_session.bake(extra_context=dict(answers))
        assert result.exit_code == 0, result.exception
        return result

    def copy(**answers: str) -> Project:
        """Copy the project with these answers."""
        # cookiecutter ignores answers to questions that do not exist.
        assert answers.keys() <= QUESTIONS.keys()
        original = generate(frozenset(answers.items()))
        folder = Path(mkdtemp(dir=original.project_path.parents[1]))
        return Project(
            shutil.copytree(original.project_path, folder / original.project_path.name),
            package=original.context["package_name"],
            sdk=original.context["azureml_sdk"],
        )

    return copy
