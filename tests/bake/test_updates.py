"""Test updates of a project to a newer template, with the real cruft and git."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from conftest import SDKS, TEMPLATE, TEMPLATE_PARTS, Bake, Project, committer

PROJECT = "{{cookiecutter.project_slug}}"
RUNTIME = f"{PROJECT}/{{{{cookiecutter.package_name}}}}/runtime"
#: The last commit of version 1.0.0 in this repository.
VERSION_1 = "de42653d35d6de561c227ddf473614fe00d1c055"


def shell(folder: Path, *lines: str, code: int = 0) -> str:
    """Run shell commands with cruft and git on PATH, and return their output."""
    process = subprocess.run(
        ["sh", "-ec", "\n".join(lines)],
        cwd=folder,
        env=committer(folder.parent),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert process.returncode == code, process.stdout
    return process.stdout


def find_in_page(project: Project, pattern: str) -> str:
    """Return the one match of a pattern in docs/updating.md."""
    page = (project.path / "docs" / "updating.md").read_text(encoding="utf-8")
    (match,) = re.findall(pattern, page)
    return str(match)


def commit(folder: Path, *, first: bool = False) -> None:
    """Commit all files of a folder; the first commit creates the repository."""
    if first:
        shell(folder, "git init -q -b main")
    shell(folder, "git add --all", "git commit -qm Work")


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that a file contains exactly once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


def copy_template(folder: Path) -> None:
    """Copy the parts of this repository that cookiecutter reads."""
    for part in TEMPLATE_PARTS:
        source = TEMPLATE / part
        if source.is_dir():
            hidden = shutil.ignore_patterns("__pycache__", ".*_cache")
            shutil.copytree(source, folder / part, ignore=hidden)
        else:
            shutil.copy(source, folder / part)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this template, tagged `old`, and a newer version of it."""
    folder = tmp_path_factory.mktemp("template")
    copy_template(folder)
    commit(folder, first=True)
    shell(folder, "git tag old")

    # The newer version changes runtime/, pins of packages, and files that users change, too.
    # It also has new files.
    edit(folder / RUNTIME / "__init__.py", "\nVERSION = ", '\nNEW = "new"\nVERSION = ')
    edit(
        *(folder / RUNTIME / "command_parser.py", 'f"version {VERSION}'),
        'f"{NEW} version {VERSION}',
    )
    edit(
        folder / RUNTIME / "command_parser.py",
        "import VERSION,",
        "import NEW, VERSION,",
    )
    (folder / RUNTIME / "extra.py").write_text('"""New."""\n')
    (folder / PROJECT / "tests" / "test_extra.py").write_text(
        "from {{ cookiecutter.package_name }}.runtime import (\n    extra,\n)\n\n\n"
        'def test_extra() -> None:\n    assert extra.__doc__ == "New."\n'
    )
    for pins in (
        f"{PROJECT}/environment/steps.txt",
        "templates/azureml-sdk/environment/project.txt",
    ):
        text = (folder / pins).read_text(encoding="utf-8")
        (folder / pins).write_text(re.sub("(?m)^pyyaml==.*", "pyyaml==6.0.2", text))
    edit(folder / PROJECT / "pyproject.toml", '"mypy==', '"mypy>=')
    steps = folder / PROJECT / "steps"
    edit(
        steps / "prep" / "prep.py", "\nimport argparse\n", "\n# New.\nimport argparse\n"
    )
    head = "\nfrom __future__ import annotations\n"
    pipelines = folder / "templates/azureml-sdk/pipelines.py"
    edit(pipelines, head, f"\n# New.{head}")
    with (folder / PROJECT / "settings.yml").open("a") as settings:
        settings.write("# New.\n")
    commit(folder)
    return folder


Create = Callable[[], Project]


@pytest.fixture
def create(template: Path, tmp_path: Path) -> Create:
    """Return a function that creates a project from the older template, and commits it."""

    def create() -> Project:
        """Create a project from the older template, and commit it."""
        extra = '{"project_name": "Up to date"}'
        call = f"cruft create {template} -y --checkout old --extra-context '{extra}'"
        assert "Next steps" in shell(tmp_path, call)
        project = Project(tmp_path / "up-to-date", "up_to_date")
        commit(project.path, first=True)
        return project

    return create


