"""Test generated projects: their files, and that they are clean for all kinds of names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
import tomllib
import yaml
from conftest import SDKS, TEMPLATE, Bake, Project

FILES = """
.azureml/config.json
.cookiecutter.json
.devcontainer/devcontainer.json
.editorconfig
.gitattributes
.gitignore
.pre-commit-config.yaml
.vscode/launch.json
README.md
data/sample/scoring/penguins.csv
data/sample/training/PAL0708.csv
data/sample/training/PAL0809.csv
data/sample/training/PAL0910.csv
docs/azure.md
docs/change.md
docs/ci.md
docs/data.md
docs/debug.md
docs/many-rows.md
docs/models.md
docs/monitoring.md
docs/troubleshooting.md
docs/updating.md
docs/workspaces.md
environment/driver.in
environment/project.in
environment/project.txt
environment/steps.in
environment/steps.txt
notebooks/01_workspace.ipynb
notebooks/02_training_pipeline.ipynb
notebooks/03_batch_scoring_pipeline.ipynb
penguins/__init__.py
penguins/__main__.py
penguins/pipelines.py
penguins/runtime/README.md
penguins/runtime/__init__.py
penguins/runtime/arguments.py
penguins/runtime/azure/__init__.py
penguins/runtime/azure/blob_container.py
penguins/runtime/azure/build_pipeline.py
penguins/runtime/azure/call_limits.py
penguins/runtime/azure/capacity_checks.py
penguins/runtime/azure/check_results.py
penguins/runtime/azure/checks.py
penguins/runtime/azure/connection.py
penguins/runtime/azure/data_folders.py
penguins/runtime/azure/error_bodies.py
penguins/runtime/azure/errors.py
penguins/runtime/azure/follow_run.py
penguins/runtime/azure/identity_checks.py
penguins/runtime/azure/resource_checks.py
penguins/runtime/azure/resources.py
penguins/runtime/azure/sdk_errors.py
penguins/runtime/azure/sdk_log.py
penguins/runtime/azure/login.py
penguins/runtime/azure/online_checks.py
penguins/runtime/azure/provision.py
penguins/runtime/azure/publish.py
penguins/runtime/azure/refusals.py
penguins/runtime/azure/request_guard.py
penguins/runtime/azure/resource_manager.py
penguins/runtime/azure/roles.py
penguins/runtime/azure/sdk_steps.py
penguins/runtime/azure/sdk_workspace.py
penguins/runtime/azure/session.py
penguins/runtime/azure/status.py
penguins/runtime/azure/submit.py
penguins/runtime/azure/upload_data.py
penguins/runtime/azure/workspace_interface.py
penguins/runtime/command_line.py
penguins/runtime/command_parser.py
penguins/runtime/commands.py
penguins/runtime/errors.py
penguins/runtime/files.py
penguins/runtime/graph.py
penguins/runtime/harmless_text.py
penguins/runtime/local/__init__.py
penguins/runtime/local/fingerprints.py
penguins/runtime/local/fork_server.py
penguins/runtime/local/parallel_driver.py
penguins/runtime/local/plan.py
penguins/runtime/local/processes.py
penguins/runtime/local/registered_models.py
penguins/runtime/local/reuse.py
penguins/runtime/local/run.py
penguins/runtime/local/run_context.py
penguins/runtime/local/run_folder.py
penguins/runtime/local/run_history.py
penguins/runtime/local/run_record.py
penguins/runtime/local/run_result.py
penguins/runtime/local/run_tables.py
penguins/runtime/local/screen.py
penguins/runtime/local/step_alone.py
penguins/runtime/local/step_runner.py
penguins/runtime/local/supervisor.py
penguins/runtime/local/tracked_runs.py
penguins/runtime/local/tracking.py
penguins/runtime/lock.py
penguins/runtime/project.py
penguins/runtime/py.typed
penguins/runtime/regions.py
penguins/runtime/rule.py
penguins/runtime/rules.py
penguins/runtime/search_space.py
penguins/runtime/settings_models.py
penguins/runtime/settings_reader.py
penguins/runtime/steps.py
penguins/runtime/vm_sizes.py
penguins/runtime/workspaces.py
penguins/settings.py
pyproject.toml
settings.yml
steps/evaluate/.amlignore
steps/evaluate/comparison.py
steps/evaluate/difference.py
steps/evaluate/evaluate.py
steps/evaluate/evaluation_figures.py
steps/evaluate/evaluation_report.py
steps/evaluate/jackknife.py
steps/evaluate/leaks.py
steps/evaluate/model_metrics.py
steps/evaluate/prep_changes.py
steps/evaluate/saved_model.py
steps/evaluate/search_report.py
steps/evaluate/shared_rows.py
steps/monitor/.amlignore
steps/monitor/drift.py
steps/monitor/drift_report.py
steps/monitor/monitor.py
steps/monitor/new_rows.py
steps/monitor/profiles.py
steps/monitor/scoring_model.py
steps/monitor/training_comparison.py
steps/prep/.amlignore
steps/prep/choose_types.py
steps/prep/column_notes.py
steps/prep/column_rules.py
steps/prep/combine.py
steps/prep/csv_dialect.py
steps/prep/csv_file.py
steps/prep/date_formats.py
steps/prep/expectations.py
steps/prep/file_content.py
steps/prep/find_files.py
steps/prep/fits.py
steps/prep/infer_types.py
steps/prep/layout_notes.py
steps/prep/messages.py
steps/prep/missing_word_notes.py
steps/prep/outlier_notes.py
steps/prep/parquet_files.py
steps/prep/parsers.py
steps/prep/partitions.py
steps/prep/prep.py
steps/prep/read_by_schema.py
steps/prep/read_files.py
steps/prep/read_options.py
steps/prep/registered_model.py
steps/prep/report.py
steps/prep/row_sample.py
steps/prep/schema.py
steps/prep/small_files.py
steps/prep/sources.py
steps/prep/suggest_formats.py
steps/prep/table_layout.py
steps/prep/text_encoding.py
steps/prep/text_notes.py
steps/prep/text_values.py
steps/prep/unpack.py
steps/prep/violations.py
steps/prep/write_parts.py
steps/register/.amlignore
steps/register/register.py
steps/score/.amlignore
steps/score/score.py
steps/score/trees.py
steps/summarize/.amlignore
steps/summarize/distribution.py
steps/summarize/summarize.py
steps/summarize/summary_report.py
steps/train/.amlignore
steps/train/baseline.py
steps/train/cross_validation.py
steps/train/hyperparameters.py
steps/train/iterations.py
steps/train/model_files.py
steps/train/model_requirements.py
steps/train/search.py
steps/train/split.py
steps/train/train.py
steps/train/training_notes.py
steps/train/training_profile.py
steps/train/training_rows.py
steps/train/training_schema.py
tests/test_local_run.py
tests/test_model.py
tests/test_pipelines.py
tests/test_prep.py
tests/test_settings.py
"""
BAKED = "{{cookiecutter.project_slug}}"
#: The files and folders that an answer to `ci_platform` adds.
PLATFORMS = {
    "github": {
        ".github",
        ".github/dependabot.yml",
        ".github/workflows",
        ".github/workflows/README.md",
        ".github/workflows/pipelines.yml",
        ".github/workflows/status.yml",
    },
    "azure-devops": {
        "azure-pipelines.md",
        "azure-pipelines.yml",
        "azure-pipelines-status.yml",
    },
}
#: The contents of files that black has checked. Most files are the same in all projects.
FORMATTED: set[bytes] = set()
NAMES = {
    "one letter": {"project_name": "x"},
    "sixty letters": {"project_name": "Abcdefghi " * 6},
    "accents": {"project_name": "Prévision d'énergie à Zürich"},
    "a digit first": {"project_name": "3D scans"},
    "quotes": {
        "project_name": 'The "best" o\' models',
        "description": 'It\'s "quoted" \\ and backslashed',
        "author_name": 'Ann "O\'Neil" \\ Co',
    },
    "emoji and marks": {
        "project_name": "Пингвины 🐧\u202e",
        "description": "Two\nlines,\ta \"tab\" 🧑\u200d🔬 \u200f\ufeff \\U0001f427 {{ '{{' }}",
        "author_name": "\u2066 'Ünï' \\",
    },
    "regression": {"task": "regression", "author_name": "Zoë"},
    "github": {"ci_platform": "github"},
    "azure-devops": {"ci_platform": "azure-devops"},
    "azure": {
        "azure_subscription_id": "12345678-9abc-def0-1234-56789abcdef0",
        "azure_resource_group": "rg-(données).x_1",
        "azure_workspace_name": "ws_1",
        "azure_region": "westeurope",
    },
}


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_project_has_exactly_these_files(bake: Bake, task: str, sdk: str) -> None:
    project = bake(task=task, azureml_sdk=sdk)
    files = {p.relative_to(project.path).as_posix() for p in list_files(project)}
    assert files == set(FILES.split())


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_platform_adds_exactly_these_files(bake: Bake, platform: str) -> None:
    files = list_files_and_folders(bake())
    with_platform = list_files_and_folders(bake(ci_platform=platform))
    assert with_platform - files == PLATFORMS[platform]
    assert files <= with_platform


def list_files_and_folders(project: Project) -> set[str]:
    """Return the paths of all files and folders of a project, relative to it."""
    paths = project.path.rglob("*")
    return {path.relative_to(project.path).as_posix() for path in paths}


def test_a_workflow_can_be_added_later_and_other_files_stay(
    bake: Bake, tmp_path: Path
) -> None:
    project = bake()
    other_workflow = project.path / ".github" / "workflows" / "other.yml"
    other_workflow.parent.mkdir(parents=True)
    other_workflow.write_text("mine")
    readme = project.path / "README.md"
    readme.write_text("mine")
    config = project.path / ".cookiecutter.json"
    for before, after in (("none", "github"), ("github", "none")):
        answers = config.read_text(encoding="utf-8")
        (tmp_path / "answers.json").write_text(answers.replace(before, after))
        process = subprocess.run(
            [
                *(sys.executable, "-m", "cookiecutter", str(TEMPLATE)),
                *("--overwrite-if-exists", "--skip-if-file-exists"),
                *("--output-dir", str(project.path.parent)),
                *("--replay-file", str(tmp_path / "answers.json")),
            ],
            check=False,
        )
        assert process.returncode == 0
        assert other_workflow.read_text() == "mine"
        assert readme.read_text() == "mine"
        assert other_workflow.with_name("pipelines.yml").exists()


@pytest.mark.parametrize(
    ("name", "sdk"),
    [
        *((name, "azureml-sdk") for name in NAMES),
        # Names go into few of the files in which the SDKs differ.
        *((name, "azure-ai-ml") for name in ("sixty letters", "quotes", "regression")),
    ],
)
def test_fresh_output_is_clean(bake: Bake, name: str, sdk: str) -> None:
    project = bake(**NAMES[name], azureml_sdk=sdk)
    for path in list_files(project):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<!\.)cookiecutter\.\w|\{%", text), path
        assert not text or text.endswith("\n"), path
        assert not re.search(r"^[ \t]+$", text, re.MULTILINE), path
        if path.suffix == ".json":
            json.loads(text)
        elif path.suffix == ".yml":
            yaml.safe_load(text)
        elif path.suffix == ".toml":
            tomllib.loads(text)
    assert_formatted(project)
    # The settings of a project exclude runtime/, so it is checked without them, too: for
    # Python 3.10, as the hooks also import it.
    run_module(project, "ruff", "check", "--isolated", "--target-version", "py310", ".")
    run_module(project, "ruff", "check", ".")


def run_module(project: Project, *arguments: str) -> None:
    """Run a module in a project, which must succeed."""
    result = project.python("-m", *arguments)
    assert result.code == 0, result.out + result.err


def assert_formatted(project: Project) -> None:
    """Check with black the files that were not checked in another project already."""
    unchecked = {}
    for path in list_files(project):
        if path.suffix in (".py", ".ipynb"):
            content = path.read_bytes()
            if content not in FORMATTED:
                unchecked[content] = str(path)
    if unchecked:
        run_module(project, "black", "--check", "--quiet", *unchecked.values())
    FORMATTED.update(unchecked)


def test_runs_are_not_linted_where_there_is_no_git(bake: Bake) -> None:
    project = bake()
    for folder in ("runs", "mlruns"):
        (project.path / folder).mkdir()
        (project.path / folder / "a.py").write_text("import os\nx = {  1:2 }\n")
    for tool in (["black", "--check"], ["ruff", "check"]):
        checked = project.python("-m", *tool, ".")
        assert checked.code == 0, checked.out + checked.err


@pytest.mark.parametrize(
    ("name", "sdk"),
    [
        ("one letter", "azureml-sdk"),
        ("sixty letters", "azureml-sdk"),
        ("sixty letters", "azure-ai-ml"),
    ],
)
def test_fresh_output_is_typed(bake: Bake, name: str, sdk: str) -> None:
    project = bake(**NAMES[name], azureml_sdk=sdk)
    # A project's own mypy leaves runtime/ out; here it is checked as strictly as the rest.
    settings = (project.path / "pyproject.toml").read_text(encoding="utf-8")
    assert settings.count("ignore_errors = true") == 1
    strict = project.path / "strict.toml"
    strict.write_text(settings.replace("ignore_errors = true", ""), encoding="utf-8")
    cache = str(TEMPLATE / "build" / "mypy" / sdk)
    checked = project.python(
        *("-m", "mypy", "--config-file", "strict.toml", "--cache-dir", cache)
    )
    assert checked.code == 0, checked.out


def test_runtime_is_left_to_the_template(bake: Bake) -> None:
    """A project's own black, ruff and mypy do not check runtime/."""
    project = bake()
    untidy = project.path / "penguins" / "runtime" / "files.py"
    with untidy.open("a", encoding="utf-8") as file:
        file.write("import json\nx : int =  'text'\n")
    # All tests of this SDK share a cache: without it, mypy takes about 15 seconds longer.
    cache = str(TEMPLATE / "build" / "mypy" / project.sdk)
    for tool in (
        ["black", "--check", "."],
        ["ruff", "check", "."],
        ["mypy", "--cache-dir", cache],
    ):
        checked = project.python("-m", *tool)
        assert checked.code == 0, checked.out + checked.err
    same_rules = project.python("-m", "ruff", "check", "--isolated", str(untidy))
    assert same_rules.code == 1


