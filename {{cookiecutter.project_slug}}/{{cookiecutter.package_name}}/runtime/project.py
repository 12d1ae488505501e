"""A project: where its files are, its settings, read and checked, and its pipelines.

`settings.yml` says what is done, `.azureml/config.json` in which workspace. All problems of
the files are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel

from . import rules
from .errors import SettingsError
from .rules import Problem
from .settings_models import Config, Follows, ProjectSettings
from .settings_reader import (
    Reading,
    UnreadableFile,
    WrongValue,
    load_file,
    parse_yaml,
    read_model,
    read_model_with_overrides,
    read_value,
)
from .workspaces import (
    NEEDED,
    SETTINGS,
    WorkspaceConfig,
    WorkspaceFiles,
    find_missing_config,
    list_workspaces,
)


@dataclass(frozen=True)
class PipelineDefinition:
    """A pipeline of a project: the function that builds it, and the data that it reads."""

    #: Returns the pipeline, as the SDK has it, from the settings and, by name, a parameter
    #: for each of `data`.
    build: Callable[[Any, Mapping[str, Any]], Any]
    #: By the name of a parameter, the name of a setting below `data`.
    data: Mapping[str, str]
    #: The steps that look up the registered model, and so depend on it.
    reads_model: Sequence[str] = ()
    #: The pipeline parameter that names its version; without one, the newest is meant.
    model_version: str | None = None


Pipelines = Mapping[str, PipelineDefinition]
S = TypeVar("S", bound=ProjectSettings)


class Project(Generic[S]):
    """A project, by the folder of its package and the model of its settings.

    It is read for the workspace of `config.json`, or for the one that is named.
    """

    def __init__(self, package: Path, model: type[S], workspace: str = "") -> None:
        self.package = package.name
        self.root = package.parent
        self.command = f"python -m {self.package}"
        self.model = model
        self.files = WorkspaceFiles(workspace)

    # Workspaces

    def for_workspace(self, workspace: str) -> Project[S]:
        """Return the project for the workspace of a name.

        Raises SettingsError if the project has no file for a workspace of this name.
        """
        wrong_name = rules.NAME.check("", "--workspace", workspace)
        if wrong_name:
            raise SettingsError([wrong_name])

        project = Project(self.root / self.package, self.model, workspace)
        missing = find_missing_config(self.root, project.files)
        if missing:
            raise SettingsError(missing)
        return project

    def for_all_workspaces(self) -> list[Project[S]]:
        """Return the project for each workspace that has a file, `config.json`'s first."""
        package = self.root / self.package
        return [
            Project(package, self.model, files.name)
            for files in list_workspaces(self.root)
        ]

    # Settings

    def settings(self) -> S:
        """Return the settings. Values that only Azure needs may be empty.

        Raises SettingsError with all that is wrong.
        """
        reading = self._read_settings()
        if reading.model is None:
            wrong = [p for p in reading.problems if p.kind == "wrong"]
            raise SettingsError(wrong)
        return reading.model

    def workspace_config(self, needs: Iterable[str] = NEEDED) -> WorkspaceConfig:
        """Return the workspace. None of `needs`, such as compute.name, may be empty.

        Raises SettingsError with all that is wrong, or empty and needed.
        """
        config = read_model(self.root, Config, self.files.config)
        settings = self._read_settings()
        needed_keys = set(needs)
        stopping = [
            problem
            for problem in config.problems + settings.problems
            if problem.kind == "wrong"
            or problem.kind == "empty"
            and problem.key.removeprefix("workspace.") in needed_keys
        ]
        if config.model is None or settings.model is None or stopping:
            raise SettingsError(stopping)

        return WorkspaceConfig(
            subscription_id=config.model.subscription_id,
            resource_group=config.model.resource_group,
            workspace_name=config.model.workspace_name,
            region=settings.model.workspace.region,
            cloud=settings.model.workspace.cloud,
            files=self.files,
        )

    def find_problems(self) -> list[Problem]:
        """Return all that is wrong, empty or unusual in the files, and the package's name."""
        package = rules.PACKAGE.check("", "package_name", self.package)
        config = find_missing_config(self.root, self.files)
        if not config:
            config = read_model(self.root, Config, self.files.config).problems
        return [
            *([package] if package else []),
            *self._read_settings().problems,
            *config,
        ]

    @property
    def settings_files(self) -> list[str]:
        """The files that are read: `settings.yml`, what differs, and the workspace's."""
        if self._has_own_settings:
            return [SETTINGS, self.files.settings, self.files.config]
        return [SETTINGS, self.files.config]

    def file_of(self, key: str) -> str:
        """Return the file that a setting is from."""
        if not self._has_own_settings:
            return SETTINGS

        with suppress(UnreadableFile):
            values = load_file(self.root, self.files.settings, names=())
            for name in key.split("."):
                if not isinstance(values, dict) or name not in values:
                    return SETTINGS
                values = values[name]
        return self.files.settings

    def list_data_paths(self) -> dict[str, str]:
        """Return the paths of data in the settings, by key, such as `data.training`."""
        data = self.settings().data
        return {
            f"data.{name}": getattr(data, name)
            for name, field in type(data).model_fields.items()
            if Follows(rules.FILES) in field.metadata
        }

    def read_parameter(self, name: str, text: str) -> Any:
        """Return the value of a pipeline parameter, given as text.

        It is read and checked as the setting of that name. The text is returned as it is if
        there is no such setting. Raises SettingsError.
        """
        setting = "max_nodes" if name == "node_count" else name
        for section in self.model.model_fields.values():
            model = section.annotation
            if not isinstance(model, type) or not issubclass(model, BaseModel):
                continue
            if setting in model.model_fields:
                value: Any = text
                with suppress(ValueError, yaml.YAMLError):
                    value = parse_yaml(text)
                try:
                    return read_value(model.model_fields[setting], value, "--set", name)
                except WrongValue as error:
                    raise SettingsError(error.problems) from None
        return text

    @property
    def _has_own_settings(self) -> bool:
        """Tell whether the workspace has a file of settings that differ."""
        return self.files.name != "" and (self.root / self.files.settings).exists()

    def _read_settings(self) -> Reading[S]:
        if self._has_own_settings:
            return read_model_with_overrides(
                self.root,
                self.model,
                SETTINGS,
                overrides_file=self.files.settings,
                may_differ=self.model.may_differ,
            )
        return read_model(self.root, self.model, SETTINGS)
