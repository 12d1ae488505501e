"""Test the hooks that git runs before a commit, with the real pre-commit, offline."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from conftest import TEMPLATE, Bake, Project, Result, committer


class Repository(Project):
    """A generated project in a git repository, with the tools of its extra `dev` on PATH."""

    home: Path

    def command(self, *words: str) -> Result:
        """Run a command in the repository."""
        caches = {
            "PRE_COMMIT_HOME": str(self.home),
            "MYPY_CACHE_DIR": str(TEMPLATE / "build" / "mypy" / self.sdk),
        }
        process = subprocess.run(
            words,
            cwd=self.path,
            env=committer(self.home) | caches,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        return Result(process.returncode, process.stdout, process.stderr)


@pytest.fixture(scope="module")
def repository(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A generated project in a git repository with the hooks of pre-commit."""
    project = bake(project_name="Commits")
    repository = Repository(project.path, project.package, project.sdk)
    repository.home = tmp_path_factory.mktemp("home")
    for words in ("git init -q", "pre-commit install", "git add -A"):
        done = repository.command(*words.split())
        assert done.code == 0, done.err
    return repository


def test_hooks_pass_on_a_fresh_project(repository: Repository) -> None:
    valid = repository.command("pre-commit", "validate-config")
    assert valid.code == 0, valid.out + valid.err
    done = repository.command("git", "commit", "-m", "As it was generated")
    assert done.code == 0, done.out + done.err
    assert re.findall(r"(?m)^(.*?)\.{3,}(\w+)$", done.err) == [
        (name, "Passed")
        for name in ("notebooks without outputs", "black", "ruff", "mypy")
    ]


def test_hooks_stop_a_commit_and_correct_what_they_can(
    repository: Repository,
) -> None:
    notebook = repository.path / "notebooks" / "01_workspace.ipynb"
    clean = notebook.read_text(encoding="utf-8")
    ran = json.loads(clean)
    cell = next(cell for cell in ran["cells"] if cell["cell_type"] == "code")
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["secret"]}]
    notebook.write_text(json.dumps(ran, indent=1, ensure_ascii=False) + "\n", "utf-8")
    script = repository.path / "steps" / "prep" / "prep.py"
    tidy = script.read_text(encoding="utf-8")
    script.write_text(tidy.replace("import polars as pl", "import   polars as pl"))
    assert script.read_text(encoding="utf-8") != tidy

    done = repository.command("git", "commit", "--all", "-m", "Work")
    assert done.code != 0
    for hook in ("notebooks without outputs", "black"):
        assert re.search(rf"(?m)^{hook}\.+Failed$", done.err), done.err
    assert notebook.read_text(encoding="utf-8") == clean
    assert script.read_text(encoding="utf-8") == tidy

    script.write_text(f"{tidy}\n\nimport wave\n\nNUMBER: int = 'one'\n", "utf-8")
    done = repository.command("git", "commit", "--all", "-m", "Work")
    assert done.code != 0
    messages = {"ruff": "imported but unused", "mypy": "Incompatible types"}
    for hook, message in messages.items():
        assert re.search(rf"(?m)^{hook}\.+Failed$", done.err), done.err
        assert message in done.err


def test_projects_pin_the_tools_of_these_tests(repository: Repository) -> None:
    """The versions in a project's pyproject.toml are written by hand."""
    text = (repository.path / "pyproject.toml").read_text(encoding="utf-8")
    dev = text.partition("\ndev = [\n")[2].partition("\n]")[0]
    pins = re.findall(r'"(.+)"', dev)
    tested = (TEMPLATE / "tests" / "requirements.txt").read_text().split()
    assert {pin.split("==")[0] for pin in pins} >= {"pre-commit", "nbstripout"}
    assert [pin for pin in pins if pin.lower() not in tested] == []