NOTE = '    print("note: this step is ours")\n'
#: Texts that files must have after the update: those of the user, and those that are new.
UPDATED_FILES = {
    "steps/prep/prep.py": (NOTE, "# New."),
    "up_to_date/pipelines.py": ('name="judge"', "# New."),
    "settings.yml": ("seed: 43", "data/ours/training", "# New."),
    "environment/steps.txt": ("pyyaml==6.0.2",),
    "environment/project.txt": ("pyyaml==6.0.2",),
    "pyproject.toml": ('"mypy>=',),
    "up_to_date/runtime/extra.py": ("New",),
}


def test_an_update_keeps_the_changes_of_the_user(
    create: Create, template: Path
) -> None:
    project = create()
    assert "out of date" in shell(project.path, "cruft check", code=1)
    edit_all_kinds_of_files(project)
    commit(project.path)
    changes_of_data = shell(project.path, "git diff HEAD~ HEAD -- data")

    output = shell(project.path, "cruft update -y")
    assert "Next steps" not in output
    assert not list(project.path.rglob("*.rej"))
    assert "UU" not in shell(project.path, "git status --porcelain")
    commit(project.path)
    state = json.loads((project.path / ".cruft.json").read_text(encoding="utf-8"))
    assert state["commit"] == shell(template, "git rev-parse HEAD").strip()
    assert "up to date" in shell(project.path, "cruft check")

    assert shell(project.path, "git diff HEAD~2 HEAD -- data") == changes_of_data
    for file, texts in UPDATED_FILES.items():
        content = (project.path / file).read_text(encoding="utf-8")
        assert all(text in content for text in texts), file
    assert_updated_project_works(project)
    assert "already up to date" in shell(project.path, "cruft update -y")


def edit_all_kinds_of_files(project: Project) -> None:
    """Change a step, the pipelines, a test and the settings, and move and shorten the data."""
    main = "def main() -> None:\n"
    project.edit("steps/prep/prep.py", main, main + NOTE)
    pipelines = "up_to_date/pipelines.py"
    project.edit(pipelines, 'name="evaluate"', 'name="judge"')
    project.edit(pipelines, 'reads_model=["evaluate"', 'reads_model=["judge"')
    project.edit("tests/test_pipelines.py", "evaluate.", "judge.")
    project.edit("settings.yml", "data/sample/", "data/ours/")
    project.edit("settings.yml", "seed: 42", "seed: 43")
    (project.path / "data" / "sample").rename(project.path / "data" / "ours")
    table = project.path / "data/ours/training/PAL0708.csv"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join(lines[:-20]), encoding="utf-8")


def assert_updated_project_works(project: Project) -> None:
    """Check its version, its own tests and its pipelines, and that git ignores their files."""
    version = project.python("-m", "up_to_date", "--version")
    assert version.out.startswith("new version"), version.err
    tests = project.python("-m", "pytest", "-q", "-k", "not local_run and not model")
    assert tests.code == 0, tests.out
    for pipeline in (["training", "--set", "max_iterations=5"], ["scoring"]):
        result = project.run(*pipeline)
        assert result.code == 0, result.err
        assert "this step is ours" in result.err
    assert shell(project.path, "git status --porcelain") == ""


def install_newest_cruft(folder: Path) -> Path:
    """Install the newest cruft and typer; return the folder of the command."""
    uv = TEMPLATE / "build" / "tools" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("`make test` installs uv into build/tools")
    shell(folder, f"{uv} venv --quiet --python {sys.executable} newest")
    install = f"{uv} pip install --quiet --python newest/bin/python cruft"
    process = subprocess.run(
        install.split(), cwd=folder, capture_output=True, check=False
    )
    if process.returncode != 0:
        pytest.skip("the package index cannot be reached")
    return folder / "newest" / "bin"


def test_the_commands_of_the_page_update_a_project_by_the_newest_cruft(
    create: Create, tmp_path: Path
) -> None:
    project = create()
    block = find_in_page(project, r"(?m)^(    cruft check .*\n(?:    .*\n)*)")
    lines = [line.partition("#")[0].strip() for line in block.splitlines()]
    check, update, show = lines[:3]
    assert (update, show) == ("cruft update -y", "git diff --staged")
    use_newest = f"PATH={install_newest_cruft(tmp_path)}:$PATH"

    assert "out of date" in shell(project.path, use_newest, check, code=1)
    shell(project.path, use_newest, update)

    assert "+# New." in shell(project.path, show)
    shell(project.path, *lines[-2:])
    assert "up to date" in shell(project.path, use_newest, check)