def test_files_have_unix_line_ends_whatever_the_template_has(
    bake: Bake, tmp_path: Path
) -> None:
    """On Windows, git may check the template out with CRLF. Steps are reused by bytes."""
    copy = tmp_path / "template"
    copy.mkdir()
    extension = "this_template_needs_cookiecutter_2_2_3_or_newer.py"
    for part in ("cookiecutter.json", extension, "hooks", "templates", BAKED):
        source = TEMPLATE / part
        if source.is_dir():
            hidden = shutil.ignore_patterns("__pycache__", ".*_cache")
            shutil.copytree(source, copy / part, ignore=hidden)
        else:
            shutil.copy(source, copy / part)
    for path in copy.rglob("*"):
        if path.is_file() and "data" not in path.parts:
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    done = subprocess.run(
        [sys.executable, "-m", "cookiecutter", str(copy), "--no-input"],
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0
    plain = bake().path
    for path in (tmp_path / "penguins").rglob("*"):
        if path.is_file():
            same = plain / path.relative_to(tmp_path / "penguins")
            assert path.read_bytes() == same.read_bytes(), path
            assert b"\r" not in path.read_bytes(), path


def test_the_dev_container_installs_what_the_project_has(bake: Bake) -> None:
    project = bake()
    file = project.path / ".devcontainer" / "devcontainer.json"
    command = json.loads(file.read_text(encoding="utf-8"))["postCreateCommand"]
    toml = tomllib.loads((project.path / "pyproject.toml").read_text(encoding="utf-8"))
    (extras,) = re.findall(r"\[(.*)\]", command)
    assert set(extras.split(",")) == toml["project"]["optional-dependencies"].keys()


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("name", ["accents", "a digit first", "quotes"])
def test_a_project_of_any_name_builds_its_pipelines(
    bake: Bake, name: str, sdk: str
) -> None:
    project = bake(**NAMES[name], azureml_sdk=sdk)
    tests = project.python("-m", "pytest", "-q", "tests/test_pipelines.py")
    assert tests.code == 0, tests.out


def test_pyproject_can_hold_every_character() -> None:
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    answers = {"project_slug": "a", "package_name": "a", "author_name": text}
    options = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    jinja = jinja2.Environment(**options["_jinja2_env_vars"])
    file = TEMPLATE / "{{cookiecutter.project_slug}}" / "pyproject.toml"
    toml = jinja.from_string(file.read_text(encoding="utf-8")).render(
        cookiecutter={**answers, "description": "b"}
    )
    (author,) = tomllib.loads(toml)["project"]["authors"]
    assert author == {"name": " ".join(text.split())}


def test_steps_pipelines_and_runtime_hold_no_jinja() -> None:
    project = TEMPLATE / "{{cookiecutter.project_slug}}"
    runtime = project / "{{cookiecutter.package_name}}" / "runtime"
    shared = [path for path in runtime.rglob("*.py") if not is_include(path)]
    assert len(shared) > 8
    files = [*project.glob("steps/*/*.py"), *shared]
    for sdk in SDKS:
        folder = TEMPLATE / "templates" / sdk
        files += [*folder.glob("*.py"), *folder.glob("runtime/*/*.py")]
    # `${{inputs.raw}}` is a placeholder of Azure ML, in a file that Jinja does not render.
    jinja = re.compile(r"(?<!\$)\{\{|\{%|\{#")
    for path in files:
        assert not jinja.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("sdk", SDKS)
def test_files_with_placeholders_are_copied_as_they_are(bake: Bake, sdk: str) -> None:
    package = bake(azureml_sdk=sdk).path / "penguins"
    for name in ("pipelines.py", "runtime/azure/sdk_steps.py"):
        original = TEMPLATE / "templates" / sdk / name
        assert (package / name).read_bytes() == original.read_bytes()


def is_include(path: Path) -> bool:
    """Return whether a file only includes or copies the file of an SDK."""
    text = path.read_text(encoding="utf-8")
    # The file begins with a comment, which says where the code is.
    return "-#}\n{% include" in text or "-#}\n{{ read_unrendered(" in text


def test_projects_of_the_two_sdks_differ_only_in_these_files(bake: Bake) -> None:
    first, second = (bake(azureml_sdk=sdk) for sdk in SDKS)
    differing_files = set()
    for path in list_files(first):
        name = path.relative_to(first.path)
        if path.read_bytes() != (second.path / name).read_bytes():
            differing_files.add(name.as_posix())
    assert differing_files == {
        *(f"penguins/runtime/azure/sdk_{name}.py" for name in ("steps", "workspace")),
        *("penguins/pipelines.py", "tests/test_pipelines.py", "README.md"),
        *("docs/azure.md", "docs/change.md", "docs/models.md", "docs/updating.md"),
        *("environment/project.in", "environment/project.txt", "pyproject.toml"),
        ".cookiecutter.json",
    }


@pytest.mark.parametrize("sdk", SDKS)
def test_runtime_is_the_same_in_every_project(bake: Bake, sdk: str) -> None:
    first = bake(azureml_sdk=sdk)
    second = bake(**NAMES["quotes"], task="regression", vm_size="", azureml_sdk=sdk)
    runtime = first.path / first.package / "runtime"
    files = sorted(path.relative_to(runtime) for path in runtime.rglob("*.py"))
    assert Path("local/run.py") in files
    for name in files:
        copy = second.path / second.package / "runtime" / name
        assert (runtime / name).read_bytes() == copy.read_bytes(), name
        text = (runtime / name).read_text(encoding="utf-8")
        # A module may import from runtime/ and its subpackages, and nothing above them.
        dots = r"\." * (len(name.parts) + 1)
        assert not re.search(rf"from {dots}|import_module", text), name


@pytest.mark.parametrize("sdk", SDKS)
def test_steps_on_azure_have_the_pins_of_this_machine(bake: Bake, sdk: str) -> None:
    """Packages of the driver, and of the telemetry of azure-ai-ml, may differ."""
    pins = bake(azureml_sdk=sdk).path / "environment"
    local, azure = (
        dict(line.split("==", 1) for line in (pins / file).read_text().splitlines())
        for file in ("project.txt", "steps.txt")
    )
    common = local.keys() & azure.keys()
    differing = {name for name in common if local[name] != azure[name]}
    may_differ = "azure-|opentelemetry-" if sdk == "azure-ai-ml" else "nothing"
    assert [name for name in differing if not re.match(may_differ, name)] == []
    assert sdk == "azure-ai-ml" or azure.keys() <= local.keys()


def test_no_lock_names_a_registry() -> None:
    for path in [*TEMPLATE.glob("tests/*.txt"), *TEMPLATE.glob("templates/*/*/*.txt")]:
        assert "://" not in path.read_text()


def test_the_version_is_the_newest_of_the_changelog(bake: Bake) -> None:
    changelog = (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8")
    _, *versions = re.split(r"(?m)^## ", changelog)
    for version in versions:
        assert re.match(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)\n", version)
        assert "an update asks of you" in version.lower()
    printed = bake().python("-m", "penguins", "--version")
    newest = versions[0].split()[0]
    assert printed.out == f"version {newest} of the template\n", printed.err


def list_files(project: Project) -> list[Path]:
    """Return the paths of all files, except for those that tools write."""
    return [
        path
        for path in project.path.rglob("*")
        if path.is_file() and not re.search("cache|egg-info", str(path))
    ]
