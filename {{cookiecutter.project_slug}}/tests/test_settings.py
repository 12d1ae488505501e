"""The settings of this project, and the messages about wrong settings."""

import shutil
from pathlib import Path

import pytest

from {{ cookiecutter.package_name }}.runtime.errors import (
    SettingsError,
)
from {{ cookiecutter.package_name }}.runtime.project import (
    Project,
)
from {{ cookiecutter.package_name }}.runtime.workspaces import (
    CONFIG,
    SETTINGS,
)
from {{ cookiecutter.package_name }}.settings import (
    PROJECT,
    Settings,
)


@pytest.fixture
def project(tmp_path: Path) -> Project[Settings]:
    """A project with copies of settings.yml and .azureml/config.json."""
    (tmp_path / ".azureml").mkdir()
    for file in (SETTINGS, CONFIG):
        shutil.copy(PROJECT.root / file, tmp_path / file)
    return Project(tmp_path / PROJECT.package, Settings)


def replace_in_file(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_settings_of_each_workspace_are_right() -> None:
    for project in PROJECT.for_all_workspaces():
        problems = project.find_problems()
        wrong = [str(problem) for problem in problems if problem.kind == "wrong"]
        assert wrong == []


def test_all_wrong_settings_are_reported_at_once(project: Project[Settings]) -> None:
    replace_in_file(project.root / SETTINGS, "seed:", "sede:")
    replace_in_file(project.root / SETTINGS, "cloud: Azure", "cloud: Azur")

    with pytest.raises(SettingsError) as error:
        project.settings()
    misspelt_name, wrong_value = str(error.value).splitlines()
    assert misspelt_name == (
        "settings.yml: training.sede is not a setting: write seed."
    )
    assert wrong_value.startswith('settings.yml: workspace.cloud is "Azur')


def test_a_damaged_config_json_matters_only_on_azure(
    project: Project[Settings],
) -> None:
    (project.root / CONFIG).write_text("{", encoding="utf-8")

    project.settings()
    with pytest.raises(SettingsError, match="is not JSON at line 1, column 2"):
        project.workspace_config()


def test_azure_needs_all_values_of_config_json(project: Project[Settings]) -> None:
    empty = '{"subscription_id": "", "resource_group": "", "workspace_name": ""}'
    (project.root / CONFIG).write_text(empty, encoding="utf-8")

    project.workspace_config(needed_keys=())
    with pytest.raises(SettingsError) as error:
        project.workspace_config()
    assert len(error.value.problems) == 3