def test_a_conflict_is_marked_and_the_update_can_be_undone(create: Create) -> None:
    project = create()
    project.edit(
        "steps/prep/prep.py", "\nimport argparse\n", "\nimport argparse as a\n"
    )
    commit(project.path)
    shell(project.path, "cruft update -y")
    assert "UU steps/prep/prep.py" in shell(project.path, "git status --porcelain")
    text = (project.path / "steps/prep/prep.py").read_text(encoding="utf-8")
    ours, _, theirs = text.partition("<<<<<<<")[2].partition("=======")
    assert "import argparse as a" in ours
    assert "# New." in theirs.partition(">>>>>>>")[0]
    shell(project.path, find_in_page(project, "`(git reset --hard.*?)`"))
    assert shell(project.path, "git status --porcelain") == ""
    assert not (project.path / "up_to_date/runtime/extra.py").exists()


def test_without_the_generated_commit_a_conflict_becomes_a_rej_file(
    create: Create,
) -> None:
    project = create()
    project.edit(
        "steps/prep/prep.py", "\nimport argparse\n", "\nimport argparse as a\n"
    )
    shutil.rmtree(project.path / ".git")
    commit(project.path, first=True)
    shell(project.path, "cruft update -y")
    (rejected,) = project.path.rglob("*.rej")
    assert rejected.name == "prep.py.rej"
    assert "# New." in rejected.read_text(encoding="utf-8")
    assert (project.path / "up_to_date/runtime/extra.py").exists()


def test_a_project_by_cookiecutter_is_linked_and_moves_to_the_other_sdk(
    bake: Bake, template: Path, tmp_path: Path
) -> None:
    answers = {"project_name": 'Ann "best"', "task": "regression"}
    baked = bake(**answers)
    project = Project(tmp_path / "project", baked.package)
    shutil.copytree(baked.path, project.path)
    commit(project.path, first=True)
    link = find_in_page(project, r"(?m)^    (cruft link (?:.*\\\n)*.*)$")
    link = link.replace("TEMPLATE", str(template)).replace("COMMIT", "old")
    shell(project.path, link)
    commit(project.path)
    assert shell(project.path, "cruft diff") == ""
    move = find_in_page(project, "`(cruft update -y --var[^`]*azureml_sdk[^`]*)`")
    shell(project.path, move)
    commit(project.path)
    assert shell(project.path, "cruft diff") == ""
    fresh = " ".join(f"{key}='{value}'" for key, value in answers.items())
    fresh = f"cookiecutter --no-input -o new {template} {fresh} azureml_sdk={SDKS[1]}"
    shell(tmp_path, "mkdir new", fresh)
    (new_project,) = (tmp_path / "new").iterdir()
    output = shell(tmp_path, f"diff -r {new_project} {project.path} || true")
    assert output.splitlines() == [
        f"Only in {project.path}: .cruft.json",
        f"Only in {project.path}: .git",
    ]


def test_wrong_answers_are_reported_with_a_cruft_command(
    template: Path, tmp_path: Path
) -> None:
    (tmp_path / "my projects").mkdir()
    answers = {"task": "regression", "description": "It's", "vm_size": "a b"}
    quoted = json.dumps(answers).replace("'", "'\"'\"'")
    call = f"cruft create {template} -y -c old --output-dir 'my projects' "
    output = shell(tmp_path, f"{call} --extra-context '{quoted}'", code=1)
    assert 'vm_size is "a b", but must be' in output
    assert "Traceback" not in output
    again = re.search("(?m)^cruft create .*$", output)
    assert again
    assert "Next steps" in shell(tmp_path, again[0])
    (project,) = (tmp_path / "my projects").iterdir()
    state = json.loads((project / ".cruft.json").read_text(encoding="utf-8"))
    assert (state["checkout"], state["template"]) == ("old", str(template))
    assert (
        state["context"]["cookiecutter"].items()
        >= {
            **answers,
            "vm_size": "a_b",
        }.items()
    )

    (project / "settings.yml").write_text("mine", encoding="utf-8")
    output = shell(tmp_path, f"{call} -f", code=1)
    assert "would be overwritten: choose another project_slug" in output
    assert '"project_slug": "<project_slug>"' in output.rpartition("\ncruft create ")[2]
    assert (project / "settings.yml").read_text(encoding="utf-8") == "mine"


