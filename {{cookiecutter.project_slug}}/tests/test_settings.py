"""The settings of this project, and what is said about wrong ones."""

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
    """A project with copies of the two settings files."""
    (tmp_path / ".azureml").mkdir()
    for file in (SETTINGS, CONFIG):
        shutil.copy(PROJECT.root / file, tmp_path / file)
    return Project(tmp_path / PROJECT.package, Settings)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_settings_of_this_project_are_right() -> None:
    for project in PROJECT.for_all_workspaces():  # in each workspace
        wrong = [str(p) for p in project.find_problems() if p.kind == "wrong"]
        assert wrong == []


def test_every_wrong_value_is_named(project: Project[Settings]) -> None:
    edit(project.root / SETTINGS, "seed:", "sede:")
    edit(project.root / SETTINGS, "cloud: Azure", "cloud: Azur")
    with pytest.raises(SettingsError) as error:
        project.settings()
    first, second = str(error.value).splitlines()
    assert first == "settings.yml: training.sede is not a setting: write seed."
    assert second.startswith('settings.yml: workspace.cloud is "Azur')


def test_config_json_is_only_needed_on_azure(project: Project[Settings]) -> None:
    (project.root / CONFIG).write_text("{", encoding="utf-8")
    project.settings()
    with pytest.raises(SettingsError, match="is not JSON at line 1, column 2"):
        project.workspace_config()


def test_azure_needs_complete_settings(project: Project[Settings]) -> None:
    config = '{"subscription_id": "", "resource_group": "", "workspace_name": ""}'
    (project.root / CONFIG).write_text(config, encoding="utf-8")
    project.workspace_config(needs=())
    with pytest.raises(SettingsError) as error:
        project.workspace_config()
    assert len(error.value.problems) == 3
