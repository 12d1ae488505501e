"""A project: its files, its settings, and its pipelines.

`settings.yml` has the settings of the pipelines, and `.azureml/config.json` names the
workspace. All problems of these files are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from . import rules
from .errors import SettingsError
from .rule import Problem
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

    #: The function that builds the SDK's pipeline. It takes the settings, and a dict with
    #: an input of the pipeline for each name in `data`.
    build: Callable[[Any, Mapping[str, Any]], Any]
    #: The pipeline parameters for data. Each is mapped to the setting below `data` that has
    #: its path.
    data: Mapping[str, str]
    #: The names of the steps that look up the registered model. They run again if another
    #: version is registered.
    reads_model: Sequence[str] = ()
    #: The pipeline parameter that names the version of this model. If there is none, the
    #: steps use the newest version.
    model_version: str | None = None


Pipelines = Mapping[str, PipelineDefinition]
S = TypeVar("S", bound=ProjectSettings)


class Project(Generic[S]):
    """A project, with its settings for one workspace."""

    def __init__(self, package: Path, model: type[S], workspace: str = "") -> None:
        """Describe a project by the folder of its package and the model of its settings.

        `workspace` is the name of a workspace, or empty for the one of `config.json`.
        """
        self.package = package.name
        self.root = package.parent
        self.command = f"python -m {self.package}"
        self.model = model
        self.files = WorkspaceFiles(workspace)

    # Workspaces

    def for_workspace(self, workspace: str) -> Project[S]:
        """Return the same project with the settings for a named workspace.

        Raises SettingsError if the project has no file for this workspace.
        """
        wrong_name = rules.NAME.check("--workspace", workspace)
        if wrong_name:
            raise SettingsError([wrong_name])

        project = Project(self.root / self.package, self.model, workspace)
        missing = find_missing_config(self.root, project.files)
        if missing:
            raise SettingsError(missing)
        return project

    def for_all_workspaces(self) -> list[Project[S]]:
        """Return the project once for each workspace, beginning with `config.json`."""
        package = self.root / self.package
        return [
            Project(package, self.model, files.name)
            for files in list_workspaces(self.root)
        ]

    # Settings

    def settings(self) -> S:
        """Return the settings. Values that only Azure needs may be empty.

        Raises SettingsError with the problems of all wrong values.
        """
        reading = self._read_settings()
        if reading.model is None:
            wrong = [problem for problem in reading.problems if problem.kind == "wrong"]
            raise SettingsError(wrong)
        return reading.model

    def workspace_config(self, needs: Iterable[str] = NEEDED) -> WorkspaceConfig:
        """Return the names, region and cloud of the workspace, as the files describe it.

        `needs` are the settings that must not be empty, such as `compute.name`. Settings
        below `workspace` are written without their section, such as `region`, and settings
        of `compute` include those of the clusters below `computes`. Raises SettingsError
        with the problems of all wrong values, and of needed values that are empty.
        """
        config = read_model(self.root, Config, self.files.config)
        settings = self._read_settings()
        needed_keys = set(needs)
        blocking_problems = [
            problem
            for problem in config.problems + settings.problems
            if _is_blocking(problem, needed_keys)
        ]
        if config.model is None or settings.model is None or blocking_problems:
            raise SettingsError(blocking_problems)

        return WorkspaceConfig(
            subscription_id=config.model.subscription_id,
            resource_group=config.model.resource_group,
            workspace_name=config.model.workspace_name,
            region=settings.model.workspace.region,
            cloud=settings.model.workspace.cloud,
            files=self.files,
        )

    def find_problems(self) -> list[Problem]:
        """Return the problems of all wrong, empty and unusual values in the files.

        If the package's name is wrong, this is the first problem.
        """
        problems: list[Problem] = []
        wrong_name = rules.PACKAGE.check("package_name", self.package)
        if wrong_name:
            problems.append(wrong_name)
        problems += self._read_settings().problems

        missing_config = find_missing_config(self.root, self.files)
        if missing_config:
            return problems + missing_config
        return problems + read_model(self.root, Config, self.files.config).problems

    @property
    def settings_files(self) -> list[str]:
        """The files with the settings for this workspace, by their paths in the project."""
        if self._has_own_settings:
            return [SETTINGS, self.files.settings, self.files.config]
        return [SETTINGS, self.files.config]

    def file_of(self, key: str) -> str:
        """Return the file that sets a key, such as `compute.name`.

        A setting is in `settings.yml`, unless the workspace has a file that replaces it.
        """
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
        """Return the paths of data in the settings, by key, such as `data.training`.

        The section `data` also holds other settings. Its paths are the fields whose rule is
        rules.FILES.
        """
        data = self.settings().data
        return {
            f"data.{name}": getattr(data, name)
            for name, field in type(data).model_fields.items()
            if Follows(rules.FILES) in field.metadata
        }

    def read_parameter(self, name: str, text: str) -> Any:
        """Convert the value of a pipeline parameter from a string, and check it.

        If there is a setting with the name of the parameter, in any section, the value gets
        the type of this setting and must follow its rules. If there is none, the string is
        returned unchanged. Raises SettingsError if the value breaks a rule.
        """
        field = self._find_setting_of_parameter(name)
        if field is None:
            return text

        value: Any = text
        # If the string is not valid YAML, the string itself is checked. The message then
        # says which rule it breaks.
        with suppress(ValueError, RecursionError, yaml.YAMLError):
            value = parse_yaml(text)
        try:
            return read_value(field, value, file="--set", key=name)
        except WrongValue as error:
            raise SettingsError(error.problems) from None

    def _find_setting_of_parameter(self, name: str) -> FieldInfo | None:
        """Return the first setting that has the name of a pipeline parameter, or None."""
        # A parallel step calls its number of nodes node_count, and gets it from the setting
        # compute.max_nodes.
        setting = "max_nodes" if name == "node_count" else name
        for section in self.model.model_fields.values():
            model = section.annotation
            if not isinstance(model, type) or not issubclass(model, BaseModel):
                # This is not a section but a single setting, such as `name`.
                continue
            if setting in model.model_fields:
                return model.model_fields[setting]
        return None

    @property
    def _has_own_settings(self) -> bool:
        """Whether the workspace has a file that replaces some of the settings."""
        return self.files.name != "" and (self.root / self.files.settings).exists()

    def _read_settings(self) -> Reading[S]:
        """Read the settings for the workspace, and find all problems of their files."""
        if self._has_own_settings:
            return read_model_with_overrides(
                self.root,
                self.model,
                SETTINGS,
                overrides_file=self.files.settings,
                may_differ=self.model.may_differ,
            )
        return read_model(self.root, self.model, SETTINGS)


def _is_blocking(problem: Problem, needed_keys: set[str]) -> bool:
    """Return whether a problem makes the workspace unusable.

    This is a wrong value, or an empty one that is needed.
    """
    if problem.kind == "wrong":
        return True
    key = problem.key.removeprefix("workspace.")
    key = re.sub(r"^computes\.\w+\.", "compute.", key)
    return problem.kind == "empty" and key in needed_keys