def test_an_update_does_not_check_the_answers_again(create: Create) -> None:
    """Answers that break a newer rule do not stop an update. `check` reports them."""
    project = create()
    for file in (".cruft.json", ".cookiecutter.json", "settings.yml"):
        project.edit(file, '"cpu-cluster"', '"1"')
    commit(project.path)
    output = shell(project.path, "cruft update -y")
    assert "compute" not in output and "Next steps" not in output
    assert "up to date" in shell(project.path, "cruft check")
    checked = project.python("-m", "up_to_date", "check")
    assert checked.code == 1 and "compute.name" in checked.out


@pytest.fixture
def template_since_version_1(tmp_path: Path) -> Path:
    """A repository of this template with the tag 1.0.0 and, newer, the template as it is."""
    archive = subprocess.run(
        [
            "git",
            "archive",
            VERSION_1,
            "cookiecutter.json",
            "hooks",
            "templates",
            PROJECT,
        ],
        cwd=TEMPLATE,
        capture_output=True,
        check=False,
    )
    if archive.returncode != 0:
        pytest.skip(f"git has no commit {VERSION_1} here, as in a shallow clone")

    folder = tmp_path / "template"
    folder.mkdir()
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    commit(folder, first=True)
    shell(folder, "git tag 1.0.0", "git rm -q -r .")
    copy_template(folder)
    commit(folder)
    return folder


FEATURE = """    length, depth = pl.col("Culmen Length (mm)"), pl.col("Culmen Depth (mm)")
    return table.with_columns(bill_shape=length / depth)
"""
#: Changes of a user, by file: a text of version 1.0.0, and what the user writes in its place.
CHANGES_OF_A_USER = {
    "steps/prep/prep.py": ("    return table\n", FEATURE),
    "steps/train/train.py": ("min_frequency=5,", "min_frequency=9,"),
    "settings.yml": ("  seed: 42\n", "  seed: 43\n  share: 0.5\n"),
    "penguins/settings.py": (
        "    register: Annotated[str,",
        "    share: float\n    register: Annotated[str,",
    ),
    "penguins/pipelines.py": (":20260715.v1", ":20260801.v1"),
}


def test_a_project_of_version_1_is_updated_as_the_changelog_says(
    template_since_version_1: Path, tmp_path: Path
) -> None:
    create = f"cruft create {template_since_version_1} -y --checkout 1.0.0"
    shell(tmp_path, create)
    project = Project(tmp_path / "penguins", "penguins")
    commit(project.path, first=True)
    for file, (old, new) in CHANGES_OF_A_USER.items():
        edit(project.path / file, old, new)
    commit(project.path)

    shell(project.path, "cruft update -y")
    assert not list(project.path.rglob("*.rej"))
    status = shell(project.path, "git status --porcelain").splitlines()
    conflicts = {line.split()[1] for line in status if line.startswith("UU")}
    entry = find_changelog_entry("marks conflicts")
    first_sentence = entry.partition(". ")[0]
    assert {Path(file).name for file in conflicts} == {
        name for name in re.findall("`([^`]+)`", first_sentence) if "." in name
    }

    keep_own = "git checkout --ours settings.yml"
    take_new = "git checkout --theirs FILE"
    assert f"`{keep_own}`" in entry and f"`{take_new}`" in entry
    shell(project.path, keep_own)
    for file in ("penguins/settings.py", "penguins/pipelines.py"):
        shell(project.path, take_new.replace("FILE", file))
        edit(project.path / file, *CHANGES_OF_A_USER[file])
    commit(project.path)

    assert "up to date" in shell(project.path, "cruft check")
    for file, (_, new) in CHANGES_OF_A_USER.items():
        assert new in (project.path / file).read_text(encoding="utf-8")
    assert project.python("-m", "penguins", "check").code == 0
    training = project.run("training", "--set", "max_iterations=5")
    assert training.code == 0, training.err
    report = Path(training.json["steps"][0]["outputs"]["data_report"], "report.json")
    assert "bill_shape" in json.loads(report.read_text(encoding="utf-8"))["columns"]


def find_changelog_entry(text: str) -> str:
    """Return the line of CHANGELOG.md that holds a text, which must be there once."""
    changelog = (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8")
    (entry,) = [line for line in changelog.splitlines() if text in line]
    return entry
