"""What the tests share: projects generated from the template, and ways to run them."""

from __future__ import annotations

import json
import os
import shutil
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

TEMPLATE = Path(__file__).parents[1]
#: What cookiecutter needs of the repository.
TEMPLATE_PARTS = (
    "cookiecutter.json",
    "this_template_needs_cookiecutter_2_2_3_or_newer.py",
    "hooks",
    "templates",
    "{{cookiecutter.project_slug}}",
)
# Some tests import the steps from the template, which is to hold only what is its own.
sys.dont_write_bytecode = True
# Where several tests run at once, threads that wait for each other spin: small fits took
# four times as long. As scikit-learn's own tests do.
os.environ.setdefault("OMP_NUM_THREADS", "1")
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
SDKS: list[str] = QUESTIONS["azureml_sdk"]
#: The Python of each SDK: the two do not go into one environment.
COLD = {
    "azureml-sdk": sys.executable,
    "azure-ai-ml": str(TEMPLATE / "build" / "azure-ai-ml" / "bin" / "python"),
}
#: What projects run with: those, with all packages imported. All tests share them.
PYTHONS, OWN = COLD, None
if sys.platform == "linux":
    if "WARM" not in os.environ:
        OWN = warm.Pythons(COLD)
        os.environ["WARM"] = OWN.folder
    PYTHONS = {sdk: f"{os.environ['WARM']}/{sdk}/python" for sdk in SDKS}


def committer(home: Path) -> dict[str, str]:
    """The variables of a person who commits, and has the tools of the tests on the path."""
    roles, tools = ("AUTHOR", "COMMITTER"), Path(sys.executable).parent
    return {
        **os.environ,
        **{f"GIT_{role}_NAME": "Ann" for role in roles},
        **{f"GIT_{role}_EMAIL": "ann@example.com" for role in roles},
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
    }


@dataclass
class Result:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON of the last line."""
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
        """Run Python in the project, which is as good as installed."""
        variables = {**os.environ, "PYTHONPATH": str(self.path), **environment}
        return self.python_with(variables, *arguments)

    def python_with(self, variables: Mapping[str, str], *arguments: str) -> Result:
        """Run Python in the project with these variables, and no others."""
        done = subprocess.run(
            [self.interpreter, *arguments],
            cwd=self.path,
            env=variables,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def run(self, *arguments: str) -> Result:
        """Run a pipeline here; `json` of the result is what `--json` printed."""
        return self.python("-m", self.package, "run", *arguments, "--json")

    def set(self, section: str, **values: Any) -> None:
        """Change values of a section of settings.yml."""
        path = self.path / "settings.yml"
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings[section].update(values)
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")

    def edit(self, file: str, old: str, new: str, count: int = -1) -> None:
        """Replace a text, which must be there, in a file, at most `count` times."""
        path = self.path / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, count), encoding="utf-8")


def pytest_unconfigure() -> None:
    if OWN:
        OWN.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, then those of many tests: no core waits for the last."""
    tests = Counter(item.path for item in items)
    long = ("test_azure.py", "test_local_run.py", "test_places.py")
    items.sort(key=lambda i: (i.path.name not in long, -tests[i.path], i.path))


Bake = Callable[..., Project]


@pytest.fixture(scope="session")
def bake(cookies_session: Cookies) -> Bake:
    """Generates a project with some answers; all others are the defaults.

    With the same answers it is generated once, and copied.
    """

    @cache
    def generate(answers: frozenset[tuple[str, str]]) -> Generated:
        result = cookies_session.bake(extra_context=dict(answers))
        assert result.exit_code == 0, result.exception
        return result

    def copy(**answers: str) -> Project:
        # cookiecutter takes no notice of an answer to a question that is not asked
        assert answers.keys() <= QUESTIONS.keys()
        made = generate(frozenset(answers.items()))
        folder = Path(mkdtemp(dir=made.project_path.parents[1]))
        names = ("package_name", "azureml_sdk")
        path = shutil.copytree(made.project_path, folder / made.project_path.name)
        return Project(path, *(made.context[name] for name in names))

    return copy
