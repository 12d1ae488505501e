"""The settings of this project, and what is said about wrong ones."""

import importlib
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = next(ROOT.glob("*/settings.py")).parent.name
settings = importlib.import_module(f"{PACKAGE}.settings")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with copies of the two settings files."""
    (tmp_path / ".azureml").mkdir()
    for file in (settings.SETTINGS, settings.CONFIG):
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_settings_of_this_project_are_right() -> None:
    wrong = [str(p) for p in settings.examine() if p.kind == "wrong"]
    assert wrong == []
    assert (ROOT / settings.read().data.training).exists()
    assert (ROOT / settings.read().data.scoring).exists()


def test_every_wrong_value_is_named(root: Path) -> None:
    edit(root / settings.SETTINGS, "seed:", "sede:")
    edit(root / settings.SETTINGS, "cloud: Azure", "cloud: Azur")
    with pytest.raises(settings.SettingsError) as error:
        settings.read(root)
    first, second = str(error.value).splitlines()
    assert first == "settings.yml: training.sede is not a setting: write seed."
    assert second.startswith('settings.yml: workspace.cloud is "Azur')


def test_config_json_is_only_needed_on_azure(root: Path) -> None:
    (root / settings.CONFIG).write_text("{", encoding="utf-8")
    settings.read(root)
    with pytest.raises(settings.SettingsError, match="is not JSON at line 1, column 2"):
        settings.read_workspace(root)


def test_azure_needs_complete_settings(root: Path) -> None:
    config = '{"subscription_id": "", "resource_group": "", "workspace_name": ""}'
    (root / settings.CONFIG).write_text(config, encoding="utf-8")
    settings.read_workspace(root, needs=())
    with pytest.raises(settings.SettingsError) as error:
        settings.read_workspace(root)
    assert len(error.value.problems) == 3
